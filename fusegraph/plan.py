"""The plan: kernels in order, with schedule, engine, buffers and predicted time. All decisions end here.

In: the outputs of a graph over placeholders, options, a machine. Out: a ``Plan`` that holds no array
and can run on any arrays of the placeholders' shapes, dtypes and layouts.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fusegraph.buffers import Pool
from fusegraph.choice import make_kernel
from fusegraph.cost import Cost, Traffic, kernel_cost, total
from fusegraph.engines.base import Region
from fusegraph.fuse import fuse
from fusegraph.graph import Node, make, topological, verify
from fusegraph.kernel import Kernel, most_scratch, together
from fusegraph.machine import Machine
from fusegraph.ops import OPS
from fusegraph.options import Options
from fusegraph.orders import COPY, Order, is_row_major, value_orders
from fusegraph.properties import lazy_property
from fusegraph.recompute import recompute
from fusegraph.report.units import plural
from fusegraph.rewrite import Rewritten, rewrite, unchanged
from fusegraph.rows import share_rows
from fusegraph.setting import Setting
from fusegraph.units import Decision, Fused, Unit, single_regions, verify_units
from fusegraph.views import base

OVERHEAD = 128 * 1024  # bytes of Python objects that a run may hold: measured at most 80 KiB


@dataclass(frozen=True, slots=True)
class Step:
    """One thing the executor does: see ``source`` through a view, or run ``kernel``.

    ``inputs`` and ``outputs`` are slots of the run's value list; ``drop`` the slots whose values are
    not needed any more when the step is done.
    """

    kernel: Kernel | None
    view: Node | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    drop: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of one kernel: whose memory its outputs take over, and bytes held while it runs."""

    reuses: dict[Node, Node | None]  # each output; None: memory that is mapped afresh
    held: int

    @property
    def first_touch(self) -> int:
        """Bytes that are mapped afresh."""
        return sum(value.nbytes for value, old in self.reuses.items() if old is None)


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """What will run, and why.

    Attributes
    ----------
    graph : tuple of Node
        The outputs as the user wrote them, over placeholders.
    rewritten : Rewritten
    fused : Fused
    kernels : tuple of Kernel
        In the order they run.
    steps : tuple of Step
    slots : dict
        Where each value of a run stands in its value list; placeholders come first.
    names : dict
        Value to name: ``v0, v1, ...`` for inputs, ``t0, t1, ...`` for stored values.
    """

    graph: tuple[Node, ...]
    rewritten: Rewritten
    fused: Fused
    kernels: tuple[Kernel, ...]
    steps: tuple[Step, ...]
    slots: dict[Node, int]
    names: dict[Node, str]
    options: Options
    machine: Machine

    def __repr__(self) -> str:
        return f"<plan: {plural(self.op_count, 'op')} in {plural(len(self.kernels), 'kernel')}>"

    def __copy__(self) -> Plan:
        return self

    def __deepcopy__(self, memo: Any) -> Plan:
        return self  # nothing in it changes

    def __reduce__(self) -> Any:
        raise TypeError(
            "a plan cannot be pickled: it names code of this process; pickle plan.to_dict(), or the "
            "tensors, and plan them where they are read"
        )

    @property
    def outputs(self) -> tuple[Node, ...]:
        return self.rewritten.outputs

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Every edge between two operations: fused, or stored and why."""
        return self.fused.decisions

    @lazy_property
    def cuts(self) -> dict[str, list[Decision]]:
        """The edges into each kernel that stayed cut, by the kernel's name."""
        found: dict[str, list[Decision]] = {kernel.name: [] for kernel in self.kernels}
        for decision in self.decisions:
            if not decision.fused and decision.consumer in self.kernel_of:
                found[self.kernel_of[decision.consumer]].append(decision)
        return found

    @property
    def seconds(self) -> float:
        """Predicted time of all kernels."""
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def peak_bytes(self) -> int:
        """Upper bound of memory that a run holds beside its inputs, in whichever tiers.

        Results, intermediates, scratch, and ``OVERHEAD``. Not in it: what NumPy buffers of operands that
        are not aligned, 64 kB of each in a thread.
        """
        return self._peak[0]

    @property
    def peak_kernel(self) -> str:
        """The kernel that holds the most, or nothing where there is none."""
        return self._peak[1]

    @lazy_property
    def _peak(self) -> tuple[int, str]:
        buffers = plan_buffers([kernel.region for kernel in self.kernels], self.outputs)
        # A thread keeps its scratch from kernel to kernel.
        scratch = itertools.accumulate(map(most_scratch, self.kernels), max)
        held = [b.held + kept for b, kept in zip(buffers, scratch, strict=True)]
        copied = sum(self.outputs[at].nbytes for at in self.repeated_outputs)
        most = max(held, default=0)
        kernel = self.kernels[held.index(most)].name if held else ""
        return most + copied + OVERHEAD, kernel

    @property
    def output_slots(self) -> tuple[int, ...]:
        return tuple(self.slots[node] for node in self.outputs)

    @property
    def repeated_outputs(self) -> tuple[int, ...]:
        """Places of outputs that are the same computed value as one before them."""
        return repeated(self.outputs)

    @property
    def input_count(self) -> int:
        """Arrays that a run reads, counted to the last of them."""
        return 1 + max((s for n, s in self.slots.items() if n.kind == "input"), default=-1)

    @property
    def width(self) -> int:
        """Length of a run's value list."""
        return 1 + max(self.slots.values(), default=-1)

    @property
    def constants(self) -> tuple[tuple[int, Any], ...]:
        """Slots of the constants that views or library calls read, and their values."""
        return tuple((s, n.data) for n, s in self.slots.items() if n.kind == "const")

    @lazy_property
    def op_count(self) -> int:
        """Operations of the graph as written; inputs, constants and views are none."""
        return sum(n.kind not in ("input", "const", "view") for n in topological(self.graph))

    @lazy_property
    def traffic(self) -> Traffic:
        """Cost with fusion off (the graph as written, an op a kernel) and of this plan."""
        return Traffic(unfused_cost(self.graph), total(k.cost for k in self.kernels))

    @lazy_property
    def kernel_of(self) -> dict[Node, str]:
        """The first kernel that computes each node of the rewritten graph."""
        return {node: k.name for k in reversed(self.kernels) for node in k.region.nodes}


def build_plan(outputs: Sequence[Node], options: Options, machine: Machine) -> Plan:
    """Plan the graph below ``outputs``, whose inputs are placeholders."""
    graph = tuple(outputs)
    rewritten = rewrite(graph, ulp=not options.bits) if options.fuse else unchanged(graph)
    copies = store_in_order(graph, rewritten.outputs, rewritten.order)
    if copies:
        rewritten = rewritten.mapped(copies)
    order = rewritten.order
    orders = value_orders(order)
    fused = fuse(rewritten.outputs, order, options.engine, options.fuse, options.exact)
    if options.fuse:
        fused = share_rows(fused, rewritten.outputs, order, orders, machine, options.bits)
        fused = recompute(fused, rewritten.outputs, order)
        orders = _with_panels_upright(orders, order, fused)
    if options.verify:
        verify(graph)
        verify(rewritten.outputs)
        verify_units(fused.units)
    names = value_names(order, fused.units)
    buffers = plan_buffers([unit.region for unit in fused.units], rewritten.outputs)
    threads = min(options.thread_count, machine.cores)  # more of them only take turns
    setting = Setting(names, orders, options, threads, machine, fused)
    kernels = together(
        [
            make_kernel(f"k{at}", unit, buffer.first_touch, setting)
            for at, (unit, buffer) in enumerate(zip(fused.units, buffers, strict=True))
        ]
    )
    steps, slots = lay_out(kernels, rewritten.outputs, order)
    return Plan(
        graph=graph,
        rewritten=rewritten,
        fused=fused,
        kernels=kernels,
        steps=steps,
        slots=slots,
        names=names,
        options=options,
        machine=machine,
    )


# --- order in memory ------------------------------------------------------------------------------


def _with_panels_upright(
    orders: dict[Node, Order], order: Sequence[Node], fused: Fused
) -> dict[Node, Order]:
    """The orders of values, those that kernels in panels store included: they store in C order."""
    upright = {v for unit in fused.units if unit.panels for v in unit.region.outputs}
    if all(is_row_major(orders[value]) for value in upright):
        return orders
    return value_orders(order, upright)


def store_in_order(
    written: Sequence[Node], outputs: Sequence[Node], order: Sequence[Node]
) -> dict[Node, Node]:
    """Insert the copies that cannot be avoided: old node to new node, for nodes that change.

    A reshape of a value that is not in C order copies it. A result that is a constant, or that was
    ``written`` as an operation and rewritten to an input (``x * 1``), needs memory of its own: what a
    user computes is not the array that was given. So does a copy of what another result shows. All
    become kernels, so the plan shows their bytes.
    """
    image: dict[Node, Node] = {}
    if any(node.op.name == "reshape" for node in order):
        orders = value_orders(order)
        for node in order:
            inputs = tuple(image.get(i, i) for i in node.inputs)
            if node.op.name == "reshape" and orders[node] is None:
                inputs = (copy_of(inputs[0]),)
            if any(a is not b for a, b in zip(inputs, node.inputs, strict=True)):
                image[node] = make(
                    node.op, inputs, node.params, node.shape, node.dtype, node.source
                )
    shown = Counter(base(node) for node in outputs)
    for before, node in zip(written, outputs, strict=True):
        given = base(node).kind
        shared = _is_copy(before) and shown[base(node)] > 1
        if shared or given == "const" or (given == "input" and base(before).kind != "input"):
            image[node] = copy_of(image.get(node, node))
    return image


def _is_copy(node: Node) -> bool:
    """Did the user write a copy?"""
    return node.op.name == "astype" and node.inputs[0].dtype == node.dtype


def copy_of(node: Node) -> Node:
    """``node`` stored in C order."""
    return make(OPS["astype"], (node,), COPY, node.shape, node.dtype)


def repeated(outputs: Sequence[Node]) -> tuple[int, ...]:
    """Places of outputs that are the same computed value as one before them: each is an array."""
    first = {node: at for at, node in reversed(list(enumerate(outputs)))}
    return tuple(
        at for at, node in enumerate(outputs) if first[node] < at and base(node).kind != "input"
    )


# --- buffers and slots ----------------------------------------------------------------------------


def plan_buffers(regions: Sequence[Region], outputs: Sequence[Node]) -> list[Buffer]:
    """Memory of each region, in the order they run, over a pool that reuses released buffers.

    The pool keeps a released buffer for another value of its size: what is held only grows.
    """
    last_use: dict[Node, int] = {}
    for at, region in enumerate(regions):
        for value in (*region.inputs, *region.outputs):
            last_use[base(value)] = at
    kept = {base(node) for node in outputs}
    dying: dict[int, list[Node]] = {}
    for value, at in last_use.items():
        if value.kind not in ("input", "const") and value not in kept:
            dying.setdefault(at, []).append(value)
    free: dict[int, list[Node]] = {}  # bytes of a released buffer -> the values that lay there
    held = 0
    found = []
    for at, region in enumerate(regions):
        reuses: dict[Node, Node | None] = {}
        for value in region.outputs:
            size = Pool.footprint(value.nbytes)
            released = free.get(size)
            reuses[value] = old = released.pop() if released else None
            held += size if old is None else 0
        found.append(Buffer(reuses, held))
        for value in dying.get(at, ()):
            free.setdefault(Pool.footprint(value.nbytes), []).append(value)
    return found


def lay_out(
    kernels: Sequence[Kernel], outputs: Sequence[Node], order: Sequence[Node]
) -> tuple[tuple[Step, ...], dict[Node, int]]:
    """Steps of a run over a value list that starts with the placeholders, by slot number."""
    slots = {node: node.params[0] for node in order if node.kind == "input"}
    fresh = itertools.count(1 + max(slots.values(), default=-1))
    shown_constants = {base(n) for n in order if n.kind != "elementwise" for n in (n, *n.inputs)}
    slots.update({n: next(fresh) for n in order if n.kind == "const" and n in shown_constants})
    raw: list[tuple[Kernel | None, Node | None, tuple[Node, ...], tuple[Node, ...]]] = []

    def show(node: Node) -> None:
        """Steps for the views between a stored value and ``node``."""
        chain = []
        while node.kind == "view" and node not in slots:
            chain.append(node)
            node = node.inputs[0]
        for view in reversed(chain):
            slots[view] = next(fresh)
            raw.append((None, view, view.inputs, (view,)))

    for kernel in kernels:
        for value in kernel.region.inputs:
            show(value)
        slots.update({value: next(fresh) for value in kernel.region.outputs})
        raw.append((kernel, None, kernel.region.inputs, kernel.region.outputs))
    for node in outputs:
        show(node)
    return _with_drops(raw, slots, set(outputs)), slots


def _with_drops(raw: list[Any], slots: dict[Node, int], kept: set[Node]) -> tuple[Step, ...]:
    last = {value: at for at, (_, _, ins, outs) in enumerate(raw) for value in (*ins, *outs)}
    drops: dict[int, list[int]] = {}
    for value, at in last.items():
        if value not in kept and value.kind != "const":
            drops.setdefault(at, []).append(slots[value])
    return tuple(
        Step(
            kernel,
            view,
            tuple(slots[v] for v in ins),
            tuple(slots[v] for v in outs),
            tuple(drops.get(at, ())),
        )
        for at, (kernel, view, ins, outs) in enumerate(raw)
    )


# --- names and costs ------------------------------------------------------------------------------


def value_names(order: Sequence[Node], units: Sequence[Unit]) -> dict[Node, str]:
    """``v0, v1, ...`` for inputs by slot, ``t0, t1, ...`` for stored values in the order they run."""
    names: dict[Node, str] = {}
    for unit in units:
        for value in unit.region.outputs:
            names[value] = f"t{len(names)}"
    for node in order:
        if node.kind == "input":
            names[node] = f"v{node.params[0]}"
        elif node.kind == "view":
            source = node.inputs[0]
            inner = names[source] if source in names else str(source.data)
            names[node] = f"{inner}.{node.op.name}"
    return names


def unfused_cost(outputs: Sequence[Node]) -> Cost:
    """Cost of the graph with fusion off: every op a kernel, through the same ``kernel_cost``."""
    order = topological(outputs)
    copies = store_in_order(outputs, outputs, order)  # what no plan can avoid
    stored = [copies.get(node, node) for node in outputs]
    regions = single_regions(topological(stored) if copies else order)
    buffers = plan_buffers(regions, stored)
    return total(
        kernel_cost(region.nodes, region.inputs, region.outputs, first_touch=buffer.first_touch)
        for region, buffer in zip(regions, buffers, strict=True)
    )
