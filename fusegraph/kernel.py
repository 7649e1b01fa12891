"""Kernels: a region with a schedule, an engine and a predicted time; and its form for later calls.

In: what ``choice`` found. Out: records that plans hold, schedules run and reports print.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
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
    scratch : callable
        Gives ``scratch_bytes``. No run needs it: to count it took a twentieth of a first call.
    body : object
        The compiled region.
    panels : Panels or None
        How the region is cut, where the schedule is ``panels``.
    prospect : Prospect or None
        What finds ``tier`` when somebody asks for it.
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
    scratch: Callable[[], int]
    body: Any
    panels: Panels | None = None
    prospect: Prospect | None = None
    streams: bool = False

    @property
    def tier(self) -> Tier | None:
        """The compiled form that takes over once that pays."""
        return self.prospect.find() if self.prospect else None

    @property
    def scratch_bytes(self) -> int:
        """Temporaries of all threads."""
        return self.scratch()

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
    def compile_seconds(self) -> float:
        """Predicted, until its first run can begin."""
        if self.panels is not None:
            return float(self.body.compile_seconds)
        return ELEMENTWISE_ENGINES[self.engine].compile_seconds(self.region)

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


@dataclass(frozen=True, slots=True, eq=False)
class Prospect:
    """The compiled form that a kernel may get, which is planned when somebody first asks for it.

    Most plans run a few times, and to plan the compiled forms took a quarter of a first call.

    Attributes
    ----------
    earliest : int
        The first call that may compile: before it, even a form that took no time would not have paid.
    find : callable
        Gives the ``Tier``, or None where the compiled form is not predicted to pay. It is worked out
        once and kept; threads that ask at the same time may each work it out.
    """

    earliest: int
    find: Callable[[], Tier | None]


def with_tier(kernel: Kernel, least_seconds: float, make: Callable[[], Kernel | None]) -> Kernel:
    """``kernel``, followed by its compiled form from the call on that makes up for compiling.

    ``make`` plans that form, or finds that there is none; compiling it takes ``least_seconds`` or more.
    The call is fixed by predictions, so that one plan always runs the same way.
    """

    @functools.cache
    def find() -> Tier | None:
        compiled = make()
        if compiled is None or compiled.seconds >= TIER_MARGIN * kernel.seconds:
            return None
        saved, seconds = kernel.seconds - compiled.seconds, compiled.compile_seconds
        return Tier(compiled, _pays_at(seconds, saved), saved, seconds)

    if _pays_at(least_seconds, kernel.seconds) == 1:  # a single call may pay: find out now
        tier = find()
        if tier is None:
            return kernel
        if tier.call == 1:
            return tier.kernel
    # Kernels that are compiled ``together`` save BETWEEN too.
    earliest = max(2, _pays_at(least_seconds, kernel.seconds + BETWEEN))
    return replace(kernel, prospect=Prospect(earliest, find))


def _pays_at(compile_seconds: float, saved_seconds: float) -> int:
    """The call at which what each saves makes up for compiling."""
    return math.floor(compile_seconds / saved_seconds) + 1


def together(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Kernels whose tiers count what it saves that all of them are compiled.

    Then one call runs them with no Python in between, which a kernel of next to no work is compiled for.
    """
    prospects = [k.prospect for k in kernels if k.prospect]
    if len(kernels) < 2 or not all(k.compiled or k.prospect for k in kernels):
        return tuple(kernels)
    return tuple(
        replace(k, prospect=_beside(k.prospect, prospects)) if k.prospect else k for k in kernels
    )


def _beside(own: Prospect, prospects: Sequence[Prospect]) -> Prospect:
    """The same form, where it saves what Python takes between kernels too."""

    @functools.cache
    def find() -> Tier | None:
        tier = own.find()
        if tier is None or not all(prospect.find() for prospect in prospects):
            return tier
        saved = tier.saved_seconds + BETWEEN
        call = max(2, _pays_at(tier.compile_seconds, saved))
        return replace(tier, call=call, saved_seconds=saved)

    return replace(own, find=find)


def most_scratch(kernel: Kernel) -> int:
    """Bytes of temporaries of a kernel in whichever tier needs more."""
    later = kernel.tier.kernel.scratch_bytes if kernel.tier else 0
    return max(kernel.scratch_bytes, later)
