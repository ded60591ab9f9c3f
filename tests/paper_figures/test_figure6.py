import importlib
import json
import math
import pathlib

import numpy as np
import pytest

from paper_figures import figure6

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "images_unlike.py"
STUDY = json.loads(SCRIPT.with_suffix(".json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data():
    return figure6.compute(seed=1, depth=8, images=16, draws=3, theory_images=4)


def failures(data):
    return [check.what for check in figure6.check(data) if not check.passed]


def paper_like(data, **changes):
    """One class for all images without BN, shares in theory's range with it."""
    nobn = {**data["nobn"], "share": np.ones(3), "column": np.ones(3), "predicted_share": np.ones(3)}
    bn = {**data["bn"], "share": np.array([0.6, 0.8]), "predicted_share": np.array([0.4, 0.8, 1.0])}
    nobn, bn = ({**part, "distance": np.full(3, d)} for part, d in ((nobn, 1e-4), (bn, 0.05)))
    return {**data, "bn": bn, "nobn": {**nobn, **changes}}


def test_gradients_are_softmax_less_one_hot(data):
    for kind in ("nobn", "bn"):
        gradient = data[kind]["gradient"]
        assert gradient.shape == (16, 10) and np.abs(gradient.sum(axis=1)).max() < 1e-7
        assert np.all((gradient < 0).sum(axis=1) <= 1) and np.abs(gradient).max() <= 1 / 16


def test_shares_of_correlated_outputs():
    """All images at c = 1; at c = 0 as 3 balls in 3 boxes: 3, 2 or 1 in the fullest by chances 1/9, 6/9, 2/9."""
    assert np.all(figure6.shares(0.0, 50) == 1)
    trials = 20_000
    found = figure6.shares(1.0, 3, classes=3, trials=trials, seed=5)
    expected, deviation = 1 / 9 + 6 / 9 * 2 / 3 + 2 / 9 / 3, found.std() / np.sqrt(trials)
    assert abs(found.mean() - expected) < 4 * deviation  # a false alarm in 16,000


def test_two_images_agree_as_gaussian_orthants_say():
    """Two classes: the sign of a difference, alike in two images with probability 1/2 + arcsin(c)/π."""
    trials = 20_000
    found = figure6.shares(0.4, 2, classes=2, trials=trials, seed=2)
    agree, expected = np.mean(found == 1), 0.5 + np.arcsin(0.6) / np.pi
    assert abs(agree - expected) < 4 * np.sqrt(expected * (1 - expected) / trials)  # a false alarm in 16,000


def test_what_the_paper_shows_passes(data):
    assert failures(paper_like(data)) == []


@pytest.mark.parametrize(
    "changes", [{"share": np.array([1.0, 0.9])}, {"column": np.array([0.5])}, {"distance": np.ones(2)}]
)
def test_several_classes_without_bn_fail(data, changes):
    assert len(failures(paper_like(data, **changes))) == 1


def test_draws_two_maps_and_the_shares(data):
    assert len(figure6.draw(data).axes) == 4


def test_the_text_quotes_the_study():
    found = [STUDY[name]["mean"] for name in ("all_covariances", "mean_of_images")]
    networks = [part["mean"] for part in STUDY["networks"].values()]
    own, mean, theory, *widths = (f"{value:.3f}" for value in (*found, STUDY["theory"], *networks))
    assert (
        f"8×8: {own}, {mean}; theory {theory}; networks of 16, 64 and 256 channels {', '.join(widths)};" in figure6.TEXT
    )


def test_the_study_bears_out_the_text():
    """Units with all covariances against wide networks: 3 standard errors; with the mean, within 5% of theory."""
    units, wide = STUDY["all_covariances"], STUDY["networks"]["256"]
    error = math.hypot(units["standard_error"], wide["standard_error"])
    assert abs(units["mean"] - wide["mean"]) < 3 * error
    assert STUDY["mean_of_images"]["mean"] == pytest.approx(STUDY["theory"], rel=0.05)
    assert wide["mean"] - STUDY["theory"] > 10 * error


def test_covariances_of_the_study(monkeypatch):
    """Its windows are torch's padded convolutions; images of equal covariances are their own mean, others are not."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    study = importlib.import_module("images_unlike")
    image = torch.randn(1, 1, study.SIDE, study.SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernels = torch.eye(9, dtype=torch.float64).reshape(9, 1, 3, 3)
    expected = torch.nn.functional.conv2d(image, kernels, padding=1).reshape(9, -1)
    assert np.array_equal(study.windows() @ image.numpy().ravel(), expected.numpy())
    one, other = np.random.default_rng(0).standard_normal((2, 3, study.SIDE, study.SIDE))
    same = study.covariances(np.array([one, one, one]))
    np.testing.assert_allclose(study.averaged(same), same, rtol=1e-12, atol=1e-12)
    mixed = study.covariances(np.array([one, one, other]))
    found = study.averaged(mixed)
    np.testing.assert_allclose(found[2, :, 2], (2 * mixed[0, :, 0] + mixed[2, :, 2]) / 3, rtol=1e-12, atol=1e-12)
    pairs = (mixed[0, :, 1] + mixed[0, :, 2] + mixed[2, :, 0]) / 3
    np.testing.assert_allclose(found[0, :, 1], pairs, rtol=1e-12, atol=1e-12)
