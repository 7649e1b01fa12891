"""Schedules: how the loop of a kernel runs around its body.

In: a kernel. Out: a function that runs it on its operands into its results; what does not change from
run to run (block keys, extents, scratch shapes) is worked out once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from fusegraph.blas_threads import BLAS_THREADS
from fusegraph.buffers import POOL, SCRATCH
from fusegraph.engines.base import Array, Multiply
from fusegraph.engines.reductions import combine
from fusegraph.graph import DType, Node, Shape, reduced_axes
from fusegraph.kernel import Kernel
from fusegraph.orders import is_row_major
from fusegraph.panels import Panels, block_keys, blocked_shape, partial_cells, partial_dtype
from fusegraph.workers import Task, run_tasks

Keys = list[tuple[Any, ...]]
"""What each block or panel takes of a value."""
PARTS = 16  # that threads share of a loop over rows

Loop = Callable[[list[Array], list[Array]], None]
"""Runs a kernel on its operands into its results."""
Blocks = Callable[[list[Array]], None]
"""The same over one list, operands and then results, whose axes are those of the loop."""
Place = Callable[[list[Array], int], list[Array]]
"""The parts of the operands and results that belong to a block."""


def whole(kernel: Kernel) -> Loop:
    """One library call."""
    return lambda operands, results: kernel.body(operands, results[0])


def itself(kernel: Kernel) -> Loop:
    """An engine that loops by itself."""
    return lambda operands, results: kernel.body.run(operands, results, kernel.threads)


def flat(kernel: Kernel) -> Loop:
    """One axis: every operand is a scalar or dense in the order of the loop."""
    if not kernel.blocked:
        return itself(kernel)
    size, block, order = kernel.region.size, kernel.block, kernel.order
    shapes: list[Shape] = [(min(block, size - start),) for start in range(0, size, block)]

    def place(arrays: list[Array], index: int) -> list[Array]:
        start, stop = index * block, (index + 1) * block
        return [a[start:stop] if a.ndim else a for a in arrays]

    loop = blocks(kernel, place, shapes)
    if kernel.threads > 1 and kernel.body.shares_blocks:
        share = kernel.body.share_blocks
        loop = _shared(
            partial(share, block=block, threads=kernel.threads, streams=kernel.streams), loop
        )
    return lambda operands, results: loop([_flattened(a, order) for a in (*operands, *results)])


def _shared(share: Callable[[list[Array]], bool], otherwise: Blocks) -> Blocks:
    """The body's own way to ``share`` a loop among threads; ``otherwise`` where it finds none."""

    def loop(arrays: list[Array]) -> None:
        if not share(arrays):
            otherwise(arrays)

    return loop


def _flattened(array: Array, order: tuple[int, ...]) -> Array:
    if array.size == 1:
        return array.reshape(())
    if array.ndim == 1:  # a view costs 0.2 us
        return array
    return (array if array.flags.c_contiguous else array.transpose(order)).reshape(-1)


def strided(kernel: Kernel) -> Loop:
    """Blocks of the iteration space; operands keep their strides and broadcast inside a block."""
    if not kernel.blocked:
        return itself(kernel)
    order = kernel.order
    shape = _loop_shape(kernel)
    keys = list(block_keys(shape, blocked_shape(shape, kernel.block)))
    loop = blocks(kernel, _placer(_taken_by_axes(kernel, keys)), [_extent(k, shape) for k in keys])
    if kernel.threads > 1 and kernel.body.shares_parts:
        share, threads, streams = kernel.body.share_parts, kernel.threads, kernel.streams
        loop = _shared(
            partial(share, keys=loop_parts(kernel), threads=threads, streams=streams), loop
        )
    return lambda operands, results: loop([in_loop_order(a, order) for a in (*operands, *results)])


def _loop_shape(kernel: Kernel) -> Shape:
    """The iteration space, its axes in the order of the loop."""
    return tuple(kernel.region.shape[a] for a in kernel.order)


def loop_parts(kernel: Kernel) -> list[Keys]:
    """What each part that threads share takes of every operand and result of a strided loop."""
    shape = _loop_shape(kernel)
    return _taken_by_axes(kernel, list(block_keys(shape, _part_shape(shape, kernel.threads))))


def _part_shape(shape: Shape, threads: int) -> Shape:
    """The extent of a part of a loop over ``shape`` that threads share."""
    count = PARTS if threads > 1 else 1
    return blocked_shape(shape, max(1, -(-math.prod(shape) // count)))


def _fixed_axes(shape: Shape, order: tuple[int, ...]) -> tuple[bool, ...]:
    """Along which axes of the loop a value is the same for every block: it is broadcast there."""
    if not shape:
        return ()
    padded = (1,) * (len(order) - len(shape)) + shape
    return tuple(padded[a] == 1 for a in order)


def _placer(taken: list[Keys]) -> Place:
    """Places blocks that take ``taken`` of every array."""

    def place(arrays: list[Array], index: int) -> list[Array]:
        return [a[key[index]] for a, key in zip(arrays, taken, strict=True)]

    return place


def _taken_by_axes(kernel: Kernel, keys: list[tuple[slice, ...]]) -> list[Keys]:
    """What each block takes of every operand and result: ``keys`` along the axes that are not fixed."""
    everything = slice(None)
    values = (*kernel.region.inputs, *kernel.region.outputs)
    fixed = [_fixed_axes(value.shape, kernel.order) for value in values]
    cut: dict[tuple[bool, ...], Keys] = {
        pattern: [
            tuple(everything if f else k for f, k in zip(pattern, key, strict=False)) or (...,)
            for key in keys
        ]
        for pattern in dict.fromkeys(fixed)
    }
    return [cut[pattern] for pattern in fixed]


def _extent(key: tuple[slice, ...], shape: Shape) -> Shape:
    return tuple(min(k.stop, n) - k.start for k, n in zip(key, shape, strict=True))


def panels(kernel: Kernel) -> Loop:
    """Blocks of rows. A right side of a product is fixed while the rows of its matrix pass."""
    cut, body = kernel.panels, kernel.body
    assert cut is not None
    if body.whole_product is not None:
        share, threads = body.whole_product.share, kernel.threads
        return lambda operands, results: share(*operands, *results, threads)
    keys = list(block_keys(cut.rows, cut.block))
    taken = _taken(kernel, cut, keys)
    for at in body.packs:
        taken[at] = [(...,)] * len(keys)
    loop = blocks(kernel, _placer(taken), [_extent(key, cut.rows) for key in keys])
    if body.whole_stage is not None:
        loop = _shared(_stage_in_parts(kernel, cut), loop)
    elif body.chain is not None:
        loop = _shared(_in_chain(kernel, cut), loop)
    if body.packs:
        loop = _packing(body.packs, kernel.threads, loop)
    if body.uses_blas:
        loop = _on_one_blas_thread(loop)
    return _with_cells(kernel, cut, loop)


def _taken(kernel: Kernel, cut: Panels, keys: list[tuple[slice, ...]]) -> list[Keys]:
    """What each panel takes of every operand and result."""
    right = {n.inputs[1] for n in kernel.region.nodes if n.kind == "matmul"}
    taken = [_row_keys(value, value in right, cut, keys) for value in kernel.region.inputs]
    return taken + [
        _cell_keys(value, cut, keys) if value in cut.partial else _row_keys(value, False, cut, keys)
        for value in kernel.region.outputs
    ]


def _stage_in_parts(kernel: Kernel, cut: Panels) -> Callable[[list[Array]], bool]:
    """How panels that are one stage each are shared, by its own means."""
    places, keys = panel_parts(kernel, cut)
    share, threads = kernel.body.whole_stage.body.share_parts, kernel.threads
    return lambda arrays: bool(share([arrays[at] for at in places], keys, threads))


def _in_chain(kernel: Kernel, cut: Panels) -> Callable[[list[Array]], bool]:
    """How panels whose calls are a chain are shared."""
    keys, own = chain_parts(kernel, cut)
    chain, threads = kernel.body.chain, kernel.threads
    return lambda arrays: bool(chain.share([*arrays, *own], keys, len(arrays), threads))


def chain_parts(kernel: Kernel, cut: Panels) -> tuple[list[Keys], list[Array]]:
    """What each panel takes of operands, results and temporaries; and these, as a thread has them.

    They have the shape of a whole panel, and no memory: what counts is how they lie.
    """
    body, block = kernel.body, kernel.body.shared_block(kernel.threads)
    keys = list(block_keys(cut.rows, block))
    taken = _taken(kernel, cut, keys)
    for at in body.packs:
        taken[at] = [(...,)] * len(keys)
    extents, own = [_extent(key, cut.rows) for key in keys], []
    for register, (shape, dtype) in zip(body.scratch, body.scratch_shapes(block), strict=True):
        own.append(ghost(shape, dtype))
        taken.append([tuple(map(slice, body.shape_of(register, extent))) for extent in extents])
    return taken, own


def ghost(shape: Shape, dtype: DType) -> Array:
    """An array in C order, with the memory of one element."""
    strides = [math.prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape))]
    return np.lib.stride_tricks.as_strided(np.empty(1, dtype), shape, strides)


def panel_parts(kernel: Kernel, cut: Panels) -> tuple[list[int], list[Keys]]:
    """The operands and results of a stage that is all there is, and what each part takes of them.

    Rows that stand alone are divided evenly: such a stage needs no panel that stays in cache.
    """
    body, inputs = kernel.body, len(kernel.region.inputs)
    # Registers of the stage to places among operands and results: between them lie constants.
    gap = body.first_output - inputs
    places = [at if at < inputs else at - gap for at in body.whole_stage.places]
    block = cut.block if cut.partial else _part_shape(cut.rows, kernel.threads)
    taken = _taken(kernel, cut, list(block_keys(cut.rows, block)))
    return places, [taken[at] for at in places]


def partial_results(kernel: Kernel, cut: Panels) -> dict[int, tuple[Node, Shape, DType]]:
    """Results that are put together from partial ones, by place; shape and dtype of these."""
    return {
        at: (node, (math.prod(partial_cells(cut, node)), *node.shape), partial_dtype(node))
        for at, node in enumerate(kernel.region.outputs)
        if node in cut.partial
    }


def _with_cells(kernel: Kernel, cut: Panels, loop: Blocks) -> Loop:
    """``loop`` over operands in panel order, with memory for partial results, combined at its end."""
    layout, cells = cut.layout, partial_results(kernel, cut)

    def run(operands: list[Array], results: list[Array]) -> None:
        written = list(results)
        for at, (_, shape, dtype) in cells.items():
            written[at] = POOL.empty(shape, dtype)
        loop(
            [
                *(in_loop_order(a, layout) for a in operands),
                *(a if at in cells else in_loop_order(a, layout) for at, a in enumerate(written)),
            ]
        )
        for at, (node, _, _) in cells.items():
            combine(node, written[at], results[at])

    return run


def _packing(packs: Mapping[int, Multiply], threads: int, loop: Blocks) -> Blocks:
    """``loop`` over right sides that are packed once, before the first panel."""

    def run(arrays: list[Array]) -> None:
        packed = arrays.copy()
        for at, product in packs.items():
            packed[at] = product.pack(arrays[at], threads)
        loop(packed)

    return run


def _on_one_blas_thread(loop: Blocks) -> Blocks:
    def run(arrays: list[Array]) -> None:
        with BLAS_THREADS.at_most(1):
            loop(arrays)

    return run


def _row_keys(
    value: Node, right: bool, cut: Panels, keys: list[tuple[slice, ...]]
) -> list[tuple[Any, ...]]:
    """What each panel takes of a value, by axes in panel order.

    A right side has the batch axes of the rows; axes of size 1 are broadcast.
    """
    if not value.shape:
        return [(...,)] * len(keys)  # a view: () would make a scalar of it
    rank, everything = len(cut.layout), slice(None)
    shape = (1,) * (rank - len(value.shape)) + value.shape
    rows = min(len(cut.rows), rank - 2) if right else len(cut.rows)
    return [
        tuple(key[a] if a < rows and shape[a] != 1 else everything for a in cut.layout)
        for key in keys
    ]


def _cell_keys(value: Node, cut: Panels, keys: list[tuple[slice, ...]]) -> list[tuple[Any, ...]]:
    """Where each panel writes its partial result: a cell, and its place in the result."""
    axes = reduced_axes(value)
    counts = partial_cells(cut, value)
    kept = _row_keys(value, False, cut, keys)
    found = []
    for key, place in zip(keys, kept, strict=True):
        at = [k.start // cut.block[a] for a, k in enumerate(key) if a in axes]
        found.append((int(np.ravel_multi_index(at, counts)), *place))
    return found


def in_loop_order(array: Array, order: tuple[int, ...]) -> Array:
    """``array`` with every axis of the iteration space, in loop order; scalars as they are."""
    if not array.ndim:
        return array
    missing = len(order) - array.ndim
    padded = array[(None,) * missing] if missing else array
    return padded if is_row_major(order) else padded.transpose(order)


def blocks(kernel: Kernel, place: Place, shapes: list[Shape]) -> Blocks:
    """The loop of a blocked body over its blocks; each thread has its own registers and scratch."""
    body, threads = kernel.body, kernel.threads
    inputs, first_output, first_scratch = (
        len(kernel.region.inputs), body.first_output, body.first_scratch,
    )  # fmt: skip
    scratch = {shape: body.scratch_shapes(shape) for shape in set(shapes)}

    def loop(arrays: list[Array]) -> None:
        def make_task() -> Task:
            file = body.registers()

            def task(index: int) -> None:
                parts = place(arrays, index)
                file[:inputs] = parts[:inputs]
                file[first_output:first_scratch] = parts[inputs:]
                file[first_scratch:] = SCRATCH.take(scratch[shapes[index]])
                body.run_block(file)

            return task

        run_tasks(make_task, len(shapes), threads)

    return loop


SCHEDULES: dict[str, Callable[[Kernel], Loop]] = {
    "flat": flat,
    "strided": strided,
    "whole": whole,
    "tiles": whole,
    "panels": panels,
}
