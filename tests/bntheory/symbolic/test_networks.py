"""Exact laws of networks against the numeric ones, whose rules are others."""

import pytest
from sympy import Rational

import bntheory as bn
from bntheory.symbolic import derivation, edges, factors, law, moments, scaled

RELU = bn.activation("relu")
NETWORKS = {
    "relu": bn.mlp(3, 64),
    "widths": bn.mlp(3, 100, input_width=784, output_width=10),
    "wide output": bn.mlp(1, 6, input_width=4, output_width=20, init="lecun_uniform"),
    "linear": bn.mlp(3, 7, activation="linear", init="torch_default"),
    "orthogonal": bn.mlp(3, 8, input_width=5, init="orthogonal"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_moments_and_edges_are_those_of_the_numeric_law(name):
    numeric, exact = bn.jacobian_law(NETWORKS[name]), law(factors(NETWORKS[name]))
    expected = [numeric.moment(k) for k in range(1, 5)]
    assert [float(moment) for moment in moments(exact, 4)] == pytest.approx(expected, rel=1e-12)
    assert [float(edge) for edge in edges(exact)] == pytest.approx(numeric.support, rel=1e-9, abs=1e-15)


def test_a_scale_multiplies_eigenvalues():
    assert moments(scaled(law(factors(bn.mlp(2, 64))), "1/2"), 3) == [Rational(1, 2), Rational(5, 4), Rational(33, 8)]


def test_edges_without_closed_form_are_numbers():
    lower, upper = derivation(law(factors(NETWORKS["widths"])), 1).splitlines()[-1].removeprefix("edges: ").split(", ")
    numeric = bn.jacobian_law(NETWORKS["widths"]).support
    assert [float(text.removeprefix("about ")) for text in (lower, upper)] == pytest.approx(numeric, rel=1e-12)


@pytest.mark.parametrize(
    ("net", "row"),
    [
        (bn.mlp(2, 8, activation="tanh"), r"row 1 \(tanh\)"),
        (bn.mlp(2, 8, residual=True), r"row 0.branch.0 \(relu\)"),
        (bn.mlp(2, 8, batch_norm=True), "BatchNorm"),
        (bn.Sequential((bn.Dense(8), RELU, RELU), (8,)), r"row 2 \(relu\)"),
        (bn.Sequential((bn.Flatten(),), (8,)), "without Dense layers"),
    ],
)
def test_what_has_no_exact_law_is_named(net, row):
    with pytest.raises(ValueError, match=f"no exact derivation .*{row}"):
        factors(net)
