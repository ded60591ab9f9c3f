"""Hold `predict_growth` against every committed draw of convolutional networks, and write the largest deviations.

The ResNets of 110 layers take some 15 seconds a prediction: too long to do all in the test suite.
`tests/agreement/test_convolutional_growth.py` reads the JSON file and judges it, and does the small ones again.

    python tests/benchmarks/convolutional_agreement.py [NAME …]      no names: all files; others keep their entries

Deviations are measured − predicted; "excess" is what is left of their size after three standard errors. "bands" counts
the rows that have one, of those that vary.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from bntheory import from_json, predict_growth
from bntheory.growth.prediction import Growth
from bntheory.layers import Conv
from bntheory.networks import Sequential
from simulations.growth import uncorrelated_inputs
from simulations.training.datasets import batch_of, digits

FOLDER = pathlib.Path(__file__).parents[1] / "agreement" / "convolutional_draws"
RESULT = pathlib.Path(__file__).with_suffix(".json")
LEVEL = 0.9
STILL = 1e-3  # standard deviation below which a row does not vary: inputs, outputs of BatchNorm
LOG_ABS_GAUSSIAN = -(np.euler_gamma + math.log(2)) / 2  # E ln|g|


class Draws(NamedTuple):
    """What `convolutional_study.py` wrote: the network, its inputs, and columns (draws, rows)."""

    net: Sequential
    inputs: np.ndarray
    columns: dict[str, np.ndarray]


def read(name: str) -> Draws:
    """Read one file; its inputs are made anew."""
    with np.load(FOLDER / f"{name}.npz") as file:
        columns = {key: file[key] for key in file.files}
    about = json.loads(str(columns.pop("about")))
    numbers = [int(word) for word in re.findall(r"\d+", about["inputs"])]
    if about["inputs"].startswith("uncorrelated_inputs"):
        *shape, images, seed = numbers
        inputs = uncorrelated_inputs(tuple(shape), images, seed)
    else:
        size, colors, _, images, seed = numbers
        inputs = batch_of(digits(size, channels=colors)[0], images, seed)
    return Draws(from_json(json.dumps(about["network"])), inputs, columns)


def agreement(name: str) -> dict[str, Any]:
    """Largest deviations of one file; decades for moments, shares for standard deviations and bands."""
    net, inputs, columns = read(name)
    growth = predict_growth(net, inputs)
    rows = [growth.name.index(row) for row in columns["row"]]
    size, variance = (columns[key].astype(float) for key in ("log_second_moment", "log_channel_variance"))
    std, mean = growth.log_growth_std[rows], growth.log_growth_mean[rows]
    unknown = np.isnan(std)  # of these rows, which vary little, the expectation is compared
    mean = np.where(unknown, growth.log_second_moment[rows], mean)
    share = growth.log_channel_variance[rows] - growth.log_second_moment[rows]
    typical = mean + share  # the share of a draw's second moment that varies over the batch
    result: dict[str, Any] = {
        "draws": len(size),
        "second_moment": _deviation(size, mean, columns["row"]),
        "channel_variance": _deviation(variance, typical, columns["row"]),
        **_bands(growth, rows, size),
    }
    if "log_std" in columns:
        result["channels"] = channels(growth, columns)
    return result


def _bands(growth: Growth, rows: list[int], size: np.ndarray) -> dict[str, Any]:
    """Standard deviations and bands of the rows that vary; `excess` after three of the sampling error's own."""
    std = growth.log_growth_std[rows]
    lower, upper = (edge[rows] for edge in growth.band(LEVEL))
    measured = size.std(axis=0)
    varies = measured > STILL
    known = np.flatnonzero(varies & np.isfinite(std))
    held = np.mean((lower <= size) & (size <= upper), axis=0)[known]
    ratio = std[known] / measured[known]
    fourth = np.mean((size[:, known] - size[:, known].mean(axis=0)) ** 4, axis=0) / measured[known] ** 4
    errors = ratio * np.sqrt((fourth - 1) / 4 / len(size)), np.sqrt(LEVEL * (1 - LEVEL) / len(size))
    names = [growth.name[rows[place]] for place in known]
    return {
        "std_ratio": [_short(ratio.min()), _short(ratio.max())],
        "std_ratio_last": _short(ratio[-1]),
        "std_worst": _worst(ratio, 1, errors[0], names),
        "coverage": [_short(held.min()), _short(held.max())],
        "mean_coverage": _short(held.mean()),
        "coverage_worst": _worst(held, LEVEL, errors[1], names),
        "bands": [len(known), int(varies.sum())],
    }


def _worst(found: np.ndarray, expected: float, error: np.ndarray | float, names: list[str]) -> dict[str, Any]:
    excess = np.abs(found - expected) - 3 * error
    worst = int(np.argmax(excess))
    return {"excess": _short(max(0.0, excess[worst])), "at": names[worst], "there": _short(found[worst])}


def _deviation(measured: np.ndarray, predicted: np.ndarray, names: np.ndarray) -> dict[str, Any]:
    mean, error = measured.mean(axis=0), measured.std(axis=0, ddof=1) / math.sqrt(len(measured))
    deviation = (mean - predicted) / math.log(10)
    excess = np.abs(deviation) - 3 * error / math.log(10)
    worst = int(np.argmax(excess))
    last = {"last": _short(deviation[-1]), "last_error": _short(error[-1] / math.log(10))}
    return {
        "excess": _short(max(0.0, excess[worst])),
        "at": str(names[worst]),
        "there": _short(deviation[worst]),
        **last,
    }


def channels(growth: Growth, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """ln std and ln|mean| of the main path's convolutions, means over channels: predicted, and measured less that."""
    rows = [
        row for row, leaf in enumerate(growth.rows) if isinstance(leaf.layer, Conv) and ".shortcut." not in leaf.name
    ]
    log_std = growth.log_channel_variance[rows] / 2
    log_mean = growth.log_channel_mean_square[rows] / 2 + LOG_ABS_GAUSSIAN
    result: dict[str, Any] = {}
    for key, predicted in (("log_std", log_std), ("log_mean", log_mean)):
        measured = columns[key][:, : len(rows)].astype(float).mean(axis=0)
        result[key] = [_short(value) for value in predicted]
        result[f"{key}_deviation"] = [_short(value) for value in measured - predicted]
    return result


def _short(value: float) -> float | None:
    """Four digits; None for what JSON has no number for, as ln|mean| of a mean that is zero at infinite width."""
    return round(float(value), 4) if math.isfinite(value) else None


def main() -> None:
    """Judge the files that are named, or all."""
    known = sorted(path.stem for path in FOLDER.glob("*.npz"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="files to judge; none: all of them")
    names = parser.parse_args().names or known
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in names:
        if name not in known:
            parser.error(f"unknown file {name!r}; known: {', '.join(known)}")
        results[name] = agreement(name)
        RESULT.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
        print(name, json.dumps({key: value for key, value in results[name].items() if key != "channels"}), flush=True)


if __name__ == "__main__":
    main()
