"""Choosing: the engine, the schedule, the threads and the blocks of a kernel.

In: a unit of the fusion pass and the setting of the plan. Out: a ``Kernel``. What is one call of a
library, or a reduction alone, is chosen here; element-wise regions and panels have modules of their own.
"""

from __future__ import annotations

import functools

from fusegraph.cost import kernel_cost
from fusegraph.elementwise_choice import elementwise_kernel
from fusegraph.engines import COMPILING
from fusegraph.engines.base import Engine
from fusegraph.engines.library import library_call
from fusegraph.engines.products import plan_product, worth_panels
from fusegraph.graph import Shape
from fusegraph.kernel import Kernel, with_tier
from fusegraph.orders import is_row_major
from fusegraph.panel_choice import panel_kernel, panels_kernel
from fusegraph.panels import lay_panels
from fusegraph.rows import own_rows
from fusegraph.setting import Setting, stored_orders
from fusegraph.time_model import node_seconds, predict
from fusegraph.units import Unit

PANELLED = ("reduce", "matmul")  # kinds of nodes that panels compute alone


def make_kernel(name: str, unit: Unit, first_touch: int, setting: Setting) -> Kernel:
    """The kernel for a unit: an engine and a schedule that the cost model finds fastest."""
    build = (
        panels_kernel if unit.panels else elementwise_kernel if unit.elementwise else _single_call
    )
    return build(name, unit, first_touch, setting)


def _single_call(name: str, unit: Unit, first_touch: int, setting: Setting) -> Kernel:
    region = unit.region
    node = region.nodes[0]
    machine, options = setting.machine, setting.options
    if node.kind == "matmul":
        call = plan_product(node, setting.orders, machine, setting.threads, options.bits)
    else:
        call = library_call(node, setting.orders, node_seconds(node, machine))
    cost = kernel_cost(region.nodes, region.inputs, region.outputs, call.bytes_reread, first_touch)
    prediction = predict(machine, call.seconds, cost, machine.launch["numpy"], call.threads)
    kernel = Kernel(
        name=name,
        region=region,
        engine=call.engine,
        schedule=call.schedule,
        reads=tuple(setting.names.get(v, str(v.data)) for v in region.inputs),
        writes=tuple(setting.names[v] for v in region.outputs),
        cost=cost,
        seconds=prediction.seconds,
        bound=prediction.bound,
        choice=call.why,
        order=tuple(range(len(node.shape))),
        stored=stored_orders(region, setting),
        block=call.tile,
        threads=call.threads,
        scratch=lambda: call.scratch_bytes,
        body=call.body,
    )
    return _with_compiled_panels(kernel, setting)


def _with_compiled_panels(kernel: Kernel, setting: Setting) -> Kernel:
    """A reduction or product alone, followed by panels that are compiled, or those where asked for."""
    node, options = kernel.region.nodes[0], setting.options
    rows = own_rows(node, True, False) if node.kind in PANELLED else None
    if not rows or options.exact or not node.inputs[0].size:
        return kernel
    if not is_row_major(setting.orders[node.inputs[0]]):
        return kernel
    for engine in COMPILING:
        if options.engine not in ("auto", engine.name):
            continue
        least = engine.least_compile_seconds
        if node.kind == "matmul":
            product = engine.product(node, True)
            if product is None or not worth_panels(node):
                continue
            least = product.compile_seconds
        make = functools.partial(_in_compiled_panels, kernel, rows, engine, setting)
        if options.engine == engine.name:
            return make() or kernel
        return with_tier(kernel, least, make)
    return kernel


def _in_compiled_panels(
    kernel: Kernel, rows: Shape, engine: Engine, setting: Setting
) -> Kernel | None:
    """A node in panels that are compiled, or None where the engine has no code for it."""
    panels = lay_panels(kernel.region.nodes, rows, setting.machine, False, True).upright
    found = panel_kernel(kernel.name, kernel.region, panels, kernel.cost, engine, setting)
    stage, product = found.body.whole_stage, found.body.whole_product
    return found if stage or (product and product.available) else None
