"""The images of a run on its device, their order, and their augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulations import streams
from simulations.training.datasets.image_set import ImageSet
from simulations.training.datasets.sources import load
from simulations.training.modules import torch
from simulations.training.recipe import Recipe

HELD_BACK = 5  # one image in so many, of a set without a part to test on
NOISE = 1280  # images, of noise
MARGIN = 4  # pixels around an augmented image
WIDEST_FRAME = 4  # pixels of black around images that are a little too small; smaller ones are interpolated


@dataclass(frozen=True, eq=False)
class Examples:
    """Standardised images with labels, in the memory of a device; a grey image is stored once for all channels.

    Parameters
    ----------
    name : str
        Of the set, as in `ImageSet`.
    images : tensor, (number, channels or 1, side, side), float32
    labels : tensor, (number,), int64
    shape : tuple
        Of one input of the network: (channels, side, side) or (units,).
    digest : str
        SHA-256 of the images as they are stored, and of their labels.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    shape: tuple[int, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, chosen: torch.Tensor, shifts: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some images in the network's shape, and their labels.

        Parameters
        ----------
        chosen : int64 tensor, (batch,)
        shifts : int64 tensor, (batch, 3), optional
            Rows and columns by which the crop is moved, 0 to 8 with 4 the middle, and 1 where left and right are
            exchanged. None: images as they are.
        """
        images = self.images[chosen]
        if shifts is not None:
            images = _shifted(images, *shifts.T)
        if len(self.shape) == 3:
            images = images.expand(-1, *self.shape)
        return images.reshape(len(images), *self.shape), self.labels[chosen]

    def parts(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Go through all images in their order, at most `size` at a time."""
        for chosen in torch.arange(len(self), device=self.labels.device).split(size):
            yield self.batch(chosen)


def examples(recipe: Recipe, device: str) -> tuple[Examples, Examples]:
    """Return the images that a recipe learns from, and those it is tested on.

    Images a little smaller than the network's (up to 8 pixels) are framed in black, others interpolated or averaged.
    Both parts are standardised by the mean and standard deviation of the first: of digits and noise, of the whole set.

    Raises
    ------
    ValueError
        If `simulations.training.datasets.load` refuses the set, it has more classes than the network, or not even one
        batch of images.
    """
    channels, side = recipe.image
    if recipe.data in ("digits", "noise"):
        shape = (NOISE, channels, side, side) if recipe.data == "noise" else None
        whole = load(recipe.data, shape=shape)
        held_back = np.arange(len(whole)) % HELD_BACK == 0
        parts = ((whole, ~held_back), (whole, held_back))
    else:
        parts = tuple((load(recipe.data, part), slice(None)) for part in ("train", "test"))
    learn, test = (_on_device(images, chosen, parts[0][0], recipe, device) for images, chosen in parts)
    if recipe.batch_size > len(learn):
        raise ValueError(f"batch_size must be at most the number of images, {len(learn)}, got {recipe.batch_size}")
    return learn, test


def order(recipe: Recipe, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the order of the images in an epoch, and their shifts if they are augmented.

    It depends on the seed and the epoch alone.
    """
    rng = streams.stream(recipe.seed, trial=epoch, grid_index=1)  # 0 draws the weights
    chosen = torch.from_numpy(rng.permutation(number))
    if not recipe.augment:
        return chosen, None
    return chosen, torch.from_numpy(rng.integers((2 * MARGIN + 1, 2 * MARGIN + 1, 2), size=(number, 3)))


def _on_device(
    images: ImageSet, chosen: np.ndarray | slice, moments_of: ImageSet, recipe: Recipe, device: str
) -> Examples:
    labels = images.labels[chosen]
    if labels.min() < 0 or labels.max() >= recipe.classes:
        raise ValueError(
            f"labels of {images.name} must be below the network's {recipe.classes} outputs, "
            f"got {labels.min()} to {labels.max()}"
        )
    channels, side = recipe.image
    missing = side - images.pixels.shape[2]
    frame = missing // 2 if 0 < missing <= 2 * WIDEST_FRAME and missing % 2 == 0 and recipe.data != "digits" else 0
    stored = 1 if images.pixels.shape[1] == 1 else channels
    pixels = images.standardised(chosen, side, stored, frame, "float32", moments_of)
    tensors = torch.from_numpy(pixels).to(device), torch.from_numpy(labels).to(device)
    digest = hashlib.sha256(np.ascontiguousarray(images.pixels[chosen]))
    digest.update(labels)
    return Examples(images.name, *tensors, recipe.net.input_shape or (), digest.hexdigest())


def _shifted(images: torch.Tensor, down: torch.Tensor, right: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Crops of images in a frame of zeros, (batch, channels, side, side)."""
    side = images.shape[-1]
    framed = torch.nn.functional.pad(images, (MARGIN,) * 4)
    along = torch.arange(side, device=images.device)
    columns = torch.where(flip[:, None] == 1, side - 1 - along, along) + right[:, None]
    rows = along + down[:, None]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return framed[batch, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
