"""The explorer's tables against theory asked directly, on their nodes and between them."""

import json
import math

import numpy as np
import pytest

from bntheory import edge_of_chaos, jacobian_law, phase
from paper_figures.explorer import phases, spectra
from paper_figures.explorer.choices import GAINS, INITIALIZATIONS
from paper_figures.explorer.fragment import fragment
from paper_figures.explorer.growth import Kind, growth_tables, moments, offsets
from paper_figures.explorer.tables import Table

OTHERS = (("relu", True), ("tanh", False))
CLOSE = 1e-3  # of an axis, which shows a factor of e⁴ at least


def axis(*curves):
    known = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    return max(np.ptp(known), 4.0)


def relative(sizes):
    """Gradients relative to the last row's."""
    return np.array([sizes[0], sizes[1] - sizes[1][-1]])


@pytest.mark.parametrize("x", [1.0, 1.7, 2.6, 4.4, 6.0])
def test_cubics_are_read_exactly_and_missing_numbers_linearly(x):
    nodes = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    cubic = Table({"place": nodes}, np.array([[node**3, 2 * node] for node in nodes]))
    assert cubic.at(place=x) == pytest.approx([x**3, 2 * x], rel=1e-12)
    holed = Table({"place": nodes}, np.where(np.array(nodes) == 1, np.nan, np.array(nodes)))
    assert math.isnan(holed.at(place=1.5))
    assert holed.at(place=2.5) == pytest.approx(2.5)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("gain", "width", "depth"), [(math.sqrt(2), 128, 9), (math.sqrt(2), 71, 4), (math.sqrt(1 / 3), 700, 7)]
)
def test_growth(explored, activation, batch_norm, residual, gain, width, depth):
    kind = Kind(activation, batch_norm, residual)
    found, point = explored["growth"][kind.key], {"gain": gain, "width": width}
    direct = kind.predicted("normal", gain, depth, width)
    (moment, whole), (true_moment, true_gradient) = found["normal"]["moments"].at(**point), moments(direct)
    assert moment[: depth + 1] == pytest.approx(true_moment, abs=CLOSE * axis(true_moment))
    band, true_band = found["normal"]["offsets"].at(**point)[:, : depth + 1], offsets(direct)
    both = np.isfinite(band)
    assert np.isfinite(true_band[both]).all() and both[:, :2].all()
    assert band[both] == pytest.approx(true_band[both], abs=CLOSE * axis(*(true_moment + true_band)))
    gradient = whole[:depth] - whole[depth]
    if batch_norm:
        gradient += [found["ends"].at(gain=gain, depth=depth, place=layer / depth) for layer in range(depth)]
    assert gradient == pytest.approx(true_gradient[:-1], abs=CLOSE * axis(true_gradient))


@pytest.mark.parametrize("width", [19, 333])
def test_torch_default_depends_on_the_width(explored, width):
    kind = Kind("tanh", False, False)
    tables, direct = explored["growth"][kind.key]["torch_default"], kind.predicted("torch_default", 1.0, 9, width)
    assert relative(tables["moments"].at(width=width)) == pytest.approx(moments(direct), abs=CLOSE * 4)
    assert tables["offsets"].at(width=width) == pytest.approx(offsets(direct), abs=CLOSE * 4)


@pytest.mark.parametrize(("activation", "gain"), [("relu", 1.2), ("tanh", 1.0)])
def test_growth_of_the_deepest_networks(activation, gain):
    kind, depth = Kind(activation, False, False), 100
    tables = growth_tables(kind, (gain, 2.0), depth)["normal"]
    for width in (18, 2500):
        direct = kind.predicted("normal", gain, depth, width)
        moment = moments(direct)
        scale = axis(*(moment[0] + offsets(direct)))
        assert relative(tables["moments"].at(gain=gain)) == pytest.approx(moment, abs=CLOSE * scale)
        assert tables["offsets"].at(gain=gain, width=width) == pytest.approx(offsets(direct), abs=CLOSE * scale)


def test_orthogonal_and_normal_weights_have_the_same_moments():
    kind = Kind("tanh", False, False)
    made = [moments(kind.predicted(init, 1.2, 5, 64)) for init in ("orthogonal", "normal")]
    assert made[0] == pytest.approx(made[1], abs=1e-9)
    assert np.isnan(offsets(kind.predicted("orthogonal", 1.2, 5, 64))[:, -1]).all()


@pytest.mark.parametrize(
    ("activation", "residual", "gain", "depth"),
    [("relu", False, 1.0, 7), ("relu", False, math.sqrt(2), 3), *((*kind, math.sqrt(2), 7) for kind in OTHERS)],
)
def test_spectrum(explored, activation, residual, gain, depth):
    kind = Kind(activation, False, residual)
    tables = explored["spectrum"][kind.key]
    edge, reach, *density = tables["curves"].at(gain=gain, depth=depth)
    law = jacobian_law(kind.net("normal", gain, depth, 64)).nonzero.singular
    assert law.ppf(1.0) == pytest.approx(math.exp(edge), rel=CLOSE)
    points = np.exp(edge - reach * spectra.PLACES[1:])
    true = points * law.pdf(points)  # of ln s; the root at the edge is steep: 1e-3 of the axis along either
    assert np.abs(np.array(density)[1:] - true).max() < 5 * CLOSE * true.max()
    assert law.cdf(points[-1]) == pytest.approx(spectra.LOWEST, abs=CLOSE)
    assert tables["zeros"] == (0.5 if activation == "relu" and not residual else 0)


def test_what_has_no_law_says_so(explored):
    assert "BatchNorm" in explored["spectrum"]["relu+bn"]["why"]
    assert "bntheory spectrum --activation tanh --residual" in explored["spectrum"]["tanh+residual"]["why"]


def test_phases(explored):
    diagram = explored["phase"]["tanh"]
    w, b = phases.WEIGHTS[20], phases.BIASES[6]
    assert diagram["cells"][6, 20] == pytest.approx(phase("tanh", w**2, b**2).depth_c)
    assert diagram["edge"] ** 2 == pytest.approx(edge_of_chaos("tanh", phases.LEVELS**2))
    for width in (20, 555):
        found = phase("tanh", 1 / 3, 1 / 3 / width)
        place = diagram["torch_default"].at(width=width)
        want = (math.sqrt(1 / 3), math.sqrt(1 / 3 / width), found.chi, 1 / found.depth_c)
        assert place == pytest.approx(want, rel=CLOSE)


def test_fragment_is_whole_and_names_what_may_be_chosen(explored):
    text = fragment(explored)
    kept = [name for name, (_, gain) in INITIALIZATIONS.items() if gain is None or gain in explored["gains"]]
    assert kept == ["he_normal", "torch_default", "orthogonal", "normal"]
    assert [name for name in INITIALIZATIONS if f'value="{name}"' in text] == kept
    assert {gain for _, gain in INITIALIZATIONS.values() if gain is not None} <= set(GAINS)
    data = text.split('id="explorer-tables">')[1].split("</script>")[0]
    assert {"growth", "spectrum", "phase", "initializations"} <= set(json.loads(data))
    assert "http" not in text
