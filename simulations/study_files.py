"""Studies as TOML files."""

from __future__ import annotations

import tomllib
from pathlib import Path

from simulations.study import Study


def read_study(path: str | Path) -> Study:
    """Read a study from a TOML file.

    ::

        kind = "growth"          # or "spectrum", or "package.module:function"
        trials = 1000            # at every point
        chunk = 250              # trials that are computed and stored together [default: 100]
        seed = 0                 # [default: 0]

        [description]            # what is the same everywhere: arguments of mlp, cnn, vgg or resnet, …
        architecture = "mlp"
        activation = "tanh"

        [grid]                   # axes
        width = [64, 256]
        depth = [10, 20, 40]

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Study

    Raises
    ------
    ValueError
        If it is not TOML, or for a key, axis or value that a `Study` does not have: one line, with the file's name.
    OSError
        If it cannot be read.
    """
    try:
        return Study.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
