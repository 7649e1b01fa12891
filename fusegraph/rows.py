"""The row pass: units that can run together while a block of rows stays in cache.

In: the units of the fusion pass. Out: the same, with units merged that share rows: element-wise
regions, reductions along the last axis, and products whose right side is fixed while rows pass. A merged
unit runs in panels: blocks of rows whose every temporary stays in the cache, so softmax, layer norm or
attention read their inputs once and write their result once.

Units are taken last first, and a producer joins the unit that reads it. Legality is a ladder of early
returns; the first rung that fails replaces the reason of the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fusegraph.cost import base, kernel_cost
from fusegraph.engines import FALLBACK
from fusegraph.engines.base import Region
from fusegraph.fuse import ALONE, Decision, Fused, Reason, Unit, in_running_order
from fusegraph.graph import Node, Shape
from fusegraph.machine import Machine

# A product of fewer rows packs its right side more often than it pays: 2048 x 768 x 3072 float32 on one
# thread took 148 ms in panels of 32 rows, 128 of 64, 117 of 128, 111 of 256, and 124 as a whole.
ROWS_FOR_BLAS = 128
FEWEST_FOR_BLAS = 16
PRODUCT_DTYPES = ("float32", "float64", "complex64", "complex128")  # that BLAS multiplies


@dataclass(slots=True, eq=False)
class _Group:
    """Units that run together. ``rows`` are the leading axes they share; None: no rows."""

    units: list[Unit]
    rows: Shape | None
    refusal: tuple[Reason, str] = (Reason.KIND, "")
    nodes: set[Node] = field(default_factory=set)


def share_rows(
    fused: Fused, outputs: Sequence[Node], order: Sequence[Node], machine: Machine, bits: bool
) -> Fused:
    """Merge units that share rows.

    Parameters
    ----------
    fused : Fused
    outputs, order : sequence of Node
        Results, and every node below them, producers first.
    machine : Machine
        Its caches bound the rows that may stay in cache.
    bits : bool
        True keeps products out: BLAS rounds a panel unlike the whole.
    """
    if len(fused.units) < 2:
        return fused
    return _RowPass(fused, outputs, order, machine, bits).run()


def row_axes(node: Node) -> Shape | None:
    """Leading axes of the rows that a node computes one by one; None where it does not."""
    if node.kind == "elementwise":
        return node.shape[:-1] if len(node.shape) > 1 else None
    if node.kind == "reduce":
        source = node.inputs[0].shape
        axis = dict(node.params)["axis"]
        last = axis in (len(source) - 1, (len(source) - 1,))
        return source[:-1] if last and len(source) > 1 else None
    if node.kind == "matmul":
        left, right = node.inputs
        if len(left.shape) < 2 or len(right.shape) < 2 or node.params:
            return None
        return node.shape[:-1] if left.shape[:-1] == node.shape[:-1] else None
    return None


class _RowPass:
    def __init__(
        self,
        fused: Fused,
        outputs: Sequence[Node],
        order: Sequence[Node],
        machine: Machine,
        bits: bool,
    ) -> None:
        self.fused = fused
        self.outputs = outputs
        self.kept = {base(node) for node in outputs}
        self.position = {node: at for at, node in enumerate(order)}
        self.machine = machine
        self.bits = bits
        self.group_of: dict[Node, _Group] = {}
        self.readers: dict[Node, list[Unit]] = {}
        for unit in fused.units:
            for value in dict.fromkeys(unit.region.inputs):
                self.readers.setdefault(base(value), []).append(unit)
        self.why: dict[tuple[Node, _Group], tuple[Reason, str]] = {}
        self.groups: dict[_Group, None] = {}

    def run(self) -> Fused:
        for unit in reversed(self.fused.units):
            self.place(unit)
        for group in list(self.groups):
            reason = self.no_gain(group) if len(group.units) > 1 else None
            if reason is not None:
                self.dissolve(group, reason)
        units = in_running_order(self.outputs, [self.finish(group) for group in self.groups])
        return replace(
            self.fused,
            units=tuple(units),
            decisions=tuple(self.revised(d) for d in self.fused.decisions),
        )

    def place(self, unit: Unit) -> None:
        """A unit into the first group that reads it and may take it, or a group of its own."""
        group = self.single(unit)
        for home in self.reading_groups(unit):
            failed = self.refusal(group, home)
            if failed is None:
                home.units.append(unit)
                home.nodes.update(group.nodes)
                group = home
                break
            for value in unit.region.outputs:
                self.why[value, home] = failed
        self.groups[group] = None
        self.group_of.update(dict.fromkeys(unit.region.nodes, group))

    def dissolve(self, group: _Group, reason: str) -> None:
        """Give every unit of a group back its own kernel."""
        del self.groups[group]
        for unit in group.units:
            alone = self.single(unit)
            self.groups[alone] = None
            self.group_of.update(dict.fromkeys(unit.region.nodes, alone))
            for value in unit.region.inputs:
                self.why[base(value), alone] = (Reason.COST, reason)

    def single(self, unit: Unit) -> _Group:
        """A group of one unit, with its rows or the reason why it has none."""
        node = unit.region.nodes[-1]
        group = _Group([unit], row_axes(node), nodes=set(unit.region.nodes))
        if group.rows is None:
            group.refusal = (Reason.KIND, f"{node.op.name} does not run row by row")
        elif unit.elementwise and FALLBACK not in unit.engines:
            group.rows = None
            names = "/".join(unit.engines)
            group.refusal = (Reason.ENGINE, f"{names} evaluates whole operands, not panels")
        elif node.kind == "matmul" and (self.bits or node.dtype.name not in PRODUCT_DTYPES):
            group.rows = None
            group.refusal = (
                Reason.KIND,
                "matmul is a kernel of its own: BLAS rounds a panel unlike the whole"
                if self.bits
                else f"matmul of {node.dtype} is a kernel of its own",
            )
        elif node.params == ALONE:
            group.rows = None
            group.refusal = (Reason.FUSION_OFF, "fusion is off for this operation")
        return group

    def reading_groups(self, unit: Unit) -> list[_Group]:
        groups = dict.fromkeys(
            self.group_of[reader.region.nodes[0]]
            for value in unit.region.outputs
            for reader in self.readers.get(value, ())
        )
        return list(groups)

    # --- the ladder -------------------------------------------------------------------------------

    def refusal(self, group: _Group, home: _Group) -> tuple[Reason, str] | None:
        """Why the unit of ``group`` may not run in the panels of ``home``, or None."""
        for one in (group, home):
            if one.rows is None:
                return one.refusal
        made = set(group.units[0].region.outputs)
        for node in home.nodes:
            for at, operand in enumerate(node.inputs):
                if base(operand) in made and operand not in made:
                    return Reason.VIEW, f"it is read through {operand.op.name}"
                if node.kind == "matmul" and at == 1 and operand in made:
                    return Reason.KIND, "every panel of the product needs all of its right side"
        if group.rows != home.rows:
            return (
                Reason.SHAPE,
                f"rows {list(group.rows or ())} beside rows {list(home.rows or ())}",
            )
        if _both_sides(group.nodes | home.nodes):
            return Reason.KIND, "a value is needed row by row and, on the right of a product, whole"
        if self.comes_back(group, home):
            return Reason.CONVEX, "another kernel between them needs the value first"
        return self.too_large(group.nodes | home.nodes)

    def comes_back(self, group: _Group, home: _Group) -> bool:
        """Does a path leave ``group`` for another group and come to ``home``?"""
        stack = [g for g in self.reading_groups(group.units[0]) if g is not home]
        seen = set(stack)
        while stack:
            for unit in stack.pop().units:
                for reader in self.reading_groups(unit):
                    if reader is home:
                        return True
                    if reader not in seen:
                        seen.add(reader)
                        stack.append(reader)
        return False

    def too_large(self, nodes: set[Node]) -> tuple[Reason, str] | None:
        """A panel must stay in cache: one row at least, and enough for BLAS where it multiplies."""
        product = any(node.kind == "matmul" for node in nodes)
        bound = product_cache(self.machine) if product else self.machine.block_bytes
        least = row_bytes(nodes) * (FEWEST_FOR_BLAS if product else 1)
        if least > bound:
            return Reason.CACHE, f"a panel of {least:,} bytes does not stay in {bound:,} of cache"
        return None

    def no_gain(self, group: _Group) -> str | None:
        """Why panels of the whole group do not pay, or None: their calls cost more than bytes save."""
        apart = sum(self.bytes_moved(set(unit.region.nodes)) for unit in group.units)
        saved = apart - self.bytes_moved(group.nodes)
        gain = saved / self.machine.bandwidth(apart, 1)[1]
        gain += self.machine.launch[FALLBACK] * (len(group.units) - 1)
        panels = -(-math.prod(group.rows or ()) // panel_rows(group.nodes, self.machine))
        cost = self.machine.step[FALLBACK] * (panels - 1) * len(group.nodes)
        if cost <= gain:
            return None
        return (
            f"{panels:,} panels of {len(group.nodes)} calls cost {cost * 1e6:.0f} us, moving "
            f"{saved:,} bytes less saves {gain * 1e6:.0f} us"
        )

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

    def finish(self, group: _Group) -> Unit:
        if len(group.units) == 1:
            return group.units[0]
        members = sorted(group.nodes, key=self.position.__getitem__)
        reads = dict.fromkeys(
            i for n in members for i in n.inputs if i not in group.nodes and i.kind != "const"
        )
        stored = tuple(sorted(self.stored(group.nodes), key=self.position.__getitem__))
        assert group.rows is not None
        region = Region(tuple(members), tuple(reads), stored, group.rows)
        return Unit(region, (FALLBACK,), panels=True)

    def revised(self, decision: Decision) -> Decision:
        """A decision after merging: fused, or stored with what this pass knows."""
        home = self.group_of[decision.consumer]
        if decision.fused or home is self.group_of[decision.producer]:
            return replace(decision, fused=True, reason=Reason.FUSED, detail="", bytes=0)
        if decision.reason is not Reason.KIND:  # the fusion pass knew better
            return decision
        reason, detail = self.why.get((decision.producer, home), (decision.reason, decision.detail))
        return replace(decision, reason=reason, detail=detail)


def _both_sides(nodes: set[Node]) -> bool:
    """Is a value the right side of a product and read row by row too?"""
    right = {n.inputs[1] for n in nodes if n.kind == "matmul"}
    rowwise = {
        i for n in nodes for at, i in enumerate(n.inputs) if not (n.kind == "matmul" and at == 1)
    }
    return bool(right & rowwise)


# --- sizes of a panel -----------------------------------------------------------------------------


def row_bytes(nodes: set[Node]) -> int:
    """Bytes that one row of a panel keeps in cache: the widest values that live at once, bounded.

    Chains compute in place, so of the wide temporaries about two live at a time; inputs and results
    stream through beside them.
    """
    widths = sorted((_row_width(node, member=True) for node in nodes), reverse=True)
    streams = {i for n in nodes for i in n.inputs if i not in nodes and i.kind != "const"}
    return sum(widths[:2]) + sum(
        _row_width(i, member=False) for i in streams if len(i.shape) > 1 and not _is_right(i, nodes)
    )


def _row_width(node: Node, member: bool) -> int:
    """Bytes of one row of a value; a reduction in the panel has one element a row."""
    reduced = member and node.kind == "reduce"
    return (1 if reduced or not node.shape else node.shape[-1]) * node.dtype.itemsize


def _is_right(value: Node, nodes: set[Node]) -> bool:
    return any(n.kind == "matmul" and n.inputs[1] is value for n in nodes)


def product_cache(machine: Machine) -> int:
    """Bytes that the panel of a product may take on each core: beyond L2 it lives in L3."""
    return max(machine.l2_bytes, machine.l3_bytes // (2 * machine.cores))


def panel_rows(nodes: set[Node], machine: Machine) -> int:
    """Rows of a panel: what stays in cache, and enough for BLAS where it multiplies."""
    row = max(1, row_bytes(nodes))
    rows = max(1, machine.block_bytes // row)
    if any(node.kind == "matmul" for node in nodes):
        enough = max(FEWEST_FOR_BLAS, min(ROWS_FOR_BLAS, product_cache(machine) // row))
        rows = max(rows, enough)
    return rows
