"""Products in panels as machine code: a few rows times a fixed right side that is packed once.

In: NumPy's arrays. Out: their product, written. ``Product`` calls the functions of ``product_code``. A
result depends on its own row alone, so neither on the height of the panel nor on the number of threads.

A BLAS packs the right side again for every panel. With 64 columns, as in a head of attention, that is
most of its work: 128 x 64 times 64 x 4096 float32 ran at 115 GFLOP/s through OpenBLAS and runs at 190
here, on one thread of a processor where OpenBLAS reaches 180 in products of 1024 x 1024.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from fusegraph.buffers import POOL, whole_lines
from fusegraph.engines.base import Array
from fusegraph.engines.llvm import compiler
from fusegraph.engines.llvm.memory import BUFFER
from fusegraph.engines.llvm.packing_code import Blocking
from fusegraph.engines.llvm.product_code import WIDTHS, ProductWriter
from fusegraph.graph import DType
from fusegraph.workers import Task, run_tasks

DTYPES = {"float32": "float", "float64": "double"}
SHARED_BYTES = 1 << 20  # of a right side that several threads pack


def blocking(itemsize: int) -> Blocking | None:
    """How this processor's registers are filled; None where it has no fused multiply-add of vectors.

    32 registers hold 8 x 3 accumulators, three vectors of the right side and one element of the left;
    16 hold 4 x 3.
    """
    if compiler.has_feature("avx512f"):
        return Blocking(8, 64 // itemsize)
    if compiler.has_feature("avx2") and compiler.has_feature("fma"):
        return Blocking(4, 32 // itemsize)
    if compiler.has_feature("neon"):
        return Blocking(8, 16 // itemsize)
    return None


class Calls(NamedTuple):
    """The compiled functions, and how many columns are packed together at least."""

    products: Callable[..., None]
    pack: Callable[..., None]
    lanes: int


@cache
def _calls(dtype: str) -> Calls | None:
    form = blocking(np.dtype(dtype).itemsize)
    if form is None:
        return None
    text = ProductWriter(DTYPES[dtype], form).text()
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    left, right, out = (pointer, word, word), (pointer, word, word, word), (pointer, word, word)
    products = ctypes.CFUNCTYPE(None, word, *left, *right, *out, word, word, word, pointer, pointer)
    pack = ctypes.CFUNCTYPE(None, pointer, word, word, pointer, word, word)
    return Calls(
        compiler.function(products, text, "fg_products"),
        compiler.function(pack, text, "fg_pack"),
        form.lanes,
    )


WIDEST = 16  # lanes: what packed memory is counted in before the processor is known


def packed_elements(columns: int, inner: int) -> int:
    """Elements of a packed right side, at most."""
    return -(-columns // WIDEST) * WIDEST * inner


class Product:
    """``a @ b`` in a panel, as a call ``(a, b, out=)``; the rows of ``out`` are dense.

    ``packed``: ``b`` is what ``pack`` gave, the same for every panel.
    """

    compile_seconds = 125e-3

    def __init__(self, dtype: DType, columns: int, inner: int, packed: bool) -> None:
        self.dtype, self.columns, self.inner = dtype, columns, inner
        self.packed = packed

    @property
    def own_bytes(self) -> int:
        """Bytes that a thread packs into, where a panel has a right side of its own."""
        return 0 if self.packed else self.packed_bytes

    def scratch_bytes(self, rows: int) -> int:
        """Bytes of a thread: packed columns, the last of a result, a left side copied if need be."""
        return self.own_bytes + rows * (WIDEST + self.inner) * self.dtype.itemsize

    @property
    def packed_bytes(self) -> int:
        return packed_elements(self.columns, self.inner) * self.dtype.itemsize

    def pack(self, b: Array, threads: int) -> Array:
        """The one matrix of ``b`` in strips; ``b`` itself where the processor is not known."""
        calls = _calls(self.dtype.name)
        if calls is None or not b.size:
            return b
        packed = POOL.empty((packed_elements(self.columns, self.inner),), self.dtype)
        (row, column), source, target = b.strides[-2:], b.ctypes.data, packed.ctypes.data
        parts = threads if self.packed_bytes >= SHARED_BYTES else 1
        step = _columns_a_part(self.columns, parts, calls.lanes)

        def make_task() -> Task:
            def task(index: int) -> None:
                first = index * step
                last = min(first + step, self.columns)
                calls.pack(
                    source + first * column, row, column,
                    target + first * self.inner * self.dtype.itemsize, last - first, self.inner,
                )  # fmt: skip

            return task

        run_tasks(make_task, -(-self.columns // step), parts)
        return packed

    def __call__(self, a: Array, b: Array, out: Array) -> None:
        calls = _calls(self.dtype.name)
        if not out.size:
            return
        if calls is None or not self.inner:
            np.matmul(a, b, out=out)
            return
        if a.strides[-1] != a.itemsize or a.strides[-2] % a.itemsize or not a.flags.aligned:
            a = np.ascontiguousarray(a)
        rows, size = a.shape[-2], a.itemsize
        edge = whole_lines(rows * calls.lanes * size)
        work = BUFFER.address_of(edge + self.own_bytes)
        room = 0 if self.packed else work + edge
        b_row, b_column = (0, 0) if self.packed else b.strides[-2:]
        starts = a.ctypes.data, b.ctypes.data, out.ctypes.data
        steps = [_leading_strides(x, out.ndim - 2) for x in (a, b, out)]
        outer: tuple[int, ...] = (1, *out.shape[:-2])
        for place in itertools.product(*map(range, outer[1:-1])):
            left, right, to = (
                start + sum(at * step for at, step in zip(place, strides, strict=False))
                for start, strides in zip(starts, steps, strict=True)
            )
            calls.products(
                outer[-1], left, steps[0][-1], a.strides[-2] // size,
                right, steps[1][-1], b_row, b_column,
                to, steps[2][-1], out.strides[-2] // size,
                rows, self.columns, self.inner, work, room,
            )  # fmt: skip


def _columns_a_part(columns: int, parts: int, lanes: int) -> int:
    """Columns of each part that packs alone: whole strips, the same as if one part packed them all."""
    wide = lanes * WIDTHS[0]
    step = max(wide, -(-columns // (parts * wide)) * wide)
    # Before one vector that is left over, a strip of three would have been two and two.
    uneven = any((columns - at) // lanes == 1 for at in range(step, columns, step))
    return max(1, columns) if uneven else step


def _leading_strides(array: Array, count: int) -> list[int]:
    """Bytes from matrix to matrix along each of ``count`` leading axes; 0 where they are broadcast."""
    own = [
        0 if n == 1 else stride
        for n, stride in zip(array.shape[:-2], array.strides[:-2], strict=True)
    ]
    return [0] * (max(count, 1) - len(own)) + own[max(0, len(own) - count) :]
