"""Matrix products: values against NumPy, paths, tiles, and threads."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.engines import products
from fusegraph.engines.tiles import (
    arithmetic_for,
    largest_tile,
    reread_bytes,
    run_tiles,
    tile_bytes,
    tile_for_cache,
)
from fusegraph.machine_file import default_machine

INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
SHAPES = [
    ((3, 4), (4, 5)), ((1, 7), (7, 1)), ((130, 140), (140, 135)), ((20, 1), (1, 30)),
    ((5, 0), (0, 6)), ((0, 4), (4, 3)), ((4,), (4,)), ((4,), (4, 3)), ((3, 4), (4,)),
    ((2, 3, 4), (4, 5)), ((4,), (2, 4, 5)), ((2, 1, 6, 4), (3, 4, 5)), ((3, 4), (2, 4, 1)),
]  # fmt: skip


def values(shape, code, seed=0):
    """Full-range integers, truth values that are rarely True, floats of both signs."""
    generator = np.random.default_rng(seed)
    dtype = np.dtype(code)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return generator.integers(info.min, info.max, shape, dtype, endpoint=True)
    if dtype.kind == "b":
        return generator.random(shape) < 0.05
    found = generator.standard_normal(shape)
    return (found + 1j * found[..., ::-1] if dtype.kind == "c" else found).astype(dtype)


def through_tiles(a, b, tile, threads=2):
    """The tiled path, whatever the plan would choose."""
    dtype = np.result_type(a, b)
    out = np.full(np.matmul(a, b).shape, 77, dtype)
    left, right, view = products._matrices([a, b], out)
    run_tiles(left, right, view, tile, arithmetic_for(dtype), threads)
    return out


# --- tiles ----------------------------------------------------------------------------------------


def test_tile_from_cache():
    assert largest_tile(256 * 1024, 4) == 147
    assert tile_for_cache(256 * 1024, 4) == 128
    assert tile_bytes(128, 4) == 192 * 1024
    for cache in (1, 1000, 2**15, 2**20, 10**7):
        for itemsize in (1, 2, 4, 8, 16):
            tile = largest_tile(cache, itemsize)
            assert tile == 1 or tile_bytes(tile, itemsize) <= cache
            assert tile_bytes(tile + 1, itemsize) > cache


@pytest.mark.parametrize("cache", [2**18, 2**20])
def test_plan_takes_the_tile_of_its_machine(cache):
    small = fg.asarray(np.zeros((512, 512), np.float16))
    machine = replace(default_machine(), l2_bytes=cache)
    (kernel,) = (small @ small).plan(engine="auto", machine=machine).kernels
    assert kernel.block == tile_for_cache(cache, 4)


def test_reread_formula():
    assert reread_bytes(100, 300, 1000, 2000, 100) == 2 * 1000
    assert reread_bytes(300, 100, 1000, 2000, 100) == 2 * 2000
    assert reread_bytes(64, 64, 1000, 2000, 64) == 0
    a, b = np.zeros((40, 50), np.float32), np.zeros((50, 60), np.float32)
    cost = fg.matmul(a, b, tile_size=20).plan(engine="auto").cost
    assert cost.bytes_reread == 2 * a.nbytes + 1 * b.nbytes


@pytest.mark.parametrize("code", [*INTEGERS, "?"])
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_integer_tiles_are_exact(code, left, right):
    a, b = values(left, code), values(right, code, seed=1)
    expected = np.matmul(a, b)
    for tile in (1, 3, 64) if expected.size < 1000 else (31, 64):
        np.testing.assert_array_equal(through_tiles(a, b, tile), expected)


@pytest.mark.parametrize("code", [*INTEGERS, "?"])
def test_integer_extremes(code):
    dtype = np.dtype(code)
    ends = [False, True] if dtype.kind == "b" else [np.iinfo(dtype).min, np.iinfo(dtype).max]
    for low in ends:
        for high in ends:
            a = np.full((9, 1100), low, dtype)
            b = np.full((1100, 5), high, dtype)
            np.testing.assert_array_equal(through_tiles(a, b, 2048), np.matmul(a, b))


@pytest.mark.parametrize("code", ["i4", "i8", "f4", "f2", "?"])
def test_strides(code):
    a, b = values((80, 160), code)[::-1, ::2], values((90, 80), code, seed=1).T[:, ::-2]
    expected = np.matmul(a, b)
    np.testing.assert_allclose(through_tiles(a, b, 32), expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(
        (fg.asarray(a) @ fg.asarray(b)).compute(), expected, rtol=2e-3, atol=2e-3
    )


def test_threads_do_not_change_results():
    a, b = values((700, 300), "f4"), values((300, 500), "f4", seed=1)
    for x, y in ((a, b), (a.astype("f2"), b.astype("f2")), (a[:, ::2], b[::2])):
        # engine="numpy" is NumPy's own call, whose bits follow BLAS's own threads
        one, two = (
            (fg.asarray(x) @ fg.asarray(y)).compute(engine="auto", threads=n) for n in (1, 2)
        )
        np.testing.assert_array_equal(one, two)


# --- through the plan -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*INTEGERS, "?", "f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_products_equal_numpy(code, left, right):
    a, b = values(left, code), values(right, code, seed=1)
    expected = np.matmul(a, b)
    result = (fg.asarray(a) @ fg.asarray(b)).compute()
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    if np.dtype(code).kind in "iub":
        np.testing.assert_array_equal(result, expected)
    else:
        tight = {"f2": 2e-3, "f4": 1e-4, "c8": 1e-4}.get(code, 1e-12)
        np.testing.assert_allclose(result, expected, rtol=tight, atol=tight * 10)


@pytest.mark.parametrize("code", ["f2", "f4", "f8", "c8"])
@pytest.mark.parametrize("option", [{"exact": True}, {"engine": "numpy"}])
def test_exact_floats_are_numpys(code, option):
    a, b = values((150, 90), code), values((90, 110), code, seed=1)
    result = (fg.asarray(a) @ fg.asarray(b)).compute(**option)
    np.testing.assert_array_equal(result, np.matmul(a, b))


@pytest.mark.parametrize("inner", [1, 64, 700])
def test_float16_stays_within_its_bound(inner):
    a, b = values((90, inner), "f2"), values((inner, 80), "f2", seed=1)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    unit = inner * 2.0**-24
    sums = unit / (1 - unit) * (abs(a).astype(np.float64) @ abs(b).astype(np.float64))
    bound = sums + (abs(exact) + sums) * 2.0**-11 + 2.0**-25
    result = through_tiles(a, b, 64).astype(np.float64)
    np.testing.assert_array_less(abs(result - exact), bound + 1e-300)


def test_float16_overflow_warns_nobody():
    a = np.full((200, 200), 6e4, np.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = (fg.asarray(a) @ fg.asarray(a)).compute(engine="auto", exact=False)
    assert np.isinf(result).all()


def test_paths():
    def kernel(a, b, **changes):
        return (fg.asarray(a) @ fg.asarray(b)).plan(engine="auto", **changes).kernels[0]

    a = values((256, 256), "f4")
    assert kernel(a, a).engine == "blas"
    assert kernel(a, a.T).engine == "blas"
    strided = kernel(a.repeat(2, axis=1)[:, ::2], a)
    assert (strided.engine, strided.schedule) == ("tiles", "tiles")
    assert "strides" in strided.choice
    assert "float16" in kernel(a.astype("f2"), a.astype("f2")).choice
    assert kernel(a.astype("i4"), a.astype("i4")).engine == "tiles"
    assert kernel(a[:8, :8].astype("i4"), a[:8, :8].astype("i4")).engine == "numpy"
    views = (fg.asarray(a)[:, ::2] @ fg.asarray(a)[:128]).plan(engine="auto").kernels[0]
    assert views.engine == "tiles"
    rows = (fg.asarray(a)[::2] @ fg.asarray(a)).plan(engine="auto").kernels[0]
    assert rows.engine == "blas"


def test_mapped_operand(tmp_path, monkeypatch):
    monkeypatch.setattr(products, "MAPPED_BUDGET", 2**17)
    stored = np.memmap(tmp_path / "a", np.float32, "w+", shape=(256, 256))
    stored[...] = values((256, 256), "f4")
    product = fg.asarray(stored) @ fg.asarray(np.eye(256, dtype=np.float32))
    (kernel,) = product.plan(engine="auto").kernels
    assert kernel.engine == "tiles"
    assert "mapped" in kernel.choice
    assert kernel.tier is None  # which would pack a copy
    np.testing.assert_array_equal(product.compute(), stored)


def test_panels_cover_the_result_once():
    for extents in (
        products.Extents((), 1000, 700, 900), products.Extents((3,), 30, 2000, 5000),
        products.Extents((7, 11), 30, 40, 50), products.Extents((4, 5), 500, 512, 64),
        products.Extents((), 1, 5000, 5000), products.Extents((), 5000, 5000, 1),
    ):  # fmt: skip
        for cores in (1, 2, 3, 16):
            seen = np.zeros((*extents.batch, extents.rows, extents.columns), int)
            for batch, rows, columns in products.panel_keys(extents, cores):
                seen[(*batch, rows, columns)] += 1
            assert (seen == 1).all()


@pytest.mark.parametrize(
    ("shape", "cores", "panels"),
    [
        ((1024, 1024), 2, 2),
        ((1024, 1024), 8, 8),
        ((300, 700), 2, 2),
        ((2048, 2048), 2, 4),
        ((90, 4096), 2, 8),
    ],
)
def test_panels_are_as_many_for_each_core(shape, cores, panels):
    """300 rows were 256 and 44, and 1024 rows two panels whatever the cores."""
    rows, columns = shape
    keys = products.panel_keys(products.Extents((), rows, 1024, columns), cores)
    sizes = {np.empty(shape, bool)[rows, columns].size for _, rows, columns in keys}
    assert len(keys) == panels
    assert max(sizes) <= 1.2 * min(sizes)
