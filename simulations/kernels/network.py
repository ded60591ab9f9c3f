"""A whole network, there and back: one pass over the table of its steps."""

import math

import numpy as np

from simulations.kernels import layers
from simulations.kernels.activations import MODERATE, smooth
from simulations.kernels.blocks import blocks, fill_gaussian, log, rescaled, square_sum
from simulations.kernels.compilation import kernel
from simulations.kernels.moments import measure

# What a step does, and the columns of the two tables that say how. Places are offsets into the memory.
DENSE, HOMOGENEOUS, SMOOTH, FUNCTION, BATCH_NORM, GROUP_NORM, DROPOUT, COPY, SUM = range(9)
KIND, SOURCE, SECOND, UNITS, FEATURES, REFLECTIONS, TRIANGLES, GAMMA, FACTORS = range(9)
COLUMNS = 9
NOWHERE = -1
# The two numbers of a step, in the order of the kinds: ln s and √bias variance; the two slopes; the index of φ; ditto;
# ε and ln γ; ε and the number of groups; the rate; the logarithm of a factor; the branch's factor.


@kernel()
def part(memory, place, size):
    """A piece of the memory; an empty one if it has no place."""
    return memory[place : place + size] if place >= 0 else memory[:0]


@kernel()
def forward(table, numbers, places, batch, keep, memory, triangles, scratch, scales, kept_scales, result, rng, start):
    """Run steps from `start` on, measuring every row; stop before an activation that Python must do.

    table (steps, COLUMNS), numbers (steps, 2); places (rows,) of the rows in memory, scales (rows,) their scales;
    triangles (steps, B, B) get the R of the dense steps, kept_scales (steps,) their scales; result (rows, 6).
    Row `start` is in place already. Returns the number of the step stopped at.
    """
    row_units = table[start - 1, FEATURES] if start > 0 else table[0, UNITS]
    for k in range(start, len(table) + 1):
        if k > start:
            step, row_units = table[k - 1], table[k - 1, FEATURES]
            far = abs(scales[step[SOURCE]]) > MODERATE
            if step[KIND] == FUNCTION or (step[KIND] == SMOOTH and far):
                return k - 1
            x = part(memory, places[step[SOURCE]], step[UNITS] * batch)
            y = part(memory, places[k], row_units * batch)
            scales[k] = apply(
                step, numbers[k - 1], x, scales[step[SOURCE]], y, batch, keep, memory, triangles[k - 1],
                scratch, places, scales, kept_scales, k - 1, rng,
            )  # fmt: skip
            scales[k] = rescaled(y, scales[k])
        measure(part(memory, places[k], row_units * batch), row_units, batch, scales[k], result[k])
    return len(table)


@kernel(inline="always")
def apply(
    step, numbers, x, x_scale, y, batch, keep, memory, triangle, scratch, places, scales, kept_scales, k, rng
):  # fmt: skip
    """One step: write row y, return its scale."""
    kind, units, features = step[KIND], step[UNITS], step[FEATURES]
    if kind == DENSE:
        v, gamma = scratch[0], scratch[1]
        t = scratch[2][: batch * batch]
        if keep:
            v, gamma = part(memory, step[REFLECTIONS], units * batch), part(memory, step[GAMMA], features * batch)
            t = part(memory, step[TRIANGLES], blocks(units, batch) * batch * batch)
        t = t.reshape(t.size // (batch * batch), batch, batch)
        kept_scales[k], scale = layers.dense(
            x, units, y, features, batch, x_scale, numbers[0], numbers[1], triangle, v, t, gamma, keep, rng
        )
        return scale
    if kind == HOMOGENEOUS:
        layers.homogeneous(x, y, numbers[0], numbers[1])
    elif kind == SMOOTH:
        smooth(int(numbers[0]), x, x_scale, y, part(memory, step[FACTORS], x.size), keep)
        kept_scales[k] = 0.0
        return 0.0
    elif kind == BATCH_NORM:
        inverse = part(memory, step[FACTORS], units)
        kept_scales[k] = layers.batch_norm(x, y, units, batch, x_scale, numbers[0], inverse)
        return x_scale - kept_scales[k] + numbers[1]
    elif kind == GROUP_NORM:
        groups = int(numbers[1])
        inverse = part(memory, step[FACTORS], batch * groups)
        kept_scales[k] = layers.group_norm(x, y, units, batch, groups, x_scale, numbers[0], inverse)
        return x_scale - kept_scales[k]
    elif kind == DROPOUT:
        layers.dropout(x, y, part(memory, step[FACTORS], x.size), keep, numbers[0], rng)
    elif kind == COPY:
        layers.copy(x, y)
        return x_scale + numbers[0]
    else:
        second = part(memory, places[step[SECOND]], x.size)
        return layers.add(x, x_scale, numbers[0], second, scales[step[SECOND]], y)
    return x_scale


@kernel()
def backward(
    table, numbers, places, gradient_places, batch, memory, triangles, scratch, small, scales, kept_scales, result, rng
):  # fmt: skip
    """Send a white gradient back from the last row; ln squared norms, relative to it, into result[:, 4:]."""
    rows = len(table) + 1
    gradient_scales, reached = np.zeros(rows), np.zeros(rows, np.bool_)
    start = part(memory, gradient_places[rows - 1], table[rows - 2, FEATURES] * batch)
    fill_gaussian(start, rng)
    total = math.log(square_sum(start))
    reached[rows - 1] = True
    for row in range(rows - 1, 0, -1):
        k = row - 1
        step = table[k]
        g = part(memory, gradient_places[row], step[FEATURES] * batch)
        result[row, 4] = log_squares(g, gradient_scales[row]) - total
        for second in range(2 if step[SECOND] != NOWHERE else 1):
            source = step[SOURCE + second]
            place = gradient_places[rows] if reached[source] else gradient_places[source]
            out = part(memory, place, step[UNITS] * batch)
            scale, weight_gradient = pull(
                step, numbers[k], g, gradient_scales[row], out, batch, memory, triangles[k], scratch, small,
                places, scales, kept_scales, k, second == 0, rng,
            )  # fmt: skip
            result[row, 5] = weight_gradient - total
            scale = rescaled(out, scale)
            if reached[source]:
                sum_ = part(memory, gradient_places[source], step[UNITS] * batch)
                scale = rescaled(sum_, layers.add(out, scale, 1.0, sum_, gradient_scales[source], sum_))
            gradient_scales[source], reached[source] = scale, True
    result[0, 4] = log_squares(part(memory, gradient_places[0], table[0, UNITS] * batch), gradient_scales[0]) - total
    result[0, 5] = math.nan


@kernel()
def log_squares(values, log_scale):
    """ln Σ x² of a row; infinite if it is out of range."""
    total = square_sum(values)
    return log(total) + 2 * log_scale if total < math.inf else math.inf


@kernel(inline="always")
def pull(
    step, numbers, g, g_scale, out, batch, memory, triangle, scratch, small, places, scales, kept_scales, k, branch, rng
):  # fmt: skip
    """One step backwards: write the gradient with respect to what it read; its scale, and ln ‖∂ℓ/∂W‖² (NaN: no W)."""
    kind, units, features = step[KIND], step[UNITS], step[FEATURES]
    y, y_scale = part(memory, places[k + 1], features * batch), scales[k + 1]
    if kind == DENSE:
        v, gamma = part(memory, step[REFLECTIONS], units * batch), part(memory, step[GAMMA], features * batch)
        t = part(memory, step[TRIANGLES], blocks(units, batch) * batch * batch).reshape(-1, batch, batch)
        scale, weight_gradient = layers.dense_backward(
            g, features, out, units, batch, g_scale, numbers[0], triangle, v, t, gamma, scratch[0], small, rng
        )
        return scale, weight_gradient + 2 * kept_scales[k]
    if kind == HOMOGENEOUS:
        layers.homogeneous_backward(part(memory, places[step[SOURCE]], out.size), g, out, numbers[0], numbers[1])
    elif kind == BATCH_NORM:
        log_gamma = numbers[1]
        layers.batch_norm_backward(y, y_scale - log_gamma, g, out, units, batch, part(memory, step[FACTORS], units))
        return g_scale - kept_scales[k] + log_gamma, math.nan
    elif kind == GROUP_NORM:
        groups = int(numbers[1])
        inverse = part(memory, step[FACTORS], batch * groups)
        layers.group_norm_backward(y, y_scale, g, out, units, batch, groups, inverse)
        return g_scale - kept_scales[k], math.nan
    elif kind in (DROPOUT, SMOOTH, FUNCTION):
        layers.times(g, part(memory, step[FACTORS], out.size), out)
        return g_scale + (0.0 if kind == DROPOUT else kept_scales[k]), math.nan
    else:
        layers.copy(g, out)
        if kind == SUM and branch:
            return g_scale + math.log(numbers[0]), math.nan
        if kind == COPY:
            return g_scale + numbers[0], math.nan
    return g_scale, math.nan
