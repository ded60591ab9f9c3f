"""Fixtures shared by several tests; one BLAS thread for each of the processes that share the cores, if several do."""

import gc
import os
import signal
import sys

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import mpmath
import numpy as np
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


@pytest.fixture(scope="session")
def exact():
    """Log singular values of a product of matrices: the function `exact_log_singular_values`."""
    return exact_log_singular_values


def exact_log_singular_values(matrices, rate, point=100):
    """Integer product, Gram–Schmidt, one-sided Jacobi: as far as needed beyond float64.

    `rate` bits a factor, and 200 more, hold the range of the singular values of every partial product; entries are cut
    `point` bits below 1.
    """
    product, shift, bits = None, 0, 200
    for matrix in matrices:
        factor = np.array([[int(entry) for entry in row] for row in matrix * 2.0**point], dtype=object)
        product, bits = factor if product is None else factor @ product, bits + rate
        cut = max(0, max(abs(entry).bit_length() for entry in product.flat) - round(bits))
        product, shift = product >> cut, shift + cut - point
    if product.shape[0] < product.shape[1]:
        product = product.T
    with mpmath.workprec(round(bits)):
        rank = min(min(matrix.shape) for matrix in matrices)
        squares = jacobi(triangle_of([np.array([mpmath.mpf(x) for x in column]) for column in product.T], rank))
        logs = sorted((float(mpmath.log(x) / 2 + shift * mpmath.log(2)) for x in squares), reverse=True)
    assert (logs[0] - logs[-1]) / np.log(2) < bits - 60  # the oracle's own precision
    return np.array(logs)


def triangle_of(columns, rank):
    """Rows of R by pivoted Gram–Schmidt: decreasing, so that Jacobi needs few sweeps."""
    rows, remaining = [], list(range(len(columns)))
    for _ in range(rank):
        pivot = max(remaining, key=lambda j: columns[j] @ columns[j])
        unit = columns[pivot] / mpmath.sqrt(columns[pivot] @ columns[pivot])
        row = np.array([mpmath.mpf(0)] * len(columns))
        for j in remaining:
            row[j] = unit @ columns[j]
            columns[j] = columns[j] - row[j] * unit
        remaining.remove(pivot)
        rows.append(row)
    return rows


def jacobi(rows):
    """Squared singular values of the matrix of these rows."""
    largest = 1.0
    while largest > 1e-40:  # squared cosine; convergence is quadratic
        largest = 0.0
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                a, b, c = rows[i] @ rows[i], rows[j] @ rows[j], rows[i] @ rows[j]
                cosine = float(c * c / (a * b))
                if cosine < 1e-45:
                    continue
                largest = max(largest, cosine)
                ratio = (b - a) / (2 * c)
                t = (1 if ratio >= 0 else -1) / (abs(ratio) + mpmath.sqrt(1 + ratio * ratio))
                rows[i], rows[j] = rows[i] - t * rows[j], rows[j] + t * rows[i]
                norm = mpmath.sqrt(1 + t * t)
                rows[i], rows[j] = rows[i] / norm, rows[j] / norm
    return [row @ row for row in rows]


def pytest_configure():
    """Take Ctrl-C where a shell in the background has it ignored: processes that tests start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is loaded while tests are collected stays to the end: nobody looks for garbage in it, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    """Let one process compile the kernels, while others are at laws that need none; long files come before the rest."""
    first = ("simulations/test_growth.py", "/spectra/", "tests/test_documentation.py")
    items.sort(key=lambda item: [part in item.path.as_posix() for part in first], reverse=True)
