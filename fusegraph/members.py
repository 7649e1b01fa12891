"""Members: nodes that are to share panels, and what is asked of them while they grow.

In: the nodes of some groups. Out: the bytes of a row that two groups would keep in cache together, and
what else bears on whether they may share. All of it is kept as running totals, and brought up to date by
the smaller of two groups: counted again at each of 800 joins it was most of planning.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection

from fusegraph.graph import Node
from fusegraph.panels import first_reduced, row_width

Figure = tuple[list[int], int]
"""Bytes a row: the widest values, and all that stream beside them."""


class Members:
    """Nodes that share panels, with the totals of :func:`fusegraph.panels.row_bytes`.

    Attributes
    ----------
    nodes : set of Node
    whole : float
        The slowest axis that a reduction runs along; infinite where nothing reduces.
    rights : set of Node
        Right sides of products, which are needed whole.
    row_by_row : set of Node
        All other operands.
    mixed : bool
        Is a value both?
    """

    def __init__(self, nodes: Collection[Node]) -> None:
        self.nodes = set(nodes)
        reduced = (first_reduced(n) for n in nodes if n.kind == "reduce")
        self.whole: float = min(reduced, default=math.inf)
        self.rights = {n.inputs[1] for n in nodes if n.kind == "matmul"}
        self.row_by_row = {
            i
            for n in nodes
            for at, i in enumerate(n.inputs)
            if not (n.kind == "matmul" and at == 1)
        }
        self.mixed = not self.rights.isdisjoint(self.row_by_row)
        self.streams = {
            i for n in nodes for i in n.inputs if i not in self.nodes and i.kind != "const"
        }
        self.rank = max(len(node.shape) for node in nodes)
        self.figures: dict[int, Figure] = {}

    @property
    def reduces(self) -> bool:
        return self.whole < math.inf

    @property
    def multiplies(self) -> bool:
        return bool(self.rights)

    def mixed_with(self, other: Members) -> bool:
        """Is a value the right side of a product and read row by row too, in one or the other?"""
        apart = self.rights.isdisjoint(other.row_by_row) and other.rights.isdisjoint(
            self.row_by_row
        )
        return self.mixed or other.mixed or not apart

    def row_bytes_with(self, other: Members, cut: int) -> int:
        """What :func:`fusegraph.panels.row_bytes` counts of both."""
        widest, beside = self.figure_with(other, cut)
        return sum(widest) + beside

    def figure_with(self, other: Members, cut: int) -> Figure:
        """The figure of both together, from that of the larger and the nodes of the smaller."""
        if self.rank != other.rank:
            return Members(self.nodes | other.nodes).figure(cut)
        large, small = self._by_size(other)
        widest, beside = large.figure(cut)
        widest = sorted((*widest, *small.figure(cut)[0]), reverse=True)[:2]
        for value in small.streams:
            fresh = value not in large.streams and value not in large.nodes
            if fresh and small.counts(value) and value not in large.rights:
                beside += row_width(value, cut)
        for value in small.nodes | small.rights:  # these stream beside the larger no more
            if value in large.streams and large.counts(value):
                beside -= row_width(value, cut)
        return widest, beside

    def figure(self, cut: int) -> Figure:
        """The figure of these alone, where the axes before ``cut`` are cut."""
        found = self.figures.get(cut)
        if found is None:
            widest = heapq.nlargest(2, (row_width(node, cut) for node in self.nodes))
            beside = sum(row_width(i, cut) for i in self.streams if self.counts(i))
            found = self.figures[cut] = (widest, beside)
        return found

    def counts(self, value: Node) -> bool:
        """Does a value that streams beside come row by row? A right side stays."""
        return len(value.shape) == self.rank and value not in self.rights

    def absorb(self, other: Members) -> None:
        """Take over the nodes of ``other``, which is not to be used any more."""
        large, small = self._by_size(other)
        same = self.rank == other.rank
        self.figures = {cut: large.figure_with(small, cut) for cut in large.figures if same}
        self.mixed = self.mixed_with(other)
        self.whole = min(self.whole, other.whole)
        self.rank = max(self.rank, other.rank)
        inner = {value for value in small.streams if value in large.nodes}
        large.streams -= small.nodes
        large.streams |= small.streams - inner
        for name in ("nodes", "rights", "row_by_row"):
            grown: set[Node] = getattr(large, name)
            grown |= getattr(small, name)
            setattr(self, name, grown)
        self.streams = large.streams

    def _by_size(self, other: Members) -> tuple[Members, Members]:
        return (self, other) if len(self.nodes) >= len(other.nodes) else (other, self)
