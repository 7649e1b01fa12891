"""The setting of a plan: what the choice of every kernel knows.

In: names, orders in memory, options, the machine, the cut graph. Out: ``Setting``.
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


@dataclass(frozen=True, slots=True)
class Setting:
    """What all kernels of one plan share."""

    names: Mapping[Node, str]
    orders: Mapping[Node, Order]
    options: Options
    threads: int  # at most, of a kernel
    machine: Machine
    fused: Fused


def stored_orders(region: Region, setting: Setting) -> tuple[tuple[int, ...], ...]:
    """Axis order in memory of each result of a region."""
    found = []
    for value in region.outputs:
        order = setting.orders[value]
        assert order is not None, value  # what is computed is dense
        found.append(order)
    return tuple(found)
