"""Claims of the paper about trained networks: none is judged before results of training are committed.

When results of training are in `results`, a claim moves from OPEN to a function of `claims` that reads them.
"""

from __future__ import annotations

LATER = "Needs trained networks; no results of training are stored yet."

OPEN = (  # where, claim, paper, theory, ours, explanation
    (
        "figure 1",
        "accuracy at the end is highest with BN at a learning rate of 0.1, and lower at small ones",
        "93.2, 90.4, 81.3% at 0.1, 0.003, 0.0001 (±0.5)",
        "–",
        "–",
        LATER,
    ),
    (
        "figure 1",
        "at a learning rate of 0.0001 networks with and without BN end alike",
        "81.3% with, 82.0% without BN (±0.5)",
        "–",
        "–",
        LATER,
    ),
    ("text", "BN allows much larger learning rates", "0.1 with, 0.0001 without BN", "–", "–", LATER),
    (
        "text",
        "BN in the last layer only recovers about two thirds of the gain",
        "at a learning rate of 0.03 (from memory)",
        "–",
        "–",
        LATER,
    ),
    ("text", "smaller ResNets without BN tolerate larger learning rates", "in words", "–", "–", LATER),
    ("text", "SGD's noise stays below its bound α²C/|B|", "in words", "equality up to (N − |B|)/(N − 1)", "–", LATER),
)
