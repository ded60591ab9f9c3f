"""Draw convolutional networks with explicit weights and keep how large every row was, one file a configuration.

Too slow for the test suite (6000 networks, some ten minutes on one core); the tests of the theory of convolutions read
the files.

    python tests/benchmarks/convolutional_study.py [NAME …]      names: --help; a file that is there is not made again

Each `tests/agreement/convolutional_draws/NAME.npz` holds, as ``numpy.load`` reads them without pickle:

    row, operation           (rows,)         as in bntheory.networks.leaves; see `kept` for which of them
    log_second_moment        (draws, rows)   ln of the mean of h², as in simulations.samples
    log_channel_variance     (draws, rows)   ln of the mean over channels of the variance over inputs and positions
    log_std, log_mean        (draws, layers) `resnet110_bn…` only: means over channels of ln std and of ln|mean| of the
                                             main path's convolutions before BN, then of the classifier
    log_gradient             (draws, rows)   `gradients_…` only, as in simulations.samples
    log_weight_gradient      (draws, rows)   likewise; NaN where there are no weights
    about                    ()              JSON: the network (bntheory.from_json), its inputs, seed, versions

Numbers are float32 rounded to multiples of a power of two below 1/32 of their standard deviation over the draws: that
compresses, and raises variances by less than a relative 10⁻⁴.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bntheory import resnet
from bntheory.activations import Activation, activation
from bntheory.initializations import Initialization, initialization
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, Pool, Shape
from bntheory.networks import Layer, Leaf, Sequential
from simulations import simulate_growth
from simulations.growth import uncorrelated_inputs
from simulations.samples import Samples
from simulations.training.datasets import batch_of, digits
from simulations.training.modules import build
from simulations.training.probes.measured_growth import measure_growth

FOLDER = pathlib.Path(__file__).parents[1] / "agreement" / "convolutional_draws"
RELU = activation("relu")
Record = Callable[["Study"], dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """Independent networks of one description, all given the same inputs."""

    net: Sequential
    images: int = 8
    draws: int = 200
    seed: int = 0  # of the weights; the images are always those of seed 0
    noise: bool = False  # uncorrelated numbers instead of digits


def activations(study: Study) -> dict[str, Any]:
    """Sizes of activations: draw k is ``build(net, seed, draw=k)`` in float32, fed with the images."""
    batch = _images(study)
    networks = (build(study.net, study.seed, draw=k) for k in _draws(study))
    return _columns(Samples.stack(measure_growth(network, batch) for network in networks))


def channels(study: Study) -> dict[str, Any]:
    """The same networks' `activations`, with log_std and log_mean as in figure 5."""
    batch, samples, logs = _images(study), [], []
    for k in _draws(study):
        network = build(study.net, study.seed, draw=k)
        layers: list[list[float]] = []
        for name, module in network.named_modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)) and "shortcut" not in name:
                module.register_forward_hook(lambda _module, _inputs, output, into=layers: into.append(_logs(output)))
        samples.append(measure_growth(network, batch))
        logs.append(layers)
    log_std, log_mean = np.moveaxis(np.array(logs), -1, 0)
    return {**_columns(Samples.stack(samples)), "log_std": log_std, "log_mean": log_mean}


def gradients(study: Study) -> dict[str, Any]:
    """Sizes of activations and gradients of every row, by ``simulate_growth(…, method="weights")`` in float64."""
    samples = simulate_growth(study.net, study.draws, batch=study.images, seed=study.seed, method="weights", workers=1)
    arrays = {name: getattr(samples, name) for name in ("log_gradient", "log_weight_gradient")}
    return {**_columns(samples, keep=lambda row: True), **arrays}


def kept(row: Leaf) -> bool:
    """Leave out what says nothing new: BatchNorm and Flatten, and activations inside residual branches."""
    inside = isinstance(row.layer, Activation) and ".branch." in row.name
    return not inside and not isinstance(row.layer, (BatchNorm, Flatten))


def _columns(samples: Samples, keep: Callable[[Leaf], bool] = kept) -> dict[str, Any]:
    places = [place for place, row in enumerate(samples.rows) if keep(row)]
    return {
        "row": [samples.name[place] for place in places],
        "operation": [samples.operation[place] for place in places],
        "log_second_moment": samples.log_second_moment[:, places],
        "log_channel_variance": samples.log_channel_variance[:, places],
    }


def _draws(study: Study) -> Iterable[int]:
    return tqdm(range(study.draws), disable=None, leave=False)


def _images(study: Study) -> np.ndarray:
    colors, _, size = study.net.input_shape
    if study.noise:
        return uncorrelated_inputs(study.net.input_shape, study.images, 0)
    return batch_of(digits(size, channels=colors)[0], study.images, seed=0)


def _logs(output: torch.Tensor) -> list[float]:
    """Means over channels of ln std and of ln|mean|."""
    variance, mean = torch.var_mean(output.double().transpose(0, 1).flatten(1), dim=1, correction=0)
    return [float(variance.log().mean()) / 2, float(mean.abs().log().mean())]


def plain(
    image: Shape, phi: str = "relu", init: str | Initialization = "he_normal", batch_norm: bool = False
) -> Sequential:
    """20 convolutions of 3×3 and 64 channels, each with its activation."""
    norm = (BatchNorm(),) if batch_norm else ()
    return Sequential((Conv(64, init=init), *norm, activation(phi)) * 20, image)


def pooled(image: Shape, batch_norm: bool = False) -> Sequential:
    """As VGG: four pairs of convolutions of 32, 64, 128, 128 channels, 2×2 maxima while the side is at least 2."""
    layers: list[Layer] = []
    side = image[1]
    for width in (32, 64, 128, 128):
        layers += [Conv(width), *([BatchNorm()] if batch_norm else []), RELU] * 2
        if side >= 2:
            layers.append(Pool("max", 2))
            side //= 2
    return Sequential((*layers, Flatten(), Dense(10)), image)


def studies() -> dict[str, tuple[Record, Study]]:
    """Every configuration by its name, each with weights of its own: append new ones at the end."""
    table: dict[str, tuple[Record, Study]] = {}
    for init in ("xavier_normal", "he_normal", "torch_default"):
        for shortcut in ("projection", "zero-pad"):
            table[f"resnet110_{init}_{shortcut}"] = activations, Study(resnet(110, init=init, shortcut=shortcut))
    net = resnet(110, batch_norm=True, init="xavier_normal")
    table["resnet110_bn_xavier_normal_projection"] = channels, Study(net, images=32, draws=368)
    for family in (plain, pooled):
        for suffix, batch_norm, images in (("", False, 8), ("_bn", True, 16)):
            for image in ((1, 8, 8), (3, 28, 28), (3, 32, 32)):
                net = family(image, batch_norm=batch_norm)
                table[f"{family.__name__}{suffix}_{image[1]}"] = activations, Study(net, images)
    # both gains of gelu are "critical": √2 nearly keeps a large second moment, 2 keeps a vanishing one
    for phi, gain in (("tanh", 1.0), ("gelu", math.sqrt(2)), ("gelu", 2.0)):
        net = plain((1, 8, 8), phi, initialization("lecun_normal", gain))
        table[f"plain_{phi}_gain_{gain:.3g}_8"] = activations, Study(net)
    for suffix, batch_norm in (("", False), ("_bn", True)):
        table[f"gradients_plain{suffix}_8"] = gradients, Study(plain((1, 8, 8), batch_norm=batch_norm))
        table[f"gradients_pooled{suffix}_8"] = gradients, Study(pooled((1, 8, 8), batch_norm))
        table[f"gradients_resnet20{suffix}_8"] = gradients, Study(resnet(20, batch_norm, image=(3, 8, 8)))
    net = resnet(110, batch_norm=True, init="xavier_normal")
    table["resnet110_bn_xavier_normal_projection_noise"] = channels, Study(net, images=32, draws=368, noise=True)
    return {
        name: (record, dataclasses.replace(study, seed=k)) for k, (name, (record, study)) in enumerate(table.items())
    }


def write(name: str, record: Record, study: Study) -> None:
    """Make one file, or none if anything goes wrong on the way; ValueError if a number is infinite."""
    start = time.perf_counter()
    columns = {key: np.array(values) for key, values in record(study).items()}
    for key, values in columns.items():
        if values.dtype.kind == "f":
            infinite = np.flatnonzero(np.isinf(values).any(axis=0))
            if infinite.size:
                raise ValueError(f"{name}: {key} is infinite at {columns['row'][infinite[0]]}")
            columns[key] = _rounded(values).astype(np.float32)
    about = {
        "network": json.loads(study.net.to_json()),
        "draws": study.draws,
        "record": record.__doc__,
        "seed": study.seed,
        "inputs": _inputs(record, study),
        "seconds": round(time.perf_counter() - start),
        "command": f"python tests/benchmarks/{pathlib.Path(__file__).name} {name}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    FOLDER.mkdir(exist_ok=True)
    temporary = FOLDER / f"{name}.npz.part"
    with temporary.open("wb") as file:
        np.savez_compressed(file, **columns, about=json.dumps(about, ensure_ascii=False))
    os.replace(temporary, FOLDER / f"{name}.npz")


def _rounded(values: np.ndarray) -> np.ndarray:
    """Columns that do not vary stay as they are."""
    deviation = values.std(axis=0)
    step = 2.0 ** np.floor(np.log2(np.where(deviation > 0, deviation / 32, 1)))
    return np.where(deviation > 0, np.round(values / step) * step, values)


def _inputs(record: Record, study: Study) -> str:
    if record is gradients or study.noise:
        return f"uncorrelated_inputs({study.net.input_shape}, {study.images}, {0 if study.noise else study.seed})"
    colors, _, size = study.net.input_shape
    return f"batch_of(digits(size={size}, channels={colors})[0], {study.images}, seed=0)"


def main() -> None:
    """Make the files that are named, or all, and are not there yet."""
    table = studies()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Names: " + ", ".join(table))
    parser.add_argument("names", nargs="*", metavar="NAME", help="configurations to draw; none: all of them")
    names = parser.parse_args().names or list(table)
    unknown = [name for name in names if name not in table]
    if unknown:
        parser.error(f"unknown configuration {unknown[0]!r}; known: {', '.join(table)}")
    torch.set_num_threads(1)
    for name in names:
        if not (FOLDER / f"{name}.npz").exists():
            write(name, *table[name])
            print(name, f"{(FOLDER / f'{name}.npz').stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
