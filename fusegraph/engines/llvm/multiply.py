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
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fusegraph.buffers import POOL, whole_lines
from fusegraph.engines.base import Array
from fusegraph.engines.llvm import compiler
from fusegraph.engines.llvm.jobs import JOB_OWN, Work
from fusegraph.engines.llvm.layouts import Layout, Operand, aligned_strides, joined
from fusegraph.engines.llvm.memory import BUFFER
from fusegraph.engines.llvm.packing_code import Blocking
from fusegraph.engines.llvm.product_code import (
    PACK_WORDS,
    ROWS_WORDS,
    WIDTHS,
    ProductWriter,
)
from fusegraph.engines.llvm.sharing import Division, run_on
from fusegraph.graph import DType
from fusegraph.machine import Machine
from fusegraph.workers import Task, run_tasks

DTYPES = {"float32": "float", "float64": "double"}
SHARED_BYTES = 1 << 20  # of a right side that several threads pack
MOST_ROWS = 256  # of a task: 2048 x 2048 float32 took 84.6 ms with 64, 82.1 with 128, 80.2 with 256
ROWS_SHARES = 4  # tasks of a thread, so that one that comes late takes fewer
# Times the speed that the machine reaches in BLAS's products of 256 x 256, which packs both sides:
# 1024 x 1024 float32 on one thread, the right side packed, ran at 108 GFLOP/s where that was 103.
SPEED = 1.05


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
    """The compiled functions, and how they fill registers."""

    products: Callable[..., None]
    pack: Callable[..., None]
    pack_task: int  # addresses of the tasks of jobs, and of what a part of a chain calls
    rows_task: int
    part: int
    form: Blocking


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
        compiler.address_of(text, "fg_pack_task"),
        compiler.address_of(text, "fg_rows_task"),
        compiler.address_of(text, "fg_products_part"),
        form,
    )


PACK_SCRATCH, ROWS_SCRATCH = (
    JOB_OWN + words.index("scratch") for words in (PACK_WORDS, ROWS_WORDS)
)
WIDEST = 16  # lanes: what packed memory is counted in before the processor is known


class Product:
    """``a @ b`` in a panel, as a call ``(a, b, out=)``; the rows of ``out`` are dense.

    ``packed``: ``b`` is what ``pack`` gave, the same for every panel.
    """

    compile_seconds = 125e-3

    def __init__(self, dtype: DType, columns: int, inner: int, packed: bool) -> None:
        self.dtype, self.columns, self.inner = dtype, columns, inner
        self.packed = packed
        self.division = Division(self.layout, None)

    @property
    def available(self) -> bool:
        return blocking(self.dtype.itemsize) is not None

    def seconds(self, rows: int, panels: int, machine: Machine) -> float:
        flops = 2 * rows * self.columns * self.inner / (SPEED * machine.peak(self.dtype.name, 1))
        packs = 1 if self.packed else panels
        return flops + packs * machine.transfer_seconds(2 * self.packed_bytes, 0, 1)

    @property
    def own_bytes(self) -> int:
        """Bytes that a thread packs into, where a panel has a right side of its own."""
        return 0 if self.packed else self.packed_bytes

    def scratch_bytes(self, rows: int) -> int:
        """Bytes of a thread: packed columns, the last of a result, a left side copied if need be."""
        return self.own_bytes + rows * (WIDEST + self.inner) * self.dtype.itemsize

    @property
    def packed_elements(self) -> int:
        return -(-self.columns // WIDEST) * WIDEST * self.inner

    @property
    def packed_bytes(self) -> int:
        return self.packed_elements * self.dtype.itemsize

    def pack(self, b: Array, threads: int) -> Array:
        """The one matrix of ``b`` in strips; ``b`` itself where the processor is not known."""
        calls = _calls(self.dtype.name)
        if calls is None or not b.size:
            return b
        packed = POOL.empty((self.packed_elements,), self.dtype)
        (row, column), source, target = b.strides[-2:], b.ctypes.data, packed.ctypes.data
        parts = threads if self.packed_bytes >= SHARED_BYTES else 1
        step = _columns_a_part(self.columns, parts, calls.form.lanes)

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

    def pack_work(self, b: Array, threads: int, start: int = 0) -> Work | None:
        """The job that packs a right side that lies as ``b`` does, for ``(b, packed)``.

        ``start``: bytes by which ``b`` begins behind what the job is given for it. None where this
        processor has no code for it.
        """
        calls = _calls(self.dtype.name)
        if calls is None or not b.size:
            return None
        parts = threads if self.packed_bytes >= SHARED_BYTES else 1
        step = _columns_a_part(self.columns, parts, calls.form.lanes)
        words = (start, *b.strides[-2:], self.columns, self.inner, step, 0)
        return Work(calls.pack_task, -(-self.columns // step), words, PACK_SCRATCH, 0, calls)

    def rows_work(self, a: Array, out: Array, threads: int, start: int = 0) -> Work | None:
        """The job that multiplies all rows, for ``(a, packed, out)`` that lie as these do.

        ``start`` is that of ``a``. None where they do not lie dense, too.
        """
        calls = _calls(self.dtype.name)
        dense = a.flags.c_contiguous and out.flags.c_contiguous and a.flags.aligned
        if calls is None or not dense or not a.size or not out.size:
            return None
        (lines, lanes), size, rows = calls.form, a.itemsize, a.size // self.inner
        height = min(MOST_ROWS, lines * -(-rows // (lines * threads * ROWS_SHARES)))
        room = whole_lines(height * lanes * size)
        words = (start, rows, self.columns, self.inner, height, room, 0)
        tasks, scratch = -(-rows // height), room * threads
        return Work(calls.rows_task, tasks, words, ROWS_SCRATCH, scratch, calls)

    def part_work(
        self, file: list[Array], keys: Sequence[Sequence[Any]], threads: int
    ) -> Work | None:
        """The product of parts of ``(a, b, out)``; see ``Division.work``."""
        calls = _calls(self.dtype.name)
        return calls and self.division.work(calls.part, file, keys, threads)

    def layout(self, file: list[Array]) -> Layout | None:
        """How the arrays of a part lie; None where ``fg_products_part`` cannot take them."""
        (a, b, out), calls = file, _calls(self.dtype.name)
        if calls is None or not out.size or not self.inner:
            return None
        lead, size = out.shape[:-1], a.itemsize
        if out.strides[-1] != size or not all(x.flags.aligned for x in file):
            return None
        left, to = (aligned_strides(x, (*lead, x.shape[-1]))[:-1] for x in (a, out))
        right, inside = (0,) * len(lead), (0, 0)
        if not self.packed:
            right = (*aligned_strides(b, (*lead[:-1], *b.shape[-2:]))[:-2], 0)
            inside = b.strides[-2:]
        shape, found = joined(lead, [Operand(size, s, False) for s in (left, right, to)])
        if found[1].strides[-1]:  # matrices of one row
            shape, found = (*shape, 1), [o._replace(strides=(*o.strides, 0)) for o in found]
        if len(shape) > 2:
            return None
        count, rows = (1, *shape)[-2:]
        (a_step, a_row), (b_step, _), (c_step, c_row) = ((0, *o.strides)[-2:] for o in found)
        edge = whole_lines(rows * calls.form.lanes * size)
        room = edge + whole_lines(self.own_bytes)
        copied = (0, 0, 0)
        if a.strides[-1] != size:
            if count > 1:
                return None
            copied, a_row = (room, a_row, a.strides[-1]), self.inner * size
            room += rows * a_row
        words = (
            count, rows, self.columns, self.inner, a_step, a_row // size, b_step, *inside,
            c_step, c_row // size, 0 if self.packed else edge, *copied,
        )  # fmt: skip
        return Layout.of(words, room)

    def share(self, a: Array, b: Array, out: Array, threads: int) -> None:
        """``a @ b`` into ``out``, all rows of it, on several threads."""
        pack, multiply = self.pack_work(b, threads), self.rows_work(a, out, threads)
        if pack is None or multiply is None:
            packed = self.pack(b, threads)
            for at in range(0, out.shape[-2], MOST_ROWS):
                rows = (..., slice(at, at + MOST_ROWS), slice(None))
                self(a[rows], packed, out[rows])
            return
        packed = POOL.empty((self.packed_elements,), self.dtype)
        run_on(pack, (b, packed), threads)
        run_on(multiply, (a, packed, out), threads)

    def __call__(self, a: Array, b: Array, out: Array) -> None:
        calls = _calls(self.dtype.name)
        if not out.size:
            return
        if calls is None or not self.inner:
            np.matmul(a, b, out=out)
            return
        if a.strides[-1] != a.itemsize or a.strides[-2] % a.itemsize or not a.flags.aligned:
            a = np.require(a, requirements=("C", "A"))
        rows, size = a.shape[-2], a.itemsize
        edge = whole_lines(rows * calls.form.lanes * size)
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
