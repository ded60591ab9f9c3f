"""A few rows at a time is the same as all at once."""

import numpy as np
import pytest

from bntheory.growth.by_rows import ROWS, by_rows


@pytest.mark.parametrize("count", [1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 5])
def test_rows_are_put_together(count):
    values = np.random.default_rng(0).standard_normal((count, 7)).astype(np.float32)
    np.testing.assert_array_equal(by_rows(lambda rows: np.exp(values[rows]), count), np.exp(values))
    np.testing.assert_array_equal(by_rows(lambda rows: values[rows].max(axis=1), count), values.max(axis=1))
    assert by_rows(lambda rows: values[rows], count).dtype == np.float32
