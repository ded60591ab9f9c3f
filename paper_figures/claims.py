"""The paper's claims, one by one: its value, theory's, ours, and a verdict.

A claim that theory and the committed or fresh measurements should support, and do not, makes `bntheory figures --check`
fail; known deviations stay in the table, with an explanation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from paper_figures import appendix_claims, figure3, figure4, figure5, training_claims
from paper_figures.values import committed, paper_values
from paper_figures.verdicts import NOT_TESTABLE, Claim, judged


def claims(figures: dict[str, dict[str, Any]]) -> list[Claim]:
    """Judge the claims of some figures.

    Parameters
    ----------
    figures : dict
        What `compute` of each figure returned, by name.

    Returns
    -------
    list of Claim
        In the paper's order; those that need trained networks at the end.
    """
    found = [claim for name, judge in JUDGES.items() if name in figures for claim in judge(figures[name])]
    return [*found, *(Claim(*row, NOT_TESTABLE, why, False) for *row, why in training_claims.OPEN)]


def markdown(rows: Iterable[Claim]) -> str:
    """Return the table in Markdown.

    Examples
    --------
    >>> from paper_figures.verdicts import REPRODUCED, Claim
    >>> print(markdown([Claim("figure 8", "edge", "2", "2", "1.99", REPRODUCED, "As expected.")]).splitlines()[-1])
    | figure 8 | edge | 2 | 2 | 1.99 | reproduced | As expected. |
    """
    heads = ("where", "claim", "paper", "theory", "ours", "verdict", "explanation")
    lines = [heads, ("---",) * len(heads), *(row[:7] for row in rows)]
    return "\n".join("| " + " | ".join(part.replace("|", "\\|") for part in line) + " |" for line in lines)


def _range(part: dict[str, Any]) -> str:
    """Median, least and largest of the committed draws."""
    return f"{part['median']:.3g} ({part['least']:.3g} … {part['largest']:.3g}, {len(part['draws'])} draws)"


def _growth(data: dict[str, Any]) -> list[Claim]:
    part = data["he_normal"]
    last = part["simulated"][:, -1]
    lower, upper = float(part["lower"][-1]), float(part["upper"][-1])
    inside = float(np.mean((last > lower) & (last < upper)))
    values = (
        "in words",
        f"90% of draws: ln⟨h²⟩ from {lower:.2f} to {upper:.2f}",
        f"{inside:.0%} of {len(last)} inside",
    )
    why = (
        f"He normal, {data['depth']} layers of {data['width']} units: the mean of ⟨h²⟩ is kept, single networks spread "
        f"over a factor {math.exp(upper - lower):.0f}."
    )
    holds = upper - lower > math.log(10) and abs(inside - 0.9) < 0.08  # 4.6 deviations of 300 networks
    return [judged("text", "classical initializations keep the size on average over weights only", values, holds, why)]


def _figure2(data: dict[str, Any]) -> list[Claim]:
    many, paper = committed("initialization_probes"), paper_values()["figure2"]
    bn, nobn = (many[kind]["figure2"] for kind in ("bn", "nobn"))
    ratio = nobn["half_width"]["median"] / bn["half_width"]["median"]
    own = float(np.median(data["nobn"]["half_width"] / data["bn"]["half_width"]))
    kurtosis = (
        f"{nobn['kurtosis']['median']:.1f} without, {bn['kurtosis']['median']:.1f} with BN (medians of {many['draws']})"
    )
    tails = float(np.median(data["nobn"]["kurtosis"])) > float(np.median(data["bn"]["kurtosis"]))
    reach = paper["nobn"]["support_half_width"]
    return [
        judged(
            "figure 2",
            "without BN gradients of layer 55 spread about 100 times wider",
            ("about 100 (by eye)", "–", f"{ratio:.0f} (median of {many['draws']}), {own:.0f} (median here)"),
            min(ratio, own) >= 100,
            "Wider by 100 at least; the ratio itself is larger, as gradients without BN are.",
        ),
        judged(
            "figure 2",
            "without BN the distribution is heavy-tailed",
            ("sharp peak, long flat tails", "–", f"kurtosis {kurtosis}"),
            tails and nobn["kurtosis"]["least"] > bn["kurtosis"]["largest"],
            "Gaussian is 3. Every draw without BN has heavier tails than every draw with BN.",
        ),
        judged(
            "figure 2",
            "range of gradients without BN",
            (f"±{reach:g} (by eye)", "–", f"±{_range(nobn['half_width'])}"),
            nobn["half_width"]["least"] <= reach <= nobn["half_width"]["largest"],
            f"Some {nobn['half_width']['median'] / reach:.0f} times wider than in the paper: with Xavier normal "
            "weights and projection shortcuts the loss starts at several hundred.",
            known=True,
        ),
    ]


def _figure3(data: dict[str, Any]) -> list[Claim]:
    many, paper = committed("step_probes"), paper_values()["figure3"]
    steps = [run["diverging_step"] or math.inf for run in many["runs"]["nobn"]]
    here = [run["diverging_step"] or math.inf for run in data["nobn"]["batches"]]
    passes = paper["nobn"]["step_where_relative_loss_passes_1e3"]
    largest = math.exp(max(max(map(float, run["log_relative_loss"])) for run in many["runs"]["bn"]))
    own = math.exp(max(np.max(run["log_relative_loss"]) for run in data["bn"]["batches"]))
    best = many["medians"]["bn"]["best_step"] / many["medians"]["nobn"]["best_step"]
    ours = f"{min(steps):.2g} to {max(steps):.2g} ({many['draws']} draws), {min(here):.2g} to {max(here):.2g} here"
    level = f"its quadratic is level at {data['curved']['level_step']:.1g}"
    return [
        judged(
            "figure 3",
            "without BN the relative loss passes 1000 below a step of 0.01",
            (f"at {passes[0]:g} to {passes[-1]:g} (by eye)", level, ours),
            max(*steps, *here) < 1e-2,
            "Theory's quadratic ends earlier than the loss rises: it knows the curvature at the start only.",
        ),
        judged(
            "figure 3",
            "step at which it passes",
            (f"{passes[0]:g} to {passes[-1]:g} (by eye)", level, ours),
            min(steps) <= passes[-1] and max(steps) >= passes[0],
            "4 to 11 times smaller than in the paper, as the loss starts at 340 to 1000.",
            known=True,
        ),
        judged(
            "figure 3",
            "with BN the relative loss stays below 10 up to a step of 0.2",
            (
                "10^−0.01 to 10^0.4 at 0.2 (by eye)",
                "–",
                f"at most {largest:.1f} ({many['draws']} draws), {own:.1f} here",
            ),
            max(largest, own) < figure3.ALLOWED,
            "In every draw and mini-batch.",
        ),
        judged(
            "figure 3",
            "the best step is about 100 times larger with BN",
            ("100 to 330 (by eye)", "–", f"{best:.0f} (medians of {many['draws']} draws)"),
            best >= 100,
            "Larger here, as steps without BN are smaller.",
        ),
    ]


def _figure4(data: dict[str, Any]) -> list[Claim]:
    paper = paper_values()["figure4"]["max_variance_at_full_step"]
    found = np.array(figure4.growths(data)) / math.log(10)
    predicted = [np.diff(data[layer]["predicted"])[0] / math.log(10) for layer in data["layers"]]

    def text(values: Iterable[float]) -> str:
        return ", ".join(f"{value:.1f}" for value in values)

    values = (
        f"up to 10^({text(np.log10(paper))}) (by eye)",
        f"+{text(predicted)} decades for independent weights",
        f"+{text(found)} decades of the largest variance (1 draw)",
    )
    why = (
        "Activations explode by the alignment of the step from layer to layer, which a theory of independent weights "
        "does not have. Also in each of the committed draws."
    )
    what = "along a diverging step channels grow the more the deeper (layers 8, 44, 80)"
    holds = all(check.passed for check in figure4.check(data))
    return [judged("figure 4", what, values, holds, why)]


def _figure5(data: dict[str, Any]) -> list[Claim]:
    paper, rows = paper_values()["figure5"], []
    if data["depth"] < paper["layers"][-1]:
        return []  # not the paper's network
    at = np.searchsorted(data["law"]["layers"], paper["layers"][:-1])
    read = f"9 points, ±{paper['tolerance']:g} (by eye)"
    for name, text, allowed in (("log_std", "ln std", 0.2), ("log_mean", "ln |mean|", 0.35)):
        distance = float(np.abs(data["law"][name][at] - paper[f"{name}_bn"][:-1]).max())
        difference = np.mean(data["bn"][name][:, 5:-1] - data["law"][name][4:])
        values = (read, f"within {distance:.2f} of the paper", f"{difference:+.2f} from theory on average over layers")
        holds = distance <= allowed and abs(difference) <= 0.1
        why = f"A reflected random walk (Spitzer's law). Allowed {allowed:g}: one network, read by eye."
        rows.append(
            judged("figure 5", f"with BN {text} grows slowly by depth and starts anew in a stage", values, holds, why)
        )
    where, off = np.array(paper["layers"][:-1]) - 1, []
    for name in ("log_std", "log_mean"):
        z = (np.array(paper[f"{name}_nobn"][:-1]) - data["predicted"][name][where]) / data["predicted"]["spread"][where]
        off.append(np.abs(z))
    inside = np.array(off) < figure5.DEVIATIONS
    passed = [check.passed for check in figure5.check(data) if check.what.startswith("without BN")]
    ours = f"the paper {off[0].mean():.1f} and {off[1].mean():.1f} deviations off"
    values = (read, "exponential growth, band by draw", ours)
    why = (
        "One network, on average over points, of its draws' standard deviations (allowed: 3); "
        f"{inside.sum()} of {inside.size} points lie in the 90% band, the others outside."
    )
    rows.append(judged("figure 5", "without BN channels grow exponentially", values, all(passed), why))
    return rows


def _figure6(data: dict[str, Any]) -> list[Claim]:
    many = committed("initialization_probes")
    share, column = many["nobn"]["figure6"]["share"], many["bn"]["figure6"]["column"]
    here = float(data["nobn"]["share"].min())
    theory = {kind: data[kind]["predicted_share"] for kind in ("bn", "nobn")}
    return [
        judged(
            "figure 6",
            "without BN one class is predicted for almost every image",
            ("almost all of 128", f"{theory['nobn'][1]:.0%} (median)", f"{_range(share)}, {here:.0%} at least here"),
            min(share["median"], here) > 0.95,
            "Outputs of different images are nearly proportional to one another.",
        ),
        judged(
            "figure 6",
            "with BN no class has probability near 1 for every image",
            ("no such column", "–", f"largest mean probability of a class {_range(column)}"),
            column["median"] < 0.75,
            f"As a rule: a single network reaches {column['largest']:.2f}, and one class is often the most frequent "
            f"(theory: share {theory['bn'][0]:.2f} to {theory['bn'][2]:.2f}).",
        ),
    ]


def _figure7(data: dict[str, Any]) -> list[Claim]:
    laws, (nobn, bn) = data["laws"], (data[kind]["explained"].mean() for kind in ("nobn", "bn"))
    near = [law["near"] for law in laws.values()]
    edges = [law["edge"] for law in laws.values()]
    factors = f"M = {', '.join(map(str, laws))}"
    values = ("in words", f"edges {', '.join(f'{edge:.2f}' for edge in edges)} ({factors})", "see figure 8")
    pairs = f"{nobn:.2f} without, {bn:.2f} with BN ({data['draws']} draws)"
    return [
        judged(
            "figure 7",
            "the density is longer-tailed and more singular at 0 the more factors",
            values,
            bool(np.all(np.diff(near) > 0) and np.all(np.diff(edges) > 0)),
            f"The mass below 0.1 rises from {near[0]:.2f} to {near[-1]:.2f}.",
        ),
        judged(
            "text",
            "gradients of pairs of channels: dominant low-rank structure without BN, less with it",
            ("in words (from memory)", "–", f"variance explained by row and column {pairs}"),
            bool(nobn > bn),
            "Of the logarithm of the magnitude, layer 45.",
        ),
    ]


def _figure8(data: dict[str, Any]) -> list[Claim]:
    paper = paper_values()["figure8"]["largest_singular_value_after_scaling_entries_by_1_over_sqrt_N"]
    parts = list(data["products"].values())
    edges = [float(part["edge"]) for part in parts]
    distance = max(float(part["kolmogorov_distance"]) for part in parts)
    values = (
        ", ".join(f"{value:.2f}" for value in paper) + " (by eye)",
        ", ".join(f"{edge:.3f}" for edge in edges),
        ", ".join(f"{np.mean(part['largest']):.3f}" for part in parts) + f" (N = {data['width']})",
    )
    holds = distance < 3 / data["width"] and np.abs(np.array(edges) - paper).max() < 0.006
    why = (
        f"Largest Kolmogorov distance of a histogram to the law {distance:.4f}; the largest values lie below the edge."
    )
    return [judged("figure 8", "singular values of 1, 3, 5 matrices follow the theorem", values, bool(holds), why)]


def _table1(data: dict[str, Any]) -> list[Claim]:
    many, rows = committed("initialization_probes"), []
    for kind, what, paper in (
        ("nobn", "without BN contributions to a kernel's gradient add up", "a/b of order 1 to 3"),
        ("bn", "with BN they cancel", "a/b one to two orders of magnitude"),
    ):
        medians = np.array(many[kind]["table1"]["ratio"]["median"])
        theory = [data[kind]["predicted"][layer - 1] for layer in data["layers"]]
        holds = bool(np.all((medians >= 1) & (medians <= 3)) if kind == "nobn" else np.all(medians > 10))
        ours = ", ".join(f"{value:.3g}" for value in medians) + f" (medians of {many['draws']})"
        along = ", ".join(f"{share:.2f}" for share in data["along"])
        why = (
            "Theory takes gradients for independent of activations. Their part along these, whose contributions add "
            f"up, is 1/width at the output, but grows on the way back: a share of {along} predicted there."
            if kind == "nobn"
            else "Theory of infinite width agrees within a factor of two."
        )
        values = (paper, ", ".join(f"{value:.3g}" for value in theory), ours)
        rows.append(judged("table 1", f"{what} (layers {', '.join(map(str, data['layers']))})", values, holds, why))
    return rows


JUDGES: dict[str, Callable[[dict[str, Any]], list[Claim]]] = {
    "figure2": _figure2,
    "figure3": _figure3,
    "figure4": _figure4,
    "figure5": _figure5,
    "figure6": _figure6,
    "figure7": _figure7,
    "figure8": _figure8,
    "table1": _table1,
    "growth": _growth,
    "figure1": training_claims.figure1,
    "appendix_draws": appendix_claims.draws,
    "appendix_learning_rates": training_claims.learning_rates,
    "appendix_last_layer": training_claims.last_layer,
    "appendix_sgd_noise": appendix_claims.sgd_noise,
    "appendix_initializations": appendix_claims.initializations,
    "appendix_condition_number": appendix_claims.condition_number,
    "appendix_gradient_explosion": appendix_claims.gradient_explosion,
    "appendix_input_conditioning": appendix_claims.input_conditioning,
}
