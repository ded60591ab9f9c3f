"""Where torch computes, and on how many threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bntheory import arguments

DEVICES = ("auto", "cpu", "cuda")


def resolve(device: str) -> str:
    """Return "cpu" or "cuda"; ValueError if CUDA is asked for and there is none.

    >>> resolve("cpu")
    'cpu'
    """
    if arguments.choice("device", device, DEVICES) == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise ValueError("device 'cuda' is not available: PyTorch finds no GPU here; use 'cpu' or 'auto'")
    return "cpu"


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let every thread run torch's operations alone: many small ones lose more than they gain from several cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
