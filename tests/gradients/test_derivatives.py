"""Gradients and norms are those of calculus, of torch, and of Opacus."""

import numpy as np
import pytest

from gradients import make_blocks, make_model, unit_gradients
from gradients._products import sum_of_outer_products


def each_gradient(found):
    """The gradients of single units (U, size), by weights that choose one."""
    count = len(found.norms)
    return np.stack([found.weighted_sum(np.eye(count)[unit]) for unit in range(count)])


@pytest.mark.parametrize("rows_per_unit", [1, 3])
def test_gradients_agree_with_finite_differences(name, make_problem, rows_per_unit):
    case = make_problem(name, units=5, rows_per_unit=rows_per_unit, dtype=np.float64)
    block = case.block()
    weights = np.array([1.0, 0.5, 0.0, 2.0, 0.25])
    found = unit_gradients(case.model, case.parameters, block).weighted_sum(weights)
    step = 1e-6
    chosen = np.random.default_rng(1).permutation(case.model.size)[:60]

    def total(vector):
        return weights @ unit_gradients(case.model, case.model.unflatten(vector), block).losses

    for index in [*chosen, case.model.size - 1]:
        shift = np.zeros(case.model.size)
        shift[index] = step
        slope = (total(case.vector + shift) - total(case.vector - shift)) / (2 * step)
        assert slope == pytest.approx(found[index], rel=1e-6, abs=2e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows_per_unit", [1, 3])
def test_norms_are_those_of_the_gradients_that_are_summed(name, make_problem, rows_per_unit, dtype):
    case = make_problem(name, units=7, rows_per_unit=rows_per_unit, dtype=dtype)
    found = unit_gradients(case.model, case.parameters, case.block())
    norms = np.linalg.norm(each_gradient(found), axis=1)
    # Never less than the truth by more than the rounding of the product itself.
    assert found.norms == pytest.approx(norms, rel=3 * float(np.finfo(dtype).eps))


def test_a_unit_is_the_mean_of_its_rows(name, make_problem):
    case = make_problem(name, units=6, rows_per_unit=3, dtype=np.float64)
    whole = unit_gradients(case.model, case.parameters, case.block())
    (single,) = make_blocks(
        case.inputs, case.targets, block_units=len(case.inputs), dtype=np.float64
    )
    rows = unit_gradients(case.model, case.parameters, single)
    gradients = each_gradient(rows)
    for unit, gradient in enumerate(each_gradient(whole)):
        mine = case.units == unit
        assert gradient == pytest.approx(gradients[mine].mean(axis=0), rel=1e-9, abs=1e-12)
        assert whole.losses[unit] == pytest.approx(rows.losses[mine].mean())


def test_weighted_sum_is_linear_and_can_be_asked_again(name, make_problem):
    case = make_problem(name, units=37, dtype=np.float64)
    found = unit_gradients(case.model, case.parameters, case.block())
    weights = np.random.default_rng(2).uniform(0, 1, 37)
    expected = weights @ each_gradient(found)
    assert found.weighted_sum(weights) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert (found.weighted_sum(weights) == found.weighted_sum(weights)).all()


def test_weighted_sums_of_several_blocks_are_added_in_place(name, make_problem):
    case = make_problem(name, units=7, rows_per_unit=2)
    found = unit_gradients(case.model, case.parameters, case.block())
    first, second = np.linspace(-1, 1, 7), np.linspace(0, 3, 7)
    total = found.weighted_sum(first, add_to=None)
    expected = total + found.weighted_sum(second)
    assert found.weighted_sum(second, add_to=total) is total
    assert total == pytest.approx(expected, rel=1e-12, abs=1e-12)
    for wrong in (np.zeros(case.model.size + 1), np.zeros(case.model.size, np.float32)):
        with pytest.raises(ValueError, match=r"Expected add_to.shape="):
            found.weighted_sum(second, add_to=wrong)


@pytest.mark.parametrize("roundings", [16, 64, 256])
@pytest.mark.parametrize("outputs", [1, 10, 32, 33, 300])
@pytest.mark.parametrize("inputs", [1, 20, 784])
def test_products_of_either_layout_are_summed(inputs, outputs, roundings):
    generator = np.random.default_rng(0)
    left = generator.standard_normal((outputs, 256))
    right = generator.standard_normal((inputs, 256))
    expected = np.einsum("on,in->oi", left, right)
    for layout in ("C", "F"):
        parts = list(sum_of_outer_products(left, np.asarray(right, order=layout), roundings))
        assert all(product.flags.c_contiguous for product, _ in parts)
        found = sum(product for product, _ in parts)
        # As `approx`, which takes seconds for so many numbers.
        assert (np.abs(found - expected) <= np.maximum(1e-10 * np.abs(expected), 1e-10)).all()
        assert sum(sums for _, sums in parts) == pytest.approx(
            left.sum(axis=1), rel=1e-10, abs=1e-10
        )


def torch_model(torch, model):
    """The same model in torch, with our parameters in our order."""
    nn = torch.nn
    layers = []
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "identity": nn.Identity}
    for stage in model.stages:
        if len(stage.weight_shape) == 4:
            if not layers:
                size = (stage.channels, stage.height, stage.width)
                layers.append(nn.Unflatten(1, size))
            layers.append(
                nn.Conv2d(stage.channels, stage.filters, stage.kernel, padding=stage.padding)
            )
            layers += [activation[stage.activation](), nn.MaxPool2d(2)]
        else:
            if layers and isinstance(layers[-1], nn.MaxPool2d):
                layers.append(nn.Flatten())
            layers.append(nn.Linear(stage.inputs, stage.outputs))
            layers.append(activation[stage.activation]())
    return nn.Sequential(*layers)


def torch_problem(torch, case):
    """Module, inputs (channels first), targets, and the loss of single rows."""
    module = torch_model(torch, case.model)
    flat = case.model.unflatten(case.vector)
    with torch.no_grad():
        for ours, theirs in zip(flat.values(), module.parameters(), strict=True):
            theirs.copy_(torch.tensor(ours).reshape(theirs.shape))
    inputs = case.inputs.astype(np.float32)
    first = case.model.stages[0]
    if len(first.weight_shape) == 4:
        image = inputs.reshape(-1, first.height, first.width, first.channels)
        inputs = image.transpose(0, 3, 1, 2).reshape(len(inputs), -1)
    inputs = torch.tensor(np.ascontiguousarray(inputs))
    functional = torch.nn.functional
    if case.model.loss == "mean-squared-error":
        targets = torch.tensor(case.targets.astype(np.float32))

        def loss(scores, targets, reduction="none"):
            return functional.mse_loss(scores[:, 0], targets, reduction=reduction)
    elif case.model.outputs == 1:
        targets = torch.tensor(case.targets.astype(np.float32))

        def loss(scores, targets, reduction="none"):
            return functional.binary_cross_entropy_with_logits(
                scores[:, 0], targets, reduction=reduction
            )
    else:
        targets = torch.tensor(case.targets)

        def loss(scores, targets, reduction="none"):
            return functional.cross_entropy(scores, targets, reduction=reduction)

    return module, inputs, targets, loss


def clipped(torch, gradients, bound):
    norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients]).norm(dim=0)
    factors = torch.clamp(bound / norms, max=1.0)
    flat = torch.cat([g.reshape(len(g), -1) for g in gradients], dim=1)
    return norms.numpy(), (factors @ flat).numpy()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_clipped_sums_agree_with_torch_autograd(name, make_problem, share):
    """share: how many units are clipped."""
    torch = pytest.importorskip("torch")
    case = make_problem(name, units=24)
    found = unit_gradients(case.model, case.parameters, case.block())
    bound = float(np.quantile(found.norms, 1 - share) * (0.9 if share == 1 else 1.1))
    module, inputs, targets, loss = torch_problem(torch, case)
    rows = []
    for row in range(len(inputs)):
        value = loss(module(inputs[row : row + 1]), targets[row : row + 1], reduction="sum")
        rows.append(torch.autograd.grad(value, list(module.parameters())))
        assert found.losses[row] == pytest.approx(value.item(), rel=1e-4, abs=1e-6)
    gradients = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    norms, expected = clipped(torch, gradients, bound)
    assert found.norms == pytest.approx(norms, rel=1e-5)
    total = found.weighted_sum(np.minimum(1, bound / found.norms))
    assert np.linalg.norm(total - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("binding", [False, True])
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
def test_clipped_sums_agree_with_opacus(name, make_problem, mode, binding):
    torch = pytest.importorskip("torch")
    pytest.importorskip("opacus")
    case = make_problem(name, units=24)
    found = unit_gradients(case.model, case.parameters, case.block())
    bound = float(found.norms.min() * 0.5 if binding else found.norms.max() * 2)
    module, inputs, targets, loss = torch_problem(torch, case)
    run = opacus_hooks if mode == "hooks" else opacus_ghost
    norms, expected = run(
        torch, module=module, inputs=inputs, targets=targets, loss=loss, bound=bound
    )
    assert found.norms == pytest.approx(norms, rel=1e-5)
    total = found.weighted_sum(np.minimum(1, bound / found.norms))
    assert np.linalg.norm(total - expected) <= 2e-5 * np.linalg.norm(expected)


def opacus_hooks(torch, *, module, inputs, targets, loss, bound):
    from opacus import GradSampleModule

    wrapped = GradSampleModule(module, loss_reduction="sum")
    loss(wrapped(inputs), targets).sum().backward()
    return clipped(torch, [p.grad_sample for p in wrapped.parameters()], bound)


def opacus_ghost(torch, *, module, inputs, targets, loss, bound):
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        module, max_grad_norm=bound, use_ghost_clipping=True, loss_reduction="sum"
    )
    losses = loss(wrapped(inputs), targets)
    losses.sum().backward(retain_graph=True)
    norms = wrapped.get_norm_sample().detach()
    wrapped.zero_grad(set_to_none=True)
    wrapped.disable_hooks()
    (losses * torch.clamp(bound / norms, max=1.0)).sum().backward()
    total = torch.cat([p.grad.reshape(-1) for p in wrapped.parameters()])
    return norms.numpy(), total.numpy()


def test_house_prices_descend_as_published():
    """Area 1..5, price 2..10: squared error, full batch, rate 0.001, from zero."""
    model = make_model(kind="linear", inputs=1, dtype=np.float64)
    (block,) = make_blocks(
        np.arange(1.0, 6.0)[:, None], np.arange(2.0, 11.0, 2.0), block_units=5, dtype=np.float64
    )
    vector = model.flatten(model.initial(bytes(32)))
    history = []
    for _ in range(1001):
        found = unit_gradients(model, model.unflatten(vector), block)
        history.append((found.losses.mean(), vector))
        vector = vector - 0.001 * found.weighted_sum(np.full(5, 1 / 5))
    assert history[0][0] == pytest.approx(44.0, abs=1e-9)
    assert history[100][0] == pytest.approx(0.4106452974, abs=1e-9)
    assert history[1000][0] == pytest.approx(0.0244996813, abs=1e-9)
    weight, bias = history[1000][1]
    assert (bias, weight) == pytest.approx((0.3668797, 1.8983802), abs=5e-8)
