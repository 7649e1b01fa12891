"""What the benchmarks share: interleaved medians in one table, and options as users have them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import fusegraph as fg
from fusegraph.compare import interleaved

sys.path.insert(0, str(Path(__file__).parent))  # for `workloads`

ROWS = pytest.StashKey[list[tuple[str, float, float]]]()


def pytest_configure(config):
    config.stash[ROWS] = []


def pytest_terminal_summary(terminalreporter, config):
    """One line a comparison; below 1.00 fusegraph is faster."""
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("medians of interleaved runs")
    terminalreporter.line(f"{'':40}{'NumPy':>12}{'fusegraph':>12}{'ratio':>8}")
    for name, reference, seconds in rows:
        terminalreporter.line(
            f"{name:40}{reference * 1e6:9.1f} us{seconds * 1e6:9.1f} us{seconds / reference:8.2f}"
        )


@pytest.fixture(autouse=True)
def suite_options(request):
    """Overrides the suite's: stages are not verified while they are timed."""
    with fg.options(engine=request.config.getoption("--engine")):
        yield


@pytest.fixture
def race(request, benchmark):
    """Median seconds of NumPy and of fusegraph over runs that take turns, kept for the table.

    pytest-benchmark records fusegraph's side once more, alone, with the medians beside it.
    """

    def run(numpy, fused, repeats, rests=False, name=request.node.name):
        seconds = interleaved({"numpy": numpy, "fused": fused}, repeats, rests)
        request.config.stash[ROWS].append((name, seconds["numpy"], seconds["fused"]))
        if not benchmark.extra_info:  # the first race of a test; the fixture takes one
            benchmark.extra_info.update(seconds)
            benchmark.pedantic(fused, rounds=min(repeats, 5))
        return seconds["numpy"], seconds["fused"]

    return run
