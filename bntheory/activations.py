"""Nonlinearities as plain data: φ, φ′, their Gaussian moments, and what they make of the distance of two inputs.

h ~ N(0, q) throughout. Variances and distances enter as natural logarithms and moments leave as natural logarithms, so
that nothing leaves float64 at any depth.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bntheory import arguments
from bntheory.gaussian import (
    NODES,
    SAMPLE,
    Expectations,
    GaussianMoments,
    homogeneous_distance,
    homogeneous_moments,
    ordered,
)
from bntheory.nonlinearities import RULES, Floats, Function, Rule, elu

MOST_KINKS = 8

KNOWN = ("linear", "relu", "leaky_relu", *RULES)  #: names that :func:`activation` understands


@dataclass(frozen=True)
class Activation:
    """A nonlinearity φ as data: compared by value, hashable, and picklable if its functions are.

    linear x; relu max(x, 0); leaky_relu max(x, 0) + slope·min(x, 0); tanh x; erf x; sigmoid 1/(1 + e^−x);
    gelu x P(g < x), g ~ N(0, 1); silu x/(1 + e^−x); elu x for x > 0 and slope·(e^x − 1) for x < 0; selu λx and
    λα(e^x − 1); softplus ln(1 + e^x); softsign x/(1 + |x|); mish x tanh ln(1 + e^x); gelu_tanh, torch's approximation
    of gelu; logsigmoid −ln(1 + e^−x); tanhshrink x − tanh x; relu6 and hardtanh, x cut at 0 and 6, and at ±1;
    hardsigmoid relu6(x + 3)/6; hardswish x times that.

    Parameters
    ----------
    name : str
        One of ``KNOWN``, or any other name together with ``functions``.
    slope : float, optional
        Slope of leaky_relu for x < 0, finite; 0.01 unless given. Of elu, that at 0 from the left, torch's α; 1 unless
        given. No other activation takes one.
    functions : (callable, callable), optional
        φ and φ′; use :meth:`from_function`, which also checks them.
    kinks : tuple of float
        Where φ is not smooth, 0 apart; those of the named ones are known.

    Raises
    ------
    ValueError
        If the name is unknown, the slope is not finite or given to another activation than leaky_relu and elu, or kinks
        are given to a named one.

    References
    ----------
    Klambauer et al. 2017 (selu, arXiv:1706.02515); Hendrycks, Gimpel 2016 (gelu, arXiv:1606.08415); Misra 2019 (mish,
    arXiv:1908.08681); Howard et al. 2019 (hardswish, arXiv:1905.02244).

    Examples
    --------
    >>> leaky = Activation("leaky_relu", 0.2)
    >>> print(leaky, leaky.homogeneous_slopes, leaky.phi([-1.0, 2.0]))
    leaky_relu(0.2) (1.0, 0.2) [-0.2  2. ]
    """

    name: str
    slope: float | None = None
    functions: tuple[Function, Function] | None = None
    kinks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.functions is None and self.name not in KNOWN:
            raise ValueError(_unknown(self.name))
        if self.functions is not None:
            _check_functions(self.name, self.functions)
        if self.name == "leaky_relu":
            slope = arguments.number("slope of leaky_relu", 0.01 if self.slope is None else self.slope)
            object.__setattr__(self, "slope", slope)
        elif self.name == "elu" and self.slope is not None:
            slope = arguments.number("slope of elu", self.slope)
            object.__setattr__(self, "slope", None if slope == 1 else slope)
        elif self.slope is not None:
            raise ValueError(f"only leaky_relu and elu take a slope, got slope={self.slope!r} for {self.name}")
        if self.functions is None:
            if self.kinks:
                raise ValueError(
                    f"only an activation made from functions is told kinks, got {self.kinks} for {self.name}"
                )
            object.__setattr__(self, "kinks", RULES[self.name].kinks if self.name in RULES else ())

    def __str__(self) -> str:
        return self.name if self.slope is None else f"{self.name}({self.slope!r})"

    @staticmethod
    def from_function(name: str, phi: Function, dphi: Function, kinks: Sequence[float] = ()) -> "Activation":
        """A nonlinearity of your own.

        Parameters
        ----------
        name : str
            Not one of ``KNOWN``.
        phi, dphi : callable
            φ and φ′, elementwise on float arrays of any shape. Assumed: smooth except at 0 and at kinks, varying on the
            scale 1 near 0 and on the scale of x far from it, power-law tails, below 1e150 for |x| < 1.2e14.
        kinks : sequence of float
            Where else φ′ jumps or φ is not smooth; between 0.01 and 1000 in size, and at most 8.

        Raises
        ------
        ValueError
            If one of them is not callable, fails on an array, returns another shape or a value that is not finite,
            if kinks are too many or out of range, or if a kink that is not among them, a jump or an oscillation keeps
            the moments from converging.

        Notes
        -----
        As accurate as the built-in ones, except that E φ carries the rounding of φ(x) + φ(−x), 1e-16 √(E φ²), and is
        replaced by its leading power of q, good to 1e-7, where it is below 1e-8 √(E φ²).

        Examples
        --------
        >>> rational = Activation.from_function("rational", lambda x: x / (1 + abs(x)), lambda x: (1 + abs(x)) ** -2.0)
        >>> print(round(float(rational.log_moments(0.0).log_second), 6))
        -1.698193
        >>> slope = lambda x: np.where(abs(x) < 1, 1.0, 0.0)
        >>> clipped = Activation.from_function("clipped", lambda x: np.clip(x, -1, 1), slope, kinks=(-1, 1))
        >>> print(f"{clipped.log_moments(0.0).log_second:.12f} {np.log(1 - 2 * 0.241970724519143):.12f}")
        -0.661535049082 -0.661535049082
        """
        made = Activation(name, None, (phi, dphi), _checked_kinks(kinks))
        _expectations(made)
        return made

    @property
    def homogeneous_slopes(self) -> tuple[float, float] | None:
        """Slopes for x > 0 and x < 0 of a positively homogeneous φ (linear, relu, leaky_relu); None for all others."""
        if self.name == "leaky_relu" and self.slope is not None:
            return 1.0, self.slope
        return {"linear": (1.0, 1.0), "relu": (1.0, 0.0)}.get(self.name)

    def phi(self, x: ArrayLike) -> Any:
        """φ(x), elementwise and without warnings for |x| ≤ 1e300; the shape of ``x``."""
        values = _floats(x)
        if self.functions is not None:
            return _apply(self.functions[0], values, f"phi of activation {self.name!r}")
        if (slopes := self.homogeneous_slopes) is None:
            return _rule(self).phi(values)[()]
        positive = slopes[0] * np.maximum(values, 0)
        return positive + slopes[1] * np.minimum(values, 0) if slopes[1] else positive

    def dphi(self, x: ArrayLike) -> Any:
        """φ′(x), elementwise; at a kink the slope on the left, so 0 for relu; the shape of ``x``."""
        values = _floats(x)
        if self.functions is not None:
            return _apply(self.functions[1], values, f"dphi of activation {self.name!r}")
        if (slopes := self.homogeneous_slopes) is None:
            return _rule(self).dphi(values)[()]
        return np.where(values > 0, *np.array(slopes, values.dtype))[()]

    def log_moments(self, log_q: ArrayLike) -> GaussianMoments:
        """ln |E φ(h)| with its sign, ln E φ(h)² and ln E φ′(h)² for h ~ N(0, q).

        Parameters
        ----------
        log_q : array_like
            ln q, any shape; −inf (h = 0) and +inf give the limits, NaN gives NaN.

        Returns
        -------
        GaussianMoments
            ``mean_sign``, ``log_mean``, ``log_second``, ``log_derivative``, each of the shape of ``log_q``.

        Notes
        -----
        Closed for linear, relu and leaky_relu. Otherwise by quadrature: relative error below 1e-12 for |ln q| ≤ 60 (of
        means that may be 0, as selu's at q = 1, relative to √E φ²), and by the leading power of q beyond, 1e-12 as well
        (1e-11 of softsign).

        References
        ----------
        Poole, Lahiri, Raghu, Sohl-Dickstein, Ganguli 2016 (arXiv:1606.05340), the map of lengths.

        Examples
        --------
        >>> Activation("relu").log_moments([0.0, 1000.0]).log_second.round(6).tolist()
        [-0.693147, 999.306853]
        """
        if (slopes := self.homogeneous_slopes) is not None:
            return homogeneous_moments(slopes, np.asarray(log_q, dtype=float))
        return _expectations(self).log_moments(log_q)

    def log_distance(self, log_q1: ArrayLike, log_q2: ArrayLike, log_d: ArrayLike) -> Any:
        """ln E (φ(u) − φ(v))² for (u, v) Gaussian with mean zero, variances q₁ and q₂, and d = E (u − v)².

        A distance, because the correlation 1 − d/2q of two inputs that collapse on one another cancels.

        Parameters
        ----------
        log_q1, log_q2, log_d : array_like
            ln q₁, ln q₂, ln d, broadcast together; −inf allowed. |√q₁ − √q₂| ≤ √d ≤ √q₁ + √q₂ up to 1e-6 √q.

        Returns
        -------
        ndarray or float
            Of the broadcast shape; −inf where d = 0, NaN where an argument is NaN.

        Raises
        ------
        ValueError
            If no two variables have these variances and this distance.

        Notes
        -----
        Closed for linear, relu, leaky_relu and erf. The others by quadrature over u − v and v, about a millisecond for
        each distinct triple, ten with kinks; relative error below 2e-10 (2e-9 of softsign and tanhshrink), at any d
        down to 0 and any ln q, 1e-8 for a bounded φ with ln q > 80. What the rounding of ln d hides is out of reach:
        |ln q₁ − ln q₂| < 1e-12 (1 + |ln q|) counts as 0, and for a bounded φ at large q nearly parallel inputs of
        different variances are not told from others.

        References
        ----------
        Cho, Saul 2009 (relu: the arc-cosine kernel of degree 1); Williams 1997 (erf); Poole et al. 2016.

        Examples
        --------
        >>> print(round(float(Activation("relu").log_distance(0.0, 0.0, -2000.0)), 6))
        -2000.693147
        """
        high, low, distance = ordered(*np.broadcast_arrays(*(np.asarray(a, float) for a in (log_q1, log_q2, log_d))))
        if (slopes := self.homogeneous_slopes) is not None:
            return homogeneous_distance(slopes, high, low, distance)[()]
        rows, inverse = np.unique(np.stack([high, low, distance], axis=-1).reshape(-1, 3), axis=0, return_inverse=True)
        expectations = _expectations(self)
        values = np.array([expectations.log_distance(*row) for row in rows.tolist()], dtype=float)
        return values[inverse.ravel()].reshape(high.shape)[()]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ValueError for an activation made from functions."""
        if self.functions is not None:
            raise ValueError(f"activation {self.name!r} was made from functions, which cannot be written as plain data")
        return {"name": self.name} if self.slope is None else {"name": self.name, "slope": self.slope}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Activation":
        """Inverse of :meth:`to_dict`."""
        if not isinstance(data, Mapping) or not {"name"} <= set(data) <= {"name", "slope"}:
            raise ValueError(f"an activation is written as {{'name': …}} or {{'name': …, 'slope': …}}, got {data!r}")
        return Activation(**data)


def activation(spec: str | Activation) -> Activation:
    """Look up an activation: ``"relu"``, ``"leaky_relu"``, ``"leaky_relu(0.2)"``, ``"elu(0.5)"``, or an Activation.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists the known ones.

    Examples
    --------
    >>> activation("leaky_relu(0.2)") == Activation("leaky_relu", 0.2)
    True
    """
    if isinstance(spec, Activation):
        return spec
    if isinstance(spec, str) and (match := re.fullmatch(r"(leaky_relu|elu)\((.*)\)", spec)):
        return Activation(match[1], _parsed(*match.groups()))
    return Activation(spec)


def _unknown(name: object) -> str:
    near = difflib.get_close_matches(name.lower(), KNOWN, n=1, cutoff=0.0) if isinstance(name, str) else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown activation {name!r}: {hint}known are {', '.join(KNOWN)}"


def _parsed(name: str, slope: str) -> float:
    try:
        return float(slope)
    except ValueError:
        raise ValueError(f"slope of {name} must be a number, got {slope!r}") from None


def _check_functions(name: object, functions: object) -> None:
    if not isinstance(name, str) or not name or name in KNOWN:
        raise ValueError(f"name of an activation made from functions must be a new one, got {name!r}")
    if not isinstance(functions, tuple) or len(functions) != 2:
        raise ValueError(f"functions of activation {name!r} must be a pair (phi, dphi), got {functions!r}")
    for label, function in zip(("phi", "dphi"), functions, strict=True):
        if not callable(function):
            raise ValueError(f"{label} of activation {name!r} must be callable, got {function!r}")


def _checked_kinks(kinks: Sequence[float]) -> tuple[float, ...]:
    if not isinstance(kinks, (tuple, list)) or len(kinks) > MOST_KINKS:
        raise ValueError(f"kinks must be at most {MOST_KINKS} numbers, got {kinks!r:.60}")
    places = sorted({arguments.number("kinks", kink) for kink in kinks} - {0.0})
    if places and not 0.01 <= min(map(abs, places)) <= max(map(abs, places)) <= 1000:
        raise ValueError(f"kinks must be between 0.01 and 1000 in size, got {kinks!r:.60}")
    return tuple(places)


def _rule(activation: Activation) -> Rule:
    return RULES[activation.name] if activation.slope is None else elu(activation.slope)


def _floats(x: ArrayLike) -> Any:
    array = np.asarray(x)
    return array if array.dtype.kind == "f" else array.astype(float)


def _apply(function: Function, x: Floats, label: str) -> Any:
    try:
        values = _floats(function(x))
    except Exception as error:
        raise ValueError(f"{label} failed on an array of shape {x.shape}: {error}") from error
    if values.shape != x.shape:
        raise ValueError(f"{label} must return the shape of x, {x.shape}, got {values.shape}")
    return values[()]


@lru_cache(maxsize=64)
def _expectations(activation: Activation) -> Expectations:
    if activation.functions is None:
        rule = _rule(activation)
        return Expectations(rule.phi, rule.dphi, rule.even, rule.distance, rule.kinks)
    for label, function in (("phi", activation.phi), ("dphi", activation.dphi)):
        with np.errstate(all="ignore"):
            values = function(SAMPLE)
        if np.any(bad := ~(np.abs(values) < 1e150)):
            raise ValueError(
                f"{label} of activation {activation.name!r} must be finite and below 1e150 for |x| < 1.2e14, "
                f"got {values[bad][0]} at x = {SAMPLE[bad][0]:.6g}"
            )
    with np.errstate(all="ignore"):
        made = Expectations(activation.phi, activation.dphi, kinks=activation.kinks)
        sides = [
            np.array([-NODES[0], NODES[0]]),
            *(kink * np.array([1 - 1e-12, 1 + 1e-12]) for kink in activation.kinks),
        ]
        jump = max(float(np.ptp(activation.phi(side))) for side in sides)
        smooth = made.half_step_error() < 2e-4 and jump <= 1e-9 * np.ptp(activation.phi(SAMPLE))
    if not smooth:
        raise ValueError(
            f"phi of activation {activation.name!r} must be continuous, and smooth except at x = 0 and at its kinks, "
            f"got kinks={activation.kinks}"
        )
    return made
