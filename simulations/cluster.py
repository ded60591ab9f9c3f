"""Dask's workers as an executor: a study on as many machines as a scheduler has."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, NamedTuple

from simulations.store import environment
from simulations.study import differences

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 10  # seconds for a scheduler to answer and for a worker to be there


class Cluster(NamedTuple):
    """An executor for `run_study`, and how many chunks its workers compute at a time."""

    executor: Executor
    threads: int


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Connect to Dask's scheduler, and close the connection in the end; workers go on.

    Chunks of a worker that dies are computed by others. Functions of a study have to be importable there.

    Parameters
    ----------
    address : str
        "tcp://host:port".

    Raises
    ------
    ModuleNotFoundError
        Without distributed (extra ``cluster``).
    ValueError
        If within ten seconds no scheduler answers or it has no worker, or if a worker has other versions or another
        processor than this machine, so that bits could differ (which ones is said).
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise ModuleNotFoundError('Dask is missing: pip install "bntheory[cluster]"') from None
    with _quiet("distributed.client"), _quiet("tornado.application"), _client(Client, address) as client:
        _check_alike(client, address)
        yield Cluster(client.get_executor(pure=False), sum(client.nthreads().values()))


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the logger's words: tracebacks of what is said here in a line."""
    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _client(make: Callable[..., Client], address: str) -> Client:
    try:
        return make(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(f"no scheduler answers at {address!r} ({error}): start one with dask scheduler") from None


def _check_alike(client: Client, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        remedy = f"start some with dask worker {address}"
        raise ValueError(f"the scheduler at {address} has no workers: {remedy}") from None
    here = environment()
    for worker, found in client.run(environment).items():
        other = differences(here, found)
        if other:
            raise ValueError(f"worker {worker} is not like this machine: {'; '.join(other)}. Bits may differ there")
