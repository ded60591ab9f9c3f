"""Log singular values of products of matrices: Jacobians of random networks at initialization, or matrices you have."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from bntheory import arguments
from bntheory.layers import BatchNorm
from bntheory.networks import Sequential, leaves
from simulations import coins, linearized, memory, streams, triangular
from simulations.ensemble import cores, run_trials
from simulations.graded import Factor, Floats, chained, logarithms
from simulations.matrices import checked_matrices
from simulations.signal import Signal, scaled
from simulations.steps import steps

SMALL = 64  # below that width QR steps hold Python's lock: threads would only wait for one another


def log_singular_values(
    net_or_matrices: Sequential | Sequence[ArrayLike],
    trials: int = 10,
    seed: int | np.random.Generator = 0,
    workers: int | None = None,
    inputs: ArrayLike | None = None,
) -> Floats:
    """Return the natural logarithms of the singular values of random Jacobians, or of a product of given matrices.

    The Jacobian J of a network's output by its input, at one input; the product itself is never formed.

    ======================================================  ==========================================================
    network                                                 how
    ======================================================  ==========================================================
    Dense, normal weights; relu or nothing after each       triangles: Π_{l ≠ m} R_l √v_l, see below
    Dense, any weights; relu, leaky_relu or nothing         masks are fair coins, independent of the weights; J is the
                                                            product of the blocks of W_l that they leave
    anything else: smooth activations, residual blocks,     one input goes through explicit weights; a factor for each
    Conv, LayerNorm, GroupNorm, Pool, Dropout, …            Dense, Conv or residual block, with what follows it
    matrices                                                X_k Q_{k−1} = Q_k R_k from first to last, with pivoting
    ======================================================  ==========================================================

    With Gaussian weights of variances v_l, and k_l ~ Binomial(n_l, ½) after a relu, k_l = n_l elsewhere, and r = k_m
    the smallest of k_0, …, k_L, the R_l are independent upper triangles r × r: χ with k_l, k_l − 1, …, k_l − r + 1
    degrees of freedom on the diagonal, N(0, 1) above it.

    Parameters
    ----------
    net_or_matrices : Sequential or sequence of array_like
        A network without BatchNorm in training mode. Or matrices X_1, …, X_M in order of application: the product is
        X_M … X_1. Real, two-dimensional, finite.
    trials : int
        Draws of the network, at least 1. Given matrices have nothing to draw: ``trials`` and ``seed`` are then unused.
    seed : int or numpy.random.Generator
        Trial t depends on the seed and t only.
    workers : int, optional
        Threads; None: as many as cores, but one for widths below 64 without triangles. The numbers do not depend on it.
    inputs : array_like, optional
        The input at which the Jacobian is taken, of the network's input shape. None: entries N(0, 1), drawn anew in
        every trial. The law of networks of the first two kinds is the same for all inputs but 0.

    Returns
    -------
    ndarray
        (trials, smallest number of units outside of residual branches, the input's among them), or (smallest dimension
        of the matrices,); descending, −inf for exact zeros.

    Raises
    ------
    ValueError
        For a network with BatchNorm in training mode (the layer is named); an input of another shape or not finite;
        matrices that are not real, finite and two-dimensional, whose rows or columns differ in size by a factor above
        2^1000, or that do not chain (they are named); more memory than the machine has.

    Notes
    -----
    Measured against exact arithmetic, errors of every logarithm, the smallest included: 3e-12 for products of 200
    Gaussian 20×20 matrices (e^400 between largest and smallest), 1e-11 for 1000 of 24×24 (e^2200). In general below
    10 ε times the sum of the factors' condition numbers; less where these come from the scales of rows. A residual
    block is one factor, however many layers its branch has. What is lost to working precision (a direction in which
    X_k Q_{k−1} is below 8 max(shape) ε of its terms) counts as an exact zero, except in triangles, which have none;
    entries of one matrix should not spread over more than 300 decades.

    References
    ----------
    Bartlett 1933 (QR of a Gaussian matrix). Ipsen, Kieburg, Phys. Rev. E 89, 032106 (2014) (the order of the sizes is
    free). Hanin, Nica, Commun. Math. Phys. 376, 287 (2020), section 2 (coins). Stewart, ETNA 3, 39 (1995), and Golub,
    Sølna, Van Dooren, SIAM J. Matrix Anal. Appl. 22, 1 (2000) (graded QR of products).

    Examples
    --------
    >>> from bntheory.architectures import mlp
    >>> log_singular_values(mlp(depth=1000, width=3, activation="linear", init="lecun_normal"), trials=2).shape
    (2, 3)
    >>> log_singular_values(mlp(50, 4, "tanh", init="orthogonal"), trials=1, inputs=np.zeros(4)).round(12) + 0.0
    array([[0., 0., 0., 0.]])
    >>> log_singular_values([[[0.0, 1e-200]], [[1e-200], [0.0]]]).round(3).tolist()  # 1e-400 has left float64
    [-921.034]
    """
    arguments.integer("trials", trials)
    root = streams.root(seed)
    if not isinstance(net_or_matrices, Sequential):
        _no_inputs(inputs)
        with threadpool_limits(1):  # QR steps of matrices below a thousand rows gain nothing from more
            return _given(checked_matrices(net_or_matrices))
    plan = plan_spectrum(net_or_matrices, inputs)
    threads = _threads(plan, workers)
    together = max(1, min(plan.together, trials // (4 * threads)))

    def some(chunk: int) -> Floats:
        return plan.logs(root, range(chunk * together, min(trials, (chunk + 1) * together)))

    return np.concatenate(run_trials(some, -(-trials // together), threads))


def dense_log_singular_values(
    net_or_matrices: Sequential | Sequence[ArrayLike],
    trials: int = 10,
    seed: int | np.random.Generator = 0,
    workers: int | None = None,
    inputs: ArrayLike | None = None,
) -> Floats:
    """Return what `log_singular_values` does by explicit weights, product and SVD: the reference.

    Of a network, one input is propagated and sets the masks. Singular values below about 1e-16 of the largest are
    rounding, exact zeros among them.

    Parameters
    ----------
    net_or_matrices, trials, seed, workers, inputs
        As in `log_singular_values`; the same seed does not give the same draws.

    Returns
    -------
    ndarray
        As in `log_singular_values`.

    Raises
    ------
    ValueError
        As in `log_singular_values`, and if the product of given matrices leaves float64.

    Examples
    --------
    >>> dense_log_singular_values([[[1.0, 0.0], [0.0, 2.0]]] * 3).round(6).tolist()
    [2.079442, 0.0]
    """
    arguments.integer("trials", trials)
    root = streams.root(seed)
    if not isinstance(net_or_matrices, Sequential):
        _no_inputs(inputs)
        matrices = checked_matrices(net_or_matrices)
        with np.errstate(over="ignore", invalid="ignore"):  # refused in one line below
            product = reduce(lambda product, matrix: matrix @ product, matrices)
        return logarithms(product)[: _smallest(matrices)]
    net = net_or_matrices
    given, count = _input(net, inputs), _narrowest(net)

    def trial(index: int) -> Floats:
        rng = streams.stream(root, index)
        (jacobian,) = linearized.factors(net, _drawn_input(net, given, rng), rng, whole=True)
        return logarithms(jacobian.matrix)[:count] + jacobian.log_scale

    return np.stack(run_trials(trial, trials, workers))


class Plan(NamedTuple):
    """How the log singular values of a network are drawn: `plan_spectrum`."""

    draw: Callable[[list[np.random.Generator]], list[Floats]]  # those other than exact zeros, of each generator
    length: int  # how many singular values there are
    numbers: int  # that a thread keeps, about
    together: int = 1  # trials of one call, at most
    threads: bool = True

    def logs(self, root: int, trials: range) -> Floats:
        """Return those of some trials, (len(trials), length), −inf for exact zeros."""
        values = np.full((len(trials), self.length), -np.inf)
        for start in range(0, len(trials), self.together):
            part = slice(start, start + self.together)
            drawn = self.draw([streams.stream(root, trial) for trial in trials[part]])
            for row, logs in zip(values[part], drawn, strict=True):
                row[: len(logs)] = logs
        return values

    def memory(self) -> int:
        """Return the bytes that one thread needs, about."""
        return 8 * self.numbers


def plan_spectrum(net: Sequential, inputs: ArrayLike | None) -> Plan:
    """Check what `log_singular_values` is given, and choose how; ValueError as there."""
    return _plan(net, _input(net, inputs), _narrowest(net))


def _plan(net: Sequential, given: Signal | None, length: int) -> Plan:
    """Choose among the three ways; a network that sees only signs takes the third at 0."""
    layers = coins.described(net) if given is None or given.values.any() else None
    inputs = math.prod(net.input_shape or ())
    if layers is None:
        numbers, busy = linearized.memory(net), inputs >= SMALL
        return Plan(_each(lambda rng: _explicit(net, given, rng)), length, numbers, threads=busy)
    widths = [inputs, *(layer.dense.features for layer in layers)]
    if any(layer.dense.init.distribution != "normal" or layer.slope not in (0.0, 1.0) for layer in layers):
        numbers, busy = 8 * max(widths) ** 2, inputs >= SMALL
        return Plan(_each(lambda rng: _masked(layers, inputs, rng)), length, numbers, threads=busy)
    shift = 0.5 * sum(math.log(layer.variance) for layer in layers)

    def draw(rngs: list[np.random.Generator]) -> list[Floats]:
        sizes = [coins.blocks(layers, inputs, rng) for rng in rngs]
        return [logs + shift for logs in triangular.draws(rngs, sizes)]

    return Plan(draw, length, 6 * min(widths) ** 2, triangular.together(min(widths)))


def _each(draw: Callable[[np.random.Generator], Floats]) -> Callable[[list[np.random.Generator]], list[Floats]]:
    return lambda rngs: [draw(rng) for rng in rngs]


def _explicit(net: Sequential, given: Signal | None, rng: np.random.Generator) -> Floats:
    start = _drawn_input(net, given, rng)
    return chained(linearized.factors(net, start, rng), start.values.size)


def _masked(layers: list[coins.Masked], inputs: int, rng: np.random.Generator) -> Floats:
    sizes = coins.blocks(layers, inputs, rng)
    return chained(coins.factors(layers, sizes, rng), inputs) if min(sizes) else np.empty(0)


def _threads(plan: Plan, workers: int | None) -> int:
    """As many threads as asked for, or as fit into memory; ValueError if they do not."""
    asked = None if workers is None else arguments.integer("workers", workers)
    needed = plan.memory()
    memory.refuse_beyond("the Jacobian", needed * (asked or 1), "a narrower network, smaller images or fewer workers")
    return asked or memory.fitting(cores() if plan.threads else 1, needed)


def _narrowest(net: Sequential) -> int:
    """Smallest number of units that everything passes through; ValueError for what has no Jacobian at one input."""
    rows = list(leaves(net))
    for leaf in rows:
        if isinstance(leaf.layer, BatchNorm) and leaf.layer.training:
            raise ValueError(
                f"layer {leaf.name} ({leaf.operation}) is not supported: its statistics couple the inputs of a batch, "
                "so that one input has no Jacobian of its own; BatchNorm(training=False) has one"
            )
    return min(math.prod(rows[row].shape) for row in linearized.passages(steps(net)))


def _input(net: Sequential, inputs: ArrayLike | None) -> Signal | None:
    """The given input as a batch of one; ValueError if it does not fit."""
    shape = next(leaves(net)).shape
    if inputs is None:
        return None
    values = np.asarray(inputs)
    problem = None
    if values.dtype.kind not in "fiu" or values.shape != shape:
        problem = f"{values.dtype} of shape {values.shape}"
    elif not np.isfinite(values).all():
        problem = f"{values.dtype} values, not all finite"
    if problem:
        raise ValueError(f"inputs must be one input of shape {shape}, real and finite, got {problem}")
    return scaled(values.astype(float)[None])


def _drawn_input(net: Sequential, given: Signal | None, rng: np.random.Generator) -> Signal:
    return scaled(rng.standard_normal((1, *(net.input_shape or ())))) if given is None else given


def _no_inputs(inputs: ArrayLike | None) -> None:
    if inputs is not None:
        raise ValueError("given matrices have no input: leave out inputs, or give a network")


def _given(matrices: list[Floats]) -> Floats:
    """Log singular values of X_M … X_1."""
    values = np.full(_smallest(matrices), -np.inf)
    if matrices[-1].shape[0] < matrices[0].shape[1]:  # start from the shorter side: its length is the number of columns
        matrices = [matrix.T for matrix in reversed(matrices)]
    logs = chained(map(Factor, matrices), matrices[0].shape[1])
    values[: len(logs)] = logs
    return values


def _smallest(matrices: list[Floats]) -> int:
    return min(min(matrix.shape) for matrix in matrices)
