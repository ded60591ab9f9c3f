"""Facts about a network at initialization, as data and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bntheory.networks import Sequential

PROBLEMS = {
    "growth": "activations change by more than a factor 100",
    "spread": "draws differ more",
    "dead": "draws die",
    "range": "number formats are left",
    "gradients": "gradients change by more than a factor 100",
    "collapse": "outputs collapse",
    "unsupported": "some rows have no rule",
}  #: kinds of findings, and what is the matter if they are problems
MEASURES = {
    "growth": "factor",
    "spread": "standard deviation",
    "dead": "share",
    "range": "limits passed",
    "gradients": "factor",
    "collapse": "1 − cos",
}  #: what a remedy changes
PLAIN = ("spread", "dead", "range")  # the measures that are not logarithms


@dataclass(frozen=True, eq=False)
class Remedy:
    """A changed network that was predicted and does not have the problem.

    Attributes
    ----------
    name : str
        One of `bntheory.growth.diagnosis.remedies.REMEDIES`.
    net : Sequential
        The network with the remedy.
    before, after : float
        The finding's number without and with it.
    creates : tuple of str
        Problems that the network did not have before.
    """

    name: str
    net: Sequential
    before: float
    after: float
    creates: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, the network as text."""
        return {**vars(self), "net": str(self.net), "creates": list(self.creates)}


@dataclass(frozen=True, eq=False)
class Finding:
    """One fact about a network at initialization.

    Attributes
    ----------
    kind : {"growth", "spread", "dead", "range", "gradients", "collapse", "unsupported"}
    problem : bool
    sentence : str
    numbers : dict
        Natural logarithms have names that begin with "log"; None: unknown, or does not happen.
    measure : float
        What tells remedies apart: ln of the total factor of a mean square, squared gradient or 1 − cos, the standard
        deviation of a spread, how many limits of number formats are passed; NaN if there is none.
    cause : str
        Empty if none was found.
    remedies : tuple of Remedy
    """

    kind: str
    problem: bool
    sentence: str
    numbers: dict[str, Any]
    measure: float = math.nan
    cause: str = ""
    remedies: tuple[Remedy, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        words = {"kind": self.kind, "problem": self.problem, "sentence": self.sentence, "cause": self.cause}
        return {**words, **self.numbers, "remedies": [remedy.to_dict() for remedy in self.remedies]}

    def __str__(self) -> str:
        lines = [self.sentence]
        if self.problem and self.cause:
            lines.append(f"  Cause: {self.cause}.")
        lines += [f"  Remedy: {_remedy_words(self.kind, remedy)}." for remedy in self.remedies]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Findings:
    """All that is known of a network at initialization; printed as a line a fact, problems and main facts only.

    Attributes
    ----------
    facts : tuple of Finding
    untried : str
        Why remedies were not tried; empty if they were, or were not needed.
    """

    facts: tuple[Finding, ...]
    untried: str = ""

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that are problems."""
        return tuple(fact for fact in self.facts if fact.problem)

    def __getitem__(self, kind: str) -> Finding:
        return {fact.kind: fact for fact in self.facts}[kind]

    def __contains__(self, kind: str) -> bool:
        return any(fact.kind == kind for fact in self.facts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {"facts": [fact.to_dict() for fact in self.facts], "remedies_untried": self.untried}

    def __str__(self) -> str:
        shown = [fact for fact in self.facts if fact.problem or fact.kind in ("unsupported", "growth", "spread")]
        return "\n".join([*map(str, shown), *([self.untried] if self.untried else [])])


def _remedy_words(kind: str, remedy: Remedy) -> str:
    numbers = (remedy.before, remedy.after)
    before, after = (f"{x:.2g}" if kind in PLAIN else power(x) for x in numbers)
    price = f", but {', '.join(PROBLEMS[kind] for kind in remedy.creates)}" if remedy.creates else ""
    return f"{remedy.name}: {MEASURES[kind]} {before} → {after}{price}"


def power(log: float, digits: int = 2) -> str:
    """exp(log) at any size, with two digits or, where it needs no exponent, as many as asked for.

    >>> power(-1000.0), power(0.7), power(0.7, digits=3), power(-math.inf)
    ('5.1e-435', '2', '2.01', '0')
    """
    if not math.isfinite(log):
        return f"{math.exp(log):g}"
    exponent = math.floor(log / math.log(10))
    if -3 < exponent < 4:
        return f"{float(f'{math.exp(log):.{digits}g}'):g}"
    return f"{math.exp(log - exponent * math.log(10)):.1f}e{exponent:+03d}"
