"""A set of images as it is stored, standardised on request and only where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bntheory import arguments
from simulations import streams
from simulations.training.datasets.resampling import area_average, resize

_CHUNK = 64  # images in float64 at a time: 1.6 MB at 3×32×32, which stay in the cache


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images and their labels, by default as bytes: a quarter of the memory of float32.

    Parameters
    ----------
    name : str
        What they are known to be: "digits", "fashion-mnist", "cifar-10" if their content is the published one, "noise";
        otherwise the folder that they came from.
    pixels : array, (number, channels, side, side)
        uint8 where they were read from files.
    labels : int64 array, (number,)

    Raises
    ------
    ValueError
        If the shapes are others.

    Examples
    --------
    >>> ImageSet("squares", np.arange(8).reshape(2, 1, 2, 2), np.array([0, 1]))
    squares: 2 images of 1×2×2
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    # mean and standard deviation of all pixels, by how they were prepared: found once, used for every batch
    _moments: dict[tuple[int, int, bool], tuple[float, float]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if len(shape) != 4 or 0 in shape or shape[2] != shape[3] or self.labels.shape != shape[:1]:
            wanted = "pixels must have shape (number, channels, side, side), labels (number,)"
            raise ValueError(f"{wanted}, got {shape} and {self.labels.shape}")

    def __repr__(self) -> str:
        return f"{self.name}: {len(self)} images of {'×'.join(map(str, self.pixels.shape[1:]))}"

    def __len__(self) -> int:
        return len(self.pixels)

    def standardised(
        self,
        chosen: np.ndarray | slice | None = None,
        size: int | None = None,
        channels: int | None = None,
        pad: int = 0,
        dtype: str = "float64",
        moments_of: ImageSet | None = None,
    ) -> np.ndarray:
        """Return (x − mean) / standard deviation, one mean and one standard deviation for the whole set.

        They are those of the prepared images of the set, of all positions and channels, whichever images are chosen.

        Parameters
        ----------
        chosen : array of indices, mask or slice, optional
            None: all images.
        size : int, optional
            Side after padding; larger than it was: interpolated bilinearly (`resize`), smaller: `area_average`.
        channels : int, optional
            A grey image is repeated, three channels become their mean for 1. None: as they are.
        pad : int
            Pixels of value 0 (black, where bytes are read) to add on every side.
        dtype : str
            "float64" or "float32", of the result.
        moments_of : ImageSet, optional
            The set whose mean and standard deviation are taken: for images to test on, the one that was learned from.

        Returns
        -------
        array, (number chosen, channels, size, size)

        Raises
        ------
        ValueError
            If an argument is out of range, the channels cannot be made, or all pixels are equal.

        Examples
        --------
        >>> pair = ImageSet("pair", np.array([[[[0]]], [[[4]]]]), np.array([0, 1]))
        >>> pair.standardised(channels=3)[:, :, 0, 0].tolist()
        [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]
        """
        stored = self.pixels.shape[1]
        channels = arguments.integer("channels", stored if channels is None else channels)
        if channels != stored and stored != 1 and channels != 1:
            raise ValueError(f"channels must be 1 or {stored} for images of {stored} channels, got {channels}")
        pad = arguments.integer("pad", pad, at_least=0)
        size = arguments.integer("size", self.pixels.shape[2] + 2 * pad if size is None else size)
        prepared = (pad, size, channels < stored)
        whole = self if moments_of is None else moments_of
        if prepared not in whole._moments:
            whole._moments[prepared] = whole._mean_and_deviation(*prepared)
        mean, deviation = whole._moments[prepared]
        pixels = self.pixels if chosen is None else self.pixels[chosen]
        images = np.empty((len(pixels), channels, size, size), arguments.choice("dtype", dtype, ("float64", "float32")))
        for part in _chunks(len(pixels)):
            images[part] = (_prepared(pixels[part], *prepared) - mean) / deviation
        return images

    def _mean_and_deviation(self, pad: int, size: int, grey: bool) -> tuple[float, float]:
        total = square = number = 0.0
        for part in _chunks(len(self)):
            images = _prepared(self.pixels[part], pad, size, grey)
            total, square, number = total + images.sum(), square + np.vdot(images, images), number + images.size
        mean, variance = total / number, square / number - (total / number) ** 2
        if not variance > 1e-12 * square / number:
            raise ValueError(f"images that are equal everywhere cannot be standardised, got {self!r}")
        return float(mean), float(np.sqrt(variance))


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


def _chunks(number: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, number, _CHUNK))


def _prepared(pixels: np.ndarray, pad: int, size: int, grey: bool) -> np.ndarray:
    """Images in float64: padded, brought to a size, averaged over the channels."""
    images = pixels.astype(np.float64)
    if pad:
        images = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    if size != images.shape[-1]:
        images = resize(images, size) if size > images.shape[-1] else area_average(images, size)
    return images.mean(axis=1, keepdims=True) if grey else images
