"""Executors of processes that do not outlive what they work for."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor

from tqdm import tqdm


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """Give an executor of so many processes, which end with this one, whatever ends it."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_follow) as pool:
        yield pool


@contextlib.contextmanager
def dropped(workers: int) -> Iterator[Executor]:
    """As `processes`; on an error or Ctrl-C they end at once, with what they do.

    Raises
    ------
    ChildProcessError
        If one of them is ended from outside.
    """
    others = multiprocessing.active_children()
    with processes(workers) as pool:
        try:
            yield pool
        except BaseException as error:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()  # work may take a minute, and the pool has begun the next one
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenExecutor):
                text = "a process was ended from outside, for want of memory perhaps: try one worker"
                raise ChildProcessError(text) from None
            raise


def _follow() -> None:
    """End with the parent, and let tqdm lock out threads only: its semaphore would be left behind."""
    threading.Thread(target=_outlive_nothing, daemon=True).start()
    tqdm.set_lock(threading.RLock())


def _outlive_nothing() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in children only"
    parent.join()
    os._exit(1)
