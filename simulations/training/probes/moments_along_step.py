"""Probe: means and variances of channels while a step along the gradient is taken (the paper's figure 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bntheory import arguments
from simulations.graded import Floats
from simulations.training.modules import torch
from simulations.training.probes.evaluation import Loss
from simulations.training.probes.loss_along_step import DIVERGED, STEPS, along
from simulations.training.probes.objective import Objective, Point
from simulations.training.probes.reporting import aligned, plain, power

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn
FRACTIONS = np.linspace(0, 1, 21)
FRACTIONS.flags.writeable = False


@dataclass(frozen=True, eq=False)
class MomentsAlongStep:
    """Channel moments of some layers along a step.

    Attributes
    ----------
    step : float
        Step size α of the whole step.
    fractions : ndarray, (n,)
        Of the step, from 0 to 1.
    layers : tuple of str
        Names of the modules whose outputs were seen.
    mean, variance : tuple of ndarray, (n, channels of the layer)
        Over images and positions, for every fraction; +inf where float64 does not hold them.
    log_relative_loss : ndarray, (n,)
    """

    step: float
    fractions: Floats
    layers: tuple[str, ...]
    mean: tuple[Floats, ...]
    variance: tuple[Floats, ...]
    log_relative_loss: Floats

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON."""
        return plain(vars(self))

    def table(self) -> str:
        """Return, as aligned text, the largest moments of each layer before and after the step."""
        lines = [
            (name, mean.shape[1], *(float(part.max()) for part in (np.abs(mean[0]), np.abs(mean[-1]), var[0], var[-1])))
            for name, mean, var in zip(self.layers, self.mean, self.variance, strict=True)
        ]
        heads = ("layer", "channels", "max |mean|", "after", "max variance", "after")
        return f"Step {self.step:.3g}: relative loss {power(self.log_relative_loss[-1])}.\n{aligned(heads, lines)}"

    __str__ = table

    def plot(self, ax: Axes | None = None, layer: str | None = None, quantity: str = "variance") -> Axes:
        """Draw a map of one layer: channels across, the fraction of the step upwards.

        Parameters
        ----------
        ax : Axes, optional
            None: a new figure.
        layer : str, optional
            None: the last one.
        quantity : {"variance", "mean"}
            Of the mean its magnitude.

        Returns
        -------
        Axes
        """
        from matplotlib import pyplot

        arguments.choice("quantity", quantity, ("variance", "mean"))
        layer = self.layers[-1] if layer is None else arguments.choice("layer", layer, self.layers)
        values = np.abs(getattr(self, quantity)[self.layers.index(layer)])
        shown = np.log10(np.where(np.isfinite(values) & (values > 0), values, np.nan))
        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        image = ax.pcolormesh(np.arange(values.shape[1]), 100 * self.fractions, shown, cmap="cividis")
        text = {"variance": "variance", "mean": "|mean|"}[quantity]
        ax.figure.colorbar(image, ax=ax, label=rf"$\log_{{10}}$ {text}")
        ax.set_xlabel(f"channel of {layer}")
        ax.set_ylabel(f"per cent of the step {self.step:.2g}")
        return ax


def moments_along_step(
    model: nn.Module,
    images: ArrayLike | torch.Tensor,
    labels: ArrayLike | torch.Tensor,
    loss: Loss = nn.functional.cross_entropy,
    step: float | None = None,
    layers: Sequence[str] | None = None,
    fractions: ArrayLike = FRACTIONS,
) -> MomentsAlongStep:
    """Measure channel means and variances at θ − t α g for fractions t of a step α along the gradient g.

    For every channel c of a layer's output h, over images and positions: m_c = ⟨h_c⟩ and ⟨h_c²⟩ − m_c².

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it is in. Unchanged.
    images, labels : array or tensor, (number, …)
        The mini-batch; g is its gradient.
    loss : callable
        (outputs, labels) ↦ one positive number, the mean over the images.
    step : float, optional
        α > 0; None: the smallest of the paper's 60 from 1e-5 to 0.2 at which the relative loss exceeds 10³.
    layers : sequence of str, optional
        Names of modules that return tensors (batch, channels, …), as in ``model.named_modules()``. None: three of those
        that have weights of at least two axes and return such tensors, at a quarter, half and three quarters of them.
        Of a module that runs several times, its last call.
    fractions : array_like
        t in [0, 1].

    Returns
    -------
    MomentsAlongStep

    Raises
    ------
    ValueError
        As `loss_along_step`; if a layer is unknown, does not run or has no channels; if no step diverges.

    Notes
    -----
    Cost: one forward and backward pass and one forward pass for every fraction, one at a time and a second one in
    float64 where the loss is not finite; without given layers one more, without a given step up to 60. Sums are taken
    in float64.

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018, section 2.2 and figure 4.

    Examples
    --------
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False)), torch.tensor([[1.0], [3.0]])
    >>> _ = torch.nn.init.ones_(model[0].weight)
    >>> found = moments_along_step(model, x, 0 * x, torch.nn.functional.mse_loss, step=0.1, fractions=[0, 1])
    >>> found.layers, found.mean[0].round(6).tolist()  # h = wx, w = 1, g = 10
    (('0',), [[2.0], [0.0]])
    """
    places = np.unique(np.ravel(np.asarray(fractions, dtype=float)))
    if not places.size or not (places >= 0).all() or not (places <= 1).all():
        raise ValueError(f"fractions must be in [0, 1], at least one, got {fractions!r:.60}")
    objective = Objective(model, images, labels, loss)
    value, gradient = objective.finite_gradient()
    if step is None:
        size = _diverging(objective, value, gradient)
    else:
        size = arguments.number("step", step, above=0)
    chosen = _modules(objective, layers)
    found: list[dict[str, tuple[Floats, Floats]]] = []
    logs = []
    for fraction in places.tolist():
        with _seeing(chosen) as seen:
            logs.append(along(objective, value, gradient, np.array([fraction * size]))[0][0])
        for name in chosen:
            if name not in seen:
                raise ValueError(f"layers: {name!r} does not run in this model's forward pass: leave it out")
        found.append(dict(seen))
    mean, variance = (tuple(np.stack([seen[name][k] for seen in found]) for name in chosen) for k in (0, 1))
    return MomentsAlongStep(size, places, tuple(chosen), mean, variance, np.array(logs))


def _diverging(objective: Objective, value: float, gradient: Point) -> float:
    """The smallest step of the paper's that diverges."""
    largest = -math.inf
    for size in STEPS.tolist():
        log = float(along(objective, value, gradient, np.array([size]))[0][0])
        if log > math.log(DIVERGED):
            return size
        largest = max(largest, log)
    raise ValueError(
        f"no step up to {STEPS[-1]:g} raises the loss by {DIVERGED:g}, at most by {power(largest)}: "
        "give step=… (--step)"
    )


def _modules(objective: Objective, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    """The layers to see, by name."""
    modules = dict(objective.model.named_modules())
    if layers is None:
        weighted = _with_channels(objective, modules)
        if not weighted:
            raise ValueError("no module with a weight of two axes or more returns channels: give layers=[names]")
        layers = dict.fromkeys(weighted[round(part * (len(weighted) - 1))] for part in (0.25, 0.5, 0.75))
    if isinstance(layers, str):
        raise ValueError(f"layers must be a list of names, got {layers!r}")
    return {name: modules[arguments.choice("layers", name, modules)] for name in layers}


def _with_channels(objective: Objective, modules: dict[str, nn.Module]) -> list[str]:
    """Names of modules with weights that run and return channels, which one forward pass tells: attention does not."""
    weighted = {
        name: module for name, module in modules.items() if any(own.dim() > 1 for own in module.parameters(False))
    }
    found: set[str] = set()

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: found.add(name) if _has_channels(output) else None

    handles = [module.register_forward_hook(hook(name)) for name, module in weighted.items()]
    try:
        objective.value()
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in weighted if name in found]


def _has_channels(output: Any) -> bool:
    return isinstance(output, torch.Tensor) and output.dim() >= 2 and not output.is_complex()


@contextmanager
def _seeing(modules: dict[str, nn.Module]) -> Iterator[dict[str, tuple[Floats, Floats]]]:
    """Moments of the modules' outputs, by name, of their last call."""
    seen: dict[str, tuple[Floats, Floats]] = {}

    def hook(name: str) -> Callable[..., None]:
        def see(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not _has_channels(output):
                got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
                raise ValueError(f"layers: {name!r} must return a real tensor (batch, channels, …), got {got}")
            seen[name] = _moments_of(output)

        return see

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _moments_of(output: torch.Tensor) -> tuple[Floats, Floats]:
    """Mean and variance of every channel of (batch, channels, …), +inf where they are not finite."""
    channels = output.detach().double().transpose(0, 1).flatten(1)
    parts = (part.cpu().numpy() for part in torch.var_mean(channels, dim=1, correction=0))
    variance, mean = (np.where(np.isfinite(part), part, np.inf) for part in parts)
    return mean, variance
