"""Reductions against NumPy: values bit for bit, dtypes, shapes, empty axes, NaN."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.ops import DTYPES, REDUCTIONS

pytestmark = pytest.mark.options(engine="numpy")

AXES = (None, 0, 1, 2, -1, (0, 1), (0, 2), (-1, 0), (2, 1, 0), ())
ARG = ("argmax", "argmin")
STATISTICS = ("mean", "var", "std")


def sample(dtype, shape=(5, 4, 6), seed=1):
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        return rng.integers(0 if dtype.kind == "u" else -60, 100, shape).astype(dtype)
    x = rng.normal(size=shape)
    return (x + 1j * rng.normal(size=shape) if dtype.kind == "c" else x).astype(dtype)


def reference(name, *args, **keywords):
    with np.errstate(all="ignore"):
        return getattr(np, name)(*args, **keywords)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [op.name for op in REDUCTIONS])
def test_reduction_equals_numpy(name, dtype, assert_same):
    x = sample(dtype)
    axes = (None, 0, 1, -1) if name in ARG else AXES
    for axis in axes:
        for keepdims in (False, True):
            expected = reference(name, x, axis=axis, keepdims=keepdims)
            result = getattr(fg, name)(fg.asarray(x), axis=axis, keepdims=keepdims)
            assert (result.shape, result.dtype) == (np.shape(expected), expected.dtype)
            assert_same(result.compute(), expected, f"{name} {dtype} {axis} {keepdims}")


@pytest.mark.parametrize("name", [op.name for op in REDUCTIONS])
def test_methods_and_numpy_functions_are_lazy(name, assert_same):
    x = sample(np.dtype("f8"))
    for result in (
        getattr(fg.asarray(x), name)(axis=1),
        getattr(np, name)(fg.asarray(x), axis=1),
    ):
        assert isinstance(result, fg.Tensor)
        assert_same(result.compute(), reference(name, x, axis=1))


@pytest.mark.parametrize("name", ["sum", "prod"])
@pytest.mark.parametrize("wanted", ["f4", "f8", "i8", "c16"])
def test_dtype_of_the_sum(name, wanted, assert_same):
    for dtype in map(np.dtype, ("?", "i1", "u4", "f2", "f4")):
        x = sample(dtype)
        expected = reference(name, x, axis=0, dtype=wanted)
        assert_same(getattr(fg, name)(fg.asarray(x), axis=0, dtype=wanted).compute(), expected)


@pytest.mark.parametrize("engine", ["auto", "numpy", "llvm"])
@pytest.mark.parametrize("rows", [5, 17, 40, 700])
@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [("f8", "i8"), ("f4", "i8"), ("f2", "i4"), ("u8", "i8"), ("i8", "u1"), ("i8", "?"),
     ("f8", "f4"), ("i4", "f4"), ("?", "i2"), ("f4", "c16")],
)  # fmt: skip
def test_what_is_fused_into_a_sum_is_cast_before_it_is_added(
    dtype, wanted, rows, engine, assert_same
):
    """Rows were added in the dtype that they had: 1.5 and 1.5 to integers were 3, not 2."""
    x = (np.arange(rows * 3) % 7 + 0.75).astype(dtype).reshape(rows, 3)
    if dtype == "u8":
        x += np.uint64(2**54)
    doubled, expected = fg.asarray(x) + x, x + x
    for name in ("sum", "mean", "var"):
        with np.errstate(all="ignore"):
            reference = np.asarray(getattr(np, name)(expected, axis=0, dtype=wanted))
        got = getattr(fg, name)(doubled, axis=0, dtype=wanted).compute(engine=engine)
        if np.dtype(wanted).kind in "fc" and engine != "numpy":
            np.testing.assert_allclose(got, reference, rtol=1e-5, strict=True)
        else:
            assert_same(got, reference, name)


@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.maximum, np.minimum])
def test_reduce_of_a_ufunc_is_lazy(ufunc, assert_same):
    x = sample(np.dtype("f8"))
    result = ufunc.reduce(fg.asarray(x))
    assert isinstance(result, fg.Tensor)
    assert_same(result.compute(), ufunc.reduce(x))
    assert_same(ufunc.reduce(fg.asarray(x), axis=(0, 2)).compute(), ufunc.reduce(x, axis=(0, 2)))


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_statistics_equal_numpy(name, dtype, assert_same):
    x = sample(dtype)
    for axis in (None, 0, -1, (0, 2)):
        for keepdims in (False, True):
            expected = reference(name, x, axis=axis, keepdims=keepdims)
            result = getattr(fg, name)(fg.asarray(x), axis=axis, keepdims=keepdims)
            assert result.dtype == expected.dtype
            assert_same(result.compute(), expected, f"{name} {dtype} {axis} {keepdims}")


@pytest.mark.filterwarnings("ignore:Degrees of freedom")  # NumPy's: five of five rows
@pytest.mark.parametrize("name", ["var", "std"])
@pytest.mark.parametrize("correction", [0, 1, 2, 1.5, 5])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "c16"])
def test_correction(name, correction, dtype, assert_same):
    x = sample(np.dtype(dtype))
    expected = reference(name, x, axis=0, ddof=correction)
    assert_same(getattr(fg, name)(fg.asarray(x), axis=0, ddof=correction).compute(), expected)
    result = getattr(fg, name)(fg.asarray(x), axis=0, correction=correction)
    assert_same(result.compute(), expected)


@pytest.mark.parametrize("name", ["var", "std"])
def test_two_names_of_one_number_are_not_both_given(name):
    for call in (getattr(fg, name), getattr(np, name)):
        with pytest.raises(ValueError, match=rf"{name}: ddof=2 and correction=0 .*; give one"):
            call(fg.asarray(np.arange(4.0)), correction=0, ddof=2)
    with pytest.raises(ValueError, match="ddof"):
        getattr(fg.asarray(np.arange(4.0)), name)(correction=1, ddof=1)


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("wanted", ["?", "i4", "i8", "f2", "f4", "f8", "c8", "c16"])
def test_statistics_in_another_dtype(name, wanted, assert_same):
    for dtype in ("?", "i1", "u4", "f2", "f4", "f8", "c8", "c16"):
        x = (np.arange(24) % 5 + 0.3).astype(dtype).reshape(4, 6)
        x = (x * (1 + 0.5j)).astype(dtype) if x.dtype.kind == "c" else x
        for axis in (None, 1):
            try:
                with np.errstate(all="ignore"):
                    expected = np.asarray(getattr(np, name)(x, axis=axis, dtype=wanted))
            except TypeError:  # square roots into an array of integers; differences of bools
                with pytest.raises(TypeError, match=r"std: dtype=.* cannot|subtract: .* no loop"):
                    getattr(fg, name)(fg.asarray(x), axis=axis, dtype=wanted)
            else:
                got = getattr(fg, name)(fg.asarray(x), axis=axis, dtype=wanted)
                assert_same(got.compute(engine="numpy"), expected, f"{dtype} {axis}")


@pytest.mark.parametrize("name", [op.name for op in REDUCTIONS] + ["mean", "var"])
@pytest.mark.parametrize("at", [0, 3, 16, 99])
def test_nan_propagates(name, at, assert_same):
    x = np.linspace(-3, 3, 100)
    x[at] = np.nan
    assert_same(getattr(fg, name)(fg.asarray(x)).compute(), reference(name, x))
    grid = x.reshape(10, 10)
    result = getattr(fg, name)(fg.asarray(grid), axis=0)
    assert_same(result.compute(), reference(name, grid, axis=0))


@pytest.mark.parametrize("name", [op.name for op in REDUCTIONS])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (2, 0, 4)])
def test_empty(name, shape, assert_same):
    x = np.empty(shape)
    for axis in (None, *range(len(shape))):
        try:
            expected = reference(name, x, axis=axis)
        except ValueError:
            with pytest.raises(ValueError, match=f"^{name}: .*empty"):
                getattr(fg, name)(fg.asarray(x), axis=axis)
        else:
            assert_same(getattr(fg, name)(fg.asarray(x), axis=axis).compute(), expected)


@pytest.mark.parametrize("name", [*(op.name for op in REDUCTIONS), *STATISTICS])
@pytest.mark.parametrize("value", [2.5, -7, True, float("nan")])
def test_zero_dimensions(name, value, assert_same):
    assert_same(getattr(fg, name)(fg.asarray(value)).compute(), reference(name, np.asarray(value)))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom")
@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_nothing_are_nan(name, assert_same):
    x = np.empty((0, 3))
    assert_same(getattr(fg, name)(fg.asarray(x), axis=0).compute(), reference(name, x, axis=0))


@pytest.mark.parametrize("name", [op.name for op in REDUCTIONS])
@pytest.mark.parametrize("axis", [3, -4, 1.5, "0"])
def test_axis_errors_name_the_op(name, axis):
    kind = np.exceptions.AxisError if isinstance(axis, int) else TypeError
    with pytest.raises(kind, match=f"^{name}: "):
        getattr(fg, name)(fg.ones((2, 3, 4)), axis=axis)


ROWS = ("softmax", "log_softmax", "logsumexp", "layer_norm", "rms_norm", *STATISTICS)


@pytest.mark.parametrize("name", ROWS)
def test_axis_errors_name_what_was_called(name):
    function = getattr(fg, name)
    text = rf"^{name}: axis 7 is out of range for float64\[2, 3\]; give one of -2 to 1$"
    with pytest.raises(np.exceptions.AxisError, match=text):
        function(fg.ones((2, 3)), axis=7)
    with pytest.raises(
        np.exceptions.AxisError, match=rf"^{name}: .* float64\[\]; it has none; add"
    ):
        function(fg.asarray(2.0), axis=-1)
    with pytest.raises(TypeError, match=rf"^{name}: axis 'a' is no integer"):
        function(fg.ones((2, 3)), axis="a")
    with pytest.raises(ValueError, match=rf"^{name}: an axis stands twice in \(0, 0\) for float64"):
        function(fg.ones((2, 3)), axis=(0, 0))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_empty_rows_name_what_was_called(name):
    with pytest.raises(ValueError, match=rf"^{name}: axes \[1\] of float64\[2, 0\] are empty"):
        getattr(fg, name)(fg.ones((2, 0)), axis=1)


def test_an_axis_named_twice_is_an_error():
    with pytest.raises(ValueError, match=r"^sum: an axis stands twice"):
        fg.sum(fg.ones((2, 3)), axis=(0, -2))


def test_arg_reductions_take_one_axis():
    with pytest.raises(TypeError, match=r"^argmax: "):
        fg.argmax(fg.ones((2, 3)), axis=(0, 1))


def test_sums_are_at_least_as_accurate_as_pairwise_ones():
    """A naive float32 sum of these was 8.8 % off."""
    x = np.full(10_000_000, 0.1, np.float32)
    np.testing.assert_allclose(fg.sum(fg.asarray(x)).compute(), 1e6, rtol=1e-6)


@pytest.mark.parametrize("engine_name", ["auto", "numpy", "numexpr"])
def test_reductions_of_fused_values(engine_name):
    x = sample(np.dtype("f8"), (300, 40))
    y = x * 2 + 1
    with fg.options(engine=engine_name):
        result = (fg.asarray(x) * 2 + 1).sum(axis=0).compute()
    if engine_name == "numpy":
        np.testing.assert_array_equal(result, y.sum(axis=0))
    # NumPy adds the rows one after the other: its own error is up to len(x) roundings of the total
    bound = len(x) * np.finfo(float).eps * np.abs(y).sum(axis=0)
    assert (np.abs(result - y.sum(axis=0)) <= bound).all()


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_and_relatives(axis):
    x = np.random.default_rng(3).normal(size=(6, 9)) * 50
    shifted = x - x.max(axis=axis, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=axis, keepdims=True)
    t = fg.asarray(x)
    np.testing.assert_array_equal(fg.softmax(t, axis).compute(), e / total)
    np.testing.assert_array_equal(fg.log_softmax(t, axis).compute(), shifted - np.log(total))
    np.testing.assert_allclose(
        fg.logsumexp(t, axis).compute(), np.logaddexp.reduce(x, axis=axis), rtol=1e-14
    )


def test_logsumexp_of_infinities():
    x = np.array([[-np.inf, -np.inf], [np.inf, 1.0], [-np.inf, 2.0]])
    np.testing.assert_array_equal(
        fg.logsumexp(fg.asarray(x), axis=1).compute(), [-np.inf, np.inf, 2.0]
    )


@pytest.mark.parametrize("axis", [-1, (1, 2)])
def test_norms(axis):
    x = np.random.default_rng(4).normal(size=(3, 5, 7)).astype(np.float32)
    w = np.linspace(0.5, 2, 7, dtype=np.float32)
    mean = x.mean(axis=axis, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=axis, keepdims=True)
    t = fg.asarray(x)
    np.testing.assert_allclose(
        fg.layer_norm(t, w, w, axis=axis).compute(), (x - mean) / np.sqrt(var + 1e-5) * w + w,
        rtol=2e-6, atol=2e-6,
    )  # fmt: skip
    np.testing.assert_allclose(
        fg.rms_norm(t, w, axis=axis).compute(),
        x / np.sqrt((x * x).mean(axis=axis, keepdims=True) + 1e-5) * w,
        rtol=2e-6,
    )


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "middle first": lambda x: np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2),
    "Fortran with gaps": lambda x: np.asfortranarray(np.repeat(x, 2, axis=0))[::2],
    "reversed": lambda x: np.asfortranarray(x[::-1])[::-1],
    "broadcast": lambda x: np.broadcast_to(np.asfortranarray(x[:, :1]), x.shape),
}
SUMS = {
    "sum of": lambda xp, x, axis: xp.sum(x, axis=axis),
    "sum of a product": lambda xp, x, axis: xp.sum(x * 2.5, axis=axis),
    "mean of a sum": lambda xp, x, axis: xp.mean(x + 1.5, axis=axis),
    "std": lambda xp, x, axis: xp.std(x, axis=axis),
    "normalised": lambda xp, x, axis: x / xp.sum(xp.abs(x), axis=axis, keepdims=True),
}


@pytest.mark.parametrize(
    "changes", [{"engine": "numpy"}, {"exact": True}, {"fuse": False}], ids=str
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SUMS)
def test_sums_keep_numpys_order_in_every_layout(name, layout, changes, assert_same):
    """NumPy adds along the memory: C order is not the order of every sum."""
    options = {} if "exact" in changes else {"engine": "numpy", **changes}
    for dtype, axis in itertools.product(("f4", "f8", "c8"), (0, 1, 2, (1, 2), (0, 2), None)):
        x = LAYOUTS[layout](sample(np.dtype(dtype), (40, 31, 50)))
        expected = SUMS[name](np, x, axis)
        found = SUMS[name](fg, fg.asarray(x), axis).compute(**{**options, **changes})
        assert_same(found, expected, f"{name} {layout} {dtype} {axis}")


@pytest.mark.parametrize("one", LAYOUTS)
@pytest.mark.parametrize("other", LAYOUTS)
def test_values_lie_as_numpys_do(one, other, assert_same):
    """Axes by distance in memory: sums of what is computed follow it."""
    x = sample(np.dtype("f8"), (7, 5, 6))
    a, b = LAYOUTS[one](x), LAYOUTS[other](x)
    for f in (
        lambda a, b: a + b,
        lambda a, b: a * 2,
        lambda a, b: b[:, :1] - a,
        lambda a, b: a + b[0],
    ):
        expected = f(a, b)
        for fuse in (True, False):
            found = f(fg.asarray(a), fg.asarray(b)).compute(fuse=fuse)
            assert_same(found, expected)
            assert found.strides == expected.strides
    expected = (a * 1.5 + b).sum(axis=1)
    assert_same((fg.asarray(a) * 1.5 + fg.asarray(b)).sum(axis=1).compute(), expected)


@pytest.mark.parametrize("engine_name", ["auto", *ELEMENTWISE_ENGINES])
@pytest.mark.parametrize("shape", [(1,), (3,), (1, 4), (5, 4), (2, 1, 3)])
def test_reductions_beside_values_of_no_elements(shape, engine_name):
    """A kernel has work to do when any of its results has elements."""
    array = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)

    def results(xp, x):
        none = xp.max(x, axis=0, keepdims=True) + x[:0]
        narrow = xp.sum(xp.exp(x[..., :0]), axis=-1, keepdims=True)
        return none, xp.sum(none), xp.any(none), xp.sum(none, axis=0), narrow, x[..., :0] / narrow

    expected = results(np, array)
    found = fg.compute(*results(fg, fg.asarray(array)), engine=engine_name)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("engine_name", ["auto", *ELEMENTWISE_ENGINES])
def test_negative_zeros_add_up_to_zero(engine_name, assert_same):
    for dtype in ("f4", "f8"):
        for width in (1, 2, 7, 8, 16, 20, 32, 33, 64, 300):
            x = np.full((3, width), -0.0, dtype)
            for axis in (0, 1, None):
                found = fg.sum(fg.asarray(x), axis=axis).compute(engine=engine_name)
                assert_same(found, x.sum(axis=axis), f"{dtype} {width} {axis}")


def test_places_lie_in_c_order_and_axes_of_one_element_anywhere(assert_same):
    x = np.asfortranarray(sample(np.dtype("f8"), (40, 30, 20)))
    found = (fg.argmax(fg.asarray(x), axis=0) * 0.1).sum(axis=0).compute(engine="numpy")
    assert_same(found, (np.argmax(x, axis=0) * 0.1).sum(axis=0))
    for shape in ((640, 300, 1), (1, 640, 300), (640, 1, 300)):
        y = np.asfortranarray(sample(np.dtype("f8"), shape))
        t = fg.asarray(y) * 2 + 1
        (kernel,) = t.plan(engine="numpy").kernels
        assert kernel.schedule == "flat"
        out = np.empty_like(y)
        assert_same(t.compute(out=out, engine="numpy"), y * 2 + 1)


def test_where_bits_are_promised_operands_with_gaps_still_share_the_pass(assert_same):
    x = sample(np.dtype("f8"), (300, 2000))
    for changes in ({"engine": "numpy"}, {"exact": True}):
        t = (fg.asarray(x)[:, ::2] * 2).sum(axis=1)
        assert len(t.plan(**changes).kernels) == 1
        assert_same(t.compute(**changes), (x[:, ::2] * 2).sum(axis=1))
