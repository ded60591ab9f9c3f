"""Samples until their mean is known as well as asked for, with a confidence that survives the looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bntheory import arguments
from simulations.statistics import mean_with_error, tolerance

Floats = NDArray[np.float64]


class Sampled(NamedTuple):
    """All samples drawn (count, …), and their mean ± half_width with standard_error, arrays of one shape.

    `reached` tells whether every half-width is below what was asked for; the interval covers in either case.
    """

    samples: Floats
    mean: Floats
    standard_error: Floats
    half_width: Floats
    reached: bool


def sample_until(
    draw: Callable[[int, int], ArrayLike],
    relative_error: float = 0.01,
    confidence: float = 0.95,
    first: int = 64,
    most: int = 1_000_000,
    absolute_error: float = 0.0,
) -> Sampled:
    """Draw independent samples until the half-width of the mean's interval is below relative_error · |mean|.

    Looks at first, 2 first, 4 first, … and `most` samples. The interval at look k = 1, 2, … fails with probability
    (1 − confidence)/(k(k + 1)); these add up to 1 − confidence, so that all looks hold together with `confidence`, and
    with them the one where sampling stops. Ordinary intervals, looked at until one pleases, do not.

    Parameters
    ----------
    draw : callable
        draw(start, count) returns the samples start … start + count − 1, shape (count,) or (count, …).
    relative_error : float
        At least 0.
    confidence : float
        In (0, 1): that the true means of all components are within their half-widths (Bonferroni's bound).
    first, most : int
        Samples at the first and at the last look, 2 ≤ first ≤ most. All are kept.
    absolute_error : float
        At least 0: a half-width below the larger of both errors is enough.

    Returns
    -------
    Sampled
        samples (count, …), mean, standard_error and half_width (…), reached.

    Raises
    ------
    ValueError
        If an argument is out of range, both errors are 0, or a sample is not finite or of another shape.

    Notes
    -----
    Takes about (t s/(relative_error · mean))² samples, s their standard deviation and t = 3 to 4, rounded up to the
    next look: half the error costs four times as many. A mean of 0, in one component, is never known to a relative
    error: that ends at `most` with reached False, and so do samples that are all 0.

    The intervals are Student's: exact for Gaussian samples, asymptotic for others, so that `first` has to be large
    enough for the mean of so many to be near Gaussian. Of lognormal samples (σ = 1) 64 are enough for a relative
    error of 0.2 at confidence 0.95 (covered: 0.98), too few for 0.3 or more (0.94).

    References
    ----------
    Darling, Robbins 1967, on intervals that hold at all sample sizes.

    Examples
    --------
    >>> from simulations.streams import stream
    >>> result = sample_until(lambda start, count: [stream(0, start + i).random() for i in range(count)], 0.1)
    >>> len(result.samples), result.reached, bool(abs(result.mean - 0.5) < result.half_width)
    (512, True, True)
    """
    relative_error = arguments.number("relative_error", relative_error, at_least=0)
    absolute_error = arguments.number("absolute_error", absolute_error, at_least=0)
    if not relative_error and not absolute_error:
        raise ValueError("relative_error or absolute_error must be above 0, got 0 for both")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    first, most = arguments.integer("first", first, at_least=2), arguments.integer("most", most, at_least=2)
    if first > most:
        raise ValueError(f"first must be at most most = {most}, got {first}")
    for look, samples in enumerate(_looks(draw, first, most), start=1):
        mean, error = mean_with_error(samples)
        alarm = (1 - confidence) / (look * (look + 1))
        half_width = tolerance(error, alarm, comparisons=mean.size, degrees_of_freedom=len(samples) - 1)
        reached = bool((half_width < np.maximum(absolute_error, relative_error * np.abs(mean))).all())
        if reached:
            break
    return Sampled(samples, mean, error, half_width, reached)


def _looks(draw: Callable[[int, int], ArrayLike], first: int, most: int) -> Iterator[Floats]:
    """All samples so far, at each look; sizes must not depend on the samples, or the confidence would."""
    samples = _drawn(draw, 0, first)
    yield samples
    while len(samples) < most:
        more = _drawn(draw, len(samples), min(len(samples), most - len(samples)))
        if more.shape[1:] != samples.shape[1:]:
            raise ValueError(f"draw must return samples of one shape, got {more.shape[1:]} after {samples.shape[1:]}")
        samples = np.concatenate([samples, more])
        yield samples


def _drawn(draw: Callable[[int, int], ArrayLike], start: int, count: int) -> Floats:
    samples = np.asarray(draw(start, count), dtype=float)
    if samples.shape[:1] != (count,) or not samples.size:
        raise ValueError(
            f"draw({start}, {count}) must return {count} samples, (count,) or (count, …), got shape {samples.shape}"
        )
    return samples
