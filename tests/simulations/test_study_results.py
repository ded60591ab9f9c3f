"""What a study has found: estimates, datasets, tables, NetCDF; complete, half done and failed."""

import json
import math

import numpy as np
import pytest
import xarray

import simulations as sim
from bntheory import mlp
from simulations.store import Store, writing
from simulations.study import Chunk, Study
from simulations.study_results import StudyResults
from simulations.study_run import run_study

GROWTH = Study("growth", {"activation": ["relu", "tanh"], "depth": [1, 3]}, 12, {"width": 6}, chunk=5, seed=4)


@pytest.fixture
def growth(tmp_path):
    return run_study(GROWTH, tmp_path / "growth")


def test_points_are_the_trials_in_order(growth):
    for index, arrays in enumerate(growth.points()):
        drawn = growth.study.sampler(index).draw(range(12))
        assert set(arrays) == set(drawn)
        assert all(np.array_equal(arrays[name], drawn[name], equal_nan=True) for name in drawn)


def test_estimates_are_means_and_standard_errors(growth):
    for arrays, found in zip(growth.points(), growth.estimates(), strict=True):
        assert [one.quantity for one in found] == ["ln⟨h²⟩ at the end", "ln gradient² at the input"]
        for one, values in zip(found, (arrays["log_second_moment"][:, -1], arrays["log_gradient"][:, 0]), strict=True):
            values = values[np.isfinite(values)]
            assert one.trials == len(values)
            assert one.mean == pytest.approx(sum(values) / len(values), rel=1e-13)
            deviations = [(value - one.mean) ** 2 for value in values]
            error = math.sqrt(sum(deviations) / (len(values) - 1) / len(values))
            assert one.standard_error == pytest.approx(error, rel=1e-12)
    lines = growth.table().splitlines()
    assert len(lines) == 4 and lines[1].startswith("activation relu  depth 3   ln⟨h²⟩ at the end ")


def test_estimates_of_spectra_leave_out_exact_zeros(tmp_path):
    """Condition numbers against the singular values that NumPy finds in a product of given matrices' size."""
    results = run_study(Study("spectrum", {"width": [4]}, 40, {"depth": 2}, seed=1), tmp_path)
    logs = next(results.points())["log_singular_value"]
    largest, condition = results.estimates()[0]
    nonzero = [row[np.isfinite(row)] for row in logs]
    assert any(len(row) < 4 for row in nonzero)  # relu masks make zeros
    expected = [row[0] - row[-1] for row in nonzero if len(row)]
    assert condition.trials == len(expected) and condition.mean == pytest.approx(np.mean(expected), rel=1e-13)
    assert largest.mean == pytest.approx(np.mean([row[0] for row in nonzero if len(row)]), rel=1e-13)


def test_half_a_study(functions, tmp_path):
    study = Study(functions.normals, {"size": [3, 4, 5]}, 10, chunk=4)
    with writing(study, tmp_path / "half") as there:
        for chunk in (Chunk(0, 0, 4), Chunk(0, 8, 2), Chunk(2, 4, 4)):
            there.write(chunk, study.sampler(chunk.point).draw(range(chunk.first, chunk.first + chunk.trials)))
        results = StudyResults(tmp_path / "half")  # while it is being written
        assert results.status() == "3 of 9 chunks are finished." and not results.complete
        assert [len(arrays.get("value", ())) for arrays in results.points()] == [6, 0, 4]
        assert results.table().splitlines()[1] == "size 4   nothing yet"
        assert [point["estimates"].get("value", {}).get("trials") for point in results.to_dict()["points"]] == [
            6,
            None,
            4,
        ]
    one_trial = Study(functions.normals, {"size": [3]}, 1)
    plain = run_study(one_trial, tmp_path / "one").to_dict()["points"][0]["estimates"]["value"]
    assert plain["trials"] == 1 and plain["standard_error"] is None
    json.dumps(results.to_dict(), allow_nan=False)


def test_dataset_has_the_axes_and_pads_with_nan(growth):
    dataset = growth.dataset()
    assert dict(dataset.sizes) == {"activation": 2, "depth": 2, "trial": 12, "row": 7}
    for index, arrays in enumerate(growth.points()):
        place = dataset.sel(growth.study.point(index))
        for name, values in arrays.items():
            assert np.array_equal(place[name][:, : values.shape[1]], values, equal_nan=True)
            assert np.isnan(place[name][:, values.shape[1] :]).all()
    short = [*map(str, dataset.row_name.sel(activation="relu", depth=1).values)]
    expected = sim.simulate_growth(mlp(1, 6), 1, gradients=False).name
    assert short == [*expected, *[""] * (7 - len(expected))]


def test_attributes_suffice_to_repeat_it(growth, tmp_path):
    study = Study.from_dict(json.loads(growth.dataset().attrs["study"]))
    again = run_study(study, tmp_path / "again").dataset()
    assert again.identical(growth.dataset())
    assert json.loads(again.attrs["environment"])["numpy"] == np.__version__
    assert again.attrs["seed"] == "4" and again.attrs["chunks_finished"] == again.attrs["chunks"] == 12


def test_netcdf_keeps_every_bit(growth, tmp_path):
    growth.to_netcdf(tmp_path / "results.nc")
    with xarray.open_dataset(tmp_path / "results.nc", engine="h5netcdf") as read:
        assert read.load().equals(growth.dataset()) and read.attrs == growth.dataset().attrs
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["results.nc"]


def test_netcdf_is_written_whole_or_not_at_all(growth, tmp_path, monkeypatch):
    growth.to_netcdf(tmp_path / "results.nc")
    before = (tmp_path / "results.nc").read_bytes()

    def torn(self, path, engine):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", torn)
    with pytest.raises(OSError, match="disk full"):
        growth.to_netcdf(tmp_path / "results.nc")
    assert (tmp_path / "results.nc").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["results.nc"]


def test_dataframe_has_a_line_for_what_is_there(growth):
    frame = growth.to_dataframe()
    assert len(frame) == 2 * 12 * (3 + 7)
    one = frame.loc[("tanh", 3, 11, 6), "log_second_moment"]
    assert one == [*growth.points()][3]["log_second_moment"][11, 6]


def test_axes_of_shapes_and_flags_are_words(functions, tmp_path):
    grid = {"image": [[3, 8, 8], [1, 4, 4]], "flag": [True, False], "big": [1, 2**64], "size": [2], "scale": [1, 0.5]}
    results = run_study(Study(functions.normals, grid, 2), tmp_path / "study")
    dataset = results.dataset()
    assert dataset.image.values.tolist() == ["3×8×8", "1×4×4"] and dataset.flag.values.tolist() == ["True", "False"]
    assert dataset.big.values.tolist() == ["1", str(2**64)] and dataset.scale.values.tolist() == [1.0, 0.5]
    results.to_netcdf(tmp_path / "words.nc")


def test_an_empty_study_reads_as_empty(tmp_path):
    with writing(GROWTH, tmp_path / "empty"):
        pass
    results = StudyResults(tmp_path / "empty")
    assert results.status() == "0 of 12 chunks are finished." and not any(results.points())
    assert not results.dataset().data_vars and results.dataset().sizes["trial"] == 12
    assert Store(tmp_path / "empty").study == GROWTH
