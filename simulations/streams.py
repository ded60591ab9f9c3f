"""Random streams keyed by (seed, grid index, trial), so that results depend neither on chunks nor on workers."""

from __future__ import annotations

import numpy as np

from bntheory import arguments


def root(seed: int | np.random.Generator) -> int:
    """Return the root seed: the integer itself, or 128 bits drawn once from a Generator.

    Parameters
    ----------
    seed : int or numpy.random.Generator
        A non-negative integer, or a generator (which is advanced).

    Returns
    -------
    int

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> root(7)
    7
    """
    if isinstance(seed, np.random.Generator):
        return int.from_bytes(seed.bytes(16), "little")
    return arguments.integer("seed", seed, at_least=0)


def stream(root_seed: int, trial: int, grid_index: int = 0) -> np.random.Generator:
    """Return the generator of one trial at one point of a grid.

    Examples
    --------
    >>> stream(0, trial=3).random() == stream(0, trial=3).random()
    True
    """
    sequence = np.random.SeedSequence(root_seed, spawn_key=(grid_index, trial))
    return np.random.Generator(np.random.SFC64(sequence))


def own_seed(root_seed: int, index: int) -> int:
    """Return the 128-bit seed of part `index` of what has a seed: of a point of a grid, or of a trial at that point.

    Nobody else draws from it, so that a part can be repeated by itself: point g of a study with seed s is
    ``simulate_growth(…, seed=own_seed(s, g))``, and what it draws is keyed by (s, g, trial).

    Examples
    --------
    >>> own_seed(0, 1) == own_seed(0, 1), own_seed(0, 1) == own_seed(0, 2)
    (True, False)
    """
    # a third number in the key keeps these bits apart from those of `stream` and `input_stream`
    words = np.random.SeedSequence(root_seed, spawn_key=(index, 0, 0)).generate_state(4)
    return int.from_bytes(words.astype("<u4").tobytes(), "little")


def input_stream(root_seed: int, grid_index: int = 0) -> np.random.Generator:
    """Return the generator of what all trials at one point of a grid share: the inputs."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(root_seed, spawn_key=(grid_index,))))
