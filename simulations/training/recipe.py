"""What is trained on what, and how, as plain data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bntheory import arguments, from_json
from bntheory.layers import BatchNorm, Conv, Dense
from bntheory.networks import Sequential, leaves
from bntheory.positional import ConvTranspose
from simulations import streams

PRECISIONS = ("float32", "bfloat16")
CUTS = (0.5, 0.75)  # parts of the run after which the learning rate is divided by ten


@dataclass(frozen=True)
class Recipe:
    """One training run: with the machine and its threads, everything that its bits depend on.

    Stochastic gradient descent with momentum on the cross-entropy; the learning rate is divided by ten after one half
    and after three quarters of all steps.

    Parameters
    ----------
    net : Sequential
        A description whose input is an image (channels, side, side), or a vector of side² units, and whose output is a
        unit for every class.
    data : str
        "digits", "fashion-mnist", "noise" or a folder, as `simulations.training.datasets.load` takes it. Of the digits
        every fifth is held back for the test.
    learning_rate : float
        Above 0.
    epochs : int
    batch_size : int
        Images of a step; what is left over at the end of an epoch waits for the next order.
    momentum : float
        From 0 to below 1, of a velocity that is not dampened: v ← m v + g, θ ← θ − α v.
    weight_decay : float
        λ of g = ∇ℓ + λ θ, of all parameters.
    augment : bool
        The paper's: zeros of four pixels around, a random crop of the old size, left and right exchanged half the time.
    precision : {"float32", "bfloat16"}
        Of the forward pass; weights and their updates are float32.
    compiled : bool
        Whether torch compiles the network; it needs a compiler, and pays on a GPU.
    seed : int or numpy.random.Generator
        Of the weights, the order of the images, crops and Dropout.

    Raises
    ------
    ValueError
        For a value out of range, a shape that no image has, or BN over batches of one.

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018, appendix A: momentum 0.9, weight decay 5e-4, batches of 128.

    Examples
    --------
    >>> from bntheory.architectures import resnet
    >>> recipe = Recipe(resnet(20, batch_norm=True, image=(3, 8, 8)), learning_rate=0.1, epochs=8)
    >>> [round(recipe.rate_at(step, steps=80), 4) for step in (0, 39, 40, 60)]
    [0.1, 0.1, 0.01, 0.001]
    """

    net: Sequential
    data: str = "digits"
    learning_rate: float = 0.1
    epochs: int = 20
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: bool = False
    precision: str = "float32"
    compiled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.net, Sequential) or self.net.input_shape is None:
            raise ValueError(f"net must be a description with an input shape, got {self.net!r:.60}")
        momentum = arguments.number("momentum", self.momentum, at_least=0)
        if momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {momentum:g}")
        checked = {
            "data": str(self.data),
            "learning_rate": arguments.number("learning_rate", self.learning_rate, above=0),
            "epochs": arguments.integer("epochs", self.epochs),
            "batch_size": arguments.integer("batch_size", self.batch_size),
            "momentum": momentum,
            "weight_decay": arguments.number("weight_decay", self.weight_decay, at_least=0),
            "augment": arguments.flag("augment", self.augment),
            "precision": arguments.choice("precision", self.precision, PRECISIONS),
            "compiled": arguments.flag("compiled", self.compiled),
            "seed": streams.root(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        self.image  # noqa: B018  # which is refused here if there is none
        *_, last = leaves(self.net)
        if len(last.shape) != 1:
            raise ValueError(f"net must end in a unit for every class, got an output of shape {last.shape}")
        if not any(isinstance(leaf.layer, (Dense, Conv, ConvTranspose)) for leaf in leaves(self.net)):
            raise ValueError(f"net must have weights to train, got {self.net}")
        if self.batch_size == 1 and self.normalizes_batches:
            raise ValueError(
                "batch_size must be at least 2 with BatchNorm, which a batch of one leaves nothing of, got 1"
            )

    @property
    def image(self) -> tuple[int, int]:
        """Channels and side of the images that the network takes."""
        shape = self.net.input_shape or ()
        if len(shape) == 1 and math.isqrt(shape[0]) ** 2 == shape[0]:
            return 1, math.isqrt(shape[0])
        if len(shape) == 3 and shape[1] == shape[2]:
            return shape[0], shape[1]
        raise ValueError(f"net must take square images or vectors of side² units, got an input of shape {shape}")

    @property
    def classes(self) -> int:
        """Units of the output."""
        *_, last = leaves(self.net)
        return last.shape[0]

    @property
    def normalizes_batches(self) -> bool:
        """Whether there is a BatchNorm that normalizes by its batch."""
        return any(isinstance(leaf.layer, BatchNorm) and leaf.layer.training for leaf in leaves(self.net))

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate at a step (from 0) of so many."""
        return self.learning_rate * 0.1 ** sum(step >= cut * steps for cut in CUTS)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as numbers, words and dicts, for JSON."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**plain, "net": json.loads(self.net.to_json())}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Rebuild a recipe from `to_dict`.

        Examples
        --------
        >>> from bntheory.architectures import mlp
        >>> recipe = Recipe(mlp(2, 16, input_width=64, output_width=10))
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
        """
        return cls(**{**data, "net": from_json(json.dumps(data["net"]))})
