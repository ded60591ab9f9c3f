"""Real images that need no download, as standardised arrays: (images, labels)."""

from __future__ import annotations

import hashlib

import numpy as np

from bntheory import arguments
from simulations import streams

# of the 1797 × 64 grey levels (0 … 16) followed by the labels, one byte each
_DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def digits(size: int | None = None, channels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the 1797 handwritten digits that scikit-learn ships, standardised over the whole set.

    x ↦ (x − mean) / standard deviation, one mean and one standard deviation for all images and positions.

    Parameters
    ----------
    size : int, optional
        Side of the images, at least 8; None: 8, as they are. Larger ones are interpolated bilinearly (`resize`) and
        standardised again.
    channels : int, optional
        Copies of the grey image, at least 1; None: 1. ResNets for CIFAR take three.

    Returns
    -------
    images : float64 array, (1797, channels, size, size)
        Of mean 0 and variance 1.
    labels : int64 array, (1797,)
        0 … 9.

    Raises
    ------
    ValueError
        If size is below 8, channels below 1, or the installed data are not the known ones.
    ImportError
        If scikit-learn is missing.

    References
    ----------
    Alpaydin, Kaynak 1998, "Optical recognition of handwritten digits", UCI machine learning repository (test part).

    Examples
    --------
    >>> images, labels = digits(size=32, channels=3)  # doctest: +SKIP
    >>> images.shape, labels[:5].tolist()  # doctest: +SKIP
    ((1797, 3, 32, 32), [0, 1, 2, 3, 4])
    """
    size = arguments.integer("size", 8 if size is None else size, at_least=8)
    channels = arguments.integer("channels", 1 if channels is None else channels)
    levels, labels = _bundled_digits()
    images = _standardised(levels[:, None])
    if size != 8:
        images = _standardised(resize(images, size))
    return np.repeat(images, channels, axis=1), labels


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Interpolate images bilinearly to size × size.

    Pixel i of n lies at (i + ½)/n of the side; beyond the outermost centres the outermost value holds. For enlarging:
    nothing is averaged when the size shrinks.

    Parameters
    ----------
    images : array, (…, height, width)
    size : int
        At least 1.

    Returns
    -------
    float64 array, (…, size, size)

    Raises
    ------
    ValueError
        If size is below 1 or images has fewer than two axes.

    Examples
    --------
    >>> resize(np.array([[0.0, 4.0], [0.0, 4.0]]), 4)[0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    size, images = arguments.integer("size", size), np.asarray(images, dtype=np.float64)
    if images.ndim < 2:
        raise ValueError(f"images must have shape (…, height, width), got {images.shape}")
    rows, columns = (_interpolation(side, size) for side in images.shape[-2:])
    return rows @ images @ columns.T


def batch_of(images: np.ndarray, size: int, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Return `size` different images, drawn without replacement.

    Parameters
    ----------
    images : array, (number, …)
    size : int
        From 1 to the number of images. Of two sizes from one seed the smaller is the beginning of the larger.
    seed : int or numpy.random.Generator

    Returns
    -------
    array, (size, …)

    Raises
    ------
    ValueError
        If size is below 1 or above the number of images.

    Examples
    --------
    >>> batch_of(np.arange(10), 3, seed=0).shape
    (3,)
    """
    size = arguments.integer("size", size)
    if size > len(images):
        raise ValueError(f"size must be at most the number of images, {len(images)}, got {size}")
    order = streams.input_stream(streams.root(seed)).permutation(len(images))
    return np.asarray(images)[order[:size]]


def _bundled_digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError('the digits need scikit-learn: pip install "bntheory[train]"') from None
    levels, labels = load_digits(return_X_y=True)
    content = levels.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes()
    if levels.shape != (1797, 64) or hashlib.sha256(content).hexdigest() != _DIGITS_SHA256:
        raise ValueError(f"scikit-learn's digits are not the known 1797 images of 8×8, got shape {levels.shape}")
    return levels.reshape(-1, 8, 8).astype(np.float64), labels.astype(np.int64)


def _standardised(images: np.ndarray) -> np.ndarray:
    centred = images - images.mean()
    return centred / centred.std()


def _interpolation(side: int, size: int) -> np.ndarray:
    """Matrix (size, side) of the weights of linear interpolation between pixel centres."""
    place = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    left = np.minimum(place.astype(int), max(side - 2, 0))
    weights = np.zeros((size, side))
    weights[np.arange(size), left] = 1 - (place - left)
    weights[np.arange(size), np.minimum(left + 1, side - 1)] += place - left
    return weights
