"""What a plan shows: exact text of every stage, and the same facts as data, graphs and HTML.

The plans are made for the shipped machine profile and two threads, so that the text is the same
everywhere.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import networkx as nx
import numpy as np
import pytest

import fusegraph as fg
from fusegraph.engines.numexpr import MAX_INPUTS
from fusegraph.report.units import bytes_text, count_text, seconds_text

pytestmark = pytest.mark.options(engine="auto", threads=2)


def test_counts_and_nouns_agree():
    fg.clear_caches()
    plan = fg.plan(fg.Tensor(np.zeros(1)) * 2)
    assert repr(plan.plan) == repr(fg.cached_plans()[0]) == "<plan: 1 op in 1 kernel>"
    assert "  work       1 flop, 0 of them transcendental" in str(plan)
    assert repr(gelu_plan().plan) == "<plan: 9 ops in 1 kernel>"


def gelu_plan():
    return fg.plan(fg.gelu(fg.Tensor(np.zeros(1000, np.float32))))


def layer_plan(**options):
    x = fg.Tensor(np.zeros((8, 64), np.float32))
    w = fg.Tensor(np.zeros((64, 32), np.float32))
    b = fg.Tensor(np.zeros(32, np.float32))
    return fg.plan(fg.gelu(x @ w + b), **options)


def exact_plan():
    """The layer where bits are promised: its product is a kernel of its own."""
    return layer_plan(exact=True)


def softmax_plan():
    return fg.plan(fg.softmax(fg.Tensor(np.zeros((1000, 1000), np.float32))))


def limit_plan():
    """Sum of one array more than a numexpr program takes."""
    total, *rest = [fg.Tensor(np.full(1000, n, np.float32)) for n in range(MAX_INPUTS + 1)]
    for x in rest:
        total = total + x
    return fg.plan(total, engine="numexpr")


PLANS = {
    "gelu": gelu_plan,
    "layer": layer_plan,
    "exact": exact_plan,
    "softmax": softmax_plan,
    "limit": limit_plan,
}

GELU_NODES = """\
  n0:float32[1000] = input(v0)
  n1:float32[1000] = multiply(0.5, n0)
  n2:float32[1000] = multiply(n0, n0)
  n3:float32[1000] = multiply(n2, n0)
  n4:float32[1000] = multiply(0.044715, n3)
  n5:float32[1000] = add(n0, n4)
  n6:float32[1000] = multiply(0.7978846, n5)
  n7:float32[1000] = tanh(n6)
  n8:float32[1000] = add(1.0, n7)
  n9:float32[1000] = multiply(n1, n8)
  return n9"""

GELU_PLAN = """\
plan: 9 ops in 1 kernel
  moved      84.0 kB before, 8.0 kB after: 10.5x less (90.5% saved)
  pages      12.0 kB mapped before, 4.0 kB after
  work       9.0 k flops, 1.0 k of them transcendental; 0.11 flop/byte before, 1.12 after
  peak       159.6 kB beside the inputs
  predicted  9.22 us on defaults

inputs: v0:float32[1000]

kernel    engine    schedule      ops    reads    writes    flops    flop/byte  bound      predicted
k0        numpy     flat            9   4.0 kB    4.0 kB    9.0 k         1.12  compute      9.22 us

computes:
  k0: t0 = (0.5 * v0) * (1.0 + tanh(0.7978846 * (v0 + (0.044715 * ((v0 * v0) * v0)))))
      numpy: numexpr would take 2.6x as long
      then llvm: from call 2,308 on, which saves 7.02 us a call after 16.20 ms of compiling

not fused: nothing"""

GELU_FUSED = """\
fused:
  k0[1000]: multiply, multiply, multiply, multiply, add, multiply, tanh, add, multiply
not fused: nothing"""

LAYER_NODES = """\
  n0:float32[8, 64] = input(v0)
  n1:float32[64, 32] = input(v1)
  n2:float32[8, 32] = matmul(n0, n1)
  n3:float32[32] = input(v2)
  n4:float32[8, 32] = add(n2, n3)
  n5:float32[8, 32] = multiply(0.5, n4)
  n6:float32[8, 32] = multiply(n4, n4)
  n7:float32[8, 32] = multiply(n6, n4)
  n8:float32[8, 32] = multiply(0.044715, n7)
  n9:float32[8, 32] = add(n4, n8)
  n10:float32[8, 32] = multiply(0.7978846, n9)
  n11:float32[8, 32] = tanh(n10)
  n12:float32[8, 32] = add(1.0, n11)
  n13:float32[8, 32] = multiply(n5, n12)
  return n13"""

LAYER_PLAN = """\
plan: 11 ops in 1 kernel
  moved      34.9 kB before, 11.4 kB after: 3.1x less (67.4% saved)
  pages      4.1 kB mapped before, 1.0 kB after
  work       35.3 k flops, 256 of them transcendental; 1.01 flop/byte before, 3.10 after
  peak       164.9 kB beside the inputs
  predicted  7.69 us on defaults

inputs: v0:float32[8, 64], v1:float32[64, 32], v2:float32[32]

kernel    engine    schedule      ops    reads    writes    flops    flop/byte  bound      predicted
k0        numpy     panels         11  10.4 kB    1.0 kB   35.3 k         3.10  compute      7.69 us

computes:
  k0: s0 = (v0 @ v1) + v2; t0 = (0.5 * s0) * (1.0 + \
tanh(0.7978846 * (s0 + (0.044715 * ((s0 * s0) * s0)))))
      numpy: panels stay in cache
      for 1 panel of 8 rows on 1 thread: matmul; add, ..., multiply
      then llvm: from call 25,200 on, which saves 5.61 us a call after 141.35 ms of compiling

not fused: nothing"""

LAYER_FUSED = """\
fused:
  k0[8, 32]: matmul, add, multiply, multiply, multiply, multiply, add, multiply, tanh, add, multiply
not fused: nothing"""

EXACT_CUT = """\
not fused:
  t0 -> k1: kind: matmul is a kernel of its own: BLAS rounds a panel unlike the whole (1.0 kB stored)"""

EXACT_PLAN = f"""\
plan: 11 ops in 2 kernels
  moved      34.9 kB before, 13.4 kB after: 2.6x less (61.5% saved)
  pages      4.1 kB mapped before, 2.0 kB after
  work       35.3 k flops, 256 of them transcendental; 1.01 flop/byte before, 2.63 after
  peak       138.2 kB beside the inputs
  predicted  9.03 us on defaults

inputs: v0:float32[8, 64], v1:float32[64, 32], v2:float32[32]

kernel    engine    schedule      ops    reads    writes    flops    flop/byte  bound      predicted
k0        blas      whole           1  10.2 kB    1.0 kB   32.8 k         2.91  launch       2.21 us
k1        numpy     strided        10   1.2 kB    1.0 kB    2.6 k         1.18  compute      6.82 us

computes:
  k0: t0 = v0 @ v1
      blas: NumPy's own matmul: bit-identical
  k1: s0 = t0 + v2; t1 = (0.5 * s0) * (1.0 + tanh(0.7978846 * (s0 + (0.044715 * ((s0 * s0) * s0)))))
      numpy: numexpr's tanh is not bit-identical to NumPy's

{EXACT_CUT}"""

EXACT_FUSED = f"""\
fused:
  k0[8, 32]: matmul
  k1[8, 32]: add, multiply, multiply, multiply, multiply, add, multiply, tanh, add, multiply
{EXACT_CUT}"""

SOFTMAX_PLAN = """\
plan: 5 ops in 1 kernel
  moved      32.0 MB before, 8.0 MB after: 4.0x less (75.0% saved)
  pages      8.0 MB mapped before, 4.0 MB after
  work       5.0 M flops, 1.0 M of them transcendental; 0.16 flop/byte before, 0.62 after
  peak       4.5 MB beside the inputs
  predicted  1.47 ms on defaults

inputs: v0:float32[1000, 1000]

kernel    engine    schedule      ops    reads    writes    flops    flop/byte  bound      predicted
k0        numpy     panels          5   4.0 MB    4.0 MB    5.0 M         0.62  compute      1.47 ms

computes:
  k0: s0 = exp(v0 - max(v0, axis=(1,), keepdims=True)); t0 = s0 / sum(s0, axis=(1,), keepdims=True)
      numpy: panels stay in cache
      for 8 panels of 125 rows on 2 threads: max; subtract, exp; sum; divide
      then llvm: from call 61 on, which saves 911.70 us a call after 55.60 ms of compiling

not fused: nothing"""

SOFTMAX_FUSED = """\
fused:
  k0[1000, 1000]: max, subtract, exp, sum, divide
not fused: nothing"""

LIMIT_CUT = """\
not fused:
  t0 -> k1: limit: numexpr takes at most 63 inputs (4.0 kB stored)"""


@pytest.mark.parametrize(
    ("plan", "stage", "expected"),
    [
        (gelu_plan, "graph", f"graph:\n{GELU_NODES}"),
        (gelu_plan, "rewritten", f"rewritten:\n{GELU_NODES}\nno rule fired"),
        (gelu_plan, "fused", GELU_FUSED),
        (gelu_plan, "planned", GELU_PLAN),
        (layer_plan, "graph", f"graph:\n{LAYER_NODES}"),
        (layer_plan, "rewritten", f"rewritten:\n{LAYER_NODES}\nno rule fired"),
        (layer_plan, "fused", LAYER_FUSED),
        (layer_plan, "planned", LAYER_PLAN),
        (exact_plan, "fused", EXACT_FUSED),
        (exact_plan, "planned", EXACT_PLAN),
        (softmax_plan, "fused", SOFTMAX_FUSED),
        (softmax_plan, "planned", SOFTMAX_PLAN),
    ],
)
def test_text_of_each_stage(plan, stage, expected):
    assert plan().explain(stage) == expected


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_print_shows_the_planned_stage(plan):
    assert str(plan()) == plan().explain() == plan().explain("planned")


@pytest.mark.parametrize(
    ("shape", "axis", "loop"),
    [
        ((4096, 1024), 1, "17 panels of 255 rows"),
        ((4096, 1024), 0, "32 panels of 128 rows"),
        ((4096, 10), 0, "2 panels of 2,048 rows"),
        ((40, 100_000), None, "40 panels of 1 row"),
        ((100, 64, 64), 0, "4 panels of 1,600 rows"),
        ((99, 9999), 0, "10 panels of 131,072 elements"),
        ((1000,), 0, "1 panel of 1,000 elements"),
    ],
)
def test_panels_count_whole_rows_or_elements(shape, axis, loop):
    """A panel of a reduction along the rows may take parts of them, which are no rows."""
    plan = fg.plan((fg.Tensor(np.zeros(shape, np.float32)) * 2).sum(axis=axis))
    assert f"      for {loop} on " in str(plan)


def test_rules_that_fired_are_shown():
    x = fg.Tensor(np.zeros(10, np.float32))
    assert fg.plan(fg.negative(-x) + 1).explain("rewritten") == (
        "rewritten:\n"
        "  n0:float32[10] = input(v0)\n"
        "  n1:float32[10] = add(n0, 1.0)\n"
        "  return n1\n"
        "rules that fired:\n"
        "  1x double-negation\n"
        "    double-negation: negative:float32[10] -> input:float32[10]"
    )


def test_an_unknown_stage_names_the_stages():
    with pytest.raises(ValueError, match="'built': choose one of graph, rewritten, fused, planned"):
        gelu_plan().explain("built")


def test_a_cut_by_a_limit_is_shown():
    text = str(limit_plan())
    assert text.startswith("plan: 63 ops in 2 kernels\n  moved      756.0 kB before, 268.0 kB")
    assert text.endswith(f"\n\n{LIMIT_CUT}")
    assert "      numexpr: asked for\n" in text
    assert limit_plan().explain("fused").endswith(LIMIT_CUT)


def test_long_lists_are_cut_and_counted():
    """41 inputs or nodes: what is left out is counted."""
    inputs = ", ".join(f"v{n}:float32[1000]" for n in range(40))
    assert f"\ninputs: {inputs}, ... 24 more\n" in str(limit_plan())
    assert "\n  ... and 87 nodes more\n  return n126" in limit_plan().explain("graph")


def test_a_result_that_needs_no_kernel():
    assert str(fg.plan(fg.Tensor(np.zeros(10, np.float32)))) == (
        "plan: 0 ops in 0 kernels\n"
        "  moved      0 B before, 0 B after: 1.0x less (0.0% saved)\n"
        "  pages      0 B mapped before, 0 B after\n"
        "  work       0 flops, 0 of them transcendental; 0.00 flop/byte before, 0.00 after\n"
        "  peak       131.1 kB beside the inputs\n"
        "  predicted  0 ns on defaults\n\n"
        "inputs: v0:float32[10]\n\n"
        "not fused: nothing"
    )


def test_repr_is_one_line():
    assert repr(layer_plan()) == "<plan: 11 ops in 1 kernel; print it>"
    assert repr(exact_plan()) == "<plan: 11 ops in 2 kernels; print it>"


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_html_is_a_table_with_a_row_a_kernel(plan):
    plan = plan()
    html = plan._repr_html_()
    assert html.count("<tr>") == 1 + len(plan.kernels)
    assert html.startswith("<div>")
    assert html.endswith("</div>")
    assert "-> k" not in html, "text is escaped"


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_json_is_the_record(plan):
    plan = plan()
    assert json.loads(plan.to_json()) == plan.to_dict()


def scalars(record):
    """Every number and text in a record, keys left out."""
    if isinstance(record, dict):
        record = list(record.values())
    if isinstance(record, list):
        for part in record:
            yield from scalars(part)
    elif record is not None:
        yield record


def numbers_of(text):
    """Numbers of a text; digits in names (``v0``, ``float32``) are none."""
    return set(re.findall(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?", text))


def printable(record):
    """Every number that formatting the values of a record can give."""
    before, saved = record["traffic"]["before"], record["traffic"]["saved_bytes"]
    values = list(scalars(record))
    counts = [len(record["kernels"]), *[len(kernel["ops"]) for kernel in record["kernels"]]]
    share = saved / (before["bytes_read"] + before["bytes_written"])
    moved = [
        cost["bytes_read"] + cost["bytes_written"]
        for cost in (before, record["traffic"]["after"], *[k["cost"] for k in record["kernels"]])
    ]
    found = numbers_of(f"{share:.1%}")
    for value in (*values, *counts, *moved):
        if isinstance(value, str):
            found |= numbers_of(value)
        else:
            shown = (bytes_text(value), count_text(value), seconds_text(value))
            found |= numbers_of(" ".join(shown) + f" {value} {value:.1f} {value:.2f} {value:,}")
    return found


@pytest.mark.parametrize(
    "plan", [gelu_plan, layer_plan, exact_plan], ids=["gelu", "layer", "exact"]
)
def test_every_number_printed_is_in_the_record(plan):
    plan = plan()
    assert numbers_of(str(plan)) - printable(plan.to_dict()) == set()
    assert numbers_of(plan.explain("fused")) - printable(plan.to_dict()) == set()


def test_the_record_holds_what_the_objects_say():
    plan = exact_plan()
    record = plan.to_dict()
    assert record["ops"] == 11
    assert record["inputs"] == [
        {"name": "v0", "dtype": "float32", "shape": [8, 64]},
        {"name": "v1", "dtype": "float32", "shape": [64, 32]},
        {"name": "v2", "dtype": "float32", "shape": [32]},
    ]
    assert record["outputs"] == ["t1"]
    assert [k["name"] for k in record["kernels"]] == ["k0", "k1"]
    assert [k["reads"] for k in record["kernels"]] == [["v0", "v1"], ["t0", "v2"]]
    assert [k["writes"] for k in record["kernels"]] == [["t0"], ["t1"]]
    assert record["traffic"]["saved_bytes"] == plan.traffic.saved_bytes
    assert record["peak_bytes"] == plan.peak_bytes
    assert record["seconds"] == plan.seconds
    assert sum(k["seconds"] for k in record["kernels"]) == pytest.approx(plan.seconds)
    (cut,) = record["not_fused"]
    assert cut == {
        "producer": "t0",
        "consumer": "k1:add",
        "kernel": "k1",
        "fused": False,
        "reason": "kind",
        "detail": "matmul is a kernel of its own: BLAS rounds a panel unlike the whole",
        "bytes": 8 * 32 * 4,
    }
    assert record["kernels"][1]["decisions"] == [cut]


PRINT_PLAN = """
import numpy as np
import fusegraph as fg
from fusegraph.machine_file import default_machine

with fg.options(machine=default_machine(), threads=2):
    x, w, b = (fg.Tensor(np.zeros(s, np.float32)) for s in ((8, 64), (64, 32), 32))
    print(fg.plan(fg.gelu(x @ w + b)), fg.plan(fg.exp(b) * 2, b.sum(), fg.exp(b) + 1))
"""


def test_text_is_the_same_in_every_process():
    """Sets and hashes must not decide order or names."""
    shown = [
        subprocess.run(
            [sys.executable, "-c", PRINT_PLAN],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert shown[0] == shown[1]
    assert shown[0].startswith(LAYER_PLAN)


# --- graphs ---------------------------------------------------------------------------------------


def test_graph_of_operations():
    x = fg.Tensor(np.zeros((2, 3), np.float32))
    graph = fg.plan(x * x + 1).to_networkx()
    assert type(graph) is nx.MultiDiGraph
    ops = {facts["op"]: number for number, facts in graph.nodes(data=True)}
    assert sorted(ops) == ["add", "const", "input", "multiply"]
    product = graph.nodes[ops["multiply"]]
    assert (product["shape"], product["dtype"], product["kernel"]) == ((2, 3), "float32", "k0")
    assert graph.nodes[ops["input"]]["kernel"] == ""
    edges = graph.get_edge_data(ops["input"], ops["multiply"])
    assert sorted(edge["operand"] for edge in edges.values()) == [0, 1], "x * x has two edges"
    assert nx.is_directed_acyclic_graph(graph)


def test_graph_of_kernels():
    graph = exact_plan().to_networkx("kernels")
    assert type(graph) is nx.MultiDiGraph
    assert list(graph) == ["v0", "v1", "v2", "k0", "k1"]
    facts = graph.nodes["k0"]
    assert (facts["op"], facts["shape"], facts["dtype"], facts["kernel"], facts["engine"]) == (
        "matmul", (8, 32), "float32", "k0", "blas",
    )  # fmt: skip
    assert sorted((a, b, v) for a, b, v in graph.edges(data="value")) == [
        ("k0", "k1", "t0"), ("v0", "k0", "v0"), ("v1", "k0", "v1"), ("v2", "k1", "v2"),
    ]  # fmt: skip


def test_an_unknown_level_names_the_levels():
    with pytest.raises(ValueError, match="level='ops': choose graph or kernels"):
        layer_plan().to_networkx("ops")


def test_dot_text():
    x = fg.Tensor(np.zeros(3, np.float32))
    assert fg.plan(x * x).to_dot() == (
        "digraph fusegraph {\n"
        "  node [shape=box];\n"
        '  n0 [label="input\\nfloat32 [3]"];\n'
        '  subgraph "cluster_k0" { label="k0";\n'
        '    n1 [label="multiply\\nfloat32 [3]"];\n'
        "  }\n"
        "  n0 -> n1;\n"
        "  n0 -> n1;\n"
        "}"
    )
    dot = exact_plan().to_dot("kernels")
    assert '  subgraph "cluster_k1" { label="k1";\n' in dot
    assert "  nk0 -> nk1;\n" in dot
