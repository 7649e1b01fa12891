"""Choosing: the engine, the schedule, the threads and the blocks of a kernel.

In: a unit of the fusion pass and what the plan knows (names, memory orders, options, machine). Out: a
``Kernel``. Engines of one unit are compared by predicted seconds; the least wins and the plan says by
how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fusegraph.cost import Cost, kernel_cost
from fusegraph.engines import ELEMENTWISE_ENGINES, FALLBACK
from fusegraph.engines.base import Engine, Region
from fusegraph.engines.library import library_call, library_scratch
from fusegraph.engines.panel_body import PanelBody
from fusegraph.engines.products import plan_product
from fusegraph.graph import Node
from fusegraph.kernel import Kernel, with_tier
from fusegraph.machine import Machine
from fusegraph.options import Options
from fusegraph.panels import Panels, lay_panels, partial_bytes
from fusegraph.rows import own_rows
from fusegraph.timing import (
    WORTH_A_THREAD,
    Prediction,
    compute_seconds,
    node_seconds,
    predict,
)  # fmt: skip
from fusegraph.units import Decision, Fused, Unit
from fusegraph.views import Order

SMALLEST_BLOCK = 2048  # elements; below this the calls cost more than the arithmetic
LEAST_SHARE = 16384  # elements of a block that threads share by machine code
LARGEST_BLOCK = 131072  # elements; larger blocks were never faster
# Leaving numpy for another engine must be predicted to save this share: predictions are off by as much.
MARGIN = 0.8
# Where Python wakes them, several threads must be predicted to take less than this share of one's time:
# exp of 300,000 float32 was predicted at 164 us on two and 171 on one, and took 230 and 140.
THREADS_MARGIN = 0.8
PARTIALS = 10e-6  # seconds: memory for partial results, and putting them together
# Seconds until a thread takes part that looks for work in compiled code: a triad of 100,000 float32 took
# 14.9 us on one thread and 7.4 on two.
SHARING = 2e-6


@dataclass(frozen=True, slots=True)
class Setting:
    """What all kernels of one plan share."""

    names: Mapping[Node, str]
    orders: Mapping[Node, Order]
    options: Options
    machine: Machine
    fused: Fused


@dataclass(frozen=True, slots=True)
class Work:
    """An element-wise region that is to become a kernel.

    ``order`` and ``schedule`` are those of ``iteration_order``; ``packed`` elements of its operands do
    not lie dense.
    """

    name: str
    region: Region
    cost: Cost
    decisions: tuple[Decision, ...]
    order: tuple[int, ...]
    schedule: str
    packed: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What one engine would make of a region; ``streams``: its results go past the caches."""

    engine: Engine
    prediction: Prediction
    threads: int
    streams: bool


def make_kernel(
    name: str, unit: Unit, first_touch: int, decisions: tuple[Decision, ...], setting: Setting
) -> Kernel:
    """The kernel for a unit: an engine and a schedule that the cost model finds fastest."""
    build = _panels if unit.panels else _elementwise if unit.elementwise else _single_call
    return build(name, unit, first_touch, decisions, setting)


# --- element-wise regions -------------------------------------------------------------------------


def _elementwise(
    name: str, unit: Unit, first_touch: int, decisions: tuple[Decision, ...], setting: Setting
) -> Kernel:
    region = unit.region
    cost = kernel_cost(region.nodes, region.inputs, region.outputs, first_touch=first_touch)
    packed = sum(v.size for v in region.inputs if setting.orders[v] is None)
    work = Work(name, region, cost, decisions, *iteration_order(region, setting.orders), packed)
    trials = [_predict(ELEMENTWISE_ENGINES[e], work, setting) for e in unit.engines]
    trials.sort(key=lambda t: t.prediction.seconds * (MARGIN if t.engine.name == FALLBACK else 1))
    waiting = [t for t in trials if t.engine.compiles and len(trials) > 1]
    tried = [t for t in trials if t not in waiting]

    kernel = _flat_kernel(work, tried[0], _choice(tried, region, setting), setting)
    for trial in waiting:
        compiled = _flat_kernel(work, trial, _saves(kernel, trial), setting)
        kernel = with_tier(kernel, compiled, trial.engine.compile_seconds(region))
    return kernel


def _saves(kernel: Kernel, trial: Trial) -> str:
    times = kernel.seconds / trial.prediction.seconds
    return f"{kernel.engine} would take {times:.1f}x as long, compiling included"


def _flat_kernel(work: Work, trial: Trial, choice: str, setting: Setting) -> Kernel:
    """An element-wise region on one engine."""
    region, engine, threads = work.region, trial.engine, trial.threads
    body = engine.compile(region)
    block = _block_length(region, body.scratch_bytes, engine, setting.machine, threads)
    concurrent = threads if engine.blocked else 0
    streams = body.shares_blocks and trial.streams
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
        decisions=work.decisions,
        order=work.order,
        block=block,
        threads=threads,
        scratch_bytes=(body.scratch_bytes * min(block, _size(region)) + body.call_bytes)
        * concurrent,
        body=body,
        streams=streams,
    )


def _size(region: Region) -> int:
    return math.prod(region.shape)


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
    bound, region = setting.options.thread_count, work.region
    compute = compute_seconds(engine, region.nodes, _size(region), setting.machine)
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
    would not stay there and threads share a job.
    """
    size = _size(work.region)
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
    streams = engine.compiles and threads > 1 and machine.outgrown(work.cost.bytes_moved)
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
    size = _size(region)
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


# --- panels: rows that stay in cache ----------------------------------------------------------------


def _panels(
    name: str, unit: Unit, first_touch: int, decisions: tuple[Decision, ...], setting: Setting
) -> Kernel:
    region, panels, options = unit.region, unit.panels, setting.options
    assert panels is not None
    cost = kernel_cost(
        region.nodes,
        region.inputs,
        region.outputs,
        reread=_panels_reread(region, panels),
        first_touch=first_touch,
    )

    def made(engine: Engine | None) -> Kernel:
        kernel = _panel_kernel(name, region, panels, cost, engine, decisions, setting)
        compiles = engine is not None and engine.compiles and not _loose(region, setting)
        if not compiles or not panels.narrow:
            return kernel
        # A compiled loop over rows that lie in C order needs no copies with the narrow axis first.
        upright = _panel_kernel(name, region, panels.upright, cost, engine, decisions, setting)
        better = upright.body.whole_stage is not None and upright.seconds < kernel.seconds
        return upright if better else kernel

    if options.engine != "auto":
        asked = ELEMENTWISE_ENGINES[options.engine]
        return made(None if asked.name == FALLBACK else asked)
    kernel = made(None)
    for engine in ELEMENTWISE_ENGINES.values():
        if engine.compiles and not options.exact:
            compiled = made(engine)
            kernel = with_tier(kernel, compiled, compiled.body.compile_seconds)
    return kernel


def _panel_kernel(
    name: str,
    region: Region,
    panels: Panels,
    cost: Cost,
    engine: Engine | None,
    decisions: tuple[Decision, ...],
    setting: Setting,
) -> Kernel:
    """Panels whose stages run on ``engine``, or whose every node is a call of NumPy."""
    machine, bound = setting.machine, setting.options.thread_count
    body = PanelBody(region, panels, engine, bound, setting.options.exact)
    compute = sum(
        node_seconds(node, machine, engine if engine and body.accepts(node) else None)
        for node in region.nodes
    )
    compiled = {node for part in body.compiled for node in part.nodes}
    if engine is not None:
        compute += sum(engine.row_seconds(part.nodes, machine) for part in body.compiled)
    numpy = ELEMENTWISE_ENGINES[FALLBACK]
    if panels.narrow:  # calls run along the rows, of copies in panel order
        turned = sum(v.size for v in (*region.inputs, *region.outputs) if v.shape[-1:] != (1,))
        compute += numpy.packing_seconds(turned)
    else:
        left = [node for node in region.nodes if node not in compiled]
        compute += numpy.row_seconds(left, machine)
    alone = body.whole_stage is not None  # a panel is no call from Python
    calls = 0 if alone else panels.count * len(body.steps)

    def timed(threads: int) -> Prediction:
        launch = machine.launch[FALLBACK]
        if panels.partial:
            launch += SHARING if alone else PARTIALS
        step = machine.step[FALLBACK]
        if threads > 1:
            launch += SHARING if alone else machine.waking
            step += machine.handover / threads
        seconds = compute / threads + step * calls
        return predict(machine, seconds, cost, launch, threads)

    # Where an operand does not lie as a compiled stage reads it, that copies some rows at a time, but
    # all of a panel where it reduces along them.
    copied = 0
    if body.compiled and panels.partial and _loose(region, setting):
        copied = sum(body.panel_elements(v) * v.dtype.itemsize for v in region.inputs)
    margin = 1.0 if alone else THREADS_MARGIN
    threads = bound if timed(bound).seconds < margin * timed(1).seconds else 1
    prediction = timed(threads)
    return Kernel(
        name=name,
        region=region,
        engine=engine.name if engine is not None else FALLBACK,
        schedule="panels",
        reads=tuple(setting.names[v] for v in region.inputs),
        writes=tuple(setting.names[v] for v in region.outputs),
        cost=cost,
        seconds=prediction.seconds,
        bound=prediction.bound,
        choice=_panels_text(panels),
        decisions=decisions,
        order=tuple(range(len(region.outputs[0].shape))),
        block=panels.height,
        # An engine that loops by itself shares each panel among its own threads.
        threads=threads if engine is None or engine.blocked else 1,
        scratch_bytes=(body.panel_bytes + copied) * threads
        + partial_bytes(panels)
        + body.packed_bytes,
        body=body,
        panels=panels,
    )


def _loose(region: Region, setting: Setting) -> bool:
    """Is there an operand that does not lie in C order?"""
    return any(
        setting.orders.get(v, ()) != tuple(range(len(v.shape))) for v in region.inputs if v.size > 1
    )


def _panels_reread(region: Region, panels: Panels) -> int:
    """Bytes of right sides that each further panel of one matrix reads again."""
    right = {n.inputs[1] for n in region.nodes if n.kind == "matmul"}
    passes = -(-panels.rows[-1] // panels.block[-1]) if right else 1
    return sum(value.nbytes for value in right) * max(0, passes - 1)


def _panels_text(panels: Panels) -> str:
    """Why the region runs in panels, and what is particular about them."""
    parts = ["panels stay in cache"]
    if panels.narrow:
        parts.append("the narrow last axis first")
    if panels.partial:
        parts.append("partial results combined as a tree")
    return ", ".join(parts)


# --- one call: products, reductions, joins --------------------------------------------------------


def _single_call(
    name: str, unit: Unit, first_touch: int, decisions: tuple[Decision, ...], setting: Setting
) -> Kernel:
    region = unit.region
    node = region.nodes[0]
    machine, options = setting.machine, setting.options
    reread = scratch = tile = 0
    threads = 1
    if node.kind == "matmul":
        product = plan_product(
            node, setting.orders, machine, options.thread_count, options.engine, options.exact
        )
        engine, schedule, choice, body = product.engine, product.schedule, product.why, product.body
        compute, tile, threads = product.seconds, product.tile, product.threads
        reread, scratch = product.bytes_reread, product.scratch_bytes
    else:
        engine, schedule, choice = "numpy", "whole", f"{node.op.name} is one call of NumPy"
        body = library_call(node)
        compute = node_seconds(node, machine)
        scratch = library_scratch(node, setting.orders)
    cost = kernel_cost(region.nodes, region.inputs, region.outputs, reread, first_touch)
    prediction = predict(machine, compute, cost, machine.launch["numpy"], threads)
    kernel = Kernel(
        name=name,
        region=region,
        engine=engine,
        schedule=schedule,
        reads=tuple(setting.names.get(v, str(v.data)) for v in region.inputs),
        writes=tuple(setting.names[v] for v in region.outputs),
        cost=cost,
        seconds=prediction.seconds,
        bound=prediction.bound,
        choice=choice,
        decisions=decisions,
        order=tuple(range(len(node.shape))),
        block=tile,
        threads=threads,
        scratch_bytes=scratch,
        body=body,
    )
    compiled = _compiled_reduction(name, region, cost, decisions, setting)
    if compiled is None or options.engine == compiled.engine:
        return compiled or kernel
    return with_tier(kernel, compiled, compiled.body.compile_seconds)


def _compiled_reduction(
    name: str, region: Region, cost: Cost, decisions: tuple[Decision, ...], setting: Setting
) -> Kernel | None:
    """A reduction in panels that are compiled, or None where no engine that may run has code for it."""
    node, options = region.nodes[0], setting.options
    rows = own_rows(node, True, False) if node.kind == "reduce" else None
    if not rows or options.exact or not node.inputs[0].size:
        return None
    if setting.orders[node.inputs[0]] != tuple(range(len(node.inputs[0].shape))):
        return None
    for engine in ELEMENTWISE_ENGINES.values():
        if engine.compiles and options.engine in ("auto", engine.name):
            panels = lay_panels([node], rows, setting.machine, False, True).upright
            found = _panel_kernel(name, region, panels, cost, engine, decisions, setting)
            if found.body.whole_stage is not None:
                return found
    return None
