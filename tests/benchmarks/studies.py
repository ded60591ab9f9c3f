"""What studies share: options in the shell, and a JSON file of what was found, how and when."""

import argparse
import datetime
import inspect
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from simulations.study import Study
from simulations.study_run import run_study


def run(study: Callable[..., dict[str, Any]], result: pathlib.Path | None = None) -> None:
    """Run a study with the options of the shell, and write what it found.

    Parameters
    ----------
    study : callable
        Its arguments, integers with defaults, are the options; what it returns is written first. The script that it is
        in begins with a line that says what it does.
    result : Path, optional
        None: beside the script, with its name.
    """
    script = pathlib.Path(inspect.getfile(study))
    parser = argparse.ArgumentParser(description=study.__globals__["__doc__"].splitlines()[0])
    for name, parameter in inspect.signature(study).parameters.items():
        parser.add_argument(f"--{name}", type=int, default=parameter.default)
    given, start = vars(parser.parse_args()), time.perf_counter()
    found = {**study(**given), **given, "seconds": round(time.perf_counter() - start)}
    options = [f"--{name} {value}" for name, value in given.items()]
    write(result or script.with_suffix(".json"), script, options, found)


def run_in_folder(study: Callable[[pathlib.Path], dict[str, Any]], result: pathlib.Path) -> None:
    """Run a study in a folder named in the shell, where a second call goes on, and write what it found.

    Parameters
    ----------
    study : callable
        Takes the folder; the script that it is in begins with a line that says what it does.
    result : Path
    """
    parser = argparse.ArgumentParser(description=study.__globals__["__doc__"].splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    write(result, pathlib.Path(inspect.getfile(study)), ["FOLDER"], study(parser.parse_args().folder))


def points_of(study: Study, folder: pathlib.Path) -> list[dict[str, np.ndarray]]:
    """Run a study on one worker or go on with it; what was found at every point, or an end that says what was not."""
    results = run_study(study, folder, resume=True, workers=1)
    if not results.complete:
        raise SystemExit(results.status())
    return list(results.points())


def write(result: pathlib.Path, script: pathlib.Path, options: list[str], found: dict[str, Any]) -> None:
    """Write what a script found, with its command, the date and versions."""
    found = {
        **found,
        "command": " ".join(["python", f"tests/benchmarks/{script.name}", *options]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **{name: str(sys.modules[name].__version__) for name in ("numpy", "torch") if name in sys.modules},
    }
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    result.write_text(text + "\n", encoding="utf-8")
