"""The time model: ``launch + max(compute, seconds in which the kernel's bytes pass)``.

In: nodes, an engine and the machine's figures. Out: seconds, and the term that binds. Modelled, never
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fusegraph.cost import Cost
from fusegraph.engines import ELEMENTWISE_ENGINES, FALLBACK
from fusegraph.engines.base import Engine
from fusegraph.graph import Node, reduced_axes
from fusegraph.machine import Machine

# Seconds of arithmetic below which sharing it gains nothing: a group of less is not cut for
# threads, and numexpr's count as one (blocked engines compare predictions instead).
# 1,000,000 float32 additions (150 us) took 1.05x of NumPy on one thread and 1.42x on two, GELU of
# as many (4 ms) 0.83x and 0.59x.
WORTH_A_THREAD = 500e-6
# Where Python wakes them, several threads must be predicted to take less than this share of one's time:
# exp of 300,000 float32 was predicted at 164 us on two and 171 on one, and took 230 and 140.
THREADS_MARGIN = 0.8
# Seconds until a thread takes part that looks for work in compiled code: a triad of 100,000 float32 took
# 14.9 us on one thread and 7.4 on two.
SHARING = 2e-6


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds of a kernel, and the term that binds."""

    seconds: float
    bound: str


def node_seconds(node: Node, machine: Machine, engine: Engine | None = None) -> float:
    """Seconds of one operation on one thread, operands in cache; NumPy's, or those of ``engine``."""
    if node.kind == "matmul":
        flops = 2 * node.size * node.inputs[0].shape[-1]
        return flops / machine.peak(node.dtype.name, 1)
    if node.kind == "elementwise":
        chosen = engine or ELEMENTWISE_ENGINES[FALLBACK]
        return chosen.nanoseconds(node, machine) * node.size * 1e-9
    work = max([node, *node.inputs], key=lambda n: n.size)
    name = engine.name if engine else FALLBACK
    row = node.op.name
    each = machine.ns(name, row, work.dtype, node.op.flop_class)
    combines = "" if node.dtype.kind == "b" else node.op.combines
    if combines and len(work.shape) - 1 not in reduced_axes(node):
        # Along rows, one result an element: to NumPy it is that operation, in compiled code one more.
        along = machine.ns(name, combines, node.dtype, "add")
        each = along if name == FALLBACK else each + 2 * along
    return each * work.size * 1e-9


Kinds = Sequence[tuple[Node, int]]
"""Nodes of different ops or dtypes, and how many are like each: what an engine is asked the cost of."""


def kinds_of(nodes: Sequence[Node]) -> Kinds:
    """A node of each kind, with their number."""
    kinds: dict[Any, tuple[Node, int]] = {}
    for node in nodes:
        kind = (node.op, node.dtype, *[i.dtype for i in node.inputs])
        kinds[kind] = (node, kinds[kind][1] + 1) if kind in kinds else (node, 1)
    return list(kinds.values())


def compute_seconds(engine: Engine, kinds: Kinds, size: int, machine: Machine) -> float:
    """Seconds of arithmetic over ``size`` elements on one thread."""
    return sum(engine.nanoseconds(node, machine) * count for node, count in kinds) * size * 1e-9


def predict(
    machine: Machine, compute: float, cost: Cost, launch: float, threads: int, streams: bool = False
) -> Prediction:
    """The time model over seconds of compute and a kernel's bytes.

    Stores fill lines that are read first, unless the kernel ``streams`` its results past the caches.
    """
    filled = 0 if streams else cost.bytes_written
    memory = machine.transfer_seconds(cost.bytes_moved, filled, threads)
    bound = "compute" if compute >= memory else machine.level(cost.bytes_moved, threads)
    if launch > max(compute, memory):
        bound = "launch"
    return Prediction(launch + max(compute, memory), bound)
