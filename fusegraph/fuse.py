"""The fusion pass: which nodes share one pass over memory, and why the others do not.

In: the outputs of a graph and the engines allowed. Out: units in an order that can run (a ``Region``
or a single node each) and a ``Decision`` for every edge whose value is stored.

Nodes are taken consumers first, and a producer joins the region of its consumers. Every unit has a
level: along an edge that stays cut the level falls, so two units of one level have no path between
them, and a node may join a region when that keeps the rule (the region may be lifted while nothing
that feeds it is in the way). This keeps regions convex and the pass linear in the graph. Legality is
a ladder of early returns; the first rung that fails is the recorded reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fusegraph.engines import ELEMENTWISE_ENGINES, FALLBACK
from fusegraph.engines.base import Engine, Extent, Region
from fusegraph.graph import GraphError, Node, Shape, consumers
from fusegraph.units import (
    ALONE,
    Decision,
    Fused,
    Reason,
    Unit,
    ordered,
    single,
    single_regions,
)


def fuse(
    outputs: Sequence[Node],
    order: Sequence[Node],
    engine: str,
    enabled: bool = True,
    exact: bool = False,
) -> Fused:
    """Cut the graph below ``outputs`` into units.

    Parameters
    ----------
    outputs : sequence of Node
    order : sequence of Node
        Every node below ``outputs``, producers first.
    engine : str
        ``auto`` or the name of an element-wise engine: the engines that a region may need.
    enabled : bool
        False keeps every node a kernel of its own.
    exact : bool
        Only engines whose results are NumPy's bits.
    """
    if not enabled:
        return _apart(order, engine, exact)
    return _Pass(outputs, order, engine, exact).run()


@dataclass(slots=True, eq=False)
class _Growing:
    """A region while it grows. ``merged`` points to the region that took it over."""

    level: int
    shape: Shape
    engines: frozenset[str]
    members: list[Node] = field(default_factory=list)
    # Values its members read and that are not members (yet): going against the edges, this is also
    # the set of values alive at this point of the program, so its peak bounds the registers needed.
    frontier: set[Node] = field(default_factory=set)
    constants: set[Node] = field(default_factory=set)
    outputs: int = 0
    live: int = 0
    floor: float = math.inf  # lowest level of a unit that feeds it
    feeds_rows: bool = False  # a reduction or product reads it: the row pass finds its siblings
    merged: _Growing | None = None

    def extent_with(self, node: Node, stored: bool) -> Extent:
        """The extent if ``node`` joined. A frontier value may end as an input, so it counts as one."""
        fresh = {*node.inputs} - self.frontier - self.constants
        alive = len(self.frontier) - (node in self.frontier) + len(fresh)
        constants = len(self.constants)
        for operand in fresh:
            if operand.kind == "const":
                alive, constants = alive - 1, constants + 1
        return Extent(alive, constants, self.outputs + stored, max(self.live, alive + 1))


class _Offer(NamedTuple):
    """What it would mean for a node to join a region."""

    level: int  # lowest level above every consumer outside of the region
    stored: bool  # is the value needed outside of the region?
    extent: Extent


def _resolved(region: _Growing) -> _Growing:
    while region.merged is not None:
        region = region.merged
    return region


def _latest_last(homes: list[_Growing | None]) -> list[_Growing]:
    """Regions, once each, the latest to run last."""
    regions = [home for home in homes if home is not None]
    if len(regions) < 2 or regions.count(regions[0]) == len(regions):
        return regions[:1]
    return sorted(dict.fromkeys(regions), key=lambda r: -r.level)


def _merge_extent(a: _Growing, b: _Growing) -> Extent:
    return Extent(
        len(a.frontier | b.frontier),
        len(a.constants | b.constants),
        a.outputs + b.outputs,
        a.live + b.live,
    )


class _Acceptance:
    """Which engines accept a node, and why one does not; asked once a kind (op and dtypes)."""

    def __init__(self, engine: str, exact: bool) -> None:
        names = ELEMENTWISE_ENGINES if engine == "auto" else (engine,)
        self.candidates = [ELEMENTWISE_ENGINES[name] for name in names]
        self.exact = exact
        self.refusals: dict[Node, str] = {}
        self.accepted: dict[Any, tuple[frozenset[str], str | None]] = {}

    def engines_for(self, node: Node) -> frozenset[str]:
        """The engines that accept a node: those asked for, or the fallback with the reason."""
        kind = (node.op, node.dtype, *[i.dtype for i in node.inputs])
        known = self.accepted.get(kind)
        if known is None:
            refusals = {e.name: self.engine_refuses(e, node) for e in self.candidates}
            names = frozenset(name for name, reason in refusals.items() if reason is None)
            reason = next((r for r in refusals.values() if r is not None), None)
            known = self.accepted[kind] = (names or frozenset({FALLBACK}), reason)
        if known[1] is not None:
            self.refusals[node] = known[1]
        return known[0]

    def engine_refuses(self, engine: Engine, node: Node) -> str | None:
        if self.exact and node.op.ulp and engine.name != FALLBACK:
            return f"{engine.name}'s {node.op.name} is not bit-identical to NumPy's"
        return engine.refuses(node)


class _Pass:
    def __init__(
        self, outputs: Sequence[Node], order: Sequence[Node], engine: str, exact: bool
    ) -> None:
        self.outputs = set(outputs)
        self.order = order
        self.consumers = consumers(self.order)
        self.acceptance = _Acceptance(engine, exact)
        self.region_of: dict[Node, _Growing] = {}
        self.level: dict[Node, int] = {}  # of nodes in no region
        self.why: dict[tuple[Node, _Growing], tuple[Reason, str]] = {}

    def run(self) -> Fused:
        for node in reversed(self.order):
            if node.kind == "elementwise":
                self.place(node)
            else:
                self.place_alone(node)
        self.region_of = {node: _resolved(region) for node, region in self.region_of.items()}
        return Fused(tuple(self.units()), self.acceptance.refusals, self.decisions)

    # --- levels -----------------------------------------------------------------------------------

    def unit_level(self, node: Node) -> int:
        region = self.region_of.get(node)
        return self.level[node] if region is None else _resolved(region).level

    def above_consumers(self, node: Node) -> int:
        """Lowest level that is above every consumer of ``node``."""
        return max((self.unit_level(c) for c in self.consumers[node]), default=-1) + 1

    def homes(self, node: Node) -> list[_Growing | None]:
        """The region of each consumer of ``node``; None for one that is in no region."""
        regions = map(self.region_of.get, self.consumers[node])
        return [r if r is None or r.merged is None else _resolved(r) for r in regions]

    def feed(self, own: _Growing | None, homes: list[_Growing | None], level: int) -> None:
        """Tell the regions that read a node, but its ``own``, that a unit of ``level`` feeds them."""
        for region in homes:
            if region is not None and region is not own and region.floor > level:
                region.floor = level

    # --- placing ----------------------------------------------------------------------------------

    def place_alone(self, node: Node) -> None:
        """A node that is no element-wise op: a unit of its own."""
        if node.kind != "const":
            self.join_siblings(node)
            self.level[node] = self.above_consumers(node)
            self.feed(None, self.homes(node), self.level[node])

    def place(self, node: Node) -> None:
        """An element-wise node: into the first region of its consumers that may take it."""
        engines = self.acceptance.engines_for(node)
        self.join_siblings(node)
        homes = self.homes(node)
        for region in _latest_last(homes):
            offer = self.offer(node, region, homes)
            able = _able(engines & region.engines, offer.extent)
            failed = self.refusal_to_join(node, engines, region, offer, able)
            if failed is None:
                region.level = max(region.level, offer.level)
                region.engines = able
                self.add(node, region, offer.stored)
                break
            self.why[node, region] = failed
        else:
            region = _Growing(self.above_consumers(node), node.shape, engines)
            self.add(node, region, True)
        self.feed(region, homes, region.level)

    def offer(self, node: Node, region: _Growing, homes: list[_Growing | None]) -> _Offer:
        level, stored = 0, node in self.outputs
        for consumer, home in zip(self.consumers[node], homes, strict=True):
            if home is not region:
                level, stored = max(level, self.unit_level(consumer) + 1), True
        return _Offer(level, stored, region.extent_with(node, stored))

    def refusal_to_join(
        self,
        node: Node,
        engines: frozenset[str],
        region: _Growing,
        offer: _Offer,
        able: frozenset[str],
    ) -> tuple[Reason, str] | None:
        """The ladder for a node and a region that reads it: why it may not join, or None.

        ``able`` are the engines of both whose limits the region would keep.
        """
        if node.params == ALONE or region.members[0].params == ALONE:
            return Reason.FUSION_OFF, "fusion is off for this operation"
        if node.shape != region.shape:
            times = math.prod(region.shape) // max(1, node.size)
            return Reason.SHAPE, (
                f"{list(node.shape)} is broadcast to {list(region.shape)}: fusing would compute "
                f"each element {times} times"
            )
        if not engines & region.engines:
            names = "/".join(sorted(region.engines))
            detail = self.acceptance.refusals.get(node) or f"the consumer runs on {names} only"
            return Reason.ENGINE, detail
        if region.level < offer.level and region.floor <= offer.level:
            views = [c.op.name for c in self.consumers[node] if c.kind == "view"]
            if views:
                return Reason.VIEW, f"it is read through {views[0]} too, which shows a stored value"
            return Reason.CONVEX, "another kernel between them needs the value first"
        return None if able else _limit(engines & region.engines, offer.extent)

    def add(self, node: Node, region: _Growing, stored: bool) -> None:
        self.region_of[node] = region
        region.members.append(node)
        if stored and not region.feeds_rows:
            region.feeds_rows = any(c.kind in ("reduce", "matmul") for c in self.consumers[node])
        region.outputs += stored
        region.frontier.discard(node)
        for operand in node.inputs:
            (region.constants if operand.kind == "const" else region.frontier).add(operand)
        region.live = max(region.live, len(region.frontier) + 1)

    def is_stored(self, node: Node, region: _Growing) -> bool:
        """Is the value of a member needed outside of its region? Asked when regions are final."""
        readers = {self.region_of.get(consumer) for consumer in self.consumers[node]}
        return node in self.outputs or readers != {region}

    # --- regions that read one value --------------------------------------------------------------

    def join_siblings(self, node: Node) -> None:
        """Regions that read one stored value share the pass, where that saves reading it again."""
        if len(self.consumers[node]) < 2:
            return
        found = _latest_last(self.homes(node))
        regions = [r for r in found if r.shape == node.shape and not r.feeds_rows]
        for before, region in itertools.pairwise(regions):
            home = _resolved(before)
            if self.may_merge(home, region):
                self.merge(home, region)

    def may_merge(self, home: _Growing, other: _Growing) -> bool:
        """May two regions of one shape be one? ``home`` has the higher level."""
        if any(r.members[0].params == ALONE for r in (home, other)):
            return False
        top = max(home.level, other.level)
        if any(r.level < top and r.floor <= top for r in (home, other)):
            return False  # another kernel between them needs the value first
        return bool(_able(home.engines & other.engines, _merge_extent(home, other)))

    def merge(self, home: _Growing, other: _Growing) -> None:
        extent = _merge_extent(home, other)
        home.engines = _able(home.engines & other.engines, extent)
        home.level = max(home.level, other.level)
        home.floor = min(home.floor, other.floor)
        home.feeds_rows = home.feeds_rows or other.feeds_rows
        home.live = extent.live
        small, large = sorted((home.members, other.members), key=len)
        large.extend(small)
        home.members = large
        home.frontier |= other.frontier
        home.constants |= other.constants
        home.outputs = extent.outputs
        other.merged = home

    # --- results ----------------------------------------------------------------------------------

    def units(self) -> list[Unit]:
        """Units in an order that can run: depth first over the cut graph, producers first."""
        position = {node: at for at, node in enumerate(self.order)}
        unit_of: dict[Node, Unit] = {}
        built: dict[_Growing, Unit] = {}
        for node in self.order:
            region = self.region_of.get(node)
            if region is not None:
                if region not in built:
                    built[region] = self.finish(region, position)
                unit_of[node] = built[region]
            elif node.kind not in ("input", "const", "view"):
                unit_of[node] = Unit(single(node), ())
        return ordered([node for node in self.order if node in self.outputs], unit_of)

    def finish(self, region: _Growing, position: dict[Node, int]) -> Unit:
        members = sorted(region.members, key=position.__getitem__)
        stored = [n for n in members if self.is_stored(n, region)]
        engines = tuple(sorted(region.engines))
        if not engines:
            raise GraphError(f"no engine is left for the region of {members[-1]}")
        return Unit(Region.of(members, stored, region.shape), engines)

    def decisions(self) -> list[Decision]:
        found = []
        for producer, consumer in value_edges(self.order, self.consumers):
            home = self.region_of.get(producer)
            inside = home is not None and self.region_of.get(consumer) is home
            reason, detail = (Reason.FUSED, "") if inside else self.cut_reason(producer, consumer)
            moved = 0 if inside else producer.nbytes
            found.append(Decision(producer, consumer, inside, reason, detail, moved))
        return found

    def cut_reason(self, producer: Node, consumer: Node) -> tuple[Reason, str]:
        for node in (producer, consumer):
            if node.kind != "elementwise":
                return Reason.KIND, f"{node.op.name} is a kernel of its own"
        if producer not in consumer.inputs:
            names = " and ".join(i.op.name for i in consumer.inputs if i.kind == "view")
            return (
                Reason.VIEW,
                f"it is read through {names}, which could not be moved to the leaves",
            )
        region, home = self.region_of[consumer], self.region_of[producer]
        return (
            self.why.get((producer, region))
            or self.joining_later(producer, home, region)
            or (Reason.CONVEX, "the value is stored for another kernel")
        )

    def joining_later(
        self, node: Node, home: _Growing, region: _Growing
    ) -> tuple[Reason, str] | None:
        """Why a node, which is in ``home`` now, could not have joined a region that reads it."""
        offer = self.offer(node, region, self.homes(node))
        able = _able(home.engines & region.engines, offer.extent)
        return self.refusal_to_join(node, home.engines, region, offer, able)


def _apart(order: Sequence[Node], engine: str, exact: bool) -> Fused:
    """Fusion off: every operation a unit, every value stored."""
    acceptance = _Acceptance(engine, exact)
    units = [
        Unit(region, tuple(sorted(acceptance.engines_for(region.nodes[0]))))
        if region.nodes[0].kind == "elementwise"
        else Unit(region, ())
        for region in single_regions(order)
    ]
    return Fused(
        tuple(units),
        acceptance.refusals,
        lambda: (
            Decision(a, b, False, Reason.FUSION_OFF, "fusion is off", a.nbytes)
            for a, b in value_edges(order, consumers(order))
        ),
    )


def value_edges(
    order: Sequence[Node], readers: dict[Node, list[Node]]
) -> Iterator[tuple[Node, Node]]:
    """Pairs of an operation and an operation that reads its value, directly or through views."""
    for producer in order:
        if producer.kind in ("input", "const", "view"):
            continue
        pending, seen = readers[producer][::-1], set()
        while pending:
            consumer = pending.pop()
            if consumer.kind == "view":
                pending.extend(reversed(readers[consumer]))
            elif consumer not in seen:
                seen.add(consumer)
                yield producer, consumer


def _able(engines: frozenset[str], extent: Extent) -> frozenset[str]:
    over = [e for e in engines if ELEMENTWISE_ENGINES[e].limit(extent) is not None]
    return engines.difference(over) if over else engines


def _limit(engines: frozenset[str], extent: Extent) -> tuple[Reason, str]:
    """The limits that none of ``engines`` keeps."""
    reasons = [ELEMENTWISE_ENGINES[e].limit(extent) for e in sorted(engines)]
    return Reason.LIMIT, "; ".join(str(reason) for reason in reasons)
