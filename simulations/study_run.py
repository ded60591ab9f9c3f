"""Runs of studies: missing chunks through one executor; what is finished is kept, what fails is set aside."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from bntheory import arguments
from simulations import memory, store, study_kinds
from simulations.ensemble import cores, hidden
from simulations.store import Store
from simulations.study import Chunk, Study
from simulations.study_results import StudyResults

ATTEMPTS = 3  # at a chunk that raises or has a NaN
Running = dict[Future, tuple[Chunk, int]]  # with the number of the attempt


class Abandoned(KeyboardInterrupt):
    """A second Ctrl-C: the chunks in work are not waited for; threads that compute them end with the process."""


def run_study(
    study: Study,
    folder: str | Path,
    resume: bool = False,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> StudyResults:
    """Draw every trial of a study, or those that are missing, into a folder that survives interruptions.

    Parameters
    ----------
    study : Study
    folder : str or Path
        Made if it is not there; read at any time, also while the study runs, by `StudyResults`.
    resume : bool
        Whether to go on in a folder that holds this very study, or one that differs in fewer trials only (a multiple of
        ``chunk``), from the chunks that are finished.
    workers : int, optional
        Chunks at a time. None: one a core, or as many as fit into memory.
    executor : concurrent.futures.Executor, optional
        Anything that runs functions, in other processes too; it is not shut down. None: threads.
    progress : bool, optional
        None: a bar on a terminal only.

    Returns
    -------
    StudyResults
        Complete but for the chunks in `failures`: those that raised, or had a NaN where there may be none, three times
        in a row. Resuming tries them again.

    Raises
    ------
    ValueError
        For parameters that do not make a network, with the point of the grid, before anything is drawn; and for a
        folder that cannot be this study's: see `simulations.store.writing`.
    OSError
        If the folder cannot be written, or the disk is full.
    concurrent.futures.BrokenExecutor
        If all workers of an executor are gone.
    KeyboardInterrupt
        On Ctrl-C, when the chunks in work are finished and kept; on a second one at once (`Abandoned`).

    Notes
    -----
    The bits in the folder do not depend on workers, executor or interruptions, kill -9 included; results do not
    depend on the size of chunks either. Files are synced to the disk before they count.

    Examples
    --------
    >>> import tempfile
    >>> study = Study("growth", {"width": [4, 8]}, trials=20, description={"depth": 3})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     results = run_study(study, folder)
    ...     print(results.complete, [values["log_second_moment"].shape for values in results.points()])
    True [(20, 7), (20, 7)]
    """
    samplers = (study.sampler(point) for point in range(study.points))
    needed = max(sampler.memory for sampler in samplers)  # which checks every point
    wanted = cores() if workers is None else arguments.integer("workers", workers)
    if executor is None:
        remedy = "fewer workers, gradients=False, dtype='float32' or smaller networks"
        memory.refuse_beyond("the study's largest network", needed * (1 if workers is None else wanted), remedy)
        wanted = memory.fitting(wanted, needed) if workers is None else wanted
    with store.writing(study, folder, resume) as there:
        finished, _ = there.scan()
        with tqdm(total=len(study), initial=len(finished), unit="chunk", disable=hidden(progress), leave=False) as bar:
            missing = (chunk for chunk in study.chunks() if chunk not in finished)
            own = _threads(wanted) if executor is None else contextlib.nullcontext(executor)
            with threadpool_limits(1), own as pool:  # for the executor's threads too, if it has some here
                _run(there, missing, pool, wanted, bar)
    return StudyResults(folder)


@contextlib.contextmanager
def _threads(workers: int) -> Iterator[Executor]:
    """A pool that an interruption does not wait for: what was to be waited for is finished by then."""
    pool, waits = ThreadPoolExecutor(workers), True
    try:
        yield pool
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(waits, cancel_futures=True)


def run_chunk(text: str, chunk: Chunk, home: int) -> study_kinds.Arrays:
    """Draw a chunk of the study that the JSON text describes: what an executor is given to do.

    `home` is the process that runs the study, where BLAS has one thread already.
    """
    if os.getpid() != home:
        _one_thread()
    sampler = _sampler(text, chunk.point)
    drawn = sampler.draw(range(chunk.first, chunk.first + chunk.trials))
    bad = study_kinds.faults(drawn, sampler.never_nan)
    if bad:
        raise ArithmeticError(f"NaN in {', '.join(bad)}")
    return drawn


@functools.lru_cache(maxsize=4)  # chunks come point by point, and a sampler of large networks is large
def _sampler(text: str, point: int) -> study_kinds.Sampler:
    return Study.from_dict(json.loads(text)).sampler(point)


@functools.cache
def _one_thread() -> threadpool_limits:
    """Set BLAS to one thread for good, once: threads of one worker that set and reset it would race."""
    return threadpool_limits(1)


def _run(there: Store, missing: Iterator[Chunk], pool: Executor, workers: int, bar: tqdm) -> None:
    """Compute the missing chunks, a few at a time so that memory does not grow with their number."""
    text = json.dumps(there.study.to_dict())
    failures: list[dict[str, Any]] = []
    if there.failures():
        there.write_failures(failures)  # which are tried again
    running: Running = {}

    def start(chunk: Chunk, attempt: int = 1) -> None:
        running[pool.submit(run_chunk, text, chunk, os.getpid())] = chunk, attempt

    def settle(future: Future) -> None:
        chunk, attempt = running.pop(future)
        error = BrokenExecutor("the workers are gone") if future.cancelled() else future.exception()
        if error is None:
            there.write(chunk, future.result())
        elif isinstance(error, (BrokenExecutor, KeyboardInterrupt)):
            raise error
        elif attempt < ATTEMPTS:
            return start(chunk, attempt + 1)
        else:
            failures.append(_failure(there.study, chunk, error))
            there.write_failures(failures)
        bar.update()

    try:
        while True:
            for chunk in itertools.islice(missing, 2 * workers - len(running)):
                start(chunk)
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                settle(future)
    except KeyboardInterrupt:
        try:
            tqdm.write("\nFinishing the chunks in work; Ctrl-C once more stops at once.", file=sys.stderr)
            _finish(there, running)
        except KeyboardInterrupt:
            raise Abandoned from None
        raise
    finally:
        for future in running:
            future.cancel()


def _finish(there: Store, running: Running) -> None:
    """Keep the chunks that are in work; what waits is left for later, and so is what fails."""
    begun = [future for future in list(running) if not future.cancel()]
    for future in begun:
        if future.exception() is None:
            there.write(running[future][0], future.result())


def _failure(study: Study, chunk: Chunk, error: BaseException) -> dict[str, Any]:
    return {
        **chunk._asdict(),
        "parameters": study.parameters(chunk.point),
        "seed": study.seed_of(chunk.point),
        "error": " ".join(f"{type(error).__name__}: {error}".split()),  # in one line
    }
