"""Processes do not outlive what they work for."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from simulations.processes import dropped


def test_an_interruption_ends_what_is_begun():
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt), dropped(1) as pool:
        pool.submit(os.getpid).result()  # it works
        for _ in range(3):
            pool.submit(time.sleep, 60)
        raise KeyboardInterrupt
    assert time.perf_counter() - start < 30 and not multiprocessing.active_children()


def test_a_process_that_is_killed_is_named():
    with pytest.raises(ChildProcessError, match="ended from outside"), dropped(1) as pool:
        pool.submit(os._exit, 1).result()


WORK = """
import os, time
from simulations.processes import processes
if __name__ == "__main__":
    with processes(1) as pool:
        print("ready", pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "work.py").write_text(WORK)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, tmp_path / "work.py"], **pipes) as parent:
        parent.stdout.readline()
        parent.send_signal(signal.SIGKILL)
        parent.communicate(timeout=20)  # until nobody is left who could write
