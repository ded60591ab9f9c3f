"""The paper's claims, one by one: its value, theory's, ours, and a verdict.

A claim that theory and the committed or fresh measurements should support, and do not, makes `bntheory figures --check`
fail; known deviations stay in the table, with an explanation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy.stats import norm

from paper_figures import appendix_claims, figure2, figure3, figure4, figure5, figure6, training_claims
from paper_figures.values import committed, paper_values
from paper_figures.verdicts import NOT_TESTABLE, Claim, judged

BEYOND = ("later work", "related work", "beyond the paper")  # instead of a place in the paper


def claims(figures: dict[str, dict[str, Any]]) -> list[Claim]:
    """Judge the claims of some figures.

    Parameters
    ----------
    figures : dict
        What `compute` of each figure returned, by name.

    Returns
    -------
    list of Claim
        Figure by figure, those of training and of the appendices after those at initialization.
    """
    found = [claim for name, judge in JUDGES.items() if name in figures for claim in judge(figures[name])]
    return [*found, *(Claim(*row, NOT_TESTABLE, why, False) for *row, why in training_claims.OPEN)]


def summary(rows: Iterable[Claim]) -> str:
    """Count verdicts, of the paper's claims and of what goes beyond it.

    Examples
    --------
    >>> from paper_figures.verdicts import REPRODUCED, Claim
    >>> row = Claim("figure 8", "edge", "2", "2", "1.99", REPRODUCED, "As expected.")
    >>> summary([row, row._replace(figure="later work")])
    '1 claim of the paper: 1 reproduced. Of later or related work, or beyond the paper, 1: 1 reproduced.'
    """
    own: list[str] = []
    others: list[str] = []
    for row in rows:
        (others if row.figure in BEYOND else own).append(row.verdict)
    parts = [", ".join(f"{count} {verdict}" for verdict, count in Counter(some).items()) for some in (own, others)]
    found = f"{len(own)} claim{'s' * (len(own) != 1)} of the paper: {parts[0]}."
    return f"{found} Of later or related work, or beyond the paper, {len(others)}: {parts[1]}." if others else found


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


def _range(draws: Iterable[float], form: str = ".3g") -> str:
    """Median, least and largest of some draws."""
    values = np.array(list(draws))
    middle, least, largest = (format(part, form) for part in (np.median(values), values.min(), values.max()))
    return f"{middle} ({least} … {largest}, {len(values)} draws)"


def _growth(data: dict[str, Any]) -> list[Claim]:
    part = data["he_normal"]
    first, last = part["simulated"][:, 0], part["simulated"][:, -1]
    change = float(np.diff([ends.mean() + ends.var() / 2 for ends in (first, last)])[0])  # ln of a log-normal's mean
    error = math.sqrt(last.var() * (1 + last.var() / 2) / len(last))
    lower, upper = float(part["lower"][-1]), float(part["upper"][-1])
    inside = float(np.mean((last > lower) & (last < upper)))
    values = (
        "in words",
        f"90% of draws: ln⟨h²⟩ from {lower:.2f} to {upper:.2f}",
        f"{inside:.0%} of {len(last)} inside; ln of the mean's change {change:+.2f} ± {error:.2f}",
    )
    why = (
        f"He normal, {data['depth']} layers of {data['width']} units, one digit: the mean of ⟨h²⟩ is kept (estimated "
        "as of a log-normal law, allowed: 4 errors), single networks spread over a factor "
        f"{math.exp(upper - lower):.0f}."
    )
    within = abs(inside - 0.9) < 0.08 and abs(change) < 4 * error  # 4.6 and 4 deviations of 300 networks
    holds = upper - lower > math.log(10) and within
    return [judged("text", "classical initializations keep the size on average over weights only", values, holds, why)]


def _figure2(data: dict[str, Any]) -> list[Claim]:
    many, paper = committed("initialization_probes"), paper_values()["figure2"]
    bn, nobn = ({name: many[kind]["figure2"][name]["draws"] for name in figure2.NAMES} for kind in ("bn", "nobn"))
    ratio = np.median(nobn["half_width"]) / np.median(bn["half_width"])
    own = float(np.median(data["nobn"]["half_width"] / data["bn"]["half_width"]))
    tails = float(np.median(data["nobn"]["kurtosis"])) > float(np.median(data["bn"]["kurtosis"]))
    kurtosis = f"{_range(nobn['kurtosis'], '.1f')} without, {_range(bn['kurtosis'], '.1f')} with BN"
    reach, reach_bn = (paper[kind]["support_half_width"] for kind in ("nobn", "bn"))
    others = committed("draws_without_bn")["draws"]["half_width"]
    wider = np.median(bn["half_width"]) / reach_bn
    return [
        judged(
            "figure 2",
            "without BN gradients of layer 55 spread 100 times wider or more",
            ("about 100 (by eye)", "–", f"{ratio:.0f} (median of {many['draws']}), {own:.0f} (median here)"),
            min(ratio, own) >= 100,
            "The ratio is larger than the paper's, as gradients without BN are: see their ranges below.",
        ),
        judged(
            "figure 2",
            "without BN the distribution is heavy-tailed",
            ("sharp peak, long flat tails", "–", f"kurtosis {kurtosis}"),
            tails and min(nobn["kurtosis"]) > max(bn["kurtosis"]),
            "Gaussian is 3. Every draw without BN has heavier tails than every draw with BN.",
        ),
        judged(
            "figure 2",
            "range of gradients without BN",
            (f"±{reach:g} (by eye)", "–", f"±{_range(nobn['half_width'])}; ±{_range(others, '.0f')}"),
            min(*nobn["half_width"], *others) <= reach <= max(*nobn["half_width"], *others),
            f"Some {np.median(nobn['half_width']) / reach:.0f} times wider than in the paper: with Xavier normal "
            "weights and projection shortcuts the loss starts at several hundred. The paper's histogram has more than "
            "25,000 entries in one bin, where layer 55 has 9216 weights: it is of something else, or of more than one "
            "mini-batch.",
            known=True,
        ),
        judged(
            "figure 2",
            "range of gradients with BN",
            (f"±{reach_bn:g} (by eye)", "–", f"±{_range(bn['half_width'])}"),
            min(bn["half_width"]) <= reach_bn <= max(bn["half_width"]),
            f"{wider:.1f} times wider than in the paper, which does not name its initialization: under BN weights c "
            "times as large have gradients 1/c times as large.",
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
    best = {kind: np.array([run["best_step"] for run in many["runs"][kind]]) for kind in ("bn", "nobn")}
    ratios, ratio = best["bn"] / best["nobn"], np.median(best["bn"]) / np.median(best["nobn"])
    others = committed("draws_without_bn")["draws"]
    beside = [step or math.inf for step in others["diverging_step"]]
    ours = ", ".join(
        f"{min(each):.2g} to {max(each):.2g} {where}"
        for each, where in (
            (steps, f"({many['draws']} draws)"),
            (beside, f"({len(beside)} others)"),
            (here, "here"),
        )
    )
    every = [*steps, *beside, *here]
    passed = [step for step in every if math.isfinite(step)]
    times = [passes[0] / max(passed), passes[-1] / min(passed)]
    losses = [run["loss"] for run in many["runs"]["nobn"]] + others["loss"]
    level = f"the loss's quadratic is level at {data['curved']['level_step']:.1g}"
    return [
        judged(
            "figure 3",
            "without BN the relative loss passes 1000 below a step of 0.01",
            (f"at {passes[0]:g} to {passes[-1]:g} (by eye)", level, ours),
            max(every) < 1e-2,
            "Theory's quadratic ends earlier than the loss rises: it knows the curvature at the start only.",
        ),
        judged(
            "figure 3",
            "without BN the step at which it passes 1000",
            (f"{passes[0]:g} to {passes[-1]:g} (by eye)", level, ours),
            min(passed) <= passes[-1] and max(passed) >= passes[0],
            f"{times[0]:.1f} to {times[1]:.0f} times smaller than in the paper; the loss starts at {min(losses):.0f} "
            f"to {max(losses):.0f}. For networks of the paper's size see below.",
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
            "the best step is 100 times larger with BN, or more",
            (
                "100 to 330 (by eye)",
                "–",
                f"{ratio:.0f} (of medians); by draw {min(ratios):.0f} … {max(ratios):.0f}, {len(ratios)} draws",
            ),
            ratio >= 100,
            f"Judged by medians, {np.median(best['bn']):.2g} with and {np.median(best['nobn']):.1g} without; both lie "
            "below the paper's, 0.03 to 0.1 and 0.0003.",
        ),
    ]


def _figure4(data: dict[str, Any]) -> list[Claim]:
    paper = paper_values()["figure4"]["max_variance_at_full_step"]
    found = np.array(figure4.growths(data)) / math.log(10)
    predicted = [np.diff(data[layer]["predicted"])[0] / math.log(10) for layer in data["layers"]]
    runs = committed("step_probes")["runs"]["nobn"]
    levels = np.median([run["moments"][1]["max_variance_at_full_step"] for run in runs], axis=0)

    def text(values: Iterable[float]) -> str:
        return ", ".join(f"{value:.1f}" for value in values)

    values = (
        f"up to 10^({text(np.log10(paper))}) (by eye)",
        f"+{text(predicted)} decades for independent weights",
        f"up to 10^({text(np.log10(levels))}) (medians of {len(runs)} draws); +{text(found)} decades here",
    )
    why = (
        "Activations explode by the alignment of the step from layer to layer, which a theory of independent weights "
        "does not have. Also in each of the committed draws, at the same step of 0.001."
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
    return [*rows, *_figure5_without(data)]


def _figure5_without(data: dict[str, Any]) -> list[Claim]:
    """The paper's one network without BN: its growth, and where it lies among theory's."""
    found = figure5.papers_network(data["predicted"])
    passed = [check.passed for check in figure5.check(data) if check.what.startswith("without BN")]
    read = f"ln std {found['rise'][0]:+.1f}, ln |mean| {found['rise'][1]:+.1f}"
    rise = ", ".join(f"{mean:+.1f}" for mean in found["predicted_rise"])
    rise += f" ± {found['rise_spread']:.1f} (standard deviation of draws)"
    off, count = found["deviations"], found["deviations"].size
    inside = [int(np.sum(np.abs(off) < reach)) for reach in (figure5.DEVIATIONS, norm.isf(0.025))]
    measured = data["nobn"]["log_std"]
    own = (measured[:, found["ends"][1]] - measured[:, found["ends"][0]]).mean()
    return [
        judged(
            "figure 5",
            "without BN channels grow exponentially",
            (f"{read} from layer 6 to 102 (by eye)", rise, f"ln std {own:+.1f} (mean of {data['draws']})"),
            all(passed),
            f"Reproduced means that the paper's rise, and on average its points, lie within {figure5.FAR:g} deviations "
            "of theory's mean, and that our networks rise, lie in its band and on average near its mean: the checks of "
            "the figure.",
        ),
        judged(
            "beyond the paper",
            "the paper's network without BN lies in theory's band",
            ("9 points of each", "90% of draws", f"{inside[0]} of {count} points in it, {inside[1]} in that of 95%"),
            inside[0] >= 0.9 * count,
            f"On average {-off.mean():.1f} deviations below theory's mean. Points of one network move together, so "
            f"that this is one event: {norm.cdf(off[:, -1].mean()):.0%} of draws are as small at the last of them, by "
            "theory's law.",
            known=True,
        ),
    ]


def _figure6(data: dict[str, Any]) -> list[Claim]:
    many = committed("initialization_probes")
    share, others = (many[kind]["figure6"]["share"]["draws"] for kind in ("nobn", "bn"))
    column = many["bn"]["figure6"]["column"]["draws"]
    here = float(data["nobn"]["share"].min())
    theory = {kind: data[kind]["predicted_share"] for kind in ("bn", "nobn")}
    return [
        judged(
            "figure 6",
            "without BN one class is predicted for almost every image",
            (
                "almost all of 128",
                f"{theory['nobn'][1]:.0%} (median)",
                f"{_range(share, '.0%')}; {here:.0%} at least here",
            ),
            min(*share, here) > figure6.SURE,
            "Outputs of different images are nearly proportional to one another.",
        ),
        judged(
            "figure 6",
            "with BN no class has probability near 1 for every image",
            ("no such column", "–", f"largest mean probability of a class {_range(column, '.2f')}"),
            max(*column, *data["bn"]["column"]) < figure6.SURE,
            f"Near 1 means {figure6.SURE} or more, as without BN; it is close to that in single networks.",
        ),
        judged(
            "figure 6",
            "with BN no class is predicted for almost every image",
            (
                "gradients depend on the input",
                f"98% of networks: {theory['bn'][0]:.0%} to {theory['bn'][2]:.0%}",
                f"{_range(others, '.0%')} of the images have the most frequent class",
            ),
            max(others) < figure6.SURE,
            f"Almost every means {figure6.SURE:.0%} or more, as without BN; {np.sum(np.array(others) >= figure6.SURE)} "
            "networks have that. Outputs remain correlated with BN, as theory says, so that a paler column is seen.",
            known=True,
        ),
    ]


def _figure7(data: dict[str, Any]) -> list[Claim]:
    laws, (nobn, bn) = data["laws"], (data[kind]["explained"] for kind in ("nobn", "bn"))
    near = [law["near"] for law in laws.values()]
    edges = [law["edge"] for law in laws.values()]
    factors = f"M = {', '.join(map(str, laws))}"
    values = ("in words", f"edges {', '.join(f'{edge:.2f}' for edge in edges)} ({factors})", "see figure 8")
    pairs = f"{nobn.min():.2f} at least without, {bn.max():.2f} at most with BN ({data['draws']} draws)"
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
            bool(nobn.min() > max(0.5, bn.max())),
            "Of the logarithm of the magnitude, layer 45. Dominant means more than half.",
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
        f"Judged by the Kolmogorov distance of a histogram to the law, {distance:.4f} at most. Shown: means of the "
        "largest values, which lie a little below the edge."
    )
    return [judged("figure 8", "singular values of 1, 3, 5 matrices follow the theorem", values, bool(holds), why)]


def _table1(data: dict[str, Any]) -> list[Claim]:
    many, rows = committed("initialization_probes"), []
    for kind, what, paper in (
        ("nobn", "without BN contributions to a kernel's gradient add up", "a/b of order 1 to 3"),
        ("bn", "with BN they cancel", "a/b one to two orders of magnitude"),
    ):
        draws = np.array(many[kind]["table1"]["ratio"]["draws"])
        medians = np.median(draws, axis=0)
        theory = [data[kind]["predicted"][layer - 1] for layer in data["layers"]]
        holds = bool(np.all((medians >= 1) & (medians <= 3)) if kind == "nobn" else np.all(medians > 10))
        ends = zip(medians, draws.min(axis=0), draws.max(axis=0), strict=True)
        ours = ", ".join(f"{middle:.3g} ({least:.3g} … {largest:.3g})" for middle, least, largest in ends)
        ours += f", {len(draws)} draws"
        factor = math.exp(np.abs(np.log(medians / theory)).max())
        along = ", ".join(f"{share:.2f}" for share in data["along"])
        why = (
            "Theory takes gradients for independent of activations. Their part along these, whose contributions add "
            f"up, is 1/width at the output, but grows on the way back: a share of {along} predicted there."
            if kind == "nobn"
            else f"Theory of infinite width agrees within a factor of {math.ceil(10 * factor) / 10:.1f}."
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
