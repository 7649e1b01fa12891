"""The roofline: what bounds each kernel, and how near it comes (Williams, Waterman and Patterson 2009).

In: a plan, the same graph planned with fusion off, and measured times if there are any. Out: a
``Roofline`` of records. Attainable speed is ``min(peak, intensity * bandwidth)``; peak and bandwidth are
figures of the machine's profile, and everything else is modelled unless it says measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from fusegraph.kernel import Kernel
from fusegraph.machine import LEVELS, Machine
from fusegraph.plan import Plan
from fusegraph.report.pictures import draw_roofline
from fusegraph.report.units import count_text


@dataclass(frozen=True, slots=True)
class Roof:
    """A level of memory: bytes per second on all threads of the plan."""

    level: str
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Point:
    """One kernel under its roofs. Speeds are in flops per second.

    Attributes
    ----------
    kernel : str
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


@dataclass(frozen=True, slots=True)
class Roofline:
    """Roofs of a machine, and the kernels of a plan before and after fusion."""

    machine: str
    peak: float  # flops per second in float32 on the plan's threads, reached by matrix products
    roofs: tuple[Roof, ...]
    before: tuple[Point, ...]
    after: tuple[Point, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            **asdict(self),
            "after": [{**asdict(point), "achieved": point.achieved} for point in self.after],
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
        align = ("left", "right", "left", *["right"] * 4)
        table = tabulate(
            rows, headers, tablefmt="plain", colalign=align if rows else None, disable_numparse=True
        )
        roofs = ", ".join(f"{r.level} {count_text(r.bandwidth)}B/s" for r in self.roofs)
        return f"roofline of {self.machine}: peak {_speed(self.peak)}; {roofs}\n\n{table}"


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
    machine, threads = plan.machine, plan.options.thread_count
    return Roofline(
        machine=machine.name,
        peak=machine.peak("float32", threads),
        roofs=tuple(Roof(level, machine.roof(level, threads)) for level in LEVELS),
        before=tuple(_point(kernel, machine, {}) for kernel in unfused.kernels),
        after=tuple(_point(kernel, machine, measured) for kernel in plan.kernels),
    )


def _point(kernel: Kernel, machine: Machine, measured: Mapping[str, float]) -> Point:
    cost = kernel.cost
    level, bandwidth = machine.bandwidth(cost.bytes_moved, kernel.threads)
    memory = cost.arithmetic_intensity * bandwidth
    peak = _peak(kernel, machine)
    seconds = measured.get(kernel.name)
    return Point(
        kernel=kernel.name,
        intensity=cost.arithmetic_intensity,
        level=level,
        ceiling=min(peak, memory),
        limit="compute" if peak < memory else level,
        predicted=cost.flops / kernel.seconds if kernel.seconds else 0.0,
        measured=cost.flops / seconds if seconds else None,
    )


def _peak(kernel: Kernel, machine: Machine) -> float:
    """Flops per second of the kernel's dtype in a product; float32's where that was not measured."""
    dtype = kernel.region.outputs[0].dtype.name
    return machine.peak(dtype, kernel.threads)
