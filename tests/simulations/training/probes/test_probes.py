"""What all streaming probes share: they change nothing, give strict JSON, and refuse in one line."""

import copy
import json
import random

import numpy as np
import pytest

from bntheory.architectures import resnet

torch = pytest.importorskip("torch")
probes = pytest.importorskip("simulations.training.probes")
build = pytest.importorskip("simulations.training.modules").build
nn, PROBES = torch.nn, {name: probes.PROBES[name] for name in probes.STREAMING}
every = pytest.mark.parametrize("name", PROBES)


def data(shape, batch=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.standard_normal((batch, *shape))).float(), torch.tensor(rng.integers(classes, size=batch))


class Restless(nn.Module):
    """Draws from every generator, writes to buffers, attributes, its own weights and its input; fails on demand."""

    def __init__(self, fail=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))  # iterates when it is looked at
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(36, 3))
        self.register_buffer("calls", torch.zeros(1))
        self.fail = fail

    def forward(self, h):
        h.mul_(1 + random.random() * np.random.rand())  # noqa: NPY002
        self.calls += 1
        self.last = h.detach()
        self.conv.weight.data.mul_(0.5)
        h = nn.functional.dropout(self.norm(self.spectral(self.conv(h))), 0.5).relu_()
        if self.fail:
            raise RuntimeError("on demand")
        return self.linear(h.flatten(1))


def facts(model):
    return [
        (module.training, list(module._forward_hooks), list(module._backward_hooks), sorted(vars(module)))
        for module in model.modules()
    ] + [parameter.requires_grad for parameter in model.parameters()]


def generators():
    legacy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), legacy[1].tolist(), legacy[2:], torch.get_rng_state().tolist()


@every
@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(name, fail, training):
    torch.manual_seed(0)
    model = Restless().train(training)
    images, labels = data((2, 5, 5))
    nn.functional.cross_entropy(model(images.clone()), labels).backward()
    model.fail = fail
    model.conv.register_forward_hook(lambda *_: None)
    model.norm.bias.requires_grad_(False)
    touched = []
    model.conv.weight.register_hook(touched.append)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    tensors |= {f"{key} gradient": parameter.grad for key, parameter in model.named_parameters()}
    before, given = copy.deepcopy([tensors, facts(model), generators()]), images.clone()
    if fail:
        with pytest.raises(RuntimeError, match="on demand") as caught:
            PROBES[name](model, images, labels)
        assert caught.value.__notes__ == ["raised by the module's own forward"]
    else:
        PROBES[name](model, images, labels)
    assert facts(model) == before[1] and generators() == before[2] and not touched
    assert torch.equal(images, given) and torch.is_grad_enabled()
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    after |= {f"{key} gradient": parameter.grad for key, parameter in model.named_parameters()}
    for key, tensor in tensors.items():
        assert after[key] is tensor and (tensor is None or torch.equal(tensor, before[0][key])), key


def trained(probe):
    """Five steps with BatchNorm and dropout, a probe in each, between forward and backward pass."""
    torch.manual_seed(1)
    resnet8 = build(resnet(8, batch_norm=True, image=(3, 8, 8), classes=6))
    model = nn.Sequential(resnet8, nn.Dropout(), nn.Linear(6, 3))
    images, labels = data((3, 8, 8), 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(model(images), labels)
        if probe is not None:
            probe(model, images, labels)
        value.backward()
        optimizer.step()
    return model.state_dict()


@pytest.fixture(scope="module")
def undisturbed():
    return trained(None)


@every
def test_training_goes_on_to_the_same_bits(name, undisturbed):
    final = trained(PROBES[name])
    assert all(torch.equal(final[key], tensor) for key, tensor in undisturbed.items())


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_small_strict_json_with_table_and_picture(name, dtype):
    from matplotlib.figure import Figure

    model = build(resnet(8, image=(3, 8, 8)), dtype=dtype)
    images, labels = data((3, 8, 8), 128, 10)
    result = PROBES[name](model, images.numpy(), labels.numpy())
    numbers = result.to_dict()
    assert len(json.dumps(numbers, allow_nan=False)) < 40_000
    assert "null" not in json.dumps({**numbers, "numbers": ()})  # shortcuts have no number
    assert str(result) == result.table() and result.table().count("\n") > 2
    ax = Figure().add_subplot()
    assert result.plot(ax) is ax and ax.has_data()
    with pytest.raises(AttributeError):
        result.layers = ()


@pytest.mark.parametrize("batch_norm", [False, True])
def test_together_they_find_what_each_finds(batch_norm):
    """One forward pass for all, and a probe of one's own between them."""
    model = build(resnet(8, batch_norm=batch_norm, image=(3, 8, 8)))
    images, labels = data((3, 8, 8), 16, 10)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    both = {**PROBES, "own": lambda model, images, labels: len(images)}
    together = probes.observe(both, model, images, labels)
    assert passes == [1] and list(together) == list(both) and together.pop("own") == 16
    for name, found in together.items():
        assert found.to_dict() == PROBES[name](model, images, labels).to_dict(), name
    assert len(passes) == 5


@every
def test_a_network_that_has_overflowed_is_reported(name):
    model = build(resnet(8, image=(3, 8, 8)))
    with torch.no_grad():
        model[0].weight.mul_(1e38)
        model[-1].weight.mul_(1e38)
    images, labels = data((3, 8, 8), 4)
    found = PROBES[name](model, images, labels)
    assert '"nan"' in json.dumps({**found.to_dict(), "numbers": ()}, allow_nan=False)
    assert found.table()


@every
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_module_is_run_as_it_is_written(name):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 3))
    images, labels = data((1, 5, 5))
    numbers, compiled = (PROBES[name](part, images, labels).to_dict() for part in (model, torch.compile(model)))
    assert json.dumps(compiled).replace("_orig_mod.", "") == json.dumps(numbers)


@every
def test_any_loss_will_do(name):
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    images, targets = data((4,))[0], torch.zeros(6, 2)
    PROBES[name](model, images, targets, nn.functional.mse_loss)
    with torch.inference_mode():
        PROBES[name](model, images, targets, lambda outputs, labels: (outputs - labels).abs().sum())


class MixedPrecision(nn.Module):
    """Runs its first layer in bfloat16."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, h):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.first(h)
        return self.last(h.float())


@every
def test_mixed_precision(name):
    """Of the model's own making it is kept; around the probe it is not taken on."""
    model, (images, labels) = MixedPrecision(), data((4,))
    alone = PROBES[name](model, images, labels).to_dict()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PROBES[name](model, images, labels).to_dict() == alone


LINEAR = nn.Linear(4, 3)
REFUSED = {
    "labels must be one for each of 6 images, got shape (5,)": (LINEAR, data((4,))[0], torch.zeros(5, dtype=int)),
    "labels must be classes from 0 to 2, got 3": (LINEAR, data((4,))[0], np.arange(6) % 4),
    "images must be finite, got 1 NaN": (LINEAR, torch.tensor([[1.0, 2, float("nan"), 0]]), [0]),
    "loss must return a tensor of one real number, got (6, 3)": (LINEAR, *data((4,)), lambda y, t: y),
    "loss must return a tensor of one real number, got float": (LINEAR, *data((4,)), lambda y, t: 1.0),
    "loss must depend on the model's parameters": (LINEAR, *data((4,)), lambda y, t: torch.zeros(())),
    "model has lazy modules": (nn.LazyLinear(3), *data((4,))),
}


@pytest.mark.parametrize("name", [name for name in PROBES if name != "channel_moments"])  # it needs no loss
@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(name, message):
    with pytest.raises(ValueError) as caught:
        PROBES[name](*REFUSED[message])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_modules_without_weights():
    images, labels = data((4,))
    for name, words in {
        "gradient_histogram": "Flatten has no parameters, so there is no gradient",
        "kernel_alignment": "Flatten has no parameters, so there is no gradient",
        "channel_moments": "Flatten has no convolution or linear layer: name modules",
    }.items():
        with pytest.raises(ValueError, match=words):
            PROBES[name](nn.Flatten(), images, labels)
    with pytest.raises(ValueError, match="LayerNorm has no weights"):
        PROBES["gradient_histogram"](nn.LayerNorm(4), images, labels)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got function"):
        PROBES["logit_gradients"](lambda h: h, images, labels)


def test_an_error_of_the_loss_is_told_in_one_line():
    with pytest.raises(ValueError, match=r"^loss fails on outputs \(6, 3\) and labels \(6, 2\): ") as caught:
        PROBES["gradient_histogram"](LINEAR, data((4,))[0], torch.zeros(6, 2), nn.functional.cross_entropy)
    assert "\n" not in str(caught.value)
