"""The list of buffers: kinds, lifetimes, reuse, and the bound that the plan states."""

from __future__ import annotations

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.machine_file import default_machine

ROWS, COLUMNS = 600, 500
BYTES = ROWS * COLUMNS * 8


def chain(x):
    """Three kernels that hand a table on: each column sum ends one."""
    for _ in range(3):
        x = fg.exp(x * 0.01)
        x = x / x.sum(axis=0)
    return x


@pytest.fixture
def plan():
    with fg.options(machine=default_machine(), threads=2, engine="numpy"):
        yield fg.plan(chain(fg.asarray(np.ones((ROWS, COLUMNS)))))


def test_lifetimes_and_reuse(plan):
    buffers = {b.name: b for b in plan.buffers()}
    tables = [b for b in buffers.values() if BYTES <= b.bytes < 2 * BYTES and b.kind != "scratch"]
    order = {kernel.name: at for at, kernel in enumerate(plan.kernels)}
    assert [b.kind for b in tables].count("result") == 1
    for one in tables:
        if one.kind == "intermediate":
            assert order[one.written_by] < order[one.read_last_by]
        if one.reuses:  # what it takes over was read for the last time before
            before = buffers[one.reuses]
            assert order[before.read_last_by] < order[one.written_by]
    assert any(one.reuses for one in tables)


def test_fresh_memory_is_within_the_peak(plan):
    fresh = sum(b.bytes for b in plan.buffers() if not b.reuses and b.kind != "scratch")
    assert fresh <= plan.peak_bytes


def test_text_is_the_record(plan):
    text = plan.explain("buffers")
    assert all(buffer.name in text for buffer in plan.buffers())


def test_a_view_of_an_input_has_no_buffers():
    assert fg.plan(fg.asarray(np.ones((3, 4))).T).buffers() == ()
