"""Metrics agree with scikit-learn, and have a value where a ratio has none."""

import numpy as np
import pytest

from gradients import (
    classification_metrics,
    make_model,
    mean_loss,
    regression_metrics,
)


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_agrees_with_scikit_learn(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    actual, predicted = generator.integers(0, classes, (2, 200))
    expected = metrics.precision_recall_fscore_support(
        actual, predicted, average="binary" if classes == 2 else "macro"
    )
    found = classification_metrics(predicted, actual, classes)
    assert list(found) == ["accuracy", "precision", "recall", "f1"]
    assert found["accuracy"] == pytest.approx((actual == predicted).mean())
    assert [found["precision"], found["recall"], found["f1"]] == pytest.approx(expected[:3])


def test_classification_counts_nothing_over_nothing_as_nothing():
    assert classification_metrics([0, 0], [0, 0], 2) == {
        "accuracy": 1, "precision": 0, "recall": 0, "f1": 0
    }  # fmt: skip
    assert classification_metrics([], [], 3)["accuracy"] == 0
    assert classification_metrics([0, 1], [0, 1], 4)["recall"] == 0.5


def test_regression_agrees_with_the_definitions():
    found = regression_metrics([1.0, 2.0, 4.0], [1.0, 3.0, 5.0])
    assert found == pytest.approx({"mse": 2 / 3, "mae": 2 / 3, "r2": 1 - 2 / 8})
    assert regression_metrics([2.0, 2.0], [2.0, 2.0])["r2"] == 1
    assert regression_metrics([2.0, 3.0], [2.0, 2.0])["r2"] == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="Expected classes=1 >= 2"):
        classification_metrics([0], [0], 1)
    with pytest.raises(ValueError, match=r"Expected actual in 0..1"):
        classification_metrics([0], [2], 2)
    with pytest.raises(ValueError, match="Expected integers predicted"):
        classification_metrics([0.5], [1], 2)
    with pytest.raises(ValueError, match=r"Expected predicted\.shape"):
        classification_metrics([0], [1, 1], 2)
    with pytest.raises(ValueError, match="not empty"):
        regression_metrics([], [])
    model = make_model(kind="logistic", inputs=1)
    with pytest.raises(ValueError, match=r"Expected targets in 0..1"):
        mean_loss(model, model.initial(bytes(32)), [[1.0]], [2])
    with pytest.raises(ValueError, match="not empty"):
        mean_loss(model, model.initial(bytes(32)), np.zeros((0, 1)), [])
