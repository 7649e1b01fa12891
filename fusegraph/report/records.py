"""Plans as plain data: dictionaries, and the answer to "why".

Everything that is printed is built from these records.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

from fusegraph.buffers import Pool
from fusegraph.graph import Node, topological
from fusegraph.kernel import Kernel, Tier
from fusegraph.plan import Plan, plan_buffers
from fusegraph.units import Decision, Reason
from fusegraph.views import base


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision with the names that the plan prints."""

    producer: str
    consumer: str
    kernel: str  # that reads the value
    fused: bool
    reason: str
    detail: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Why two values are, or are not, in one kernel."""

    fused: bool
    kernels: tuple[str, str]  # where each is computed; "" for inputs
    decisions: tuple[DecisionRecord, ...]  # edges between kernels on the way
    text: str

    def __str__(self) -> str:
        return self.text


def value_name(plan: Plan, node: Node) -> str:
    """The name of a stored value, or ``kernel:op`` of one that stays inside a kernel."""
    found = plan.names.get(node)
    if not found and node.kind == "view":
        return f"{value_name(plan, node.inputs[0])}.{node.op.name}"
    return found or f"{plan.kernel_of.get(node, '')}:{node.op.name}"


def recomputed(plan: Plan) -> list[Decision]:
    """The edges whose value is made again where it is read."""
    return [d for d in plan.decisions if d.reason is Reason.RECOMPUTED]


def decision_record(plan: Plan, decision: Decision) -> DecisionRecord:
    """A decision in the names of the plan."""
    return DecisionRecord(
        producer=value_name(plan, decision.producer),
        consumer=value_name(plan, decision.consumer),
        kernel=plan.kernel_of.get(decision.consumer, ""),
        fused=decision.fused,
        reason=str(decision.reason),
        detail=decision.detail,
        bytes=decision.bytes,
    )


def kernel_record(plan: Plan, kernel: Kernel) -> dict[str, Any]:
    """Everything that is printed of a kernel, and what else it decides."""
    return {
        "name": kernel.name,
        "engine": kernel.engine,
        "choice": kernel.choice,
        "schedule": kernel.schedule,
        "ops": list(kernel.ops),
        "shape": list(kernel.region.shape),
        "reads": list(kernel.reads),
        "writes": list(kernel.writes),
        "cost": kernel.cost.to_dict(),
        "bound": kernel.bound,
        "seconds": kernel.seconds,
        "block": kernel.block,
        "threads": kernel.threads,
        "scratch_bytes": kernel.scratch_bytes,
        "expression": kernel.expression,
        "sources": list(kernel.sources),
        "tier": tier_record(kernel.tier),
        "panels": panels_record(kernel),
        "decisions": [asdict(decision_record(plan, d)) for d in plan.cuts[kernel.name]],
    }


def tier_record(tier: Tier | None) -> dict[str, Any] | None:
    """The compiled form of a kernel, and when it takes over."""
    if tier is None:
        return None
    return {
        "engine": tier.kernel.engine,
        "call": tier.call,
        "seconds": tier.kernel.seconds,
        "saved_seconds": tier.saved_seconds,
        "compile_seconds": tier.compile_seconds,
    }


def panels_record(kernel: Kernel) -> dict[str, Any] | None:
    """The loop of a kernel in panels."""
    cut = kernel.panels
    if cut is None:
        return None
    return {
        "rows": list(cut.rows),
        "block": list(cut.block),
        "height": cut.height,
        "whole_rows": cut.whole_rows,
        "count": cut.count,
        "layout": list(cut.layout),
        "threads": kernel.threads,
        "stages": [list(stage) for stage in kernel.stages],
        "partial": [node.op.name for node in cut.partial],
    }


def value_record(plan: Plan, node: Node) -> dict[str, Any]:
    """Name, dtype and shape of a stored value."""
    return {"name": plan.names[node], "dtype": str(node.dtype), "shape": list(node.shape)}


def input_nodes(plan: Plan) -> list[Node]:
    """Placeholders of the planned graph, by slot."""
    nodes = (n for n in topological(plan.outputs) if n.kind == "input")
    return sorted(nodes, key=lambda n: int(n.params[0]))


def plan_record(plan: Plan) -> dict[str, Any]:
    """The whole plan as plain data."""
    return {
        "ops": plan.op_count,
        "inputs": [value_record(plan, node) for node in input_nodes(plan)],
        "outputs": [output_name(plan, node) for node in plan.outputs],
        "kernels": [kernel_record(plan, kernel) for kernel in plan.kernels],
        "rewrites": [
            {"rule": fired.rule, "before": fired.before, "after": fired.after}
            for fired in plan.rewritten.fired
        ],
        "not_fused": [asdict(decision_record(plan, d)) for d in plan.decisions if not d.fused],
        "recomputed": [asdict(decision_record(plan, d)) for d in recomputed(plan)],
        "traffic": plan.traffic.to_dict(),
        "peak_bytes": plan.peak_bytes,
        "peak_kernel": plan.peak_kernel,
        "seconds": plan.seconds,
        "options": {
            name: getattr(plan.options, name)
            for name in ("engine", "fuse", "exact", "threads", "memory_limit")
        },
        "machine": plan.machine.name,
    }


def output_name(plan: Plan, node: Node) -> str:
    """The name of a result; a constant is its own."""
    return plan.names.get(node) or str(node.data)


@dataclass(frozen=True, slots=True)
class BufferRecord:
    """Memory of one stored value, or of a kernel's temporaries, and how long it is held."""

    name: str
    kind: str  # result, intermediate or scratch
    bytes: int
    written_by: str
    read_last_by: str  # "" for a result: it is the caller's
    reuses: str  # the value whose memory it takes over


def buffer_records(plan: Plan) -> tuple[BufferRecord, ...]:
    """The buffers of a run in the order they are taken, over a pool that reuses released ones."""
    kept = {base(node) for node in plan.outputs}
    last = {base(v): kernel.name for kernel in plan.kernels for v in kernel.region.inputs}
    buffers = plan_buffers([kernel.region for kernel in plan.kernels], plan.outputs)
    found = []
    for kernel, buffer in zip(plan.kernels, buffers, strict=True):
        for value, old in buffer.reuses.items():
            found.append(
                BufferRecord(
                    name=plan.names[value],
                    kind="result" if value in kept else "intermediate",
                    bytes=Pool.footprint(value.nbytes),
                    written_by=kernel.name,
                    read_last_by="" if value in kept else last.get(value, kernel.name),
                    reuses="" if old is None else plan.names[old],
                )
            )
        if kernel.scratch_bytes:
            name = f"{kernel.name}:scratch"
            found.append(
                BufferRecord(name, "scratch", kernel.scratch_bytes, kernel.name, kernel.name, "")
            )
    return tuple(found)


# --- why ------------------------------------------------------------------------------------------


def why(plan: Plan, a: Node, b: Node) -> Answer:
    """Why ``a`` and ``b`` are, or are not, in one kernel."""
    first, second = plan.kernel_of.get(base(a), ""), plan.kernel_of.get(base(b), "")
    names = value_name(plan, a), value_name(plan, b)
    if first and first == second:
        return Answer(
            True, (first, second), (), f"{names[0]} and {names[1]} are both computed in {first}"
        )
    cut = _cut_between(plan, base(a), base(b))
    if cut is None:  # an empty one is a path too: its value was stored before the plan ran
        cut = _cut_between(plan, base(b), base(a))
    if cut is None:
        return Answer(False, (first, second), (), _unrelated(names, first, second))
    found = tuple(decision_record(plan, d) for d in cut)
    lines = [_cut_text(d) for d in found] or [
        f"{names[1] if first else names[0]} is an input: it is stored already"
    ]
    return Answer(False, (first, second), found, "\n".join(lines))


def _cut_text(d: DecisionRecord) -> str:
    if d.fused:
        return f"{d.producer} is made again where {d.kernel} reads it: {d.reason}: {d.detail}"
    return (
        f"{d.producer} is stored before {d.kernel or d.consumer} reads it: {d.reason}: {d.detail}"
    )


def _unrelated(names: tuple[str, str], first: str, second: str) -> str:
    if not first or not second:
        return f"{names[1] if first else names[0]} is an input or a view: no kernel computes it"
    return (
        f"{names[0]} ({first}) and {names[1]} ({second}) do not depend on each other, "
        "and read no value of one shape in common"
    )


def _cut_between(plan: Plan, a: Node, b: Node) -> list[Decision] | None:
    """The edges between kernels on a path from ``a`` down to ``b``; None where there is no path."""
    came_from: dict[Node, Node | None] = {b: None}
    stack = [b]
    while stack and a not in came_from:
        node = stack.pop()
        for operand in node.inputs:
            if operand not in came_from:
                came_from[operand] = node
                stack.append(operand)
    if a not in came_from:
        return None
    path, node = [a], a
    while (consumer := came_from[node]) is not None:
        node = consumer
        if node.kind != "view":  # a decision is about two operations, whatever views lie between
            path.append(node)
    cuts = {(d.producer, d.consumer): d for d in plan.decisions if _apart(d)}
    return [cuts[edge] for edge in itertools.pairwise(path) if edge in cuts]


def _apart(decision: Decision) -> bool:
    """Are the two operations in two kernels? So they are where one makes the value again."""
    return not decision.fused or decision.reason is Reason.RECOMPUTED
