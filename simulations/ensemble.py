"""Trials through one executor: threads, each with single-threaded BLAS."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from bntheory import arguments

Result = TypeVar("Result")


def run_trials(
    trial: Callable[[int], Result],
    trials: int,
    workers: int | None = None,
    progress: bool | None = None,
    label: str = "",
) -> list[Result]:
    """Return [trial(0), …, trial(trials − 1)], computed in threads.

    Parameters
    ----------
    trial : callable
        Takes the trial's index; its numbers must depend on nothing else.
    trials : int
        At least 1.
    workers : int, optional
        Threads; None: as many as the process may use cores.
    progress : bool, optional
        None: a bar on a terminal only.
    label : str
        What the bar calls the work.

    Returns
    -------
    list
        One result a trial, in order. BLAS runs on one thread inside the workers: more would slow them down and change
        last bits with the number of threads.

    Examples
    --------
    >>> run_trials(lambda index: index**2, 4)
    [0, 1, 4, 9]
    """
    trials = arguments.integer("trials", trials)
    workers = cores() if workers is None else arguments.integer("workers", workers)
    at_once = max(1, min(64, trials // (16 * workers)))  # a task costs as much as a small trial

    def some(start: int) -> list[Result]:
        return [trial(index) for index in range(start, min(trials, start + at_once))]

    results: list[Result] = []
    with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        with tqdm(total=trials, desc=label or None, disable=hidden(progress), leave=False) as bar:
            for part in pool.map(some, range(0, trials, at_once)):
                results += part
                bar.update(len(part))
    return results


def hidden(progress: bool | None) -> bool | None:
    """Return what tqdm calls disabled: None hides a bar unless it is on a terminal.

    >>> hidden(True), hidden(None)
    (False, None)
    """
    return None if progress is None else not progress


def cores() -> int:
    """Return how many cores the process may use."""
    return len(os.sched_getaffinity(0))
