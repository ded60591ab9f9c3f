"""Networks without BN by their size: how one is measured, and what is expected of one of a given size."""

import copy
import math

import numpy as np
import pytest
import torch

from paper_figures import appendix_draws, claims
from paper_figures.draws import at_start
from paper_figures.verdicts import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED
from simulations.training import batches
from simulations.training.modules import build
from simulations.training.sweep import recipe_of


@pytest.fixture
def data(monkeypatch):
    """With theory's law at layer 102 as it is for 128 images, which the report computes."""
    law = {"log_std": 4.60, "log_mean": 4.19, "spread": 0.83}
    predicted = {name: np.where(np.arange(110) == 101, value, np.nan) for name, value in law.items()}
    monkeypatch.setattr(appendix_draws.figure5, "predicted", lambda batch: predicted)
    return appendix_draws.compute(images=4)


def test_a_network_is_measured_on_the_first_mini_batch_of_its_training():
    """Against a pass of its own, channel by channel, and the loss at both sides of the step."""
    setting = {"depth": 110, "image": (3, 8, 8), "data": "digits", "batch_size": 16, "seed": 4, "norm": "none"}
    found, recipe = at_start(setting, 0), recipe_of(setting)
    learn, _ = batches.examples(recipe, "cpu")
    images, labels = learn.batch(batches.order(recipe, 0, len(learn))[0][:16])
    model = build(recipe.net, 4)
    path = [part for name, part in model.named_modules() if isinstance(part, torch.nn.Conv2d) and "short" not in name]
    seen = {}
    path[101].register_forward_hook(lambda module, inputs, output: seen.update(values=output.detach().double()))
    outputs = model(images)
    loss = torch.nn.functional.cross_entropy(outputs, labels)
    loss.backward()
    channels = seen["values"].transpose(0, 1).flatten(1)
    assert found["log_size"] == pytest.approx(math.log(outputs.detach().square().mean()) / 2, abs=1e-5)
    assert found["log_std"] == pytest.approx(channels.std(1, correction=0).log().mean().item(), abs=1e-5)
    assert found["log_mean"] == pytest.approx(channels.mean(1).abs().log().mean().item(), abs=1e-4)
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert found["half_width"] == pytest.approx(path[54].weight.grad.abs().max().item(), rel=1e-4)
    assert found["diverging_step"] == math.inf  # small images: it bears more than the largest step


def test_a_line_and_what_95_percent_of_networks_have():
    """By simulation: 2,000 fits of 12 networks; 95% of a new one's values are covered, but for 4 standard errors."""
    rng, inside, slopes = np.random.default_rng(0), [], []
    for _ in range(2000):
        size = rng.normal(4, 1, 12)
        values = 3 - size + 0.3 * rng.standard_normal(12)
        found = appendix_draws.expected(size, values, 2.0)
        new = 3 - 2 + 0.3 * rng.standard_normal()
        inside.append(abs(new - found["mean"]) < found["reach"])
        slopes.append((found["slope"] + 1) / found["error"])
    assert abs(np.mean(inside) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)
    assert abs(np.mean(slopes)) < 4 * np.std(slopes) / math.sqrt(2000)


def judged(data):
    return [claim for claim in claims.claims({"appendix_draws": data}) if claim.verdict != NOT_TESTABLE]


def test_checks_pass_and_a_picture_is_drawn(data):
    assert all(check.passed for check in appendix_draws.check(data))
    assert [claim.verdict for claim in judged(data)] == [REPRODUCED, NOT_REPRODUCED]
    assert len(appendix_draws.draw(data).axes) == 3


def test_steps_that_do_not_depend_on_the_size_are_noticed(data):
    """Values of the draws, given to sizes at random: fitted anew they have no slope."""
    other, rng = copy.deepcopy(data), np.random.default_rng(1)
    for name in appendix_draws.MEASURED:
        values = rng.permutation(data[name]["log"])
        places = {"": data["paper"], "usual": float(data["law"][0])}
        fitted = {key: appendix_draws.expected(data["size"], values, place) for key, place in places.items()}
        other[name] = {"log": values, **fitted[""], "usual": fitted["usual"]}
    failed = [check.what for check in appendix_draws.check(other) if not check.passed]
    assert sum("power of e^size" in what or "distance from 0" in what for what in failed) == 4
    assert [claim.verdict for claim in judged(other)] == [NOT_REPRODUCED, NOT_REPRODUCED]


def test_sizes_that_theory_does_not_predict_are_noticed(data):
    for factors, passed in (([1.5, 1], [False, True]), ([1, 3], [True, False]), ([1, 0.3], [True, False])):
        other = {**data, "law": data["law"] * factors}
        assert [check.passed for check in appendix_draws.check(other)][:2] == passed
