"""Choosing for an element-wise region: the engine, the threads, the loop and its blocks.

In: a unit of element-wise nodes, and the setting of the plan. Out: a ``Kernel``. Engines are compared by
predicted seconds: NumPy is kept unless another saves a fifth, and the plan says what the next would
take. A compiled form takes over from the call on that pays.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from fusegraph.cost import Cost, kernel_cost
from fusegraph.engines import ELEMENTWISE_ENGINES, FALLBACK
from fusegraph.engines.base import Engine, Region
from fusegraph.graph import Node
from fusegraph.kernel import Kernel, with_tier
from fusegraph.machine import Machine
from fusegraph.orders import Order
from fusegraph.setting import Setting, stored_orders
from fusegraph.time_model import (
    SHARING,
    THREADS_MARGIN,
    WORTH_A_THREAD,
    Kinds,
    Prediction,
    compute_seconds,
    kinds_of,
    predict,
)
from fusegraph.units import Unit

SMALLEST_BLOCK = 2048  # elements; below this the calls cost more than the arithmetic
LEAST_SHARE = 16384  # elements of a block that threads share by machine code
LARGEST_BLOCK = 131072  # elements; larger blocks were never faster
LAYOUT = "NumPy's bits of complex numbers depend on how operands lie"
# Leaving numpy for another engine must be predicted to save this share: predictions are off by as much.
MARGIN = 0.8


@dataclass(frozen=True, slots=True)
class Work:
    """An element-wise region that is to become a kernel.

    ``order`` and ``schedule`` are those of ``iteration_order``; ``packed`` elements of its operands do
    not lie dense.
    """

    name: str
    region: Region
    cost: Cost
    order: tuple[int, ...]
    schedule: str
    packed: int
    kinds: Kinds


@dataclass(frozen=True, slots=True)
class Trial:
    """What one engine would make of a region; ``streams``: its results go past the caches."""

    engine: Engine
    prediction: Prediction
    threads: int
    streams: bool


def elementwise_kernel(name: str, unit: Unit, first_touch: int, setting: Setting) -> Kernel:
    """The kernel of an element-wise unit, and its compiled form where that pays later."""
    region = unit.region
    cost = kernel_cost(region.nodes, region.inputs, region.outputs, first_touch=first_touch)
    packed = sum(v.size for v in region.inputs if setting.orders[v] is None)
    order = iteration_order(region, setting.orders)
    work = Work(name, region, cost, *order, packed, kinds_of(region.nodes))
    apart = setting.options.exact and _follows_layout(work)
    engines = [ELEMENTWISE_ENGINES[name] for name in ((FALLBACK,) if apart else unit.engines)]
    waiting = [e for e in engines if e.compiles and len(engines) > 1]
    tried = [_predict(engine, work, setting) for engine in engines if engine not in waiting]
    tried.sort(key=lambda t: t.prediction.seconds * (MARGIN if t.engine.name == FALLBACK else 1))
    choice = LAYOUT if apart else _choice(tried, region, setting)
    kernel = first = _kernel_of_trial(work, tried[0], choice, setting)
    for engine in waiting:
        make = functools.partial(_compiled_later, first, engine, work, setting)
        kernel = with_tier(kernel, engine.compile_seconds(region), make)
    return kernel


def _follows_layout(work: Work) -> bool:
    """Has NumPy other bits where operands do not lie dense? Its vectors of complex numbers do."""
    return work.schedule == "strided" and any(n.dtype.kind == "c" for n in work.region.nodes)


def _compiled_later(kernel: Kernel, engine: Engine, work: Work, setting: Setting) -> Kernel:
    """The form of ``kernel`` on an engine that compiles."""
    trial = _predict(engine, work, setting)
    times = kernel.seconds / trial.prediction.seconds
    choice = f"{kernel.engine} would take {times:.1f}x as long, compiling included"
    return _kernel_of_trial(work, trial, choice, setting)


def _kernel_of_trial(work: Work, trial: Trial, choice: str, setting: Setting) -> Kernel:
    """The kernel that a trial predicted: an element-wise region on one engine, flat or strided."""
    region, engine, threads = work.region, trial.engine, trial.threads
    body = engine.compile(region)
    block = _block_length(region, body.scratch_bytes, engine, setting.machine, threads)
    concurrent = threads if engine.blocked else 0
    streams = body.shares_blocks and trial.streams

    def scratch() -> int:
        largest = min(block, region.size)
        each: int = body.scratch_bytes * largest + body.call_bytes
        each += body.temporary_bytes(largest, work.schedule == "flat")
        return each * concurrent

    return Kernel(
        name=work.name,
        region=region,
        engine=engine.name,
        schedule=work.schedule,
        reads=tuple(setting.names[v] for v in region.inputs),
        writes=tuple(setting.names[v] for v in region.outputs),
        cost=work.cost,
        seconds=trial.prediction.seconds,
        bound=trial.prediction.bound,
        choice=f"{choice}; results go past the caches" if streams else choice,
        order=work.order,
        stored=stored_orders(region, setting),
        block=block,
        threads=threads,
        scratch=scratch,
        body=body,
        streams=streams,
    )


def iteration_order(region: Region, orders: Mapping[Node, Order]) -> tuple[tuple[int, ...], str]:
    """Axis order of the loop, and its schedule.

    ``flat`` where every operand is a scalar or dense in one common order: the loop runs over one
    axis. ``strided`` otherwise: blocks of the iteration space, in the order the result is stored.
    """
    result = orders[region.outputs[0]]
    assert result is not None
    flat = all(
        value.size == 1 or (value.shape == region.shape and orders[value] == result)
        for value in (*region.inputs, *region.outputs)
    )
    return result, "flat" if flat else "strided"


def _predict(engine: Engine, work: Work, setting: Setting) -> Trial:
    """One thread or all of them, whichever is predicted to take less."""
    bound, region = setting.threads, work.region
    compute = compute_seconds(engine, work.kinds, region.size, setting.machine)
    if not engine.blocked:  # it wakes its own threads, whatever the work
        return _timed(engine, work, compute, bound, setting.machine)
    compute += engine.packing_seconds(work.packed)
    alone = _timed(engine, work, compute, 1, setting.machine)
    if bound == 1:
        return alone
    shared = _timed(engine, work, compute, bound, setting.machine)
    margin = 1.0 if engine.compiles else THREADS_MARGIN
    return alone if alone.prediction.seconds * margin <= shared.prediction.seconds else shared


def _timed(engine: Engine, work: Work, compute: float, threads: int, machine: Machine) -> Trial:
    """The time model for a region on ``threads``, waking them and taking turns included.

    ``compute`` is what its arithmetic takes on one. Compiled results go past the caches where they
    would not stay there, threads share a job, and no functions are computed: those take longer than
    reading the lines (GELU of 32,000,000 float32 8.4 ms with ordinary stores, 10.5 by way of scratch,
    and with non-temporal ones 8.4 in some processes and 12.7 in others).
    """
    size = work.region.size
    launch = engine.launch_seconds(size, threads, machine)
    share, steps = threads, 0.0
    if engine.blocked:
        calls = 1 if engine.compiles else len(work.region.nodes)
        blocks = max(1, size // (LARGEST_BLOCK // 2))
        steps = machine.step.get(engine.name, 0.0) * blocks * calls
        if threads > 1 and engine.compiles:
            launch += SHARING
        elif threads > 1:
            launch += machine.waking
            steps += machine.handover * blocks * calls / threads
    elif compute < WORTH_A_THREAD:  # waking costs what it saves, whoever's threads they are
        share = 1
    computes = any(node.op.transcendental for node, _ in work.kinds)
    outgrown = machine.outgrown(work.cost.bytes_moved)
    streams = engine.compiles and threads > 1 and outgrown and not computes
    seconds = compute / share + steps
    return Trial(
        engine, predict(machine, seconds, work.cost, launch, threads, streams), threads, streams
    )


def _block_length(
    region: Region, scratch: int, engine: Engine, machine: Machine, threads: int
) -> int:
    """Elements of a block: what one block touches stays in cache.

    A body without scratch that fits L3 is not blocked: its calls cost more than L3 does (the triad on
    100,000 float32 took 1.3x of NumPy in one block, 2.0x in four). One operation touches nothing
    twice, and neither does a compiled body: its blocks only share the work among threads.
    """
    size = region.size
    moved = sum(v.nbytes for v in (*region.inputs, *region.outputs))
    near = machine.level(moved, 1) != "memory"
    whole = engine.compiles or len(region.nodes) == 1 or (not scratch and near)
    if threads == 1 and (whole or size <= SMALLEST_BLOCK):
        return size
    streams = sum(
        value.dtype.itemsize for value in (*region.inputs, *region.outputs) if value.shape
    )
    fits = machine.block_bytes // max(1, streams + scratch)
    fits = min(LARGEST_BLOCK, max(SMALLEST_BLOCK, fits // 1024 * 1024))
    # Enough blocks that no thread waits long for the last one; a call into machine code costs 1 us.
    parts = threads * (8 if engine.compiles else 2) if threads > 1 else 1
    share = max(-(-size // parts), LEAST_SHARE if engine.compiles else 1)
    if whole:
        fits = -(-share // 1024) * 1024
    return max(SMALLEST_BLOCK, min(fits, -(-share // 1024) * 1024))


def _choice(tried: list[Trial], region: Region, setting: Setting) -> str:
    """Why the first of ``tried`` was taken."""
    asked = setting.options.engine
    best = tried[0]
    if asked == best.engine.name:
        return "asked for"
    if len(tried) == 1:
        refusals = setting.fused.refusals
        refused = next((refusals[n] for n in region.nodes if n in refusals), "")
        several = "it writes several results in one pass" if len(region.outputs) > 1 else ""
        return refused or several or "the only engine that can run it"
    other = tried[1]
    times = other.prediction.seconds / best.prediction.seconds
    return f"{other.engine.name} would take {times:.1f}x as long"
