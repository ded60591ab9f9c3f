"""The probe against activations stored and reduced by hand, and that it leaves the model as it was."""

import copy
import math

import numpy as np
import pytest

from bntheory.activations import activation
from bntheory.architectures import mlp, resnet
from bntheory.initializations import initialization
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, Pool, ZeroPad
from bntheory.networks import Join, Residual, Sequential, leaves
from simulations.samples import QUANTITIES, Samples

torch = pytest.importorskip("torch")
probe = pytest.importorskip("simulations.training.probes.measured_growth")
build = pytest.importorskip("simulations.training.modules").build
nn, measure_growth, measure_draws = torch.nn, probe.measure_growth, probe.measure_draws

NETWORKS = {
    "mlp": mlp(3, 8, "linear", bias=0.1),
    "residual mlp": mlp(2, 8, "selu", batch_norm=True, residual=True, input_width=4, output_width=2),
    "resnet": resnet(14, batch_norm=True, image=(3, 8, 8)),
    "zero-pad resnet": resnet(14, shortcut="zero-pad", image=(1, 8, 8)),
    "joins": Sequential(
        (Join(((), (Conv(2),))), Join(((), (Pool(), activation("sigmoid"))), "product"), Sequential((Join(((), ())),))),
        (3, 4, 4),
    ),
    "everything": Sequential(
        (
            Conv(8, 5, stride=2, padding=1, groups=2),
            BatchNorm(1e-3),
            Sequential((Pool("max", 2, 1), Sequential((activation("erf"),)))),
            Residual((Residual((Conv(12, 3, 2),), (ZeroPad(12, 2),)), activation("relu")), (Conv(12, 1, 2),)),
            Pool("average"),
            Flatten(),
            Dense(5, "orthogonal"),
        ),
        (4, 16, 16),
    ),
}


def batch_for(net, size=6, seed=0):
    return np.random.default_rng(seed).standard_normal((size, *net.input_shape))


def stored(model, batch):
    """Every activation by the row's name, by walking the modules: no hooks."""
    kept = {"input": batch}

    def walk(name, module, h):
        if isinstance(module, nn.Sequential):
            for key, child in module.named_children():
                h = walk(f"{name}.{key}".lstrip("."), child, h)
            return h
        if isinstance(module, probe.Residual):
            parts = [walk(f"{name}.{part}", getattr(module, part), h) for part in ("branch", "shortcut")]
            name, h = f"{name}.sum", parts[0] + parts[1]
        elif isinstance(module, probe.Join):
            parts = [walk(f"{name}.branches.{k}", part, h) for k, part in enumerate(module.branches)]
            h = torch.cat(parts, 1) if module.operation == "concatenate" else parts[0] * parts[1]
            name = f"{name}.{module.operation}"
        else:
            h = module(h)
        kept[name] = h
        return h

    with torch.no_grad():
        walk("", copy.deepcopy(model), batch)
    return {name: h.double().numpy() for name, h in kept.items()}


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_rows_and_values_are_those_of_stored_activations(net, training):
    model = build(net, seed=1).train(training)
    batch = batch_for(net)
    samples = measure_growth(model, batch)
    assert samples.rows == tuple(leaves(net))
    assert (samples.trials, samples.method, samples.seed) == (1, "measured", None)
    activations = stored(model, torch.from_numpy(batch).float())
    assert tuple(activations) == samples.name
    for index, h in enumerate(activations.values()):
        axes = (0, *range(2, h.ndim))
        direct = [np.mean(h**2), np.mean(h.mean(axis=axes) ** 2), np.mean(h.var(axis=axes))]
        measured = [math.exp(getattr(samples, quantity)[0, index]) for quantity in QUANTITIES]
        np.testing.assert_allclose(measured, direct, rtol=1e-9, atol=1e-12 * direct[0])


def test_batch_norm_is_measured_in_the_mode_it_is_in():
    net = mlp(1, 16, batch_norm=True)
    model, batch = build(net), 3 * batch_for(net, 200) + 1
    normalised = samples_at(measure_growth(model, batch), "1")
    assert normalised[0] == pytest.approx(0, abs=1e-4) and normalised[1] < math.log(1e-12)
    running = samples_at(measure_growth(model.eval(), batch), "1")
    assert running[0] == pytest.approx(samples_at(measure_growth(model, batch), "0")[0], abs=1e-4) and running[0] > 1


def samples_at(samples, name):
    index = samples.name.index(name)
    return [getattr(samples, quantity)[0, index] for quantity in QUANTITIES]


class Noisy(nn.Module):
    """Draws random numbers, writes to its buffers in both ways, and fails on demand."""

    def __init__(self, fail):
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(2))
        self.register_buffer("hidden", torch.ones(3), persistent=False)
        self.fail, self.recorded = fail, []

    def forward(self, h):
        self.recorded.append(torch.is_grad_enabled())
        h = self.dropout(self.norm(self.linear(h)))
        self.calls += 1
        self.hidden = self.hidden * 2
        if self.fail:
            raise RuntimeError("on demand")
        return self.linear(h)


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(fail, training):
    model = Noisy(fail).train(training)
    model.dropout.train()
    model.linear.weight.requires_grad_(False)
    batch = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    if not fail:
        model(batch).sum().backward()
    model.register_forward_hook(lambda *_: None)

    def state():
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        tensors |= {f"{name} gradient": parameter.grad for name, parameter in model.named_parameters()}
        return tensors

    def facts():
        return [
            (module.training, *(len(hooks) for hooks in (module._forward_hooks, module._forward_pre_hooks)))
            for module in model.modules()
        ] + [parameter.requires_grad for parameter in model.parameters()]

    tensors, facts_before, grad_enabled = state(), facts(), torch.is_grad_enabled()
    values = copy.deepcopy({name: tensor for name, tensor in tensors.items() if tensor is not None})
    versions = {name: tensor._version for name, tensor in tensors.items() if tensor is not None}
    random, given, keys = torch.get_rng_state(), batch.clone(), list(model.state_dict())
    if fail:
        with pytest.raises(RuntimeError, match="on demand"):
            measure_growth(model, batch)
    else:
        assert measure_growth(model, batch).name == ("input", "linear", "norm", "dropout", "linear")
    assert not model.recorded[-1]  # no graph was kept
    assert torch.equal(torch.get_rng_state(), random)
    assert facts() == facts_before and torch.is_grad_enabled() == grad_enabled
    after = state()
    assert list(model.state_dict()) == keys
    for name, tensor in tensors.items():
        assert after[name] is tensor
        if tensor is not None:
            assert torch.equal(tensor, values[name]) and tensor._version == versions[name]
    assert torch.equal(batch, given)


def test_a_measurement_between_forward_and_backward_does_no_harm():
    model = build(mlp(2, 4, batch_norm=True))
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    loss = model(batch).sum()
    measure_growth(model, batch)
    loss.backward()
    assert model[0].weight.grad is not None


def test_other_modules_have_a_row_per_call_named_by_their_class():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.empty, self.pool = nn.Sequential(), nn.AdaptiveAvgPool1d(2)

        def forward(self, h):
            return self.pool(self.first(self.empty(self.first(h)))).sum(1)

    samples = measure_growth(Twice(), batch_for(mlp(1, 4)))
    assert samples.name == ("input", "first", "first", "pool")
    assert samples.operation[1].endswith("Linear") and samples.operation[3] == "AdaptiveAvgPool1d"
    assert samples.shape == ((4,), (4,), (4,), (2,)) and all(row.layer is None for row in samples.rows)
    linear = nn.Linear(4, 3).double()
    linear.description = "not one of ours"
    single = measure_growth(linear, batch_for(mlp(1, 4)))
    assert single.name == ("input", "model") and single.operation[1] == "Linear" and single.rows[1].layer is None
    flat = measure_growth(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), batch_for(mlp(1, 4)))
    assert flat.shape[-1] == () and flat.log_second_moment[0, 1] == pytest.approx(flat.log_second_moment[0, 2])


def test_an_edited_network_is_measured_as_it_is():
    model = build(mlp(2, 4))
    model[1] = nn.Hardtanh()
    assert measure_growth(model, np.eye(4)).operation[1:4] == ("Dense(4, he_normal)", "Hardtanh", "Dense(4, he_normal)")


def test_low_precision_models_are_measured():
    net, batch = mlp(2, 32), batch_for(mlp(2, 32))
    exact, rounded = (measure_growth(model, batch).log_second_moment for model in (build(net), build(net).bfloat16()))
    np.testing.assert_allclose(rounded, exact, atol=0.05)
    assert not np.array_equal(rounded, exact)


def test_overflow_is_said_and_float64_reaches_further():
    net = mlp(60, 16, init="lecun_normal", activation="linear")
    model, wide = build(net), build(net, dtype="float64")
    with torch.no_grad():
        for parameter in [*model.parameters(), *wide.parameters()]:
            parameter *= 10
    with pytest.warns(RuntimeWarning, match=r"floating-point range in 1 of 1 networks, first in row 7\d \(Dense"):
        samples = measure_growth(model, np.eye(16))
    reached = measure_growth(wide, np.eye(16))
    assert np.isfinite(reached.log_second_moment).all()
    first = int(np.argmax(samples.overflowed))
    assert samples.overflowed[0, first:].all() and reached.log_second_moment[0, first] > 2 * math.log(1e37)
    np.testing.assert_allclose(samples.log_second_moment[0, :first], reached.log_second_moment[0, :first], rtol=1e-5)
    with pytest.warns(RuntimeWarning, match="in 2 of 2 networks"):
        measure_draws(mlp(3, 40, init=initialization("he_normal", gain=100)), np.eye(40) * 1e38, draws=2)


def test_dead_rows_are_minus_infinity():
    model = build(mlp(2, 4))
    with torch.no_grad():
        model[0].weight.copy_(-torch.ones(4, 4))
    samples = measure_growth(model, np.eye(4))
    assert samples.alive.tolist() == [[True, True, False, False, False]]
    assert samples.log_channel_variance[0, 1] == pytest.approx(-math.inf)


def test_draws_are_independent_networks_keyed_by_seed_and_draw():
    net, batch = NETWORKS["residual mlp"], batch_for(NETWORKS["residual mlp"])
    four, two = measure_draws(net, batch, 4, seed=7), measure_draws(net, batch, 2, seed=7, progress=False)
    assert np.array_equal(four.log_second_moment[:2], two.log_second_moment)
    assert four.seed == 7 and four.rows == tuple(leaves(net))
    third = measure_growth(build(net, seed=7, draw=2), batch)
    assert np.array_equal(third.log_channel_variance[0], four.log_channel_variance[2])
    assert len(np.unique(four.log_second_moment[:, -1])) == 4
    assert not np.array_equal(two.log_second_moment, measure_draws(net, batch, 2, seed=8).log_second_moment)
    drawn = measure_draws(net, batch, 1, seed=np.random.default_rng(0))
    assert drawn.seed > 2**100 and np.array_equal(
        drawn.log_second_moment, measure_draws(net, batch, 1, seed=drawn.seed).log_second_moment
    )
    assert isinstance(Samples.stack([four, two]), Samples)


def test_he_networks_keep_the_second_moment_on_average():
    """E‖h‖²/width stays ‖x‖²/width: 300 draws, 6 layers of 64; 5 standard errors of the mean (false alarm 6e-7)."""
    inputs = np.array([[1.0] * 32 + [-1.0] * 32])
    ratio = np.exp(measure_draws(mlp(6, 64), inputs, draws=300).log_second_moment[:, -1])
    assert abs(ratio.mean() - 1) < 5 * ratio.std(ddof=1) / math.sqrt(300)


BAD_BATCHES = {
    "got 2 NaN or infinite of 8 values": np.array([[1, 2, math.nan, 3], [1, math.inf, 2, 3]]),
    r"must have shape \(batch, 4\), got \(2, 5\)": np.eye(5)[:2],
    r"must have shape \(batch, 4\), got \(4,\)": np.arange(4.0),
    r"entries, got \(0, 4\)": np.empty((0, 4)),
    "must not be constant .*every value is 0": np.zeros((2, 4)),
    "must not be constant .*every value is 1.5": np.full((2, 4), 1.5),
    "float32 or float64, got float16: convert": np.eye(4, dtype=np.float16),
    "float32 or float64, got int64": np.eye(4, dtype=np.int64),
    "float32 or float64, got torch.uint8": torch.eye(4, dtype=torch.uint8),
    "must be real numbers, got complex128": np.eye(4) * 1j,
    "must fit into the model's torch.float32, got values from 0 to 1e.39": np.eye(4) * 1e39,
}


@pytest.mark.parametrize("message", BAD_BATCHES)
def test_bad_batches_are_refused_in_one_line(message):
    with pytest.raises(ValueError, match=message) as caught:
        measure_growth(build(mlp(1, 4)), BAD_BATCHES[message])
    assert "\n" not in str(caught.value)


def test_other_bad_arguments():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got Sequential"):
        measure_growth(mlp(1, 4), np.eye(4))
    with pytest.raises(TypeError, match=r"output of model \(LSTM\) must be a real tensor, got tuple"):
        measure_growth(nn.LSTM(4, 4), np.ones((2, 3, 4)).cumsum(0))
    with pytest.raises(ValueError, match="lazy modules"):
        measure_growth(nn.LazyLinear(3), np.eye(4))
    with pytest.raises(ValueError, match=r"must have shape \(batch, \*one input's shape\)"):
        measure_growth(nn.Linear(4, 4), np.arange(4.0))
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        measure_draws(mlp(1, 4), np.eye(4), 0)
