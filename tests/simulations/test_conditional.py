"""Where the weight-free engine keeps its numbers, and how it is compiled; its law is tested in test_engines.py."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from bntheory import mlp
from simulations import conditional, signal, simulate_growth, streams
from simulations.ensemble import run_trials
from simulations.steps import steps

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(20))
def test_places_in_use_at_one_time_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    births = rng.integers(0, 30, 60)
    spans = list(zip(births, births + rng.integers(0, 12, 60), rng.choice([3, 8, 17], 60), strict=True))
    offsets, total = conditional.arrange(spans)
    for i, (birth, death, size) in enumerate(spans):
        assert 0 <= offsets[i] and offsets[i] + size <= total
        for j, (other_birth, other_death, other_size) in enumerate(spans[:i]):
            if birth <= other_death and other_birth <= death:
                assert offsets[i] + size <= offsets[j] or offsets[j] + other_size <= offsets[i]
    assert total < sum(size + 7 for *_, size in spans)


@pytest.mark.parametrize("options", [{}, {"batch_norm": True}, {"residual": True}], ids=str)
def test_memory_without_gradients_is_that_of_a_few_rows(options):
    """At any depth, beside B² numbers a step; with gradients, of a few rows a layer."""
    batch, width = 8, 100
    shallow, deep = (steps(mlp(depth, width, **options)) for depth in (10, 40))
    squares = (len(deep) - len(shallow)) * batch**2
    forward = [conditional.memory(each, batch, False) for each in (shallow, deep)]
    both = [conditional.memory(each, batch, True) for each in (shallow, deep)]
    assert forward[1] - forward[0] == squares
    assert forward[0] < 5 * batch * width + len(shallow) * batch**2
    layers = 30 * (5 * batch * width + width + batch**2)
    assert layers / 2 < both[1] - both[0] - squares < layers


def test_every_thread_has_its_own_memory():
    net = mlp(6, 40, batch_norm=True)
    draw = conditional.prepare(steps(net), signal.scaled(np.random.default_rng(0).standard_normal((5, 40))), True)
    alone = [draw(streams.stream(0, k)) for k in range(40)]
    together = run_trials(lambda k: draw(streams.stream(0, k)), 40, workers=4)
    np.testing.assert_array_equal(alone, together)


def test_blas_has_one_thread_where_the_kernels_use_it():
    """SciPy's library, which compiled products call, is loaded before threads are limited."""

    def libraries():
        return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    simulate_growth(mlp(1, 64), 1, batch=2, method="conditional")
    inside = run_trials(lambda _: libraries(), 2, workers=2)
    assert any("scipy" in path for path in inside[0]) and set(inside[0].values()) == {1}


SMALL = """
import numpy as np
from bntheory import mlp
from simulations import simulate_growth
for net, batch in ((mlp(2, 5, "tanh", batch_norm=True, residual=True, bias=0.1), 4), (mlp(3, 4), 1)):
    samples = simulate_growth(net, 2, batch=batch, method="conditional")
    print(*np.nan_to_num(np.stack([samples.log_second_moment, samples.log_gradient]), neginf=-99).ravel())
"""


def run(*words, **environment):
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kernels_without_compilation(capsys):
    """As plain Python: their tests at small sizes, and the numbers of the compiled code."""
    tests = run("-m", "pytest", "-q", "tests/simulations/kernels", "-k", "not 1300 and not law", NUMBA_DISABLE_JIT="1")
    assert " passed" in tests and "deselected" in tests
    exec(SMALL, {})
    here, there = capsys.readouterr().out, run("-c", SMALL, NUMBA_DISABLE_JIT="1")
    compiled, plain = (np.array(printed.split(), dtype=float) for printed in (here, there))
    np.testing.assert_allclose(plain, compiled, rtol=1e-9, atol=1e-9)


COMPILED = """
from simulations.kernels import blocks
import numpy as np
print(blocks.square_sum(np.ones(3)))
stats = blocks.square_sum.stats
print("hits", sum(stats.cache_hits.values()), "misses", sum(stats.cache_misses.values()))
"""


def test_compiled_code_is_kept_between_processes_until_any_kernel_changes(tmp_path):
    """In a copy of the package: the second process compiles nothing, a change in another file is seen."""
    copy = tmp_path / "simulations"
    copy.mkdir()
    for path in [*(ROOT / "simulations" / "kernels").glob("*.py"), *(ROOT / "simulations").glob("*.py")]:
        target = copy / path.relative_to(ROOT / "simulations")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    where = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONSAFEPATH": "1"}
    assert run("-c", COMPILED, **where).splitlines() == ["3.0", "hits 0 misses 1"]
    assert run("-c", COMPILED, **where).splitlines() == ["3.0", "hits 1 misses 0"]
    with (copy / "kernels" / "moments.py").open("a") as file:
        file.write("\n# changed\n")
    assert run("-c", COMPILED, **where).splitlines() == ["3.0", "hits 0 misses 1"]
