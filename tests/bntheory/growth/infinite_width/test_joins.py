"""Concatenations and products at infinite width: against kernels by hand, sampled units and explicit weights."""

import math

import numpy as np
import pytest

from bntheory import activation, predict_growth
from bntheory.growth.infinite_width import joins, population
from bntheory.growth.infinite_width.batch_products import normalized_and_activated
from bntheory.growth.infinite_width.moments import through
from bntheory.growth.infinite_width.state import State, start
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, GroupNorm, LayerNorm, Pool
from bntheory.networks import Join, Residual, Sequential
from simulations import simulate_growth, statistics
from simulations.growth import uncorrelated_inputs

RELU, TANH, SIGMOID = map(activation, ("relu", "tanh", "sigmoid"))
INPUTS = np.random.default_rng(3).standard_normal((5, 6)) * [[0.5], [1.0], [1.0], [2.0], [1.5]] + 0.3
RARE = 1e-6  # false-alarm rate of a test


def kernel(state):
    """E h_i h_j over units."""
    q = np.exp(state.log_q)
    return (q[:, None] + q - np.exp(state.log_d)) / 2


def rectified(k):
    """E φ(u) φ(v) of ReLU (Cho and Saul 2009)."""
    size = np.sqrt(np.diag(k))
    cosine = np.clip(k / np.outer(size, size), -1, 1)
    angle = np.arccos(cosine)
    return np.outer(size, size) * (np.sin(angle) + (math.pi - angle) * cosine) / (2 * math.pi)


def dense(k, fan_in, layer):
    return k * fan_in * layer.weight_variance((fan_in,)) + layer.bias_variance((fan_in,))


def states(*rows):
    """Fresh Gaussian rows of these widths and biases, the first over given inputs, the others over their squares."""
    layers, made, kernels = [Dense(width, "lecun_normal", bias) for width, bias in rows], [], []
    for row, layer in enumerate(layers, 1):
        values = INPUTS if row == 1 else INPUTS**2
        made.append(through(layer, start(values, (6,), None), (6,), row))
        kernels.append(dense(values @ values.T / 6, 6, layer))
    return made, kernels


def test_a_concatenation_is_a_mixture_through_the_layers_after_it():
    """Channels 3 : 5 of variances that differ: every unit is normalized by its own, so not the mean kernel is."""
    (one, other), kernels = states((3, 0.0), (5, 4.0))
    state = joins.concatenated([3, 5], [one, other], 9)
    expected = (3 * kernels[0] + 5 * kernels[1]) / 8
    np.testing.assert_allclose(kernel(state), expected, rtol=1e-12)
    assert not state.gaussian and state.centred and state.method == "exact" and state.lineage == {1, 2, 9}

    bent = through(RELU, state, (8,), 10)
    np.testing.assert_allclose(kernel(bent), (3 * rectified(kernels[0]) + 5 * rectified(kernels[1])) / 8, rtol=1e-9)
    assert bent.method == "exact" and bent.channel_method == "mean-field"

    layer = BatchNorm(0.1, training=True)
    after = through(layer, state, (8,), 10)
    linear = activation("linear")
    first, second = (normalized_and_activated(linear, k, 0.1) for k in kernels)
    by_units = (3 * first + 5 * second) / 8
    np.testing.assert_allclose(kernel(after), by_units, rtol=1e-9, atol=1e-12)
    assert (
        np.abs(by_units - normalized_and_activated(linear, expected, 0.1)).max() > 0.01
    )  # the kernel of both together would be wrong

    read = through(Dense(7, "lecun_normal", 0.3), bent, (8,), 11)
    np.testing.assert_allclose(kernel(read), kernel(bent) + 0.3, rtol=1e-12)
    assert read.gaussian and not read.parts and read.lineage == {11}

    dropped = through(Dropout(0.25), bent, (8,), 12)
    np.testing.assert_allclose(np.exp(dropped.log_q), np.exp(bent.log_q) / 0.75, rtol=1e-12)
    np.testing.assert_allclose(
        kernel(dropped) - np.diag(np.exp(dropped.log_q)), kernel(bent) * (1 - np.eye(5)), atol=1e-9
    )


def test_layer_norm_divides_all_units_of_an_input_by_one_number():
    (one, other), kernels = states((3, 0.0), (5, 4.0))
    state = joins.concatenated([3, 5], [one, other], 9)
    after = through(LayerNorm(0.2), state, (8,), 10)
    mean = (3 * kernels[0] + 5 * kernels[1]) / 8
    size = np.sqrt(np.diag(mean) + 0.2)
    np.testing.assert_allclose(kernel(after), mean / np.outer(size, size), rtol=1e-10)
    bent = through(RELU, after, (8,), 11)
    parts = [rectified(k / np.outer(size, size)) for k in kernels]
    np.testing.assert_allclose(kernel(bent), (3 * parts[0] + 5 * parts[1]) / 8, rtol=1e-9)


def test_units_of_one_law_are_one_row():
    """Parts of the same moments are Gaussian as before, and the law of the join depends on nothing else."""
    (one,), kernels = states((3, 0.2))
    other = through(Dense(5, "lecun_normal", 0.2), start(INPUTS, (6,), None), (6,), 2)
    state = joins.concatenated([3, 5], [one, other], 9)
    assert state.gaussian and not state.parts and state.lineage == {1, 2, 9}
    np.testing.assert_allclose(kernel(state), kernels[0], rtol=1e-12)
    twice = joins.concatenated([4, 4], [through(TANH, one, (3,), 4)] * 2, 9)
    np.testing.assert_array_equal(twice.log_q, through(TANH, one, (3,), 4).log_q)
    assert np.isfinite(through(RELU, twice, (8,), 5).log_q).all()


def test_joins_of_given_inputs_are_taken_number_by_number():
    values = np.random.default_rng(5).standard_normal((4, 3, 2, 2)) + 1
    gate = Join(((), (Pool(), TANH)), "product")
    net = Sequential((Join(((TANH,), ())), gate, RELU), (3, 2, 2))
    growth = predict_growth(net, values)
    joined = np.concatenate([np.tanh(values), values], axis=1)
    gated = joined * np.tanh(joined.mean(axis=(2, 3), keepdims=True))
    for row, h in ((2, joined), (5, gated), (6, np.maximum(gated, 0))):
        assert growth.second_moment[row] == pytest.approx(np.mean(h**2))
        assert np.exp(growth.log_channel_variance[row]) == pytest.approx(np.mean(h.var(axis=(0, 2, 3))))
    assert set(growth.moment_method) == {"exact"}


def test_the_kernel_of_a_product_is_the_product_of_kernels():
    (one, other), kernels = states((8, 0.0), (8, 4.0))
    state = joins.product(one, through(RELU, other, (8,), 3), 9)
    np.testing.assert_allclose(kernel(state), kernels[0] * rectified(kernels[1]), rtol=1e-9)
    assert state.centred and not state.gaussian and state.method == "mean-field"
    units = population.drawn(state)
    size = np.sqrt(np.mean(units.particles**2, axis=0)) * math.exp(units.log_scale)
    np.testing.assert_allclose(size, np.exp(state.log_q / 2), rtol=1e-6)
    fields = units.fields[:, 0] * math.exp(units.log_scale)
    np.testing.assert_allclose(fields.T @ fields / len(fields), kernel(state), atol=0.05 * kernel(state).max())


def test_nearly_equal_inputs_keep_their_distance():
    """d' = d_1 q_2 + q_1 d_2 to first order, for distances far below rounding of the kernels."""
    log_q, log_d = np.array([0.3, 0.3]), np.array([[-math.inf, -60.0], [-60.0, -math.inf]])
    first, second = (
        State(log_q + shift, log_d + shift, None, 1, lineage=frozenset((row,))) for row, shift in ((1, 5.0), (2, -7.0))
    )
    state = joins.product(first, second, 3)
    assert state.log_d[0, 1] == pytest.approx(math.log(2) + 0.3 - 60 - 2, abs=1e-9)


def test_what_can_be_joined():
    """Common weights: only functions of the same units; a concatenation is unlike any row it is made of."""
    (one,), _ = states((8, 0.0))
    bent = through(RELU, one, (8,), 3)
    both = joins.concatenated([8, 8], [one, bent], 4)
    assert both is not None
    assert joins.product(both, one, 5) is None
    gated = joins.product(one, through(SIGMOID, one, (8,), 3), 4)  # SiLU, from sampled units
    silu = through(activation("silu"), one, (8,), 3)
    assert gated.method == "population"
    np.testing.assert_allclose(kernel(gated), kernel(silu), rtol=0.05, atol=0.01)
    longer = State(np.zeros(3), None, None, 1, lineage=frozenset((7,)))
    assert joins.product(one, longer, 8) is None and joins.concatenated([8, 8], [one, longer], 8) is None


def block(*layers, shortcut=()):
    return Residual(Sequential(layers), Sequential(shortcut))


def dense_block(channels=12):
    return Join(((), (BatchNorm(), RELU, Conv(channels))))


def excite(channels):
    return Join(((), (Pool(), Conv(channels // 4, 1), RELU, Conv(channels, 1), SIGMOID)), "product")


N, C = 300, 48
VECTORS = {
    "concatenate": (Dense(N), RELU, Join(((), (Dense(N // 2),), (Dense(N, "lecun_normal"), TANH))), TANH, Dense(N)),
    "BN of a mixture": (
        Dense(N),
        Join(((), (RELU, Dense(N)))),
        Join(((), (Dense(N // 3, bias=2.0),))),
        BatchNorm(),
        RELU,
    ),
    "given inputs among them": (Join(((), (Dense(N),), (RELU,))), RELU, Dense(N)),
    "LayerNorm of activations": (Dense(N), Join(((RELU,), (Dense(N, bias=1.0),))), LayerNorm(), RELU, Dense(N)),
    "gated unit": (Dense(N), Join(((Dense(N),), (Dense(N), SIGMOID)), "product"), RELU, Dense(N)),
    "activation of its own": (Dense(N), Join(((), (SIGMOID,)), "product"), Dense(N)),
    "product of mixtures": (
        *(Dense(N), Join((((Join(((), (Dense(N, bias=1.0),))),)), (Dense(2 * N), TANH)), "product"), RELU, Dense(N)),
    ),
    "sum of mixtures": (Dense(N), Join(((), (RELU, Dense(N, bias=1.0)))), block(Dense(N), RELU, Dense(2 * N)), TANH),
}
IMAGES = {
    "dense blocks": (Conv(C), dense_block(C), dense_block(C), BatchNorm(), RELU, Conv(C, 1), Pool("average", 2), RELU),
    "inception": (Conv(C), RELU, Join(((Conv(C, 1), RELU), (Conv(C), TANH), (Pool("max", 1),))), Conv(C)),
    "depthwise": (Conv(C), Join(((), (RELU, Conv(C, bias=0.2)))), Conv(2 * C, groups=2 * C), RELU, Conv(C, 1)),
    "excited": (Conv(C), RELU, block(Conv(C), BatchNorm(), excite(C)), RELU, Conv(C)),
    "pooled": (Conv(C), Join(((), (RELU, Conv(C)))), Pool("average", 2), RELU, Flatten(), Dense(N)),
    "maximum": (Conv(C), Join(((), (RELU, Conv(C, bias=1.0)))), Pool("max", 2), Conv(C)),
}


def agrees(layers, inputs, trials, width):
    """Explicit weights: sampling errors and 5/width of a row's second moment."""
    net = Sequential(layers, inputs.shape[1:])
    growth = predict_growth(net, inputs)
    samples = simulate_growth(net, trials, inputs, method="weights", gradients=False, seed=2)
    assert growth.unsupported is None
    for name in ("log_second_moment", "log_channel_variance"):
        predicted, measured = np.exp(getattr(growth, name)[1:]), np.exp(getattr(samples, name)[:, 1:])
        mean, error = statistics.mean_with_error(measured)
        allowed = statistics.tolerance(error, RARE, 2 * len(mean), trials - 1) + 5 / width * growth.second_moment[1:]
        assert np.all(np.abs(mean - predicted) < allowed), (name, (mean - predicted) / allowed)
        assert np.median(allowed / growth.second_moment[1:]) < 0.3  # sharp enough to fail
    return growth


@pytest.mark.parametrize("layers", VECTORS.values(), ids=VECTORS)
def test_vectors_with_explicit_weights(layers):
    """40 networks of 300 units."""
    agrees(layers, uncorrelated_inputs((8,), 5, 0) + 0.3, 40, N)


@pytest.mark.parametrize("layers", IMAGES.values(), ids=IMAGES)
def test_images_with_explicit_weights(layers):
    """40 networks of 48 channels, on inputs of as many: few would correlate positions."""
    growth = agrees(layers, uncorrelated_inputs((C, 4, 4), 6, 0), 40, C)
    assert set(growth.band_method[next(k for k, name in enumerate(growth.name) if "branches" in name) :]) >= {
        "unsupported"
    }


def test_a_gate_is_independent_of_what_it_multiplies_in_the_limit():
    """E (h s)² against E h² E s² at 8, 32 and 128 channels: what finite width adds shrinks like 1/channels."""
    deviations = []
    for channels in (8, 32, 128):
        layers = (Conv(channels), RELU, Join(((), (Pool(), Conv(channels, 1), SIGMOID)), "product"))
        inputs = uncorrelated_inputs((channels, 2, 2), 3, 0)
        samples = simulate_growth(
            Sequential(layers, inputs.shape[1:]), 12_000 // channels, inputs, method="weights", gradients=False
        )
        q = np.exp(samples.log_second_moment)
        mean, error = statistics.mean_with_error(q[:, 6] / (q[:, 2] * q[:, 5]))
        deviations.append((mean - 1, error))
    (narrow, _), (_, _), (wide, error) = deviations
    assert abs(wide) < 4 * error + 0.3 * abs(narrow)  # exceeded by chance once in 16,000
    assert abs(wide) < 0.01


def test_bands_end_at_a_join_and_nothing_is_predicted_where_groups_straddle_parts():
    growth = predict_growth(Sequential((Dense(8), RELU, Join(((), (Dense(8),))), RELU, Dense(4)), (8,)))
    assert growth.band_method == ("exact",) * 3 + ("unsupported",) * 4
    assert np.isfinite(growth.p_dead).all()
    images = Sequential((Conv(4), Join(((), (RELU, Conv(2)))), RELU, Conv(4)), (2, 3, 3))
    bands = predict_growth(images, batch_size=3).band_method
    assert bands[1] == "first-order" and set(bands[4:]) == {"unsupported"}
    for layer in (Conv(4, groups=2), GroupNorm(2)):
        growth = predict_growth(
            Sequential((*images.layers, Join(((), (RELU, Conv(2)))), layer), (2, 3, 3)), batch_size=3
        )
        assert growth.unsupported is growth.rows[-1]


def test_second_moments_alone():
    """Without distances: products and concatenations keep them."""
    net = Sequential((Conv(6), RELU, Join(((), (Conv(3),))), Join(((Conv(4),), (Conv(4), TANH)), "product")), (3, 5, 5))
    with_distances, without = (predict_growth(net, batch_size=2, covariances=wanted) for wanted in (True, False))
    np.testing.assert_allclose(without.log_second_moment, with_distances.log_second_moment, rtol=1e-9)
    np.testing.assert_allclose(without.log_gradient, with_distances.log_gradient, rtol=1e-9)


def test_nothing_overflows_at_depth_10_000():
    """Gates halve h, concatenations and sums pass it on: ln E h² falls by ln 4 at every gate."""
    half = Join(((), (Dense(4, bias=0.0), SIGMOID)), "product")
    parts = (Dense(4, "lecun_normal"), Join(((RELU,), (Dense(2),))), Dense(4, "lecun_normal"), half)
    growth = predict_growth(Sequential(parts * 1250, (4,)))
    assert len(growth.rows) > 10_000 and np.isfinite(growth.log_second_moment).all()
    assert np.isfinite(growth.log_gradient).all()
    assert growth.log_second_moment[-1] == pytest.approx(-1250 * math.log(4), abs=2)


def test_blocks_inside_blocks_at_the_input_share_it():
    """x + (x + W x) has no rule: 2x + Wx has second moment 4 + σ_w² where independent parts would have 2 + σ_w²."""
    net = Sequential((block(block(Dense(6))), RELU), (6,))
    growth = predict_growth(net)
    assert growth.unsupported is growth.rows[3]
