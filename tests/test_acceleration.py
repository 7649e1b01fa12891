"""The course module's functions, and every figure it works out, derived from the cost model."""

from __future__ import annotations

import inspect
import math
import re

import numpy as np
import pytest

import fusegraph as fg
from fusegraph import seed_figures
from fusegraph.acceleration import (
    benchmark,
    fused_gelu,
    tiled_matmul,
    unfused_gelu,
    vectorized_matmul,
)


def array(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def reference_gelu(x):
    wide = x.astype(np.float64)
    return 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))


@pytest.mark.parametrize("gelu", [fused_gelu, unfused_gelu])
def test_gelu_values(gelu):
    x = array(1000) * 4
    result = gelu(fg.asarray(x)).compute()
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, reference_gelu(x), rtol=2e-5, atol=1e-6)


def test_fused_gelu_is_one_kernel():
    (kernel,) = fused_gelu(array(1000)).plan().kernels
    assert (kernel.cost.bytes_read, kernel.cost.bytes_written) == (4000, 4000)


def test_unfused_gelu_is_eight_kernels():
    plan = unfused_gelu(array(1000)).plan()
    assert len(plan.kernels) == 8
    assert plan.cost.bytes_read == 10 * 4000
    assert plan.cost.bytes_written == 8 * 4000


@pytest.mark.parametrize("tile_size", [1, 7, 32, 64, 1000])
def test_tiled_matmul_tiles(tile_size):
    a, b = array(50, 33), array(33, 71, seed=1)
    product = tiled_matmul(a, b, tile_size=tile_size)
    (kernel,) = product.plan(exact=False, engine="auto").kernels
    assert (kernel.engine, kernel.block) == ("tiles", tile_size)
    np.testing.assert_allclose(product.compute(engine="auto"), a @ b, rtol=1e-4, atol=1e-5)


def test_vectorized_matmul():
    a, b = array(3, 20, 30), array(30, 40, seed=1)
    np.testing.assert_allclose(vectorized_matmul(a, b).compute(), a @ b, rtol=1e-4, atol=1e-5)


def test_errors_in_order():
    message = (
        "Matrix multiplication shape mismatch: (128, 256) @ (128, 512). "
        "Inner dimensions must match: a.shape[-1]=256 != b.shape[-2]=128"
    )
    a, b = np.zeros((128, 256)), np.zeros((128, 512))
    for product in (vectorized_matmul, tiled_matmul):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            product(a, b)
        with pytest.raises(ValueError, match=r"2D\+"):
            product(a[0], b)
    for tile_size in (0, -1, 2.0, "8", True):
        with pytest.raises(ValueError, match="Tile size must be at least 1"):
            tiled_matmul(a, b, tile_size=tile_size)
    with pytest.raises(ValueError, match="two dimensions"):
        tiled_matmul(a[None], b, tile_size=0)


def test_benchmark():
    result = benchmark(vectorized_matmul, sizes=[16, 32], repeats=2)
    assert [t.size for t in result] == [16, 32]
    assert all(t.seconds > 0 and t.gigaflops > 0 and t.gigabytes > 0 for t in result)
    assert result.to_dict()["name"] == "vectorized_matmul"
    assert "GFLOP/s" in str(result)
    assert len(benchmark(fused_gelu, sizes=[8], repeats=1)) == 1


def test_benchmark_of_a_row():
    assert [t.size for t in benchmark(fg.tanh, sizes=8, repeats=1)] == [8]
    assert len(benchmark(fg.atan2, sizes=(4, np.int64(8)), repeats=1)) == 2
    assert benchmark(fg.matmul, sizes=np.array([4]), repeats=1).name == "matmul"


@pytest.mark.parametrize("sizes", [0, [0], [], [2.5], "16", [-1], True, [8, "a"], None])
def test_benchmark_refuses_other_sizes(sizes):
    with pytest.raises(ValueError, match=r"^benchmark: sizes "):
        benchmark(fg.tanh, sizes=sizes)
    with pytest.raises(ValueError, match=r"^benchmark: repeats "):
        benchmark(fg.tanh, sizes=8, repeats=0)


def test_rows_tell_what_they_take():
    assert str(inspect.signature(fg.tanh)) == "(x, /, *, dtype=None)"
    assert str(inspect.signature(fg.add)) == "(x1, x2, /, *, dtype=None)"


# --- the module's figures -------------------------------------------------------------------------


def test_question_1():
    cost = seed_figures.product_cost(1024)
    assert (cost.flops, cost.bytes_moved) == (2_147_483_648, 12_582_912)
    assert cost.arithmetic_intensity == pytest.approx(1024 / 6)
    assert f"{cost.arithmetic_intensity:.1f}" == "170.7"


def test_question_2():
    _, counted, _ = seed_figures.gelu_counts()
    saving = seed_figures.gelu_saving(1_000_000, counted)
    assert (counted.passes, seed_figures.fused_passes()) == (16, 2)
    assert f"{saving.before_mebibytes:.1f} {saving.after_mebibytes:.1f}" == "61.0 7.6"
    assert saving.saved == 0.875


def test_text():
    counted, _, _ = seed_figures.gelu_counts()
    saving = seed_figures.gelu_saving(4_000_000, counted)
    assert counted.passes == 14
    assert f"{saving.before_mebibytes:.1f} {saving.after_mebibytes:.1f}" == "213.6 30.5"
    assert f"{saving.before_milliseconds:.2f} {saving.after_milliseconds:.2f}" == "4.48 0.64"
    assert saving.speedup == pytest.approx(7.0)


def test_question_3():
    assert seed_figures.tile_figures(256 * 1024, 4) == (147, 128, 192 * 1024)


def test_question_4():
    rate, share = seed_figures.achieved(2.15e9, 0.010, 500)
    assert (rate, share) == (pytest.approx(215), pytest.approx(0.43))


def test_question_5():
    assert seed_figures.fusion_gain(8.0, 2.5) == (pytest.approx(3.2), 0.6875)


def test_addition():
    assert seed_figures.addition_cost(1000).arithmetic_intensity == pytest.approx(1 / 12)


@pytest.mark.parametrize("size", [1024, 1536])
def test_the_table_of_intensities(size):
    rows = seed_figures.intensities(size)
    assert [row.stated for row in rows] == ["0.08", "about 1", "N/6"]
    found = [row.point.intensity for row in rows]
    assert found == pytest.approx([1 / 12, 9 / 8, size / 6])
    assert [f"{found[0]:.2f}", f"{found[1]:.0f}"] == ["0.08", "1"]
    assert [row.point.limit == "compute" for row in rows] == [False, False, True]


def test_the_three_counts():
    counts = seed_figures.gelu_counts()
    assert [(c.reads, c.writes) for c in counts] == [(7, 7), (8, 8), (10, 8)]
