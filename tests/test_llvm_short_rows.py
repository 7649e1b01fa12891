"""Compiled short rows: many pass together; NumPy's values whatever the length, dtype and layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import fusegraph as fg

pytest.importorskip("llvmlite")

from fusegraph.engines.base import Region
from fusegraph.engines.llvm import short_code
from fusegraph.engines.llvm.engine import LlvmEngine
from fusegraph.graph import topological
from fusegraph.machine_file import default_machine

ENGINE = LlvmEngine()
LENGTHS = (2, 3, 4, 5, 8, 9, 10, 16, 17, 31, 32)
ROWS = (1, short_code.TILE - 1, short_code.TILE, 3 * short_code.TILE + 5)


def softmax(xp, x):
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def normalised(xp, x):
    away = x - xp.mean(x, axis=-1, keepdims=True)
    return away / xp.sqrt(xp.mean(away * away, axis=-1, keepdims=True) + 0.5)


def spread(xp, x):
    y = x * 2
    return xp.max(y, axis=-1, keepdims=True) - xp.min(y, axis=-1, keepdims=True)


def several(xp, x):
    total = xp.sum(x, axis=-1, keepdims=True)
    return x * total, total, xp.max(x, axis=-1, keepdims=True) > total


def scaled(xp, x, a, b):
    return xp.sum(x * a, axis=-1, keepdims=True) * b - a


def weighted(xp, x, w):
    return xp.sum(x * w, axis=-1, keepdims=True)


FUNCTIONS = {"softmax": softmax, "normalised": normalised, "spread": spread}


def region_of(function, *arrays):
    """What ``function`` computes, as a region over its arrays, not rewritten."""
    results = function(fg, *map(fg.asarray, arrays))
    results = results if isinstance(results, tuple) else (results,)
    roots = tuple(result.node for result in results)
    nodes = [n for n in topological(roots) if n.kind not in ("input", "const")]
    leaves = {id(n.data): n for n in topological(roots) if n.kind == "input"}
    return Region(tuple(nodes), tuple(leaves[id(a)] for a in arrays), roots, arrays[0].shape)


def run(function, *arrays):
    """The results of a compiled body on the arrays as they lie."""
    region = region_of(function, *arrays)
    body = ENGINE.compile(region)
    assert body.short
    results = [np.empty(n.shape, n.dtype) for n in region.outputs]
    body.run(arrays, results, 1)
    return results


def values(shape, dtype="f4", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(found, function, *arrays):
    expected = function(np, *(a.astype("g") for a in arrays))
    scale = np.abs(expected).max() + 1
    return np.abs(found - expected).max() <= 16 * np.finfo(found.dtype).eps * scale


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_short_rows_are_numpys(function, dtype, length, rows):
    x = values((rows, length), dtype, length)
    (found,) = run(function, x)
    assert found.dtype == dtype
    assert close(found, function, x)


@pytest.mark.parametrize("length", LENGTHS)
def test_several_results_wide_and_narrow(length):
    x = np.random.default_rng(length).integers(-9, 9, (130, length)).astype("i4")
    for found, expected in zip(run(several, x), several(np, x), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("length", [3, 10])
def test_operands_of_one_element_a_row(length):
    x, a, b = values((200, length), "f8"), values((200, 1), "f8", 1), values((1, 1), "f8", 2)
    (found,) = run(scaled, x, a, b)
    assert close(found, scaled, x, a, b)


def test_a_result_is_not_written_over_an_operand_that_a_later_phase_reads():
    x, b = values((90, 10), "f8"), values((90, 1), "f8", 1)
    region = region_of(lambda xp, x, b: xp.sum(x, axis=-1, keepdims=True) * b + b, x, b)
    assert not ENGINE.compile(region).in_place
    assert ENGINE.compile(region_of(softmax, x)).in_place
    result = x.copy()
    ENGINE.compile(region_of(softmax, x)).run([result], [result], 1)
    assert close(result, softmax, x)


def layer_norm(xp, x, weight, bias):
    return normalised(xp, x) * weight + bias


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("lead", [(), (1,)], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_row_that_is_the_same_for_all(dtype, lead, rows):
    x, w, b = (values(s, dtype, n) for n, s in enumerate([(rows, 24), (*lead, 24), (*lead, 24)]))
    (found,) = run(layer_norm, x, w, b)
    assert close(found, layer_norm, x, w, b)
    (found,) = run(layer_norm, x[::-1], w[..., ::-1], b)
    assert close(found, layer_norm, x[::-1], w[..., ::-1], b)


LAYOUTS = {
    "leading axes": lambda x: x.reshape(4, 5, 10, 10),
    "other rows": lambda x: x[::2],
    "turned": np.asfortranarray,
    "backwards": lambda x: x[:, ::-1],
    "from the second element on": lambda x: x[:, 1:],
    "not aligned": lambda x: np.frombuffer(b"?" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
}


@pytest.mark.parametrize("laid", LAYOUTS.values(), ids=LAYOUTS)
def test_any_layout(laid):
    x = laid(values((200, 10)))
    (found,) = run(softmax, x)
    assert close(found, softmax, x)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ["min", "max"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u4"])
def test_extremes(dtype, name, length):
    rng = np.random.default_rng(length)
    x = rng.integers(0, 1000, (300, length)).astype(dtype)
    if x.dtype.kind == "f":
        x[rng.random(x.shape) < 0.02] = np.nan
        x[rng.random(x.shape) < 0.02] = np.inf
        x[rng.random(x.shape) < 0.02] = -np.inf
    else:
        x[0, 0], x[1, -1] = np.iinfo(dtype).max, np.iinfo(dtype).min
    (found,) = run(lambda xp, x: getattr(xp, name)(x, axis=-1, keepdims=True), x)
    np.testing.assert_array_equal(found, getattr(x, name)(axis=-1, keepdims=True))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u4", "i8"])
def test_sums_are_at_least_as_accurate_as_numpys(dtype, length):
    x = np.random.default_rng(length).integers(-(2**20), 2**20, (300, length)).astype(dtype)
    if x.dtype.kind == "f":
        x *= x.dtype.type(1.1)
    (found,) = run(lambda xp, x: xp.sum(x, axis=-1, keepdims=True), x)
    exact = x.sum(axis=-1, keepdims=True, dtype="g" if x.dtype.kind == "f" else None)
    assert found.dtype == x.sum(axis=-1).dtype
    bound = (
        0
        if x.dtype.kind != "f"
        else np.abs(x).sum(axis=-1, keepdims=True)
        * (np.finfo(dtype).eps * (0.5 if dtype == "f4" else 2.5))
    )
    assert (np.abs(found - exact) <= bound).all()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("function", [softmax, normalised, spread])
def test_scratch_is_what_the_plan_counts(function, length):
    x = values((200, length))
    region = region_of(function, x)
    body = ENGINE.compile(region)
    layout = body.layout_of([x, *(np.empty(n.shape, n.dtype) for n in region.outputs)])
    assert 0 < layout.scratch_bytes <= body.call_bytes


def test_lanes_behind_a_row_are_not_read():
    """The last row may end where memory ends; an infinity right behind it must not be seen either."""
    memory = np.full((101, 10), np.inf, np.float32)
    memory[:100] = values((100, 10))
    (found,) = run(softmax, memory[:100])
    assert close(found, softmax, memory[:100])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_plan_runs_them_upright_and_shares_them(threads):
    x = values((50_000, 10))
    plan = softmax(fg, fg.asarray(x)).plan(engine="llvm", threads=threads)
    (kernel,) = plan.kernels
    assert kernel.engine == "llvm"
    assert not kernel.panels.narrow
    assert kernel.body.whole_stage.body.short
    (found,) = plan.run()
    assert close(found, softmax, x)
    (alone,) = softmax(fg, fg.asarray(x)).plan(engine="llvm", threads=1).run()
    np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("slower", [1, 5, 30])
def test_which_axis_comes_first_does_not_depend_on_threads(slower):
    """Once predictions of the threads allowed were compared: sums had other bits on one than on two."""
    measured = default_machine()
    nanoseconds = {
        row: ns * slower if row.startswith("llvm") else ns
        for row, ns in measured.nanoseconds.items()
    }
    x = values((6000, 16))
    with fg.options(engine="llvm", machine=replace(measured, nanoseconds=nanoseconds)):
        of_threads = [normalised(fg, fg.asarray(x)).plan(threads=n) for n in (1, 2, 3)]
    assert len({plan.kernels[0].panels.narrow for plan in of_threads}) == 1
    alone, *shared = (plan.run()[0] for plan in of_threads)
    for found in shared:
        np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("name", ["max", "sum"])
def test_a_reduction_alone_is_compiled_too(name):
    x = values((100_000, 10))
    result = getattr(fg.asarray(x), name)(axis=-1)
    (kernel,) = result.plan(engine="llvm").kernels
    assert kernel.body.whole_stage.body.short
    assert close(result.compute(engine="llvm"), lambda xp, x: getattr(x, name)(axis=-1), x)


def test_auto_compiles_them_after_some_calls():
    x = fg.asarray(values((200_000, 10)))
    (kernel,) = softmax(fg, x).plan(engine="auto").kernels
    assert kernel.panels.narrow  # until then NumPy's calls run along the rows
    assert not kernel.tier.kernel.panels.narrow


def test_the_text_knows_classes_of_lengths_and_no_sizes():
    texts = {
        length: short_code.generate(region_of(softmax, values((90, length)))).code.text(True)
        for length in (9, 16, 17)
    }
    assert texts[9] == texts[16] != texts[17]


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (softmax, [np.ones((90, 33), np.float32)]),
        (lambda xp, x: xp.sum(x * x, axis=-1, keepdims=True), [np.ones((90, 8), np.complex64)]),
        (lambda xp, x: xp.max(x, axis=-1, keepdims=True), [np.ones((90, 8), np.int16)]),
        (
            lambda xp, x, w: xp.sum(x * w, axis=-1, keepdims=True),
            [np.ones((9, 7, 8)), np.ones((9, 1, 8))],
        ),
        (lambda xp, x: xp.sum(x, axis=(0, 1), keepdims=True), [np.ones((90, 8))]),
    ],
    ids=["longer rows", "complex", "small elements", "a row for several", "along all rows"],
)
def test_what_is_none(function, arrays):
    assert not short_code.fits(region_of(function, *arrays).nodes)
