"""Integer corners: equal to NumPy on every engine, where C and a bare numexpr program differ.

A bare numexpr program dies of ``INT_MIN // -1`` (SIGFPE) and compares int64 through doubles.
"""

from __future__ import annotations

import operator

import numpy as np
import pytest

import fusegraph as fg

pytestmark = pytest.mark.usefixtures("engine")

SIGNED = ("i1", "i2", "i4", "i8")
INTEGERS = (*SIGNED, "u1", "u2", "u4", "u8")
MANY = 5000  # elements: past numexpr's serial limit


def corners(dtype):
    info = np.iinfo(dtype)
    values = [info.min, info.min + 1, 0, 1, 2, 3, info.max - 1, info.max]
    return np.array(values + ([-1, -2, -3] if info.min else []), dtype)


def pairs(dtype):
    """Every corner beside every corner, often enough for several blocks of an engine."""
    a, b = (x.ravel() for x in np.meshgrid(corners(dtype), corners(dtype)))
    return np.resize(a, MANY), np.resize(b, MANY)


def reference(function, *arguments):
    with np.errstate(all="ignore"):
        return function(*arguments)


@pytest.mark.parametrize("function", [operator.floordiv, operator.mod, np.fmod, np.floor_divide])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_division_by_zero_and_of_the_least_integer(function, dtype, assert_same):
    a, b = pairs(dtype)
    assert_same(function(fg.asarray(a), fg.asarray(b)).compute(), reference(function, a, b))
    for scalar in (0, 1, 3, *((-1, -2) if np.iinfo(dtype).min else ())):
        assert_same(function(fg.asarray(a), scalar).compute(), reference(function, a, scalar))
        assert_same(function(scalar, fg.asarray(b)).compute(), reference(function, scalar, b))


@pytest.mark.parametrize("function", [operator.lshift, operator.rshift])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_shifts_past_the_width(function, dtype, assert_same):
    width = np.dtype(dtype).itemsize * 8
    counts = [0, 1, width - 1, width, width + 1, 2 * width, 100]
    counts += [-1, -width, -100] if np.iinfo(dtype).min else []
    x, n = (y.ravel() for y in np.meshgrid(corners(dtype), np.array(counts, dtype)))
    assert_same(function(fg.asarray(x), fg.asarray(n)).compute(), reference(function, x, n))
    for count in counts:
        assert_same(function(fg.asarray(x), count).compute(), reference(function, x, count))


@pytest.mark.parametrize("function", [operator.add, operator.sub, operator.mul])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_wrap_around(function, dtype, assert_same):
    a, b = pairs(dtype)
    assert_same(function(fg.asarray(a), fg.asarray(b)).compute(), reference(function, a, b))
    result = function(function(fg.asarray(a), fg.asarray(b)), fg.asarray(a))
    assert_same(result.compute(), reference(function, function(a, b), a))


@pytest.mark.parametrize("function", [operator.neg, abs, operator.invert, np.sign, np.square])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_one_operand(function, dtype, assert_same):
    x = np.resize(corners(dtype), MANY)
    assert_same(function(fg.asarray(x)).compute(), reference(function, x))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 5, 63])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_powers_wrap(exponent, dtype, assert_same):
    x = corners(dtype)
    assert_same((fg.asarray(x) ** exponent).compute(), reference(np.power, x, exponent))


@pytest.mark.parametrize("dtype", SIGNED)
def test_negative_powers(dtype):
    t = fg.asarray(corners(dtype))
    for build in (lambda: t**-1, lambda: fg.pow(t, -2), lambda: np.power(t, -2)):
        with pytest.raises(ValueError, match=r"^pow: .* negative power"):
            build()
    with pytest.raises(ValueError, match="negative integer powers"):
        (t ** fg.asarray(np.full(t.shape, -1, dtype))).compute()
    with pytest.raises(ValueError, match="negative integer powers"):
        (fg.asarray(np.array(2, dtype)) ** fg.asarray(np.array(-1, dtype))).compute()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_float_powers_of_integers(dtype, assert_close):
    x = np.arange(1, 50, dtype=dtype)
    assert_close((fg.asarray(x) ** -1.0).compute(), reference(np.power, x, -1.0), 4)
    assert_close((2.0 ** fg.asarray(x)).compute(), reference(np.power, 2.0, x), 4)


COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


@pytest.mark.parametrize("function", COMPARISONS)
def test_values_past_two_to_the_53(function, assert_same):
    near = 2**53 + np.arange(-4, 5, dtype=np.int64)
    a, b = (np.resize(x.ravel(), MANY) for x in np.meshgrid(near, near))
    assert_same(function(fg.asarray(a), fg.asarray(b)).compute(), function(a, b))
    assert_same(function(fg.asarray(a), 2**53 + 1).compute(), function(a, 2**53 + 1))


@pytest.mark.parametrize("name", ["maximum", "minimum", "where"])
def test_choosing_past_two_to_the_53(name, assert_same):
    near = 2**53 + np.arange(-4, 5, dtype=np.int64)
    a, b = (np.resize(x.ravel(), MANY) for x in np.meshgrid(near, near))
    arguments = (a > b, a, b) if name == "where" else (a, b)
    result = getattr(fg, name)(*map(fg.asarray, arguments))
    assert_same(result.compute(), getattr(np, name)(*arguments))


@pytest.mark.parametrize("name", ["max", "min", "sum"])
def test_reducing_past_two_to_the_53(name, assert_same):
    x = 2**53 + np.arange(-4, 5, dtype=np.int64)
    assert_same(getattr(fg.asarray(x), name)().compute(), getattr(x, name)())


@pytest.mark.parametrize("function", COMPARISONS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_comparing_with_integers_out_of_range(function, dtype, assert_same):
    x = corners(dtype)
    for value in (-(2**70), -(2**63) - 1, -1, 255, 256, 2**31, 2**63, 2**64, 2**70):
        assert_same(function(fg.asarray(x), value).compute(), function(x, value))
        assert_same(function(value, fg.asarray(x)).compute(), function(value, x))


@pytest.mark.parametrize("function", COMPARISONS)
def test_comparing_signed_with_unsigned(function, assert_same):
    a, b = np.array([-1, 0, 2**62], np.int64), np.array([2**64 - 1, 0, 2**62], np.uint64)
    assert_same(function(fg.asarray(a), fg.asarray(b)).compute(), function(a, b))


ARITHMETIC = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.mod,
    operator.and_,
)


@pytest.mark.parametrize("function", ARITHMETIC)
@pytest.mark.parametrize(
    ("dtype", "value"),
    [("i1", 128), ("i1", -129), ("u1", 256), ("u1", -1), ("i4", 2**31), ("u8", -1), ("i8", 2**63)],
)
def test_python_integers_that_do_not_fit(function, dtype, value):
    t = fg.asarray(np.ones(3, dtype))
    with pytest.raises(OverflowError, match=rf"Python integer {value} does not fit {t.dtype}"):
        function(t, value)
    with pytest.raises(OverflowError, match=rf"Python integer {value} does not fit {t.dtype}"):
        function(value, t)


def test_python_integers_no_dtype_holds():
    with pytest.raises((OverflowError, TypeError)):
        fg.asarray(2**70)
    with pytest.raises((OverflowError, TypeError)):
        fg.asarray([1, 2**70])


@pytest.mark.parametrize("start", INTEGERS)
def test_casts_between_integers_wrap(start, assert_same):
    x = corners(start)
    for end in (*INTEGERS, "?", "f4", "f8"):
        assert_same(fg.asarray(x).astype(end).compute(), x.astype(end))


def at_the_ends_of_integers(dtype):
    """Where integer dtypes end, the next floats on both sides, larger ones, and the negatives of all."""
    kind = np.dtype(dtype).type
    ends = [2.0**bits for bits in (7, 8, 15, 16, 31, 32, 63, 64)]
    with np.errstate(all="ignore"):
        x = np.array([*ends, 1e19, 300, 1, 0, np.inf, np.finfo(kind).max], kind)
        x = np.concatenate([x, np.nextafter(x, kind(np.inf)), np.nextafter(x, kind(-np.inf))])
    return np.concatenate([x, -x, np.array([np.nan, 0.9, -0.9], kind)])


def numpys_casts(values, end):
    """What NumPy makes of each value: in an array of its own, and among vectors of equal ones."""
    with np.errstate(all="ignore"):
        alone = [values[n : n + 1].astype(end) for n in range(values.size)]
        among = [np.full(64, value).astype(end)[:1] for value in values]
    return np.concatenate(alone), np.concatenate(among)


@pytest.mark.parametrize("end", INTEGERS)
@pytest.mark.parametrize("start", ["f2", "f4", "f8"])
def test_casts_out_of_range_equal_numpy(start, end, assert_same):
    """Whatever NumPy's cast gives on this machine, on either side of every end and far from it.

    NumPy disagrees with itself about uint32: on x86 its loop over vectors makes 2147483648 of NaN and
    of -2**32, and the tail of that loop 0. There either is right: tails lie where blocks end.
    """
    values = at_the_ends_of_integers(start)
    x = np.resize(values, MANY + 3)  # several vectors and a tail, past numexpr's serial limit
    alone, among = (np.resize(found, x.size) for found in numpys_casts(values, end))
    with np.errstate(all="ignore"):
        expected = x.astype(end)
    for tensor in (fg.asarray(x), -fg.asarray(-x)):  # alone, and in a kernel with others
        result = tensor.astype(end).compute()
        either = (result == alone) | (result == among)
        assert either.all(), dict(zip(x[~either].tolist(), result[~either].tolist(), strict=True))
        sure = alone == among
        assert_same(result[sure], expected[sure])


@pytest.mark.parametrize("dtype", ["?", *INTEGERS])
def test_bits(dtype, assert_same):
    a, b = (
        pairs(dtype) if dtype != "?" else (np.array([0, 0, 1, 1], "?"), np.array([0, 1] * 2, "?"))
    )
    for function in (operator.and_, operator.or_, operator.xor):
        assert_same(function(fg.asarray(a), fg.asarray(b)).compute(), function(a, b))
    assert_same((~fg.asarray(a)).compute(), ~a)


def test_floor_division_in_the_middle_of_a_chain(assert_same):
    a, b = pairs("i4")
    result = (fg.asarray(a) // fg.asarray(b) + 1) * 2 - fg.asarray(a) % fg.asarray(b)
    with np.errstate(all="ignore"):
        assert_same(result.compute(), (a // b + 1) * 2 - a % b)


FLOATING = (
    "sigmoid", "silu", "gelu", "softplus", "mish", "hardswish", "softmax", "log_softmax", "logsumexp",
    "layer_norm", "rms_norm",
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i4", "i8"])
@pytest.mark.parametrize("name", FLOATING)
def test_functions_of_floats_take_integers_as_float64(name, dtype, assert_same):
    """In the integers' own dtype differences, squares and negatives wrapped: softmax of -128 and 127."""
    x = np.array([False, True]) if dtype == "?" else corners(dtype)
    function = getattr(fg, name)
    expected = function(x.astype(float)).compute(exact=True)
    assert_same(function(x).compute(exact=True), expected)


@pytest.mark.parametrize("dtype", ["?", *INTEGERS])
def test_integers_are_close_where_numpy_finds_them_close(dtype, assert_same):
    a, b = (
        (np.array([False, True, True]), np.array([True, True, False]))
        if dtype == "?"
        else pairs(dtype)
    )
    for tolerance in (0, 1, 3):
        for x, y in ((a, b), (a, b.astype(float)), (a.astype(float), b)):
            expected = reference(np.isclose, x, y, 1e-5, tolerance)
            assert_same(fg.isclose(x, y, atol=tolerance).compute(), expected)


@pytest.mark.parametrize("dtype", ["?", "i2", "f4", "c16"])
def test_the_methods_conjugate_bools_to_bools(dtype, assert_same):
    x = np.array([0, 1, 1]).astype(dtype)
    t = fg.asarray(x)
    assert_same(t.conj().compute(), x.conj())
    assert_same(t.conjugate().compute(), x.conjugate())
    assert_same(fg.conj(t).compute(), np.conj(x))
