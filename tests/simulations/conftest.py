"""Functions that studies find by name."""

from pathlib import Path

import pytest


@pytest.fixture
def functions(monkeypatch):
    """The module `study_functions` beside this file, importable."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import study_functions

    return study_functions
