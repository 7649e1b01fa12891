"""The numpy engine: a region as NumPy calls with ``out=``, on blocks that stay in cache.

Bit-identical to NumPy: the same ufunc loops over the same dtypes. Any dtype, several outputs, no
limits. Scratch registers are shared by lifetime; an operation may write over an operand that dies.
A body runs on blocks of one shape (element-wise regions) or on panels: blocks of rows, whose values
differ in their last axis, with reductions along it and products from the left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fusegraph.engines.base import Array, Extent, Region
from fusegraph.graph import Node, Shape
from fusegraph.machine import Machine
from fusegraph.ops import resolve

Step = tuple[Callable[..., Any], int, int, int, int, int]
"""A call: function, operand count, three operand registers, output register."""


class NumpyEngine:
    """NumPy's ufuncs on cache-resident blocks."""

    name = "numpy"
    blocked = True

    def refuses(self, node: Node) -> str | None:
        return None

    def limit(self, extent: Extent) -> str | None:
        return None

    def launch_seconds(self, size: int, threads: int, machine: Machine) -> float:
        """The calls of a kernel without elements."""
        return machine.launch[self.name]

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


class Register(NamedTuple):
    """What a scratch register holds for each element or row of a block."""

    dtype: np.dtype[Any]
    width: int | None  # last axis of a panel's value; 0: it has none; None: a block's own shape


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
        self.steps, self.scratch = self._allocate(region, self._share_outputs(region, register))
        # bytes a block keeps for each of its elements, or a panel for each of its rows
        self.scratch_bytes = sum(
            r.dtype.itemsize * (1 if r.width is None else max(1, r.width)) for r in self.scratch
        )

    def register_of(self, node: Node) -> Register:
        """The kind of register that can hold ``node``."""
        return Register(node.dtype, None)

    def call_of(self, node: Node) -> Callable[..., Any]:
        """What computes ``node`` into ``out=``."""
        return node.op.function

    def scratch_shapes(self, block: Shape) -> tuple[tuple[Shape, np.dtype[Any]], ...]:
        """Shape and dtype of each scratch register for a block, or for a block of rows."""
        return tuple((_with_width(block, r.width), r.dtype) for r in self.scratch)

    def _share_outputs(self, region: Region, register: dict[Node, int]) -> dict[Node, int]:
        """Let a chain of values that die one into the next, and end in an output, live in its memory.

        Their lifetimes do not overlap, so the output's register can hold them all; less scratch keeps
        larger blocks in cache.
        """
        last_use = {i: at for at, node in enumerate(region.nodes) for i in node.inputs}
        position = {node: at for at, node in enumerate(region.nodes)}
        for output in region.outputs:
            kind = self.register_of(output)
            node: Node | None = output
            while node is not None and _in_place(node):
                at = position[node]
                dying = (
                    i
                    for i in node.inputs
                    if i in position
                    and i not in register
                    and self.register_of(i) == kind
                    and last_use[i] == at
                )
                node = next(dying, None)
                if node is not None:
                    register[node] = register[output]
        return register

    def _allocate(
        self, region: Region, register: dict[Node, int]
    ) -> tuple[list[Step], tuple[Register, ...]]:
        last_use = {i: at for at, node in enumerate(region.nodes) for i in node.inputs}
        scratch: list[Register] = []
        free: dict[Register, list[int]] = {}
        steps: list[Step] = []
        for at, node in enumerate(region.nodes):
            dying = [
                register[i]
                for i in dict.fromkeys(node.inputs)
                if last_use[i] == at and register[i] >= self.first_scratch
            ]
            if _in_place(node):
                self._release(dying, scratch, free)
            if node not in register:
                kind = self.register_of(node)
                if free.get(kind):
                    register[node] = free[kind].pop()
                else:
                    register[node] = self.first_scratch + len(scratch)
                    scratch.append(kind)
            if not _in_place(node):  # it may read its operands after it began to write
                self._release(dying, scratch, free)
            operands = [register[i] for i in node.inputs]
            a, b, c = (*operands, *([0] * (3 - len(operands))))
            steps.append((self.call_of(node), len(operands), a, b, c, register[node]))
        return steps, tuple(scratch)

    def _release(
        self, registers: list[int], scratch: list[Register], free: dict[Register, list[int]]
    ) -> None:
        for number in registers:
            free.setdefault(scratch[number - self.first_scratch], []).append(number)

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
            else:
                function(file[a], file[b], file[c], out=file[out])

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array], threads: int) -> None:
        """Evaluate whole operands as one block."""
        file = self.registers()
        file[: len(inputs)] = inputs
        file[self.first_output : self.first_scratch] = outputs
        shapes = self.scratch_shapes(outputs[0].shape)
        file[self.first_scratch :] = [np.empty(shape, dtype) for shape, dtype in shapes]
        self.run_block(file)


class PanelBody(NumpyBody):
    """A body over panels: element-wise steps, reductions along the last axis, products."""

    def register_of(self, node: Node) -> Register:
        """Values of a panel differ in their last axis; a reduction may have dropped it."""
        dropped = node.kind == "reduce" and not dict(node.params)["keepdims"]
        return Register(node.dtype, 0 if dropped else node.shape[-1] if node.shape else 1)

    def call_of(self, node: Node) -> Callable[..., Any]:
        """NumPy's reduction along the last axis, its product, or its ufunc."""
        if node.kind != "reduce":
            return node.op.function
        keywords = dict(node.params)
        keep, dtype = keywords["keepdims"], keywords.get("dtype")
        if node.op.name in ("argmax", "argmin"):
            return partial(node.op.function, axis=-1, keepdims=keep)
        reduction = REDUCTION_UFUNCS[node.op.name].reduce
        return partial(reduction, axis=-1, keepdims=keep, dtype=dtype)


# The ufuncs behind NumPy's functions, called without their layers of Python.
REDUCTION_UFUNCS = {
    "sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum,
    "any": np.logical_or, "all": np.logical_and,
}  # fmt: skip


def _in_place(node: Node) -> bool:
    """May ``node`` be written over an operand that dies? Only where elements are read before."""
    return node.kind == "elementwise" and isinstance(node.op.function, np.ufunc)


def _with_width(block: Shape, width: int | None) -> Shape:
    return block if not width else (*block, width)
