"""Machine code in memory: shared while somebody needs it, unloaded when nobody does."""

from __future__ import annotations

import gc
import weakref
from collections import deque

import numpy as np
import pytest

pytest.importorskip("llvmlite")

import fusegraph as fg
from fusegraph.engines.llvm import compiler

RNG = np.random.default_rng(8)

EMPTY = "define void @fg_empty() {\n  ret void\n}\n"


def centred(x):
    return x - x.mean()


@pytest.fixture
def few_recent(monkeypatch):
    """Two pieces of code are kept whoever holds them."""
    monkeypatch.setattr(compiler, "_recent", deque(maxlen=2))


def held():
    gc.collect()  # bodies are in cycles
    return set(compiler._held)


def array(size):
    return RNG.standard_normal(size)


def right(f, x):
    return np.allclose(f(x), x - x.mean(), rtol=0, atol=1e-13)


def test_code_of_sizes_that_no_plan_is_for_is_unloaded(few_recent):
    f = fg.jit(centred, engine="llvm")
    f(array(999))
    before = held()
    for size in range(1000, 1040):
        assert right(f, array(size))
        f.cache_clear()
    assert len(held() - before) <= 2
    assert right(f, array(1000))


def test_code_stays_while_a_plan_needs_it(few_recent):
    f, x = fg.jit(centred, engine="llvm"), array(2000)
    f(x)
    needed = held()
    others = [fg.jit(centred, engine="llvm") for _ in range(4)]
    for size, other in enumerate(others, 2001):
        other(array(size))
    del others, other
    assert needed <= held()
    assert all(right(f, x) for _ in range(3))


def test_a_direct_call_keeps_its_code(few_recent):
    f, x = fg.jit(centred, engine="llvm"), array(3000)
    for _ in range(3):
        f(x)
    ((_, direct),) = f._direct[1]
    needed = held()
    f.cache_clear()
    other = fg.jit(centred, engine="llvm")
    for size in range(3001, 3005):
        other(array(size))
    assert needed <= held()
    assert right(direct.call, x)


def test_equal_plans_share_code():
    f, g = fg.jit(centred, engine="llvm"), fg.jit(centred, engine="llvm")
    f(array(4000))
    before = held()
    g(array(4000))
    assert held() == before


def test_code_is_unloaded_by_the_next_that_is_compiled():
    """A collection in any thread unloaded it, and a child forked meanwhile found LLVM's lock taken."""

    class Library:
        pass

    library = Library()
    known = weakref.ref(library)
    code = compiler.MachineCode({}, library)
    del library, code
    assert known() is not None
    compiler.forget(EMPTY)
    compiler.code_of(EMPTY)
    assert known() is None
