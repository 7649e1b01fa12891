"""Units: what runs as one thing, and what was decided about every value between two.

In: nodes. Out: the records that the passes of fusion give and take: ``Unit``, ``Decision`` with its
``Reason``, ``Fused``; an order in which units can run, and ``verify_units``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fusegraph.engines.base import Region
from fusegraph.graph import GraphError, Node
from fusegraph.panels import Panels
from fusegraph.properties import lazy_property
from fusegraph.views import base

ALONE = ("alone",)  # parameters of an element-wise node that must be a kernel of its own


class Reason(StrEnum):
    """Why a value is stored instead of staying in a kernel: the closed list."""

    FUSION_OFF = "fusion-off"  # options(fuse=False)
    KIND = "kind"  # producer or consumer is no element-wise op
    VIEW = "view"  # a view that could not be pushed to the leaves stands between them
    SHAPE = "shape"  # the iteration spaces differ: fusing would compute the producer again
    ENGINE = "engine"  # the two need different engines
    LIMIT = "limit"  # an engine's limit was reached
    CONVEX = "convex"  # a path leaves the region and comes back
    CACHE = "cache"  # a row of the panel does not stay in cache
    COST = "cost"  # fusing would cost more time than it saves
    FUSED = "fused"  # the value stays in the kernel
    RECOMPUTED = "recomputed"  # it is made again where it is read: that moves fewer bytes


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What happened to one edge of the graph, and why; ``bytes`` cross memory because of it."""

    producer: Node
    consumer: Node
    fused: bool
    reason: Reason
    detail: str
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One thing to run, as one kernel.

    Its region is one of element-wise nodes, of nodes of several kinds that share rows (``panels``), or
    of one node that is a kernel by itself.
    """

    region: Region
    engines: tuple[str, ...]  # that can run it, where it is element-wise
    panels: Panels | None = None  # how it is cut, where nodes share rows

    @property
    def elementwise(self) -> bool:
        return bool(self.engines) and self.panels is None


@dataclass(frozen=True, eq=False)
class Fused:
    """The graph cut into units.

    ``decide`` gives the decisions of the passes so far. They are made when they are first asked for:
    a run does not need them, and they are a twentieth of a first call.
    """

    units: tuple[Unit, ...]
    refusals: dict[Node, str]  # nodes that the named engine refused, and its reason
    decide: Callable[[], Iterable[Decision]]

    @lazy_property
    def decisions(self) -> tuple[Decision, ...]:
        """Every edge between two operations: fused, or stored and why."""
        return tuple(self.decide())


def single_regions(order: Sequence[Node]) -> list[Region]:
    """Every operation of ``order`` as a region of its own: fusion off."""
    return [single(n) for n in order if n.kind not in ("input", "const", "view")]


def single(node: Node) -> Region:
    """One operation as a region of its own."""
    reads = node.inputs  # a library call takes its operands by position, constants included
    if node.kind == "elementwise":
        reads = tuple(i for i in dict.fromkeys(reads) if i.kind != "const")
    return Region((node,), reads, (node,), node.shape)


def in_running_order(outputs: Sequence[Node], units: Sequence[Unit]) -> list[Unit]:
    """``units`` with producers before consumers."""
    return ordered(list(outputs), {node: unit for unit in units for node in unit.region.nodes})


def ordered(outputs: list[Node], unit_of: dict[Node, Unit]) -> list[Unit]:
    """Units reachable from ``outputs``, producers first, without recursion."""
    done: dict[Unit, None] = {}
    stack: list[Node | Unit] = list(reversed(outputs))
    opened: set[Unit] = set()
    while stack:
        top = stack.pop()
        if isinstance(top, Node):
            unit = unit_of.get(base(top))
            if unit is not None and unit not in opened:
                opened.add(unit)
                stack.append(unit)
                stack.extend(reversed(unit.region.inputs))
        else:
            done[top] = None
    return list(done)


def verify_units(units: Sequence[Unit]) -> None:
    """Check that every unit can run after those before it, and its nodes in their order.

    It reads only what they stored, so no path leaves a region and comes back: regions are convex.

    Raises
    ------
    GraphError
        Naming the node that is read too early.
    """
    from_units: set[Node] = set()
    for unit in units:
        _verify_region(unit.region, from_units)
        from_units.update(unit.region.outputs)


def _verify_region(region: Region, stored: set[Node]) -> None:
    """Check that a region reads what is ``stored`` and runs its nodes in order."""
    inside = set(region.nodes)
    for value in region.inputs:
        source = base(value)
        if source.kind not in ("input", "const") and source not in stored:
            raise GraphError(f"{source} is read before it is computed")
        if source in inside:
            raise GraphError(f"{source} is read by the region that computes it")
    known = set(region.inputs)
    for node in region.nodes:
        missing = [i for i in node.inputs if i not in known and i.kind != "const"]
        if missing:
            raise GraphError(f"{node} comes before its operand {missing[0]}")
        known.add(node)
