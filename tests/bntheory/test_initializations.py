"""Weight laws against torch.nn.init: variances for every name and fan mode, ranges, defaults."""

import dataclasses
import json
import math

import pytest

from bntheory.initializations import INITIALIZATIONS, MODES, Initialization, initialization
from bntheory.layers import Conv, Dense

LAYERS = {
    "dense": (Dense(60), (200,)),
    "conv": (Conv(40, kernel=3), (16, 8, 8)),
    "grouped conv": (Conv(64, kernel=3, groups=4), (32, 8, 8)),
}
SIGMAS = 5  # false alarms: 6e-7 for each comparison of a variance, and the seed is fixed


def weight_shape(layer, shape):
    if isinstance(layer, Dense):
        return layer.features, shape[0]
    return layer.channels, shape[0] // layer.groups, layer.kernel, layer.kernel


def assert_variance(sample, expected, kurtosis):
    """Mean square of zero-mean draws against the variance they should have."""
    error = math.sqrt((kurtosis - 1) / sample.numel())
    assert float((sample.detach() ** 2).mean()) == pytest.approx(expected, rel=SIGMAS * error)


def torch_draw(law, mode, weight):
    """Draw with torch's own function of that law; returns the kurtosis of the distribution."""
    init = pytest.importorskip("torch").nn.init
    name = law.name
    if name.startswith("he_"):
        getattr(init, f"kaiming_{name[3:]}_")(weight, mode=mode, nonlinearity="relu")
    elif name.startswith("lecun_"):
        getattr(init, f"kaiming_{name[6:]}_")(weight, mode=mode, nonlinearity="linear")
    elif name.startswith("xavier_"):
        getattr(init, f"{name}_")(weight)
    elif name == "torch_default":
        init.kaiming_uniform_(weight, a=math.sqrt(5), mode=mode)
    return {"normal": 3.0, "uniform": 1.8}[law.distribution]


CASES = [
    (name, mode)
    for name, law in INITIALIZATIONS.items()
    if law.distribution != "orthogonal"
    for mode in (("fan_avg",) if name.startswith("xavier") else ("fan_in", "fan_out"))
]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_variance_is_that_of_torch_init(name, mode, kind):
    torch = pytest.importorskip("torch")
    layer, shape = LAYERS[kind]
    layer = dataclasses.replace(layer, init=initialization(name, mode=mode))
    torch.manual_seed(1)
    weights = torch.empty(10, *weight_shape(layer, shape))
    for weight in weights:
        kurtosis = torch_draw(layer.init, mode, weight)
    assert_variance(weights, layer.weight_variance(shape), kurtosis)


@pytest.mark.parametrize("kind", LAYERS)
def test_uniform_bound_is_that_of_torch_init(kind):
    torch = pytest.importorskip("torch")
    layer, shape = LAYERS[kind]
    layer = dataclasses.replace(layer, init=initialization("xavier_uniform"))
    torch.manual_seed(1)
    weight = torch.nn.init.xavier_uniform_(torch.empty(weight_shape(layer, shape)))
    bound = math.sqrt(3 * layer.weight_variance(shape))
    assert 0.99 * bound < float(weight.abs().max()) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_orthogonal_variance_is_exactly_that_of_torch_init(kind, gain):
    torch = pytest.importorskip("torch")
    layer, shape = LAYERS[kind]
    layer = dataclasses.replace(layer, init=initialization("orthogonal", gain=gain))
    torch.manual_seed(1)
    weight = torch.nn.init.orthogonal_(torch.empty(weight_shape(layer, shape), dtype=torch.float64), gain=gain)
    assert float((weight**2).mean()) == pytest.approx(layer.weight_variance(shape), rel=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_torch_default_is_what_modules_do_by_themselves(kind):
    torch = pytest.importorskip("torch")
    layer, shape = LAYERS[kind]
    layer = dataclasses.replace(layer, init=initialization("torch_default"))
    torch.manual_seed(1)
    if kind == "dense":
        modules = [torch.nn.Linear(shape[0], layer.features) for _ in range(20)]
    else:
        make = torch.nn.Conv2d
        modules = [make(shape[0], layer.channels, layer.kernel, groups=layer.groups) for _ in range(20)]
    assert_variance(torch.stack([module.weight for module in modules]), layer.weight_variance(shape), 1.8)
    assert_variance(torch.stack([module.bias for module in modules]), layer.bias_variance(shape), 1.8)


def test_textbook_values():
    assert initialization("he_normal").variance(fan_in=100, fan_out=50) == pytest.approx(2 / 100)
    assert initialization("xavier_uniform").variance(fan_in=100, fan_out=50) == pytest.approx(2 / 150)
    assert initialization("lecun_normal").variance(fan_in=100, fan_out=50) == pytest.approx(1 / 100)
    assert initialization("torch_default").variance(fan_in=100, fan_out=50) == pytest.approx(1 / 300)
    assert initialization("torch_default").bias_variance(fan_in=100) == pytest.approx(1 / 300)
    assert all(law.bias_variance(7) == 0 for name, law in INITIALIZATIONS.items() if name != "torch_default")


@pytest.mark.parametrize("mode", MODES)
def test_gain_and_mode_replace_the_law_s_own(mode):
    law = initialization("he_normal", gain=3, mode=mode)
    fan = {"fan_in": 10, "fan_out": 30, "fan_avg": 20}[mode]
    assert law.variance(10, 30) == pytest.approx(9 / fan)
    assert initialization(law) is law


@pytest.mark.parametrize("law", INITIALIZATIONS.values(), ids=str)
def test_to_dict_survives_json(law):
    assert Initialization.from_dict(json.loads(json.dumps(law.to_dict()))) == law


def test_str_says_what_differs_from_the_known_law():
    assert str(initialization("he_normal")) == "he_normal"
    assert str(initialization("he_normal", gain=2, mode="fan_out")) == "he_normal(gain=2, mode=fan_out)"
    assert "gain=0.5" in str(Initialization("mine", 0.5))


@pytest.mark.parametrize("gain", [0, -1, math.nan, math.inf, "2", None, True])
def test_bad_gain_is_named(gain):
    with pytest.raises(ValueError, match=r"gain must be .*got"):
        Initialization("mine", gain)


def test_unknown_words_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"got 'he_norml' .did you mean he_normal"):
        initialization("he_norml")
    with pytest.raises(ValueError, match=r"mode must be one of .*did you mean fan_in"):
        initialization("he_normal", mode="fanin")
    with pytest.raises(ValueError, match=r"distribution must be one of .*got 'cauchy'"):
        Initialization("mine", 1.0, distribution="cauchy")
    with pytest.raises(ValueError, match=r"init must be a name or an Initialization, got 3"):
        initialization(3)
