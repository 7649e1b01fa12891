"""Arrays of every layout go in, are never written, and results own their memory."""

# ruff: noqa: PLW0108
from __future__ import annotations

import gc

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.buffers import SMALLEST

BIG = SMALLEST // 8 * 2  # float64 elements: enough for the pool


def unaligned(dtype, count=600):
    raw = np.arange(count * np.dtype(dtype).itemsize + 1, dtype=np.uint8) % 63
    return np.frombuffer(raw.tobytes(), dtype, count, offset=1)


BASE = np.linspace(-4, 4, 600)
LAYOUTS = {
    "plain": BASE,
    "empty": BASE[:0],
    "one": BASE[:1],
    "0-d": np.array(2.5),
    "two axes": BASE.reshape(20, 30),
    "fortran": np.asfortranarray(BASE.reshape(20, 30)),
    "permuted": BASE.reshape(5, 4, 30).transpose(1, 2, 0),
    "reversed": BASE[::-1],
    "every third": BASE[::3],
    "columns": BASE.reshape(20, 30)[:, 3:17],
    "negative strides": BASE.reshape(20, 30)[::-1, ::-2],
    "zero strides": np.broadcast_to(BASE[:30], (20, 30)),
    "overlapping": np.lib.stride_tricks.sliding_window_view(BASE, 5),
    "empty inside": np.empty((3, 0, 4)),
    "ones inside": BASE.reshape(20, 1, 30, 1),
    "big-endian": BASE.astype(">f8"),
    "big-endian ints": np.arange(600, dtype=">i4"),
    "unaligned f8": unaligned("f8"),
    "unaligned f4": unaligned("f4"),
    "unaligned i4": unaligned("i4"),
    "float32": BASE.astype(np.float32),
    "float16": BASE.astype(np.float16),
    "int8": np.arange(-100, 100, dtype=np.int8),
    "bool": BASE > 0,
    "subnormals": np.array([5e-324, -5e-324, 2e-308, 1e-310, 0.0, -0.0]),
    "float32 subnormals": np.array([1e-45, -1e-45, 1e-38, 0.0, -0.0], np.float32),
    "signed zeros": np.array([0.0, -0.0] * 50),
    "structured field": np.array([(i, i / 2) for i in range(50)], [("a", "i4"), ("b", "f8")])["b"],
    "large": np.linspace(0, 1, 3 * BIG),
    "large fortran": np.asfortranarray(np.linspace(0, 1, 4 * BIG).reshape(4, BIG)),
    "large columns": np.linspace(0, 1, 4 * BIG).reshape(BIG, 4)[:, 1:3],
}  # fmt: skip


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


EXPRESSIONS = {
    "chain": lambda m, x: (x * 2 + 1) * x,
    "negative": lambda m, x: m.where(x > 1, x * x, x) * 3,
    "outer": lambda m, x: (x + 1)[..., None] * m.asarray([1.0, 2.0]),
    "transposed": lambda m, x: x.T * 2 + x.T,
    "sum": lambda m, x: (x * 2).sum(),
    "reversed": lambda m, x: (x + x)[..., ::-1] if x.ndim else x + x,
}


def native(x):
    return x.astype(x.dtype.newbyteorder("="))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, engine, assert_same):
    x = LAYOUTS[layout]
    before, flags = x.copy(), str(x.flags)
    for name, build in EXPRESSIONS.items():
        expected = build(np, x)
        tensor = build(fg, fg.asarray(x))
        assert tensor.dtype == native(np.asarray(expected)).dtype
        with fg.options(exact=True):
            result = tensor.compute()
        assert_same(result, native(np.asarray(expected)), f"{name} of {layout}")
        assert result.flags.writeable
        assert not np.may_share_memory(result, x) or not x.size
    np.testing.assert_array_equal(x, before)
    assert str(x.flags) == flags


@pytest.mark.parametrize("layout", ["plain", "two axes", "0-d", "large"])
def test_read_only_arrays(layout, engine, assert_same):
    x = read_only(LAYOUTS[layout])
    assert_same((fg.asarray(x) * 2).compute(), x * 2)
    assert not x.flags.writeable


def test_memory_mapped_arrays(tmp_path, engine, assert_same):
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(40, 50))
    x[:] = np.arange(2000).reshape(40, 50)
    x.flush()
    for mode in ("r", "r+", "c"):
        mapped = np.memmap(tmp_path / "x", np.float32, mode, shape=(40, 50))
        assert_same((fg.asarray(mapped) * 2 + 1).compute(), np.asarray(x) * 2 + 1)
        assert_same((fg.asarray(mapped[:, ::2]) * 2).compute(), np.asarray(x)[:, ::2] * 2)
    np.testing.assert_array_equal(x, np.arange(2000).reshape(40, 50))


def test_arrays_are_shared_not_copied(assert_same):
    x = np.arange(5.0)
    t = fg.asarray(x)
    assert t.compute() is x
    assert np.asarray(t) is x
    later = t + 1
    x[0] = 100
    assert_same(later.compute(), x + 1)


def test_subclasses_are_seen_as_arrays(assert_same):
    matrix = np.arange(4.0).view(type("Mine", (np.ndarray,), {}))
    assert_same((fg.asarray(matrix) * 2).compute(), np.arange(4.0) * 2)


@pytest.mark.parametrize("layouts", [("fortran", "two axes"), ("columns", "columns")])
def test_mixed_layouts(layouts, engine, assert_same):
    a, b = (LAYOUTS[name] for name in layouts)
    assert_same((fg.asarray(a) * 2 + fg.asarray(b)).compute(), a * 2 + b)


def test_results_keep_the_order_their_operands_share():
    x = np.asfortranarray(np.ones((30, 40)))
    assert (fg.asarray(x) * 2).compute().flags.f_contiguous
    assert (fg.asarray(x) * 2 + np.ones((30, 40))).compute().flags.c_contiguous


def test_several_results_do_not_share_memory():
    x = np.ones(BIG)
    t = fg.asarray(x)
    results = fg.compute(t + 1, t * 2, (t + 1) * (t * 2))
    for at, a in enumerate(results):
        assert not np.shares_memory(a, x)
        assert not any(np.shares_memory(a, b) for b in results[:at])


# --- the pool -------------------------------------------------------------------------------------


def address(array):
    return array.__array_interface__["data"][0]


def test_released_memory_is_used_again(engine):
    fg.clear_caches()
    x = np.linspace(0, 1, BIG)
    seen = set()
    for value in range(6):
        result = (fg.asarray(x) + (value + 2)).compute()
        seen.add(address(result))
        del result
    assert len(seen) == 1


HOLDERS = {
    "array": lambda r: r,
    "slice": lambda r: r[10:20],
    "reversed": lambda r: r[::-1],
    "reshaped": lambda r: r.reshape(1, -1).T,
    "bytes view": lambda r: r.view(np.uint8)[8:24],
    "view of a view": lambda r: r[1:][1:][::2],
    "memoryview": lambda r: memoryview(r),
    "memoryview slice": lambda r: memoryview(r)[5:9],
    "asarray": lambda r: np.asarray(memoryview(r)),
    "frombuffer": lambda r: np.frombuffer(r, np.float64)[3:],
    "flat": lambda r: r.flat,
    "tensor": lambda r: fg.asarray(r),
    "pending": lambda r: fg.asarray(r) * 2,
    "closure": lambda r: lambda: r,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_held_memory_is_not_used_again(holder):
    x = np.zeros(BIG)
    result = (fg.asarray(x) + 7).compute()
    start, end = address(result), address(result) + result.nbytes
    held = HOLDERS[holder](result)
    del result
    others = [(fg.asarray(x) + value).compute() for value in range(8, 14)]
    for other in others:
        assert not start <= address(other) < end
    del held, others


def test_random_computing_and_releasing_never_overwrites_what_is_held():
    rng = np.random.default_rng(11)
    fg.clear_caches()
    held = {}
    sources = {n: np.zeros(n) for n in (BIG, BIG + 5, 3 * BIG)}
    ways = list(HOLDERS.values())[:6]
    for step in range(300):
        size = int(rng.choice(list(sources)))
        result = (fg.asarray(sources[size]) + step).compute()
        held[step] = ways[int(rng.integers(len(ways)))](result)
        del result
        for victim in list(held):
            if rng.random() < 0.3:
                del held[victim]
        for expected, view in held.items():
            values = view.copy().view(np.float64) if view.dtype == np.uint8 else view
            assert values.min() == values.max() == expected
    held.clear()
    gc.collect()


def test_intermediates_of_one_plan_do_not_meet_its_results():
    x = np.linspace(0, 1, BIG).reshape(-1, 64)
    t = fg.asarray(x)
    row = (t * 2).sum(axis=0)
    a, b, c = fg.compute(t * 2 - row, (t * 2 - row) @ np.eye(64), row)
    np.testing.assert_allclose(c, (x * 2).sum(axis=0), rtol=len(x) * np.finfo(float).eps)
    np.testing.assert_array_equal(a, x * 2 - c)
    np.testing.assert_allclose(b, a)
