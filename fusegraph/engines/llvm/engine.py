"""The llvm engine: a region as machine code, one pass with every temporary in a register.

In: regions. Out: ``LlvmBody``, which the schedules call block by block as they call NumPy's. A body is
compiled when it first runs, so that planning stays cheap; equal kernels share one function.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from fusegraph.engines.base import Array, DirectCall, Extent, Region
from fusegraph.engines.llvm import codegen, compiler, row_phases, short_code
from fusegraph.engines.llvm.columns import has_column
from fusegraph.engines.llvm.direct import direct_call
from fusegraph.engines.llvm.flat import FLAT, JOB_SCRATCH, STREAMED_BYTES
from fusegraph.engines.llvm.halves import converts_halves
from fusegraph.engines.llvm.headers import arrays_lie_as_expected, imitation
from fusegraph.engines.llvm.jobs import Work
from fusegraph.engines.llvm.layouts import Layout, Operand, Remembered, aligned_strides
from fusegraph.engines.llvm.multiply import DTYPES, Product
from fusegraph.engines.llvm.row_body import RowBody
from fusegraph.engines.llvm.sharing import Division, call_on, run_work
from fusegraph.engines.llvm.strided import (
    SMALL_ROW,
    STRIDED,
    TILE_BYTES,
    fixed_in_rows,
    strided_loop,
)
from fusegraph.graph import Node, Shape, reduced_axes
from fusegraph.machine import Machine

MAX_OPERANDS = 256  # inputs and outputs: what a block's stack frame and packed tiles are made for
# Seconds of compiling a region, from IR to an address, and more for each function, other node and
# reduction: the triad takes 9 ms, exp 15, GELU 18, softplus 29, 200 operations 37, softmax 60, of short
# rows 70.
COMPILE_SECONDS = 9e-3
COMPILE_SECONDS_A_FUNCTION = 6e-3
COMPILE_SECONDS_A_PLAIN_NODE = 0.15e-3
COMPILE_SECONDS_A_FOLD = 20e-3
# Softmax of 2,000 rows of 50 float32 took 118 us, and 71 of 500 rows of 200.
ROW_SECONDS = 30e-9
# A reduction of a short row, which passes with others: softmax of 400,000 x 10 float32 takes 3.7 ms on
# one thread, of 125,000 x 32 3.3.
SHORT_ROW_SECONDS = 1.5e-9
# Additions' worth of storing an element to L1 and loading it to be folded, waiting included: softmax,
# layer norm and RMS norm of 4096 x 1024 float32 take 0.13, 0.15 and 0.05 ns more an element than what
# they compute.
FOLDED_ADDITIONS = 14
# The same where rows are many chunks long, or a fold runs along all of them: the sum of 131,072 squares
# takes 0.033 ns an element of float32 more than the sum, and 0.05 of float64.
LONG_ADDITIONS = 4
MANY_CHUNKS = 8
# Of a further fold of one value, what it does not take because the value is in registers: min and max of
# 131,072 float32 take 0.07 ns an element together and 0.04 each.
SHARED_FOLD = 0.35
PACKING_SECONDS = 0.3e-9  # x[::2] + x[1::2] of 4,000,000 float32 took 2.0 ms on one thread


class LlvmEngine:
    """Machine code through LLVM: any number of outputs, no scratch, no step between operations."""

    name = "llvm"
    blocked = True
    rows = True
    compiles = True  # the first run of a kernel takes as long as thousands of small ones

    def refuses(self, node: Node) -> str | None:
        if node.kind != "elementwise":
            return f"llvm has no {node.op.name}"
        return codegen.refusal(node.op.name, tuple(i.dtype for i in node.inputs), node.dtype)

    def refuses_in_panel(self, node: Node, layout: tuple[int, ...]) -> str | None:
        if node.kind != "reduce":
            return self.refuses(node)
        rank, axes = len(node.inputs[0].shape), reduced_axes(node)
        if layout != tuple(range(len(layout))):
            return f"llvm has no {node.op.name} over a panel whose last axis comes first"
        if has_column(node):
            return None
        if axes not in ((rank - 1,), tuple(range(rank))) or node.inputs[0].shape[-1] < 2:
            return (
                f"llvm has {node.op.name} along a last axis of several elements, along all axes, or "
                "along all but a last one of several elements"
            )
        if row_phases.fold_for(node) is None:
            return f"llvm has no {node.op.name} of {node.inputs[0].dtype.name}"
        return None

    def limit(self, extent: Extent) -> str | None:
        if extent.inputs + extent.outputs > MAX_OPERANDS:
            return f"llvm takes at most {MAX_OPERANDS} operands"
        return None

    def launch_seconds(self, size: int, threads: int, machine: Machine) -> float:
        """A call into compiled code."""
        return machine.launch[self.name]

    def nanoseconds(self, node: Node, machine: Machine) -> float:
        dtype = node.inputs[0].dtype if node.dtype.kind == "b" else node.dtype
        return machine.ns(self.name, node.op.name, dtype, node.op.flop_class)

    def row_seconds(self, nodes: Sequence[Node], machine: Machine) -> float:
        """Each phase of a row begins and ends, and what is folded passes through L1 once more."""
        if not _is_rows(nodes):
            return 0.0
        rows = math.prod(max((n.shape for n in nodes), key=math.prod)[:-1])
        folds = [n for n in nodes if n.kind == "reduce"]
        seconds = rows * SHORT_ROW_SECONDS * len(folds)
        if not short_code.fits(nodes):
            # There a value is folded as it is read, and not spread again.
            seconds = rows * ROW_SECONDS - self.shared_seconds(folds, machine)
            inside = {*nodes}
            folds = list({n.inputs[0]: n for n in folds if n.inputs[0] in inside}.values())
        passed = sum(
            machine.ns(self.name, "add", n.inputs[0].dtype, "add") * n.inputs[0].size
            * (LONG_ADDITIONS if _is_long(n) else FOLDED_ADDITIONS)
            for n in folds
        )  # fmt: skip
        return seconds + passed * 1e-9

    def shared_seconds(self, folds: Sequence[Node], machine: Machine) -> float:
        """What folds of one value do not take, as they share reading it."""
        read: set[Node] = set()
        seconds = 0.0
        for fold in folds:
            value = fold.inputs[0]
            if value in read:
                each = machine.ns(self.name, fold.op.name, value.dtype, fold.op.flop_class)
                seconds += SHARED_FOLD * each * value.size * 1e-9
            read.add(value)
        return seconds

    def product(self, node: Node, packed: bool) -> Product | None:
        if node.dtype.name not in DTYPES or any(i.dtype != node.dtype for i in node.inputs):
            return None
        return Product(node.dtype, node.shape[-1], node.inputs[0].shape[-1], packed)

    def packing_seconds(self, elements: int) -> float:
        return elements * PACKING_SECONDS

    def compile(self, region: Region) -> LlvmBody | RowBody:
        if _is_rows(region.nodes):
            return RowBody(region)
        return LlvmBody(region) if arrays_lie_as_expected() else ImitatingBody(region)

    def compile_seconds(self, region: Region) -> float:
        """Predicted seconds from IR to machine code, linear in the nodes."""
        functions = sum(node.op.transcendental for node in region.nodes)
        plain = len(region.nodes) - functions
        folds = sum(node.kind == "reduce" for node in region.nodes)
        return (
            COMPILE_SECONDS
            + folds * COMPILE_SECONDS_A_FOLD
            + functions * COMPILE_SECONDS_A_FUNCTION
            + plain * COMPILE_SECONDS_A_PLAIN_NODE
        )

    def direct_call(self, *work: Any) -> DirectCall | None:
        return direct_call(*work)


def _is_long(fold: Node) -> bool:
    """Does a reduction fold whole chunks, but for few?"""
    length = fold.inputs[0].shape[-1]
    return row_phases.is_carried(fold) or length >= MANY_CHUNKS * row_phases.CHUNK


def _is_rows(nodes: Sequence[Node]) -> bool:
    """Are there reductions, or values of several shapes?"""
    first = nodes[0].shape
    return any(node.shape != first or node.kind == "reduce" for node in nodes)


_LOADING = threading.Lock()


class LlvmBody:
    """A region's function, and the loops around it.

    A file of registers is its inputs, then its outputs; there is no scratch. Arrays may have any
    layout; where all are dense and of one size, one call does it.
    """

    scratch_bytes = 0
    shares_blocks = shares_parts = True
    in_place = True  # it reads an element of every operand before it writes that of a result

    def __init__(self, region: Region) -> None:
        self.region = region
        self.count = len(region.inputs) + len(region.outputs)
        each = sum(v.dtype.itemsize for v in (*region.inputs, *region.outputs))
        # A tile of short rows is a whole row at least; each operand begins in a cache line.
        self.call_bytes = max(TILE_BYTES, SMALL_ROW * each + 64 * self.count)
        self.first_output = len(region.inputs)
        self.first_scratch = self.count
        self.flat: Any = None  # the flat loop, once there is something to run
        self.plan = 0  # address of the words that it reads
        self.words: Array = np.empty(0, np.int64)
        self.kernels: dict[tuple[bool, ...], int] = {}
        self.layouts = {
            streams: Remembered(partial(self.lay_out, streams=streams)) for streams in (False, True)
        }
        self.divisions = {streams: Division(known) for streams, known in self.layouts.items()}

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
        work = self.blocks(file[self.first_output].size, block, threads, streams)
        describe, plan = _flat_jobs().describe, self.plan
        return run_work(work, file, threads, lambda job: describe(plan, id(file), job))

    def block_work(self, block: int, threads: int, streams: bool) -> Work:
        """The same, as a job for dense arrays of the region's shape."""
        self.flat or self.load()
        return self.blocks(math.prod(self.region.shape), block, threads, streams)

    def blocks(self, size: int, block: int, threads: int, streams: bool) -> Work:
        """``size`` dense elements as a job, ``block`` a task; results go past the caches or not."""
        tile = scratch = 0
        if streams:
            each = sum(value.dtype.itemsize for value in self.region.outputs)
            tile = max(64, STREAMED_BYTES // each // 64 * 64)
            scratch = tile * each
        task = _flat_jobs().streamed if streams else _flat_jobs().task
        words = (size, block, self.plan, tile, 0, scratch)  # from JOB_SIZE on
        return Work(task, -(-size // block), words, JOB_SCRATCH, scratch * threads, self.words)

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
        region = self.region
        code = codegen.generate(region)
        flat = _flat_loop()
        self.scalars = code.scalars
        if any(v.shape != region.shape and v.size != 1 for v in region.inputs):
            self.flat = lambda plan, file: 1  # never dense: the strided loop has its own kernel
            return self.flat
        kernel = self.kernel_for((False,) * self.count)
        operands = (*region.inputs, *region.outputs)
        steps = [
            0 if one else v.dtype.itemsize for v, one in zip(operands, code.scalars, strict=True)
        ]
        places = [word for place in enumerate(steps) for word in place]
        self.words = np.array([kernel, self.count, self.first_output, *places], np.int64)
        self.plan = self.words.ctypes.data
        self.flat = flat  # last: other threads look at it first
        return flat

    def kernel_for(self, fixed: tuple[bool, ...]) -> int:
        """The address of the kernel to which ``fixed`` operands are one element a call."""
        found = self.kernels.get(fixed)
        if found is None:
            code = codegen.generate(self.region, fixed[: self.first_output])
            found = compiler.address_of(code.text(converts_halves()), codegen.SYMBOL, code.sizes)
            self.kernels[fixed] = found
        return found

    def lay_out(self, file: list[Array], streams: bool) -> Layout:
        """The loop over arrays of these shapes and strides."""
        shape = file[self.first_output].shape
        operands = [
            Operand(
                place=at,
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
        return strided_loop(self.kernel_for(fixed), shape, operands, streams)


class ImitatingBody(LlvmBody):
    """A body for an interpreter whose arrays lie elsewhere in memory: it copies their descriptions."""

    shares_blocks = shares_parts = False

    def run_block(self, file: list[Array]) -> None:
        flat = self.flat or self.load()
        address, kept = imitation(file)
        if flat(self.plan, address):
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
