"""The handwritten digits that scikit-learn ships."""

from __future__ import annotations

import hashlib

import numpy as np

from bntheory import arguments
from simulations.training.datasets.image_set import ImageSet

# of the 1797 × 64 grey levels (0 … 16) followed by the labels, one byte each
_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def digits(size: int | None = None, channels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the 1797 handwritten digits that scikit-learn ships, standardised over the whole set.

    x ↦ (x − mean) / standard deviation, one mean and one standard deviation for all images and positions.

    Parameters
    ----------
    size : int, optional
        Side of the images, at least 8; None: 8, as they are. Larger ones are interpolated bilinearly (`resize`) before
        they are standardised.
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
    stored = stored_digits()
    return stored.standardised(size=size, channels=channels), stored.labels


def stored_digits() -> ImageSet:
    """Return the digits as they are stored, after a look at every pixel and label."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError('the digits need scikit-learn: pip install "bntheory[train]"') from None
    levels, labels = load_digits(return_X_y=True)
    pixels = levels.astype(np.uint8)
    content = pixels.tobytes() + labels.astype(np.uint8).tobytes()
    if levels.shape != (1797, 64) or hashlib.sha256(content).hexdigest() != _SHA256:
        raise ValueError(f"scikit-learn's digits are not the known 1797 images of 8×8, got shape {levels.shape}")
    return ImageSet("digits", pixels.reshape(-1, 1, 8, 8), labels.astype(np.int64))
