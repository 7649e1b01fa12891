"""The llvm engine: a region as machine code, one pass with every temporary in a register.

In: regions. Out: ``LlvmBody``, which the schedules call block by block as they call NumPy's. A body is
compiled when it first runs, so that planning stays cheap; equal kernels share one function.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fusegraph.engines.base import Array, Extent, Region
from fusegraph.engines.llvm import codegen, compiler, lowering
from fusegraph.engines.llvm.driver import (
    DRIVER,
    Loop,
    Operand,
    aligned_strides,
    arrays_lie_as_expected,
    imitation,
    strided_loop,
)
from fusegraph.graph import Node, Shape
from fusegraph.machine import Machine

MAX_OPERANDS = 256  # inputs and outputs: what a block's stack frame and packed tiles are made for
LOOPS_REMEMBERED = 64  # layouts of a body; a plan meets two: whole blocks and the last
# Seconds of compiling a region, from IR to an address, and per node: measured in tests/benchmarks.
COMPILE_SECONDS = 12e-3
COMPILE_SECONDS_A_NODE = {"transcendental": 1.5e-3}
COMPILE_SECONDS_A_PLAIN_NODE = 0.12e-3


class LlvmEngine:
    """Machine code through LLVM: any number of outputs, no scratch, no step between operations."""

    name = "llvm"
    blocked = True
    compiles = True  # the first run of a kernel takes as long as thousands of small ones

    def refuses(self, node: Node) -> str | None:
        if node.kind != "elementwise":
            return f"llvm has no {node.op.name}"
        return codegen.refusal(node.op.name, tuple(i.dtype for i in node.inputs), node.dtype)

    def refuses_in_panel(self, node: Node, layout: tuple[int, ...]) -> str | None:
        return self.refuses(node)

    def limit(self, extent: Extent) -> str | None:
        if extent.inputs + extent.outputs > MAX_OPERANDS:
            return f"llvm takes at most {MAX_OPERANDS} operands"
        return None

    def launch_seconds(self, size: int, threads: int, machine: Machine) -> float:
        """A call into compiled code."""
        return machine.launch[self.name]

    def nanoseconds(self, node: Node, machine: Machine) -> float:
        dtype = node.inputs[0].dtype if node.dtype.kind == "b" else node.dtype
        return machine.ns(self.name, node.op.name, dtype.name, node.op.flop_class)

    def compile(self, region: Region) -> LlvmBody:
        return LlvmBody(region) if arrays_lie_as_expected() else ImitatingBody(region)

    def compile_seconds(self, region: Region) -> float:
        """Predicted seconds from IR to machine code, linear in the nodes."""
        functions = sum(node.op.transcendental for node in region.nodes)
        plain = len(region.nodes) - functions
        return (
            COMPILE_SECONDS
            + functions * COMPILE_SECONDS_A_NODE["transcendental"]
            + plain * COMPILE_SECONDS_A_PLAIN_NODE
        )


_LOADING = threading.Lock()


class LlvmBody:
    """A region's function, and the loops around it.

    A file of registers is its inputs, then its outputs; there is no scratch. Arrays may have any
    layout; where all are dense and of one size, one call does it.
    """

    scratch_bytes = 0

    def __init__(self, region: Region) -> None:
        self.region = region
        self.count = len(region.inputs) + len(region.outputs)
        self.first_output = len(region.inputs)
        self.first_scratch = self.count
        self.flat: Any = None  # the driver's function, once there is something to drive
        self.plan = 0  # address of the words that it reads
        self.loops: dict[Any, Loop] = {}

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
        self.run_at(id(file), file)

    def run_at(self, address: int, file: list[Array]) -> None:
        """Evaluate a block whose list of arrays lies at ``address``."""
        flat = self.flat or self.load()
        if flat(self.plan, address):
            loop = self.loop_for(file)
            self.strided(loop.address, address, _BUFFER.address_of(loop.buffer_bytes))

    def converts_halves(self) -> bool:
        """Does the processor convert float16?"""
        return lowering.ARM or compiler.has_feature("f16c")

    def load(self) -> Any:
        """Make the machine code, or find it; one thread does, the others wait for its words."""
        with _LOADING:
            return self.flat or self._load()

    def _load(self) -> Any:
        code = codegen.generate(self.region)
        flat, strided = _drivers()
        kernel = compiler.address_of(code.text(self.converts_halves()), codegen.SYMBOL)
        self.scalars = code.scalars
        self.kernel = kernel
        places = [word for at, one in enumerate(code.scalars) for word in (at, int(one))]
        self.words = np.array([kernel, self.count, self.first_output, *places], np.int64)
        self.plan = self.words.ctypes.data
        self.strided = strided
        self.flat = flat  # last: other threads look at it first
        return flat

    def loop_for(self, file: list[Array]) -> Loop:
        """The loop over arrays of these shapes and strides, made once."""
        key = tuple((a.shape, a.strides, a.flags.aligned) for a in file)
        found = self.loops.get(key)
        if found is None:
            if len(self.loops) >= LOOPS_REMEMBERED:
                self.loops.clear()
            found = self.loops[key] = self.make_loop(file)
        return found

    def make_loop(self, file: list[Array]) -> Loop:
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
        return strided_loop(self.kernel, shape, operands)


class ImitatingBody(LlvmBody):
    """A body for an interpreter whose arrays lie elsewhere in memory: it copies their descriptions."""

    def run_block(self, file: list[Array]) -> None:
        address, kept = imitation(file)
        self.run_at(address, file)
        kept.clear()


class _Buffer(threading.local):
    """Memory of a thread for packed tiles."""

    def __init__(self) -> None:
        self.grow(32 << 10)

    def grow(self, nbytes: int) -> None:
        self.memory = np.empty(nbytes + 64, np.uint8)
        self.address = -(-self.memory.ctypes.data // 64) * 64

    def address_of(self, nbytes: int) -> int:
        """The address of at least ``nbytes`` bytes, aligned to a cache line."""
        if nbytes + 64 > self.memory.size:
            self.grow(nbytes)
        return self.address


_BUFFER = _Buffer()


@cache
def _drivers() -> tuple[Any, Any]:
    """The driver's functions, as calls on (words, id of a list of arrays)."""
    flat = compiler.function(compiler.FLAT, DRIVER, "fg_flat")
    strided = compiler.function(compiler.STRIDED, DRIVER, "fg_strided")
    return flat, strided
