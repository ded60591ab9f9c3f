"""Pictures hold the numbers that they claim to show, with labelled axes."""

import dataclasses

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

import bntheory as bn
from bntheory.plotting import layer_rows
from simulations.growth import simulate_growth

matplotlib.use("Agg")


@pytest.fixture
def ax():
    from matplotlib.figure import Figure

    return Figure().add_subplot()


def _line(ax, word):
    return next(line for line in ax.lines if word in str(line.get_label()))


def test_growth_shows_prediction_band_and_samples(ax):
    growth = bn.predict_growth(bn.mlp(20, 32))
    samples = simulate_growth(bn.mlp(20, 32), trials=30)
    assert bn.plot_growth(growth, samples, samples, ax=ax, level=0.8, label="He") is ax
    rows = layer_rows(growth.rows)
    assert rows.tolist() == [0, *range(2, 41, 2)]
    assert _line(ax, "mean of the logarithm").get_ydata() == pytest.approx(growth.log_growth_mean[rows])
    assert _line(ax, "median").get_ydata() == pytest.approx(samples.quantiles(0.5).quantile[rows])
    band = ax.collections[0].get_paths()[0].vertices
    lower, upper = growth.band(0.8)
    assert band[:, 1].min() == pytest.approx(lower.min()) and band[:, 1].max() == pytest.approx(upper[rows].max())
    assert ax.get_xlabel() and ax.get_ylabel() and len(ax.get_legend().get_texts()) == 5


def test_bars_are_confidence_intervals_at_a_dozen_layers(ax):
    samples = simulate_growth(bn.mlp(40, 32), trials=100)
    bn.plot_growth(samples=samples, ax=ax)
    found = samples.quantiles((0.05, 0.5, 0.95))
    rows = layer_rows(samples.rows)
    drawn = [np.array(part.get_segments()) for part in ax.collections]
    assert [bars.shape for bars in drawn] == [(12, 2, 2)] * 3
    for bars, lower, upper in zip(drawn, found.lower, found.upper, strict=True):
        places = rows[bars[:, 0, 0].astype(int)]
        assert (bars[:, 0, 1] == lower[places]).all() and (bars[:, 1, 1] == upper[places]).all()
    assert (drawn[0][..., 1].max(axis=1) < drawn[1][..., 1].min(axis=1)).all()  # no bar runs into another
    assert (drawn[1][..., 1].max(axis=1) < drawn[2][..., 1].min(axis=1)).all()


def test_open_intervals_get_no_bar(ax):
    samples = simulate_growth(bn.mlp(5, 32), trials=20)  # none of 20 bounds a 5% quantile from below
    bn.plot_growth(samples=samples, ax=ax)
    assert [len(part.get_segments()) for part in ax.collections] == [0, 5, 0]


def test_gradients_relative_to_the_output(ax):
    samples = simulate_growth(bn.mlp(6, 32, batch_norm=True), trials=20, batch=4)
    assert samples.plot(ax, "gradients") is ax
    rows = layer_rows(samples.rows)
    median = np.asarray(_line(ax, "median").get_ydata())
    assert median == pytest.approx(samples.quantiles(0.5, quantity="log_gradient").quantile[rows])
    assert median[-1] == 0 and median[0] > 1 and "partial" in ax.get_ylabel()


def test_predicted_gradients_have_a_band_beside_simulated_ones(ax):
    net = bn.mlp(12, 32)
    growth, samples = bn.predict_growth(net), simulate_growth(net, trials=200)
    bn.plot_growth(growth, samples, ax=ax, quantity="gradients", level=0.8)
    rows = layer_rows(growth.rows)
    assert _line(ax, "mean of the logarithm").get_ydata() == pytest.approx(growth.log_gradient_mean[rows])
    assert _line(ax, "logarithm of the mean").get_ydata() == pytest.approx(growth.log_gradient[rows])
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    lower, upper = growth.gradient_band(0.8)
    assert (band.min(), band.max()) == pytest.approx((lower[rows].min(), upper[rows].max()))
    drawn = samples.quantiles((0.1, 0.9), quantity="log_gradient").quantile[:, 0]
    assert drawn == pytest.approx([lower[0], upper[0]], abs=0.5)  # 4 standard errors of 200 draws, about


def test_channels_are_two_curves(ax):
    net = bn.mlp(8, 64)
    growth, samples = bn.predict_growth(net, batch_size=2), simulate_growth(net, trials=30, batch=2)
    bn.plot_growth(growth, samples, samples, ax=ax, quantity="channels")
    rows = layer_rows(growth.rows)
    for word, name in (("squared mean", "log_channel_mean_square"), ("variance", "log_channel_variance")):
        predicted = next(line for line in ax.lines if f"{word}" in line.get_label() and "predicted" in line.get_label())
        simulated = next(line for line in ax.lines if f"{word}" in line.get_label() and "median" in line.get_label())
        assert predicted.get_ydata() == pytest.approx(getattr(growth, name)[rows])
        assert simulated.get_ydata() == pytest.approx(samples.quantiles(0.5, quantity=name).quantile[rows])
        assert predicted.get_color() != simulated.get_color()
    assert "m_c^2" in ax.get_ylabel() and "v_c" in ax.get_ylabel()


def test_rounding_of_a_squared_mean_of_zero_is_a_gap(ax):
    net = bn.Sequential((bn.Dense(16), bn.BatchNorm()) * 3, (16,))
    samples = simulate_growth(net, trials=5, batch=4)
    rows = [k for k, name in enumerate(samples.operation) if name == "BatchNorm"]
    assert (samples.log_channel_mean_square[:, rows] < -60).all()
    bn.plot_growth(bn.predict_growth(net, batch_size=4), samples, samples, ax=ax, quantity="channels")
    for word in ("squared mean $m_c^2$, predicted", "squared mean $m_c^2$, 5 simulated"):
        values = np.asarray(_line(ax, word).get_ydata())
        assert np.isnan(values[rows]).all() and np.isfinite(values[:2]).all()
    assert ax.get_ylim()[0] > -20


def test_blocks_are_named_on_the_axis(ax):
    bn.plot_growth(bn.predict_growth(bn.mlp(4, 8, residual=True)), ax=ax)
    assert ax.get_xlabel() == r"residual block $\ell$" and ax.get_xlim()[1] < 5


def test_the_legend_lies_above_the_curves(ax):
    growth, samples = bn.predict_growth(bn.mlp(10, 64)), simulate_growth(bn.mlp(10, 64), trials=30)
    bn.plot_growth(growth, samples, ax=ax)
    ax.figure.draw_without_rendering()
    legend = ax.get_legend().get_window_extent().transformed(ax.transData.inverted())
    top = max(np.nanmax(line.get_ydata()) for line in ax.lines if len(line.get_ydata()))
    assert legend.y0 > max(top, growth.band(0.9)[1][layer_rows(growth.rows)].max())
    limits = ax.get_ylim()
    bn.plot_growth(samples=samples, label="again", ax=ax)
    assert ax.get_ylim()[1] - limits[1] < 0.2 * (limits[1] - limits[0])  # for two lines more, not a second gap
    ax.set_ylim(-9, 9)
    bn.plot_growth(growth, ax=ax)
    assert ax.get_ylim() == (-9, 9)


def test_growth_without_a_law_shows_the_mean_field(ax):
    growth = bn.predict_growth(bn.mlp(5, 32, "tanh"))
    unknown = dataclasses.replace(growth._band, mean=np.full(11, np.nan), std=np.full(11, np.nan))
    bn.plot_growth(dataclasses.replace(growth, _band_rule=lambda: unknown), ax=ax)
    assert not ax.collections
    expected = growth.log_second_moment[layer_rows(growth.rows)]
    assert _line(ax, "logarithm of the mean").get_ydata() == pytest.approx(expected)


def test_dead_draws_leave_gaps(ax):
    samples = simulate_growth(bn.mlp(6, 1), trials=20)
    assert not samples.alive.all()
    bn.plot_growth(measured=samples, ax=ax)
    drawn = np.array([line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 7])
    assert np.isfinite(drawn).sum() == samples.alive[:, layer_rows(samples.rows)].sum()


def test_quantiles_are_those_of_living_networks(ax):
    with pytest.warns(RuntimeWarning, match="dead in every one of 40 trials"):
        samples = simulate_growth(bn.mlp(30, 2), trials=40)
    rows = layer_rows(samples.rows)
    alive = samples.alive[:, rows]
    assert 0 < alive[:, 3].sum() < 40 and not alive[:, -1].any()
    bn.plot_growth(samples=samples, ax=ax)
    median = np.asarray(_line(ax, "median").get_ydata())
    assert np.isfinite(median).tolist() == alive.any(axis=0).tolist()
    expected = np.quantile(samples.log_second_moment[alive[:, 3], rows[3]], 0.5, method="inverted_cdf")
    assert median[3] == pytest.approx(expected)


def test_layers_of_a_residual_network_are_its_sums():
    rows = tuple(bn.leaves(bn.mlp(3, 8, residual=True)))
    assert [rows[k].operation for k in layer_rows(rows)] == ["input", "sum", "sum", "sum"]
    linear = tuple(bn.leaves(bn.Sequential((bn.Dense(3), bn.Dense(3)), (3,))))
    assert layer_rows(linear).tolist() == [0, 1, 2]


@pytest.mark.parametrize("view", ["singular", "x", "log"])
def test_spectrum_histogram_and_law_have_the_same_area(ax, view):
    law = bn.FussCatalan(2)
    logs = law.log.rvs(40_000, seed=1) / 2
    bn.plot_spectrum(law, logs, ax=ax, view=view)
    heights, edges = ax.patches[0].get_data()[:2]
    assert (heights * np.diff(edges)).sum() == pytest.approx(1)
    x, density = _line(ax, "law").get_data()
    assert density == pytest.approx({"singular": law.singular, "x": law, "log": law.log}[view].pdf(x))
    middle = (edges[1:] + edges[:-1]) / 2
    top = heights.max() if view == "log" else np.median(heights)
    at = np.interp(middle[20:], x, density)
    assert np.abs(heights[20:] - at).max() < 0.25 * top


def test_spectrum_marks_atoms_and_counts_zeros(ax):
    logs = np.concatenate([np.full(300, -np.inf), bn.MarchenkoPastur(2.0).nonzero.log.rvs(300, seed=2) / 2])
    bn.plot_spectrum(bn.MarchenkoPastur(2.0), logs, ax=ax)
    heights, edges = ax.patches[0].get_data()[:2]
    assert (heights * np.diff(edges)).sum() == pytest.approx(0.5)
    assert [text.get_text() for text in ax.texts] == ["atom 0.5"]


def test_several_laws_on_logarithmic_axes(ax):
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(1e-3, 10)
    for depth, color in ((1, "C0"), (4, "C1")):
        law = bn.jacobian_law(bn.mlp(depth, 64))
        logs = law.nonzero.log.rvs(3000, seed=depth) / 2
        bn.plot_spectrum(law, logs, ax=ax, label=f"{depth} layers", color=color)
    assert len(ax.lines) == 2 and ax.get_ylim() == (1e-3, 10)  # the atom at 0 has no place here
    heights, edges = ax.patches[0].get_data()[:2]
    assert np.diff(np.log(edges)) == pytest.approx(np.log(edges[-1] / edges[0]) / 60)
    assert (heights * np.diff(edges)).sum() == pytest.approx(1)
    s, density = _line(ax, "4 layers: law").get_data()
    assert density == pytest.approx(law.singular.pdf(s))


def test_laws_of_atoms_only_are_stems(ax):
    bn.plot_spectrum(bn.DiscreteLaw([0.0, 1.0, 4.0], [0.5, 0.25, 0.25]), ax=ax)
    stems = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert [line.get_xdata()[0] for line in stems] == [0, 1, 2]
    assert [line.get_ydata()[1] for line in stems] == [0.5, 0.25, 0.25]
    assert ax.get_ylim() == (0, 1)  # where a mass is its own height


@pytest.mark.parametrize("view", ["singular", "log"])
def test_a_density_that_diverges_at_the_top_leaves_room_for_the_rest(ax, view):
    """Two orthogonal ReLU layers: cdf = ½ + arcsin(s)/π, density 1/(π √(1 − s²))."""
    law = bn.jacobian_law(bn.mlp(2, 64, init="orthogonal"))
    bn.plot_spectrum(law, ax=ax, view=view)
    s = np.sin(0.99 * np.pi / 2)
    density = {"singular": 1, "log": s / 2}[view] / (np.pi * np.sqrt(1 - s**2))
    assert ax.get_ylim()[1] == pytest.approx(1.15 * density, rel=0.1)


def test_bars_above_the_law_are_not_cut_off_on_a_logarithm(ax):
    bn.plot_spectrum(bn.FussCatalan(20), bn.FussCatalan(200).log.rvs(500, seed=4) / 40, ax=ax, view="log")
    assert ax.get_ylim()[1] > ax.patches[0].get_data()[0].max()


def test_phase_shows_the_edge(ax):
    bn.plot_phase("erf", ax=ax, bias_variance=(0.0, 0.4), mark=(1.5, 0.1))
    edge, biases = _line(ax, "edge of chaos").get_data()
    assert edge == pytest.approx(bn.edge_of_chaos("erf", biases))
    assert _line(ax, "sigma_w").get_xdata() == [1.5]
    assert "erf" in ax.get_title() and ax.get_xlabel() and ax.get_ylabel()


def test_a_result_draws_itself():
    from matplotlib import pyplot

    axes = bn.predict_growth(bn.mlp(3, 4)).plot()
    assert axes.lines
    pyplot.close(axes.figure)


def test_bad_arguments(ax):
    with pytest.raises(ValueError, match="plot_growth needs growth, samples or measured, got none of them"):
        bn.plot_growth(ax=ax)
    with pytest.raises(ValueError, match="quantity must be one of activations, channels, gradients; got 'gradient'"):
        bn.plot_growth(bn.predict_growth(bn.mlp(2, 4)), ax=ax, quantity="gradient")
    with pytest.raises(ValueError, match="log_gradient was not sampled: simulate_growth records it"):
        simulate_growth(bn.mlp(2, 4), trials=2, gradients=False).plot(ax, "gradients")
    with pytest.raises(ValueError, match="plot_spectrum needs a law or log_singular_values, got neither"):
        bn.plot_spectrum(ax=ax)
    with pytest.raises(ValueError, match=r"view must be one of singular, x, log; got 'logs' \(did you mean log\?\)"):
        bn.plot_spectrum(bn.FussCatalan(1), ax=ax, view="logs")
    with pytest.raises(ValueError, match="ranges must not be empty"):
        bn.plot_phase("tanh", ax=ax, weight_variance=(2, 1))
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 1"):
        bn.plot_growth(bn.predict_growth(bn.mlp(2, 4)), ax=ax, level=1)


@pytest.mark.parametrize("quantity", ["activations", "channels", "gradients"])
def test_a_prediction_with_nothing_to_draw_is_refused(quantity):
    """One layer of zeros after the input: a point, or nothing; no figure is left open."""
    net = bn.Sequential((bn.Dense(8), bn.BatchNorm(gamma=0), bn.activation("relu")), (8,))
    before = pyplot.get_fignums()
    with pytest.raises(ValueError, match=f"nothing is predicted for {quantity}"):
        bn.plot_growth(bn.predict_growth(net, batch_size=8), quantity=quantity)
    assert pyplot.get_fignums() == before


def test_channels_without_covariances_are_refused():
    growth = bn.predict_growth(bn.cnn(3, 4, image=(2, 4, 4)), covariances=False)
    with pytest.raises(ValueError, match="nothing is predicted for channels"):
        bn.plot_growth(growth, quantity="channels")


def test_a_prediction_without_a_band_is_seen_under_a_simulation():
    for batch_norm, widths in ((False, [1.5, 1.0]), (True, [3.0])):
        growth = bn.predict_growth(bn.mlp(4, 16, batch_norm=batch_norm), batch_size=8 if batch_norm else None)
        ax = bn.plot_growth(growth, quantity="gradients")
        assert [line.get_linewidth() for line in ax.lines] == widths
