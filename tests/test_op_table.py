"""Every element-wise row, over every dtype and engine, against the same NumPy call."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import erf

import fusegraph as fg
from fusegraph.ops import DTYPES, ELEMENTWISE, NUMEXPR_CODES, OPS, UFUNCS

ROWS = [op for op in ELEMENTWISE if op.name not in ("astype", "where")]
NOT_UFUNCS = {"real": np.real, "imag": np.imag, "erf": erf}
# NumPy's own loops differ here: SIMD lanes and scalar tails pick different zeros of max(0.0, -0.0).
ANY_ZERO = ("maximum", "minimum", "fmax", "fmin")
SCALARS = (0, 1, -2, 300, 2**40, True, 0.5, 1e300, float("nan"), 1.5j)
SIZES = (0, 1, 7, 1000)
MORE_THAN_A_BLOCK = 70_001
# Every dtype on the numpy engine; on the others those that numexpr knows and two it must leave.
MIXED = (*NUMEXPR_CODES, np.dtype("u8"), np.dtype("f2"))
CASES = [("numpy", d) for d in DTYPES] + [(e, d) for e in ("auto", "numexpr") for d in MIXED]


def call(op):
    return NOT_UFUNCS.get(op.name, op.function)


def rng_for(*names):
    return np.random.default_rng([ord(c) for c in "".join(map(str, names))])


def specials(dtype, domain):
    if dtype.kind == "b":
        return np.array([False, True], dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = [info.min, info.min + 1, 0, 1, 2, 7, 31, 32, 63, 64, info.max - 1, info.max]
        values += [-1, -2] if dtype.kind == "i" else []
        least = {"positive": 0, "above_one": 1}.get(domain, info.min)
        return np.array([v for v in values if least <= v <= info.max], dtype)
    if dtype.kind == "c":
        parts = [0.0, -0.0, 1.0, -1.5, np.inf, np.nan]
        return np.array([complex(a, b) for a in parts for b in parts], dtype)
    info = np.finfo(dtype)
    positive = [0.0, 1.0, 0.5, 1.5, 2.5, info.tiny, info.smallest_subnormal, info.max, np.inf]
    negative = [-v for v in positive]
    values = {
        "positive": positive,
        "above_one": [1.0, 1.5, 2.5, info.max, np.inf],
        "unit": [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, info.tiny, info.smallest_subnormal],
    }.get(domain, positive + negative)
    return np.array([*values, np.nan], dtype)


def ordinary(rng, size, dtype, domain):
    if dtype.kind == "b":
        return rng.integers(0, 2, size).astype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        low = {"positive": 0, "above_one": 1}.get(domain, max(info.min, -50))
        return rng.integers(low, min(50, info.max), size).astype(dtype)
    low, high = {"positive": (0, 9), "above_one": (1, 9), "unit": (-1, 1)}.get(domain, (-9, 9))
    values = rng.uniform(low, high, size)
    return (values + 1j * rng.uniform(low, high, size) if dtype.kind == "c" else values).astype(
        dtype
    )


def operands(op, dtypes, size):
    """Ordinary values; where there is room, every combination of special ones in front."""
    rng = rng_for(op.name, *dtypes)
    arrays = [ordinary(rng, size, d, op.domain) for d in dtypes]
    special = list(itertools.product(*(specials(d, op.domain) for d in dtypes)))[:size]
    for array, column in zip(arrays, zip(*special, strict=True), strict=False):
        array[: len(column)] = column
    return arrays


def reference(function, *arguments):
    with np.errstate(all="ignore"):
        return function(*arguments)


@pytest.fixture
def check_row(engine, assert_close):
    """The row over operands equals NumPy's call, or both refuse."""

    def check(op, *arguments):
        kinds = [getattr(a, "dtype", a) for a in arguments]
        note = f"{op.name} of {kinds} on {engine}"
        lazy = [fg.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
        function = getattr(fg, op.name)
        try:
            expected = reference(call(op), *arguments)
        except TypeError:
            with pytest.raises(TypeError) as raised:
                function(*lazy)
            message = str(raised.value)
            assert message.startswith(f"{op.name}: "), note
            for a in arguments:
                assert (
                    getattr(a, "dtype", np.dtype(type(a))).name in message
                    or type(a).__name__ in message
                ), note
            return
        except (OverflowError, ValueError) as error:
            with pytest.raises(type(error), match=f"^{op.name}: "):
                function(*lazy)
            return
        tensor = function(*lazy)
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape), note
        ulp = 0 if engine == "numpy" else op.ulp
        zero_signs = op.name not in ANY_ZERO
        assert_close(tensor.compute(), expected, ulp, note, zero_signs)

    return check


@pytest.mark.parametrize(("engine", "dtype"), CASES, indirect=["engine"], ids=str)
@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_row_equals_numpy(op, engine, dtype, check_row):
    pairs = [(dtype,)] if op.arity == 1 else [(dtype, d) for d in dict.fromkeys((dtype, *MIXED))]
    for dtypes in pairs:
        check_row(op, *operands(op, dtypes, 400))


@pytest.mark.parametrize(
    ("engine", "dtype"), [c for c in CASES if c[0] != "auto"], indirect=["engine"], ids=str
)
@pytest.mark.parametrize("op", [op for op in ROWS if op.arity == 2], ids=lambda op: op.name)
def test_python_scalars_are_weak_on_either_side(op, engine, dtype, check_row):
    (x,) = operands(op, (dtype,), 40)
    for scalar in SCALARS:
        check_row(op, x, scalar)
        if not (op.name == "pow" and x.dtype.kind in "iu"):  # needs exponents that are not negative
            check_row(op, scalar, x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_sizes(op, size, check_row):
    for dtype in (np.dtype("f4"), np.dtype("f8"), np.dtype("i4"), np.dtype("?")):
        check_row(op, *operands(op, (dtype,) * op.arity, size))


@pytest.mark.parametrize("name", ["add", "divide", "maximum", "sqrt", "floor_divide", "less"])
@pytest.mark.parametrize("name_of_dtype", ["f4", "i8"])
def test_more_than_a_block(name, name_of_dtype, check_row):
    op = OPS[name]
    check_row(op, *operands(op, (np.dtype(name_of_dtype),) * op.arity, MORE_THAN_A_BLOCK))


@pytest.mark.parametrize("name", ["exp", "tanh", "log1p", "sin", "pow", "atan2", "hypot"])
@pytest.mark.parametrize("name_of_dtype", ["f4", "f8"])
def test_functions_over_more_than_a_block(name, name_of_dtype, check_row):
    op = OPS[name]
    check_row(op, *operands(op, (np.dtype(name_of_dtype),) * op.arity, MORE_THAN_A_BLOCK))


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_shapes_broadcast_as_in_numpy(op, check_row):
    dtype = next(d for d in map(np.dtype, ("f8", "i4", "?")) if accepts(op, d))
    for shapes in (((3, 1), (1, 4)), ((4,), (3, 4)), ((), (2, 3)), ((2, 1, 3), (5, 1))):
        arrays = [
            operands(op, (dtype,), int(np.prod(shape)))[0].reshape(shape)
            for shape in shapes[: op.arity]
        ]
        check_row(op, *arrays)


def accepts(op, dtype):
    try:
        reference(call(op), *(np.ones(1, dtype) for _ in range(op.arity)))
    except TypeError:
        return False
    return True


# --- the rows that have no ufunc ------------------------------------------------------------------


@pytest.mark.parametrize("start", DTYPES, ids=str)
def test_astype_equals_numpy(start, engine, assert_same):
    (x,) = operands(OPS["astype"], (start,), 200)
    for end in DTYPES:
        with np.errstate(all="ignore"):
            keeps_parts = start.kind != "c" or end.kind in "bc"  # else NumPy warns and drops one
            expected = (x if keeps_parts else x.real).astype(end)
        assert_same(fg.asarray(x).astype(end).compute(), expected, f"{start} to {end}")


@pytest.mark.parametrize("first", DTYPES, ids=str)
def test_where_equals_numpy(first, engine, assert_same):
    condition = np.arange(90) % 3 > 0
    for second in DTYPES:
        x, y = operands(OPS["add"], (first, second), 90)
        result = fg.where(fg.asarray(condition), fg.asarray(x), fg.asarray(y))
        assert_same(result.compute(), np.where(condition, x, y), f"{first}, {second}")
    for scalar in (0, 1.5, True, 2j):
        if first.kind == "b" and scalar is not True:
            continue  # np.where itself takes the scalar's default dtype there
        expected = np.where(condition, x, scalar)
        assert_same(fg.where(fg.asarray(condition), fg.asarray(x), scalar).compute(), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_where_takes_any_condition_for_its_truth(dtype, engine, assert_same):
    (condition,) = operands(OPS["add"], (dtype,), 60)
    x, y = np.arange(60.0), -np.arange(60.0)
    with np.errstate(all="ignore"):
        expected = np.where(condition, x, y)
    assert_same(fg.where(fg.asarray(condition), x, y).compute(), expected)


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "f2", "i4", "f4"])
def test_where_chooses_among_narrow_values_without_branches(dtype, assert_same, monkeypatch):
    monkeypatch.delattr(np, "putmask")
    x, y = operands(OPS["add"], (np.dtype(dtype),) * 2, 90)
    condition = np.arange(90) % 3 > 0
    with fg.options(engine="numpy"):
        assert_same(fg.where(condition, x, y).compute(), np.where(condition, x, y))


# --- the table itself -----------------------------------------------------------------------------


def test_every_ufunc_of_numpy_with_one_result_has_a_row_or_is_known_to_be_missing():
    missing = {
        name
        for name, value in vars(np).items()
        if isinstance(value, np.ufunc)
        and value.nout == 1
        and value.signature is None
        and value not in UFUNCS
    }
    assert missing == {
        "bitwise_count", "float_power", "gcd", "isnat", "lcm", "ldexp", "spacing",
    }  # fmt: skip


def test_names_and_aliases_are_unique():
    names = [name for op in OPS.values() for name in (op.name, *op.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_row_is_a_function_and_a_documented_one(op):
    for name in (op.name, *op.aliases):
        assert getattr(fg, name).__doc__


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_wrong_number_of_operands_names_the_row(op):
    with pytest.raises(TypeError, match=f"^{op.name}"):
        getattr(fg, op.name)(*[fg.asarray([1.0])] * (op.arity + 1))


@pytest.mark.parametrize("op", [op for op in ROWS if op.arity == 2], ids=lambda op: op.name)
def test_shape_error_names_op_shapes_dtypes_and_remedy(op):
    a, b = fg.ones((3, 4), "f4"), fg.ones((5,), "f4")
    if not accepts(op, np.dtype("f4")):
        a, b = fg.ones((3, 4), "i4"), fg.ones((5,), "i4")
    with pytest.raises(ValueError, match="do not broadcast") as raised:
        getattr(fg, op.name)(a, b)
    message = str(raised.value)
    for part in (op.name, f"{a.dtype}[3, 4]", f"{b.dtype}[5]", "t[:, None]"):
        assert part in message
