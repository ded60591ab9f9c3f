"""Probe: the largest step with which gradient descent on one batch stays bounded, by trying."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from bntheory import arguments
from simulations.training.modules import torch
from simulations.training.probes.evaluation import Loss
from simulations.training.probes.loss_along_step import DIVERGED
from simulations.training.probes.objective import Objective, moved
from simulations.training.probes.reporting import aligned, plain, power

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn
DOUBLINGS = 40  # of the first step, up or down, before the search gives up


@dataclass(frozen=True)
class StableStep:
    """The border between stable and diverging steps.

    Attributes
    ----------
    step : float
        Largest step found that stays bounded.
    diverging : float
        The smallest one tried above it, which does not.
    iterations : int
        Steps of gradient descent.
    largest : tuple of (step, ln of the largest relative loss on the way)
        Of every step tried, increasing; +inf where a loss was not finite.
    gradients : int
        That the search took.
    """

    step: float
    diverging: float
    iterations: int
    largest: tuple[tuple[float, float], ...]
    gradients: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON."""
        return plain(vars(self))

    def __str__(self) -> str:
        return (
            f"Gradient descent stays bounded for {self.iterations} steps of {self.step:.3g}, "
            f"not of {self.diverging:.3g} ({self.gradients} gradients)."
        )

    def table(self) -> str:
        """Return the steps that were tried as aligned text."""
        lines = [(step, power(log)) for step, log in self.largest]
        return aligned(("step", "largest relative loss"), lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the largest relative loss of every step that was tried, and the border.

        Parameters
        ----------
        ax : Axes, optional
            None: a new figure.

        Returns
        -------
        Axes
        """
        from matplotlib import pyplot

        from bntheory.plotting import BLUE, ORANGE

        ax = pyplot.subplots(layout="constrained")[1] if ax is None else ax
        finite = [(step, log / math.log(10)) for step, log in self.largest if math.isfinite(log)]
        ax.plot(*zip(*finite, strict=True), ".-", color=BLUE)
        ax.axvline(math.sqrt(self.step * self.diverging), color=ORANGE, ls="--")
        ax.set_xscale("log")
        ax.set_xlabel(r"step size $\alpha$")
        ax.set_ylabel(rf"$\log_{{10}}$ of the largest relative loss in {self.iterations} steps")
        return ax


def stable_step(
    model: nn.Module,
    images: ArrayLike | torch.Tensor,
    labels: ArrayLike | torch.Tensor,
    loss: Loss = nn.functional.cross_entropy,
    start: float = 0.1,
    iterations: int = 100,
    threshold: float = DIVERGED,
    tolerance: float = 0.05,
) -> StableStep:
    """Search the largest step α for which ℓ(θ_t) ≤ threshold · ℓ(θ_0), t = 1 … T, with θ_{t+1} = θ_t − α ∇ℓ(θ_t).

    Doubling or halving from `start` until a stable step has a diverging one next to it, then bisection of ln α. On a
    quadratic of curvature λ the border is (1 + threshold^{1/(2T)})/λ, from above to 2/λ as T grows. Deep networks may
    leave the region of their first curvature for a flatter one, and stand more than `Curvature.stable_step`: with
    BatchNorm, where weights that grow make the gradient smaller, 1400 times as much was seen. Stability need not be
    monotone in α: what is found is one border.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it is in. Unchanged: copies of the parameters are moved.
    images, labels : array or tensor, (number, …)
        The batch of every step.
    loss : callable
        (outputs, labels) ↦ one positive number, the mean over the images.
    start : float
        First step to try.
    iterations : int
        T.
    threshold : float
        Above 1.
    tolerance : float
        Relative distance of the two steps in the result.

    Returns
    -------
    StableStep

    Raises
    ------
    ValueError
        In one line, as `loss_along_step`; if no border lies within 40 doublings of `start`.

    Notes
    -----
    Cost: T forward and backward passes for every stable step, fewer for one that diverges; with the defaults some ten
    steps.

    References
    ----------
    Lewkowycz et al. 2020 (arXiv:2003.02218: steps beyond 2/λ); Cohen et al. 2021; Arora, Li, Lyu 2019
    (arXiv:1812.03981: BatchNorm and the size of steps).

    Examples
    --------
    >>> model, ones = torch.nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    >>> found = stable_step(model, ones, 3 * ones, torch.nn.functional.mse_loss, tolerance=0.001)  # λ = 2
    >>> print(f"{found.step:.2f}, theory {(1 + 1e3 ** (1 / 200)) / 2:.2f}")
    1.02, theory 1.02
    """
    start, threshold = arguments.number("start", start, above=0), arguments.number("threshold", threshold, above=1)
    tolerance = arguments.number("tolerance", tolerance, at_least=1e-6)
    iterations = arguments.integer("iterations", iterations)
    objective = Objective(model, images, labels, loss)
    first, _ = objective.finite_gradient()
    if first <= 0:
        raise ValueError(f"the loss at the start must be positive for others to be relative to it, got {first:g}")
    tried: dict[float, float] = {}
    gradients = 0

    def diverges(step: float) -> bool:
        nonlocal gradients
        tried[step], used = _largest(objective, first, step, iterations, threshold)
        gradients += used
        return tried[step] > math.log(threshold)

    low, high = _bracket(diverges, start, tried)
    while high > low * (1 + tolerance):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if diverges(middle) else (middle, high)
    return StableStep(low, high, iterations, tuple(sorted(tried.items())), gradients)


def _bracket(diverges: Any, start: float, tried: dict[float, float]) -> tuple[float, float]:
    """A stable step and twice it, which diverges."""
    beyond = diverges(start)
    step = start
    for _ in range(DOUBLINGS):
        following = step / 2 if beyond else step * 2
        if diverges(following) != beyond:
            return (following, step) if beyond else (step, following)
        step = following
    side = "diverges" if beyond else "stays bounded"
    raise ValueError(f"gradient descent {side} for all steps from {start:g} to {step:g}: take another start")


def _largest(objective: Objective, first: float, step: float, iterations: int, threshold: float) -> tuple[float, int]:
    """ln of the largest relative loss on the way, up to the first beyond the threshold, and gradients used."""
    point, largest = objective.start, 1.0
    for done in range(1, iterations + 1):
        value, gradient = objective.gradient(point)
        if not value <= threshold * first:  # NaN too
            return _log_ratio(value, first), done
        largest = max(largest, value / first)
        point = moved(point, step, gradient)
    return max(math.log(largest), _log_ratio(objective.value(point), first)), iterations


def _log_ratio(value: float, first: float) -> float:
    """ln value/first; +inf of what is not finite, −inf of what is not positive."""
    if not math.isfinite(value):
        return math.inf
    return math.log(value / first) if value > 0 else -math.inf
