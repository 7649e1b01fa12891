"""The numpy engine: a region as ufunc calls with ``out=``, on blocks that stay in cache.

Bit-identical to NumPy: the same ufunc loops over the same dtypes. Any dtype, several outputs, no
limits. Scratch registers are shared by lifetime; an operation may write over an operand that dies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusegraph.engines.base import Array, Extent, Region
from fusegraph.graph import Node
from fusegraph.machine import Machine
from fusegraph.ops import resolve

Step = tuple[Callable[..., Any], int, int, int, int, int]
"""A call: function, operand count, three operand registers, output register."""


class NumpyEngine:
    """NumPy's ufuncs on cache-resident blocks."""

    name = "numpy"
    blocked = True
    multi_output = True

    def refuses(self, node: Node) -> str | None:
        return None

    def limit(self, extent: Extent) -> str | None:
        return None

    def nanoseconds(self, node: Node, machine: Machine) -> float:
        dtype = node.inputs[0].dtype if node.dtype.kind == "b" else node.dtype
        cost = machine.ns(self.name, node.op.name, dtype.name, node.op.flop_class)
        if node.op.name not in ("astype", "where", "real", "imag"):
            loops, _ = resolve(node.op.name, tuple(i.dtype for i in node.inputs))
            casts = sum(i.dtype != loop for i, loop in zip(node.inputs, loops, strict=True))
            cost += casts * machine.ns(self.name, "astype", dtype.name, "move")
        return cost

    def compile(self, region: Region) -> NumpyBody:
        return NumpyBody(region)


class NumpyBody:
    """Steps over a register file: inputs, constants, outputs, then scratch."""

    def __init__(self, region: Region) -> None:
        constants = dict.fromkeys(
            i for node in region.nodes for i in node.inputs if i.kind == "const"
        )
        register: dict[Node, int] = {}
        for node in (*region.inputs, *constants, *region.outputs):
            register.setdefault(node, len(register))
        self.constants: list[Array] = [node.data for node in constants]
        self.first_output = len(region.inputs) + len(constants)
        self.first_scratch = self.first_output + len(region.outputs)
        scratch: list[np.dtype[Any]] = []
        self._share_outputs(region, register)
        self.steps = self._allocate(region, register, scratch)
        self.scratch_dtypes = tuple(scratch)
        self.scratch_bytes = sum(d.itemsize for d in scratch)

    @staticmethod
    def _share_outputs(region: Region, register: dict[Node, int]) -> None:
        """Let a chain of values that die one into the next, and end in an output, live in its memory.

        Their lifetimes do not overlap, so the output's register can hold them all; less scratch keeps
        larger blocks in cache.
        """
        last_use = {i: at for at, node in enumerate(region.nodes) for i in node.inputs}
        position = {node: at for at, node in enumerate(region.nodes)}
        for output in region.outputs:
            node: Node | None = output
            while node is not None and isinstance(node.op.function, np.ufunc):
                at = position[node]
                node = next(
                    (
                        i
                        for i in node.inputs
                        if i in position
                        and i not in register
                        and i.dtype == output.dtype
                        and last_use[i] == at
                    ),
                    None,
                )
                if node is not None:
                    register[node] = register[output]

    def _allocate(
        self, region: Region, register: dict[Node, int], scratch: list[np.dtype[Any]]
    ) -> list[Step]:
        last_use = {i: at for at, node in enumerate(region.nodes) for i in node.inputs}
        free: dict[np.dtype[Any], list[int]] = {}
        scratch_of: dict[int, np.dtype[Any]] = {}
        steps: list[Step] = []
        for at, node in enumerate(region.nodes):
            dying = [
                register[i]
                for i in dict.fromkeys(node.inputs)
                if last_use[i] == at and register[i] in scratch_of
            ]
            in_place = isinstance(node.op.function, np.ufunc)
            if in_place:
                self._release(dying, scratch_of, free)
            if node not in register:
                spare = free.get(node.dtype)
                if spare:
                    register[node] = spare.pop()
                else:
                    register[node] = self.first_scratch + len(scratch)
                    scratch.append(node.dtype)
                    scratch_of[register[node]] = node.dtype
            if not in_place:  # a row that is no ufunc may read its operands after it began to write
                self._release(dying, scratch_of, free)
            operands = [register[i] for i in node.inputs]
            padded = (*operands, *([0] * (3 - len(operands))))
            a, b, c = padded[:3]
            steps.append((node.op.function, len(operands), a, b, c, register[node]))
        return steps

    @staticmethod
    def _release(
        registers: list[int], dtypes: dict[int, np.dtype[Any]], free: dict[Any, list[int]]
    ) -> None:
        for number in registers:
            free.setdefault(dtypes[number], []).append(number)

    def registers(self) -> list[Array]:
        """A fresh register file with the constants in place."""
        file: list[Array] = [None] * (self.first_scratch + len(self.scratch_dtypes))
        file[self.first_output - len(self.constants) : self.first_output] = self.constants
        return file

    def run_block(self, file: list[Array]) -> None:
        """Evaluate one block whose operands, outputs and scratch stand in ``file``."""
        for function, arity, a, b, c, out in self.steps:
            if arity == 2:
                function(file[a], file[b], out=file[out])
            elif arity == 1:
                function(file[a], out=file[out])
            else:
                function(file[a], file[b], file[c], out=file[out])

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], threads: int) -> None:
        """Evaluate whole operands as one block."""
        file = self.registers()
        file[: len(inputs)] = inputs
        file[self.first_output : self.first_scratch] = outputs
        shape = outputs[0].shape
        file[self.first_scratch :] = [np.empty(shape, dtype) for dtype in self.scratch_dtypes]
        self.run_block(file)
