"""Studies run: the same bits however they are computed and interrupted; failures reported; nothing torn."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from simulations import folders, store
from simulations.study import Study
from simulations.study_results import StudyResults
from simulations.study_run import run_study

HERE = Path(__file__).parent
STUDIES = {
    "growth": Study("growth", {"width": [6, 9], "depth": [2, 3]}, 60, {"method": "weights", "batch": 2}, seed=3),
    "radial": Study("growth", {"width": [6, 9]}, 60, {"depth": 3}, seed=3),
    "spectrum": Study("spectrum", {"activation": ["relu", "tanh"]}, 60, {"depth": 3, "width": 5}, seed=3),
    "function": Study("study_functions:normals", {"size": [3, 5]}, 60, seed=3),
}


def bits(folder):
    """The chunks' files, byte for byte."""
    return {path.name: path.read_bytes() for path in (Path(folder) / "chunks").iterdir()}


def values(folder):
    return [{name: array.tobytes() for name, array in arrays.items()} for arrays in StudyResults(folder).points()]


def child(code, folder, *words):
    """Start Python with the tests' functions at hand."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)])}
    command = [sys.executable, "-c", code, str(folder), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("name", STUDIES)
def test_the_same_bits_for_any_workers_and_chunks(name, functions, tmp_path):
    found = []
    for chunk in (7, 25, 60):
        for workers in (1, 4):
            folder = tmp_path / f"{chunk}-{workers}"
            assert run_study(dataclasses.replace(STUDIES[name], chunk=chunk), folder, workers=workers).complete
            found.append((chunk, bits(folder), values(folder)))
    assert all(numbers == found[0][2] for _, _, numbers in found)
    assert all(files == next(one for size, one, _ in found if size == chunk) for chunk, files, _ in found)


def test_more_trials_repeat_the_first_ones(functions, tmp_path):
    short, long = (Study(functions.normals, {"size": [3, 5]}, trials, chunk=8) for trials in (20, 50))
    pairs = zip(run_study(short, tmp_path / "a").points(), run_study(long, tmp_path / "b").points(), strict=True)
    assert all(np.array_equal(one["value"], other["value"][:20]) for one, other in pairs)


def test_another_executor_computes_the_same_bits(functions, tmp_path):
    """A process, spawned: tasks are picklable, and what they return is what threads do."""
    study = Study(functions.process, {"any": [1, 2]}, 20, chunk=4)
    here = run_study(study, tmp_path / "threads")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        there = run_study(study, tmp_path / "processes", executor=pool)
        run_study(STUDIES["growth"], tmp_path / "matrices", executor=pool)
        assert pool.submit(abs, -1).result() == 1  # it is left running
    run_study(STUDIES["growth"], tmp_path / "here")
    assert bits(tmp_path / "matrices") == bits(tmp_path / "here")
    assert there.complete
    for one, other in zip(here.points(), there.points(), strict=True):
        assert np.array_equal(one["number"], other["number"])
        assert set(one["pid"].flat) == {os.getpid()} and os.getpid() not in other["pid"]


KILLED = """
import os, random, signal, sys, time
from simulations.study import Study
from simulations.study_run import run_study
from threadpoolctl import threadpool_limits
threadpool_limits(1)
folder, draws = sys.argv[1], random.Random(int(sys.argv[2]))
study = Study("growth", {"width": [6, 9]}, 600, {"depth": 3, "method": "weights"}, chunk=3, seed=3)
study.sampler(0).draw(range(2))

def finished():
    there = os.path.join(folder, "chunks")
    return sum(name.endswith(".npz") for name in os.listdir(there)) if os.path.isdir(there) else 0

def begin():
    pid = os.fork()
    if not pid:
        try:
            run_study(study, folder, resume=True, workers=2)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(0)
    return pid

for number in range(20):
    until = finished() + draws.randrange(1, 8) if number % 2 else 0
    pid = begin()
    begun = time.monotonic()
    while finished() < until:
        assert time.monotonic() < begun + 20, f"{number}: {finished()} chunks of {until}"
        time.sleep(0.001)
    time.sleep(draws.uniform(0, 0.02 if until else 0.1))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(finished())
os.waitpid(begin(), 0)
"""


def test_killed_at_twenty_random_moments(tmp_path):
    """SIGKILL up to 0.1 s after the start, or up to 20 ms after 1 to 7 more chunks, in turn, and on each time.

    No chunk is lost, and the bits are those of a run that nobody disturbed.
    """
    process = child(KILLED, tmp_path / "killed", "7")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    counts = list(map(int, output.split()))
    assert len(counts) == 20 and counts == sorted(counts)
    assert len(set(counts)) > 10 and counts[-1] < 400, "moments must differ, and come before the end"
    study = Study("growth", {"width": [6, 9]}, 600, {"depth": 3, "method": "weights"}, chunk=3, seed=3)
    assert run_study(study, tmp_path / "whole").complete
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")
    assert StudyResults(tmp_path / "killed").complete


def test_blas_has_one_thread_in_any_executor(functions, tmp_path):
    """A pool of the caller's own, in this process."""
    with ThreadPoolExecutor(2) as pool:
        results = run_study(Study(functions.blas_threads, {"any": [1]}, 6, chunk=1), tmp_path, executor=pool)
    assert set(next(results.points())["value"].flat) == {1.0}


def test_chunks_that_fail_are_reported_and_do_not_sink_the_study(functions, tmp_path):
    study = Study(functions.fragile, {"how": ["works", "raises", "nan", "exits"]}, 4, chunk=2, seed=9)
    results = run_study(study, tmp_path)
    assert not results.complete and len(results.finished) == 2
    places = {(entry["point"], entry["first"]) for entry in results.failures}
    assert places == {(point, first) for point in (1, 2, 3) for first in (0, 2)}
    words = {(entry["parameters"]["how"], entry["seed"], entry["error"]) for entry in results.failures}
    assert words == {
        ("raises", study.seed_of(1), "ArithmeticError: no such number"),
        ("nan", study.seed_of(2), "ArithmeticError: NaN in value"),
        ("exits", study.seed_of(3), "SystemExit: gone"),
    }
    assert results.status().count("FAILED: ") == 6 and f"how='nan'; seed {study.seed_of(2)}" in results.status()
    assert [len(arrays) for arrays in results.points()] == [1, 0, 0, 0]


@pytest.mark.parametrize(("needed", "complete"), [(1, True), (3, True), (4, False)])
def test_a_chunk_is_tried_three_times(functions, tmp_path, needed, complete):
    study = Study(functions.counted, {"needed": [needed]}, 1, {"file": str(tmp_path / "calls")})
    assert run_study(study, tmp_path / "study").complete == complete
    again = run_study(study, tmp_path / "study", resume=True)
    assert again.complete and not again.failures and "FAILED" not in again.status()


def test_a_full_disk_stops_with_nothing_torn(functions, tmp_path, monkeypatch):
    study = Study(functions.normals, {"size": [4]}, 60, chunk=3)
    calls, sync = [], os.fsync

    def full(handle):
        calls.append(handle)
        if len(calls) > 16:  # the manifest and seven chunks, each with its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run_study(study, tmp_path / "full", workers=2)
    assert not list((tmp_path / "full").rglob("*.unfinished"))
    assert len(StudyResults(tmp_path / "full").finished) == len(bits(tmp_path / "full")) == 7
    run_study(study, tmp_path / "full", resume=True)
    run_study(study, tmp_path / "whole")
    assert bits(tmp_path / "full") == bits(tmp_path / "whole")


def test_an_executor_that_breaks_stops_the_study(functions, tmp_path):
    """The only worker is killed from inside: what was finished before is kept, nothing is blamed on a chunk."""
    study = Study(functions.deadly, {"deadly": [False, True]}, 2, chunk=1)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(BrokenExecutor):
            run_study(study, tmp_path, workers=1, executor=pool)
    results = StudyResults(tmp_path)
    assert {chunk.point for chunk in results.finished} == {0} and not results.failures
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_folder_that_cannot_be_written(functions, tmp_path, monkeypatch):
    def refuse(path, data):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(folders, "write", refuse)
    with pytest.raises(OSError, match="Read-only file system"):
        run_study(Study(functions.normals, {"size": [4]}, 6), tmp_path / "study")


def test_the_disk_stays_full_while_failures_are_reported(functions, tmp_path, monkeypatch):
    def full(self, failures):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.Store, "write_failures", full)
    with pytest.raises(OSError, match="No space left"):
        run_study(Study(functions.fragile, {"how": ["raises"]}, 6), tmp_path)


INTERRUPTED = """
import sys
from bntheory.cli import main
sys.argv = ["bntheory", "simulate", sys.argv[2], "--out", sys.argv[1], "--workers", "2"]
main()
"""


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(functions, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('kind = "study_functions:sleeper"\ntrials = 400\nchunk = 2\n[grid]\nseconds = [0.02]\n')
    process = child(INTERRUPTED, tmp_path / "out", str(path))
    deadline = time.monotonic() + 40
    while not list((tmp_path / "out").glob("chunks/*.npz")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert f"continue with: bntheory simulate {path} --out {tmp_path / 'out'} --resume --workers 2\n" in errors
    assert "Traceback" not in errors and output == ""
    before = bits(tmp_path / "out")
    assert 0 < len(before) < 200 and all(name.endswith(".npz") for name in before)
    assert f"Stopped; {len(before)} of 200 chunks are finished." in errors
    study = Study(functions.sleeper, {"seconds": [0.02]}, 400, chunk=2)
    assert run_study(study, tmp_path / "out", resume=True, workers=8).complete
    assert before.items() <= bits(tmp_path / "out").items()


def test_a_second_ctrl_c_stops_at_once(functions, tmp_path):
    """While two chunks of a minute are in work: both messages come in a moment, and nothing is torn."""
    path = tmp_path / "study.toml"
    path.write_text('kind = "study_functions:sleeper"\ntrials = 40\nchunk = 1\n[grid]\nseconds = [0.02, 60]\n')
    words = ["bntheory", "simulate", str(path), "--out", str(tmp_path / "out"), "--workers", "2"]
    process = child(f"import sys; from bntheory.cli import main; sys.argv = {words!r}; main()", tmp_path)
    deadline = time.monotonic() + 30
    while len(list((tmp_path / "out").glob("chunks/*.npz"))) < 40:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() + process.stderr.readline() == (
        "\nFinishing the chunks in work; Ctrl-C once more stops at once.\n"
    )
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=20)[1]
    assert process.returncode == 130 and "Traceback" not in errors
    assert errors.startswith("\nStopped; 40 of 80 chunks are finished.\ncontinue with: bntheory simulate ")
    assert len(bits(tmp_path / "out")) == 40 and all(name.endswith(".npz") for name in bits(tmp_path / "out"))
    study = Study(functions.sleeper, {"seconds": [0.02, 60]}, 40, chunk=1)
    with store.writing(study, tmp_path / "out", resume=True) as there:  # whose lock is free
        assert len(there.finished()) == 40


def test_memory_does_not_grow_with_the_number_of_chunks(functions, tmp_path, monkeypatch):
    """400 chunks of 80 kB, 32 MB in all, go through less than 4 MB; so does resuming."""
    monkeypatch.setattr(folders.os, "fsync", lambda handle: None)
    study = Study(functions.normals, {"size": [10_000]}, 400, chunk=1)
    for resume in (False, True):
        tracemalloc.start()
        try:
            assert run_study(study, tmp_path, resume=resume, workers=2).complete
            assert tracemalloc.get_traced_memory()[1] < 4e6
        finally:
            tracemalloc.stop()


def test_every_point_is_checked_before_anything_is_made(tmp_path):
    study = Study("growth", {"width": [4, 0]}, 5, {"depth": 2})
    with pytest.raises(ValueError, match="at width=0: "):
        run_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        run_study(Study("growth", {"width": [4]}, 5, {"depth": 2}), tmp_path / "out", workers=0)
    huge = Study("growth", {"width": [10**7]}, 5, {"depth": 2, "method": "weights"})
    with pytest.raises(ValueError, match=r"largest network needs .* use fewer workers"):
        run_study(huge, tmp_path / "out")


def test_a_bar_only_where_somebody_looks(functions, tmp_path, capsys):
    study = Study(functions.normals, {"size": [4]}, 6, chunk=2)
    run_study(study, tmp_path / "a")
    assert capsys.readouterr().err == ""
    run_study(study, tmp_path / "b", progress=True)
    assert "/3 " in capsys.readouterr().err
