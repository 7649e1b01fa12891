"""The Tensor: operators, mixing with arrays, protocols, in-place syntax, errors."""

# ruff: noqa: PLW0108
from __future__ import annotations

import copy
import operator
import pickle

import numpy as np
import pytest

import fusegraph as fg
from fusegraph import tensor

# What is tested here does not depend on engines; last bits do.
pytestmark = pytest.mark.options(engine="numpy")

X = np.arange(1.0, 7).reshape(2, 3)
BINARY = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
)  # fmt: skip
BITS = (operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift)
IN_PLACE = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow,
)  # fmt: skip


OPERATORS = {
    "add": operator.add, "subtract": operator.sub, "equal": operator.eq, "not_equal": operator.ne,
    "less": operator.lt, "pow": operator.pow, "matmul": operator.matmul, "multiply": operator.imul,
}  # fmt: skip


def lazy(value):
    assert isinstance(value, fg.Tensor)
    return value.compute()


# --- operators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", BINARY)
@pytest.mark.parametrize(
    "other", [2, 2.5, np.float32(2), np.array([1.0, 2.0, 3.0]), X[::-1]], ids=repr
)
def test_operators_on_either_side(function, other, assert_same):
    t = fg.asarray(X)
    assert_same(lazy(function(t, other)), function(X, other))
    assert_same(lazy(function(other, t)), function(other, X))
    assert_same(lazy(function(t, fg.asarray(other))), function(X, np.asarray(other)))


@pytest.mark.parametrize("function", BITS)
def test_bit_operators(function, assert_same):
    x, y = np.array([12, 10, 7]), np.array([1, 2, 3])
    assert_same(lazy(function(fg.asarray(x), y)), function(x, y))
    assert_same(lazy(function(x, fg.asarray(y))), function(x, y))
    assert_same(lazy(function(fg.asarray(x), 2)), function(x, 2))
    assert_same(lazy(function(2, fg.asarray(x))), function(2, x))


def test_unary_operators(assert_same):
    t = fg.asarray(-X)
    assert_same(lazy(-t), X)
    assert_same(lazy(+t), -X)
    assert_same(lazy(abs(t)), X)
    assert_same(lazy(~fg.asarray(X > 2)), ~(X > 2))


def test_matmul_operator(assert_same):
    assert_same(lazy(fg.asarray(X) @ X.T), X @ X.T)
    assert_same(lazy(X.T @ fg.asarray(X)), X.T @ X)


@pytest.mark.parametrize("other", ["a", None, {}, frozenset()], ids=repr)
def test_operators_refuse_what_they_do_not_know(other):
    t = fg.asarray(X)
    for name, function in OPERATORS.items():
        with pytest.raises(
            TypeError, match=rf"^{name}: an operand is of type {type(other).__name__}"
        ):
            function(t, other)
    for function in (operator.eq, operator.ne):
        with pytest.raises(TypeError, match=r"equal: an operand is of type"):
            function(other, t)
    with pytest.raises(TypeError):
        other + t


def test_a_tuple_is_an_operand_as_a_list_is(assert_same):
    assert_same(lazy(fg.asarray(X) + (1, 2, 3)), X + (1, 2, 3))  # noqa: RUF005


def test_divmod(assert_same):
    t = fg.asarray(X)
    for pair, expected in (
        (divmod(t, 2), divmod(X, 2)),
        (divmod(7.5, t), divmod(7.5, X)),
        (divmod(X, t), divmod(X, X)),
    ):
        for part, whole in zip(pair, expected, strict=True):
            assert_same(lazy(part), whole)


def test_bytes_are_those_of_the_array():
    for array in (np.array(3), X, np.arange(4, dtype=np.int16)):
        assert bytes(fg.asarray(array)) == array.tobytes()


def test_round_and_format(assert_same):
    t = fg.asarray(X * 1.37)
    assert_same(lazy(round(t)), np.round(X * 1.37))
    assert_same(lazy(round(t, 1)), np.round(X * 1.37, 1))
    assert_same(lazy(fg.around(t, 1)), np.around(X * 1.37, 1))
    assert_same(lazy(np.around(t, 1)), np.around(X * 1.37, 1))
    assert f"{t.sum():.2f}" == f"{(X * 1.37).sum():.2f}"
    assert f"{fg.asarray(5) + 1:04d}" == "0006"
    assert f"{t}" == repr(t)
    with pytest.raises(TypeError, match=r"format: '.2f' is for one value, not float64\[2, 3\]"):
        f"{t:.2f}"


def test_a_tensor_is_hashed_by_identity():
    a, b = fg.asarray(X), fg.asarray(X)
    assert len({a, b, a}) == 2


# --- in-place syntax ------------------------------------------------------------------------------


@pytest.mark.parametrize("function", IN_PLACE)
def test_in_place_operators_rebind_one_handle(function, assert_same):
    x = X.copy()
    t = fg.asarray(x)
    other, same_node = t * 1, fg.asarray(x)
    result = function(t, 2)
    assert result is t
    assert_same(lazy(t), function(X.copy(), 2))
    assert_same(lazy(other), X)
    assert_same(lazy(same_node), X)
    np.testing.assert_array_equal(x, X)


def test_in_place_keeps_dtype_and_shape(assert_same):
    t = fg.asarray(X.astype(np.float32))
    t += np.float64(1)
    assert t.dtype == np.float32
    with pytest.raises(ValueError, match=r"in-place: the result has shape \[4, 2, 3\]"):
        t += np.ones((4, 1, 1))
    with pytest.raises(TypeError, match="in-place: complex128 does not go into float32"):
        t *= np.complex128(1j)
    ints = fg.asarray(np.arange(3))
    with pytest.raises(TypeError, match="in-place: float64 does not go into int64"):
        ints /= 2
    assert_same(lazy(t), X.astype(np.float32) + 1)
    assert_same(lazy(ints), np.arange(3))


ASSIGNMENTS = {
    "element": ((0, 1), 9.0),
    "all axes": ((1, 2), -1),
    "row": (0, [7, 8, 9]),
    "column": ((slice(None), 1), [5.0, 6.0]),
    "broadcast": (slice(None), 3),
    "strided": ((slice(None), slice(None, None, 2)), [[1], [2]]),
    "reversed": ((slice(None, None, -1), 0), [1, 2]),
    "ellipsis": (..., 0),
    "new axis": ((None, 0), [[4, 5, 6]]),
    "new axis behind": ((0, slice(None), None), [[4], [5], [6]]),
    "nothing": (slice(5, 9), 3.0),
    "float into float": ((..., -1), np.float32(0.1)),
    "array": (slice(None), X[::-1] * 2),
    "mask": (X > 3, -1),
    "mask and array": (X > 3, X * 10),
    "empty mask": (X > 100, 1),
}


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_assignment(name, engine, assert_same):
    key, value = ASSIGNMENTS[name]
    expected = X.copy()
    if name == "mask and array":
        expected = np.where(key, value, X)  # NumPy would want only the chosen values
    else:
        expected[key] = value
    x = X.copy()
    t = fg.asarray(x)
    before = t + 0
    other = fg.asarray(x)
    t[key] = value
    assert_same(lazy(t), expected)
    assert_same(lazy(before), X + 0)
    assert_same(lazy(other), X)
    np.testing.assert_array_equal(x, X)


def test_values_for_what_a_mask_chooses_are_counted(assert_same):
    t, expected = fg.asarray(X), X.copy()
    t[X > 3] = expected[X > 3] = [7, 8, 9][: np.sum(X > 3)]
    assert_same(lazy(t), expected)
    for values in ([1.0] * (X.size - 1), [[1], [2]]):
        with pytest.raises(ValueError, match="setitem: values of shape"):
            t[X > 3] = values
    with pytest.raises(TypeError, match="while a function is traced"):
        fg.jit(lambda t: t.__setitem__(t > 3, [7.0, 8.0]) or t)(X)


def test_what_is_assigned_is_cast_as_numpy_casts_it(assert_same):
    for key in (X > 3, 1, (slice(None), 0)):
        t, expected = fg.asarray(X.astype("i4")), X.astype("i4")
        t[key] = expected[key] = 2.9
        assert_same(lazy(t), expected)
    t, expected = fg.asarray(X), X.copy()
    t[X > 3] = expected[X > 3] = [5.5]
    assert_same(lazy(t), expected)


def test_assignment_of_tensors_and_to_computed_values(assert_same):
    t = fg.asarray(X) * 2
    t[0] = fg.asarray(X)[1] + 1
    t[t > 9] = 0
    expected = X * 2
    expected[0] = X[1] + 1
    expected[expected > 9] = 0
    result = lazy(t)
    assert_same(result, expected)
    t[0, 0] = 77
    assert_same(result, expected)  # what was handed out is the user's
    expected[0, 0] = 77
    assert_same(lazy(t), expected)


def test_assignment_casts_as_numpy_does(assert_same):
    t = fg.asarray(np.arange(4))
    t[1] = 2.9
    expected = np.arange(4)
    expected[1] = 2.9
    assert_same(lazy(t), expected)


@pytest.mark.parametrize("key", [slice(0, 1), slice(None), np.array([True, False])], ids=str)
@pytest.mark.parametrize("value", [300, -1, [300]], ids=repr)
def test_assigned_integers_that_the_dtype_does_not_hold(key, value):
    """They wrapped."""
    t = fg.asarray(np.zeros(2, "u1"))
    for array in (np.zeros(2, "u1"), t):
        with pytest.raises(OverflowError):
            array[key] = value
    t[key] = np.array([300])[0]  # an array's integers wrap, in NumPy too
    assert t.compute()[0] == 300 - 256


def test_assignment_errors():
    t = fg.asarray(X)
    with pytest.raises(
        ValueError, match=r"setitem: values of shape \[2\] .* the selection \[3\]; give"
    ):
        t[0] = [1, 2]
    with pytest.raises(IndexError):
        t[5] = 1
    with pytest.raises(TypeError, match="a truth value in a key has no lazy form"):
        t[True] = 1
    with pytest.raises(IndexError, match="place 2 is out of range for axis 0"):
        t[[0, 2]] = 1
    for key in (X > 3, 0):
        with pytest.raises(
            TypeError, match="setitem: complex128 does not go into float64; assign its"
        ):
            t[key] = 1j


def test_augmented_assignment_of_a_part(assert_same):
    t = fg.asarray(X)
    t[0] += 10
    t[:, 1] *= 2
    expected = X.copy()
    expected[0] += 10
    expected[:, 1] *= 2
    assert_same(lazy(t), expected)


# --- mixing with arrays: lazy on either side ------------------------------------------------------

MIXES = {
    "array + tensor": lambda t: X + t,
    "array @ tensor": lambda t: X.T @ t,
    "array > tensor": lambda t: X.mean() > t,
    "numpy scalar * tensor": lambda t: np.float64(3) * t,
    "list + tensor": lambda t: [1.0, 2.0, 3.0] + t,  # noqa: RUF005
    "ufunc": lambda t: np.tanh(t),
    "ufunc of both": lambda t: np.arctan2(X, t),
    "ufunc alias": lambda t: np.radians(t),
    "ufunc with dtype": lambda t: np.add(t, 1, dtype=np.float32),
    "np.where": lambda t: np.where(t > 2, t, 0),
    "np.where array condition": lambda t: np.where(X > 2, t, 0),
    "np.sum": lambda t: np.sum(t),
    "np.sum axis": lambda t: np.sum(t, axis=0),
    "np.mean": lambda t: np.mean(t, axis=1, keepdims=True),
    "np.max": lambda t: np.max(t, axis=0),
    "np.var": lambda t: np.var(t),
    "np.concatenate": lambda t: np.concatenate([t, X]),
    "np.stack": lambda t: np.stack([X, t]),
    "np.clip": lambda t: np.clip(t, 2, 4),
    "np.round": lambda t: np.round(t * 1.37, 1),
    "np.transpose": lambda t: np.transpose(t),
    "np.reshape": lambda t: np.reshape(t, (3, 2)),
    "np.expand_dims": lambda t: np.expand_dims(t, 0),
    "np.matmul": lambda t: np.matmul(t, X.T),
    "np.zeros_like": lambda t: np.zeros_like(t),
    "np.real": lambda t: np.real(t),
    "np.argmax": lambda t: np.argmax(t, axis=1),
    "np.copy": lambda t: np.copy(t),
    "np.isclose": lambda t: np.isclose(t, X),
}


@pytest.mark.parametrize("name", MIXES)
def test_mixing_stays_lazy(name, assert_same):
    build = MIXES[name]
    if name == "list + tensor":
        assert_same(lazy(build(fg.asarray(X))), np.array([1.0, 2.0, 3.0]) + X)
    else:
        assert_same(lazy(build(fg.asarray(X))), build(X))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda t: np.linalg.inv(t), "inv"),
        (lambda t: np.partition(t, 1), "partition"),
        (lambda t: np.einsum("ij->i", t), "einsum"),
        (lambda t: np.interp(t, t, t), "interp"),
        (lambda t: np.fft.fft(t), "fft"),
        (lambda t: np.gcd(t, t), "gcd"),
        (lambda t: np.modf(t), "modf"),
        (lambda t: np.add.accumulate(t), "add.accumulate"),
        (lambda t: np.add.outer(t, t), "add.outer"),
        (lambda t: np.add(t, 1, where=X > 2), "add with where"),
    ],
)
def test_numpy_functions_without_a_lazy_form_are_named(call, name):
    with pytest.raises(TypeError, match=rf"{name}.* has no lazy form; call np.asarray\(t\) first"):
        call(fg.asarray(X))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda t: np.sum(t, initial=3), "numpy.sum with initial"),
        (lambda t: np.max(t, where=X > 2, initial=0), "numpy.max with initial, where"),
        (lambda t: np.add.reduce(t, initial=3), "add.reduce with initial"),
        (lambda t: np.clip(t, 0, 1, out=X.copy()), "numpy.clip with out"),
        (lambda t: np.where(t), "numpy.where with 1 argument has"),
        (lambda t: np.linspace(t, 2), "numpy.linspace"),
        (lambda t: np.linspace(0, t[0, 0]), "numpy.linspace"),
        (lambda t: np.zeros(3, like=t), "numpy.zeros"),
        (lambda t: np.arange(3, like=t), "numpy.arange"),
    ],
)
def test_arguments_without_a_lazy_form_are_named(call, text):
    with pytest.raises(TypeError) as raised:
        call(fg.asarray(X))
    words, said = text.split(" with "), str(raised.value)
    assert said.endswith(" has no lazy form; call np.asarray(t) first")
    assert said.startswith(words[0])
    assert all(word in said for part in words[1:] for word in part.split(", "))


def test_errors_of_served_functions_stay_themselves():
    with pytest.raises(TypeError, match=r"^sum: axis 'a' is no integer"):
        np.sum(fg.asarray(X), axis="a")
    with pytest.raises(TypeError, match=r"^max: keepdims is of type ndarray"):
        fg.max(X, 0, np.zeros(3))


BY_PLACE = {  # NumPy's functions have ``out`` in the middle
    "max": lambda x: np.max(x, 0, None, True),
    "any": lambda x: np.any(x, 0, None, True),
    "argmax": lambda x: np.argmax(x, 0, None),
    "sum": lambda x: np.sum(x, 0, None, None, True),
    "mean": lambda x: np.mean(x, 0, None, None, True),
    "var": lambda x: np.var(x, 0, None, None, 1),
    "std": lambda x: np.std(x, 0, None, None, 1, True),
    "clip": lambda x: np.clip(x, -0.5, 0.5, None),
    "round": lambda x: np.round(x, 1, None),
}


@pytest.mark.parametrize("call", BY_PLACE.values(), ids=BY_PLACE)
def test_arguments_of_numpys_functions_by_place(call, assert_same):
    assert_same(lazy(call(fg.asarray(X))), call(X))


@pytest.mark.parametrize("function", [np.max, np.any, np.argmin])
def test_out_by_place_has_no_lazy_form(function):
    """It was taken for what stands there in the function that serves it."""
    for out in (np.zeros(X.shape[1:]), 1):
        with pytest.raises(
            TypeError, match=f"^numpy.{function.__name__} with out has no lazy form"
        ):
            function(fg.asarray(X), 0, out)
    with pytest.raises(TypeError, match=r"^numpy.var with out has no lazy form"):
        np.var(fg.asarray(X), None, None, np.full((), 2.0))


def test_out_none_is_numpys_default(assert_same):
    t = fg.asarray(X)
    assert_same(lazy(np.sum(t, axis=0, out=None)), X.sum(axis=0))
    assert_same(lazy(np.max(t, 0, None)), X.max(axis=0))


def test_np_copy_is_a_copy(assert_same):
    x = X.copy()
    copied = np.copy(fg.asarray(x)).compute()
    assert copied is not x
    assert not np.shares_memory(copied, x)
    assert_same(copied, x)


# --- values ---------------------------------------------------------------------------------------


def test_conversions():
    t = fg.asarray(2.0) * 3
    assert (float(t), int(t), complex(t), bool(t), t.item()) == (6.0, 6, 6 + 0j, True, 6.0)
    assert operator.index(fg.asarray(3) + 1) == 4
    assert "abcdef"[fg.asarray(2) + 1] == "d"
    assert (fg.asarray(X) * 2).tolist() == (X * 2).tolist()
    with pytest.raises(TypeError):
        operator.index(fg.asarray(3.0))
    for convert in (float, int, bool):
        with pytest.raises((TypeError, ValueError)):
            convert(fg.asarray(X))


def test_length_and_iteration(assert_same):
    t = fg.asarray(X) * 2
    assert len(t) == 2
    for row, expected in zip(t, X * 2, strict=True):
        assert_same(lazy(row), expected)
    first, second = t
    assert_same(lazy(first + second), (X * 2).sum(axis=0))
    for wrong in (len, list):
        with pytest.raises(TypeError):
            wrong(fg.asarray(1.0))


def test_np_asarray_and_np_array(assert_same):
    t = fg.asarray(X) + 1
    array = np.asarray(t)
    assert_same(array, X + 1)
    assert np.asarray(t) is array
    assert not np.shares_memory(np.array(t), array)
    assert_same(np.asarray(t, dtype=np.float32), (X + 1).astype(np.float32))
    with pytest.raises(ValueError, match="copy"):
        np.array(t, dtype=np.float32, copy=False)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
)
def test_copies_and_pickles(duplicate, assert_same):
    t = fg.asarray(X) * 2
    twin = duplicate(t)
    assert_same(lazy(twin), X * 2)
    twin += 1
    assert_same(lazy(t), X * 2)


def test_repr():
    t = fg.asarray(X)
    assert repr(t) == "Tensor(float64[2, 3], computed)"
    assert repr(t + 1) == "Tensor(float64[2, 3], 1 op pending)"
    assert repr((t + 1).T * 2) == "Tensor(float64[3, 2], 2 ops pending)"
    assert repr(fg.asarray(2)) == "Tensor(int64[], computed)"
    assert repr(fg.asarray(np.zeros((0, 3), "f2"))) == "Tensor(float16[0, 3], computed)"
    later = t * 3
    later.compute()
    assert repr(later) == "Tensor(float64[2, 3], computed)"


def test_attributes():
    t = fg.asarray(X.astype(np.float32)) + 1
    assert (t.shape, t.ndim, t.size, t.nbytes, t.dtype) == ((2, 3), 2, 6, 24, np.float32)
    assert t.pending == 1
    with pytest.raises(AttributeError):
        t.no_such_thing  # noqa: B018


def test_compute_of_several(assert_same):
    t = fg.asarray(X)
    a, b = t * 2, t.sum(axis=0)
    first, second = fg.compute(a, b)
    assert_same(first, X * 2)
    assert_same(second, X.sum(axis=0))
    assert a.compute() is first
    assert_same(fg.compute(t + 1), X + 1)
    same = fg.compute(a + 1, a + 1)
    assert_same(same[0], X * 2 + 1)
    mixed = fg.compute(X, t, 2.0)
    assert_same(mixed[2], np.asarray(2.0))


def test_computed_tensors_are_kept(monkeypatch):
    runs = []
    bind = tensor.bind
    monkeypatch.setattr(tensor, "bind", lambda *a: runs.append(a) or bind(*a))
    t = fg.asarray(X) * 2 + 1
    t.compute()
    t.compute()
    np.asarray(t)
    assert len(runs) == 1
    plan = (t * 3).plan()
    assert plan.plan.op_count == 1


# --- out= -----------------------------------------------------------------------------------------


def test_out_of_ufuncs(assert_same):
    out = np.zeros_like(X)
    assert np.add(fg.asarray(X), 1, out=out) is out
    assert_same(out, X + 1)
    assert np.multiply(X, fg.asarray(X), out=out[::-1]) is not None
    assert_same(out, (X * X)[::-1])
    small = np.zeros(X.shape, np.float32)
    np.add(fg.asarray(X), 1, out=small)
    assert_same(small, np.add(X, 1).astype(np.float32))
    t = fg.asarray(X)
    assert np.add(t, 1, out=t) is t
    assert_same(lazy(t), X + 1)


def test_out_of_compute(engine, assert_same):
    out = np.full((3, 2), 9.0)
    t = (fg.asarray(X) * 2).T
    assert t.compute(out=out) is out
    assert_same(out, (X * 2).T)
    assert_same(fg.asarray(X).compute(out=np.empty_like(X)), X)


OUT_ERRORS = {
    "shape": (
        lambda: np.zeros((3, 3)),
        ValueError,
        r"shape of float64\[3, 3\] is not that of the result, float64\[2, 3\]; give",
    ),
    "dtype": (
        lambda: np.zeros(X.shape, np.float32),
        TypeError,
        r"dtype float32, the result is float64\[2, 3\]; cast it with .astype\('float32'\)",
    ),
    "byte order": (lambda: np.zeros(X.shape, ">f8"), TypeError, "dtype"),
    "list": (lambda: [[0.0] * 3] * 2, TypeError, "numpy.ndarray"),
    "read-only": (lambda: np.broadcast_to(0.0, X.shape), TypeError, "writable"),
}


@pytest.mark.parametrize("name", OUT_ERRORS)
def test_wrong_out_changes_nothing(name):
    make, kind, text = OUT_ERRORS[name]
    out = make()
    before = np.array(out)
    t = fg.asarray(X) + 1
    with pytest.raises(kind, match=f"^out: .*{text}"):
        t.compute(out=out)
    np.testing.assert_array_equal(out, before)
    assert t.pending == 1


def test_out_that_overlaps_an_input_is_an_error():
    x = np.arange(10.0)
    for out, source in ((x, x), (x[1:], x[:-1]), (x[::-1], x)):
        with pytest.raises(ValueError, match=r"^out: it overlaps an input"):
            (fg.asarray(source) + 1).compute(out=out)
    np.testing.assert_array_equal(x, np.arange(10.0))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
def test_out_of_a_ufunc_may_overlap_an_input_as_in_numpy(shift, reverse):
    x, expected = np.arange(100_000.0), np.arange(100_000.0)
    out, wanted = (a[::-1] if reverse else a for a in (x[shift:], expected[shift:]))
    np.add(expected[: 100_000 - shift], 1, out=wanted)
    assert np.add(fg.asarray(x[: 100_000 - shift]), 1, out=out) is out
    np.testing.assert_array_equal(x, expected)


def test_an_array_in_place_with_a_tensor():
    x = np.arange(5.0)
    kept = x
    x += fg.asarray(np.ones(5)) * 2
    assert x is kept
    np.testing.assert_array_equal(x, np.arange(5.0) + 2)
    x *= fg.asarray(x)
    np.testing.assert_array_equal(kept, (np.arange(5.0) + 2) ** 2)


def test_out_of_ufunc_with_wrong_dtype_or_shape():
    ints = np.zeros(X.shape, np.int64)
    with pytest.raises(TypeError, match="out: dtype int64 cannot hold float64"):
        np.add(fg.asarray(X), 1, out=ints)
    with pytest.raises(ValueError, match=r"^out: shape"):
        np.add(fg.asarray(X), 1, out=np.zeros((*X.shape, 2)))
    with pytest.raises(ValueError, match=r"^out: shape"):
        np.add.reduce(fg.asarray(X), axis=0, out=np.zeros(X.shape))
    np.testing.assert_array_equal(ints, 0)


def test_out_of_a_ufunc_may_be_larger_than_its_operands():
    out, wanted = np.zeros((2, 5, *X.shape)), np.zeros((2, 5, *X.shape))
    assert np.add(fg.asarray(X), 1, out=out) is out
    np.add(X, 1, out=wanted)
    np.testing.assert_array_equal(out, wanted)
    t = fg.asarray(np.zeros((2, *X.shape)))
    assert np.multiply(fg.asarray(X), 2, out=t) is t
    np.testing.assert_array_equal(t, np.broadcast_to(X * 2, t.shape))


NUMBERS = [
    300.7, np.float64(300.7), np.float32(300.7), -1.5, np.float32(-1.5), 1e300, np.float64(1e300),
    float("nan"), np.float64("nan"), float("inf"), 2**70, 2**63, -1, True, np.uint8(3), np.int64(-3),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "i4", "i8", "u8", "f2", "f4", "c8"])
@pytest.mark.parametrize("value", NUMBERS, ids=repr)
@pytest.mark.parametrize("listed", [False, True])
def test_numbers_are_assigned_as_numpy_writes_them(value, listed, dtype, assert_same):
    """It raises for a Python number that does not fit, and wraps its own."""
    value = [value, 1] if listed else value
    array, t = np.zeros(2, dtype), fg.asarray(np.zeros(2, dtype))
    with np.errstate(all="ignore"):
        try:
            array[:] = value
        except (OverflowError, ValueError) as error:
            with pytest.raises(type(error), match=str(error)):
                t[:] = value
            return
        t[:] = value
        assert_same(lazy(t), array)


def test_a_number_that_is_assigned_is_a_constant():
    """As an operand it kept functions of jit from direct calls."""
    for value in (2, 2.5, np.float32(2), np.array(2)[()]):
        t = fg.asarray(np.zeros(3))
        t[1] = value
        assert [node.kind for node in t.node.inputs] == ["input", "const"]


def test_one_element_arrays_are_assigned_where_there_is_no_axis():
    t = fg.asarray(np.array(1.0))
    t[...] = np.array([5.0])
    assert float(t) == 5
    row = fg.asarray(np.zeros(3))
    row[2, ...] = np.array([[7.0]])
    np.testing.assert_array_equal(row, [0, 0, 7])
    with pytest.raises(ValueError, match="setitem: values of shape"):
        row[2] = np.array([5.0])


@pytest.mark.parametrize("decimals", [2.5, np.float32(2), np.array([1, 2]), "1", None])
def test_decimals_are_an_integer(decimals):
    with pytest.raises(TypeError, match=r"^round: decimals is of type \w+; give an integer"):
        fg.round(X, decimals)


# --- what is no tensor ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ([[1, 2], [3]], ValueError, "ragged"),
        (np.array([1, "a"], object), TypeError, "dtype object is not supported"),
        (np.array(["2020-01-01"], "M8[D]"), TypeError, r"dtype datetime64\[D\] is not supported"),
        (np.zeros(2, [("a", "i4")]), TypeError, "is not supported"),
        (np.array(["a"]), TypeError, "dtype <U1 is not supported"),
        ("text", TypeError, "is not supported"),
        (b"bytes", TypeError, "is not supported"),
        (None, TypeError, "dtype object is not supported"),
        ({1: 2}, TypeError, "dtype object is not supported"),
        (np.longdouble([1, 2]), TypeError, "longdouble|float128"),
        (np.ma.masked_array([1, 2], [0, 1]), TypeError, "masked array would lose its mask"),
    ],
    ids=repr,
)
def test_values_that_are_no_tensor(value, kind, text):
    with pytest.raises(kind, match=f"^asarray: .*({text})"):
        fg.asarray(value)


def test_values_that_are(assert_same):
    t = fg.asarray(X)
    assert fg.asarray(t) is t
    assert_same(lazy(fg.asarray([t, t + 1])), np.stack([X, X + 1]))
    assert_same(lazy(fg.asarray([[1, 2], [3, 4]], dtype="f4")), np.array([[1, 2], [3, 4]], "f4"))
    assert_same(lazy(fg.asarray((1, 2.5))), np.array([1, 2.5]))
    assert_same(lazy(fg.asarray(range(4))), np.arange(4))
    assert_same(lazy(fg.asarray(np.float16(2))), np.asarray(np.float16(2)))
    assert_same(lazy(fg.asarray([])), np.array([]))
    assert_same(lazy(fg.asarray(True)), np.asarray(True))


def test_integers_that_the_dtype_does_not_hold():
    """A cast would wrap them."""
    for value in (300, [1, 300], -1):
        with pytest.raises(OverflowError):
            np.asarray(value, "u1")
        with pytest.raises(OverflowError):
            fg.asarray(value, dtype="u1")
    assert fg.asarray(np.array([300]), dtype="u1").compute().tolist() == [300 - 256]
    assert not fg.asarray([1, 2], dtype="u1").pending


@pytest.mark.parametrize("dtype", [object, "M8[s]", "S3", np.longdouble, [("a", "i4")]])
def test_dtypes_that_are_not_held(dtype):
    with pytest.raises(TypeError, match="is not supported; choose one of bool, int8"):
        fg.asarray(X).astype(dtype)


@pytest.mark.parametrize("dtype", ["nope", 3.5, "f4,,", {"a": 1}])
def test_dtypes_that_are_not_understood(dtype):
    for build in (lambda: fg.asarray(X).astype(dtype), lambda: fg.sum(fg.asarray(X), dtype=dtype)):
        with pytest.raises(
            TypeError, match=r"dtype=.* is not understood; choose one of bool, int8"
        ):
            build()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda t: t + np.ones(4), r"add: shapes of float64\[2, 3\] and float64\[4\] do not"),
        (lambda t: fg.where(t > 0, np.ones(5), t), r"where: shapes of bool\[2, 3\] and float64"),
        (lambda t: t @ t, r"shape mismatch: \(2, 3\) @ \(2, 3\)"),
        (lambda t: t @ 2.0, "matmul: operands need at least one axis"),
    ],
)  # fmt: skip
def test_shape_errors_come_when_the_expression_is_built(build, text):
    with pytest.raises(ValueError, match=text):
        build(fg.asarray(X))


def test_nodes_are_interned():
    t = fg.asarray(X)
    assert (t + 1).node is (t + 1).node
    assert (t + 1).node is not (t + 1.5).node
    assert fg.asarray(0.0).node is not fg.asarray(-0.0).node
    assert fg.asarray(1).node is not fg.asarray(1.0).node
    assert fg.asarray(float("nan")).node is fg.asarray(float("nan")).node


def test_a_cast_of_another_dtype_is_another_plan(assert_same):
    """Once the plan for bool ran where int8 was asked for."""
    for dtype in ("?", "i1", "i4", "f4", "c16"):
        assert_same(lazy(fg.asarray(X).astype(dtype)), X.astype(dtype))


def test_long_chains_do_not_recurse(assert_same):
    t = fg.asarray(np.zeros(3))
    for _ in range(20_000):
        t = t + 1
    assert_same(lazy(t), np.full(3, 20_000.0))
    del t


# --- results are arrays of their own --------------------------------------------------------------

SAME_VALUES = {
    "astype": lambda xp, x: x.astype(x.dtype),
    "flatten": lambda xp, x: x.flatten(),
    "copy": lambda xp, x: x.copy(),
    "clip": lambda xp, x: xp.clip(x, None, None),
    "round": lambda xp, x: xp.round(x),
    "times one": lambda xp, x: x * 1,
}


@pytest.mark.parametrize("name", SAME_VALUES)
def test_what_is_computed_is_not_the_array_that_was_given(name, assert_same):
    f = SAME_VALUES[name]
    for x in (np.arange(4), np.arange(4.0) + 0.0):
        if name == "clip" and x.dtype.kind == "f":
            continue
        for result in (f(np, fg.asarray(x)).compute(), fg.jit(lambda t: f(fg, t))(x)):
            assert_same(result, f(np, x))
            result[...] = 9
            np.testing.assert_array_equal(x, np.arange(4))
    x = np.arange(4.0)
    assert fg.asarray(x).astype(x.dtype, copy=False).compute() is x


def test_one_value_returned_twice_is_two_arrays():
    x = np.arange(4.0)
    for results in (
        fg.jit(lambda t: (t + 1, t + 1, (t + 1) * 1))(x),
        fg.compute(fg.asarray(x) + 1, (fg.asarray(x) + 1) * 1),
    ):
        first, *others = results
        first += 10
        for other in others:
            np.testing.assert_array_equal(other, x + 1)
    plan = fg.jit(lambda t: (t + 1, t + 1)).plan(x)
    assert plan.peak_bytes - fg.jit(lambda t: t + 1).plan(x).peak_bytes == x.nbytes


# --- NumPy's finer points -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("u1", -1, 2), ("u1", 0, 300), ("i1", -1000, 300), ("i8", -(2**70), 3)],
)
def test_clip_by_integers_beyond_the_dtype(dtype, low, high, assert_same):
    x = np.arange(5, dtype=dtype)
    assert_same(np.clip(fg.asarray(x), low, high).compute(), np.clip(x, low, high))


@pytest.mark.parametrize("dtype", ["?", "i1", "u8", "f2", "f4", "f8", "c8"])
@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 2), (-0.0, 1.5), (0, np.float32(1.5)), (300, -2.5), (-2, np.float64(0)), (-300, 2.5),
     (np.float32(np.nan), 1), (None, 0.0), (-0.0, None), (np.array(0.0), np.zeros(5)),
     (np.zeros(5, "f4"), np.ones(5, "f4")), (0, 1 + 2j)],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["numpy", "llvm", "numexpr"])
def test_clip_has_numpys_dtype_and_zeros(dtype, low, high, engine, assert_same):
    x = np.array([-0.0, 0.0, 1, 3, 2]).astype(dtype)
    expected = np.clip(x, low, high)
    got = np.clip(fg.asarray(x), low, high).compute(engine=engine)
    assert_same(got, expected, zero_signs=expected.dtype.kind != "c")


def test_clip_refuses_integers_that_the_dtype_cannot_reach():
    for bounds in ((300, None), (None, -1)):
        with pytest.raises(OverflowError, match="does not fit uint8"):
            fg.clip(fg.asarray(np.arange(5, dtype="u1")), *bounds)


@pytest.mark.parametrize("decimals", [-2, -1, 0, 1])
@pytest.mark.parametrize("dtype", ["i1", "i4", "u8"])
def test_round_of_integers(dtype, decimals, assert_same):
    x = np.array([1, 0, 55, 99]).astype(dtype)
    assert_same(np.round(fg.asarray(x), decimals).compute(), np.round(x, decimals))


def test_round_of_bools_is_float16(assert_same):
    x = np.array([True, False])
    assert_same(fg.round(fg.asarray(x)).compute(), np.round(x))
    with pytest.raises(TypeError, match="decimals=1"):
        fg.round(fg.asarray(x), 1)


@pytest.mark.parametrize("dtype", ["?", "f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("exponent", [2, 2.0, -1, -1.0, 0.5, 3, 1j])
def test_powers_have_numpys_bits(dtype, exponent, assert_same):
    """Its operator squares, inverts and roots some, other ones in other releases."""
    rng = np.random.default_rng(5)
    x = rng.uniform(0.1, 3, 300)
    if np.dtype(dtype).kind == "c":
        x = x + 1j * rng.normal(size=300)
    x = x.astype(dtype)
    try:
        expected = x**exponent
    except ValueError:  # integers to negative powers
        return
    assert_same((fg.asarray(x) ** exponent).compute(engine="numpy"), expected)


def test_equal_tensors_are_arrays_of_their_own(assert_same):
    x = np.arange(3.0)
    first, second = fg.compute(fg.asarray(x) + 1, fg.asarray(x) + 1)
    first[0] = 99
    assert_same(second, x + 1)
    t = fg.asarray(x) * 2
    first, second = fg.compute(t, t)
    assert first is second


def test_powers_of_bools_have_numpys_dtype():
    x = np.array([True, False])
    for exponent in (2, 2.0, 3, 0.5):
        assert (fg.asarray(x) ** exponent).dtype == (x**exponent).dtype, exponent


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min", "any", "all", "argmax", "argmin"])
def test_a_0d_array_has_axis_0_in_a_ufunc(name, axis, assert_same):
    x = np.array(3.0)
    assert_same(
        getattr(fg, name)(fg.asarray(x), axis=axis).compute(), getattr(np, name)(x, axis=axis)
    )


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_0d_array_has_no_axis_in_a_mean(name):
    for function in (getattr(np, name), getattr(fg, name)):
        with pytest.raises(np.exceptions.AxisError):
            function(fg.asarray(np.array(3.0)), axis=0)


def test_values_are_assigned_without_their_leading_axes(assert_same):
    expected, t = np.zeros((3, 4)), fg.asarray(np.zeros((3, 4)))
    for key, shape in ((slice(None), (1, 3, 4)), (0, (1, 4)), ((slice(None), 1), (1, 1, 3))):
        values = np.arange(float(np.prod(shape))).reshape(shape)
        expected[key] = values
        t[key] = values
        assert_same(t.compute(), expected)


def test_in_and_indices_of_no_axes(assert_same):
    x = np.arange(6.0).reshape(2, 3)
    t = fg.asarray(x)
    assert 3 in t
    assert 9 not in t
    for index in (np.array(1), np.int8(1), fg.asarray(np.array(1))):
        assert_same(t[index].compute(), x[1])
    assert_same(t[np.array(1), np.array(-1)].compute(), np.asarray(x[1, -1]))


def test_complex_products_of_one_element_have_numpys_bits(assert_same):
    """NumPy's rounds otherwise where its result is written over an operand."""
    rng = np.random.default_rng(3)
    for dtype in ("c8", "c16"):
        for _ in range(40):
            a, b = (rng.normal(size=(2, 1)) + 1j * rng.normal(size=(2, 1))).astype(dtype)
            for f in (
                lambda a, b: (a + b) * a,
                lambda a, b: np.square(a + b),
                lambda a, b: a * (a - b),
            ):
                for engine in ("numpy", "numexpr", "auto"):
                    assert_same(f(fg.asarray(a), fg.asarray(b)).compute(engine=engine), f(a, b))


@pytest.mark.parametrize(("dtype", "value"), [("u4", -1), ("i1", 255), ("u1", -300)])
def test_a_choice_takes_integers_beyond_the_dtype_as_numpy_does(dtype, value, assert_same):
    """NumPy 2.4 and earlier wrap them, later ones raise."""
    x = np.arange(3, dtype=dtype)
    try:
        expected = np.where(x > 1, x, value)
    except OverflowError:
        with pytest.raises(OverflowError, match=rf"where: Python integer {value} does not fit"):
            fg.where(fg.asarray(x) > 1, fg.asarray(x), value)
    else:
        assert_same(fg.where(fg.asarray(x) > 1, fg.asarray(x), value).compute(), expected)


class Foreign:
    """A class that NumPy lets decide: it has no ufuncs, and operators of its own."""

    __array_ufunc__ = None
    __hash__ = None

    def __radd__(self, other):
        return "radd"

    def __rmatmul__(self, other):
        return "rmatmul"

    def __rpow__(self, other):
        return "rpow"

    def __rdivmod__(self, other):
        return "rdivmod"

    def __eq__(self, other):
        return "eq"


def test_operands_that_have_operators_of_their_own():
    t = fg.ones((2, 2))
    assert t + Foreign() == "radd"
    assert t @ Foreign() == "rmatmul"
    assert (t == Foreign()) == "eq"
    assert t ** Foreign() == "rpow"
    assert divmod(t, Foreign()) == "rdivmod"
    with pytest.raises(TypeError, match="unsupported operand"):
        t - Foreign()


def test_sparse_matrices_have_products_of_their_own():
    """A comparison that gives way to a class with no answer is one of identities: False."""
    sparse = pytest.importorskip("scipy.sparse").eye_array(2)
    t = fg.ones((2, 2))
    np.testing.assert_array_equal(t @ sparse, np.ones((2, 2)))
    for compare in (lambda: t == sparse, lambda: t != sparse, lambda: sparse in t):
        with pytest.raises(TypeError, match="an operand is of type"):
            compare()


def test_integers_beyond_64_bits(assert_same):
    with pytest.raises(OverflowError, match="asarray: an integer of 71 bits is beyond 64"):
        fg.asarray(2**70)
    x = np.zeros(3)
    t = fg.asarray(x)
    t[0] = 2**70
    x[0] = 2**70
    assert_same(t.compute(), x)


def test_clip_keeps_the_nan_of_complex_numbers(assert_same):
    x = np.array([1 + 2j, complex(np.nan, 1), complex(1, np.nan), -3j])
    assert_same(fg.clip(x, np.nan, 2).compute(engine="numpy"), np.clip(x, np.nan, 2))


def test_an_array_whose_shape_was_changed_is_another(assert_same):
    x = np.zeros((4, 6))
    before = fg.asarray(x)
    x.shape = (6, 4)
    after = fg.asarray(x)
    assert after.shape == (6, 4)
    assert before.shape == (4, 6)
    assert_same(np.asarray(after + 1), x + 1)
