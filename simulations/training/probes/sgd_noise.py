"""Probe: how far the gradient of a mini-batch is from that of all images, against its exact value and the bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bntheory import arguments
from bntheory.torch_models.tracing import unchanged_random_states
from simulations import streams
from simulations.statistics import mean_with_error
from simulations.training.modules import torch
from simulations.training.probes.evaluation import Loss
from simulations.training.probes.objective import WIDER, Objective, Point, inner
from simulations.training.probes.reporting import aligned, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn
ADDITIVE = 1e-4  # relative: of a loss that is the mean over its images; float32 leaves 1e-6
COMPARED = 8  # images, to find out whether it is


@dataclass(frozen=True, eq=False)
class SgdNoise:
    """Noise of mini-batch gradients.

    Attributes
    ----------
    step, batch_size, images : α, |B| and N
    variance : float
        C. By single images where `mixed` is empty; otherwise what the noise amounts to.
    squared_gradient : float
        ‖∇ℓ‖²; NaN where `mixed` says why images have no gradients of their own.
    noise, noise_error : float
        E‖α∇ℓ − α∇ℓ_B‖² and its standard error, from sampled mini-batches.
    exact : float
        α² C/|B| · (N − |B|)/(N − 1); α² C/|B| with replacement.
    bound : float
        α² C/|B|.
    mixed : str
        Why the loss of a mini-batch is not the mean of losses of its images; empty if it is.
    replace : bool
        Whether images were drawn with replacement.
    """

    step: float
    batch_size: int
    images: int
    variance: float
    squared_gradient: float
    noise: float
    noise_error: float
    exact: float
    bound: float
    mixed: str
    replace: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON."""
        return plain(vars(self))

    def table(self) -> str:
        """Return the numbers as aligned text."""
        lines: list[tuple[str, float]] = [("C", self.variance), ("sampled", self.noise), ("  ± ", self.noise_error)]
        lines += [("exact", self.exact), ("bound", self.bound), ("‖α∇ℓ‖²", self.step**2 * self.squared_gradient)]
        title = f"Noise of steps {self.step:g} by {self.batch_size} of {self.images} images"
        title += ", drawn with replacement" if self.replace else ""
        why = f" (from mini-batches alone: {self.mixed})" if self.mixed else ""
        return f"{title}{why}\n{aligned(('', 'value'), lines)}"

    __str__ = table

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw exact noise and bound against the size of the mini-batch, on logarithmic axes, with what was sampled.

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
        sizes = np.unique(np.geomspace(1, max(1, self.images - 1), 60).round())
        bound = self.step**2 * self.variance / sizes
        ax.loglog(sizes, bound, "--", color=ORANGE, label=r"bound $\alpha^2 C/|B|$, with replacement")
        ax.loglog(sizes, bound * (self.images - sizes) / (self.images - 1), color=BLUE, label="without replacement")
        ax.errorbar(
            self.batch_size, self.noise, 2 * self.noise_error, fmt="o", color="black", label="sampled, ± 2 s.e."
        )
        ax.set_xlabel("images in a mini-batch |B|")
        ax.set_ylabel(r"$E\,\|\alpha\nabla\ell - \alpha\nabla\ell_B\|^2$")
        ax.legend(fontsize="small")
        return ax


def sgd_noise(
    model: nn.Module,
    images: ArrayLike | torch.Tensor,
    labels: ArrayLike | torch.Tensor,
    loss: Loss = nn.functional.cross_entropy,
    step: float = 1.0,
    batch_size: int | None = None,
    batches: int = 50,
    chunk: int = 32,
    seed: int | np.random.Generator = 0,
    replace: bool = False,
) -> SgdNoise:
    """Measure the variance C of the gradients of single images, and the noise of SGD's steps with mini-batches B.

    Where the loss is the mean of losses ℓ_i of N images, ∇ℓ = (1/N) Σ ∇ℓ_i, and B is drawn without replacement,

        C = (1/N) Σ_i ‖∇ℓ_i − ∇ℓ‖²,     E‖α∇ℓ − α∇ℓ_B‖² = α² C/|B| · (N − |B|)/(N − 1) ≤ α² C/|B|.

    With replacement, the images of B being independent, the bound is met: E‖α∇ℓ − α∇ℓ_B‖² = α² C/|B|.
    C is a sum over all images, without error; the expectation is also sampled, from mini-batches in forward and
    backward passes of their own.

    With BatchNorm in training mode (or masks of Dropout, or any loss that is not such a mean) an image has no gradient
    of its own, and that of all images depends on how they are dealt into mini-batches. Then what is measured is
    ½ E‖α∇ℓ_B − α∇ℓ_B'‖² of independent mini-batches B, B': the noise around the mean step that SGD takes, masks
    included. C is the number that gives it in the formula above, and `exact` is no prediction.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it is in. Unchanged.
    images, labels : array or tensor, (N, …)
        The data set, at least two images.
    loss : callable
        (outputs, labels) ↦ one real number, the mean over the images.
    step : float
        α > 0.
    batch_size : int, optional
        |B| from 1 to N − 1, or more with replacement. None: 32, or half of the images where there are fewer than 64.
    batches : int
        Mini-batches to sample, at least 4.
    chunk : int
        Images whose gradients are held at once.
    seed : int or numpy.random.Generator
        Of the mini-batches.
    replace : bool
        Whether an image may be drawn more than once into a mini-batch.

    Returns
    -------
    SgdNoise

    Raises
    ------
    ValueError
        In one line, for arguments out of these ranges, and as `loss_along_step`.

    Notes
    -----
    Cost: forward and backward passes over N + |B| · batches images; |B| · batches where C is implied. Memory: `chunk`
    gradients, by ``torch.func.vmap``, image by image where a part of the model does not allow that.

    References
    ----------
    Bjorck, Gomes, Selman, Weinberger 2018, section 3 (the bound). Cochran, Sampling Techniques (1977), theorem 2.2.

    Examples
    --------
    >>> x = torch.tensor([[-1.0], [0.0], [1.0]])  # ∇ℓ_i = x_i, C = 2/3
    >>> found = sgd_noise(torch.nn.Linear(1, 1, bias=False), x, x, lambda y, _: y.mean(), batch_size=2, step=3.0)
    >>> [round(value, 4) for value in (found.variance, found.exact, found.bound)]
    [0.6667, 1.5, 3.0]
    """
    step, chunk = arguments.number("step", step, above=0), arguments.integer("chunk", chunk)
    batches = arguments.integer("batches", batches, at_least=4)
    objective = Objective(model, images, labels, loss)
    count = objective.count
    if count < 2:
        raise ValueError(f"noise needs at least 2 images, got {count}")
    replace = arguments.flag("replace", replace)
    batch_size = min(32, count // 2) if batch_size is None else batch_size
    batch_size = arguments.integer("batch_size", batch_size, at_most=None if replace else count - 1)
    share = (1 if replace else (count - batch_size) / (count - 1)) / batch_size
    mixed = _mixed(objective)
    mean, variance = (None, math.nan) if mixed else variance_of_images(objective, chunk)
    square = math.nan if mean is None else inner(mean, mean)
    noise, error = (step**2 * part for part in noise_of_batches(objective, mean, batch_size, batches, seed, replace))
    if mixed:
        variance = noise / share / step**2
    exact, bound = step**2 * variance * share, step**2 * variance / batch_size
    return SgdNoise(step, batch_size, count, variance, square, noise, error, exact, bound, mixed, replace)


def _mixed(objective: Objective) -> str:
    """Why images of a mini-batch have no losses of their own; empty if they do."""
    for name, module in objective.model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            return f"{name or 'model'} ({type(module).__name__}) normalizes with the batch"
    few = min(objective.count, COMPARED)
    together = objective.value(part=slice(0, few))
    alone = sum(objective.value(part=slice(index, index + 1)) for index in range(few)) / few
    if not math.isfinite(together):
        raise ValueError(f"the loss must be finite, got {together}: {WIDER}")
    if abs(together - alone) > ADDITIVE * (abs(together) + abs(alone)):
        return f"the loss of {few} images is {together:.4g}, the mean of their own losses {alone:.4g}"
    return ""


def variance_of_images(objective: Objective, chunk: int = 32) -> tuple[list[torch.Tensor], float]:
    """Mean and variance of the gradients of images alone, which are ∇ℓ and C where ℓ is the mean of their losses.

    Means and squared deviations of chunks, put together (Chan, Golub, LeVeque 1983).
    """
    mean = [torch.zeros_like(own, dtype=torch.float64) for own in objective.start]
    total, seen = 0.0, 0
    for first in range(0, objective.count, chunk):
        gradients = [each.double() for each in objective.gradients(slice(first, first + chunk))]
        number = len(gradients[0])
        middle = [each.mean(0) for each in gradients]
        total += sum(float((each - own).square().sum()) for each, own in zip(gradients, middle, strict=True))
        total += distance(middle, mean) * number * seen / (number + seen)
        seen += number
        mean = [own + (new - own) * (number / seen) for own, new in zip(mean, middle, strict=True)]
    if not math.isfinite(total):
        raise ValueError(f"gradients of images must be finite, got C = {total}: {WIDER}")
    return mean, total / objective.count


def noise_of_batches(
    objective: Objective,
    centre: Point | None,
    size: int,
    batches: int,
    seed: int | np.random.Generator,
    replace: bool = False,
) -> tuple[float, float]:
    """E‖∇ℓ_B − centre‖² and its standard error, from mini-batches; without a centre ½ E‖∇ℓ_B − ∇ℓ_B'‖², from pairs."""
    rng = streams.stream(streams.root(seed), 0)
    gradients = _gradients(objective, batches if centre is not None else batches - batches % 2, size, rng, replace)
    if centre is None:
        samples = [distance(one, other) / 2 for one, other in zip(gradients, gradients, strict=True)]
    else:
        samples = [distance(centre, gradient) for gradient in gradients]
    noise, error = mean_with_error(samples)
    return float(noise), float(error)


def _gradients(
    objective: Objective, batches: int, size: int, rng: np.random.Generator, replace: bool
) -> Iterator[Point]:
    """Gradients of mini-batches, each with random states of its own."""
    for _ in range(batches):
        chosen = torch.from_numpy(rng.choice(objective.count, size, replace=replace)).to(objective.images.device)
        with unchanged_random_states(chosen.device):
            torch.manual_seed(int(rng.integers(2**32)))  # torch's CPU generator reads 32 bits
            value, gradient = objective.gradient(part=chosen)
        if not math.isfinite(value):
            raise ValueError(f"the loss of a mini-batch must be finite, got {value}: {WIDER}")
        yield gradient


def distance(one: Point, other: Point) -> float:
    """Squared distance, in float64."""
    return sum(float((a.double() - b.double()).square().sum()) for a, b in zip(one, other, strict=True))
