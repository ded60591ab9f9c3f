"""Run all benchmarks and print one table: what is required, what was measured, whether it is met.

    python tests/benchmarks/table.py [--out docs] [words for pytest, as -k study or --rounds 1]

Writes benchmarks.json and the same table as benchmarks.md. Exit status 1 if a floor is missed or a benchmark fails.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time

import pytest

from simulations.ensemble import cores
from simulations.store import environment

HERE = pathlib.Path(__file__).parent
COLUMNS = ("floor", "required", "measured", "ratio", "met")
HEAD = """# Benchmarks

`make bench`, {date}: {processor}, {cores} cores, {memory} GB, {system};
{versions}.
Load of the machine before: {load}; the whole took {minutes:.1f} minutes.

Times are medians of rounds, in which a reference, if there is one, takes turns with what is measured; the ratio is
reference over measured, and the floor is one of the ratio then. Explicit weights and torch draw theirs for every
network.

"""


class Recorder:
    """Of pytest: keeps what the benchmarks record, and the names of those that did not get so far."""

    def __init__(self):
        self.floors, self.lost = [], []

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            self.floors += [value for name, value in report.user_properties if name == "floor"]
        elif not report.passed:
            self.lost.append(report.nodeid.rpartition("/")[2])


def machine():
    """Where this is, with the versions that times depend on."""
    found = environment()
    versions = {"Python": platform.python_version(), **{name: found[name] for name in ("numpy", "scipy", "numba")}}
    try:
        versions["torch"] = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        pass
    information = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in information if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "processor": names[0] if names else platform.machine(),
        "cores": cores(),
        "memory": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"bntheory": found["bntheory"], **versions, **found["blas"]},
        "load": round(os.getloadavg()[0], 2),
    }


def quantity(value, unit):
    """A number with its unit.

    >>> quantity(0.0225, "s"), quantity(0.523, "GB"), quantity(1.0312, "")
    ('22.5 ms', '0.523 GB', '1.03')
    """
    return f"{1000 * value:.3g} ms" if unit == "s" and value < 0.1 else f"{value:.3g} {unit}".strip()


def cells(floor):
    """The row of a floor."""
    unit, measured, reference = floor["unit"], floor["measured"], floor["reference"]
    limits = [(name, floor[name]) for name in ("least", "most") if floor[name] is not None]
    numbers = [quantity(limit, unit) if reference is None else f"{limit:g} ×" for _, limit in limits]
    words = f"at {limits[0][0]} {numbers[0]}" if len(limits) == 1 else " to ".join(numbers)
    both = quantity(measured, unit) + ("" if reference is None else f", reference {quantity(reference, unit)}")
    ratio = "" if reference is None else f"{reference / measured:.3g} ×"
    return floor["floor"], words, both, ratio, {None: "", True: "yes", False: "**NO**"}[floor["met"]]


def page(result):
    """The table, below the name of the machine, as Markdown."""
    place, floors = result["machine"], result["floors"]
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    text = HEAD.format(**{**place, "versions": versions}, minutes=result["seconds"] / 60)
    rows = [COLUMNS, *map(cells, floors)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        text += "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |\n"
    judged = [floor["met"] for floor in floors if floor["met"] is not None]
    text += f"\n{sum(judged)} of {len(judged)} floors are met.\n"
    return text + "".join(f"Not measured: {name}\n" for name in result["not_measured"])


def main():
    """Run, print, write; return pytest's status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs"), metavar="DIR")
    arguments, words = parser.parse_known_args()
    recorder, place, begun = Recorder(), machine(), time.monotonic()
    status = pytest.main([str(HERE), "-q", *words], plugins=[recorder])
    taken = time.monotonic() - begun
    result = {"machine": place, "seconds": taken, "floors": recorder.floors, "not_measured": recorder.lost}
    print(f"\n{page(result)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "benchmarks.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (arguments.out / "benchmarks.md").write_text(page(result))
    return status


if __name__ == "__main__":
    sys.exit(main())
