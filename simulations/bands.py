"""Bands that theory has no law for, from drawn networks: mean, spread and quantiles over draws of the weights."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from bntheory import arguments
from bntheory.growth.diagnosis.remedies import everywhere
from bntheory.growth.finite_width.bands import Bands
from bntheory.growth.infinite_width.state import check_inputs
from bntheory.growth.prediction import Growth
from bntheory.layers import BatchNorm, Shape
from bntheory.networks import Layer, Leaf, Sequential
from simulations import streams
from simulations.growth import simulate_growth
from simulations.samples import Samples

INFINITE = 64  # inputs that stand for an infinite batch where there is BatchNorm


def simulate_bands(
    growth: Growth,
    trials: int = 200,
    seed: int | np.random.Generator = 0,
    batch: int | None = None,
    workers: int | None = None,
) -> Growth:
    """Fill the bands that a prediction has no law for from networks drawn for the purpose.

    Rows whose band is "unsupported" get, from the draws x_1 … x_n in which they are alive,

        mean = Σ x/n,   std² = Σ (x − mean)²/(n − 1),   standard error = std/√n,   p_dead = 1 − n/trials

    and the band from the draws of ranks p (n + 1), interpolated: it holds the next draw with probability `level`,
    on average (Hyndman and Fan 1996, definition 6). All other rows stay as they are.

    Parameters
    ----------
    growth : Growth
        Of `bntheory.predict_growth`. Its inputs are used, else uncorrelated ones of second moment 1, as many as its
        batch size.
    trials : int
        Networks to draw, at least 2.
    seed : int or numpy.random.Generator
        The result depends on nothing else, whatever the workers.
    batch : int, optional
        Inputs, at least 2, where the prediction is of BatchNorm over an infinite batch; None: 64.
    workers : int, optional
        Threads; None: one a core, or as many as fit into memory.

    Returns
    -------
    Growth
        Filled rows have the method "simulated"; ``log_growth_error`` and ``log_gradient_error`` say how well their
        means are known, ``networks`` how many were drawn. `growth` itself if no row needs it: then nothing is drawn.
        Rows with fewer than 2 living draws, or that leave the range of numbers, stay "unsupported".

    Raises
    ------
    ValueError
        If an argument is out of range, `batch` is given where the prediction says itself what the batch is, or the
        network does not fit into memory. Later, by ``band(level)``, if the level asks for more networks than there are.

    Warns
    -----
    RuntimeWarning
        If the network is dead in every trial.

    Notes
    -----
    Definitions are those of `Growth`. Vectors count one by one before the first BatchNorm: there, of given inputs, the
    one of about the batch's second moment is drawn alone, scaled to have it. Images, vectors from the first BatchNorm
    on, and gradients of networks with BatchNorm are of the whole batch. Without inputs and without a batch size, a
    network without BatchNorm gets one input; the 64 that stand for an infinite batch shift means by order 1/64 a layer
    (squared gradients after ReLU grow 1.49 instead of 1.47 times). Images that are drawn differ by chance from the
    uncorrelated ones of theory: their few channels correlate positions.

    References
    ----------
    Hyndman and Fan 1996, "Sample quantiles in statistical packages".

    Examples
    --------
    >>> from bntheory import mlp, predict_growth
    >>> growth = simulate_bands(predict_growth(mlp(20, 32, init="orthogonal"), batch_size=1), trials=100)
    >>> growth.band_method[-1], growth.networks
    ('simulated', 100)
    >>> print(f"{growth.log_growth_mean[-1]:.1f} ± {growth.log_growth_error[-1]:.1f}")
    -14.7 ± 0.1
    """
    if not isinstance(growth, Growth):
        raise ValueError(f"growth must be a Growth of predict_growth, got {growth!r:.60}")
    net, inputs, _ = growth.question
    first, vectors = _first_batch_norm(growth.rows), len(growth.rows[0].shape) == 1
    plain, start = first == len(growth.rows), first if vectors else 0
    trials, fed = arguments.integer("trials", trials, at_least=2), _batch(growth, plain, batch)
    missing, back = (_unknown(words) for words in (growth.band_method, growth.gradient_band_method))
    settings: dict[str, Any] = {"trials": trials, "seed": streams.root(seed), "workers": workers}
    if vectors and (missing[:first].any() or (plain and back.any())):
        one = {"batch": 1} if inputs is None else {"inputs": _one(inputs, growth.rows[0].shape)}
        part = net if plain else _up_to(net, growth.rows[first])
        samples = simulate_growth(part, **one, **settings, gradients=plain and bool(back.any()))
        growth = fill_bands(growth, samples, single=True)
    if missing[start:].any() or (back.any() and not (vectors and plain)):
        samples = simulate_growth(net, **fed, **settings, gradients=bool(back.any()))
        growth = fill_bands(growth, samples, single=False)
    return growth


def fill_bands(growth: Growth, samples: Samples, single: bool) -> Growth:
    """Fill the bands that a prediction has no law for from samples of the same network.

    Parameters
    ----------
    growth : Growth
    samples : Samples
        Of the network, or of its first layers as far as they reach before the first BatchNorm.
    single : bool
        Whether one input was drawn. Of vectors it fills the rows before the first BatchNorm, a batch those from there
        on, since that is what their bands are of.

    Returns
    -------
    Growth
        As `simulate_bands` returns it.
    """
    count, first = len(growth.rows), _first_batch_norm(growth.rows)
    rows, whole = range(count), True
    if len(growth.rows[0].shape) == 1:
        rows, whole = (range(first), first == count) if single else (range(first, count), first < count)
    band, gradient_band = growth._band, growth._gradient_band
    filled = _filled(band, samples.log_second_moment, rows)
    back = gradient_band
    if whole and samples.log_gradient is not None:
        back = _filled(gradient_band, samples.log_gradient, range(count))
    if (filled.method, back.method) == (band.method, gradient_band.method):
        return growth
    return dataclasses.replace(
        growth, _band_rule=lambda: filled, _gradient_band_rule=lambda: back, networks=samples.trials
    )


def networks_for(level: float) -> int:
    """Return from how many draws on a band has edges: the ranks p (n + 1) are then between 1 and n.

    Examples
    --------
    >>> networks_for(0.9), networks_for(0.999)
    (19, 1999)
    """
    return math.ceil(2 / (1 - level) - 1 - 1e-9)  # what rounding adds is no network more


def _filled(bands: Bands, logs: np.ndarray, rows: range) -> Bands:
    """The bands, with those of the given rows that have no law taken from logs (trials, rows)."""
    mean, std, p_dead, error = (column.copy() for column in (bands.mean, bands.std, bands.p_dead, bands.error))
    method, alive = list(bands.method), {}
    for row in rows:
        draws = np.sort(logs[logs[:, row] > -np.inf, row]) if method[row] == "unsupported" else logs[:0, 0]
        if len(draws) < 2 or draws[-1] == np.inf:
            continue
        alive[row], method[row] = draws, "simulated"
        mean[row], std[row], p_dead[row] = draws.mean(), draws.std(ddof=1), 1 - len(draws) / len(logs)
        error[row] = std[row] / math.sqrt(len(draws))

    def edges(level: float) -> tuple[np.ndarray, np.ndarray]:
        needed = networks_for(level)
        if alive and len(logs) < needed:
            raise ValueError(f"a band of level {level:g} needs {needed} networks, got {len(logs)}: give more trials")
        lower, upper = (edge.copy() for edge in bands.edges(level))
        for row, draws in alive.items():
            if len(draws) >= needed:
                lower[row], upper[row] = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="weibull")
        return lower, upper

    return Bands(mean, std, p_dead, tuple(method), edges, error)


def _batch(growth: Growth, plain: bool, batch: int | None) -> dict[str, Any]:
    """What to feed where sizes are of a batch: the prediction's own, else what stands for an infinite one."""
    _, inputs, size = growth.question
    if batch is not None and (plain or inputs is not None or size is not None):
        raise ValueError(f"batch is for BatchNorm over an infinite batch only, got {batch!r}: leave it out")
    if inputs is not None:
        return {"inputs": inputs}
    if size is None and plain:
        return {"batch": 1}
    return {"batch": arguments.integer("batch", batch or INFINITE, at_least=2) if size is None else size}


def _one(inputs: Any, shape: Shape) -> np.ndarray:
    """(1, n): the given input whose second moment is nearest to the batch's, scaled to have it."""
    batch = check_inputs(inputs, shape)
    sizes = np.mean((batch / np.abs(batch).max()) ** 2, axis=1)
    with np.errstate(divide="ignore"):  # inputs too small to count
        apart = np.log(sizes / sizes.mean())
    nearest = int(np.argmin(np.abs(apart)))
    return batch[nearest : nearest + 1] * math.exp(-apart[nearest] / 2)


def _first_batch_norm(rows: tuple[Leaf, ...]) -> int:
    """The first row that looks at the whole batch; their number if there is none."""
    looking = [isinstance(row.layer, BatchNorm) and row.layer.training for row in rows]
    return looking.index(True) if True in looking else len(rows)


def _up_to(net: Sequential, row: Leaf) -> Sequential:
    """The layers up to the one that holds a row, with BatchNorm in evaluation mode, which takes a single input."""

    def change(layer: Layer) -> Layer:
        return dataclasses.replace(layer, training=False) if isinstance(layer, BatchNorm) else layer

    layers = net.layers[: int(row.name.split(".")[0]) + 1]
    return everywhere(dataclasses.replace(net, layers=layers), change)


def _unknown(methods: tuple[str, ...]) -> np.ndarray:
    return np.array([method == "unsupported" for method in methods])
