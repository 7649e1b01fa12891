"""Plans as graphs for analysis and for Graphviz: a node for each operation, or for each kernel."""

from __future__ import annotations

from typing import Any

import networkx as nx

from fusegraph.graph import Node, topological
from fusegraph.plan import Plan
from fusegraph.report.records import input_nodes
from fusegraph.views import base


def node_graph(plan: Plan) -> nx.MultiDiGraph[Any]:
    """The rewritten graph: a MultiDiGraph, because ``x * x`` has two edges from one node.

    Nodes are numbered in topological order and carry ``op, shape, dtype, kernel, source``; edges
    carry ``operand``, the position of the argument.
    """
    graph: nx.MultiDiGraph[Any] = nx.MultiDiGraph()
    number: dict[Node, int] = {}
    for node in topological(plan.outputs):
        number[node] = len(number)
        graph.add_node(
            number[node],
            op=node.op.name,
            shape=node.shape,
            dtype=str(node.dtype),
            kernel=plan.kernel_of.get(node, ""),
            source=node.source,
        )
        for position, operand in enumerate(node.inputs):
            graph.add_edge(number[operand], number[node], operand=position)
    return graph


def kernel_graph(plan: Plan) -> nx.MultiDiGraph[Any]:
    """Kernels and inputs as nodes; an edge for each value that one writes and another reads."""
    graph: nx.MultiDiGraph[Any] = nx.MultiDiGraph()
    written: dict[Node, str] = {}
    for node in input_nodes(plan):
        name = plan.names[node]
        graph.add_node(
            name, op="input", shape=node.shape, dtype=str(node.dtype), kernel="", source=""
        )
        written[node] = name
    for kernel in plan.kernels:
        stored = kernel.region.outputs[0]
        graph.add_node(
            kernel.name,
            op=", ".join(kernel.ops[:4]) + (", ..." if len(kernel.ops) > 4 else ""),
            shape=stored.shape,
            dtype=str(stored.dtype),
            kernel=kernel.name,
            source=", ".join(kernel.sources),
            engine=kernel.engine,
        )
        for value in kernel.region.inputs:
            if base(value) in written:
                graph.add_edge(written[base(value)], kernel.name, value=plan.names[value])
        written.update(dict.fromkeys(kernel.region.outputs, kernel.name))
    return graph


def dot_text(graph: nx.MultiDiGraph[Any]) -> str:
    """Graphviz text of such a graph; nodes of one kernel share a cluster."""
    lines = ["digraph fusegraph {", "  node [shape=box];"]
    clusters: dict[str, list[str]] = {}
    for number, facts in graph.nodes(data=True):
        label = f"{facts['op']}\\n{facts['dtype']} {list(facts['shape'])}"
        clusters.setdefault(facts["kernel"], []).append(f'n{number} [label="{label}"];')
    for kernel, members in clusters.items():
        if kernel:
            lines.append(f'  subgraph "cluster_{kernel}" {{ label="{kernel}";')
        lines += [f"  {'  ' if kernel else ''}{member}" for member in members]
        if kernel:
            lines.append("  }")
    lines += [f"  n{a} -> n{b};" for a, b in graph.edges()]
    return "\n".join([*lines, "}"])
