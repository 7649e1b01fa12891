"""Kernels: a region with a schedule, an engine and a predicted time; and its form for later calls.

In: what ``choice`` found. Out: records that plans hold, schedules run and reports print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusegraph.cost import Cost
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.engines.base import Region
from fusegraph.expression import expression
from fusegraph.panels import Panels

# A compiled form must be predicted to save this share. Once it is compiled it never was the slower one:
# the triad of 4,000,000 float32 was predicted at 0.92 of NumPy's time in blocks and took 0.65.
TIER_MARGIN = 0.97
# Seconds of Python for each kernel of a plan, at least, which are saved where all are compiled: the mean
# of 1,000 columns, two kernels, took 220 us a call by way of Python and 180 as one call.
BETWEEN = 8e-6


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """One pass over memory.

    Attributes
    ----------
    name : str
        ``k0, k1, ...`` in the order they run.
    region : Region
    engine : str
        What evaluates the body: ``numexpr``, ``numpy``, ``llvm``, ``blas``, ``tiles``.
    schedule : str
        How the loop runs: ``flat``, ``strided``, ``panels``, ``whole``, ``tiles``.
    reads, writes : tuple of str
        Names of the values that cross memory.
    cost : Cost
    seconds : float
        Predicted.
    bound : str
        The term of the time model that binds: ``compute``, ``launch``, or a level of memory.
    choice : str
        Why this engine.
    order : tuple of int
        Axes of the iteration space from slowest to fastest.
    stored : tuple of tuple of int
        The same of each result, as it lies in memory.
    block : int
        Elements of a block (blocked engines), or the tile of a product.
    threads : int
    scratch_bytes : int
        Temporaries of all threads.
    body : object
        The compiled region.
    panels : Panels or None
        How the region is cut, where the schedule is ``panels``.
    tier : Tier or None
        The compiled form that takes over once that pays.
    streams : bool
        Are results stored past the caches, which they would not stay in?
    """

    name: str
    region: Region
    engine: str
    schedule: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    cost: Cost
    seconds: float
    bound: str
    choice: str
    order: tuple[int, ...]
    stored: tuple[tuple[int, ...], ...]
    block: int
    threads: int
    scratch_bytes: int
    body: Any
    panels: Panels | None = None
    tier: Tier | None = None
    streams: bool = False

    @property
    def blocked(self) -> bool:
        """Does the schedule call the body block by block (or does the engine loop by itself)?"""
        return self.schedule in ("flat", "strided") and ELEMENTWISE_ENGINES[self.engine].blocked

    @property
    def compiled(self) -> bool:
        """Is the engine one that makes machine code?"""
        engine = ELEMENTWISE_ENGINES.get(self.engine)
        return engine is not None and engine.compiles

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of the operations, in the order they run."""
        return tuple(node.op.name for node in self.region.nodes)

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Names of the operations in order: neighbours of one shape together, others apart."""
        found: list[list[str]] = []
        before: Any = None
        for node in self.region.nodes:
            alike = node.shape if node.kind == "elementwise" else node
            if alike == before:
                found[-1].append(node.op.name)
            else:
                found.append([node.op.name])
            before = alike
        return tuple(map(tuple, found))

    @property
    def expression(self) -> str:
        """What it computes, in numexpr's spelling, whichever engine runs it."""
        names = dict(zip(self.region.inputs, self.reads, strict=True))
        names.update(zip(self.region.outputs, self.writes, strict=True))
        return expression(self.region, names)

    @property
    def sources(self) -> tuple[str, ...]:
        """``file:line`` of the operations, where sources are traced."""
        return tuple(dict.fromkeys(n.source for n in self.region.nodes if n.source))


@dataclass(frozen=True, slots=True, eq=False)
class Tier:
    """A compiled form of a kernel, for the calls after compiling has paid.

    Attributes
    ----------
    kernel : Kernel
    call : int
        The call, from 1 on, that compiles it: then the seconds saved so far exceed the compiling.
    saved_seconds, compile_seconds : float
        Predicted, of one call and once.
    """

    kernel: Kernel
    call: int
    saved_seconds: float
    compile_seconds: float


def with_tier(kernel: Kernel, compiled: Kernel, compile_seconds: float) -> Kernel:
    """``kernel``, followed by its ``compiled`` form from the call on that makes up for compiling.

    The call is fixed by predictions, so that one plan always runs the same way.
    """
    saved = kernel.seconds - compiled.seconds
    if compiled.seconds >= TIER_MARGIN * kernel.seconds:
        return kernel
    call = math.floor(compile_seconds / saved) + 1
    if call == 1:
        return compiled
    return replace(kernel, tier=Tier(compiled, call, saved, compile_seconds))


def together(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Kernels whose tiers count what it saves that all of them are compiled.

    Then one call runs them with no Python in between, which a kernel of next to no work is compiled for.
    """
    if len(kernels) < 2 or not all(k.compiled or k.tier for k in kernels):
        return tuple(kernels)
    return tuple(replace(k, tier=_sooner(k.tier)) if k.tier else k for k in kernels)


def _sooner(tier: Tier) -> Tier:
    """The same form, where it saves what Python takes between kernels too."""
    saved = tier.saved_seconds + BETWEEN
    call = math.floor(tier.compile_seconds / saved) + 1
    return replace(tier, call=max(2, call), saved_seconds=saved)


def most_scratch(kernel: Kernel) -> int:
    """Bytes of temporaries of a kernel in whichever tier needs more."""
    later = kernel.tier.kernel.scratch_bytes if kernel.tier else 0
    return max(kernel.scratch_bytes, later)
