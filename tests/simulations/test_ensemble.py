"""Trials through threads: order, errors, BLAS on one thread, no bar where nobody looks."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from simulations.ensemble import run_trials


@pytest.mark.parametrize("workers", [None, 1, 2, 7])
def test_results_keep_their_order(workers):
    def trial(index):
        time.sleep(0.002 * (index % 3))
        return index

    assert run_trials(trial, 20, workers) == list(range(20))


def test_trials_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=5)  # broken unless three trials wait together
    run_trials(lambda index: barrier.wait(), 6, workers=3)


def test_blas_has_one_thread_inside_and_its_own_number_after():
    np.linalg.qr(np.eye(3))

    def threads():  # OpenMP's own pools, which torch and scikit-learn bring, count for each thread apart
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    inside = run_trials(lambda _: max(threads()), 3, workers=2)
    assert inside == [1, 1, 1]
    assert threads() == before


def test_an_error_in_a_trial_comes_through():
    def trial(index):
        if index == 5:
            raise ArithmeticError("trial 5")
        return index

    with pytest.raises(ArithmeticError, match="trial 5"):
        run_trials(trial, 10, workers=2)


def test_progress_is_silent_unless_asked_for(capsys):
    run_trials(abs, 3, label="working")
    run_trials(abs, 3, progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    run_trials(abs, 3, progress=True, label="working")
    assert "working" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_refused(value):
    with pytest.raises(ValueError, match="trials must be"):
        run_trials(abs, value)
    with pytest.raises(ValueError, match="workers must be"):
        run_trials(abs, 2, workers=value)
