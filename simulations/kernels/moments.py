"""Sizes of one row on a batch: second moment, channel moments, cosines; as logarithms."""

import math

import numpy as np

from simulations.kernels.blocks import block, blocks, log, square_sum
from simulations.kernels.compilation import fast_kernel, kernel


@kernel()
def measure(values, units, batch, log_scale, result):
    """ln second moment, channel mean square, channel variance, mean over pairs of 1 − cos, into result[:4]."""
    total = square_sum(values)
    if not total < math.inf:
        result[0], result[1], result[2], result[3] = math.inf, math.inf, math.inf, math.nan
        return
    if batch == 1:
        result[0] = result[1] = log(total / units) + 2 * log_scale
        result[2], result[3] = -math.inf, math.nan
        return
    inverse_norm = inverse_norms(values, units, batch)
    mean_square, variance, distance = 0.0, 0.0, 0.0
    for index in range(blocks(units, batch)):
        sums = block_sums(block(values, index, units, batch), inverse_norm)
        mean_square += sums[0]
        variance += sums[1]
        distance += sums[2]
    result[0] = log((mean_square + variance) / units) + 2 * log_scale
    result[1] = log(mean_square / units) + 2 * log_scale
    result[2] = log(variance / units) + 2 * log_scale
    living = count_living(inverse_norm)
    result[3] = log(distance / (living - 1)) if living > 1 else math.nan


@kernel()
def count_living(inverse_norm):
    """How many inputs are not dead."""
    count = 0
    for value in inverse_norm:
        count += 1 if value > 0.0 else 0
    return count


@fast_kernel()
def inverse_norms(values, units, batch):
    """1/‖h_b‖ for every input, 0 for a dead one."""
    squares = np.zeros(batch)
    for index in range(blocks(units, batch)):
        part = block(values, index, units, batch)
        for b in range(batch):
            squares[b] += square_sum(part[b])
    for b in range(batch):
        squares[b] = 1 / math.sqrt(squares[b]) if squares[b] > 0.0 else 0.0
    return squares


@kernel(fastmath={"reassoc"})  # a fused product would tell equal inputs apart
def block_sums(part, inverse_norm):
    """Sums over units of mean², of the variance over inputs, and of the squared distances of directions to their mean.

    Differences to one input are summed, so that nothing cancels where all inputs look alike.
    """
    batch, units = part.shape
    first = 0
    while inverse_norm[first] == 0.0 and first < batch - 1:
        first += 1
    living = max(1, count_living(inverse_norm))
    shift, shift_square = np.zeros(units), np.zeros(units)
    turn, turn_square = np.zeros(units), np.zeros(units)
    for b in range(batch):
        if b == first:
            continue
        direction, alive = inverse_norm[b], 1.0 if inverse_norm[b] > 0.0 else 0.0
        for i in range(units):
            x, y = np.float64(part[b, i]), np.float64(part[first, i])
            d = x - y
            shift[i] += d
            shift_square[i] += d * d
            u = x * direction - alive * y * inverse_norm[first]
            turn[i] += u
            turn_square[i] += u * u
    mean_square, variance, distance = 0.0, 0.0, 0.0
    for i in range(units):
        mean_square += (part[first, i] + shift[i] / batch) ** 2
        variance += max(0.0, shift_square[i] / batch - (shift[i] / batch) ** 2)
        distance += max(0.0, turn_square[i] - turn[i] * turn[i] / living)
    return mean_square, variance, distance
