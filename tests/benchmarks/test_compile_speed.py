"""What compiling costs: GELU, 200 operations, growth, a second process; and a call of what is compiled.

Each median is over regions that were never compiled before, and kept in a folder of their own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import fusegraph as fg

pytest.importorskip("llvmlite")

from fusegraph.engines.llvm import objects

X = np.linspace(-3, 3, 1000, dtype=np.float32)
REPEATS = 7


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "directory", lambda: tmp_path / "objects")
    chain(1, 0.5).compute(
        engine="llvm"
    )  # llvmlite is imported, and the loops around kernels are there


def chain(count, factor):
    """``count`` operations on one array; another ``factor`` is another code."""
    x = total = fg.asarray(X)
    for at in range(count // 2):
        total = total * x + (factor + at)
    return total + factor


def compile_seconds(build):
    """Median seconds of a first result: planning and a run of 1,000 elements are part of it."""
    taken = []
    for at in range(REPEATS):
        result = build(1.5 + at / 64)
        start = time.perf_counter()
        result.compute(engine="llvm")
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def test_gelu_is_compiled_within_60_ms():
    assert compile_seconds(lambda factor: fg.gelu(fg.asarray(X)) * factor) < 60e-3


def test_200_operations_are_compiled_within_300_ms():
    assert compile_seconds(lambda factor: chain(200, factor)) < 300e-3


def test_compiling_grows_no_faster_than_the_region():
    """Four times the operations take at most five times as long."""
    few, many = (compile_seconds(lambda factor, n=n: chain(n, factor)) for n in (100, 400))
    assert many < 5 * few


def test_a_second_process_loads_a_kernel_within_10_ms(tmp_path):
    """llvmlite is imported beforehand: that takes 40 ms, once a process that runs compiled kernels."""
    program = textwrap.dedent(f"""
        import pathlib, time
        import numpy as np
        import fusegraph as fg
        from fusegraph.engines.llvm import compiler, objects
        objects.directory = lambda: pathlib.Path({str(tmp_path)!r})
        x = fg.asarray(np.linspace(-3, 3, 1000, dtype=np.float32))
        with fg.options(engine="llvm", machine=fg.default_machine()):
            (x + 1).compute()
            result = fg.gelu(x) * 2.5
            start = time.perf_counter()
            result.compute()
            print(time.perf_counter() - start)
    """)
    first, *later = (
        float(subprocess.check_output([sys.executable, "-c", program], timeout=120))
        for _ in range(REPEATS)
    )
    assert statistics.median(later) < 10e-3 < first


def test_another_length_is_linked_and_not_compiled():
    """The rows of a mean know no length: a longer row is the same code over another word."""
    taken = []
    for length in range(1000, 1000 + 8 * REPEATS, 8):
        rows = fg.layer_norm(np.ones((50, length), np.float32))
        start = time.perf_counter()
        rows.compute(engine="llvm")
        taken.append(time.perf_counter() - start)
    assert statistics.median(taken[1:]) < 10e-3 < taken[0]


def test_a_call_takes_less_than_8_us():
    f = fg.jit(lambda x, y: x * y + 1, engine="llvm")
    for _ in range(100):
        f(X, X)
    taken = []
    for _ in range(1001):
        start = time.perf_counter()
        f(X, X)
        taken.append(time.perf_counter() - start)
    assert statistics.median(taken) < 8e-6
