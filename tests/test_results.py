"""Results: whose memory they are, what is computed once, and where an operation came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fusegraph as fg

X = np.linspace(0.5, 2.0, 12).reshape(3, 4)


def test_one_tensor_may_be_asked_for_twice():
    y = fg.asarray(X) * 2
    first, second = fg.compute(y, y)
    assert first is second
    np.testing.assert_array_equal(first, X * 2)


@pytest.mark.parametrize(
    "identity",
    [
        lambda t: t * 1,
        lambda t: t / 1,
        lambda t: t - 0,
        lambda t: +t,
        lambda t: fg.negative(-t),
        lambda t: fg.where(t > 0, t, t),
        lambda t: (t * 1).T,
        lambda t: (t * 1).reshape(4, 3)[1:],
    ],
)
@pytest.mark.parametrize("fuse", [True, False])
def test_what_is_computed_is_not_the_array_that_was_given(identity, fuse):
    given = X.copy()
    result = identity(fg.asarray(given)).compute(fuse=fuse)
    assert not np.shares_memory(result, given)
    jitted = fg.jit(identity, fuse=fuse)(given) if fuse else result
    assert not np.shares_memory(jitted, given)


def test_a_view_shows_the_array_that_was_given():
    assert np.shares_memory(fg.asarray(X).T.compute(), X)


@pytest.mark.parametrize("engine", ["auto", "numpy", "numexpr"])
@pytest.mark.parametrize(
    ("a", "b"), [((0, 3, 4), (4, 2)), ((2, 0, 4), (4, 2)), ((2, 3, 0), (0, 2)), ((3, 4), (4, 0))]
)
def test_empty_products(a, b, engine):
    left, right = np.ones(a, np.float32), np.ones(b, np.float32)
    result = (fg.asarray(left) @ right).compute(engine=engine)
    np.testing.assert_array_equal(result, left @ right, strict=True)


@pytest.mark.parametrize("exponent", [2, 3, -1, 0.5])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "float16", "float32", "complex64"])
def test_powers_have_the_dtype_of_numpys_operator(dtype, exponent):
    x = np.ones(3, dtype)
    if exponent == -1 and np.dtype(dtype).kind in "biu":
        with pytest.raises((ValueError, OverflowError)):
            fg.asarray(x) ** exponent
        return
    np.testing.assert_array_equal((fg.asarray(x) ** exponent).compute(), x**exponent, strict=True)


def test_dtype_is_the_dtype_of_the_loop():
    t = fg.asarray(np.arange(3, dtype=np.int8))
    np.testing.assert_array_equal(
        np.add(t, 1, dtype=np.int32).compute(), np.add(np.arange(3), 1, dtype=np.int32), strict=True
    )
    with pytest.raises(TypeError, match="add: dtype=int32 would change the kind of a float64"):
        np.add(fg.asarray(X), 1, dtype=np.int32)
    with pytest.raises(TypeError, match="sqrt: NumPy has no loop for dtype=int32"):
        np.sqrt(t, dtype=np.int32)
    with pytest.raises(TypeError, match="exp with casting has no lazy form"):
        np.exp(t, casting="no")


def test_byte_swapped_arrays_become_native():
    t = fg.asarray(X.astype(">f8"))
    assert t.dtype.isnative
    assert t.compute().dtype.isnative
    np.testing.assert_array_equal((t @ t.T).compute(), X @ X.T, strict=True)


def test_lines_are_those_of_each_expression():
    name = Path(__file__).name
    with fg.options(trace_source=True):
        first = fg.asarray(X) + 1
        second = fg.asarray(X.copy()) + 1
        third = fg.asarray(X).sum(axis=0)
    lines = [t.plan().kernels[0].sources for t in (first, second, third)]
    start = int(lines[0][0].partition(":")[2])
    assert lines == [(f"{name}:{start + at}",) for at in range(3)]
    assert (fg.asarray(X) + 1).plan().kernels[0].sources == ()


@pytest.mark.parametrize("dtype", ["i4", "f2", "f4", "f8", "c16"])
@pytest.mark.parametrize("equal_nan", [False, True])
@pytest.mark.parametrize(
    "tolerances",
    [(0, -1.0), (-1.0, 0), (-1e-5, 1e-8), (0, np.nan), (0, np.inf), (np.inf, 0), (1e-3, [0.0] * 6)],
    ids=repr,
)
def test_close_as_numpy_has_it(tolerances, equal_nan, dtype, assert_same):
    if dtype == "i4":
        a, b = np.array([1, 2, 3, 0, -5, 9], dtype), np.array([1, 3, 3, 0, -5, 10], dtype)
    else:
        a = np.array([1, 2, np.inf, -np.inf, np.nan, 0.0], dtype)
        b = np.array([1, 2.5, np.inf, np.inf, np.nan, -0.0], dtype)
    with np.errstate(all="ignore"):
        expected = np.isclose(a, b, *tolerances, equal_nan)
    assert_same(np.isclose(fg.asarray(a), b, *tolerances, equal_nan).compute(), expected)
