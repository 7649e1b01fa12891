"""Direct calls: a jit function goes to compiled code at once, and does all that the long way does."""

import contextvars
import gc
import os
import subprocess
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.buffers import POOL
from fusegraph.engines.llvm import direct, jobs
from fusegraph.engines.panel_body import PanelBody
from fusegraph.execute import Program

RNG = np.random.default_rng(0)
SIZE = 200_003  # of what two threads share


def values(*shape, dtype="f4"):
    return (RNG.standard_normal(shape) * 5).astype(dtype)


def softmax(x):
    e = fg.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sliced(x):
    y = x + 1
    return y, y[1:] / (y * y).sum(axis=-1)[1:, None]


CASES = {
    "one block": (lambda a, b: a + 2.5 * b, [values(1000), values(1000)]),
    "blocks": (lambda a, b: a + 2.5 * b, [values(SIZE), values(SIZE)]),
    "two axes": (lambda a, b: a * b - a, [values(700, 300), values(700, 300)]),
    "one element": (lambda a: a * 2, [values(1)]),
    "no axes": (lambda a: a * 2, [np.array(1.5)]),
    "a scalar operand": (lambda a, s: a * s, [values(SIZE), np.array(3, "f4")]),
    "operands in another order": (lambda a, b, c: c - a / b, [values(9), values(9), values(9)]),
    "an operand that is not read": (lambda a, b: b + 1, [values(3, 4), values(SIZE)]),
    "two results": (lambda a, b: (a - b, a + b), [values(SIZE), values(SIZE)]),
    "results of several dtypes": (lambda a: (a > 0, a * 2, a.astype("f8")), [values(SIZE)]),
    "a list of one": (lambda a: [a + 1], [values(50)]),
    "columns": (lambda a, row: a * row + 1, [values(800, 250), values(250)]),
    "rows and columns": (lambda a, c, r: a + c * r, [values(80, 25), values(80, 1), values(25)]),
    "softmax": (softmax, [values(600, 200)]),
    "softmax of one row": (softmax, [values(200)]),
    "a sum": (lambda a, b: ((a - b) * (a - b)).sum(), [values(3 * SIZE), values(3 * SIZE)]),
    "a sum of one panel": (lambda a: (a * a).sum(), [values(700)]),
    "a sum of doubles": (lambda a: (a * a).sum(), [values(3 * SIZE, dtype="f8")]),
    "a sum of integers": (lambda a: (a + a).sum(), [values(5 * SIZE, dtype="i2")]),
    "ends": (lambda a: (a.min(), a.max()), [values(3 * SIZE)]),
    "ends of bytes": (lambda a: (a.max(), a.min()), [values(3 * SIZE, dtype="u1")]),
    "truths": (lambda a: ((a > 99).any(), (a < 99).all()), [values(3 * SIZE)]),
    "row sums": (lambda a: (a * a).sum(axis=-1), [values(600, 200)]),
    "an axis more": (lambda a, w: a * w[None, :, None], [values(9, 60, 7), values(60)]),
    "another shape": (lambda a: (a + 1).reshape(60, -1), [values(600, 20)]),
    "neighbours": (lambda a: a[1:] - a[:-1], [values(SIZE)]),
    "a slice in one piece": (lambda a, b: a[10:500] * 2 + b, [values(600, 300), values(490, 300)]),
    "an entry": (lambda a, b: fg.exp(a[1]) * a[2] + b[3], [values(3, 90, 40), values(40)]),
    "a stencil": (
        lambda u: u[1:-1, 1:-1] + (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2]) / 8,
        [values(400, 300)],
    ),
    "backwards in steps": (lambda a, b: a[::-2, ::-1] - b[::2], [values(401, 30), values(60)]),
    "a row that is an entry": (lambda a, m: a * m[2] - m[:1], [values(800, 50), values(3, 50)]),
    "a column of one": (lambda a: a * a[:, 3:4], [values(800, 50)]),
    "slices of what is computed": (sliced, [values(300, 90)]),
    "turned": (lambda a, b: fg.exp(a.T)[1:] + b, [values(300, 90), values(89, 300)]),
    "a slice with an axis more": (lambda a: a[:, 0][:, None] - a[1][None, ::-1], [values(80, 70)]),
    "a part in another shape": (lambda a: a.reshape(60, 2, -1)[:, 1, 3:] * 2, [values(900, 120)]),
    "a sum of slices": (lambda a: ((a[1:] - a[:-1]) ** 2).sum(), [values(3 * SIZE)]),
    "softmax of a slice": (lambda a: softmax(a[5:, 1:-1]), [values(600, 200)]),
    "sums of columns of a slice": (lambda a: (a[:, 7:] * 2).sum(axis=0), [values(600, 200)]),
    "float16": (lambda a: a * 2 + 1, [values(SIZE, dtype="f2")]),
    "complex": (lambda a: a * (2 + 1j), [values(SIZE, dtype="c8")]),
    "int8": (lambda a, b: a // b, [values(SIZE, dtype="i1"), values(SIZE, dtype="i1")]),
    "bool": (lambda a, b: a & ~b, [values(SIZE) > 0, values(SIZE) > 1]),
}


def direct_calls(function):
    """How often compiled code took a call of its own."""
    return sum(direct.calls for _, direct in function._direct[1])


def near(found, expected):
    """Within the roundings of sums of 700 products whose sizes add up to 11,000, before a tanh of 1."""
    most = 11_000 * np.finfo(expected.dtype).eps * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=most)


def alike(a, b):
    several = isinstance(b, tuple)
    assert isinstance(a, tuple) == several
    for x, y in zip(a if several else [a], b if several else [b], strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()
        assert x.flags.c_contiguous
        assert x.flags.writeable


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("build", "arrays"), CASES.values(), ids=CASES)
def test_it_gives_what_the_plan_gives(build, arrays, threads):
    f = fg.jit(build, engine="llvm", threads=threads)
    first = f(*arrays)
    before = [a.copy() for a in arrays]
    for count in range(1, 4):
        alike(f(*arrays), first)
        assert direct_calls(f) == count
    alike(tuple(arrays), tuple(before))
    assert f.cache_info().hits == 3


def test_results_stay_what_they_are():
    f = fg.jit(lambda a: a + 1, engine="llvm", threads=2)
    kept = [f(np.full(SIZE, n, np.float32)) for n in range(20)]
    assert direct_calls(f) == 19
    for n, result in enumerate(kept):
        assert (result == n + 1).all()


X = values(40, 60)
OTHERS = {
    "another shape": X[:20],
    "more axes": X[None],
    "every other column": X[:, ::2],
    "turned": X.T,
    "Fortran's order": np.asfortranarray(X),
    "another dtype": X.astype("f8"),
    "big-endian": X.astype(">f4"),
    "a subclass": X.view(np.recarray),
    "unaligned": np.frombuffer(b"x" + X.tobytes(), "u1")[1:].view("f4").reshape(X.shape),
    "a list": X.tolist(),
    "a number": 2.5,
    "empty": X[:0],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_it_was_not_made_for_goes_the_long_way(other):
    f = fg.jit(lambda a: a * 2 + 1, engine="llvm")
    f(X), f(X)
    assert direct_calls(f) == 1
    np.testing.assert_array_equal(f(other), np.asarray(other) * 2 + 1)
    alike(f(X), X * 2 + 1)


def test_tensors_numbers_and_names_go_the_long_way():
    f = fg.jit(lambda a, b: a - b, engine="llvm")
    f(X, X + 1), f(X, X + 1)
    alike(f(b=X, a=X + 2), (X + 2) - X)
    alike(f(X, 2.0), X - 2)
    assert isinstance(f(fg.asarray(X), fg.asarray(X)), fg.Tensor)
    with pytest.raises(TypeError):
        f(X)
    with pytest.raises(ValueError, match="broadcast"):
        f(X, X[:, :7])


def test_options_in_force_count():
    f = fg.jit(lambda a: a * 2)
    with fg.options(engine="llvm"):
        f(X), f(X)
        assert direct_calls(f) == 1
        with fg.options(memory_limit=10), pytest.raises(fg.MemoryLimitError):
            f(X)
    with fg.options(engine="numpy"):
        assert f.plan(X).kernels[0].engine == "numpy"
        alike(f(X), X * 2)
        assert not any(ready.direct for ready in f._ready.values() if ready.used > 2)


def shares(x):
    e = fg.exp(x - x.max())
    return e / e.sum()


SEVERAL = {
    "mean": lambda x: x.mean(),
    "column means": lambda x: x.mean(axis=0),
    "normalise": lambda x: (x - x.mean()) / (x.std() + 1e-6),
    "a value is stored between": shares,
    "mean and what it leaves": lambda x: (x.mean(axis=0), x - x.mean(axis=0)),
}


@pytest.mark.parametrize("build", SEVERAL.values(), ids=SEVERAL)
def test_several_kernels_are_one_call(build):
    x = np.abs(values(4000, 1000))  # so large that reductions alone are compiled
    f = fg.jit(build, engine="llvm", threads=2)
    first = f(x)
    assert len(f.plan(x).kernels) > 1
    for count in range(1, 4):
        alike(f(x), first)
        assert direct_calls(f) == count


def test_a_call_holds_no_more_than_its_plan_says():
    """Between jobs nothing is dropped, so a chain of large values goes the long way."""
    x = np.abs(values(4000, 1000))  # so large that reductions alone are compiled
    f = fg.jit(lambda x: shares(shares(shares(x))), engine="llvm")
    first = f(x)
    alike(f(x), first)
    assert direct_calls(f) == 0


W, ROW = values(300, 300), values(300)


def attention(q, k, v):
    return softmax(q @ k.mT * 0.125) @ v


CHAINS = {
    "a layer": (lambda x, w, b: fg.gelu(x @ w + b), [(600, 90), (90, 200), (200,)]),
    "uneven panels": (lambda x, w, b: fg.gelu(x @ w + b), [(1003, 65), (65, 129), (129,)]),
    "few rows": (lambda x, w, b: fg.gelu(x @ w + b), [(70, 300), (300, 500), (500,)]),
    "one row": (lambda x, w: fg.tanh(x @ w) + 1, [(1, 700), (700, 90)]),
    "one column": (lambda x, w: fg.tanh(x @ w) + 1, [(500, 70), (70, 1)]),
    "two layers": (
        lambda x, w, v: fg.maximum(x @ w, 0) @ v + x,
        [(400, 60), (60, 130), (130, 60)],
    ),
    "products alone": (lambda a, b, c: a @ b @ c, [(400, 60), (60, 130), (130, 60)]),
    "what is multiplied is a result": (
        lambda x, w: ((y := x @ w), fg.exp(y * 1e-3)),
        [(400, 60), (60, 130)],
    ),
    "one right side twice": (lambda x, w: fg.tanh(fg.tanh(x @ w) @ w), [(400, 60), (60, 60)]),
    "a batch of rows": (lambda x, w, b: fg.gelu(x @ w + b), [(5, 150, 90), (90, 200), (200,)]),
    "attention": (attention, [(700, 64), (650, 64), (650, 33)]),
    "heads": (attention, [(3, 4, 50, 16), (3, 4, 60, 16), (3, 4, 60, 20)]),
    "heads of one row": (attention, [(3, 4, 1, 16), (3, 4, 60, 16), (3, 4, 60, 20)]),
    "heads that share keys": (attention, [(3, 4, 50, 16), (4, 60, 16), (4, 60, 20)]),
    "a sum of what is multiplied": (lambda a, b: ((a @ b) ** 2).sum(), [(900, 80), (80, 300)]),
    "normalised before": (
        lambda x, w, b: (x - x.mean(axis=-1, keepdims=True)) @ w + b,
        [(500, 128), (128, 60), (60,)],
    ),
    "views of operands": (
        lambda x, w, b: fg.gelu(x[3:, 5:] @ w.T[5:, :40] + b[1][2:42]),
        [(403, 75), (90, 75), (3, 90)],
    ),
    "a left side turned": (lambda x, w: fg.tanh(x.T @ w), [(60, 400), (60, 130)]),
    "every other column": (lambda x, w: fg.tanh(x[:, 1::2] @ w), [(400, 121), (60, 130)]),
    "what is turned is computed": (
        lambda x, w: fg.tanh((x * 2).T @ w) + 1,
        [(60, 400), (60, 130)],
    ),
}
NOT_CHAINS = {"heads that share keys"}  # matrices are not evenly spaced


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CHAINS)
def test_products_and_what_surrounds_them_are_one_task_a_panel(case, threads, dtype, monkeypatch):
    build, shapes = CHAINS[case]
    arrays = [values(*shape, dtype=dtype) for shape in shapes]
    f = fg.jit(build, engine="llvm", threads=threads)
    assert f.plan(*arrays).kernels[0].schedule == "panels"
    first = f(*arrays)
    for count in range(1, 4):
        alike(f(*arrays), first)
        assert direct_calls(f) == (0 if case in NOT_CHAINS else count)
    with monkeypatch.context() as patch:
        patch.setattr(PanelBody, "chain", None)  # panel by panel, by way of Python
        alike(fg.jit(build, engine="llvm", threads=threads)(*arrays), first)
    alike(fg.jit(build, engine="llvm", threads=3 - threads)(*arrays), first)
    plain = fg.jit(build, engine="numpy", exact=True)(*arrays)
    for a, b in zip(
        *([x] if isinstance(x, np.ndarray) else x for x in (first, plain)), strict=True
    ):
        near(a, b)


def test_threads_cut_few_rows_finer_than_the_plan_does():
    x, w = values(70, 300), values(300, 500)
    machine = fg.default_machine()
    plans = [
        fg.jit(
            lambda x, w: fg.tanh(x @ w) + 1, engine="llvm", threads=threads, machine=machine
        ).plan(x, w)
        for threads in (1, 2)
    ]
    (one,), (two,) = (plan.kernels for plan in plans)
    assert one.panels == two.panels
    assert one.panels.count == one.threads == 1
    assert two.threads == 2
    assert two.body.shared_block(2) == (16,)
    assert 0.4 * one.seconds < two.seconds < 0.8 * one.seconds


def test_a_chain_holds_no_more_than_its_plan_says():
    """Weights that are packed are held to the end of a call, and so is each thread's part."""
    x, w = values(2000, 300), values(300, 300)
    f = fg.jit(lambda x: fg.tanh(fg.tanh(fg.tanh(x @ w) @ w) @ w), engine="llvm", threads=2)
    f(x), f(x)
    assert direct_calls(f) == 1
    most = f.plan(x).peak_bytes
    POOL.clear()
    tracemalloc.start()
    try:
        f(x)
        assert tracemalloc.get_traced_memory()[1] <= most
    finally:
        tracemalloc.stop()
    assert direct_calls(f) == 2


PRODUCTS = {
    "a turned right side": (lambda a, b: a @ b.T, 1),
    "rows of the left side": (lambda a, b: a[:290] @ b, 1),
    "later rows of the left side": (lambda a, b: a[10:] @ b, 1),
    "columns of the right side": (lambda a, b: a @ b[:, 9:290], 1),
    "rows and columns": (lambda a, b: a[7:] @ b[:, 5:].T[9:].T, 1),
    "a right side backwards": (lambda a, b: a @ b[::-1], 1),
    "columns of the left side": (lambda a, b: a[:, 9:] @ b[9:], 0),
    "a turned left side": (lambda a, b: a.T @ b, 0),
}


@pytest.mark.parametrize(("build", "direct"), PRODUCTS.values(), ids=PRODUCTS)
def test_products_of_views_are_direct_where_the_left_side_lies_in_c_order(build, direct):
    a, b = values(300, 300), values(300, 300)
    f = fg.jit(build, engine="llvm", threads=2)
    first = f(a, b)
    for count in range(1, 4):
        alike(f(a, b), first)
        assert direct_calls(f) == count * direct
    near(first, build(a, b))


CAPTURED = {
    "a vector": lambda a: a * ROW,
    "two arrays": lambda a: a * ROW + W[:280] - ROW,
    "a sum": lambda a: (a * W[:280]).sum(),
    "a part": lambda a: a - W[11:291],
    "columns": lambda a: a * W[:280, 5:6] + 1,
    "turned": lambda a: a * W.T[:280] + 1,
    "backwards in steps": lambda a: a[:150, :100] - W[::-2, ::3],
    "repeated": lambda a: a + np.broadcast_to(ROW, (280, 300)),
    "a view of a tensor": lambda a: a * fg.asarray(W)[3:283],
    "softmax of a part": lambda a: softmax(a[:, :90] + W[:280, 9:99]),
    "a product": lambda a: a @ W,
    "layers": lambda a: fg.gelu(a @ W + ROW) @ W[::-1, 3:],
    "beside an argument that is not read": lambda a, b: a - ROW,
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("build", CAPTURED.values(), ids=CAPTURED)
def test_what_is_captured_is_read_where_it_lies(build, threads):
    f = fg.jit(build, engine="llvm", threads=threads)
    arrays = [values(280, 300), ROW][: build.__code__.co_argcount]
    first = f(*arrays)
    for count in range(1, 4):
        alike(f(*arrays), first)
        assert direct_calls(f) == count
    plain = np.asarray(build(*arrays))
    near(first, plain)


def test_what_is_captured_may_change():
    """Its values, and its memory, are those of the call; another shape is left to the long way."""
    outside = values(60)
    f = fg.jit(lambda a: a * outside, engine="llvm")
    f(X), f(X)
    outside += 1
    alike(f(X), X * outside)
    outside.resize(600_000, refcheck=False)
    assert f._direct[1][0][1].call(X) is None
    outside.resize(60, refcheck=False)
    outside -= 2
    alike(f(X), X * outside)
    assert direct_calls(f) == 3


def test_a_captured_array_that_is_not_aligned_goes_the_long_way():
    outside = np.frombuffer(b"x" + values(60).tobytes(), "u1")[1:].view("f4")
    f = fg.jit(lambda a: a * outside, engine="llvm")
    for _ in range(3):
        alike(f(X), X * outside)
    assert direct_calls(f) == 0


def test_it_holds_what_it_captures_as_long_as_it_lives():
    outside = values(60)

    def of(weights):
        return fg.jit(lambda a: a * weights, engine="llvm")

    f = of(outside)
    f(X), f(X)
    before = sys.getrefcount(outside)
    for _ in range(100):
        f(X)
    assert sys.getrefcount(outside) == before
    call, alive = f._direct[1][0][1], weakref.ref(outside)
    expected = X * outside
    f.cache_clear()
    del f, outside
    gc.collect()
    alike(call.call(X), expected)  # as another thread may, that was about to
    del call
    gc.collect()
    assert alive() is None


PARTS_OF_RESULTS = {
    "a part": lambda a: (a * 2 + 1)[:10],
    "the last": lambda a: (a * 2 + 1)[-1:],
    "turned": lambda a: (a * 2 + 1).T,
    "one of two": lambda a: ((a * 2 + 1), (a * 2 + 1).reshape(-1)),
    "an argument": lambda a: (a, a * 2 + 1),
    "twice": lambda a: (a * 2 + 1, a * 2 + 1),
}


@pytest.mark.parametrize("build", PARTS_OF_RESULTS.values(), ids=PARTS_OF_RESULTS)
def test_results_that_are_not_all_of_a_kernels_memory(build):
    f, plain = fg.jit(build, engine="llvm"), build(X)
    for _ in range(3):
        results = f(X)
        for a, b in zip(
            *((r,) if isinstance(r, np.ndarray) else r for r in (results, plain)), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_a_tier_is_direct_once_it_is_reached():
    f = fg.jit(fg.gelu)
    x = values(400_000)
    (kernel,) = f.plan(x).kernels
    for _ in range(kernel.tier.call):
        assert direct_calls(f) == 0
        f(x)
    f(x)
    assert direct_calls(f) == 1


def test_several_signatures_are_direct_side_by_side():
    f = fg.jit(lambda a: a + 1, engine="llvm")
    arrays = [values(n) for n in range(1, 8)]
    for _ in range(3):
        for array in arrays:
            alike(f(array), array + np.float32(1))
    for array in arrays[-4:]:
        alike(f(array), array + np.float32(1))
    assert len(f._direct[1]) == 4
    f.cache_clear()
    assert f._direct[1] == ()
    alike(f(arrays[0]), arrays[0] + np.float32(1))


def test_it_holds_neither_arguments_nor_results():
    f = fg.jit(lambda a, b: (a + b, a - b), engine="llvm")
    a, b = values(100), values(100)
    f(a, b)
    before = sys.getrefcount(a), sys.getrefcount(None)
    for _ in range(1000):
        plus, _ = f(a, b)
    for _ in range(1000):
        f._direct[1][0][1].call(a)  # is refused
    assert sys.getrefcount(a) == before[0]
    assert abs(sys.getrefcount(None) - before[1]) < 100
    assert sys.getrefcount(plus) == 2
    words = weakref.ref(f._direct[1][0][1].words)
    del f
    gc.collect()
    assert words() is None


def test_it_holds_the_description_of_its_function():
    """Two threads could make one each; that which was not kept was freed, and a call crashed."""
    f = fg.jit(lambda a: a * 5 - 2, engine="llvm")
    f(values(10)), f(values(10))
    method = weakref.ref(direct._interpreter().method)
    direct._interpreter.cache_clear()
    gc.collect()
    assert method() is not None
    x = values(10)
    np.testing.assert_array_equal(f(x), x * 5 - 2)
    del f
    gc.collect()
    assert method() is None


def test_many_threads_make_their_first_calls_at_once():
    code = """
import threading
import numpy as np
import fusegraph as fg

x = np.ones(1000, np.float32)
functions = [fg.jit(lambda a, k=k: a + k, engine="llvm") for k in range(4)]
start = threading.Barrier(4)

def work(f):
    start.wait()
    for _ in range(500):
        f(x)
        [float(n) for n in range(50)]

threads = [threading.Thread(target=work, args=(f,)) for f in functions]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    for _ in range(3):
        assert not subprocess.run([sys.executable, "-c", code], check=False).returncode


def test_many_threads_call_one_function():
    outside = values(SIZE)
    f = fg.jit(lambda a: a * 3 + outside, engine="llvm", threads=2)
    x = values(SIZE)
    expected, wrong = f(x), []

    def work():
        wrong.extend(0 for _ in range(200) if not np.array_equal(f(x), expected))

    contexts = [contextvars.copy_context() for _ in range(4)]  # the options in force are part of it
    threads = [threading.Thread(target=context.run, args=[work]) for context in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert direct_calls(f) == 800


def test_a_thread_that_found_no_direct_call_leaves_the_one_of_another(monkeypatch):
    """It had looked before the tier was reached, and stored what it found after: None, for good."""
    f = fg.jit(lambda a: a * 2 + 1)
    x = values(SIZE)
    call = f.plan(x).kernels[0].tier.call
    looked, go = threading.Event(), threading.Event()
    direct = Program.direct

    def slow(self, *arguments):
        found = direct(self, *arguments)
        if threading.current_thread().name == "slow":
            looked.set()
            go.wait(60)
        return found

    monkeypatch.setattr(Program, "direct", slow)
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=[f, x], name="slow")
    thread.start()
    looked.wait(60)
    for _ in range(call + 2):
        f(x)
    assert f._direct[1]
    go.set()
    thread.join()
    before = direct_calls(f)
    np.testing.assert_array_equal(f(x), x * 2 + 1)
    assert direct_calls(f) == before + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_may_go_another_way_first():
    f = fg.jit(lambda a: a * 2 + 1, engine="llvm")
    x = values(9)
    expected = f(x)
    f(x)
    child = os.fork()
    if not child:
        good = np.array_equal(f(x.tolist()), x.astype(np.float64) * 2 + 1)
        os._exit(0 if good and np.array_equal(f(x), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_starts_threads_of_its_own():
    outside = values(SIZE)
    f = fg.jit(lambda a: a * 3 + outside, engine="llvm", threads=2)
    x = values(SIZE)
    expected = f(x)
    f(x)
    child = os.fork()
    if not child:
        good = all(np.array_equal(f(x), expected) for _ in range(3))
        os._exit(0 if good and f._direct[1][0][1].calls == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0


# --- what goes wrong on the way -------------------------------------------------------------------


def made(outlets, threads=1, prepare=lambda: None):
    """A direct call of ``a + b, a - b`` whose memory comes from ``outlets``."""
    f = fg.jit(lambda a, b: (a + b, a - b), engine="llvm", threads=threads)
    a = values(SIZE)
    f(a, a)
    (ready,) = f._ready.values()
    (kernel,) = ready.program.plan.kernels
    work = kernel.body.block_work(1 << 14, threads, False)
    prepare()
    return a, direct.direct_call([(work, [0, 1, 2, 3], threads)], [a, a], [], outlets, 2, True)


@pytest.mark.parametrize("at", [0, 1])
def test_memory_that_is_not_there_raises(at):
    given = []

    def outlet():
        given.append(np.empty(SIZE, np.float32))
        return given[-1]

    def missing():
        raise MemoryError("none left")

    a, call = made([missing, outlet] if at == 0 else [outlet, missing])
    with pytest.raises(MemoryError, match="none left"):
        call.call(a, a)
    assert len(given) == at
    assert all(sys.getrefcount(result) == 3 for result in given)  # the list, the loop, the call
    assert sys.getrefcount(a) == 2


@pytest.mark.parametrize("who", ["wake", "move"])
def test_an_interrupt_before_the_job_is_raised_after_it(who, monkeypatch):
    given = [np.zeros(SIZE, np.float32) for _ in range(2)]
    interrupts = []

    def interrupt(*_):
        interrupts.append(who)
        raise KeyboardInterrupt

    crew = jobs.HELPERS.crew(1)

    def prepare():
        monkeypatch.setattr(type(jobs.HELPERS), "crew", lambda self, count: crew)
        if who == "wake":
            monkeypatch.setattr(jobs.Crew, "wake", interrupt)
        else:
            monkeypatch.setattr(type(jobs.HELPERS.places), "avoid_caller", interrupt)

    a, call = made([lambda: given[0], lambda: given[1]], threads=2, prepare=prepare)
    for helper in crew.helpers:
        while who == "wake" and not helper.box[jobs.ASLEEP]:
            threading.Event().wait(0.001)
    if who == "move":
        jobs.HELPERS.places._avoided.value = -2  # no processor is that one
    with pytest.raises(KeyboardInterrupt):
        call.call(a, a)
    assert interrupts
    monkeypatch.undo()
    if who == "wake":  # it was posted: all of it is done
        alike((given[0], given[1]), (a + a, a - a))
    fresh = made([lambda: given[0], lambda: given[1]], threads=2)[1]
    alike(fresh.call(a, a), (a + a, a - a))


def test_an_interpreter_of_another_kind_has_none(monkeypatch):
    monkeypatch.setattr(direct, "arrays_lie_as_expected", lambda: False)
    direct._interpreter.cache_clear()
    try:
        f = fg.jit(lambda a: a + 1, engine="llvm")
        for _ in range(3):
            alike(f(X), X + np.float32(1))
        assert direct_calls(f) == 0
    finally:
        direct._interpreter.cache_clear()


@pytest.mark.parametrize("columns", [200, 13_000, 70_000])
def test_scratch_too_large_for_a_small_stack_comes_from_the_pool(columns):
    """104 kB of it on a stack of 64 kB ended the process."""
    f = fg.jit(softmax, engine="llvm", threads=2)
    x = values(30, columns)
    first, found = f(x), []
    before = threading.stack_size(65536)
    try:
        thread = threading.Thread(
            target=contextvars.copy_context().run, args=[lambda: found.append(f(x))]
        )
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    alike(found[0], first)
    assert direct_calls(f) == 1


def test_arguments_that_are_not_read_do_not_move_constants():
    """Behind the arrays that are read stand constants; an array more was put over them."""
    f = fg.jit(lambda x, y: fg.full((5,), 3.0).max() * x, engine="llvm")
    g = fg.jit(lambda x, y: fg.concatenate([x, fg.full((1,), 3.0)]))
    x, y = np.arange(5.0), np.full((), 100.0)
    for _ in range(3):
        alike(f(x, y), 3 * x)
        alike(g(x, y), np.append(x, 3.0))


def test_a_first_call_that_cannot_be_direct_is_no_obstacle():
    f = fg.jit(lambda a: a * 2 + 1, engine="llvm")
    f(np.frombuffer(b"x" + X.tobytes(), "u1")[1:].view("f4").reshape(X.shape))
    for _ in range(3):
        alike(f(X), X * 2 + 1)
    assert direct_calls(f) == 2


def test_plans_of_direct_calls_are_kept():
    """Their calls are not seen by the count that tells which plan is unused for longest."""
    f = fg.jit(lambda a: a + 1, engine="llvm")
    small = values(3)
    f(small), f(small)
    for n in range(4, 140):
        f(a=np.ones(n))  # a name goes the long way
        f(small)
    before = f.cache_info()
    assert before.plans == 128
    assert before.hits == direct_calls(f) == 137
    assert any(ready is f._direct[1][0][0] for ready in f._ready.values())
