"""Rows in other shapes: moments, distances and sampled units by hand, and what has no rule."""

import math

import numpy as np
import pytest

from bntheory import activation, predict_growth
from bntheory.growth.infinite_width import moments, population
from bntheory.growth.infinite_width.state import State, start
from bntheory.layers import Affine, BatchNorm, Conv, Dense, Dropout, Flatten, Pool, ZeroPad
from bntheory.networks import Join, Residual, Sequential
from bntheory.rearrangements import Channels, Unflatten, Unroll, Upsample
from simulations import simulate_growth
from simulations.statistics import mean_with_error, tolerance

RELU, TANH, SIGMOID = activation("relu"), activation("tanh"), activation("sigmoid")


def passed(layers, inputs, shape):
    """The state after some layers."""
    state = start(inputs, shape, None)
    for row, layer in enumerate(layers, start=1):
        state = moments.through(layer, state, shape, row)
        shape = shape if not hasattr(layer, "output_shape") else layer.output_shape(shape)
    return state


# --- Unflatten -------------------------------------------------------------------------------------------------------


def test_given_vectors_become_images_alike():
    """By the mean over inputs of q, and by Σ h h' over pairs of inputs: exact, since the covariances of Dense are."""
    x = np.random.default_rng(0).standard_normal((4, 30)) * np.array([[0.5], [1.0], [2.0], [1.5]])
    state = passed((Dense(18), Unflatten((2, 3, 3))), x, (30,))
    gram = 2 * x @ x.T / 30
    pairs = (gram.sum() - np.trace(gram)) / 12
    np.testing.assert_allclose(np.exp(state.log_q), np.trace(gram) / 4, rtol=1e-12)
    assert (state.points, state.copies) == (9, 4)
    np.testing.assert_allclose(np.exp(state.log_d) / np.exp(state.log_q), 2 * (1 - np.eye(9)), rtol=1e-12)
    cross = np.exp(state.folded().log_cross)
    np.testing.assert_allclose(np.diagonal(cross), 2 * (np.trace(gram) / 4 - pairs), rtol=1e-12)
    np.testing.assert_allclose(cross[0, 1:], 2 * np.trace(gram) / 4, rtol=1e-12)
    roots = np.sqrt(np.diagonal(gram))
    kept = (roots.sum() ** 2 - (roots**2).sum()) / 12 / np.mean(roots**2)
    np.testing.assert_allclose(state.sizes**2, np.tile(roots[:, None] ** 2 / np.mean(roots**2), 9), rtol=1e-12)
    product = (2 * np.exp(state.log_q) - np.exp(np.diagonal(state.log_cross))) / 2  # at equal sizes
    np.testing.assert_allclose(product * kept, pairs, rtol=1e-6)


def test_inputs_that_nearly_agree_keep_their_distance():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 30)) + 1e-9 * rng.standard_normal((3, 30))
    x *= math.sqrt(30) / np.linalg.norm(x, axis=1, keepdims=True)
    state = passed((Dense(8), Unflatten((2, 2, 2))), x, (30,))
    mean = np.mean([np.mean((x[i] - x[j]) ** 2) for i in range(3) for j in range(3) if i != j])
    np.testing.assert_allclose(np.diagonal(state.log_cross), math.log(2 * mean), atol=1e-6)


def test_units_of_one_sign_are_closer():
    """After ReLU the mean over units is √(q/2π) of a Gaussian's q: d = q (1 − 1/π); the same from sampled units."""
    state = passed((Dense(8), RELU, Unflatten((2, 2, 2))), np.ones((1, 4)) * np.array([1, -1, 1, 1]), (4,))
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(np.exp(state.log_d[off]), 2 * (1 - 1 / math.pi), rtol=1e-3)
    _, log_d, _, _ = population.moments(population.drawn(state))
    np.testing.assert_allclose(np.exp(log_d[off]), 2 * (1 - 1 / math.pi), rtol=0.06)  # of 2048 units a position


def test_a_gate_is_the_vector_itself():
    x = np.random.default_rng(2).standard_normal((3, 2, 4, 4))
    vector = passed((Conv(6), RELU, Pool(), Flatten(), Dense(6), TANH), x, (2, 4, 4))
    gate = moments.through(Unflatten((6, 1, 1)), vector, (6,), 7)
    assert gate.log_q == vector.log_q and gate.log_cross == vector.log_cross and gate.copies == 3
    np.testing.assert_array_equal(population.drawn(gate).particles, population.drawn(vector).particles)


def test_many_positions_of_sampled_units_fit_into_memory():
    state = passed((Dense(2048), RELU, Unflatten((2, 32, 32))), np.ones((1, 4)) * np.array([1, -1, 1, 1]), (4,))
    units = population.drawn(state)
    assert units.particles.size <= 2 * population.MOST_NUMBERS
    assert units.fields.size <= max(4 * population.MOST_NUMBERS, population.FEWEST * 1024)
    np.testing.assert_allclose(np.mean(units.particles**2, axis=0) * math.exp(2 * units.log_scale), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "before",
    [
        (Conv(8), Flatten()),
        (Conv(8), RELU, Flatten(), BatchNorm()),
        (Flatten(), Dropout(0.1)),
        (Conv(8), Flatten(), Join(((), (Dense(128), RELU)), "product")),
    ],
    ids=["image", "normalized", "given", "product"],
)
def test_positions_that_are_correlated_have_no_rule(before):
    """Those of an image that was flattened; none where there is a single position to come."""
    x = np.random.default_rng(0).standard_normal((3, 8, 4, 4))
    for shape, known in (((8, 4, 4), False), ((128, 1, 1), True)):
        growth = predict_growth(Sequential((*before, Unflatten(shape)), (8, 4, 4)), x)
        assert (growth.unsupported is None) == known


def test_given_vectors_left_in_a_sum_have_no_rule():
    x = np.random.default_rng(0).standard_normal((3, 8))
    net = Sequential((Residual((Dense(8),)), Unflatten((2, 2, 2))), (8,))
    assert predict_growth(net, x).unsupported is not None
    assert predict_growth(net).unsupported is None


def test_parts_that_end_inside_a_channel_have_no_rule():
    net = Sequential((Join(((Dense(6), RELU), (Dense(2), TANH))), Unflatten((2, 2, 2))), (8,))
    assert predict_growth(net).unsupported is not None


def test_too_many_positions_are_refused_by_name():
    net = Sequential((Dense(65 * 64), Unflatten((1, 65, 64))), (8,))
    with pytest.raises(ValueError, match=r"row 1: Unflatten\(1×65×64\): distances between at most 4096 positions"):
        predict_growth(net)
    assert predict_growth(net, covariances=False).unsupported is None


def test_gradients_of_units_whose_slopes_are_to_come_have_no_rule():
    """The maximum over sampled units goes to the active ones."""
    net = Sequential((Dense(400), RELU, Unflatten((100, 2, 2)), Pool("max", 2), Flatten(), Dense(3)), (8,))
    growth = predict_growth(net)
    assert growth.unsupported is None
    assert np.isnan(growth.log_gradient[2]) and np.isfinite(growth.log_gradient[3])


def test_bands_of_images_behind_a_vector():
    """Of 400 networks of 24 channels: standard deviations of ln⟨h²⟩ within 20%, first order in 1/24; means within 0.05
    and sampling errors, false-alarm rate 1e-5."""
    layers = (Conv(24), RELU, Flatten(), Dense(4 * 24), Unflatten((24, 2, 2)), RELU, Conv(24), RELU, Conv(24))
    net = Sequential(layers, (3, 4, 4))
    x = np.random.default_rng(5).standard_normal((1, 3, 4, 4))
    growth, samples = predict_growth(net, x), simulate_growth(net, 400, x, seed=1, method="weights", gradients=False)
    drawn = samples.log_second_moment[:, 1:].astype(float)
    mean, error = mean_with_error(drawn)
    assert np.all(np.abs(mean - growth.log_growth_mean[1:]) < tolerance(error, 1e-5, len(mean), 399) + 0.05)
    np.testing.assert_allclose(growth.log_growth_std[1:], drawn.std(axis=0), rtol=0.2)


def test_bands_from_a_vector_are_unsupported_from_the_image_on():
    growth = predict_growth(Sequential((Dense(32), RELU, Unflatten((8, 2, 2)), Conv(4), Flatten(), Dense(3)), (8,)))
    assert growth.band_method[:3] == ("exact",) * 3 and set(growth.band_method[3:]) == {"unsupported"}
    given = predict_growth(Sequential((Unflatten((2, 2, 2)), Conv(4), RELU), (8,)), np.eye(8)[:2])
    assert given.band_method[:2] == ("exact",) * 2 and set(given.band_method[2:]) == {"unsupported"}


def test_ten_thousand_layers_forth_and_back():
    layers = (
        Dense(8, "lecun_normal"),
        TANH,
        Unflatten((8, 1, 1)),
        Flatten(),
        Dense(8),
        Unflatten((2, 2, 2)),
        Flatten(),
    )
    growth = predict_growth(Sequential(layers * 1430, (4,)))
    assert len(growth.rows) > 10_000
    assert np.isfinite(growth.log_second_moment).all() and np.isfinite(growth.log_gradient).all()


def test_a_state_by_itself():
    state = State(np.zeros(1), np.full((1, 1), -np.inf), None, 1, lineage=frozenset((1,)))
    after = moments.through(Unflatten((3, 1, 2)), state, (6,), 2)
    np.testing.assert_allclose(np.exp(after.log_d), 2 * (1 - np.eye(2)))
    assert after.log_cross is None and after.gaussian


# --- Unroll ----------------------------------------------------------------------------------------------------------


def test_positions_in_one_line_are_the_same_points():
    """Every number of a network of 1×1 kernels, whose positions do not care where they are, up to what is not carried
    any further: how given images differ pair by pair, which is of order 1/channels."""
    x = np.random.default_rng(3).standard_normal((3, 2, 4, 4))
    layers = (Conv(800, 1), RELU, Residual((Conv(800, 1), BatchNorm(), RELU, Conv(800, 1))), RELU, Conv(8, 1))
    one, other = (
        predict_growth(Sequential((Conv(4), layer, *layers, Flatten(), Dense(3)), (2, 4, 4)), x)
        for layer in (activation("linear"), Unroll())
    )
    for column, atol in (
        *(("log_second_moment", 1e-9), ("log_gradient", 1e-5), ("log_weight_gradient", 1e-5)),
        *(("log_channel_variance", 1e-3), ("log_growth_std", 0.01)),
    ):
        np.testing.assert_allclose(getattr(other, column), getattr(one, column), rtol=0, atol=atol)


# --- Channels --------------------------------------------------------------------------------------------------------


def product(*branches, before=None):
    """Whether a product of two branches has a rule."""
    layers = (*(before or (Dense(12), TANH)), Join(branches, "product"))
    return predict_growth(Sequential(layers, (5,))).unsupported is None


def test_halves_are_independent_and_parts_that_overlap_are_not():
    assert product((Channels(0, 6),), (Channels(6, 12), SIGMOID))
    assert product((Channels(0, 6), Channels(0, 3)), (Channels(6, 12), Channels(3, 6)))
    assert product((Channels(2, 6), RELU), (Channels(2, 6),))  # the same units
    assert product((Channels(0, 6), Dense(4)), (Channels(0, 4),))  # through fresh weights
    assert not product((Channels(0, 6),), (Channels(5, 11),))
    assert product((Channels(0, 6), Channels(0, 3)), (Channels(0, 6), Channels(3, 6)))  # of a slice
    assert not product((Channels(0, 6), Channels(0, 4)), (Channels(0, 6), Channels(2, 6)))
    assert product((Channels(0, 6), Channels(3, 6)), (Channels(3, 9), Channels(0, 3)))  # the same
    summed = (Dense(12), TANH, Residual((Dense(12),)))  # two rows, whose channels are not told apart
    assert product((Channels(0, 6),), (Channels(0, 6), RELU), before=summed)
    assert not product((Channels(0, 6),), (Channels(6, 12),), before=summed)
    assert not product((Channels(0, 6), Channels(3, 6)), (Channels(6, 12), Channels(0, 3)), before=summed)


def test_a_slice_and_its_row_are_not_independent():
    padded = (Conv(4), Residual((), (Channels(0, 2), Join(((), (Conv(2),))))))
    assert predict_growth(Sequential(padded, (3, 4, 4))).unsupported is not None


@pytest.mark.parametrize(
    "before",
    [
        (Conv(8), Affine((1.0, 2.0) * 4)),
        (Conv(4), ZeroPad(8)),
        (Conv(2), Flatten()),
        (Dropout(0.5),),
        (Conv(8), Affine((1.0, 2.0) * 4), Residual((Conv(8),))),
    ],
    ids=["γ", "zeros", "flattened", "given", "sum"],
)
def test_channels_that_may_differ_have_no_rule(before):
    x = np.random.default_rng(0).standard_normal((3, 8, 2, 2))
    assert predict_growth(Sequential((*before, Channels(0, 4)), (8, 2, 2)), x).unsupported is not None
    assert predict_growth(Sequential((*before, Channels(0, 8)), (8, 2, 2)), x).unsupported is None


def test_given_values_are_those_of_the_channels():
    x = np.random.default_rng(0).standard_normal((3, 8, 2, 2))
    growth = predict_growth(Sequential((Channels(2, 5), RELU), (8, 2, 2)), x)
    np.testing.assert_allclose(growth.second_moment[1], np.mean(x[:, 2:5] ** 2))
    np.testing.assert_allclose(growth.second_moment[2], np.mean(np.maximum(x[:, 2:5], 0) ** 2))


def test_a_part_of_a_concatenation_is_that_part():
    net = Sequential((Join(((Dense(6), RELU), (Dense(2), TANH))), Channels(6, 8)), (5,))
    growth = predict_growth(net)
    assert growth.log_second_moment[-1] == growth.log_second_moment[4]
    mixed = predict_growth(Sequential((Join(((Dense(6), RELU), (Dense(2), TANH))), Channels(3, 7)), (5,)))
    expected = (3 * mixed.second_moment[2] + mixed.second_moment[4]) / 4
    assert mixed.second_moment[-1] == pytest.approx(expected)


def test_sampled_units_of_different_channels_differ():
    """Their fields are uncorrelated, within five standard errors (false alarms 6e-7); those of one slice the same."""
    state = passed((Dense(12), TANH), np.ones((2, 4)) * np.array([1, -1, 1, 1]), (4,))
    one, other, again = (moments.through(Channels(*at), state, (12,), 3) for at in ((0, 6), (6, 12), (6, 12)))
    fields = [population.drawn(each).fields[:, 0, 0] for each in (one, other, again)]
    assert abs(np.corrcoef(fields[0], fields[1])[0, 1]) < 5 / np.sqrt(len(fields[0]))
    np.testing.assert_array_equal(fields[1], fields[2])


def test_a_gradient_goes_to_the_channels_that_were_read():
    """Of a gradient of 1 a unit, the mean over the row is the share that was read; twice, the sum of shares."""
    net = Sequential((Dense(10), Residual((Channels(0, 4), Dense(5)), (Channels(2, 8), Dense(5)))), (3,))
    growth = predict_growth(net)
    back = [2 * 5 / inputs * inputs for inputs in (4, 6)]  # Σ over units of n_out Var w
    assert math.exp(growth.log_gradient[1]) == pytest.approx(sum(back) / 5)
    assert math.exp(growth.log_gradient[2]) == pytest.approx(back[0] / 5)


def test_channels_of_maxima_of_active_units_have_no_gradient():
    layers = (Conv(100), RELU, Channels(50, 100), Pool("max", 2), Flatten(), Dense(3))
    assert np.isnan(predict_growth(Sequential(layers, (3, 4, 4))).log_gradient[2])


def test_bands_of_some_channels():
    """Of 400 networks: a quarter of the channels varies twice as much; standard deviations within 20%."""
    net = Sequential((Conv(96), RELU, Channels(30, 54), Conv(24), RELU, Conv(24)), (3, 4, 4))
    x = np.random.default_rng(5).standard_normal((1, 3, 4, 4))
    growth, samples = predict_growth(net, x), simulate_growth(net, 400, x, seed=1, method="weights", gradients=False)
    drawn = samples.log_second_moment[:, 1:].astype(float)
    np.testing.assert_allclose(growth.log_growth_std[1:], drawn.std(axis=0), rtol=0.2)
    assert growth.log_growth_std[3] > 1.5 * growth.log_growth_std[2]
    block = Sequential((Conv(8), Residual((Channels(0, 4), Conv(8)))), (3, 4, 4))
    assert predict_growth(block, x).band_method[2] == "unsupported"


def test_how_often_some_channels_are_dead_is_not_known():
    dead = predict_growth(Sequential((Dense(8), Channels(0, 4), RELU, Channels(0, 2), Dense(3, bias=0.1)), (3,))).p_dead
    np.testing.assert_allclose(dead, [0, 0, 0, 1 / 16, np.nan, 0])


# --- Upsample --------------------------------------------------------------------------------------------------------


def test_repeated_positions_by_hand():
    """The distances of a repeated batch of images, as they are measured."""
    x = np.random.default_rng(0).standard_normal((3, 4, 2, 3))
    state = passed((Conv(5),), x, (4, 2, 3))
    after = moments.through(Upsample((2, 1)), state, (5, 2, 3), 2)
    index = [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    np.testing.assert_array_equal(after.log_q, state.log_q[index])
    for found, block in ((after.log_d, state.log_d), (after.log_cross, state.log_cross)):
        np.testing.assert_array_equal(found, block[np.ix_(index, index)])
    given = moments.through(Upsample((2, 1)), start(x, (4, 2, 3), None), (4, 2, 3), 1)
    np.testing.assert_array_equal(given.values.reshape(3, 4, 12), x.reshape(3, 4, 6)[..., index])


def test_a_maximum_over_repeated_positions_is_the_position():
    """And so its gradient, up to which of the repetitions it goes to."""
    layers = (Conv(30), RELU, Upsample(2), Pool("max", 2), Conv(10), Flatten(), Dense(3))
    growth = predict_growth(Sequential(layers, (3, 4, 4)))
    assert growth.log_second_moment[4] == pytest.approx(growth.log_second_moment[2], abs=2e-3)
    np.testing.assert_allclose(growth.log_gradient[[2, 3]], growth.log_gradient[4], rtol=1e-6)


def test_bands_of_repeated_positions():
    """Means over equal numbers of equal positions: the band does not change, before or after an activation."""
    x = np.random.default_rng(5).standard_normal((1, 3, 4, 4))
    growth = predict_growth(Sequential((Conv(24), Upsample(2), RELU, Conv(24, 2, 2)), (3, 4, 4)), x)
    plain = predict_growth(Sequential((Conv(24), RELU, Conv(24, 1)), (3, 4, 4)), x)
    np.testing.assert_allclose(growth.log_growth_std[[1, 2, 3]], plain.log_growth_std[[1, 1, 2]], rtol=1e-5)
    np.testing.assert_allclose(growth.log_growth_std[4], plain.log_growth_std[3], rtol=1e-5)


def test_too_many_repetitions_are_refused_by_name():
    with pytest.raises(ValueError, match=r"row 0: Upsample\(3×3\): distances between at most 4096 positions"):
        predict_growth(Sequential((Upsample(3),), (1, 30, 30)))
