"""Rows without a rule: nothing from there on, or anew from values that were measured there."""

import json

import matplotlib
import numpy as np
import pytest

from bntheory import activation, from_json, leaves, mlp, predict_growth
from bntheory.growth import walk
from bntheory.growth.infinite_width.state import start
from bntheory.growth.prediction import predicted
from bntheory.layers import BatchNorm, Conv, Dense, Dropout, Flatten, Pool, Unknown
from bntheory.networks import Join, Residual, Sequential
from simulations import simulate_growth, statistics

matplotlib.use("Agg")

RELU, TANH = activation("relu"), activation("tanh")
INPUTS = np.random.default_rng(3).standard_normal((5, 6)) + 0.3
IMAGES = np.random.default_rng(4).standard_normal((5, 3, 4, 4)) + 0.3
SORT = Unknown("sort", (7,))
WORDS = ("exact", "mean-field", "population", "measured")


def sorted_to(size, batch, seed=0):
    """What an unknown operation might give: any values."""
    return np.random.default_rng(seed).standard_normal((batch, *size)) ** 2 + 1


def anew(net, inputs, values):
    """The prediction, with values by row index."""
    asked = []

    def measured(row):
        asked.append(row)
        return values[row]

    growth = predicted(net, tuple(leaves(net)), inputs, None, True, measured)
    assert asked == [row for row in sorted(values) if row in asked]
    return growth


def test_without_measured_values_nothing_follows():
    net = Sequential((Dense(6), RELU, SORT, Dense(4), BatchNorm(), RELU), (6,))
    growth = predict_growth(net, INPUTS)
    assert growth.unsupported is growth.rows[3]
    assert growth.moment_method == ("exact",) * 3 + ("unsupported",) * 4
    assert growth.band_method == ("exact",) * 3 + ("unsupported",) * 4
    assert np.isnan(growth.log_second_moment[3:]).all() and np.isnan(growth.log_gradient[:-1]).all()
    assert np.isnan(growth.p_dead[3:]).all()
    assert json.loads(json.dumps(growth.to_dict()))["log_second_moment"][3:] == [None] * 4
    assert from_json(net.to_json()) == net
    verdict = growth.verdict()
    assert "No rule for sort (row 2): nothing is predicted from there on." in verdict
    joined = Sequential((Dense(6), Join(((), (RELU,)), Unknown("attention", (6,))), RELU), (6,))
    assert predict_growth(joined).unsupported.name == "1.unknown"


def test_a_row_without_a_rule_starts_anew_from_its_values():
    """What follows is the prediction of the rest of the network, given those values as its inputs."""
    rest = (TANH, Dense(8), RELU, Residual((Dense(8), BatchNorm())), Dense(3, bias=0.2))
    net = Sequential((Dense(6), RELU, SORT, *rest), (6,))
    values = sorted_to((7,), 5)
    growth, alone = anew(net, INPUTS, {3: values}), predict_growth(Sequential(rest, (7,)), values)
    for name in ("log_second_moment", "log_channel_variance", "log_channel_mean_square", "log_cosine_distance"):
        np.testing.assert_array_equal(getattr(growth, name)[4:], getattr(alone, name)[1:])
        assert np.isnan(getattr(growth, name)[3])
    np.testing.assert_array_equal(growth.log_gradient[4:], alone.log_gradient[1:])
    assert growth.log_gradient[3] == alone.log_gradient[0] and np.isnan(growth.log_gradient[:3]).all()
    assert growth.moment_method == ("exact",) * 3 + ("unsupported",) + ("measured",) * 7
    assert growth.channel_method[4:] == ("measured",) * 7
    assert set(growth.gradient_method[4:-1]) == {"measured"} and growth.gradient_method[:3] == ("unsupported",) * 3
    assert set(growth.band_method[3:]) == {"unsupported"} and growth.unsupported is growth.rows[3]


def test_the_words_table_and_picture_say_where_values_were_measured():
    net = Sequential((Dense(6), RELU, SORT, *(Dense(6, "lecun_normal"), RELU) * 3), (6,))
    growth = anew(net, INPUTS, {3: sorted_to((7,), 5)})
    assert (
        "No rule for sort (row 2): moments from row 3 on are predicted from values that were measured;"
        in growth.verdict()
    )
    found = growth.findings()["unsupported"]
    assert not found.problem and found.numbers == {"row": "2", "measured_from": "3"}
    assert growth.table().count("measured") == 6 + 7  # moments, and gradients from that row on
    words = growth.plot().get_legend_handles_labels()[1]
    assert any("from measured values, from row 3 on" in word for word in words)
    assert growth.to_dict()["moment_method"][4] == "measured"


def test_what_was_measured_shares_weights_with_every_row_before_but_not_with_fresh_ones():
    """Sums with an earlier row start anew again; with fresh weights, or values of its own, they have a rule."""
    mixing = Unknown("mixing", (6,))
    fresh = (mixing, Dense(6))
    values = sorted_to((6,), 5)
    shared = Sequential((Dense(6), Residual((mixing,)), RELU), (6,))
    summed = sorted_to((6,), 5, seed=1)
    growth = anew(shared, INPUTS, {2: values, 3: summed})
    assert growth.moment_method == ("exact", "exact", "unsupported", "unsupported", "measured")
    assert growth.second_moment[-1] == pytest.approx(np.mean(summed**2))
    growth = anew(Sequential((Dense(6), Residual(fresh), RELU), (6,)), INPUTS, {2: values})
    assert growth.moment_method == ("exact", "exact", "unsupported", "measured", "measured", "measured")
    assert growth.second_moment[4] == pytest.approx(growth.second_moment[1] + growth.second_moment[3])
    known = Sequential((mixing, Residual((TANH,), scale=2.0), Residual((Dense(6),)), RELU), (6,))
    growth = anew(known, INPUTS, {1: values})
    assert growth.moment_method[2:] == ("measured",) * 5
    assert growth.second_moment[3] == pytest.approx(np.mean((values + 2 * np.tanh(values)) ** 2))
    joined = Sequential((Dense(6), Join(((), (mixing,)), "product"), Dense(3)), (6,))
    assert anew(joined, INPUTS, {2: values, 3: summed}).moment_method[3:] == ("unsupported", "measured")


def test_any_row_without_a_rule_starts_anew():
    """A product of a row with its own mean, and a sum of parts that share weights: images too."""
    gated = Sequential((Conv(4), Join(((), (Pool(), TANH)), "product"), RELU, Flatten(), Dense(3)), (3, 4, 4))
    values = sorted_to((4, 4, 4), 5)
    growth = anew(gated, IMAGES, {4: values})
    assert growth.moment_method == ("exact", "exact", *["mean-field"] * 2, "unsupported", *["measured"] * 3)
    assert growth.second_moment[5] == pytest.approx(np.mean(values**2))
    assert growth.log_cosine_distance[6] > -np.inf  # vectors behind images are inputs, one by one
    twice = Sequential((Dense(6), Residual((Residual((Dense(6),)),)), Dense(2)), (6,))
    assert anew(twice, INPUTS, {4: sorted_to((6,), 5)}).moment_method[4:] == ("unsupported", "measured")


def test_measured_words_outlast_all_others():
    """Through sampled units, BatchNorm, pools, Dropout, concatenations and products."""
    parts = (Conv(4), RELU, RELU, BatchNorm(), Dropout(0.1), Pool("max", 2), Join(((), (Conv(4), RELU))), Flatten())
    gate = Join(((Dense(3),), (Dense(3), TANH)), "product")
    net = Sequential((Unknown("roll", (3, 4, 4)), *parts, Dense(4), RELU, Residual((RELU, Dense(4))), gate), (3, 4, 4))
    growth = anew(net, IMAGES, {1: sorted_to((3, 4, 4), 5)})
    assert set(growth.moment_method[2:]) == {"measured"} == set(growth.channel_method[2:])


def test_refused_values():
    net = Sequential((SORT, Dense(3)), (6,))
    for values, found in ((np.ones((5, 6)), r"\(5, 6\)"), (np.full((5, 7), np.nan), "values that are not finite")):
        with pytest.raises(ValueError, match=rf"row 0: measured values must be finite, of shape \(B, 7\), got {found}"):
            anew(net, INPUTS, {1: values})


def test_rows_may_have_names_of_their_own():
    """Laws depend on where a row is, not on dots in its name."""
    net = mlp(3, 8)
    named = tuple(row._replace(name=f"features.{k}.{row.name}") for k, row in enumerate(leaves(net)))
    growth = predicted(net, named, None, None, True)
    assert growth.rows == named and growth.band_method == ("exact",) * 7
    np.testing.assert_array_equal(growth.log_growth_std, predict_growth(net).log_growth_std)
    first = start(None, (8,), None)
    taken, way, _ = walk.forward(net, named, first)
    assert len(taken) == 7 and len(way) == 6


def test_measured_values_of_networks_with_explicit_weights():
    """A network that sorts its units: given their values, 60 draws of what follows; false-alarm rate 1e-6."""
    width = 300
    values = np.sort(np.maximum(np.random.default_rng(1).standard_normal((4, width)), 0), axis=1)
    rest = (Dense(width), RELU, Join(((), (Dense(width), TANH))), Dense(width, bias=0.1))
    net = Sequential((Dense(width), RELU, Unknown("sort", (width,)), *rest), (6,))
    growth = anew(net, INPUTS[:4], {3: values})
    samples = simulate_growth(Sequential(rest, (width,)), 60, values, method="weights")
    for name in ("log_second_moment", "log_channel_variance", "log_gradient"):
        mean, error = statistics.mean_with_error(np.exp(getattr(samples, name)[:, 1:]))
        expected = np.exp(getattr(growth, name)[4:])
        allowed = statistics.tolerance(error, 1e-6, 3 * len(mean), 59) + 5 / width * expected
        assert np.all(np.abs(mean - expected) < allowed), name
