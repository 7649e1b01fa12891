"""Rewriting: every rule fires on its example, stays quiet on its counter-example, keeps values."""

from __future__ import annotations

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.graph import GraphError, topological
from fusegraph.ops import REDUCTIONS
from fusegraph.reference import evaluate
from fusegraph.rewrite import MAX_WRITTEN_OUT, rewrite
from fusegraph.rules import RULES
from fusegraph.views import view_shape

SPECIAL = np.array([0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 5e-324, 1e308])
COMPLEX = np.array([complex(a, b) for a in SPECIAL[:7] for b in SPECIAL[:7]])
INTS = np.array([0, 1, -1, 7, 2**62, -(2**63)])
BOOLS = np.array([True, False])
F, C, I, B = (fg.asarray(x) for x in (SPECIAL, COMPLEX, INTS, BOOLS))  # noqa: E741
F2 = fg.asarray(np.arange(18.0).reshape(2, 9))
ONE = fg.asarray(1)

FIRES = {
    "fold-constants": (F + fg.exp(fg.asarray(2.0)), F * (fg.asarray(2) + 3)),
    "drop-broadcast": (F2 + fg.broadcast_to(F, (2, 9)), F2 * fg.zeros((2, 9))),
    "multiply-by-one": (F * 1, 1.0 * F, I * 1, F.astype("f4") * 1.0),
    "divide-by-one": (F / 1, F / 1.0),
    "power-of-one": (F**1, I**1),
    "add-zero": (I + 0, 0 + I, F + -0.0, -0.0 + F),
    "subtract-zero": (F - 0.0, I - 0, F - 0),
    "double-negation": (fg.negative(-F), fg.negative(-I), ~(~I), ~(~B)),
    "double-conjugate": (fg.conj(fg.conj(C)),),
    "idempotent": (abs(abs(F)), fg.floor(fg.floor(F)), fg.ceil(fg.ceil(F)), fg.trunc(fg.trunc(F)),
                   fg.rint(fg.rint(F))),
    "positive": (+F, +I),
    "cast-to-same": (fg.where(B[:1], F, F).astype("f8"),),
    "cast-back": (F.astype("f4").astype("f8").astype("f4"),
                  I.astype("i4").astype("i8").astype("i4")),
    "same-branches": (fg.where(F > 0, F, F),),
    "integer-power": (I**2, I**3, I**4),
    "small-power": (F**3, F**4),
    "drop-squeeze": (F2 - F2.max(axis=0), F / F.sum(), F2 * F2.mean(axis=0)),
    "lift-squeeze": (F2.sum(axis=1) * 2.0, fg.sqrt(F2.sum(axis=0)), F2.max(-1) - F2.min(-1),
                     F2.sum(-1) + fg.asarray(np.ones(2))),
}  # fmt: skip
QUIET = {
    "fold-constants": (F + 2.0,),
    "drop-broadcast": (F + 1, fg.broadcast_to(F, (2, 9)) + F, fg.broadcast_to(F, (2, 9)) * 2),
    "multiply-by-one": (C * 1, C * True, C * np.float64(1), F * -1, I * 1.0, F * 1.0000001,
                        fg.asarray(BOOLS) * ONE, F2[0, 0] * fg.asarray(np.ones((3, 3)))),
    "divide-by-one": (C / 1, I / 1, 1 / F, C / True),
    "power-of-one": (C**1, F**1.5, 1**F),
    "add-zero": (F + 0.0, F + 0, 0.0 + F, C + 0, C + np.int64(0), C + -0.0, I + 0.0),
    "subtract-zero": (F - -0.0, 0.0 - F, C - 0, I - 0.0),
    "double-negation": (-(~I), ~(-I), -abs(-F)),
    "double-conjugate": (fg.conj(C),),
    "idempotent": (abs(fg.floor(F)), fg.floor(fg.ceil(F)), abs(C)),
    "positive": (-F,),
    "cast-to-same": (F.astype("f4"),),
    "cast-back": (F.astype("f4").astype("f8"), I.astype("f8").astype("i8"),
                  F.astype("i8").astype("f8"),
                  C.real.astype("f4").astype("c8")),
    "same-branches": (fg.where(F > 0, F, -F), fg.where(F > 0, F, F.astype("f4"))),
    "integer-power": (I**5, I**0, F**2.5, I**2.0),
    "small-power": (F**5, F**2.5, F**-3, C**3, F ** np.float32(3.5)),
    "drop-squeeze": (F2.sum(axis=1) * 2.0, F2.squeeze() + F2, F - F2.sum()),
    "lift-squeeze": (F2 - F2.max(axis=0), F2.squeeze() * 2, F2.sum(-1) + F2.sum(-2)[:2],
                     fg.asarray(np.ones((5, 2))) - F2.sum(-1)),
}  # fmt: skip


def rewritten(tensor, ulp=True):
    return rewrite([tensor.node], ulp)


def fired(tensor, ulp=True):
    return [f.rule for f in rewritten(tensor, ulp).fired]


def examples(table):
    return [
        pytest.param(name, at, id=f"{name}-{at}")
        for name, tensors in table.items()
        for at in range(len(tensors))
    ]


def test_every_rule_has_an_example_and_a_counter_example():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert set(FIRES) == set(QUIET) == set(names)


@pytest.mark.parametrize(
    ("name", "at"), [e for e in examples(FIRES) if e.values[0] != "cast-to-same"]
)
def test_rule_fires(name, at, assert_same, assert_close):
    tensor = FIRES[name][at]
    result = rewritten(tensor)
    assert name in [f.rule for f in result.fired]
    (before,), (after,) = evaluate([tensor.node]), evaluate(result.outputs)
    assert_close(after, before, 2 if name == "small-power" else 0, name)


def test_a_cast_to_the_same_dtype_is_a_copy_that_a_chain_does_not_make():
    assert F.astype("f8", copy=False) is F
    assert F.astype("f8").plan().plan.op_count == 1
    (kernel,) = (F.astype("f8") + 1).plan().kernels
    assert kernel.ops == ("add",)


@pytest.mark.parametrize(("name", "at"), examples(QUIET))
def test_rule_stays_quiet(name, at, assert_same):
    tensor = QUIET[name][at]
    assert name not in fired(tensor)
    with fg.options(engine="numpy"):
        assert_same((tensor + 0).T.T.compute(), evaluate([(tensor + 0).node])[0])


@pytest.mark.parametrize(("name", "at"), examples(FIRES) + examples(QUIET))
def test_exact_rewriting_keeps_every_bit(name, at, assert_same):
    for table in (FIRES, QUIET):
        for tensor in table[name][at : at + 1]:
            (before,) = evaluate([tensor.node])
            result = rewritten(tensor, ulp=False)
            assert (result.outputs[0].dtype, result.outputs[0].shape) == (
                tensor.dtype,
                tensor.shape,
            )
            assert_same(evaluate(result.outputs)[0], before, name)


def test_rules_that_move_last_bits_are_left_out_where_bits_are_promised():
    assert "small-power" in fired(F**3, ulp=True)
    assert "small-power" not in fired(F**3, ulp=False)
    assert {rule.name for rule in RULES if rule.numeric == "ulp"} == {"small-power"}


# --- views are pushed to the leaves ---------------------------------------------------------------

T = fg.asarray(np.linspace(-2, 2, 24).reshape(2, 3, 4))
ROW = fg.asarray(np.arange(4.0))
PUSHED = {
    "slice": ((T * 2 + 1)[0], ["add", "multiply"]),
    "slice of broadcast": ((T + ROW)[:, 1, ::-1], ["add"]),
    "permute": ((T * 2).T, ["multiply"]),
    "permute of broadcast": ((T + ROW).T, ["add"]),
    "expand": ((T * 2)[:, None], ["multiply"]),
    "squeeze": ((T[:1] * 2).squeeze(0), ["multiply"]),
    "reshape": ((T * 2 + 1).reshape(6, 4), ["add", "multiply"]),
    "chain": ((T * 2 + 1)[::-1].T.reshape(4, 6)[1:], None),
}


@pytest.mark.parametrize("name", PUSHED)
def test_views_are_pushed_through_elementwise_ops(name, assert_same):
    tensor, ops = PUSHED[name]
    result = rewritten(tensor)
    if ops is not None:
        root = result.outputs[0]
        assert root.kind == "elementwise"
        assert [n.op.name for n in topological([root]) if n.kind == "elementwise"][::-1] == ops
        assert all(
            n.inputs[0].kind in ("view", "input", "const")
            for n in topological([root])
            if n.kind == "view"
        )
    assert_same(evaluate(result.outputs)[0], evaluate([tensor.node])[0])


def test_views_stay_outside_where_they_would_compute_more():
    for tensor in (
        fg.broadcast_to(ROW * 2, (5, 4)),
        (T + ROW).reshape(6, 4),
        (fg.asarray(2.5) * fg.asarray(np.array(3.0)))[None],
    ):
        assert rewritten(tensor).outputs[0].kind == "view"


def test_a_value_needed_twice_is_not_computed_twice():
    shared = T * 2
    result = rewrite([(shared[0] + 1).node, shared.node], ulp=False)
    multiplies = [n for n in topological(result.outputs) if n.op.name == "multiply"]
    assert len(multiplies) == 1


def test_zero_dimensional_values_keep_the_shape_of_their_view(assert_same):
    """Once a graph error: nothing was left to give the result its shape."""
    x = fg.asarray(np.array(2.5))
    assert_same((x + 1)[..., None].compute(), np.array([3.5]))
    assert_same(fg.broadcast_to(x + 1, (2, 3)).compute(), np.full((2, 3), 3.5))


# --- narrow reductions ----------------------------------------------------------------------------


def narrow(width, dtype):
    rng = np.random.default_rng(width)
    if dtype == "?":
        return rng.random((200, width)) < 0.7
    if dtype[0] == "i":
        return rng.integers(-9, 9, (200, width)).astype(dtype)
    x = rng.standard_normal((200, width)).astype(dtype)
    for value, share in ((-0.0, 0.4), (np.nan, 0.02), (np.inf, 0.02)):
        x[rng.random(x.shape) < share] = value
    x[0] = -0.0
    return x


@pytest.mark.parametrize("name", [op.name for op in REDUCTIONS if op.combines])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "?"])
@pytest.mark.parametrize("width", range(2, MAX_WRITTEN_OUT + 2))
def test_narrow_reductions_are_written_out_with_numpys_bits(width, dtype, name, assert_same):
    x = narrow(width, dtype)
    for keepdims in (False, True):
        t = getattr(fg, name)(fg.asarray(x), axis=-1, keepdims=keepdims)
        kinds = {n.kind for n in topological(rewritten(t).outputs)}
        same_dtype = t.dtype == x.dtype
        assert ("reduce" in kinds) == (width > MAX_WRITTEN_OUT or not same_dtype)
        with np.errstate(all="ignore"):
            expected = getattr(np, name)(x, axis=-1, keepdims=keepdims)
        assert_same(t.compute(engine="numpy"), expected, f"{name} {width} {dtype}")


P = fg.asarray(np.arange(12.0).reshape(4, 3))


@pytest.mark.parametrize(
    "build",
    [
        lambda: [P / fg.sqrt((P * P).sum(axis=-1, keepdims=True))],  # P would be read twice
        lambda: [(P * 2).sum(axis=-1), P * 2],
        lambda: [P.sum(axis=0)],
        lambda: [P.sum()],
        lambda: [P.astype("f2").sum(axis=-1)],
        lambda: [P.argmax(axis=-1)],
    ],
)
def test_reductions_that_stay(build):
    result = rewrite([t.node for t in build()], ulp=True)
    assert any(n.kind == "reduce" for n in topological(result.outputs))
    assert "write-out-narrow" not in {f.rule for f in result.fired}


def test_a_written_out_distance_is_one_kernel_and_reads_its_points_once(assert_same):
    a, b = np.arange(30.0).reshape(10, 3), np.arange(24.0).reshape(8, 3) ** 1.5
    d = fg.asarray(a)[:, None] - fg.asarray(b)[None]
    t = fg.sqrt((d * d).sum(axis=-1))
    plan = t.plan()
    assert [k.schedule for k in plan.kernels] == ["strided"]
    assert (plan.cost.bytes_read, plan.cost.bytes_written) == (a.nbytes + b.nbytes, t.nbytes)
    assert [f.rule for f in plan.plan.rewritten.fired].count("write-out-narrow") == 1
    difference = a[:, None] - b[None]
    expected = np.sqrt((difference * difference).sum(axis=-1))
    assert_same(t.compute(), expected)


# --- the driver -----------------------------------------------------------------------------------


def test_deep_chains(assert_same):
    t = F
    for _ in range(5000):
        t = fg.negative(-(t * 1)) + -0.0
    result = rewritten(t)
    assert result.outputs == (F.node,)
    assert len(result.fired) > 10_000


def test_rewriting_twice_changes_nothing():
    for tensors in FIRES.values():
        for tensor in tensors:
            once = rewritten(tensor).outputs
            again = rewrite(once, ulp=True)
            assert again.outputs == once


def test_fired_rules_are_shown():
    text = (F * 1 + 2).plan().explain("rewritten")
    assert "multiply-by-one" in text


# --- the division of a softmax --------------------------------------------------------------------


def softmax_times(x, v):
    e = fg.exp(x - x.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)) @ v


def test_attention_divides_its_result_and_not_its_scores():
    """The weights are at most 1, so nothing overflows that did not before; NaN and infinities stay."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 30))
    x[3, 4], x[5, 5], x[6] = np.nan, -np.inf, -np.inf
    x[7, 0] = np.inf
    v = rng.standard_normal((30, 8))
    v[2, 2], v[9, 1] = np.inf, 1e308
    t = softmax_times(fg.asarray(x), fg.asarray(v))
    assert "divide-after-product" in {f.rule for f in rewritten(t).fired}
    (result,) = rewritten(t).outputs
    assert (result.op.name, result.inputs[0].op.name) == ("divide", "matmul")
    with np.errstate(all="ignore"):
        expected = t.compute(engine="numpy")
    for engine in ("auto", "llvm", "numexpr"):
        got = softmax_times(fg.asarray(x), fg.asarray(v)).compute(engine=engine)
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "value"), [("f4", 1e36), ("f8", 1e306), ("f2", 20.0)])
def test_nothing_overflows_that_did_not_before(dtype, value):
    """Once infinite: the sum of 4096 weights of 1 times the value, before it was divided."""
    x, v = np.zeros((64, 4096), dtype), np.full((4096, 8), value, dtype)
    for engine in ("auto", "llvm", "numpy"):
        got = softmax_times(fg.asarray(x), fg.asarray(v)).compute(engine=engine)
        np.testing.assert_allclose(got, np.full((64, 8), value, dtype), rtol=1e-3)


@pytest.mark.parametrize(
    "build",
    [
        lambda x, v: (fg.exp(x) / fg.exp(x).sum(axis=-1, keepdims=True)) @ v,  # may overflow
        lambda x, v: (x / x.sum(axis=-1, keepdims=True)) @ v,
        lambda x, v: fg.softmax(x, axis=0) @ v,
        lambda x, v: v.T @ fg.softmax(x).T,
    ],
)
def test_divisions_that_stay(build):
    x, v = fg.asarray(np.ones((6, 5))), fg.asarray(np.ones((5, 3)))
    result = rewrite([build(x, v).node], ulp=True)
    assert "divide-after-product" not in {f.rule for f in result.fired}


@pytest.mark.parametrize("engine", ["auto", "llvm", "numexpr", "numpy"])
@pytest.mark.parametrize(
    ("left", "right"),
    [((4,), (4,)), ((4,), (4, 3)), ((6, 4), (4,)), ((2, 6, 4), (4,)), ((4,), (2, 4, 3)),
     ((2, 6, 4), (4, 3)), ((6, 4), (2, 4, 3)), ((5, 1, 6, 4), (2, 4, 3)), ((300, 64), (64,))],
)  # fmt: skip
def test_softmax_times_matrices_and_vectors(left, right, engine):
    """A product with a vector has no axis of its own: divided by sums that kept theirs it was wrong."""
    rng = np.random.default_rng(1)
    x, v = rng.standard_normal(left), rng.standard_normal(right)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    expected = (e / e.sum(axis=-1, keepdims=True)) @ v
    t = fg.softmax(fg.asarray(x)) @ fg.asarray(v)
    np.testing.assert_allclose(t.compute(engine=engine), expected, rtol=1e-12, atol=1e-14)
    for after in (fg.sum, fg.max, lambda y: y - fg.mean(y)):
        t = fg.softmax(fg.asarray(x)) @ fg.asarray(v)
        wanted = np.asarray(after(expected))
        np.testing.assert_allclose(after(t).compute(engine=engine), wanted, rtol=1e-12, atol=1e-14)


def test_the_division_stays_where_bits_are_promised_or_the_weights_are_a_result():
    x, v = fg.asarray(np.ones((6, 5))), fg.asarray(np.ones((5, 3)))
    t = softmax_times(x, v)
    assert "divide-after-product" not in {f.rule for f in rewrite([t.node], ulp=False).fired}
    weights = fg.softmax(x)
    result = rewrite([(weights @ v).node, weights.node], ulp=True)
    assert "divide-after-product" not in {f.rule for f in result.fired}


@pytest.mark.parametrize("axis", [0, 1, (0, 2)])
@pytest.mark.parametrize("reduced", [(3, 4, 3), (3, 3, 3), (1, 3, 4), (3, 1, 3)])
def test_a_leaf_beside_a_reduction_with_fewer_axes(reduced, axis):
    """Axes are counted from the last: those of the reduction's operand are not those of the result."""
    x, tried = np.random.default_rng(2).random(reduced), 0
    for other in ((3,), (4,), (3, 3), (4, 3), (3, 4), (7, 3), (2, 3, 3), (2, 4, 3)):
        y = np.random.default_rng(3).random(other)
        try:
            expected = y - x.sum(axis=axis)
        except ValueError:
            continue
        tried += 1
        lazy = fg.asarray(y) - fg.asarray(x).sum(axis=axis)
        np.testing.assert_allclose(lazy.compute(), expected, rtol=1e-12, strict=True)
    assert tried > 1


def test_a_squeeze_of_several_elements_is_found():
    with pytest.raises(GraphError, match="not of one element"):
        view_shape("squeeze", (1,), (3, 3))
