"""fusegraph: ``auto`` as a user gets it, each engine by name, and NumPy's copy."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

import fusegraph as fg
from fusegraph.bench.results import AUTO, COPY
from fusegraph.bench.runners.base import Call, Runner, UnsupportedError
from fusegraph.bench.suite import Array, Row
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.kernel import Kernel
from fusegraph.processor import available_cores
from fusegraph.streams import SharedCopies, least_seconds
from fusegraph.workers import run_tasks

ENGINES = tuple(f"{AUTO}.{engine}" for engine in ELEMENTWISE_ENGINES)


class FusedRunner(Runner):
    """``fg.jit`` of the function, and copies of the row's bytes.

    Buffers are kept from row to row, as every other library's allocator keeps its memory.
    """

    name: ClassVar[str] = AUTO
    packages: ClassVar[tuple[str, ...]] = ("fusegraph", "llvmlite")
    ways = (AUTO, *ENGINES, COPY)

    def load(self) -> None:
        machine = fg.machine()  # measured now where it was not measured before
        self._copies = SharedCopies(machine.l3_bytes, machine.cores)
        self._compiled = False  # do all kernels run as they will from then on?

    def build(self, way: str, row: Row, arrays: Sequence[Any]) -> Call:
        if way == COPY:
            return copying(row, arrays)
        function = functools.partial(row.function, fg)
        if way == AUTO:
            return fg.jit(function)  # type: ignore[no-any-return]
        engine = way.removeprefix(f"{AUTO}.")
        fused = fg.jit(function, engine=engine)
        if not any(kernel.engine == engine for kernel in fused.plan(*arrays).kernels):
            raise UnsupportedError("no kernel of the plan is for this engine")
        return fg.jit(function, engine=engine)  # type: ignore[no-any-return]

    def calls_to_settle(self, way: str, call: Any, arrays: Sequence[Any]) -> int:
        if way == COPY:
            return 1
        return max((k.tier.call for k in call.plan(*arrays).kernels if k.tier), default=1)

    def facts(self, way: str, call: Any, arrays: Sequence[Any], calls: int) -> dict[str, Any]:
        if way != AUTO:
            return {}
        plan = call.plan(*arrays)
        running = [settled(kernel, calls) for kernel in plan.kernels]
        sizes = [a.size for a in arrays] + [node.size for node in plan.plan.outputs]
        kernels = [
            {
                "engine": now.engine,
                "schedule": now.schedule,
                "threads": now.threads,
                "bound": now.bound,
                "predicted": now.seconds,
                "tier": first.tier.call if first.tier else None,
                "reached": now is not first or first.tier is None,
            }
            for first, now in zip(plan.kernels, running, strict=True)
        ]
        self._compiled = all(kernel["reached"] for kernel in kernels)
        return {"elements": max(sizes), "bytes_moved": plan.cost.bytes_moved, "kernels": kernels}

    def surroundings(self) -> dict[str, float]:
        return self._copies.bandwidths()

    def predict(self, row: Row, arrays: Sequence[Any], streams: dict[str, float]) -> float | None:
        machine = fg.machine()
        there = dataclasses.replace(machine, streams=machine.streams | streams)
        plan = fg.jit(functools.partial(row.function, fg), machine=there).plan(*arrays)
        calls = sys.maxsize if self._compiled else 0
        return sum(settled(kernel, calls).seconds for kernel in plan.kernels)


def settled(kernel: Kernel, calls: int) -> Kernel:
    """What runs for ``kernel`` at the last of ``calls`` calls."""
    tier = kernel.tier
    return tier.kernel if tier is not None and calls >= tier.call else kernel


def copying(row: Row, arrays: Sequence[Array]) -> Callable[..., Any]:
    """Copies half of the bytes that the row reads and writes, into memory that is mapped.

    Every input counts once and every result once: no program that makes the results from the inputs
    moves less. It runs on one thread or on all cores, whichever is faster for so many bytes. What is
    copied was written before: memory that nobody has written is one page of zeros, which stays in
    cache. 128,000,000 bytes of that took 4.2 ms, and 7.0 of an array.
    """
    moved = sum(a.nbytes for a in arrays) + sum(r.nbytes for r in row.results(arrays))
    source, target = np.ones((2, max(1, moved // 2)), np.uint8)
    ways = [copy_on(threads, source, target) for threads in sorted({1, available_cores()})]
    return min(ways, key=least_seconds)


def copy_on(threads: int, source: Array, target: Array) -> Callable[..., Any]:
    """A copy in as many parts as ``threads``, one each."""
    length = math.ceil(source.size / threads)
    parts = [slice(at * length, (at + 1) * length) for at in range(threads)]

    def task(index: int) -> None:
        np.copyto(target[parts[index]], source[parts[index]])

    return lambda *_: run_tasks(lambda: task, threads, threads)
