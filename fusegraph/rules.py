"""Rewriting rules: the same value from fewer, cheaper or better placed operations.

In: an element-wise node. Out: a better one, or None. Rules of class ``exact`` keep every bit, NaN,
infinities and signed zeros included; rules of class ``ulp`` may move the last bits by the stated bound
and are left out where bits are promised. ``rewrite`` drives them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fusegraph.graph import Node, common_shape, const, make
from fusegraph.ops import OPS
from fusegraph.views import Params, apply_view, base

MAX_POWER = 4  # x**4 as (x*x)*(x*x) stays within 2 ulp of the rounded power


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewriting rule: ``apply`` gives a better node, or None."""

    name: str
    ops: tuple[str, ...]  # rows whose nodes it looks at; () for all element-wise rows
    apply: Callable[[Node], Node | None]
    numeric: str = "exact"  # "exact" or "ulp"
    over: str = ""  # the row of an operand without which it never applies


def _same(node: Node, operand: Node) -> Node | None:
    """``operand``, if it can stand for ``node``: same dtype, same shape."""
    return operand if (operand.dtype, operand.shape) == (node.dtype, node.shape) else None


def _unless_complex(node: Node, operand: Node) -> Node | None:
    # (inf + 0j) * True and (-0.0 + 0j) + 0 are not their operands: a real constant becomes complex
    return None if node.dtype.kind == "c" else _same(node, operand)


def _is_const(node: Node, value: float) -> bool:
    if node.kind != "const" or node.dtype.kind == "c" or node.data.item() != value:
        return False
    # 0.0 == -0.0, but adding the one is an identity and adding the other is not
    return value != 0 or bool(np.signbit(node.data)) == bool(np.signbit(value))


def _fold(node: Node) -> Node | None:
    # op(c1, c2) -> c3
    for operand in node.inputs:
        if operand.kind != "const":
            return None
    value = np.empty((), node.dtype)
    with np.errstate(all="ignore"):
        try:
            node.op.function(*(i.data for i in node.inputs), out=value)
        except (ValueError, ImportError):
            return None  # integers to negative powers: NumPy raises when the value is asked for
    return const(value, node.dtype)


def _neutral_right(value: float) -> Callable[[Node], Node | None]:
    # x op value -> x
    return lambda n: _unless_complex(n, n.inputs[0]) if _is_const(n.inputs[1], value) else None


def _neutral_either(value: float) -> Callable[[Node], Node | None]:
    # x op value -> x, value op x -> x
    def apply(node: Node) -> Node | None:
        a, b = node.inputs
        if _is_const(b, value):
            return _unless_complex(node, a)
        return _unless_complex(node, b) if _is_const(a, value) else None

    return apply


def _add_zero(node: Node) -> Node | None:
    # x + 0 -> x for integers; x + -0.0 -> x for floats (x + 0.0 turns -0.0 into 0.0)
    return _neutral_either(-0.0 if node.dtype.kind == "f" else 0)(node)


def _twice(node: Node) -> Node | None:
    # f(f(x)) -> x
    inner = node.inputs[0]
    return _same(node, inner.inputs[0]) if inner.op is node.op else None


def _idempotent(node: Node) -> Node | None:
    # f(f(x)) -> f(x)
    inner = node.inputs[0]
    return _same(node, inner) if inner.op is node.op else None


def _identity(node: Node) -> Node | None:
    # f(x) -> x
    return _same(node, node.inputs[0])


def _cast_back(node: Node) -> Node | None:
    # astype(astype(x, wider), dtype of x) -> x
    inner = node.inputs[0]
    if inner.op is not node.op:
        return None
    x = inner.inputs[0]
    if x.dtype.kind in "iu" and x.dtype.itemsize == 8 and inner.dtype.kind in "fc":
        return None  # NumPy calls this cast safe; beyond 2**53 it rounds
    return _same(node, x) if np.can_cast(x.dtype, inner.dtype, "safe") else None


def _same_branches(node: Node) -> Node | None:
    # where(c, x, x) -> x
    _, x, y = node.inputs
    return _same(node, x) if x is y else None


def _drop_broadcast(node: Node) -> Node | None:
    # x + broadcast(c) -> x + c, where the other operands already have the shape
    inputs = list(node.inputs)
    for at, operand in enumerate(inputs):
        if operand.op.name == "broadcast":
            trial = [*inputs[:at], operand.inputs[0], *inputs[at + 1 :]]
            if common_shape(*(i.shape for i in trial)) == node.shape:
                inputs = trial
    if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
        return None
    return make(node.op, tuple(inputs), node.params, node.shape, node.dtype)


def _lift_squeeze(node: Node) -> Node | None:
    # op(squeeze(a), squeeze(b)) -> squeeze(op(a, b)): values one a row stay aligned with their rows
    squeezed = [i for i in node.inputs if i.op.name == "squeeze" and base(i).kind != "input"]
    if not squeezed:
        return None
    axes = squeezed[0].params
    lifted = [_with_axes(i, axes, len(node.shape)) for i in node.inputs]
    operands = tuple(i for i in lifted if i is not None)
    if len(operands) < len(node.inputs):
        return None
    shape = common_shape(*(i.shape for i in operands))
    inner = make(node.op, operands, node.params, shape, node.dtype, node.source)
    return apply_view("squeeze", axes, inner)


def _with_axes(operand: Node, axes: Params, rank: int) -> Node | None:
    """``operand`` with the squeezed ``axes`` put back at no cost, or None."""
    if not operand.shape and operand.kind == "const":
        return operand
    if len(operand.shape) != rank:
        return None  # the axes would be others, counted from the last
    if operand.op.name == "squeeze":
        return operand.inputs[0] if operand.params == axes else None
    return apply_view("expand", axes, operand) if operand.kind == "input" else None


def _drop_squeeze(node: Node) -> Node | None:
    # x + squeeze(m, leading axes) -> x + m, where the result has the axes anyway
    inputs = tuple(_unsqueezed(i, len(node.shape)) for i in node.inputs)
    if inputs == node.inputs:
        return None
    if common_shape(*(i.shape for i in inputs)) != node.shape:
        return None
    return make(node.op, inputs, node.params, node.shape, node.dtype, node.source)


def _unsqueezed(operand: Node, rank: int) -> Node:
    """The operand of a squeeze that only dropped axes which broadcasting puts back."""
    if operand.op.name != "squeeze" or operand.params != tuple(range(len(operand.params))):
        return operand
    source = operand.inputs[0]
    return source if base(source).kind != "input" and len(source.shape) <= rank else operand


def _small_power(node: Node) -> Node | None:
    # x**3 -> x*x*x; at most 2 ulp for floats, exact for integers
    x, exponent = node.inputs
    if exponent.kind != "const" or x.kind == "const" or x.dtype != node.dtype:
        return None
    power = exponent.data.item()
    if isinstance(power, complex) or power not in (2, 3, MAX_POWER) or x.shape != node.shape:
        return None
    if x.dtype.kind not in "iuf":
        return None

    def times(a: Node, b: Node) -> Node:
        return make(OPS["multiply"], (a, b), (), node.shape, node.dtype)

    squared = times(x, x)
    return {2: squared, 3: times(squared, x), MAX_POWER: times(squared, squared)}[int(power)]


def _small_integer_power(node: Node) -> Node | None:
    return _small_power(node) if node.dtype.kind in "iu" else None


RULES: tuple[Rule, ...] = (
    Rule("fold-constants", (), _fold, over="const"),
    Rule("drop-broadcast", (), _drop_broadcast, over="broadcast"),
    Rule("drop-squeeze", (), _drop_squeeze, over="squeeze"),
    Rule("lift-squeeze", (), _lift_squeeze, over="squeeze"),
    Rule("multiply-by-one", ("multiply",), _neutral_either(1), over="const"),
    Rule("divide-by-one", ("divide",), _neutral_right(1), over="const"),
    Rule("power-of-one", ("pow",), _neutral_right(1), over="const"),
    Rule("add-zero", ("add",), _add_zero, over="const"),
    Rule("subtract-zero", ("subtract",), _neutral_right(0.0), over="const"),
    Rule("double-negation", ("negative", "bitwise_invert"), _twice),
    Rule("double-conjugate", ("conj",), _twice),
    Rule("idempotent", ("abs", "floor", "ceil", "trunc", "rint"), _idempotent),
    Rule("positive", ("positive",), _identity),
    Rule("cast-to-same", ("astype",), _identity),
    Rule("cast-back", ("astype",), _cast_back),
    Rule("same-branches", ("where",), _same_branches),
    Rule("integer-power", ("pow",), _small_integer_power),
    Rule("small-power", ("pow",), _small_power, "ulp"),
)


@lru_cache(maxsize=4096)
def rules_for(name: str, operands: frozenset[str], ulp: bool) -> tuple[Rule, ...]:
    """The rules that look at nodes of a row over ``operands`` of these rows, in order."""
    return tuple(
        rule
        for rule in RULES
        if (not rule.ops or name in rule.ops)
        and (not rule.over or rule.over in operands)
        and (ulp or rule.numeric == "exact")
    )
