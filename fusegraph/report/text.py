"""Plans as text and HTML: a header, a row a kernel, then what was not fused and why.

Every figure is modelled unless it says "measured"; the text depends on the plan alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from html import escape

from fusegraph.expression import constant_text
from fusegraph.graph import Node, topological
from fusegraph.kernel import Kernel, Tier
from fusegraph.plan import Plan
from fusegraph.report.records import (
    buffer_records,
    decision_record,
    input_nodes,
    panels_record,
    recomputed,
)  # fmt: skip
from fusegraph.report.tables import table
from fusegraph.report.units import bytes_text, count_text, plural, seconds_text

SHOWN = 40  # kernels, decisions or nodes; what is left out is counted
LISTED = 4  # operations of a stage
WIDTH = 200  # characters of an expression in a row

COLUMNS = (
    "kernel", "engine", "schedule", "ops", "reads", "writes", "flops", "flop/byte", "bound", "predicted",
)  # fmt: skip


def summary(plan: Plan) -> str:
    """Operations and kernels."""
    return f"plan: {plural(plan.op_count, 'op')} in {plural(len(plan.kernels), 'kernel')}"


def header(plan: Plan) -> list[str]:
    """What the plan does to the whole graph."""
    before, after = plan.traffic.before, plan.traffic.after
    flops = f"{count_text(after.flops)} flop{'' if after.flops == 1 else 's'}"
    saved = plan.traffic.saved_bytes / before.bytes_moved if before.bytes_moved else 0.0
    return [
        summary(plan),
        f"  moved      {bytes_text(before.bytes_moved)} before, {bytes_text(after.bytes_moved)} after: "
        f"{plan.traffic.ratio:.1f}x less ({saved:.1%} saved)",
        f"  pages      {bytes_text(before.bytes_first_touch)} mapped before, "
        f"{bytes_text(after.bytes_first_touch)} after",
        f"  work       {flops}, {count_text(after.transcendentals)} of them "
        f"transcendental; {before.arithmetic_intensity:.2f} flop/byte before, "
        f"{after.arithmetic_intensity:.2f} after",
        f"  peak       {bytes_text(plan.peak_bytes)} beside the inputs",
        f"  predicted  {seconds_text(plan.seconds)} on {plan.machine.name}",
    ]


def kernel_row(kernel: Kernel) -> tuple[str, ...]:
    """One kernel under ``COLUMNS``."""
    cost = kernel.cost
    return (
        kernel.name, kernel.engine, kernel.schedule, f"{len(kernel.ops):,}",
        bytes_text(cost.bytes_read), bytes_text(cost.bytes_written), count_text(cost.flops),
        f"{cost.arithmetic_intensity:.2f}", kernel.bound, seconds_text(kernel.seconds),
    )  # fmt: skip


def kernel_table(plan: Plan, tablefmt: str = "plain") -> str:
    """A row a kernel."""
    rows = [kernel_row(k) for k in plan.kernels[:SHOWN]]
    return table(rows, COLUMNS, "lllrrrrrlr", tablefmt)


def _short(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 4]} ..."


def expressions(plan: Plan) -> list[str]:
    """What each kernel computes, and why this engine."""
    lines = []
    for kernel in plan.kernels[:SHOWN]:
        lines.append(f"  {kernel.name}: {_short(kernel.expression)}")
        lines.append(f"      {kernel.engine}: {kernel.choice}")
        if kernel.panels:
            lines.append(f"      {loop_text(kernel)}")
        if kernel.tier:
            lines.append(f"      then {tier_text(kernel.tier)}")
        if kernel.sources:
            lines.append(f"      from {', '.join(kernel.sources)}")
    return [*lines, *_left_out(len(plan.kernels), "kernel")]


def loop_text(kernel: Kernel) -> str:
    """A kernel in panels as the loop that it is."""
    loop = panels_record(kernel)
    assert loop is not None
    rows = loop["whole_rows"]
    size = plural(loop["height"], "element") if rows is None else plural(rows, "row")
    stages = "; ".join(map(_stage_text, loop["stages"]))
    combined = f"; then combine {', '.join(loop['partial'])}" if loop["partial"] else ""
    return (
        f"for {plural(loop['count'], 'panel')} of {size} on "
        f"{plural(loop['threads'], 'thread')}: {stages}{combined}"
    )


def _stage_text(ops: list[str]) -> str:
    """Operations that loop together; of many, the first and the last."""
    if len(ops) <= LISTED:
        return ", ".join(ops)
    return f"{ops[0]}, ..., {ops[-1]}"


def tier_text(tier: Tier) -> str:
    """When a compiled form takes over, and what that saves."""
    return (
        f"{tier.kernel.engine}: from call {tier.call:,} on, which saves "
        f"{seconds_text(tier.saved_seconds)} a call after {seconds_text(tier.compile_seconds)} "
        "of compiling"
    )


def _left_out(count: int, noun: str) -> list[str]:
    return [f"  ... and {plural(count - SHOWN, noun)} more"] if count > SHOWN else []


def not_fused(plan: Plan) -> list[str]:
    """Every edge that stayed cut, with its reason, and every value that is made again instead."""
    return [*_cut(plan), *_made_again(plan)]


def _made_again(plan: Plan) -> list[str]:
    again = recomputed(plan)
    lines = ["", "made again instead of stored:"] if again else []
    for decision in again[:SHOWN]:
        d = decision_record(plan, decision)
        lines.append(f"  {d.producer} for {d.consumer}: {d.detail}")
    return [*lines, *_left_out(len(again), "value")]


def _cut(plan: Plan) -> list[str]:
    cut = [d for d in plan.decisions if not d.fused]
    if not cut:
        return ["not fused: nothing"]
    lines = ["not fused:"]
    for decision in cut[:SHOWN]:
        d = decision_record(plan, decision)
        to = d.kernel or d.consumer
        lines.append(
            f"  {d.producer} -> {to}: {d.reason}: {d.detail} ({bytes_text(d.bytes)} stored)"
        )
    return [*lines, *_left_out(len(cut), "edge")]


def inputs_line(plan: Plan) -> str:
    """Names, dtypes and shapes of the inputs."""
    nodes = input_nodes(plan)
    shown = [f"{plan.names[n]}:{n.dtype}{list(n.shape)}" for n in nodes[:SHOWN]]
    more = f", ... {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
    return f"inputs: {', '.join(shown) or 'none'}{more}"


def plan_text(plan: Plan) -> str:
    """The plan as ``print`` shows it."""
    lines = [*header(plan), "", inputs_line(plan)]
    if plan.kernels:
        lines += ["", kernel_table(plan), "", "computes:", *expressions(plan)]
    return "\n".join([*lines, "", *not_fused(plan)])


def plan_html(plan: Plan) -> str:
    """The plan as a notebook shows it."""
    head = "<br>".join(escape(line.strip()) for line in header(plan))
    rest = "<br>".join(escape(line) for line in [*expressions(plan), *not_fused(plan)])
    return f"<div><p>{head}</p>{kernel_table(plan, 'html')}<p>{rest}</p></div>"


# --- stages ---------------------------------------------------------------------------------------


def typed_lines(outputs: tuple[Node, ...]) -> list[str]:
    """A graph as one line a node: ``n2:float32[4] = multiply(n0, 0.5)``."""
    order = [n for n in topological(outputs) if n.kind != "const"]
    name = {node: f"n{at}" for at, node in enumerate(order)}

    def shown(node: Node) -> str:
        return constant_text(node) if node.kind == "const" else name[node]

    lines = []
    for node in order[:SHOWN]:
        args = [shown(i) for i in node.inputs]
        if node.kind == "input":
            args.append(f"v{node.params[0]}")
        elif node.params:
            args += [str(p) for p in node.params]
        source = f"  # {node.source}" if node.source else ""
        lines.append(
            f"  {name[node]}:{node.dtype}{list(node.shape)} = {node.op.name}({', '.join(args)}){source}"
        )
    return [*lines, *_left_out(len(order), "node"), f"  return {', '.join(map(shown, outputs))}"]


def graph_text(plan: Plan) -> str:
    """The graph as the user wrote it."""
    return "\n".join(["graph:", *typed_lines(plan.graph)])


def rewritten_text(plan: Plan) -> str:
    """The graph after rewriting, and the rules that fired."""
    fired = plan.rewritten.fired
    title = "rules that fired:" if fired else "no rule fired"
    lines = ["rewritten:", *typed_lines(plan.outputs), title]
    lines += [f"  {count}x {rule}" for rule, count in Counter(f.rule for f in fired).items()]
    for one in fired[:SHOWN]:
        lines.append(f"    {one.rule}: {one.before} -> {one.after}")
    return "\n".join([*lines, *_left_out(len(fired), "rule")])


def fused_text(plan: Plan) -> str:
    """The operations of each kernel, and the edges that stayed cut."""
    lines = ["fused:"]
    for kernel in plan.kernels[:SHOWN]:
        more = f", ... {len(kernel.ops) - SHOWN:,} more" if len(kernel.ops) > SHOWN else ""
        ops = ", ".join(kernel.ops[:SHOWN]) + more
        lines.append(f"  {kernel.name}{list(kernel.region.shape)}: {ops}")
    return "\n".join([*lines, *_left_out(len(plan.kernels), "kernel"), *not_fused(plan)])


def buffers_text(plan: Plan) -> str:
    """What memory a run takes, for how long, and whose it takes over."""
    rows = [
        (b.name, b.kind, bytes_text(b.bytes), b.written_by, b.read_last_by, b.reuses)
        for b in buffer_records(plan)[:SHOWN]
    ]
    headers = ("buffer", "kind", "bytes", "written by", "read last by", "memory of")
    held = bytes_text(plan.peak_bytes)
    return f"buffers: at most {held} at once\n{table(rows, headers, 'llrlll')}"


STAGES: dict[str, Callable[[Plan], str]] = {
    "graph": graph_text,
    "rewritten": rewritten_text,
    "fused": fused_text,
    "planned": plan_text,
    "buffers": buffers_text,
}


def explain(plan: Plan, stage: str) -> str:
    """Text of one stage.

    Raises
    ------
    ValueError
        There is no such stage.
    """
    if stage not in STAGES:
        raise ValueError(f"explain: stage={stage!r}: choose one of {', '.join(STAGES)}")
    return STAGES[stage](plan)
