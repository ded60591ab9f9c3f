import copy
import math

import pytest

from paper_figures import appendix_last_layer as last
from paper_figures import claims
from paper_figures.verdicts import NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED


@pytest.fixture
def data():
    return last.compute()


def verdicts(data):
    found = claims.claims({"appendix_last_layer": data})
    return [claim.verdict for claim in found if claim.verdict != NOT_TESTABLE]


def test_three_seeds_at_every_rate(data):
    assert data["depths"] == [20, 56, 110]
    for depth in data["depths"]:
        for norm in last.NORMS:
            tested = data[depth][norm]["tested"]
            rates = {20: 8, 56: 8, 110: 7}[depth] if norm == "last" else 12
            assert len(tested) == rates and {len(each) for each in tested.values()} == {3}


def test_numbers_from_a_table():
    """By hand: rates 10^k, of seed 0 up to 0.1 and of seed 1 up to 0.001."""
    tested = {0.001: [0.9, 0.8], 0.01: [1.0, 0.4], 0.1: [0.5, 0.1], 1.0: [0.0, 0.0]}
    assert last.largest(tested) == [0.1, 0.001]
    assert last.typical(last.largest(tested)) == (pytest.approx(0.01), 2)
    assert last.best(tested) == (0.001, pytest.approx(0.85), pytest.approx(0.05))
    never = {0.1: [0.1, 0.6]}
    assert last.largest(never) == [None, 0.1] and last.typical(last.largest(never)) == (pytest.approx(0.1), 1)
    assert math.isnan(last.typical(last.largest({0.1: [0.1]}))[0])


def test_shares_of_what_bn_in_all_layers_gains():
    rows = {"none": {1e-4: [0.6, 0.6]}, "last": {1e-3: [0.8, 0.8]}, "all": {1e-1: [0.9, 0.9]}}
    data = {110: {norm: {"tested": tested} for norm, tested in rows.items()}}
    assert last.shares(data, 110) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_checks_pass_and_a_picture_is_drawn(data):
    assert all(check.passed for check in last.check(data))
    assert verdicts(data) == [REPRODUCED, REPRODUCED]
    assert len(last.draw(data).axes) == 4


def test_networks_that_gain_nothing_are_noticed(data):
    wrong = copy.deepcopy(data)
    wrong[110]["last"] = wrong[110]["none"]
    assert [check.passed for check in last.check(wrong)] == [True, False]  # as large a rate, and no gain
    assert verdicts(wrong) == [NOT_REPRODUCED, NOT_REPRODUCED]
    wrong[110]["last"] = {"tested": {1e-5: [0.6] * 3}}
    assert not last.check(wrong)[0].passed
