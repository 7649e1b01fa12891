"""The roofline: what bounds each kernel, and how near it comes (Williams, Waterman and Patterson 2009).

In: a plan, the same graph planned with fusion off, and measured times if there are any. Out: a
``Roofline`` of records. Attainable speed is ``min(peak, intensity * bandwidth)``; peak and bandwidth are
figures of the machine's profile, and everything else is modelled unless it says measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fusegraph.cost import node_flops
from fusegraph.graph import Node
from fusegraph.kernel import Kernel
from fusegraph.machine import LEVELS, Machine
from fusegraph.plan import Plan
from fusegraph.report.pictures import draw_roofline
from fusegraph.report.tables import table
from fusegraph.report.units import count_text


@dataclass(frozen=True, slots=True)
class Roof:
    """A level of memory: bytes per second on all threads of the plan."""

    level: str
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Peak:
    """Flops per second in a dtype on all threads of the plan, which matrix products reach.

    ``products`` is the dtype of those products: another where the profile has none of ``dtype``.
    """

    dtype: str
    products: str
    speed: float

    @property
    def label(self) -> str:
        """What it is a peak of: ``float64``, or ``int64 (as float32)``."""
        return self.dtype if self.dtype == self.products else f"{self.dtype} (as {self.products})"


@dataclass(frozen=True, slots=True)
class Point:
    """One kernel under its roofs. Speeds are in flops per second.

    Attributes
    ----------
    kernel : str
    dtype : str
        What most of its flops are done in.
    intensity : float
        Flops per byte read or written.
    level : str
        The memory that holds what it reads and writes.
    ceiling : float
        What the machine's profile allows: the least of peak and ``intensity * bandwidth``.
    limit : str
        Which of the two it is: ``compute`` or the level.
    predicted : float
        By the time model.
    measured : float or None
        After a profile.
    """

    kernel: str
    dtype: str
    intensity: float
    level: str
    ceiling: float
    limit: str
    predicted: float
    measured: float | None = None

    @property
    def achieved(self) -> float | None:
        """Measured speed as a part of the ceiling."""
        return None if self.measured is None or not self.ceiling else self.measured / self.ceiling

    @property
    def source(self) -> str:
        """Where ``speed`` is from: ``measured``, or ``predicted``."""
        return "predicted" if self.measured is None else "measured"

    @property
    def speed(self) -> float:
        """Measured speed, or the predicted one where none was measured."""
        return self.predicted if self.measured is None else self.measured

    def to_dict(self) -> dict[str, Any]:
        derived = {"achieved": self.achieved, "source": self.source, "speed": self.speed}
        return {**asdict(self), **derived}


@dataclass(frozen=True, slots=True)
class Roofline:
    """Roofs of a machine, and the kernels of a plan before and after fusion.

    There is a peak for each dtype that kernels compute in, those before fusion included.
    """

    machine: str
    peaks: tuple[Peak, ...]
    roofs: tuple[Roof, ...]
    before: tuple[Point, ...]
    after: tuple[Point, ...]

    @property
    def without_flops(self) -> dict[str, tuple[str, ...]]:
        """Kernels before and after fusion that only move bytes: logarithmic axes have no place for 0."""
        groups = {"before": self.before, "after": self.after}
        return {
            name: tuple(p.kernel for p in points if not p.intensity)
            for name, points in groups.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, which is all that a picture needs."""
        return {
            **asdict(self),
            "peaks": [{**asdict(peak), "label": peak.label} for peak in self.peaks],
            "before": [point.to_dict() for point in self.before],
            "after": [point.to_dict() for point in self.after],
            "without_flops": self.without_flops,
        }

    def plot(self, path: str) -> None:
        """Draw it to an image file: roofs as lines, kernels as points (needs the extra ``viz``)."""
        draw_roofline(self.to_dict(), path)

    def __str__(self) -> str:
        rows = [
            (
                p.kernel, f"{p.intensity:.2f}", p.limit, _speed(p.ceiling), _speed(p.predicted),
                "" if p.measured is None else _speed(p.measured),
                "" if p.achieved is None else f"{p.achieved:.0%}",
            )
            for p in self.after
        ]  # fmt: skip
        headers = ("kernel", "flop/byte", "limit", "ceiling", "predicted", "measured", "achieved")
        peaks = ", ".join(f"{p.label} {_speed(p.speed)}" for p in self.peaks)
        roofs = ", ".join(f"{r.level} {count_text(r.bandwidth)}B/s" for r in self.roofs)
        ceilings = f"peak {peaks}; {roofs}" if peaks else roofs
        return f"roofline of {self.machine}: {ceilings}\n\n{table(rows, headers, 'lrlrrrr')}"


def _speed(flops: float) -> str:
    return f"{count_text(flops)}flop/s"


def roofline(plan: Plan, unfused: Plan, measured: Mapping[str, float]) -> Roofline:
    """The roofline of ``plan``.

    Parameters
    ----------
    plan, unfused : Plan
        The same graph, and with fusion off.
    measured : mapping
        Seconds of kernels of ``plan`` by name, where they were measured.
    """
    machine, threads = plan.machine, min(plan.options.thread_count, plan.machine.cores)
    before = tuple(_point(kernel, machine, {}) for kernel in unfused.kernels)
    after = tuple(_point(kernel, machine, measured) for kernel in plan.kernels)
    dtypes = dict.fromkeys(point.dtype for point in (*after, *before) if point.intensity)
    return Roofline(
        machine=machine.name,
        peaks=tuple(
            Peak(dtype, machine.products_like(dtype), machine.peak(dtype, threads))
            for dtype in dtypes
        ),
        roofs=tuple(Roof(level, machine.roof(level, threads)) for level in LEVELS),
        before=before,
        after=after,
    )


def _point(kernel: Kernel, machine: Machine, measured: Mapping[str, float]) -> Point:
    cost, dtype = kernel.cost, _dtype(kernel)
    level, bandwidth = machine.bandwidth(cost.bytes_moved, kernel.threads)
    memory = cost.arithmetic_intensity * bandwidth
    peak = machine.peak(dtype, kernel.threads)
    seconds = measured.get(kernel.name)
    return Point(
        kernel=kernel.name,
        dtype=dtype,
        intensity=cost.arithmetic_intensity,
        level=level,
        ceiling=min(peak, memory),
        limit="compute" if peak < memory else level,
        predicted=cost.flops / kernel.seconds if kernel.seconds else 0.0,
        measured=cost.flops / seconds if seconds else None,
    )


def _dtype(kernel: Kernel) -> str:
    """The dtype that most flops of a kernel are done in; its result's where it has none."""
    flops: Counter[str] = Counter()
    for node in kernel.region.nodes:
        if count := node_flops(node):
            flops[_working_dtype(node)] += count
    return max(flops, key=flops.__getitem__) if flops else kernel.region.outputs[0].dtype.name


def _working_dtype(node: Node) -> str:
    """Its result's, or its operands' where the result is a truth value or an index of floats."""
    if node.dtype.kind in "fc":
        return node.dtype.name
    return np.result_type(*[operand.dtype for operand in node.inputs]).name
