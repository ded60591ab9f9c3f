"""Spectra of weights against NumPy's decomposition, random matrices and planted directions."""

import json
import math

import numpy as np
import pytest

import simulations as sim
from bntheory.architectures import resnet
from simulations import iid_null

torch = pytest.importorskip("torch")
nn, weight_spectra = torch.nn, sim.weight_spectra


def test_singular_values_are_those_of_the_reshaped_kernels():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten(), nn.Linear(8, 5)).double()
    found = weight_spectra(model, trials=100)
    assert [(each.name, each.shape) for each in found.matrices] == [
        ("0.weight", (8, 27)),
        ("1.weight", (8, 18)),
        ("3.weight", (5, 8)),
    ]
    for each in found.matrices:
        matrix = model.get_parameter(each.name).detach().numpy().reshape(each.shape)
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(each.log_singular_values, np.log(expected), rtol=0, atol=1e-12)
        assert each.size == pytest.approx(np.sqrt(np.mean(matrix**2)), rel=1e-12)
        rows, columns = each.shape
        edges = [math.log(each.size * abs(math.sqrt(columns) + sign * math.sqrt(rows))) for sign in (-1, 1)]
        assert each.edges == pytest.approx(edges, abs=1e-9)
        assert each.excess == pytest.approx(each.log_singular_values[0] - edges[1], abs=1e-9)


@pytest.mark.parametrize("shape", [(200, 50), (50, 200), (100, 100)])
def test_the_law_and_its_distance(shape):
    """r times the distance of r random singular values: at most 3.5 in 400 draws of either shape, 1.9 in the middle."""
    torch.manual_seed(0)
    model = nn.Linear(shape[1], shape[0])
    nn.init.normal_(model.weight, std=7.0)
    (random,) = weight_spectra(model, trials=100).matrices
    assert random.distance < 4 / min(shape) and abs(random.excess) < 0.05 and random.p_value > 0.05
    nn.init.orthogonal_(model.weight)
    (rigid,) = weight_spectra(model, trials=100).matrices
    assert rigid.distance > 0.3 and rigid.p_value < 0.05


def test_a_planted_direction_is_named():
    torch.manual_seed(0)
    model = sim.build(resnet(8, image=(3, 8, 8)))
    with torch.no_grad():
        weight = model.get_parameter("4.branch.0.weight")
        weight += 0.3 * torch.ones_like(weight)
    found = weight_spectra(model, level=0.01, trials=300)
    assert found.unlike == ("4.branch.0.weight",)
    planted = found.matrices[[each.name for each in found.matrices].index("4.branch.0.weight")]
    assert planted.outliers[1] >= 1 and planted.excess > 0.5
    assert str(found).startswith(f"1 of {len(found.matrices)} weight matrices are unlike random ones at level 0.01")
    assert all(math.isfinite(each.p_value) for each in found.matrices)


def test_one_null_for_each_shape():
    iid_null.null_of.cache_clear()
    model = nn.Sequential(*(nn.Linear(*((5, 7) if k % 2 else (7, 5))) for k in range(20)), *(nn.Linear(3, 4),) * 2)
    weight_spectra(model, trials=100)
    assert iid_null.null_of.cache_info().misses == 2


def test_matrices_that_cannot_be_tested():
    model = nn.Sequential(nn.Linear(6, 1), nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[2].weight[0] = 0
    found = weight_spectra(model, trials=100)
    assert [math.isnan(each.p_value) for each in found.matrices] == [True] * 3
    row, zeros, singular = found.matrices
    assert row.remark == "no test: the smallest dimension must be at least 2, got 1"
    assert zeros.size == 0 and np.isneginf(zeros.log_singular_values).all() and math.isnan(zeros.distance)
    assert singular.remark.startswith("no test: 1 of 3 singular values are zero")
    assert found.unlike == () and json.dumps(found.to_dict(), allow_nan=False) and found.table()
    found.plot()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_size(scale):
    torch.manual_seed(0)
    model = nn.Linear(20, 10).double()
    (one,) = weight_spectra(model, trials=100).matrices
    with torch.no_grad():
        model.weight *= scale
    (other,) = weight_spectra(model, trials=100).matrices
    assert other.p_value == one.p_value and other.distance == pytest.approx(one.distance)
    np.testing.assert_allclose(other.log_singular_values - one.log_singular_values, math.log(scale), atol=1e-10)


def test_refusals():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got ndarray"):
        weight_spectra(np.eye(3))
    with pytest.raises(ValueError, match="BatchNorm1d has no parameter of two axes or more: there is no spectrum"):
        weight_spectra(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 2"):
        weight_spectra(nn.Linear(3, 3), level=2)
    with pytest.raises(ValueError, match="trials must be at least 100, got 10"):
        weight_spectra(nn.Linear(3, 3), trials=10)
    broken = nn.Linear(3, 3)
    nn.init.constant_(broken.weight, math.nan)
    with pytest.raises(ValueError, match="weights must be finite, got nan in weight"):
        weight_spectra(broken)
