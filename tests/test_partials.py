"""Reductions that join their producers: kernels, bytes, reasons, values, and how accurate sums are."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.engines.reductions import SEQUENTIAL
from fusegraph.machine_file import default_machine
from fusegraph.reference import evaluate
from fusegraph.rewrite import MAX_WRITTEN_OUT

pytestmark = pytest.mark.options(engine="auto", threads=2)

F4 = np.dtype("f4")


def floats(*shape, dtype="f4", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def kernels(plan):
    return [list(kernel.ops) for kernel in plan.kernels]


def roundings(size):
    """Additions that an element passes through in a pairwise sum: the bound counts each once."""
    return SEQUENTIAL + math.log2(max(2, size))


def check_sums(got, absolute, exact, size, dtype):
    """``|got - exact|`` within the pairwise bound (Higham, section 4.2), for every element."""
    bound = roundings(size) * np.finfo(dtype).eps * absolute
    assert (np.abs(got.astype("f8") - exact) <= bound).all()


AXES = [None, 0, 1, 2, (0, 1), (0, 2), (2, 1), (2, 1, 0)]
PRODUCERS = {
    "x*y": lambda x, y: x * y,
    "(x-1)*(x-1)": lambda x, y: (x - 1) * (x - 1),
    "abs(x)+y": lambda x, y: abs(x) + y,
}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("build", PRODUCERS.values(), ids=PRODUCERS)
def test_sums_take_their_producers_along(build, axis, keepdims):
    x, y = floats(40, 30, 50), floats(40, 30, 50, seed=1)
    t = build(fg.asarray(x), fg.asarray(y)).sum(axis=axis, keepdims=keepdims)
    plan = fg.plan(t)
    reads = x.nbytes * (1 + ("y" in plan.kernels[0].expression or len(plan.kernels[0].reads) > 1))
    assert [k.schedule for k in plan.kernels] == ["panels"]
    assert not [d for d in plan.decisions if not d.fused]
    assert (plan.cost.bytes_read, plan.cost.bytes_written) == (reads, t.nbytes)
    (got,) = plan.run()
    terms = build(x, y).astype("f8")
    exact = terms.sum(axis=axis, keepdims=keepdims)
    assert (got.dtype, got.shape) == (F4, np.shape(exact))
    check_sums(got, np.abs(terms).sum(axis=axis, keepdims=keepdims), exact, x.size, F4)


EXACT = {
    "any": lambda x: (x > 3).any,
    "all": lambda x: (x > -3).all,
    "max": lambda x: (x * 2).max,
    "min": lambda x: abs(x).min,
    "integer sum": lambda x: (x * 50).astype("i4").sum,
    "wrapping product": lambda x: ((x * 50).astype("i8") * 2 + 1).prod,
}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("build", EXACT.values(), ids=EXACT)
def test_what_rounds_nothing_is_numpys(build, axis, exact, assert_same):
    """``exact=True`` keeps out sums of floats only."""
    x = floats(70, 20, 100)
    t = build(fg.asarray(x))(axis=axis)
    plan = fg.plan(t, exact=exact)
    assert [k.schedule for k in plan.kernels] == ["panels"]
    assert_same(plan.run()[0], np.asarray(build(x)(axis=axis)))


@pytest.mark.parametrize("how", [{"exact": True}, {"engine": "numpy"}], ids=str)
@pytest.mark.parametrize("axis", [None, 0])
def test_numpys_bits_where_they_are_asked_for(axis, how, assert_same):
    x = floats(300, 50)
    plan = fg.plan((fg.asarray(x) * 3).sum(axis=axis), **how)
    assert kernels(plan) == [["multiply"], ["sum"]]
    assert {str(d.reason) for d in plan.decisions if not d.fused} == {"kind"}
    assert_same(plan.run()[0], np.asarray((x * 3).sum(axis=axis)))


@pytest.mark.parametrize("size", [10**6, 3_000_001])
@pytest.mark.parametrize(("dtype", "value"), [("f2", 0.005), ("f4", 0.1), ("f8", 0.1)])
def test_accuracy(dtype, value, size):
    x = np.full(size, value, dtype)
    got = fg.compute((fg.asarray(x) * np.ones(1, dtype)).sum())
    exact = size * float(x[0])
    assert got.dtype == dtype
    assert abs(float(got) - exact) <= roundings(size) * np.finfo(dtype).eps * exact


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8"])
def test_not_worse_than_numpys_own(dtype):
    x = floats(200_000, 12, dtype=dtype) + dtype_one(dtype)
    exact = x.astype("c16" if dtype == "c8" else np.longdouble).sum(axis=0)
    ours = fg.compute((fg.asarray(x) * 1.0 + 0.0).sum(axis=0))
    worst = np.abs(ours - exact).max()
    assert worst <= max(np.abs(x.sum(axis=0) - exact).max(), np.finfo(dtype).eps * abs(exact).max())


def dtype_one(dtype):
    return np.ones((), dtype)


SHARED = {
    "min and max": (lambda x: (x.min(), x.max()), 1),
    "mean and max": (lambda x: (x.sum(axis=0), x.max(axis=0)), 1),
    "sum and sum of squares": (lambda x: (x.sum(), (x * x).sum()), 1),
    "rows and columns": (lambda x: (x.sum(axis=0), x.max(axis=1)), 1),
    "ends of a value": (lambda x: ((x - 1).min(), (x - 1).max()), 1),
    "sums of a value": (lambda x: ((e := x * x + 1).sum(axis=0), e.sum(axis=1), e.max()), 1),
    "value and its sum": (lambda x: ((e := fg.exp(x)), e.sum(axis=0)), 1),
}


@pytest.mark.parametrize(("build", "count"), SHARED.values(), ids=SHARED)
def test_several_reductions_share_the_pass(build, count):
    x = floats(500, 64, dtype="f8")
    results = build(fg.asarray(x))
    plan = fg.plan(*results)
    assert len(plan.kernels) == count
    assert plan.cost.bytes_read == x.nbytes
    for got, expected in zip(plan.run(), evaluate([t.node for t in results]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-12)


def test_a_deviation_takes_two_passes():
    """mean, then the squares: the second needs the first."""
    x = floats(400, 300, dtype="f8")
    plan = fg.plan(fg.std(fg.asarray(x)))
    assert plan.cost.bytes_read - 2 * x.nbytes <= 32
    np.testing.assert_allclose(plan.run()[0], x.std(), rtol=1e-13)


@pytest.mark.parametrize("name", ["sum", "max", "min", "prod"])
def test_nan_propagates(name):
    x = floats(300, 40)
    x[123, 7] = np.nan
    t = fg.asarray(x) * 2
    assert np.isnan(getattr(fg, name)(t).compute())
    columns = np.isnan(getattr(fg, name)(t, axis=0).compute())
    assert list(np.flatnonzero(columns)) == [7]


def test_threads_and_caches_move_no_bit():
    x = floats(3000, 700)
    small = replace(default_machine(), l2_bytes=1 << 15, l3_bytes=1 << 17)
    for build in (lambda t: (t * t).sum(), lambda t: (t * t).sum(axis=0), fg.std):
        results = [
            fg.plan(build(fg.asarray(x)), threads=threads, machine=machine).run()[0]
            for threads in (1, 2, 3, 4)
            for machine in (default_machine(), small)
        ]
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (1, 1), (1,), (3, 1, 2), (17, 1)], ids=str)
@pytest.mark.parametrize("name", ["sum", "prod", "any", "all"])
def test_small_and_empty(name, shape, assert_same):
    x = floats(*shape, dtype="f8")
    for axis in (None, 0, -1):
        expected = np.asarray(getattr(np, name)(x * 2, axis=axis))
        got = getattr(fg, name)(fg.asarray(x) * 2, axis=axis).compute()
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-14)


LAYOUTS = {
    "F order": np.asfortranarray,
    "transposed": lambda x: x.T,
    "strided": lambda x: x[::3, ::2],
    "reversed": lambda x: x[::-1, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout, axis):
    x = layout(floats(900, 130, dtype="f8"))
    got = fg.compute((fg.asarray(x) * x).sum(axis=axis))
    np.testing.assert_allclose(got, (x * x).sum(axis=axis), rtol=1e-13)


# --- pairwise broadcasts and narrow rows ------------------------------------------------------------


def distances(a, b):
    return fg.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 10, 40])
def test_pairwise_distances_are_one_kernel_without_a_third_axis(width):
    a, b = floats(300, width, dtype="f8"), floats(260, width, dtype="f8", seed=1)
    t = distances(fg.asarray(a), fg.asarray(b))
    plan = fg.plan(t)
    (kernel,) = plan.kernels
    assert kernel.schedule == ("strided" if 2 <= width <= MAX_WRITTEN_OUT else "panels")
    assert kernel.panels is None or kernel.panels.narrow == (1 < width <= 32)
    assert plan.cost.bytes_moved == a.nbytes + b.nbytes + t.nbytes
    expected = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))
    np.testing.assert_allclose(plan.run()[0], expected, rtol=1e-14)


def test_pairwise_distances_hold_little_beside_their_result():
    a, b = (fg.asarray(floats(2000, 3, dtype="f8", seed=n)) for n in range(2))
    t = distances(a, b)
    assert t.nbytes <= fg.plan(t).peak_bytes < 1.2 * t.nbytes


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("shape", [(5000, 10), (40, 50, 7)], ids=str)
def test_narrow_rows_lie_side_by_side(shape, exact):
    x = floats(*shape)
    plan = fg.plan(fg.softmax(fg.asarray(x)), exact=exact)
    assert len(plan.kernels) == 1
    assert plan.kernels[0].panels.narrow != exact
    e = np.exp(x - x.max(-1, keepdims=True))
    np.testing.assert_allclose(plan.run()[0], e / e.sum(-1, keepdims=True), rtol=1e-6)


DROPPED = {
    "z-scores": lambda x: (x - x.mean(-1)[:, None]) / x.std(-1)[:, None],
    "cosine": lambda x: (
        (x * 2).sum(-1) / (fg.sqrt((x * x).sum(-1)) * fg.sqrt((x * 3).sum(-1) ** 2))
    ),
    "logsumexp": lambda x: fg.logsumexp(x, axis=-1),
    "one row": lambda x: fg.softmax(x[0]),
}


@pytest.mark.parametrize("build", DROPPED.values(), ids=DROPPED)
def test_dropped_axes_are_one_kernel_too(build):
    x = fg.asarray(np.abs(floats(200, 90, dtype="f8")) + 0.5)
    t = build(x)
    plan = fg.plan(t)
    assert len(plan.kernels) == 1
    np.testing.assert_allclose(plan.run()[0], evaluate([t.node])[0], rtol=1e-12)


@pytest.mark.parametrize("scale", [1 / 3, 0.1, 1.1, 7.3, 1e3])
def test_a_value_is_computed_once_so_nothing_cancels_to_nan(scale):
    """A maximum of ``x * c`` and an exponent of another ``x * c`` gave exp(+inf) / inf elsewhere."""
    x = np.full((64, 128), 3.0e38 / max(1, scale), np.float32) * floats(64, 128).clip(-1, 1)
    got = fg.softmax(fg.asarray(x) * np.float32(scale)).compute()
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-5)


def test_calls_of_numpy_read_a_panel_beyond_l2_again_each():
    """min and max were predicted to cost their arithmetic only, and never compiled."""
    known = fg.default_machine()
    free = {key: 1e-3 if key.startswith("numpy m") else ns for key, ns in known.nanoseconds.items()}
    machine, x = replace(known, nanoseconds=free), fg.asarray(np.zeros(4_000_000, "f4"))
    found = fg.plan(fg.min(x), fg.max(x), engine="numpy", machine=machine, threads=1).seconds
    assert found >= 2 * x.nbytes / machine.roof("L3", 1)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_compiled_folds_of_one_value_share_reading_it(dtype):
    def slope(*functions):
        """Seconds that 30,000 elements more take, all of them in L2."""
        arrays = [fg.asarray(np.zeros(n, dtype)) for n in (60_000, 30_000)]
        options = {"machine": fg.default_machine(), "threads": 1, "engine": "llvm"}
        more, less = (fg.plan(*(f(x) for f in functions), **options).seconds for x in arrays)
        return more - less

    both = slope(fg.min, fg.max)
    assert max(slope(fg.min), slope(fg.max)) < both < 0.9 * (slope(fg.min) + slope(fg.max))
