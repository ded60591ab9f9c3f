"""Studies as data: what is refused, in which words; points, chunks and seeds; TOML files."""

import dataclasses
import itertools
import json
import pickle
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy.special import digamma

import simulations as sim
from bntheory import initialization, mlp
from simulations import streams
from simulations.study import Chunk, Study, differences
from simulations.study_kinds import sampler

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "studies").glob("*.toml"))
GOOD = {"kind": "growth", "grid": {"width": [4, 8], "depth": [2, 3]}, "trials": 10}


def test_points_go_through_the_grid_with_the_last_axis_fastest():
    study = Study("growth", {"width": [4, 8], "depth": [2, 3, 5]}, 7, {"activation": "tanh"}, chunk=3)
    places = [study.point(index) for index in range(study.points)]
    assert places == [{"width": width, "depth": depth} for width, depth in itertools.product((4, 8), (2, 3, 5))]
    assert study.parameters(4) == {"activation": "tanh", "width": 8, "depth": 3}
    assert study.shape == (2, 3) and study.points == 6


@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 100])
def test_chunks_cover_every_trial_once(chunk):
    study = Study("growth", {"width": [4, 8], "depth": [2]}, 7, chunk=chunk)
    drawn = [(one.point, one.first + trial) for one in study.chunks() for trial in range(one.trials)]
    assert drawn == list(itertools.product(range(2), range(7)))
    assert len(list(study.chunks())) == len(study)


def test_seeds_are_those_of_the_points():
    study = Study(**GOOD, seed=5)
    assert [study.seed_of(index) for index in range(4)] == [streams.own_seed(5, index) for index in range(4)]
    assert len({study.seed_of(index) for index in range(4)}) == 4
    assert Study(**GOOD, seed=np.random.default_rng(1)).seed > 2**64


def test_a_study_is_plain_data():
    study = Study("growth", {"image": [[3, 8, 8], (1, 4, 4)], "batch_norm": np.array([True, False])}, np.int64(4),
                  {"architecture": "cnn", "depth": 2, "gain": 0.1}, seed=2**100)  # fmt: skip
    assert study.grid == {"image": ((3, 8, 8), (1, 4, 4)), "batch_norm": (True, False)}
    assert Study.from_dict(json.loads(json.dumps(study.to_dict()))) == study
    assert pickle.loads(pickle.dumps(study)) == study
    assert dataclasses.replace(study, trials=5).trials == 5


def test_a_function_goes_by_its_name(functions):
    study = Study(functions.normals, {"size": [3]}, 2)
    assert study.kind == "study_functions:normals"
    assert study == Study("study_functions:normals", {"size": [3]}, 2)
    seed = streams.own_seed(study.seed_of(0), 1)
    assert np.array_equal(
        study.sampler(0).draw(range(1, 2))["value"], np.random.default_rng(seed).standard_normal((1, 3))
    )


@pytest.mark.parametrize("kind", ["growth", "spectrum"])
def test_a_point_draws_what_the_simulation_does(kind):
    """The same bits as simulate_growth and log_singular_values from the point's seed, whatever the range."""
    study = Study(kind, {"activation": ["relu", "tanh"], "width": [5]}, 6, {"depth": 3, "gain": 1.2})
    net = mlp(3, 5, "tanh", init=initialization("he_normal", gain=1.2))
    drawn = study.sampler(1).draw(range(2, 6))
    if kind == "growth":
        expected = sim.simulate_growth(net, 6, seed=study.seed_of(1))
        assert set(drawn) == set(expected.quantities)
        for name, values in drawn.items():
            assert np.array_equal(values, getattr(expected, name)[2:], equal_nan=True), name
    else:
        expected = sim.log_singular_values(net, 6, seed=study.seed_of(1))
        assert np.array_equal(drawn["log_singular_value"], expected[2:])


def test_settings_of_the_simulation_are_parameters():
    given = {"width": 8, "depth": 2, "batch": 3, "method": "weights", "dtype": "float32", "gradients": False}
    drawn = sampler("growth", given, seed=3).draw(range(4))
    expected = sim.simulate_growth(mlp(2, 8), 4, batch=3, seed=3, method="weights", dtype="float32", gradients=False)
    assert set(drawn) == set(expected.quantities) and "log_gradient" not in drawn
    assert np.array_equal(drawn["log_cosine_distance"], expected.log_cosine_distance, equal_nan=True)


WRONG = [
    ({"grid": {}}, "grid must have at least one axis, got none"),
    ({"grid": [1, 2]}, "grid must be a table of names and values, got [1, 2]"),
    ({"grid": {"width": []}}, "axis width must have at least one value, got none"),
    ({"grid": {"width": 8}}, "axis width must be a list of values, got 8"),
    ({"grid": {"width": "8"}}, "axis width must be a list of values, got '8'"),
    ({"grid": {"width": [8, 8]}}, "axis width must have distinct values, got 8 twice"),
    ({"grid": {"gain": [1.0, float("nan")]}}, "axis gain must be finite, got nan"),
    ({"grid": {"activation": [len]}}, "axis activation must be numbers, words or flags, got <built-in"),
    ({"grid": {"widht": [8]}}, "got 'widht' (did you mean width?)"),
    ({"grid": {"width": np.array(8)}}, "axis width must be a list of values, got 8"),
    ({"grid": {"trial": [8]}}, "an axis cannot be called 'trial'"),
    ({"kind": "m:f", "grid": {"a/b": [8]}}, "an axis cannot be called 'a/b': NetCDF has no such names"),
    ({"kind": "m:f", "grid": {"": [8]}}, "an axis cannot be called '': NetCDF"),
    ({"description": {"width": 3}}, "width is an axis of the grid and in the description"),
    ({"description": {"activaton": "relu"}}, "got 'activaton' (did you mean activation?)"),
    ({"description": {"architecture": "mpl"}}, "got 'mpl' (did you mean mlp?)"),
    ({"description": {"kernel": 3}}, "a name in the description must be one of architecture"),
    ({"kind": "spectrum", "description": {"batch": 3}}, "a name in the description must be one of"),
    ({"trials": 0}, "trials must be at least 1, got 0"),
    ({"trials": "many"}, "trials must be an integer"),
    ({"chunk": 0}, "chunk must be at least 1, got 0"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"kind": "grwth"}, "got 'grwth' (did you mean growth?)"),
    ({"kind": 3}, "kind must be one of growth, spectrum, a function, package.module:function; got 3"),
    ({"kind": lambda parameters, seed: 0}, "kind must be a function that its module has by its name"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
def test_refused(change, message):
    with pytest.raises(ValueError) as error:
        Study(**{**GOOD, **change})
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("grid", "description", "message"),
    [
        ({"width": [4]}, {}, "at width=4: mlp needs depth: put it into the description or the grid"),
        ({"width": [4, 0]}, {"depth": 2}, "at width=0: "),
        ({"architecture": ["mlp", "vgg"]}, {"depth": 11, "width": 3}, "at architecture='vgg': an argument of vgg"),
        ({"init": ["he_normal", "he"]}, {"depth": 2, "width": 3}, "at init='he': init must be one of"),
        ({"batch": [1, 0]}, {"depth": 2, "width": 3}, "at batch=0: batch must be at least 1, got 0"),
        ({"method": ["conditonal"]}, {"depth": 2, "width": 3}, "(did you mean conditional?)"),
    ],
)
def test_points_that_make_no_network_are_named(grid, description, message):
    study = Study("growth", grid, 2, description)
    with pytest.raises(ValueError) as error:
        for index in range(study.points):
            study.sampler(index)
    assert message in str(error.value)


def test_functions_that_are_not_there(functions):
    for kind, message in (
        ("study_functions:normal", "'study_functions' has no function 'normal'"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
    ):
        with pytest.raises(ValueError, match=message):
            Study(kind, {"size": [1]}, 2).sampler(0)


@pytest.mark.parametrize("what", ["text", "table", "complex", "nothing"])
def test_functions_that_return_something_else(functions, what):
    with pytest.raises(ValueError, match="the function must return"):
        Study(functions.strange, {"what": [what]}, 2).sampler(0).draw(range(2))


@pytest.mark.parametrize("name", ["trial", "row_name", "name", "file", "allow_pickle", "", "a/b"])
def test_names_that_results_cannot_have(functions, name):
    """They are refused when drawn, as a chunk that fails, not after hours in the dataset or its file."""
    with pytest.raises(ValueError, match=f"a result of the function cannot be called '{name}'"):
        Study(functions.named, {"name": [name]}, 2).sampler(0).draw(range(2))


def test_functions_of_uneven_rows(functions):
    with pytest.raises(ValueError, match="same names and lengths in every trial"):
        Study(functions.uneven, {"any": [0]}, 9).sampler(0).draw(range(9))


@pytest.mark.parametrize("name", ["kind", "grid", "trials"])
def test_what_a_study_needs(name):
    with pytest.raises(ValueError, match=f"a study needs {name}, got "):
        Study.from_dict({key: value for key, value in GOOD.items() if key != name})


def test_differences_are_named_field_by_field():
    one = Study(**GOOD, description={"batch_norm": False}).to_dict()
    assert differences(one, one) == []
    other = Study("growth", {"width": [4], "depth": [2, 3], "gain": [1.0]}, 9, {"bias": 0.1}, seed=1).to_dict()
    assert differences(one, other) == [
        "grid.width [4, 8] became [4]",
        "grid.gain [1.0] is new",
        "trials 10 became 9",
        "description.batch_norm False is gone",
        "description.bias 0.1 is new",
        "seed 0 became 1",
    ]
    swapped = Study("growth", {"depth": [2, 3], "width": [4, 8]}, 10, {"batch_norm": False}).to_dict()
    assert differences(one, swapped) == ["the order of the axes width, depth became depth, width"]
    assert differences({"flag": True}, {"flag": 1}) == ["flag True became 1"]


def test_a_chunk_says_what_it_is():
    assert str(Chunk(3, 20, 10)) == "point 3, trials 20 to 29"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = 'growth'\ntrials = \n", "not TOML: Invalid value (at line 2, column 10)"),
        ("kind = 'growth'\ntrials = 3\n[gird]\nwidth = [3]\n", "got 'gird' (did you mean grid?)"),
        ("kind = 'growth'\ntrials = 0\n[grid]\nwidth = [3]\n", "trials must be at least 1, got 0"),
        ("kind = 'growth'\ntrials = 3\n[grid]\nwidth = [2026-01-01]\n", "axis width must be numbers"),
        ("kind = 'growth'\ntrials = 3\n[grid]\n", "grid must have at least one axis"),
        ("", "a study needs kind, got nothing"),
    ],
)
def test_study_files_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        sim.read_study(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value) and "\n" not in str(error.value)


def test_a_study_file_that_is_not_text(tmp_path):
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file in UTF-8"):
        sim.read_study(path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run_at_tiny_size(path, tmp_path):
    study = sim.read_study(path)
    assert {field for field in tomllib.loads(path.read_text())} >= {"kind", "trials", "grid"}
    tiny = dataclasses.replace(study, trials=3, chunk=2, grid={name: axis[:2] for name, axis in study.grid.items()})
    results = sim.run_study(tiny, tmp_path / "out")
    assert results.complete and all(
        len(arrays) and len(next(iter(arrays.values()))) == 3 for arrays in results.points()
    )


def test_what_the_finite_width_example_says(tmp_path):
    """Mean −5/2 and variance 5 times depth/width, up to 10%; 5 standard errors, false alarm 2e-6."""
    study = sim.read_study(next(path for path in EXAMPLES if path.stem == "finite_width"))
    small = dataclasses.replace(study, trials=1000, grid={"width": (64,), "depth": (50,)})
    values = next(sim.run_study(small, tmp_path / "out").points())["log_second_moment"][:, -1]
    assert abs(values.mean() + 2.5 * 50 / 64) < 0.1 * 2.5 * 50 / 64 + 5 * np.sqrt(5 * 50 / 64 / 1000)
    assert abs(values.var() - 5 * 50 / 64) < (0.1 + 5 * np.sqrt(2 / 1000)) * 5 * 50 / 64


def test_what_the_condition_number_example_says(tmp_path):
    """The growth from 64 to 256 matrices against digamma functions; 5 standard errors, false alarm 1e-6."""
    study = sim.read_study(next(path for path in EXAMPLES if path.stem == "condition_number"))
    small = dataclasses.replace(study, grid={"width": (8,), "depth": (64, 256)})
    found = [found[1] for found in sim.run_study(small, tmp_path / "out").estimates()]
    slope = (found[1].mean - found[0].mean) / 192
    error = np.hypot(found[0].standard_error, found[1].standard_error) / 192
    assert error < 0.02
    assert abs(slope - (digamma(4) - digamma(0.5)) / 2) < 5 * error


def test_there_are_examples():
    assert [path.stem for path in EXAMPLES] == [
        "batch_norm_batch_size",
        "condition_number",
        "finite_width",
        "relu_against_tanh",
    ]
