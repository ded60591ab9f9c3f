"""Overhead of studies: 10,000 chunks start, resume and are read in seconds; a second of work is not slowed down."""

import os
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


def test_ten_thousand_chunks(tmp_path, monkeypatch):
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
    print(
        f"\n{CHUNKS:,} chunks: started in {start:.2f} s, {1e3 * whole / CHUNKS:.2f} ms each without the disk's sync, "
        f"resumed in {resume:.2f} s with at most {peak:.1f} MB, shown in {show:.2f} s"
    )
    assert start < 5 and resume < 5 and peak < 20


def test_overhead_at_one_second_chunks(tmp_path):
    study = Study(KIND.replace("number", "second"), {"point": [0, 1]}, 8, chunk=1)
    begun = time.perf_counter()
    run_study(study, tmp_path / "study", workers=2)
    overhead = (time.perf_counter() - begun) / 8 - 1
    print(f"\nchunks of a second: {overhead:.2%} more")
    assert overhead < 0.05
    with writing(study, tmp_path / "study", resume=True) as there:
        assert np.isfinite([arrays["value"] for _, arrays in there.read()]).all()
