"""Size of activations and gradients, layer by layer, and spectra of Jacobians, for random deep networks.

Conventions: natural logarithms; population variances; arrays in, arrays out; nothing global. σ_w² = fan_in · Var w.
Names are loaded on first use, so that importing the package costs nothing.
"""

import importlib
from typing import Any

_PUBLIC = {
    # describe
    "mlp": "architectures",
    "resnet": "architectures",
    "vgg": "architectures",
    "cnn": "architectures",
    "Sequential": "networks",
    "Residual": "networks",
    "Join": "networks",
    "leaves": "networks",
    "from_json": "serialization",
    "Dense": "layers",
    "Conv": "layers",
    "BatchNorm": "layers",
    "LayerNorm": "layers",
    "GroupNorm": "layers",
    "Affine": "layers",
    "Dropout": "layers",
    "Pool": "layers",
    "Pad": "layers",
    "Flatten": "layers",
    "ZeroPad": "layers",
    "Unflatten": "rearrangements",
    "Unroll": "rearrangements",
    "Channels": "rearrangements",
    "Upsample": "rearrangements",
    "Offset": "positional",
    "Mix": "positional",
    "ConvTranspose": "positional",
    "Unknown": "layers",
    "Activation": "activations",
    "activation": "activations",
    "Initialization": "initializations",
    "initialization": "initializations",
    # growth
    "predict_growth": "growth.prediction",
    "Growth": "growth.prediction",
    "predict_module": "torch_models.prediction",
    "describe_module": "torch_models.reading",
    "kernel_alignment": "growth.backward.alignment",
    "critical_gain": "growth.phase",
    "phase": "growth.phase",
    "edge_of_chaos": "growth.phase",
    # spectra
    "FussCatalan": "spectra.fuss_catalan",
    "MarchenkoPastur": "spectra.fuss_catalan",
    "STransformLaw": "spectra.s_transform",
    "DiscreteLaw": "spectra.discrete",
    "density_law": "spectra.densities",
    "slope_law": "spectra.densities",
    "generating_law": "spectra.generating",
    "jacobian_law": "spectra.jacobian",
    "finite_size_moments": "spectra.finite_size",
    "lyapunov_exponents": "spectra.lyapunov",
    "regime": "spectra.regime",
    # pictures
    "plot_growth": "plotting",
    "plot_spectrum": "plotting",
    "plot_phase": "plotting",
}

__all__ = list(_PUBLIC)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
