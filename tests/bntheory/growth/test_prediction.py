"""What `predict_growth` says of a network: required numbers, laws at any width, words, tables, JSON, extremes."""

import functools
import json
import math

import numpy as np
import pytest
from scipy import special

from bntheory import activation, cnn, initialization, leaves, mlp, predict_growth, resnet
from bntheory.activations import KNOWN
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pool
from bntheory.networks import Residual, Sequential

RELU, TANH, LINEAR = activation("relu"), activation("tanh"), activation("linear")


def log_term(n):
    """Mean and variance of ln(χ²_K · 2/n) given K ≥ 1 by the sum over K."""
    k = np.arange(1, n + 1)
    p = np.exp(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1) - n * math.log(2))
    p /= p.sum()
    log_k = special.digamma(k / 2) + math.log(4 / n)
    mean = p @ log_k
    return mean, p @ (special.polygamma(1, k / 2) + (log_k - mean) ** 2)


def test_required_numbers():
    growth = predict_growth(mlp(100, 128))
    assert growth.log_growth_mean[-1] == pytest.approx(-1.9786, abs=1e-4)
    assert growth.log_growth_std[-1] == pytest.approx(2.0058, abs=1e-4)
    mean, variance = log_term(128)
    assert growth.log_growth_mean[-1] == pytest.approx(100 * mean, abs=1e-11)
    assert growth.log_growth_std[-1] == pytest.approx(math.sqrt(100 * variance), abs=1e-11)
    assert growth.log_second_moment[-1] == pytest.approx(0, abs=1e-12)
    assert growth.band_method == ("exact",) * 201
    # the law is skewed to the left: the band is not mean ± 1.645 std (2,000,000 sampled sums: −5.288, 1.305)
    assert [edge[-1] for edge in growth.band(0.90)] == pytest.approx([-5.2922, 1.3060], abs=1e-3)


def test_thousand_wide():
    growth = predict_growth(mlp(100, 1000))
    assert growth.log_growth_mean[-1] == pytest.approx(-0.250410, abs=1e-6)
    assert growth.log_growth_std[-1] ** 2 == pytest.approx(0.501859, abs=1e-6)


@pytest.mark.parametrize("widths", [(1,), (1, 1000, 3), (2, 2, 2, 2), (64, 5, 64), (7,)])
def test_widths_that_vary(widths):
    """Every ReLU layer adds its own term and dies with its own probability, whatever the fans."""
    init = initialization("he_normal")
    layers = [part for width in widths for part in (Dense(width, init), RELU)]
    growth = predict_growth(Sequential(tuple(layers), (5,)))
    terms = np.array([log_term(n) for n in widths])
    np.testing.assert_allclose(growth.log_growth_mean[2::2], np.cumsum(terms[:, 0]), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(growth.log_growth_std[2::2], np.sqrt(np.cumsum(terms[:, 1])), rtol=1e-12)
    alive = np.cumprod([1 - 2.0**-n for n in widths])
    np.testing.assert_allclose(growth.p_dead[2::2], 1 - alive, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(growth.p_dead[1::2], [0, *(1 - alive[:-1])], rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(growth.log_second_moment[2::2], 0, atol=1e-13)


def test_linear_layers_before_and_after():
    """Dense, linear, Dense, ReLU: the linear activation repeats its row."""
    net = Sequential((Dense(4, "lecun_normal"), LINEAR, Dense(6), RELU, Dense(3, "xavier_normal")), (5,))
    growth = predict_growth(net)
    mean = special.digamma(2) + math.log(2 / 4)
    assert growth.log_growth_mean[[1, 2]] == pytest.approx([mean, mean])
    assert growth.log_growth_std[[1, 2]] == pytest.approx([math.sqrt(special.polygamma(1, 2))] * 2)
    relu_mean, relu_variance = log_term(6)
    last = math.log(6 * 2 / (6 + 3)) + special.digamma(1.5) + math.log(2 / 3)
    assert growth.log_growth_mean[-1] == pytest.approx(mean + relu_mean + last)
    variance = special.polygamma(1, 2) + relu_variance + special.polygamma(1, 1.5)
    assert growth.log_growth_std[-1] == pytest.approx(math.sqrt(variance))


def test_given_inputs_shift_the_law():
    inputs = np.random.default_rng(0).standard_normal((4, 9)) * 100
    shifted, plain = predict_growth(mlp(5, 9), inputs), predict_growth(mlp(5, 9))
    shift = math.log(np.mean(inputs**2))
    np.testing.assert_allclose(shifted.log_growth_mean, plain.log_growth_mean + shift, rtol=1e-13)
    np.testing.assert_allclose(shifted.log_growth_std, plain.log_growth_std)
    np.testing.assert_allclose(shifted.band(0.8), np.array(plain.band(0.8)) + shift, atol=1e-10)


def test_biases_enter_the_law():
    """A bias as large as what comes in: one layer is (2q + σ_b²) χ²_K/n; a dead layer is revived by the next."""
    growth = predict_growth(mlp(3, 4, bias=2.0))
    mean, variance = log_term(4)
    assert growth.log_growth_mean[2] == pytest.approx(mean + math.log(2), abs=1e-11)
    assert growth.log_growth_std[2] == pytest.approx(math.sqrt(variance), abs=1e-11)
    np.testing.assert_allclose(growth.p_dead, [0, 0, 1 / 16, 0, 1 / 16, 0, 1 / 16], atol=1e-14)
    zero, none = predict_growth(mlp(3, 4, bias=0.0)), predict_growth(mlp(3, 4))
    np.testing.assert_array_equal(zero.log_growth_std, none.log_growth_std)


@pytest.mark.parametrize("level", [1e-6, 0.5, 0.9, 0.999, 1 - 1e-9])
@pytest.mark.parametrize("bias", [None, 0.1])
def test_bands_are_ordered_and_nested(level, bias):
    growth = predict_growth(mlp(4, 10, bias=bias))
    lower, upper = growth.band(level)
    assert (lower[0], upper[0]) == (0.0, 0.0)
    assert np.all(lower[1:] < upper[1:])
    wider = growth.band((1 + level) / 2)
    assert np.all(wider[0][1:] < lower[1:]) and np.all(upper[1:] < wider[1][1:])


@pytest.mark.parametrize("level", [0, 1, -0.1, 2, 95, math.nan, "0.9"])
def test_refused_levels(level):
    with pytest.raises(ValueError, match="level must be"):
        predict_growth(mlp(2, 4)).band(level)


@pytest.mark.parametrize(("init", "method"), [("he_uniform", "first-order"), ("torch_default", "first-order")])
def test_uniform_weights_have_a_first_order_band(init, method):
    assert predict_growth(mlp(2, 64, init=init)).band_method[1:] == (method,) * 4


@pytest.mark.parametrize(
    "net",
    [mlp(2, 8, "tanh"), mlp(2, 8, batch_norm=True), mlp(2, 8, residual=True), mlp(2, 8, layer_norm=True)],
    ids=str,
)
def test_bands_of_first_order(net):
    growth = predict_growth(net, batch_size=32)
    assert set(growth.band_method) <= {"exact", "first-order"} and growth.band_method[-1] == "first-order"
    for values in (growth.log_growth_mean, growth.log_growth_std, growth.p_dead, *growth.band(0.9)):
        assert np.isfinite(values).all()


def test_no_band_without_a_rule():
    growth = predict_growth(mlp(2, 8, init="orthogonal"))
    assert growth.band_method[1:] == ("unsupported",) * 4
    for values in (growth.log_growth_mean, growth.log_growth_std, *growth.band(0.9)):
        assert np.isfinite(values[0]) and np.isnan(values[1:]).all()


@pytest.mark.parametrize(
    "net", [mlp(3, 4), mlp(2, 4, batch_norm=True, residual=True, output_width=2), resnet(8, image=(3, 8, 8))]
)
def test_rows_are_the_leaves(net):
    growth = predict_growth(net, batch_size=32)
    rows = tuple(leaves(net))
    assert growth.rows == rows
    assert growth.name == tuple(row.name for row in rows)
    assert growth.operation == tuple(row.operation for row in rows)
    assert growth.shape == tuple(row.shape for row in rows)
    for values in (growth.log_second_moment, growth.p_dead, growth.moment_method, growth.band(0.5)[0]):
        assert len(values) == len(rows)


NESTED = Residual((Residual((Dense(8),)),))  # branch and shortcut share weights, and are no functions of the same units
NO_RULE = Sequential((Dense(8), NESTED, RELU), (8,))


def test_an_unsupported_layer_is_named():
    growth = predict_growth(NO_RULE)
    assert growth.unsupported.name == "1.sum"
    assert "nothing is predicted from there on" in growth.verdict() and "1.sum" in growth.verdict()
    assert np.isnan(growth.log_second_moment[4:]).all() and np.isfinite(growth.log_second_moment[:4]).all()
    assert "nan" not in growth.table()
    assert predict_growth(mlp(2, 4)).unsupported is None


@pytest.mark.parametrize("net", ["relu", None, 3, [Dense(4)], Dense(4), Sequential((Dense(4),))])
def test_not_a_network(net):
    with pytest.raises(ValueError, match="a network needs an input shape"):
        predict_growth(net)


NETWORKS = {
    "nothing": Sequential((), (4,)),
    "one activation": Sequential((activation("tanh"),), (4,)),
    "one layer": Sequential((Dense(4),), (4,)),
    "width 1": mlp(60, 1),
    "width 1 with bias": mlp(60, 1, bias=0.1),
    "a million wide": mlp(2, 10**6),
    "grows": mlp(400, 100, init=initialization("he_normal", gain=100)),
    "shrinks": mlp(400, 100, init=initialization("he_normal", gain=1e-4)),
    "orthogonal": mlp(4, 100, init="orthogonal"),
    "residual BN": mlp(30, 20, batch_norm=True, residual=True),
    "unsupported": NO_RULE,
    "a small ResNet": resnet(8, image=(3, 8, 8)),
}


@functools.cache
def predicted(word):
    return predict_growth(NETWORKS[word], batch_size=16)


@pytest.mark.parametrize("word", NETWORKS)
def test_words_tables_and_json_are_sane(word):
    growth = predicted(word)
    data = json.loads(json.dumps(growth.to_dict(), allow_nan=False))
    assert all(len(column) == len(growth.rows) for column in data.values())
    table, verdict = growth.table(), growth.verdict()
    for text in (table, verdict):
        words = text.replace("∞", "inf").split()
        assert not {"nan", "-nan", "-0", "-0.0", "inf", "-inf"} & set(words)
        assert all(line == line.rstrip() for line in text.splitlines())
    cells = [cell for line in table.splitlines()[1:] for cell in line.split() if cell[:1].isdigit() and "e-" in cell]
    assert not any(1e-20 < float(cell) < 1e-8 for cell in cells)  # such as rounding errors of logarithms
    assert "1.2e+0" not in verdict and "1 layers" not in verdict
    assert len(growth.table(most=4).splitlines()) <= 6
    assert growth.second_moment.shape == (len(growth.rows),)


def test_verdicts():
    assert predicted("nothing").verdict() == "The second moment keeps its size over 0 layers (exact)."
    assert predicted("one layer").verdict().startswith("The second moment grows by a factor 2 over 1 layer (exact).")
    assert "Over 99% of the draws are dead" in predicted("width 1").verdict()
    assert "50% of the draws are dead" in predict_growth(mlp(1, 1)).verdict()
    assert "A typical draw is as large" in predicted("a million wide").verdict()
    assert "range of float32 at row 40." in predicted("grows").verdict()
    shrinks = predicted("shrinks").verdict()
    # 400 ln(1e-8 / 2 · 2) = −7368 …: (1e-4)²/2 a layer
    assert f"shrinks by a factor {10 ** (400 * math.log10(2e8) % 1):.1f}e+3320 over 400 layers (5.0e-09" in shrinks


def test_second_moment_overflows_quietly():
    growth = predicted("grows")
    assert growth.second_moment[-1] == math.inf
    assert np.isfinite(growth.log_second_moment).all()


TEN = initialization("lecun_normal", gain=10)
OPTIONS = {
    "plain": {},
    "bias": {"bias": 0.1},
    "BN": {"batch_norm": True},
    "residual": {"residual": True},
    "all": {"bias": 0.1, "batch_norm": True, "residual": True},
}


def check_extreme(growth, odd=False):
    """All finite, save logarithms of zero: no mean right after BatchNorm, and none where φ is odd after it."""
    assert np.isfinite(growth.log_second_moment).all()
    for row, mean_square in zip(growth.rows, growth.log_channel_mean_square, strict=True):
        zero = isinstance(row.layer, BatchNorm) or odd
        assert math.isfinite(mean_square) or (zero and mean_square == -math.inf)
    assert np.all(growth.log_channel_variance < math.inf)
    supported = np.array(growth.band_method) != "unsupported"
    for values in (growth.log_growth_mean, growth.log_growth_std, growth.p_dead):
        assert np.isfinite(values[supported]).all()
    json.dumps(growth.to_dict(), allow_nan=False)
    assert growth.verdict()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", [*KNOWN[:11], "softsign", "hardtanh"])
def test_gain_ten(name, options):
    """No overflow and no warning over 10 layers; many more for the networks below."""
    growth = predict_growth(mlp(10, 64, name, TEN, **options), batch_size=32)
    check_extreme(growth, odd=name in ("linear", "tanh", "erf", "softsign", "hardtanh"))


@pytest.mark.parametrize(("name", "depth", "options"), [("linear", 10_000, {}), ("tanh", 300, {"bias": 0.1})])
def test_gain_ten_in_deep_networks(name, depth, options):
    growth = predict_growth(mlp(depth, 64, name, TEN, **options), batch_size=32)
    check_extreme(growth, odd=True)
    if name == "linear":
        assert growth.log_second_moment[-1] == pytest.approx(10_000 * math.log(100), rel=1e-13)


@pytest.mark.parametrize(("depth", "bias"), [(300, None), (400, 0.1)])
def test_the_law_of_a_deep_network(depth, bias):
    growth = predict_growth(mlp(depth, 64, "relu", TEN, bias=bias), batch_size=32)
    check_extreme(growth)
    mean, variance = log_term(64)
    rate = mean + math.log(50)
    assert growth.log_growth_mean[-1] == pytest.approx(depth * rate, abs=0.01 if bias else 1e-6)
    assert growth.log_growth_std[-1] == pytest.approx(math.sqrt(depth * variance), rel=1e-4 if bias else 1e-10)
    if bias:
        lower, upper = (edge[-1] for edge in growth.band(0.9))
        half = 1.645 * math.sqrt(depth * variance)
        assert (lower, upper) == pytest.approx((depth * rate - half, depth * rate + half), abs=0.05)


def test_narrow_networks_revived_at_any_depth():
    """Width 8 dies once in 256 layers and starts anew from its bias: much of 400 layers' growth is lost again.

    Given alive, the layers since the last death are geometric with mean 2^8, as far as the depth reaches.
    """
    depth, p = 400, 2.0**-8
    growth = predict_growth(mlp(depth, 8, "relu", TEN, bias=0.1))
    layers = np.arange(depth)
    never = (1 - p) ** (depth - 1)
    since = np.append((1 - p) ** layers[:-1] * p, never)  # dead 1, 2, … layers before the last; or never
    mean = log_term(8)[0] + math.log(50)
    expected = mean * since @ (layers + 1)
    spread = abs(mean) * math.sqrt(since @ (layers + 1) ** 2 - (since @ (layers + 1)) ** 2)
    assert growth.log_growth_mean[-1] == pytest.approx(expected, abs=8)  # less what starting from the bias costs
    assert growth.log_growth_std[-1] == pytest.approx(spread, rel=0.01)
    assert growth.p_dead[-1] == pytest.approx(p)


def test_a_million_units():
    growth = predict_growth(Sequential((Dense(10**6), RELU, Dense(1), RELU, BatchNorm(), Dense(4)), (3,)), batch_size=4)
    assert growth.log_growth_mean[2] == pytest.approx(-2.5e-6, rel=1e-5)
    assert growth.p_dead[:5].tolist() == [0, 0, 0, 0, 0.5]
    assert growth.moment_method[5] == "population"


def test_a_block_ends_the_exact_law():
    net = Sequential((Dense(8), RELU, Residual(Sequential((Dense(8),)))), (8,))
    growth = predict_growth(net)
    assert growth.band_method == ("exact", "exact", "exact", "first-order", "unsupported")
    assert growth.log_second_moment[-1] == pytest.approx(math.log(3))


RNG = np.random.default_rng(6)
IMAGES = RNG.standard_normal((3, 2, 6, 6))
PIXEL = np.zeros((2, 2, 6, 6))
PIXEL[:, 0, 2, 2] = [1.0, 2.0]
BLACK = IMAGES.copy()
BLACK[1] *= 1e-12
GELU, NORM = activation("gelu"), BatchNorm()
SHRINK, GROW = (initialization("he_normal", gain=gain) for gain in (1e-90, 1e90))
HOSTILE = {  # layers of images, and the images
    "one channel": ((Conv(1), RELU) * 5, None),
    "channels of their own": ((Conv(8), RELU, Conv(8, groups=8), RELU), IMAGES),
    "stride 3, dilation 2": ((Conv(8, stride=3), RELU, Conv(8, dilation=2), TANH), IMAGES),
    "kernel larger than the map": ((Conv(8, 13), RELU) * 3, IMAGES),
    "one image": ((Conv(8), NORM, RELU) * 3, IMAGES[:1]),
    "equal images": ((Conv(8), NORM, RELU, Pool(), Flatten(), Dense(4)), np.repeat(IMAGES[:1], 3, axis=0)),
    "one image nearly black": ((Conv(8), RELU, Conv(8), LayerNorm(), GELU), BLACK),
    "one pixel": ((Conv(8, 1), RELU, Conv(8), TANH, Pool("max", 2)), PIXEL),
    "a block of one pixel": ((Conv(2), RELU, Residual((Conv(2), RELU, Conv(2))), RELU), PIXEL),
    "gamma 0": ((Conv(8), BatchNorm(gamma=0), RELU, Conv(8), RELU), IMAGES),
    "a branch of gamma 0": ((Conv(8), RELU, Residual((Conv(8), BatchNorm(gamma=0))), RELU), IMAGES),
    "epsilon 0": ((Conv(8), BatchNorm(0.0), RELU, Conv(8), GroupNorm(4, 0.0), TANH, LayerNorm(0.0)), IMAGES),
    "dropout 0.99": ((Conv(50), Dropout(0.99), RELU, Conv(50), Dropout(0.99), TANH, Conv(50), NORM), IMAGES),
    "a block of dropout": ((Conv(8), Residual((Dropout(0.5),)), RELU), IMAGES),
    "blocks in a block": ((Conv(8), Residual((Conv(8), Residual((Conv(8), RELU, Conv(8))), RELU)), RELU), None),
    "a block without weights": ((Residual((RELU,)), Conv(8), RELU), IMAGES),
    "vanishing gelu": ((Conv(8, init=SHRINK), GELU) * 5, IMAGES),
    "vanishing blocks": ((Conv(8, init=SHRINK), GELU, Residual((Conv(8, init=SHRINK), GELU)), GELU), IMAGES),
    "exploding gelu": ((Conv(8, init=GROW), GELU) * 5, IMAGES),
    "exploding selu": ((Conv(8, init=TEN), activation("selu")) * 20, IMAGES),
    "small maxima": ((Conv(8, init=SHRINK), RELU, Pool("max", 3, 1), Conv(8, init=SHRINK)), IMAGES),
}


@pytest.mark.parametrize(("layers", "inputs"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_networks_of_images(layers, inputs):
    """No warning, and no NaN in a row that has a rule; logarithms of zeros may be −∞."""
    growth = predict_growth(Sequential(layers, (2, 6, 6)), inputs)
    for column, methods in (
        (growth.log_second_moment, growth.moment_method),
        (growth.log_channel_variance, growth.channel_method),
        (growth.log_channel_mean_square, growth.channel_method),
        (growth.log_growth_std, growth.band_method),
    ):
        known = np.array(methods) != "unsupported"
        assert not np.isnan(column[known]).any() and np.all(column[known] < math.inf)
    json.dumps(growth.to_dict(), allow_nan=False)
    assert "nan" not in growth.table().lower().split()


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_images_of_any_scale(scale):
    for net in (cnn(3, 8, image=(2, 6, 6)), resnet(8, image=(2, 6, 6))):
        plain, scaled = predict_growth(net, IMAGES), predict_growth(net, IMAGES * scale)
        np.testing.assert_allclose(
            scaled.log_second_moment, plain.log_second_moment + 2 * math.log(scale), rtol=1e-6, atol=1e-3
        )
        np.testing.assert_allclose(scaled.log_growth_std, plain.log_growth_std, rtol=0.02, atol=1e-4)


def test_a_deep_network_of_small_images():
    growth = predict_growth(cnn(300, 8, image=(1, 4, 4)))
    rate = 2 * math.log((1 + 2 * math.cos(math.pi / 5)) / 3)  # what zero padding leaves of 4×4
    assert growth.log_second_moment[-1] == pytest.approx(300 * rate, rel=0.01)
    assert np.isfinite(growth.log_growth_std).all()


def test_positions_beyond_those_carried():
    net = cnn(3, 8, image=(2, 50, 100))
    with pytest.raises(ValueError, match=r"distances between 5000 positions .* covariances=False"):
        predict_growth(net)
    growth = predict_growth(net, covariances=False)
    assert growth.unsupported is None and set(growth.channel_method) == {"unsupported"}
    assert np.isnan(growth.log_channel_variance).all() and np.isfinite(growth.log_second_moment).all()


def test_a_thousand_vectors():
    inputs = RNG.standard_normal((1000, 30))
    many, few = (predict_growth(mlp(2, 30, "tanh"), inputs[:count]) for count in (1000, 200))
    np.testing.assert_allclose(many.log_channel_variance, few.log_channel_variance, atol=0.1)


def test_errors_name_the_row_in_one_line():
    for layers, inputs, match in (
        ((Conv(8), BatchNorm(0.0, gamma=0), Conv(8), BatchNorm(0.0)), IMAGES, "^row 3: BatchNorm with epsilon=0"),
        ((Conv(8), BatchNorm(0.0, gamma=0), GroupNorm(2, 0.0)), IMAGES, "^row 2: GroupNorm with epsilon=0"),
        ((Pool(), Flatten(), Dense(3), BatchNorm()), IMAGES[:1], "^row 3: BatchNorm needs a batch of at least 2"),
    ):
        with pytest.raises(ValueError, match=match) as error:
            predict_growth(Sequential(layers, (2, 6, 6)), inputs)
        assert "\n" not in str(error.value)
