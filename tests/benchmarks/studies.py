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
    found = {
        **study(**given),
        **given,
        "seconds": round(time.perf_counter() - start),
        "command": " ".join(
            ["python", f"tests/benchmarks/{script.name}", *(f"--{name} {value}" for name, value in given.items())]
        ),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **{name: str(sys.modules[name].__version__) for name in ("numpy", "torch") if name in sys.modules},
    }
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (result or script.with_suffix(".json")).write_text(text + "\n", encoding="utf-8")
