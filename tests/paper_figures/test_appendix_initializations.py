import copy

import numpy as np
import pytest

from bntheory import predict_growth, resnet
from paper_figures import appendix_initializations as inits
from paper_figures import claims
from paper_figures.verdicts import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def data():
    return inits.compute(seed=1, depth=20, images=8, draws=8, layers=8, width=32, vectors=20)


def failures(data):
    return [check.what for check in inits.check(data) if not check.passed]


def verdicts(data):
    found = claims.claims({"appendix_initializations": data})
    return [claim.verdict for claim in found if claim.verdict != NOT_TESTABLE]


def test_theory_and_networks_agree(data):
    assert failures(data) == []


def test_every_initialization_has_blocks_and_layers(data):
    for init in inits.INITS:
        assert data["nobn"][init]["measured"].shape == (8, 9) and data["bn"][init]["measured"].shape == (4, 9)
        assert data["mlp"][init]["measured"].shape == (20, 9) and np.all(np.isfinite(data["mlp"][init]["measured"]))
    assert np.isnan(data["mlp"]["orthogonal"]["mean"][-1])


def test_measured_are_block_outputs(data):
    """Against torch's own forward pass, module by module."""
    from simulations import streams
    from simulations.training.datasets import batch_of, digits
    from simulations.training.modules import Residual, build

    images = torch.as_tensor(batch_of(digits(channels=3)[0], 8, 1)).float()
    model, found = build(resnet(20, init="he_normal", image=(3, 8, 8)), streams.own_seed(1, 0), draw=2), []
    for module in model.modules():
        if isinstance(module, Residual):
            module.register_forward_hook(lambda _m, _i, out: found.append(float(out.relu().square().mean().log() / 2)))
    with torch.no_grad():
        model(images)
    assert data["nobn"]["he_normal"]["measured"][2] == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("init", ["he_normal", "torch_default"])
def test_the_walk_is_what_theory_predicts_with_any_initialization(init):
    """Closed form and quadrature against population dynamics, on images."""
    growth = predict_growth(resnet(20, batch_norm=True, init=init, image=(3, 8, 8)), batch_size=64)
    at = inits._places(growth.rows)
    assert growth.log_second_moment[at] / 2 == pytest.approx(inits.reflected_law(20), abs=0.02)


def test_other_networks_fail(data):
    wrong = copy.deepcopy(data)
    wrong["bn"]["orthogonal"]["measured"] += 0.5
    wrong["mlp"]["he_normal"]["measured"] -= 5.0
    for init in inits.INITS:
        wrong["nobn"][init]["measured"] = wrong["nobn"][init]["measured"] + 2.0
    assert len(failures(wrong)) >= 4
    assert any("orthogonal" in what for what in failures(wrong))
    assert sum(what.startswith("plain, He normal") for what in failures(wrong)) == 2
    assert "all 40 networks" in " ".join(failures(wrong))


def test_claims_can_fail(data):
    assert verdicts(data)[1] == REPRODUCED
    wrong = copy.deepcopy(data)
    wrong["bn"]["orthogonal"]["measured"] += 0.5
    for part in wrong["nobn"].values():
        part["measured"][:, -1] = part["measured"][:, 0] + 1
    assert verdicts(wrong) == [REPRODUCED, NOT_REPRODUCED]
    wrong["nobn"]["torch_default"]["measured"][:, -1] -= 2
    assert verdicts(wrong) == [NOT_REPRODUCED, NOT_REPRODUCED]


def test_draws_a_panel_a_kind(data):
    assert len(inits.draw(data).axes) == 3
