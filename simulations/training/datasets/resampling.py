"""Images of another size: interpolated when they grow, averaged when they shrink."""

from __future__ import annotations

import numpy as np

from bntheory import arguments


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Interpolate images bilinearly to size × size.

    Pixel i of n lies at (i + ½)/n of the side; beyond the outermost centres the outermost value holds. For enlarging:
    nothing is averaged when the size shrinks (see `area_average`).

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
    images, size = _checked(images, size)
    rows, columns = (_interpolation(side, size) for side in images.shape[-2:])
    return rows @ images @ columns.T


def area_average(images: np.ndarray, size: int) -> np.ndarray:
    """Shrink images to size × size: each new pixel is the mean over the area that it covers.

    Row i of `size` covers rows i n/size to (i + 1) n/size of n, shares of rows included; columns likewise. The mean of
    an image is kept. For shrinking: enlarged images would be steps (see `resize`).

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
    >>> area_average(np.array([[0.0, 3.0, 6.0]] * 3), 2)[0].tolist()
    [1.0, 5.0]
    """
    images, size = _checked(images, size)
    rows, columns = (_coverage(side, size) for side in images.shape[-2:])
    return rows @ images @ columns.T


def _checked(images: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    size, images = arguments.integer("size", size), np.asarray(images, dtype=np.float64)
    if images.ndim < 2:
        raise ValueError(f"images must have shape (…, height, width), got {images.shape}")
    return images, size


def _interpolation(side: int, size: int) -> np.ndarray:
    """Matrix (size, side) of the weights of linear interpolation between pixel centres."""
    place = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    left = np.minimum(place.astype(int), max(side - 2, 0))
    weights = np.zeros((size, side))
    weights[np.arange(size), left] = 1 - (place - left)
    weights[np.arange(size), np.minimum(left + 1, side - 1)] += place - left
    return weights


def _coverage(side: int, size: int) -> np.ndarray:
    """Matrix (size, side) of the shares of old pixels in new ones."""
    # in units of 1/(side · size) of an image all edges are integers
    new, old = np.arange(size)[:, None] * side, np.arange(side) * size
    common = np.minimum(new + side, old + size) - np.maximum(new, old)
    return np.maximum(common, 0) / side
