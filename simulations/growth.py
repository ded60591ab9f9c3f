"""Reading 3: sample the sizes of a network's activations and gradients over draws of its weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from bntheory import arguments, predict_growth
from bntheory.growth.infinite_width.normalizations import ALONE
from bntheory.growth.infinite_width.state import check_inputs
from bntheory.layers import BatchNorm, Dense, Shape
from bntheory.networks import Leaf, Sequential, leaves
from simulations import conditional, memory, radial, signal, streams, weights
from simulations.ensemble import cores, run_trials
from simulations.kernels.compilation import seen
from simulations.samples import COLUMNS, Samples
from simulations.signal import Signal
from simulations.steps import Step
from simulations.steps import steps as steps_of

METHODS = ("conditional", "weights")
DTYPES = {"float64": np.float64, "float32": np.float32}
REPEATED = 3  # trials run again in float64, to show what float32 costs
Trial = Callable[[np.random.Generator], np.ndarray]


def simulate_growth(
    net: Sequential,
    trials: int = 1000,
    inputs: Any = None,
    batch: int | None = None,
    seed: int | np.random.Generator = 0,
    method: str | None = None,
    workers: int | None = None,
    gradients: bool = True,
    dtype: str = "float64",
    first: int = 0,
) -> Samples:
    """Draw networks and record how large their activations and gradients are, row by row.

    Parameters
    ----------
    net : Sequential
        A network of any layers.
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
        "weights" draws every weight. "conditional" draws the activations from their law given the layer before, and the
        gradients from theirs given the activations: the same joint law, at a cost that is linear in the width. It needs
        Gaussian weights and biases and no convolution. None: conditional if it applies and the batch is at most 1/32 of
        the narrowest Dense layer, else weights.
    workers : int, optional
        Threads; None: one a core, or as many as fit into the machine's memory.
    gradients : bool
        Whether to send a gradient back from the last row, white Gaussian and independent of the weights. The numbers of
        the activations are the same with and without. Going back keeps every row in memory, and with "weights" all
        weights of one network.
    dtype : {"float64", "float32"}
        Of the arithmetic; random numbers are drawn in float64. float32 halves the memory; what it costs is measured on
        the first trials and reported (`Samples.rounding`), if they fit into memory in float64.
    first : int
        Index of the first trial: ``simulate_growth(…, trials=5, first=10)`` gives the trials 10 … 14 of a longer run.

    Returns
    -------
    Samples
        Arrays (trials, rows), with the rows of `bntheory.predict_growth`.

    Raises
    ------
    ValueError
        For a layer or a weight law that the method does not have, inputs of another shape, not finite or all zero,
        trials or batch below 1, BatchNorm over a single number in training, or more memory than the machine has.

    Warns
    -----
    RuntimeWarning
        If the network is dead (all zeros) in every trial; the message says with which probability it is.

    Notes
    -----
    A single input through Gaussian Dense layers with linear, relu or leaky_relu needs a few numbers a layer only
    (`simulations.radial`); this is part of "conditional". Inputs of one batch share a scale: those that are 1e150 times
    smaller than others (1e18 in float32) are lost. Inputs that coincide differ by rounding, 1e-16, after a Dense layer.

    Examples
    --------
    >>> from bntheory import mlp
    >>> samples = simulate_growth(mlp(depth=20, width=64), trials=100, seed=1)
    >>> samples.method, samples.log_second_moment.shape
    ('conditional', (100, 41))
    """
    root = streams.root(seed)
    trials, first = arguments.integer("trials", trials), arguments.integer("first", first, at_least=0)
    plan = plan_growth(net, inputs, batch, root, method, gradients, dtype)
    shape = trials, len(plan.rows), len(COLUMNS)
    memory.refuse_beyond("the record", 8 * math.prod(shape), "fewer trials a run, continued by first=")
    workers = _workers(plan, workers)
    draw, drawn = plan.engine(), np.empty(shape)

    def trial(index: int) -> None:
        drawn[index] = draw(streams.stream(root, first + index))

    compiles = plan.method == "conditional" and not seen("network.backward" if gradients else "network.forward")
    run_trials(trial, trials, workers, label="compiling, this once" if compiles else f"simulating ({plan.method})")
    rounding, in_full = None, plan._replace(dtype="float64")
    if dtype != "float64" and in_full.memory() < memory.there():
        exact = in_full.engine()
        again = np.array([exact(streams.stream(root, first + k)) for k in range(min(trials, REPEATED))])
        rounding = _largest_difference(drawn[:REPEATED], again)
    columns = dict(zip(COLUMNS, np.moveaxis(drawn, -1, 0), strict=True))
    if not gradients:
        columns["log_gradient"] = columns["log_weight_gradient"] = None
    samples = Samples(plan.rows, **columns, method=plan.method, seed=root, dtype=dtype, rounding=rounding)
    _warn_if_all_dead(samples, net, plan.inputs)
    return samples


class Plan(NamedTuple):
    """What is drawn in every trial, checked: `plan_growth`."""

    rows: tuple[Leaf, ...]
    steps: list[Step]
    inputs: Signal
    method: str
    gradients: bool
    dtype: str

    def engine(self) -> Trial:
        """Return the function that draws one network: from a Generator to (rows, columns of `samples.COLUMNS`)."""
        number = DTYPES[self.dtype]
        if self.method == "weights":
            return weights.prepare(self.steps, self.inputs, self.gradients, number)
        if self.is_radial():
            return radial.prepare(self.steps, self.inputs, self.gradients)
        return conditional.prepare(self.steps, self.inputs, self.gradients, number)

    def is_radial(self) -> bool:
        """Whether a few numbers a layer will do."""
        return self.method == "conditional" and radial.applies(self.steps, len(self.inputs.values))

    def memory(self) -> int:
        """Return the bytes that one thread needs, about."""
        batch = len(self.inputs.values)
        if self.method == "weights":
            return 8 * weights.memory(self.steps, batch, self.gradients)  # weights are drawn in float64
        return conditional.memory(self.steps, batch, self.gradients) * np.dtype(DTYPES[self.dtype]).itemsize


def plan_growth(
    net: Sequential, inputs: Any, batch: int | None, root: int, method: str | None, gradients: bool, dtype: str
) -> Plan:
    """Check what `simulate_growth` is given, and choose the method; ValueError as there."""
    rows, steps = tuple(leaves(net)), steps_of(net)
    arguments.flag("gradients", gradients)
    arguments.choice("dtype", dtype, DTYPES)
    h = signal.scaled(_batch(rows[0].shape, inputs, batch, root))
    return Plan(rows, steps, h, _method(rows, steps, len(h.values), method), gradients, dtype)


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
    units = math.prod(shape)
    memory.refuse_beyond("the batch of inputs", 4 * 8 * size * units, "a narrower input or a smaller batch")
    gaussian = streams.input_stream(root_seed).standard_normal((units, size))
    if size <= units:
        with threadpool_limits(1):  # whose number changes last bits
            gaussian = np.linalg.qr(gaussian)[0]
    return (gaussian / np.sqrt(np.mean(gaussian**2, axis=0))).T.reshape(size, *shape)


def _method(rows: tuple[Leaf, ...], steps: list[Step], batch: int, method: str | None) -> str:
    """Check that the engine has every layer, and choose one if none is named."""
    for step in steps:
        if isinstance(step.layer, BatchNorm) and step.layer.training and batch * math.prod(step.shape[1:]) == 1:
            raise ValueError(f"row {rows[step.row].name}: {ALONE}")
    obstacle = conditional.obstacle(steps)
    if method is None:
        narrowest = min((step.layer.features for step in steps if isinstance(step.layer, Dense)), default=0)
        return "conditional" if obstacle is None and 32 * batch <= narrowest else "weights"
    if arguments.choice("method", method, METHODS) == "conditional" and not steps:
        raise ValueError("method 'conditional' needs a network with layers, got none; use method='weights'")
    if method == "conditional" and obstacle is not None:
        step, reason = obstacle
        raise ValueError(f"row {rows[step.row].name}: method 'conditional' {reason}; use method='weights'")
    return method


def _workers(plan: Plan, workers: int | None) -> int:
    """As many threads as asked for, or as fit; ValueError if they do not."""
    wanted = cores() if workers is None else arguments.integer("workers", workers)
    if plan.is_radial():
        return 1 if workers is None else wanted  # so short that threads would wait for the interpreter's lock
    needed = plan.memory()
    remedy = "gradients=False, dtype='float32', fewer workers or a smaller network"
    memory.refuse_beyond("the network", needed * (1 if workers is None else wanted), remedy)
    return memory.fitting(wanted, needed) if workers is None else wanted


def _largest_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(rows, columns): largest |one − other| over trials, 0 where both are the same infinity or NaN."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(one - other)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference)).max(axis=0)


def _warn_if_all_dead(samples: Samples, net: Sequential, h: Signal) -> None:
    dead = ~samples.alive.any(axis=0)
    if not dead[-1]:
        return
    row = samples.rows[int(np.argmax(dead))]
    words = f"at least {0.05 ** (1 / samples.trials):.3g} with 95% confidence"
    if len(h.values) == 1:
        predicted = predict_growth(net, h.values).p_dead[-1]
        words = words if np.isnan(predicted) else f"{predicted:.6g} by the law"
    warnings.warn(
        f"the network is dead in every one of {samples.trials} trials: row {row.name} ({row.operation}) is all zeros; "
        f"p_dead of the last row is {words}. Wider layers or biases keep it alive",
        RuntimeWarning,
        stacklevel=3,
    )
