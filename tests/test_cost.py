"""The cost model: bytes and operations counted by hand; the memory bound against what is allocated."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.cost import Cost, Traffic, total
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.engines.llvm.memory import BUFFER
from fusegraph.kernel import most_scratch

pytestmark = pytest.mark.options(threads=2)

N = 1000
F4 = 4 * N  # bytes of a float32 array of the cases


def tensor(shape, dtype=np.float32):
    return fg.Tensor(np.ones(shape, dtype))


def moved(*tensors, **changes):
    cost = fg.plan(*tensors, **changes).cost
    return cost.bytes_read, cost.bytes_written


# --- bytes ----------------------------------------------------------------------------------------


def test_gelu_by_hand():
    """``0.5*x * (1 + tanh(c*(x + k*(x*x*x))))``, an op a pass, then in one."""
    #   op        reads  writes
    #   0.5*x       1      1
    #   x*x         1      1      one buffer, read once
    #   .*x         2      1
    #   k*.         1      1
    #   x+.         2      1
    #   c*.         1      1
    #   tanh        1      1
    #   1+.         1      1
    #   .*.         2      1
    x = tensor(N)
    plan = fg.plan(0.5 * x * (1 + fg.tanh(0.7978845608 * (x + 0.044715 * (x * x * x)))))
    before, after = plan.traffic.before, plan.traffic.after
    assert (before.bytes_read, before.bytes_written) == (12 * F4, 9 * F4)
    assert (after.bytes_read, after.bytes_written) == (F4, F4)
    assert plan.traffic.saved_bytes == 19 * F4
    assert plan.traffic.ratio == 10.5
    assert before.flops == after.flops == 9 * N
    assert after.transcendentals == N
    assert after.flops_by_class == {"multiply": 6 * N, "add": 2 * N, "transcendental": N}
    assert after.arithmetic_intensity == 9 / 8


def test_fusion_off_is_the_cost_before():
    x, y = tensor(N), tensor(N)
    graph = fg.exp(x * y) + y
    unfused = fg.plan(graph, fuse=False)
    assert unfused.cost == unfused.traffic.before == fg.plan(graph).traffic.before
    assert len(unfused.kernels) == 3


@pytest.mark.parametrize(
    ("other", "nbytes"),
    [((1,), 4), ((100,), 400), ((10, 1), 40), ((10, 100), F4), ((), 4)],
    ids=str,
)
def test_a_broadcast_operand_counts_its_own_bytes(other, nbytes):
    x, y = tensor((10, 100)), tensor(other)
    assert moved(x + y) == (F4 + nbytes, F4)


def test_an_operand_that_is_broadcast_by_name_counts_its_own_bytes():
    x, y = tensor((10, 100)), tensor(100)
    assert moved(x + fg.broadcast_to(y, (10, 100))) == (F4 + 400, F4)


@pytest.mark.parametrize(
    ("build", "read", "written"),
    [
        (lambda x: x[:-1] + x[1:], F4, F4 - 4),  # two slices, together more than the buffer
        (lambda x: x[:100] + x[100:200], 800, 400),  # two slices, apart
        (lambda x: x[::2] + x[1::2], F4, F4 // 2),
        (lambda x: x + x, F4, F4),
        (lambda x: x + x[::-1], F4, F4),
        (lambda x: x.reshape(10, 100) + x.reshape(10, 100)[0], F4, F4),
        (lambda x: x[:10] * 2, 40, 40),
    ],
)
def test_views_of_one_buffer_count_at_most_the_buffer(build, read, written):
    assert moved(build(tensor(N))) == (read, written)


@pytest.mark.parametrize(
    "build", [lambda x: x + 1, lambda x: x * np.float32(2), lambda x: fg.where(x > 0, x, 0.0)]
)
def test_scalars_move_no_bytes(build):
    assert moved(build(tensor(N))) == (F4, F4)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x.T,
        lambda x: x.reshape(-1),
        lambda x: x[2:5, ::3],
        lambda x: x[None],
        lambda x: fg.broadcast_to(x[0], (7, 100)),
    ],
)
def test_views_move_no_bytes(build):
    plan = fg.plan(build(tensor((10, 100))))
    assert len(plan.kernels) == 0
    assert plan.cost == Cost()


def test_a_value_read_by_two_kernels_is_read_twice():
    #  exp and its column sums in one pass, then the quotient: exp is read once more, and the sums
    x = tensor((N // 4, 4))
    e = fg.exp(x)
    assert moved(e / e.sum(axis=0), engine="auto") == (F4 + F4 + 16, F4 + 16 + F4)
    # NumPy's order of the sum is that of a call of its own
    assert moved(e / e.sum(axis=0), engine="numpy") == (F4 + F4 + F4 + 16, F4 + 16 + F4)


def test_several_outputs_of_one_kernel_are_written_once_each():
    x = tensor(N)
    assert moved(x + 1, x * 2, engine="numpy") == (F4, 2 * F4)


def test_dtypes_count_their_width():
    x = tensor(N, np.float64)
    assert moved(x > 0) == (8 * N, N)
    assert moved(x.astype(np.float16)) == (8 * N, 2 * N)
    assert moved(tensor(N, np.complex128) * 2) == (16 * N, 16 * N)


@pytest.mark.parametrize(
    ("build", "written", "flops"),
    [
        (lambda x: x.sum(), 4, N),
        (lambda x: x.sum(axis=0), 400, N),
        (lambda x: x.max(axis=1, keepdims=True), 40, N),
        (lambda x: x.argmax(), 8, N),
        (lambda x: fg.all(x, axis=1), 10, N),
    ],
)
def test_reductions(build, written, flops):
    cost = fg.plan(build(tensor((10, 100)))).cost
    assert (cost.bytes_read, cost.bytes_written, cost.flops) == (F4, written, flops)


@pytest.mark.parametrize(
    ("left", "right", "multiplications"),
    [
        ((20, 30), (30, 40), 20 * 30 * 40),
        ((30,), (30, 40), 30 * 40),
        ((20, 30), (30,), 20 * 30),
        ((30,), (30,), 30),
        ((5, 20, 30), (5, 30, 40), 5 * 20 * 30 * 40),
        ((5, 20, 30), (30, 40), 5 * 20 * 30 * 40),
        ((2, 1, 20, 30), (3, 30, 40), 6 * 20 * 30 * 40),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_matrix_products(left, right, multiplications, dtype):
    a, b = tensor(left, dtype), tensor(right, dtype)
    product = a @ b
    cost = fg.plan(product).cost
    assert cost.flops == 2 * multiplications
    assert cost.bytes_read == (np.prod(left) + np.prod(right)) * a.dtype.itemsize
    assert cost.bytes_written == np.prod(product.shape, dtype=int) * a.dtype.itemsize


def test_a_product_of_a_matrix_with_itself_reads_it_once():
    x = tensor((50, 50))
    assert moved(x @ x) == (50 * 50 * 4, 50 * 50 * 4)
    assert moved(x @ x.T) == (50 * 50 * 4, 50 * 50 * 4)


# --- columns of their own -------------------------------------------------------------------------


def test_first_touch_is_what_a_pool_of_released_buffers_maps():
    #  k0 -> t0 -> k1 -> t1 -> k2 -> t2: t2 takes the memory of t0, which nobody needs any more
    x, w = tensor((50, 50)), tensor((50, 50))
    plan = fg.plan(x @ w @ w @ w, fuse=False)
    each = 50 * 50 * 4
    assert [k.cost.bytes_first_touch for k in plan.kernels] == [each, each, 0]
    assert plan.cost.bytes_first_touch == 2 * each
    assert plan.cost.bytes_moved == 3 * (2 * each + each)


def test_first_touch_is_no_part_of_the_bytes_moved():
    cost = Cost(bytes_read=10, bytes_written=20, bytes_reread=400, bytes_first_touch=8000)
    assert cost.bytes_moved == 30


def test_tiles_read_again_in_a_column_of_their_own():
    a, b = tensor((600, 600), np.int64), tensor((600, 600), np.int64)
    plan = fg.plan(a @ b)
    (kernel,) = plan.kernels
    assert kernel.schedule == "tiles"
    assert kernel.cost.bytes_read == 2 * 600 * 600 * 8
    assert kernel.cost.bytes_reread > 0
    small = fg.plan(tensor((8, 8), np.int64) @ tensor((8, 8), np.int64))
    assert small.cost.bytes_reread == 0


def test_costs_add_column_by_column():
    a = Cost(1, 2, 3, 4, 5, 6, {"add": 5})
    b = Cost(10, 20, 30, 40, 50, 60, {"add": 20, "divide": 30})
    assert a + b == total([a, b]) == Cost(11, 22, 33, 44, 55, 66, {"add": 25, "divide": 30})
    assert total([]) == Cost()


def test_nothing_moved_is_no_division_by_zero():
    assert Cost().arithmetic_intensity == 0.0
    assert Traffic(Cost(), Cost()).ratio == 1.0


# --- memory ---------------------------------------------------------------------------------------


def floats(*shape):
    return np.linspace(0.5, 1.5, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def integers(*shape):
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape) * 2**40


def gelu_of(x):
    return [fg.gelu(fg.Tensor(x))]


def softmax_of(x):
    return [fg.softmax(fg.Tensor(x), axis=-1)]


def layer_of(x, w, b):
    return [fg.gelu(fg.Tensor(x) @ fg.Tensor(w) + fg.Tensor(b))]


def product_of(a, b):
    return [fg.Tensor(a) @ fg.Tensor(b)]


def outputs_of(x):
    x = fg.Tensor(x)
    return [fg.exp(x), x * 2, (x + 1).sum(axis=0), fg.sqrt(x) @ x.T]


def column_sums_of(x):
    t = fg.Tensor(x)
    return [(t * t).sum(0)]


def statistics_of(x):
    x = fg.Tensor(x)
    return [(x - x.mean()) / (x.std() + 1), x.var(axis=1)]


def transposed_of(x):
    x = fg.Tensor(x)
    return [(x.T * 2 + x).reshape(-1) + 1]


def joined_of(x):
    x = fg.Tensor(x)
    return [fg.concatenate([fg.exp(x), x * 2], axis=1) + 1]


def weighted_of(x):
    x = fg.Tensor(x)
    return [(fg.softmax(x, axis=-1) * x).sum(axis=-1)]


def attention_of(q, k, v):
    q, k, v = (fg.Tensor(x) for x in (q, k, v))
    return [fg.softmax(q @ fg.matrix_transpose(k), axis=-1) @ v]


def scaled_rows_of(x, w):
    x = fg.Tensor(x) * fg.Tensor(w)
    e = x - x.max(axis=-1, keepdims=True)
    return [e / ((e * e).sum(axis=-1, keepdims=True) + 1)]


def many_of(x, b):
    x, b = fg.Tensor(x), fg.Tensor(b)
    return [(x + b) * float(n + 2) for n in range(40)]


def doubles(*shape):
    return floats(*shape).astype(np.float64)


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    raw[...] = array
    return raw


def ratio_of(a, b):
    a, b = fg.Tensor(a), fg.Tensor(b)
    return [a / (a * b).sum(axis=-1, keepdims=True) + b]


def chosen_of(a, b):
    a, b = fg.Tensor(a), fg.Tensor(b)
    return [fg.where(a > b, a, b)]


def mixed_of(a, b):
    a, b = fg.Tensor(a), fg.Tensor(b)
    return [a * b + a]


def summed_wider_of(x):
    return [fg.sum(fg.Tensor(x) * x, axis=0, dtype="c16")]


def assigned_of(x, at):
    t = fg.Tensor(x)
    t[:, at] = t[at[:500], 0][:, None]
    return t


MEMORY = {
    "long rows": (softmax_of, [floats(60, 8000)]),
    "weighted rows": (weighted_of, [floats(500, 8000)]),
    "attention": (attention_of, [floats(300, 64), floats(700, 64), floats(700, 64)]),
    "heads": (attention_of, [floats(6, 100, 32) for _ in range(3)]),
    "fortran attention": (
        attention_of,
        [np.asfortranarray(floats(300, 64)), floats(700, 64), np.asfortranarray(floats(700, 64))],
    ),
    "gelu": (gelu_of, [floats(1_000_000)]),
    "softmax": (softmax_of, [floats(1000, 1000)]),
    "short rows": (softmax_of, [floats(100_000, 10)]),
    "every second short row": (softmax_of, [floats(200_000, 10)[::2]]),
    "short rows of a wider array": (softmax_of, [floats(100_000, 12)[:, 1:11]]),
    "short rows turned": (softmax_of, [np.asfortranarray(floats(100_000, 10))]),
    "short rows backwards": (softmax_of, [floats(100_000, 10)[:, ::-1]]),
    "two operands of short rows": (ratio_of, [floats(200_000, 8)[::2] for _ in range(2)]),
    "a row beside that does not lie dense": (scaled_rows_of, [floats(2666, 300), floats(600)[::2]]),
    "every second axis broadcast": (
        scaled_rows_of,
        [doubles(40, 40, 40, 20), doubles(40, 1, 40, 1)],
    ),
    "layer": (layer_of, [floats(512, 256), floats(256, 512), floats(512)]),
    "float16 product": (product_of, [floats(700, 600).astype("f2"), floats(600, 500).astype("f2")]),
    "int64 product": (product_of, [integers(500, 600), integers(600, 400)]),
    "int64 product in one tile": (product_of, [integers(100, 100), integers(100, 100)]),
    "batched int32 product": (
        product_of,
        [integers(4, 150, 150).astype("i4"), integers(150, 150).astype("i4")],
    ),
    "bool product": (product_of, [floats(400, 400) > 1, floats(400, 400) > 1]),
    "several outputs": (outputs_of, [floats(600, 600)]),
    "complex sums of columns": (column_sums_of, [doubles(4, 300_000).astype("c8")]),
    "many partial sums of columns": (column_sums_of, [np.ones((20_000, 2000), "i1")]),
    "statistics": (statistics_of, [floats(1000, 800)]),
    "transposed": (transposed_of, [floats(900, 900)]),
    "joined": (joined_of, [floats(700, 700)]),
    "small": (gelu_of, [floats(100)]),
    "a sum in a wider dtype": (summed_wider_of, [floats(100_000, 30)]),
    "truths summed in a wider dtype": (summed_wider_of, [floats(100_000, 30) > 1]),
    "strided product": (product_of, [floats(600, 800)[:, ::2], floats(800, 600)[::2, ::2]]),
    "chosen among": (chosen_of, [floats(600, 800), floats(600, 800)]),
    "chosen among doubles that do not lie dense": (
        chosen_of,
        [doubles(600, 800)[:, ::2], np.asfortranarray(doubles(600, 400))],
    ),
    "means of what is chosen": (
        lambda a, b: [chosen_of(a, b)[0].mean(axis=-1)],
        [doubles(600, 800)[:, ::2], doubles(600, 400)],
    ),
    "integers and floats": (mixed_of, [integers(600, 800).astype("i4"), floats(600, 800)]),
    "complex beside integers that do not lie dense": (
        mixed_of,
        [floats(600, 400).astype("c8"), integers(600, 800)[:, ::2]],
    ),
    "a row beside Fortran order": (
        lambda a, b: [fg.minimum(fg.Tensor(a), b)],
        [doubles(1, 1000).astype("c16"), np.asfortranarray(doubles(300, 1000).astype("c16"))],
    ),
    "bytes taken by int32 places": (
        lambda x, at: [fg.take(x, at)],
        [floats(400_000)[::2].astype("i1"), integers(200_000).astype("i4") % 9],
    ),
    "bytes indexed by int32 places": (
        lambda x, at: [fg.Tensor(x)[at, at]],
        [floats(500, 400).astype("i1"), integers(200_000).astype("i4") % 9],
    ),
    "bytes taken along an axis by int32 places": (
        lambda x, at: [fg.take_along_axis(x, at, 0)],
        [floats(500, 400).astype("i1"), integers(500, 400).astype("i4") % 9],
    ),
    "bytes assigned at int32 places": (
        lambda x, at: [assigned_of(x, at)],
        [floats(500, 400).astype("i1"), integers(200_000).astype("i4") % 9],
    ),
    "halves sorted": (
        lambda x: [fg.sort(x, axis=0)],
        [np.where(floats(500, 400) > 0, np.nan, -0.0).astype("f2")],
    ),
    "searched where nothing lies dense": (
        lambda x, at: [fg.searchsorted(x, at)],
        [np.arange(2000.0)[::2], np.asfortranarray(doubles(500, 400).astype("c16"))],
    ),
    "cumulative sums in a wider dtype": (
        lambda x: [fg.cumulative_sum(x, axis=0)],
        [floats(500, 400).astype("i1")],
    ),
}


@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize("engine", ["auto", *ELEMENTWISE_ENGINES])
@pytest.mark.parametrize(("build", "arrays"), MEMORY.values(), ids=MEMORY)
def test_peak_bytes_bounds_what_is_allocated(build, arrays, engine, threads):
    """tracemalloc sees every buffer of NumPy; the pool is emptied, so nothing is there before."""
    with fg.options(engine=engine, threads=threads):
        fg.compute(*build(*arrays))  # threads, imports and the BLAS are set up once
        plan = fg.plan(*build(*arrays))
        fg.clear_caches()
        BUFFER.grow(32 << 10)  # scratch of compiled jobs, which would be there from before
        gc.collect()
        tracemalloc.start()
        try:
            results = plan.run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak <= plan.peak_bytes
    assert plan.peak_bytes >= sum(result.nbytes for result in results)


COPIED = {
    "rows that are not aligned": (softmax_of, [unaligned(floats(2666, 300))]),
    "rows turned": (softmax_of, [np.asfortranarray(floats(20_000, 50))]),
    "many results of short rows": (many_of, [doubles(2000, 255), doubles(2000, 1)]),
}


@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize(("build", "arrays"), COPIED.values(), ids=COPIED)
def test_peak_bytes_bounds_what_compiled_code_copies(build, arrays, threads):
    """NumPy's calls have buffers of their own for some of these, which no plan counts."""
    test_peak_bytes_bounds_what_is_allocated(build, arrays, "llvm", threads)


def test_peak_bytes_counts_results_and_what_a_kernel_needs_at_once():
    x = tensor((256, 256))  # 262,144 bytes
    each, overhead = 4 * 256 * 256, fg.plan(x).peak_bytes
    assert fg.plan(x @ x, engine="numpy").peak_bytes == each + overhead
    assert fg.plan(x @ x @ x, engine="numpy").peak_bytes == 2 * each + overhead
    assert fg.plan(x @ x @ x @ x, engine="numpy").peak_bytes == 2 * each + overhead


def test_peak_bytes_of_panels_counts_their_scratch():
    """The last two products share rows: one kernel, whose scratch stands beside x @ x and the result."""
    x = tensor((256, 256))
    plan = fg.plan(x @ x @ x @ x, engine="auto")
    assert [kernel.schedule for kernel in plan.kernels] == ["whole", "panels"]
    assert plan.kernels[0].scratch_bytes == 0 < plan.kernels[1].scratch_bytes
    scratch = max(map(most_scratch, plan.kernels))  # of compiled forms, which pack the right side
    assert plan.peak_bytes == 2 * 4 * 256 * 256 + scratch + fg.plan(x).peak_bytes


@pytest.mark.parametrize("name", ["compute", "jit"])
def test_a_plan_over_the_limit_is_refused_before_it_runs(name, monkeypatch):
    x = np.ones((500, 500), np.float32)
    ran = []
    monkeypatch.setattr("fusegraph.execute.Program.run", lambda *_: ran.append(1))

    def layer(a):
        return fg.exp(a @ a) + 1

    call = (
        (lambda: fg.compute(layer(fg.Tensor(x)), memory_limit=1_000_000))
        if name == "compute"
        else (lambda: fg.jit(layer, memory_limit=1_000_000)(x))
    )
    with pytest.raises(fg.MemoryLimitError) as caught:
        call()
    plan = caught.value.plan
    assert not ran
    assert plan.peak_bytes > 1_000_000
    message = str(caught.value)
    assert f"kernel {plan.plan.peak_kernel} brings the plan to {plan.peak_bytes:,} bytes" in message
    assert "memory_limit is 1,000,000" in message
    assert plan.plan.peak_kernel == "k1"
    assert str(plan).startswith("plan: 3 ops in 2 kernels")
    assert isinstance(caught.value, MemoryError)


def test_a_plan_at_the_limit_runs():
    x = np.full((500, 500), 0.125, np.float32)
    graph = fg.exp(fg.Tensor(x) @ fg.Tensor(x))
    limit = fg.plan(graph).peak_bytes
    np.testing.assert_array_max_ulp(fg.compute(graph, memory_limit=limit), np.exp(x @ x), maxulp=4)
    with pytest.raises(fg.MemoryLimitError):
        fg.compute(fg.exp(fg.Tensor(x) @ fg.Tensor(x)), memory_limit=limit - 1)
