"""Checkpoints of training runs: everything that the rest of a run depends on, in one file that is whole or absent."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from simulations import folders
from simulations.study import differences
from simulations.training.history import History
from simulations.training.modules import build, torch
from simulations.training.recipe import Recipe

NAME = "checkpoint.pt"
FORMAT = 2
SUMS = ("loss", "correct", "seconds")  # over the epoch that is not finished
_PARTS = {"format", "history", "model", "optimizer", "epoch", "random"}
NAMED = 3  # differences between two runs
_LENGTH = (64).to_bytes(2, "little")  # of SHA-256 in hexadecimal
_RIGHT = "delete it and start anew, or put back the file as it was"


def save(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, epoch: dict, history: History) -> None:
    """Write the state of a run between two steps; `epoch` holds the sums over the epoch that is not finished."""
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        random["cuda"] = torch.cuda.get_rng_state()
    state = {
        "format": FORMAT,
        "history": history.state(),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "random": random,
    }
    folders.write(folder / NAME, sealed(state))


def sealed(state: dict[str, Any]) -> bytes:
    """Return what torch saves, a zip archive, with its SHA-256 as the archive's comment, which torch ignores."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    return data[:-2] + _seal(data)


def _seal(data: bytes) -> bytes:
    """Length and text of the comment, with which an archive ends."""
    return _LENGTH + hashlib.sha256(data).hexdigest().encode()


def read(path: Path) -> dict[str, Any]:
    """Return what `save` wrote, on the CPU, its history as a `History`; nothing in the file is executed.

    Raises
    ------
    ValueError
        If there is no such file, or it is not a checkpoint, or damaged.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    data = path.read_bytes()
    end = len(data) - len(_seal(b""))
    if end < 0 or data[end:] != _seal(data[:end] + b"\0\0"):  # torch itself reads a file of which a byte has changed
        raise ValueError(f"{path} is not a checkpoint of a run, or damaged (its checksum is wrong): {_RIGHT}")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        whole = isinstance(state, dict) and set(state) == _PARTS and state["format"] == FORMAT
        if whole:
            state["history"] = History.from_state(state["history"])
            _check_progress(state)
    except Exception as error:  # what somebody has made up may fail in any way
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a checkpoint of a run, or damaged ({what:.80}): {_RIGHT}") from None
    if not whole:
        raise ValueError(f"{path} is not a checkpoint of a run in format {FORMAT}: {_RIGHT}")
    return state


def _check_progress(state: dict[str, Any]) -> None:
    """Refuse a history whose numbers are no numbers, or not as many as its epochs have."""
    history, sums = state["history"], state["epoch"]
    numbers = [*history.losses, *sums.values(), *(value for epoch in history.epochs for value in epoch.values())]
    if set(sums) != set(SUMS) or {type(number) for number in numbers} - {float, int}:
        raise ValueError("losses and results of epochs must be numbers")
    done, least = len(history.losses), history.steps * len(history.epochs)
    if not isinstance(history.losses, list) or not 0 <= done - least <= history.steps:
        raise ValueError(f"{done} losses after {len(history.epochs)} epochs of {history.steps} steps")


def restore(
    state: dict[str, Any], path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Put the weights of a checkpoint into a model, its velocities into an optimizer, and set torch's random states.

    Without an optimizer, only the weights.

    Raises
    ------
    ValueError
        If shapes or names are others.
    """
    try:
        model.load_state_dict(state["model"])
        if optimizer is not None:
            optimizer.load_state_dict(state["optimizer"])
            for parameter, own in optimizer.state.items():
                if own["momentum_buffer"] is not None and own["momentum_buffer"].shape != parameter.shape:
                    raise ValueError(f"a velocity of shape {tuple(own['momentum_buffer'].shape)}")
            torch.set_rng_state(state["random"]["cpu"])
            if torch.cuda.is_initialized() and "cuda" in state["random"]:
                torch.cuda.set_rng_state(state["random"]["cuda"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit its own description ({what:.120}): {_RIGHT}") from None


def check_same(history: History, recipe: Recipe, path: Path) -> None:
    """Refuse, naming what differs, to go on with a run of another recipe."""
    changed = differences(history.recipe.to_dict(), recipe.to_dict())
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise ValueError(f"{path} is of another run: {'; '.join(changed[:NAMED])}{more}. Start in another folder")


def load_model(path: str | Path) -> tuple[torch.nn.Module, History]:
    """Return the network of a checkpoint with its weights, in training mode, and its history.

    Parameters
    ----------
    path : str or Path
        The file, or the folder of the run.

    Raises
    ------
    ValueError
        If there is none, or it is damaged.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    state = read(path)
    model = build(state["history"].recipe.net)
    restore(state, path, model)
    return model, state["history"]
