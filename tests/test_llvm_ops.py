"""Every element-wise row over every dtype on the llvm engine, against the same NumPy call.

Rows of one first dtype are one region with many results: a kernel a pair would take minutes to compile.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import erf

from fusegraph.engines.base import Region
from fusegraph.graph import make, placeholder
from fusegraph.ops import DTYPES, ELEMENTWISE, OPS, resolve

pytest.importorskip("llvmlite")

from fusegraph.engines.llvm.engine import LlvmEngine

ENGINE = LlvmEngine()
SIZE = 1021  # vectors and a tail
ANY_ZERO = ("maximum", "minimum", "fmax", "fmin")  # NumPy's own zeros differ from lane to lane
NOT_UFUNCS = {"real": np.real, "imag": np.imag, "erf": erf, "where": np.where}
ROWS = [op for op in ELEMENTWISE if op.name != "astype"]


def specials(dtype, domain):
    if dtype.kind == "b":
        return [False, True]
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = {
            info.min,
            info.min + 1,
            0,
            1,
            2,
            7,
            31,
            32,
            63,
            64,
            info.max - 1,
            info.max,
            -1,
            -2,
        }
        least = {"positive": 0, "above_one": 1}.get(domain, info.min)
        return sorted(v for v in values if max(least, info.min) <= v <= info.max)
    if dtype.kind == "c":
        parts = [0.0, -0.0, 1.0, -1.5, np.inf, np.nan]
        return [complex(a, b) for a in parts for b in parts]
    info = np.finfo(dtype)
    positive = [0.0, 1.0, 0.5, 1.5, 2.5, info.tiny, info.smallest_subnormal, info.max, np.inf]
    if domain == "positive":
        return [*positive, np.nan]
    if domain == "above_one":
        return [1.0, 1.5, 2.5, info.max, np.inf, np.nan]
    if domain == "unit":
        return [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, info.tiny, np.nan]
    return [*positive, *(-v for v in positive), np.nan]


def ordinary(rng, dtype, domain):
    low, high = {"positive": (0, 9), "above_one": (1, 9), "unit": (-1, 1)}.get(domain, (-9, 9))
    values = rng.uniform(0 if dtype.kind == "u" else low, high, SIZE)
    if dtype.kind == "c":
        values = values + 1j * rng.uniform(low, high, SIZE)
    return (values > 0 if dtype.kind == "b" else values).astype(dtype)


def operands(op, dtypes):
    """Ordinary values; among them, in every lane and the tail, combinations of special ones."""
    rng = np.random.default_rng([ord(c) for c in op.name + "".join(d.char for d in dtypes)])
    arrays = [ordinary(rng, d, op.domain) for d in dtypes]
    combinations = list(itertools.product(*(specials(d, op.domain) for d in dtypes)))
    rng.shuffle(combinations)
    places = rng.permutation(SIZE)[: min(len(combinations), 800)]
    for array, values in zip(arrays, zip(*combinations, strict=True), strict=True):
        array[places] = np.array(values[: len(places)], array.dtype)
    return arrays


def cases(op):
    """Operand dtypes and the result's, for every combination that NumPy has a loop for."""
    if op.name == "where":
        candidates = [(np.dtype("?"), a, b) for a in DTYPES for b in DTYPES]
    else:
        candidates = list(itertools.product(DTYPES, repeat=op.arity))
    for dtypes in candidates:
        try:
            result = resolve(op.name, dtypes)[1]
        except TypeError:
            continue
        yield dtypes, result


def evaluate(op, group):
    """Results of a group of cases, as one region, beside the operands; refused ones are left out."""
    leaves, nodes, arrays, kept = [], [], [], []
    for dtypes, result in group:
        own = [placeholder(len(leaves) + n, (SIZE,), d, None) for n, d in enumerate(dtypes)]
        node = make(op, tuple(own), (), (SIZE,), result)
        if ENGINE.refuses(node) is None:
            kept.append((dtypes, operands(op, dtypes)))
            leaves += own
            nodes.append(node)
            arrays += kept[-1][1]
    results = [np.empty(SIZE, node.dtype) for node in nodes]
    if nodes:
        region = Region(tuple(nodes), tuple(leaves), tuple(nodes), (SIZE,))
        ENGINE.compile(region).run(arrays, results, 1)
    return zip(kept, results, strict=True)


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_row_equals_numpy(op, assert_close):
    function = NOT_UFUNCS.get(op.name, op.function)
    ordered = sorted(cases(op), key=lambda case: case[0][-1].char)
    for _, group in itertools.groupby(ordered, key=lambda case: case[0][-1].char):
        for (dtypes, arrays), result in evaluate(op, group):
            with np.errstate(all="ignore"):
                expected = np.asarray(function(*arrays)).astype(result.dtype)
            note = f"{op.name} of {', '.join(map(str, dtypes))}"
            assert_close(result, expected, op.ulp, note, zero_signs=op.name not in ANY_ZERO)


@pytest.mark.parametrize("start", DTYPES, ids=str)
def test_casts_equal_numpy(start, assert_same):
    op = OPS["astype"]
    x = operands(OPS["add"], (start,))[0]
    leaf = placeholder(0, (SIZE,), start, None)
    nodes = [make(op, (leaf,), (), (SIZE,), end) for end in DTYPES if end != start]
    nodes = tuple(node for node in nodes if ENGINE.refuses(node) is None)
    results = [np.empty(SIZE, node.dtype) for node in nodes]
    ENGINE.compile(Region(nodes, (leaf,), nodes, (SIZE,))).run([x], results, 1)
    for result in results:
        keeps_parts = start.kind != "c" or result.dtype.kind in "bc"
        with np.errstate(all="ignore"):
            expected = (x if keeps_parts else x.real).astype(result.dtype)
        assert_same(result, expected, f"{start} to {result.dtype}")


def test_what_is_refused():
    """The engine's gaps: complex functions, integer powers, casts that NumPy makes ambiguous."""
    refused = {}
    for op in ROWS:
        for dtypes, result in cases(op):
            node_kinds = {d.kind for d in dtypes}
            leaves = tuple(placeholder(n, (4,), d, None) for n, d in enumerate(dtypes))
            if ENGINE.refuses(make(op, leaves, (), (4,), result)) and "c" not in node_kinds:
                refused.setdefault(op.name, set()).add(result.kind)
    assert set(refused) <= {op.name for op in ROWS if op.transcendental}
