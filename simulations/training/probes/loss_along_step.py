"""Probe: how far one can go along the gradient of a mini-batch before its loss rises again (the paper's figure 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bntheory import arguments
from simulations.graded import Floats
from simulations.training.modules import torch
from simulations.training.probes.evaluation import Loss
from simulations.training.probes.objective import Objective, Point, inner, moved
from simulations.training.probes.reporting import aligned, plain, power

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn
STEPS = np.geomspace(1e-5, 0.2, 60)  # of the paper's figure 3
DIVERGED = 1e3  # relative loss that the paper calls divergence
STEPS.flags.writeable = False


@dataclass(frozen=True, eq=False)
class LossAlongStep:
    """The loss of a mini-batch along its own gradient.

    Attributes
    ----------
    steps : ndarray, (n,)
        Step sizes α, increasing.
    log_relative_loss : ndarray, (n,)
        ln ℓ(θ − αg)/ℓ(θ); +inf where the loss is not finite in float64 either, −inf where it is zero or below.
    wide : ndarray of bool, (n,)
        Where the loss is not finite in the model's own type, as training would find it.
    loss, squared_gradient : float
        ℓ(θ) and ‖g‖².
    threshold : float
        Relative loss that counts as divergence.
    """

    steps: Floats
    log_relative_loss: Floats
    wide: np.ndarray
    loss: float
    squared_gradient: float
    threshold: float

    @property
    def relative_loss(self) -> Floats:
        """ℓ(θ − αg)/ℓ(θ), +inf beyond 1e308."""
        with np.errstate(over="ignore"):
            return np.exp(self.log_relative_loss)

    @property
    def best_step(self) -> float:
        """The step of the smallest loss among those tried."""
        return float(self.steps[np.argmin(self.log_relative_loss)])

    @property
    def diverging_step(self) -> float | None:
        """Where the relative loss first passes the threshold; None if it never does.

        Between two steps along the line in ln α and ln ℓ; where there is no line, the upper one of them.
        """
        first = self.first_diverging
        if first is None or first == 0:
            return None if first is None else float(self.steps[0])
        below, above = self.log_relative_loss[first - 1 : first + 1]
        if not np.isfinite(below) or not np.isfinite(above):
            return float(self.steps[first])
        low, high = np.log(self.steps[first - 1 : first + 1])
        return math.exp(low + (high - low) * (math.log(self.threshold) - below) / (above - below))

    @property
    def first_diverging(self) -> int | None:
        """Index of the first step beyond the threshold; None if there is none."""
        beyond = np.flatnonzero(self.log_relative_loss > math.log(self.threshold))
        return int(beyond[0]) if len(beyond) else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON."""
        names = ("loss", "squared_gradient", "threshold", "best_step", "diverging_step")
        names += ("steps", "log_relative_loss", "wide")
        return plain({name: getattr(self, name) for name in names})

    def table(self, most: int = 24) -> str:
        """Return the steps as aligned text; of many the first and last `most`/2."""
        lines = [
            (float(step), power(log), "float64" if wide else "")
            for step, log, wide in zip(self.steps, self.log_relative_loss, self.wide, strict=True)
        ]
        return aligned(("step", "relative loss", "out of the model's range"), lines, most)

    def __str__(self) -> str:
        smallest = f"Smallest relative loss {power(self.log_relative_loss.min())} at step {self.best_step:.2g}"
        last = f"{power(self.log_relative_loss[-1])} at {self.steps[-1]:.2g}"
        if self.diverging_step is None:
            return f"{smallest}; below {self.threshold:g} up to the last step, {last}."
        return f"{smallest}; passes {self.threshold:g} at step {self.diverging_step:.2g}; {last}."

    def plot(self, ax: Axes | None = None, label: str | None = None, color: str | None = None) -> Axes:
        """Draw the relative loss against the step, on logarithmic axes, with the threshold.

        Parameters
        ----------
        ax : Axes, optional
            None: a new figure. Several batches go into one picture by calls with the same Axes.
        label, color : str, optional

        Returns
        -------
        Axes
        """
        from matplotlib import pyplot

        from bntheory.plotting import BLUE, ORANGE

        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        decades = np.where(np.isfinite(self.log_relative_loss), self.log_relative_loss, np.nan) / math.log(10)
        ax.plot(self.steps, decades, ".-", ms=3, color=color or BLUE, label=label)
        ax.axhline(math.log10(self.threshold), color=ORANGE, lw=1, ls="--")
        ax.set_xscale("log")
        ax.set_xlabel(r"step size $\alpha$ along the gradient")
        ax.set_ylabel(r"$\log_{10}\,\ell(\theta - \alpha g)\,/\,\ell(\theta)$")
        if label:
            ax.legend(fontsize="small")
        return ax


def loss_along_step(
    model: nn.Module,
    images: ArrayLike | torch.Tensor,
    labels: ArrayLike | torch.Tensor,
    loss: Loss = nn.functional.cross_entropy,
    steps: ArrayLike = STEPS,
    threshold: float = DIVERGED,
) -> LossAlongStep:
    """Measure ℓ(θ − αg)/ℓ(θ) for step sizes α, g = ∇ℓ(θ) the gradient of the same mini-batch.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it is in: BatchNorm in training mode normalizes with the batch. Unchanged.
    images, labels : array or tensor, (number, …)
        The mini-batch.
    loss : callable
        (outputs, labels) ↦ one positive number, the mean over the images.
    steps : array_like
        Positive; 60 from 1e-5 to 0.2 as in the paper if left out.
    threshold : float
        Relative loss that counts as divergence.

    Returns
    -------
    LossAlongStep

    Raises
    ------
    ValueError
        In one line, if a step is not positive, the data are empty, not finite or have labels without a logit, the model
        has nothing to train, or the loss at the start is not positive or its gradient not finite.

    Notes
    -----
    Cost: one forward and backward pass, and a forward pass without a graph for every step, one at a time; a second one
    in float64 where the first is not finite. Losses beyond the range of the model's type are therefore known up to
    1e308 and are logarithms here; what is not finite in float64, infinities less infinities included, is +inf. Parts
    of the model that refuse float64 count as not finite. g is of the model's own type, and so is θ − αg before.

    On a quadratic of one parameter with curvature λ the relative loss is (1 − αλ)²: 0 at 1/λ, 1 again at 2/λ, and 10³
    at 32.6/λ, 16.3 times that.

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018, section 2.2 and figure 3.

    Examples
    --------
    >>> model, ones = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    >>> found = loss_along_step(model, ones, 3 * ones, torch.nn.functional.mse_loss, [0.25, 0.5, 1, 10, 20])
    >>> found.best_step, [round(float(ratio), 3) for ratio in found.relative_loss]  # λ = 2
    (0.5, [0.25, 0.0, 1.0, 361.0, 1521.0])
    """
    threshold = arguments.number("threshold", threshold, above=0)
    sizes = step_sizes(steps)
    objective = Objective(model, images, labels, loss)
    value, gradient = objective.finite_gradient()
    logs, wide = along(objective, value, gradient, sizes)
    return LossAlongStep(sizes, logs, wide, value, inner(gradient, gradient), threshold)


def along(objective: Objective, value: float, gradient: Point, sizes: Floats) -> tuple[Floats, np.ndarray]:
    """Logarithms of relative losses, and where they took float64."""
    if value <= 0:
        raise ValueError(f"the loss at the start must be positive for others to be relative to it, got {value:g}")
    start = objective.start
    found = [
        objective.value_in_range(moved(start, step, gradient), lambda s=step: moved(start, s, gradient, wide=True))
        for step in sizes.tolist()
    ]
    logs = [math.log(loss) - math.log(value) if loss > 0 else -math.inf for loss, _ in found]
    return np.array(logs), np.array([wide for _, wide in found])


def step_sizes(steps: ArrayLike) -> Floats:
    """Positive step sizes, increasing, each once."""
    given = np.ravel(np.asarray(steps, dtype=float))
    if not given.size:
        raise ValueError("steps must hold at least one step size, got none")
    for step in given.tolist():
        arguments.number("steps", step, above=0)
    return np.unique(given)
