"""Chains: calls of compiled code that follow each other on a panel, as one task for each panel.

In: bodies and products that have ``part_work``, and arrays. Out: ``Chain``, a job whose task runs every
call on one panel. What is passed on between them lies in memory of the thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fusegraph.buffers import whole_lines
from fusegraph.engines.base import Array
from fusegraph.engines.llvm import compiler
from fusegraph.engines.llvm.headers import ACCESSORS
from fusegraph.engines.llvm.jobs import JOB_OWN, Work
from fusegraph.engines.llvm.layouts import Remembered
from fusegraph.engines.llvm.sharing import PARTS_FUNCTION, PARTS_RECORDS, run_on

# Words of a job: how many calls there are, the table of them, how many operands, how many the longest
# call has, scratch memory and how much of it a thread has. Behind them the operands' addresses. In the
# table a call has its function, how many operands it has and its records (see ``sharing``), then of each
# operand the place and where it begins. The place behind the last is scratch memory.
CHAIN_CALLS, CHAIN_TABLE, CHAIN_OPERANDS, CHAIN_MOST, CHAIN_SCRATCH, CHAIN_STEP, CHAIN_HEAD = range(
    JOB_OWN, JOB_OWN + 7
)
CALL_HEAD = 3

CODE = f"""
{ACCESSORS}
define void @fg_chain(ptr %job, i64 %index, i64 %slot) {{
entry:
  %calls = call i64 @word(ptr %job, i64 {CHAIN_CALLS})
  %table = call ptr @item(ptr %job, i64 {CHAIN_TABLE})
  %operands = call i64 @word(ptr %job, i64 {CHAIN_OPERANDS})
  %most = call i64 @word(ptr %job, i64 {CHAIN_MOST})
  %scratches = call ptr @item(ptr %job, i64 {CHAIN_SCRATCH})
  %step = call i64 @word(ptr %job, i64 {CHAIN_STEP})
  %scratch.off = mul i64 %slot, %step
  %scratch = getelementptr i8, ptr %scratches, i64 %scratch.off
  %bases = getelementptr ptr, ptr %job, i64 {CHAIN_HEAD}
  %pointers = alloca ptr, i64 %most
  br label %call
call:
  %c = phi i64 [0, %entry], [%c1, %run]
  %head = phi ptr [%table, %entry], [%head1, %run]
  %more = icmp slt i64 %c, %calls
  br i1 %more, label %begin, label %done
begin:
  %function = call ptr @item(ptr %head, i64 0)
  %count = call i64 @word(ptr %head, i64 1)
  %records = call ptr @item(ptr %head, i64 2)
  %length = add i64 %count, 1
  %record.off = mul i64 %index, %length
  %record = getelementptr i64, ptr %records, i64 %record.off
  %words = call ptr @item(ptr %record, i64 0)
  br label %next
next:
  %k = phi i64 [0, %begin], [%k1, %placed]
  %at = phi i64 [{CALL_HEAD}, %begin], [%at2, %placed]
  %left = icmp slt i64 %k, %count
  br i1 %left, label %place, label %run
place:
  %k1 = add i64 %k, 1
  %at1 = add i64 %at, 1
  %at2 = add i64 %at, 2
  %number = call i64 @word(ptr %head, i64 %at)
  %start = call i64 @word(ptr %head, i64 %at1)
  %part = call i64 @word(ptr %record, i64 %k1)
  %given = icmp slt i64 %number, %operands
  br i1 %given, label %operand, label %placed
operand:
  %base = call ptr @item(ptr %bases, i64 %number)
  br label %placed
placed:
  %from = phi ptr [%scratch, %place], [%base, %operand]
  %offset = add i64 %start, %part
  %pointer = getelementptr i8, ptr %from, i64 %offset
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %k
  store ptr %pointer, ptr %pointer.at
  br label %next
run:
  call void %function(ptr %words, ptr %pointers, ptr %scratch)
  %c1 = add i64 %c, 1
  %head1 = getelementptr i64, ptr %head, i64 %at
  br label %call
done:
  ret void
}}
"""


class Chain:
    """Calls on a panel, one after the other.

    ``calls`` has a body or product for each, and the places of its arrays in a file: operands and
    results, then what is passed on.
    """

    def __init__(self, calls: Sequence[tuple[Any, Sequence[int]]]) -> None:
        self.calls = calls
        self.known = Remembered(self.work)

    def work(
        self, file: Sequence[Array], keys: Sequence[Sequence[Any]], operands: int, threads: int
    ) -> Work | None:
        """A task for each panel, or None where a call cannot take its arrays as they lie.

        Parameters
        ----------
        file : sequence of numpy.ndarray
            Whole arrays; of those behind the first ``operands`` each thread has its own.
        keys : sequence of sequence
            What of each belongs to each panel.
        operands, threads : int
        """
        works = []
        for body, places in self.calls:
            arrays, taken = [file[p] for p in places], [keys[p] for p in places]
            works.append(body.part_work(arrays, taken, 1))
            if works[-1] is None:
                return None
        room, begin = whole_lines(max(work.scratch_bytes for work in works)), {}
        for place in range(operands, len(file)):
            begin[place] = operands, room
            room += whole_lines(file[place].nbytes)
        table = []
        for work, (_, places) in zip(works, self.calls, strict=True):
            table += work.words[: PARTS_RECORDS + 1 - PARTS_FUNCTION]
            table += [word for p in places for word in begin.get(p, (p, 0))]
        kept = np.array(table, np.int64)
        most = max(len(places) for _, places in self.calls)
        words = (len(works), kept.ctypes.data, operands, most, 0, room)
        held = kept, [work.held for work in works]
        return Work(_task(), works[0].tasks, words, CHAIN_SCRATCH, room * threads, held)

    def share(
        self, file: Sequence[Array], keys: Sequence[Sequence[Any]], operands: int, threads: int
    ) -> bool:
        """Run all panels on several threads; False where a call cannot take its arrays as they lie."""
        work = self.known(file, keys, operands, threads)
        if work is not None:
            run_on(work, file[:operands], threads)
        return work is not None


@cache
def _task() -> int:
    return compiler.address_of(CODE, "fg_chain")
