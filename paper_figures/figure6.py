"""Figure 6: the gradient of the loss by the outputs, image by image, and why one class takes all images without BN.

Outputs of a random network for two images have a cosine c, and are nearly Gaussian: class k of image i gets
√c z_k + √(1 − c) e_ik. The closer c is to 1, the more images share the class of the largest z.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures import networks
from paper_figures.checks import Check, at_least, at_most, between
from paper_figures.values import committed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Figure 6: gradients by the outputs"
TEXT = (
    "Gradient of the mini-batch's loss by each output: a column of one colour near 1/128 is a class that is "
    "predicted with certainty whatever the image. Without BN there is one in every network, as outputs of different "
    "images are almost equal up to a factor; theory says so from the images and the architecture alone. With BN "
    "outputs remain correlated, so that one class is often the most frequent there too, but as a rule its "
    "probability is not near 1 (median of 11 draws on Fashion-MNIST: 0.57). Dark cells are images' own classes. Of "
    "several networks the one with the median probability is shown. With BN theory takes outputs for more alike than "
    "they are: 1 − cosine is 0.009 there, 0.02 to 0.06 in networks. The reason is not width: from the first block on "
    "it puts the mean in the place of the images' own covariances, and these images are not alike. Units sampled "
    "with all covariances agree with wide networks, and with theory if every image is given the mean (9 blocks, 8 "
    "images of 8×8: 0.060, 0.037; theory 0.039; networks of 16, 64 and 256 channels 0.053, 0.061, 0.061; "
    "tests/benchmarks/images_unlike.py)."
)
CLASSES = 10
SURE = 0.95  # of the images, of the probability


def compute(
    seed: int = 0, device: str = "cpu", depth: int = 110, images: int = 128, draws: int = 3, theory_images: int = 16
) -> dict[str, Any]:
    """Measure gradients by the outputs, and predict how alike the outputs are.

    Parameters
    ----------
    seed : int
    device : {"cpu", "cuda"}
    depth, images, draws : int
        Of the networks, of a mini-batch, and of both.
    theory_images : int
        For which theory predicts the correlation.

    Returns
    -------
    dict
        "nobn", "bn": of every draw the share of the most frequent prediction, the largest probability ("column") that
        a class has on average over images of others, and 1 − cosine of outputs ("distance"); the gradient (images,
        classes) of the draw whose column is the median; predicted: the distance, and the share's 1, 50 and 99%
        quantile.
    """
    from bntheory import predict_growth

    found = networks.measured(_probe, networks.alone(draws), depth, images, seed, device)
    data: dict[str, Any] = {"images": images, "draws": draws, "setting": networks.setting(depth, images, draws)}
    some = networks.batch(theory_images, seed).images.astype(float)

    def theory(kind: str) -> float:
        return float(np.exp(predict_growth(networks.resnet(depth, kind), some).log_cosine_distance[-1]))

    predicted = networks.predicted(theory)
    for kind, results in found.items():
        distance = predicted[kind]
        middle = sorted(results, key=lambda result: result["column"])[(len(results) - 1) // 2]
        data[kind] = {
            "gradient": middle["gradient"],
            **{name: np.array([result[name] for result in results]) for name in ("share", "column", "distance")},
            "predicted_distance": distance,
            "predicted_share": np.quantile(shares(distance, images, seed=seed), [0.01, 0.5, 0.99]),
        }
    return data


def _probe(_kind: str, model: Any, images: Any, labels: Any) -> dict[str, Any]:
    import torch

    from simulations import logit_gradients

    found = logit_gradients(model, images, labels)
    with torch.no_grad():
        outputs = model(torch.as_tensor(images).to(next(model.parameters()))).double().cpu().numpy()
    others = np.array(labels)[:, None] != np.arange(found.gradient.shape[1])
    column = float((len(labels) * np.mean(found.gradient, axis=0, where=others)).max())
    directions = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    pairs = len(outputs) * (len(outputs) - 1)
    distance = 1 - ((directions @ directions.T).sum() - len(outputs)) / pairs
    return {"gradient": found.gradient, "share": found.share, "column": column, "distance": float(distance)}


def shares(distance: float, images: int, classes: int = CLASSES, trials: int = 2000, seed: int = 0) -> np.ndarray:
    """Sample the share of the most frequent class among images whose Gaussian outputs are correlated.

    Parameters
    ----------
    distance : float
        1 − c, c the correlation of outputs of two images.
    images, classes, trials : int
    seed : int

    Returns
    -------
    ndarray, (trials,)

    Examples
    --------
    >>> [round(float(shares(distance, 128).mean()), 2) for distance in (1e-12, 0.01, 1.0)]
    [1.0, 0.92, 0.14]
    """
    from simulations import streams

    rng = streams.stream(seed, 0)
    found = np.empty(trials)
    for trial in range(trials):
        common, own = rng.standard_normal(classes), rng.standard_normal((images, classes))
        largest = np.argmax(np.sqrt(1 - distance) * common + np.sqrt(distance) * own, axis=1)
        found[trial] = np.bincount(largest).max() / images
    return found


def check(data: dict[str, Any]) -> list[Check]:
    """Check that one class takes the images without BN, here and as a median over draws, and what theory says of it."""
    many = committed("initialization_probes")
    median = many["nobn"]["figure6"]["share"]["median"]
    count = data["draws"]
    checks = [
        at_least(f"without BN, share of the most frequent class, least of {count}", data["nobn"]["share"].min(), SURE),
        at_least(f"without BN, share of the most frequent class, median of {many['draws']}", median, SURE),
        at_least("without BN, the same as theory's median", data["nobn"]["predicted_share"][1], SURE),
        at_least(
            f"without BN, largest mean probability of a class, least of {count}", data["nobn"]["column"].min(), SURE
        ),
        at_most(f"with BN, the same, largest of {many['draws']}", max(many["bn"]["figure6"]["column"]["draws"]), SURE),
    ]
    low, _, high = data["bn"]["predicted_share"]
    worst = np.array([data["bn"]["share"].min(), data["bn"]["share"].max()])
    for value, word in zip(worst, ("least", "largest"), strict=True):
        checks.append(between(f"with BN, share, {word} of {count}, in theory's range (98%)", value, low, high))
    nearest = data["nobn"]["distance"].max() / data["bn"]["distance"].min()
    return [*checks, at_most("1 − cosine of outputs, largest without BN over least with BN", nearest, 1)]


def draw(data: dict[str, Any]) -> Figure:
    """Draw both matrices, a row an image, and the shares beside theory's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 8.4))
    parts = figure.subplot_mosaic(
        [["nobn", "bn", "bar"], ["share", "share", "share"]], height_ratios=[3, 1.1], width_ratios=[1, 1, 0.07]
    )
    reach = 1 / data["images"]
    for kind, name in networks.KINDS.items():
        axes = parts[kind]
        shown = axes.imshow(
            data[kind]["gradient"], aspect="auto", interpolation="none", vmin=-reach, vmax=reach, cmap="cividis"
        )
        axes.grid(False)
        axes.set(xlabel="class", xticks=range(0, data[kind]["gradient"].shape[1], 3))
        axes.set_title(f"{name}, 1 of {data['draws']}")
    parts["nobn"].set_ylabel("image")
    bar = figure.colorbar(shown, cax=parts["bar"], label="∂L/∂output", ticks=[-reach, 0, reach])
    bar.ax.set_yticklabels([f"−1/{data['images']}", "0", f"1/{data['images']}"])
    axes = parts["share"]
    for height, kind in enumerate(networks.KINDS):
        low, middle, high = data[kind]["predicted_share"]
        label = "theory: 98% of networks, median" if height == 0 else None
        axes.errorbar(middle, height, xerr=[[middle - low], [high - middle]], fmt="|", color="black", label=label)
        label = "measured networks" if height == 0 else None
        y = height + 0.25 + 0.12 * np.arange(data["draws"])  # beside one another where they coincide
        axes.plot(data[kind]["share"], y, "o", ms=4, color=networks.COLORS[kind], label=label)
    axes.set(yticks=[0, 1], yticklabels=["no BN", "BN"], ylim=(-0.5, 2.6), xlim=(0, 1.05))
    axes.set_xlabel("share of images with the most frequent prediction")
    axes.legend(loc="upper left", ncols=2, fontsize=9.5)
    figure.supxlabel(data["setting"], fontsize=10.5)
    return figure
