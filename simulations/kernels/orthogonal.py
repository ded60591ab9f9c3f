"""QR by Householder reflections, a block of units at a time, in the compact form I − [I; V] T [I; V]ᵀ.

H (n, B) is factored with B rows of zeros on top: [0; H] = Q [R; 0], R upper triangular (B, B) whatever the rank of H
and whether or not B > n. Q = Q₁ Q₂ … over blocks of units, Q_c = I − [I; V_c] T_c [I; V_c]ᵀ acts on the B rows on top
and on block c alone (Golub, Van Loan 2013, sections 5.1 and 5.2; the stacked form as in LAPACK's tpqrt).
"""

import math

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  # what np.dot compiles to: loaded here, before anybody limits its threads

from simulations.kernels.blocks import block, blocks
from simulations.kernels.compilation import fast_kernel, kernel

PANEL = 16  # reflections made one by one before the rest of the block is updated by matrix products


@kernel()
def gram(a, b):
    """a bᵀ for blocks a (p, m) and b (q, m)."""
    return np.dot(a, b.T)


@kernel()
def combined(a, b):
    """aᵀ b for a (p, q) and a block b (p, m)."""
    return np.dot(a.T, b)


@fast_kernel()
def inner(x, y):
    """Σ x y."""
    total = x[0] * y[0]
    for i in range(1, x.size):
        total += x[i] * y[i]
    return total


@fast_kernel()
def subtract(x, factor, y):
    """x −= factor · y."""
    for i in range(x.size):
        x[i] -= factor * y[i]


@kernel()
def reflect(r, v, t, first, stop):
    """Reflections first … stop − 1 of the stack [r; vᵀ], and their triangle of t; the rows of v become the vectors."""
    for j in range(first, stop):
        x = v[j]
        below = inner(x, x)
        if below == 0:  # nothing to reflect: T's column is zero
            continue
        norm = math.sqrt(r[j, j] ** 2 + below)
        beta = -norm if r[j, j] >= 0 else norm
        tau = (beta - r[j, j]) / beta
        inverse = v.dtype.type(1 / (r[j, j] - beta))
        for i in range(x.size):
            x[i] *= inverse
        r[j, j] = beta
        for k in range(j + 1, stop):
            change = v.dtype.type(tau * (inner(x, v[k]) + r[j, k]))
            r[j, k] -= change
            subtract(v[k], change, x)
        t[j, j] = tau
        for k in range(first, j):
            t[k, j] = -tau * inner(x, v[k])
        for k in range(first, j):
            t[k, j] = inner(t[k, k:j], t[k:j, j].copy())


@kernel()
def stack(r, v, t):
    """Factor [r; vᵀ] in place: r upper triangular, v (B, m) a block on entry and the reflections on return, t for T."""
    batch = r.shape[0]
    t[:] = 0
    for first in range(0, batch, PANEL):
        stop = min(first + PANEL, batch)
        reflect(r, v, t, first, stop)
        panel = t[first:stop, first:stop].copy()
        if first > 0:
            cross = np.dot(np.dot(t[:first, :first].copy(), gram(v[:first], v[first:stop])), panel)
            for i in range(first):
                for j in range(first, stop):
                    t[i, j] = -cross[i, j - first]
        if stop < batch:
            update(r, v, panel, first, stop)


@kernel()
def update(r, v, panel, first, stop):
    """Apply the reflections first … stop − 1 to the columns after them."""
    change = gram(v[first:stop], v[stop:])
    for i in range(first, stop):
        for j in range(stop, len(r)):
            change[i - first, j - stop] += r[i, j]
    change = combined(panel, change)
    for i in range(first, stop):
        for j in range(stop, len(r)):
            r[i, j] -= change[i - first, j - stop]
    moved = combined(change, v[first:stop])
    for j in range(stop, len(r)):
        subtract(v[j], v.dtype.type(1), moved[j - stop])


@kernel()
def triangle(x, units, batch, r, v, t):
    """R of a row x into r; v (the row's size) and t (blocks, B, B) get Q, or serve as scratch of one block's size."""
    r[:] = 0
    for index in range(blocks(units, batch)):
        place = min(index, len(t) - 1)
        part = block(x, index, units, batch)
        reflections = block(v, place, units, batch)
        reflections = reflections.reshape(reflections.size)[: part.size].reshape(part.shape)
        for b in range(batch):
            for i in range(part.shape[1]):
                reflections[b, i] = part[b, i]
        stack(r, reflections, t[place])


@kernel()
def rotate(v, t, units, batch, top, x):
    """Replace the stack [top; x] by Q [top; x], x a row of `units` units; top (B, B) is left as scratch."""
    for index in range(blocks(units, batch) - 1, -1, -1):
        reflections, part = block(v, index, units, batch), block(x, index, units, batch)
        change = gram(reflections, part)
        for i in range(batch):
            for j in range(batch):
                change[i, j] += top[i, j]
        change = np.dot(t[index], change)
        for i in range(batch):
            for j in range(batch):
                top[i, j] -= change[i, j]
        moved = combined(change, reflections)
        for b in range(batch):
            subtract(part[b], part.dtype.type(1), moved[b])
