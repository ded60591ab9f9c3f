"""What the tests' studies draw: functions that a study finds by name."""

import os
import signal
import time

import numpy as np
from threadpoolctl import threadpool_info


def normals(parameters, seed):
    """As many as `size` says."""
    return np.random.default_rng(seed).standard_normal(parameters["size"])


def sleeper(parameters, seed):
    """A number, after `seconds`."""
    time.sleep(parameters["seconds"])
    return np.random.default_rng(seed).random()


def process(parameters, seed):
    """Where it runs, and a number that depends on the seed only."""
    return {"pid": float(os.getpid()), "number": np.random.default_rng(seed).random()}


def blas_threads(parameters, seed):
    """The most threads that a BLAS has."""
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


def fragile(parameters, seed):
    """Raises, leaves the program or gives NaN at the point that is so named."""
    if parameters["how"] == "raises":
        raise ArithmeticError("no such\n  number")
    if parameters["how"] == "exits":
        raise SystemExit("gone")
    return [1.0, np.nan if parameters["how"] == "nan" else 2.0]


def counted(parameters, seed):
    """Fails until it has been called as often as `needed`; calls are counted in a file."""
    with open(parameters["file"], "a+") as file:
        file.write("x")
        file.flush()
        file.seek(0)
        if len(file.read()) < parameters["needed"]:
            raise ArithmeticError("not yet")
    return np.random.default_rng(seed).random()


def strange(parameters, seed):
    """What a study cannot keep."""
    return {"text": "words", "table": np.ones((2, 2)), "complex": 1j, "nothing": {}}[parameters["what"]]


def named(parameters, seed):
    """A number by the name that is asked for."""
    return {parameters["name"]: 1.0}


def uneven(parameters, seed):
    """Rows of another length in every trial."""
    return np.ones(1 + seed % 7)


def deadly(parameters, seed):
    """Kills its process where asked to."""
    if parameters["deadly"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.0
