"""Random streams: keyed by (seed, grid index, trial), distinct, and reproducible."""

import itertools

import numpy as np
import pytest

from simulations import streams


def first(generator):
    return tuple(generator.integers(2**63, size=4).tolist())


def test_a_seed_is_its_own_root():
    assert [streams.root(seed) for seed in (0, 7, 2**128, np.int64(3))] == [0, 7, 2**128, 3]


def test_a_generator_gives_one_root_and_moves_on():
    generators = [np.random.default_rng(5) for _ in range(2)]
    roots = [[streams.root(generator) for _ in range(3)] for generator in generators]
    assert roots[0] == roots[1]
    assert len(set(roots[0])) == 3
    assert all(0 <= root < 2**128 for root in roots[0]) and max(roots[0]) > 2**100


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True, np.random.RandomState(0), [1, 2]])
def test_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        streams.root(seed)


def test_streams_are_distinct_and_reproducible():
    keys = list(itertools.product((0, 1, 2**127), range(50), (0, 1, 2)))
    draws = {key: first(streams.stream(*key)) for key in keys}
    inputs = {first(streams.input_stream(root, grid)) for root, grid in itertools.product((0, 1, 2**127), (0, 1, 2))}
    assert len(set(draws.values()) | inputs) == len(keys) + 9
    assert all(first(streams.stream(*key)) == draws[key] for key in keys)


def test_streams_are_uncorrelated():
    """Lag-0 correlation of 200 neighbouring streams of 1000 normals: all pairs below 5.5 of its standard deviations.

    False alarm 8e-4 by Bonferroni over 19,900 pairs.
    """
    draws = np.array([streams.stream(0, trial).standard_normal(1000) for trial in range(200)])
    correlation = np.corrcoef(draws)[np.triu_indices(200, 1)]
    assert np.abs(correlation).max() < 5.5 / np.sqrt(1000)


def test_parts_have_seeds_of_their_own():
    """128 bits each, distinct, and apart from the streams of the seed itself."""
    keys = list(itertools.product((0, 1, 2**127), range(50)))
    seeds = {key: streams.own_seed(*key) for key in keys}
    assert len(set(seeds.values())) == len(keys) and all(0 <= seed < 2**128 for seed in seeds.values())
    assert max(seeds.values()) > 2**120
    assert seeds[1, 3] == streams.own_seed(1, 3)
    drawn = {first(streams.stream(seed, trial)) for seed in (0, *seeds.values()) for trial in range(3)}
    assert len(drawn) == 3 * (len(keys) + 1)
    # of the last 32 bits on, which differ between platforms of other byte order if written carelessly
    sequence = np.random.SeedSequence(1, spawn_key=(3, 0, 0))
    assert seeds[1, 3] == sum(int(word) << 32 * place for place, word in enumerate(sequence.generate_state(4)))
