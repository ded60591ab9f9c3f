"""Images by name or folder, and batches of them in the shape that a network takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bntheory import arguments
from simulations import streams
from simulations.training.datasets import cifar, idx
from simulations.training.datasets.bundled import stored_digits
from simulations.training.datasets.image_set import ImageSet, batch_of

_SMALLEST = 4  # side to which larger images are averaged; below, nothing is left that could be seen


class Inputs(NamedTuple):
    """A batch of inputs and what it is."""

    values: np.ndarray
    name: str  # of the set, as in `ImageSet`
    treatment: str  # what was done to the images to fit the shape: empty if nothing was
    labels: np.ndarray  # (batch,), int64


def load(
    data: str | Path,
    part: str = "train",
    shape: Sequence[int] | None = None,
    seed: int | np.random.Generator = 0,
) -> ImageSet:
    """Return a set of images by its name or from its folder, as it is stored.

    Parameters
    ----------
    data : str or Path
        "digits" (scikit-learn's), "fashion-mnist" (from Debian's package dataset-fashion-mnist), "noise" (independent
        standard normal pixels, random labels 0 … 9), or a folder: with files in idx format as Fashion-MNIST and MNIST
        have, or the Python or binary version of CIFAR-10. A folder that is called like a set: "./digits".
    part : str
        "train" or "test". All digits count as "train", they have no other part; of noise it takes another seed.
    shape : sequence of int
        (number, channels, side, side) of noise; for noise only.
    seed : int or numpy.random.Generator
        Of noise.

    Returns
    -------
    ImageSet
        Its name says what it is known to be, or the folder; nothing is called "cifar-10" or "fashion-mnist" unless its
        checksums are the published ones.

    Raises
    ------
    ValueError
        If there is no such set or folder, or its files are missing, truncated, swapped or altered.

    Examples
    --------
    >>> load("noise", shape=(100, 3, 8, 8), seed=1)
    noise: 100 images of 3×8×8
    """
    arguments.choice("part", part, ("train", "test"))
    if data == "noise":
        return _noise(part, shape, seed)
    if shape is not None:
        raise ValueError(f"shape is for noise, {str(data)!r} has its own: leave it out, got {shape}")
    if data == "digits":
        if part == "test":
            raise ValueError("the digits have no part 'test': take part='train' and hold some of its 1797 images back")
        return stored_digits()
    return idx.stored_fashion_mnist(part) if data == "fashion-mnist" else _from_folder(data, part)


def images_for(
    shape: Sequence[int],
    data: str | Path = "digits",
    batch: int = 1,
    seed: int | np.random.Generator = 0,
    part: str = "train",
) -> Inputs:
    """Return different images of a set in the input shape of a network, standardised over the set.

    Images that are too small are interpolated (`resize`), too large ones averaged (`area_average`), to 4×4 at least,
    never cut; a grey image fills several channels with copies, three channels become their mean for one.

    Parameters
    ----------
    shape : sequence of int
        (channels, side, side), or (units,) with units = channels · side², read with as many channels as the images have
        if that is possible, otherwise 1 or 3. Noise takes any shape.
    data : str or Path
        As for `load`.
    batch : int
        At least 1, at most as many as there are.
    seed : int or numpy.random.Generator
        Of two batches from one seed the smaller is the beginning of the larger.
    part : str
        "train" or "test".

    Returns
    -------
    Inputs
        values : float64 array, (batch, *shape); name : of the set; treatment : what was done to fit the shape;
        labels : int64 array, (batch,), of noise random from 0 to 9.

    Raises
    ------
    ValueError
        If the shape is not that of images, the batch too large, or the set refused by `load`.

    Examples
    --------
    >>> images_for((3, 32, 32), "noise", batch=4).values.shape
    (4, 3, 32, 32)
    """
    batch = arguments.integer("batch", batch)
    if data == "noise":
        root = streams.root(seed)
        values = streams.input_stream(root).standard_normal((batch, *shape))
        return Inputs(values, "noise", "", _random_labels(root, batch))
    images = load(data, part)
    arguments.integer("batch", batch, at_most=len(images))
    stored, old = images.pixels.shape[1:3]
    channels, side = _image_shape(tuple(shape), stored)
    if side < min(old, _SMALLEST):
        raise ValueError(f"{images!r} cannot be averaged to {side}×{side}, at least to {_SMALLEST}×{_SMALLEST}")
    chosen = batch_of(np.arange(len(images)), batch, seed)
    values = images.standardised(chosen, size=side, channels=channels).reshape(batch, *shape)
    done = []
    if side != old:
        done.append(f"{'enlarged' if side > old else 'averaged'} from {old}×{old} to {side}×{side}")
    if channels != stored:
        done.append(f"in {channels} equal channels" if channels > stored else f"mean of {stored} channels")
    return Inputs(values, images.name, ", ".join(done), images.labels[chosen])


def _image_shape(shape: tuple[int, ...], stored: int) -> tuple[int, int]:
    """Channels and side of the images that fill a shape."""
    if len(shape) == 3 and shape[1] == shape[2]:
        return shape[0], shape[1]
    if len(shape) == 1:
        for channels in (stored, 1, 3):
            side = math.isqrt(shape[0] // channels)
            if channels * side**2 == shape[0]:
                return channels, side
    raise ValueError(f"images are square: inputs must have shape (channels, side, side), side² or 3 side², got {shape}")


def _noise(part: str, shape: Sequence[int] | None, seed: int | np.random.Generator) -> ImageSet:
    if part == "test":
        raise ValueError("noise has no part 'test': take part='train' with another seed")
    if shape is None or len(shape) != 4:
        raise ValueError(f"noise needs shape=(number, channels, side, side), got {shape}")
    root = streams.root(seed)
    pixels = streams.input_stream(root).standard_normal(tuple(arguments.integer("shape", side) for side in shape))
    return ImageSet("noise", pixels, _random_labels(root, len(pixels)))


def _random_labels(root: int, number: int) -> np.ndarray:
    return streams.input_stream(root, grid_index=1).integers(10, size=number)


def _from_folder(data: str | Path, part: str) -> ImageSet:
    if not isinstance(data, (str, Path)) or not str(data) or not Path(data).exists():
        raise ValueError(f"data must be one of digits, fashion-mnist, noise or an existing folder, got {data!r}")
    folder = Path(data)
    if not folder.is_dir():
        raise ValueError(f"data must be a folder with all files of a set, got the file {str(data)!r}")
    batches = [name for names in cifar.FILES.values() for name in names]
    formats = {
        idx.read_idx: [name + ending for names in idx.FILES.values() for name in names for ending in ("", ".gz")],
        cifar.read_pickled: batches,
        cifar.read_binary: [f"{name}.bin" for name in batches],
    }
    found = {read: name for read, names in formats.items() for name in names if (folder / name).is_file()}
    if len(found) > 1:
        raise ValueError(f"{folder} holds files of several sets, keep one of {', '.join(found.values())} there")
    if not found:
        looked = "train-images-idx3-ubyte(.gz), data_batch_1, data_batch_1.bin and the files that belong to them"
        raise ValueError(f"{folder} holds no known set of images: looked for {looked}")
    return next(iter(found))(folder, part)
