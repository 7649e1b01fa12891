"""The numpy engine: a region as NumPy calls with ``out=``, on blocks that stay in cache.

Bit-identical to NumPy: the same ufunc loops over the same dtypes. Any dtype, several outputs, no
limits. Scratch registers are shared by lifetime; an operation may write over an operand that dies.
A body runs on blocks of one shape (element-wise regions) or on panels: blocks of rows, whose values
have axes of their own behind those that are cut, with reductions and products from the left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fusegraph.engines.base import Array, Extent, Region
from fusegraph.engines.reductions import partial_dtype, to_partial, whole_axes
from fusegraph.graph import Node, Shape, make
from fusegraph.machine import Machine
from fusegraph.ops import OPS, resolve
from fusegraph.panels import PARTIAL, Panels, reduced_axes

Step = tuple[Callable[..., Any], int, int, int, int, int]
"""A call: function, operand count, three operand registers, output register."""


class NumpyEngine:
    """NumPy's ufuncs on cache-resident blocks."""

    name = "numpy"
    blocked = True
    compiles = False

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
    """What a scratch register holds for a block or a panel."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None  # None: the block's own shape; an axis None: its extent


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
        # bytes a block keeps for each of its elements
        self.scratch_bytes = sum(r.dtype.itemsize for r in self.scratch)

    def register_of(self, node: Node) -> Register:
        """The kind of register that can hold ``node``."""
        return Register(node.dtype, None)

    def call_of(self, node: Node) -> Callable[..., Any]:
        """What computes ``node`` into ``out=``."""
        return node.op.function

    def scratch_shapes(self, block: Shape) -> tuple[tuple[Shape, np.dtype[Any]], ...]:
        """Shape and dtype of each scratch register for a block."""
        return tuple((block, r.dtype) for r in self.scratch)

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
    """A body over panels: element-wise steps, reductions, products from the left.

    The values of a region are aligned by their axes. Inside a panel they have the axis order of
    ``panels.layout``; where that is not their order in memory, inputs and results are copied once.
    """

    def __init__(self, region: Region, panels: Panels) -> None:
        self.panels = panels
        self.partial = set(panels.partial)
        super().__init__(_packed(region) if panels.narrow else region)

    @property
    def panel_bytes(self) -> int:
        """Bytes of temporaries of one panel, and of what reductions to partial results hold."""
        scratch = self.scratch_shapes(self.panels.block)
        partial = sum(PARTIAL * n.dtype.itemsize for n in self.panels.partial)
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in scratch) + partial

    def register_of(self, node: Node) -> Register:
        """The kind of register that can hold ``node``: its extent along the axes that are cut."""
        dtype = partial_dtype(node) if node in self.partial else node.dtype
        missing = len(self.panels.layout) - len(node.shape)
        shape = [
            None if n == self.rows(a) and n != 1 else n
            for a, n in enumerate((1,) * missing + node.shape)
        ]
        return Register(dtype, tuple(shape[a] for a in self.panels.layout))

    def rows(self, axis: int) -> int | None:
        """Size of an axis that is cut."""
        return self.panels.rows[axis] if axis < len(self.panels.rows) else None

    def scratch_shapes(self, block: Shape) -> tuple[tuple[Shape, np.dtype[Any]], ...]:
        """Shape and dtype of each scratch register for a panel of extent ``block``."""
        return tuple((self.shape_of(r, block), r.dtype) for r in self.scratch)

    def shape_of(self, register: Register, block: Shape) -> Shape:
        """The shape of a register in a panel of extent ``block``."""
        assert register.shape is not None
        return tuple(
            block[axis] if n is None else n
            for axis, n in zip(self.panels.layout, register.shape, strict=True)
        )

    def call_of(self, node: Node) -> Callable[..., Any]:
        """NumPy's reduction or product, its ufunc, or a partial reduction."""
        if node.kind != "reduce":
            return node.op.function
        place = self.panels.layout.index
        axes = tuple(place(axis) for axis in reduced_axes(node))
        return (to_partial if node in self.partial else whole_axes)(node, axes)


def _packed(region: Region) -> Region:
    """``region`` with copies of inputs that have a last axis, and of such results, in panel order."""
    image: dict[Node, Node] = {}
    nodes: list[Node] = []

    def copied(node: Node) -> Node:
        nodes.append(make(OPS["astype"], (node,), PACK, node.shape, node.dtype))
        return nodes[-1]

    for value in region.inputs:
        if value.shape and value.shape[-1] > 1:
            image[value] = copied(value)
    for node in region.nodes:
        inputs = tuple(image.get(i, i) for i in node.inputs)
        image[node] = make(node.op, inputs, node.params, node.shape, node.dtype)
        nodes.append(image[node])
    stored = [copied(image[n]) if n.shape[-1] > 1 else image[n] for n in region.outputs]
    return Region(tuple(nodes), region.inputs, tuple(stored), region.shape)


PACK = ("pack",)  # parameter of the copies between the order in memory and that of a panel


def _in_place(node: Node) -> bool:
    """May ``node`` be written over an operand that dies? Only where elements are read before."""
    return node.kind == "elementwise" and isinstance(node.op.function, np.ufunc)
