"""Running a plan. Decides nothing: schedule, engine, blocks and threads stand in the kernels.

In: a plan, made into a ``Program`` once, and an array for each placeholder. Out: an array for each
output. What does not change from run to run (registers, slots, block keys) is prepared once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusegraph.buffers import POOL, SCRATCH, Pool
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.engines.base import Array, DirectCall
from fusegraph.graph import DType, Node, Shape
from fusegraph.kernel import Kernel, Tier
from fusegraph.orders import is_row_major
from fusegraph.plan import Plan, Step
from fusegraph.schedules import SCHEDULES, compiled_jobs

Targets = dict[int, Array]
Runner = Callable[[list[Array], Targets], None]
"""Runs one step from and into the value list; outputs in ``Targets`` are written in place."""


class Program:
    """A plan that is ready to run, from any number of threads."""

    __slots__ = ("_empty", "_inputs", "_outputs", "_repeated", "_steps", "_tiers", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._empty: list[Array] = [None] * plan.width
        for slot, data in plan.constants:
            self._empty[slot] = data
        self._outputs = plan.output_slots
        self._repeated = plan.repeated_outputs
        self._inputs = plan.input_count
        self._steps = [(_runner(step), step.kernel, step.drop) for step in plan.steps]
        self._tiers = [r for r, _, _ in self._steps if isinstance(r, TieredRunner)]

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
        # Behind the last array that is read come constants, whether more arrays are given or not.
        values[: self._inputs] = arrays[: self._inputs]
        targets: Targets = {}
        if into:
            targets = {
                slot: into[at]
                for at, slot in enumerate(self._outputs)
                if into[at] is not None and at not in self._repeated
            }
        for runner, kernel, drop in self._steps:
            if clock is None or kernel is None:
                runner(values, targets)
            else:
                start = time.perf_counter()
                runner(values, targets)
                clock(kernel, time.perf_counter() - start)
            for slot in drop:
                values[slot] = None
        results = [values[slot] for slot in self._outputs]
        for at in self._repeated:  # what is written to one result must not change another
            target = into[at] if into else None
            results[at] = results[at].copy(order="K") if target is None else target
            if target is not None:
                np.copyto(target, values[self._outputs[at]])
        return results

    @property
    def tiers_reached(self) -> int:
        """Kernels that run in their compiled form by now."""
        return sum(runner.kernel is runner.tier.kernel for runner in self._tiers)

    def direct(self, arrays: Sequence[Array], several: bool) -> DirectCall | None:
        """The program as a direct call on arrays like these, or None.

        It has one where every kernel is jobs of compiled code, for good and over C-ordered arrays, and
        its results are results of kernels. Views are no work where they begin where their source does
        and are C-ordered too: then a kernel takes the source, or the result has the view's shape.
        """
        trail = _Trail(arrays[: self._inputs])
        for step, (runner, kernel, _) in zip(self.plan.steps, self._steps, strict=True):
            now = runner.kernel if isinstance(runner, TieredRunner) else kernel
            if not (trail.see(step) if now is None else trail.compute(step, now)):
                return None
        results = [trail.roots.get(slot, -1) for slot in self._outputs]
        if len({*results} & trail.made.keys()) < len(results) or not trail.jobs:
            return None  # a result is an argument, a constant, or another one too
        shown = [(trail.values[slot].shape, trail.values[slot].dtype) for slot in self._outputs]
        if trail.held > self.plan.peak_bytes:
            return None  # a value that is dropped on the way would be held to the end
        others = {key: kind for key, kind in trail.made.items() if key not in results}
        outlets = [POOL.outlet(*kind) for kind in (*shown, *others.values())]
        place_of = {key: at for at, key in enumerate((*range(len(arrays)), *results, *others))}
        work = [(job, [place_of[k] for k in keys], n) for job, keys, n in trail.jobs]
        engine = ELEMENTWISE_ENGINES[trail.engine]
        return engine.direct_call(work, arrays, outlets, len(results), several)


Key = int | tuple[str, int, int]
"""An argument's place, or what kernels make: results by slot, arrays between jobs by job and number."""


class _Trail:
    """What a program does, followed on arrays.

    ``roots`` has the argument or result that a value begins with, ``made`` the shape and dtype of what
    kernels make, ``jobs`` their compiled jobs with the keys of their operands and their threads.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.values = dict(enumerate(arrays))
        self.roots: dict[int, Key] = {slot: slot for slot in self.values}
        self.made: dict[Key, tuple[Shape, DType]] = {}
        self.jobs: list[tuple[Any, list[Key], int]] = []
        self.engine = ""

    def compute(self, step: Step, kernel: Kernel) -> bool:
        """Note the jobs of a kernel; False where it is not compiled, or not for good."""
        if kernel.tier is not None or any(slot not in self.roots for slot in step.inputs):
            return False
        for slot, node in zip(step.outputs, kernel.region.outputs, strict=True):
            # Memory that nothing touches: what counts is how it lies.
            self.values[slot] = np.empty(node.shape, node.dtype)
            self.roots[slot] = "result", slot, 0
            self.made[self.roots[slot]] = node.shape, node.dtype
        found = compiled_jobs(kernel, [self.values[s] for s in (*step.inputs, *step.outputs)])
        if found is None:
            return False
        between: list[Key] = [("between", len(self.jobs), k) for k in range(len(found.between))]
        self.made.update(zip(between, found.between, strict=True))
        keys = [self.roots[slot] for slot in (*step.inputs, *step.outputs)] + between
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
        """The view of a step; does it lie where its source does, all of it and C-ordered?"""
        (source,), (target,), view = step.inputs, step.outputs, step.view
        if source not in self.roots or view is None:
            return False
        array = self.values[source]
        seen = self.values[target] = view.op.function(array, *view.params)
        self.roots[target] = self.roots[source]
        same = seen.ctypes.data == array.ctypes.data and seen.nbytes == array.nbytes
        return bool(same and seen.flags.c_contiguous)


def _runner(step: Step) -> Runner:
    """What runs one step."""
    kernel = step.kernel
    if kernel is None:
        return _view_runner(step)
    if kernel.tier is not None:
        return TieredRunner(step, kernel, kernel.tier)
    return _runner_of(kernel, step)


def _runner_of(kernel: Kernel, step: Step) -> Runner:
    one_block = kernel.blocked and math.prod(kernel.region.shape) <= kernel.block
    aligned = kernel.schedule == "flat" or is_row_major(kernel.order)
    alone = one_block and aligned and all(order == kernel.order for order in kernel.stored)
    runner = _block_runner(kernel, step) if alone else _kernel_runner(kernel, step)
    compiled = ELEMENTWISE_ENGINES[kernel.engine].compiles if kernel.blocked else False
    return runner if compiled else _without_warnings(runner)


def _without_warnings(runner: Runner) -> Runner:
    """``runner`` with NumPy's error state set; machine code knows none, and setting it takes 1 us."""

    def run(values: list[Array], targets: Targets) -> None:
        with np.errstate(all="ignore"):
            runner(values, targets)

    return run


class TieredRunner:
    """Runs a kernel until its compiled form is due, and that from then on."""

    def __init__(self, step: Step, kernel: Kernel, tier: Tier) -> None:
        self.step, self.kernel, self.tier = step, kernel, tier
        self.current, self.calls = _runner_of(kernel, step), 0

    def __call__(self, values: list[Array], targets: Targets) -> None:
        self.calls += 1
        if self.calls == self.tier.call:
            self.kernel, self.current = self.tier.kernel, _runner_of(self.tier.kernel, self.step)
        self.current(values, targets)


def _view_runner(step: Step) -> Runner:
    view = step.view
    assert view is not None
    (source,), (target,) = step.inputs, step.outputs
    function, params = view.op.function, view.params

    def run(values: list[Array], targets: Targets) -> None:
        values[target] = function(values[source], *params)

    return run


def _block_runner(kernel: Kernel, step: Step) -> Runner:
    """A body whose operands are one block: no loop, no reshaping."""
    body, order = kernel.body, kernel.order
    shape = tuple(kernel.region.shape[a] for a in order)
    turned, back = not is_row_major(kernel.order), tuple(int(a) for a in np.argsort(order))
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
            # Operands have all axes, or one element.
            file[:count] = [a.transpose(order) if a.ndim == len(order) else a for a in file[:count]]
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
        for slot, node, order in zip(step.outputs, nodes, kernel.stored, strict=True):
            target = targets.get(slot)
            values[slot] = allocate(node, order) if target is None else target
            results.append(values[slot])
        if any(result.size for result in results):
            schedule([values[slot] for slot in step.inputs], results)

    return run


def allocate(node: Node, order: tuple[int, ...]) -> Array:
    """Memory for a value whose axes lie in ``order``, the slowest first."""
    if is_row_major(order):
        return POOL.empty(node.shape, node.dtype)
    stored = POOL.empty(tuple(node.shape[a] for a in order), node.dtype)
    return stored.transpose(np.argsort(order))
