import copy

import numpy as np
import pytest

from paper_figures import appendix_sgd_noise as noise
from paper_figures import claims, networks
from paper_figures.verdicts import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return noise.compute(seed=1, depth=8, images=6, sizes=(1, 4), batches=24)


def failures(data):
    return [check.what for check in noise.check(data) if not check.passed]


def verdicts(data):
    found = claims.claims({"appendix_sgd_noise": data})
    return [claim.verdict for claim in found if claim.verdict != NOT_TESTABLE]


def gradients(kind, parts):
    """Flat gradients of parts of the six images, through .grad."""
    from simulations.training.modules import build

    model = build(networks.resnet(8, kind), 1, draw=0)
    images, labels = (torch.as_tensor(part) for part in networks.batch(6, 1))
    found = []
    for part in parts:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
        found.append(torch.cat([own.grad.flatten() for own in model.parameters()]).double().numpy())
    return np.array(found)


@pytest.mark.parametrize("kind", ["nobn", "bn"])
def test_variance_is_that_of_single_images(data, kind):
    singles, (whole,) = gradients(kind, [[at] for at in range(6)]), gradients(kind, [list(range(6))])
    variance = ((singles - singles.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert data[kind]["variance"] == pytest.approx(variance, rel=1e-3)
    assert data[kind]["squared_gradient"] == pytest.approx(whole @ whole, rel=1e-3)
    mean = singles.mean(axis=0)
    assert np.allclose(mean, whole, atol=1e-3 * np.abs(whole).max()) == (kind == "nobn")  # the theorem's condition


def test_measured_distances_with_bn_are_those_of_all_mini_batches(data):
    """All 15 mini-batches of 4 against 24 sampled ones and 12 pairs; false-alarm rate 1e-4 each."""
    import itertools

    from simulations.statistics import tolerance

    each = gradients("bn", [list(few) for few in itertools.combinations(range(6), 4)])
    (whole,) = gradients("bn", [list(range(6))])
    around, apart = ((each - centre) ** 2 for centre in (each.mean(axis=0), whole))
    unit = data["bn"]["variance"] / 4
    for series, expected, freedom in (("without", around, 11), ("to_all", apart, 23)):
        part = data["bn"][series]
        allowed = tolerance(part["error"][1], 1e-4, degrees_of_freedom=freedom)
        assert abs(part["ratio"][1] - expected.sum(axis=1).mean() / unit) < allowed


def test_theory_without_bn_holds(data):
    assert data["exact"] == pytest.approx([1, 0.4])
    assert failures(data) == []


def test_noise_that_is_too_large_fails(data):
    wrong = copy.deepcopy(data)
    wrong["nobn"]["without"]["ratio"][1] += 5.0
    wrong["bn"]["without"]["ratio"] += 50.0
    assert len(failures(wrong)) == 3
    assert verdicts(wrong) == [NOT_REPRODUCED, NOT_REPRODUCED]


def test_claims_tell_kinds_apart(data):
    right = copy.deepcopy(data)
    right["bn"]["without"]["ratio"] = np.array([1.0, 0.4])
    assert verdicts(right) == [REPRODUCED, REPRODUCED]


def test_draws_ratio_and_noise(data):
    assert len(noise.draw(data).axes) == 2
