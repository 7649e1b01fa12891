"""Choosing: the engine, the schedule, the threads and the blocks of a kernel.

In: a unit of the fusion pass and the setting of the plan. Out: a ``Kernel``. What is one call of a
library, or a reduction alone, is chosen here; element-wise regions and panels have modules of their own.
"""

from __future__ import annotations

from fusegraph.cost import Cost, kernel_cost
from fusegraph.elementwise_choice import elementwise_kernel
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.engines.base import Region
from fusegraph.engines.library import library_call
from fusegraph.engines.products import plan_product
from fusegraph.kernel import Kernel, with_tier
from fusegraph.orders import is_row_major
from fusegraph.panel_choice import panel_kernel, panels_kernel
from fusegraph.panels import lay_panels
from fusegraph.rows import own_rows
from fusegraph.setting import Setting, stored_orders
from fusegraph.time_model import node_seconds, predict
from fusegraph.units import Unit


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
        call = plan_product(node, setting.orders, machine, options.thread_count, options.bits)
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
        scratch_bytes=call.scratch_bytes,
        body=call.body,
    )
    compiled = _compiled_reduction(name, region, cost, setting)
    if compiled is None or options.engine == compiled.engine:
        return compiled or kernel
    return with_tier(kernel, compiled, compiled.body.compile_seconds)


def _compiled_reduction(name: str, region: Region, cost: Cost, setting: Setting) -> Kernel | None:
    """A reduction in panels that are compiled, or None where no engine that may run has code for it."""
    node, options = region.nodes[0], setting.options
    rows = own_rows(node, True, False) if node.kind == "reduce" else None
    if not rows or options.exact or not node.inputs[0].size:
        return None
    if not is_row_major(setting.orders[node.inputs[0]]):
        return None
    for engine in ELEMENTWISE_ENGINES.values():
        if engine.compiles and options.engine in ("auto", engine.name):
            panels = lay_panels([node], rows, setting.machine, False, True).upright
            found = panel_kernel(name, region, panels, cost, engine, setting)
            if found.body.whole_stage is not None:
                return found
    return None
