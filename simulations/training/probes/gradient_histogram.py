"""Probe: how the gradients of weights are distributed, layer by layer (figure 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bntheory import arguments
from simulations.graded import Floats
from simulations.training.modules import torch
from simulations.training.probes import passes, weight_layers
from simulations.training.probes.evaluation import Loss
from simulations.training.probes.reporting import aligned, plain, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn
BINS = 101  # an odd number: one of them around 0
ALL = "all layers"


@dataclass(frozen=True, eq=False)
class GradientHistogram:
    """What `gradient_histogram` found.

    Attributes
    ----------
    layers : tuple of str
        Names of the layers with weights.
    numbers : tuple of int or None
        Their numbers along the main path, as the paper counts.
    std, kurtosis, half_width : ndarray, (layers,)
        Of the entries g of a layer's weight gradient: standard deviation, E(g − m)⁴/(E(g − m)²)² (3 for a Gaussian),
        and max |g|. NaN where a gradient is not finite; the kurtosis also where all entries are equal.
    layer : str
        The layer whose histogram was taken, or "all layers".
    counts : ndarray of int, (bins,)
        Entries in each of `bins` equal bins from −reach to reach; all 0 if a gradient is not finite.
    reach : float
        max |g| there.
    """

    layers: tuple[str, ...]
    numbers: tuple[int | None, ...]
    std: Floats
    kurtosis: Floats
    half_width: Floats
    layer: str
    counts: np.ndarray
    reach: float

    @property
    def edges(self) -> Floats:
        """Edges of the bins, (bins + 1,)."""
        return self.reach * np.linspace(-1, 1, len(self.counts) + 1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON (see `reporting.plain`)."""
        return {
            "layers": list(self.layers),
            "numbers": list(self.numbers),
            **{name: plain(getattr(self, name)) for name in ("std", "kurtosis", "half_width")},
            "histogram": {
                "layer": self.layer,
                "half_width": plain([self.reach])[0],
                "counts": self.counts.tolist(),
            },
        }

    def table(self, most: int = 24) -> str:
        """Return the layers as aligned text; of many the first and last `most`/2."""
        columns = zip(self.layers, self.numbers, self.std, self.kurtosis, self.half_width, strict=True)
        lines = [(name, *map(short, values)) for name, *values in columns]
        return aligned(("weights", "layer", "std of gradient", "kurtosis", "largest"), lines, most)

    def __str__(self) -> str:
        return self.table()

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the histogram, counts on a logarithmic axis.

        Parameters
        ----------
        ax : Axes, optional
            None: a new figure.

        Returns
        -------
        Axes

        Raises
        ------
        ValueError
            If gradients are not finite.
        """
        if not self.counts.any():
            raise ValueError(f"the gradients of {self.layer} are not finite: there is no histogram")
        from matplotlib import pyplot

        from bntheory.plotting import BLUE

        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        ax.stairs(self.counts, self.edges, fill=True, color=BLUE, alpha=0.6)
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.5)
        ax.set_xlabel(f"gradient of a weight, {self.layer}")
        ax.set_ylabel(f"weights of {self.counts.sum():,}")
        return ax


def gradient_histogram(
    model: nn.Module,
    images: np.ndarray | torch.Tensor,
    labels: np.ndarray | torch.Tensor,
    loss: Loss = nn.functional.cross_entropy,
    layer: str | int | None = None,
    bins: int = BINS,
) -> GradientHistogram:
    """Return standard deviation, kurtosis and width of every layer's weight gradient, and one histogram.

    Nothing of the model is changed: parameters, gradients, buffers, modes, hooks and random generators are as before,
    also if something raises. Costs one forward and one backward pass.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it is in. Weights are its parameters of two or more axes.
    images : array or tensor of float32 or float64, (batch, *shape)
    labels : array or tensor, (batch, …)
    loss : callable
        loss(outputs, labels), one number.
    layer : str or int, optional
        Of the histogram: its name, or its number along the main path from 1, which in a ResNet is the paper's (stem 1,
        projections on shortcuts not counted). None: all weights together.
    bins : int
        At least 1.

    Returns
    -------
    GradientHistogram
        ``table``, ``to_dict``, ``plot``.

    Raises
    ------
    ValueError
        If the module has no weights, there is no such layer, the batch is not one of finite numbers or labels do not
        fit.

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018 (arXiv 1806.02375), figure 2: layer 55 of ResNet-110.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
    >>> print(gradient_histogram(model, torch.randn(16, 8), torch.arange(16) % 3))
    weights  layer  std of gradient  kurtosis  largest
    0            1          0.01067     4.814  0.04945
    2            2          0.04719     3.105   0.1396
    """
    (found,) = passes.watched([watch(model, layer=layer, bins=bins)], model, images, labels, loss)
    return found


def watch(
    model: nn.Module, labels: Any = None, loss: Loss | None = None, layer: str | int | None = None, bins: int = BINS
) -> passes.Watch:
    """What the probe wants of a pass, which may have other probes too."""
    weights = weight_layers.weights(model)
    arguments.integer("bins", bins)
    where = None if layer is None else weight_layers.chosen(layer, weights)
    return passes.Watch([], True, lambda run: _distributions(run, weights, where, bins))


def _distributions(run: passes.Pass, weights: dict[str, str], where: str | None, bins: int) -> GradientHistogram:
    gradients = run.gradients([run.parameters[name] for name in weights.values()])
    found = dict(zip(weights, (gradient.flatten() for gradient in gradients), strict=True))
    std, kurtosis, half_width = torch.stack([_shape(gradient) for gradient in found.values()]).cpu().numpy().T
    numbers = weight_layers.numbered(weights)
    return GradientHistogram(
        tuple(weights),
        tuple(numbers.get(name) for name in weights),
        std,
        kurtosis,
        half_width,
        ALL if where is None else where,
        *_histogram(torch.cat(list(found.values())) if where is None else found[where], bins),
    )


def _shape(gradient: torch.Tensor) -> torch.Tensor:
    """Standard deviation, kurtosis and largest magnitude, in units of the latter on the way: nothing overflows."""
    values = gradient.double()
    largest = values.abs().amax()
    units = values / torch.where(largest > 0, largest, 1.0)
    squares = (units - units.mean()) ** 2
    variance = squares.mean()
    largest = torch.where(largest.isfinite(), largest, torch.nan)
    return torch.stack([largest * variance.sqrt(), (squares**2).mean() / variance**2, largest])


def _histogram(gradient: torch.Tensor, bins: int) -> tuple[np.ndarray, float]:
    values = gradient.double().cpu().numpy()
    reach = float(np.abs(values).max())
    if not np.isfinite(reach):
        return np.zeros(bins, dtype=int), reach
    return np.histogram(values / (reach or 1.0), bins=bins, range=(-1, 1))[0], reach
