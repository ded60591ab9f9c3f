"""Recipes: what is refused, the schedule, and back from plain data."""

import json

import pytest

import bntheory as bn
from simulations.training.recipe import Recipe

NET = bn.mlp(2, 16, input_width=64, output_width=10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be finite and above 0, got 0"),
        ({"learning_rate": -0.1}, "learning_rate must be finite and above 0, got -0.1"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and above 0, got nan"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"momentum": 1}, "momentum must be below 1, got 1"),
        ({"weight_decay": -1}, "weight_decay must be finite and at least 0"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16"),
        ({"net": bn.resnet(8, batch_norm=True), "batch_size": 1}, "batch_size must be at least 2 with BatchNorm"),
        ({"net": bn.resnet(8, final_batch_norm=True), "batch_size": 1}, "batch_size must be at least 2"),
        (
            {"net": bn.mlp(2, 16, input_width=63, output_width=10)},
            r"square images or vectors of side² units, got .* \(63,",
        ),
        ({"net": bn.cnn(2, 4)}, "must end in a unit for every class, got an output of shape"),
        ({"net": bn.Sequential((bn.Dense(4),))}, "net must be a description with an input shape"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"net": NET, **given})


def test_the_learning_rate_is_divided_by_ten_after_half_and_three_quarters():
    rates = [Recipe(NET, learning_rate=0.2).rate_at(step, 12) for step in range(12)]
    assert rates == pytest.approx([0.2] * 6 + [0.02] * 3 + [0.002] * 3)


@pytest.mark.parametrize("net", [NET, bn.resnet(8, batch_norm=True, image=(3, 8, 8)), bn.vgg(11, channels=4)])
def test_back_from_json(net):
    recipe = Recipe(net, "noise", 0.3, augment=True, seed=2**100)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
