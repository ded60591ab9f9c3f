"""Kernels of the layers against the NumPy rules of the other engine, and the law of a Dense layer there and back."""

import math

import numpy as np
import pytest

from bntheory.activations import KNOWN, activation
from bntheory.layers import BatchNorm, GroupNorm, LayerNorm
from bntheory.networks import Residual, Sequential
from simulations import pullbacks
from simulations.kernels import activations, blocks, layers
from simulations.signal import Signal, scaled
from simulations.statistics import mean_with_error, tolerance

BATCH, UNITS = 4, 9
SHAPES = [(BATCH, UNITS), (130, 1300)]  # one block, and three of which the last is shorter


def cuts(batch, units):
    return range(blocks.block_units(batch), units, blocks.block_units(batch))


def flat(values):
    """A batch (B, n) in the kernels' order: block after block of units."""
    return np.concatenate([part.ravel() for part in np.split(values, cuts(*values.shape), axis=1)])


def unflat(row, batch, units):
    """Back to (B, n)."""
    return np.hstack([part.reshape(batch, -1) for part in np.split(row, [batch * cut for cut in cuts(batch, units)])])


def kernel_row(signal):
    return flat(signal.values)


def compare(row, log_scale, signal):
    """exp(log_scale) · row is the signal, relative to its largest entry."""
    found = scaled(unflat(row, *signal.values.shape), log_scale)
    assert found.log_scale == pytest.approx(signal.log_scale, abs=1e-11)
    np.testing.assert_allclose(found.values, scaled(*signal).values, atol=1e-11)


def signals(log_scale, shape=(BATCH, UNITS)):
    rng = np.random.default_rng(0)
    return (Signal(rng.standard_normal(shape) + 0.3, scale) for scale in (log_scale, 2 * log_scale + 1))


EPSILONS = pytest.mark.parametrize("epsilon", [0.0, 1e-5, 3.0])
LOG_SCALES = pytest.mark.parametrize("log_scale", [-300.0, -4.0, 0.0, 300.0])


@EPSILONS
@LOG_SCALES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm(shape, log_scale, epsilon):
    batch, units = shape
    h, g = signals(log_scale, shape)
    output, pullback = pullbacks.normalization(BatchNorm(epsilon), h)
    y, out, inverse = np.empty(h.values.size), np.empty(h.values.size), np.empty(units)
    top = layers.batch_norm(kernel_row(h), y, units, batch, h.log_scale, epsilon, inverse)
    compare(y, h.log_scale - top, output)
    layers.batch_norm_backward(y, h.log_scale - top, kernel_row(g), out, units, batch, inverse)
    compare(out, g.log_scale - top, pullback(g))


@EPSILONS
@LOG_SCALES
@pytest.mark.parametrize(
    ("shape", "groups"), [(SHAPES[0], 1), (SHAPES[0], 3), (SHAPES[1], 1), (SHAPES[1], 2), (SHAPES[1], 260)], ids=str
)
def test_group_norm(shape, groups, log_scale, epsilon):
    """Groups of 5 units to those of several blocks, whose ends are not the blocks'; one group is a LayerNorm."""
    batch, units = shape
    h, g = signals(log_scale, shape)
    layer = LayerNorm(epsilon) if groups == 1 else GroupNorm(groups, epsilon)
    output, pullback = pullbacks.normalization(layer, h)
    y, out, inverse = np.empty(h.values.size), np.empty(h.values.size), np.empty(batch * groups)
    top = layers.group_norm(kernel_row(h), y, units, batch, groups, h.log_scale, epsilon, inverse)
    compare(y, h.log_scale - top, output)
    layers.group_norm_backward(y, h.log_scale - top, kernel_row(g), out, units, batch, groups, inverse)
    compare(out, g.log_scale - top, pullback(g))


@pytest.mark.parametrize(("units", "batch", "size"), [(9, 4, 3), (9, 4, 9), (1300, 130, 5), (1300, 130, 650)])
def test_pieces_are_all_units_once(units, batch, size):
    """Unit by unit: the block and the group it is in."""
    found = [
        (index * blocks.block_units(batch) + column, group)
        for index, low, high, group in layers.pieces(units, batch, size)
        for column in range(low, high)
    ]
    assert found == [(unit, unit // size) for unit in range(units)]
    assert all(high <= blocks.block_units(batch) for _, _, high, _ in layers.pieces(units, batch, size))


@pytest.mark.parametrize("name", ["linear", "relu", "leaky_relu(-0.4)"])
def test_homogeneous_activations(name):
    phi, (h, g) = activation(name), signals(2.0)
    output, pullback = pullbacks.activation(phi, h)
    y, out = np.empty(h.values.size), np.empty(h.values.size)
    layers.homogeneous(kernel_row(h), y, *phi.homogeneous_slopes)
    compare(y, h.log_scale, output)
    layers.homogeneous_backward(kernel_row(h), kernel_row(g), out, *phi.homogeneous_slopes)
    compare(out, g.log_scale, pullback(g))


@pytest.mark.parametrize("scales", [(0.0, 0.0), (500.0, -500.0), (-500.0, 500.0), (3.0, 2.0)])
@pytest.mark.parametrize("zero", [None, 0, 1, 2], ids=["none", "branch", "shortcut", "both"])
def test_sums(scales, zero):
    rng = np.random.default_rng(1)
    parts = [Signal(rng.standard_normal((BATCH, UNITS)), scale) for scale in scales]
    for k, part in enumerate(parts):
        if zero in (k, 2):
            part.values[:] = 0
    output, _ = pullbacks.residual(Residual(Sequential(()), scale=0.3), *parts)
    y = np.empty(output.values.size)
    scale = layers.add(kernel_row(parts[0]), scales[0], 0.3, kernel_row(parts[1]), scales[1], y)
    if zero == 2:
        np.testing.assert_array_equal(y, 0)
    else:
        compare(y, scale, output)


def test_compiled_activations_are_known():
    """Others go through their NumPy functions, as a user's own do."""
    assert set(activations.SMOOTH) < {name for name in KNOWN if activation(name).homogeneous_slopes is None}


@pytest.mark.parametrize("name", activations.SMOOTH)
def test_compiled_activations(name):
    x = np.concatenate([-np.geomspace(1e-13, 5e13, 120)[::-1], [0.0], np.geomspace(1e-13, 5e13, 120)])
    kind = activations.SMOOTH.index(name)
    phi = activation(name)
    for compiled, expected in ((activations.phi, phi.phi(x)), (activations.dphi, phi.dphi(x))):
        found = np.array([compiled(kind, value) for value in x])
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-300)


def there_and_back(h, g, dtype):
    """A Dense layer with s = 0.7 in its own memory: Z and Wᵀ g, (B, ·), and ln ‖g Hᵀ‖²."""
    (batch, units), features = h.shape, g.shape[1]
    z, out, v, gamma = (np.empty(batch * size, dtype) for size in (features, units, units, features))
    r, t = np.empty((batch, batch), dtype), np.empty((blocks.blocks(units, batch), batch, batch), dtype)
    scratch, small = np.empty(batch * blocks.block_units(batch), dtype), np.empty((3, batch, batch), dtype)
    h, g, s, rng = flat(h).astype(dtype), flat(g).astype(dtype), math.log(0.7), np.random.default_rng(1)
    r_scale, z_scale = layers.dense(h, units, z, features, batch, 0.0, s, 0.0, r, v, t, gamma, True, rng)
    scale, weight = layers.dense_backward(g, features, out, units, batch, 0.0, s, r, v, t, gamma, scratch, small, rng)
    z, out = (unflat(row.astype(float), batch, size) for row, size in ((z, features), (out, units)))
    return z * math.exp(z_scale), out * math.exp(scale), weight + 2 * r_scale


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-12), (np.float32, 1e-4)])
@pytest.mark.parametrize("kind", ["full", "twins", "rank one"])
@pytest.mark.parametrize(
    ("batch", "units", "features"), [(1, 4, 3), (3, 5, 2), (5, 2, 3), (19, 9, 40), (130, 1300, 600), (130, 600, 1300)]
)
def test_one_matrix_acts_there_and_back(batch, units, features, kind, dtype, error):
    """⟨Wᵀg_j, h_b⟩ = ⟨g_j, W h_b⟩ for all pairs of inputs, in every draw: the Γ of the way back is the one of Z."""
    rng = np.random.default_rng(0)
    h, g = rng.standard_normal((batch, units)), rng.standard_normal((batch, features))
    if kind == "twins":
        h[-1] = h[0]
    elif kind == "rank one":
        h = np.outer(rng.standard_normal(batch), h[0])
    z, back, weight_gradient = there_and_back(h, g, dtype)
    left, right = back @ h.T, g @ z.T
    np.testing.assert_allclose(left, right, atol=error * np.abs(right).max())
    assert weight_gradient == pytest.approx(2 * math.log(np.linalg.norm(g.T @ h)), abs=error)


@pytest.mark.parametrize(("units", "batch"), [(4, 2), (3, 5)])
def test_the_law_of_a_dense_layer(units, batch):
    """Second moments of Z and of Wᵀ g, g fixed, and Z g-weighted between them, against those of a matrix W.

    E Zᵀ Z = s² n_out HᵀH;  E (Wᵀg)(Wᵀg)ᵀ = s² gᵀg ⊗ 1;  E z_ib (Wᵀg)_jc = s² H_jb g_ic. False alarms 1e-6 in all.
    """
    rng, trials, features, s = np.random.default_rng(5), 4000, 3, 0.7
    h, g = rng.standard_normal((batch, units)), rng.standard_normal((batch, features))
    z, out, v = np.empty(batch * features), np.empty(batch * units), np.empty(batch * units)
    r, t, gamma = np.empty((batch, batch)), np.empty((1, batch, batch)), np.empty(batch * features)
    scratch, small = np.empty(batch * blocks.block_units(batch)), np.empty((3, batch, batch))
    found = []
    for _ in range(trials):
        _, z_scale = layers.dense(
            h.ravel(), units, z, features, batch, 0.0, math.log(s), 0.0, r, v, t, gamma, True, rng
        )
        g_scale, _ = layers.dense_backward(
            g.ravel(), features, out, units, batch, 0.0, math.log(s), r, v, t, gamma, scratch, small, rng
        )
        drawn = z * math.exp(z_scale), out * math.exp(g_scale)
        found.append([np.outer(drawn[0], drawn[0]), np.outer(drawn[1], drawn[1]), np.outer(drawn[0], drawn[1])])
    # z is ordered (b, i), Wᵀ g (c, j)
    expected = (
        s**2 * np.einsum("bj,cj,ik->bick", h, h, np.eye(features)).reshape(batch * features, -1),
        s**2 * np.einsum("bi,ci,jk->bjck", g, g, np.eye(units)).reshape(batch * units, -1),
        s**2 * np.einsum("bj,ci->bicj", h, g).reshape(batch * features, -1),
    )
    comparisons = sum(matrix.size for matrix in expected)
    for samples, matrix in zip(zip(*found, strict=True), expected, strict=True):
        mean, error = mean_with_error(np.array(samples))
        assert np.all(np.abs(mean - matrix) < tolerance(error, 1e-6, comparisons))


def test_the_weight_gradient_is_that_of_the_matrices():
    """ln ‖g Hᵀ‖² up to the scale of H, exactly."""
    rng = np.random.default_rng(6)
    h, g = rng.standard_normal((3, 5)), rng.standard_normal((3, 4)) * 1e-200
    z, out, v = np.empty(12), np.empty(15), np.empty(15)
    r, t, gamma = np.empty((3, 3)), np.empty((1, 3, 3)), np.empty(12)
    scratch, small = np.empty(3 * blocks.block_units(3)), np.empty((3, 3, 3))
    r_scale, _ = layers.dense(h.ravel(), 5, z, 4, 3, 7.0, 0.0, 0.0, r, v, t, gamma, True, rng)
    found = layers.dense_backward(g.ravel() / 1e-200, 4, out, 5, 3, -9.0, 0.0, r, v, t, gamma, scratch, small, rng)[1]
    expected = math.log(np.sum((g.T / 1e-200 @ h) ** 2)) + 2 * (7.0 - 9.0)
    assert found + 2 * r_scale == pytest.approx(expected, abs=1e-12)
