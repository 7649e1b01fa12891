"""A compiled region over rows, called on the arrays of a panel.

In: a region whose values are rows or have one element a row. Out: ``RowBody``. The arrays' leading
axes are joined to two loops; what a compiled function cannot read in place is copied first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fusegraph.buffers import whole_lines
from fusegraph.engines.base import Array, Region
from fusegraph.engines.llvm import compiler, row_code, row_phases, short_code
from fusegraph.engines.llvm.columns import is_column
from fusegraph.engines.llvm.compiler import MachineCode
from fusegraph.engines.llvm.halves import converts_halves
from fusegraph.engines.llvm.headers import arrays_lie_as_expected
from fusegraph.engines.llvm.jobs import Work
from fusegraph.engines.llvm.layouts import (
    Layout,
    Operand,
    Remembered,
    aligned_strides,
    joined,
)
from fusegraph.engines.llvm.row_text import SYMBOL, RowCode
from fusegraph.engines.llvm.sharing import Division, call_on
from fusegraph.graph import Shape, common_shape
from fusegraph.properties import lazy_property

COPIED_BYTES = 128 << 10  # of rows that are copied at a time, where one of them needs no more


class RowBody:
    """A region over rows as one function."""

    scratch_bytes = 0
    shares_blocks = False

    @property
    def shares_parts(self) -> bool:
        return arrays_lie_as_expected()

    def __init__(self, region: Region) -> None:
        self.region = region
        self.short = short_code.fits(region.nodes)
        may_write_over = short_code.may_write_over if self.short else row_code.may_write_over
        self.in_place = may_write_over(region)
        kept_bytes = short_code.kept_bytes if self.short else row_code.kept_bytes
        length = row_phases.row_length(region.nodes)
        values = (*region.inputs, *region.outputs)
        self.row_bytes = sum(
            v.dtype.itemsize * (length if row_phases.is_wide(v, length) else 1) for v in values
        )
        self.call_bytes = kept_bytes(region) + max(COPIED_BYTES, self.row_bytes)
        # A reduction over the rows is one for all of them.
        self.splits = not any(is_column(n) or row_phases.is_carried(n) for n in region.nodes)
        self.layout_of = Remembered(self.layout)
        self.code: list[MachineCode] = []  # once there is something to run
        self.division = Division(self.layout_of, self.code)
        self.function = 0  # its address

    @lazy_property
    def made(self) -> RowCode:
        """The IR, written when it is first needed: most plans never compile it."""
        generate = short_code.generate if self.short else row_code.generate
        return generate(self.region)

    def load(self) -> int:
        """Make the machine code, or find it."""
        if not self.function:
            written = self.made.code
            code = compiler.code_of(written.text(converts_halves()), written.sizes)
            self.code.append(code)
            self.function = code[SYMBOL]
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
        call_on(function, layout, file)

    def share_parts(self, file: list[Array], keys: Sequence[Sequence[Any]], threads: int) -> bool:
        """Evaluate parts on several threads; see ``Division.share``."""
        return self.division.share(self.function or self.load(), file, keys, threads)

    def part_work(
        self, file: list[Array], keys: Sequence[Sequence[Any]], threads: int
    ) -> Work | None:
        """The same, as a job; see ``Division.work``."""
        return self.division.work(self.function or self.load(), file, keys, threads)

    def layout(self, file: list[Array]) -> Layout | None:
        """How the arrays lie; None where the function cannot read them in place."""
        shape = common_shape(*(a.shape for a in file))
        operands = []
        for at, (array, wide) in enumerate(zip(file, self.made.wide, strict=True)):
            strides = aligned_strides(array, shape)
            dense = not wide or shape[-1] == 1 or strides[-1] == array.itemsize
            if not dense or not array.flags.aligned:
                return None
            operands.append(Operand(array.itemsize, strides, at >= self.first_output))
        if self.made.flat:
            whole, found = joined(shape, operands)
            if len(whole) == 1:
                return self.record((1, 1), whole[0], [o._replace(strides=()) for o in found])
        rows = [o._replace(strides=o.strides[:-1]) for o in operands]
        lead, rows = joined(shape[:-1], rows)
        if len(lead) > 2 or (self.short and lead[-1] > 1 and not self.is_dense(rows, shape[-1])):
            return None
        return self.record((1, 1, *lead)[-2:], shape[-1], rows)

    def is_dense(self, rows: Sequence[Operand], length: int) -> bool:
        """Does a row begin where the one before ends?"""
        operands = zip(rows, self.made.wide, self.made.fixed, strict=True)
        moving = [o for o, wide, fixed in operands if wide and not fixed]
        return all(o.strides[-1] == o.itemsize * length for o in moving)

    @property
    def first_output(self) -> int:
        return len(self.region.inputs)

    def record(self, lead: Shape, length: int, operands: Sequence[Operand]) -> Layout:
        words = [*lead, length]
        for operand in operands:
            words += (0, 0, *operand.strides)[-2:]
        place = 0
        for kept in self.made.kept:
            words.append(place)
            place += whole_lines(kept.nbytes(length))
        return Layout.of(words, place)

    def run_copied(self, file: list[Array]) -> None:
        """Evaluate on dense copies of as many rows at a time as the plan counts, or of all."""
        shape = common_shape(*(a.shape for a in file))
        inputs = [
            np.broadcast_to(array, shape if wide else (*shape[:-1], 1))
            for array, wide in zip(file[: self.first_output], self.made.wide, strict=False)
        ]
        results = file[self.first_output :]
        for key in self.copied_parts(shape[:-1]):
            self.run_copied_part([a[key] for a in inputs], [a[key] for a in results])

    def run_copied_part(self, inputs: list[Array], results: list[Array]) -> None:
        """The same for views of some rows: what it copies is let go of before the next."""
        dense = [array.copy() for array in inputs]
        dense += [np.empty(array.shape, array.dtype) for array in results]
        self.run_block(dense)
        for array, result in zip(results, dense[self.first_output :], strict=True):
            array[...] = result

    def copied_parts(self, lead: Shape) -> Iterator[tuple[Any, ...]]:
        """What of the leading axes is copied at a time."""
        if not self.splits or not lead:
            yield (...,)
            return
        step = max(1, COPIED_BYTES // self.row_bytes)
        for place in np.ndindex(lead[:-1]):
            for start in range(0, lead[-1], step):
                yield (*place, slice(start, start + step))
