"""Figures 3 and 4 of the paper in numbers: ResNet-110 at initialization, along one step, into paper_figures/results.

Too slow for the test suite; `tests/simulations/training/probes/test_step_probes.py` reads the file and judges it.

    python tests/benchmarks/step_probes.py [--draws 5] [--images 128] [--steps 24] [--seed 0]

Images are those of Fashion-MNIST, with two black pixels on every side and in three equal channels; every draw has
weights and a mini-batch of its own. One thread.
"""

import pathlib
import time

import numpy as np
import studies
import torch

import simulations as sim
from bntheory import resnet
from paper_figures.values import paper_values
from simulations.training.datasets import ImageSet, batch_of, load
from simulations.training.modules import build

RESULT = pathlib.Path(__file__).parents[2] / "paper_figures" / "results" / "step_probes.json"
TEN_TIMES = 1e-3  # of the learning rate with which the paper trains without BN
LAYERS = (8, 44, 80)  # of the paper: main-path convolutions, the stem being the first


def names_of(model: torch.nn.Module) -> list[str]:
    """Modules of the paper's layers."""
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    path = [name for name, part in model.named_modules() if isinstance(part, kinds) and "shortcut" not in name]
    return [path[layer - 1] for layer in LAYERS]


def draw(data: ImageSet, batch_norm: bool, index: int, images: int, steps: np.ndarray, seed: int) -> dict:
    """One network and mini-batch: the loss along its step and, without BN, moments of channels at the end of steps."""
    net = resnet(110, batch_norm=batch_norm, init="xavier_normal", shortcut="projection")
    model = build(net, seed, draw=index)
    chosen = batch_of(np.arange(len(data)), images, seed + index)
    batch = data.standardised(chosen, pad=2, channels=3, dtype="float32"), data.labels[chosen]
    along = sim.loss_along_step(model, *batch, steps=steps)
    found = along.to_dict()
    del found["steps"], found["threshold"]
    found["log_relative_loss"] = [value if value == "inf" else round(value, 4) for value in found["log_relative_loss"]]
    found["out_of_float32"] = int(np.sum(found.pop("wide")))
    if not batch_norm and along.first_diverging is not None:
        smallest = float(steps[along.first_diverging])
        found["moments"] = [moments(model, batch, step) for step in (smallest, TEN_TIMES)]
    return found


def moments(model: torch.nn.Module, batch: tuple, step: float) -> dict:
    """Largest |mean| and variance over the channels of each layer, before and after a step."""
    found = sim.moments_along_step(model, *batch, step=step, layers=names_of(model), fractions=[0, 1])
    largest = {
        f"max_{name}_{when}_step": [float(f"{np.abs(part[end]).max():.4g}") for part in parts]
        for name, parts in (("abs_mean", found.mean), ("variance", found.variance))
        for end, when in ((0, "before"), (1, "at_full"))
    }
    return {"step": step, "log_relative_loss": round(float(found.log_relative_loss[-1]), 4), **largest}


def summary(runs: dict[str, list]) -> dict:
    """Medians over the draws, beside what the paper's figures show."""

    def median(values: list) -> list | float:
        return np.median(values, axis=0).tolist()

    figure3, figure4 = (paper_values()[name] for name in ("figure3", "figure4"))
    found: dict = {}
    for key, draws in runs.items():
        last = [float(run["log_relative_loss"][-1]) / np.log(10) for run in draws]
        diverging = [run["diverging_step"] for run in draws if run["diverging_step"] is not None]
        found[key] = {
            "best_step": median([run["best_step"] for run in draws]),
            "step_where_relative_loss_passes_1e3": median(diverging) if diverging else None,
            "draws_that_pass_1e3": len(diverging),
            "log10_relative_loss_at_0.2": median(last),
            "paper": figure3[key],
        }
    ends = [run["moments"] for run in runs["nobn"] if "moments" in run]
    found["figure4"] = {"paper": {name: figure4[name] for name in figure4 if name.startswith("max_")}}
    for index, text in enumerate(("at the smallest diverging step", f"at a step of {TEN_TIMES:g}")):
        names = ("step", "max_abs_mean_at_full_step", "max_variance_at_full_step")
        found["figure4"][text] = {name: median([moments[index][name] for moments in ends]) for name in names}
    return found


def results(draws: int = 5, images: int = 128, steps: int = 24, seed: int = 0) -> dict:
    """All draws, and their medians."""
    torch.set_num_threads(1)
    sizes, data, start = np.geomspace(1e-5, 0.2, steps), load("fashion-mnist"), time.perf_counter()
    runs: dict[str, list] = {"nobn": [], "bn": []}
    for index in range(draws):
        for key, found in runs.items():
            found.append(draw(data, key == "bn", index, images, sizes, seed))
            numbers = (found[-1]["best_step"], found[-1]["diverging_step"], found[-1]["log_relative_loss"][-1])
            print(index, key, *numbers, f"{time.perf_counter() - start:.0f} s", flush=True)
    return {
        "what": "loss and channel moments along a step of gradient descent, ResNet-110 at initialization (Xavier "
        "normal, projection shortcuts, BN with the batch's statistics), Fashion-MNIST padded to 3×32×32",
        "step_sizes": sizes.tolist(),
        "layers": LAYERS,
        "runs": runs,
        "medians": summary(runs),
    }


if __name__ == "__main__":
    studies.run(results, RESULT)
