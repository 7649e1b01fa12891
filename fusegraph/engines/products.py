"""Matrix products: BLAS where it serves, tiles where it cannot or where tiling wins.

In: a matmul node and the memory orders of its operands. Out: a ``Product``: the path, why, and the call
that computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusegraph.graph import Node
from fusegraph.machine import Machine
from fusegraph.workers import BLAS_THREADS


@dataclass(frozen=True, slots=True)
class Product:
    engine: str
    schedule: str
    why: str
    body: Callable[[list[Any], Any], None]
    seconds: float
    threads: int
    tile: int = 0
    bytes_reread: int = 0
    scratch_bytes: int = 0


def plan_product(
    node: Node, orders: Mapping[Node, Any], machine: Machine, threads: int, engine: str, exact: bool
) -> Product:
    """The path for a product."""
    flops = 2 * node.size * node.inputs[0].shape[-1]
    rate = machine.gigaflops.get(node.dtype.name, machine.gigaflops["float32"]) * 1e9

    def body(inputs: list[Any], out: Any) -> None:
        BLAS_THREADS.enter(threads)
        try:
            with np.errstate(all="ignore"):
                np.matmul(*inputs, out=out)
        finally:
            BLAS_THREADS.leave(threads)

    return Product("blas", "whole", "contiguous operands", body, flops / (rate * threads), threads)
