"""Fixtures shared by several tests."""

import sys

import pytest

from bntheory.cli import main


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the program in a folder of its own; return its exit status and output."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["bntheory", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return call
