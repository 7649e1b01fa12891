"""Calling a compiled function on arrays: on one thread, or on parts of them that several threads share.

In: the address of a ``void function(ptr words, ptr pointers, ptr scratch)``, a list of arrays, and how
they lie. Out: the results, written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fusegraph.buffers import whole_lines
from fusegraph.engines.base import Array
from fusegraph.engines.llvm import compiler
from fusegraph.engines.llvm.headers import (
    ACCESSORS,
    DATA,
    ITEMS,
    arrays_lie_as_expected,
    imitation,
)
from fusegraph.engines.llvm.jobs import JOB_OWN, Work, run_job
from fusegraph.engines.llvm.layouts import Layout, Remembered
from fusegraph.engines.llvm.memory import BUFFER

# Words of a job over parts of arrays: the function, how many operands, the records of the tasks, scratch
# memory and how much of it a thread has. Behind them the operands' addresses. The record of a task: the
# function's words, then the offset of each operand.
PARTS_FUNCTION, PARTS_COUNT, PARTS_RECORDS, PARTS_SCRATCH, PARTS_STEP, PARTS_HEAD = range(
    JOB_OWN, JOB_OWN + 6
)

# ``fg_on`` calls a function on a list of arrays, ``fg_parts_job`` and ``fg_part`` on parts of them.
CODE = f"""
{ACCESSORS}
define internal void @addresses(ptr %file, i64 %count, ptr %pointers) alwaysinline {{
entry:
  %items = call ptr @field(ptr %file, i64 {ITEMS})
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %look]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %look, label %done
look:
  %array = call ptr @item(ptr %items, i64 %k)
  %data = call ptr @field(ptr %array, i64 {DATA})
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %k
  store ptr %data, ptr %pointer.at
  %k1 = add i64 %k, 1
  br label %next
done:
  ret void
}}

define void @fg_on(ptr %function, ptr %words, ptr %file, i64 %count, ptr %scratch) {{
  %pointers = alloca ptr, i64 %count
  call void @addresses(ptr %file, i64 %count, ptr %pointers)
  call void %function(ptr %words, ptr %pointers, ptr %scratch)
  ret void
}}

define void @fg_parts_job(ptr %job, ptr %file) {{
  %count = call i64 @word(ptr %job, i64 {PARTS_COUNT})
  %bases = getelementptr ptr, ptr %job, i64 {PARTS_HEAD}
  call void @addresses(ptr %file, i64 %count, ptr %bases)
  ret void
}}

define void @fg_part(ptr %job, i64 %index, i64 %slot) {{
entry:
  %function = call ptr @item(ptr %job, i64 {PARTS_FUNCTION})
  %count = call i64 @word(ptr %job, i64 {PARTS_COUNT})
  %records = call ptr @item(ptr %job, i64 {PARTS_RECORDS})
  %scratches = call ptr @item(ptr %job, i64 {PARTS_SCRATCH})
  %step = call i64 @word(ptr %job, i64 {PARTS_STEP})
  %scratch.off = mul i64 %slot, %step
  %scratch = getelementptr i8, ptr %scratches, i64 %scratch.off
  %length = add i64 %count, 1
  %record.off = mul i64 %index, %length
  %record = getelementptr i64, ptr %records, i64 %record.off
  %words = call ptr @item(ptr %record, i64 0)
  %pointers = alloca ptr, i64 %count
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %place]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %place, label %run
place:
  %k1 = add i64 %k, 1
  %base.at = add i64 %k, {PARTS_HEAD}
  %base = call ptr @item(ptr %job, i64 %base.at)
  %offset = call i64 @word(ptr %record, i64 %k1)
  %pointer = getelementptr i8, ptr %base, i64 %offset
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %k
  store ptr %pointer, ptr %pointer.at
  br label %next
run:
  call void %function(ptr %words, ptr %pointers, ptr %scratch)
  ret void
}}
"""


class Calls(NamedTuple):
    """The functions of ``CODE``, and the address of the task of a job."""

    run: Callable[[int, int, int, int, int], None]
    describe: Callable[[int, int], None]
    task: int


@cache
def _calls() -> Calls:
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    run = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, word, pointer)
    describe = ctypes.CFUNCTYPE(None, pointer, pointer)
    return Calls(
        compiler.function(run, CODE, "fg_on"),
        compiler.function(describe, CODE, "fg_parts_job"),
        compiler.address_of(CODE, "fg_part"),
    )


def call_on(function: int, layout: Layout, file: list[Array]) -> None:
    """Call ``function`` on whole arrays."""
    buffer, run = BUFFER.address_of(layout.scratch_bytes), _calls().run
    if arrays_lie_as_expected():
        run(function, layout.address, id(file), len(file), buffer)
    else:
        address, kept = imitation(file)
        run(function, layout.address, address, len(file), buffer)
        kept.clear()


def run_work(
    work: Work, file: list[Array], threads: int, describe: Callable[[int], object]
) -> bool:
    """Run a job on whole arrays, whose addresses ``describe`` writes into it; False where it refuses."""
    job = work.job(len(file))
    if describe(ctypes.addressof(job)):
        return False
    if work.scratch_bytes:
        job[work.scratch_word] = BUFFER.address_of(work.scratch_bytes)
    run_job(job, threads, (file, work.held, BUFFER.memory))
    return True


def run_on(work: Work, operands: Sequence[Array], threads: int) -> None:
    """Run a job on whole arrays, whose addresses stand behind its words."""
    addresses = [array.ctypes.data for array in operands]
    first = JOB_OWN + len(work.words)

    def describe(job: int) -> None:
        words = (ctypes.c_int64 * (first + len(addresses))).from_address(job)
        words[first:] = addresses

    run_work(work, list(operands), threads, describe)


class Parts(NamedTuple):
    """How arrays are divided: a record a part, and scratch a thread."""

    records: np.ndarray[Any, Any]
    address: int
    scratch_bytes: int
    layouts: list[Layout]  # whose words the records name


class Division:
    """Divides a function's arrays into parts, once for each shapes and strides.

    ``layout_of`` says how the arrays of a part lie, or None where the function cannot take them;
    ``code`` is what keeps the function, and whatever layouts name, in memory.
    """

    def __init__(self, layout_of: Callable[[list[Array]], Layout | None], code: object) -> None:
        self.layout_of = layout_of
        self.code = code
        self.parts_of = Remembered(self.divide)

    def share(
        self, function: int, file: list[Array], keys: Sequence[Sequence[Any]], threads: int
    ) -> bool:
        """Evaluate parts on several threads; False where the function cannot take one of them.

        Parameters
        ----------
        function : int
            Its address.
        file : list of numpy.ndarray
            Whole operands: inputs, then outputs.
        keys : sequence of sequence
            For each of them, what belongs to each part; the same for the same shapes and strides.
        threads : int
            The caller's included.
        """
        work = self.work(function, file, keys, threads)
        if work is None:
            return False
        run_work(work, file, threads, lambda job: _calls().describe(job, id(file)))
        return True

    def work(
        self, function: int, file: list[Array], keys: Sequence[Sequence[Any]], threads: int
    ) -> Work | None:
        """The same as a job for arrays of these shapes and strides, or None."""
        parts = self.parts_of(file, keys)
        if parts is None:
            return None
        words = (function, len(file), parts.address, 0, parts.scratch_bytes)
        scratch, held = parts.scratch_bytes * threads, (parts, self.code)
        return Work(_calls().task, len(parts.records), words, PARTS_SCRATCH, scratch, held)

    def divide(self, file: list[Array], keys: Sequence[Sequence[Any]]) -> Parts | None:
        """Records of the parts; None where the function cannot take one of them."""
        records, layouts = [], []
        starts = [a.ctypes.data for a in file]
        for at in range(len(keys[0])):
            arrays = [array[key[at]] for array, key in zip(file, keys, strict=True)]
            layout = self.layout_of(arrays)
            if layout is None:
                return None
            layouts.append(layout)
            offsets = [a.ctypes.data - start for a, start in zip(arrays, starts, strict=True)]
            records.append([layout.address, *offsets])
        table = np.array(records, np.int64)
        scratch = max(layout.scratch_bytes for layout in layouts)
        return Parts(table, table.ctypes.data, whole_lines(scratch), layouts)
