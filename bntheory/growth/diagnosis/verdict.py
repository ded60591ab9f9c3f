"""What a prediction means: facts with numbers, which of them are problems, why, and which remedies really help."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bntheory.growth.diagnosis import causes, number_formats
from bntheory.growth.diagnosis.findings import Finding, Findings, Remedy, power
from bntheory.growth.diagnosis.layer_trends import layer_rows, trend, unit
from bntheory.growth.diagnosis.remedies import REMEDIES, flat
from bntheory.layers import BatchNorm
from bntheory.networks import Join, Residual, Sequential, leaves

if TYPE_CHECKING:
    from bntheory.growth.prediction import Growth

LARGE = math.log(1e4)  # of a mean square or squared gradient: a factor 100 in size
WIDE = 1.0  # standard deviation of ln(mean of h²) between draws
ROUNDING = 1e-9  # a deviation below is what rounding leaves of zero in simulated networks
ONE_DIRECTION = math.log(0.01)  # of 1 − cos
SECONDS = 12.0  # that predictions of remedies may take, about


def find(growth: Growth) -> Findings:
    """Collect the facts of a prediction, and try every remedy if some of them are problems.

    A remedy is the network changed by a function of `remedies` and predicted from the same inputs. It is named where
    the finding is then no problem any more, with the problems that it creates.

    Parameters
    ----------
    growth : Growth

    Returns
    -------
    Findings

    Examples
    --------
    >>> from bntheory import mlp, predict_growth
    >>> found = find(predict_growth(mlp(depth=100, width=128, activation="tanh", init="he_normal")))
    >>> [fact.kind for fact in found.problems], found["gradients"].cause
    (['gradients'], 'σ_w² = 2 is above 1, the critical value of tanh')
    """
    facts = _facts(growth)
    treatable = [fact for fact in facts if fact.problem and math.isfinite(fact.measure)]
    if not treatable:
        return Findings(tuple(facts))
    others, untried = _changed(growth, collapse=any(fact.kind == "collapse" for fact in treatable))
    tried = [(name, net, Findings(tuple(_facts(other)))) for name, net, other in others]
    had = {fact.kind for fact in facts if fact.problem}
    return Findings(tuple(_treated(fact, tried, had) if fact in treatable else fact for fact in facts), untried)


def _treated(fact: Finding, tried: list[tuple[str, Sequential, Findings]], had: set[str]) -> Finding:
    """The finding with the remedies after which it is no problem; `had` are the problems without them."""
    helpful = []
    for name, net, found in tried:
        if fact.kind in found and not found[fact.kind].problem:
            creates = tuple(other.kind for other in found.problems if other.kind not in had)
            helpful.append(Remedy(name, net, fact.measure, found[fact.kind].measure, creates))
    return replace(fact, remedies=tuple(helpful))


def _changed(growth: Growth, collapse: bool) -> tuple[list[tuple[str, Sequential, Growth]], str]:
    """Predictions of the changed networks; without distances between inputs where these are not needed."""
    from bntheory.growth.prediction import predict_growth  # which imports this file

    net, inputs, batch_size = growth.question
    made, slow, left = [], [], SECONDS
    for name, change in REMEDIES.items():
        other = change(net)
        if other == net:
            continue
        distances = collapse or any(isinstance(layer, BatchNorm) for layer in flat(other))
        for covariances in (True,) if distances else (False, True):  # some other layers have no rule without
            cost = _seconds(other, covariances)
            if cost > left:
                slow.append(name)
                break
            try:
                found, left = predict_growth(other, inputs, batch_size, covariances), left - cost
            except ValueError:  # BatchNorm over a single number
                break
            if found.unsupported is None:
                made.append((name, other, found))
                break
    words = f"Not tried, because the prediction would take long: {', '.join(slow)}." if slow else ""
    return made, words


def _seconds(net: Sequential, covariances: bool) -> float:
    """About how long a prediction takes: by rows, by pairs of positions, by sums whose units must be sampled."""
    rows = tuple(leaves(net))
    blocks = [row for row in rows if isinstance(row.layer, (Residual, Join))]
    images = sum(len(row.shape) == 3 for row in blocks)
    if not covariances:
        return 7e-4 * len(rows) + 0.02 * images
    ended = sum(len(row.shape) == 1 and _ends_in_batch_norm(row.layer) for row in blocks)
    pairs = sum(math.prod(row.shape[1:]) ** 2 * (4 if isinstance(row.layer, (Residual, Join)) else 1) for row in rows)
    return 7e-4 * len(rows) + 0.04 * images + 0.08 * ended + 1.6e-7 * pairs


def _ends_in_batch_norm(block: object) -> bool:
    return isinstance(block, Residual) and isinstance(next(reversed(block.branch.layers), None), BatchNorm)


def _facts(growth: Growth) -> list[Finding]:
    """Every fact, without remedies."""
    facts = [] if growth.unsupported is None else [_unsupported(growth)]
    known = np.flatnonzero(np.isfinite(growth.log_second_moment))
    if growth.log_second_moment[-1] == -math.inf:
        return [*facts, _zero(growth, int(known[-1]) + 1), _range(growth)]
    if growth.unsupported is None or len(known) > 1:
        facts.append(_growth(growth, int(known[-1])))
    if math.isfinite(growth.log_growth_std[known[-1]]) and len(growth.rows) > 1:
        facts.append(_spread(growth, int(known[-1])))
    if not math.isnan(growth.p_dead[-1]):
        facts.append(_dead(growth))
    facts.append(_range(growth))
    if len(growth.rows) > 1 and math.isfinite(growth.log_gradient[0]):
        facts.append(_gradients(growth))
    if math.isfinite(growth.log_cosine_distance[-1]) and not math.isnan(growth.log_cosine_distance[0]):
        facts.append(_collapse(growth))
    return facts


def _unsupported(growth: Growth) -> Finding:
    row = growth.unsupported
    assert row is not None
    sentence = f"No rule for {row.operation} (row {row.name}): nothing is predicted from there on."
    if "measured" not in growth.moment_method:
        return Finding("unsupported", True, sentence, {"row": row.name})
    others = growth.moment_method.count("unsupported") - 1
    more = f" and {others} more row{'s' * (others > 1)}" if others else ""
    first = growth.name[growth.moment_method.index("measured")]
    sentence = (
        f"No rule for {row.operation} (row {row.name}){more}: moments from row {first} on are predicted from values "
        "that were measured; gradients further back are not predicted."
    )
    return Finding("unsupported", False, sentence, {"row": row.name, "measured_from": first})


def _zero(growth: Growth, first: int) -> Finding:
    sentence = f"The output is exactly zero, whatever the weights: all rows are from row {growth.name[first]} on."
    numbers = {"log_total": None, "log_per_" + unit(growth.rows): None}
    return Finding("growth", True, sentence, numbers, cause=causes.of_zero(growth, first))


def _growth(growth: Growth, last: int) -> Finding:
    total = float(growth.log_second_moment[last] - growth.log_second_moment[0])
    depth = sum(hasattr(row.layer, "weight_variance") for row in growth.rows[: last + 1])
    line = trend(growth.rows, growth.log_second_moment)
    layers = f"{depth} layer{'s' * (depth != 1)}" + (
        f", to row {growth.name[last]}" if last + 1 < len(growth.rows) else ""
    )
    method = growth.moment_method[last]
    if abs(total) < 0.05:
        sentence = f"The second moment keeps its size over {layers} ({method})."
    else:
        rate = f"{_rate(growth, line.log_factor)}; " if depth > 1 and math.isfinite(line.log_factor) else ""
        verb, factor = "grows" if total > 0 else "shrinks", power(abs(total))
        sentence = f"The second moment {verb} by a factor {factor} over {layers} ({rate}{method})."
    numbers = {"log_total": total, "log_per_" + unit(growth.rows): _plain(line.log_factor)}
    cause = causes.of_growth(growth, line)
    return Finding("growth", abs(total) > LARGE, sentence, numbers, total, cause)


def _spread(growth: Growth, last: int) -> Finding:
    gap = float(growth.log_second_moment[last] - growth.log_growth_mean[last])
    std = float(growth.log_growth_std[last])
    size = f"{power(gap)} times smaller still" if gap > 0.05 else "as large"
    differ = f"draws differ: standard deviation {std:.{2 if std > 0.1 else 4}f}"
    if std < ROUNDING:
        differ = "draws are alike: deviation 0"
    sentence = f"A typical draw is {size}, and {differ} of the logarithm ({_band_words(growth, last)})."
    return Finding("spread", std > WIDE, sentence, {"log_gap": gap, "std": std}, std, causes.of_spread(growth))


def _band_words(growth: Growth, row: int) -> str:
    method = growth.band_method[row]
    return f"simulated, {growth.networks} networks" if method == "simulated" else method


def _dead(growth: Growth) -> Finding:
    dead = float(growth.p_dead[-1])
    share = "Over 99%" if dead > 0.99 else f"{dead:.0%}"
    drawn = f" ({_band_words(growth, -1)})" if growth.band_method[-1] == "simulated" else ""
    sentence = f"{share} of the draws are dead{drawn}: their output is exactly zero."
    cause = causes.of_death(growth)
    return Finding("dead", dead > 0.01, sentence, {"p_dead": dead}, dead, cause)


def _range(growth: Growth) -> Finding:
    names, limits = zip(*number_formats.FORMATS.items(), strict=True)
    high = number_formats.first_overflow(growth, [limit.log_largest for limit in limits])
    low = number_formats.first_underflow(growth, [limit.log_smallest for limit in limits])
    over, under = (
        {name: None if row is None else growth.name[row] for name, row in zip(names, rows, strict=True)}
        for rows in (high, low)
    )
    parts = [
        ("Activations leave the range of", over, "the range of"),
        ("Typical activations fall below the normal numbers of", under, "of"),
    ]
    lines = []
    for words, rows, again in parts:
        places = [f"{name} at row {row}" for name, row in rows.items() if row is not None]
        if places:
            lines.append(f"{words} {f', {again} '.join(places)}.")
    passed = sum(row is not None for rows in (over, under) for row in rows.values())
    sentence = " ".join(lines) or "Activations stay within the range of float16."
    return Finding("range", bool(lines), sentence, {"overflow": over, "underflow": under}, float(passed))


def _gradients(growth: Growth) -> Finding:
    first = int(layer_rows(growth.rows)[1])
    total = float(growth.log_gradient[first])
    line = trend(growth.rows, growth.log_gradient)
    back = -line.log_factor
    fate = (
        "keep their size"
        if abs(total) < 0.05
        else f"{'grow' if total > 0 else 'shrink'} by a factor {power(abs(total))}"
    )
    rate = f"{_rate(growth, back)}; " if math.isfinite(back) else ""
    where = f"from the output back to row {growth.name[first]}"
    sentence = f"Squared gradients {fate} {where} ({rate}{growth.gradient_method[first]})."
    numbers = {"log_total": total, "log_per_" + unit(growth.rows): _plain(back)}
    cause = causes.of_gradients(growth, line)
    return Finding("gradients", abs(total) > LARGE, sentence, numbers, total, cause)


def _collapse(growth: Growth) -> Finding:
    before, after = (float(growth.log_cosine_distance[row]) for row in (0, -1))
    problem = after < ONE_DIRECTION < before
    words = "Outputs of different inputs point the same way" if problem else "Directions of different inputs"
    sentence = f"{words}: 1 − cos is {power(after)} at the output, {power(before)} at the input."
    cause = causes.of_collapse(growth)
    return Finding("collapse", problem, sentence, {"log_input": _plain(before), "log_output": after}, after, cause)


def _rate(growth: Growth, log_factor: float) -> str:
    return f"{power(log_factor, digits=3)} a {unit(growth.rows)}"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
