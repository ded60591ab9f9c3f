"""The bundled digits: what they are, standardised, enlarged."""

import sys

import numpy as np
import pytest

from simulations.training import datasets


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return datasets.digits()


def test_digits_are_the_known_data(digits):
    """1797 images of 8×8 grey levels 0 … 16 whose sum is 561718; how often each digit occurs."""
    images, labels = digits
    assert images.shape == (1797, 1, 8, 8) and images.dtype == np.float64
    assert labels.shape == (1797,) and labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    step = np.diff(np.unique(images)).mean()
    levels = (images - images.min()) / step
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-9)
    assert round(levels.max()) == 16 and round(levels.sum()) == 561718
    assert labels[:5].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("size", "channels"), [(None, None), (8, 3), (12, 1), (32, 3)])
def test_digits_are_standardised_whatever_their_size(digits, size, channels):
    images, labels = datasets.digits(size, channels)
    assert images.shape == (1797, channels or 1, size or 8, size or 8)
    assert abs(images.mean()) < 1e-12 and images.var() == pytest.approx(1, abs=1e-12)
    assert np.array_equal(images[:, :1].repeat(channels or 1, axis=1), images)
    assert np.array_equal(labels, digits[1])


def test_altered_data_are_refused(monkeypatch):
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    levels, labels = sklearn_datasets.load_digits(return_X_y=True)
    levels[5, 7] += 1
    monkeypatch.setattr(sklearn_datasets, "load_digits", lambda **_: (levels, labels))
    with pytest.raises(ValueError, match="not the known 1797 images"):
        datasets.digits()


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'need scikit-learn: pip install "bntheory\[train\]"'):
        datasets.digits()


@pytest.mark.parametrize("value", [0, -3, 2.5, "8", float("nan"), True])
def test_bad_sizes_are_named(value):
    for name in ("size", "channels"):
        with pytest.raises(ValueError, match=rf"{name} must be .*got"):
            datasets.digits(**{name: value})


def test_they_are_not_made_smaller():
    with pytest.raises(ValueError, match="size must be at least 8, got 7"):
        datasets.digits(size=7)
