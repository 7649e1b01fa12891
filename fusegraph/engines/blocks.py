"""The numpy engine: a region as NumPy calls with ``out=``, on blocks that stay in cache.

Bit-identical to NumPy: the same ufunc loops over the same dtypes. Any dtype, several outputs, no
limits. Scratch registers are shared by lifetime; an operation may write over an operand that dies.
The register file also serves bodies whose calls are not all NumPy's: see ``panel_body``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fusegraph.engines.base import Array, Body, Engine, Extent, Region
from fusegraph.engines.temporaries import temporary_bytes
from fusegraph.graph import Node, Shape, iteration_space
from fusegraph.machine import Machine
from fusegraph.ops import resolve

Step = tuple[Callable[..., Any], int, int, int, int, int]
"""A call: function, operand count, three operand registers, output register."""


# Of 2,000 rows of 50 float32: a maximum 22 ns a row beside its elements, a sum 7, a difference from one
# value a row 8, a quotient 7.
ROW_SECONDS = 10e-9


def _short_loops(node: Node) -> int:
    """Inner loops of NumPy's that a node begins in a panel: one a row, or one in all."""
    whole = iteration_space(node)
    narrow = any(i.shape[-1:] == (1,) for i in node.inputs) and whole[-1:] != (1,)
    by_rows = node.kind == "reduce" or (node.kind == "elementwise" and narrow)
    return math.prod(whole[:-1]) if by_rows else 0


class NumpyEngine(Engine):
    """NumPy's ufuncs on cache-resident blocks."""

    name = "numpy"
    blocked = True

    def refuses(self, node: Node) -> str | None:
        return None

    def refuses_in_panel(self, node: Node, layout: tuple[int, ...]) -> str | None:
        return None  # its calls are those of the panel

    def limit(self, extent: Extent) -> str | None:
        return None

    def launch_seconds(self, size: int, threads: int, machine: Machine) -> float:
        """The calls of a kernel without elements."""
        return machine.launch[self.name]

    def nanoseconds(self, node: Node, machine: Machine) -> float:
        cost = super().nanoseconds(node, machine)
        dtype = node.inputs[0].dtype if node.dtype.kind == "b" else node.dtype
        if node.op.name not in ("astype", "where", "real", "imag"):
            loops, _ = resolve(node.op.name, tuple(i.dtype for i in node.inputs))
            casts = sum(i.dtype != loop for i, loop in zip(node.inputs, loops, strict=True))
            cost += casts * machine.ns(self.name, "astype", dtype, "move")
        return cost

    def row_seconds(self, region: Region, machine: Machine) -> float:
        """What an inner loop of NumPy's costs to begin: once a row where rows are reduced or shared."""
        return ROW_SECONDS * sum(_short_loops(node) for node in region.nodes)

    def packing_seconds(self, elements: int) -> float:
        """Loops over strides are no vector loops: x[::2] + x[1::2] took 0.3 ns more an element."""
        return elements * 0.3e-9

    def compile(self, region: Region) -> NumpyBody:
        return NumpyBody(region)


class Register(NamedTuple):
    """What a scratch register holds for a block or a panel."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None  # None: the block's own shape; an axis None: its extent


class Call(NamedTuple):
    """One call of a body: a node, or a stage of several that another engine evaluates."""

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    function: Callable[..., Any]
    in_place: bool = False  # may it write over an operand that dies?


class NumpyBody(Body):
    """Steps over a register file: inputs, constants, outputs, then scratch."""

    def __init__(self, region: Region) -> None:
        constants = region.constants
        register: dict[Node, int] = {}
        for node in (*region.inputs, *constants, *region.outputs):
            register.setdefault(node, len(register))
        self.constants: list[Array] = [node.data for node in constants]
        self.first_output = len(region.inputs) + len(constants)
        self.first_scratch = self.first_output + len(region.outputs)
        calls = self.calls(region)
        last_use = {i: at for at, call in enumerate(calls) for i in call.inputs}
        self._share_outputs(region, calls, last_use, register)
        self.steps, self.scratch = self._allocate(calls, last_use, register)
        # bytes a block keeps for each of its elements
        self.scratch_bytes = sum(r.dtype.itemsize for r in self.scratch)
        self.nodes = region.nodes

    def temporary_bytes(self, elements: int, dense: bool) -> int:
        return max(temporary_bytes(node, elements, dense) for node in self.nodes)

    def register_of(self, node: Node) -> Register:
        """The kind of register that can hold ``node``."""
        return Register(node.dtype, None)

    def calls(self, region: Region) -> list[Call]:
        """What evaluates the region, in order."""
        return [self.call_of(node) for node in region.nodes]

    def call_of(self, node: Node) -> Call:
        """What computes one node into ``out=``."""
        return Call(node.inputs, (node,), node.op.function, _in_place(node))

    def scratch_shapes(self, block: Shape) -> tuple[tuple[Shape, np.dtype[Any]], ...]:
        """Shape and dtype of each scratch register for a block."""
        return tuple((block, r.dtype) for r in self.scratch)

    def _share_outputs(
        self,
        region: Region,
        calls: Sequence[Call],
        last_use: dict[Node, int],
        register: dict[Node, int],
    ) -> None:
        """Let a chain of values that die one into the next, and end in an output, live in its memory.

        Their lifetimes do not overlap, so the output's register can hold them all; less scratch keeps
        larger blocks in cache.
        """
        maker = {value: at for at, call in enumerate(calls) for value in call.outputs}
        for output in region.outputs:
            kind = self.register_of(output)
            node: Node | None = output
            while node is not None and calls[maker[node]].in_place:
                at = maker[node]
                dying = (
                    i
                    for i in calls[at].inputs
                    if i in maker
                    and i not in register
                    and self.register_of(i) == kind
                    and last_use[i] == at
                )
                node = next(dying, None)
                if node is not None:
                    register[node] = register[output]

    def _allocate(
        self, calls: Sequence[Call], last_use: dict[Node, int], register: dict[Node, int]
    ) -> tuple[list[Step], tuple[Register, ...]]:
        first = self.first_scratch
        scratch: list[Register] = []
        free: defaultdict[Register, list[int]] = defaultdict(list)
        steps: list[Step] = []

        def release(registers: list[int]) -> None:
            for number in registers:
                free[scratch[number - first]].append(number)

        for at, call in enumerate(calls):
            dying = [
                register[i]
                for i in dict.fromkeys(call.inputs)
                if last_use[i] == at and register[i] >= first
            ]
            if call.in_place:
                release(dying)
            for value in call.outputs:
                if value not in register:
                    kind = self.register_of(value)
                    if free[kind]:
                        register[value] = free[kind].pop()
                    else:
                        register[value] = first + len(scratch)
                        scratch.append(kind)
            if not call.in_place:  # it may read its operands after it began to write
                release(dying)
            steps.append(_step(call, register))
        return steps, tuple(scratch)

    def registers(self) -> list[Array]:
        """A fresh register file with the constants in place."""
        file: list[Array] = [None] * (self.first_scratch + len(self.scratch))
        file[self.first_output - len(self.constants) : self.first_output] = self.constants
        return file

    def run_block(self, file: list[Array]) -> None:
        """Evaluate one block whose operands, outputs and scratch stand in ``file``."""
        for function, arity, a, b, c, out in self.steps:
            if arity == 2:
                function(file[a], file[b], out=file[out])
            elif arity == 1:
                function(file[a], out=file[out])
            elif arity == 3:
                function(file[a], file[b], file[c], out=file[out])
            else:
                function(file)

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], threads: int) -> None:
        """Evaluate whole operands as one block."""
        file = self.registers()
        file[: len(inputs)] = inputs
        file[self.first_output : self.first_scratch] = outputs
        shapes = self.scratch_shapes(outputs[0].shape)
        file[self.first_scratch :] = [np.empty(shape, dtype) for shape, dtype in shapes]
        self.run_block(file)


def _in_place(node: Node) -> bool:
    """May ``node`` be written over an operand that dies? Only where elements are read before.

    NumPy's complex product of one element rounds otherwise where its result overlaps an operand.
    """
    plain = node.kind == "elementwise" and isinstance(node.op.function, np.ufunc)
    return plain and node.dtype.kind != "c"


def _step(call: Call, register: dict[Node, int]) -> Step:
    """A call over registers; a stage takes the whole file and knows its places."""
    operands = [register[i] for i in call.inputs]
    if isinstance(call.function, Stage):
        return call.function.over([*operands, *(register[o] for o in call.outputs)]), 0, 0, 0, 0, 0
    a, b, c = (*operands, 0, 0)[:3]
    return call.function, len(operands), a, b, c, register[call.outputs[0]]


class Stage:
    """The body of several nodes, evaluated on registers of the file around it."""

    def __init__(self, body: Body, inputs: int, threads: int, places: tuple[int, ...] = ()) -> None:
        self.body, self.inputs, self.threads = body, inputs, threads
        self.places = places

    def over(self, places: Sequence[int]) -> Stage:
        """The same stage on these registers: its inputs, then its outputs."""
        return Stage(self.body, self.inputs, self.threads, tuple(places))

    def __call__(self, file: list[Array]) -> None:
        """Evaluate on a panel."""
        operands = [file[at] for at in self.places]
        self.body.run(operands[: self.inputs], operands[self.inputs :], self.threads)
