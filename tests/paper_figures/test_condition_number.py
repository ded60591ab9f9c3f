import copy
import math

import numpy as np
import pytest

from bntheory import jacobian_law
from paper_figures import appendix_claims
from paper_figures import appendix_condition_number as figure


@pytest.fixture(scope="module")
def data():
    return figure.compute(seed=1, widths=(8, 16), factors=64, depth=8, trials=24, batch=64)


def failures(data):
    return [check.what for check in figure.check(data) if not check.passed]


def test_products_and_networks_agree_with_theory(data):
    assert failures(data) == []


def test_spoiled_data_fail(data):
    wrong = copy.deepcopy(data)
    for part in wrong["products"].values():
        part["ends"][..., 0] *= 2
        part["ends"][..., 1] *= 2
    for kind, factor in (("weak", 2), ("residual_bn", 20), ("relu_bn", 4)):
        wrong["networks"][kind]["drawn"] = factor * wrong["networks"][kind]["drawn"]
    assert len(failures(wrong)) >= len(figure.check(data)) - 2  # that of a single matrix is wide


def test_one_wide_matrix_has_edelman_s_condition_number():
    """E ln κ → ln N + 1.537 exactly (Edelman 1988); the quantile that stands for the smallest value gives 1.512."""
    from bntheory import FussCatalan

    largest, smallest = figure.wide_ends(FussCatalan(1), 10_000)
    assert math.isclose(largest, math.log(2), rel_tol=1e-9)
    assert math.isclose(largest - smallest - math.log(10_000), math.log(8 / math.pi) + np.euler_gamma, abs_tol=1e-3)


def test_weak_branches_have_the_rate_of_their_lyapunov_exponents():
    """Of I + a W: E ln|(I + a W) u| → ½ ln(1 + a²) and −½ ln E|(I + a W)⁻¹ u|² = ½ ln(1 − a²)."""
    ends = [figure.wide_ends(jacobian_law(figure.described("weak", depth, 64)), 64) for depth in (400, 800)]
    rates = (np.array(ends[1]) - ends[0]) / 400
    square = figure.SCALE**2
    np.testing.assert_allclose(rates, [math.log1p(square) / 2, math.log1p(-square) / 2], atol=0.004)
    rng = np.random.default_rng(0)
    blocks = np.eye(300) + figure.SCALE * rng.standard_normal((40, 300, 300)) / math.sqrt(300)
    first = np.linalg.norm(blocks[:, :, 0], axis=1)
    inverse = np.linalg.norm(np.linalg.inv(blocks)[:, :, 0], axis=1)
    np.testing.assert_allclose(np.mean(np.log(first)), math.log1p(square) / 2, atol=0.01)
    np.testing.assert_allclose(-np.mean(np.log(inverse)), math.log1p(-square) / 2, atol=0.02)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_factors_are_the_derivatives_of_the_network(residual, batch_norm):
    """Finite differences at the first input, with the statistics of the batch held."""
    depth, width, batch, step = 3, 5, 7, 1e-6
    found = figure.factors(depth, width, batch, residual, np.random.default_rng(4), batch_norm)
    rng = np.random.default_rng(4)
    start = rng.standard_normal((batch, width))
    weights = [rng.standard_normal((width, width)) * math.sqrt(2 / width) for _ in range(depth)]

    def output(shift):
        h, moved = start, start[0] + shift
        for matrix in weights:
            z, own = (h, moved) if residual else (h @ matrix.T, matrix @ moved)
            mean, std = (z.mean(axis=0), z.std(axis=0)) if batch_norm else (0, 1)
            active, own = np.maximum((z - mean) / std, 0), np.maximum((own - mean) / std, 0)
            h, moved = (h + active @ matrix.T, moved + matrix @ own) if residual else (active, own)
        return moved

    columns = [(output(step * unit) - output(-step * unit)) / (2 * step) for unit in np.eye(width)]
    np.testing.assert_allclose(np.linalg.multi_dot(found[::-1]), np.transpose(columns), atol=1e-7)


def test_claim_can_fail(data):
    (claim,) = appendix_claims.condition_number(data)
    assert claim.verdict == "reproduced"
    wrong = copy.deepcopy(data)
    wrong["products"][16]["ends"][:] = wrong["products"][16]["ends"][:, :1]
    assert appendix_claims.condition_number(wrong)[0].failed


def test_draws_four_panels(data):
    assert len(figure.draw(data).axes) == 4
