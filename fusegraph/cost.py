"""The cost model: bytes and operations of a kernel, counted from its shapes alone.

In: the nodes of a kernel, what it reads and what it writes. Out: ``Cost``. Exact and pure: nothing is
timed here. "Before" and "after" fusion go through the same ``kernel_cost``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fusegraph.graph import Node
from fusegraph.views import base


@dataclass(frozen=True, slots=True)
class Cost:
    """Traffic and work of a kernel or a plan. Bytes are bytes, flops are operations.

    ``bytes_reread`` and ``bytes_first_touch`` are columns of their own: they are never part of
    ``bytes_moved``.
    """

    bytes_read: int = 0  # every distinct input buffer once, at its own size
    bytes_written: int = 0  # every output once
    bytes_reread: int = 0  # what tiling reads again
    bytes_first_touch: int = 0  # fresh pages that the system must map
    flops: int = 0
    transcendentals: int = 0  # calls of exp, tanh, ...; each also counts as one flop
    flops_by_class: dict[str, int] = field(default_factory=dict)

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def arithmetic_intensity(self) -> float:
        """Flops per byte read or written (Williams, Waterman and Patterson 2009); 0.0 for no bytes."""
        return self.flops / self.bytes_moved if self.bytes_moved else 0.0

    def __add__(self, other: Cost) -> Cost:
        return total((self, other))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "arithmetic_intensity": self.arithmetic_intensity}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Costs of one graph with fusion off and on."""

    before: Cost
    after: Cost

    @property
    def saved_bytes(self) -> int:
        """Bytes that fusion keeps from moving."""
        return self.before.bytes_moved - self.after.bytes_moved

    @property
    def ratio(self) -> float:
        """Bytes moved before over bytes moved after; 1.0 where nothing moves."""
        return self.before.bytes_moved / self.after.bytes_moved if self.after.bytes_moved else 1.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "saved_bytes": self.saved_bytes,
            "ratio": self.ratio,
        }


def total(costs: Iterable[Cost]) -> Cost:
    """Sum of costs, column by column."""
    read = written = reread = touched = flops = transcendentals = 0
    classes: dict[str, int] = {}
    for cost in costs:
        read += cost.bytes_read
        written += cost.bytes_written
        reread += cost.bytes_reread
        touched += cost.bytes_first_touch
        flops += cost.flops
        transcendentals += cost.transcendentals
        for name, count in cost.flops_by_class.items():
            classes[name] = classes.get(name, 0) + count
    return Cost(read, written, reread, touched, flops, transcendentals, classes)


def footprint(node: Node) -> int:
    """Bytes of its base that a view can touch: a slice counts its part, a broadcast its operand."""
    size = node.size
    while node.kind == "view":
        node = node.inputs[0]
        size = min(size, node.size)
    return size * node.dtype.itemsize


def node_flops(node: Node) -> int:
    """Operations of one node: per output element, per input element reduced, 2*M*N*K for a product."""
    if node.kind == "elementwise":
        return node.size * node.op.flops
    if node.kind == "reduce":
        return node.inputs[0].size
    if node.kind == "matmul":
        return 2 * node.size * node.inputs[0].shape[-1]
    return 0


def kernel_cost(
    nodes: Iterable[Node],
    reads: Sequence[Node],
    writes: Sequence[Node],
    reread: int = 0,
    first_touch: int = 0,
) -> Cost:
    """Cost of one kernel.

    Parameters
    ----------
    nodes : iterable of Node
        What it computes. Temporaries inside move no bytes.
    reads, writes : sequence of Node
        Values that cross memory. Two views of one buffer count at most the buffer.
    reread, first_touch : int
        Bytes known to the schedule and to the buffer plan.
    """
    buffers: dict[Node, int] = {}
    for value in dict.fromkeys(reads):
        if value.kind != "const":
            stored = base(value)
            buffers[stored] = min(buffers.get(stored, 0) + footprint(value), stored.nbytes)
    classes: dict[str, int] = {}
    transcendentals = 0
    for node in nodes:
        count = node_flops(node)
        if count:
            name = node.op.flop_class
            classes[name] = classes.get(name, 0) + count
            if node.op.transcendental:
                transcendentals += count
    return Cost(
        bytes_read=sum(size for stored, size in buffers.items() if stored.kind != "const"),
        bytes_written=sum(value.nbytes for value in writes),
        bytes_reread=reread,
        bytes_first_touch=first_touch,
        flops=sum(classes.values()),
        transcendentals=transcendentals,
        flops_by_class=classes,
    )
