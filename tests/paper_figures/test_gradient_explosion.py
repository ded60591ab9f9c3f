import copy
import math

import numpy as np
import pytest

from paper_figures import appendix_claims
from paper_figures import appendix_gradient_explosion as figure

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return figure.compute(seed=2, depth=12, width=96, networks=8, images=4, resnet_depth=56)


def failures(data):
    return [check.what for check in figure.check(data) if not check.passed]


def test_drawn_networks_grow_as_theory_says(data):
    assert failures(data) == []
    for part in data["plain"].values():
        assert part["gradient"].shape == (13,) and part["drawn_gradient"].shape == (8, 13)
        assert part["gradient"][-1] == 0


def test_other_rates_fail(data):
    wrong = copy.deepcopy(data)
    for kind in ("plain", "residual", "none"):
        for key, rate in data["rates"][kind].items():
            wrong["rates"][kind][key] = rate._replace(mean=rate.mean + 0.5)
    wrong["resnet_bn"]["drawn_gradient"] = 2 * data["resnet_bn"]["drawn_gradient"]
    assert len(failures(wrong)) >= 9


def test_residual_networks_grow_as_depth_to_the_power_of_a_plain_network_s_rate():
    """Π (1 + λ/(k + o)) in closed form beside the recursion of `predict_growth`, deep enough for the power alone."""
    from bntheory import Activation, mlp, predict_growth
    from bntheory.growth.infinite_width.batch_norm import growth_rate, sphere_moments

    depth, batch, relu = 500, 32, Activation("relu")
    net = mlp(depth, 64, batch_norm=True, residual=True)
    growth = predict_growth(net, batch_size=batch)
    found = growth.log_gradient[figure._stations(growth.rows)]
    rate, start = growth_rate(relu, batch), 1 / math.exp(sphere_moments(relu, batch).log_distance)
    products = [math.lgamma(k + start + rate) - math.lgamma(k + start) for k in (50, 250)]
    assert math.isclose(found[50] - found[250], products[1] - products[0], rel_tol=0.02)
    assert math.isclose(found[50] - found[250], rate * math.log(5), rel_tol=0.04)


def test_claims_tell_residual_from_plain_networks(data):
    found = appendix_claims.gradient_explosion(data)
    assert [claim.verdict for claim in found] == ["reproduced", "reproduced"]
    assert not any(claim.failed for claim in found)
    swapped = {**data, "resnet": data["resnet_bn"], "resnet_bn": data["resnet"]}
    assert appendix_claims.gradient_explosion(swapped)[0].failed


def test_draws_four_panels_and_a_table(data):
    axes = figure.draw(data).axes
    assert len(axes) == 5 and len(axes[-1].tables[0].get_celld()) == 7 * 7
    assert np.all([panel.get_xlabel() for panel in axes[:4]])
