"""The row pass: units that can run together while a block of rows stays in cache.

In: the units of the fusion pass. Out: the same, with units merged that share rows: element-wise
regions, reductions, and products whose right side is fixed while rows pass. A merged unit runs in
panels: blocks of rows whose every temporary stays in the cache, so softmax, layer norm or attention
read their inputs once and write their result once, and a reduction reads what its producers read.

Values are aligned by their axes, and the rows of a group are the leading axes that all of its units
have in full. A reduction whose value is read inside must be complete in a panel, so its axes are not
cut; one that is only stored may be put together from partial results.

Units are taken last first. Units that read one value join each other, and its producer joins them.
Legality is a ladder of early returns; the first rung that fails is the reason.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from fusegraph.cost import kernel_cost
from fusegraph.engines import FALLBACK
from fusegraph.engines.base import Region
from fusegraph.engines.reductions import has_partials, reorders
from fusegraph.graph import Node, Shape, iteration_space, reduced_axes
from fusegraph.machine import Machine
from fusegraph.members import Members
from fusegraph.orders import Order, is_row_major
from fusegraph.panels import (
    FEWEST_FOR_BLAS,
    NARROW,
    Panels,
    axes_to_cut,
    first_reduced,
    lay_panels,
    partial_bytes,
    product_cache,
)
from fusegraph.row_groups import Group, resolved
from fusegraph.time_model import WORTH_A_THREAD, node_seconds
from fusegraph.units import ALONE, Decision, Fused, Reason, Unit, in_running_order
from fusegraph.views import base

PRODUCT_DTYPES = ("float32", "float64", "complex64", "complex128")  # that BLAS multiplies
WORTH_PANELS = 4 << 20  # bytes of a reduction's operand that several threads read faster than one
PATH = 256  # groups looked at between two siblings before they count as connected


def share_rows(
    fused: Fused,
    outputs: Sequence[Node],
    order: Sequence[Node],
    orders: Mapping[Node, Order],
    machine: Machine,
    bits: bool,
) -> Fused:
    """Merge units that share rows.

    Parameters
    ----------
    fused : Fused
    outputs, order : sequence of Node
        Results, and every node below them, producers first.
    orders : mapping
        Axis order in memory of every value.
    machine : Machine
        Its caches bound the rows that may stay in cache.
    bits : bool
        True keeps out what rounds unlike NumPy: products in panels, sums of partial results.
    """
    if not any(unit.region.nodes[0].kind in ("reduce", "matmul") for unit in fused.units):
        return fused
    return _RowPass(fused, outputs, order, orders, machine, bits).run()


def own_rows(node: Node, stored: bool, bits: bool) -> Shape | None:
    """Leading axes that panels of one node may cut; None where it has none.

    ``stored``: nothing in the panel reads its value, so that a reduction may give partial results.
    """
    if node.kind == "elementwise":
        return node.shape or None
    if node.kind == "reduce":
        whole = node.inputs[0].shape
        if not whole or not dict(node.params)["keepdims"]:
            return None
        nothing = 0 in whole
        fixed = bits and reorders(node)
        partial = stored and has_partials(node) and not nothing and not fixed
        return whole if partial else whole[: first_reduced(node)]
    if node.kind == "matmul":
        left, right = node.inputs
        if len(left.shape) < 2 or len(right.shape) < 2 or node.params:
            return None
        return node.shape[:-1] if left.shape[:-1] == node.shape[:-1] else None
    return None


def _common(a: Shape, b: Shape) -> Shape:
    """The leading axes in which two shapes agree."""
    agree = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return tuple(n for n, _ in agree)


class _RowPass:
    def __init__(
        self,
        fused: Fused,
        outputs: Sequence[Node],
        order: Sequence[Node],
        orders: Mapping[Node, Order],
        machine: Machine,
        bits: bool,
    ) -> None:
        self.fused = fused
        self.outputs = outputs
        self.kept = {base(node) for node in outputs}
        self.position = {node: at for at, node in enumerate(order)}
        self.orders = orders
        self.machine = machine
        self.bits = bits
        self.group_of: dict[Node, Group] = {}
        self.readers: dict[Node, list[Unit]] = {}
        self.direct: dict[Node, list[Unit]] = {}  # readers that see the value through no view
        self.uses: dict[
            Node, list[tuple[Node, int]]
        ] = {}  # operations that read it, at which place
        for unit in fused.units:
            for value in dict.fromkeys(unit.region.inputs):
                self.readers.setdefault(base(value), []).append(unit)
                self.direct.setdefault(value, []).append(unit)
            for node in unit.region.nodes:
                for at, operand in enumerate(node.inputs):
                    self.uses.setdefault(base(operand), []).append((node, at))
        self.why: dict[tuple[Node, Group], tuple[Reason, str]] = {}
        self.groups: dict[Group, None] = {}

    def run(self) -> Fused:
        for unit in reversed(self.fused.units):
            self.place(unit)
        for value, readers in self.direct.items():
            if len(readers) > 1:
                self.join_siblings(value, readers)
        for group in list(self.groups):
            reason = self.no_gain(group) if len(group.units) > 1 else None
            if reason is not None:
                self.dissolve(group, reason)
        units = in_running_order(self.outputs, [self.finish(group) for group in self.groups])
        return replace(
            self.fused,
            units=tuple(units),
            decide=lambda: map(self.revised, self.fused.decisions),
        )

    # --- placing ----------------------------------------------------------------------------------

    def place(self, unit: Unit) -> None:
        """A unit into the first group that reads it and may take it, or a group of its own.

        Its readers come together first: one that stayed apart would need its value stored.
        """
        for value in unit.region.outputs:
            readers = self.direct.get(value, [])
            if len(readers) > 1:
                self.join_siblings(value, readers)
        group = self.single(unit, stored=False)
        for home in self.reading_groups(unit):
            failed = self.refusal(group, home)
            if failed is None:
                self.enter(group)
                self.merge(group, home)
                return
            for value in unit.region.outputs:
                self.why[value, home] = failed
        self.enter(self.single(unit, stored=True))

    def enter(self, group: Group) -> None:
        """A group of one unit takes its place among the others."""
        self.groups[group] = None
        self.group_of.update(dict.fromkeys(group.nodes, group))
        for reader in group.read_by:
            reader.fed_by[group] = None

    def merge(self, group: Group, home: Group) -> None:
        home.units += group.units
        home.members.absorb(group.members)
        home.seconds += group.seconds
        home.read_by |= group.read_by
        home.fed_by |= group.fed_by
        home.rows, home.panels = _common(home.rows or (), group.rows or ()), None
        del self.groups[group]
        group.merged = home

    def home(self, node: Node) -> Group:
        """The group that a node is in now."""
        return resolved(self.group_of[node])

    def dissolve(self, group: Group, reason: str) -> None:
        """Give every unit of a group back its own kernel."""
        del self.groups[group]
        for unit in group.units:
            alone = self.single(unit, stored=True)
            self.enter(alone)
            for value in unit.region.inputs:
                self.why[base(value), alone] = (Reason.COST, reason)

    def single(self, unit: Unit, stored: bool) -> Group:
        """A group of one unit, with its rows or the reason why it has none."""
        node = unit.region.nodes[-1]
        rows = own_rows(node, stored, self.bits)
        refusal = self.refusal_of_rows(unit, rows)
        rank, nodes = len(iteration_space(node)), unit.region.nodes
        found = Group(
            [unit], None if refusal else rows, rank, refusal, Members(nodes), self.seconds(nodes)
        )
        found.read_by = dict.fromkeys(self.reading_groups(unit))
        return found

    def reading_groups(self, unit: Unit) -> list[Group]:
        groups = dict.fromkeys(
            self.home(reader.region.nodes[0])
            for value in unit.region.outputs
            for reader in self.readers.get(value, ())
        )
        return list(groups)

    def join_siblings(self, value: Node, readers: list[Unit]) -> None:
        """Groups that read one value share the pass, where one of them reduces."""
        groups = dict.fromkeys(self.home(r.region.nodes[0]) for r in readers)
        home: Group | None = None
        for group in groups:
            if group not in self.groups or group.rows is None or not value.shape:
                continue
            if home is not None and self.may_share(group, home, value):
                self.merge(group, home)
            else:
                home = group

    # --- the ladders ------------------------------------------------------------------------------

    def refusal_of_rows(self, unit: Unit, rows: Shape | None) -> tuple[Reason, str] | None:
        """Why a unit does not run in panels, whatever others do; None where it may by its ``rows``."""
        node = unit.region.nodes[-1]
        if rows is None:
            return Reason.KIND, f"{node.op.name} does not run row by row"
        if node.kind == "matmul" and self.bits:
            detail = "BLAS rounds a panel unlike the whole"
            return Reason.KIND, f"matmul is a kernel of its own: {detail}"
        if node.kind == "matmul" and node.dtype.name not in PRODUCT_DTYPES:
            return Reason.KIND, f"matmul of {node.dtype} is a kernel of its own"
        if self.bits and not all(map(self.is_row_major, _laid_out(unit))):
            detail = "does not lie in C order, as panels do: NumPy's sums follow the memory"
            return Reason.KIND, f"{node.op.name} {detail}"
        if node.params == ALONE:
            return Reason.FUSION_OFF, "fusion is off for this operation"
        return None

    def refusal(self, group: Group, home: Group) -> tuple[Reason, str] | None:
        """Why the unit of ``group`` may not run in the panels of ``home``, or None."""
        for one in (group, home):
            if one.rows is None:
                return one.refusal
        for value in group.units[0].region.outputs:
            for node, at in self.uses.get(value, ()):
                if node not in home.nodes:
                    continue
                if node.inputs[at] is not value:
                    return Reason.VIEW, f"it is read through {node.inputs[at].op.name}"
                if node.kind == "matmul" and at == 1:
                    return Reason.KIND, "every panel of the product needs all of its right side"
        failed = self.rows_refusal(group, home)
        if failed is not None:
            return failed
        if group.members.mixed_with(home.members):
            return Reason.KIND, "a value is needed row by row and, on the right of a product, whole"
        if self.comes_back(group, home):
            return Reason.CONVEX, "another kernel between them needs the value first"
        return self.too_large(group, home)

    def rows_refusal(self, group: Group, home: Group) -> tuple[Reason, str] | None:
        """Why two groups share no rows, or None. One row is enough where there is but one axis."""
        a, b = group.rows or (), home.rows or ()
        common = _common(a, b)
        if group.rank != home.rank:
            return Reason.SHAPE, f"{group.rank} axes beside {home.rank}"
        if not common and group.rank > 1:
            if min(group.members.whole, home.members.whole) == 0:
                return Reason.KIND, "the reduction is complete after the last row only"
            return Reason.SHAPE, f"rows {list(a)} beside rows {list(b)}"
        if not common and group.seconds + home.seconds > 2 * WORTH_A_THREAD:
            return Reason.COST, "one row is one panel, which would run on one thread"
        return None

    def may_share(self, group: Group, home: Group, value: Node) -> bool:
        """May two groups that read ``value`` share its pass? One of them reduces, none multiplies."""
        a, b = group.members, home.members
        if not (a.reduces or b.reduces) or a.multiplies or b.multiplies:
            return False
        if len(value.shape) != home.rank or self.rows_refusal(group, home) is not None:
            return False
        if home in group.readers() or group in home.readers():  # one needs the other first
            return False
        if self.reaches(group, home) or self.reaches(home, group):
            return False
        return self.too_large(group, home) is None

    def comes_back(self, group: Group, home: Group) -> bool:
        """Does a path leave ``group`` for another group and come to ``home``?"""
        # Looked for from both ends in turns: where a chain goes on below, what lies between is short.
        down, up = [g for g in group.readers() if g is not home], [home]
        below, above = set(down), {home}
        while down and up:
            fresh = [g for g in down.pop().readers() if g not in below]
            if not above.isdisjoint(fresh):
                return True
            below.update(fresh)
            down += fresh
            fresh = [g for g in up.pop().feeders() if g not in above]
            if not below.isdisjoint(fresh):
                return True
            above.update(fresh)
            up += fresh
        return False

    def reaches(self, start: Group, home: Group) -> bool:
        """Is there a path from ``start`` to ``home``? A long search counts as one."""
        stack, seen = [start], {start}
        while stack:
            for reader in stack.pop().readers():
                if reader is home:
                    return True
                if reader not in seen:
                    seen.add(reader)
                    stack.append(reader)
            if len(seen) > PATH:
                return True
        return False

    def too_large(self, group: Group, home: Group) -> tuple[Reason, str] | None:
        """A panel must stay in cache: one row at least, and enough for BLAS where it multiplies."""
        a, b = group.members, home.members
        product = a.multiplies or b.multiplies
        bound = product_cache(self.machine) if product else self.machine.block_bytes
        rows = _common(group.rows or (), home.rows or ())
        bytes_of_row = partial(a.row_bytes_with, b)
        cut = axes_to_cut(rows, min(a.whole, b.whole), bytes_of_row, self.machine)
        least = bytes_of_row(cut) * (FEWEST_FOR_BLAS if product else 1)
        if least > bound:
            return Reason.CACHE, f"a panel of {least:,} bytes does not stay in {bound:,} of cache"
        return None

    # --- what it gains ----------------------------------------------------------------------------

    def seconds(self, nodes: Iterable[Node]) -> float:
        return sum(node_seconds(node, self.machine) for node in nodes)

    def no_gain(self, group: Group) -> str | None:
        """Why panels of the whole group do not pay, or None: their calls cost more than bytes save."""
        panels = self.panels(group)
        if panels.partial and not self.in_row_order(group):
            return "its operands do not lie in the order of the panels"
        apart = sum(self.bytes_moved(set(unit.region.nodes)) for unit in group.units)
        saved = apart - self.bytes_moved(group.nodes) - 2 * partial_bytes(panels)
        gain = saved / self.machine.bandwidth(apart, 1)[1]
        gain += self.machine.launch[FALLBACK] * (len(group.units) - 1)
        cost = self.machine.step[FALLBACK] * (panels.count - 1) * len(group.nodes)
        if cost <= gain:
            return None
        return (
            f"{panels.count:,} panels of {len(group.nodes)} calls cost {cost * 1e6:.0f} us, moving "
            f"{saved:,} bytes less saves {gain * 1e6:.0f} us"
        )

    def in_row_order(self, group: Group) -> bool:
        """Do the operands of a group lie in C order, as far as they are dense?"""
        operands = {i for n in group.nodes for i in n.inputs if i not in group.nodes}
        return all(self.orders[i] is None or self.is_row_major(i) for i in operands)

    def is_row_major(self, value: Node) -> bool:
        """Does a value lie in C order?"""
        return is_row_major(self.orders[value])

    def bytes_moved(self, nodes: set[Node]) -> int:
        """Bytes that cross memory when ``nodes`` are one kernel."""
        reads = [i for node in nodes for i in node.inputs if i not in nodes]
        return kernel_cost((), reads, self.stored(nodes)).bytes_moved

    def stored(self, nodes: set[Node]) -> list[Node]:
        """Members whose values are needed outside."""
        return [
            node
            for node in nodes
            if node in self.kept
            or any(u.region.nodes[0] not in nodes for u in self.readers.get(node, ()))
        ]

    # --- results ----------------------------------------------------------------------------------

    def panels(self, group: Group) -> Panels:
        """How a group is cut."""
        if group.panels is None:
            shared = self.seconds(group.nodes) > WORTH_A_THREAD
            members = sorted(group.nodes, key=self.position.__getitem__)
            rows = group.rows or ()
            group.panels = lay_panels(members, rows, self.machine, self.bits, shared)
        return group.panels

    def alone_in_panels(self, group: Group) -> bool:
        """Is one reduction worth panels: narrow rows, or memory that threads read side by side?"""
        (unit,) = group.units
        node = unit.region.nodes[0]
        if node.kind != "reduce" or group.rows is None or not has_partials(node):
            return False
        source = node.inputs[0]
        last = group.rank - 1
        narrow = group.rank > 1 and source.shape[last] <= NARROW
        shared = last in reduced_axes(node) and source.nbytes > WORTH_PANELS
        in_order = self.is_row_major(source)
        worth = in_order and self.seconds(group.nodes) > 2 * WORTH_A_THREAD and (narrow or shared)
        return worth and self.panels(group).count > 1

    def finish(self, group: Group) -> Unit:
        if len(group.units) == 1 and not self.alone_in_panels(group):
            return group.units[0]
        members = sorted(group.nodes, key=self.position.__getitem__)
        stored = sorted(self.stored(group.nodes), key=self.position.__getitem__)
        region = Region.of(members, stored, max(map(iteration_space, members), key=math.prod))
        return Unit(region, (FALLBACK,), panels=self.panels(group))

    def revised(self, decision: Decision) -> Decision:
        """A decision after merging: fused, or stored with what this pass knows."""
        home = self.home(decision.consumer)
        if decision.fused or home is self.home(decision.producer):
            return replace(decision, fused=True, reason=Reason.FUSED, detail="", bytes=0)
        if decision.reason is not Reason.KIND:  # the fusion pass knew better
            return decision
        reason, detail = self.why.get((decision.producer, home), (decision.reason, decision.detail))
        return replace(decision, reason=reason, detail=detail)


def _laid_out(unit: Unit) -> tuple[Node, ...]:
    """The values of a unit whose order in memory a reduction follows: what it reduces, and results."""
    node = unit.region.nodes[-1]
    return (*unit.region.outputs, *(node.inputs[:1] if node.kind == "reduce" else ()))
