"""Pullbacks against central differences, the adjoint identity, and closed forms; dropout against its law."""

import math

import numpy as np
import pytest

from bntheory import activation
from bntheory.activations import KNOWN
from bntheory.layers import (
    Affine,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    LayerNorm,
    Pad,
    Pool,
    Unknown,
    ZeroPad,
)
from bntheory.networks import Join, Residual
from bntheory.positional import ConvTranspose, Mix, Offset
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample
from simulations import pullbacks, weights
from simulations.pullbacks import RULES
from simulations.signal import Signal, added
from simulations.statistics import mean_with_error, tolerance

VECTORS, IMAGES = (5, 6), (4, 2, 6, 5)


def through(layer, h):
    """A layer by itself, with the same draws whenever it is called."""
    if isinstance(layer, (Dense, Conv)):
        output, pullback = weights.linear(layer, h, np.random.default_rng(1))
        return output, lambda gradient: pullback(gradient)[0]
    if isinstance(layer, Dropout):
        return pullbacks.dropout(layer, h, np.random.default_rng(1))
    return RULES[type(layer)](layer, h)


def signal(shape, seed, log_scale=0.0):
    return Signal(np.random.default_rng(seed).standard_normal(shape), log_scale)


def log_product(one, other):
    """Sign and logarithm of Σ one · other."""
    product = float(np.sum(one.values * other.values))
    return math.copysign(1, product), (
        math.log(abs(product)) if product else -math.inf
    ) + one.log_scale + other.log_scale


def negative(h):
    return h._replace(values=-h.values)


def difference(layer, h, direction, step):
    """(f(h + step · direction) − f(h − step · direction)) / (2 step), the direction in units of h's scale."""
    ahead, behind = (
        through(layer, h._replace(values=h.values + sign * step * direction.values))[0] for sign in (1, -1)
    )
    change = added(ahead, negative(behind))
    return change._replace(values=change.values / (2 * step))


HOMOGENEOUS = [activation(name) for name in ("linear", "relu", "leaky_relu(0.2)")]
LINEAR_ON_IMAGES = [
    Flatten(),
    ZeroPad(5),
    ZeroPad(2, 3),
    ZeroPad(7, 2),
    Pool("average"),
    Pool("average", 2),
    Pool("average", 3, 1),
    Pool("average", 2, 3),
    Dropout(0.4),
    Affine((-2.0, 0.3)),
    Pool("average", (3, 1), (1, 2)),
    Pool("average", (3, 2), 2, 1),
    Pad((1, 0, 2, 3)),
    Unroll(),
    Channels(1, 2),
    Upsample((2, 3)),
]
ON_IMAGES = [*LINEAR_ON_IMAGES, BatchNorm(), BatchNorm(0.0), LayerNorm(), LayerNorm(0.0), GroupNorm(2), GroupNorm(1, 0)]
ON_IMAGES += [
    BatchNorm(gamma=0.1),
    BatchNorm(0.5, 30.0),
    BatchNorm(0.5, 3.0, training=False),
]
ON_IMAGES += [
    Pool("max"),
    Pool("max", 2),
    Pool("max", 3, 1),
    Pool("max", 2, 3),
    Conv(4, 3, 2),
    Pool("max", (1, 3), (3, 1)),
    Pool("max", 3, 2, 1),
]
ON_VECTORS = [BatchNorm(), BatchNorm(0.0), LayerNorm(), LayerNorm(0.0), Dropout(0.4), Dense(3), Dense(3, "orthogonal")]
ON_VECTORS += [BatchNorm(0.5, 3.0), BatchNorm(0.5, 3.0, training=False), GroupNorm(2), GroupNorm(2, 0.5), GroupNorm(1)]
ON_VECTORS += [Unflatten((3, 2, 1)), Unflatten((6, 1, 1)), Channels(2, 5)]
ON_VECTORS += [Affine(-0.3), Affine((1.0, -2.0, 0.5, 3.0, 0.0, 1.0))]
AT_ANY_SCALE = [(layer, VECTORS) for layer in HOMOGENEOUS + ON_VECTORS] + [(layer, IMAGES) for layer in ON_IMAGES]
AT_ANY_SCALE += [(LayerNorm(epsilon, "channels"), (3, 5, 2, 2)) for epsilon in (1e-5, 0.2, 0.0)]


def name(value):
    return str(value).replace(" ", "") if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("log_scale", [-300.0, 0.0, 300.0])
@pytest.mark.parametrize(("layer", "shape"), AT_ANY_SCALE, ids=name)
def test_central_differences(layer, shape, log_scale):
    """⟨g, J v⟩ by differences = ⟨Jᵀ g, v⟩, at e^±300 too."""
    agrees_with_differences(layer, signal(shape, 0, log_scale))


@pytest.mark.parametrize("scale", [0.0, 2.0])
@pytest.mark.parametrize("phi", [activation(word) for word in KNOWN], ids=str)
def test_central_differences_of_activations(phi, scale):
    agrees_with_differences(phi, signal(IMAGES, 0, scale))


def agrees_with_differences(layer, h):
    output, pullback = through(layer, h)
    gradient, direction = signal(output.values.shape, 1, 20.0), signal(h.values.shape, 2)
    sign, found = log_product(pullback(gradient), direction)
    expected_sign, expected = log_product(gradient, difference(layer, h, direction, 1e-5))
    assert sign == expected_sign
    assert found + h.log_scale == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("log_scale", [-30.0, 0.0, 30.0])
def test_a_shift_is_added_at_any_scale_and_has_no_gradient(log_scale):
    gamma, beta = (1.0, -2.0), (0.5, 3.0)
    for h in (signal(IMAGES, 0, log_scale), signal((5, 2), 0, log_scale)):
        output, pullback = through(Affine(gamma, beta), h)
        plain, other = through(Affine(gamma), h)
        by_channel = np.reshape(beta, (2, *(1,) * (h.values.ndim - 2)))
        expected = plain.values * math.exp(plain.log_scale) + by_channel
        np.testing.assert_allclose(output.values * math.exp(output.log_scale), expected, rtol=1e-13)
        np.testing.assert_array_equal(pullback(h).values, other(h).values)
    zeros, pullback = through(Affine(0.0, 1.0), signal(VECTORS, 0, log_scale))
    assert np.all(zeros.values == 1) and zeros.log_scale == 0 and not pullback(zeros).values.any()


CONVOLUTIONS = [
    Conv(4, kernel, stride, padding, dilation, groups)
    for kernel in (1, 2, 3)
    for stride in (1, 2, 3)
    for padding in (0, 1, 3)
    for dilation in (1, 2)
    for groups in (1, 2)
] + [Conv(4, (3, 1), (1, 2), (0, 2), (2, 1)), Conv(2, (2, 4), (3, 1)), Conv(2, 3, (2, 3), (2, 0), groups=2)]


@pytest.mark.parametrize("layer", LINEAR_ON_IMAGES + CONVOLUTIONS, ids=name)
def test_the_adjoint_of_a_linear_layer(layer):
    """⟨J u, v⟩ = ⟨u, Jᵀ v⟩ to rounding."""
    u = signal(IMAGES, 0, -7.0)
    output, pullback = through(layer, u)
    v = signal(output.values.shape, 1, 9.0)
    sign, found = log_product(u, pullback(v))
    expected_sign, expected = log_product(output, v)
    assert sign == expected_sign
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("layer", [Conv(4, 3, 2, groups=2), Conv(4, 2, padding=2, dilation=2), Dense(3)], ids=name)
def test_weight_gradients_by_their_definition(layer):
    """z is linear in W: ∂ℓ/∂W from one unit weight at a time."""
    h = signal(VECTORS if isinstance(layer, Dense) else IMAGES, 0, 2.0)
    output, pullback = weights.linear(layer, h, np.random.default_rng(0))
    gradient = signal(output.values.shape, 1, -3.0)
    inputs = 6 if isinstance(layer, Dense) else h.values.shape[1] // layer.groups * layer.kernel**2
    product = weights._product if isinstance(layer, Dense) else weights.convolved
    total = 0.0
    for k in range(inputs * output.values.shape[1]):
        unit = np.zeros(inputs * output.values.shape[1])
        unit[k] = 1
        z = product(layer, h, unit.reshape(inputs, -1))[0]
        total += math.exp(2 * log_product(z, gradient)[1])
    assert pullback(gradient)[1] == pytest.approx(math.log(total), abs=1e-12)


@pytest.mark.parametrize(("layer", "shape"), [*AT_ANY_SCALE, (activation("gelu"), IMAGES)], ids=name)
def test_single_precision_stays(layer, shape):
    """float32 in, float32 out, there and back; the same numbers to its precision; what came in is left as it was."""
    h, results = signal(shape, 0, 0.5), []
    for dtype in (np.float64, np.float32):
        given = h._replace(values=h.values.astype(dtype))
        output, pullback = through(layer, given)
        gradient = Signal(np.random.default_rng(1).standard_normal(output.values.shape).astype(dtype), 0.0)
        back = pullback(gradient)
        assert output.values.dtype == back.values.dtype == dtype
        np.testing.assert_array_equal(given.values, h.values.astype(dtype))
        results.append([part.values * math.exp(part.log_scale) for part in (output, back)])
    for single, double in zip(*results, strict=True):
        np.testing.assert_allclose(single, double, atol=2e-5)


def test_slopes_far_out():
    """e^±300 is past every bend: gelu′ is 0, 1/2 or 1 there, tanh′ 0 or 1, and relu's slope at 0 the left one."""
    values, ones = np.array([[-1.0, 0.0, 0.5]]), Signal(np.ones((1, 3)), 7.0)
    expected = {
        ("gelu", 300.0): [0, 0.5, 1],
        ("gelu", -300.0): [0.5, 0.5, 0.5],
        ("tanh", 300.0): [0, 1, 0],
        ("tanh", -300.0): [1, 1, 1],
        ("relu", 300.0): [0, 0, 1],
        ("leaky_relu(0.5)", -300.0): [0.5, 0.5, 1],
    }
    for (phi, log_scale), slopes in expected.items():
        _, pullback = pullbacks.activation(activation(phi), Signal(values, log_scale))
        back = pullback(ones)
        np.testing.assert_allclose(back.values * math.exp(back.log_scale - 7), [slopes], rtol=1e-12, atol=1e-12)


def test_residual_sums():
    layer = Residual((), scale=0.25)
    one, other, g = (signal(VECTORS, seed, seed * 1.0) for seed in range(3))
    output, pullback = pullbacks.residual(layer, one, other)
    expected = 0.25 * one.values + other.values * math.e
    plain = [part.values * math.exp(part.log_scale) for part in (output, *pullback(g))]
    for found, wanted in zip(plain, (expected, 0.25 * g.values * math.exp(2), g.values * math.exp(2)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_constants_are_the_same_for_all_inputs():
    h = signal(IMAGES, 0, -1.0)
    output, pullback = pullbacks.offset(Offset(4.0), h, np.random.default_rng(1))
    constants = output.values * math.exp(output.log_scale) - h.values * math.exp(-1)
    np.testing.assert_allclose(constants, np.broadcast_to(constants[:1], IMAGES), atol=1e-14)
    np.testing.assert_allclose(constants[0], 2 * np.random.default_rng(1).standard_normal(IMAGES[1:]), atol=1e-14)
    assert pullback(h) is h


def test_ties_go_to_the_first_of_the_window():
    """A constant map, overlapping windows: every window gives its gradient to its upper left corner."""
    _, pullback = pullbacks.pool(Pool("max", 2, 1), Signal(np.ones((1, 1, 3, 3)), 0.0))
    back = pullback(Signal(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), 0.0))
    np.testing.assert_allclose(back.values * math.exp(back.log_scale), [[[[1, 2, 0], [3, 4, 0], [0, 0, 0]]]])


def test_one_maximum_of_several_windows_collects_them():
    values = np.zeros((1, 1, 3, 3))
    values[0, 0, 1, 1] = 1
    _, pullback = pullbacks.pool(Pool("max", 2, 1), Signal(values, 0.0))
    back = pullback(Signal(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), 0.0))
    np.testing.assert_allclose(back.values * math.exp(back.log_scale), 10 * values)


@pytest.mark.parametrize(
    "shapes", [(VECTORS, VECTORS), (IMAGES, IMAGES), (IMAGES, (4, 2, 1, 1)), ((4, 2, 1, 1), IMAGES)]
)
def test_a_product_by_central_differences_in_each_factor(shapes):
    """Scales e^±200 apart."""
    factors = [
        signal(shape, seed, scale) for seed, (shape, scale) in enumerate(zip(shapes, (200.0, -200.0), strict=True))
    ]
    layer = Join(((), ()), "product")
    output, pullback = pullbacks.join(layer, *factors)
    gradient = signal(output.values.shape, 3, 5.0)
    for place, back in enumerate(pullback(gradient)):
        direction = signal(shapes[place], 4)
        changed = [[h, h._replace(values=h.values)] for h in factors]
        for way, sign in enumerate((1, -1)):
            h = factors[place]
            changed[place][way] = h._replace(values=h.values + sign * 1e-5 * direction.values)
        ahead, behind = (pullbacks.join(layer, changed[0][way], changed[1][way])[0] for way in (0, 1))
        change = added(ahead, negative(behind))
        sign, found = log_product(back, direction)
        expected_sign, expected = log_product(gradient, change)
        assert sign == expected_sign
        assert found + factors[place].log_scale - math.log(1 / 2e-5) == pytest.approx(expected, abs=1e-6)


def test_a_concatenation_stacks_channels_at_one_scale_and_its_gradient_is_cut():
    parts = [signal((4, channels, 3, 2), channels, scale) for channels, scale in ((2, 300.0), (1, 298.0), (3, -300.0))]
    dead = Signal(np.zeros((4, 1, 3, 2)), 1e6)  # the scale of zeros says nothing
    output, pullback = pullbacks.join(Join(((),) * 4), *parts, dead)
    stacked = [part.values * math.exp(part.log_scale - 300) for part in parts] + [dead.values]
    np.testing.assert_allclose(output.values * math.exp(output.log_scale - 300), np.concatenate(stacked, 1), rtol=1e-12)
    gradient = signal(output.values.shape, 0, 7.0)
    backs = [back.values * math.exp(back.log_scale - 7) for back in pullback(gradient)]
    np.testing.assert_allclose(np.concatenate(backs, axis=1), gradient.values, rtol=1e-14)
    assert [back.shape[1] for back in backs] == [2, 1, 3, 1]


@pytest.mark.parametrize("log_scale", [-300.0, -5.0, 0.0, 3.0, 300.0])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 0.5])
@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [(BatchNorm, VECTORS, (0,)), (BatchNorm, IMAGES, (0, 2, 3)), (LayerNorm, VECTORS, (1,))],
)
def test_the_norm_of_a_gradient_through_a_normalization(layer, shape, axes, epsilon, log_scale):
    """‖∂ℓ/∂h‖² = (‖g‖² − ⟨1, g⟩²/m − (2 − τ) ⟨g, y⟩²/m) / (s² + ε) over each group of m, τ = s²/(s² + ε).

    Because Jᵀ g = (g − mean g − y ⟨g, y⟩/m)/√(s² + ε) with ⟨1, y⟩ = 0 and ‖y‖² = m τ; y is the output.

    References
    ----------
    Santurkar, Tsipras, Ilyas, Mądry 2018, theorem 4.1, for ε = 0.
    """
    h, g = signal(shape, 0, log_scale), signal(shape, 1)
    output, pullback = RULES[layer](layer(epsilon), h)
    y = output.values * math.exp(output.log_scale)
    log_variance = np.log(h.values.var(axis=axes)) + 2 * h.log_scale
    log_total = np.logaddexp(log_variance, math.log(epsilon) if epsilon else -math.inf)
    size = math.prod(shape[axis] for axis in axes)
    values = g.values * math.exp(g.log_scale)
    norms = np.sum(values**2, axis=axes) - np.sum(values, axis=axes) ** 2 / size
    norms -= (2 - np.exp(log_variance - log_total)) * np.sum(values * y, axis=axes) ** 2 / size
    expected = np.logaddexp.reduce(np.log(norms) - log_total)
    assert pullback(g).log_square_norm() == pytest.approx(expected, abs=1e-11)


def test_group_norm_is_its_formula():
    """Group by group and input by input; one group is a LayerNorm."""
    h = np.random.default_rng(0).standard_normal((3, 6, 2, 5)) + 1
    found = pullbacks.normalization(GroupNorm(3, 0.5), Signal(h, 0.0))[0]
    for of_input, normal in zip(h, found.values * math.exp(found.log_scale), strict=True):
        for k in (0, 2, 4):
            group = of_input[k : k + 2]
            np.testing.assert_allclose(
                normal[k : k + 2], (group - group.mean()) / np.sqrt(group.var() + 0.5), atol=1e-13
            )
    one, other = (pullbacks.normalization(layer, Signal(h, 0.0))[0] for layer in (GroupNorm(1), LayerNorm()))
    np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.parametrize("shape", [VECTORS, IMAGES], ids=name)
def test_gamma_and_evaluation_mode_are_their_formulas(shape):
    h = signal(shape, 0, 1.5)
    values = h.values * math.exp(1.5)
    plain = pullbacks.normalization(BatchNorm(0.5), h)[0]
    for layer, expected in (
        (BatchNorm(0.5, 3.0), 3 * plain.values * math.exp(plain.log_scale)),
        (BatchNorm(0.5, 3.0, training=False), 3 * values / math.sqrt(1.5)),
        (BatchNorm(training=False), values / math.sqrt(1 + 1e-5)),
    ):
        found = pullbacks.normalization(layer, h)[0]
        np.testing.assert_allclose(found.values * math.exp(found.log_scale), expected, rtol=1e-13)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("log_scale", [-300.0, 0.0, 300.0])
def test_gamma_zero_is_zero_there_and_back(training, log_scale):
    output, pullback = pullbacks.normalization(BatchNorm(gamma=0, training=training), signal(IMAGES, 0, log_scale))
    back = pullback(signal(IMAGES, 1, 900.0))
    assert output.log_square_norm() == back.log_square_norm() == -math.inf
    assert not output.values.any() and not back.values.any() and output.log_scale == back.log_scale == 0


def test_a_constant_unit_passes_the_centred_gradient_over_the_root_of_epsilon():
    """Also beside a unit of size e^1000, whose own gradient is e^−1000 of it; and beside nothing else."""
    h = Signal(np.array([[1.0, 0.1], [-1.0, 0.1], [0.5, 0.1]]), 1000.0)
    g = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]])
    back = pullbacks.normalization(BatchNorm(1e-4), h)[1](Signal(g, 0.0))
    centred = g[:, 1] - g[:, 1].mean()
    np.testing.assert_allclose(back.values[:, 1] * math.exp(back.log_scale), 100 * centred, rtol=1e-12)
    g[:, 1] = 0.5  # its centred gradient is exactly 0: what is left is the other unit's
    back = pullbacks.normalization(BatchNorm(1e-4), h)[1](Signal(g, 0.0))
    assert back.log_scale == pytest.approx(-1000, abs=3)


def test_a_normalization_without_epsilon_of_a_constant_unit():
    h, g = Signal(np.array([[1.0, 0.1], [-1.0, 0.1]]), 0.0), Signal(np.ones((2, 2)), 0.0)
    output, pullback = pullbacks.normalization(BatchNorm(0.0), h)
    assert output.log_square_norm() == pullback(g).log_square_norm() == math.inf


# --- dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_there_and_back(rate):
    """E m h = h and E m g = g, entry by entry, with E (m h)² = h²/(1 − rate); false alarms 1e-5 a rate."""
    h, g = signal((1, 4), 0, 3.0), signal((1, 4), 1, -2.0)
    rng, draws = np.random.default_rng(0), []
    for _ in range(4000):
        output, pullback = pullbacks.dropout(Dropout(rate), h, rng)
        back = pullback(g)
        ratios = [
            part.values[0] * math.exp(part.log_scale - given.log_scale) / given.values[0]
            for part, given in ((output, h), (back, g))
        ]
        np.testing.assert_allclose(*ratios, atol=1e-12)  # one mask
        draws.append(np.concatenate([ratios[0], ratios[0] ** 2 * (1 - rate)]))
    mean, error = mean_with_error(draws)
    assert np.all(np.abs(mean - 1) <= tolerance(error, 1e-5, 8) + 1e-12)
    if rate:
        np.testing.assert_allclose(np.unique(np.round(draws, 9)[:, :4]), [0, round(1 / (1 - rate), 9)])


def test_rules_are_there_for_every_layer():
    from bntheory.networks import LAYERS, Sequential

    others = {Conv, ConvTranspose, Dense, Dropout, Mix, Offset, Sequential, Unknown}  # drawn, walked, or refused
    assert set(LAYERS.values()) - others <= set(RULES)
