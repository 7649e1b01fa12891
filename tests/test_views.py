"""Views and joins against NumPy; views stay lazy, move no bytes and compute only what they show."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.indexing import index_params
from fusegraph.ops import OPS
from fusegraph.orders import array_order, canonical, order_through

X = np.arange(2 * 3 * 4, dtype=np.float64).reshape(2, 3, 4)

KEYS = (
    0, -1, np.int64(1), ..., None, slice(None), slice(None, None, -1), slice(1, None), slice(5, 9),
    slice(None, 0), slice(-1, -9, -1), (0, 1), (0, 1, 2), (..., 0), (0, ...), (None, 0), (0, None),
    (..., None), (None, ..., None), (slice(None), None, 1),
    (slice(None, None, -1), ..., slice(3, 0, -2)),
    (slice(None), slice(2, 0, -1), slice(0, 4, 3)), (slice(None), -1), (1, slice(None), -2),
    (None, None, 1, None, ..., None), (slice(1, 2), 0, slice(None, None, 2)), (1, 2, 3, ...),
    (slice(-100, 100), slice(100, -100, -1)), (), (..., slice(None, None, -3)),
)  # fmt: skip

VIEWS = {
    "T": lambda m, x: x.T,
    "mT": lambda m, x: x.mT,
    "transpose": lambda m, x: m.transpose(x),
    "transpose axes": lambda m, x: m.transpose(x, (1, 2, 0)),
    "method transpose": lambda m, x: x.transpose(2, 0, 1),
    "permute_dims": lambda m, x: m.permute_dims(x, (1, 0, 2)),
    "swapaxes": lambda m, x: m.swapaxes(x, 0, -1),
    "moveaxis": lambda m, x: m.moveaxis(x, 0, -1),
    "moveaxis several": lambda m, x: m.moveaxis(x, (0, 1), (-1, 0)),
    "moveaxis swapped": lambda m, x: m.moveaxis(x, (2, 0), (0, 1)),
    "reshape": lambda m, x: m.reshape(x, (6, 4)),
    "reshape -1": lambda m, x: m.reshape(x, (3, -1)),
    "method reshape": lambda m, x: x.reshape(4, 3, 2),
    "reshape of transpose": lambda m, x: m.reshape(m.transpose(x), (6, 4)),
    "reshape to itself": lambda m, x: m.reshape(x, (2, 3, 4)),
    "ravel": lambda m, x: m.ravel(x),
    "ravel of transpose": lambda m, x: x.T.ravel(),
    "ravel of slice": lambda m, x: x[:, ::2, 1:].ravel(),
    "expand_dims": lambda m, x: m.expand_dims(x, 1),
    "expand_dims several": lambda m, x: m.expand_dims(x, (0, -1)),
    "squeeze": lambda m, x: m.squeeze(x[:1, :, :1]),
    "squeeze axis": lambda m, x: m.squeeze(x[:1, :, :1], 2),
    "broadcast_to": lambda m, x: m.broadcast_to(x, (5, 2, 3, 4)),
    "broadcast_to of one": lambda m, x: m.broadcast_to(x[:, :1], (2, 7, 4)),
    "flip": lambda m, x: m.flip(x),
    "flip axes": lambda m, x: m.flip(x, (0, 2)),
    "a chain": lambda m, x: m.expand_dims(x[::-1, 1:].T, 0)[0, ::-2].reshape(2, -1)[:, ::-1],
    "transpose of broadcast": lambda m, x: m.broadcast_to(x[0, 0], (3, 4)).T,
    "reshape of broadcast": lambda m, x: m.reshape(m.broadcast_to(x[0, 0], (3, 4)), (4, 3)),
}


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_basic_indexing(key, engine, assert_same):
    expected = X[key]
    assert_same(fg.asarray(X)[key].compute(), expected)
    assert_same((fg.asarray(X) * 2)[key].compute(), expected * 2)
    assert fg.asarray(X)[key].shape == np.shape(expected)


@pytest.mark.parametrize("name", VIEWS)
def test_view_of_an_array(name, engine, assert_same):
    assert_same(VIEWS[name](fg, fg.asarray(X)).compute(), VIEWS[name](np, X))


@pytest.mark.parametrize("name", VIEWS)
def test_view_of_a_value_and_a_value_of_a_view(name, engine, assert_same):
    t = fg.asarray(X)
    expected = VIEWS[name](np, X * 2 - X[:, :1]) + 1
    assert_same((VIEWS[name](fg, t * 2 - t[:, :1]) + 1).compute(), expected)


@pytest.mark.parametrize("name", VIEWS)
def test_view_of_a_value_that_is_needed_twice(name, engine, assert_same):
    t = fg.asarray(X) * 3
    shown, total = fg.compute(VIEWS[name](fg, t), t.sum())
    assert_same(shown, VIEWS[name](np, X * 3))
    assert_same(total, (X * 3).sum())


@pytest.mark.parametrize("name", VIEWS)
def test_numpy_function_over_a_tensor_is_lazy(name, assert_same):
    result = VIEWS[name](np, fg.asarray(X))
    assert isinstance(result, fg.Tensor)
    assert_same(result.compute(), VIEWS[name](np, X))


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_fortran_order(name, engine, assert_same):
    x = np.asfortranarray(X)
    assert_same((VIEWS[name](fg, fg.asarray(x)) + 1).compute(), VIEWS[name](np, x) + 1)


@pytest.mark.parametrize("name", ["T", "expand_dims", "flip", "broadcast_to", "swapaxes"])
def test_views_move_no_bytes(name):
    plan = VIEWS[name](fg, fg.asarray(X)).plan()
    assert len(plan.kernels) == 0
    assert plan.cost.bytes_moved == 0


def test_a_slice_computes_only_what_it_shows():
    x = np.ones(100_000, np.float32)
    plan = fg.exp(fg.asarray(x))[:10].plan()
    assert [k.region.shape for k in plan.kernels] == [(10,)]
    assert plan.cost.bytes_moved == 2 * 10 * 4


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("key", [*KEYS, (slice(1, 3), 0), (0, slice(1, 3)), slice(1, 2)], ids=repr)
def test_a_slice_in_one_piece_has_an_order_in_memory(key, axes):
    x = np.empty((6, 5, 4)).transpose(axes)
    _, taken = index_params(key, x.shape)
    seen = OPS["slice"].function(x, *taken)
    found = order_through("slice", taken, array_order(x), x.shape)
    if seen.size:  # of nothing every order is right
        assert canonical(found, seen.shape) == array_order(seen)


def test_a_slice_in_one_piece_is_reshaped_without_a_copy():
    x = fg.asarray(np.ones((4, 600, 512), np.float32))
    for sliced in (x[1], x[1:3], x[2, 10:500]):
        plan = np.exp(sliced.reshape(-1, 256)).plan()
        assert [k.schedule for k in plan.kernels] == ["flat"]
        assert plan.cost.bytes_read == sliced.nbytes  # one read, no copy
    assert len(np.exp(x[:, 1:3].reshape(-1, 256)).plan().kernels) == 2


def test_empty_views(engine, assert_same):
    x = np.empty((0, 3))
    t = fg.asarray(x)
    assert_same((t + 1).T.compute(), (x + 1).T)
    assert_same((t + 1).reshape(3, 0).compute(), (x + 1).reshape(3, 0))
    assert_same((fg.asarray(X) + 1)[5:].compute(), (X + 1)[5:])


ERRORS = (
    (lambda t: t[5], IndexError, "index 5 is out of range for axis 0 .* it goes from -2 to 1"),
    (lambda t: t[0, 0, 0, 0], IndexError, "more axes than shape .* give at most 3, one"),
    (lambda t: t[..., ...], IndexError, "more axes"),
    (lambda t: t["a"], TypeError, "index of type str"),
    (lambda t: t[1.0], TypeError, "index of type float"),
    (lambda t: t[::0], ValueError, "zero"),
    (lambda t: t.reshape(5, 5), ValueError, r"reshape: float64\[2, 3, 4\] does not fill \[5, 5\]; "),
    (lambda t: t.reshape(-1, -1), ValueError, "reshape: "),
    (lambda t: t.reshape(7, -1), ValueError, "reshape: "),
    (lambda t: fg.reshape(t, (24,), order="F"), ValueError, "reshape: order='F'"),
    (lambda t: fg.permute_dims(t, (0, 1)), ValueError, "permute_dims: "),
    (lambda t: fg.permute_dims(t, (0, 0, 1)), ValueError, "permute_dims: "),
    (lambda t: fg.swapaxes(t, 0, 3), np.exceptions.AxisError, "swapaxes: axis 3"),
    (lambda t: fg.moveaxis(t, (0, 1), 0), ValueError, "moveaxis: "),
    (lambda t: fg.squeeze(t, 0), ValueError, r"squeeze: axis 0 of float64\[2, 3, 4\] has .*; take"),
    (lambda t: fg.expand_dims(t, 4), np.exceptions.AxisError, "expand_dims: "),
    (lambda t: fg.broadcast_to(t, (3, 4)), ValueError, r"broadcast_to: float64\[2, 3, 4\] .*; sizes"),
    (lambda t: fg.broadcast_to(t, (2, 3, 5)), ValueError, "broadcast_to: "),
    (lambda t: fg.flip(t, 3), np.exceptions.AxisError, "flip: "),
    (lambda t: fg.matrix_transpose(t[0, 0]), ValueError, "matrix_transpose: "),
    (lambda t: fg.concat([]), ValueError, "concat: needs at least one array"),
    (lambda t: fg.concat([t, t[0]]), ValueError, r"concat: shapes of float64\[2, 3, 4\], float64\[3"),
    (lambda t: fg.concat([t, t[:, :2]], axis=2), ValueError, "concat: shapes"),
    (lambda t: fg.concat([t, t], axis=3), np.exceptions.AxisError, "concat: "),
    (lambda t: fg.concat([t[0, 0, 0]]), np.exceptions.AxisError, "concat: "),
    (lambda t: fg.stack([t, t[0]]), ValueError, r"stack: shapes of float64\[2, 3, 4\].*; slice"),
    (lambda t: fg.stack([t, t], 9), np.exceptions.AxisError, "stack: axis 9 .* give one of -4 to 3"),
    (lambda t: fg.squeeze(t[0, 0, 0], 1), np.exceptions.AxisError, "squeeze: .*; it has none"),
    (lambda t: fg.stack([]), ValueError, "stack: needs at least one array"),
)  # fmt: skip


@pytest.mark.parametrize("at", range(len(ERRORS)))
def test_errors_name_the_op(at):
    build, kind, text = ERRORS[at]
    with pytest.raises(kind, match=text):
        build(fg.asarray(X))


# --- joins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_concat(axis, engine, assert_same):
    t = fg.asarray(X)
    expected = np.concatenate([X, X * 2, X[::-1]], axis=axis)
    assert_same(fg.concat([t, t * 2, t[::-1]], axis).compute(), expected)
    lazy = np.concatenate([t, X * 2, t[::-1]], axis=axis)
    assert isinstance(lazy, fg.Tensor)
    assert_same(lazy.compute(), expected)


@pytest.mark.parametrize("axis", [0, 1, 3, -1, -4])
def test_stack(axis, engine, assert_same):
    t = fg.asarray(X)
    assert_same(fg.stack([t, t + 1], axis).compute(), np.stack([X, X + 1], axis))


@pytest.mark.parametrize("first", ["?", "i2", "u8", "f4", "c8"])
@pytest.mark.parametrize("second", ["?", "i8", "f2", "f8"])
def test_concat_promotes(first, second, assert_same):
    a, b = np.ones(3, first), np.full(2, 2).astype(second)
    assert_same(fg.concat([fg.asarray(a), b]).compute(), np.concatenate([a, b]))


def test_join_of_empty_and_of_one(assert_same):
    empty = np.empty((0, 4))
    assert_same(fg.concat([empty, X[0]]).compute(), np.concatenate([empty, X[0]]))
    assert_same(fg.concat([fg.asarray(X) * 2]).compute(), X * 2)
    assert_same(fg.stack([fg.asarray(2.0), 3.0]).compute(), np.stack([2.0, 3.0]))


def test_join_then_slice_and_reduce(engine, assert_same):
    t = fg.asarray(X)
    joined = fg.concat([t, t + 1], axis=1)
    assert_same((joined[:, ::2] * 2).compute(), np.concatenate([X, X + 1], axis=1)[:, ::2] * 2)
    assert_same(joined.sum(axis=1).compute(), np.concatenate([X, X + 1], axis=1).sum(axis=1))


def test_copies_that_no_plan_can_avoid_count_before_and_after():
    x = fg.asarray(np.ones((20, 30)))
    t = x.T.reshape(20, 30) * 2
    assert t.plan().traffic.before.bytes_moved == t.plan(fuse=False).cost.bytes_moved
    made = fg.full((3,), 2.0).plan()
    assert made.traffic.before.bytes_moved == made.cost.bytes_moved == 24


@pytest.mark.parametrize(
    "call",
    [
        lambda t: np.clip(t, a_min=2, a_max=5),
        lambda t: np.clip(t, min=None, max=5),
        lambda t: np.transpose(t, axes=(1, 0)),
        lambda t: np.transpose(t, None),
        lambda t: np.reshape(t, shape=(-1,)),
        lambda t: np.ravel(t, order="C"),
        lambda t: t.transpose((1, 0)),
        lambda t: t.transpose(1, 0),
        lambda t: t.reshape(-1, 1),
        lambda t: t.copy(),
        lambda t: t.flatten(),
    ],
)
def test_arguments_have_numpys_names(call, assert_same):
    x = np.arange(8.0).reshape(2, 4)
    assert_same(call(fg.asarray(x)).compute(), call(x))


def test_a_shape_is_given_once(assert_same):
    x = np.arange(8.0)
    assert_same(fg.reshape(x, shape=(2, 4)).compute(), x.reshape(2, 4))
    for wrong in ((), ((2, 4), {"shape": (2, 4)})):
        with pytest.raises(TypeError, match=r"^reshape: give the shape once, as in"):
            fg.reshape(x, *wrong[:1], **(wrong[1] if wrong else {}))


def test_methods_show_what_they_take():
    signature = inspect.signature(fg.Tensor.softmax)
    assert list(signature.parameters) == ["x", "axis"]


def test_broadcast_arrays_and_unstack(assert_same):
    x, y = np.arange(3.0).reshape(3, 1), np.arange(4)
    for function in (fg.broadcast_arrays, np.broadcast_arrays):
        for got, expected in zip(
            function(fg.asarray(x), y, 2.0), np.broadcast_arrays(x, y, 2.0), strict=True
        ):
            assert isinstance(got, fg.Tensor)
            assert_same(got.compute(), np.array(expected))
    with pytest.raises(ValueError, match=r"broadcast_arrays: .* do not broadcast: sizes 3 and 4"):
        fg.broadcast_arrays(np.ones(3), np.ones(4))
    z = np.arange(24).reshape(2, 3, 4)
    for axis in (0, 1, -1):
        parts = fg.unstack(z, axis=axis)
        assert_same(fg.stack(parts, axis=axis).compute(), z)


@pytest.mark.parametrize("axes", [33, 63])
def test_as_many_axes_as_numpy_has(axes, assert_same):
    """NumPy's function for common shapes stops at 32."""
    x = np.full((1,) * axes, 3.0)
    t = fg.asarray(x)
    assert_same((t * 2).mean(axis=0).compute(), (x * 2).mean(axis=0))
    assert_same((t * 2 + t.T).sum().compute(), np.asarray((x * 2 + x.T).sum()))
    assert_same(t[..., None].compute(), x[..., None])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fg.broadcast_to(np.ones(1), (-1,)), "broadcast_to"),
        (lambda: fg.zeros((1,) * 65), "zeros: 65 axes; an array has at most 64"),
        (lambda: fg.ones((1,) * 60)[(None,) * 5], "65 axes"),
        (lambda: fg.broadcast_to(1, (2**63,)), "broadcast_to: .* has more elements"),
        (lambda: fg.zeros((2**40, 1)) + fg.zeros((2**30,)), "add: .* has more elements"),
    ],
)
def test_shapes_that_no_array_has(build, message):
    with pytest.raises(ValueError, match=message):
        build()
