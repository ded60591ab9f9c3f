"""Claims of the paper about trained networks, judged by results of training that are committed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from paper_figures import appendix_last_layer
from paper_figures.appendix_learning_rates import FALL, LEVELS, NORMS, RATIOS, ratio, typical
from paper_figures.figure1 import BY_HEART, LOST, at_end, diverged_at, run_of
from paper_figures.values import paper_values
from paper_figures.verdicts import Claim, judged
from simulations.statistics import mean_with_error

FIGURE1 = paper_values()["figure1"]
ERROR = f"(±{FIGURE1['tolerance']:g})"
LARGE, MIDDLE, SMALL, ALONE = (
    FIGURE1["test_accuracy_end_percent"][run] for run in ("bn_lr0.1", "bn_lr0.003", "bn_lr0.0001", "nobn_lr0.0001")
)
ALIKE = f"{SMALL}% with, {ALONE}% without BN {ERROR}"
OPEN = (  # where, claim, paper, theory, ours, explanation
    (
        "figure 1",
        "after 165 epochs on CIFAR-10 the four runs recognize images held back as listed",
        f"{LARGE}, {MIDDLE}, {SMALL}% with BN at 0.1, 0.003, 0.0001, {ALONE}% without at 0.0001 {ERROR}",
        "–",
        "–",
        "Needs CIFAR-10 and hours on a GPU: not run.",
    ),
)
FASHION = (0.001, 0.003, 0.01, 0.03)  # rates at which both kinds train well there
HELD_BACK = 10_000  # images of it
ALLOWED = 0.02  # difference of accuracies that counts as none
FARTHER = 10  # times the largest rate without BN
RECOVERED = 0.5  # of the gain in accuracy


def figure1(data: dict[str, Any]) -> list[Claim]:
    """Judge what runs of ResNet-110 say on Fashion-MNIST, one each, and on digits, three each."""
    return [*_on_fashion(data), *_on_digits(data)]


def _on_fashion(data: dict[str, Any]) -> list[Claim]:
    large, middle, small = (at_end(data, "with", rate) for rate in (0.1, 0.003, 0.0001))
    step = diverged_at(data, "without", 0.1)
    slow, slower = (run_of(data, "without", rate) for rate in (0.0001, 0.00001))
    losses = [run["epochs"][-1]["train_loss"] if run["epochs"] else math.inf for run in (slow, slower)]
    epochs = len(slow["epochs"])
    where = f"Fashion-MNIST, one run each, {epochs} epochs; errors by the number of images."
    before = FIGURE1["test_accuracy_before_first_cut_percent"]
    return [
        judged(
            "figure 1",
            "with BN ResNet-110 trains at a learning rate of 0.1; without it that diverges",
            (f"{LARGE}% with BN on CIFAR-10", "–", f"{large:.1%} with BN on Fashion-MNIST, in step {step} without"),
            large > 0.85 and step < 10,
            "Fashion-MNIST, one run each. Without BN the loss is not finite, or 1000 times the first, in that step.",
        ),
        judged(
            "figure 1",
            "with BN accuracy ends much lower at a learning rate of 0.0001 than at 0.1",
            (f"{SMALL} and {LARGE}% on CIFAR-10 {ERROR}", "–", f"{_held_back(small)}, {_held_back(large)}"),
            large - small > LOST and small > LEVELS[1],
            f"{where} Reproduced means lower by more than {LOST:.0%} of the images.",
        ),
        judged(
            "figure 1",
            "with BN accuracy ends lower at a learning rate of 0.003 than at 0.1",
            (f"{MIDDLE} and {LARGE}% on CIFAR-10 {ERROR}", "–", f"{_held_back(middle)}, {_held_back(large)}"),
            LEVELS[1] < middle < large,
            f"{where} The paper's have 165; before its first cut of the rate 0.003 is ahead there too, "
            f"{before['bn_lr0.003']} to {before['bn_lr0.1']}%.",
            known=True,
        ),
        judged(
            "figure 1",
            "without BN it trains at 0.0001",
            (f"{ALONE}% on CIFAR-10 {ERROR}", "–", f"{at_end(data, 'without', 0.0001):.1%} on Fashion-MNIST, 1 run"),
            at_end(data, "without", 0.0001) > 0.5,
            f"After {epochs} epochs, where the paper has 165. The loss begins at {slow['first_loss']:.0f}, and the "
            "first steps throw the network to one class for every image; its loss falls from there, to "
            f"{losses[0]:.2f} (guessing: 2.30). At 0.00001 it ends at {losses[1]:.2f}.",
            known=True,
        ),
    ]


def _on_digits(data: dict[str, Any]) -> list[Claim]:
    """What needs as many epochs as the paper's."""
    digits = data["digits"]
    alone, other = (digits[norm][0.0001]["test_accuracy"] for norm in ("without", "with"))
    half = [int(1 + (run > 0.5).argmax()) if run.max() > 0.5 else math.inf for run in alone]
    runs = [run for norm in ("with", "without") for run in digits[norm].values()]
    learned = np.concatenate([run["train_accuracy"][:, -1] for run in runs])
    rates = sorted(digits["with"], reverse=True)
    by_rate = [mean_with_error(digits["with"][rate]["test_accuracy"][:, -1]) for rate in rates]
    listed = ", ".join(f"{rate:g}" for rate in rates)
    ends = ", ".join(f"{mean:.1%} ± {100 * error:.1f}" for mean, error in by_rate)
    where = f"digits, 8×8, {digits['epochs']} epochs, three seeds"
    return [
        judged(
            "figure 1",
            "without BN it trains at 0.0001: on digits",
            (f"{ALONE}% on CIFAR-10 {ERROR}", "–", f"{_span(alone[:, -1])} of test digits, three seeds"),
            bool(np.all(alone[:, -1] > 0.5)),
            f"As many epochs as the paper's, {digits['epochs']}. It begins near guessing; half of the digits are "
            f"recognized after {', '.join(map(str, sorted(half)))} epochs. Networks on 8×8 images are smaller at the "
            "start than the paper's, those on 32×32 images larger.",
        ),
        judged(
            "figure 1",
            "after 165 epochs all four runs learn their images by heart",
            ("99.5 to 100% in training", "–", f"{_span(learned)} on digits, three seeds each"),
            bool(learned.min() >= BY_HEART),
            f"With BN at {listed} and without at 0.0001; in the last epoch's batches.",
        ),
        judged(
            "figure 1",
            "with BN accuracy ends the lower the smaller the learning rate: on digits",
            (f"{LARGE}, {MIDDLE}, {SMALL}% on CIFAR-10 {ERROR}", "–", ends),
            all(one[0] > other[0] for one, other in itertools.pairwise(by_rate)),
            f"At {listed}: means and standard errors; test {where}.",
        ),
        judged(
            "figure 1",
            "at 0.0001 the network ends as well with BN as without",
            (ALIKE, "–", f"{_span(other[:, -1])} with, {_span(alone[:, -1])} without"),
            bool(abs(other[:, -1].mean() - alone[:, -1].mean()) <= ALLOWED),
            f"Of test {where}. Both learn their images by heart; the network with BN recognizes others less.",
            known=True,
        ),
    ]


def _held_back(share: float) -> str:
    """A share of Fashion-MNIST's images held back, and its standard error if they were drawn anew."""
    return f"{share:.1%} ± {100 * math.sqrt(share * (1 - share) / HELD_BACK):.1f}"


def _span(values: np.ndarray) -> str:
    """Least and largest of some shares, or the only one."""
    ends = dict.fromkeys(f"{value:.1%}" for value in (values.min(), values.max()))
    return " to ".join(ends)


def learning_rates(data: dict[str, Any]) -> list[Claim]:
    """Judge the sweeps on digits."""
    first, *_, last = data["depths"]
    (deep, seeds), (shallow, _) = (ratio(data, depth, LEVELS[0]) for depth in (last, first))
    long, seeds_long = ratio(data["long"], last, LEVELS[0])
    with_bn, without = (_rates(data["long"][last][norm]["largest"][LEVELS[0]]) for norm in ("all", "none"))
    fashion = data["fashion"][first]
    in_165, _ = typical(data["long"][last]["none"]["largest"][LEVELS[0]])
    borne = {depth: typical(data[depth]["none"]["largest"][LEVELS[0]]) for depth in data["depths"]}
    return [
        judged(
            "text",
            "BN allows much larger learning rates",
            ("0.1 with, 0.0001 without BN: 1000", "–", f"{long:.0f} at depth {last} ({seeds_long} seeds)"),
            RATIOS[0] <= long <= RATIOS[1],
            f"Largest rates at which 30% are recognized in training on digits, in 165 epochs as the paper's: {with_bn} "
            f"with, {without} without BN. In 16 the ratio is {deep:.0f}, of the {seeds} seeds "
            "that have both.",
        ),
        judged(
            "text",
            "smaller ResNets without BN tolerate larger learning rates",
            ("in words", "–", ", ".join(f"{rate:.1g} at depth {depth}" for depth, (rate, _) in borne.items())),
            all(borne[one][0] > borne[other][0] for one, other in itertools.pairwise(borne))
            and borne[first][0] > FALL * max(borne[last][0], in_165),
            "Largest rates without BN at which 30% are recognized in training on digits, in 16 epochs, geometric means "
            f"of the seeds that have one ({', '.join(str(count) for _, count in borne.values())} of 3). With BN they "
            f"are {shallow:.1f} times as large at depth {first}. In 165 epochs: {in_165:.1g} at depth {last}. "
            "On Fashion-MNIST, one seed, 15 epochs: "
            f"{fashion['none']['largest'][LEVELS[0]][0] or 0:g} at depth 20 (with BN "
            f"{fashion['all']['largest'][LEVELS[0]][0] or 0:g}); for depth 110 see figure 1.",
        ),
        _alike(data),
    ]


def _alike(data: dict[str, Any]) -> Claim:
    """Judge the rates at which networks of both kinds learn all of their images in the sweeps on digits."""
    apart = {
        (depth, rate): np.mean(data[depth]["all"]["tested"][rate]) - np.mean(tested)
        for depth in data["depths"]
        for rate, tested in data[depth]["none"]["tested"].items()
        if all(np.mean(data[depth][norm]["accuracy"][rate]) >= BY_HEART for norm in NORMS)
    }
    (small,) = data["fashion"]["depths"]
    fashion = {norm: data["fashion"][small][norm]["tested"] for norm in NORMS}
    ahead = [100 * (fashion["all"][rate][0] - fashion["none"][rate][0]) for rate in FASHION]
    ends = f"{100 * min(apart.values()):+.1f} to {100 * max(apart.values()):+.1f}" if apart else "–"
    return judged(
        "beyond the paper",
        "where both learn their images by heart, smaller networks with and without BN end alike: on digits",
        ("for depth 110 only", "–", f"with BN {ends} points of test accuracy, {len(apart)} cases"),
        len({depth for depth, _ in apart}) > 1 and all(abs(one) <= ALLOWED for one in apart.values()),
        f"Means of three seeds, at {', '.join(f'{rate:g} (depth {depth})' for depth, rate in apart)}, all rates at "
        f"which {BY_HEART:.0%} are learned in 16 epochs. For depth 110 see the row of 0.0001. On "
        f"Fashion-MNIST, depth {small}, one seed, fewer are learned, and BN is ahead by "
        f"{', '.join(f'{one:.1f}' for one in ahead)} points at {', '.join(f'{rate:g}' for rate in FASHION)}.",
    )


def _rates(largest: list[float | None]) -> str:
    """The largest rates, seed by seed."""
    return ", ".join(f"{rate:g}" if rate else "none" for rate in largest)


def last_layer(data: dict[str, Any]) -> list[Claim]:
    """Judge the sweeps with BN of the outputs only, at the greatest depth."""
    depth = data["depths"][-1]
    tested = {norm: data[depth][norm]["tested"] for norm in appendix_last_layer.NORMS}
    rates = {norm: typical(appendix_last_layer.largest(each)) for norm, each in tested.items()}
    best = {norm: appendix_last_layer.best(each) for norm, each in tested.items()}
    gain, of_rate = appendix_last_layer.shares(data, depth)
    listed = ", ".join(f"{rate:.2g} ({seeds} of 3 seeds)" for rate, seeds in rates.values())
    reached = ", ".join(f"{mean:.1%} ± {100 * error:.1f} at {rate:g}" for rate, mean, error in best.values())
    at_paper = np.mean(tested["last"][appendix_last_layer.PAPER_RATE])
    return [
        judged(
            "text",
            "BN in the last layer only allows much larger learning rates",
            ("0.03 instead of 0.0001 (from memory)", "–", f"{listed}: none, last layer, all"),
            rates["last"][0] >= FARTHER * rates["none"][0],
            f"Digits, depth {depth}: largest rates at which half of the images held back are recognized; {of_rate:.0%} "
            f"of the gain in ln α. At the paper's {appendix_last_layer.PAPER_RATE} {at_paper:.0%} are.",
        ),
        judged(
            "text",
            "BN in the last layer only recovers most of the gain in accuracy",
            ("about 2/3 (from memory)", "–", f"{gain:.2f} of the gain in accuracy: {reached}"),
            gain >= RECOVERED,
            f"Digits, depth {depth}, images held back, each at its best rate: none, last layer, all. Without BN no "
            "rate trains this network well in 16 epochs (0.0001 does in 165: figure 1), so that the gain is larger "
            "than the paper's. Reproduced means half of it or more; at smaller depths there is none to recover.",
        ),
    ]
