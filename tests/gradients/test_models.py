"""Models: names, shapes, first weights, scores, predictions."""

import numpy as np
import pytest

from gradients import make_blocks, make_model, mean_loss, unit_gradients

SEED = bytes(range(32))


def test_single_layers_have_short_names_and_start_at_zero():
    linear = make_model(kind="linear", inputs=5)
    assert linear.shapes == {"weight": (5,), "bias": ()}
    assert linear.size == 6
    assert (linear.loss, linear.inputs, linear.outputs) == ("mean-squared-error", 5, 1)
    softmax = make_model(kind="softmax", inputs=5, classes=3, dtype=np.float64)
    assert softmax.shapes == {"weight": (3, 5), "bias": (3,)}
    assert (softmax.loss, softmax.dtype) == ("cross-entropy", np.float64)
    for model in (linear, softmax):
        assert (model.flatten(model.initial(SEED)) == 0).all()


def test_the_convolutional_model_is_that_of_the_table():
    model = make_model(kind="cnn", inputs=784, classes=10)
    assert list(model.shapes.values()) == [
        (8, 1, 5, 5), (8,), (16, 8, 5, 5), (16,), (64, 256), (64,), (10, 64), (10,)
    ]  # fmt: skip
    assert list(model.shapes)[:2] == ["layer1.weight", "layer1.bias"]


def test_first_weights_are_a_function_of_the_seed():
    """The values are written down: they must be the same on every platform and NumPy."""
    model = make_model(kind="mlp", inputs=784, hidden=(256,), classes=10)
    first = model.initial(SEED)
    again, other = model.initial(SEED), model.initial(bytes(32))
    assert all((first[name] == again[name]).all() for name in first)
    assert not (first["layer1.weight"] == other["layer1.weight"]).any()
    weight = first["layer1.weight"]
    assert weight.dtype == np.float32
    assert (first["layer1.bias"] == 0).all()
    # 200,704 weights: the deviation is known to 1/sqrt(2 n) = .16 %, the mean to sd/448.
    assert weight.std() == pytest.approx(np.sqrt(2 / 784), rel=0.01)
    assert abs(weight.mean()) < 6 * weight.std() / 448
    assert first["layer2.weight"].std() == pytest.approx(np.sqrt(2 / 266), rel=0.1)
    assert float(weight[0, 0]) == FIRST_WEIGHT


FIRST_WEIGHT = -0.08189146965742111  # SHAKE-256 of the seed, in float32


def test_flatten_and_unflatten_undo_each_other(name, make_problem):
    model = make_problem(name, units=1).model
    vector = np.arange(model.size, dtype=model.dtype)
    parameters = model.unflatten(vector)
    assert list(parameters) == list(model.shapes)
    assert {key: value.shape for key, value in parameters.items()} == model.shapes
    assert (model.flatten(parameters) == vector).all()
    assert (model.flatten(dict(reversed(parameters.items()))) == vector).all()


def test_parameters_that_do_not_fit_are_refused():
    model = make_model(kind="linear", inputs=2)
    with pytest.raises(ValueError, match=r"Expected vector.shape=\(4,\) == \(3,\)"):
        model.unflatten(np.zeros(4))
    with pytest.raises(ValueError, match=r"Expected parameters=\['weight'\]"):
        model.flatten({"weight": np.zeros(2)})
    with pytest.raises(ValueError, match=r"Expected parameters\['bias'\].shape=\(1,\) == \(\)"):
        model.flatten({"weight": np.zeros(2), "bias": np.zeros(1)})
    with pytest.raises(ValueError, match=r"Expected len\(seed\)=3 == 32"):
        model.initial(b"abc")
    (block,) = make_blocks([[1.0]], [1.0], block_units=1)
    with pytest.raises(ValueError, match=r"Expected block.features=1 == 2"):
        unit_gradients(model, model.initial(SEED), block)
    with pytest.raises(ValueError, match=r"Expected inputs.shape=\(1, 3\)"):
        model.scores(model.initial(SEED), np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "forest", "inputs": 2}, "Expected kind='forest'"),
        ({"kind": "linear", "inputs": 0}, "Expected inputs=0 >= 1"),
        ({"kind": "linear", "inputs": 2, "classes": 2}, "Expected classes=2 == 0"),
        ({"kind": "logistic", "inputs": 2, "classes": 3}, "Expected classes=3 == 2"),
        ({"kind": "softmax", "inputs": 2, "classes": 1}, "Expected classes=1 >= 2"),
        ({"kind": "mlp", "inputs": 2}, "at least one width"),
        ({"kind": "mlp", "inputs": 2, "hidden": (0,)}, "Expected hidden="),
        ({"kind": "mlp", "inputs": 2, "hidden": (3,), "classes": 1}, "Expected classes=1"),
        ({"kind": "linear", "inputs": 2, "hidden": (3,)}, "Expected hidden="),
        (
            {"kind": "mlp", "inputs": 2, "hidden": (3,), "activation": "x"},
            "Expected activation='x'",
        ),
        ({"kind": "cnn", "inputs": 63, "classes": 2}, r"Expected image=\(7, 7, 1\)"),
        ({"kind": "cnn", "inputs": 4, "classes": 2}, "Expected an image of at least"),
        ({"kind": "softmax", "inputs": 4, "classes": 2, "image": (2, 2, 1)}, "Expected no image"),
        ({"kind": "linear", "inputs": 2, "dtype": np.int32}, "Expected dtype=int32"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_model(**settings)


def test_scores_of_many_rows_are_those_of_single_rows(name, make_problem):
    case = make_problem(name, units=300)
    scores = case.model.scores(case.parameters, case.inputs)
    assert scores.shape == (300, case.model.outputs)
    for row in (0, 17, 299):
        alone = case.model.scores(case.parameters, case.inputs[row : row + 1])
        assert scores[row] == pytest.approx(alone[0], rel=1e-4, abs=1e-4)
    assert case.model.scores(case.parameters, case.inputs[:0]).shape == (0, case.model.outputs)


def test_predictions_and_probabilities_belong_together(name, make_problem):
    case = make_problem(name, units=50)
    predicted = case.model.predict(case.parameters, case.inputs)
    assert predicted.shape == (50,)
    if not case.model.classes:
        assert predicted.dtype == np.float32
        with pytest.raises(ValueError, match="Expected loss='mean-squared-error'"):
            case.model.probabilities(case.parameters, case.inputs)
        return
    likely = case.model.probabilities(case.parameters, case.inputs)
    assert likely.shape == (50, case.model.classes)
    assert likely.sum(axis=1) == pytest.approx(1, rel=1e-5)
    assert predicted.dtype == np.int64
    assert (likely.argmax(axis=1) == predicted).all()


def test_mean_loss_is_the_mean_of_the_units_losses(name, make_problem):
    case = make_problem(name, units=50)
    losses = unit_gradients(case.model, case.parameters, case.block()).losses
    found = mean_loss(case.model, case.parameters, case.inputs, case.targets)
    assert found == pytest.approx(losses.mean(), rel=1e-5)


def test_extreme_scores_give_finite_losses():
    for settings in ({"kind": "logistic"}, {"kind": "softmax", "classes": 2}):
        model = make_model(inputs=1, **settings)
        (block,) = make_blocks([[1e4], [-1e4], [1e4]], [1, 1, 0], block_units=3)
        parameters = model.initial(SEED)
        parameters["weight"].reshape(-1)[-1] = 1.0
        found = unit_gradients(model, parameters, block)
        assert found.losses == pytest.approx([0, 1e4, 1e4])
        assert found.norms[0] == 0


@pytest.mark.parametrize(
    ("settings", "tile", "rows", "expected"),
    [
        ({"kind": "softmax", "inputs": 784, "classes": 10}, 256, 1, 1024),
        ({"kind": "softmax", "inputs": 784, "classes": 10}, 16, 1, 1024),
        ({"kind": "softmax", "inputs": 784, "classes": 10}, 256, 100, 512),
        ({"kind": "mlp", "inputs": 784, "classes": 10, "hidden": (256,)}, 256, 1, 1024),
        ({"kind": "mlp", "inputs": 784, "classes": 10, "hidden": (9, 4096)}, 64, 1, 128),
        ({"kind": "mlp", "inputs": 784, "classes": 10, "hidden": (10_000,)}, 256, 1, 256),
        ({"kind": "cnn", "inputs": 784, "classes": 10}, 128, 1, 128),
    ],
)
def test_blocks_are_as_wide_as_pays(settings, tile, rows, expected):
    assert make_model(**settings).block_units(tile, rows) == expected
