"""Reading 3: sample the sizes of a network's activations over draws of its weights."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from bntheory import arguments
from bntheory.activations import Activation
from bntheory.growth.moments import check_inputs
from bntheory.layers import BatchNorm, Dense, Flatten, Shape
from bntheory.networks import Leaf, Residual, Sequential, leaves, output_shape
from simulations import conditional, signal, streams, weights
from simulations.ensemble import run_trials
from simulations.samples import Samples
from simulations.signal import Signal

METHODS = {"conditional": conditional.dense, "weights": weights.dense}
DrawDense = Callable[[Dense, Signal, Shape, np.random.Generator], Signal]


def simulate_growth(
    net: Sequential,
    trials: int = 1000,
    inputs: Any = None,
    batch: int | None = None,
    seed: int | np.random.Generator = 0,
    method: str | None = None,
    workers: int | None = None,
) -> Samples:
    """Draw networks and record how large their activations are, row by row.

    Parameters
    ----------
    net : Sequential
        A network of Dense, activation, BatchNorm, Flatten and residual layers.
    trials : int
        Networks to draw, at least 1.
    inputs : array (B, *input shape), optional
        The batch; None: `batch` orthogonal inputs of second moment 1 (random Gaussian ones if there are more of them
        than dimensions), the same in every trial.
    batch : int, optional
        How many, if no inputs are given; None: 1.
    seed : int or numpy.random.Generator
        Trial k depends on (seed, k) alone: more trials repeat the first ones, on any number of workers.
    method : {"conditional", "weights"}, optional
        "weights" draws every weight; "conditional" draws the activations from their law given the layer before, which
        needs Gaussian weights and biases. None: conditional if it applies and the batch is at most 1/32 of the
        narrowest layer, else weights.
    workers : int, optional
        Threads; None: one a core.

    Returns
    -------
    Samples
        Arrays (trials, rows), with the rows of `bntheory.predict_growth`.

    Raises
    ------
    ValueError
        For a layer or a weight law that the method does not have, inputs of another shape, not finite or all zero,
        trials or batch below 1.

    Examples
    --------
    >>> from bntheory import mlp
    >>> samples = simulate_growth(mlp(depth=20, width=64), trials=100, seed=1)
    >>> samples.method, samples.log_second_moment.shape
    ('conditional', (100, 41))
    """
    rows = tuple(leaves(net))
    root = streams.root(seed)
    trials = arguments.integer("trials", trials)
    h = signal.scaled(_batch(rows[0].shape, inputs, batch, root))
    method = _method(rows, len(h.values), method)

    def trial(index: int) -> np.ndarray:
        rng = streams.stream(root, index)
        signals = _forward(net, h, rows[0].shape, METHODS[method], rng)
        return np.array([h.log_moments(), *(part.log_moments() for part in signals)])

    columns = np.array(run_trials(trial, trials, workers, label=f"simulating ({method})"))
    return Samples(rows, columns[:, :, 0], columns[:, :, 1], columns[:, :, 2], method, root)


def _batch(shape: Shape, inputs: Any, batch: int | None, root: int) -> np.ndarray:
    if inputs is None:
        return uncorrelated_inputs(shape, 1 if batch is None else batch, root)
    if batch is not None:
        raise ValueError(f"give inputs or batch, not both; got batch={batch}")
    return check_inputs(inputs, shape).reshape(len(inputs), *shape)


def uncorrelated_inputs(shape: Shape, batch: int, root_seed: int) -> np.ndarray:
    """Return the (batch, *shape) inputs that `simulate_growth` feeds by itself: orthogonal, of second moment 1.

    Examples
    --------
    >>> h = uncorrelated_inputs((8,), 2, root_seed=0)
    >>> (h @ h.T / 8).round(12)
    array([[1., 0.],
           [0., 1.]])
    """
    size = arguments.integer("batch", batch)
    units = int(np.prod(shape))
    gaussian = streams.input_stream(root_seed).standard_normal((units, size))
    if size <= units:
        gaussian = np.linalg.qr(gaussian)[0]
    return (gaussian / np.sqrt(np.mean(gaussian**2, axis=0))).T.reshape(size, *shape)


def _method(rows: tuple[Leaf, ...], batch: int, method: str | None) -> str:
    """Check that an engine has every layer, and choose one if none is named."""
    shape, narrowest, obstacle = rows[0].shape, float("inf"), None
    for row in rows[1:]:
        layer = row.layer
        if not isinstance(layer, (Dense, Activation, BatchNorm, Flatten, Residual)):
            raise ValueError(
                f"row {row.name}: no engine simulates {row.operation}; they have Dense, Activation, BatchNorm, Flatten "
                "and Residual, and any network can be measured as a torch module (simulations.measure_draws)"
            )
        if isinstance(layer, BatchNorm) and batch == 1:
            raise ValueError(f"row {row.name}: BatchNorm needs a batch of at least 2, got 1")
        if isinstance(layer, Dense):
            narrowest = min(narrowest, layer.features)
            own_bias = layer.bias is None and layer.bias_variance(shape) > 0
            if obstacle is None and (layer.init.distribution != "normal" or own_bias):
                obstacle = f"row {row.name}: method 'conditional' needs Gaussian weights and biases, got {layer}"
        shape = row.shape
    if method is None:
        return "conditional" if obstacle is None and 32 * batch <= narrowest else "weights"
    if arguments.choice("method", method, METHODS) == "conditional" and obstacle:
        raise ValueError(f"{obstacle}; use method='weights'")
    return method


def _forward(
    sequence: Sequential, h: Signal, shape: Shape, dense: DrawDense, rng: np.random.Generator
) -> Generator[Signal, None, Signal]:
    """Yield the signal of every leaf in the order of `leaves`; return the last."""
    for layer in sequence.layers:
        if isinstance(layer, Residual):
            branch = yield from _forward(layer.branch, h, shape, dense, rng)
            shortcut = yield from _forward(layer.shortcut, h, shape, dense, rng)
            h = signal.added(branch, shortcut)
            yield h
        elif isinstance(layer, Sequential):
            h = yield from _forward(layer, h, shape, dense, rng)
        else:
            h = _through(layer, h, shape, dense, rng)
            yield h
        shape = output_shape(layer, shape)
    return h


def _through(layer: Any, h: Signal, shape: Shape, dense: DrawDense, rng: np.random.Generator) -> Signal:
    if isinstance(layer, Dense):
        return dense(layer, h, shape, rng)
    if isinstance(layer, BatchNorm):
        return signal.normalized(layer, h)
    if isinstance(layer, Flatten):
        return h._replace(values=h.values.reshape(len(h.values), -1))
    return signal.activated(layer, h)
