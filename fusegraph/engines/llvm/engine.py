"""The llvm engine: a region as machine code, one pass with every temporary in a register.

In: regions. Out: what it refuses, what nodes and rows cost, and bodies, which the schedules call block
by block as they call NumPy's. A body is compiled when it first runs, so that planning stays cheap; equal
kernels share one function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fusegraph.engines.base import DirectCall, Engine, Extent, Region
from fusegraph.engines.llvm import codegen, row_phases, short_code
from fusegraph.engines.llvm.chains import Chain
from fusegraph.engines.llvm.columns import has_column
from fusegraph.engines.llvm.direct import direct_call
from fusegraph.engines.llvm.elementwise_body import ElementwiseBody, ImitatingBody
from fusegraph.engines.llvm.headers import arrays_lie_as_expected
from fusegraph.engines.llvm.jobs import Work
from fusegraph.engines.llvm.joining import join_work
from fusegraph.engines.llvm.multiply import DTYPES, Product
from fusegraph.engines.llvm.row_body import RowBody
from fusegraph.graph import DType, Node, reduced_axes
from fusegraph.machine import Machine

MAX_OPERANDS = 256  # inputs and outputs: what a block's stack frame and packed tiles are made for
# Seconds of compiling a region, from IR to an address, and more for each function, other node and
# reduction: the triad takes 9 ms, exp 15, GELU 18, softplus 29, 200 operations 37, softmax 60, of short
# rows 70.
COMPILE_SECONDS = 9e-3
COMPILE_SECONDS_A_FUNCTION = 6e-3
COMPILE_SECONDS_A_PLAIN_NODE = 0.15e-3
COMPILE_SECONDS_A_FOLD = 20e-3
# Of each fold of a row and of each loop over its elements, to begin and to end: softmax of rows of 100
# float32, two of either, took 28 ns a row beside its elements, RMS norm, one of either, 18.
PASS_SECONDS = 9e-9
# Additions' worth of storing an element to L1 and loading it to be folded, and of loading one of a
# second run: the sum of absolute values of rows of 1024 took 0.026 ns an element of float32 beside
# what it computes, and 0.071 of float64; a dot product 0.020 and 0.072.
STORED_ADDITIONS = 4
LOADED_ADDITIONS = 3
# Of a further fold of one value, what it does not take because the value is in registers: min and max of
# 131,072 float32 take 0.07 ns an element together and 0.04 each.
SHARED_FOLD = 0.35
# A reduction of a short row, which passes with others: softmax of 400,000 x 10 float32 takes 3.7 ms on
# one thread, of 125,000 x 32 3.3. There a value is stored to be folded and spread over its row again.
SHORT_ROW_SECONDS = 1.5e-9
SHORT_ADDITIONS = 14
PACKING_SECONDS = 0.3e-9  # x[::2] + x[1::2] of 4,000,000 float32 took 2.0 ms on one thread


class LlvmEngine(Engine):
    """Machine code through LLVM: any number of outputs, no scratch, no step between operations."""

    name = "llvm"
    blocked = True
    rows = True
    compiles = True  # the first run of a kernel takes as long as thousands of small ones
    least_compile_seconds = COMPILE_SECONDS

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

    def row_seconds(self, region: Region, machine: Machine) -> float:
        """Each pass over a row begins and ends, and what is stored to be folded is loaded again."""
        nodes = region.nodes
        if not _is_rows(nodes):
            return 0.0
        rows = math.prod(max((n.shape for n in nodes), key=math.prod)[:-1])
        folds = [n for n in nodes if n.kind == "reduce"]
        if short_code.fits(nodes):
            passed = _additions(folds, machine, SHORT_ADDITIONS)
            return rows * SHORT_ROW_SECONDS * len(folds) + passed
        stored, beside = row_phases.passed_through_memory(region)
        passes = len(folds) + len(stored) + any(n.kind != "reduce" for n in region.outputs)
        if all(map(row_phases.is_carried, folds)):  # along all rows, which are one
            rows = 1
        return (
            rows * PASS_SECONDS * passes
            - self.shared_seconds(folds, machine)
            + _additions(stored, machine, STORED_ADDITIONS)
            + _additions(beside, machine, LOADED_ADDITIONS)
        )

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

    def compile(self, region: Region) -> ElementwiseBody | RowBody:
        if _is_rows(region.nodes):
            return RowBody(region)
        return ElementwiseBody(region) if arrays_lie_as_expected() else ImitatingBody(region)

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

    def join_work(self, node: Node, kept: DType, count: int) -> Work:
        return join_work(node.op.name, kept, node.dtype, count, node.size)

    def chain(self, calls: Sequence[tuple[Any, Sequence[int]]]) -> Chain:
        return Chain(calls)

    def direct_call(self, *work: Any) -> DirectCall | None:
        return direct_call(*work)


def _additions(folds: Sequence[Node], machine: Machine, each: int) -> float:
    """Seconds of additions, so many for each element that is folded."""
    return each * sum(
        machine.ns(LlvmEngine.name, "add", n.inputs[0].dtype, "add") * n.inputs[0].size * 1e-9
        for n in folds
    )


def _is_rows(nodes: Sequence[Node]) -> bool:
    """Are there reductions, or values of several shapes?"""
    first = nodes[0].shape
    return any(node.shape != first or node.kind == "reduce" for node in nodes)
