"""A compiled element-wise region, called on arrays of any layout.

In: a region of one shape. Out: ``ElementwiseBody``: one call of its kernel where all arrays are dense
and of one size, or the loop over packed tiles; on one thread, or as a job for several.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from fusegraph import forks
from fusegraph.engines.base import Array, Body, Region
from fusegraph.engines.llvm import codegen, compiler
from fusegraph.engines.llvm.compiler import MachineCode
from fusegraph.engines.llvm.flat import FLAT, JOB_SCRATCH, PLAN_PAST, STREAMED_BYTES
from fusegraph.engines.llvm.halves import converts_halves
from fusegraph.engines.llvm.headers import imitation
from fusegraph.engines.llvm.jobs import Work
from fusegraph.engines.llvm.layouts import Layout, Operand, Remembered, aligned_strides
from fusegraph.engines.llvm.sharing import Division, call_on, run_work
from fusegraph.engines.llvm.streaming import PAST
from fusegraph.engines.llvm.strided import (
    SMALL_ROW,
    STRIDED,
    TILE_BYTES,
    fixed_in_rows,
    strided_loop,
)
from fusegraph.graph import Shape

_LOADING = forks.lock()


class ElementwiseBody(Body):
    """A region's function, and the loops around it.

    A file of registers is its inputs, then its outputs; there is no scratch.
    """

    scratch_bytes = 0
    shares_blocks = shares_parts = True
    in_place = True  # it reads an element of every operand before it writes that of a result

    def __init__(self, region: Region) -> None:
        self.region = region
        operands = (*region.inputs, *region.outputs)
        self.count = len(operands)
        self.scalars = [codegen.is_scalar(v, region) for v in region.inputs]
        self.scalars += [False] * len(region.outputs)
        each = sum(v.dtype.itemsize for v in operands)
        # A tile of short rows is a whole row at least; each operand begins in a cache line.
        self.call_bytes = max(TILE_BYTES, SMALL_ROW * each + 64 * self.count)
        self.first_output = len(region.inputs)
        self.first_scratch = self.count
        self.by_rows = codegen.goes_by_rows(region)
        self.flat: Any = None  # the flat loop, once there is something to run
        self.plan = 0  # address of the words that it reads
        self.words: Array = np.empty(0, np.int64)
        self.kernels: dict[tuple[tuple[bool, ...], bool], MachineCode] = {}
        self.past: MachineCode | None = None
        self.works: dict[tuple[int, int, int, bool], Work] = {}  # a plan meets one
        self.layouts = {
            streams: Remembered(partial(self.lay_out, streams=streams)) for streams in (False, True)
        }
        self.divisions = {
            streams: Division(known, self.kernels) for streams, known in self.layouts.items()
        }

    def registers(self) -> list[Array]:
        """An empty file."""
        return [None] * self.count

    def scratch_shapes(self, block: Shape) -> tuple[()]:
        """No temporaries outside of registers."""
        return ()

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], threads: int) -> None:
        """Evaluate whole operands as one block."""
        self.run_block([*inputs, *outputs])

    def run_block(self, file: list[Array]) -> None:
        """Evaluate one block whose operands and outputs stand in ``file``."""
        flat = self.flat or self.load()
        if flat(self.plan, id(file)) and file[self.first_output].size:
            call_on(_strided(), self.layouts[False](file), file)

    def share_blocks(self, file: list[Array], block: int, threads: int, streams: bool) -> bool:
        """Evaluate dense arrays in blocks on several threads; False where they are not dense."""
        self.flat or self.load()
        key = (file[self.first_output].size, block, threads, streams)
        work = self.works.get(key) or self.works.setdefault(key, self.blocks(*key))
        describe, plan = _flat_jobs().describe, self.plan
        return run_work(work, file, threads, lambda job: describe(plan, id(file), job))

    def block_work(self, block: int, threads: int, streams: bool) -> Work:
        """The same, as a job for dense arrays of the region's shape."""
        self.flat or self.load()
        return self.blocks(math.prod(self.region.shape), block, threads, streams)

    def blocks(self, size: int, block: int, threads: int, streams: bool) -> Work:
        """``size`` dense elements as a job, ``block`` a task; results go past the caches or not."""
        jobs, tile, scratch = _flat_jobs(), 0, 0
        if streams:
            each = sum(value.dtype.itemsize for value in self.region.outputs)
            tile = max(64, STREAMED_BYTES // each // 64 * 64)
            scratch = tile * each
            self.load_past()
        task = jobs.streamed if streams else jobs.task
        words = (size, block, self.plan, tile, 0, scratch)  # from JOB_SIZE on
        held = (self.words, self.kernels, self.past)
        return Work(task, -(-size // block), words, JOB_SCRATCH, scratch * threads, held)

    def share_parts(
        self, file: list[Array], keys: Sequence[Sequence[Any]], threads: int, streams: bool = False
    ) -> bool:
        """Evaluate parts of arrays of any layout on several threads; see ``Division.share``."""
        self.flat or self.load()
        return self.divisions[streams].share(_strided(streams), file, keys, threads)

    def part_work(
        self, file: list[Array], keys: Sequence[Sequence[Any]], threads: int, streams: bool = False
    ) -> Work | None:
        """The same, as a job; see ``Division.work``."""
        self.flat or self.load()
        return self.divisions[streams].work(_strided(streams), file, keys, threads)

    def load(self) -> Any:
        """Make the machine code, or find it; one thread does, the others wait for its words."""
        with _LOADING:
            return self.flat or self._load()

    def _load(self) -> Any:
        region, operands = self.region, (*self.region.inputs, *self.region.outputs)
        if any(v.shape != region.shape and v.size != 1 for v in region.inputs):
            self.flat = lambda plan, file: 1  # never dense: the strided loop has its own kernel
            return self.flat
        flat = _flat_loop()
        kernel = self.kernel_for((False,) * self.count, False)
        steps = [
            0 if one else v.dtype.itemsize for v, one in zip(operands, self.scalars, strict=True)
        ]
        places = [word for place in enumerate(steps) for word in place]
        self.words = np.array([kernel, self.count, self.first_output, 0, *places], np.int64)
        self.plan = self.words.ctypes.data
        self.flat = flat  # last: other threads look at it first
        return flat

    def load_past(self) -> None:
        """Make the flat kernel that stores past the caches results that begin with cache lines."""
        if self.past is None:
            written = codegen.generate(self.region)
            self.past = compiler.code_of(PAST + written.text(converts_halves()), written.sizes)
            self.words[PLAN_PAST] = self.past[codegen.SYMBOL]

    def kernel_for(self, fixed: tuple[bool, ...], by_rows: bool) -> int:
        """The address of the kernel to which ``fixed`` operands are one element a call, or a row."""
        found = self.kernels.get((fixed, by_rows))
        if found is None:
            written = codegen.generate(self.region, fixed[: self.first_output], by_rows)
            found = compiler.code_of(written.text(converts_halves()), written.sizes)
            found = self.kernels.setdefault((fixed, by_rows), found)  # another thread's, maybe
        return found[codegen.SYMBOL]

    def lay_out(self, file: list[Array], streams: bool) -> Layout:
        """The loop over arrays of these shapes and strides."""
        shape = file[self.first_output].shape
        operands = [
            Operand(
                itemsize=array.itemsize,
                strides=aligned_strides(array, shape),
                written=at >= self.first_output,
                single=single,
                aligned=array.flags.aligned,
            )
            for at, (array, single) in enumerate(zip(file, self.scalars, strict=True))
        ]
        fixed = fixed_in_rows(shape, operands)
        operands = [o._replace(single=o.single or f) for o, f in zip(operands, fixed, strict=True)]
        kernel_for = partial(self.kernel_for, fixed)
        return strided_loop(kernel_for, shape, operands, self.by_rows, streams)


class ImitatingBody(ElementwiseBody):
    """A body for an interpreter whose arrays lie elsewhere in memory: it copies their descriptions."""

    shares_blocks = shares_parts = False

    def run_block(self, file: list[Array]) -> None:
        flat = self.flat or self.load()
        address, kept = imitation(file)
        if flat(self.plan, address) and file[self.first_output].size:
            call_on(_strided(), self.layouts[False](file), file)
        kept.clear()


@cache
def _flat_loop() -> Any:
    """The flat loop, as a call on (words, id of a list of arrays)."""
    return compiler.function(compiler.FLAT, FLAT, "fg_flat")


class FlatJobs(NamedTuple):
    """What writes down a flat kernel as a job, and the addresses of its two kinds of task."""

    describe: Callable[[int, int, int], int]
    task: int
    streamed: int


@cache
def _flat_jobs() -> FlatJobs:
    pointer = ctypes.c_void_p
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer, pointer)
    return FlatJobs(
        compiler.function(prototype, FLAT, "fg_flat_job"),
        compiler.address_of(FLAT, "fg_flat_task"),
        compiler.address_of(FLAT, "fg_streamed_task"),
    )


@cache
def _strided(streams: bool = False) -> int:
    """The address of the strided loop: compiled when it is first needed."""
    return compiler.address_of(STRIDED, "fg_strided_past" if streams else "fg_strided")
