"""The array API standard: the namespace, what can be asked of it, its functions."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.ops import OPS

RNG = np.random.default_rng(21)
DTYPES = ["i1", "u2", "i8", "f4", "f8", "c16"]


def numbers(shape, dtype, low=-9, high=9):
    """Small whole numbers, equal ones among them."""
    kind = np.dtype(dtype).kind
    found = RNG.integers(0 if kind == "u" else low, high, shape)
    return (found + 1j * RNG.integers(low, high, shape) if kind == "c" else found).astype(dtype)


def pairs(function, *arrays):
    """What a function gives in fusegraph and in NumPy, as arrays."""
    found, expected = function(fg, *map(fg.asarray, arrays)), function(np, *arrays)
    if not isinstance(expected, tuple):
        found, expected = (found,), (expected,)
    assert len(found) == len(expected)
    assert all(isinstance(f, fg.Tensor) for f in found)
    return [(np.asarray(f), np.asarray(e)) for f, e in zip(found, expected, strict=True)]


# --- functions beside NumPy's ---------------------------------------------------------------------

FUNCTIONS = {
    "sort": lambda xp, x: xp.sort(x, axis=0),
    "sort-flat": lambda xp, x: xp.sort(x, axis=None),
    "argsort": lambda xp, x: xp.argsort(x, axis=1, stable=True),
    "argsort-flat": lambda xp, x: xp.argsort(x, axis=None, stable=True),
    "searchsorted": lambda xp, x: xp.searchsorted(xp.sort(xp.reshape(x, (-1,))), x, side="right"),
    "searchsorted-sorter": lambda xp, x: xp.searchsorted(
        x[0], x[1], sorter=xp.argsort(x[0], stable=True)
    ),
    "take": lambda xp, x: xp.take(x, xp.asarray([2, 0, -1]), axis=1),
    "take-flat": lambda xp, x: xp.take(x, xp.asarray([[7, 0], [-1, 3]])),
    "take-none": lambda xp, x: xp.take(x, [], axis=1),
    "searchsorted-none": lambda xp, x: xp.searchsorted(
        x[0, :0], x, sorter=xp.asarray([], dtype=int)
    ),
    "take_along_axis": lambda xp, x: xp.take_along_axis(x, xp.argsort(x, axis=1, stable=True), 1),
    "take_along_axis-broadcast": lambda xp, x: xp.take_along_axis(x, xp.asarray([[1, 0]]), 1),
    "count_nonzero": lambda xp, x: xp.count_nonzero(x, axis=0),
    "nonzero": lambda xp, x: xp.nonzero(x),
    "unique_all": lambda xp, x: tuple(xp.unique_all(x)),
    "unique_counts": lambda xp, x: tuple(xp.unique_counts(x)),
    "unique_inverse": lambda xp, x: tuple(xp.unique_inverse(x)),
    "unique_values": lambda xp, x: xp.sort(xp.unique_values(x)),
    "roll": lambda xp, x: xp.roll(x, (1, -2), axis=(0, 1)),
    "roll-array": lambda xp, x: xp.roll(x, np.array([1, 3]), axis=(1, 0)),
    "roll-flat": lambda xp, x: xp.roll(x, 30),
    "tile": lambda xp, x: xp.tile(x, (2, 1, 3)),
    "repeat": lambda xp, x: xp.repeat(x, 3, axis=1),
    "repeat-each": lambda xp, x: xp.repeat(x, np.array([0, 2, 1, 3]), axis=0),
    "repeat-bools": lambda xp, x: xp.repeat(x, np.array([True, False, True, True]), axis=0),
    "repeat-empty": lambda xp, x: xp.repeat(x[:0], [], axis=0),
    "repeat-flat": lambda xp, x: xp.repeat(x, 2),
    "meshgrid": lambda xp, x: tuple(xp.meshgrid(x[0], x[:, 0], x[1, :2])),
    "meshgrid-ij": lambda xp, x: tuple(xp.meshgrid(x[0], x[:, 0], indexing="ij")),
    "meshgrid-sparse": lambda xp, x: tuple(xp.meshgrid(x[0], x[:, 0], sparse=True, copy=False)),
    "tril": lambda xp, x: xp.tril(x, k=-1),
    "triu": lambda xp, x: xp.triu(x, k=1),
    "diff": lambda xp, x: xp.diff(x, n=2, axis=1),
    "diff-beside": lambda xp, x: xp.diff(x, axis=0, prepend=x[:1], append=x[1:3]),
    "diff-number": lambda xp, x: xp.diff(x > 0, prepend=2),
    "diff-none": lambda xp, x: xp.diff(x, n=0, prepend=2),
    "cumulative_sum": lambda xp, x: xp.cumulative_sum(x, axis=1),
    "cumulative_sum-initial": lambda xp, x: xp.cumulative_sum(x, axis=0, include_initial=True),
    "cumulative_sum-number": lambda xp, x: xp.cumulative_sum(x[0, 0], include_initial=True),
    "cumprod-number": lambda xp, x: xp.cumprod(x[0, 0], axis=-1),
    "cumulative_prod": lambda xp, x: xp.cumulative_prod(x, axis=0),
    "cumsum": lambda xp, x: xp.cumsum(x),
    "cumprod": lambda xp, x: xp.cumprod(x, axis=1),
    "tensordot": lambda xp, x: xp.tensordot(x, xp.matrix_transpose(x), axes=1),
    "tensordot-axes": lambda xp, x: xp.tensordot(x, x, axes=((1, 0), (1, 0))),
    "tensordot-outer": lambda xp, x: xp.tensordot(x, x, axes=0),
    "vecdot": lambda xp, x: xp.vecdot(x, x[0]),
    "vecdot-axis": lambda xp, x: xp.vecdot(x, x, axis=0),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_give_what_numpys_give(name, dtype, assert_same):
    for found, expected in pairs(FUNCTIONS[name], numbers((4, 7), dtype)):
        assert_same(found, expected)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if not n.startswith(("unique", "nonzero"))])
def test_functions_are_lazy_and_can_be_traced(name, assert_same):
    x = numbers((4, 7), "f8")
    function = functools.partial(FUNCTIONS[name], fg)
    found = fg.jit(function)(x)
    expected = FUNCTIONS[name](np, x)
    if not isinstance(expected, tuple):
        found, expected = (found,), (expected,)
    for f, e in zip(found, expected, strict=True):
        assert_same(f, np.asarray(e))


def test_a_roll_by_the_whole_axis_is_traced_for_that_size_alone(assert_same):
    f = fg.jit(lambda x: fg.roll(x, 4, axis=0) + 1)  # without an axis a reshape reads the size
    for size in (4, 5, 8):
        x = numbers(size, "f8")
        assert_same(f(x), np.roll(x, 4) + 1)


@pytest.mark.parametrize("name", ["unique_values", "nonzero"])
def test_what_depends_on_values_cannot_be_traced(name):
    with pytest.raises(TypeError, match=r"while jit traces"):
        fg.jit(functools.partial(FUNCTIONS[name], fg))(numbers((4, 7), "f8"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_descending_order_keeps_the_first_of_equals_first(dtype, assert_same):
    x = numbers((5, 40), dtype)
    order = np.asarray(fg.argsort(x, axis=1, descending=True))
    assert_same(np.take_along_axis(x, order, 1), np.flip(np.sort(x, axis=1), 1))
    assert_same(np.asarray(fg.sort(x, axis=1, descending=True)), np.flip(np.sort(x, axis=1), 1))
    for row, places in zip(x, order, strict=True):
        equal = row[places][1:] == row[places][:-1]
        assert (places[1:][equal] > places[:-1][equal]).all()


def test_descending_order_keeps_zeros_of_both_signs_as_they_stand(assert_same):
    x = np.array([0.0, -0.0, 1.0, -0.0])
    found = fg.sort(x, descending=True)
    assert_same(np.asarray(found), np.take(x, np.asarray(fg.argsort(x, descending=True))))


@pytest.mark.parametrize("name", ["sort", "argsort"])
def test_numpys_name_of_an_algorithm_changes_no_order(name, assert_same):
    x = numbers((5, 40), "f8")
    t, function = fg.asarray(x), getattr(np, name)
    expected = function(x, 0, "stable")
    assert_same(np.asarray(function(t, 0, "stable")), expected)
    assert_same(np.asarray(function(t, axis=0, kind="mergesort")), expected)
    with pytest.raises(ValueError, match=f"{name}: kind='bubble'"):
        function(t, 0, "bubble")
    with pytest.raises(TypeError, match="positional"):
        getattr(fg, name)(t, 0, None, True)


def sorts_by_default(monkeypatch):
    """The kinds that NumPy is asked to sort by, as they come."""
    kinds = []
    plain = np.flip

    class Spy(np.ndarray):
        def sort(self, axis=-1, kind=None):
            kinds.append(kind)
            np.ndarray.sort(self, axis, kind)

    monkeypatch.setattr("fusegraph.callables.np.flip", lambda x, axis: plain(x, axis).view(Spy))
    return kinds


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([3, 1, 2, 1], "i4"), "quicksort"),
        (np.array([3, 1, 2, 1], "u8"), "quicksort"),
        (np.array([3, 1, 2, 1], "i2"), "stable"),
        (np.array([True, False, True]), "stable"),
        (np.array([0.0, np.inf, -1.0], "f2"), "quicksort"),
        (np.array([-0.0, np.inf, np.nan, -1.0, -0.0], "f4"), "quicksort"),
        (np.array([0.0, np.inf, np.nan, -1.0, np.nan]), "quicksort"),
        (np.array([0.0, 1.0, -0.0, 0.0, -0.0]), "stable"),
        (np.array([1.0, -np.nan, np.nan, -np.nan], "f4"), "stable"),
        (np.array([1.0, -np.nan, -0.0], "f2"), "stable"),
        (np.array([0j, -0j, 1j]), "stable"),
    ],
    ids=repr,
)
def test_values_are_sorted_by_numpys_default_where_it_gives_the_same(
    values, kind, assert_same, monkeypatch
):
    kinds = sorts_by_default(monkeypatch)
    found = np.asarray(fg.sort(np.tile(values, 30), descending=True))
    backwards = np.tile(values, 30)[::-1]
    expected = np.sort(backwards, kind="stable")[::-1]
    assert kinds == [kind]
    assert found.tobytes() == expected.tobytes()


def test_a_sort_that_need_not_be_stable_is_numpys_default():
    x = np.tile(np.array([0.0, -0.0, 1.0, np.nan, -0.0], "f4"), 100)
    for keywords in ({"stable": False}, {"stable": None}, {"kind": "quicksort"}):
        for name in ("sort", "argsort"):
            found = np.asarray(getattr(fg, name)(x, **keywords))
            assert found.tobytes() == getattr(np, name)(x, **keywords).tobytes(), (name, keywords)
    assert fg.argsort(x).compute().tolist() == np.argsort(x, stable=True).tolist()


@pytest.mark.parametrize(
    "function",
    [
        lambda t: fg.roll(t, 0),
        lambda t: fg.roll(t, (4, 7), axis=(0, 1)),
        lambda t: fg.tile(t, 1),
        lambda t: fg.tile(t, (1, 1, 1)),
        lambda t: fg.repeat(t, 1, axis=0),
        lambda t: fg.repeat(t, [1]),
    ],
)
def test_what_moves_nothing_is_a_copy(function):
    x = numbers((4, 7), "f8")
    for found in (np.asarray(function(fg.asarray(x))), fg.jit(function)(x)):
        assert np.array_equal(found.ravel(), x.ravel())
        assert not np.shares_memory(found, x)


def test_differences_and_triangles_fuse():
    x = fg.asarray(numbers((50, 60), "f8"))
    assert len(fg.exp(fg.diff(x, axis=1)).plan().kernels) == 1
    assert len((fg.tril(x) + 1).plan().kernels) == 1
    assert len(fg.vecdot(x, x).plan().kernels) == 1


def test_cumulative_sums_in_several_dtypes_have_plans_of_their_own(assert_same):
    x = numbers((30,), "f8")
    for dtype in (None, "i4", "f4", None):
        assert_same(np.asarray(fg.cumsum(fg.asarray(x), dtype=dtype)), np.cumsum(x, dtype=dtype))
        assert_same(np.asarray(fg.cumprod(fg.asarray(x), dtype=dtype)), np.cumprod(x, dtype=dtype))


NAMED = {
    "sum": lambda x: np.sum(a=x, axis=0),
    "take": lambda x: np.take(a=x, indices=[1], axis=1),
    "searchsorted": lambda x: np.searchsorted(np.sort(a=x[0]), v=3.0, side="right"),
    "tile": lambda x: np.tile(x, reps=2),
    "take_along_axis": lambda x: np.take_along_axis(arr=x, indices=np.array([[0]]), axis=1),
    "tril": lambda x: np.tril(m=x, k=1),
    "cumsum": lambda x: np.cumsum(a=x, axis=1, dtype="f4"),
}


@pytest.mark.parametrize("function", NAMED.values(), ids=NAMED)
def test_numpys_functions_take_what_they_need_by_their_own_names(function, assert_same):
    x = numbers((4, 7), "f8")
    found = function(fg.asarray(x))
    assert isinstance(found, fg.Tensor)
    assert_same(np.asarray(found), function(x))


# --- indexing by arrays ---------------------------------------------------------------------------

X = numbers((4, 5, 6), "f4")
ROWS, COLUMNS = np.array([3, 0, -1]), np.array([[1], [3]])
MASK = X[..., 0] > 0
KEYS = {
    "array": (ROWS,),
    "list": ([1, 2],),
    "empty": ([],),
    "axis": (slice(None), ROWS),
    "matrix": (COLUMNS,),
    "two": (ROWS, COLUMNS),
    "apart": (ROWS, slice(1, 3), COLUMNS),
    "int beside": (0, slice(None), ROWS),
    "int apart": (ROWS, slice(None), 2),
    "new axis": (None, ROWS, None, COLUMNS),
    "ellipsis": (..., ROWS),
    "ellipsis inside": (ROWS, ..., [0, 1, 2]),
    "ellipsis of nothing": (slice(1, 3), ROWS, ..., COLUMNS),
    "ellipsis of nothing behind": (slice(1, 3), ROWS, COLUMNS, ...),
    "ellipsis of nothing, int": (None, slice(None), 1, ..., ROWS),
    "empty lists": ([[], []],),
    "tuples": ((0, -1), ..., (1, 2)),
    "range": (range(1, 3), slice(None), range(2)),
    "empty range": (range(0),),
    "reversed": (slice(None, None, -1), ROWS),
    "mask": (MASK,),
    "mask of all": (X > 0,),
    "mask behind": (slice(1, 3), X[0, :, 0] > -5),
    "mask and array": (MASK[:, 0], ..., [0]),
    "mask behind ellipsis": (..., X[0] > 0),
    "empty mask": (X[:0, :, 0] > 0,),
    "true": (True,),
    "false": (np.bool_(False),),
    "true beside": (True, slice(None), ROWS, None, 2),
    "false beside": (..., ROWS[:1], np.array(False)),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_arrays_index_as_in_numpy(key, assert_same):
    key = key if len(key) > 1 else key[0]
    assert_same(np.asarray(fg.asarray(X)[key]), X[key])
    lazy = (
        tuple(fg.asarray(k) if isinstance(k, np.ndarray) else k for k in key)
        if isinstance(key, tuple)
        else fg.asarray(key)
        if isinstance(key, np.ndarray)
        else key
    )
    assert_same(np.asarray(fg.asarray(X)[lazy]), X[key])


def test_places_that_are_computed_index_lazily(assert_same):
    f = fg.jit(lambda x, at: x[at % 4] * 2)
    places = np.array([9, 2, 3, 100])
    assert_same(f(X, places), X[places % 4] * 2)
    assert fg.asarray(X)[fg.asarray(places) % 4].pending == 2


def test_one_place_that_is_computed_indexes_lazily(assert_same):
    f = fg.jit(lambda x, at: (x[at % 4], x[:, at % 4, None], x[[1, at % 4], ..., 2]))
    for expected, found in zip(
        (X[3], X[:, 3, None], X[[1, 3], ..., 2]), f(X, np.array(7)), strict=True
    ):
        assert_same(found, expected)
    t = fg.asarray(X)
    assert_same(np.asarray(t[fg.argmax(t[:, 0, 0])]), X[np.argmax(X[:, 0, 0])])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ([4], r"place 4 is out of range for axis 0 of float32\[4, 5, 6\]"),
        ((slice(None), [-6]), "place -6 is out of range for axis 1"),
        ([0.5], "places along axis 0 .* are float64"),
        (np.ones((4, 4), bool), r"a mask of \[4, 4\] is for other axes"),
        (([0, 1], [0, 1, 2]), r"arrays of \[2\] and \[3\] do not broadcast"),
        ((0, 0, 0, [0]), "4 indices for"),
        ((..., [0], ...), "one ..."),
    ],
)
def test_wrong_places_are_refused_when_the_index_is_written(key, message):
    with pytest.raises(IndexError, match=message):
        fg.asarray(X)[key]


def test_places_along_an_axis_broadcast_beside_it():
    with pytest.raises(IndexError, match=r"take_along_axis: .* do not broadcast"):
        fg.take_along_axis(fg.asarray(X), np.zeros((3, 5, 1), int))


def test_wrong_places_that_are_computed_are_refused_when_they_are():
    with pytest.raises(IndexError, match="out of bounds"):
        fg.asarray(X)[fg.asarray(ROWS) + 4].compute()


@pytest.mark.parametrize("name", [n for n in KEYS if "true" not in n and "false" not in n])
def test_arrays_name_what_is_assigned(name, assert_same):
    key = KEYS[name] if len(KEYS[name]) > 1 else KEYS[name][0]
    shape = X[key].shape
    for value in (5, -np.ones(shape), np.arange(float(shape[-1])), -np.ones((1, *shape))):
        if name == "mask of all" and np.ndim(value) > 1:
            continue  # NumPy takes one axis there
        t, expected = fg.asarray(X), X.copy()
        t[key] = value
        expected[key] = value
        assert_same(np.asarray(t), expected)


def test_of_values_at_one_place_the_last_stays_and_the_array_is_left_alone(assert_same):
    x, at = np.zeros(4), np.array([1, 3, 1])
    t = u = fg.asarray(x)
    t[at] = [5, 6, 7]
    t[at] += 1
    assert u is t
    assert np.asarray(t).tolist() == [0, 8, 0, 7]
    assert x.tolist() == [0, 0, 0, 0]


def test_places_that_are_computed_are_assigned_to_lazily(assert_same):
    def one_hot(labels, first):
        t = fg.zeros((4, 5))
        t[np.arange(4), labels % 5] = 1
        t[first, 2:] = 7
        return t * 2

    expected = np.zeros((4, 5))
    expected[np.arange(4), [2, 3, 0, 4]] = 2
    expected[1, 2:] = 14
    assert_same(fg.jit(one_hot)(np.array([7, 3, 0, 9]), np.array(1)), expected)
    t = fg.zeros(3)
    t[fg.asarray([1]) + 4] = 1
    with pytest.raises(IndexError, match="out of bounds"):
        t.compute()


# --- errors ---------------------------------------------------------------------------------------

REFUSED = {
    "searchsorted: x1": lambda x: fg.searchsorted(x, x),
    "searchsorted: side": lambda x: fg.searchsorted(x[0], x, side="middle"),
    "take_along_axis: indices": lambda x: fg.take_along_axis(x, np.array([0])),
    "nonzero: .* no axes": lambda x: fg.nonzero(x[0, 0]),
    "roll: shift": lambda x: fg.roll(x, (1, 2, 3), axis=(0, 1)),
    "tile: repetitions": lambda x: fg.tile(x, -1),
    "repeat: repeats are negative": lambda x: fg.repeat(x, -1),
    "repeat: .* repeats for 4": lambda x: fg.repeat(x, [1, 2], axis=0),
    "repeat: .* repeats for 28": lambda x: fg.repeat(x, [[2]]),
    "searchsorted: sorter": lambda x: fg.searchsorted(x[0], x, sorter=[0, 1]),
    "meshgrid: indexing": lambda x: fg.meshgrid(x[0], indexing="yx"),
    "meshgrid: .* several axes": fg.meshgrid,
    "tril: needs two axes": lambda x: fg.tril(x[0]),
    "diff: n=": lambda x: fg.diff(x, n=-1),
    "cumulative_sum: axis is left out": fg.cumulative_sum,
    "vecdot: .* differ in size": lambda x: fg.vecdot(x, x[:, :2]),
    "tensordot: .* differ in size": lambda x: fg.tensordot(x, x, axes=1),
    "tensordot: 3 axes": lambda x: fg.tensordot(x, x, axes=3),
    "device='gpu'": lambda x: fg.zeros(3, device="gpu"),
    "to_device: stream": lambda x: x.to_device("cpu", stream=1),
    "api_version": lambda x: x.__array_namespace__(api_version="2199.12"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_with_the_remedy(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message](fg.asarray(numbers((4, 7), "f8")))


@pytest.mark.parametrize("places", [[3, -10, 9, 0], [3, -11], [10]], ids=repr)
def test_places_are_checked_before_numpy_writes(places):
    x, places, out = np.arange(10.0), np.array(places), np.empty(len(places))
    modes = []

    class Spy(np.ndarray):
        def take(self, places, axis, out, mode):
            modes.append(mode)
            return self.view(np.ndarray).take(places, axis, out, mode)

    function = functools.partial(fg.take, fg.asarray(x))
    if places.min() < -10 or places.max() > 9:
        with pytest.raises(IndexError, match="out of bounds for axis 0 with size 10"):
            function(fg.asarray(places) + 0).compute()
        return
    OPS["take"].function([x.view(Spy), places], out=out, casting="unsafe", axis=0)
    assert modes == ["wrap"]  # "raise" writes to memory of its own first, and copies
    assert out.tolist() == function(fg.asarray(places) + 0).tolist() == x[places].tolist()


@pytest.mark.parametrize("name", ["tril", "triu"])
def test_a_triangle_is_one_comparison_and_one_choice(name):
    x = numbers((40, 30), "f4")
    (kernel,) = getattr(fg, name)(x, 2).plan().kernels
    assert [node.op.name for node in kernel.region.nodes][-1] == "where"
    assert len(kernel.region.nodes) == 2
    assert [value.shape for value in kernel.region.inputs if not value.shape] == []


@pytest.mark.parametrize("name", ["tril", "triu"])
def test_a_triangle_is_traced_for_its_size_alone(name, assert_same):
    f = fg.jit(lambda x: getattr(fg, name)(x, 1) * 2)
    for shape in ((4, 7), (5, 8), (1, 7), (128, 127), (2, 200, 200)):
        x = numbers(shape, "f4")
        assert_same(f(x), getattr(np, name)(x, 1) * 2)


@pytest.mark.parametrize("k", [-99, -40, -3, 0, 29, 30, 99])
@pytest.mark.parametrize("dtype", ["?", "i1", "f2", "f4", "c16"])
def test_triangles_of_every_diagonal(k, dtype, assert_same):
    x = numbers((2, 40, 30), "f8").astype(dtype)
    for name in ("tril", "triu"):
        assert_same(np.asarray(getattr(fg, name)(x, k)), getattr(np, name)(x, k))


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize(
    "function",
    [
        lambda xp, x, axis: xp.take(x, xp.asarray([0, 0]), axis=axis),
        lambda xp, x, axis: xp.argsort(x, axis=axis),
        lambda xp, x, axis: xp.repeat(x, 3, axis=axis),
        lambda xp, x, axis: xp.squeeze(x, axis=axis),
        lambda xp, x, axis: x.squeeze(axis),
    ],
)
def test_one_number_has_the_axis_that_numpy_gives_it(function, axis, assert_same):
    for found, expected in pairs(functools.partial(function, axis=axis), np.array(5.0)):
        assert_same(found, expected)


def test_of_one_number_there_is_no_axis_to_sort(assert_same):
    for function in (fg.sort, fg.take_along_axis):
        with pytest.raises(np.exceptions.AxisError, match="it has none"):
            function(fg.asarray(5.0), 0)


def test_repeats_are_integers():
    with pytest.raises(TypeError, match="repeat: repeats are float64"):
        fg.repeat(fg.ones(3), 1.5)


@pytest.mark.parametrize("dtype", ["?", "i4", "f4", "c16"])
def test_dot_is_numpys(dtype, assert_same):
    shapes = [(), (3,), (2, 3), (3, 2), (4, 2, 3), (4, 3, 2)]
    for left in shapes:
        for right in shapes:
            x, y = (numbers(shape, "f8").astype(dtype) for shape in (left, right))
            t = fg.asarray(x)
            try:
                expected = np.dot(x, y)
            except ValueError:
                with pytest.raises(ValueError, match=r"mismatch|differ"):
                    np.dot(t, y)
                continue
            for found in (fg.dot(t, y), np.dot(x, fg.asarray(y)), t.dot(y)):
                assert_same(np.asarray(found), np.asarray(expected), zero_signs=False)
    assert_same(fg.dot(np.ones(3, dtype), 2.5).compute(), np.dot(np.ones(3, dtype), 2.5))


# --- the namespace --------------------------------------------------------------------------------


def test_a_tensor_knows_its_namespace():
    x = fg.ones((2, 3), dtype=fg.float32)
    xp = x.__array_namespace__(api_version="2023.12")
    assert xp is fg
    assert x.device == "cpu"
    assert x.to_device("cpu") is x
    assert xp.zeros(3, device=x.device).dtype == fg.float64
    assert (xp.pi, xp.e, xp.inf) == (math.pi, math.e, math.inf)
    assert math.isnan(xp.nan)
    assert x[xp.newaxis].shape == (1, 2, 3)


def test_what_can_be_asked_of_dtypes():
    x = fg.ones(3, dtype=fg.float32)
    assert fg.result_type(x, fg.int16, 1.5) == np.float32
    assert np.result_type(x, np.float64) == np.float64
    assert fg.can_cast(x, fg.float64)
    assert np.can_cast(x, "f2", casting="same_kind")
    assert not fg.can_cast(fg.float64, fg.float32)
    assert fg.finfo(x).bits == 32
    assert fg.iinfo(fg.int8).max == 127
    assert fg.isdtype(x.dtype, "real floating")


def test_what_can_be_asked_of_the_namespace():
    info = fg.__array_namespace_info__()
    assert info.default_device() in info.devices()
    assert info.capabilities()["max dimensions"] == 64
    assert info.default_dtypes()["real floating"] == fg.asarray(1.0).dtype
    assert info.default_dtypes()["indexing"] == fg.argmax(fg.ones(3)).dtype
    assert set(info.dtypes(kind=("bool", "unsigned integer"))) == {
        "bool", "uint8", "uint16", "uint32", "uint64",
    }  # fmt: skip
    assert info.dtypes(kind="complex floating")["complex64"] == fg.complex64
    with pytest.raises(ValueError, match="choose one of"):
        info.dtypes(kind="text")


def test_arrays_are_exchanged_without_a_copy():
    x = np.arange(6.0)
    t = fg.from_dlpack(x)
    assert np.shares_memory(np.asarray(t), x)
    assert np.array_equal(np.from_dlpack(t * 2), x * 2)
    assert fg.from_dlpack(t) is t
    apart = fg.from_dlpack(t, copy=True)
    apart += 1
    assert np.array_equal(np.asarray(t), x)
    assert t.__dlpack_device__() == x.__dlpack_device__()


def test_a_copy_where_one_is_asked_for():
    x = np.arange(3.0)
    copied, shared = fg.asarray(x, copy=True) + 0, fg.asarray(x, copy=False) + 0
    of_buffer = fg.asarray(memoryview(x), copy=True) + 0
    x[0] = 9
    assert np.asarray(copied)[0] == np.asarray(of_buffer)[0] == 0
    assert np.asarray(shared)[0] == 9
    for value, dtype in (([1.0, 2.0], None), (x, "f4")):
        with pytest.raises(ValueError, match="copy"):
            fg.asarray(value, dtype, copy=False)


@pytest.mark.parametrize("copy", [None, True, False])
def test_a_copy_loses_no_mask(copy):
    with pytest.raises(TypeError, match="would lose its mask"):
        fg.asarray(np.ma.masked_array([1.0, 2.0], [True, False]), copy=copy)


def test_a_list_of_tensors_is_copied_lazily(assert_same):
    f = fg.jit(lambda x: fg.asarray([x, x + 1], copy=True))
    assert_same(f(np.arange(3)), np.array([[0, 1, 2], [1, 2, 3]]))
    with pytest.raises(OverflowError, match="71 bits"):
        fg.asarray(2**70, copy=True)
