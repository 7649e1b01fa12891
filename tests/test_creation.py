"""New tensors: NumPy's values and dtypes; constants store nothing until a kernel needs them."""

from __future__ import annotations

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.ops import DTYPES

CALLS = {
    "zeros": lambda m: m.zeros((2, 3)),
    "zeros int": lambda m: m.zeros(4, dtype="i4"),
    "zeros 0-d": lambda m: m.zeros(()),
    "zeros empty": lambda m: m.zeros((0, 3)),
    "ones": lambda m: m.ones((2, 3)),
    "ones bool": lambda m: m.ones(3, dtype=bool),
    "full": lambda m: m.full((2, 2), 7),
    "full float": lambda m: m.full(3, 2.5, dtype="f4"),
    "full complex": lambda m: m.full(3, 2j),
    "full large": lambda m: m.full(2, 2**63, dtype="u8"),
    "full of a row": lambda m: m.full((2, 3), [1, 2, 3]),
    "full nan": lambda m: m.full(2, np.nan),
    "full negative zero": lambda m: m.full(2, -0.0),
    "eye": lambda m: m.eye(3),
    "eye wide": lambda m: m.eye(2, 4),
    "eye k": lambda m: m.eye(3, 4, 1),
    "eye -k int": lambda m: m.eye(4, 3, k=-2, dtype="i8"),
    "eye empty": lambda m: m.eye(0),
    "arange": lambda m: m.arange(5),
    "arange step": lambda m: m.arange(1, 10, 3),
    "arange float": lambda m: m.arange(0.0, 1.0, 0.1),
    "arange down": lambda m: m.arange(5, 0, -2),
    "arange dtype": lambda m: m.arange(4, dtype="f4"),
    "arange empty": lambda m: m.arange(3, 3),
    "linspace": lambda m: m.linspace(0, 1, 7),
    "linspace open": lambda m: m.linspace(0, 1, 5, endpoint=False),
    "linspace dtype": lambda m: m.linspace(0, 9, 4, dtype="f4"),
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_numpy(name, engine, assert_same):
    tensor = CALLS[name](fg)
    expected = CALLS[name](np)
    assert (tensor.shape, tensor.dtype) == (expected.shape, expected.dtype)
    assert_same(tensor.compute(), expected)


@pytest.mark.parametrize("name", CALLS)
def test_in_an_expression(name, engine, assert_same):
    expected = CALLS[name](np)
    assert_same((CALLS[name](fg) + 1).compute(), expected + 1)
    # In NumPy's order: another may be nearer, as 4.5 is here beside 4.500000000000001.
    assert_same(CALLS[name](fg).sum().compute(exact=True), expected.sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_like(dtype, assert_same):
    x = np.ones((2, 3), dtype)
    t = fg.asarray(x)
    for name in ("zeros_like", "ones_like"):
        assert_same(getattr(fg, name)(t).compute(), getattr(np, name)(x))
        assert_same(getattr(fg, name)(t, dtype="f4").compute(), getattr(np, name)(x, dtype="f4"))
        assert isinstance(getattr(np, name)(t), fg.Tensor)
    assert_same(fg.full_like(t, 1).compute(), np.full_like(x, 1))


def test_results_are_fresh_and_writable():
    for tensor in (fg.zeros(3), fg.ones((2, 2)), fg.full((), 2.0), fg.eye(2)):
        first = tensor.compute()
        assert first.flags.writeable
        assert first.flags.c_contiguous
        assert not np.shares_memory(first, fg.zeros(3).compute())


def test_constants_move_no_bytes_as_operands():
    x = np.ones(1000, np.float32)
    plan = (fg.asarray(x) + fg.zeros(1000, "f4") * fg.ones(1000, "f4")).plan()
    assert plan.cost.bytes_moved == 2 * 4000


ERRORS = (
    (lambda: fg.zeros(-1), ValueError, r"^zeros: a size in \[-1\] is negative"),
    (lambda: fg.full((2, -3), 1), ValueError, r"^full: a size in \[2, -3\] is negative"),
    (lambda: fg.eye(-1), ValueError, r"^eye: a size in \[-1, -1\] is negative"),
    (lambda: fg.linspace(0, 1, -2), ValueError, r"^linspace: a size in \[-2\] is negative"),
    (lambda: fg.zeros("a"), TypeError, r"^zeros: shape 'a' is no shape; give integers"),
    (lambda: fg.zeros((2.5,)), TypeError, r"^zeros: shape \(2.5,\) is no shape"),
    (lambda: fg.ones(None), TypeError, r"^ones: shape None is no shape"),
    (lambda: fg.eye(2.0), TypeError, r"^eye: shape \(2.0, 2.0\) is no shape"),
    (lambda: fg.eye(2, k=0.5), TypeError, r"^eye: "),
    (lambda: fg.ones(3).reshape(1.5, 2), TypeError, r"^reshape: shape \(1.5, 2\) is no shape"),
    (lambda: fg.arange(5, step=0), ValueError, r"^arange: step=0 never reaches the end"),
    (lambda: fg.arange("a"), TypeError, r"^arange: stop is of type str"),
    (lambda: fg.arange(0, 1e300), ValueError, r"^arange: 0 to 1e\+300 by 1 is no array"),
    (lambda: fg.arange(fg.ones(())), TypeError, r"^arange: stop is of type Tensor"),
    (lambda: fg.linspace(fg.ones(3), 2), TypeError, r"^linspace: start is of type Tensor"),
    (lambda: fg.full((2,), 300, "u1"), OverflowError, r"^full: 300 does not fit uint8, .* 0 to 255"),
    (lambda: fg.full_like(np.ones(2, "i1"), 300), OverflowError, r"^full_like: 300 does not fit int8"),
    (lambda: fg.full(3, "a"), TypeError, r"^full: fill_value 'a' is of dtype <U1"),
    (lambda: fg.full(3, "a", "f4"), TypeError, r"^full: fill_value 'a' is of dtype <U1"),
    (lambda: fg.full(3, None), TypeError, r"^full: fill_value None is of dtype object"),
    (lambda: fg.full(3, 2**64), TypeError, r"^full: fill_value 18446744073709551616 is of dtype"),
    (lambda: fg.full((2, 3), [1, 2]), ValueError, r"^full: int64\[2\] does not broadcast to \[2, 3\]"),
    (lambda: fg.zeros(3, "nope"), TypeError, r"dtype='nope' is not understood; choose one of bool"),
    (lambda: fg.arange(3, dtype="M8[s]"), TypeError, r"is not supported; choose one of bool"),
)  # fmt: skip


@pytest.mark.parametrize("at", range(len(ERRORS)))
def test_errors_name_the_function_and_the_remedy(at):
    build, kind, text = ERRORS[at]
    with pytest.raises(kind, match=text):
        build()


def test_casts_of_the_value_are_silent(assert_same):
    with np.errstate(invalid="ignore"):
        expected = np.full(2, np.nan, dtype="i4")
    assert_same(fg.full(2, np.nan, dtype="i4").compute(), expected)
    assert_same(fg.full(2, 1.5, dtype="i4").compute(), np.full(2, 1.5, dtype="i4"))
    assert_same(fg.full(2, 3 + 2j, dtype="f4").compute(), np.full(2, 3, dtype="f4"))
    assert_same(fg.full(2, 2**64, dtype="f8").compute(), np.full(2, 2**64, dtype="f8"))


def test_a_tensor_as_value_is_not_computed_while_building(assert_same):
    value = fg.asarray(np.arange(3.0)).sum()
    filled = fg.full((2, 2), value)
    assert (filled.pending, value.pending) == (1, 1)
    assert_same(filled.compute(), np.full((2, 2), 3.0))
    rows = fg.full((2, 2), [value, 1], dtype="f4")
    assert rows.pending
    assert_same(rows.compute(), np.full((2, 2), [3, 1], dtype="f4"))


def test_dtype_that_is_not_held_is_an_error():
    for build in (lambda: fg.zeros(3, dtype=object), lambda: fg.ones(3, dtype="M8[s]")):
        with pytest.raises(TypeError, match="not supported; choose one of bool, int8"):
            build()


def test_empty_is_zeros(assert_same):
    assert_same(fg.empty((2, 3), "i4").compute(), np.zeros((2, 3), "i4"))
    assert_same(np.empty_like(fg.ones(3, "f4")).compute(), np.zeros(3, "f4"))
