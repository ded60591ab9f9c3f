"""The folder of a study: what is damaged is seen, what differs is named, and one process at a time writes."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simulations import store
from simulations.store import Store, environment, writing
from simulations.study import Chunk, Study
from simulations.study_results import StudyResults
from simulations.study_run import run_study


@pytest.fixture
def study(functions):
    return Study(functions.normals, {"size": [3, 4]}, 20, chunk=5, seed=1)


@pytest.fixture
def done(study, tmp_path):
    """The folder of the study, complete."""
    run_study(study, tmp_path / "done")
    return tmp_path / "done"


def chunks(folder):
    return sorted((folder / "chunks").iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in chunks(folder)}


def truncated(path):
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path):
    path.write_bytes(b"")


def one_bit_flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def replaced(path):
    buffer = io.BytesIO()
    np.savez(buffer, value=np.zeros((5, 3)))
    path.write_bytes(buffer.getvalue())


def removed(path):
    path.unlink()


def unfinished(path):
    path.rename(path.with_name(f"{path.name}.unfinished"))


def in_the_place_of_another(path):
    other = chunks(path.parents[1])[-1]
    os.replace(path, path.with_name(f"{path.name[:18]}{other.name[18:]}"))


@pytest.mark.parametrize(
    "damage", [truncated, emptied, one_bit_flipped, replaced, removed, unfinished, in_the_place_of_another]
)
def test_damaged_chunks_are_seen_and_computed_anew(damage, study, done):
    whole = contents(done)
    damage(chunks(done)[1])
    before = StudyResults(done)
    assert not before.complete and len(before.finished) == 7 and Chunk(0, 5, 5) not in before.finished
    if damage not in (removed, unfinished):
        assert "1 files are torn, altered or of another study" in before.status()
    assert [len(arrays["value"]) for arrays in before.points()] == [15, 20]
    after = run_study(study, done, resume=True)
    assert after.complete and whole.items() <= contents(done).items()


def test_chunks_of_another_study_do_not_count(functions, study, done, tmp_path):
    """The same names and shapes, another seed."""
    other = Study(functions.normals, {"size": [3, 4]}, 20, chunk=5, seed=2)
    run_study(other, tmp_path / "other")
    whole = contents(done)
    for path in chunks(done):
        path.unlink()
    for path in chunks(tmp_path / "other"):
        shutil.copy(path, done / "chunks")
    (done / "chunks" / "notes.txt").write_text("mine")
    results = StudyResults(done)
    assert not results.finished and len(results.strange) == 9
    assert run_study(study, done, resume=True).complete
    assert whole.items() <= contents(done).items()
    assert (done / "chunks" / "notes.txt").read_text() == "mine"  # nothing that is not ours is removed


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"value": np.zeros((5, 3), dtype=np.float32)}, "has value: float32 of shape"),
        ({"value": np.zeros((4, 3))}, r"has value: float64 of shape \(4, 3\), not float64 of shape \(5, rows\)"),
        ({"value": np.array([{"a": 1}], dtype=object)}, "cannot be read .*allow_pickle"),
    ],
)
def test_content_of_another_shape_or_type_is_refused(arrays, message, study, done):
    """Even with the right checksum; objects are never unpickled."""
    there = Store(done)
    chunks(done)[0].unlink()
    there.write(Chunk(0, 0, 5), arrays)
    with pytest.raises(ValueError, match=message) as error:
        list(there.read())
    assert "delete it and continue with --resume" in str(error.value)


def test_chunks_of_one_point_have_the_same_rows(study, done):
    chunks(done)[0].unlink()
    Store(done).write(Chunk(0, 0, 5), {"value": np.zeros((5, 7))})
    with pytest.raises(ValueError, match=r"must have the same rows, got \{'value': 7\} and \{'value': 3\}"):
        list(StudyResults(done).points())


MANIFESTS = {
    "torn": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "no study": lambda text: "{}",
    "a list": lambda text: "[]",
    "binary": lambda text: "\udcff\udcfe",
    "another format": lambda text: text.replace('"format": 2', '"format": 99'),
    "wrong study": lambda text: text.replace('"trials": 20', '"trials": -20'),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_damaged_manifest_is_refused(name, study, done):
    path = done / "study.json"
    path.write_bytes(MANIFESTS[name](path.read_text()).encode(errors="surrogateescape"))
    for attempt in (lambda: run_study(study, done, resume=True), lambda: StudyResults(done)):
        with pytest.raises(ValueError, match=r"study\.json is (damaged|of format 99)") as error:
            attempt()
        assert "\n" not in str(error.value) and "start in another folder" in str(error.value)


def test_a_changed_manifest_does_not_take_over_old_chunks(study, done):
    path = done / "study.json"
    data = json.loads(path.read_text())
    data["study"]["seed"] = 2
    path.write_text(json.dumps(data))
    assert not StudyResults(done).finished
    with pytest.raises(ValueError, match="seed 2 became 1"):
        run_study(study, done, resume=True)


def test_a_changed_study_is_refused_field_by_field(functions, study, done):
    changed = Study(functions.normals, {"size": [3, 5]}, 30, chunk=5, seed=1)
    with pytest.raises(ValueError) as error:
        run_study(changed, done, resume=True)
    assert str(error.value) == (
        f"{done} holds another study: grid.size [3, 4] became [3, 5]; trials 20 became 30. Start in another folder"
    )


def test_more_trials_go_on_after_those_that_are_there(study, done, tmp_path):
    """The same bits as if all had been asked for at once; finished chunks are neither computed nor written again."""
    more = dataclasses.replace(study, trials=33)
    before = {path: path.stat().st_mtime_ns for path in chunks(done)}
    with pytest.raises(ValueError, match="holds this study already: continue it with --resume"):
        run_study(more, done)
    assert run_study(more, done, resume=True).complete
    assert {path: path.stat().st_mtime_ns for path in before} == before
    run_study(more, tmp_path / "at once")
    assert contents(done) == contents(tmp_path / "at once")
    for fewer in (study, dataclasses.replace(study, trials=30)):
        with pytest.raises(ValueError, match=f"trials 33 became {fewer.trials}. Start in another folder"):
            run_study(fewer, done, resume=True)
    with pytest.raises(
        ValueError, match=r"trials 33 became 40\. Trials can only be added to whole chunks of 5; start in"
    ):
        run_study(dataclasses.replace(study, trials=40), done, resume=True)


def test_more_trials_of_a_study_that_is_not_finished(study, done, tmp_path):
    missing = chunks(done)[1]
    missing.unlink()
    more = dataclasses.replace(study, trials=25)
    with writing(more, done, resume=True) as there:
        assert len(there.finished()) == len(study) - 1  # and here the process dies
    assert StudyResults(done).study == more
    assert run_study(more, done, resume=True).complete
    assert missing.exists()


def test_other_versions_are_refused_by_name(study, done, monkeypatch):
    newer = {**environment(), "numpy": "99.0"}
    monkeypatch.setattr(store, "environment", lambda: newer)
    with pytest.raises(ValueError, match=r"begun elsewhere, where bits may differ: numpy '.*' became '99\.0'\. Go on"):
        run_study(study, done, resume=True)


def test_the_environment_says_what_bits_depend_on():
    found = environment()
    assert found["numpy"] == np.__version__ and {"bntheory", "scipy", "numba", "machine"} <= set(found)
    assert json.loads(json.dumps(found)) == found


def test_without_resume_a_study_is_not_continued(study, done):
    with pytest.raises(ValueError, match="holds this study already: continue it with --resume"):
        run_study(study, done)


def test_resuming_where_nothing_is_starts(study, tmp_path):
    assert run_study(study, tmp_path / "new" / "deep", resume=True).complete


def test_places_that_are_no_folder_of_a_study(study, tmp_path):
    (tmp_path / "file").write_text("something")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("something")
    with pytest.raises(ValueError, match="file is a file: a study needs a folder"):
        run_study(study, tmp_path / "file")
    with pytest.raises(ValueError, match=r"full is not the folder of a study: it has no study\.json but thesis\.tex"):
        run_study(study, tmp_path / "full", resume=True)
    with pytest.raises(ValueError, match="file is a file"):
        StudyResults(tmp_path / "file")
    with pytest.raises(ValueError, match=r"nowhere is not the folder of a study: it has no study\.json"):
        StudyResults(tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "thesis.tex"]


def test_what_was_being_written_is_removed(study, tmp_path):
    """Killed before the manifest was in its place, and before a chunk was."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "lock").write_text("process 1 on nowhere\n")
    (tmp_path / "study" / "study.json.unfinished").write_text('{"form')
    assert run_study(study, tmp_path / "study").complete
    (tmp_path / "study" / "chunks" / "000000-0000000000-0.npz.unfinished").write_bytes(b"PK")
    assert not StudyResults(tmp_path / "study").strange
    assert run_study(study, tmp_path / "study", resume=True).complete
    assert not list(tmp_path.rglob("*.unfinished"))


HOLDER = """
import sys, time
from simulations.store import writing
from simulations.study import Study
with writing(Study("study_functions:normals", {"size": [3, 4]}, 20, chunk=5, seed=1), sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_at_once(study, tmp_path):
    """The second is refused and told who the first is; the lock of a killed one is no obstacle."""
    here = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "study")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": here})
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"study is in use by process {holder.pid} on .*: wait for it"):
            run_study(study, tmp_path / "study", resume=True)
        assert StudyResults(tmp_path / "study").status() == "0 of 8 chunks are finished."  # reading needs no lock
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert run_study(study, tmp_path / "study", resume=True).complete


def test_two_runs_of_one_process(study, tmp_path):
    with writing(study, tmp_path / "study"):
        with pytest.raises(ValueError, match="in use by this process"):
            run_study(study, tmp_path / "study", resume=True)
    assert run_study(study, tmp_path / "study", resume=True).complete


def test_a_damaged_list_of_failures_is_no_obstacle(study, done):
    for text in ("[{", "[1, {}]", "[]"):
        (done / "failures.json").write_text(text)
        assert StudyResults(done).failures == []
