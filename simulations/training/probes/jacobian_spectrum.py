"""Probe: the singular values of a module's Jacobian at one input, against the law of a wide network like it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from bntheory.spectra.jacobian import jacobian_law
from bntheory.spectra.law import SpectralLaw
from bntheory.torch_models.reading import describe_module
from simulations.graded import Floats
from simulations.products import log_singular_values
from simulations.statistics import kolmogorov_distance
from simulations.training.modules import torch
from simulations.training.probes.jacobian import jacobian
from simulations.training.probes.reporting import aligned, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

nn = torch.nn
QUANTILES = (1.0, 0.9, 0.75, 0.5, 0.25)  # of the table; 1 is the largest


@dataclass(frozen=True, eq=False)
class JacobianSpectrum:
    """Singular values of a Jacobian.

    Attributes
    ----------
    log_singular_values : ndarray, (outputs,)
        Natural logarithms, descending; −inf for zeros, those without an input of their own included.
    resolution : float
        ln of the size below which the type of the model leaves rounding.
    law : SpectralLaw or None
        Of the squared singular values of wide networks with weights of these sizes.
    unavailable : str
        Why there is no law; empty if there is one.
    distance : float
        Kolmogorov distance from the law; singular values below the resolution count as one number.
    """

    log_singular_values: Floats
    resolution: float
    law: SpectralLaw | None
    unavailable: str
    distance: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for strict JSON."""
        names = ("log_singular_values", "resolution", "unavailable", "distance")
        return plain({name: getattr(self, name) for name in names})

    def table(self) -> str:
        """Return quantiles of the logarithms, measured and of the law, as aligned text."""
        measured = np.quantile(self.log_singular_values, QUANTILES, method="inverted_cdf")
        theory = [None if self.law is None else float(self.law.log.ppf(q)) / 2 for q in QUANTILES]
        heads = ("share below", "ln s measured", "ln s of the law")
        return aligned(heads, list(zip(QUANTILES, measured, theory, strict=True)))

    def __str__(self) -> str:
        largest = f"{len(self.log_singular_values)} singular values, the largest e^{self.log_singular_values[0]:.4g}"
        if self.law is None:
            return f"{largest}; no law: {self.unavailable}"
        return f"{largest}; Kolmogorov distance from the law {self.distance:.2g}."

    def plot(self, ax: Axes | None = None, view: str = "singular") -> Axes:
        """Draw the law over the histogram (see `bntheory.plot_spectrum`)."""
        from bntheory.plotting import plot_spectrum

        return plot_spectrum(self.law, self.log_singular_values, ax, view)


def jacobian_spectrum(model: nn.Module, x: ArrayLike | torch.Tensor) -> JacobianSpectrum:
    """Compare the singular values of the Jacobian at one input with the law of a wide network like this one.

    The law is that of `bntheory.jacobian_law` for the description that `bntheory.describe_module` reads from the
    module: weights count as independent, with the variances that they have now.

    Parameters
    ----------
    model : torch.nn.Module
        As `simulations.jacobian` takes it. Unchanged.
    x : array or tensor
        One input, without a batch axis. The law takes it for one of second moment 1: that matters to smooth
        activations only.

    Returns
    -------
    JacobianSpectrum

    Raises
    ------
    ValueError
        As `simulations.jacobian`.

    Notes
    -----
    Cost: two forward passes and a backward pass for each output. Of a random network of n units the distance is of
    order 1/√n where masks are drawn (that many more or fewer units are alive than half), otherwise of order 1/n.

    References
    ----------
    Pennington, Schoenholz, Ganguli 2017 (arXiv:1711.04735).

    Examples
    --------
    >>> import bntheory as bn
    >>> from simulations.training.modules import build
    >>> model = build(bn.mlp(depth=3, width=200), dtype="float64")
    >>> print(jacobian_spectrum(model, np.ones(200)))
    200 singular values, the largest e^1.301; Kolmogorov distance from the law 0.06.
    """
    matrix = jacobian(model, x)
    logs = log_singular_values([matrix]) if matrix.any() else np.full(min(matrix.shape), -math.inf)
    logs = np.concatenate([logs, np.full(len(matrix) - len(logs), -math.inf)])
    own = next((each for each in model.parameters() if each.is_floating_point()), torch.zeros((), dtype=torch.float64))
    resolution = float(logs[0]) + math.log(max(matrix.shape) * torch.finfo(own.dtype).eps)
    try:
        law = jacobian_law(describe_module(model, torch.as_tensor(x)[None].to(own)))
    except ValueError as error:
        return JacobianSpectrum(logs, resolution, None, str(error), math.nan)

    def cdf(values: Floats) -> Floats:
        return np.where(values < 2 * resolution, 0.0, law.log.cdf(values))

    distance = kolmogorov_distance(2 * np.maximum(logs, resolution), cdf) if matrix.any() else math.nan
    return JacobianSpectrum(logs, resolution, law, "", distance)
