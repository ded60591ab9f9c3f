"""Overhead of studies: 10,000 chunks start, resume and are read in seconds; a second of work is not slowed down."""

import contextlib
import os
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from simulations import store
from simulations.store import writing
from simulations.study import Study
from simulations.study_results import StudyResults
from simulations.study_run import run_study

CHUNKS = 10_000
KIND = f"{__name__.rpartition('.')[2]}:number"
WORKERS = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as here:
        print(here.scheduler_address, flush=True)
        sys.stdin.read()
"""


def number(parameters, seed):
    """As little work as there can be."""
    return seed % 1000


def second(parameters, seed):
    """A second of waiting, which leaves the cores to everybody else."""
    time.sleep(1)
    return seed % 1000


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))


def test_ten_thousand_chunks(floor, tmp_path, monkeypatch):
    """Start: up to the first chunk in its place, measured from inside. Resume: with all but one finished."""
    study = Study(KIND, {"point": list(range(10))}, CHUNKS // 10, chunk=1)
    first = []
    write = store.Store.write

    def timed(self, chunk, arrays):
        write(self, chunk, arrays)
        first.append(time.perf_counter())
        monkeypatch.setattr(store.os, "fsync", lambda handle: None)  # the disk's time, not ours

    monkeypatch.setattr(store.Store, "write", timed)
    begun = time.perf_counter()
    assert run_study(study, tmp_path / "study").complete
    whole, start = time.perf_counter() - begun, first[0] - begun
    next((tmp_path / "study" / "chunks").iterdir()).unlink()
    begun = time.perf_counter()
    assert run_study(study, tmp_path / "study", resume=True).complete
    resume = time.perf_counter() - begun
    tracemalloc.start()
    run_study(study, tmp_path / "study", resume=True)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    begun = time.perf_counter()
    results = StudyResults(tmp_path / "study")
    assert sum(one.trials for found in results.estimates() for one in found) == CHUNKS
    show = time.perf_counter() - begun
    floor("a study of 10,000 chunks: up to the first in its place", start, most=5)
    floor("the same: a chunk, without work and the disk's sync", whole / CHUNKS)
    floor("the same: resumed with one missing", resume, most=5)
    floor("the same: highest memory of Python's objects", peak, "MB", most=20)
    floor("the same: shown", show)


@contextlib.contextmanager
def dask_workers(folder):
    """Two processes with a thread each; their scheduler's address."""
    (folder / "workers.py").write_text(WORKERS)
    path = os.pathsep.join([*sys.path, os.path.dirname(__file__)])
    process = subprocess.Popen(
        [sys.executable, str(folder / "workers.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")


@pytest.mark.filterwarnings("ignore")  # of Dask's own modules
def test_overhead_at_one_second_chunks(floor, tmp_path):
    """Two threads; then two of Dask's workers, compared with the threads."""
    study = Study(KIND.replace("number", "second"), {"point": [0, 1]}, 8, chunk=1)
    threads = time_of(study, tmp_path / "threads")
    floor("chunks of a second on two threads: overhead", 100 * (threads / 8 - 1), "%", most=5)
    pytest.importorskip("distributed")
    from simulations.cluster import connected

    with dask_workers(tmp_path) as address, connected(address) as cluster:
        time_of(Study(study.kind, {"point": [0, 1]}, 1, chunk=1), tmp_path / "imports", cluster.executor)
        dask = time_of(study, tmp_path / "dask", cluster.executor)
    floor("the same on two Dask workers that have begun, beyond the threads", 100 * (dask / threads - 1), "%", most=5)


def time_of(study, folder, executor=None):
    begun = time.perf_counter()
    run_study(study, folder, workers=2, executor=executor)
    taken = time.perf_counter() - begun
    with writing(study, folder, resume=True) as there:
        assert np.isfinite([arrays["value"] for _, arrays in there.read()]).all()
    return taken
