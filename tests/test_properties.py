"""Random graphs: fused, unfused and reference results agree on every engine; stages verified."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import fusegraph as fg
from fusegraph.compare import ulps_apart
from fusegraph.reference import evaluate

DTYPES = ("f4", "f8", "i4", "i8", "?")
SHAPES = ((6,), (1,), (), (4, 6), (4, 1), (2, 4, 6), (2, 1, 6))
# Rows whose results are NumPy's bits on every engine.
UNARY = (
    "negative", "abs", "square", "sqrt", "floor", "ceil", "rint", "sign", "isnan", "isfinite",
    "logical_not", "positive", "signbit",
)  # fmt: skip
BINARY = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "less", "greater_equal", "equal",
    "logical_and", "floor_divide", "remainder", "copysign", "fmax",
)  # fmt: skip
REDUCTIONS = ("sum", "max", "min", "mean", "any", "all", "argmax")
FUNCTIONS = ("exp", "tanh", "sin", "log1p", "atan")
VALUES = (0.0, -0.0, 1.0, -1.5, 2.5, 3.0, np.inf, -np.inf, np.nan, 1e30, -7.0)
SCALARS = (0, 1, 2, -1, 0.5, 1.0, -0.0, True)


@st.composite
def leaf(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.sampled_from(SHAPES))
    size = int(np.prod(shape))
    start = draw(st.integers(0, len(VALUES) - 1))
    values = np.resize(np.roll(VALUES, start), size).reshape(shape)
    if dtype.kind in "i?b":
        values = np.nan_to_num(values, nan=2, posinf=9, neginf=-9).clip(-9, 9)
    array = values.astype(dtype)
    layout = draw(st.sampled_from(("C", "F", "reversed")))
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "reversed" and array.ndim:
        array = array[::-1]
    return fg.asarray(array)


def tried(build):
    """The tensor, or None where NumPy would refuse the same call."""
    try:
        return build()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def view_of(draw, t):
    kind = draw(st.sampled_from(("T", "slice", "reverse", "expand", "reshape", "broadcast", "int")))
    if kind == "T":
        return t.T
    if kind == "expand":
        return fg.expand_dims(t, draw(st.integers(0, t.ndim)))
    if kind == "reshape":
        return t.reshape(draw(st.sampled_from(((-1,), (1, -1), (-1, 1), (2, -1)))))
    if kind == "broadcast":
        return fg.broadcast_to(t, (2, *t.shape))
    if not t.ndim:
        return t[None]
    if kind == "slice":
        return t[..., draw(st.integers(0, 2)) : draw(st.integers(1, 6)) : draw(st.integers(1, 3))]
    return t[..., ::-1] if kind == "reverse" else t[draw(st.integers(-1, 0))]


def product(a, b):
    return None if "?" in (a.dtype.char, b.dtype.char) or a.ndim > 2 or b.ndim > 2 else a @ b.T


@st.composite
def graphs(draw, functions=()):
    """Outputs of a random graph: shared nodes, views, broadcasts, reductions, several outputs."""
    values = [draw(leaf()) for _ in range(draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(1, 9))):
        pick = st.sampled_from(values)
        a, b = draw(pick), draw(pick)
        kind = draw(
            st.sampled_from(
                ("unary", "binary", "scalar", "view", "reduce", "where", "cast", "matmul")
            )
        )
        if kind == "unary":
            name = draw(st.sampled_from((*UNARY, *functions)))
            made = tried(lambda: getattr(fg, name)(a))  # noqa: B023
        elif kind == "binary":
            name = draw(st.sampled_from(BINARY))
            made = tried(lambda: getattr(fg, name)(a, b))  # noqa: B023
        elif kind == "scalar":
            name, scalar = draw(st.sampled_from(BINARY)), draw(st.sampled_from(SCALARS))
            made = tried(lambda: getattr(fg, name)(a, scalar))  # noqa: B023
        elif kind == "view":
            made = tried(lambda: view_of(draw, a))  # noqa: B023
        elif kind == "reduce":
            name = draw(st.sampled_from(REDUCTIONS))
            axis = draw(st.sampled_from((None, 0, -1)))
            made = tried(lambda: getattr(fg, name)(a, axis=axis, keepdims=True))  # noqa: B023
        elif kind == "where":
            made = tried(lambda: fg.where(a, b, draw(pick)))  # noqa: B023
        elif kind == "cast":
            safe = [d for d in DTYPES if np.can_cast(a.dtype, d, "safe")]
            made = a.astype(draw(st.sampled_from(safe)))
        else:
            made = tried(lambda: product(a, b))  # noqa: B023
        if made is not None and made.size <= 5000:
            values.append(made)
    count = draw(st.integers(1, min(3, len(values))))
    return values[-count:]


def computed(outputs, **changes):
    """Results of a plan; the tensors stay as they are."""
    return fg.plan(*outputs, verify=True, **changes).run()


def assert_equal(actual, expected, note):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=note, strict=True)


GRAPHS = settings(
    max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@GRAPHS
@given(graphs())
def test_fused_unfused_and_reference_agree(outputs):
    expected = evaluate([t.node for t in outputs])
    for t, array in zip(outputs, expected, strict=True):
        assert (t.dtype, t.shape) == (array.dtype.newbyteorder("="), array.shape)
    assert_equal(computed(outputs, engine="numpy"), expected, "fused")
    assert_equal(computed(outputs, engine="numpy", fuse=False), expected, "unfused")


@GRAPHS
@given(graphs())
def test_engines_agree_on_arithmetic(outputs):
    expected = evaluate([t.node for t in outputs])
    for engine in ("numexpr", "auto"):
        assert_equal(computed(outputs, engine=engine, exact=True), expected, engine)


@settings(GRAPHS, max_examples=60, deadline=None)
@given(graphs())
def test_compiled_kernels_agree_on_arithmetic(outputs):
    """Fewer graphs: each kernel of each takes LLVM 20 ms."""
    pytest.importorskip("llvmlite")
    expected = evaluate([t.node for t in outputs])
    assert_equal(computed(outputs, engine="llvm", exact=True), expected, "llvm")


@GRAPHS
@given(graphs(FUNCTIONS))
def test_bits_are_kept_with_functions_too(outputs):
    expected = evaluate([t.node for t in outputs])
    assert_equal(computed(outputs, engine="numpy"), expected, "fused")
    assert_equal(computed(outputs, exact=True), expected, "exact")


@given(st.sampled_from(FUNCTIONS), st.sampled_from(("f4", "f8")), st.integers(1, 3000))
def test_functions_stay_within_their_bound(name, dtype, size):
    x = np.linspace(-5, 5, size).astype(dtype)
    x = abs(x) if name == "log1p" else x
    for engine in ("numexpr", "auto"):
        result = getattr(fg, name)(fg.asarray(x)).compute(engine=engine)
        assert ulps_apart(result, getattr(np, name.replace("atan", "arctan"))(x)) <= 4


@GRAPHS
@given(graphs(FUNCTIONS))
def test_fusion_never_moves_more_bytes(outputs):
    before = fg.plan(*outputs, fuse=False).cost
    for engine in ("auto", "numpy", "numexpr"):
        after = fg.plan(*outputs, engine=engine).traffic.after
        assert after.bytes_moved <= before.bytes_moved


@GRAPHS
@given(graphs(FUNCTIONS))
def test_rewriting_keeps_dtypes_and_shapes(outputs):
    plan = fg.plan(*outputs).plan
    for before, after in zip(plan.graph, plan.rewritten.outputs, strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)


@GRAPHS
@given(graphs(FUNCTIONS))
def test_a_kernel_reads_only_what_ran_before(outputs):
    plan = fg.plan(*outputs).plan
    computed_names = {n for n in plan.names.values() if n.startswith("v")}
    for kernel in plan.kernels:
        for name in kernel.reads:
            base = name.split(".")[0]
            assert base in computed_names or not base.startswith("t")
        computed_names.update(kernel.writes)
