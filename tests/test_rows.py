"""Rows in panels: which graphs become one kernel, its bytes and values, and why others do not."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import fusegraph as fg
from fusegraph.engines import ELEMENTWISE_ENGINES as ENGINES
from fusegraph.engines.blocks import Stage
from fusegraph.graph import topological
from fusegraph.machine_file import default_machine
from fusegraph.members import Members
from fusegraph.panels import row_bytes
from fusegraph.reference import evaluate

pytestmark = pytest.mark.options(engine="numpy", threads=2)

BOUND = 4  # products of K terms are within BOUND * K * eps of the largest result, at least of 1


def floats(*shape, dtype="f4", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def kernels(plan):
    return [list(kernel.ops) for kernel in plan.kernels]


def reasons(plan):
    return [(d.producer.op.name, str(d.reason)) for d in plan.decisions if not d.fused]


def bits(t, **options):
    """The plan of ``t``, whose values must be NumPy's bits."""
    plan = fg.plan(t, **options)
    (expected,), (got,) = evaluate([t.node]), plan.run()
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(got, expected)
    return plan


def keep(f):
    return lambda x: f(x, -1, keepdims=True)


def softmax_hand(x):
    e = fg.exp(x - x.max(-1)[:, None])
    return e / e.sum(-1)[:, None]


def softmax_kept(x):
    e = fg.exp(x - fg.max(x, -1, keepdims=True))
    return e / fg.sum(e, -1, keepdims=True)


def log_softmax_hand(x):
    away = x - x.max(-1)[..., None]
    return away - fg.log(fg.exp(away).sum(-1)[..., None])


def cosine(x):
    y = x * 0.5 + 1
    total = keep(fg.sum)
    return total(x * y) / (fg.sqrt(total(x * x)) * fg.sqrt(total(y * y)))


ROWS = {  # function, columns of the result (None: as many as the input)
    "softmax": (fg.softmax, None),
    "softmax by hand": (softmax_hand, None),
    "softmax, axes kept": (softmax_kept, None),
    "log_softmax": (fg.log_softmax, None),
    "log_softmax by hand": (log_softmax_hand, None),
    "layer_norm": (fg.layer_norm, None),
    "rms_norm": (fg.rms_norm, None),
    "cosine": (cosine, 1),
    "scores": (lambda x: (x - keep(fg.mean)(x)) / keep(fg.std)(x), None),
    "logsumexp": (lambda x: fg.logsumexp(x, axis=-1, keepdims=True), 1),
}


@pytest.mark.parametrize("engine", ["numpy", "auto"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
@pytest.mark.parametrize(("build", "columns"), ROWS.values(), ids=ROWS)
def test_rows_are_one_kernel_that_moves_input_and_output(build, columns, dtype, engine):
    x = floats(101, 64, dtype=dtype)
    t = build(fg.asarray(x))
    plan = fg.plan(t, engine=engine)
    assert [k.schedule for k in plan.kernels] == ["panels"]
    assert not reasons(plan)
    assert plan.cost.bytes_read == x.nbytes
    assert plan.cost.bytes_written == 101 * (columns or 64) * t.dtype.itemsize
    if engine == "numpy":
        bits(t)


@pytest.mark.parametrize("name", ["softmax by hand", "softmax, axes kept"])
def test_spellings_give_one_plan(name):
    x = fg.asarray(floats(101, 64))
    assert str(fg.plan(ROWS[name][0](x))) == str(fg.plan(fg.softmax(x)))


SHAPES = [(1, 64), (64, 1), (0, 64), (1, 1), (3000, 70), (3, 5, 40), (2, 3, 4, 33)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "layer_norm", "logsumexp", "log_softmax by hand"])
def test_shapes(name, shape):
    plan = bits(ROWS[name][0](fg.asarray(floats(*shape))))
    assert len(plan.kernels) == 1


def test_rows_without_columns_sum_to_nothing():
    t = fg.asarray(np.ones((5, 0))) - keep(fg.sum)(fg.asarray(np.ones((5, 0))))
    assert len(bits(t).kernels) == 1


LAYOUTS = {
    "transposed": lambda x: x.T,
    "every second": lambda x: x[::2, ::3],
    "reversed": lambda x: x[::-1, ::-1],
    "broadcast rows": lambda x: np.broadcast_to(x[0], (70, x.shape[1])),
    "broadcast columns": lambda x: np.broadcast_to(x[:, :1], (x.shape[0], 70)),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", ["softmax", "layer_norm"])
def test_layouts(name, layout):
    x = layout(floats(500, 90, dtype="f8"))
    plan = fg.plan(ROWS[name][0](fg.asarray(x)))
    (got,) = plan.run()
    (expected,) = evaluate([ROWS[name][0](fg.asarray(np.ascontiguousarray(x))).node])
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", ["i4", "i8", "u1"])
def test_integers(dtype):
    x = fg.asarray(np.arange(60 * 7).reshape(60, 7).astype(dtype))
    assert len(bits(keep(fg.max)(x) - x).kernels) == 1


def test_a_stored_value_and_its_reduction_are_one_pass():
    x = floats(200, 64)
    t = fg.softmax(fg.asarray(x))
    plan = fg.plan(t, t.max(-1))
    assert len(plan.kernels) == 1
    assert plan.cost.bytes_read == x.nbytes
    assert plan.cost.bytes_written == x.nbytes + 200 * 4
    for got, expected in zip(plan.run(), evaluate([t.node, t.max(-1).node]), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("height", [1, 7, 64, 10**6])
def test_neither_threads_nor_panels_change_values(threads, height, monkeypatch):
    monkeypatch.setattr("fusegraph.panels.panel_rows", lambda *_: height)
    slow = replace(default_machine(), step=dict.fromkeys(default_machine().step, 1e-15))
    plan = bits(fg.softmax(fg.asarray(floats(3, 331, 200))), threads=threads, machine=slow)
    assert [(k.schedule, k.block) for k in plan.kernels] == [("panels", min(height, 993))]


@pytest.mark.parametrize("scale", [0.1, 1 / 3])
def test_the_maximum_and_the_exponent_see_one_value(scale):
    """x * c rounded twice in two ways would give exp of a positive number, or infinities."""
    x = floats(64, 300) * np.float32(1e30)
    t = fg.softmax(fg.asarray(x) * scale)
    for engine in ("numpy", "auto"):
        plan = fg.plan(t, engine=engine)
        assert len(plan.kernels) == 1
        np.testing.assert_array_equal(plan.run()[0], evaluate([t.node])[0])
        assert not np.isnan(plan.run()[0]).any()


# --- products -------------------------------------------------------------------------------------


def attention(q, k, v):
    return fg.softmax(q @ k.mT * 0.25) @ v


def causal(q, k, v):
    at, other = fg.arange(q.shape[-2])[:, None], fg.arange(k.shape[-2])[None, :]
    return fg.softmax(fg.where(at >= other, q @ k.mT * 0.25, -np.inf)) @ v


PRODUCTS = {
    "gelu": (lambda x, w, b: fg.gelu(x @ w + b), [(300, 64), (64, 48), (48,)]),
    "residual": (lambda x, w, b: x + (x @ w) * 2 + b, [(300, 64), (64, 64), (64,)]),
    "left operand": (lambda x, w: fg.tanh(x) @ w, [(300, 64), (64, 48)]),
    "rows of a product": (lambda x, w: (x @ w).sum(-1), [(300, 64), (64, 48)]),
    "attention": (attention, [(128, 64), (128, 64), (128, 64)]),
    "cross": (attention, [(30, 64), (100, 64), (100, 20)]),
    "batch": (attention, [(5, 40, 16)] * 3),
    "heads": (attention, [(8, 12, 64, 16)] * 3),
    "keys of all heads": (attention, [(2, 12, 64, 16), (12, 64, 16), (12, 64, 16)]),
    "causal": (causal, [(128, 64), (128, 64), (128, 64)]),
}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("build", "shapes"), PRODUCTS.values(), ids=PRODUCTS)
def test_products_run_in_panels(build, shapes, dtype, threads):
    arrays = [floats(*s, dtype=dtype, seed=n) for n, s in enumerate(shapes)]
    t = build(*map(fg.asarray, arrays))
    plan = fg.plan(t, engine="auto", threads=threads)
    assert [k.schedule for k in plan.kernels] == ["panels"]
    (got,) = plan.run()
    (expected,) = evaluate([build(*(fg.asarray(a.astype("f8")) for a in arrays)).node])
    assert (got.dtype, got.shape) == (t.dtype, expected.shape)
    inner = max(shapes[0][-1], shapes[1][-2])  # of the longer product
    bound = BOUND * inner * np.finfo(t.dtype).eps * max(1, np.abs(expected).max())
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


def test_a_mask_for_all_heads_is_stored_once():
    q, k, v = (fg.asarray(floats(8, 12, 64, 16, seed=n)) for n in range(3))
    plan = fg.plan(causal(q, k, v), engine="auto")
    assert kernels(plan)[0] == ["greater_equal"]
    assert len(plan.kernels) == 2
    assert reasons(plan) == [("greater_equal", "shape")]


def test_peak_bytes_of_attention_leave_the_scores_out():
    q, k, v = (fg.asarray(floats(2048, 64, seed=n)) for n in range(3))
    plan = fg.plan(attention(q, k, v), engine="auto")
    plan.run()
    fg.clear_caches()
    gc.collect()
    tracemalloc.start()
    try:
        plan.run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= plan.peak_bytes < 2048 * 2048 * 4


# --- reasons --------------------------------------------------------------------------------------


def x_(*shape):
    return fg.asarray(floats(*shape))


def comes_back(x):
    e = fg.exp(x)
    return e - e.sum(0)


def through_a_transpose(x):
    e = fg.exp(x * 2)
    return e / fg.sum(e.T, -1, keepdims=True)


@pytest.mark.parametrize(
    ("build", "engine", "expected"),
    [
        (lambda: fg.softmax(fg.asarray(np.zeros((2, 1_000_000), "f4"))), "numpy", "cache"),
        (lambda: x_(64, 64) @ fg.tanh(x_(64, 64) + 1), "auto", "kind"),
        (lambda: (x := x_(64, 64)) @ x + 1, "auto", "kind"),
        (lambda: comes_back(x_(64, 64)), "numpy", "convex"),
        (lambda: through_a_transpose(x_(64, 64)), "numpy", "view"),
        (lambda: fg.softmax(x_(64, 64), axis=0), "numpy", "kind"),
        (lambda: fg.gelu(x_(64, 64) @ fg.asarray(np.ones((64, 8), "f4"))), "numpy", "kind"),
    ],
    ids=["cache", "right", "both sides", "convex", "view", "columns", "bits"],
)
def test_reasons(build, engine, expected):
    t = build()
    plan = fg.plan(t, engine=engine)
    assert len(plan.kernels) > 1
    assert expected in {reason for _, reason in reasons(plan)}
    assert all(d.detail for d in plan.decisions if not d.fused)
    np.testing.assert_allclose(plan.run()[0], evaluate([t.node])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_numexpr_evaluates_the_stages_it_can(name):
    """Several stored values are several programs; reductions and refused casts stay NumPy's calls."""
    t = ROWS[name][0](x_(101, 64))
    plan = fg.plan(t, engine="numexpr")
    assert [(k.schedule, k.engine) for k in plan.kernels] == [("panels", "numexpr")]
    programs = [s for s, *_ in plan.kernels[0].body.steps if isinstance(s, Stage)]
    assert programs
    assert all(len(stage.places) == stage.inputs + 1 for stage in programs)
    np.testing.assert_allclose(plan.run()[0], evaluate([t.node])[0], rtol=2e-6, atol=1e-6)


def test_scalars_stay_arrays_in_a_panel():
    """A compiled body reads an array's own memory: ``a[()]`` gave it a scalar, and it crashed."""
    x, flag = x_(64, 8), fg.asarray(np.array(True))
    t = fg.where(flag, fg.softmax(x), fg.exp(x) * fg.asarray(np.float32(2.0).reshape(())))
    for engine in ENGINES:
        got = fg.plan(t, engine=engine).run()[0]
        np.testing.assert_allclose(got, evaluate([t.node])[0], rtol=2e-6)


def test_panels_that_do_not_pay():
    slow = replace(default_machine(), step=dict.fromkeys(default_machine().step, 1.0))
    t = fg.softmax(x_(20_000, 64))
    plan = bits(t, machine=slow)
    assert kernels(plan) == [["max"], ["subtract", "exp"], ["sum"], ["divide"]]
    assert "cost" in {reason for _, reason in reasons(plan)}


@pytest.mark.parametrize(("build", "columns"), ROWS.values(), ids=ROWS)
def test_unfused_runs_op_by_op(build, columns):
    plan = bits(build(x_(50, 30)), fuse=False)
    assert all(len(kernel.ops) == 1 for kernel in plan.kernels)


def test_a_reduction_of_columns_is_read_whole_by_every_panel():
    """Its last axis is a row's, though the reduction dropped another one."""
    x = x_(5, 7)
    plan = bits(x.max(0) + fg.max(x, -1, keepdims=True))
    assert kernels(plan) == [["max"], ["max", "add"]]
    bits(x_(5, 5).sum(0) + keep(fg.sum)(x_(5, 5)))  # square: a wrong axis would not raise


STEPS = {
    "exp": lambda x, y: fg.exp(-fg.abs(x)),
    "add": lambda x, y: x + y,
    "scale": lambda x, y: x * 0.1,
    "max": lambda x, y: x - keep(fg.max)(y),
    "sum": lambda x, y: x + y.sum(-1)[..., None],
    "softmax": lambda x, y: fg.softmax(x),
    "columns": lambda x, y: x - y.max(0),
    "minimum": fg.minimum,
}


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9), st.integers(0, 9)),
             min_size=1, max_size=9),
    st.sampled_from([(5, 7), (1, 9), (9, 1), (300, 33), (2, 3, 5)]),
    st.integers(1, 4),
)  # fmt: skip
def test_random_row_graphs_are_numpys_bits(steps, shape, results):
    with fg.options(engine="numpy", machine=default_machine(), threads=2):
        values = [fg.asarray(floats(*shape)), fg.asarray(floats(*shape, seed=1))]
        for name, a, b in steps:
            values.append(STEPS[name](values[a % len(values)], values[b % len(values)]))
        outputs = values[2:][-results:]
        got = fg.plan(*outputs).run()
    for actual, expected in zip(got, evaluate([t.node for t in outputs]), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("engine_name", ["auto", *ENGINES])
def test_what_panels_store_is_read_as_it_lies(engine_name):
    """Panels store in C order; the array beside it in the next kernel lies in Fortran order."""
    x = np.asfortranarray(np.random.default_rng(5).standard_normal((60_000, 50)))

    def results(xp, x):
        e = xp.exp(x)
        s = e / xp.sum(e, axis=1, keepdims=True)
        return s, s * x + xp.argmax(s)

    found = fg.compute(*results(fg, fg.asarray(x)), engine=engine_name)
    for a, b in zip(found, results(np, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def sums_of_one(x, count):
    return [(x * (step + 2.5)).sum(axis=1) for step in range(count)]


def chain_of_kernels(x, count):
    for _ in range(count):
        x = x / x.sum()
    return [x]


def chain_in_panels(x, count):
    for _ in range(count):
        x = x - x.sum(axis=1, keepdims=True)
    return [x]


def products_in_panels(x, count):
    w = x
    for _ in range(count):
        x = fg.exp(x @ w)
    return [x]


def sums_beside_others(x, count):
    one = np.ones(x.shape)
    return [(x * (one + step)).sum(axis=1) for step in range(count)]


def sums_read_by_sums(x, count):
    return [(x * row).sum(axis=0) for row in sums_of_one(x[..., None], count)]


GROWING = (
    sums_of_one,
    chain_of_kernels,
    chain_in_panels,
    products_in_panels,
    sums_beside_others,
    sums_read_by_sums,
)


@pytest.mark.parametrize("build", GROWING)
def test_planning_takes_steps_by_the_size_of_the_graph(build):
    """800 sums of one value took 1.3 s, of as many values 29 s: every join counted the group again."""

    def steps(count):
        outputs = build(fg.asarray(np.ones((64, 64))), count)
        fg.clear_caches()
        found = [0]

        def count_one(*_):
            found[0] += 1

        sys.setprofile(count_one)
        try:
            fg.plan(*outputs, engine="auto")
        finally:
            sys.setprofile(None)
        return found[0]

    steps(10)
    assert steps(400) < 2.75 * steps(200)


def members_alike(a, b):
    """Is what was brought up to date what counting afresh gives?"""
    names = ("nodes", "streams", "rights", "row_by_row", "whole", "rank", "mixed")
    figures = all(b.figure(cut) == figure for cut, figure in a.figures.items())
    return figures and all(getattr(a, name) == getattr(b, name) for name in names)


def test_totals_of_a_group_are_those_counted_afresh():
    """Groups of single operations come together in any order, with products among them."""
    x, w, row = (fg.asarray(np.ones(s)) for s in ((40, 30), (30, 30), (1, 30)))
    h = fg.exp(x @ w) + row
    graph = (h - h.max(axis=1, keepdims=True)) @ w + (x * h).sum(axis=1, keepdims=True)
    nodes = [n for n in topological((graph.node,)) if n.kind not in ("input", "const", "view")]
    rng = np.random.default_rng(5)
    for _ in range(200):
        groups = [Members([node]) for node in nodes]
        while len(groups) > 1:
            rng.shuffle(groups)
            other, home = groups.pop(), groups[-1]
            for cut in rng.integers(0, 3, 2).tolist():
                both = other.nodes | home.nodes
                assert home.row_bytes_with(other, cut) == row_bytes(both, cut)
            home.absorb(other)
            assert members_alike(home, Members(home.nodes))
