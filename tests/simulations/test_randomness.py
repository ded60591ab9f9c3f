"""The test of randomness: its level, its power, and what it names."""

import importlib.util
import json
import math
import pathlib

import numpy as np
import pytest
from scipy import special

import simulations as sim
from bntheory import FussCatalan
from simulations import iid_null, statistics

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "randomness_study.py"
STUDY = json.loads(SCRIPT.with_suffix(".json").read_text())
ENTRIES = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "rademacher": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
}
SHAPES = ((40, 30), (50, 40), (35, 50))


@pytest.mark.parametrize("cell", STUDY["calibration"], ids=lambda c: f"{c['entries']}-{c['width']}-{c['factors']}")
def test_level_in_the_study(cell):
    """The recorded study of dense products: 4 … 6% of false alarms with Gaussian and uniform entries.

    Outliers are named in at most 6%; Laplace entries, of large kurtosis, raise more alarms at small widths.
    """
    assert STUDY["level"] == 0.05
    if cell["entries"] in ("gaussian", "uniform"):
        assert cell["repetitions"] >= 5000 or cell["width"] > 300
        margin = 0.01 if cell["width"] <= 300 else 4 * cell["standard_error"]
        assert abs(cell["together"] - 0.05) <= margin
        assert cell["outliers"] - 0.05 <= margin
    else:
        assert abs(cell["together"] - 0.05) <= (0.03 if cell["entries"] == "laplace" else 0.015)


def test_power_in_the_study():
    """Spikes beyond the edge are always found; at half of it and below nothing can be."""
    spikes = {part["size"]: part for part in STUDY["power"] if part["rank"] == 1}
    assert all(part["together"] > 0.99 and part["outliers"] > 0.99 for size, part in spikes.items() if size >= 1)
    assert spikes[0.75]["together"] > 0.8


@pytest.fixture(scope="module")
def study():
    """The script of that study."""
    spec = importlib.util.spec_from_file_location("randomness_study", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_study_draws_dense_products(study):
    """Its QR steps against products that are formed, up to the constant that is left out."""
    found = study.draw("uniform", 6, 3, 2, 5)
    rng = np.random.default_rng([1, 6, 3, 1, 2])
    first, second, third = (rng.uniform(-1, 1, (5, 6, 6)) for _ in range(3))
    logs = np.log(np.linalg.svd(third @ second @ first, compute_uv=False))
    np.testing.assert_allclose(iid_null.centred(found["logs"]), iid_null.centred(logs), rtol=0, atol=1e-9)
    kurtosis = [[iid_null.excess_kurtosis(m) for m in matrices] for matrices in (first, second, third)]
    np.testing.assert_allclose(found["kurtoses"], np.sum(kurtosis, axis=0), rtol=1e-12)


def test_chunks_of_the_study(study):
    """All repetitions, once; the file of each names the draw that fills it."""
    for cell in study.CELLS:
        assert sum(count for _, count in cell.chunks()) == cell.repetitions
        files = study.spectra_of(cell)
        assert [task[1:] for task in files.values()] == [(*cell[:3], *chunk) for chunk in cell.chunks()]


@pytest.mark.parametrize("name", ENTRIES)
def test_level(name):
    """False alarms of 150 products of three rectangular matrices; this test's own rate: 1e-3 each."""
    rng, alarms = np.random.default_rng(5), np.zeros(2, dtype=int)
    for repetition in range(150):
        found = sim.randomness_test([ENTRIES[name](rng, shape) for shape in SHAPES], seed=repetition // 75)
        alarms += not found.random, bool(found.outliers)
    for count in alarms.tolist():
        low, high = statistics.binomial_interval(count, 150, 1 - 1e-3)
        assert low <= 0.05 <= high


def test_p_values_by_counting():
    """Of the data as one more draw: exact whatever the statistics are."""
    rng = np.random.default_rng(1)
    null = iid_null.null_of((6, 5), 150, 3)
    for found in rng.choice(null.statistics[:, 0], (20, 3)) * rng.uniform(0.5, 2, (20, 3)):
        pool = np.vstack([found, null.statistics])
        alone = [[float(np.mean(pool[:, j] >= row[j])) for j in range(3)] for row in pool]
        together = float(np.mean([min(row) <= min(alone[0]) for row in alone]))
        np.testing.assert_allclose(iid_null.p_values(found, null), [*alone[0], together], rtol=1e-15)


def test_edge_of_the_band():
    """At most a share `level` of the draws, one more among them, lies beyond."""
    null = iid_null.null_of((6, 5), 150, 3)
    for level in (0.01, 0.05, 0.5):
        beyond = np.count_nonzero(null.statistics[:, 1] > null.edge(level))
        assert beyond + 1 <= level * 151 < beyond + 2


def test_bend_of_one_square_matrix():
    """T/n = cos θ at x = 2 + 2 cos θ, the real part of the moment generating function on the cut.

    For points that stand for the law; where it ends, a sum over them is no integral.
    """
    n = 400
    x = FussCatalan(1).ppf(1 - (np.arange(n) + 0.5) / n)
    found = iid_null._bend(0.5 * np.log(x))
    np.testing.assert_allclose((found / n)[3:-3], ((x - 2) / 4)[3:-3], rtol=0, atol=0.005)


def test_kurtosis_shifts_singular_values():
    """Signs against Gaussian entries, rectangular factors: the mean logarithms differ by the predicted shift.

    4,000 products each; standard errors below 8% of the largest shift but for the last values; false-alarm rate 1e-6.
    """
    rng, sizes, trials = np.random.default_rng(2), ((30, 24), (36, 30)), 4000
    means, errors = [], []
    for name in ("rademacher", "gaussian"):
        product = ENTRIES[name](rng, (trials, *sizes[1])) @ ENTRIES[name](rng, (trials, *sizes[0]))
        logs = np.log(np.linalg.svd(product, compute_uv=False))
        means.append(logs.mean(axis=0))
        errors.append(logs.std(axis=0) / math.sqrt(trials))
    bend = iid_null.null_of((24, 30, 36), 1000, 0).bend
    shift = -2 * bend * sum(1 / math.prod(size) for size in sizes)
    second_order = 0.15 * np.abs(shift).max()
    assert np.all(np.abs(means[0] - means[1] - shift) < 5.5 * np.hypot(*errors) + second_order)
    assert np.ptp(shift) > 5 * second_order  # no shift at all would fail


def test_draws_are_those_of_explicit_products():
    """Medians of the y_i against dense products; false-alarm rate 1e-4 over all of them."""
    null = iid_null.null_of((30, 40, 50, 35), 1000, 0)
    rng = np.random.default_rng(3)
    logs = np.array([sim.log_singular_values([rng.standard_normal(s) for s in SHAPES]) for _ in range(300)])
    above = (iid_null.centred(logs) > null.median).sum(axis=0)
    expected, error = 150, math.sqrt(300 / 4 * (1 + 300 / 1000))
    bound = special.ndtri(1 - 1e-4 / 2 / 30) * error
    assert np.all((np.abs(above - expected) < bound) | (null.above == 0))


def test_spikes_are_named():
    """Two planted directions, one of them enormous: these two, and no others."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((80, 60))
    left, right = (np.linalg.qr(rng.standard_normal((n, 2)))[0] for n in weights.shape)
    found = sim.randomness_test(weights + left @ np.diag([1e6, 1.5 * (math.sqrt(80) + math.sqrt(60))]) @ right.T)
    assert not found.random and found.p_value < 0.01
    assert [outlier.index for outlier in found.outliers] == [0, 1]
    for outlier in found.outliers:
        assert outlier.log_singular_value == found.log_singular_values[outlier.index]
        assert outlier.excess == found.centred[outlier.index] - found.upper[outlier.index] > 0
    assert found.outliers[0].log_singular_value == pytest.approx(math.log(1e6), abs=1e-3)
    assert "2 of 60 singular values outside of the 95% band: number 1 by a factor" in str(found)


def test_a_small_singular_value_is_named():
    left, logs, right = np.linalg.svd(np.random.default_rng(1).standard_normal((40, 40)))
    logs[-1] *= 1e-9
    (outlier,) = sim.randomness_test(left * logs @ right).outliers
    assert outlier.index == 39 and outlier.excess < -10


def test_another_bulk():
    """A product of two matrices passes as a list, not as one matrix; nor does an orthogonal one."""
    rng = np.random.default_rng(2)
    factors = [rng.standard_normal((30, 30)) for _ in range(2)]
    assert sim.randomness_test(factors).random
    assert not sim.randomness_test(factors[1] @ factors[0]).random
    assert not sim.randomness_test(np.linalg.qr(factors[0])[0]).random


def test_scales_do_not_matter():
    rng = np.random.default_rng(4)
    factors = [rng.uniform(-1, 1, (12, 12)) for _ in range(300)]
    plain = sim.randomness_test(factors)
    scaled = sim.randomness_test([2.0**900 * factors[0], *factors[1:-1], 2.0**-700 * factors[-1]])
    np.testing.assert_allclose(scaled.centred, plain.centred, rtol=0, atol=1e-9)
    assert scaled.p_values == plain.p_values


def test_a_trained_layer():
    """The hidden weights of a network on digits: random before, not after fifty steps."""
    torch = pytest.importorskip("torch")
    from bntheory import mlp

    images, labels = sim.digits()
    inputs, targets = torch.from_numpy(images.reshape(-1, 64)).float(), torch.from_numpy(labels)
    model = sim.build(mlp(depth=2, width=64, input_width=64, output_width=10), seed=0)
    hidden = next(p for p in list(model.parameters())[1:] if p.shape == (64, 64))
    assert sim.randomness_test(hidden.detach()).random
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    found = sim.randomness_test(hidden.detach())
    assert found.p_value < 0.01 and found.outliers[0].index == 0


def test_jacobian_of_a_linear_network():
    """The list of its weights passes; its product is the Jacobian."""
    pytest.importorskip("torch")
    from bntheory import mlp

    model = sim.build(mlp(3, 40, "linear", "lecun_normal", input_width=40), seed=1, dtype="float64")
    weights = [p.detach().numpy() for p in model.parameters() if p.ndim == 2]
    listed = sim.randomness_test(weights)
    assert listed.random
    np.testing.assert_allclose(
        sim.log_singular_values([sim.jacobian(model, np.ones(40))]), listed.log_singular_values, rtol=0, atol=1e-8
    )


def test_plain_data_and_picture():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = sim.randomness_test(np.diag(np.arange(1.0, 9)))
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["shapes"] == [[8, 8]] and data["random"] is found.random
    assert len(data["upper"]) == 8 and len(data["outliers"]) == len(found.outliers)
    ax = found.plot()
    named = ax.get_legend_handles_labels()[1]
    assert any(f"p = {found.p_value:.2g}" in name for name in named)
    assert any("outside" in name for name in named) == bool(found.outliers)
    pyplot.close(ax.figure)


def test_parameters_of_torch():
    """As they are in a module, that is with requires_grad, and in a precision that NumPy does not have."""
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.from_numpy(np.random.default_rng(0).standard_normal((5, 4))))
    expected = sim.randomness_test(weight.detach().numpy())
    assert sim.randomness_test(weight).p_value == sim.randomness_test([weight]).p_value == expected.p_value
    rounded = weight.detach().bfloat16()
    assert sim.randomness_test(rounded).p_value == sim.randomness_test(rounded.double().numpy()).p_value


def test_seeds():
    weights = np.random.default_rng(0).standard_normal((5, 4))
    one, two = (sim.randomness_test(weights, seed=np.random.default_rng(3)) for _ in range(2))
    assert one.seed == two.seed and one.p_value == two.p_value
    assert sim.randomness_test(weights, seed=1).median[0] != one.median[0]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (3, {}, "a matrix or a list of matrices is needed, got 3"),
        ([], {}, "at least one matrix is needed"),
        (np.ones(3), {}, "matrix 0 must be two-dimensional"),
        ([np.ones((3, 4)), np.ones((3, 4))], {}, "matrix 1 must have as many columns as matrix 0 has rows"),
        (np.array([[1.0, np.nan], [0, 1]]), {}, "matrix 0 must be finite, got nan"),
        (np.eye(2) * 1j, {}, "matrix 0 must be real, got complex numbers"),
        (np.ones((1, 5)), {}, "the smallest dimension must be at least 2, got 1"),
        (np.zeros((3, 3)), {}, "3 of 3 singular values are zero"),
        (np.ones((4, 3)), {}, "2 of 3 singular values are zero to working precision"),
        (np.eye(2), {"level": 1.0}, r"level must be in \(0, 1\), got 1.0"),
        (np.eye(2), {"level": 1e-4}, "trials must be at least 10000 for level 0.0001, got 1000"),
        (np.eye(2), {"trials": 50}, "trials must be at least 100 for level 0.05, got 50"),
        (np.eye(2), {"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_input(given, options, message):
    with pytest.raises(ValueError, match=message) as error:
        sim.randomness_test(given, **options)
    assert "\n" not in str(error.value)
