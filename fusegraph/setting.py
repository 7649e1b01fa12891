"""The setting of a plan: what the choice of every kernel knows.

In: names, orders in memory, options, the machine, the cut graph. Out: ``Setting``, and what it costs or
must save to let threads share a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fusegraph.engines.base import Region
from fusegraph.graph import Node
from fusegraph.machine import Machine
from fusegraph.options import Options
from fusegraph.orders import Order
from fusegraph.units import Fused

# Where Python wakes them, several threads must be predicted to take less than this share of one's time:
# exp of 300,000 float32 was predicted at 164 us on two and 171 on one, and took 230 and 140.
THREADS_MARGIN = 0.8
# Seconds until a thread takes part that looks for work in compiled code: a triad of 100,000 float32 took
# 14.9 us on one thread and 7.4 on two.
SHARING = 2e-6


def stored_orders(region: Region, setting: Setting) -> tuple[tuple[int, ...], ...]:
    """Axis order in memory of each result of a region."""
    found = []
    for value in region.outputs:
        order = setting.orders[value]
        assert order is not None, value  # what is computed is dense
        found.append(order)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all kernels of one plan share."""

    names: Mapping[Node, str]
    orders: Mapping[Node, Order]
    options: Options
    machine: Machine
    fused: Fused
