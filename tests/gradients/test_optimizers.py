"""Optimizers agree with torch, leave their arguments alone, and follow their schedules."""

import numpy as np
import pytest

from gradients import make_optimizer


def run(optimizer, gradients, start):
    vector, state = start, optimizer.start(len(start))
    path = []
    for gradient in gradients:
        vector, state = optimizer.step(vector, gradient, state)
        path.append(vector)
    return np.array(path)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_steps_agree_with_torch(kind):
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    gradients, start = generator.standard_normal((20, 7)), generator.standard_normal(7)
    found = run(make_optimizer(kind=kind, learning_rate=0.05, rounds=20), gradients, start)
    point = torch.nn.Parameter(torch.tensor(start))
    if kind == "adam":
        other = torch.optim.Adam([point], lr=0.05)
    else:
        other = torch.optim.SGD([point], lr=0.05, momentum=0.9 if kind == "momentum" else 0)
    for gradient, expected in zip(gradients, found, strict=True):
        point.grad = torch.tensor(gradient)
        other.step()
        assert expected == pytest.approx(point.detach().numpy(), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_a_step_changes_none_of_its_arguments(kind):
    optimizer = make_optimizer(kind=kind, learning_rate=0.1, rounds=5)
    vector, gradient, state = np.ones(3), np.full(3, 2.0), optimizer.start(3)
    first = optimizer.step(vector, gradient, state)
    second = optimizer.step(vector, gradient, state)
    assert (vector == 1).all()
    assert (gradient == 2).all()
    assert state.step == 0
    assert (state.mean == 0).all()
    assert (first[0] == second[0]).all()
    assert first[1].step == 1


def test_schedules():
    rates = {
        schedule: [
            make_optimizer(kind="sgd", learning_rate=2.0, schedule=schedule, rounds=8).rate(step)
            for step in range(9)
        ]
        for schedule in ("constant", "cosine", "step")
    }
    assert rates["constant"] == [2.0] * 9
    assert rates["step"] == pytest.approx([2] * 4 + [0.2] * 2 + [0.02] * 3)
    assert rates["cosine"][0] == 2
    assert rates["cosine"][4] == pytest.approx(1)
    assert rates["cosine"][7] == pytest.approx(1 + np.cos(7 * np.pi / 8))
    assert rates["cosine"][8] == rates["cosine"][7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "lion"}, "Expected kind='lion'"),
        ({"schedule": "warm"}, "Expected schedule='warm'"),
        ({"learning_rate": 0.0}, "Expected learning_rate=0.0 > 0"),
        ({"learning_rate": float("nan")}, "Expected learning_rate=nan > 0"),
        ({"rounds": 0}, "Expected rounds=0 >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    good = {"kind": "sgd", "learning_rate": 0.1, "rounds": 3}
    with pytest.raises(ValueError, match=message):
        make_optimizer(**(good | change))


def test_a_step_refuses_what_does_not_fit():
    adam = make_optimizer(kind="adam", learning_rate=0.1, rounds=3)
    with pytest.raises(ValueError, match=r"Expected gradient.shape=\(2,\) == \(3,\)"):
        adam.step(np.zeros(3), np.zeros(2), adam.start(3))
    with pytest.raises(ValueError, match="Expected state of shapes"):
        adam.step(np.zeros(3), np.zeros(3), adam.start(2))
    with pytest.raises(ValueError, match="Expected a finite gradient"):
        adam.step(np.zeros(3), np.array([0, np.nan, 0]), adam.start(3))
    with pytest.raises(ValueError, match="Expected size=0 >= 1"):
        adam.start(0)
