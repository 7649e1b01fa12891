"""The parser: what NumPy gives for a text, it builds; everything else it refuses, with a column."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusegraph as fg
from fusegraph.ops import ELEMENTWISE
from fusegraph.parse import MAX_DEPTH, MAX_TEXT, parse_expression

X = np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(3, 4)
Y = np.linspace(1, 2, 12, dtype=np.float64).reshape(4, 3)
I = np.arange(-6, 6).reshape(3, 4)  # noqa: E741
ARRAYS = {"x": X, "y": Y, "i": I}


@pytest.fixture
def names():
    return {name: fg.asarray(array) for name, array in ARRAYS.items()}


# A text that NumPy itself can evaluate: the two results are the same.
ALLOWED = [
    "x + 1", "x - 2", "2 * x / 3", "x // 0.2 % 3", "x ** 3", "x ** -1",
    "-x", "+x", "~i", "i << 2", "i >> 1", "i & 3 | 4 ^ i", "x @ y", "x < 0.5", "x <= 0.5",
    "x > 0.5", "x >= 0.5", "x == x", "x != 0.1", "(x > 0.2) & ~(x > 0.7)", "1 - 2 - x - 3",
    "2 ** 3 ** 2 * x", "x[0]", "x[-1, 1:]", "x[::2, None, ::-1]", "x[..., 0]", "x[1:][0]",
    "np.tanh(x) + numpy.exp(-x)", "np.sum(x, axis=1, keepdims=True)", "np.max(x, axis=(0, 1))",
    "np.mean(x, 0)", "np.where(x > 0.5, x, 0)", "np.clip(x, 0.2, 0.5)", "np.reshape(x, (2, 6))",
    "np.concatenate([x, x], axis=1)", "np.stack([x, x])", "np.transpose(x)", "np.pi * x",
    "np.sum(x, dtype=np.float64)", "np.round(x, 1)", "np.sum(i, axis=None)", "x * 1e-3", "x * 2j",
    "i * True", "np.sqrt(2 / np.pi) * x", "x + np.inf", "  x  ", "(x\n+ 1)", "0x10 + i", "1_000 * i",
]  # fmt: skip


@pytest.mark.parametrize("text", ALLOWED)
def test_a_text_means_what_it_means_to_numpy(text, names):
    expected = eval(text.strip(), {"np": np, "numpy": np, **ARRAYS})  # our own literals
    parsed = parse_expression(text, names)
    assert parsed.shape == expected.shape
    assert parsed.dtype == expected.dtype
    actual = parsed.compute(engine="numpy")
    if expected.dtype.kind in "fc" and "**" in text:
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(actual, expected)


def test_functions_need_no_prefix_and_take_ours(names):
    x = names["x"]
    for text in ("gelu(x)", "fg.gelu(x)", "fusegraph.gelu(x)"):
        np.testing.assert_array_equal(parse_expression(text, names).compute(), fg.gelu(x).compute())
    assert parse_expression("astype(x, float64)", names).dtype == np.float64
    assert parse_expression("layer_norm(x, weight=x[0], eps=1e-3)", names).shape == (3, 4)


UNARY = [op for op in ELEMENTWISE if op.arity == 1 and op.name != "astype"]  # which takes a dtype


@pytest.mark.parametrize("op", UNARY, ids=lambda op: op.name)
def test_every_unary_row_of_the_op_table_parses(op, names):
    value = "x" if not op.name.startswith("bitwise") and op.name != "invert" else "i"
    parse_expression(f"{op.name}({value})", names)


def test_numbers_alone_are_an_array_of_no_axes():
    assert parse_expression("3 + 4", {}).item() == 7


def test_a_given_name_hides_a_constant_but_no_function(names):
    names |= {"e": names["i"], "sum": names["x"]}
    assert parse_expression("e", names).dtype == np.int64
    assert parse_expression("sum(sum)", names).shape == ()


def test_equal_parts_are_one_node(names):
    assert parse_expression("tanh(x) * tanh(x)", names).pending == 2


def test_a_chain_is_one_level_deep(names):
    assert parse_expression(" + ".join(["x"] * 1000), names).pending == 999


def test_parsing_runs_nothing(names, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something ran")

    monkeypatch.setattr(fg.Tensor, "compute", refuse)
    monkeypatch.setattr(fg.BoundPlan, "run", refuse)
    for text in ("sum(x, axis=i[0, 0])", "reshape(x, i[0])", "full((2,), x)", "stack(x)", "x[i]"):
        with pytest.raises(ValueError, match="column"):
            parse_expression(text, names)


REFUSED = [
    ("lambda: x", "lambda at column 1"),
    ("1 + (lambda q: q)(x)", "call of an expression at column 6"),
    ("[a for a in x]", "comprehension at column 1"),
    ("sum(a for a in x)", "comprehension at column 4"),
    ("{'a': x}", "dictionary at column 1"),
    ("{x}", "set at column 1"),
    ("'x'", "string at column 1"),
    ("b'x'", "string at column 1"),
    ("x + f'{x}'", "f-string at column 5"),
    ("(z := x)", "':=' at column 2"),
    ("x.T", r"attribute .T at column 1: write a function of the array, as in transpose\(x\)"),
    ("1 + x.real", r"attribute .real at column 5: write a function of the array, as in real\(x\)"),
    ("x.nbytes", r"attribute .nbytes at column 1: write a function of the array, as in sum\(x\)"),
    ("~x", r"no loop for float\d\d; cast an operand with astype\(x, dtype\) first"),
    ("x.sum()", "attribute .sum at column 1: write sum"),
    ("x.__class__.__mro__", "attribute .__mro__ at column 1"),
    ("np.linalg.norm(x)", "attribute .norm at column 1"),
    ("np.load(x)", "function 'load' at column 1"),
    ("np.__loader__", "name '__loader__' at column 1"),
    ("__import__('os')", "function '__import__' at column 1"),
    ("eval(x)", "function 'eval' at column 1"),
    ("x + 1 if x else x", "'if'"),
    ("x and x", "write & or |"),
    ("not x", "write ~"),
    ("x is x", "'is' at column 1"),
    ("x in x", "'in' at column 1"),
    ("0 < x < 1", "chained comparison at column 1"),
    ("x + unknown", "name 'unknown' at column 5: it is not given; given names: x, y, i"),
    ("tanh + x", "function 'tanh' at column 1: call it"),
    ("np", "name 'np' at column 1"),
    ("x +", "syntax at column"),
    ("", "syntax at column 1"),
    ("x; x", "syntax at column"),
    ("x = 1", "syntax at column"),
    ("import os", "syntax at column"),
    ("x\x00", "syntax"),
    ("sum(*x)", "in a call at column 5"),
    ("sum(x, **x)", "in a call at column 1"),
    ("sum(x, out=x)", "call of sum at column 1"),
    ("tanh(x, where=x)", "call of tanh at column 1"),
    ("tanh()", "call of tanh at column 1"),
    ("(x, x)", "tuple, not an array"),
    ("float32", "not an array"),
    ("(1, 2) * 100000000", "tuple at column 1"),
    ("x + None", "NoneType at column 5"),
    ("~True", "at column 1"),
    ("x[x]", "subscript at column 3"),
    ("x[0.5]", "subscript at column 3"),
    ("x[True]", "subscript at column 3"),
    ("x[7]", "subscript at column 1"),
    ("3[0]", "subscript at column 1"),
    ("x @ x", "operator matmult at column 1"),
    ("x + y", "operator add at column 1"),
    ("x & x", "operator bitand at column 1"),
    ("1 / 0", "operator div at column 1: division by zero"),
    ("10.0 ** 400", "operator pow at column 1"),
    ("9 ** 9 ** 9", "operator pow at column 1: the number has more than 1024 bits"),
    ("(-9) ** 9 ** 9", "more than 1024 bits"),
    ("1 << 10 ** 9", "operator lshift at column 1"),
    ("0x" + "f" * 2000, "number at column 1"),
    ("9" * 5000, "syntax at column 1"),
    ("round(x, 10 ** 9)", "decimals"),
    ("arange(10 ** 12)", "function 'arange' at column 1"),
    ("eye(10 ** 6)", "function 'eye' at column 1"),
    ("i + 10 ** 30", "operator add at column 1"),
    ("é + z", "name 'é' at column 1"),
    ("x + (\n  z)", "line 2, column 3"),
    ("  z", "name 'z' at column 3"),
    ("(" * 150 + "z" + ")" * 150, "column 151"),
    ("-" * (MAX_DEPTH + 2) + "x", f"nested deeper than {MAX_DEPTH} levels"),
    ("(" * 5000 + "x", "syntax|nested"),
    ("-" * 8000 + "x", "nested"),
    ("-(" * 3000 + "x", "chain|nested|syntax"),
    ("x" * (MAX_TEXT + 1), "8,193 characters"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[t[:24].strip() for t, _ in REFUSED])
def test_everything_else_is_refused_with_its_column(text, message, names):
    with pytest.raises(ValueError, match=message):
        parse_expression(text, names)


@given(st.text(alphabet="xyi01 .,+-*/()[]:<>=&|~^@'\"npsum_\n", max_size=40))
def test_any_text_gives_a_tensor_or_a_value_error(text):
    limit = sys.getrecursionlimit()
    try:
        result = parse_expression(text, {name: fg.asarray(a) for name, a in ARRAYS.items()})
    except ValueError:
        pass
    else:
        assert isinstance(result, fg.Tensor)
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("text", ["10**20", "1_000 << 255"])
def test_a_number_that_no_array_holds(text):
    with pytest.raises(ValueError, match="is beyond 64"):
        parse_expression(text, {})
