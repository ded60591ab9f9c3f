"""One function a layer and direction: forward writes the row, backward the gradient with respect to what it read.

x, y, g are rows (see the package's first lines); the functions return the logarithmic scale of what they write.
"""

import math

import numpy as np

from simulations.kernels.blocks import block, block_units, blocks, fill_gaussian, largest, log, square_sum
from simulations.kernels.compilation import fast_kernel, kernel
from simulations.kernels.orthogonal import gram, rotate, triangle


@kernel()
def dense(x, units, y, features, batch, log_scale, log_deviation, bias, r, v, t, gamma, keep, rng):
    """Z = s Γ R + b 1ᵀ given H = Q R, Γ (features, B) iid N(0, 1): the law of W H + b 1ᵀ (scale of R, scale of Z).

    s = exp(log_deviation) and `bias` are standard deviations.
    """
    triangle(x, units, batch, r, v, t)
    r_scale = log_scale + normalize(r)
    z_scale = r_scale + log_deviation
    share, shift = 1.0, 0.0
    if bias > 0.0:
        top = max(z_scale, math.log(bias))
        share, shift, z_scale = math.exp(z_scale - top), bias * math.exp(-top), top
    elif r_scale == -math.inf:
        z_scale = 0.0
    factor = np.empty_like(r)
    for i in range(batch):
        for j in range(batch):
            factor[i, j] = r[i, j] * share
    for index in range(blocks(features, batch)):
        z = block(y, index, features, batch)
        drawn = block(gamma, index, features, batch) if keep else gamma[: z.size].reshape(z.shape)
        fill_gaussian(drawn.reshape(drawn.size), rng)
        np.dot(factor.T, drawn, z)
        if bias > 0.0:
            add_bias(z, shift, rng)
    return r_scale, z_scale


@kernel()
def normalize(r):
    """Divide a small matrix by its largest entry, in place; return ln of that: −inf for zeros, inf if out of range."""
    top = largest(r.reshape(r.size))
    if 0.0 < top < math.inf:
        for i in range(len(r)):
            for j in range(len(r)):
                r[i, j] /= top
    return log(top)


@kernel()
def add_bias(z, deviation, rng):
    """Add one normal number a unit, the same for all inputs."""
    for i in range(z.shape[1]):
        b = deviation * rng.standard_normal()
        for j in range(len(z)):
            z[j, i] += b


@kernel()
def dense_backward(g, features, out, units, batch, log_scale, log_deviation, r, v, t, gamma, scratch, small, rng):
    """Wᵀ g given Z: the last rows of Q [s Γᵀ g; ξ], rows of ξ iid N(0, s² gᵀg) (scale, ln ‖g Hᵀ‖² up to R's scale)."""
    factor, head = small[0], small[1]
    triangle(g, features, batch, factor, scratch, small[2:])
    top = normalize(factor)
    if top == -math.inf or top == math.inf:
        for i in range(out.size):
            out[i] = 0.0 if top < 0.0 else math.nan
        return log_scale, top
    weight_gradient = gram(factor, r)
    head[:] = 0
    for index in range(blocks(features, batch)):
        accumulate(head, gram(block(gamma, index, features, batch), block(g, index, features, batch)), math.exp(-top))
    for index in range(blocks(units, batch)):
        part = block(out, index, units, batch)
        drawn = scratch[: part.size].reshape(part.shape)
        fill_gaussian(drawn.reshape(drawn.size), rng)
        np.dot(factor.T, drawn, part)
    rotate(v, t, units, batch, head, out)
    log_scale += top
    return log_scale + log_deviation, log(square_sum(weight_gradient.reshape(batch * batch))) + 2 * log_scale


@kernel()
def accumulate(total, matrix, factor):
    """total += factor · matrix."""
    for i in range(len(total)):
        for j in range(len(total)):
            total[i, j] += factor * matrix[i, j]


@fast_kernel()
def homogeneous(x, y, positive, negative):
    """Slope `positive` for x > 0, `negative` for x < 0; NaN stays."""
    for i in range(x.size):
        y[i] = x[i] * (negative if x[i] <= 0 else positive)


@fast_kernel()
def homogeneous_backward(x, g, out, positive, negative):
    """At the kink the slope on the left."""
    for i in range(x.size):
        out[i] = g[i] * (negative if x[i] <= 0 else positive)


@kernel()
def norm_scales(log_scale, epsilon):
    """Scale of √(variance + ε), and the weights of the values' variance and of ε at that scale."""
    half_log_epsilon = 0.5 * math.log(epsilon) if epsilon > 0.0 else -math.inf
    top = max(log_scale, half_log_epsilon)
    return top, math.exp(2 * (log_scale - top)), math.exp(2 * (half_log_epsilon - top))


@kernel()
def inverse_root(variance, share, epsilon, regular, most):
    """1/√(variance + ε); a constant is 0/0 without ε and 0 with it, also where its share underflows."""
    root = math.sqrt(variance * share + epsilon)
    if root * most >= 1.0:
        return 1 / root
    return most if regular or root > 0.0 else math.nan


@kernel()
def largest_inverse(inverse):
    """What an inverse is cut to, so that its product with a number near 1 stays in the range of its type."""
    return 1e30 if inverse.itemsize == 4 else 1e250


@fast_kernel()
def batch_norm(x, y, units, batch, log_scale, epsilon, inverse):
    """(h − mean)/√(variance + ε) of every unit over the batch; 1/√ at the returned scale goes to `inverse`."""
    top, share, small = norm_scales(log_scale, epsilon)
    start, most = 0, largest_inverse(inverse)
    for index in range(blocks(units, batch)):
        old, new = block(x, index, units, batch), block(y, index, units, batch)
        size = old.shape[1]
        mean, variance = np.zeros(size), np.zeros(size)
        for b in range(batch):  # differences to the first input: a constant unit has variance zero exactly
            for i in range(size):
                mean[i] += (old[b, i] - old[0, i]) / batch
        for b in range(batch):
            for i in range(size):
                variance[i] += ((old[b, i] - old[0, i]) - mean[i]) ** 2 / batch
        for i in range(size):
            inverse[start + i] = inverse_root(variance[i], share, small, epsilon > 0.0, most)
        for b in range(batch):
            for i in range(size):
                new[b, i] = ((old[b, i] - old[0, i]) - mean[i]) * inverse[start + i]
        start += size
    return top


@fast_kernel()
def batch_norm_backward(y, y_scale, g, out, units, batch, inverse):
    """(g − mean g − y mean(g y))/√(variance + ε) for every unit; y its output at scale y_scale."""
    start, square = 0, math.exp(2 * y_scale)
    for index in range(blocks(units, batch)):
        normal, old, new = block(y, index, units, batch), block(g, index, units, batch), block(out, index, units, batch)
        size = old.shape[1]
        mean, along = np.zeros(size), np.zeros(size)
        for b in range(batch):
            for i in range(size):
                mean[i] += old[b, i] / batch
                along[i] += old[b, i] * normal[b, i] * square / batch
        for b in range(batch):
            for i in range(size):
                new[b, i] = (old[b, i] - mean[i] - normal[b, i] * along[i]) * inverse[start + i]
        start += size


@kernel()
def pieces(units, batch, size):
    """What each block holds of each group of `size` units: block, its columns from … up to, group."""
    found = np.empty((blocks(units, batch) + units // size, 4), np.int64)
    count, unit, at_once = 0, 0, block_units(batch)
    while unit < units:
        index, group = unit // at_once, unit // size
        stop = min((index + 1) * at_once, (group + 1) * size, units)
        found[count, 0], found[count, 3] = index, group
        found[count, 1], found[count, 2] = unit - index * at_once, stop - index * at_once
        count, unit = count + 1, stop
    return found[:count]


@fast_kernel()
def group_norm(x, y, units, batch, groups, log_scale, epsilon, inverse):
    """(h − mean)/√(variance + ε) of every input over each group of units; 1/√ at the returned scale: `inverse`."""
    top, share, small = norm_scales(log_scale, epsilon)
    size, most = units // groups, largest_inverse(inverse)
    cuts, roots = pieces(units, batch, size), inverse.reshape(batch, groups)
    first, mean, variance = np.empty((batch, groups), x.dtype), np.zeros((batch, groups)), np.zeros((batch, groups))
    for k in range(len(cuts) - 1, -1, -1):  # back to front: what stays is the first unit of a group
        index, low, group = cuts[k, 0], cuts[k, 1], cuts[k, 3]
        old = block(x, index, units, batch)
        for b in range(batch):
            first[b, group] = old[b, low]
    for k in range(len(cuts)):
        index, low, high, group = cuts[k, 0], cuts[k, 1], cuts[k, 2], cuts[k, 3]
        old = block(x, index, units, batch)
        for b in range(batch):
            total, origin = 0.0, first[b, group]
            for i in range(low, high):
                total += old[b, i] - origin
            mean[b, group] += total / size
    for k in range(len(cuts)):
        index, low, high, group = cuts[k, 0], cuts[k, 1], cuts[k, 2], cuts[k, 3]
        old = block(x, index, units, batch)
        for b in range(batch):
            total, origin, middle = 0.0, first[b, group], mean[b, group]
            for i in range(low, high):
                total += ((old[b, i] - origin) - middle) ** 2
            variance[b, group] += total / size
    for b in range(batch):
        for group in range(groups):
            roots[b, group] = inverse_root(variance[b, group], share, small, epsilon > 0.0, most)
    for k in range(len(cuts)):
        index, low, high, group = cuts[k, 0], cuts[k, 1], cuts[k, 2], cuts[k, 3]
        old, new = block(x, index, units, batch), block(y, index, units, batch)
        for b in range(batch):
            origin, middle, root = first[b, group], mean[b, group], roots[b, group]
            for i in range(low, high):
                new[b, i] = ((old[b, i] - origin) - middle) * root
    return top


@fast_kernel()
def group_norm_backward(y, y_scale, g, out, units, batch, groups, inverse):
    """(g − mean g − y mean(g y))/√(variance + ε) for every input and group of units."""
    size, square = units // groups, math.exp(2 * y_scale)
    cuts, roots = pieces(units, batch, size), inverse.reshape(batch, groups)
    mean, along = np.zeros((batch, groups)), np.zeros((batch, groups))
    for k in range(len(cuts)):
        index, low, high, group = cuts[k, 0], cuts[k, 1], cuts[k, 2], cuts[k, 3]
        normal, old = block(y, index, units, batch), block(g, index, units, batch)
        for b in range(batch):
            total, product = 0.0, 0.0
            for i in range(low, high):
                total += old[b, i]
                product += old[b, i] * normal[b, i]
            mean[b, group] += total / size
            along[b, group] += product * square / size
    for k in range(len(cuts)):
        index, low, high, group = cuts[k, 0], cuts[k, 1], cuts[k, 2], cuts[k, 3]
        normal, old, new = block(y, index, units, batch), block(g, index, units, batch), block(out, index, units, batch)
        for b in range(batch):
            middle, slope, root = mean[b, group], along[b, group], roots[b, group]
            for i in range(low, high):
                new[b, i] = (old[b, i] - middle - normal[b, i] * slope) * root


@kernel()
def dropout(x, y, mask, keep, rate, rng):
    """Each entry kept with probability 1 − rate and divided by it, else 0; the factors go to `mask` if it is kept."""
    for i in range(x.size):
        factor = 0.0 if rng.random() < rate else 1 / (1 - rate)
        y[i] = x[i] * factor
        if keep:
            mask[i] = factor


@kernel()
def add(x, x_scale, factor, y, y_scale, out):
    """factor · x + y, both rescaled; the scale of zeros says nothing. `out` may be y."""
    if square_sum(x) == 0.0:
        copy(y, out)
        return y_scale
    if square_sum(y) == 0.0:
        copy(x, out)
        return x_scale + math.log(factor)
    x_scale += math.log(factor)
    top = max(x_scale, y_scale)
    x_share, y_share = math.exp(x_scale - top), math.exp(y_scale - top)
    for i in range(x.size):
        out[i] = x[i] * x_share + y[i] * y_share
    return top


@kernel()
def copy(x, y):
    """y = x."""
    for i in range(x.size):
        y[i] = x[i]


@kernel()
def times(x, factors, y):
    """y = factors · x, entry by entry."""
    for i in range(x.size):
        y[i] = x[i] * factors[i]
