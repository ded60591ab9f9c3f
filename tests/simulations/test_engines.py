"""The engines sample one law: forward, backward and jointly, at small widths, where nothing is nearly Gaussian.

Two-sample Kolmogorov–Smirnov tests of every row and quantity, and of random combinations of all of them (a joint law is
known by its projections: Cramér, Wold 1936). Bonferroni over all comparisons of this file: a correct program fails it
with probability 1e-4. Seeds are fixed, and differ between the engines; inputs are the same.
"""

import functools
import math

import numpy as np
import pytest

from bntheory import activation, initialization, mlp
from bntheory.activations import Activation
from bntheory.layers import BatchNorm, Dense, Dropout, Flatten, GroupNorm, LayerNorm
from bntheory.networks import Residual, Sequential
from simulations import conditional, radial, signal, streams, weights
from simulations.samples import COLUMNS
from simulations.statistics import two_sample_distance, two_sample_tolerance
from simulations.steps import steps

RELU, TANH = activation("relu"), activation("tanh")
SOFTSIGN = Activation.from_function("rational", lambda x: x / (1 + abs(x)), lambda x: (1 + abs(x)) ** -2.0)
LEAKY = activation("leaky_relu(-0.5)")


def stack(*layers, width):
    return Sequential(tuple(layers), (width,))


def block(*branch, shortcut=(), scale=1.0):
    return Residual(Sequential(branch), Sequential(shortcut), scale)


NETWORKS = {
    "ReLU, width 3": (mlp(3, 3), 2),
    "widths 4, 1, 7, 2, linear, biases": (
        stack(*(layer for n in (4, 1, 7, 2) for layer in (Dense(n, bias=0.5), activation("linear"))), width=3),
        3,
    ),
    "ReLU and bias, B = 6 > n = 4": (mlp(3, 4, bias=0.2), 6),
    "tanh, one input": (mlp(3, 4, "tanh", initialization("lecun_normal", gain=2)), 1),
    "gelu and bias": (mlp(3, 5, "gelu", bias=0.1), 2),
    "an activation of one's own": (mlp(2, 4, SOFTSIGN), 2),
    "a negative slope": (mlp(3, 4, LEAKY), 3),
    "an activation first, and two in a row": (stack(TANH, Dense(4), RELU, TANH, Dense(3), width=5), 2),
    "BN, ReLU": (mlp(3, 6, batch_norm=True), 5),
    "BN with a large ε, tanh, bias, B = 7 > n": (
        stack(Dense(3, bias=1.0), BatchNorm(0.5), TANH, Dense(3), BatchNorm(0.0), width=3),
        7,
    ),
    "LayerNorm": (stack(Dense(5), LayerNorm(), RELU, Dense(4), LayerNorm(0.3), TANH, width=3), 3),
    "GroupNorm": (stack(Dense(6), GroupNorm(3), RELU, Dense(4), GroupNorm(1, 0.3), GroupNorm(2, 1.0), width=3), 3),
    "BN with γ": (stack(Dense(4), BatchNorm(0.1, 5.0), TANH, Dense(3), BatchNorm(gamma=0.2), Dense(3), width=3), 5),
    "BN evaluated, one input": (
        stack(Dense(4), BatchNorm(1.0, 3.0, False), TANH, Dense(3), BatchNorm(training=False), RELU, width=3),
        1,
    ),
    "blocks that start from γ = 0": (
        stack(
            Dense(4),
            block(Dense(4), BatchNorm(), RELU, Dense(4), BatchNorm(gamma=0)),
            RELU,
            block(Dense(4), BatchNorm(gamma=0, training=False), RELU, Dense(4, bias=0.1)),
            width=3,
        ),
        4,
    ),
    "an image": (Sequential((Flatten(), Dense(4), LayerNorm(), RELU), (2, 1, 3)), 2),
    "Dropout": (stack(Dropout(0.2), Dense(6), RELU, Dropout(0.5), Dense(4, bias=0.1), width=5), 3),
    "pre-activation blocks": (mlp(3, 5, residual=True, bias=0.1, input_width=4), 2),
    "pre-activation blocks with BN": (mlp(3, 4, batch_norm=True, residual=True, input_width=3), 5),
    "version-1 block with projection and BN": (
        stack(
            Dense(4),
            BatchNorm(),
            RELU,
            block(Dense(6), BatchNorm(), RELU, Dense(6), BatchNorm(), shortcut=(Dense(6), BatchNorm())),
            RELU,
            Dense(2),
            width=4,
        ),
        4,
    ),
    "scaled, nested and empty branches": (
        stack(
            Dense(4),
            block(RELU, Dense(4), block(TANH, Dense(4), scale=0.3), scale=0.7),
            block(scale=2.0),
            RELU,
            width=3,
        ),
        2,
    ),
}  # fmt: skip
TRIALS, PROJECTIONS, FALSE_ALARM = 600, 40, 1e-4
COMPARISONS = 4000  # more than are made in this file: rows · quantities + projections, over all pairs of engines


@functools.cache
def allowed(count, other):
    return two_sample_tolerance(count, other, FALSE_ALARM / COMPARISONS)


def inputs_of(net, batch):
    return np.random.default_rng(1).standard_normal((batch, *net.input_shape)) + 0.5


def draw(engine, net, inputs, seed, trials=TRIALS, **options):
    """Sampled quantities, (trials, rows · quantities)."""
    trial = engine.prepare(steps(net), signal.scaled(inputs), True, **options)
    return np.array([trial(streams.stream(seed, k)) for k in range(trials)]).reshape(trials, -1)


def columns_that_vary(one, other, zero):
    """Columns with a law to compare. A constant must be the same for both.

    Zeros (−∞) and what rounding leaves of them count as one smallest value, a cosine without a pair as one largest.
    """
    pair = [np.maximum(values, zero).round(5) for values in (one, other)]  # rounding of equal values is no law
    assert np.array_equal(*(np.isnan(values).all(axis=0) for values in pair))
    known = ~np.isnan(pair[0]).all(axis=0)
    pair = [np.where(np.isnan(values), 100.0, values)[:, known] for values in pair]
    constant = np.all([np.ptp(values, axis=0) < 1e-5 for values in pair], axis=0)
    np.testing.assert_allclose(*(values[:, constant].mean(axis=0) for values in pair), atol=1e-5)
    return [values[:, ~constant] for values in pair]


def projections(pair):
    """Random combinations of a few standardised columns: symmetric in the two samples, so that the test stays exact."""
    pooled = np.concatenate(pair)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((pooled.shape[1], PROJECTIONS))
    directions *= rng.random(directions.shape) < 4 / pooled.shape[1] + 0.1
    return [(values - pooled.mean(axis=0)) / pooled.std(axis=0) @ directions for values in pair]


def distances(one, other, zero=-60.0):
    pair = columns_that_vary(one, other, zero)
    columns = [column for values in (pair, projections(pair)) for column in zip(*(v.T for v in values), strict=True)]
    return [two_sample_distance(*column) for column in columns]


def test_enough_is_allowed_for():
    made = sum(len(COLUMNS) * (len(steps(net)) + 1) + PROJECTIONS for net, _ in NETWORKS.values())
    assert 2 * made < COMPARISONS  # the other half: radial, float32, near duplicates, and the engine written out below


@functools.cache
def with_weights(name):
    """The network of that name drawn with its weights."""
    net, batch = NETWORKS[name]
    return draw(weights, net, inputs_of(net, batch), 11)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_weights_as_with_them(name):
    net, batch = NETWORKS[name]
    found = distances(draw(conditional, net, inputs_of(net, batch), 10), with_weights(name))
    assert len(found) > PROJECTIONS + 2 * len(steps(net))
    assert max(found) <= allowed(TRIALS, TRIALS)


@pytest.mark.parametrize("net", [mlp(3, 3), mlp(2, 2, LEAKY, bias=0.3), mlp(3, 4, "linear")], ids=str)
def test_the_radial_law_is_the_conditional_one(net):
    inputs = inputs_of(net, 1)
    found = distances(draw(radial, net, inputs, 12, 2000), draw(conditional, net, inputs, 13, 2000))
    assert max(found) <= allowed(2000, 2000)


@pytest.mark.parametrize("relative", [0.0, 1e-8])
def test_inputs_that_coincide_or_nearly_do(relative):
    """Linear layers and a collapsed batch of three; distances of 1e-8 keep their law, zero stays at rounding."""
    base, other = np.random.default_rng(2).standard_normal((2, 5))
    net = stack(Dense(4), LEAKY, Dense(6), width=5)
    inputs = np.stack([base, base + relative * other, 3 * base])
    found = distances(draw(conditional, net, inputs, 14), draw(weights, net, inputs, 15))
    assert max(found) <= allowed(TRIALS, TRIALS)
    variance = COLUMNS.index("log_channel_variance")
    gaps = [
        draw(engine, net, inputs[:2], seed).reshape(TRIALS, -1, len(COLUMNS))[:, 1, variance]
        for engine, seed in ((conditional, 16), (weights, 17))
    ]
    if relative:
        assert two_sample_distance(*gaps) <= allowed(TRIALS, TRIALS)
        assert np.all(np.abs(gaps[0] - 2 * math.log(relative)) < 20)
    else:
        assert all(np.all(gap < -65) for gap in gaps)


@pytest.mark.parametrize("name", ["BN, ReLU", "GroupNorm", "BN with γ", "pre-activation blocks", "tanh, one input"])
def test_float32_has_the_same_law(name):
    net, batch = NETWORKS[name]
    found = distances(
        draw(conditional, net, inputs_of(net, batch), 18, dtype=np.float32), with_weights(name), zero=-25.0
    )
    assert max(found) <= allowed(TRIALS, TRIALS)


# --- the comparison can fail -----------------------------------------------------------------------------------------


MANY = 3000


def written_out(inputs, seed, remembers, spread):
    """Two linear Dense layers without weights, as written in NumPy; right if it remembers and spread = 1.

    remembers: whether the way back uses the Γ of the forward pass;  spread: factor on the standard deviation of ξ.
    """
    rng, results = np.random.default_rng(seed), []
    for _ in range(MANY):
        rows, kept = [inputs.T], []
        for width in (3, 2):
            q, r = np.linalg.qr(rows[-1], mode="complete")
            gamma = rng.standard_normal((width, min(rows[-1].shape)))
            kept.append((q, gamma, 1 / math.sqrt(len(q))))
            rows.append(kept[-1][2] * gamma @ r[: gamma.shape[1]])
        gradients = [rng.standard_normal(rows[-1].shape)]
        for q, gamma, s in reversed(kept):
            g = gradients[-1]
            used = gamma if remembers else rng.standard_normal(gamma.shape)
            rest = spread * rng.standard_normal((len(q) - gamma.shape[1], len(g))) @ g
            gradients.append(s * q @ np.concatenate([used.T @ g, rest]))
        sizes = [np.log(np.mean(row**2)) for row in rows]
        backs = [np.log(np.sum(g**2) / np.sum(gradients[0] ** 2)) for g in reversed(gradients)]
        results.append(np.stack([sizes, backs], axis=1))
    return np.array(results).reshape(MANY, -1)


@pytest.mark.parametrize(
    ("remembers", "spread", "right"),
    [(True, 1.0, True), (False, 1.0, False), (True, 1.3, False)],
    ids=["right", "a fresh Γ on the way back", "ξ too large"],
)
def test_the_comparison_finds_errors(remembers, spread, right):
    """The same comparison, with the conditional law written out in NumPy, right and wrong."""
    net = stack(Dense(3, "lecun_normal"), Dense(2, "lecun_normal"), width=4)
    inputs = inputs_of(net, 2)
    wanted = [COLUMNS.index("log_second_moment"), COLUMNS.index("log_gradient")]
    explicit = draw(weights, net, inputs, 21, MANY).reshape(MANY, -1, len(COLUMNS))[:, :, wanted]
    found = distances(written_out(inputs, 20, remembers, spread), explicit.reshape(MANY, -1))
    assert (max(found) <= allowed(MANY, MANY)) is right


@pytest.mark.parametrize("name", NETWORKS)
def test_handing_memory_on_changes_nothing(name, monkeypatch):
    """Places that are used again once their numbers are not needed: the same bits as with a place for everything."""
    net, batch = NETWORKS[name]
    reused = draw(conditional, net, inputs_of(net, batch), 3, trials=3)

    def apart(spans):
        ends = np.cumsum([size for _, _, size in spans])
        return [0, *ends[:-1].tolist()], int(ends[-1])

    monkeypatch.setattr(conditional, "arrange", apart)
    np.testing.assert_array_equal(draw(conditional, net, inputs_of(net, batch), 3, trials=3), reused)


ENGINES = pytest.mark.parametrize("engine", [conditional, weights])


@ENGINES
def test_a_constant_unit_at_a_large_scale(engine):
    """BN makes it 0 for any ε > 0, also where ε is nothing beside the squares of the other units."""
    inputs = np.array([[1.0, 0.5, 2.0], [0.0, 0.5, 1.0], [0.3, 0.5, 4.0]])
    net = stack(activation("linear"), BatchNorm(), RELU, width=3)
    found = [
        engine.prepare(steps(net), signal.Signal(inputs, scale), True)(streams.stream(0, 0)) for scale in (0.0, 500.0)
    ]
    np.testing.assert_allclose(found[1][2:, 0], found[0][2:, 0], atol=1e-4)
    assert found[1][2, 0] == pytest.approx(math.log(2 / 3), abs=1e-4)
    assert not np.isinf(found[1][:, 4]).any()


@ENGINES
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gamma", [1e-300, 1e300])
def test_any_gamma_is_a_shift_of_the_logarithms(engine, dtype, training, gamma):
    """Of the rows after a BatchNorm, and of the gradients before it; the same draws."""
    nets = [stack(Dense(4), BatchNorm(0.1, g, training), RELU, Dense(3), width=3) for g in (1.0, gamma)]
    one, other = (
        draw(engine, net, inputs_of(net, 4), 5, trials=3, dtype=dtype).reshape(3, -1, len(COLUMNS))[:, :, [0, 4]]
        for net in nets
    )
    expected = 2 * math.log(gamma) * np.array([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]).T
    np.testing.assert_allclose(
        other - one, np.broadcast_to(expected, one.shape), atol=1e-3 if dtype == np.float32 else 1e-9
    )


@ENGINES
def test_rows_out_of_range_are_infinite_not_undefined(engine):
    """BN with ε = 0 of a dead unit is 0/0: from there on, and back before it, all is out of range."""
    net = stack(Dense(4), RELU, BatchNorm(0.0), Dense(5), width=4)
    drawn = draw(engine, net, inputs_of(net, 3), 6, trials=40).reshape(40, -1, len(COLUMNS))
    gone = np.isposinf(drawn[:, -1, 0])
    assert 0 < gone.sum() < 40
    assert np.all(np.isposinf(drawn[gone, 3, 0])) and np.all(np.isposinf(drawn[gone, 4, 5]))
    assert not np.isnan(drawn[:, :, [0, 1, 2, 4]]).any()


@ENGINES
def test_functions_that_overflow_on_their_way(engine):
    """x/(1 + e^−x) as one would write it: e^1000 is infinite, the quotient 0."""
    swish = Activation.from_function(
        "swish of one's own",
        lambda x: x / (1 + np.exp(-x)),
        lambda x: 1 / (1 + np.exp(-x)) + x * np.exp(-abs(x)) / (1 + np.exp(-abs(x))) ** 2,
    )
    drawn = draw(engine, stack(Dense(5), swish, Dense(2), width=4), 1e4 * inputs_of(mlp(1, 4), 2), 7, trials=3)
    assert np.isfinite(drawn.reshape(3, -1, len(COLUMNS))[:, :, [0, 4]]).all()


def test_huge_networks_before_a_normalization():
    """e^±1000 before BN and LayerNorm with ε > 0, in both types: finite, and the same law as with weights."""
    law = initialization("he_normal", gain=1e50)
    net = stack(Dense(6, law), RELU, Dense(6, law), BatchNorm(), RELU, Dense(4, law), LayerNorm(), Dense(3), width=5)
    inputs = inputs_of(net, 4)
    explicit = draw(weights, net, inputs, 30, 300)
    for dtype in (np.float64, np.float32):
        found = draw(conditional, net, inputs, 31, 300, dtype=dtype)
        assert not np.isposinf(found).any()
        assert max(distances(found, explicit, zero=-25.0)) <= allowed(300, 300)
    deep = Sequential((Dense(16, initialization("he_normal", gain=4.5)), RELU) * 80 + (BatchNorm(), Dense(4)), (16,))
    assert not np.isposinf(draw(conditional, deep, inputs_of(deep, 4), 32, 20, dtype=np.float32)).any()
