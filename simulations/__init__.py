"""Monte Carlo of random networks, and real torch networks measured: the judges of the theory."""

import importlib
from typing import Any

_PUBLIC = {
    "simulate_growth": "growth",
    "simulate_bands": "bands",
    "Samples": "samples",
    "sample_until": "stopping",
    "Study": "study",
    "read_study": "study_files",
    "run_study": "study_run",
    "StudyResults": "study_results",
    "quantile_with_interval": "statistics",
    "log_singular_values": "products",
    "randomness_test": "randomness",
    "theory_gap": "training.probes.theory_gap",
    "train": "training.loop",
    "Recipe": "training.recipe",
    "sweep": "training.sweep",
    "sweep_study": "training.sweep",
    "load_model": "training.checkpoints",
    "jacobian": "training.probes.jacobian",
    "jacobian_spectrum": "training.probes.jacobian_spectrum",
    "loss_along_step": "training.probes.loss_along_step",
    "moments_along_step": "training.probes.moments_along_step",
    "sgd_noise": "training.probes.sgd_noise",
    "curvature": "training.probes.curvature",
    "stable_step": "training.probes.stable_step",
    "weight_spectra": "training.probes.weight_spectra",
    "crosscheck": "comparison",
    "build": "training.modules",
    "measure_growth": "training.probes.measured_growth",
    "measure_module": "training.redraws",
    "gradient_histogram": "training.probes.gradient_histogram",
    "channel_moments": "training.probes.channel_moments",
    "logit_gradients": "training.probes.logit_gradients",
    "kernel_alignment": "training.probes.kernel_alignment",
    "digits": "training.datasets",
    "fashion_mnist": "training.datasets",
    "cifar10": "training.datasets",
    "download_cifar10": "training.datasets",
    "images_for": "training.datasets",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
