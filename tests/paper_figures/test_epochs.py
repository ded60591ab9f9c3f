import numpy as np

from paper_figures.epochs import accuracies
from simulations.training.devices import one_torch_thread
from simulations.training.loop import train
from simulations.training.sweep import recipe_of

SMALL = {"depth": 8, "image": (3, 8, 8), "batch_size": 64, "seed": 3}


def test_accuracies_are_those_of_the_run():
    setting = {**SMALL, "norm": "all", "epochs": 2, "learning_rate": 0.05}
    with one_torch_thread():
        history = train(recipe_of(setting), device="cpu", progress=False)
    for name, values in accuracies(setting, 0).items():
        assert values.tolist() == [epoch[name] for epoch in history.epochs]
        assert 0 < values[-1] <= 1


def test_a_run_that_diverges_has_learned_nothing():
    found = accuracies({**SMALL, "norm": "none", "epochs": 4, "learning_rate": 1e3}, 0)
    assert sorted(found) == ["test_accuracy", "train_accuracy"]
    assert all(np.array_equal(values, np.zeros(4)) for values in found.values())
