"""Running a plan. Decides nothing: schedule, engine, blocks and threads stand in the kernels.

In: a plan and an array for each placeholder. Out: an array for each output.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fusegraph.buffers import POOL
from fusegraph.engines.base import Array
from fusegraph.graph import Node
from fusegraph.kernel import Kernel
from fusegraph.plan import Plan
from fusegraph.workers import Task, run_tasks


def run_plan(
    plan: Plan,
    arrays: Sequence[Array],
    into: Sequence[Array | None] = (),
    clock: Callable[[Kernel, float], None] | None = None,
) -> list[Array]:
    """Run ``plan`` on ``arrays``.

    Parameters
    ----------
    plan : Plan
    arrays : sequence of numpy.ndarray
        One a placeholder, by slot.
    into : sequence of numpy.ndarray or None
        Where an output is to be written, for outputs that a kernel computes.
    clock : callable, optional
        Told the measured seconds of each kernel, allocation included.

    Returns
    -------
    list of numpy.ndarray
    """
    values: list[Array] = [None] * plan.width
    values[: len(arrays)] = arrays
    for slot, data in plan.constants:
        values[slot] = data
    targets = dict(zip(plan.output_slots, into, strict=False))
    for step in plan.steps:
        if step.kernel is None:
            assert step.view is not None
            view = step.view
            values[step.outputs[0]] = view.op.function(values[step.inputs[0]], *view.params)
        elif clock is None:
            run_step(step.kernel, step.inputs, step.outputs, values, targets)
        else:
            start = time.perf_counter()
            run_step(step.kernel, step.inputs, step.outputs, values, targets)
            clock(step.kernel, time.perf_counter() - start)
        for slot in step.drop:
            values[slot] = None
    return [values[slot] for slot in plan.output_slots]


def run_step(
    kernel: Kernel,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    values: list[Array],
    targets: dict[int, Array | None],
) -> None:
    """Run one kernel from and into the value list."""
    operands = [values[slot] for slot in inputs]
    results = []
    for slot, node in zip(outputs, kernel.region.outputs, strict=True):
        target = targets.get(slot)
        values[slot] = allocate(kernel, node) if target is None else target
        results.append(values[slot])
    run_kernel(kernel, operands, results)


def allocate(kernel: Kernel, node: Node) -> Array:
    """Memory for an output, in the axis order of the kernel."""
    order = kernel.order
    if order == tuple(range(len(order))):
        return POOL.empty(node.shape, node.dtype)
    stored = POOL.empty(tuple(node.shape[a] for a in order), node.dtype)
    return stored.transpose(np.argsort(order))


def run_kernel(kernel: Kernel, operands: list[Array], results: list[Array]) -> None:
    """Run one kernel into ``results``."""
    if results[0].size == 0:
        return
    SCHEDULES[kernel.schedule](kernel, operands, results)


# --- schedules: how the loop runs -----------------------------------------------------------------


def run_whole(kernel: Kernel, operands: list[Array], results: list[Array]) -> None:
    """One library call."""
    kernel.body(operands, results[0])


def run_flat(kernel: Kernel, operands: list[Array], results: list[Array]) -> None:
    """One axis: every operand is a scalar or dense in the order of the loop."""
    flat = [_flattened(a, kernel.order) for a in (*operands, *results)]
    operands, results = flat[: len(operands)], flat[len(operands) :]
    size = results[0].size
    if kernel.engine == "numexpr" or size <= kernel.block:
        kernel.body.run(operands, results, kernel.threads)
        return
    starts = range(0, size, kernel.block)

    def place(array: Array, index: int) -> Array:
        start = starts[index]
        return array[start : start + kernel.block] if array.ndim else array

    run_blocks(kernel, operands, results, place, len(starts), (kernel.block,))


def _flattened(array: Array, order: tuple[int, ...]) -> Array:
    if array.ndim < 2 or array.size == 1:
        return array if array.size != 1 else array.reshape(())
    return (array if array.flags.c_contiguous else array.transpose(order)).reshape(-1)


def run_strided(kernel: Kernel, operands: list[Array], results: list[Array]) -> None:
    """Blocks of the iteration space; operands keep their strides and broadcast inside a block."""
    arrays = [_ordered(a, kernel.order) for a in (*operands, *results)]
    operands, results = arrays[: len(operands)], arrays[len(operands) :]
    if kernel.engine == "numexpr" or results[0].size <= kernel.block:
        kernel.body.run(operands, results, kernel.threads)
        return
    block_shape = blocked_shape(results[0].shape, kernel.block)
    keys = list(block_keys(results[0].shape, block_shape))

    def place(array: Array, index: int) -> Array:
        return array[tuple(
            key if size != 1 else slice(None)
            for key, size in zip(keys[index][len(block_shape) - array.ndim :], array.shape, strict=True)
        )]  # fmt: skip

    run_blocks(kernel, operands, results, place, len(keys), block_shape)


def _ordered(array: Array, order: tuple[int, ...]) -> Array:
    if not array.ndim:
        return array
    padded = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
    return padded.transpose(order)


def blocked_shape(shape: tuple[int, ...], elements: int) -> tuple[int, ...]:
    """The largest block of about ``elements`` elements: whole fast axes, a part of one, ones."""
    block = list(shape)
    for axis in range(len(shape)):
        inner = math.prod(shape[axis + 1 :])
        block[axis] = max(1, min(shape[axis], elements // max(1, inner)))
        if block[axis] > 1 or inner <= elements:
            break
    return tuple(block)


def block_keys(shape: tuple[int, ...], block: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Slices of every block, in the order they lie in memory."""
    axes = (
        [slice(start, start + step) for start in range(0, size, step)]
        for size, step in zip(shape, block, strict=True)
    )
    return itertools.product(*axes)


def run_blocks(
    kernel: Kernel,
    operands: list[Array],
    results: list[Array],
    place: Callable[[Array, int], Array],
    count: int,
    block_shape: tuple[int, ...],
) -> None:
    """Run a blocked body over ``count`` blocks; each thread has its own registers and scratch."""
    body = kernel.body
    first_output, first_scratch = body.first_output, body.first_scratch

    def make_task() -> Task:
        file = body.registers()
        scratch = SCRATCH.take(math.prod(block_shape), body.scratch_dtypes)
        full = [s.reshape(block_shape) for s in scratch]

        def task(index: int) -> None:
            for at, array in enumerate(operands):
                file[at] = place(array, index)
            for at, array in enumerate(results, first_output):
                file[at] = place(array, index)
            shape = file[first_output].shape
            fits = shape == block_shape
            size = math.prod(shape)
            for at, array in enumerate(full if fits else scratch, first_scratch):
                file[at] = array if fits else array[:size].reshape(shape)
            body.run_block(file)

        return task

    with np.errstate(all="ignore"):
        run_tasks(make_task, count, kernel.threads)


class Scratch(threading.local):
    """Temporaries of blocks: memory of a thread that is used again by its next kernel."""

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)

    def take(self, elements: int, dtypes: Sequence[np.dtype[Any]]) -> list[Array]:
        """Arrays of ``elements`` elements each, side by side, aligned to cache lines."""
        sizes = [-(-elements * d.itemsize // 64) * 64 for d in dtypes]
        if self.memory.size < sum(sizes):
            self.memory = np.empty(sum(sizes), np.uint8)
        found, start = [], 0
        for size, dtype in zip(sizes, dtypes, strict=True):
            found.append(self.memory[start : start + elements * dtype.itemsize].view(dtype))
            start += size
        return found


SCRATCH = Scratch()

SCHEDULES: dict[str, Callable[[Kernel, list[Array], list[Array]], None]] = {
    "flat": run_flat,
    "strided": run_strided,
    "whole": run_whole,
    "tiles": run_whole,
}
