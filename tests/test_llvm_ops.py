"""Every element-wise row over every dtype on the llvm engine, against the same NumPy call.

Rows of one first dtype are one region with many results: a kernel a pair would take minutes to compile.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import erf

import fusegraph as fg
from fusegraph.engines.base import Region
from fusegraph.graph import make, placeholder
from fusegraph.ops import DTYPES, ELEMENTWISE, OPS, resolve

pytest.importorskip("llvmlite")

from fusegraph.engines.llvm import comparisons
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


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_of_two_zeros_numpys_is_taken(name, dtype, assert_same):
    """In whole vectors, all of which NumPy treats alike."""
    x = np.tile(np.array([0.0, -0.0], dtype), 512)
    y = np.repeat(np.array([0.0, -0.0], dtype), 512)
    with fg.options(engine="llvm"):
        for a, b in ((x, y), (x, x.dtype.type(0.0)), (x, x.dtype.type(-0.0))):
            found = getattr(fg, name)(fg.asarray(a), b).compute()
            assert_same(found, getattr(np, name)(a, b))


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extremes_of_arm_are_those_of_its_instructions(name, monkeypatch):
    """0.0 is above -0.0: LLVM has code for it on every processor."""
    monkeypatch.setattr(comparisons, "ARM", True)
    x = np.array([0.0, -0.0, np.nan, 1.0, np.nan], "f4")
    y = np.array([-0.0, 0.0, 2.0, np.nan, np.nan], "f4")
    found = getattr(fg, name)(fg.asarray(x), y).compute(engine="llvm")
    np.testing.assert_array_equal(found, getattr(np, name)(x, y))
    assert np.signbit(found[:2]).tolist() == [name == "minimum"] * 2


CHOICES = {
    "where greater": lambda xp, x, c: xp.where(x > c, x, c),
    "where less": lambda xp, x, c: xp.where(c < x, c, x),
    "where at most": lambda xp, x, c: xp.where(x <= c, x, c),
    "where at least": lambda xp, x, c: xp.where(c >= x, x, c),
    **{f"{n} left": lambda xp, x, c, n=n: getattr(xp, n)(x, c) for n in ("maximum", "minimum", "fmax")},
    **{f"{n} right": lambda xp, x, c, n=n: getattr(xp, n)(c, x) for n in ("maximum", "minimum", "fmin")},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("inner", CHOICES)
def test_two_choices_by_one_constant_are_two(inner, dtype, assert_same):
    """LLVM's passes take max(max(x, c), c) for max(x, c), though one of them turns NaN into c."""
    x = np.tile(np.array([1.0, np.nan, -1.0, 0.0, -0.0, np.inf, -np.inf, 0.5], dtype), 16)
    results = {
        (outer, c): lambda xp, x, outer=outer, c=c: CHOICES[outer](xp, CHOICES[inner](xp, x, c), c)
        for outer in CHOICES
        for c in (x.dtype.type(0.0), x.dtype.type(1.0), 0, 1)
    }
    found = fg.compute(*(f(fg, fg.asarray(x)) for f in results.values()), engine="llvm")
    for note, result, f in zip(results, found, results.values(), strict=True):
        any_zero = "fm" in note[0] + inner
        assert_same(result, f(np, x), f"{inner}, {note}", zero_signs=not any_zero)
