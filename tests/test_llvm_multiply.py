"""Products in panels as machine code: within the bound of a dot product, any layout, any shape."""

from __future__ import annotations

import numpy as np
import pytest

import fusegraph as fg

pytest.importorskip("llvmlite")

from fusegraph.engines.llvm import multiply
from fusegraph.engines.llvm.multiply import Product
from fusegraph.engines.llvm.product_code import INNER, SECTION

SHAPES = [
    (1, 1, 1), (3, 5, 7), (8, 64, 48), (9, 65, 64), (17, 300, 100), (31, INNER, 33), (8, INNER + 1, 16),
    (5, SECTION + 3, 20), (40, 2 * SECTION, 113), (128, 64, 500), (7, 600, 15), (2, 3, 1000),
]  # fmt: skip


def matrices(rows, inner, columns, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(s).astype(dtype) for s in ((rows, inner), (inner, columns)))


def check(got, a, b):
    """Each element within ``n`` roundings of the dot product (Higham, section 3.1)."""
    wide = np.longdouble if a.dtype == np.float64 else np.float64
    exact = a.astype(wide) @ b.astype(wide)
    bound = a.shape[-1] * np.finfo(a.dtype).eps * (abs(a).astype(wide) @ abs(b).astype(wide))
    assert got.dtype == a.dtype
    assert (abs(got - exact) <= bound).all()


@pytest.mark.parametrize("dtype", multiply.DTYPES)
@pytest.mark.parametrize(("rows", "inner", "columns"), SHAPES)
def test_products_of_any_shape_and_layout(rows, inner, columns, dtype):
    a, b = matrices(rows, inner, columns, dtype)
    wide = np.zeros((2 * rows, inner + 5), dtype)
    wide[::2, :inner] = a
    for left in (a, np.asfortranarray(a), wide[::2, :inner]):
        rights = b, np.asfortranarray(b), np.ascontiguousarray(b[::-1])[::-1]
        for right in (*rights, np.repeat(b, 2, axis=1)[:, ::2]):
            for packed in (True, False):
                product = Product(a.dtype, columns, inner, packed)
                out = np.full((rows, columns + 3), np.nan, dtype)
                product(left, product.pack(right, 1) if packed else right, out=out[:, :columns])
                check(out[:, :columns], a, b)
                assert np.isnan(out[:, columns:]).all()  # nothing is written beside the result


def test_long_inner_axes_are_added_block_by_block():
    """One after the other 131,072 elements were 17,000 roundings off, and are 59."""
    inner = 1 << 17
    a, b = np.ones((8, inner), "f4"), np.full((inner, 16), 0.1, "f4")
    product, out = Product(a.dtype, 16, inner, True), np.empty((8, 16), "f4")
    product(a, product.pack(b, 1), out=out)
    exact = inner * float(b[0, 0])
    roundings = INNER + -(-inner // INNER)
    assert (abs(out - exact) <= roundings * np.finfo("f4").eps / 2 * exact).all()


@pytest.mark.parametrize("columns", [48, 64, 112, 113, 160, 300, 7 * 16, 1000])
def test_several_threads_pack_the_same_strips(columns, monkeypatch):
    monkeypatch.setattr(multiply, "SHARED_BYTES", 1)
    for dtype in multiply.DTYPES:
        _, b = matrices(1, 70, columns, dtype)
        product = Product(b.dtype, columns, 70, True)
        alone = product.pack(b, 1).copy()
        written = product.packed_elements
        for threads in (2, 3, 5):
            shared = product.pack(b, threads)
            out, expected = (np.empty((1, columns), dtype) for _ in range(2))
            a = np.ones((1, 70), dtype)
            product(a, shared, out=out)
            product(a, alone, out=expected)
            np.testing.assert_array_equal(out, expected)
            assert len(shared) == len(alone) == written


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3, 4, 5), (2, 2, 3, 5, 6)),
        ((2, 3, 20, 16), (2, 3, 16, 21)),
        ((5, 4, 6), (6, 7)),
        ((2, 3, 4, 5), (3, 5, 6)),
        ((4, 2, 3), (1, 3, 9)),
    ],
    ids=str,
)
def test_batches_and_broadcast_right_sides(left, right):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s) for s in (left, right))
    expected = a @ b
    out = np.empty_like(expected)
    Product(a.dtype, right[-1], right[-2], False)(a, b, out=out)
    np.testing.assert_allclose(out, expected, rtol=1e-13, atol=1e-13)
    turned = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
    Product(a.dtype, right[-1], right[-2], False)(a, turned, out=out)
    np.testing.assert_allclose(out, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 5, 6), (5, 0, 6), (5, 6, 0)], ids=str)
def test_empty_sides(shape, assert_same):
    """Once a write behind an array of no bytes."""
    rows, inner, columns = shape
    a, b = np.ones((rows, inner), "f4"), np.ones((inner, columns), "f4")
    out = np.full((rows, columns), 9, "f4")
    product = Product(a.dtype, columns, inner, True)
    product(a, product.pack(b, 2), out=out)
    assert_same(out, a @ b)
    wide = np.ones((300, inner), "f4") if not rows else a
    t = fg.exp(fg.asarray(wide) @ fg.asarray(b))
    assert_same(t.compute(engine="llvm"), np.exp(wide @ b))


def test_a_result_depends_on_its_own_row_alone(assert_same):
    """So neither on the height of a panel nor on threads."""
    a, b = matrices(37, 400, 90, "f4")
    product = Product(a.dtype, 90, 400, True)
    packed = product.pack(b, 1)
    whole, row = np.empty((37, 90), "f4"), np.empty((1, 90), "f4")
    product(a, packed, out=whole)
    for at in range(37):
        product(a[at : at + 1], packed, out=row)
        assert_same(row[0], whole[at])


def test_a_processor_without_vectors_multiplies_by_blas(monkeypatch):
    monkeypatch.setattr(multiply, "blocking", lambda itemsize: None)
    multiply._calls.cache_clear()
    try:
        a, b = matrices(9, 30, 11, "f4")
        product = Product(a.dtype, 11, 30, True)
        out = np.empty((9, 11), "f4")
        assert product.pack(b, 1) is b
        product(a, b, out=out)
        np.testing.assert_array_equal(out, a @ b)
    finally:
        multiply._calls.cache_clear()


def attention(q, k, v):
    return fg.softmax(q @ fg.matrix_transpose(k) * 0.125) @ v


def linear_attention(q, k, v):
    return (q @ fg.matrix_transpose(k)) @ v * 2


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "f2"])
@pytest.mark.parametrize("shape", [(700, 64), (2, 3, 200, 32)], ids=str)
def test_attention_is_one_kernel_whatever_multiplies(shape, dtype):
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    tensors = [fg.asarray(x) for x in (q, k, v)]
    t = linear_attention(*tensors) if dtype == "c8" else attention(*tensors)
    plans = [t.plan(engine="llvm", threads=n) for n in (1, 2, 3)]
    results = [plan.run()[0] for plan in plans]
    kernels = plans[0].kernels
    if dtype in ("f4", "f8"):
        (kernel,) = kernels
        assert len(kernel.body.products) == 2
        assert not kernel.body.uses_blas
    expected = t.compute(engine="numpy")
    scale = np.abs(expected).max()
    tolerance = {"f4": 1e-5, "f8": 1e-13, "c8": 1e-5, "f2": 2e-2}[dtype]
    for result in results:
        np.testing.assert_array_equal(result, results[0])
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * scale)


def test_operands_of_two_dtypes_stay_with_numpy():
    a = fg.asarray(np.ones((300, 40), "f4"))
    w = fg.asarray(np.ones((40, 30), "f8"))
    t = fg.relu(a @ w)
    plan = t.plan(engine="llvm")
    assert not any(getattr(k.body, "products", None) for k in plan.kernels)
    np.testing.assert_array_equal(plan.run()[0], np.full((300, 30), 40.0))


# --- products that are kernels by themselves ------------------------------------------------------


def product(a, b):
    return a @ b


LEFTS = {"one": (300, 200), "stack": (3, 100, 200), "wide": (40, 200)}


@pytest.mark.parametrize("left", LEFTS.values(), ids=LEFTS)
@pytest.mark.parametrize("dtype", multiply.DTYPES)
def test_a_product_alone_is_compiled_and_the_same_on_any_threads(left, dtype, assert_same):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in (left, (200, 701)))
    wide = np.repeat(b, 2, axis=1)
    for right in (b, np.asfortranarray(b), wide[:, ::2], b[::-1][::-1]):
        calls = [fg.jit(product, engine="llvm", threads=n) for n in (1, 2, 3)]
        (kernel,) = calls[1].plan(a, right).kernels
        assert (kernel.engine, kernel.schedule, kernel.threads) == ("llvm", "panels", 2)
        results = [call(a, right) for call in calls for _ in range(3)]
        check(results[0], a, right)
        for result in results[1:]:
            assert_same(result, results[0])
        assert_same((fg.asarray(a) @ fg.asarray(right)).compute(engine="llvm"), results[0])


def test_a_product_alone_is_a_direct_call():
    a, b = matrices(300, 200, 400, "f4")
    f = fg.jit(product, engine="llvm")
    for _ in range(3):
        check(f(a, b), a, b)
    ((_, direct),) = f._direct[1]
    assert direct.calls >= 1
    check(f(np.asfortranarray(a), b), a, b)  # which the direct call does not take


def test_a_product_alone_begins_with_blas_and_goes_on_compiled(assert_same):
    a, b = matrices(1024, 1024, 1024, "f4")
    f = fg.jit(product, engine="auto")
    (kernel,) = f.plan(a, b).kernels
    assert (kernel.engine, kernel.schedule) == ("blas", "whole")
    later = kernel.tier.kernel
    assert (later.engine, later.schedule) == ("llvm", "panels")
    assert later.seconds < kernel.seconds
    assert kernel.tier.call > 1
    assert later.scratch_bytes >= b.nbytes  # the right side, packed
    exact = fg.jit(product, engine="auto", exact=True)
    assert exact.plan(a, b).kernels[0].tier is None
    assert_same(exact(a, b), a @ b)


UNSUITED = {
    "few multiply-adds": lambda: (np.ones((64, 64), "f4"), np.ones((64, 64), "f4")),
    "a right side each": lambda: (np.ones((4, 300, 300), "f4"), np.ones((4, 300, 300), "f4")),
    "integers": lambda: (np.ones((300, 300), "i4"), np.ones((300, 300), "i4")),
    "two dtypes": lambda: (np.ones((300, 300), "f4"), np.ones((300, 300), "f8")),
    "complex numbers": lambda: (np.ones((300, 300), "c8"), np.ones((300, 300), "c8")),
    "a turned left side": lambda: (np.ones((300, 300), "f4").T, np.ones((300, 300), "f4")),
    "a vector": lambda: (np.ones(5000, "f4"), np.ones((5000, 1000), "f4")),
}


@pytest.mark.parametrize("arrays", UNSUITED.values(), ids=UNSUITED)
def test_products_that_stay_with_blas(arrays, assert_same):
    a, b = arrays()
    f = fg.jit(product, engine="llvm")
    (kernel,) = f.plan(a, b).kernels
    assert kernel.engine in ("blas", "numpy", "tiles")
    assert kernel.tier is None
    assert_same(f(a, b), a @ b)


def test_a_matrix_times_itself_and_one_that_is_not_aligned():
    (a, _) = matrices(300, 300, 1, "f4")
    odd = np.frombuffer(b"0" + a.tobytes(), np.uint8)[1:].view("f4").reshape(a.shape)
    assert not odd.flags.aligned
    for x in (a, odd):
        f = fg.jit(lambda x: x @ x, engine="llvm")
        assert f.plan(x).kernels[0].engine == "llvm"
        check(f(x), a, a)
        check((fg.asarray(x) @ fg.asarray(a)).compute(engine="llvm"), a, a)


def test_a_product_alone_stays_with_blas_where_the_processor_has_no_vectors(monkeypatch):
    monkeypatch.setattr(multiply, "blocking", lambda itemsize: None)
    a, b = matrices(300, 200, 400, "f4")
    (kernel,) = fg.jit(product, engine="llvm").plan(a, b).kernels
    assert (kernel.engine, kernel.schedule) == ("blas", "whole")
