"""Studies on Dask's workers: the bits of threads, whoever dies; what does not fit is refused by name."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulations import cluster, store
from simulations.cluster import connected
from simulations.study import Study
from simulations.study_results import StudyResults
from simulations.study_run import run_study

pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Dask's own modules

ALONE = pytest.mark.skipif(
    os.environ.get("BNTHEORY_DASK") != "1",
    reason="distributed's client may hang where a process opens several: BNTHEORY_DASK=1 pytest -k ONE test_cluster.py",
)
WORKERS = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=int(sys.argv[1]), threads_per_worker=1, dashboard_address=None) as here:
        print(here.scheduler_address, *[worker.pid for worker in here.workers.values()], flush=True)
        sys.stdin.read()
"""
GROWTH = Study("growth", {"width": [6, 9], "depth": [2, 3]}, 60, {"method": "weights"}, chunk=4, seed=3)


def environment():
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    return {**os.environ, "PYTHONPATH": path, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}


class Workers:
    """A scheduler on loopback with workers that are processes, started anew when they die."""

    def __init__(self, folder, count):
        (folder / "workers.py").write_text(WORKERS)
        command = [sys.executable, str(folder / "workers.py"), str(count)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment(),
        )  # fmt: skip
        self.address, *pids = self.process.stdout.readline().split()
        self.pids = list(map(int, pids))

    def close(self):
        try:
            self.process.communicate("", timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    made = Workers(tmp_path_factory.mktemp("workers"), 2)
    yield made
    made.close()


def bits(folder):
    return {path.name: path.read_bytes() for path in (Path(folder) / "chunks").iterdir()}


@ALONE
def test_two_workers_compute_the_bits_of_threads(workers, tmp_path):
    with connected(workers.address) as there:
        assert there.threads == 2
        assert run_study(GROWTH, tmp_path / "dask", workers=there.threads, executor=there.executor).complete
    assert run_study(GROWTH, tmp_path / "threads").complete
    assert bits(tmp_path / "dask") == bits(tmp_path / "threads")


@ALONE
def test_a_sweep_on_a_worker_trains_to_the_bits_of_this_process(workers, tmp_path):
    pytest.importorskip("torch")
    from simulations.training.sweep import sweep, sweep_study, trained

    small = {"depth": 8, "image": (3, 8, 8), "epochs": 1, "batch_size": 700}
    study = sweep_study({"norm": ["last"], "learning_rate": [0.05], "seed": [3]}, "cpu", **small)
    with connected(workers.address) as there:
        (run,) = sweep(study, tmp_path / "dask", workers=there.threads, executor=there.executor).runs
    here = trained(study.parameters(0), seed=0)
    assert {name: run[name] for name in here} == here


def command_line(folder, text, address):
    (folder / "study.toml").write_text(text)
    words = ["simulate", str(folder / "study.toml"), "--out", str(folder / "out"), "--resume", "--scheduler", address]
    code = f"import sys; from bntheory.cli import main; sys.argv = {['bntheory', *words]!r}; main()"
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def wait_for_chunks(folder, count, process):
    deadline = time.monotonic() + 40
    while len(list((folder / "out").glob("chunks/*.npz"))) < count:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_a_worker_and_the_coordinator_are_killed(workers, functions, tmp_path):
    """SIGKILL to the program after 10 chunks; resumed, SIGKILL to a worker after 20: the same bits, nothing lost."""
    text = 'kind = "study_functions:sleeper"\ntrials = 80\nchunk = 1\n[grid]\nseconds = [0.02]\n'
    process = command_line(tmp_path, text, workers.address)
    wait_for_chunks(tmp_path, 10, process)
    process.kill()
    process.communicate()
    before = bits(tmp_path / "out")
    process = command_line(tmp_path, text, workers.address)
    wait_for_chunks(tmp_path, 20, process)
    os.kill(workers.pids[0], signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.endswith("80 of 80 chunks are finished.\n")
    after = {name: data for name, data in bits(tmp_path / "out").items() if not name.endswith(".unfinished")}
    assert {name for name in before if name.endswith(".npz")} <= set(after)
    run_study(Study(functions.sleeper, {"seconds": [0.02]}, 80, chunk=1), tmp_path / "threads", workers=16)
    assert after == bits(tmp_path / "threads")


@ALONE
def test_a_chunk_that_kills_its_workers_is_reported(workers, functions, tmp_path):
    study = Study(functions.deadly, {"deadly": [True, False]}, 1)
    with connected(workers.address) as there:
        results = run_study(study, tmp_path / "out", workers=2, executor=there.executor)
    assert [entry["parameters"] for entry in results.failures] == [{"deadly": True}]
    assert results.failures[0]["error"].startswith("KilledWorker: ")
    assert {chunk.point for chunk in StudyResults(tmp_path / "out").finished} == {1}


@ALONE
def test_workers_that_are_unlike_this_machine_are_named(workers, monkeypatch):
    other, home, real = {**store.environment(), "numpy": "0.1"}, os.getpid(), store.environment
    monkeypatch.setattr(cluster, "environment", lambda: other if os.getpid() == home else real())
    with pytest.raises(ValueError, match=r"worker tcp://.* is not like this machine: numpy '0\.1' became '"):
        with connected(workers.address):
            pass


@ALONE
def test_a_scheduler_that_is_not_there(run, tmp_path, monkeypatch):
    """Said within the patience, before the folder is made; in one line."""
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    (tmp_path / "study.toml").write_text('kind = "growth"\ntrials = 2\n[grid]\nwidth = [3]\ndepth = [2]\n')
    begun = time.monotonic()
    status, _, errors = run("simulate", "study.toml", "--out", "out", "--scheduler", "tcp://127.0.0.1:1")
    assert time.monotonic() - begun < 5
    assert status == 2 and "no scheduler answers at 'tcp://127.0.0.1:1'" in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="no scheduler answers at 'nonsense'"), connected("nonsense"):
        pass


@ALONE
def test_a_scheduler_without_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 2)
    alone = Workers(tmp_path, 0)
    try:
        with pytest.raises(ValueError, match="has no workers: start some with dask worker tcp://"):
            with connected(alone.address):
                pass
    finally:
        alone.close()


def test_a_scheduler_that_dies(workers, tmp_path):
    """What is finished is kept, and the line says how to go on. The last test here, since its workers go too."""
    text = 'kind = "study_functions:sleeper"\ntrials = 400\nchunk = 1\n[grid]\nseconds = [0.05]\n'
    process = command_line(tmp_path, text, workers.address)
    wait_for_chunks(tmp_path, 5, process)
    workers.process.kill()
    output, errors = process.communicate(timeout=60)
    workers.process.communicate()
    assert (process.returncode, output) == (2, "")
    assert "the workers are gone. What is finished is kept; then continue with: bntheory simulate " in errors
    assert f"--resume --scheduler {workers.address}\n" in errors and "Traceback" not in errors
    assert len(StudyResults(tmp_path / "out").finished) >= 5
