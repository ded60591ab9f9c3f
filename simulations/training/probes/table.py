"""All probes by name, called alike; streaming ones share a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from simulations.training.modules import torch
from simulations.training.probes import channel_moments, gradient_histogram, kernel_alignment, logit_gradients, passes
from simulations.training.probes.curvature import curvature
from simulations.training.probes.jacobian_spectrum import JacobianSpectrum, jacobian_spectrum
from simulations.training.probes.loss_along_step import loss_along_step
from simulations.training.probes.moments_along_step import moments_along_step
from simulations.training.probes.sgd_noise import sgd_noise
from simulations.training.probes.stable_step import stable_step
from simulations.training.probes.theory_gap import theory_gap
from simulations.training.probes.weight_spectra import WeightSpectra, weight_spectra

nn = torch.nn
Probe = Callable[..., Any]


def _jacobian_of_the_first(model: nn.Module, images: Any, labels: Any = None, loss: Any = None) -> JacobianSpectrum:
    """In evaluation mode, since an image of a batch that BatchNorm normalizes has no Jacobian of its own."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        return jacobian_spectrum(model.eval(), images[0])
    finally:
        for module, training in modes:
            module.training = training


def _of_weights(model: nn.Module, images: Any = None, labels: Any = None, loss: Any = None) -> WeightSpectra:
    return weight_spectra(model)


_WATCHES: dict[Probe, Callable[..., passes.Watch]] = {
    gradient_histogram.gradient_histogram: gradient_histogram.watch,
    channel_moments.channel_moments: channel_moments.watch,
    logit_gradients.logit_gradients: logit_gradients.watch,
    kernel_alignment.kernel_alignment: kernel_alignment.watch,
}
STREAMING: tuple[str, ...] = tuple(probe.__name__ for probe in _WATCHES)
PROBES: dict[str, Probe] = {
    **dict(zip(STREAMING, _WATCHES, strict=True)),
    "theory_gap": theory_gap,
    "loss_along_step": loss_along_step,
    "moments_along_step": moments_along_step,
    "sgd_noise": sgd_noise,
    "curvature": curvature,
    "stable_step": stable_step,
    "jacobian_spectrum": _jacobian_of_the_first,
    "weight_spectra": _of_weights,
}


def observe(
    probes: Mapping[str, Probe],
    model: nn.Module,
    images: np.ndarray | torch.Tensor,
    labels: np.ndarray | torch.Tensor,
) -> dict[str, Any]:
    """Return what several probes find of the cross-entropy, the streaming ones among them in one forward pass.

    Parameters
    ----------
    probes : mapping of str to callable
        Of PROBES or of one's own, called as ``probe(model, images, labels)``.
    model, images, labels
        As for each of them.

    Returns
    -------
    dict
        By the names of `probes`, in their order.

    Examples
    --------
    >>> chosen = {name: PROBES[name] for name in STREAMING}
    >>> found = observe(chosen, nn.Linear(4, 3), torch.randn(5, 4), torch.arange(5) % 3)
    >>> list(found) == list(STREAMING)
    True
    """
    together = {name: _WATCHES[probe] for name, probe in probes.items() if probe in _WATCHES}
    loss = nn.functional.cross_entropy
    watches = [watch(model, labels, loss) for watch in together.values()]
    found = passes.watched(watches, model, images, labels, loss) if watches else []
    results = dict(zip(together, found, strict=True))
    return {name: results[name] if name in results else probe(model, images, labels) for name, probe in probes.items()}
