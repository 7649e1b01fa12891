"""Running a plan. Decides nothing: schedule, engine, blocks and threads stand in the kernels.

In: a plan, made into a ``Program`` once, and an array for each placeholder. Out: an array for each
output. What does not change from run to run (registers, slots, block keys) is prepared once.
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
from fusegraph.graph import Node, Shape
from fusegraph.kernel import Kernel
from fusegraph.plan import Plan, Step
from fusegraph.workers import BLAS_THREADS, Task, run_tasks

Targets = dict[int, Array]
Runner = Callable[[list[Array], Targets], None]
"""Runs one step from and into the value list; outputs in ``Targets`` are written in place."""


class Program:
    """A plan that is ready to run, from any number of threads."""

    __slots__ = ("_empty", "_outputs", "_steps", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._empty: list[Array] = [None] * plan.width
        for slot, data in plan.constants:
            self._empty[slot] = data
        self._outputs = plan.output_slots
        self._steps = [(_runner(step), step.kernel, step.drop) for step in plan.steps]

    def run(
        self,
        arrays: Sequence[Array],
        into: Sequence[Array | None] = (),
        clock: Callable[[Kernel, float], None] | None = None,
    ) -> list[Array]:
        """Run on ``arrays``.

        Parameters
        ----------
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
        values = self._empty.copy()
        values[: len(arrays)] = arrays
        targets: Targets = {}
        if into:
            targets = {s: t for s, t in zip(self._outputs, into, strict=True) if t is not None}
        with np.errstate(all="ignore"):
            for runner, kernel, drop in self._steps:
                if clock is None or kernel is None:
                    runner(values, targets)
                else:
                    start = time.perf_counter()
                    runner(values, targets)
                    clock(kernel, time.perf_counter() - start)
                for slot in drop:
                    values[slot] = None
        return [values[slot] for slot in self._outputs]


def _runner(step: Step) -> Runner:
    """What runs one step."""
    kernel = step.kernel
    if kernel is None:
        return _view_runner(step)
    one_block = math.prod(kernel.region.shape) <= kernel.block
    if kernel.blocked and one_block and (kernel.schedule == "flat" or _row_major(kernel)):
        return _block_runner(kernel, step)
    return _kernel_runner(kernel, step)


def _view_runner(step: Step) -> Runner:
    view = step.view
    assert view is not None
    (source,), (target,) = step.inputs, step.outputs
    function, params = view.op.function, view.params

    def run(values: list[Array], targets: Targets) -> None:
        values[target] = function(values[source], *params)

    return run


def _row_major(kernel: Kernel) -> bool:
    return kernel.order == tuple(range(len(kernel.order)))


def _block_runner(kernel: Kernel, step: Step) -> Runner:
    """A body whose operands are one block: no loop, no reshaping."""
    body, order = kernel.body, kernel.order
    shape = tuple(kernel.region.shape[a] for a in order)
    turned, back = not _row_major(kernel), tuple(int(a) for a in np.argsort(order))
    template = body.registers()
    outputs = [
        (at, slot, node.dtype)
        for at, (slot, node) in enumerate(
            zip(step.outputs, kernel.region.outputs, strict=True), body.first_output
        )
    ]
    inputs, scratch, count = step.inputs, body.scratch_shapes(shape), len(step.inputs)
    empty, first_scratch, run_block = 0 in shape, body.first_scratch, body.run_block

    def run(values: list[Array], targets: Targets) -> None:
        file = template.copy()
        file[:count] = [values[slot] for slot in inputs]
        for at, slot, dtype in outputs:
            array = targets.get(slot) if targets else None
            file[at] = values[slot] = POOL.empty(shape, dtype) if array is None else array
            if turned and array is None:
                values[slot] = file[at].transpose(back)
        if turned:
            file[:count] = [a.transpose(order) if a.ndim else a for a in file[:count]]
            for at, slot, _ in outputs:
                file[at] = values[slot].transpose(order)
        if not empty:
            if scratch:
                file[first_scratch:] = SCRATCH.take(scratch)
            run_block(file)

    return run


def _kernel_runner(kernel: Kernel, step: Step) -> Runner:
    schedule = SCHEDULES[kernel.schedule](kernel)
    nodes = kernel.region.outputs

    def run(values: list[Array], targets: Targets) -> None:
        results = []
        for slot, node in zip(step.outputs, nodes, strict=True):
            target = targets.get(slot)
            values[slot] = allocate(kernel, node) if target is None else target
            results.append(values[slot])
        if results[0].size:
            schedule([values[slot] for slot in step.inputs], results)

    return run


def allocate(kernel: Kernel, node: Node) -> Array:
    """Memory for an output, in the axis order of the kernel."""
    if _row_major(kernel):
        return POOL.empty(node.shape, node.dtype)
    stored = POOL.empty(tuple(node.shape[a] for a in kernel.order), node.dtype)
    return stored.transpose(np.argsort(kernel.order))


# --- schedules: how the loop runs -----------------------------------------------------------------

Loop = Callable[[list[Array], list[Array]], None]
"""Runs a kernel on its operands into its results."""
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
    size, block, order = math.prod(kernel.region.shape), kernel.block, kernel.order
    shapes: list[Shape] = [(min(block, size - start),) for start in range(0, size, block)]

    def place(arrays: list[Array], index: int) -> list[Array]:
        start, stop = index * block, (index + 1) * block
        return [a[start:stop] if a.ndim else a for a in arrays]

    loop = blocks(kernel, place, shapes)
    return lambda operands, results: loop([_flattened(a, order) for a in (*operands, *results)])


def _flattened(array: Array, order: tuple[int, ...]) -> Array:
    if array.size == 1:
        return array.reshape(())
    return (array if array.flags.c_contiguous else array.transpose(order)).reshape(-1)


def strided(kernel: Kernel) -> Loop:
    """Blocks of the iteration space; operands keep their strides and broadcast inside a block."""
    if not kernel.blocked:
        return itself(kernel)
    order = kernel.order
    shape = tuple(kernel.region.shape[a] for a in order)
    keys = list(block_keys(shape, blocked_shape(shape, kernel.block)))
    values = (*kernel.region.inputs, *kernel.region.outputs)
    fixed = [_fixed_axes(value.shape, order) for value in values]
    loop = blocks(kernel, _placer(keys, fixed), [_extent(key, shape) for key in keys])
    return lambda operands, results: loop([_ordered(a, order) for a in (*operands, *results)])


def _fixed_axes(shape: Shape, order: tuple[int, ...]) -> tuple[bool, ...]:
    """Along which axes of the loop a value is the same for every block: it is broadcast there."""
    if not shape:
        return ()
    padded = (1,) * (len(order) - len(shape)) + shape
    return tuple(padded[a] == 1 for a in order)


def _placer(keys: list[tuple[slice, ...]], fixed: list[tuple[bool, ...]]) -> Place:
    """Places blocks whose operands take ``keys`` along the axes that are not fixed."""
    everything = slice(None)
    patterns = list(dict.fromkeys(fixed))
    cut = {
        pattern: [
            tuple(everything if f else k for f, k in zip(pattern, key, strict=False))
            for key in keys
        ]
        for pattern in patterns
    }
    per_array = [cut[pattern] for pattern in fixed]

    def place(arrays: list[Array], index: int) -> list[Array]:
        return [a[key[index]] for a, key in zip(arrays, per_array, strict=True)]

    return place


def _extent(key: tuple[slice, ...], shape: Shape) -> Shape:
    return tuple(min(k.stop, n) - k.start for k, n in zip(key, shape, strict=True))


def panels(kernel: Kernel) -> Loop:
    """Blocks of rows. A right side of a product is fixed while the rows of its matrix pass."""
    rows = kernel.region.shape
    keys = list(block_keys(rows, blocked_shape(rows, kernel.block)))
    right = {n.inputs[1] for n in kernel.region.nodes if n.kind == "matmul"}
    values = (*kernel.region.inputs, *kernel.region.outputs)
    stored = set(kernel.region.outputs)
    taken = [_row_keys(value, value in right, value in stored, keys) for value in values]

    def place(arrays: list[Array], index: int) -> list[Array]:
        return [a[key[index]] for a, key in zip(arrays, taken, strict=True)]

    loop = blocks(kernel, place, [_extent(key, rows) for key in keys])

    def run(operands: list[Array], results: list[Array]) -> None:
        if not right:
            loop([*operands, *results])
            return
        BLAS_THREADS.enter(1)
        try:
            loop([*operands, *results])
        finally:
            BLAS_THREADS.leave(1)

    return run


def _row_keys(
    value: Node, right: bool, stored: bool, keys: list[tuple[slice, ...]]
) -> list[tuple[slice, ...]]:
    """What each panel takes of a value.

    A right side has the batch axes of the rows, a result that dropped its last axis has rows only;
    axes of size 1 are broadcast.
    """
    dropped = stored and value.kind == "reduce" and not dict(value.params)["keepdims"]
    count = max(0, len(value.shape) - (2 if right else 0 if dropped else 1))
    rows = len(keys[0]) if keys else 0
    first = rows - count - (1 if right else 0)
    everything = slice(None)
    return [
        tuple(
            everything if n == 1 else k
            for n, k in zip(value.shape[:count], key[first : first + count], strict=True)
        )
        for key in keys
    ]


def _ordered(array: Array, order: tuple[int, ...]) -> Array:
    """``array`` with every axis of the iteration space, in loop order; scalars as they are."""
    if not array.ndim:
        return array
    missing = len(order) - array.ndim
    padded = array[(None,) * missing] if missing else array
    return padded if order == tuple(range(len(order))) else padded.transpose(order)


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


def blocks(kernel: Kernel, place: Place, shapes: list[Shape]) -> Callable[[list[Array]], None]:
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


Wanted = tuple[tuple[Shape, np.dtype[Any]], ...]


class Scratch(threading.local):
    """Temporaries of blocks: memory of a thread that its next kernel uses again.

    Kernels of one thread do not overlap in time, so their scratch may overlap in memory.
    """

    REMEMBERED = 64  # shapes whose arrays are kept; a loop asks for two: whole blocks and the last

    def __init__(self) -> None:
        self.memory = np.empty(0, np.uint8)
        self.arrays: dict[Any, list[Array]] = {}

    def take(self, wanted: Wanted) -> list[Array]:
        """An array for each shape and dtype, side by side, aligned to cache lines."""
        if not wanted:
            return []
        found = self.arrays.get(wanted)
        return self._lay_out(wanted) if found is None else found

    def _lay_out(self, wanted: Wanted) -> list[Array]:
        exact = [math.prod(shape) * dtype.itemsize for shape, dtype in wanted]
        sizes = [-(-nbytes // 64) * 64 for nbytes in exact]
        if self.memory.size < sum(sizes) or len(self.arrays) >= self.REMEMBERED:
            self.arrays.clear()
        if self.memory.size < sum(sizes):
            self.memory = np.empty(0, np.uint8)  # let go of the old before asking for the new
            self.memory = np.empty(sum(sizes), np.uint8)
        ends = itertools.accumulate(sizes)
        found = [
            self.memory[end - size : end][:nbytes].view(dtype).reshape(shape)
            for size, end, nbytes, (shape, dtype) in zip(sizes, ends, exact, wanted, strict=True)
        ]
        self.arrays[wanted] = found
        return found


SCRATCH = Scratch()

SCHEDULES: dict[str, Callable[[Kernel], Loop]] = {
    "flat": flat,
    "strided": strided,
    "whole": whole,
    "tiles": whole,
    "panels": panels,
}
