"""Fusion: for each graph its kernels, its bytes, its reasons and its values.

Every case draws its graph, names the kernels expected (as operations, in order) and the reasons of the
edges that stay cut. Bytes are counted by hand: ``reads`` and ``writes`` are arrays of the case's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.engines.numexpr import MAX_INPUTS
from fusegraph.reference import evaluate
from fusegraph.units import Reason

N = 64


def arrays(count: int) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(7)
    return [rng.uniform(0.1, 2.0, (N, N)).astype(np.float32) for _ in range(count)]


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[..., Any]  # tensors -> tensor or tuple of tensors
    inputs: int
    kernels: list[list[str]]  # operations of each kernel, in order
    reads: float  # arrays of N x N read, all kernels
    writes: float
    reasons: list[tuple[str, str]] = field(default_factory=list)  # (producer op, reason), cut edges
    engine: str = "numpy"


def diamond(x: Any) -> Any:
    #      x           k0: exp, x+1 twice used, multiply
    #      |
    #     exp
    #    /   \          one kernel: the shared value stays in it
    #  +1     *2
    #    \   /
    #     mul
    e = fg.exp(x)
    return (e + 1) * (e * 2)


def leaves_and_comes_back(x: Any, w: Any) -> Any:
    #     exp ---------.        exp cannot be in one kernel with add: the path through
    #      |            \       matmul leaves and comes back, so exp is stored once
    #    matmul ------- add     and the add reads it
    h = fg.exp(x)
    return h @ w + h


def residual(x: Any, w: Any) -> Any:
    #     exp --- mul 3 ---.    mul 3 joins the add, its only reader;
    #      |                \   exp stays: matmul needs it first
    #    matmul ----------- add
    h = fg.exp(x)
    return h @ w + h * 3


def expansion_order(x: Any, w: Any) -> Any:
    # Growing from the add first towards log must not swallow exp: exp -> matmul -> add comes back.
    #    exp -> log --.
    #     |            add -> tanh
    #    matmul ------'
    e = fg.exp(x)
    return fg.tanh(fg.log(e) + e @ w)


def joint_circular(x: Any, y: Any, w: Any) -> Any:
    # p could take in exp(y), q could take in exp(x); both at once would feed each other:
    #    a = exp(x) -> a @ w -> p = (a@w) * b      b = exp(y) -> b @ w -> q = (b@w) * a
    # One of them may: exp(y) is computed beside p, and a is stored for q.
    a, b = fg.exp(x), fg.exp(y)
    return (a @ w) * b, (b @ w) * a


def two_readers(x: Any) -> Any:
    # Both outputs read one value: one pass, two results.
    a = x * 2
    return a + 1, a * 3


def matmul_reads_too(x: Any, w: Any) -> Any:
    # exp(a) and a @ w read a: the kernel stores a beside exp(a), then the product runs.
    a = x * 2
    return fg.exp(a), a @ w


def row_to_matrix(x: Any) -> Any:
    # The row is computed once, not once for each of N rows.
    return x + fg.exp(x[0])


def softmax(x: Any) -> Any:
    return fg.softmax(x)


def adam(p: Any, m: Any, v: Any, g: Any) -> Any:
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * (g * g)
    return p - 0.001 * (m / 0.1) / (fg.sqrt(v / 0.001) + 1e-8), m, v


ADAM = [
    "multiply", "multiply", "add", "divide", "multiply", "multiply", "multiply", "multiply", "add",
    "divide", "sqrt", "add", "divide", "subtract",
]  # fmt: skip
GELU = ["multiply"] * 4 + ["add", "multiply", "tanh", "add", "multiply"]
ROW = 1 / N  # of an N x N array

CASES = [
    Case("chain", lambda x: fg.sqrt(x * 2 + 1), 1, [["multiply", "add", "sqrt"]], 1, 1),
    Case("gelu", fg.gelu, 1, [GELU], 1, 1),
    Case("one value twice", lambda x: x * x, 1, [["multiply"]], 1, 1),
    Case("diamond", diamond, 1, [["exp", "add", "multiply", "multiply"]], 1, 1),
    Case("two inputs", lambda x, y: x * y + y, 2, [["multiply", "add"]], 2, 1),
    Case("leaves and comes back", leaves_and_comes_back, 2, [["exp"], ["matmul"], ["add"]], 5, 3,
         [("exp", "kind"), ("exp", "convex"), ("matmul", "kind")]),
    Case("residual", residual, 2, [["exp"], ["matmul"], ["multiply", "add"]], 5, 3,
         [("exp", "kind"), ("exp", "convex"), ("matmul", "kind")]),
    Case("expansion order", expansion_order, 2, [["exp"], ["matmul"], ["log", "add", "tanh"]], 5, 3,
         [("exp", "convex"), ("exp", "kind"), ("matmul", "kind")]),
    Case("joint circular", joint_circular, 3,
         [["exp"], ["matmul"], ["exp", "multiply"], ["matmul"], ["multiply"]], 9, 6,
         [("exp", "kind"), ("exp", "convex"), ("matmul", "kind"), ("exp", "kind"),
          ("matmul", "kind")]),
    Case("two readers", two_readers, 1, [["multiply", "add", "multiply"]], 1, 2),
    Case("matmul reads too", matmul_reads_too, 2, [["multiply", "exp"], ["matmul"]], 3, 3,
         [("multiply", "kind")]),
    Case("siblings", lambda x: (fg.exp(x), fg.tanh(x)), 1, [["exp", "tanh"]], 1, 2),
    Case("no siblings", lambda x, y: (fg.exp(x), fg.tanh(y)), 2, [["exp"], ["tanh"]], 2, 2),
    Case("adam", adam, 4, [ADAM], 4, 3),
    Case("row to matrix", row_to_matrix, 1, [["exp"], ["add"]], 1 + 2 * ROW, 1 + ROW,
         [("exp", "shape")]),
    Case("softmax", softmax, 1, [["max", "subtract", "exp", "sum", "divide"]], 1, 1),
    Case("softmax of columns", lambda x: fg.softmax(x, axis=0), 1,
         [["max"], ["subtract", "exp"], ["sum"], ["divide"]], 4 + 2 * ROW, 2 + 2 * ROW,
         [("max", "kind"), ("exp", "kind"), ("exp", "convex"), ("sum", "kind")]),
    Case("slice", lambda x: fg.exp(x * 2)[:8], 1, [["multiply", "exp"]], 8 * ROW, 8 * ROW),
    Case("transpose", lambda x: fg.exp(x.T * 2).T, 1, [["multiply", "exp"]], 1, 1),
    Case("transpose of a stored value", lambda x, w: fg.exp((x @ w).T), 2, [["matmul"], ["exp"]], 3, 2,
         [("matmul", "kind")]),
    Case("a value and its transpose", lambda x: (e := fg.exp(x)) + e.T, 1, [["exp"], ["add"]], 2, 2,
         [("exp", "view")]),
    Case("reshape", lambda x: fg.exp(x.reshape(-1) * 2).reshape(N, N), 1, [["multiply", "exp"]], 1, 1),
    Case("reshape of a transpose copies", lambda x: x.T.reshape(-1), 1, [["astype"]], 1, 1),
    Case("zeros cost nothing", lambda x: x + fg.zeros((N, N), np.float32), 1, [["add"]], 1, 1),
    Case("numexpr writes one output", two_readers, 1,
         [["multiply", "add"], ["multiply", "multiply"]], 2, 2,  # the first is made again
         engine="numexpr"),
    Case("numexpr writes one output, of a function", lambda x: ((y := fg.sin(x)) + 1, y * 3), 1,
         [["sin"], ["add"], ["multiply"]], 3, 3,
         [("sin", "limit"), ("sin", "limit")], engine="numexpr"),
    Case("numexpr adam", adam, 4,
         [["multiply", "multiply", "add"], ["multiply", "multiply", "multiply", "add"],
          ["divide", "multiply", "divide", "sqrt", "add", "divide", "subtract"]], 7, 3,
         [("add", "limit"), ("add", "limit")], engine="numexpr"),
    Case("numexpr refuses one op", lambda x: fg.sqrt(fg.cbrt(x * 2) + 1), 1,
         [["multiply"], ["cbrt"], ["add", "sqrt"]], 3, 3,
         [("multiply", "engine"), ("cbrt", "engine")], engine="numexpr"),
]  # fmt: skip


def built(case: Case) -> tuple[list[Any], list[Any]]:
    tensors = [fg.asarray(a) for a in arrays(case.inputs)]
    result = case.build(*tensors)
    return list(result) if isinstance(result, tuple) else [result], tensors


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_kernels_bytes_reasons_values(case: Case) -> None:
    outputs, _ = built(case)
    plan = fg.plan(*outputs, engine=case.engine, verify=True)
    assert [list(k.ops) for k in plan.kernels] == case.kernels
    array_bytes = N * N * 4
    assert plan.cost.bytes_read == case.reads * array_bytes
    assert plan.cost.bytes_written == case.writes * array_bytes
    cut = [(d.producer.op.name, str(d.reason)) for d in plan.decisions if not d.fused]
    assert cut == case.reasons
    expected = evaluate([t.node for t in outputs])
    for got, reference in zip(plan.run(), expected, strict=True):
        assert (got.dtype, got.shape) == (reference.dtype, reference.shape)
        if case.engine == "numpy":
            np.testing.assert_array_equal(got, reference)
        else:
            np.testing.assert_array_max_ulp(got, reference, maxulp=4)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_unfused_runs_every_operation_alone(case: Case) -> None:
    outputs, _ = built(case)
    plan = fg.plan(*outputs, engine="numpy", fuse=False)
    assert all(len(k.ops) == 1 for k in plan.kernels)
    assert {d.reason for d in plan.decisions} <= {Reason.FUSION_OFF}
    for got, reference in zip(plan.run(), evaluate([t.node for t in outputs]), strict=True):
        np.testing.assert_array_equal(got, reference)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_cut_edge_has_a_decision_with_its_bytes(case: Case) -> None:
    outputs, _ = built(case)
    plan = fg.plan(*outputs, engine=case.engine)
    for decision in plan.decisions:
        assert isinstance(decision.reason, Reason)
        assert decision.fused == (decision.reason in (Reason.FUSED, Reason.RECOMPUTED))
        assert decision.bytes == (0 if decision.fused else decision.producer.nbytes)
        assert decision.fused or decision.detail


@pytest.mark.parametrize("engine", ["auto", "numpy", "numexpr"])
@pytest.mark.parametrize(
    "activation",
    [fg.sigmoid, fg.silu, fg.relu, fg.gelu, fg.softplus, fg.mish, fg.hardswish],
    ids=lambda f: f.__name__,
)
def test_an_activation_is_one_kernel_on_every_engine(activation: Any, engine: str) -> None:
    (x,) = arrays(1)
    plan = fg.plan(activation(fg.asarray(x - 1)), engine=engine)
    assert len(plan.kernels) == 1
    assert (plan.cost.bytes_read, plan.cost.bytes_written) == (x.nbytes, x.nbytes)
    assert engine in ("auto", plan.kernels[0].engine)


@pytest.mark.parametrize("engine", ["auto", "numpy", "numexpr"])
def test_a_chain_of_200_operations_is_one_kernel(engine: str) -> None:
    (x,) = arrays(1)
    t = fg.asarray(x)
    for step in range(200):
        t = t * 0.5 if step % 2 else t + 1.0
    plan = fg.plan(t, engine=engine)
    assert [len(k.ops) for k in plan.kernels] == [200]


def test_limits_cut_in_as_few_pieces_as_they_permit_and_are_named() -> None:
    tensors = [fg.asarray(a) for a in arrays(2 * MAX_INPUTS)]
    total = tensors[0]
    for t in tensors[1:]:
        total = total + t
    plan = fg.plan(total, engine="numexpr")
    assert len(plan.kernels) == 3  # 126 inputs, and the two values between the pieces
    cut = [d for d in plan.decisions if not d.fused]
    assert [str(d.reason) for d in cut] == ["limit", "limit"]
    assert all(f"at most {MAX_INPUTS} inputs" in d.detail for d in cut)
    assert len(fg.plan(total, engine="numpy").kernels) == 1
    np.testing.assert_array_equal(plan.run()[0], evaluate([total.node])[0])


def test_registers_are_counted_while_the_region_grows() -> None:
    (x,) = arrays(1)
    t = fg.asarray(x)
    terms = [fg.sqrt(t * float(n)) for n in range(2, 302)]  # 300 constants, 255 registers
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    plan = fg.plan(total, engine="numexpr")
    assert len(plan.kernels) == 2
    assert "255 registers" in next(d.detail for d in plan.decisions if not d.fused)
    np.testing.assert_array_equal(plan.run()[0], evaluate([total.node])[0])


def test_a_deep_diamond_stays_linear() -> None:
    t = fg.asarray(np.full(8, 2.0**-200))
    for _ in range(200):
        t = t + t
    for engine in ("numpy", "numexpr"):
        plan = fg.plan(t, engine=engine)
        assert [len(k.ops) for k in plan.kernels] == [200]
        np.testing.assert_array_equal(plan.run()[0], np.ones(8))
    assert len(plan.kernels[0].expression) < 200 * 20


def test_equal_expressions_are_one_node() -> None:
    (x,) = arrays(1)
    t = fg.asarray(x)
    assert (t * 2 + 1).node is (fg.asarray(x) * 2 + 1).node
    assert (t * 0.0).node is not (t * -0.0).node
    doubled = fg.exp(t) + fg.exp(t)
    assert [list(k.ops) for k in doubled.plan().kernels] == [["exp", "add"]]


def test_why_answers_for_tensors_and_for_names() -> None:
    x, w = (fg.asarray(a) for a in arrays(2))
    h = fg.exp(x)
    product = h @ w
    out = product + h * 3
    plan = out.plan(engine="numpy")
    apart = plan.why(h, out)
    assert not apart.fused
    assert {d.reason for d in apart.decisions} <= {"convex", "kind"}
    assert plan.why(product, out).decisions[0].reason == "kind"
    assert plan.why("t0", "t1").kernels == ("k0", "k1")
    assert plan.why(h * 3, out).fused
    assert "k2" in str(plan.why(h * 3, out))
    with pytest.raises(KeyError, match="no value or kernel named 'nothing'"):
        plan.why("nothing", "t0")
    with pytest.raises(KeyError, match="not in the plan"):
        plan.why(fg.asarray(np.ones(3)) * 5, out)
    with pytest.raises(TypeError, match=r"why: takes tensors of the plan or names .* not ndarray"):
        plan.why(np.ones(3), out)


def test_why_sees_through_views() -> None:
    """The plan said ``t0 -> k1: view``, and ``why`` that the two do not depend on each other."""
    x = fg.asarray(np.ones(100))
    a = fg.exp(x)
    b = fg.sin(a[1:])
    plan = fg.plan(a, b, engine="numpy")
    for pair in ((a, b), (b, a), (a[1:], b), ("t0", "t1")):
        answer = plan.why(*pair)
        assert [(d.producer, d.kernel, d.reason) for d in answer.decisions] == [
            ("t0", "k1", "view")
        ]
        assert str(answer).startswith("t0 is stored before k1 reads it: view: ")
    assert plan.why(a, a[1:]).fused
    for pair in ((x, a), (a, x)):
        assert str(plan.why(*pair)) == "v0 is an input: it is stored already"
    apart = fg.plan(a, b, fg.cos(fg.asarray(np.ones(7))), engine="numpy").why("t0", "t2")
    assert "do not depend on each other" in str(apart)


def test_why_says_what_is_made_again() -> None:
    """An edge whose value two kernels make is no path without cuts."""
    x = fg.asarray(np.ones((1000, 1000)))
    mean = x.mean()
    d = x - mean
    out = d / (d * d).mean()
    plan = out.plan(engine="numpy")
    answer = plan.why(d, out)
    assert [d.reason for d in answer.decisions] == ["recomputed"]
    assert f"made again where {answer.kernels[1]} reads it: recomputed: 1 operation" in str(answer)
    assert str(plan.why(mean, d)).startswith("t1 is stored before k2 reads it: shape: ")
    assert "t1.squeeze and t1.squeeze are both" in str(plan.why(mean, mean))


@pytest.mark.slow
def test_a_quarter_million_operations_build_plan_print_and_are_freed() -> None:
    """Recursion would end at a thousand, and a quadratic pass take hours."""
    t = fg.asarray(np.ones(4))
    for step in range(250_000):
        t = t * 0.5 if step % 2 else t + 0.5
    plan = t.plan()
    assert len(plan.kernels) == 1
    assert "250,000 ops in 1 kernel" in str(plan)
    assert repr(t).endswith("250000 ops pending)")
    del t, plan
