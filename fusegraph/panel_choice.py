"""Choosing for a region in panels: rows that stay in cache, on NumPy's calls or in compiled stages.

In: a unit whose nodes share rows, and the setting of the plan. Out: a ``Kernel``.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from fusegraph.cost import Cost, kernel_cost
from fusegraph.engines import COMPILING, ELEMENTWISE_ENGINES, FALLBACK
from fusegraph.engines.base import Engine, Region
from fusegraph.engines.panel_body import PanelBody
from fusegraph.graph import Node
from fusegraph.kernel import Kernel, with_tier
from fusegraph.machine import Machine
from fusegraph.orders import is_row_major
from fusegraph.panels import Panels, partial_bytes
from fusegraph.setting import Setting
from fusegraph.time_model import SHARING, THREADS_MARGIN, Prediction, node_seconds, predict
from fusegraph.units import Unit

PARTIALS = 10e-6  # seconds: memory for partial results, and putting them together


def panels_kernel(name: str, unit: Unit, first_touch: int, setting: Setting) -> Kernel:
    """The kernel of a unit in panels, and its compiled form where that pays later."""
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
        kernel = panel_kernel(name, region, panels, cost, engine, setting)
        compiles = engine is not None and engine.compiles and _all_row_major(region, setting)
        if not compiles or not panels.narrow:
            return kernel
        # A compiled loop over rows that lie in C order needs no copies with the narrow axis first.
        upright = panel_kernel(name, region, panels.upright, cost, engine, setting)
        if upright.body.whole_stage is None:
            return kernel
        # They round sums in two ways, so the option ``threads`` has no say in which of them it is.
        of_machine = replace(setting, threads=setting.machine.cores)
        first, last = (_fastest(k.body, region, cost, of_machine)[1] for k in (kernel, upright))
        return upright if last.seconds < first.seconds else kernel

    if options.engine != "auto":
        asked = ELEMENTWISE_ENGINES[options.engine]
        return made(None if asked.name == FALLBACK else asked)
    kernel = made(None)
    for engine in () if options.exact else COMPILING:
        make = functools.partial(made, engine)
        kernel = with_tier(kernel, engine.least_compile_seconds, make)
    return kernel


def panel_kernel(
    name: str,
    region: Region,
    panels: Panels,
    cost: Cost,
    engine: Engine | None,
    setting: Setting,
) -> Kernel:
    """Panels whose stages run on ``engine``, or whose every node is a call of NumPy."""
    body = PanelBody(region, panels, engine, setting.threads, setting.options.exact)
    threads, prediction = _fastest(body, region, cost, setting)

    def scratch() -> int:
        # Where an operand does not lie as a compiled stage reads it, that copies some rows at a time,
        # but all of a panel where it reduces along them.
        copied = 0
        if body.compiled and panels.partial and not _all_row_major(region, setting):
            copied = sum(body.panel_elements(v) * v.dtype.itemsize for v in region.inputs)
        return (body.panel_bytes + copied) * threads + partial_bytes(panels) + body.packed_bytes

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
        order=tuple(range(len(region.outputs[0].shape))),
        stored=tuple(tuple(range(len(v.shape))) for v in region.outputs),
        block=panels.height,
        # An engine that loops by itself shares each panel among its own threads.
        threads=threads if engine is None or engine.blocked else 1,
        scratch=scratch,
        body=body,
        panels=panels,
    )


def _fastest(
    body: PanelBody, region: Region, cost: Cost, setting: Setting
) -> tuple[int, Prediction]:
    """One thread or all of them, whichever is predicted to take less, and what it takes."""
    machine, bound = setting.machine, setting.threads
    compute = _compute_seconds(body, region, machine)
    # Compiled code goes through all panels by itself: none of them is a call from Python.
    alone = body.chained or body.whole_product is not None
    if body.chained:
        bound = min(bound, body.most_threads)
    calls = 0 if alone else body.panels.count * len(body.steps)

    def timed(threads: int) -> Prediction:
        launch = machine.launch[body.engine.name if alone and body.engine else FALLBACK]
        if body.panels.partial and not alone:
            launch += PARTIALS
        step = machine.step[FALLBACK]
        if threads > 1:
            launch += SHARING if alone else machine.waking
            step += machine.handover / threads
        return predict(machine, compute / threads + step * calls, cost, launch, threads)

    one = timed(1)
    if bound == 1:
        return 1, one
    shared = timed(bound)
    margin = 1.0 if alone else THREADS_MARGIN
    return (bound, shared) if shared.seconds < margin * one.seconds else (1, one)


def _compute_seconds(body: PanelBody, region: Region, machine: Machine) -> float:
    """Seconds of all panels' arithmetic on one thread, and of what their rows cost beside it."""
    engine = body.engine
    level = machine.level(sum(body.panel_elements(v) * v.dtype.itemsize for v in region.inputs), 1)

    def seconds(node: Node) -> float:
        if node in body.products:
            rows = node.size // max(1, node.shape[-1])
            return body.products[node].seconds(rows, body.panels.count, machine)
        if engine and body.accepts(node):
            return node_seconds(node, machine, engine)
        return _call_seconds(node, level, machine)

    compute = sum(map(seconds, region.nodes))
    if engine is not None:
        compute += sum(engine.row_seconds(part, machine) for part in body.compiled)
    numpy = ELEMENTWISE_ENGINES[FALLBACK]
    if body.panels.narrow:  # calls run along the rows, of copies in panel order
        turned = sum(v.size for v in (*region.inputs, *region.outputs) if v.shape[-1:] != (1,))
        return compute + numpy.packing_seconds(turned)
    compiled = {node for part in body.compiled for node in part.nodes}
    called = replace(region, nodes=tuple(n for n in region.nodes if n not in compiled))
    return compute + numpy.row_seconds(called, machine)


def _call_seconds(node: Node, level: str, machine: Machine) -> float:
    """A call of NumPy for each panel, whose operands lie in a level of memory.

    min and max of 4,000,000 float32 in panels of 2 MB, beyond L2, took 0.47 ms on two threads, for 0.28
    of arithmetic.
    """
    moved = sum(v.nbytes for v in {node, *node.inputs})
    return max(node_seconds(node, machine), moved / machine.roof(level, 1))


def _all_row_major(region: Region, setting: Setting) -> bool:
    """Does every operand lie in C order? One element does anyway."""
    return all(is_row_major(setting.orders[v]) for v in region.inputs if v.size > 1)


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
