"""Probe: the largest eigenvalues of the Hessian of a mini-batch's loss, and the step sizes that they allow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from bntheory import arguments
from simulations import streams
from simulations.graded import Floats
from simulations.training.modules import torch
from simulations.training.probes.evaluation import Loss
from simulations.training.probes.objective import WIDER, Objective, Point, inner
from simulations.training.probes.reporting import aligned, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn


@dataclass(frozen=True, eq=False)
class Curvature:
    """Curvature of a loss at a point.

    Attributes
    ----------
    eigenvalues : ndarray, (k,)
        The largest eigenvalues λ of the Hessian H, descending.
    residuals : ndarray, (k,)
        ‖Hv − λv‖ for unit vectors v: an eigenvalue is at most that far from λ.
    loss, squared_gradient, along_gradient : float
        ℓ, ‖g‖² and gᵀHg.
    parameters, products : int
        Size of H, and Hessian-vector products that were used.
    """

    eigenvalues: Floats
    residuals: Floats
    loss: float
    squared_gradient: float
    along_gradient: float
    parameters: int
    products: int

    @property
    def stable_step(self) -> float:
        """2/λ of the largest eigenvalue: beyond, gradient descent leaves a quadratic minimum; +inf if λ ≤ 0."""
        return _two_over(1.0, float(self.eigenvalues[0]))

    @property
    def level_step(self) -> float:
        """2‖g‖²/gᵀHg: beyond, one step along g ends above its start on a quadratic; +inf if gᵀHg ≤ 0."""
        return _two_over(self.squared_gradient, self.along_gradient)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON."""
        return plain({**vars(self), "stable_step": self.stable_step, "level_step": self.level_step})

    def table(self) -> str:
        """Return the numbers as aligned text."""
        lines = [
            (f"λ{k + 1}", float(value), float(error), _two_over(1.0, float(value)))
            for k, (value, error) in enumerate(zip(self.eigenvalues, self.residuals, strict=True))
        ]
        along = self.along_gradient / self.squared_gradient if self.squared_gradient else math.nan
        return aligned(("", "eigenvalue", "residual", "2/λ"), [*lines, ("along g", along, None, self.level_step)])

    __str__ = table

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the eigenvalues in order, and the curvature along the gradient.

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
        order = np.arange(1, len(self.eigenvalues) + 1)
        ax.errorbar(order, self.eigenvalues, self.residuals, fmt="o", color=BLUE, label="eigenvalues of the Hessian")
        if self.squared_gradient:
            level = self.along_gradient / self.squared_gradient
            ax.axhline(level, color=ORANGE, ls="--", label=r"along the gradient, $g^T H g/\|g\|^2$")
        ax.set_xticks(order)
        ax.set_xlabel("number, from the largest")
        ax.set_ylabel(r"$\lambda$")
        ax.legend(fontsize="small")
        return ax


def curvature(
    model: nn.Module,
    images: ArrayLike | torch.Tensor,
    labels: ArrayLike | torch.Tensor,
    loss: Loss = nn.functional.cross_entropy,
    k: int = 1,
    tolerance: float = 1e-4,
    seed: int | np.random.Generator = 0,
) -> Curvature:
    """Find the k largest eigenvalues of the Hessian H = ∂²ℓ/∂θ² of a mini-batch's loss, by Lanczos.

    Gradient descent with steps α multiplies what lies along an eigenvector by 1 − αλ: near a minimum it is stable up to
    α = 2/λ₁ (see `stable_step` for the measured one). Of one step along g = ∇ℓ the quadratic
    ℓ(θ − αg) = ℓ − α‖g‖² + ½ α² gᵀHg is at ℓ again at 2‖g‖²/gᵀHg, which is at least 2/λ₁.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it is in: with BatchNorm in training mode ℓ includes the batch's statistics. Unchanged.
    images, labels : array or tensor, (number, …)
    loss : callable
        (outputs, labels) ↦ one real number, the mean over the images.
    k : int
        From 1 to the number of parameters less 1.
    tolerance : float
        Relative accuracy of the eigenvalues; not below what the model's type leaves, 1e-6 in float32.
    seed : int or numpy.random.Generator
        Of the first vector.

    Returns
    -------
    Curvature

    Raises
    ------
    ValueError
        In one line: as `loss_along_step`; if the loss has no second derivative or does not depend on the parameters
        beyond first order, k is out of range, or Lanczos does not converge.

    Notes
    -----
    Cost: one forward and two backward passes, and one backward pass through the graph of the gradient for each of some
    20 to 60 products; about 4 passes of ℓ each. Memory: that graph, about three times that of training, and
    max(20, 2k + 1) vectors of parameters in float64. ReLU counts as linear on either side: what its kinks do to the
    loss is not in H.

    References
    ----------
    Pearlmutter 1994 (products by differentiation). Lehoucq, Sorensen, Yang 1998 (ARPACK). LeCun, Simard, Pearlmutter
    1993 (2/λ). Cohen et al. 2021 (edge of stability). Ghorbani, Krishnan, Xiao 2019 (spectra with BN).

    Examples
    --------
    >>> x = torch.diag(torch.tensor([3.0, 2.0, 1.0]))  # H = 2 xᵀx / 3
    >>> found = curvature(torch.nn.Linear(3, 1, bias=False), x, torch.ones(3, 1), torch.nn.functional.mse_loss, k=2)
    >>> found.eigenvalues.round(4).tolist(), round(found.stable_step, 4)
    ([6.0, 2.6667], 0.3333)
    """
    tolerance = arguments.number("tolerance", tolerance, above=0)
    objective = Objective(model, images, labels, loss)
    size = sum(own.numel() for own in objective.start)
    k = arguments.integer("k", k)
    if k >= size:
        raise ValueError(f"k must be below the number of parameters, {size}, got {k}")
    value, gradient, product = objective.curved()
    square = inner(gradient, gradient)
    if not math.isfinite(value) or not math.isfinite(square):
        raise ValueError(f"loss and gradient must be finite, got {value} and ‖g‖² = {square}: {WIDER}")
    products = 0

    def multiply(vector: Floats) -> Floats:
        nonlocal products
        products += 1
        return _flat(product(_shaped(vector, objective.start)))

    first = streams.stream(streams.root(seed), 0).standard_normal(size)
    try:
        operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
        values, vectors = eigsh(operator, k, which="LA", v0=first, tol=tolerance)
    except ArpackError as error:
        if not multiply(first).any():
            raise ValueError("the Hessian is zero here, as of a dead network: there is no curvature to find") from None
        raise ValueError(
            f"Lanczos found no {k} eigenvalues to {tolerance:g} ({error}): take a larger tolerance"
        ) from error
    order = np.argsort(values)[::-1]
    residuals = [np.linalg.norm(multiply(vectors[:, i]) - values[i] * vectors[:, i]) for i in order]
    along = inner(gradient, product(gradient))
    return Curvature(values[order], np.array(residuals), value, square, along, size, products + 1)


def _two_over(square: float, curved: float) -> float:
    return 2 * square / curved if curved > 0 else math.inf


def _flat(parts: Point) -> Floats:
    return torch.cat([part.detach().double().flatten() for part in parts]).cpu().numpy()


def _shaped(vector: Floats, like: Point) -> list[torch.Tensor]:
    """A vector as tensors of the parameters' shapes, types and devices."""
    pieces = torch.from_numpy(np.ravel(vector)).split([own.numel() for own in like])
    return [piece.reshape(own.shape).to(own) for piece, own in zip(pieces, like, strict=True)]
