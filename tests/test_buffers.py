"""The pool of buffers: bounded, and right whatever happens between two of its instructions."""

import itertools
import sys
from contextlib import suppress
from functools import partial

import numpy as np
import pytest

import fusegraph as fg
from fusegraph import buffers
from fusegraph.buffers import LINE, POOL, SMALLEST, Pool, Scratch

BYTE = np.dtype("u1")


def test_the_pool_is_bounded():
    pool = Pool(bound=10 * SMALLEST)
    held = [pool.empty((SMALLEST,), BYTE) for _ in range(25)]
    assert pool.nbytes <= 10 * SMALLEST
    assert disjoint(held)
    del held
    pool.empty((8 * SMALLEST,), BYTE)
    assert pool.nbytes <= 10 * SMALLEST


def test_a_block_is_used_again_once_nobody_holds_a_view_of_it():
    pool = Pool()
    first = pool.empty((SMALLEST,), BYTE)
    at, view = first.ctypes.data, first[5:].reshape(1, -1).T[:7]
    del first
    assert pool.empty((SMALLEST,), BYTE).ctypes.data != at
    del view
    assert at in {pool.empty((SMALLEST,), BYTE).ctypes.data for _ in range(2)}


def test_a_debugger_that_holds_what_it_sees_changes_nothing():
    kept = []

    def trace(frame, _event, _argument):
        kept.append(dict(frame.f_locals))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        pool = Pool()
    finally:
        sys.settrace(before)
    assert kept
    assert disjoint([pool.empty((SMALLEST,), BYTE) for _ in range(4)])


def test_clearing_lets_go():
    (fg.asarray(np.ones(SMALLEST)) + 1).compute()
    fg.clear_caches()
    assert POOL.nbytes == 0


def test_scratch_begins_with_a_cache_line():
    wanted = (((1000,), np.dtype("f4")), ((33,), np.dtype("f8")), ((5000, 3), BYTE))
    for _ in range(3):
        arrays = Scratch().take(wanted)
        assert [a.ctypes.data % LINE for a in arrays] == [0] * len(wanted)
        assert disjoint(arrays)


# --- between two instructions ---------------------------------------------------------------------

SITUATIONS = {
    "an empty pool": lambda: (Pool(), []),
    "a block in use and one that is not": lambda: half_used(Pool()),
    "a full pool": lambda: half_used(Pool(bound=2 * SMALLEST)),
}


def half_used(pool):
    held = [pool.empty((SMALLEST,), BYTE) for _ in range(2)]
    return pool, held[:1]


def disjoint(arrays):
    return not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS)
def test_another_thread_may_run_at_any_instruction(situation, after_instructions):
    for count in itertools.count(1):
        pool, held = situation()
        act = partial(lambda held, pool: held.append(pool.empty((SMALLEST,), BYTE)), held, pool)
        with after_instructions(count, act, buffers) as done:
            held.append(pool.empty((SMALLEST,), BYTE))
        held.append(pool.empty((SMALLEST,), BYTE))
        assert disjoint(held), count
        if done():
            break
    assert count > 10


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS)
def test_an_interrupt_at_any_instruction_leaves_a_pool_that_works(situation, after_instructions):
    def interrupt():
        raise KeyboardInterrupt

    for count in itertools.count(1):
        pool, held = situation()
        with after_instructions(count, interrupt, buffers) as done, suppress(KeyboardInterrupt):
            held.append(pool.empty((SMALLEST,), BYTE))
        held += [pool.empty((SMALLEST,), BYTE) for _ in range(3)]
        assert disjoint(held), count
        assert pool.nbytes <= pool.bound
        if done():
            break
    assert count > 10
