"""Figure 6 with BN: whether theory takes outputs for more alike than they are because it gives every image the mean.

1 − cosine of pooled channels, mean over pairs of images, after one stage of blocks with BN (Fashion-MNIST's images,
every third row and column of their middle), four times:
- units of infinite width, drawn layer by layer with all covariances between images and positions;
- the same, where every image has the mean of the images' own covariances, and every pair the mean of pairs';
- `predict_growth`, that keeps these means from the first block on;
- networks of several widths.
Too slow for the test suite; `tests/paper_figures/test_figure6.py` reads the JSON file and judges it.

    python tests/benchmarks/images_unlike.py [--units 4000] [--populations 8] [--seed 0]      1 minute, one core
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import studies
import torch

import bntheory
from bntheory import Residual, Sequential
from bntheory.layers import BatchNorm, Conv, Dense, Flatten, Pool
from paper_figures import networks
from simulations.training.modules import build

IMAGES, SIDE, BLOCKS = 8, 8, 9
WIDTHS = {16: 200, 64: 100, 256: 50}  # and how many networks


def described(channels: int) -> Sequential:
    """Stem, blocks of version 1 with BN, and the mean over positions."""
    relu = bntheory.activation("relu")
    conv = Conv(channels, 3, init="xavier_normal", bias=0.0), BatchNorm()
    block = Residual(Sequential((*conv, relu, *conv))), relu
    ends = Pool("average"), Flatten(), Dense(10, "xavier_normal")
    return Sequential((*conv, relu, *block * BLOCKS, *ends), (3, SIDE, SIDE))


def distance(pooled: np.ndarray) -> float:
    """Mean of 1 − cosine over pairs of rows."""
    directions = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    cosines = directions @ directions.T
    return float(1 - cosines[~np.eye(len(cosines), dtype=bool)].mean())


def covariances(images: np.ndarray) -> np.ndarray:
    """Σ over channels of products at all pairs of positions, (image, position, image, position)."""
    flat = images.reshape(len(images), 3, -1)
    return np.einsum("bcp,dcq->bpdq", flat, flat)


def averaged(covariance: np.ndarray) -> np.ndarray:
    """Every image with the mean of the images' own covariances, every two with the mean of pairs'."""
    count = len(covariance)
    own = np.einsum("bpbq->pq", covariance) / count
    both = (covariance.sum(axis=(0, 2)) - count * own) / (count * (count - 1))
    alike = np.eye(count)[:, None, :, None]
    return alike * own[None, :, None] + (1 - alike) * both[None, :, None]


def windows() -> np.ndarray:
    """What every weight of a 3×3 kernel reads at every position, zeros outside: (9, position, position)."""
    shifts = [np.eye(SIDE, k=step) for step in (-1, 0, 1)]
    return np.array([np.kron(down, right) for down in shifts for right in shifts])


def drawn(covariance: np.ndarray, units: int, rng: np.random.Generator) -> np.ndarray:
    """Outputs of a convolution, up to a factor, that reads maps of these covariances; then BN. (units, points)."""
    at = windows()
    covariance = sum(np.einsum("pq,bqcr,sr->bpcs", one, covariance, one, optimize=True) for one in at)
    points = math.prod(covariance.shape[:2])
    values, vectors = np.linalg.eigh(covariance.reshape(points, points))
    found = rng.standard_normal((units, points)) @ (vectors * np.sqrt(values.clip(0))).T
    return (found - found.mean(axis=1, keepdims=True)) / found.std(axis=1, keepdims=True)


def population(covariance: np.ndarray, units: int, seed: int, draw: int) -> float:
    """Follow the units through all blocks."""
    rng, count = np.random.default_rng((seed, draw)), len(covariance)

    def second(h: np.ndarray) -> np.ndarray:
        return (h.T @ h / units).reshape(count, -1, count, h.shape[1] // count)

    h = np.maximum(drawn(covariance, units, rng), 0)
    for _ in range(BLOCKS):
        inside = np.maximum(drawn(second(h), units, rng), 0)
        h = np.maximum(h + drawn(second(inside), units, rng), 0)
    return distance(h.reshape(units, count, -1).mean(axis=2).T)


def measured(images: np.ndarray, channels: int, seed: int, draw: int) -> float:
    """One network; the last layer is taken away."""
    model = build(described(channels), seed, draw=draw)
    with torch.no_grad():
        return distance(model[:-1](torch.as_tensor(images, dtype=torch.float32)).double().numpy())


def summary(found: list[float]) -> dict[str, Any]:
    """Mean, and its standard error."""
    error = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return {"draws": len(found), "mean": round(float(np.mean(found)), 5), "standard_error": round(error, 5)}


def results(units: int = 4000, populations: int = 8, seed: int = 0) -> dict[str, Any]:
    """All four."""
    images = networks.batch(IMAGES, seed).images[:, :, 4:28:3, 4:28:3].astype(float)
    exact = covariances(images)
    kinds = {"all_covariances": exact, "mean_of_images": averaged(exact)}
    growth = bntheory.predict_growth(described(16), images)
    return {
        "what": "1 − cosine of pooled channels of two images, mean over pairs, after a stage of blocks with BN",
        "images": f"{IMAGES} of {networks.image_set().name}, 3×{SIDE}×{SIDE}",
        "blocks": BLOCKS,
        **{
            name: summary([population(kind, units, seed, draw) for draw in range(populations)])
            for name, kind in kinds.items()
        },
        "theory": round(float(np.exp(growth.log_cosine_distance[-1])), 5),
        "networks": {
            str(width): summary([measured(images, width, seed, draw) for draw in range(count)])
            for width, count in WIDTHS.items()
        },
    }


if __name__ == "__main__":
    studies.run(results)
