"""Direct calls: a program whose kernels are all compiled, as one call without Python in between.

In: a plan, the kernels that its steps run by now, arrays. Out: a ``DirectCall`` of the engine, or None.
Every kernel becomes jobs of compiled code, whose operands are arguments, results, or between two jobs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fusegraph.buffers import POOL, Pool
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.engines.base import Array, DirectCall
from fusegraph.graph import DType, Shape
from fusegraph.kernel import Kernel
from fusegraph.orders import is_row_major
from fusegraph.panels import Panels
from fusegraph.plan import Plan, Step
from fusegraph.schedules import (
    Keys,
    chain_parts,
    in_loop_order,
    loop_parts,
    panel_parts,
    partial_results,
)


def direct_call(
    plan: Plan,
    kernels: Sequence[Kernel | None],
    arguments: Sequence[Array],
    captured: Sequence[Array],
    several: bool,
) -> DirectCall | None:
    """A plan whose steps run ``kernels``, as a direct call on arguments like these, or None.

    It has one where every kernel is jobs of compiled code, for good and over C-ordered arrays, and
    its results are results of kernels. Views are no work: a kernel takes the array that they show, and
    its tasks know where in it theirs begins. One that is all of its source, and C-ordered too, may be a
    result. Arrays that are ``captured``, after the arguments, are read where they lie at each call.
    """
    if not all(array.flags.aligned for array in captured):
        return None
    arrays = (*arguments, *captured)
    trail = _Trail(arrays[: plan.input_count])
    for step, kernel in zip(plan.steps, kernels, strict=True):
        if not (trail.see(step) if kernel is None else trail.compute(step, kernel)):
            return None
    if not trail.shows.keys().isdisjoint(plan.output_slots):
        return None
    results = [trail.roots.get(slot, -1) for slot in plan.output_slots]
    if len({*results} & trail.made.keys()) < len(results) or not trail.jobs:
        return None  # a result is an argument, a constant, or another one too
    shown = [(trail.values[slot].shape, trail.values[slot].dtype) for slot in plan.output_slots]
    if trail.held > plan.peak_bytes:
        return None  # a value that is dropped on the way would be held to the end
    others = {key: kind for key, kind in trail.made.items() if key not in results}
    outlets = [POOL.outlet(*kind) for kind in (*shown, *others.values())]
    place_of = {key: at for at, key in enumerate((*range(len(arrays)), *results, *others))}
    work = [(job, [place_of[k] for k in keys], n) for job, keys, n in trail.jobs]
    engine = ELEMENTWISE_ENGINES[trail.engine]
    return engine.direct_call(work, arguments, captured, outlets, len(results), several)


Key = int | tuple[str, int, int]
"""An argument's place, or what kernels make: results by slot, arrays between jobs by job and number."""


class _Trail:
    """What a program does, followed on arrays.

    ``roots`` has the argument or result that a value begins with, ``shows`` the array that a value shows
    in part or otherwise, ``made`` the shape and dtype of what kernels make, ``jobs`` their compiled jobs
    with the keys of their operands and their threads.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.values = dict(enumerate(arrays))
        self.roots: dict[int, Key] = {slot: slot for slot in self.values}
        self.shows = {at: a for at, a in self.values.items() if not a.flags.c_contiguous}
        self.made: dict[Key, tuple[Shape, DType]] = {}
        self.jobs: list[tuple[Any, list[Key], int]] = []
        self.engine = ""

    def compute(self, step: Step, kernel: Kernel) -> bool:
        """Note the jobs of a kernel; False where it is not compiled, or not for good."""
        if kernel.prospect is not None or any(slot not in self.roots for slot in step.inputs):
            return False
        for slot, node in zip(step.outputs, kernel.region.outputs, strict=True):
            # Memory that nothing touches: what counts is how it lies.
            self.values[slot] = np.empty(node.shape, node.dtype)
            self.roots[slot] = "result", slot, 0
            self.made[self.roots[slot]] = node.shape, node.dtype
        slots = (*step.inputs, *step.outputs)
        shown = {at: self.shows[slot] for at, slot in enumerate(slots) if slot in self.shows}
        found = _jobs_of(kernel, [self.values[slot] for slot in slots], shown)
        if found is None:
            return False
        between: list[Key] = [("between", len(self.jobs), k) for k in range(len(found.between))]
        self.made.update(zip(between, found.between, strict=True))
        keys = [self.roots[slot] for slot in slots] + between
        self.jobs += [(job, [keys[at] for at in places], n) for job, places, n in found.jobs]
        self.engine = kernel.engine
        return True

    @property
    def held(self) -> int:
        """Bytes that a call holds at its end: all that kernels make, and the scratch of a job."""
        made = (math.prod(shape) * dtype.itemsize for shape, dtype in self.made.values())
        scratch = max(int(job.scratch_bytes) for job, _, _ in self.jobs)
        return sum(map(Pool.footprint, made)) + scratch

    def see(self, step: Step) -> bool:
        """Note the view of a step; False where it is a copy, or of no argument or result."""
        (source,), (target,), view = step.inputs, step.outputs, step.view
        if source not in self.roots or view is None:
            return False
        array = self.values[source]
        seen = self.values[target] = view.op.function(array, *view.params)
        self.roots[target] = self.roots[source]
        same = seen.ctypes.data == array.ctypes.data and seen.nbytes == array.nbytes
        if source in self.shows or not (same and seen.flags.c_contiguous):
            self.shows[target] = self.shows.get(source, array)
        return bool(np.may_share_memory(seen, array))  # by their bounds


class _Jobs(NamedTuple):
    """A kernel as jobs of compiled code, one after the other.

    Attributes
    ----------
    jobs : list of (object, list of int, int)
        Each with the places of its operands, and its threads. A place is that of an operand of the
        kernel, a result, or an array between the jobs.
    between : list of (tuple of int, numpy.dtype)
        Shape and dtype of those arrays.
    """

    jobs: list[tuple[Any, list[int], int]]
    between: list[tuple[Shape, DType]]


Shown = dict[int, Array]
"""The array that an operand of a kernel shows, by place, where it is not all of it in C order."""


def _jobs_of(kernel: Kernel, arrays: list[Array], shown: Shown) -> _Jobs | None:
    """A kernel as jobs, or None where it is more than that.

    ``arrays`` are operands and results of its shapes, C-ordered but for those that show others.
    """
    order, cut, body, threads = kernel.order, kernel.panels, kernel.body, kernel.threads
    upright = all(map(is_row_major, (order, *kernel.stored)))
    if not kernel.compiled or not upright or not all(array.size for array in arrays):
        return None
    if cut is not None:
        return _jobs_of_panels(kernel, cut, arrays, shown)
    places = list(range(len(arrays)))
    if kernel.schedule == "flat" and not shown:
        block = kernel.block if threads > 1 else max(1, arrays[-1].size)
        work = body.block_work(block, threads, kernel.streams) if body.shares_blocks else None
    else:
        ordered = [in_loop_order(array, order) for array in arrays]
        work = None
        if body.shares_parts:
            file, keys = _from_starts(ordered, loop_parts(kernel), shown)
            work = body.part_work(file, keys, threads, kernel.streams)
    return None if work is None else _Jobs([(work, places, threads)], [])


def _from_starts(
    arrays: Sequence[Array], keys: Sequence[Keys], shown: Shown
) -> tuple[list[Array], list[Keys]]:
    """Arrays that begin where those that they show do, and the keys of the same parts.

    Such an array has two entries along an axis more, the second of which is the operand.
    """
    file, taken = list(arrays), list(keys)
    for at, start in shown.items():
        array = file[at]
        strides = (array.ctypes.data - start.ctypes.data, *array.strides)
        file[at] = np.lib.stride_tricks.as_strided(start, (2, *array.shape), strides)
        taken[at] = [(1, *key) for key in keys[at]]
    return file, taken


def _jobs_of_panels(kernel: Kernel, cut: Panels, arrays: list[Array], shown: Shown) -> _Jobs | None:
    """Right sides are packed, panels are a job, and each result that has partial ones is another."""
    body, threads, inputs = kernel.body, kernel.threads, len(kernel.region.inputs)
    cells = partial_results(kernel, cut)
    between: list[tuple[Shape, DType]] = [
        ((product.packed_elements,), product.dtype) for product in body.packs.values()
    ]
    between += [(shape, dtype) for _, shape, dtype in cells.values()]
    stood_for = [*body.packs, *(inputs + at for at in cells)]
    place_of = {at: len(arrays) + k for k, at in enumerate(stood_for)}
    file = [in_loop_order(array, cut.layout) for array in arrays]
    for at, kind in zip(stood_for, between, strict=True):
        file[at] = np.empty(*kind)

    jobs: list[tuple[Any, list[int], int]] = []
    for at, product in body.packs.items():
        pack = product.pack_work(arrays[at], threads, _start(at, arrays, shown))
        jobs.append((pack, [at, place_of[at]], threads))
    left = {at: start for at, start in shown.items() if at not in body.packs}
    work, places = _panels_as_job(kernel, cut, file, left)
    jobs.append((work, [place_of.get(at, at) for at in places], threads))
    for at, (node, shape, dtype) in cells.items():
        join = body.engine.join_work(node, dtype, shape[0])
        jobs.append((join, [place_of[inputs + at], inputs + at], 1))
    return None if any(work is None for work, _, _ in jobs) else _Jobs(jobs, between)


def _panels_as_job(
    kernel: Kernel, cut: Panels, file: list[Array], shown: Shown
) -> tuple[Any, Sequence[int]]:
    """All panels as a job, or None; and the places of its operands."""
    body, threads = kernel.body, kernel.threads
    if body.whole_product is not None:
        start = _start(0, file, shown)
        return body.whole_product.rows_work(file[0], file[-1], threads, start), range(len(file))
    if body.whole_stage is not None:
        places, keys = panel_parts(kernel, cut)
        begins = {k: shown[at] for k, at in enumerate(places) if at in shown}
        file, keys = _from_starts([file[at] for at in places], keys, begins)
        return body.whole_stage.body.part_work(file, keys, threads), places
    if body.chain is None:
        return None, ()
    keys, own = chain_parts(kernel, cut)
    operands = len(file)
    file, keys = _from_starts([*file, *own], keys, shown)
    return body.chain.work(file, keys, operands, threads), range(operands)


def _start(at: int, arrays: list[Array], shown: Shown) -> int:
    """Bytes by which an operand begins behind the array that it shows."""
    return int(arrays[at].ctypes.data - shown[at].ctypes.data) if at in shown else 0
