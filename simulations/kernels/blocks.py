"""Rows as blocks of units, and what is done to all their entries alike."""

import math

import numpy as np

from simulations.kernels.compilation import fast_kernel, kernel

SMALL, LARGE = 1e-8, 1e8  # root mean squares beyond are brought back, so that squares stay in the range of float32


@kernel()
def block_units(batch):
    """Units a block: half a megabyte of float64, and at least the batch."""
    return max(512, 65536 // batch, batch)


@kernel()
def blocks(units, batch):
    """Number of blocks."""
    return (units + block_units(batch) - 1) // block_units(batch)


@kernel()
def block(values, index, units, batch):
    """Block number `index` of a row, (batch, its units)."""
    start = index * block_units(batch)
    stop = min(units, start + block_units(batch))
    return values[start * batch : stop * batch].reshape(batch, stop - start)


@kernel()
def log(value):
    """ln, −inf for zero, infinite for NaN."""
    if value > 0.0:
        return math.log(value)
    return -math.inf if value == 0.0 else math.inf


@fast_kernel()
def largest(values):
    """Largest absolute value; infinite if an entry is infinite or NaN."""
    top = 0.0
    finite = True
    for i in range(values.size):
        size = abs(values[i])
        finite &= size < math.inf
        top = max(top, size)
    return top if finite else math.inf


@fast_kernel()
def square_sum(values):
    """Σ x², in float64."""
    total = 0.0
    for i in range(values.size):
        total += np.float64(values[i]) ** 2
    return total


@kernel()
def rescaled(values, log_scale):
    """Bring values into a comfortable range, in place; return the new scale: 0 for zeros, so that a bias can revive."""
    mean_square = square_sum(values) / values.size
    if SMALL**2 < mean_square < LARGE**2:
        return log_scale
    top = largest(values)
    if top == 0.0:
        return 0.0
    if top == math.inf:
        return log_scale
    for i in range(values.size):
        values[i] /= top
    return log_scale + math.log(top)


@kernel()
def fill_gaussian(values, rng):
    """Fill with independent standard normals."""
    for i in range(values.size):
        values[i] = rng.standard_normal()
