"""The recompute pass: a value that is cheap to make is made again where that moves fewer bytes.

In: the units of the fusion and the row pass. Out: the same, where some values are computed in every unit
that reads them and stored by none. ``x - x.mean()`` is needed before and after its deviation is known:
stored, it is written once and read once; made again, ``x`` is read instead.

Only arithmetic is made again whose bits are NumPy's on every engine, so the copies are equal, and only
from what is in memory anyway. Inside one kernel a value is still computed once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from fusegraph.cost import kernel_cost
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.engines.base import Region
from fusegraph.graph import Node
from fusegraph.report.units import plural
from fusegraph.units import ALONE, Decision, Fused, Reason, Unit
from fusegraph.views import base

CHEAP = ("move", "add", "multiply", "compare", "select")  # classes of operations
MOST_OPERATIONS = 4  # of a value: so many take less time than the bytes of a result


def recompute(fused: Fused, outputs: Sequence[Node], order: Sequence[Node]) -> Fused:
    """Make values again instead of storing them.

    Parameters
    ----------
    fused : Fused
    outputs, order : sequence of Node
        Results, which are stored in any case, and every node below them, producers first.
    """
    if len(fused.units) < 2:
        return fused
    position = {node: at for at, node in enumerate(order)}
    units = list(fused.units)
    kept = {base(node) for node in outputs}
    made: dict[Node, str] = {}  # values that are made again, and what that saves
    readers: dict[Node, dict[int, None]] = {}  # places of the units that read a value, or did
    for at, unit in enumerate(units):
        _read(unit, at, readers)
    for at in range(len(units)):
        for value in units[at].region.outputs:
            nodes = None if value in kept else _made_of(value, units[at].region)
            changed = _without(value, nodes, units, at, readers, position) if nodes else {}
            saved = sum(_bytes_moved(units[k]) - _bytes_moved(unit) for k, unit in changed.items())
            if nodes and saved > 0:
                made[value] = f"{plural(len(nodes), 'operation')} and {saved:,} bytes less"
                for place, unit in changed.items():
                    units[place] = unit
                    _read(unit, place, readers)
    if not made:
        return fused
    return replace(
        fused,
        units=tuple(unit for unit in units if unit.region.outputs),
        decide=lambda: (_revised(decision, made) for decision in fused.decisions),
    )


def _read(unit: Unit, place: int, readers: dict[Node, dict[int, None]]) -> None:
    """Note what the unit at a place reads."""
    for value in unit.region.inputs:
        readers.setdefault(base(value), {})[place] = None


def _made_of(value: Node, region: Region) -> list[Node] | None:
    """The operations that make a value from what is in memory, or None where they are not cheap.

    All are of its shape: what a row or a column shares is no part of a loop over elements.
    """
    found: dict[Node, None] = {}
    stored = {*region.inputs, *region.outputs} - {value}
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if node in found or node in stored or node.kind == "const":
            continue
        plain = node.kind == "elementwise" and not node.op.ulp and node.params != ALONE
        plain = plain and node.shape == value.shape
        if not plain or node.op.flop_class not in CHEAP or len(found) == MOST_OPERATIONS:
            return None
        found[node] = None
        waiting += node.inputs
    return [node for node in region.nodes if node in found]


def _without(
    value: Node,
    nodes: list[Node],
    units: Sequence[Unit],
    at: int,
    readers: dict[Node, dict[int, None]],
    position: dict[Node, int],
) -> dict[int, Unit]:
    """The units that change where ``value`` is made again, by place; none where one cannot make it."""
    changed = {at: _storing_less(units[at], value)}
    for place in sorted(readers.get(value, ())):
        reader = units[place]
        if place != at and any(base(i) is value for i in reader.region.inputs):
            unit = _making(reader, value, nodes, units[at], position)
            if unit is None:
                return {}
            changed[place] = unit
    return changed


def _bytes_moved(unit: Unit) -> int:
    region = unit.region
    return kernel_cost((), region.inputs, region.outputs).bytes_moved if region.outputs else 0


def _storing_less(unit: Unit, value: Node) -> Unit:
    """A unit that keeps ``value`` to itself; without outputs where it stored nothing else."""
    region = unit.region
    outputs = [node for node in region.outputs if node is not value]
    return replace(unit, region=Region.of(_needed(region.nodes, outputs), outputs, region.shape))


def _needed(nodes: Sequence[Node], outputs: Collection[Node]) -> list[Node]:
    """The nodes that the outputs depend on, in order."""
    wanted = set(outputs)
    for node in reversed(nodes):
        if node in wanted:
            wanted.update(node.inputs)
    return [node for node in nodes if node in wanted]


def _making(
    unit: Unit, value: Node, nodes: list[Node], source: Unit, position: dict[Node, int]
) -> Unit | None:
    """A unit that makes ``value`` itself, as ``source`` does; None where it cannot."""
    region = unit.region
    if value not in region.inputs:
        return None  # it reads a view of it
    if any(n.kind not in ("elementwise", "reduce") or n.params == ALONE for n in region.nodes):
        return None  # the right side of a product is read whole, and some are to stay alone
    if not (unit.elementwise or unit.panels) or value.shape != region.shape:
        return None
    inside = {*nodes, *region.nodes}
    members = sorted(inside, key=position.__getitem__)
    made = Region.of(members, region.outputs, region.shape)
    if any(base(i) in inside for i in made.inputs):
        return None  # a view of what is made here was stored
    # An engine that was asked for keeps what it can run.
    common = [e for e in unit.engines if e in source.engines or not source.elementwise]
    engines = tuple(_able(common, made, nodes))
    if unit.elementwise and not engines:
        return None
    return replace(unit, region=made, engines=engines if unit.elementwise else unit.engines)


def _able(engines: Sequence[str], region: Region, nodes: Sequence[Node]) -> Iterator[str]:
    """The engines that run ``nodes`` too, within their limits."""
    extent = region.extent
    for name in engines:
        engine = ELEMENTWISE_ENGINES[name]
        if engine.limit(extent) is None and not any(engine.refuses(n) for n in nodes):
            yield name


def _revised(decision: Decision, made: dict[Node, str]) -> Decision:
    """A decision about an edge whose value is not stored any more."""
    detail = made.get(decision.producer)
    if detail is None or decision.fused:
        return decision
    return replace(decision, fused=True, reason=Reason.RECOMPUTED, detail=detail, bytes=0)
