"""The cache of plans: graphs that differ in their arrays alone share one.

In: nodes over the user's arrays. Out: ``Graph``, its arrays apart from its structure; a ``Program`` over
placeholders, kept from before or planned now.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from fusegraph import forks
from fusegraph.calibrate import current_machine
from fusegraph.execute import Program
from fusegraph.graph import Array, Node, topological
from fusegraph.options import Options
from fusegraph.orders import layout_key, stand_in
from fusegraph.plan import Plan, build_plan
from fusegraph.replay import replay

CACHED_PLANS = 256
# A larger graph is planned each time: its key would cost more memory than it saves.
CACHED_NODES = 4096


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph with its arrays taken out: ``key`` tells whether two graphs can share a plan."""

    nodes: list[Node]
    roots: tuple[Node, ...]
    key: tuple[Any, ...]
    arrays: list[Array]


def take_apart(roots: tuple[Node, ...]) -> Graph:
    """Walk the graph once: its arrays, and a key that equal graphs over other arrays share."""
    nodes = topological(roots)
    number = dict(zip(nodes, range(len(nodes)), strict=True))
    key: list[Any] = []
    arrays: list[Array] = []
    for node in nodes:
        if node.inputs:
            key.append((node.op.name, node.params, node.source, *[number[i] for i in node.inputs]))
        elif node.kind == "const":
            key.append((node.dtype.char, node.data.tobytes(), node.params))
        else:
            array = node.data
            if array is None:
                raise TypeError(
                    f"jit: the value of {node} is not known while a function is traced; use fg.where "
                    "instead of branching on values, or compute outside of the function"
                )
            arrays.append(array)
            key.append((array.dtype, array.shape, *layout_key(array)))
    key.append(tuple([number[root] for root in roots]))
    return Graph(nodes, roots, tuple(key), arrays)


def over_placeholders(graph: Graph) -> dict[Node, Node]:
    """The same graph over placeholders, as that of a jit function is already: old node to new node."""
    leaves = [node for node in graph.nodes if node.kind == "input" and node.data is not None]
    return replay(graph.nodes, {node: stand_in(at, node.data) for at, node in enumerate(leaves)})


class PlanCache:
    """Plans by graph key and options, least recently used out first; thread-safe."""

    def __init__(self) -> None:
        self._programs: OrderedDict[tuple[Any, ...], Program] = OrderedDict()
        self._lock = forks.lock()

    def get(self, graph: Graph, options: Options) -> Program:
        small = len(graph.nodes) <= CACHED_NODES
        key = (graph.key, options)
        with self._lock:
            program = self._programs.get(key) if small else None
            if program is not None:
                self._programs.move_to_end(key)
                return program
        image = over_placeholders(graph)
        outputs = [image[root] for root in graph.roots]
        program = Program(build_plan(outputs, options, options.machine or current_machine()))
        if small:
            with self._lock:
                self._programs[key] = program
                while len(self._programs) > CACHED_PLANS:
                    self._programs.popitem(last=False)
        return program

    def plans(self) -> list[Plan]:
        """What is cached, least recently used first."""
        with self._lock:
            return [program.plan for program in self._programs.values()]

    def clear(self) -> None:
        with self._lock:
            self._programs.clear()


PLANS = PlanCache()
