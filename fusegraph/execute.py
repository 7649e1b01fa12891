"""Running a plan. Decides nothing: schedule, engine, blocks and threads stand in the kernels.

In: a plan, made into a ``Program`` once, and an array for each placeholder. Out: an array for each
output. What does not change from run to run (registers, slots, block keys) is prepared once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fusegraph.buffers import POOL, SCRATCH
from fusegraph.direct_calls import direct_call
from fusegraph.engines.base import Array, DirectCall
from fusegraph.graph import Node
from fusegraph.kernel import Kernel, Prospect
from fusegraph.orders import is_row_major, undone
from fusegraph.plan import Plan, Step
from fusegraph.schedules import SCHEDULES

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

    def __deepcopy__(self, memo: Any) -> Program:
        return self

    def __reduce__(self) -> Any:
        return self.plan.__reduce__()

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
        return sum(runner.kernel.compiled for runner in self._tiers)

    def direct(
        self, arguments: Sequence[Array], captured: Sequence[Array], several: bool
    ) -> DirectCall | None:
        """The program, in the tiers reached, as a direct call on arguments like these, or None."""
        kernels = [
            runner.kernel if isinstance(runner, TieredRunner) else kernel
            for runner, kernel, _ in self._steps
        ]
        return direct_call(self.plan, kernels, arguments, captured, several)


def _runner(step: Step) -> Runner:
    """What runs one step."""
    kernel = step.kernel
    if kernel is None:
        return _view_runner(step)
    if kernel.prospect is not None:
        return TieredRunner(step, kernel, kernel.prospect)
    return _runner_of(kernel, step)


def _runner_of(kernel: Kernel, step: Step) -> Runner:
    one_block = kernel.blocked and kernel.region.size <= kernel.block
    aligned = kernel.schedule == "flat" or is_row_major(kernel.order)
    alone = one_block and aligned and all(order == kernel.order for order in kernel.stored)
    runner = _block_runner(kernel, step) if alone else _kernel_runner(kernel, step)
    return runner if kernel.blocked and kernel.compiled else _without_warnings(runner)


def _without_warnings(runner: Runner) -> Runner:
    """``runner`` with NumPy's error state set; machine code knows none, and setting it takes 1 us."""

    def run(values: list[Array], targets: Targets) -> None:
        with np.errstate(all="ignore"):
            runner(values, targets)

    return run


class TieredRunner:
    """Runs a kernel until its compiled form is due, and that from then on."""

    def __init__(self, step: Step, kernel: Kernel, prospect: Prospect) -> None:
        self.step, self.kernel, self.prospect = step, kernel, prospect
        self.current, self.calls = _runner_of(kernel, step), 0
        self.due = prospect.earliest  # the call that compiles, or finds out which one does

    def __call__(self, values: list[Array], targets: Targets) -> None:
        self.calls += 1
        if self.calls >= self.due:
            self.advance()
        self.current(values, targets)

    def advance(self) -> None:
        """Take over the compiled form, or wait for its call."""
        tier = self.prospect.find()
        if tier is not None and self.calls < tier.call:
            self.due = tier.call
            return
        self.due = sys.maxsize
        if tier is not None:
            self.kernel, self.current = tier.kernel, _runner_of(tier.kernel, self.step)


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
    turned, back = not is_row_major(order), undone(order)
    template = body.registers()
    outputs = [
        (at, slot, POOL.outlet(shape, node.dtype))
        for at, (slot, node) in enumerate(
            zip(step.outputs, kernel.region.outputs, strict=True), body.first_output
        )
    ]
    inputs, scratch, count = step.inputs, body.scratch_shapes(shape), len(step.inputs)
    empty, first_scratch, run_block = 0 in shape, body.first_scratch, body.run_block

    def run(values: list[Array], targets: Targets) -> None:
        file = template.copy()
        file[:count] = [values[slot] for slot in inputs]
        for at, slot, new in outputs:
            array = targets.get(slot) if targets else None
            file[at] = values[slot] = new() if array is None else array
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
    nodes, inputs = kernel.region.outputs, step.inputs
    outputs = list(zip(step.outputs, map(_outlet, nodes, kernel.stored), strict=True))
    empty = not any(node.size for node in nodes)

    def run(values: list[Array], targets: Targets) -> None:
        results = []
        for slot, new in outputs:
            array = targets.get(slot) if targets else None
            values[slot] = new() if array is None else array
            results.append(values[slot])
        if not empty:
            schedule([values[slot] for slot in inputs], results)

    return run


def _outlet(node: Node, order: tuple[int, ...]) -> Callable[[], Array]:
    """What gives memory for a value whose axes lie in ``order``, the slowest first."""
    new = POOL.outlet(tuple(node.shape[a] for a in order), node.dtype)
    if is_row_major(order):
        return new
    axes = undone(order)
    return lambda: new().transpose(axes)
