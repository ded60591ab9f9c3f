"""Processes end with the one that started them."""

import subprocess
import sys

KILLED = """
import os, signal, time
from simulations.processes import processes

if __name__ == "__main__":
    pool = processes(1)
    print(pool.submit(abs, -7).result(), flush=True)
    pool.submit(time.sleep, 300)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_does_not_outlive_a_parent_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    # the output is at its end when nobody holds it any more: parent, worker
    found = subprocess.run([sys.executable, tmp_path / "killed.py"], stdout=subprocess.PIPE, timeout=100)
    assert (found.returncode, found.stdout) == (-9, b"7\n")
