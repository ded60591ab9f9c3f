"""ResNet-110 at initialization on Fashion-MNIST, with and without BN: the paper's figures as numbers.

A draw is a network (Xavier normal, projection shortcuts) and a batch of images, padded to 32×32 in three equal
channels. Medians over draws stand next to the paper's values and to those of one trial run made before this package.
Too slow for the test suite; `tests/simulations/training/test_initialization.py` judges the JSON file in
paper_figures/results.

    python tests/benchmarks/initialization_probes.py [--draws 11]
"""

import argparse
import datetime
import json
import pathlib
import platform
import resource
import time
from typing import Any

import numpy as np
import torch

from bntheory import resnet
from paper_figures.values import paper_values
from simulations import channel_moments, gradient_histogram, kernel_alignment, logit_gradients
from simulations.training.datasets import ImageSet, batch_of, load
from simulations.training.modules import build

RESULT = pathlib.Path(__file__).parents[2] / "paper_figures" / "results" / "initialization_probes.json"
DEPTH, BATCH = 110, 128
TRIAL_RUN = {  # one draw of the same setting
    "figure2": {"bn": {"std": 0.017, "kurtosis": 3.9}, "nobn": {"std": 48, "kurtosis": 23}},
    "figure6": {"bn": {"share": 0.79}, "nobn": {"share": 1.0}},
    "table1": {"bn": {"ratio": [224, 101, 17]}, "nobn": {"ratio": [1.9, 1.65, 2.04]}},
}


def figure2(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Weight gradients of layer 55."""
    found = gradient_histogram(model, images, labels)
    at = found.numbers.index(55)
    return {name: float(getattr(found, name)[at]) for name in ("std", "kurtosis", "half_width")}


def figure5(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Channels' ln std and ln |mean| of the layers that the paper shows, averaged over channels."""
    found = channel_moments(model, images)
    at = [found.numbers.index(layer) for layer in paper_values()["figure5"]["layers"]]
    return {name: found.averages(name)[0][at].tolist() for name in ("log_std", "log_mean")}


def figure6(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Share of the images with the most frequent prediction; how near a column of gradients is to 1/B.

    The latter is B times the mean gradient over the images of other classes, of the class where that is largest: the
    probability that the network gives to it.
    """
    found = logit_gradients(model, images, labels)
    others = np.array(labels)[:, None] != np.arange(found.gradient.shape[1])
    columns = len(images) * np.mean(found.gradient, axis=0, where=others)
    return {"share": found.share, "column": float(columns.max())}


def table1(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """mean(a)/mean(b) and median(a/b) of the layers that the paper shows."""
    found = kernel_alignment(model, images, labels)
    at = [found.numbers.index(layer) for layer in paper_values()["table1"]["layers"]["recalled"]]
    return {name: getattr(found, name)[at].tolist() for name in ("ratio", "median_ratio")}


MEASUREMENTS = (figure2, figure5, figure6, table1)


def paper() -> dict[str, Any]:
    """The paper's values under the names of the measurements."""
    known = paper_values()
    return {
        "figure2": {kind: {"half_width": known["figure2"][kind]["support_half_width"]} for kind in ("bn", "nobn")},
        "figure5": {
            "layers": known["figure5"]["layers"],
            **{
                kind: {name: known["figure5"][f"{name}_{kind}"] for name in ("log_std", "log_mean")}
                for kind in ("bn", "nobn")
            },
        },
        "figure6": {kind: known["figure6"][kind] for kind in ("bn", "nobn")},
        "table1": {"layers": known["table1"]["layers"]["recalled"], "claim": known["table1"]["claim"]},
    }


def measured(data: ImageSet, batch_norm: bool, draw: int) -> dict[str, Any]:
    """Every measurement of one draw."""
    model = build(resnet(DEPTH, batch_norm=batch_norm, image=(3, 32, 32)), draw=draw)
    chosen = batch_of(np.arange(len(data)), BATCH, seed=draw)
    images = torch.from_numpy(data.standardised(chosen, channels=3, pad=2, dtype="float32"))
    labels = torch.from_numpy(data.labels[chosen])
    return {measure.__name__: measure(model, images, labels) for measure in MEASUREMENTS}


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and largest over draws, number by number; the draws themselves where they are few numbers."""
    result: dict[str, Any] = {}
    for figure, first in draws[0].items():
        result[figure] = {}
        for key in first:
            values = np.array([draw[figure][key] for draw in draws])
            result[figure][key] = {word: _short(function(values, axis=0)) for word, function in WORDS.items()}
            if values[0].size <= FEW:
                result[figure][key]["draws"] = [_short(value) for value in values]
    return result


WORDS, FEW = {"median": np.median, "least": np.min, "largest": np.max}, 3


def _short(value: np.ndarray) -> Any:
    return float(f"{value:.4g}") if np.ndim(value) == 0 else [float(f"{part:.4g}") for part in value]


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=11)
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    start = time.process_time()
    results: dict[str, Any] = {}
    data = load("fashion-mnist")
    for kind, batch_norm in (("nobn", False), ("bn", True)):
        found = []
        for draw in range(draws):
            found.append(measured(data, batch_norm, draw))
            print(kind, draw, found[-1]["table1"]["ratio"], found[-1]["figure6"]["share"], flush=True)
        results[kind] = summary(found)
    setting = {
        "network": f"resnet({DEPTH}), Xavier normal, projection shortcuts",
        "images": f"{BATCH} of Fashion-MNIST, padded to 32×32, in 3 equal channels; others in every draw",
        "draws": draws,
        "seconds": round(time.process_time() - start),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": f"python tests/benchmarks/initialization_probes.py --draws {draws}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    RESULT.write_text(json.dumps({**setting, **results, "paper": paper(), "trial_run": TRIAL_RUN}, indent=1) + "\n")


if __name__ == "__main__":
    main()
