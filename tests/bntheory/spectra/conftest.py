"""How the laws of spectra are tested."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    """Laws multiply small matrices thousands of times; threads that wait for busy cores would cost ten times that."""
    with threadpool_limits(1):
        yield
