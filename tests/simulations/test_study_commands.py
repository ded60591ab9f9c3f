"""bntheory simulate STUDY.toml: runs, resumes, shows, refuses in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray

from simulations.study_results import StudyResults

GROWTH = 'kind = "growth"\ntrials = 6\nchunk = 4\n[description]\ndepth = 2\n[grid]\nwidth = [4, 8]\n'


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(GROWTH)
    return str(path)


def test_a_study_runs_resumes_and_shows_itself(run, study):
    status, output, errors = run("simulate", study, "--out", "results", "--workers", "2", "--json", "numbers.json")
    assert (status, errors) == (0, "") and output.endswith("\n\n4 of 4 chunks are finished.\n")
    assert output.startswith("width 4   ln⟨h²⟩ at the end ")
    for words in (("--show", "results"), ("--show=results",), ("study", "--show", "results")):
        assert run("simulate", *words) == (0, output, "")
    for words in ((study, "--out", "results", "--resume"), ("--resume", "--out", "results", study)):
        assert run("simulate", *words) == (0, output, "")
    data = json.loads(Path("numbers.json").read_text())
    assert data["study"]["grid"] == {"width": [4, 8]} and data["finished"] == data["chunks"] == 4
    logs = next(StudyResults("results").points())["log_second_moment"][:, -1]
    logs = logs[np.isfinite(logs)]
    assert data["points"][0]["estimates"]["ln⟨h²⟩ at the end"]["mean"] == pytest.approx(logs.mean(), rel=1e-13)


def test_netcdf(run, study):
    assert run("simulate", study, "--out", "results", "--netcdf", "results.nc")[0] == 0
    with xarray.open_dataset("results.nc", engine="h5netcdf") as dataset:
        assert dict(dataset.sizes) == {"width": 2, "trial": 6, "row": 5}


def test_chunks_that_fail_are_named_with_status_one(run, tmp_path, functions):
    path = tmp_path / "fragile.toml"
    path.write_text('kind = "study_functions:fragile"\ntrials = 2\n[grid]\nhow = ["works", "nan"]\n')
    for words in ((str(path), "--out", "out"), (str(path), "--out", "out", "--resume"), ("--show", "out")):
        status, output, errors = run("simulate", *words)
        assert (status, errors) == (1, "")
        assert "1 of 2 chunks are finished.\nFAILED: point 1, trials 0 to 1 (how='nan'; seed " in output
        assert output.endswith("): ArithmeticError: NaN in value\n")


def test_a_full_disk_says_how_to_go_on(run, study, monkeypatch):
    from simulations import store

    def full(self, chunk, arrays):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.Store, "write", full)
    status, output, errors = run("simulate", study, "--out", "results")
    assert (status, output) == (2, "")
    assert errors == (
        "bntheory: No space left on device: results. What is finished is kept; then continue with: "
        f"bntheory simulate {study} --out results --resume\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{study}",), "a study needs its file and a folder: STUDY.toml --out DIR; or --show DIR"),
        (("{study}", "--show", "results"), "--show DIR only reads: leave out STUDY.toml"),
        (("--show", "nowhere"), "nowhere is not the folder of a study: it has no study.json"),
        (("--show", "{study}"), "study.toml is a file: a study needs a folder"),
        (("{study}", "--out", "{study}"), "study.toml is a file: a study needs a folder"),
        (("missing.toml", "--out", "results"), "bntheory: No such file or directory: missing.toml\n"),
        (("{study}", "--out", "results", "--workers", "0"), "workers must be at least 1, got 0"),
        (("{study}", "--out", "results", "--json", "no/where.json"), "there is no folder 'no'"),
        (("growht",), "No such command 'growht'"),
        (("--nonsense",), "No such option"),
    ],
)
def test_refused_in_one_line(run, study, words, message):
    status, output, errors = run("simulate", *(word.format(study=study) for word in words))
    assert (status, output) == (2, "") and message in errors and errors.count("\n") == 1


def test_mistakes_in_the_file_are_named(run, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(GROWTH.replace("depth", "dpeth"))
    status, _, errors = run("simulate", str(path), "--out", "results")
    assert status == 2 and errors.startswith(f"bntheory: {path}: ") and "(did you mean depth?)" in errors
    assert not (tmp_path / "results").exists()


def test_help_names_studies(run):
    status, output, _ = run("simulate", "--help")
    assert status == 0 and "bntheory simulate STUDY.toml --out DIR [--resume]" in output
    assert "--netcdf" in run("simulate", "study", "--help")[1]
