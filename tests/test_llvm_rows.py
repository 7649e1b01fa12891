"""Compiled rows: reductions and what is between them in one function, NumPy's values, stated bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fusegraph as fg

pytest.importorskip("llvmlite")

from fusegraph.engines.base import Region
from fusegraph.engines.llvm import row_body
from fusegraph.engines.llvm.engine import LlvmEngine
from fusegraph.engines.llvm.row_body import RowBody
from fusegraph.engines.llvm.row_code import LONG_ROW, MANY_ROWS, generate
from fusegraph.engines.llvm.row_phases import CHUNK, phases_of
from fusegraph.graph import make, placeholder
from fusegraph.ops import OPS

pytestmark = pytest.mark.options(engine="llvm")

ENGINE = LlvmEngine()
LENGTHS = (2, 15, 16, 17, 255, 257, CHUNK - 1, CHUNK, CHUNK + 1, 4099)
INTEGERS = [f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)]


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x):
    away = x - x.mean(axis=-1, keepdims=True)
    return away / np.sqrt((away * away).mean(axis=-1, keepdims=True) + x.dtype.type(1e-5))


def spread(x):
    scaled = x * 2
    return scaled.max(axis=-1, keepdims=True) - scaled.min(axis=-1, keepdims=True)


def cosine(x):
    y = x[::-1]
    return (x * y).sum(axis=-1) / np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))


ROWS = {"softmax": softmax, "layer norm": layer_norm, "spread": spread, "cosine": cosine}


def compiled(plan):
    """The regions that a plan's only kernel evaluates by compiled functions."""
    (kernel,) = plan.kernels
    return kernel.body.compiled


# --- one function ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "layer norm", "spread"])
def test_a_row_is_one_function(name):
    plan = ROWS[name](fg.zeros((64, 1000), np.float32)).plan()
    (region,) = compiled(plan)
    assert region.nodes == plan.kernels[0].region.nodes


def test_what_stands_between_two_products_is_one_function():
    q, k, v = (fg.asarray(np.ones((128, 32), np.float32)) for _ in range(3))
    regions = compiled((softmax((q @ k.mT) * np.float32(0.2)) @ v).plan())
    assert [[node.op.name for node in region.nodes] for region in regions] == [
        ["multiply", "max", "subtract", "exp", "multiply", "sum"],
        ["divide"],  # of the result, which has fewer elements than the scores
    ]


@pytest.mark.parametrize(("name", "phases"), [("softmax", 3), ("layer norm", 3), ("spread", 1)])
def test_phases_are_the_fewest_passes(name, phases):
    (region,) = compiled(ROWS[name](fg.zeros((64, 1000), np.float32)).plan())
    assert len(phases_of(region)) == phases


def test_the_text_knows_long_rows_and_no_sizes():
    texts = [
        generate(compiled(softmax(fg.zeros(shape, np.float32)).plan())[0]).code.text(True)
        for shape in ((64, 1000), (3000, 333), (64, LONG_ROW - 1), (3000, 50))
    ]
    assert texts[0] == texts[1] != texts[2] == texts[3]


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ROWS)
def test_rows_are_numpys(name, dtype, length):
    x = np.random.default_rng(length).standard_normal((37, length)).astype(dtype)
    found = ROWS[name](fg.asarray(x)).compute()
    expected = ROWS[name](x.astype("g"))
    scale = np.abs(expected).max() + 1
    assert found.dtype == dtype
    assert np.abs(found - expected).max() <= 32 * np.finfo(dtype).eps * scale


def fold(name, x, axis=-1):
    """A reduction of ``x`` by a compiled function."""
    leaf = placeholder(0, x.shape, x.dtype, None)
    axes = tuple(range(x.ndim)) if axis is None else (x.ndim - 1,)
    shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    dtype = getattr(np, name)(x[..., :1], axis=-1).dtype
    node = make(OPS[name], (leaf,), (("axis", axes), ("keepdims", True)), shape, dtype)
    assert ENGINE.refuses_in_panel(node, tuple(range(x.ndim))) is None
    result = np.empty(shape, dtype)
    ENGINE.compile(Region((node,), (leaf,), (node,), x.shape)).run([x], [result], 1)
    return result


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", ["sum", "min", "max"])
def test_integers_wrap_as_in_numpy(name, dtype, length, assert_same):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(length)
    x = rng.integers(info.min, info.max, (5, length), dtype=dtype, endpoint=True)
    assert_same(fold(name, x), getattr(np, name)(x, axis=-1, keepdims=True))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ["any", "all", "sum"])
def test_bools(name, length, assert_same):
    x = np.full((3, length), name == "all")
    x[1, -1] = not x[1, -1]
    assert_same(fold(name, x), getattr(np, name)(x, axis=-1, keepdims=True))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["min", "max", "sum"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 0.0, -0.0])
def test_special_values_anywhere_in_a_row(name, dtype, special, assert_same):
    x = np.full((300, 300), -0.0 if special == 0 else 1, dtype)
    np.fill_diagonal(x, special)
    found, expected = fold(name, x), getattr(np, name)(x, axis=-1, keepdims=True)
    # of zeros of both signs NumPy's own minimum takes now the one, now the other
    assert_same(found, expected, zero_signs=name == "sum")


def test_infinities_of_both_signs_sum_to_nan():
    x = np.ones((1, 3000))
    x[0, 5], x[0, 2500] = np.inf, -np.inf
    assert np.isnan(fold("sum", x)).all()


@pytest.mark.parametrize("length", [*LENGTHS, 100_003])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("spread", [0, 12])
def test_sums_keep_the_stated_bound(dtype, length, spread):
    """docs/numerics.md: (16 + log2 n) eps sum |x|; lanes make it 22 roundings whatever the length."""
    rng = np.random.default_rng(length)
    x = (rng.standard_normal(length) * 10.0 ** rng.uniform(0, spread, length)).astype(dtype)
    exact, size = math.fsum(x.tolist()), math.fsum(np.abs(x).tolist())
    bound = (16 + math.log2(length)) * np.finfo(dtype).eps / 2 * size
    assert abs(float(fold("sum", x[None])[0, 0]) - exact) <= bound


def test_a_sum_over_all_rows_is_that_of_one_long_row(assert_same):
    x = np.random.default_rng(0).standard_normal((64, 130)).astype("f8")
    assert_same(fold("sum", x, axis=None), fold("sum", x.reshape(1, -1)).reshape(1, 1))


# --- layouts --------------------------------------------------------------------------------------

LAYOUTS = {
    "rows apart": lambda x: np.repeat(x, 2, axis=0)[::2],
    "columns apart": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "Fortran": np.asfortranarray,
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "four axes": lambda x: np.repeat(np.repeat(x.reshape(2, 3, 4, -1), 2, 0), 2, 2)[::2, :, ::2],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    x = np.random.default_rng(1).standard_normal((24, 501))
    laid = LAYOUTS[name](x)
    expected = softmax(fg.asarray(laid.copy())).compute()
    np.testing.assert_array_equal(softmax(fg.asarray(laid)).compute(), expected)
    np.testing.assert_allclose(expected, softmax(laid), rtol=1e-13)


def test_leading_axes_that_do_not_join():
    """Three axes of steps that have nothing in common: dense copies stand in."""
    x = np.random.default_rng(2).standard_normal((4, 6, 8, 40))[::2, ::3, ::4]
    y = np.random.default_rng(3).standard_normal((2, 1, 2, 1))
    found = ((fg.asarray(x) * fg.asarray(y)).sum(axis=-1)).compute()
    np.testing.assert_allclose(found, (x * y).sum(axis=-1), rtol=1e-12, atol=1e-12)


def test_unaligned_rows():
    raw = np.zeros(4 * 300 * 20 + 1, np.uint8)
    x = raw[1:].view(np.float32).reshape(20, 300)
    x[...] = np.random.default_rng(4).standard_normal((20, 300))
    np.testing.assert_allclose(softmax(fg.asarray(x)).compute(), softmax(x), rtol=2e-6)


def test_another_interpreters_arrays(monkeypatch):
    monkeypatch.setattr(row_body, "arrays_lie_as_expected", lambda: False)
    x = np.random.default_rng(5).standard_normal((20, 300)).astype("f4")
    np.testing.assert_allclose(softmax(fg.asarray(x)).compute(), softmax(x), rtol=2e-6)


# --- memory ---------------------------------------------------------------------------------------


def region_of(x, build):
    """Two results of ``build`` over a placeholder of ``x``, as a region."""
    leaf = placeholder(0, x.shape, x.dtype, None)
    made = []

    def op(name, *inputs):
        made.append(make(OPS[name], inputs, (), x.shape, x.dtype))
        return made[-1]

    def total(value):
        axis = (("axis", (x.ndim - 1,)), ("keepdims", True))
        made.append(make(OPS["sum"], (value,), axis, (*x.shape[:-1], 1), x.dtype))
        return made[-1]

    outputs = build(op, total, leaf)
    return Region(tuple(made), (leaf,), outputs, x.shape)


@pytest.mark.parametrize(
    ("build", "allowed"),
    [
        (lambda op, total, x: (op("negative", x), total(x)), True),
        (lambda op, total, x: (op("add", x, total(x)),), True),
        (lambda op, total, x: ((y := op("negative", x)), op("add", x, total(y))), False),
    ],
    ids=["a reduction of the operand", "the last pass", "the operand is read once more"],
)
def test_in_place_where_nothing_is_read_later(build, allowed):
    x = np.random.default_rng(6).standard_normal((9, 3000))
    region = region_of(x, build)
    body = ENGINE.compile(region)
    assert isinstance(body, RowBody)
    assert body.in_place is allowed
    apart = [np.empty(o.shape) for o in region.outputs]
    body.run([x], apart, 1)
    if allowed:
        over = [x if o.shape == x.shape else np.empty(o.shape) for o in region.outputs]
        body.run([x], over, 1)
        for a, b in zip(apart, over, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["softmax", "layer norm"])
def test_exact_leaves_sums_and_functions_to_numpy(name, assert_same):
    x = np.random.default_rng(7).standard_normal((50, 777)).astype("f4")
    assert_same(ROWS[name](fg.asarray(x)).compute(exact=True), ROWS[name](x))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_values(threads, assert_same):
    x = np.random.default_rng(8).standard_normal((2000, 300)).astype("f4")
    for build in (softmax, lambda t: (t * t).sum()):
        one = build(fg.asarray(x)).compute(threads=1)
        assert_same(np.asarray(build(fg.asarray(x)).compute(threads=threads)), np.asarray(one))


def test_halves_pass_through_float32(assert_same):
    x = np.random.default_rng(9).standard_normal((30, 100)).astype("f2")
    found = (fg.asarray(x) * 2 - fg.asarray(x).max(axis=-1, keepdims=True)).compute()
    assert_same(found, x * 2 - x.max(axis=-1, keepdims=True))


# --- a narrow axis first --------------------------------------------------------------------------

NARROW_ROWS = {
    "away": lambda x: x - x.mean(axis=-1, keepdims=True) * 2,
    "norm": lambda x: (x - x.mean(axis=-1, keepdims=True)) / (x.std(axis=-1, keepdims=True) + 1),
    "beside": lambda x: x - x.sum(axis=-1, keepdims=True) * x[::-1],
    "two sums": lambda x: x * ((x * x).sum(axis=-1, keepdims=True) + 1) / x.max(-1, keepdims=True),
}


@pytest.mark.parametrize("build", NARROW_ROWS.values(), ids=NARROW_ROWS)
@pytest.mark.parametrize("shape", [(40_000, 10), (23, 277, 23), (1, 3000, 9), (2000, 32)], ids=str)
def test_values_of_one_and_of_many_a_row_do_not_share_a_stage_there(shape, build):
    """Once wrong values: the last axis of the arrays, one of rows, was taken for the narrow one."""
    x = np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)
    plan = build(fg.asarray(x)).plan(engine="llvm")
    expected = build(x.astype(np.float64))
    np.testing.assert_allclose(plan.run()[0], expected, rtol=2e-5, atol=2e-5)


# --- rows that all rows read ----------------------------------------------------------------------


def weighted(x, weight, bias):
    away = x - x.mean(axis=-1, keepdims=True)
    return away / np.sqrt((away * away).mean(axis=-1, keepdims=True)) * weight + bias


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
@pytest.mark.parametrize("rows", [1, MANY_ROWS, MANY_ROWS + 1, 3 * MANY_ROWS])
def test_rows_that_all_rows_read_may_lie_anywhere(rows, dtype):
    """Few rows read them in place, many a copy; a weight of integers is cast as it is read."""
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((2, rows, 300)).astype("f8" if dtype == "i4" else dtype)
    raw = rng.integers(1, 9, 1301 * x.itemsize).astype(np.uint8)
    weight = raw[16 : 16 + 300 * np.dtype(dtype).itemsize].view(dtype)
    weight[:] = rng.integers(1, 9, 300)
    bias = rng.standard_normal((1, 300)).astype(x.dtype)
    expected = weighted(x, weight, bias)
    found = np.asarray(weighted(*map(fg.asarray, (x, weight, bias))))
    assert found.dtype == expected.dtype
    assert np.abs(found - expected).max() <= 64 * np.finfo(x.dtype).eps * np.abs(expected).max()


# --- sums of float32 ------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [31, 32, 127, 128, 129, 255, 1000, CHUNK, 5 * CHUNK + 77])
def test_float32_is_rounded_three_times_in_a_sum(length):
    """Twice where four are added in pairs, and once at the end; between it is added in float64."""
    x = np.random.default_rng(length).standard_normal((50, length)).astype(np.float32) + 3
    found = np.asarray((fg.asarray(x) * 1).sum(axis=-1))
    exact = x.astype(np.longdouble).sum(axis=-1)
    assert (np.abs(found - exact) <= 3 * np.finfo(np.float32).eps / 2 * np.abs(x).sum(-1)).all()


# --- sums of products -----------------------------------------------------------------------------

SUMS_OF_PRODUCTS = {
    "squares of an input": (lambda x, y: (x * x, None), 0),
    "np.square": (lambda x, y: (np.square(x), None), 0),
    "products of two inputs": (lambda x, y: (x * y, None), 0),
    "squares that wait": (
        lambda x, y: ((away := fg.exp(x - x.max(-1, keepdims=True))) * away, away),
        1,
    ),
    "squares of what is computed twice": (
        lambda x, y: ((away := x - x.mean(-1, keepdims=True)) * away, away),
        0,
    ),
    "squared deviations": (lambda x, y: ((away := x - x.mean(-1, keepdims=True)) * away, None), 0),
    "squared deviations from an input": (lambda x, y: (np.square(x - y[:, :1]), None), 0),
    "squared deviations from a constant": (lambda x, y: (np.square(x - 3), None), 0),
    "squared deviations of a row for all": (lambda x, y: (np.square(y[:1] - x[:, :1]), None), 1),
    "products that wait": (
        lambda x, y: (
            (a := x - x.max(-1, keepdims=True)) * (b := y - x.max(-1, keepdims=True)),
            a + b,
        ),
        2,
    ),
    "squared differences": (lambda x, y: ((d := x - y) * d, None), 0),
    "squared differences with a row for all": (lambda x, y: (np.square(x - y[:1]), None), 1),
    "squares of what does not wait": (lambda x, y: ((d := x / y) * d, None), 1),
    "a number less what passes": (lambda x, y: (np.square(3 - x), None), 1),
    "an input and what is computed": (lambda x, y: (x * (a := x - x.max(-1, keepdims=True)), a), 2),
    "one row for all": (lambda x, y: (x * y[:1], None), 1),  # of which there is a copy
}


def of_sum(name, x, y, product_too=False):
    """A row's sum of products, what reads it, and the product where it is asked for."""
    product, waits = SUMS_OF_PRODUCTS[name][0](x, y)
    total = product.sum(-1, keepdims=True)
    results = [total if waits is None else waits / (total + 1)]
    return [*results, product] if product_too else results


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("length", [LONG_ROW - 1, *LENGTHS[4:]])
@pytest.mark.parametrize("name", SUMS_OF_PRODUCTS)
def test_products_are_multiplied_as_they_are_summed(name, length, dtype, assert_same):
    """The bits are those of products that are stored, which they are where they are a result too."""
    rng = np.random.default_rng(length)
    x, y = (fg.asarray(rng.standard_normal((7, length)).astype(dtype)) for _ in range(2))
    (found,) = [np.asarray(t) for t in of_sum(name, x, y)]
    expected, product = fg.compute(*of_sum(name, x, y, True))
    assert_same(found, expected)
    exact = product.astype(np.longdouble).sum(-1, keepdims=True)
    if SUMS_OF_PRODUCTS[name][0](x, y)[1] is None:
        bound = 40 * np.finfo(dtype).eps * np.abs(product).sum(-1, keepdims=True)
        assert (np.abs(found - exact) <= bound).all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", [name for name in SUMS_OF_PRODUCTS if name.startswith("squared")])
def test_differences_that_are_not_finite(name, dtype, assert_same):
    """What stands behind the end of a row is zero, though its difference from infinity is none."""
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((7, 300)).astype(dtype) for _ in range(2))
    big = np.finfo(dtype).max
    for row, value in enumerate((np.inf, -np.inf, np.nan, big, -big)):
        x[row, 7 * row + 3] = y[row, 0] = value
    x[5], y[6] = big, big
    tensors = [fg.asarray(a) for a in (x, y)]
    with np.errstate(all="ignore"):
        (found,) = [np.asarray(t) for t in of_sum(name, *tensors)]
        expected, _ = fg.compute(*of_sum(name, *tensors, True))
    assert_same(found, expected)


@pytest.mark.parametrize("name", SUMS_OF_PRODUCTS)
def test_products_take_no_memory_of_their_own(name):
    x, y = (fg.asarray(np.ones((7, 1024), np.float32)) for _ in range(2))
    (region,) = compiled(fg.plan(*of_sum(name, x, y)))
    assert len(generate(region).kept) == SUMS_OF_PRODUCTS[name][1]


@pytest.mark.parametrize(
    "name", ["squares that wait", "products that wait", "an input and what is computed"]
)
def test_a_result_may_be_written_over_a_factor(name, assert_same):
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((7, 3000)) for _ in range(2)]
    product, waits = SUMS_OF_PRODUCTS[name][0](*map(fg.asarray, arrays))
    result = waits / (product.sum(-1, keepdims=True) + 1)
    (region,) = compiled(result.plan())
    body, apart = RowBody(region), np.empty_like(arrays[0])
    assert body.in_place
    inputs = arrays[: len(region.inputs)]
    body.run_block([*inputs, apart])
    for at in range(len(inputs)):
        over = [a.copy() for a in inputs]
        body.run_block([*over, over[at]])
        assert_same(over[at], apart)
