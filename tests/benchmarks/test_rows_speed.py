"""Rows in panels against NumPy: softmax, layer norm, layers, attention, distances."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from workloads import over_numpy

import fusegraph as fg
from fusegraph.bench import functions

softmax, layer_norm, layer, attention = map(
    over_numpy, (functions.softmax, functions.layer_norm, functions.layer, functions.attention)
)


def normal(*shape):
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


def points(seed):
    return np.random.default_rng(seed).standard_normal((2000, 3))


CASES = [  # function, arrays, times faster than NumPy
    pytest.param(softmax, [normal(4096, 1024)], 2.2, id="softmax"),
    pytest.param(
        layer_norm, [normal(4096, 1024), normal(1024), normal(1024)], 2.2, id="layer norm"
    ),
    pytest.param(softmax, [normal(400_000, 10)], 3.0, id="narrow softmax"),
    pytest.param(layer, [normal(2048, 768), normal(768, 3072), normal(3072)], 1.3, id="layer"),
    pytest.param(attention, [normal(4096, 64) for _ in range(3)], 2.5, id="attention"),
    pytest.param(attention, [normal(8, 12, 256, 64) for _ in range(3)], 2.0, id="heads"),
    pytest.param(over_numpy(functions.pairwise), [points(0), points(1)], 6.0, id="distances"),
]


def warm_up(fused, arrays):
    """Call until what pays is compiled, as in a loop that has begun."""
    for kernel in fused.plan(*arrays).kernels:
        for _ in range(kernel.tier.call if kernel.tier else 0):
            fused(*arrays)


@pytest.mark.parametrize(("function", "arrays", "times"), CASES)
def test_one_kernel_and_faster_than_numpy(function, arrays, times, race):
    fused = fg.jit(function)
    (kernel,) = fused.plan(*arrays).kernels
    warm_up(fused, arrays)
    assert kernel.schedule in ("panels", "strided")
    numpy_seconds, seconds = race(lambda: function(*arrays), lambda: fused(*arrays), 9, True)
    assert numpy_seconds >= times * seconds


def test_a_layer_takes_little_longer_than_its_product(race):
    """Bias and GELU while the panel is in cache: within 15 % of the bare product in panels."""
    a, w, b = normal(2048, 768), normal(768, 3072), normal(3072)
    product, whole = fg.jit(lambda a, w: a @ w), fg.jit(layer)
    warm_up(whole, (a, w, b))
    bare, seconds = race(lambda: product(a, w), lambda: whole(a, w, b), 9, True)
    assert seconds <= 1.15 * bare


SPIN = "while True: pass"


def test_beside_a_busy_process(race, capsys):
    """A process spins on a core: panels lose at most 2.5x; what NumPy's threaded BLAS loses is shown."""
    q, k, v = (normal(2048, 64) for _ in range(3))
    fused = fg.jit(attention)
    ways = (lambda: attention(q, k, v), lambda: fused(q, k, v))
    quiet = race(*ways, 9, True, "quiet cores")
    busy = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        loaded = race(*ways, 9, True, "a busy core")
    finally:
        busy.kill()
        busy.wait()
    with capsys.disabled():
        print(f"\nbusy core: NumPy {loaded[0] / quiet[0]:.1f}x, panels {loaded[1] / quiet[1]:.1f}x")
    assert loaded[1] <= 2.5 * quiet[1]
