"""The example studies: every command runs, the page shows what the files give, and that agrees with theory."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

import simulations as sim
from bntheory import mlp, predict_growth

FOLDER = Path(__file__).parents[1] / "docs" / "studies"
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
OUTPUTS = dict(re.findall(r"\$ bntheory simulate docs/studies/(\w+)\.toml --out \w+\n(.*?)```", TEXT, re.S))
NUMBER = r"(-?[\d.]+) ± ([\d.]+) \(\d+\)"


def lines(name):
    """What the page shows of a study: a line a point."""
    return OUTPUTS[name].split("\n\n")[0].splitlines()


def numbers(line):
    """The estimates of a line with their standard errors."""
    return [(float(mean), float(error)) for mean, error in re.findall(NUMBER, line)]


def test_every_study_is_on_the_page():
    assert sorted(OUTPUTS) == sorted(path.stem for path in FOLDER.glob("*.toml"))
    for name in OUTPUTS:
        assert len(lines(name)) == sim.read_study(FOLDER / f"{name}.toml").points


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_command_runs_with_fewer_trials(run, name):
    """Two at every point: the same points and quantities, in the same words."""
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    Path("docs/studies").mkdir(parents=True)
    Path(f"docs/studies/{name}.toml").write_text(re.sub(r"trials = \d+", "trials = 2", text), encoding="utf-8")
    status, output, errors = run("simulate", f"docs/studies/{name}.toml", "--out", name)
    assert (status, errors) == (0, "")

    def words(shown):
        return [re.sub(r"-?[\d.]+ ± [\d.]+ \(\d+\)", "", line) for line in shown]

    assert words(output.split("\n\n")[0].splitlines()) == words(lines(name))


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_first_point_of_the_page_is_found_again(name, tmp_path):
    study = sim.read_study(FOLDER / f"{name}.toml")
    first = dataclasses.replace(study, grid={axis: values[:1] for axis, values in study.grid.items()})
    assert sim.run_study(first, tmp_path / "out").table().split() == lines(name)[0].split()


def test_relu_against_tanh_agrees_with_theory():
    """Typical activations and gradients of all twelve points; 4.5 standard errors, false alarm 2e-4 in all."""
    study = sim.read_study(FOLDER / "relu_against_tanh.toml")
    for point, line in enumerate(lines("relu_against_tanh")):
        growth = predict_growth(mlp(**study.parameters(point)))
        expected = growth.log_growth_mean[-1], growth.log_gradient_mean[0]
        for (found, error), theory in zip(numbers(line), expected, strict=True):
            assert abs(found - theory) < 4.5 * error, line


def relu_growth(batch):
    """Growth of the squared gradient a BN-ReLU layer at infinite width, ε = 0 (Yang et al. 2019), for B > 3."""
    rho = -1 / (batch - 1)
    angle = math.pi - math.acos(rho)
    k1, p = (math.sqrt(1 - rho**2) + rho * angle) / (2 * math.pi), angle / (2 * math.pi)
    bracket = (batch - 3) / 2 + 1 / batch + (batch - 1) / batch * (p + k1)
    return batch / ((batch - 1) * (batch - 3) * (0.5 - k1)) * bracket


def test_batch_norm_agrees_with_theory():
    """Growth from depth 10 to 30 of plain networks, in logarithms within 1% and 4.5 standard errors; not at B = 4."""
    study, gradients = sim.read_study(FOLDER / "batch_norm_batch_size.toml"), {}
    for index, line in enumerate(lines("batch_norm_batch_size")):
        point = study.point(index)
        gradients[point["residual"], point["batch"], point["depth"]] = numbers(line)[1]
    for batch in (8, 16, 32, 64):
        (low, first), (high, second) = (gradients[False, batch, depth] for depth in (10, 30))
        expected = math.log(relu_growth(batch))
        assert abs((high - low) / 20 - expected) < 0.01 * expected + 4.5 * math.hypot(first, second) / 20
    assert 1 < (gradients[False, 4, 30][0] - gradients[False, 4, 10][0]) / 20 < math.log(relu_growth(4))
    growth = [gradients[True, batch, 30][0] - gradients[True, batch, 10][0] for batch in (4, 8, 16, 32, 64)]
    assert growth == sorted(growth, reverse=True) and growth[0] < 4 and growth[-1] > 1
