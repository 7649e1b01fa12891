"""A compiled region over rows, called on the arrays of a panel.

In: a region whose values are rows or have one element a row. Out: ``RowBody``. The arrays' leading
axes are joined to two loops; what a compiled function cannot read in place is copied first.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np

from fusegraph.engines.base import Array, Region
from fusegraph.engines.llvm import compiler, row_code
from fusegraph.engines.llvm.driver import (
    DRIVER,
    ROWS_COUNT,
    ROWS_FUNCTION,
    ROWS_HEAD,
    ROWS_RECORDS,
    ROWS_SCRATCH,
    ROWS_STEP,
    Operand,
    aligned_strides,
    arrays_lie_as_expected,
    imitation,
    joined,
)
from fusegraph.engines.llvm.jobs import JOB_TASK, JOB_TASKS, run_job
from fusegraph.engines.llvm.memory import BUFFER
from fusegraph.graph import Shape

LAYOUTS_REMEMBERED = 64
LINE = 64  # bytes of a cache line
_LOADING = threading.Lock()


class Layout(NamedTuple):
    """What the function reads of a call's arrays: the words, where they lie, bytes of scratch."""

    words: np.ndarray[Any, Any]
    address: int
    scratch_bytes: int


class Division(NamedTuple):
    """How a call's arrays are divided into panels: a record a panel, and scratch a thread."""

    records: np.ndarray[Any, Any]
    address: int
    scratch_bytes: int
    layouts: list[Layout]  # whose words the records name


class RowBody:
    """A region over rows as one function."""

    scratch_bytes = 0
    shares_blocks = False

    @property
    def shares_panels(self) -> bool:
        return arrays_lie_as_expected()

    def __init__(self, region: Region, halves: Callable[[], bool]) -> None:
        self.region = region
        self.halves = halves
        self.in_place = row_code.may_write_over(region)
        self.layouts: dict[Any, Layout | None] = {}
        self.divisions: dict[Any, Division | None] = {}
        self.function = 0  # its address, once there is something to run

    @cached_property
    def made(self) -> row_code.RowCode:
        """The IR, written when it is first needed: most plans never compile it."""
        return row_code.generate(self.region)

    def load(self) -> int:
        """Make the machine code, or find it."""
        with _LOADING:
            if not self.function:
                text = self.made.code.text(self.halves())
                self.function = compiler.address_of(text, row_code.SYMBOL)
        return self.function

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], threads: int) -> None:
        """Evaluate on a panel: operands that broadcast to rows of one length."""
        self.run_block([*inputs, *outputs])

    def run_block(self, file: list[Array]) -> None:
        """Evaluate on the arrays in ``file``: inputs, then outputs."""
        function = self.function or self.load()
        layout = self.layout_of(file)
        if layout is None:
            self.run_copied(file)
            return
        buffer, run = BUFFER.address_of(layout.scratch_bytes), _calls().run
        if arrays_lie_as_expected():
            run(function, layout.address, id(file), len(file), buffer)
        else:
            address, kept = imitation(file)
            run(function, layout.address, address, len(file), buffer)
            kept.clear()

    def share_panels(self, file: list[Array], keys: Sequence[Sequence[Any]], threads: int) -> bool:
        """Evaluate panels on several threads; False where the function cannot read them in place.

        Parameters
        ----------
        file : list of numpy.ndarray
            Whole operands: inputs, then outputs.
        keys : sequence of sequence
            For each of them, the part that belongs to each panel.
        threads : int
            The caller's included.
        """
        function = self.function or self.load()
        seen = tuple((a.shape, a.strides, a.flags.aligned) for a in file)
        if seen not in self.divisions:
            if len(self.divisions) >= LAYOUTS_REMEMBERED:
                self.divisions.clear()
            self.divisions[seen] = self.division(file, keys)
        division = self.divisions[seen]
        if division is None:
            return False
        known = _calls()
        job = (ctypes.c_int64 * (ROWS_HEAD + len(file)))()
        job[JOB_TASKS], job[JOB_TASK] = len(division.records), known.task
        job[ROWS_FUNCTION], job[ROWS_COUNT] = function, len(file)
        job[ROWS_RECORDS], job[ROWS_STEP] = division.address, division.scratch_bytes
        job[ROWS_SCRATCH] = BUFFER.address_of(division.scratch_bytes * threads)
        known.describe(ctypes.addressof(job), id(file))
        run_job(job, threads)
        return True

    def division(self, file: list[Array], keys: Sequence[Sequence[Any]]) -> Division | None:
        """Records of the panels; None where one of them cannot be read in place."""
        records, layouts = [], []
        starts = [a.ctypes.data for a in file]
        for at in range(len(keys[0])):
            parts = [array[key[at]] for array, key in zip(file, keys, strict=True)]
            layout = self.layout_of(parts)
            if layout is None:
                return None
            layouts.append(layout)
            offsets = [p.ctypes.data - start for p, start in zip(parts, starts, strict=True)]
            records.append([layout.address, *offsets])
        table = np.array(records, np.int64)
        scratch = max(layout.scratch_bytes for layout in layouts)
        return Division(table, table.ctypes.data, -(-scratch // LINE) * LINE, layouts)

    def layout_of(self, file: list[Array]) -> Layout | None:
        """How the arrays lie, worked out once for shapes and strides."""
        key = tuple((a.shape, a.strides, a.flags.aligned) for a in file)
        if key not in self.layouts:
            if len(self.layouts) >= LAYOUTS_REMEMBERED:
                self.layouts.clear()
            self.layouts[key] = self.layout(file)
        return self.layouts[key]

    def layout(self, file: list[Array]) -> Layout | None:
        """How the arrays lie; None where the function cannot read them in place."""
        shape = np.broadcast_shapes(*(a.shape for a in file))
        operands = []
        for at, (array, wide) in enumerate(zip(file, self.made.wide, strict=True)):
            strides = aligned_strides(array, shape)
            dense = not wide or shape[-1] == 1 or strides[-1] == array.itemsize
            if not dense or not array.flags.aligned:
                return None
            operands.append(Operand(at, array.itemsize, strides, at >= self.first_output))
        if self.made.flat:
            whole, found = joined(shape, operands)
            if len(whole) == 1:
                return self.record((1, 1), whole[0], [o._replace(strides=()) for o in found])
        rows = [o._replace(strides=o.strides[:-1]) for o in operands]
        lead, rows = joined(shape[:-1], rows)
        return self.record((1, 1, *lead)[-2:], shape[-1], rows) if len(lead) <= 2 else None

    @property
    def first_output(self) -> int:
        return len(self.region.inputs)

    def record(self, lead: Shape, length: int, operands: Sequence[Operand]) -> Layout:
        words = [*lead, length]
        for operand in operands:
            words += (0, 0, *operand.strides)[-2:]
        place = 0
        for itemsize, whole in self.made.kept:
            words.append(place)
            elements = length if whole else min(length, row_code.CHUNK)
            place += -(-itemsize * elements // LINE) * LINE
        array = np.array(words, np.int64)
        return Layout(array, array.ctypes.data, place)

    def run_copied(self, file: list[Array]) -> None:
        """Evaluate on dense copies, and write the results back."""
        shape = np.broadcast_shapes(*(a.shape for a in file))
        rows = (*shape[:-1], 1)
        dense = [
            np.broadcast_to(array, shape if wide else rows).copy()
            for array, wide in zip(file[: self.first_output], self.made.wide, strict=False)
        ]
        dense += [np.empty(array.shape, array.dtype) for array in file[self.first_output :]]
        self.run_block(dense)
        for array, result in zip(
            file[self.first_output :], dense[self.first_output :], strict=True
        ):
            array[...] = result


class Calls(NamedTuple):
    """The driver's functions for compiled rows, and the address of the task of a job."""

    run: Callable[[int, int, int, int, int], None]
    describe: Callable[[int, int], None]
    task: int


@cache
def _calls() -> Calls:
    pointer, word = ctypes.c_void_p, ctypes.c_int64
    run = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, word, pointer)
    describe = ctypes.CFUNCTYPE(None, pointer, pointer)
    return Calls(
        compiler.function(run, DRIVER, "fg_rows_on"),
        compiler.function(describe, DRIVER, "fg_rows_job"),
        compiler.address_of(DRIVER, "fg_rows_task"),
    )
