"""Profiles: a plan run a few times, predicted time beside measured.

In: a plan and its arrays. Out: a ``Profile`` record; its text is a table. "Measured" here is wall-clock
time of this process on this machine, the median of the runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fusegraph.execute import Program
from fusegraph.kernel import Kernel
from fusegraph.plan import Plan
from fusegraph.report.tables import table
from fusegraph.report.units import seconds_text


@dataclass(frozen=True, slots=True)
class KernelProfile:
    """One kernel: seconds predicted and measured, and what the measured time achieves."""

    name: str
    engine: str
    expression: str  # what it computes
    predicted: float  # seconds, by the time model
    measured: float  # seconds, median
    gigabytes_per_second: float  # modelled bytes over measured seconds
    gigaflops: float  # modelled flops over measured seconds

    @property
    def error(self) -> float:
        """Predicted over measured, minus one: 0.2 is 20 % too long, -0.2 is 20 % too short."""
        return self.predicted / self.measured - 1 if self.measured else 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """Predicted beside measured for every kernel of a plan."""

    kernels: tuple[KernelProfile, ...]
    repeats: int

    @property
    def predicted(self) -> float:
        return sum(k.predicted for k in self.kernels)

    @property
    def measured(self) -> float:
        return sum(k.measured for k in self.kernels)

    def is_of(self, plan: Plan) -> bool:
        """Was ``plan`` measured, or one with the same kernels over as many bytes?

        The plan itself is not kept: of a graph too large for the cache, every plan is another object.
        """
        mine = [(k.name, k.engine, k.expression, k.predicted) for k in self.kernels]
        return mine == [(k.name, k.engine, k.expression, k.seconds) for k in plan.kernels]

    def to_dict(self) -> dict[str, Any]:
        return {
            "repeats": self.repeats,
            "predicted": self.predicted,
            "measured": self.measured,
            "kernels": [{**asdict(k), "error": k.error} for k in self.kernels],
        }

    def __str__(self) -> str:
        rows = [
            (
                k.name, k.engine, seconds_text(k.predicted), seconds_text(k.measured),
                f"{k.error:+.0%}", f"{k.gigabytes_per_second:.1f}", f"{k.gigaflops:.1f}",
            )
            for k in self.kernels
        ]  # fmt: skip
        headers = ("kernel", "engine", "predicted", "measured", "error", "GB/s", "GFLOP/s")
        return table(rows, headers, "llrrrrr")


def profile_plan(plan: Plan, arrays: Sequence[Any], repeats: int) -> Profile:
    """Run ``plan`` once to warm up and ``repeats`` times for the medians."""
    if repeats < 1:
        raise ValueError(f"profile: repeats={repeats}: give a positive integer")
    taken: dict[Kernel, list[float]] = {kernel: [] for kernel in plan.kernels}
    program = Program(plan)
    program.run(arrays)
    for _ in range(repeats):
        program.run(arrays, clock=lambda kernel, seconds: taken[kernel].append(seconds))
    return Profile(tuple(_profiled(k, statistics.median(taken[k])) for k in plan.kernels), repeats)


def _profiled(kernel: Kernel, measured: float) -> KernelProfile:
    rate = 1e-9 / measured if measured else 0.0
    return KernelProfile(
        name=kernel.name,
        engine=kernel.engine,
        expression=kernel.expression,
        predicted=kernel.seconds,
        measured=measured,
        gigabytes_per_second=kernel.cost.bytes_moved * rate,
        gigaflops=kernel.cost.flops * rate,
    )
