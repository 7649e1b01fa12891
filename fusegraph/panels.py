"""Panels: how a region is cut into blocks of rows that stay in cache.

In: the nodes of a region, the leading axes they share, the machine. Out: ``Panels``. Decides the axes
that are cut, the height of a panel, the order of axes inside it, and which reductions are put together
from partial results of which dtype.

Where a partial result begins and ends depends on shapes, and on whether a row fits in cache; not on the
number of threads. So does the order in which a sum is added up.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from fusegraph.graph import DType, Node, Shape, reduced_axes
from fusegraph.machine import Machine

# A product of fewer rows packs its right side more often than it pays: 2048 x 768 x 3072 float32 on one
# thread took 148 ms in panels of 32 rows, 128 of 64, 117 of 128, 111 of 256, and 124 as a whole.
ROWS_FOR_BLAS = 128
FEWEST_FOR_BLAS = 16
LEAST_PANELS = 8  # of a kernel, so that threads share the work whatever their number
PARTIAL = 1 << 17  # elements reduced to one partial result: 512 kB of float32
# Of smaller operands so many partial results, each of so many elements at least: threads share them, and
# the squared error of 100,000 float32 takes 14.7 us on one and 8.0 on two.
FEWEST_PARTIALS = 4
LEAST_PARTIAL = 1 << 14
PARTIAL_WIDTH = 2048  # of them side by side in a column reduction: each partial is of many rows
WIDER = {np.dtype(a): np.dtype(b) for a, b in (("f2", "f8"), ("f4", "f8"), ("c8", "c16"))}
# A reduced last axis this narrow comes first in a panel, so that calls run along the rows: softmax of
# 400,000 x 10 float32 took 33 ms with it last and 14 with it first, copies included; 47 in NumPy.
NARROW = 32
ROWS_FOR_NARROW = 1024


@dataclass(frozen=True, slots=True)
class Panels:
    """How a region is cut.

    Attributes
    ----------
    rows : tuple of int
        Sizes of the leading axes that are cut.
    block : tuple of int
        Extent of a panel along each of them.
    layout : tuple of int
        Axes of a value in the panel, from slowest to fastest.
    partial : tuple of Node
        Reductions along a cut axis: each panel gives a partial result.
    """

    rows: Shape
    block: Shape
    layout: tuple[int, ...]
    partial: tuple[Node, ...]

    @property
    def height(self) -> int:
        """Places of a panel along the cut axes: its rows, where the last axis is not among them."""
        return math.prod(self.block)

    @property
    def whole_rows(self) -> int | None:
        """Rows of a panel; None where it takes parts of rows, or where there is one axis."""
        if len(self.block) < len(self.layout):
            return self.height
        if len(self.block) == 1 or self.block[-1] != self.rows[-1]:
            return None
        return math.prod(self.block[:-1])

    @property
    def count(self) -> int:
        """Number of panels."""
        sizes = zip(self.rows, self.block, strict=True)
        return math.prod(-(-n // max(1, step)) for n, step in sizes)

    @property
    def narrow(self) -> bool:
        """Does the last axis come first inside a panel?"""
        return self.layout != tuple(range(len(self.layout)))

    @property
    def upright(self) -> Panels:
        """The same with axes in their own order."""
        return replace(self, layout=tuple(range(len(self.layout))))


def lay_panels(
    nodes: Collection[Node], rows: Shape, machine: Machine, bits: bool, shared: bool
) -> Panels:
    """Cut a region whose nodes share the leading axes ``rows``.

    Parameters
    ----------
    nodes : collection of Node
    rows : tuple of int
        The longest leading axes that may be cut.
    machine : Machine
    bits : bool
        True keeps NumPy's order inside every sum.
    shared : bool
        Is there work for several threads?
    """
    rows = rows[: cut_axes(nodes, rows, machine)]
    rank = max(len(node.shape) for node in nodes)
    partial = tuple(n for n in nodes if n.kind == "reduce" and first_reduced(n) < len(rows))
    if partial:
        elements = _partial_elements(max(math.prod(n.inputs[0].shape) for n in partial))
        if len(partial) == len(nodes):  # nothing is kept in cache: long calls, shared by threads
            elements = max(elements, math.prod(rows) // LEAST_PANELS)
        return Panels(rows, _partial_block(rows, partial, elements), tuple(range(rank)), partial)
    height = max(1, min(panel_rows(nodes, len(rows), machine), math.prod(rows)))
    if shared:
        # Whatever the number of threads: how a product is cut moves its last bits.
        height = min(height, -(-math.prod(rows) // LEAST_PANELS))
    layout = tuple(range(rank))
    if not bits and _is_narrow(nodes, rows, rank):
        layout = (rank - 1, *layout[:-1])
    return Panels(rows, blocked_shape(rows, height), layout, ())


def _partial_elements(size: int) -> int:
    """Elements of one partial result of an operand of ``size``."""
    parts = max(1, min(FEWEST_PARTIALS, size // LEAST_PARTIAL))
    return min(PARTIAL, -(-size // parts))


def first_reduced(node: Node) -> int:
    """The slowest axis that a reduction runs along; the number of axes where it runs along none."""
    return min(reduced_axes(node), default=len(node.inputs[0].shape))


def cut_axes(nodes: Collection[Node], rows: Shape, machine: Machine) -> int:
    """How many leading axes to cut: none that is reduced, if enough panels that fit remain."""
    whole = min((first_reduced(n) for n in nodes if n.kind == "reduce"), default=len(rows))
    return axes_to_cut(rows, whole, functools.partial(row_bytes, nodes), machine)


def axes_to_cut(
    rows: Shape, whole: float, bytes_of_row: Callable[[int], int], machine: Machine
) -> int:
    """How many of ``rows`` to cut, where a reduction runs along the axis ``whole`` and none before."""
    if whole >= len(rows):
        return len(rows)
    whole = int(whole)
    enough = math.prod(rows[:whole]) >= LEAST_PANELS
    fits = bytes_of_row(whole) <= machine.block_bytes
    return whole if whole and enough and fits else len(rows)


def _partial_block(rows: Shape, partial: tuple[Node, ...], elements: int) -> Shape:
    """The block of one partial result, from shapes: long where it is reduced, else narrow."""
    inner = max(math.prod(i.shape[len(rows) :]) for n in partial for i in n.inputs)
    left = max(1, elements // max(1, inner))
    reduced = {axis for node in partial for axis in reduced_axes(node)}
    block = [1] * len(rows)
    for axis in range(len(rows) - 1, -1, -1):
        if axis in reduced:
            block[axis] = min(rows[axis], left)
        elif axis == len(rows) - 1:
            block[axis] = min(rows[axis], left, PARTIAL_WIDTH)
        left = max(1, left // block[axis])
    for axis in range(len(rows) - 1, -1, -1):  # what is left makes calls longer
        wider = min(rows[axis], block[axis] * left) if axis not in reduced else block[axis]
        left = max(1, left * block[axis] // wider)
        block[axis] = wider
    return tuple(block)


def partial_cells(panels: Panels, node: Node) -> Shape:
    """Numbers of panels along the cut axes that ``node`` reduces: one partial result each."""
    axes = reduced_axes(node)
    return tuple(
        -(-n // step)
        for axis, (n, step) in enumerate(zip(panels.rows, panels.block, strict=True))
        if axis in axes
    )


def partial_dtype(node: Node) -> DType:
    """What partial results are kept in: wider than the result, where its precision is low."""
    if node.op.name in ("sum", "prod"):
        return WIDER.get(node.dtype, node.dtype)
    return node.dtype


def partial_bytes(panels: Panels) -> int:
    """Bytes of all partial results."""
    return sum(
        math.prod(partial_cells(panels, node)) * node.size * partial_dtype(node).itemsize
        for node in panels.partial
    )


def _is_narrow(nodes: Collection[Node], rows: Shape, rank: int) -> bool:
    """Is the last axis narrow, whole in a panel, reduced, and are there many rows?"""
    if len(rows) != rank - 1 or any(node.kind == "matmul" for node in nodes):
        return False
    sources = [n.inputs[0] for n in nodes if n.kind == "reduce"]
    widths = {source.shape[-1] for source in sources}
    return (
        bool(sources)
        and 1 < max(widths) <= NARROW
        and math.prod(rows) >= ROWS_FOR_NARROW
        and all(n.op.name not in ("argmax", "argmin") for n in nodes)
    )


# --- sizes of a panel -----------------------------------------------------------------------------


def row_bytes(nodes: Collection[Node], cut: int) -> int:
    """Bytes that one row of a panel keeps in cache: the widest values that live at once, bounded.

    Chains compute in place, so of the wide temporaries about two live at a time; inputs and results
    stream through beside them.
    """
    members = set(nodes)
    widths = sorted((row_width(node, cut) for node in members), reverse=True)
    streams = {i for n in members for i in n.inputs if i not in members and i.kind != "const"}
    streams -= {n.inputs[1] for n in members if n.kind == "matmul"}
    rank = max(len(node.shape) for node in members)
    return sum(widths[:2]) + sum(row_width(i, cut) for i in streams if len(i.shape) == rank)


def row_width(node: Node, cut: int) -> int:
    """Bytes of a value in one row, where the axes before ``cut`` are cut."""
    return math.prod(node.shape[cut:]) * node.dtype.itemsize


def product_cache(machine: Machine) -> int:
    """Bytes that the panel of a product may take on each core: beyond L2 it lives in L3."""
    return max(machine.l2_bytes, machine.l3_bytes // (2 * machine.cores))


def panel_rows(nodes: Collection[Node], cut: int, machine: Machine) -> int:
    """Rows of a panel: what stays in cache, and enough for BLAS where it multiplies."""
    row = max(1, row_bytes(nodes, cut))
    rows = max(1, machine.block_bytes // row)
    if any(node.kind == "matmul" for node in nodes):
        enough = max(FEWEST_FOR_BLAS, min(ROWS_FOR_BLAS, product_cache(machine) // row))
        rows = max(rows, enough)
    return rows


def blocked_shape(shape: Shape, elements: int) -> Shape:
    """The largest block of at most ``elements``: whole fast axes, a part of one, single slow ones."""
    block = [1] * len(shape)
    inner = 1
    for axis in range(len(shape) - 1, -1, -1):
        block[axis] = max(1, min(shape[axis], elements // inner))
        inner *= block[axis]
        if block[axis] < shape[axis]:
            break
    return tuple(block)


def block_keys(shape: Shape, block: Shape) -> Iterator[tuple[slice, ...]]:
    """Slices of every block, in the order they lie in memory."""
    axes = (
        [slice(start, start + step) for start in range(0, size, step)]
        for size, step in zip(shape, block, strict=True)
    )
    return itertools.product(*axes)
