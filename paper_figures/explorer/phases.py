"""Tables of the phase diagram: depth scales in the plane of σ_w and σ_b, the edge of chaos, places of networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bntheory import edge_of_chaos, initialization, phase
from paper_figures.explorer.choices import WIDTHS
from paper_figures.explorer.tables import Table

WEIGHTS = np.linspace(0.3, 2.4, 29)  # σ_w at the middle of cells
BIASES = np.linspace(0.0, 1.0, 15)  # σ_b there
LEVELS = np.linspace(0.0, 1.0, 41) ** 2  # σ_b of the edge, which bends where it is small


def phase_tables(activation: str, gains: tuple[float, ...]) -> dict[str, Any]:
    """Depth scales, edge and places of one activation.

    Returns
    -------
    dict
        "cells" (biases, weights): depth scale of correlations; "edge": σ_w at `LEVELS` of σ_b, NaN where there is none;
        "normal", over gains, and "torch_default", over widths: Tables of (σ_w, σ_b, χ, 1/depth scale).
    """
    # the lowest row is of a small bias: without any, the ordered side has no correlation length
    cells = [[phase(activation, w**2, max(b, BIASES[1] / 4) ** 2).depth_c for w in WEIGHTS] for b in BIASES]
    law = initialization("torch_default")
    default = [_place(activation, law.gain, math.sqrt(law.bias_variance(width))) for width in WIDTHS]
    return {
        "cells": np.array(cells),
        "edge": np.sqrt(edge_of_chaos(activation, LEVELS**2)),
        "normal": Table({"gain": gains}, np.array([_place(activation, gain, 0.0) for gain in gains])),
        "torch_default": Table({"width": tuple(map(float, WIDTHS))}, np.array(default)),
    }


def _place(activation: str, sigma_w: float, sigma_b: float) -> list[float]:
    found = phase(activation, sigma_w**2, sigma_b**2)
    return [sigma_w, sigma_b, found.chi, 1 / found.depth_c if found.depth_c else math.inf]
