"""The table of benchmarks: what is missed is said, with status 1; the page shows what is committed. And studies."""

import doctest
import importlib.util
import inspect
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "tests" / "benchmarks"
CASES = """
import time
import pytest

def test_fast(floor, seconds):
    ours, theirs = seconds(lambda: time.sleep(0.01), lambda: time.sleep(0.2), rounds=3)
    floor("sleeps", ours, most=0.2)
    floor("sleeps, beside another", ours, "s", theirs, least=2)
    floor("memory", 3.25, "GB")
    floor("exponent", 1.0, "", least=0.9, most=1.1)
"""
SLOW = """
def test_slow(floor):
    floor("a miss", 1.5, "GB", most=1)
    floor("after it", 7.0, "", least=7)

def test_broken(floor):
    raise ArithmeticError("broken")

def test_skipped():
    __import__("pytest").skip("no torch")
"""


@pytest.fixture
def table():
    specification = importlib.util.spec_from_file_location("table", BENCHMARKS / "table.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def run(folder, *cases):
    """The benchmarks of a folder with only these: exit status, output, result."""
    for name in ("conftest.py", "table.py"):
        shutil.copy(BENCHMARKS / name, folder)
    for place, case in enumerate(cases):
        (folder / f"test_{place}.py").write_text(case)
    words = [sys.executable, "table.py", "--out", "out", "--rounds", "2", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)
    return done.returncode, done.stdout, json.loads((folder / "out" / "benchmarks.json").read_text())


def rows(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_floors_that_are_met(tmp_path):
    status, output, result = run(tmp_path, CASES)
    assert status == 0 and "3 of 3 floors are met." in output
    assert (tmp_path / "out" / "benchmarks.md").read_text() in output
    found = {row[0]: row[1:] for row in rows(output)[2:]}
    assert found["sleeps"][0] == "at most 0.2 s" and found["sleeps"][1].endswith(" ms") and found["sleeps"][3] == "yes"
    assert found["sleeps, beside another"][0] == "at least 2 ×"
    assert found["memory"] == ["", "3.25 GB", "", ""] and found["exponent"] == ["0.9 to 1.1", "1", "", "yes"]
    ours, beside = result["floors"][:2]
    assert 0.01 <= ours["measured"] < 0.2 <= beside["reference"] and result["not_measured"] == []
    assert {"date", "processor", "cores", "memory", "versions", "load"} <= set(result["machine"])


def test_a_floor_that_is_missed_is_said_with_status_one(tmp_path):
    """What comes after it is measured nevertheless; a benchmark that fails by itself is named."""
    status, output, result = run(tmp_path, CASES, SLOW)
    assert status == 1 and "4 of 5 floors are met." in output and "a miss: 1.5, required" in output
    met = {row[0]: row[4] for row in rows(output)[2:]}
    assert met["a miss"] == "**NO**" and met["after it"] == "yes"
    assert result["not_measured"] == ["test_1.py::test_broken", "test_1.py::test_skipped"]
    assert "Not measured: test_1.py::test_broken\n" in output


def test_the_examples_in_its_docstrings(table):
    assert doctest.testmod(table) == (0, 1)


def test_the_page_shows_the_committed_results(table):
    result = json.loads((ROOT / "docs" / "benchmarks.json").read_text(encoding="utf-8"))
    assert table.page(result) == (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert len({floor["floor"] for floor in result["floors"]}) >= 30


COINS = """'''Toss coins.'''
import studies

def results(tosses: int = 10, seed: int = 0) -> dict:
    return {"what": "heads", "heads": tosses // 2 + seed}

if __name__ == "__main__":
    studies.run(results)
"""


def test_a_study_writes_what_it_found_and_how(tmp_path, monkeypatch):
    script = tmp_path / "coins.py"
    script.write_text(COINS)
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", [str(script), "--tosses", "6"])
    runpy.run_path(str(script), run_name="__main__")
    found = json.loads(script.with_suffix(".json").read_text(encoding="utf-8"))
    assert list(found.items())[:4] == [("what", "heads"), ("heads", 3), ("tosses", 6), ("seed", 0)]
    assert found["command"] == "python tests/benchmarks/coins.py --tosses 6 --seed 0"
    assert {"seconds", "date", "numpy"} < set(found)


SHARING = [path for path in sorted(BENCHMARKS.glob("*.py")) if "    studies.run(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("script", SHARING, ids=lambda path: path.stem)
def test_a_committed_study_was_made_with_the_defaults(script, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCHMARKS)
    study = runpy.run_path(str(script))
    found = json.loads(study.get("RESULT", script.with_suffix(".json")).read_text(encoding="utf-8"))
    for name, parameter in inspect.signature(study["results"]).parameters.items():
        assert found[name] == parameter.default, name
