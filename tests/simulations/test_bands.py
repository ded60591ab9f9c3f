"""Bands from drawn networks: the definitions are those of the laws, and what no law knows is filled as it should be."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import special, stats

from bntheory import activation, cnn, initialization, mlp, predict_growth
from bntheory.growth.finite_width.bands import Bands
from bntheory.layers import BatchNorm, Dense
from bntheory.networks import Sequential
from simulations import simulate_bands, simulate_growth
from simulations.bands import fill_bands
from simulations.statistics import binomial_interval, tolerance

RARE = 1e-5  # false alarm of a test function's comparisons together
VECTORS = np.random.default_rng(5).standard_normal((3, 16)) * np.array([[1], [2], [0.3]])
IMAGES = np.random.default_rng(6).standard_normal((3, 3, 6, 6))


def forgotten(growth):
    """The prediction without its laws."""
    nan = np.full(len(growth.rows), np.nan)
    nothing = Bands(nan, nan, nan, ("unsupported",) * len(nan), lambda level: (nan, nan))
    return dataclasses.replace(growth, _band_rule=lambda: nothing, _gradient_band_rule=lambda: nothing)


def judge(law, drawn, trials, comparisons, error=0.0):
    """Means and standard deviations, at once below RARE; `error` deviations are granted to approximate laws."""
    (mean, std), (sampled_mean, sampled_std, sampled_error) = law, drawn
    assert (np.abs(sampled_mean - mean) <= tolerance(sampled_error, RARE, 2 * comparisons) + error * std + 1e-9).all()
    spread = 1.5 * std / math.sqrt(2 * trials)  # 1.5: for an excess kurtosis of up to 2.5
    assert (np.abs(sampled_std - std) <= tolerance(spread, RARE, 2 * comparisons) + error * std + 1e-9).all()


def judge_bands(law, drawn, trials, comparisons, error=0.0):
    """Drawn quantiles lie between those of the law at probabilities as far away as chance takes them, and `error`."""
    for level in (0.5, 0.9):
        p = (1 - level) / 2
        chance = float(tolerance(math.sqrt(p * (1 - p) / trials), RARE, 4 * comparisons)) + error
        lower, upper = drawn(level)
        low, high = law(1 - 2 * max(p - chance, 1e-9))
        assert (low - 1e-9 <= lower).all() and (upper <= high + 1e-9).all()
        low, high = law(max(1 - 2 * (p + chance), 1e-9))
        assert (lower <= low + 1e-9).all() and (high - 1e-9 <= upper).all()


EXACT = {
    "dying": (mlp(6, 4), None),
    "one of several inputs": (mlp(3, 16, bias=0.1), VECTORS),
    "linear": (mlp(4, 6, "linear", "lecun_normal"), None),
}


@pytest.mark.parametrize("case", EXACT)
def test_simulated_bands_are_those_of_the_exact_laws(case):
    trials, (net, inputs) = 1500, EXACT[case]
    growth = predict_growth(net, inputs)
    drawn = simulate_bands(forgotten(growth), trials, workers=1)
    count = len(growth.rows)
    assert set(growth.band_method) == {"exact"} and set(drawn.band_method) == {"simulated"}
    alive = trials * (1 - growth.p_dead.max())
    law = growth.log_growth_mean, growth.log_growth_std
    found = drawn.log_growth_mean, drawn.log_growth_std, drawn.log_growth_error
    judge(law, found, alive, 4 * count)
    judge_bands(growth.band, drawn.band, alive, 4 * count)
    for row in range(count):
        low, high = binomial_interval(round(drawn.p_dead[row] * trials), trials, 1 - RARE / 4 / count)
        assert low <= growth.p_dead[row] <= high
    if growth.gradient_band_method[0] == "exact":  # mean and deviation are, not the band
        law = growth.log_gradient_mean, growth.log_gradient_std
        found = drawn.log_gradient_mean, drawn.log_gradient_std, drawn.log_gradient_error
        judge(law, found, alive, 4 * count)


MIXED = Sequential((*mlp(1, 32).layers, *mlp(1, 32, batch_norm=True).layers), (32,))
FIRST_ORDER = {
    "one input of a plain network": (mlp(4, 64, "tanh"), None, None),
    "a batch from the first BatchNorm on": (mlp(3, 256, batch_norm=True), None, 8),
    "before BatchNorm one input": (MIXED, None, 8),
    "images": (cnn(2, 64, image=(3, 6, 6)), IMAGES, None),
    "images with BatchNorm": (cnn(2, 64, image=(3, 6, 6), batch_norm=True), IMAGES, None),
}  # fmt: skip


@pytest.mark.parametrize("case", FIRST_ORDER)
def test_simulated_bands_are_those_of_first_order(case):
    """Within a tenth of the standard deviation, which is granted to the first order in 1/width."""
    trials, (net, inputs, batch) = 400, FIRST_ORDER[case]
    growth = predict_growth(net, inputs, batch)
    drawn = simulate_bands(forgotten(growth), trials, workers=1)
    rows = [k for k, row in enumerate(growth.rows) if getattr(row.layer, "init", None) and growth.log_growth_std[k] > 0]
    assert rows and set(np.array(growth.band_method)[rows]) <= {"exact", "first-order"}
    law = growth.log_growth_mean[rows], growth.log_growth_std[rows]
    found = drawn.log_growth_mean[rows], drawn.log_growth_std[rows], drawn.log_growth_error[rows]
    judge(law, found, trials, 2 * len(rows), error=0.1)
    bands = ((lambda level, part=part: [edge[rows] for edge in part.band(level)]) for part in (growth, drawn))
    judge_bands(*bands, trials, 2 * len(rows), error=0.03)  # a tenth of the deviation is 0.04 of a normal law's middle


def test_simulated_gradient_bands_are_those_of_first_order():
    trials, growth = 1000, predict_growth(mlp(4, 64, "tanh"), np.tile(VECTORS, 4))
    drawn = simulate_bands(forgotten(growth), trials, workers=1)
    assert growth.gradient_band_method[0] == "first-order" and drawn.gradient_band_method[0] == "simulated"
    law = growth.log_gradient_mean, growth.log_gradient_std
    found = drawn.log_gradient_mean, drawn.log_gradient_std, drawn.log_gradient_error
    judge(law, found, trials, 2 * len(growth.rows), error=0.1)
    judge_bands(growth.gradient_band, drawn.gradient_band, trials, 2 * len(growth.rows), error=0.03)


def test_orthogonal_weights_have_the_law_of_points_on_spheres():
    """W x is uniform on a sphere; K ~ Binomial(n, ½) of n coordinates are positive, their share is Beta(K/2, (n−K)/2).

    The layers' ln shares are independent: means and variances of depth L are L times those of one.
    """
    n, depth, trials = 6, 4, 2000
    growth = predict_growth(mlp(depth, n, init="orthogonal"))
    assert set(growth.band_method[1:]) == {"unsupported"}
    drawn = simulate_bands(growth, trials, seed=1)
    k = np.arange(1, n + 1)
    weights = special.binom(n, k) / (2**n - 1)
    log_share = special.digamma(k / 2) - special.digamma(n / 2)
    mean = weights @ log_share
    variance = weights @ (special.polygamma(1, k / 2) - special.polygamma(1, n / 2) + (log_share - mean) ** 2)
    relu, layers = np.arange(2, 2 * depth + 1, 2), np.arange(1, depth + 1)
    law_mean, law_std = mean * layers, np.sqrt(variance * layers)
    error = drawn.log_growth_error[relu]
    assert (np.abs(drawn.log_growth_mean[relu] - law_mean) <= tolerance(error, RARE, 3 * depth)).all()
    spread = 2 * law_std / math.sqrt(2 * trials)  # 2: for an excess kurtosis of up to 6
    assert (np.abs(drawn.log_growth_std[relu] - law_std) <= tolerance(spread, RARE, 3 * depth)).all()
    for row, layer in zip(relu, layers, strict=True):
        low, high = binomial_interval(round(drawn.p_dead[row] * trials), trials, 1 - RARE / 3 / depth)
        assert low <= 1 - (1 - 2.0**-n) ** layer <= high
    assert drawn.log_growth_std[1] == pytest.approx(0, abs=1e-12)


def test_the_band_holds_the_next_draw_as_often_as_it_says():
    """Ranks p (n + 1): over repetitions the expected share inside is the level; 5 standard errors, false alarm 6e-7."""
    level, trials, repetitions = 0.8, 19, 100
    growth, net = forgotten(predict_growth(mlp(1, 8, "linear"))), mlp(1, 8, "linear")
    cdf = stats.chi2(8).cdf  # of 4 times the mean square: variance 2/8 of a weight, 8 inputs of mean square 1
    shares = []
    for seed in range(repetitions):
        samples = simulate_growth(net, trials, seed=seed, gradients=False)
        lower, upper = (edge[-1] for edge in fill_bands(growth, samples, True).band(level))
        shares.append(cdf(4 * math.exp(upper)) - cdf(4 * math.exp(lower)))
    assert abs(np.mean(shares) - level) < 5 * np.std(shares) / math.sqrt(repetitions)


def test_laws_stay_as_they_are_and_nothing_is_drawn_without_need(monkeypatch):
    known = predict_growth(mlp(3, 8))
    monkeypatch.setattr("simulations.bands.simulate_growth", None)
    assert simulate_bands(known) is known
    monkeypatch.undo()
    growth = predict_growth(cnn(2, 8, image=(1, 4, 4)), batch_size=2)
    drawn = simulate_bands(growth, 30, workers=1)
    assert drawn.band_method == growth.band_method and "simulated" not in drawn.band_method
    np.testing.assert_array_equal(drawn.log_growth_mean, growth.log_growth_mean)
    np.testing.assert_array_equal(drawn.log_growth_error, 0)
    assert drawn.gradient_band_method == (*["simulated"] * 4, "exact") and drawn.networks == 30
    samples = simulate_growth(growth.question.net, 30, batch=2)
    assert drawn.log_gradient_mean == pytest.approx(samples.log_gradient.mean(axis=0), abs=1e-12)
    assert drawn.log_gradient_std == pytest.approx(samples.log_gradient.std(axis=0, ddof=1), abs=1e-12)
    assert drawn.log_gradient_error[:-1] == pytest.approx(drawn.log_gradient_std[:-1] / math.sqrt(30))


@pytest.mark.parametrize("net", [mlp(2, 8, "tanh", batch_norm=True), cnn(2, 4, image=(1, 4, 4))])
def test_gradients_are_drawn_only_if_they_are_missing(net, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "simulations.bands.simulate_growth",
        lambda *words, gradients, **others: asked.append(gradients) or simulate_growth(*words, **others),
    )
    growth = forgotten(predict_growth(net, batch_size=4))
    law = dataclasses.replace(growth._gradient_band, method=("exact",) * len(growth.rows))
    simulate_bands(growth, 3)
    simulate_bands(dataclasses.replace(growth, _gradient_band_rule=lambda: law), 3)
    assert asked == ([True, False] if len(net.input_shape) == 3 else [False, True, False, False])


def test_the_result_depends_on_the_seed_alone():
    growth = predict_growth(mlp(3, 8, "tanh", batch_norm=True, init="orthogonal"), batch_size=4)
    one, two, other = (simulate_bands(growth, 20, seed, workers=workers) for seed, workers in ((3, 1), (3, 4), (4, 1)))
    assert one.to_dict() == two.to_dict() != other.to_dict()


def test_batches():
    """The batch size of the prediction; 64 for an infinite one with BatchNorm, unless another is given; else one."""
    net = mlp(2, 8, batch_norm=True, init="orthogonal")
    infinite = simulate_bands(predict_growth(net), 20)
    assert (
        infinite.to_dict()["log_growth_mean"]
        == simulate_bands(predict_growth(net), 20, batch=64).to_dict()["log_growth_mean"]
    )
    finite = predict_growth(net, batch_size=4)
    expected = simulate_growth(net, 20, batch=4).log_second_moment.mean(axis=0)
    assert simulate_bands(finite, 20).log_growth_mean[2:] == pytest.approx(expected[2:], abs=1e-12)
    alone = simulate_growth(Sequential(net.layers[:1], (8,)), 20, batch=1).log_second_moment
    assert simulate_bands(finite, 20).log_growth_mean[1] == pytest.approx(alone[:, 1].mean(), abs=1e-12)


def test_a_batch_says_nothing_about_one_vector_nor_the_reverse():
    growth = predict_growth(mlp(1, 8, batch_norm=True, init="orthogonal"), batch_size=4)
    of_batch = fill_bands(growth, simulate_growth(growth.question.net, 20, batch=4), single=False)
    assert of_batch.band_method == ("exact", "unsupported", "simulated", "simulated")
    plain = predict_growth(mlp(1, 8, init="orthogonal"))
    assert fill_bands(plain, simulate_growth(plain.question.net, 20, batch=4), single=False) is plain


def test_batch_norm_in_evaluation_looks_at_no_batch():
    net = Sequential((Dense(8), BatchNorm(training=False), activation("relu")), (8,))
    growth, samples = predict_growth(net, batch_size=4), simulate_growth(net, 20)
    assert growth.band_method[2:] == ("unsupported",) * 2
    drawn = simulate_bands(growth, 20)
    assert drawn.log_growth_mean[2:] == pytest.approx(samples.log_second_moment.mean(axis=0)[2:], abs=1e-12)
    assert drawn.log_gradient_mean == pytest.approx(samples.log_gradient.mean(axis=0), abs=1e-12)


def test_given_vectors_enter_as_one_of_their_mean_size():
    """Those that are too small to count are never chosen; a square orthogonal layer keeps the size exactly."""
    inputs = np.vstack([np.full((8, 16), 1e-160), VECTORS * 1e160])
    net = Sequential((Dense(16, "orthogonal"), activation("relu")), (16,))
    growth = predict_growth(net, inputs, covariances=False)
    drawn = simulate_bands(growth, 10)
    expected = math.log(np.mean(VECTORS**2) * 3 / 11) + 320 * math.log(10)
    assert drawn.log_growth_mean[1] == pytest.approx(expected, rel=1e-12)


def test_words_numbers_and_pictures():
    growth = predict_growth(mlp(30, 16, init="orthogonal"))
    drawn = simulate_bands(growth, 50)
    assert "(simulated, 50 networks)" in drawn.findings()["spread"].sentence
    assert "are dead (simulated, 50 networks)" in drawn.findings()["dead"].sentence
    assert drawn.table().splitlines()[-1].startswith("simulated: 50 networks, standard errors of the mean up to 0.")
    data = json.loads(json.dumps(drawn.to_dict(), allow_nan=False))
    assert data["log_growth_error"][-1] == drawn.log_growth_error[-1] > 0
    labels = drawn.plot().get_legend_handles_labels()[1]
    assert "simulated (50 networks): mean of the logarithm, 90% band" in labels
    mixed = predict_growth(Sequential((Dense(16), activation("relu"), *growth.question.net.layers[:4]), (16,)))
    labels = simulate_bands(mixed, 50).plot().get_legend_handles_labels()[1]
    assert "predicted and simulated (50 networks): mean of the logarithm, 90% band" in labels


def test_few_networks():
    """A level beyond the draws is refused; a row with too few living ones has gaps, or no band at all."""
    growth = predict_growth(mlp(4, 16, init="orthogonal"))
    drawn = simulate_bands(growth, 19)
    samples = simulate_growth(growth.question.net, 19)
    lower, upper = drawn.band(0.9)
    assert lower[1:] == pytest.approx(samples.log_second_moment.min(axis=0)[1:])
    assert upper[1:] == pytest.approx(samples.log_second_moment.max(axis=0)[1:])
    with pytest.raises(ValueError, match=r"^a band of level 0\.99 needs 199 networks, got 19: give more trials$"):
        drawn.band(0.99)
    with pytest.warns(RuntimeWarning, match="dead in every one of 40 trials"):
        dying = simulate_bands(predict_growth(mlp(40, 3, init="orthogonal")), 40)
    alive = np.round(40 * (1 - dying.p_dead)).astype(int)
    rare = (alive < 19) & (np.array(dying.band_method) == "simulated")
    assert rare.any() and np.isnan(dying.band(0.9)[0][rare]).all() and np.isfinite(dying.log_growth_mean[rare]).all()
    assert (np.array(dying.band_method)[alive < 2] == "unsupported").all()


def test_sizes_beyond_floating_point_stay_in_range():
    """Squares of 10^±100 a layer leave float64 at the second."""
    for power in (-100, 100):
        layers = Dense(4, initialization("orthogonal", gain=10.0**power)), activation("leaky_relu(0.1)")
        drawn = simulate_bands(predict_growth(Sequential(layers * 100, (4,))), 20, workers=1)
        rough = 100 * 2 * power * math.log(10)
        assert drawn.log_growth_mean[-1] == pytest.approx(rough, abs=200) and 0.1 < drawn.log_growth_std[-1] < 50
        assert np.isfinite(drawn.gradient_band(0.9)).all()


BN = predict_growth(mlp(2, 8, batch_norm=True))
REFUSED = {
    "growth must be a Growth of predict_growth, got ": lambda: simulate_bands(mlp(2, 8)),
    "trials must be at least 2, got 1": lambda: simulate_bands(BN, 1),
    "seed must be at least 0, got -1": lambda: simulate_bands(BN, 3, seed=-1),
    "workers must be at least 1, got 0": lambda: simulate_bands(BN, 3, workers=0),
    "batch must be at least 2, got 1": lambda: simulate_bands(BN, 3, batch=1),
    "batch is for BatchNorm over an infinite batch only, got 8: leave it out": (
        lambda: simulate_bands(predict_growth(mlp(2, 8, batch_norm=True), batch_size=4), 3, batch=8)
    ),
    "batch is for BatchNorm over an infinite batch only, got 4: leave it out": (
        lambda: simulate_bands(predict_growth(mlp(2, 8)), 3, batch=4)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_arguments_are_refused_in_one_line(message):
    with pytest.raises(ValueError) as error:
        REFUSED[message]()
    assert message in str(error.value) and "\n" not in str(error.value)
