"""Matrix products: BLAS where it serves, tiles where it cannot or where tiling wins.

In: a matmul node and the memory orders of its operands. Out: a ``SingleCall``: the path, why,
and what computes it. The path and the way the work is divided follow from shapes, dtypes, layouts
and the machine, never from the thread count: neither do results, but those of NumPy's whole product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fusegraph.blas_threads import BLAS_THREADS
from fusegraph.engines.base import Array
from fusegraph.engines.library import SingleCall
from fusegraph.engines.tiles import (
    TASK_COLUMNS,
    Arithmetic,
    IntegerArithmetic,
    arithmetic_for,
    compute_itemsize,
    reread_bytes,
    run_tiles,
    tile_for_cache,
)
from fusegraph.graph import DType, Node, Shape, common_shape
from fusegraph.machine import Machine
from fusegraph.panels import block_keys, blocked_shape
from fusegraph.views import base
from fusegraph.workers import Task, run_tasks

MAPPED_BUDGET = 64 * 2**20  # bytes of an operand mapped from a file beyond which tiles read it
# Lines of a panel at most, where there are enough of them, since each packs the other side again:
# 1024**3 float32 on two cores took 5.8 ms in panels of 512 rows, 6.3 in those of 256, 5.5 in NumPy.
MOST_LINES = 512
# And at least: of 64 rows it took 33 ms on two busy cores, of 128 26, of 256 25.
FEWEST_LINES = 128
LINES_TOGETHER = 16  # in registers of a BLAS: parts are whole multiples
PANEL_PRODUCTS = 2**22  # multiply-adds of a panel at least
# OpenBLAS runs products up to these sizes (multiply-adds) on the calling thread whatever its bound
# is, so the 6 us that setting the bound costs are saved; vectors of a complex dtype, too.
SERIAL_MATRIX = 2**18
SERIAL_DOT = 2**13
SERIAL_COMPLEX = 2**12 - 1
# Tiles of a dtype that BLAS has are only packed: BLAS itself blocks them for L2, so they are sized for
# a share of L3 (1024**3 float32, one thread: tiles of 128 31 ms, of 256 26, of 512 26, which
# leaves threads without work on smaller products).
LARGEST_PACKED = 256
# Nanoseconds per multiply-add of NumPy's own loops, up to 64 x 64; beyond the caches up to four
# times that. The loop over truth values stops at the first True: this is where nothing is True.
LIBRARY_NANOSECONDS = {"f": 5.2, "i": 0.75, "u": 0.75, "b": 0.5}
TILES_LAUNCH = 40e-6  # seconds: bounding BLAS, scratch, the first task
TILE_CALLS = 8e-6  # seconds of Python per product of two tiles and BLAS call in it
PACK_NANOSECONDS = 1.0  # per element packed

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Extents:
    """Sizes of a product: ``batch`` times ``(rows, inner) @ (inner, columns)``."""

    batch: Shape
    rows: int
    inner: int
    columns: int

    @property
    def each(self) -> int:
        """Multiply-adds of one matrix."""
        return self.rows * self.inner * self.columns

    @property
    def products(self) -> int:
        """Multiply-adds."""
        return math.prod(self.batch) * self.each


def extents_of(node: Node) -> Extents:
    """Sizes of a matmul node; a vector is a row on the left, a column on the right."""
    left, right = (i.shape for i in node.inputs)
    batch = common_shape(left[:-2], right[:-2])
    rows = left[-2] if len(left) > 1 else 1
    columns = right[-1] if len(right) > 1 else 1
    return Extents(batch, rows, left[-1], columns)


# --- planning -------------------------------------------------------------------------------------


def plan_product(
    node: Node, orders: Mapping[Node, Any], machine: Machine, threads: int, bits: bool
) -> SingleCall:
    """The path for a product.

    Parameters
    ----------
    node : Node
        A matmul; its parameters may hold ``("tile_size", n)``.
    orders : mapping
        Memory order of each value, None where it is not dense.
    machine : Machine
    threads : int
        Upper bound, BLAS included.
    bits : bool
        True keeps floats to NumPy's own matmul, whole. Integers are exact on every path.
    """
    extents = extents_of(node)
    integral = node.dtype.kind in "iub"
    if bits and not integral:
        why = "NumPy's own matmul: bit-identical"
        own = _whole(node, extents, machine, threads, "blas", why)
        return replace(own, scratch_bytes=own.scratch_bytes + _stride_bytes(node, orders))
    asked = dict(node.params).get("tile_size")
    if asked is not None:
        return _tiled(node, extents, machine, threads, asked, f"tile_size={asked} asked for")
    if integral or node.dtype == np.float16:
        return _without_blas(node, extents, machine, threads)
    reason = _against_blas(node, orders)
    if reason is not None and extents.products > SERIAL_MATRIX:
        share = machine.l3_bytes // (2 * machine.cores)
        tile = min(LARGEST_PACKED, tile_for_cache(share, node.dtype.itemsize))
        return _tiled(node, extents, machine, threads, tile, reason)
    return _panelled(node, extents, machine, threads)


def _without_blas(node: Node, extents: Extents, machine: Machine, threads: int) -> SingleCall:
    """A dtype that BLAS does not have: tiles, or NumPy's loop where it is predicted faster."""
    tile = tile_for_cache(machine.l2_bytes, compute_itemsize(node.dtype))
    why = f"BLAS has no {node.dtype}"
    tiled = _tiled(node, extents, machine, threads, tile, why)
    library = _whole(node, extents, machine, 1, "numpy", why)
    fast, slow = sorted((tiled, library), key=lambda product: product.seconds)
    other = "NumPy's loop" if fast is tiled else "tiles"
    ratio = slow.seconds / max(fast.seconds, 1e-12)
    return replace(fast, why=f"{why}; {other} would take {ratio:.1f}x as long")


def _whole(
    node: Node, extents: Extents, machine: Machine, threads: int, engine: str, why: str
) -> SingleCall:
    """One call of NumPy's matmul."""
    bounded = not _serial(node.dtype, extents)
    seconds = _library_seconds(node, extents, machine, threads)

    def body(inputs: list[Array], out: Array) -> None:
        with np.errstate(all="ignore"):
            if not bounded:
                np.matmul(inputs[0], inputs[1], out=out)
                return
            with BLAS_THREADS.at_most(threads):
                np.matmul(inputs[0], inputs[1], out=out)

    return SingleCall(engine, "whole", why, body, seconds, threads, scratch_bytes=_cast_bytes(node))


def _library_seconds(node: Node, extents: Extents, machine: Machine, threads: int) -> float:
    if node.dtype.kind in "iub" or node.dtype == np.float16:
        return extents.products * LIBRARY_NANOSECONDS[node.dtype.kind] * 1e-9
    return _blas_seconds(node, extents, machine, 1 if _serial(node.dtype, extents) else threads)


def _blas_seconds(node: Node, extents: Extents, machine: Machine, threads: int) -> float:
    """Flops, and bytes that pass while nothing is multiplied.

    BLAS packs operands first, and adds to a result that it filled with zeros: 4096 x 64 times 64 x 4096
    float32 took 19.6 ms on two threads where its flops take 10.5, 4096 x 4096 times 4096 x 64 13.7.
    """
    passed = sum(i.size * node.dtype.itemsize for i in node.inputs) + 3 * node.nbytes
    flops = 2 * extents.products / machine.peak(node.dtype.name, threads)
    return flops + machine.transfer_seconds(passed, 0, threads)


def _cast_bytes(node: Node) -> int:
    """Operands of another dtype are cast as a whole before BLAS reads them."""
    return sum(i.size * node.dtype.itemsize for i in node.inputs if i.dtype != node.dtype)


def _stride_bytes(node: Node, orders: Mapping[Node, Any]) -> int:
    """NumPy 2.5 and later copy a matrix that BLAS cannot read, one of a stack at a time."""
    copied = (i for i in node.inputs if not _blas_takes(i, orders))
    return sum(math.prod(i.shape[-2:]) * node.dtype.itemsize for i in copied)


def _serial(dtype: DType, extents: Extents) -> bool:
    """Does BLAS run each matrix of a product on the calling thread, whatever its bound?"""
    narrow, wide = sorted((extents.rows, extents.columns))
    if narrow > 1:
        return extents.each <= SERIAL_MATRIX
    if dtype.kind == "c":
        return extents.each <= SERIAL_COMPLEX
    return extents.each <= (SERIAL_DOT if wide == 1 else BLAS_THREADS.serial_vector)


# --- can BLAS take the operands as they lie? ------------------------------------------------------


def _against_blas(node: Node, orders: Mapping[Node, Any]) -> str | None:
    """Why BLAS should not be handed the operands whole, or None."""
    for side, operand in zip(("left", "right"), node.inputs, strict=True):
        if _is_read_from_file(operand):
            return f"the {side} operand is mapped from a file and has {operand.nbytes:,} bytes"
        if not _blas_takes(operand, orders):
            return f"BLAS would copy the {side} operand because of its strides"
    return None


def _is_read_from_file(operand: Node) -> bool:
    source = base(operand)
    mapped = source.kind == "input" and len(source.params) > 2 and source.params[2]
    return bool(mapped) and operand.nbytes > MAPPED_BUDGET


def _blas_takes(operand: Node, orders: Mapping[Node, Any]) -> bool:
    strides = strides_of(operand, orders)
    if strides is None:
        return False
    item = operand.dtype.itemsize
    if len(operand.shape) == 1:
        return strides[0] >= item or operand.shape[0] < 2
    (rows, columns), (down, along) = operand.shape[-2:], strides[-2:]
    if rows == 1 or columns == 1:
        step = along if rows == 1 else down
        return step >= item or rows == columns
    return (along == item and down >= columns * item) or (down == item and along >= rows * item)


def strides_of(node: Node, orders: Mapping[Node, Any]) -> Shape | None:
    """Strides in bytes that a value will have when the plan runs; None where they are not known.

    Views are applied to an array that has the strides of their source and is never read.
    """
    views = []
    while node.kind == "view":
        views.append(node)
        node = node.inputs[0]
    order = orders.get(node, tuple(range(len(node.shape))))
    if order is None:
        return None
    strides = [0] * len(order)
    step = node.dtype.itemsize
    for axis in reversed(order):
        strides[axis] = step
        step *= max(1, node.shape[axis])
    ghost = np.lib.stride_tricks.as_strided(np.empty(1, node.dtype), node.shape, strides)
    for view in reversed(views):
        if view.op.name == "reshape" and not ghost.flags.c_contiguous:
            return None  # might copy, and there is nothing to copy from
        ghost = view.op.function(ghost, *view.params)
    return ghost.strides


# --- BLAS, panel by panel -------------------------------------------------------------------------


def _panelled(node: Node, extents: Extents, machine: Machine, threads: int) -> SingleCall:
    """BLAS over panels of a size that depends on the shapes alone, each panel on one thread.

    A threaded BLAS spins while it waits: beside other work 15 ms were measured for a 256 x 256
    product that takes 0.4 on one thread.
    """
    dtype = node.dtype
    why = "contiguous operands"
    panels = panel_keys(extents, machine.cores)
    if len(panels) <= 1:
        return _whole(node, extents, machine, 1, "blas", why)
    threads = min(threads, len(panels))

    def body(inputs: list[Array], out: Array) -> None:
        left, right, out = _matrices([np.asarray(i, dtype) for i in inputs], out)

        def make_task() -> Task:
            def task(index: int) -> None:
                batch, rows, columns = panels[index]
                with np.errstate(all="ignore"):
                    np.matmul(
                        left[(*batch, rows, slice(None))],
                        right[(*batch, slice(None), columns)],
                        out=out[(*batch, rows, columns)],
                    )

            return task

        with BLAS_THREADS.at_most(1):
            run_tasks(make_task, len(panels), threads)

    return SingleCall(
        engine="blas",
        schedule="whole",
        why=f"{why}, {len(panels)} panels",
        body=body,
        seconds=_blas_seconds(node, extents, machine, threads),
        threads=threads,
        scratch_bytes=_cast_bytes(node),
    )


def panel_keys(extents: Extents, cores: int) -> list[tuple[Key, slice, slice]]:
    """Slices of batch, rows and columns of every panel."""
    if extents.each < PANEL_PRODUCTS:
        fit = max(1, PANEL_PRODUCTS // max(1, extents.each))
        whole = slice(None)
        block = blocked_shape(extents.batch, fit)
        return [(key, whole, whole) for key in block_keys(extents.batch, block)]
    most = extents.each // PANEL_PRODUCTS
    rows = _even_parts(extents.rows, cores, most)
    columns = [slice(None)] if len(rows) > 1 else _even_parts(extents.columns, cores, most)
    return list(itertools.product(np.ndindex(extents.batch), rows, columns))


def _even_parts(lines: int, cores: int, most: int) -> list[slice]:
    """``lines`` in ``most`` parts or less, as many for each core, all but the last of one size."""
    count = cores * -(-lines // (cores * MOST_LINES))
    count = max(1, min(count, lines // FEWEST_LINES, most))
    step = LINES_TOGETHER * -(-lines // (count * LINES_TOGETHER))
    return [slice(at, at + step) for at in range(0, lines, step)]


def _matrices(inputs: list[Array], out: Array) -> tuple[Array, Array, Array]:
    """Operands and result as stacks of matrices with the result's batch axes; nothing is copied."""
    left, right = inputs
    if right.ndim == 1:
        right, out = right[:, None], out[..., None]
    if left.ndim == 1:
        left, out = left[None, :], out[..., None, :]
    batch = out.shape[:-2]
    if left.shape[:-2] != batch:
        left = np.broadcast_to(left, batch + left.shape[-2:])
    if right.shape[:-2] != batch:
        right = np.broadcast_to(right, batch + right.shape[-2:])
    return left, right, out


def worth_panels(node: Node) -> bool:
    """Has a product one right side in memory, which it is worth while to pack?"""
    one = math.prod(node.inputs[1].shape[:-2]) == 1
    large = extents_of(node).products >= PANEL_PRODUCTS
    return one and large and not any(map(_is_read_from_file, node.inputs))


# --- tiles ----------------------------------------------------------------------------------------


def _tiled(
    node: Node, extents: Extents, machine: Machine, threads: int, tile: int, why: str
) -> SingleCall:
    """The blocked product, with what it costs."""
    arithmetic = arithmetic_for(node.dtype)
    rows_of_tiles = -(-extents.rows // tile)
    tasks = math.prod(extents.batch) * rows_of_tiles * -(-extents.columns // (tile * TASK_COLUMNS))
    threads = max(1, min(threads, tasks))
    side = min(tile, max(extents.rows, extents.inner, extents.columns, 1))
    left, right = (i.nbytes for i in node.inputs)

    def body(inputs: list[Array], out: Array) -> None:
        left, right, out = _matrices(inputs, out)
        run_tiles(left, right, out, tile, arithmetic, threads)

    return SingleCall(
        engine="tiles",
        schedule="tiles",
        why=why,
        body=body,
        seconds=_tile_seconds(node.dtype, extents, machine, threads, tile, arithmetic),
        threads=threads,
        tile=tile,
        bytes_reread=reread_bytes(extents.rows, extents.columns, left, right, tile),
        scratch_bytes=threads * side * side * arithmetic.scratch_per_element,
    )


def _tile_seconds(
    dtype: DType,
    extents: Extents,
    machine: Machine,
    threads: int,
    tile: int,
    arithmetic: Arithmetic,
) -> float:
    """GEMMs, packing and the calls, which take turns: the interpreter runs one thread at a time."""
    calls = 1
    compute = dtype.name
    if isinstance(arithmetic, IntegerArithmetic):
        calls = len(arithmetic.weights)
        compute = "float64"
    elif dtype.itemsize < 4:
        compute = "float32"
    rate = machine.gigaflops.get(compute, machine.gigaflops["float32"]) * 1e9
    high, deep, wide = (
        max(1, -(-n // tile)) for n in (extents.rows, extents.inner, extents.columns)
    )
    matrices = math.prod(extents.batch)
    packed = extents.inner * (extents.columns * high + extents.rows * -(-wide // TASK_COLUMNS))
    parallel = calls * (2 * extents.products / rate + matrices * packed * PACK_NANOSECONDS * 1e-9)
    return TILES_LAUNCH + parallel / threads + matrices * high * deep * wide * calls * TILE_CALLS
