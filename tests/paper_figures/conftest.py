"""Small tables of the explorer, which its own tests and those in the browser share."""

import math

import pytest

from paper_figures.explorer.fragment import explorer_tables


@pytest.fixture(scope="session")
def explored():
    gains = (math.sqrt(1 / 3), math.sqrt(2))
    return explorer_tables(("relu", "tanh"), gains, depth=9, workers=1)
