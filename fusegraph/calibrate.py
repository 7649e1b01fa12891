"""Measuring this machine: what the time model needs, in one or two seconds, on first use.

In: nothing. Out: a ``Machine``, kept under the user's cache directory. Most figures are the least of a
few runs on operands in cache: what the machine can do, not what it does beside other work. What other
work takes part in (L3, memory, waking threads) is a median, and of an engine that compiles a few samples
scale the shipped figures.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from fusegraph import forks, machine_file
from fusegraph.engines import ELEMENTWISE_ENGINES, FALLBACK
from fusegraph.engines.base import Engine, Region
from fusegraph.engines.numexpr import one_thread
from fusegraph.graph import Node, placeholder
from fusegraph.graph import make as make_node
from fusegraph.machine import Machine
from fusegraph.ops import ELEMENTWISE, OPS, REDUCTIONS, Op, resolve
from fusegraph.processor import available_cores, cache_bytes, cpu_name
from fusegraph.streams import bandwidths, least_seconds, product_rates, sharing_costs

SAMPLE = 16384  # elements of a measured operand: three of them stay in L2
COMPILED_SAMPLE = 4096  # of one that stays in L1, so that arithmetic is what is measured
MEASURED_DTYPES = ("float32", "float64")
VECTOR_LOOPS = ("add", "multiply", "divide", "sqrt", "negative")  # NumPy has vector code for them
# Rows of a compiled engine that are measured, each for its group: to compile every row takes seconds.
COMPILED_SAMPLES = ("exp", "divide")
ALSO_INTEGERS = ("add", "multiply", "astype", "less", "where", "sum")
# A child forked meanwhile would measure too, and find numexpr held to one thread.
_measuring = forks.lock()
_current: list[Machine] = []


def current_machine() -> Machine:
    """The profile of this machine: kept from before, or measured now."""
    with _measuring:
        if not _current:
            path = machine_file.cache_file()
            found = machine_file.load(path)
            if found is None or not ELEMENTWISE_ENGINES.keys() <= found.launch.keys():
                found = measure()  # an engine was installed since
                machine_file.save(found, path)
            _current.append(found)
        return _current[0]


def recalibrate() -> Machine:
    """Measure again and keep the result."""
    found = measure()
    machine_file.save(found, machine_file.cache_file())
    with _measuring:
        _current[:] = [found]
    return found


def measure() -> Machine:
    """Measure everything; nothing is read from or written to disk."""
    shipped = machine_file.default_machine()
    l1, l2, l3 = cache_bytes((shipped.l1_bytes, shipped.l2_bytes, shipped.l3_bytes))
    launch, step, nanoseconds = {}, {}, {}
    with one_thread():
        for engine in ELEMENTWISE_ENGINES.values():
            if engine.compiles:
                continue
            launch[engine.name] = _launch_seconds(engine)
            if engine.blocked:
                step[engine.name] = _step_seconds(engine, launch[engine.name])
            for op, dtype in _samples():
                found = _op_nanoseconds(engine, op, dtype, launch[engine.name])
                if found is not None:
                    nanoseconds[f"{engine.name} {op.name} {dtype}"] = found
    for op in REDUCTIONS:
        for dtype in MEASURED_DTYPES:
            nanoseconds[f"numpy {op.name} {dtype}"] = _reduction_nanoseconds(op, dtype)
    nanoseconds.update(_vector_loops_again(nanoseconds, launch))
    for engine in ELEMENTWISE_ENGINES.values():
        if engine.compiles:
            launch[engine.name] = _launch_seconds(engine)
            nanoseconds.update(_of_compiled(engine, shipped, nanoseconds, launch[engine.name]))
    cores = available_cores()
    products = list(product_rates(cores))
    waking, handover = sharing_costs(cores)
    return Machine(
        name=cpu_name(),
        cores=cores,
        l1_bytes=l1,
        l2_bytes=l2,
        l3_bytes=l3,
        streams=bandwidths(l1, l2, l3, cores),
        launch=launch,
        step=step,
        nanoseconds=nanoseconds,
        gigaflops={name: one for name, one, _ in products},
        gigaflops_all={name: every for name, _, every in products},
        waking=waking,
        handover=handover,
        measured=True,
    )


def _vector_loops_again(measured: dict[str, float], launch: dict[str, float]) -> dict[str, float]:
    """The lesser of two measurements some time apart: every compiled reduction goes by these.

    In one of two profiles they were 1.4 times too long, and the compiled form of min and max was
    predicted to save nothing.
    """
    engine = ELEMENTWISE_ENGINES[FALLBACK]
    found = {}
    for name in VECTOR_LOOPS:
        for dtype in MEASURED_DTYPES:
            again = _op_nanoseconds(engine, OPS[name], dtype, launch[engine.name])
            key = f"{engine.name} {name} {dtype}"
            found[key] = min(measured[key], measured[key] if again is None else again)
    return found


def _of_compiled(
    engine: Engine, shipped: Machine, measured: dict[str, float], launch: float
) -> dict[str, float]:
    """Figures of an engine whose every sample has to be compiled first.

    They are the shipped ones, scaled with a sample of their group (functions or arithmetic, a dtype);
    reductions by what NumPy's vector loops take here and where the shipped
    profile was measured.
    """
    known = [f"numpy {name} {t}" for name in VECTOR_LOOPS for t in MEASURED_DTYPES]
    other = statistics.median(measured[key] / shipped.nanoseconds[key] for key in known)
    speed = {
        (OPS[name].transcendental, dtype): _marginal_nanoseconds(engine, OPS[name], dtype, launch)
        / shipped.nanoseconds[f"{engine.name} {name} {dtype}"]
        for name in COMPILED_SAMPLES
        for dtype in MEASURED_DTYPES
    }

    def scaled(key: str, ns: float) -> float:
        _, name, dtype = key.split()
        op = OPS[name]
        return ns * (other if op.kind == "reduce" else speed[op.transcendental, dtype])

    prefix = f"{engine.name} "
    return {k: scaled(k, ns) for k, ns in shipped.nanoseconds.items() if k.startswith(prefix)}


def _marginal_nanoseconds(engine: Engine, op: Op, dtype: str, launch: float) -> float:
    """Nanoseconds per element of one more operation in a loop whose operands are in registers.

    A function costs what its loop costs: two of them in one chain wait for each other.
    """
    fewer, more = (0, 1) if op.transcendental else (1, 3)

    def seconds(length: int) -> float:
        region = _sample_region(op, dtype, COMPILED_SAMPLE, length)
        assert region is not None
        return _body_seconds(engine, region)

    less = seconds(fewer) if fewer else launch
    return max((seconds(more) - less) / (more - fewer), 1e-12) / COMPILED_SAMPLE * 1e9


# --- engines --------------------------------------------------------------------------------------


def _samples() -> list[tuple[Op, str]]:
    rows = [op for op in ELEMENTWISE if op.name != "erf"]  # erf: needs scipy; goes by its class
    pairs = [(op, dtype) for op in rows for dtype in MEASURED_DTYPES]
    names = [OPS[name] for name in ALSO_INTEGERS if OPS[name].kind == "elementwise"]
    return pairs + [(op, dtype) for op in names for dtype in ("int32", "int64")]


def _sample_region(op: Op, dtype: str, size: int, length: int = 1) -> Region | None:
    """A region of ``length`` nodes of ``op``, or None where NumPy has no loop for the dtype."""
    kinds = [np.dtype(dtype)] * op.arity
    if op.name == "where":
        kinds[0] = np.dtype(bool)
    inputs = tuple(placeholder(n, (size,), kind, (0,)) for n, kind in enumerate(kinds))
    try:
        result = np.dtype("f8") if op.name == "astype" else resolve(op.name, tuple(kinds))[1]
    except TypeError:
        return None
    nodes: list[Node] = [make_node(op, inputs, (), (size,), result)]
    for _ in range(length - 1):
        nodes.append(make_node(op, (nodes[-1], *inputs[1:]), (), (size,), result))
    return Region(tuple(nodes), inputs, (nodes[-1],), (size,))


def _operands(region: Region) -> tuple[list[Any], list[Any]]:
    size = region.shape[0]
    inputs = [np.linspace(0.5, 0.9, size).astype(node.dtype) for node in region.inputs]
    return inputs, [np.empty(size, node.dtype) for node in region.outputs]


def _body_seconds(engine: Engine, region: Region) -> float:
    body = engine.compile(region)
    inputs, outputs = _operands(region)
    with np.errstate(all="ignore"):
        return least_seconds(lambda: body.run(inputs, outputs, 1))


def _launch_seconds(engine: Engine) -> float:
    region = _sample_region(OPS["add"], "float32", 16)
    assert region is not None
    return min(_body_seconds(engine, region) for _ in range(10))


def _step_seconds(engine: Engine, launch: float) -> float:
    """Seconds of one more operation on next to no elements."""
    region = _sample_region(OPS["add"], "float32", 16, length=33)
    assert region is not None
    return max((min(_body_seconds(engine, region) for _ in range(5)) - launch) / 32, 1e-8)


def _op_nanoseconds(engine: Engine, op: Op, dtype: str, launch: float) -> float | None:
    region = _sample_region(op, dtype, SAMPLE)
    if region is None or engine.refuses(region.nodes[0]) is not None:
        return None
    seconds = _body_seconds(engine, region)
    return max(seconds - launch, seconds / 10) / SAMPLE * 1e9


def _reduction_nanoseconds(op: Op, dtype: str) -> float:
    """What an element more takes: ``max`` of 16,384 float32 takes 3 us, of which 2 are the call."""
    x = np.linspace(0.5, 0.9, SAMPLE).astype(dtype)
    few = x[:16]
    seconds = least_seconds(lambda: op.function(x))
    return max(seconds - least_seconds(lambda: op.function(few)), seconds / 10) / SAMPLE * 1e9
