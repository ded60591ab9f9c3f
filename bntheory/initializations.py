"""Weight laws as data: the variance of a layer's weights and biases from its fans.

Symbols: gain, fan_in (inputs of a unit times the kernel's area), fan_out (outputs of an input times the kernel's area),
Var w = gain² / fan with fan = fan_in, fan_out or their mean, and σ_w² = fan_in · Var w.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from bntheory import arguments

MODES = ("fan_in", "fan_out", "fan_avg")
DISTRIBUTIONS = ("normal", "uniform", "orthogonal")


@dataclass(frozen=True)
class Initialization:
    """Zero-mean weights of variance gain²/fan, and zero-mean biases of variance bias_gain²/fan_in.

    Parameters
    ----------
    name : str
        What tables and errors call it.
    gain : float
        Between 1e-100 and 1e100; √2 for He, 1 for Xavier and LeCun, √(1/3) for torch's default.
    mode : {"fan_in", "fan_out", "fan_avg"}
        Which fan divides; ignored by the orthogonal law.
    distribution : {"normal", "uniform", "orthogonal"}
        Orthogonal: gain times a matrix (out × fan_in) with orthonormal rows or columns, so that an entry has
        variance gain² / max(out, fan_in).
    bias_gain : float
        Biases are uniform with variance bias_gain²/fan_in; 0 (no bias) for all but torch's default.

    Raises
    ------
    ValueError
        If the gain is out of range, or mode or distribution is unknown.

    References
    ----------
    He et al. 2015, equations 10 and 14; Glorot and Bengio 2010, equation 16; LeCun et al. 1998, section 4.6;
    Saxe et al. 2014 (orthogonal). Fans and gains are those of ``torch.nn.init``.

    Examples
    --------
    >>> print(f"{initialization('he_normal').variance(fan_in=100, fan_out=50):.6g}")
    0.02
    """

    name: str
    gain: float
    mode: str = "fan_in"
    distribution: str = "normal"
    bias_gain: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"name of an initialization must be a word, got {self.name!r}")
        gain = arguments.number("gain", self.gain, above=0)
        if not 1e-100 <= gain <= 1e100:
            raise ValueError(f"gain must be between 1e-100 and 1e100, got {gain!r}")
        object.__setattr__(self, "gain", gain)
        object.__setattr__(self, "bias_gain", arguments.number("bias_gain", self.bias_gain, at_least=0))
        arguments.choice("mode", self.mode, MODES)
        arguments.choice("distribution", self.distribution, DISTRIBUTIONS)

    def variance(self, fan_in: int, fan_out: int, kernel_area: int = 1) -> float:
        """Variance of one weight, given the layer's fans (kernel area included in both)."""
        if self.distribution == "orthogonal":
            return self.gain**2 / max(fan_out // kernel_area, fan_in)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        return self.gain**2 / fan

    def bias_variance(self, fan_in: int) -> float:
        """Variance of one bias of this law; 0 for all but torch's default."""
        return self.bias_gain**2 / fan_in

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Initialization:
        """Rebuild from `to_dict`."""
        return cls(**fields)

    def __str__(self) -> str:
        known = INITIALIZATIONS.get(self.name)
        changed = []
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value != (field.default if known is None else getattr(known, field.name)):
                changed.append(f"{field.name}={value:.6g}" if isinstance(value, float) else f"{field.name}={value}")
        return self.name + (f"({', '.join(changed)})" if changed else "")


INITIALIZATIONS = {
    law.name: law
    for law in (
        Initialization("he_normal", math.sqrt(2), "fan_in", "normal"),
        Initialization("he_uniform", math.sqrt(2), "fan_in", "uniform"),
        Initialization("xavier_normal", 1.0, "fan_avg", "normal"),
        Initialization("xavier_uniform", 1.0, "fan_avg", "uniform"),
        Initialization("lecun_normal", 1.0, "fan_in", "normal"),
        Initialization("lecun_uniform", 1.0, "fan_in", "uniform"),
        # kaiming_uniform_(a=√5) and a bias uniform on ±1/√fan_in: what nn.Linear and nn.Conv2d do by themselves
        Initialization("torch_default", math.sqrt(1 / 3), "fan_in", "uniform", bias_gain=math.sqrt(1 / 3)),
        Initialization("orthogonal", 1.0, "fan_in", "orthogonal"),
    )
}


def initialization(law: str | Initialization, gain: float | None = None, mode: str | None = None) -> Initialization:
    """Return the initialization of that name, with another gain or fan mode if given.

    Parameters
    ----------
    law : str or Initialization
        One of ``he_normal, he_uniform, xavier_normal, xavier_uniform, lecun_normal, lecun_uniform, torch_default,
        orthogonal``, or a law, which is taken as it is.
    gain : float, optional
        Replaces the law's gain: the weights get variance gain²/fan.
    mode : {"fan_in", "fan_out", "fan_avg"}, optional
        Replaces the law's fan mode.

    Returns
    -------
    Initialization

    Raises
    ------
    ValueError
        For an unknown name (the nearest known one is suggested), gain or mode.

    Examples
    --------
    >>> print(initialization("lecun_normal", gain=10))
    lecun_normal(gain=10)
    """
    if isinstance(law, str):
        law = INITIALIZATIONS[arguments.choice("init", law, INITIALIZATIONS)]
    if not isinstance(law, Initialization):
        raise ValueError(f"init must be a name or an Initialization, got {law!r}")
    if gain is not None:
        law = dataclasses.replace(law, gain=gain)
    return law if mode is None else dataclasses.replace(law, mode=mode)
