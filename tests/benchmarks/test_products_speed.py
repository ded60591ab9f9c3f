"""Speed of sampled singular values beside what one writes in NumPy.

NumPy takes its turn with all of BLAS's threads.
"""

import functools

import numpy as np
import pytest

from bntheory.architectures import mlp
from simulations.products import log_singular_values


def in_numpy(width, depth, trials, relu=False):
    """Explicit weights and masks, product, singular values."""
    rng = np.random.default_rng(0)
    logs = np.empty((trials, width))
    for values in logs:
        signal, jacobian = rng.standard_normal(width), None
        for _ in range(depth):
            weights = rng.standard_normal((width, width)) / np.sqrt(width / (2 if relu else 1))
            if relu:
                signal = weights @ signal
                weights[signal <= 0] = 0
                signal = np.maximum(signal, 0)
            jacobian = weights if jacobian is None else weights @ jacobian
        values[:] = np.linalg.svd(jacobian, compute_uv=False)
    with np.errstate(divide="ignore"):
        return np.log(logs)


@pytest.mark.parametrize(("depth", "least", "rounds"), [(5, 1.3, 3), (50, 2.5, 1)])
def test_thousand_by_thousand(seconds, floor, depth, least, rounds):
    """In the upper half, where rounding has not reached, both find the same."""
    net, found = mlp(depth, 1000, "linear", "lecun_normal"), {}
    log_singular_values(net, 1)  # compiles
    ours, theirs = seconds(
        lambda: found.update(chain=log_singular_values(net, 10)),
        lambda: found.update(numpy=in_numpy(1000, depth, 10)),
        rounds=rounds,
    )
    floor(f"singular values of 10 products of {depth} 1000×1000 matrices, beside NumPy", ours, "s", theirs, least)
    np.testing.assert_allclose(found["chain"][:, :500].mean(), found["numpy"][:, :500].mean(), rtol=0, atol=0.05)


def test_relu(seconds, floor):
    net, found = mlp(20, 1000), {}
    log_singular_values(net, 1)
    ours, theirs = seconds(
        lambda: found.update(chain=log_singular_values(net, 4)),
        lambda: found.update(numpy=in_numpy(1000, 20, 4, relu=True)),
        rounds=3,
    )
    floor("4 ReLU Jacobians of 20 layers of 1000 units, beside NumPy", ours, "s", theirs, 6)
    np.testing.assert_allclose(found["chain"][:, :200].mean(), found["numpy"][:, :200].mean(), rtol=0, atol=0.1)


@pytest.mark.parametrize(("width", "depth", "least"), [(50, 20, 3.0), (24, 50, None), (8, 5, None)])
def test_ten_thousand_small_products(seconds, floor, width, depth, least):
    net, found = mlp(depth, width, "linear", "lecun_normal"), {}
    log_singular_values(net, 1)
    ours, theirs = seconds(
        lambda: found.update(chain=log_singular_values(net, 10_000)),
        lambda: found.update(numpy=in_numpy(width, depth, 10_000)),
        rounds=3,
    )
    floor(f"10,000 products of {depth} {width}×{width} matrices, beside NumPy", ours, "s", theirs, least)
    chain, numpy = (found[name][:, :3].mean(axis=0) for name in ("chain", "numpy"))
    np.testing.assert_allclose(chain, numpy, rtol=0, atol=0.1)


@pytest.mark.parametrize(("depth", "rate", "point"), [(50, 3.6, 100), (1000, 3.3, 59)])
def test_given_matrices(floor, exact, depth, rate, point):
    """24×24: every value by the chain, those above rounding by the SVD of the product."""
    rng = np.random.default_rng(1)
    matrices = [rng.standard_normal((24, 24)) / np.sqrt(24) for _ in range(depth)]
    logs = log_singular_values(matrices)
    product = functools.reduce(lambda done, matrix: matrix @ done, matrices)
    with np.errstate(divide="ignore"):
        reference = np.log(np.linalg.svd(product, compute_uv=False))
    expected = exact(matrices, rate, point)
    chain, numpy = (int((np.abs(found - expected) < 1e-6).sum()) for found in (logs, reference))
    floor(f"{depth} given 24×24 matrices: log singular values right to 1e-6, of 24", chain, "", least=24)
    floor(f"{depth} given 24×24 matrices: the same by NumPy's SVD of the product", numpy, "")
    assert np.abs(logs - expected).max() < 1e-10
