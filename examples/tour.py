"""A tour of hardware-aware performance: vectorizing, tiling, fusion, the roofline.

Shows a matrix product by BLAS and by tiles, GELU with and without its seven intermediates, the bytes
and the arithmetic intensity of each, and what that intensity allows on this machine. The byte counts
are modelled; the times are measured.
"""

import math
import statistics
import time

import numpy as np

import fusegraph as fg
from fusegraph.acceleration import fused_gelu, tiled_matmul, unfused_gelu, vectorized_matmul

SIZE = 1024  # of the square matrices
ELEMENTS = 2_000_000
MIB = 1024**2


def milliseconds(run, repeats=5):
    """Median time of a call."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def gelu(x):
    """The formula in plain NumPy, the cube written as two products."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def products():
    """One product by the library, and by tiles that fit in the cache."""
    a, b = np.random.default_rng(0).standard_normal((2, SIZE, SIZE), dtype=np.float32)
    cost = fg.plan(fg.asarray(a) @ b).cost
    assert cost.flops == 2 * SIZE**3
    assert cost.bytes_moved == 3 * SIZE**2 * 4
    largest = math.isqrt(256 * 1024 // (3 * 4))  # three tiles of float32 in 256 KiB
    tile = 2 ** int(math.log2(largest))
    assert (largest, tile) == (147, 128)

    print(f"product of two {SIZE} x {SIZE} float32 matrices")
    print(f"  {cost.flops:,} flops / {cost.bytes_moved:,} bytes = {cost.arithmetic_intensity:.1f}")
    print(f"  tile for a 256 KiB cache: at most {largest}, so {tile}")
    expected = a @ b
    for name, run in (
        ("vectorized_matmul", lambda: np.asarray(vectorized_matmul(a, b))),
        (f"tiled_matmul, tile {tile}", lambda: np.asarray(tiled_matmul(a, b, tile))),
    ):
        np.testing.assert_allclose(run(), expected, rtol=1e-3, atol=1e-3)
        taken = milliseconds(run)
        print(f"  {name:24} {taken:8.2f} ms  {cost.flops / taken / 1e6:6.1f} GFLOP/s")
    return cost


def activations():
    """GELU with its intermediates stored, and in one kernel."""
    x = np.random.default_rng(1).standard_normal(ELEMENTS, dtype=np.float32)
    lazy = gelu(fg.asarray(x))
    traffic, steps = lazy.traffic(), fg.plan(unfused_gelu(x)).cost
    assert fg.plan(fused_gelu(x)).cost.bytes_moved == traffic.after.bytes_moved == 2 * x.nbytes
    array = x.nbytes
    print(f"\nGELU of {ELEMENTS:,} float32")
    for passes, how in (
        (14, "seven intermediates, each written and read"),
        (16, "and the input and the result"),
        (steps.bytes_moved // array, "and x once for each of its three uses: unfused_gelu"),
        (traffic.before.bytes_moved // array, "and the cube as two products: the formula below"),
        (traffic.after.bytes_moved // array, "fused"),
    ):
        print(f"  {passes:2} passes {passes * array / MIB:8.1f} MiB  {how}")
    expected = gelu(x)
    for name, run in (
        ("unfused_gelu", lambda: np.asarray(unfused_gelu(x))),
        ("fused_gelu", lambda: np.asarray(fused_gelu(x))),
    ):
        np.testing.assert_allclose(run(), expected, rtol=0, atol=1e-6)
        print(f"  {name:24} {milliseconds(run):8.2f} ms")
    print()
    print(lazy.plan())
    print("\nbeside NumPy, which takes x * x * x too: x**3 would make it many times slower")
    print(fg.compare(lazy, repeats=3))
    return traffic


def roofline(costs):
    """What arithmetic intensity allows here (Williams, Waterman and Patterson 2009)."""
    machine = fg.machine()
    peak, bandwidth = machine.gigaflops_all["float32"], machine.streams["copy memory all"] / 1e9
    print(
        f"\nroofline: {peak:.0f} GFLOP/s, {bandwidth:.1f} GB/s, ridge {peak / bandwidth:.1f} flop/byte"
    )
    print(f"  {'':16} flop/byte   at most GFLOP/s  bound by")
    for name, cost in costs.items():
        limit = bandwidth * cost.arithmetic_intensity
        bound = "memory" if limit < peak else "compute"
        print(f"  {name:16} {cost.arithmetic_intensity:9.2f}  {min(limit, peak):16.1f}  {bound}")


def main():
    product = products()
    traffic = activations()
    ones = fg.asarray(np.ones(ELEMENTS, np.float32))
    add = fg.plan(ones + np.ones(ELEMENTS, np.float32)).cost
    assert math.isclose(add.arithmetic_intensity, 1 / 12)
    roofline({"add": add, "GELU, unfused": traffic.before, "GELU, fused": traffic.after,
              "product": product})  # fmt: skip


if __name__ == "__main__":
    main()
