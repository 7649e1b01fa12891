"""Compiled reductions over rows: an accumulator a column, NumPy's values, and sums no worse."""

import math

import numpy as np
import pytest

import fusegraph as fg

pytest.importorskip("llvmlite")

from fusegraph.engines.llvm.columns import NARROWEST
from fusegraph.engines.llvm.engine import LlvmEngine
from fusegraph.graph import make, placeholder
from fusegraph.ops import OPS

pytestmark = pytest.mark.options(engine="llvm")

RNG = np.random.default_rng(0)
SHAPES = [(2, 16), (1, 40), (37, 17), (5, 7, 33), (3, 1, 2, 64), (700, 1025)]
DTYPES = ["f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


def values(shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return RNG.random(shape) < 0.5
    if dtype.kind == "f":
        return (RNG.standard_normal(shape) * 5).astype(dtype)
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, dtype, endpoint=True)


def over_rows(x, name, keepdims=False):
    return getattr(x, name)(axis=tuple(range(x.ndim - 1)), keepdims=keepdims)


def one_function(expression):
    """The plan of an expression that is one kernel with one compiled stage and nothing else."""
    plan = expression.plan()
    (kernel,) = plan.kernels
    assert (kernel.engine, kernel.schedule) == ("llvm", "panels")
    assert [list(region.nodes) for region in kernel.body.compiled] == [list(kernel.region.nodes)]
    return plan


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["min", "max", "sum"])
def test_columns_are_numpys(name, dtype, shape, assert_same):
    x = values(shape, dtype)
    found = one_function(over_rows(fg.asarray(x) + x, name)).run()[0]
    expected = over_rows(x + x, name)
    if np.dtype(dtype).kind == "f" and name == "sum":
        assert found.dtype == expected.dtype
        exact = over_rows((x + x).astype("g"), "sum")
        size = over_rows(np.abs(x + x), "sum")
        assert np.all(np.abs(found - exact) <= np.finfo(dtype).eps * size)
    else:
        assert_same(found, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["any", "all", "sum"])
def test_truths_are_numpys(name, shape, assert_same):
    x = values(shape, "?")
    if name == "all":
        x = x | (RNG.random(shape[-1]) < 0.5)
    found = one_function(over_rows(~fg.asarray(x), name, True)).run()[0]
    assert_same(found, over_rows(~x, name, True))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -0.0])
@pytest.mark.parametrize("name", ["min", "max", "sum"])
def test_numbers_that_are_none(name, odd, dtype):
    x = values((300, 64), dtype)
    x[7, ::2], x[9, ::3] = odd, -np.dtype(dtype).type(odd)
    found = over_rows(fg.asarray(x) * 1.5, name).compute()
    with np.errstate(all="ignore"):
        expected = over_rows(x.astype("g") * 1.5, name)
    np.testing.assert_allclose(found, expected.astype(dtype), rtol=1e-5, atol=1e-5)


def test_a_sum_of_doubles_has_two_roundings_however_long():
    x = np.empty((20_000, 16))
    x[0::2], x[1::2] = 1e16, 1.0
    found = (fg.asarray(x) * 1).sum(axis=0).compute()
    exact = math.fsum(x[:, 0])
    assert np.all(np.abs(found - exact) <= 2 * np.spacing(exact))


BUILDS = {
    "variance": lambda x: ((x - 1) * (x - 1)).sum(axis=0),
    "two of one value": lambda x: (x.min(axis=0), x.max(axis=0)),
    "of an operand and of a value": lambda x: (x.sum(axis=0), np.exp(x).sum(axis=0)),
    "beside a value that is stored": lambda x: (x * 2, (x * 2).max(axis=0)),
    "beside sums of rows": lambda x: (x.sum(axis=0), x.sum(axis=1), x.max()),
    "of rows that were normed": lambda x: (x / x.sum(axis=1, keepdims=True)).sum(axis=0),
    "of cast values": lambda x: x.astype("f8").sum(axis=0),
    "of comparisons": lambda x: (x > 0).sum(axis=0),
}


@pytest.mark.parametrize("shape", [(1000, 100), (70, 3000), (9000, 16)], ids=str)
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_what_else_the_rows_are_needed_for(build, shape):
    x = np.abs(values(shape, "f4")) + 1
    several = isinstance(build(x), tuple)
    kinds = [(r.dtype, r.shape) for r in (build(x) if several else [build(x)])]
    exact = build(x.astype("f8"))  # NumPy's own sums of float32 are 3e-5 off here
    for threads in (1, 2):
        results = fg.jit(build, threads=threads)(x)
        assert [(r.dtype, r.shape) for r in (results if several else [results])] == kinds
        for a, b in zip(*(r if several else [r] for r in (results, exact)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_threads_and_caches_move_no_bit(assert_same):
    x = values((5000, 333), "f4")
    alone = (fg.asarray(x) * 3).sum(axis=0).compute(threads=1)
    assert_same((fg.asarray(x) * 3).sum(axis=0).compute(threads=2), alone)
    f = fg.jit(lambda a: (a * 3).sum(axis=0), threads=2)
    for _ in range(3):
        assert_same(f(x), alone)


@pytest.mark.parametrize(
    "x", [np.ones((400, 700), order="F"), np.ones((400, 700))[::-1, ::2], np.ones((1, 700)) * 2]
)
def test_layouts(x, assert_same):
    assert_same((fg.asarray(x) + 1).sum(axis=0).compute(), (x + 1).sum(axis=0))


def test_a_reduction_alone_is_compiled_where_that_pays():
    big, small = (fg.asarray(np.ones((n, 1000), np.float32)) for n in (4000, 10))
    assert one_function(big.sum(axis=0)).kernels[0].panels.count > 1
    assert one_function(small.sum(axis=0)).kernels[0].panels.count == 1
    (kernel,) = big.sum(axis=0).plan(engine="auto").kernels
    assert (kernel.engine, kernel.schedule) == ("numpy", "whole")
    assert (kernel.tier.kernel.engine, kernel.tier.kernel.schedule) == ("llvm", "panels")
    (kernel,) = big.sum(axis=0).plan(engine="auto", exact=True).kernels
    assert kernel.tier is None


def test_few_columns_are_left_to_numpy():
    leaf = placeholder(0, (100, NARROWEST - 1), np.dtype("f4"), (0, 1))
    node = make(
        OPS["sum"], (leaf,), (("axis", (0,)), ("keepdims", True)), (1, NARROWEST - 1), leaf.dtype
    )
    assert "several elements" in LlvmEngine().refuses_in_panel(node, (0, 1))
