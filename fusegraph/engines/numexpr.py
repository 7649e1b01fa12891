"""The numexpr engine: a region as one numexpr program.

The program is written as bytecode (``numexpr.interpreter.NumExpr``), not as text: its size is linear in
the region, shared values stay shared, no text of anybody is evaluated, and constants keep their dtype.
Its readable form is ``Kernel.expression``. Only instructions whose results are NumPy's bits (or, for
libm functions, within the stated ulps) are used: the rows say which, ``refuses`` says why not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numexpr
import numpy as np
from numexpr import interpreter

from fusegraph import forks
from fusegraph.engines.base import Array, Body, Engine, Extent, Region
from fusegraph.graph import Node
from fusegraph.machine import Machine
from fusegraph.ops import NUMEXPR_CASTS, NUMEXPR_CODES, resolve

# Limits of numexpr 2.14; tests/test_numexpr_facts.py holds each against the installed release.
MAX_INPUTS = 63  # NumPy iterators take 64 operands, the output is one
MAX_REGISTERS = 255  # output, inputs, constants and temporaries, one byte each, 255 means "none"
SERIAL_BELOW = 2048  # elements; numexpr itself runs shorter arrays on the calling thread
WAKE_SECONDS = 40e-6  # of its thread pool: 12 us quiet, 65 us beside other work
SWITCH_SECONDS = 190e-6  # of setting the number of threads, there and back

_NONE = 255
# One compiled program called from two threads corrupts the heap (numexpr issue 569), and programs
# share one thread pool: calls take turns.
_running = forks.lock()


class NumexprEngine(Engine):
    """numexpr's virtual machine: no warm-up, threads without the GIL, one output a program."""

    name = "numexpr"
    blocked = False

    def refuses(self, node: Node) -> str | None:
        if node.kind != "elementwise":
            return f"numexpr has no {node.op.name}"
        if not node.op.opcode:
            return f"numexpr has no {node.op.name} with NumPy's results"
        loops, _ = _loops(node)
        for dtype in (*loops, node.dtype):
            if dtype not in NUMEXPR_CODES:
                return f"numexpr has no {dtype} with NumPy's results"
        for operand, loop in zip(node.inputs, loops, strict=True):
            if operand.dtype not in NUMEXPR_CODES:
                return f"numexpr has no {operand.dtype} with NumPy's results"
            if operand.dtype != loop and _cast_path(operand.dtype, loop) is None:
                return f"numexpr cannot cast {operand.dtype} to {loop}"
        if node.op.opcode == "cast":
            if _cast_path(node.inputs[0].dtype, node.dtype) is None:
                return f"numexpr cannot cast {node.inputs[0].dtype} to {node.dtype}"
        elif NUMEXPR_CODES[loops[-1]] not in node.op.runs:
            return f"numexpr's {node.op.name} of {loops[-1]} is not NumPy's"
        return None

    def refuses_in_panel(self, node: Node, layout: tuple[int, ...]) -> str | None:
        if node.kind != "elementwise":
            return f"numexpr does not run {node.op.name} on rows"
        return self.refuses(node)

    def limit(self, extent: Extent) -> str | None:
        if extent.outputs > 1:
            return "numexpr writes one output a program"
        if extent.inputs > MAX_INPUTS:
            return f"numexpr takes at most {MAX_INPUTS} inputs"
        # An input keeps its register for the whole program, so it may add to the peak of `live`.
        if 1 + extent.constants + extent.inputs + extent.live > MAX_REGISTERS:
            return f"numexpr has {MAX_REGISTERS} registers"
        return None

    def launch_seconds(self, size: int, threads: int, machine: Machine) -> float:
        """A call, waking numexpr's threads, and changing their number where it must be held."""
        seconds = machine.launch[self.name]
        if size >= SERIAL_BELOW:
            seconds += WAKE_SECONDS
            if threads < numexpr.get_num_threads():
                seconds += SWITCH_SECONDS
        return seconds

    def compile(self, region: Region) -> NumexprBody:
        return NumexprBody(region)


def _loops(node: Node) -> tuple[tuple[Any, ...], Any]:
    if node.op.opcode == "cast":
        return (node.inputs[0].dtype,), node.dtype
    return resolve(node.op.name, tuple(i.dtype for i in node.inputs))


def _cast_path(start: Any, end: Any) -> tuple[str, ...] | None:
    """Type codes from ``start`` (left out) to ``end`` by widening instructions, or None."""
    a, b = NUMEXPR_CODES[start], NUMEXPR_CODES[end]
    if a == b:
        return ()
    if b in NUMEXPR_CASTS[a]:
        return (b,)
    if a == "b" and b in NUMEXPR_CASTS["i"]:
        return ("i", b)
    return None


class NumexprBody(Body):
    """A compiled program and the order of its inputs."""

    scratch_bytes = 0  # numexpr's own blocks: 1,024 elements a register

    def __init__(self, region: Region) -> None:
        _checked_once()
        program, constants, temporaries = _Assembler(region).assemble()
        signature = "".join(NUMEXPR_CODES[i.dtype] for i in region.inputs)
        self.call = interpreter.NumExpr(
            signature.encode(),
            temporaries.encode(),
            program,
            constants,
            tuple(f"v{n}" for n in range(len(region.inputs))),
        )

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], threads: int) -> None:
        """Evaluate whole operands; numexpr blocks them and spreads the blocks over ``threads``."""
        with _running, _at_most(threads if outputs[0].size >= SERIAL_BELOW else None):
            self.call(*inputs, out=outputs[0], ex_uses_vml=False, order="K", casting="safe")


@contextmanager
def _at_most(threads: int | None) -> Iterator[None]:
    """Hold numexpr to a number of threads and give back the user's own setting.

    Changing the count costs 190 us there and back, so it is left alone where it is within bounds.
    """
    before = numexpr.get_num_threads()
    if threads is None or before <= threads:
        yield
        return
    numexpr.set_num_threads(threads)
    try:
        yield
    finally:
        numexpr.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold numexpr to one thread over many runs, for measuring."""
    with _at_most(1):
        yield


class _Assembler:
    """Writes the program: register 0 is the output, then inputs, constants, temporaries."""

    def __init__(self, region: Region) -> None:
        self.region = region
        constants = region.constants
        self.register: dict[Node, int] = {region.outputs[0]: 0}
        for node in (*region.inputs, *constants):
            self.register[node] = len(self.register)
        # numexpr takes NumPy's scalars of every dtype but bool
        self.constants = tuple(
            bool(node.data) if node.dtype.kind == "b" else node.data[()] for node in constants
        )
        self.first_temporary = len(self.register)
        self.temporaries = ""
        self.free: dict[str, list[int]] = {}
        self.code: list[bytes] = []

    def assemble(self) -> tuple[bytes, tuple[Any, ...], str]:
        last_use = {i: at for at, n in enumerate(self.region.nodes) for i in n.inputs}
        for at, node in enumerate(self.region.nodes):
            loops, _ = _loops(node)
            operands, casts = [], []
            for operand, loop in zip(node.inputs, loops, strict=True):
                number = self.widen(self.register[operand], operand.dtype, loop)
                if number != self.register[operand]:
                    casts.append((number, NUMEXPR_CODES[loop]))
                operands.append(number)
            for operand in dict.fromkeys(node.inputs):
                if last_use[operand] == at and self.register[operand] >= self.first_temporary:
                    self.give_back(self.register[operand], NUMEXPR_CODES[operand.dtype])
            for number, code in casts:
                self.give_back(number, code)
            if node not in self.register:
                self.register[node] = self.take(NUMEXPR_CODES[node.dtype])
            self.emit(node, self.register[node], operands, NUMEXPR_CODES[loops[-1]])
        return b"".join(self.code), self.constants, self.temporaries

    def take(self, code: str) -> int:
        if self.free.get(code):
            return self.free[code].pop()
        self.temporaries += code
        return self.first_temporary + len(self.temporaries) - 1

    def give_back(self, number: int, code: str) -> None:
        self.free.setdefault(code, []).append(number)

    def widen(self, number: int, start: Any, end: Any) -> int:
        code = NUMEXPR_CODES[start]
        for step, target in enumerate(_cast_path(start, end) or ()):
            fresh = self.take(target)
            self.write(f"cast_{target}{code}", fresh, number)
            if step:
                self.give_back(number, code)
            number, code = fresh, target
        return number

    def emit(self, node: Node, out: int, operands: list[int], loop: str) -> None:
        name, _, variant = node.op.opcode.partition(":")
        result = NUMEXPR_CODES[node.dtype]
        if name == "cast":
            self.emit_cast(node, out, operands[0])
        elif name == "f":
            suffix = result + loop * len(operands)
            function = interpreter.funccodes[f"{variant}_{suffix}".encode()]
            self.write(f"func_{suffix}n", out, *operands, function)
        elif name == "where":
            self.write(f"where_{result}b{loop}{loop}", out, *operands)
        elif name == "mul2":
            self.write(f"mul_{result}{loop}{loop}", out, operands[0], operands[0])
        else:
            if variant == "swap":
                operands = operands[::-1]
            self.write(f"{name}_{result}{loop * len(operands)}", out, *operands)

    def emit_cast(self, node: Node, out: int, operand: int) -> None:
        path = _cast_path(node.inputs[0].dtype, node.dtype) or ()
        code = NUMEXPR_CODES[node.inputs[0].dtype]
        for target in path[:-1]:
            fresh = self.take(target)
            self.write(f"cast_{target}{code}", fresh, operand)
            self.give_back(fresh, target)
            operand, code = fresh, target
        name = f"cast_{path[-1]}{code}" if path else f"copy_{code}{code}"
        self.write(name, out, operand)

    def write(self, opcode: str, out: int, *operands: int) -> None:
        """One instruction: four bytes, and four more where a third operand does not fit."""
        padded = [*operands, _NONE, _NONE][: max(2, len(operands))]
        self.code.append(bytes((interpreter.opcodes[opcode.encode()], out, *padded[:2])))
        if len(operands) > 2:
            self.code.append(
                bytes((interpreter.opcodes[b"noop"], *[*operands[2:], _NONE, _NONE][:3]))
            )


def self_check() -> None:
    """Run a small program and compare it with NumPy.

    The bytecode is not a documented interface of numexpr, and releases have computed wrong results
    (2.14.1 returned zeros now and then): a release that breaks it must be noticed, not believed.

    Raises
    ------
    ImportError
        The installed numexpr does not compute what its programs say.
    """
    opcodes = interpreter.opcodes
    program = bytes((opcodes[b"mul_fff"], 3, 1, 2, opcodes[b"add_fff"], 0, 3, 1))
    x = np.arange(3000, dtype=np.float32)
    y = np.empty_like(x)
    call = interpreter.NumExpr(b"f", b"f", program, (np.float32(0.1),), ("v0",))
    with _running:
        call(x, out=y, ex_uses_vml=False)
    if not np.array_equal(y, x * np.float32(0.1) + x):
        raise ImportError(
            f"numexpr {numexpr.__version__} computes wrong results; install >= 2.14.2"
        )


@cache
def _checked_once() -> None:
    """The self-check before the first program of a process."""
    self_check()
