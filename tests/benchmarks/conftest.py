"""What the benchmarks share: times taken in turn, and floors that are recorded before they are judged."""

import statistics
import time

import pytest


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, help="at most so many rounds of every measurement, for a quick look")


@pytest.fixture
def seconds(request):
    """Median seconds of every call, over rounds in which the calls take turns."""
    at_most = request.config.getoption("--rounds", None)

    def once(call):
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun

    def measure(*calls, rounds=5):
        taken = [[once(call) for call in calls] for _ in range(min(rounds, at_most or rounds))]
        return [statistics.median(times) for times in zip(*taken, strict=True)]

    return measure


@pytest.fixture
def floor(record_property):
    """Record what was measured, in `unit`, and what is required of it; of reference / measured, if there is one.

    What is missed fails when the test is over, so that every number is in the table.
    """
    missed = []

    def record(words, measured, unit="s", reference=None, least=None, most=None):
        judged = float(measured if reference is None else reference / measured)
        required = {"least": least, "most": most}
        met = None if least is most is None else (least is None or judged >= least) and (most is None or judged <= most)
        numbers = {"measured": float(measured), "reference": reference and float(reference), **required, "met": met}
        record_property("floor", {"floor": words, "unit": unit, **numbers})
        if met is False:
            missed.append(f"{words}: {judged:.4g}, required {required}")

    yield record
    assert not missed, "; ".join(missed)
