"""The llvm engine: NumPy's results in any layout, from any thread, with nothing between operations."""

from __future__ import annotations

import itertools
import re
import threading

import numpy as np
import pytest

import fusegraph as fg

pytest.importorskip("llvmlite")

from fusegraph.engines.base import Extent, Region
from fusegraph.engines.llvm import compiler, elementwise_body, headers, vecmath
from fusegraph.engines.llvm.codegen import generate, refusal
from fusegraph.engines.llvm.elementwise_body import ElementwiseBody, ImitatingBody
from fusegraph.engines.llvm.engine import MAX_OPERANDS, LlvmEngine
from fusegraph.engines.llvm.halves import half_definitions
from fusegraph.engines.llvm.strided import SMALL_ROW
from fusegraph.engines.llvm.values import ARM
from fusegraph.graph import const, make, placeholder
from fusegraph.ops import DTYPES, ELEMENTWISE, OPS, resolve
from fusegraph.vecmath_check.subjects import subjects, value_text

pytestmark = pytest.mark.options(engine="llvm")

ENGINE = LlvmEngine()
SIZE = 1021  # vectors and a tail


def region_of(function, *arrays):
    """The region that ``function`` traces over placeholders, and the arrays."""
    leaves = [placeholder(n, a.shape, a.dtype, None) for n, a in enumerate(arrays)]
    nodes = []

    def apply(name, *operands):
        dtypes = tuple(o.dtype for o in operands)
        result = resolve(name, dtypes)[1]
        shape = np.broadcast_shapes(*(o.shape for o in operands))
        nodes.append(make(OPS[name], operands, (), shape, result))
        return nodes[-1]

    outputs = function(apply, *leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    unique = tuple(dict.fromkeys(nodes))
    return Region(unique, tuple(leaves), outputs, outputs[0].shape)


def run(function, *arrays, body=ElementwiseBody):
    region = region_of(function, *arrays)
    results = [np.empty(o.shape, o.dtype) for o in region.outputs]
    body(region).run(arrays, results, 1)
    return results[0] if len(results) == 1 else results


def reference(function, *arguments):
    with np.errstate(all="ignore"):
        return function(*arguments)


def f32(value):
    return const(value, np.dtype("f4"))


# --- arithmetic is the user's, operation by operation ---------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_product_and_a_sum_round_twice(dtype, assert_same):
    """A fused multiply-add would give another last bit in a quarter of these."""
    rng = np.random.default_rng(0)
    x, y, z = (rng.standard_normal(SIZE).astype(dtype) for _ in range(3))
    result = run(lambda f, a, b, c: f("add", f("multiply", a, b), c), x, y, z)
    assert_same(result, x * y + z)


def test_sums_are_not_reassociated(assert_same):
    x, y, z = np.full(SIZE, 1e20), np.full(SIZE, -1e20), np.full(SIZE, 1.0)
    result = run(lambda f, a, b, c: f("add", f("add", c, a), b), x, y, z)
    assert_same(result, (z + x) + y)


def test_division_by_a_constant_is_no_product(assert_same):
    x = np.arange(SIZE, dtype=np.float32)
    assert_same(run(lambda f, a: f("divide", a, f32(3)), x), x / np.float32(3))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_subnormal_numbers_are_kept(dtype, assert_same):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.arange(SIZE).astype(dtype) * tiny
    assert_same(
        run(lambda f, a, b: f("add", f("multiply", a, b), b), x, x + tiny),
        x * (x + tiny) + (x + tiny),
    )


def test_float16_rounds_after_every_operation(assert_same):
    rng = np.random.default_rng(1)
    x, y, z = (rng.standard_normal(SIZE).astype(np.float16) for _ in range(3))
    assert_same(run(lambda f, a, b, c: f("subtract", f("multiply", a, b), c), x, y, z), x * y - z)


@pytest.fixture
def texts_without_f16c(monkeypatch):
    """IR as for a processor that does not convert float16: the texts of the kernels compiled since."""
    texts, code_of = [], elementwise_body.compiler.code_of

    def noted(text, sizes=()):
        texts.append(text)
        return code_of(text, sizes)

    monkeypatch.setattr(elementwise_body, "converts_halves", lambda: False)
    monkeypatch.setattr(elementwise_body.compiler, "code_of", noted)
    return texts


def kernel_text(texts):
    """The one kernel among them, beside the loops that call it."""
    (text,) = (t for t in texts if "@fg_kernel(" in t)
    return text


def assert_in_integers(text):
    """The conversions are there, and no value of type half."""
    assert "@fg_half_bits(float %x)" in text
    assert not re.search(r"\bhalf\b", text)


def halves_and_around():
    """Every float16 as float32, the next floats on both sides, and the middles between two of them."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    wide = every.astype(np.float32)
    with np.errstate(all="ignore"):
        following = np.nextafter(every, np.float16(np.inf)).astype(np.float32)
        middles = (wide + following) / 2
        ends = np.float32([65519.99, 65520, -65520, 65536, 1e5, 1e38, -1e38, 1e-8, 2.0**-149])
        at = np.concatenate([wide, middles, ends])
        between = [np.nextafter(at, np.float32(side)) for side in (np.inf, -np.inf)]
    return np.concatenate([at, *between])


def test_float16_to_float32_in_integers(texts_without_f16c, assert_same):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    leaf = placeholder(0, every.shape, every.dtype, None)
    node = make(OPS["astype"], (leaf,), (), every.shape, np.dtype("f4"))
    widened = np.empty(every.shape, np.float32)
    ElementwiseBody(Region((node,), (leaf,), (node,), every.shape)).run([every], [widened], 1)
    assert_same(widened, every.astype(np.float32))
    assert_in_integers(kernel_text(texts_without_f16c))


def test_float32_to_float16_in_integers(texts_without_f16c, assert_same):
    values = halves_and_around()
    leaf = placeholder(0, values.shape, values.dtype, None)
    node = make(OPS["astype"], (leaf,), (), values.shape, np.dtype("f2"))
    narrowed = np.empty(values.shape, np.float16)
    ElementwiseBody(Region((node,), (leaf,), (node,), values.shape)).run([values], [narrowed], 1)
    assert_same(narrowed, reference(values.astype, np.float16))
    assert_in_integers(kernel_text(texts_without_f16c))


def test_float16_arithmetic_in_integers(texts_without_f16c, assert_same):
    """Both conversions beside operations, each of which rounds."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    other = every[::-1].copy()
    result = run(lambda f, a, b: f("add", f("multiply", a, b), b), every, other)
    assert_same(result, reference(lambda a, b: a * b + b, every, other))
    assert_in_integers(kernel_text(texts_without_f16c))


def test_float16_by_the_processors_conversions():
    assert "fpext half" in half_definitions(True)
    assert_in_integers(half_definitions(False))


def test_a_double_becomes_a_float16_in_one_rounding(assert_same):
    """1 + 2^-11 + 2^-40 rounds up; by way of float32 it would round to even, down."""
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    with np.errstate(all="ignore"):
        middle = (half + np.nextafter(half.astype(np.float16), np.float16(np.inf))) / 2
        x = np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])
        expected = x.astype(np.float16)
    assert_same(fg.asarray(x).astype("f2").compute(), expected)


# --- layouts --------------------------------------------------------------------------------------

LAYOUTS = {
    "reversed": lambda a: a[::-1],
    "every second column": lambda a: a[:, ::2],
    "every third row": lambda a: a[::3],
    "transposed": lambda a: a.T,
    "transposed part": lambda a: a[1:, 2:].T,
    "one row": lambda a: a[:1],
    "one column": lambda a: a[:, :1],
    "column of a row": lambda a: a[0],
    "0-d": lambda a: a[0, 0, ...],
    "dense": lambda a: a,
}


@pytest.mark.parametrize(("first", "second"), list(itertools.product(LAYOUTS, repeat=2)))
def test_layouts(first, second, assert_same):
    base = np.random.default_rng(2).standard_normal((36, 36)).astype(np.float32)
    x, y = LAYOUTS[first](base), LAYOUTS[second](base + 1)
    try:
        expected = x * y - x
    except ValueError:
        return  # these two shapes do not broadcast
    if expected.ndim:
        assert_same(run(lambda f, a, b: f("subtract", f("multiply", a, b), a), x, y), expected)
    assert_same((fg.asarray(x) * fg.asarray(y) - fg.asarray(x)).compute(), np.asarray(expected))


@pytest.mark.parametrize(
    "shape", [(700, 3), (3, 700), (5, 4, 3), (2, 3, 1, 4), (1, 1), (300, 300), (4, 2000)]
)
@pytest.mark.parametrize("itemsize", ["?", "f2", "f4", "f8", "c16"])
def test_results_in_any_layout(shape, itemsize, assert_same):
    """Outputs that are not dense are written through tiles."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(shape) * 3).astype(itemsize)
    y = (rng.standard_normal(shape[-1:]) * 3).astype(itemsize)
    name = "logical_xor" if itemsize == "?" else "add"
    region = region_of(lambda f, a, b: f(name, a, b), x, y)
    for out in (
        np.empty(shape, itemsize),
        np.empty(shape, itemsize, order="F"),
        np.empty((*shape[:-1], 2 * shape[-1]), itemsize)[..., ::2],
        np.empty(shape, itemsize)[..., ::-1],
    ):
        ElementwiseBody(region).run([x, y], [out], 1)
        assert_same(np.array(out), getattr(np, name)(x, y))


COLUMNS = {
    "a column": lambda a: a[:, :1],
    "the same column, dense": lambda a: np.ascontiguousarray(a[:, :1]),
    "a row": lambda a: a[:1],
    "a row of a row": lambda a: a[0],
    "all": lambda a: a,
    "turned": np.asfortranarray,
    "backwards": lambda a: a[::-1, ::-1],
}


@pytest.mark.parametrize("columns", [255, SMALL_ROW, 3000])
@pytest.mark.parametrize("dtype", ["?", "f2", "f4", "f8", "c16"])
@pytest.mark.parametrize(("first", "second"), list(itertools.product(COLUMNS, repeat=2)))
def test_one_element_a_row(first, second, dtype, columns, assert_same):
    """An operand that is the same for a long row is read once a row, whatever the others are."""
    base = (np.random.default_rng(5).standard_normal((7, columns)) * 2).astype(dtype)
    x, y = COLUMNS[first](base), COLUMNS[second](base)
    name = "logical_xor" if dtype == "?" else "add"
    region = region_of(lambda f, a, b: f(name, a, b), x, y)
    expected = getattr(np, name)(x, y)
    for out in (np.empty(expected.shape, dtype), np.empty(expected.shape, dtype, order="F")):
        ElementwiseBody(region).run([x, y], [out], 1)
        assert_same(np.ascontiguousarray(out), expected)


def test_only_what_is_one_element_a_row_has_a_kernel_of_its_own():
    rows, column = np.ones((50, 400), np.float32), np.ones((50, 1), np.float32)
    body = ElementwiseBody(region_of(lambda f, a, b: f("add", a, b), rows, column))
    body.run([rows, column], [np.empty_like(rows)], 1)
    assert list(body.kernels) == [((False, True, False), True)]
    turned = [np.asfortranarray(a) for a in (rows, column)]
    body.run([turned[0].T, turned[1].T], [np.empty((400, 50), np.float32)], 1)
    assert list(body.kernels) == [((False, True, False), True), ((False, False, False), False)]


ROWS = {  # shapes of operands, and whether one call takes all rows where they lie
    "a row for all": ([(50, 400), (400,)], True),
    "a row for some": ([(3, 4, 50, 300), (3, 1, 1, 300)], True),
    "a row and a column": ([(50, 1), (300,)], True),
    "outer axes": ([(5, 1, 300), (5, 7, 1)], True),
    "one row": ([(300,), (1,)], False),
    "short rows": ([(50, SMALL_ROW - 1), (SMALL_ROW - 1,)], False),
    "rows of one shape": ([(50, 400), (50, 400)], False),
}


@pytest.mark.parametrize("dtype", ["?", "i1", "f2", "f4", "c8"])
@pytest.mark.parametrize(("shapes", "by_rows"), ROWS.values(), ids=ROWS)
def test_rows_in_place_are_one_call(shapes, by_rows, dtype, assert_same):
    rng = np.random.default_rng(6)
    x, y = ((rng.standard_normal(shape) * 9).astype(dtype) for shape in shapes)
    names = ("logical_xor", "not_equal") if dtype == "?" else ("add", "not_equal")
    region = region_of(lambda f, a, b: tuple(f(name, a, b) for name in names), x, y)
    expected = [getattr(np, name)(x, y) for name in names]
    body, out = ElementwiseBody(region), [np.empty_like(e) for e in expected]
    body.run([x, y], out, 1)
    assert any(rows for _, rows in body.kernels) == by_rows
    for found, wanted in zip(out, expected, strict=True):
        assert_same(found, wanted)


@pytest.mark.parametrize(("length", "by_rows"), [(2, True), (40, False)])
def test_long_bodies_are_called_for_each_row(length, by_rows, assert_same):
    """Their registers do not suffice for an outer loop too."""
    x, w = np.linspace(-1, 1, 20_000).reshape(50, 400), np.linspace(1, 2, 400)

    def chain(f, a, b):
        for _ in range(length // 2):
            a = f("subtract", f("multiply", a, b), a)
        return a

    body, out = ElementwiseBody(region_of(chain, x, w)), np.empty_like(x)
    body.run([x, w], [out], 1)
    assert any(rows for _, rows in body.kernels) == by_rows
    assert_same(out, chain(lambda name, a, b: getattr(np, name)(a, b), x, w))


@pytest.mark.parametrize("rows", [640, 641])
def test_a_part_of_one_row_has_no_kernel_of_its_own(rows, assert_same):
    """Compiling took twice as long where the rows did not divide evenly among threads."""
    x, w = np.linspace(-1, 1, rows * 1000).reshape(rows, 1000), np.linspace(1, 2, 1000)
    with fg.options(engine="llvm", threads=2):
        plan = (fg.asarray(x) * w + 1).plan()
        (result,) = plan.run()
    assert len(plan.kernels[0].body.kernels) == 1
    assert_same(result, x * w + 1)


def test_rows_that_do_not_lie_in_place_are_packed(assert_same):
    x, y = np.arange(20_000.0).reshape(50, 400), np.arange(800.0)[::2]
    body = ElementwiseBody(region_of(lambda f, a, b: f("add", a, b), x, y))
    out = np.empty_like(x)
    body.run([x, y], [out], 1)
    assert not any(rows for _, rows in body.kernels)
    assert_same(out, x + y)


def test_unaligned_arrays(assert_same):
    raw = np.zeros(8 * 100 + 1, np.uint8)
    x = raw[1:].view(np.float64)
    x[:] = np.arange(100)
    out = np.empty(100)
    ElementwiseBody(region_of(lambda f, a: f("add", a, a), x)).run([x], [out], 1)
    assert_same(out, x + x)
    target = raw.copy()[1:].view(np.float64)
    ElementwiseBody(region_of(lambda f, a: f("add", a, a), x)).run([x], [target], 1)
    assert_same(np.array(target), x + x)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (1, 1, 1)])
def test_small_and_empty(shape, assert_same):
    x = np.ones(shape, np.float32)
    assert_same((fg.asarray(x) * 2 + 1).compute(), np.asarray(x * 2 + 1))


def test_several_results_in_one_pass(assert_same):
    x = np.linspace(-3, 3, SIZE).astype(np.float32)
    a, b, c = run(
        lambda f, v: (f("multiply", v, v), f("less", v, f32(0)), f("add", f("multiply", v, v), v)),
        x,
    )
    assert_same(a, x * x)
    assert_same(b, x < 0)
    assert_same(c, x * x + x)


def test_arrays_of_this_interpreter_are_read_in_place():
    assert headers.arrays_lie_as_expected()


@pytest.mark.parametrize("second", LAYOUTS)
def test_an_interpreter_whose_arrays_lie_elsewhere(second, assert_same):
    base = np.arange(36 * 36, dtype=np.float64).reshape(36, 36)
    x, y = base, LAYOUTS[second](base)
    try:
        expected = x + y
    except ValueError:
        return  # these two shapes do not broadcast
    assert_same(run(lambda f, a, b: f("add", a, b), x, y, body=ImitatingBody), expected)


# --- threads and size -----------------------------------------------------------------------------


def test_many_threads_call_one_body(assert_same):
    x = np.random.default_rng(4).standard_normal((64, 500))
    region = region_of(lambda f, a, b: f("add", f("multiply", a, a), b), x, x[:1])
    body, failures = ElementwiseBody(region), []

    def work(seed):
        mine = np.random.default_rng(seed).standard_normal((500, 64)).T
        out = np.empty((64, 500))
        for _ in range(50):
            body.run([mine, x[:1]], [out], 1)
            if not np.array_equal(out, mine * mine + x[:1]):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_threads_share_one_kernel(assert_same):
    x = np.random.default_rng(5).standard_normal(1_000_003).astype(np.float32)
    for threads in (1, 2, 5):
        with fg.options(threads=threads):
            assert_same((fg.asarray(x) * x + 1).compute(), x * x + np.float32(1))


def test_a_thousand_operations_are_one_kernel(assert_same):
    x = np.linspace(-1, 1, SIZE).astype(np.float32)
    t, expected = fg.asarray(x), x
    for n in range(500):
        t, expected = t * x + np.float32(n % 7), expected * x + np.float32(n % 7)
    assert [k.engine for k in t.plan().kernels] == ["llvm"]
    assert_same(t.compute(), expected)


def test_more_operands_than_a_kernel_takes(assert_same):
    arrays = [np.full(50, n, np.float32) for n in range(MAX_OPERANDS + 20)]
    t, expected = fg.asarray(arrays[0]), arrays[0]
    for a in arrays[1:]:
        t, expected = t + a, expected + a
    assert len(t.plan().kernels) > 1
    assert_same(t.compute(), expected)
    assert "256" in ENGINE.limit(Extent(MAX_OPERANDS, 0, 1, 1))
    assert ENGINE.limit(Extent(MAX_OPERANDS - 1, 0, 1, 1)) is None


# --- what the code is -----------------------------------------------------------------------------


def test_code_does_not_depend_on_sizes():
    def text(size):
        x = np.ones((size, 4), np.float32)
        return generate(region_of(lambda f, a, b: f("add", a, b), x, x[:1])).body

    assert text(3) == text(300)


VECTORS = re.compile(r"= .*\b(?:fadd|fmul|fma)\b.*<\d+ x (half|float|double)>")
SCALARS = re.compile(r"= (?:(?:tail )?call|f\w+(?: \w+)?|load) (?:float|double)\b|\w+element <.*")


def vector_loop(text):
    """The loop over vectors that LLVM makes of a kernel; the one over its tail stands elsewhere."""
    found = re.search(r"^vector\.body:(?:.+\n)+", compiler.optimised(text), re.MULTILINE)
    assert found, "one element at a time"
    return found[0]


def calls(text):
    """Calls in the machine code of a kernel: functions of the C library."""
    return re.findall(r"^\s+(?:callq?|blr?)\s.*", compiler.assembly(text), re.MULTILINE)


PARTS = {
    "f2": {"half", "float"},
    "f4": {"float"},
    "f8": {"double"},
    "c8": {"float"},
    "c16": {"double"},
}


@pytest.mark.parametrize("dtype", PARTS)
def test_a_loop_is_vectorised(dtype):
    x = np.ones(8, dtype)
    code = generate(region_of(lambda f, a: f("add", f("multiply", a, a), a), x))
    found = set(VECTORS.findall(vector_loop(code.text(elementwise_body.converts_halves()))))
    assert found
    assert found <= PARTS[dtype]


@pytest.mark.parametrize("subject", subjects(), ids=lambda s: f"{s.name}-{s.dtype}")
def test_functions_are_vectorised(subject):
    """Nothing in the loop is done for one element at a time; floats may go by way of double."""
    text = value_text(subject)
    loop = vector_loop(text)
    wide = subject.type == "double" or vecmath.TABLE[subject.name].wide
    assert ("double" if wide else "float") in VECTORS.findall(loop)
    assert not SCALARS.findall(loop)
    if ARM or compiler.has_feature("fma"):  # elsewhere a fused multiply-add is a call by itself
        assert not calls(text)


def test_a_loop_that_is_not_vectorised_is_seen():
    """The checks above, on a loop that calls the C library for each element."""
    (subject,) = subjects(["exp"], ["float64"])
    body, _, rest = value_text(subject).partition("define internal")
    scalar = body.replace("@fg_exp_f64", "@erf") + "declare double @erf(double)\n"
    assert rest
    with pytest.raises(AssertionError, match="one element at a time"):
        vector_loop(scalar)
    assert calls(scalar)
    assert SCALARS.findall(scalar)


@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_a_refusal_says_why(op):
    for dtype in DTYPES:
        dtypes = (np.dtype("?"), dtype, dtype) if op.name == "where" else (dtype,) * op.arity
        try:
            result = np.dtype("f8") if op.name == "astype" else resolve(op.name, dtypes)[1]
        except TypeError:
            continue
        reason = refusal(op.name, dtypes, result)
        assert reason is None or "NumPy" in reason or "llvm" in reason


@pytest.mark.parametrize(
    "name",
    ["add", "multiply", "divide", "sqrt", "maximum", "where", "floor", "less", "floor_divide"],
)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_arithmetic_is_never_refused(name, dtype):
    kind = np.dtype(dtype)
    dtypes = (np.dtype("?"), kind, kind) if name == "where" else (kind,) * OPS[name].arity
    assert refusal(name, dtypes, resolve(name, dtypes)[1]) is None


@pytest.mark.parametrize("engine", ["auto", "llvm", "numexpr"])
@pytest.mark.parametrize("dtype", ["c8", "c16"])
def test_exact_complex_products_follow_the_layout(dtype, engine, assert_same):
    """NumPy's vectors of dense complex numbers round otherwise than its loops over strides."""
    rng = np.random.default_rng(7)
    parts = rng.standard_normal((4, 19, 1058))
    x, y = (parts[0] + 1j * parts[1]).astype(dtype), (parts[2] + 1j * parts[3]).astype(dtype)
    f = fg.jit(lambda x, y: x * y, engine=engine, exact=True, threads=1)
    for a, b in ((x[::-1, ::-1], y), (x, np.asfortranarray(y)), (x[:, ::2], y[:, ::2]), (x, y[0])):
        assert {kernel.engine for kernel in f.plan(a, b).kernels} == {"numpy"}
        assert not any(kernel.tier for kernel in f.plan(a, b).kernels)
        assert_same(f(a, b), a * b)
    assert_same(f(x, y), x * y)


def test_only_exact_operations_where_bits_are_asked_for(assert_same):
    x = np.linspace(0.1, 1, SIZE).astype(np.float32)
    with fg.options(exact=True):
        t = np.exp(fg.asarray(x)) + 1
        assert {k.engine for k in t.plan().kernels} == {"numpy", "llvm"}
        assert_same(t.compute(), np.exp(x) + np.float32(1))


def test_compile_seconds_grow_with_the_region():
    x = np.ones(8, np.float32)

    def chain(length):
        def function(f, a):
            value = a
            for _ in range(length):
                value = f("multiply", value, a)
            return value

        return ENGINE.compile_seconds(region_of(function, x))

    assert chain(10) < chain(100) < chain(1000)
    assert chain(1000) - chain(900) == pytest.approx(chain(200) - chain(100))


MEANS = {
    "layer norm": fg.layer_norm,
    "RMS norm": fg.rms_norm,
    "variance of columns": lambda x: fg.var(x, axis=0),
    "variance with half a degree": lambda x: fg.var(x, axis=-1, ddof=0.5),
    "standard score": lambda x: (x - fg.mean(x)) / fg.std(x),
}


@pytest.mark.parametrize("lengths", [(1000, 1016), (300, 299), (90, 91), (9, 10)], ids=repr)
@pytest.mark.parametrize("name", MEANS)
def test_what_follows_from_sizes_is_no_part_of_the_code(name, lengths, monkeypatch):
    """Each length of a mean was compiled anew, and kept on disk, because it divides by its count."""
    first, second = (
        np.random.default_rng(n).standard_normal((40 + n % 2, n)).astype("f4") for n in lengths
    )
    MEANS[name](first).compute(engine="llvm")

    def optimised(self, text):
        raise AssertionError(f"compiled again: {text}")

    monkeypatch.setattr(compiler.Compiler, "optimised", optimised)
    for x in (second, first, second):  # each size with words of its own
        found = MEANS[name](x).compute(engine="llvm")
        expected = MEANS[name](x.astype("f8")).compute(engine="numpy")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
