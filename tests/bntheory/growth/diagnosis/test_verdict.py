"""Findings: number formats against sampled networks, causes against their numbers, remedies against predictions."""

import dataclasses
import json
import math

import numpy as np
import pytest

from bntheory import (
    BatchNorm,
    Conv,
    Dense,
    Join,
    LayerNorm,
    Residual,
    Sequential,
    activation,
    cnn,
    initialization,
    mlp,
    predict_growth,
    resnet,
    vgg,
)
from bntheory.growth.diagnosis import causes, remedies, verdict
from bntheory.growth.diagnosis.layer_trends import layer_rows, trend
from bntheory.growth.diagnosis.number_formats import FORMATS, first_overflow, first_underflow, overflow_probability
from bntheory.growth.infinite_width import batch_norm
from simulations.growth import simulate_growth

TRIALS = 1500
LIMIT = 300.0
HIGH = initialization("he_normal", gain=1.9)


def _largest_dense(rng, depth, width, residual=False):
    """(rows, trials): largest |h| of every row but the input's, with explicit weights."""
    h = rng.standard_normal((TRIALS, width, 1))
    h *= math.sqrt(width) / np.linalg.norm(h, axis=1, keepdims=True)
    found = []
    for _ in range(depth):
        weights = rng.standard_normal((TRIALS, width, width)) * HIGH.gain / math.sqrt(width)
        if residual:
            branch = np.maximum(h, 0)
            rows = [branch, weights @ branch, h + weights @ branch]
        else:
            rows = [weights @ h, np.maximum(weights @ h, 0)]
        h = rows[-1]
        found += [np.abs(row).max(axis=(1, 2)) for row in rows]
    return np.array(found)


def _largest_convolutional(rng, depth, channels, side):
    h = rng.standard_normal((TRIALS, channels, side, side))
    h /= np.sqrt(np.mean(h**2, axis=(1, 2, 3), keepdims=True))
    found = []
    for _ in range(depth):
        weights = rng.standard_normal((TRIALS, channels, 9 * channels)) * HIGH.gain / math.sqrt(9 * channels)
        padded = np.pad(h, ((0, 0), (0, 0), (1, 1), (1, 1)))
        places = [padded[:, :, i : i + side, j : j + side] for i in range(3) for j in range(3)]
        z = (weights @ np.concatenate(places, axis=1).reshape(TRIALS, 9 * channels, -1)).reshape(h.shape)
        h = np.maximum(z, 0)
        found += [np.abs(row).max(axis=(1, 2, 3)) for row in (z, h)]
    return np.array(found)


SAMPLED = {
    "narrow": (mlp(14, 8, init=HIGH), lambda rng: _largest_dense(rng, 14, 8)),
    "wide": (mlp(20, 32, init=HIGH), lambda rng: _largest_dense(rng, 20, 32)),
    "residual": (mlp(12, 24, init=HIGH, residual=True), lambda rng: _largest_dense(rng, 12, 24, residual=True)),
    "images": (cnn(22, 8, init=HIGH, image=(8, 4, 4)), lambda rng: _largest_convolutional(rng, 22, 8, 4)),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_overflow_against_explicit_weights(name):
    """0.05 for what the model leaves out, and 4 standard errors: false alarms below 1e-3 a network."""
    net, sample = SAMPLED[name]
    growth = predict_growth(net)
    share = (sample(np.random.default_rng(5)) > LIMIT).mean(axis=1)
    before = np.array([row.operation != "relu" for row in growth.rows[1:]])  # after relu no entry is larger
    predicted = overflow_probability(growth, math.log(LIMIT))
    assert (overflow_probability(growth, [[9.0], [math.log(LIMIT)]])[1, 0] == predicted).all()
    error = np.sqrt((share * (1 - share) + 1 / TRIALS) / TRIALS)
    assert share[before].max() > 0.02  # the test sees something
    assert (np.abs(predicted[1:] - share)[before] < 0.05 + 4 * error[before]).all()
    (row,) = first_overflow(growth, [math.log(LIMIT)])
    assert share[: row - 3].max() < 0.02 and share[row - 1 : row + 4].max() > 0.005


def test_formats_are_those_of_numpy():
    for name in ("float16", "float32"):
        info = np.finfo(name)
        assert math.exp(FORMATS[name].log_largest) == pytest.approx(float(info.max), rel=1e-12)
        assert math.exp(FORMATS[name].log_smallest) == pytest.approx(float(info.smallest_normal), rel=1e-12)
    assert math.exp(FORMATS["bfloat16"].log_largest) == pytest.approx(3.3895313892515355e38, rel=1e-12)
    assert FORMATS["bfloat16"].log_smallest == FORMATS["float32"].log_smallest


def test_a_limit_must_be_a_number():
    with pytest.raises(ValueError, match="log_limits must be finite, got nan"):
        overflow_probability(predict_growth(mlp(2, 4)), math.nan)


def test_underflow_is_that_of_the_typical_draw():
    net = mlp(80, 64, init="lecun_normal")
    growth = predict_growth(net, batch_size=8)
    (row,) = first_underflow(growth, [FORMATS["float16"].log_smallest])
    median = np.median(simulate_growth(net, trials=400, gradients=False).log_second_moment, axis=0) / 2
    limit = math.log(np.finfo("float16").smallest_normal)
    assert median[row + 2] < limit < median[row - 3]  # half a layer's factor, and ± 0.2 of 400 draws
    assert growth.findings()["range"].numbers["underflow"]["float16"] == str(row - 1)


def test_a_zero_network_neither_overflows_nor_underflows():
    growth = predict_growth(Sequential((Conv(4), BatchNorm(gamma=0)), (3, 4, 4)), batch_size=8)
    assert first_underflow(growth, [-2.0]) == [None] and first_overflow(growth, [5.0]) == [None]


def test_a_trend_is_taken_where_shapes_are_equal():
    growth = predict_growth(mlp(30, 16, residual=True, input_width=5))
    line = trend(growth.rows, growth.log_second_moment)
    assert line.layers == 29 and line.log_factor == pytest.approx(math.log(2), rel=1e-12)  # he doubles
    rows = predict_growth(vgg(16, channels=4, image=(3, 4, 4))).rows
    line = trend(rows, np.where(np.array([len(row.shape) for row in rows]) == 3, 0.1, np.nan) * np.arange(len(rows)))
    assert {rows[k].shape for k in layer_rows(rows) if line.first <= k <= line.last} == {rows[line.first].shape}
    assert line.layers == 5 and line.log_factor == pytest.approx(0.2)  # the last two stages


LOW, BATCH_NORM, SCALED, ZERO = remedies.REMEDIES
FINDINGS = {
    "low gain": (mlp(30, 64, init="lecun_normal"), "growth", "σ_w² = 1 is below 2, the critical", [LOW, BATCH_NORM]),
    "high gain": (mlp(60, 64, init=HIGH), "growth", "σ_w² = 3.61 is above 2, the critical", [LOW, BATCH_NORM]),
    "chaos": (mlp(120, 64, "tanh"), "gradients", "σ_w² = 2 is above 1, the critical value of tanh", [LOW]),
    "sums": (mlp(16, 64, residual=True), "growth", "multiplies the second moment by 2", [BATCH_NORM, SCALED, ZERO]),
    "BN": (mlp(30, 64, batch_norm=True), "gradients", "λ = 1.79 a layer at 8 numbers a unit", []),
    "padding": (cnn(140, 256, image=(3, 8, 8)), "growth", "zero padding keeps 0.921 of the", [BATCH_NORM]),
    "biases": (mlp(12, 64, init="torch_default"), "collapse", "biases are the same for all inputs, and σ_w²", [LOW]),
    "relu": (mlp(80, 512), "collapse", "relu brings the directions of inputs closer", [BATCH_NORM]),
    "narrow": (mlp(30, 4), "dead", "all 4 units of a layer are off with probability 2^−4", []),
    "spread": (mlp(60, 40), "spread", r"few units for the depth, Σ 1/width = 1\.5 over 60 layers", [BATCH_NORM]),
}


@pytest.fixture(scope="module", params=FINDINGS)
def case(request):
    net, *expected = FINDINGS[request.param]
    growth = predict_growth(net, batch_size=8)
    return growth, growth.findings(), *expected


def test_a_problem_has_its_cause_and_the_remedies_that_help(case):
    growth, found, kind, cause, names = case
    assert found[kind].problem and cause.replace("\\", "") in found[kind].cause
    assert [remedy.name for remedy in found[kind].remedies][: len(names)] == names
    assert f"  Cause: {found[kind].cause}." in growth.verdict().splitlines()


def test_every_remedy_was_predicted_and_solves_the_problem(case):
    growth, found, *_ = case
    predicted = {}
    for fact in found.facts:
        for remedy in fact.remedies:
            if remedy.name not in predicted:
                predicted[remedy.name] = verdict._facts(predict_growth(remedy.net, batch_size=8))
            again = {other.kind: other for other in predicted[remedy.name]}
            assert remedy.net == remedies.REMEDIES[remedy.name](growth.question.net) != growth.question.net
            assert fact.problem and not again[fact.kind].problem
            assert remedy.before == fact.measure and remedy.after == pytest.approx(again[fact.kind].measure, abs=1e-9)
            new = {kind for kind, other in again.items() if other.problem and not found[kind].problem}
            assert set(remedy.creates) <= new  # without distances a collapse is not seen


def test_findings_are_plain_data_and_a_line_a_fact(case):
    _, found, *_ = case
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [fact["kind"] for fact in data["facts"]] == [fact.kind for fact in found.facts]
    lines = str(found).splitlines()
    assert all(line.endswith(".") and len(line) < 200 for line in lines)
    assert sum(not line.startswith("  ") for line in lines) <= len(found.facts)


def test_numbers_a_layer_are_those_of_the_laws():
    found = predict_growth(mlp(40, 64, batch_norm=True), batch_size=8).findings()
    rate = batch_norm.growth_rate(mlp(1, 1).layers[1], 8)
    assert found["gradients"].numbers["log_per_layer"] == pytest.approx(math.log(rate), rel=1e-3)
    found = predict_growth(cnn(60, 32, image=(3, 8, 8))).findings()
    kept = ((1 + 2 * math.cos(math.pi / 9)) / 3) ** 2  # of the leading mode on 8×8
    assert found["growth"].numbers["log_per_layer"] == pytest.approx(math.log(kept), rel=1e-2)


def test_a_price_is_named():
    found = predict_growth(mlp(60, 1024), batch_size=8).findings()["collapse"]
    assert found.remedies[0].name == BATCH_NORM and found.remedies[0].creates == ("gradients",)
    assert str(found).endswith("but gradients change by more than a factor 100.")


def test_a_healthy_network_costs_no_prediction(monkeypatch):
    growth = predict_growth(mlp(5, 256))
    monkeypatch.setattr("bntheory.growth.prediction.predict_growth", None)
    found = growth.findings()
    assert found.problems == () and found.untried == ""
    assert growth.verdict().count("\n") == 1


def test_what_would_take_long_is_not_tried(monkeypatch):
    growth = predict_growth(mlp(30, 64, init="lecun_normal"))
    monkeypatch.setattr("bntheory.growth.prediction.predict_growth", None)
    monkeypatch.setattr(verdict, "SECONDS", 0.0)
    found = growth.findings()
    assert not any(fact.remedies for fact in found.facts)
    assert growth.verdict().endswith(f"Not tried, because the prediction would take long: {LOW}, {BATCH_NORM}.")


def test_no_rule_is_said_first():
    growth = predict_growth(mlp(2, 8, batch_norm=True), batch_size=8, covariances=False)
    first, second, *_ = growth.verdict().splitlines()
    assert first == "No rule for BatchNorm (row 1): nothing is predicted from there on."
    assert second == "The second moment grows by a factor 2 over 1 layer, to row 0 (exact)."
    assert growth.findings()["unsupported"].numbers == {"row": "1"}


def test_a_single_input_has_no_batch_norm():
    for given in ({"batch_size": 1}, {"inputs": np.ones((1, 8)) + np.eye(8)[:1]}):
        found = predict_growth(mlp(20, 8, init="lecun_normal"), **given).findings()
        assert [remedy.name for remedy in found["growth"].remedies] == [LOW] and found.untried == ""


NETS = [
    mlp(3, 8, "tanh", "torch_default"),
    mlp(3, 8, residual=True, input_width=4),
    mlp(3, 8, layer_norm=True),
    resnet(14),
    resnet(8, shortcut="zero-pad", activation="tanh"),
    vgg(11),
    cnn(3, bias=0.1, classes=10),
    Sequential((Conv(4), Join(((), (BatchNorm(), activation("relu"), Conv(4), activation("relu"))))), (3, 4, 4)),
]


@pytest.mark.parametrize("change", remedies.REMEDIES.values(), ids=remedies.REMEDIES)
@pytest.mark.parametrize("net", NETS, ids=str)
def test_a_remedy_changes_nothing_twice(change, net):
    once = change(net)
    assert change(once) == once and once.input_shape == net.input_shape


def test_remedies_are_what_the_builders_make():
    assert remedies.with_batch_norm(resnet(14)) == resnet(14, batch_norm=True)
    zero_pad = {"shortcut": "zero-pad", "activation": "tanh"}
    assert remedies.with_batch_norm(resnet(8, **zero_pad)) == resnet(8, batch_norm=True, **zero_pad)
    assert remedies.with_batch_norm(vgg(16)) == vgg(16, batch_norm=True)
    assert remedies.with_batch_norm(cnn(4, classes=3)) == cnn(4, classes=3, batch_norm=True)
    assert remedies.with_batch_norm(mlp(4, 8)) == mlp(4, 8, batch_norm=True)
    assert remedies.with_batch_norm(mlp(4, 8, residual=True)) == mlp(4, 8, batch_norm=True, residual=True)
    assert remedies.with_critical_gain(mlp(4, 8)) == mlp(4, 8)
    assert remedies.with_critical_gain(mlp(4, 8, init="torch_default", bias=0.1)).layers[0].bias == 0
    assert remedies.with_critical_gain(mlp(4, 8, "softplus")) == mlp(4, 8, "softplus")  # it has none
    gain = {
        layer.init.gain for layer in remedies.flat(remedies.with_critical_gain(resnet(8))) if hasattr(layer, "init")
    }
    assert list(gain) == pytest.approx([math.sqrt(2)])


def test_layers_in_branches_are_changed_too_and_counted_by_what_they_read():
    """σ_w² of a Dense layer of 64 inputs is read off its own, not the row before it, which has 2 units."""
    branches = ((Dense(2, "lecun_normal"), activation("tanh")), (Dense(8, "lecun_normal"), activation("tanh")))
    net = Sequential((Join(branches), Dense(64, "lecun_normal")), (64,))
    assert len(list(remedies.flat(net))) == 5 and remedies.blocks(Residual((net.layers[0],))) == 1
    changed = remedies.with_batch_norm(net)
    assert [str(layer) for layer in changed.layers[0].branches[1].layers] == [
        "Dense(8, lecun_normal)",
        "BatchNorm",
        "tanh",
    ]
    shapes = [shape for shape, _ in causes._weights(predict_growth(net))]
    assert shapes == [(64,), (64,), (10,)]
    growth = predict_growth(Sequential((Dense(64, "he_normal"), Join(((), (Dense(64),))), *([Dense(128)] * 30)), (64,)))
    assert growth.findings()["growth"].problem


def test_no_cause_is_named_where_branches_join():
    """Neither that BatchNorm has no shortcuts, nor padding or gains alone, is why."""
    block = Join(((), (BatchNorm(), activation("relu"), Conv(4))))
    dense = predict_growth(Sequential((Conv(4), *[block] * 8), (3, 4, 4)), batch_size=8)
    assert dense.findings()["gradients"].cause == dense.findings()["growth"].cause == ""
    gated = Join(((), (Conv(4, bias=0.0), activation("sigmoid"))), "product")
    shrinking = predict_growth(Sequential((Conv(4), gated) * 12, (3, 4, 4)), batch_size=8, covariances=False)
    assert shrinking.findings()["growth"].cause == ""


def test_scaled_and_zero_branches_do_what_they_should():
    net = mlp(20, 64, residual=True)
    scaled = predict_growth(remedies.with_scaled_branches(net)).log_second_moment[-1]
    assert scaled == pytest.approx(20 * math.log1p(1 / 20), rel=1e-9)
    zero = predict_growth(remedies.with_zero_branches(net), batch_size=16)
    assert zero.log_second_moment[[k for k, name in enumerate(zero.name) if "sum" in name]] == pytest.approx(
        0, abs=1e-9
    )


def test_tables():
    lines = predict_growth(mlp(100, 64)).table().splitlines()
    assert len(lines) == 1 + 12 + 1 + 12 and "ln grad²" in lines[0]
    growth = predict_growth(mlp(2, 64))
    band = dataclasses.replace(growth._band, p_dead=np.full(5, np.nan))
    unknown = dataclasses.replace(growth, _band_rule=lambda: band)
    assert all(line.split().count("·") == 1 for line in unknown.table().splitlines()[1:])
    assert "·" not in growth.table()
    rows = predict_growth(mlp(2, 8, init="lecun_normal"))
    head, *lines = rows.table().splitlines()
    column = head.index("ln grad²") + len("ln grad²")
    assert [float(line[:column].split()[-1]) for line in lines] == pytest.approx(rows.log_gradient, abs=1e-3)


RELU = activation("relu")
ONE = np.random.default_rng(1).standard_normal(8)


@pytest.mark.parametrize(
    "net, inputs",
    [(mlp(3, 8), np.stack([ONE, 2 * ONE])), (mlp(3, 8, bias=0.1, input_width=1), np.array([[1.0], [2.0]]))],
    ids=["no collapse", "collapse"],
)
def test_parallel_inputs_have_no_distance_to_lose(net, inputs):
    growth = predict_growth(net, inputs)
    assert growth.log_cosine_distance[0] == -math.inf
    assert growth.verdict()
    if "collapse" in growth.findings():
        found = growth.findings()["collapse"]
        assert not found.problem and found.numbers["log_input"] is None and "0 at the input" in found.sentence
    json.dumps(growth.findings().to_dict(), allow_nan=False)


def test_one_image_has_no_pairs():
    net = Sequential((Conv(4, 1, stride=2), RELU, Conv(3), RELU), (2, 3, 3))
    found = predict_growth(net, np.random.default_rng(1).standard_normal((1, 2, 3, 3))).findings()
    assert "collapse" not in found and str(found)


@pytest.mark.parametrize(
    "net, inputs, cause",
    [
        (Sequential((Dense(8), RELU, Dense(8), BatchNorm(gamma=0)), (8,)), None, "a BatchNorm with gamma=0 (row 3)"),
        (Sequential((Dense(8), BatchNorm(gamma=0), activation("tanh"), Dense(8)), (8,)), None, "gamma=0 (row 1)"),
        (Sequential((Conv(8), BatchNorm(gamma=0), activation("tanh"), Conv(8), BatchNorm()), (2, 3, 3)), None, "row 1"),
        (mlp(2, 8, batch_norm=True), np.stack([ONE] * 4), "BatchNorm (row 1) subtracts the mean of numbers"),
        (Sequential((LayerNorm(), Conv(4), RELU), (1, 1, 1)), np.array([1.0, 2, 3]).reshape(3, 1, 1, 1), "LayerNorm"),
    ],
    ids=["gamma", "gamma inside", "gamma of maps", "equal inputs", "one number"],
)
def test_an_output_that_is_zero_is_called_so(net, inputs, cause):
    growth = predict_growth(net, inputs, batch_size=8 if inputs is None else None)
    with pytest.warns(RuntimeWarning, match="dead in every one of 20 trials"):
        simulate_growth(net, trials=20, inputs=inputs, batch=8 if inputs is None else None, gradients=False)
    found = growth.findings()
    assert [fact.kind for fact in found.problems] == ["growth"] and "exactly zero" in found["growth"].sentence
    assert cause in found["growth"].cause and "off" not in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("batch, named", [(2, False), (3, False), (4, True)])
def test_a_factor_that_is_zero_or_infinite_is_no_cause(batch, named):
    found = predict_growth(mlp(3, 4, batch_norm=True), batch_size=batch).findings()
    assert ("λ" in found["gradients"].cause) is named


def test_number_formats_of_rows_that_are_zero():
    """A row of zeros exceeds no limit; a row far above does surely."""
    net = Sequential((Dense(8, initialization("he_normal", gain=1e9)), BatchNorm(gamma=0), Dense(8)), (8,))
    growth = predict_growth(net, batch_size=8)
    np.testing.assert_allclose(overflow_probability(growth, math.log(65504)), [0, 1, 0, 0], atol=1e-9)
    assert predict_growth(resnet(8, init=initialization("he_normal", gain=1e4), image=(2, 4, 4))).verdict()
