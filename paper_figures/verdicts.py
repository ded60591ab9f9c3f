"""A claim of the paper with its verdict."""

from __future__ import annotations

from typing import NamedTuple

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
NOT_TESTABLE = "not testable at this scale"


class Claim(NamedTuple):
    """One row of the table.

    Attributes
    ----------
    figure : str
        Where the paper says it.
    what : str
        The claim.
    paper, theory, ours : str
        Values with reading error, and with what our uncertainty is; "–" where there is none.
    verdict : {"reproduced", "not reproduced", "not testable at this scale"}
    explanation : str
    should_hold : bool
        False for what is known to deviate or cannot be tested here.
    """

    figure: str
    what: str
    paper: str
    theory: str
    ours: str
    verdict: str
    explanation: str
    should_hold: bool = True

    @property
    def failed(self) -> bool:
        """Whether it should hold and does not."""
        return self.should_hold and self.verdict != REPRODUCED


def judged(figure: str, what: str, values: tuple[str, str, str], holds: bool, why: str, known: bool = False) -> Claim:
    """Return a claim that was tested; `known`: it is known not to hold.

    >>> judged("figure 8", "edge", ("2", "2", "1.99"), True, "As expected.").verdict
    'reproduced'
    """
    return Claim(figure, what, *values, REPRODUCED if holds else NOT_REPRODUCED, why, not known)
