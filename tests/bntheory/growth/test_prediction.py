"""What `predict_growth` says of a network: required numbers, laws at any width, words, tables, JSON, extremes."""

import json
import math

import numpy as np
import pytest
from scipy import special

from bntheory import activation, initialization, leaves, mlp, predict_growth, resnet
from bntheory.activations import KNOWN
from bntheory.layers import BatchNorm, Dense
from bntheory.networks import Residual, Sequential

RELU, LINEAR = activation("relu"), activation("linear")


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


def test_no_band_without_a_rule():
    for net in (mlp(2, 8, "tanh"), mlp(2, 8, batch_norm=True), mlp(2, 8, residual=True), mlp(2, 8, init="orthogonal")):
        growth = predict_growth(net)
        first = growth.band_method.index("unsupported")
        assert all(method == "unsupported" for method in growth.band_method[first:])
        for values in (growth.log_growth_mean, growth.log_growth_std, growth.p_dead, *growth.band(0.9)):
            assert np.isfinite(values[:first]).all() and np.isnan(values[first:]).all()


@pytest.mark.parametrize("net", [mlp(3, 4), mlp(2, 4, batch_norm=True, residual=True, output_width=2), resnet(20)])
def test_rows_are_the_leaves(net):
    growth = predict_growth(net, batch_size=32)
    rows = tuple(leaves(net))
    assert growth.rows == rows
    assert growth.name == tuple(row.name for row in rows)
    assert growth.operation == tuple(row.operation for row in rows)
    assert growth.shape == tuple(row.shape for row in rows)
    for values in (growth.log_second_moment, growth.p_dead, growth.moment_method, growth.band(0.5)[0]):
        assert len(values) == len(rows)


def test_an_unsupported_layer_is_named():
    growth = predict_growth(resnet(20))
    assert growth.unsupported.operation == "Conv(16, 3×3, xavier_normal)"
    assert growth.verdict() == ("No rule for Conv(16, 3×3, xavier_normal) (row 0): nothing is predicted from there on.")
    assert np.isnan(growth.log_second_moment[1:]).all()
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
    "unsupported": resnet(8),
}


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_words_tables_and_json_are_sane(net):
    growth = predict_growth(net, batch_size=16)
    data = json.loads(json.dumps(growth.to_dict(), allow_nan=False))
    assert all(len(column) == len(growth.rows) for column in data.values())
    table, verdict = growth.table(), growth.verdict()
    for text in (table, verdict):
        words = text.replace("∞", "inf").split()
        assert not {"nan", "-nan", "-0", "-0.0", "inf", "-inf"} & set(words)
        assert all(line == line.rstrip() for line in text.splitlines())
    cells = [cell for line in table.splitlines()[1:] for cell in line.split() if cell[:1].isdigit() and "e-" in cell]
    assert all(float(cell) < 1e-20 for cell in cells)  # probabilities of dying, not rounding errors of logarithms
    assert "1.2e+0" not in verdict and "1 layers" not in verdict
    assert len(growth.table(most=4).splitlines()) <= 6
    assert growth.second_moment.shape == (len(growth.rows),)


def test_verdicts():
    assert predict_growth(NETWORKS["nothing"]).verdict() == "The second moment keeps its size over 0 layers (exact)."
    assert (
        predict_growth(NETWORKS["one layer"])
        .verdict()
        .startswith("The second moment grows by a factor 2 over 1 layer (exact).")
    )
    assert "Over 99% of the draws are dead" in predict_growth(NETWORKS["width 1"]).verdict()
    assert "50% of the draws are dead" in predict_growth(mlp(1, 1)).verdict()
    assert "A typical draw is as large" in predict_growth(NETWORKS["a million wide"]).verdict()
    assert "range of float32 at row 40." in predict_growth(NETWORKS["grows"]).verdict()
    shrinks = predict_growth(NETWORKS["shrinks"]).verdict()
    # 400 ln(1e-8 / 2 · 2) = −7368 …: (1e-4)²/2 a layer
    assert f"shrinks by a factor {10 ** (400 * math.log10(2e8) % 1):.1f}e+3320 over 400 layers (5.0e-09" in shrinks


def test_second_moment_overflows_quietly():
    growth = predict_growth(NETWORKS["grows"])
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
@pytest.mark.parametrize("name", KNOWN)
def test_gain_ten(name, options):
    """No overflow and no warning over 150 layers; the whole 10,000 for the networks below."""
    growth = predict_growth(mlp(150, 64, name, TEN, **options), batch_size=32)
    check_extreme(growth, odd=name in ("linear", "tanh", "erf"))


@pytest.mark.parametrize(
    ("name", "options"), [("linear", {}), ("tanh", {}), ("tanh", {"bias": 0.1}), ("selu", {"batch_norm": True})]
)
def test_gain_ten_at_depth_ten_thousand(name, options):
    growth = predict_growth(mlp(10_000, 64, name, TEN, **options), batch_size=32)
    check_extreme(growth, odd=name in ("linear", "tanh", "erf"))
    if name == "linear":
        assert growth.log_second_moment[-1] == pytest.approx(10_000 * math.log(100), rel=1e-13)


@pytest.mark.parametrize(("depth", "bias"), [(10_000, None), (1000, 0.1)])
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
    assert growth.moment_method[5] == "unsupported"


def test_a_block_ends_the_law():
    net = Sequential((Dense(8), RELU, Residual(Sequential((Dense(8),)))), (8,))
    growth = predict_growth(net)
    assert growth.band_method == ("exact", "exact", "exact", "unsupported", "unsupported")
    assert growth.log_second_moment[-1] == pytest.approx(math.log(3))
