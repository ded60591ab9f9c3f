"""How the explorer's tables are read between their nodes."""

import math

import numpy as np
import pytest

from paper_figures.explorer.tables import Table


@pytest.mark.parametrize("x", [1.0, 1.7, 2.6, 4.4, 6.0])
def test_cubics_are_read_exactly_and_missing_numbers_linearly(x):
    nodes = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    cubic = Table({"place": nodes}, np.array([[node**3, 2 * node] for node in nodes]))
    assert cubic.at(place=x) == pytest.approx([x**3, 2 * x], rel=1e-12)
    holed = Table({"place": nodes}, np.where(np.array(nodes) == 1, np.nan, np.array(nodes)))
    assert math.isnan(holed.at(place=1.5))
    assert holed.at(place=2.5) == pytest.approx(2.5)
