"""Processes that share work, and end with the one that started them, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection


def processes(workers: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes, for work to which Python's lock or torch's number of threads stands in the way.

    When their parent is killed they end too; those of the standard library's pool would wait for ever.

    Parameters
    ----------
    workers : int

    Examples
    --------
    >>> with processes(1) as pool:
    ...     pool.submit(abs, -3).result()
    3
    """
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_wait_for, args=(parent.sentinel,), daemon=True).start()


def _wait_for(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
