"""Rewriting: the same values from fewer, cheaper or better placed nodes.

In: the outputs of a graph. Out: the outputs of a new graph, and which rules fired. One driver walks
producers first; a rule is a function from a node to a node or None. Rules of class ``exact`` keep
every bit, NaN, infinities and signed zeros included; rules of class ``ulp`` may move the last bits by
the stated bound and are left out where bits are promised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fusegraph.cost import base
from fusegraph.graph import GraphError, Node, const, make, topological
from fusegraph.ops import OPS
from fusegraph.views import Params, View, apply_view, operand_views, view_shape

MAX_ROUNDS = 16  # a rule set that still fires on one node after this many rounds does not converge
# Elements of a last axis along which a reduction is written out: up to here NumPy adds one after the
# other. Distances of 2000 x 2000 points with three coordinates took 17 ms as a reduction, and 2.3 so.
MAX_WRITTEN_OUT = 7
MOST_WRITTEN_OUT = 256  # nodes that this may give
WRITTEN_OUT = {
    "sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum",
    "any": "logical_or", "all": "logical_and",
}  # fmt: skip
MAX_POWER = 4  # x**4 as (x*x)*(x*x) stays within 2 ulp of the rounded power


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewriting rule: ``apply`` gives a better node, or None."""

    name: str
    ops: tuple[str, ...]  # rows whose nodes it looks at; () for all element-wise rows
    apply: Callable[[Node], Node | None]
    numeric: str = "exact"  # "exact" or "ulp"


@dataclass(frozen=True, slots=True)
class Fired:
    """One application of a rule, shown by ``explain("rewritten")``."""

    rule: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A rewritten graph and how it came to be."""

    outputs: tuple[Node, ...]
    fired: tuple[Fired, ...]
    image: dict[Node, Node]  # node of the old graph -> what stands for it, where it still exists

    def mapped(self, step: dict[Node, Node]) -> Rewritten:
        """The same after a further step that replaced nodes."""
        image = {old: step.get(new, new) for old, new in self.image.items()}
        return Rewritten(tuple(step.get(o, o) for o in self.outputs), self.fired, image)


def rewrite(outputs: Sequence[Node], ulp: bool) -> Rewritten:
    """Rewrite the graph below ``outputs``; with ``ulp`` also by rules that move the last bits."""
    return _Driver(outputs, ulp).run()


# --- rules ----------------------------------------------------------------------------------------


def _same(node: Node, operand: Node) -> Node | None:
    """``operand``, if it can stand for ``node``: same dtype, same shape."""
    return operand if (operand.dtype, operand.shape) == (node.dtype, node.shape) else None


def _unless_complex(node: Node, operand: Node) -> Node | None:
    # (inf + 0j) * True and (-0.0 + 0j) + 0 are not their operands: a real constant becomes complex
    return None if node.dtype.kind == "c" else _same(node, operand)


def _is_const(node: Node, value: float) -> bool:
    if node.kind != "const" or node.dtype.kind == "c" or node.data != value:
        return False
    # 0.0 == -0.0, but adding the one is an identity and adding the other is not
    return value != 0 or bool(np.signbit(node.data)) == bool(np.signbit(value))


def _fold(node: Node) -> Node | None:
    # op(c1, c2) -> c3
    if any(i.kind != "const" for i in node.inputs):
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
    if not any(i.op.name == "broadcast" for i in node.inputs):
        return None
    inputs = list(node.inputs)
    for at, operand in enumerate(inputs):
        if operand.op.name == "broadcast":
            trial = [*inputs[:at], operand.inputs[0], *inputs[at + 1 :]]
            if np.broadcast_shapes(*(i.shape for i in trial)) == node.shape:
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
    shape = np.broadcast_shapes(*(i.shape for i in operands))
    inner = make(node.op, operands, node.params, shape, node.dtype, node.source)
    return apply_view("squeeze", axes, inner)


def _with_axes(operand: Node, axes: Params, rank: int) -> Node | None:
    """``operand`` with the squeezed ``axes`` put back at no cost, or None."""
    if not operand.shape and operand.kind == "const":
        return operand
    if operand.op.name == "squeeze":
        return operand.inputs[0] if operand.params == axes else None
    leaf = operand.kind == "input" and len(operand.shape) == rank
    return apply_view("expand", axes, operand) if leaf else None


def _drop_squeeze(node: Node) -> Node | None:
    # x + squeeze(m, leading axes) -> x + m, where the result has the axes anyway
    inputs = tuple(_unsqueezed(i, len(node.shape)) for i in node.inputs)
    if all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
        return None
    if np.broadcast_shapes(*(i.shape for i in inputs)) != node.shape:
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
    Rule("fold-constants", (), _fold),
    Rule("drop-broadcast", (), _drop_broadcast),
    Rule("drop-squeeze", (), _drop_squeeze),
    Rule("lift-squeeze", (), _lift_squeeze),
    Rule("multiply-by-one", ("multiply",), _neutral_either(1)),
    Rule("divide-by-one", ("divide",), _neutral_right(1)),
    Rule("power-of-one", ("pow",), _neutral_right(1)),
    Rule("add-zero", ("add",), _add_zero),
    Rule("subtract-zero", ("subtract",), _neutral_right(0.0)),
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


@cache
def rules_for(name: str, ulp: bool) -> tuple[Rule, ...]:
    """The rules that look at a row, in order."""
    return tuple(r for r in RULES if (not r.ops or name in r.ops) and (ulp or r.numeric == "exact"))


# --- the driver -----------------------------------------------------------------------------------

Key = tuple[Node, tuple[View, ...]]
"""A node of the old graph seen through views, innermost first: what a new node stands for."""


class _Driver:
    def __init__(self, outputs: Sequence[Node], ulp: bool) -> None:
        self.outputs = outputs
        self.ulp = ulp
        self.rules = {
            name: rules_for(name, ulp) for name, op in OPS.items() if op.kind == "elementwise"
        }
        self.uses: dict[Node, int] = {}
        self.readers: dict[Node, list[Node]] = {}
        for node in topological(outputs):
            for operand in dict.fromkeys(node.inputs):
                self.uses[operand] = self.uses.get(operand, 0) + 1
                self.readers.setdefault(operand, []).append(node)
        for node in outputs:
            self.uses[node] = self.uses.get(node, 0) + 1
        self.done: dict[Key, Node] = {}
        self.fired: list[Fired] = []

    def run(self) -> Rewritten:
        for output in self.outputs:
            self.build((output, ()))
        new = tuple(self.done[output, ()] for output in self.outputs)
        image = {node: built for (node, views), built in self.done.items() if views}
        image.update({node: built for (node, views), built in self.done.items() if not views})
        return Rewritten(new, tuple(self.fired), image)

    def build(self, root: Key) -> None:
        done, stack = self.done, [root]
        while stack:
            key = stack[-1]
            if key in done:
                stack.pop()
                continue
            parts, rest = self.parts(key)
            pending = [part for part in parts if part not in done]
            if pending:
                stack.extend(reversed(pending))
            else:
                done[key] = self.assemble(key, [done[p] for p in parts], rest)
                stack.pop()

    def parts(self, key: Key) -> tuple[list[Key], tuple[View, ...]]:
        """What ``key`` is made of, and the views that stay outside of it."""
        node, views = key
        if node.kind == "view":
            return [(node.inputs[0], _compose((node.op.name, node.params), views))], ()
        if not views:
            if node.kind == "reduce" and self.is_written_out(node):
                return _elements(node), ()
            return [(i, ()) for i in node.inputs], ()
        if node.kind == "elementwise" and self.uses[node] == 1:
            pushed, rest = _push(node, views)
            if len(rest) < len(views):
                return pushed, rest
        return [(node, ())], views

    def assemble(self, key: Key, parts: list[Node], rest: tuple[View, ...]) -> Node:
        node, views = key
        if node.kind == "view":
            return parts[0]
        if views and len(rest) == len(views):
            return _apply(parts[0], views)
        if node.kind == "reduce" and len(parts) > 1:
            return self.write_out(node, parts)
        if node.kind == "reduce" and not dict(node.params)["keepdims"]:
            return self.keep_axes(node, parts[0])
        inside = views[: len(views) - len(rest)]
        shape = node.shape
        for name, params in inside:
            shape = view_shape(name, params, shape)
            self.note(f"push-{name}", node, f"{node.op.name} over {list(shape)}")
        if shape == node.shape and all(a is b for a, b in zip(parts, node.inputs, strict=True)):
            new = node
        else:
            new = make(node.op, tuple(parts), node.params, shape, node.dtype, node.source)
        if node.kind == "matmul" and self.ulp and self.uses[node.inputs[0]] == 1:
            new = self.divide_after(new)
        return _apply(self.simplify(new) if node.kind == "elementwise" else new, rest)

    def is_written_out(self, node: Node) -> bool:
        """Is a reduction better as operations on the elements of its narrow last axis?

        It is where nothing else needs what it reduces, nor the arrays behind that: then no value of
        that width is read twice.
        """
        operand = node.inputs[0]
        width = operand.shape[-1] if operand.shape else 0
        if _reduced_axes(node) != (len(operand.shape) - 1,) or not 2 <= width <= MAX_WRITTEN_OUT:
            return False
        exact = operand.dtype == node.dtype and node.dtype.kind != "c" and node.dtype.char != "e"
        if node.op.name not in WRITTEN_OUT or not exact:
            return False
        inside, stack = {node}, [operand]
        while stack:
            value = stack.pop()
            if value in inside or value.kind == "const":
                continue
            if value.kind not in ("elementwise", "view", "input") or value in self.outputs:
                return False
            inside.add(value)
            stack += value.inputs
            if len(inside) * width > MOST_WRITTEN_OUT:
                return False
        return all(r in inside for v in inside if v is not node for r in self.readers[v])

    def write_out(self, node: Node, elements: list[Node]) -> Node:
        """One operation an element, in NumPy's order."""
        op = OPS[WRITTEN_OUT[node.op.name]]
        if (
            node.op.name == "sum" and node.dtype.kind == "f"
        ):  # NumPy begins at 0.0: -0.0 becomes 0.0
            elements = [const(0.0, node.dtype), *elements]
        total = elements[0]
        for element in elements[1:]:
            total = make(op, (total, element), (), element.shape, node.dtype, node.source)
            total = self.simplify(total)
        self.note("write-out-narrow", node, repr(total))
        axes = () if dict(node.params)["keepdims"] else _reduced_axes(node)
        return apply_view("squeeze", axes, total)

    def divide_after(self, product: Node) -> Node:
        """``(e / sum(e)) @ v`` as ``(e @ v) / sum(e)``, where e is at most 1: the weights of a softmax.

        Attention divides its result so, and not its scores, of which there are many times as many.
        """
        weights, values = product.inputs
        if not _is_softmax(weights):
            return product
        e, total = weights.inputs
        inner = make(
            product.op, (e, values), product.params, product.shape, product.dtype, product.source
        )
        divided = make(weights.op, (inner, total), (), product.shape, product.dtype, weights.source)
        self.note("divide-after-product", product, repr(divided))
        return divided

    def keep_axes(self, node: Node, operand: Node) -> Node:
        """A reduction that keeps its axes, seen without them: its value aligns with what it reduces."""
        axes = _reduced_axes(node)
        shape = tuple(1 if a in axes else n for a, n in enumerate(operand.shape))
        kept = make(node.op, (operand,), _keeping(node), shape, node.dtype, node.source)
        if axes:
            self.note("keep-reduced-axes", node, repr(kept))
        return apply_view("squeeze", axes, kept)

    def simplify(self, node: Node) -> Node:
        for _ in range(MAX_ROUNDS):
            if node.kind == "view" and node.inputs[0].kind == "elementwise":
                return apply_view(node.op.name, node.params, self.simplify(node.inputs[0]))
            if node.kind != "elementwise":
                return node
            for rule in self.rules[node.op.name]:
                better = rule.apply(node)
                if better is not None:
                    self.note(rule.name, node, repr(better))
                    better = _from_line(node.source, better)
                    node = better
                    break
            else:
                return node
        raise GraphError(f"rewriting {node} does not converge: {self.fired[-3:]}")

    def note(self, rule: str, before: Node, after: str) -> None:
        self.fired.append(Fired(rule, repr(before), after))


def _is_softmax(node: Node) -> bool:
    """Is it ``e / sum(e)`` of ``e = exp(x - max(x))``, along the last axis, in floats?"""
    if node.op.name != "divide" or node.dtype.kind != "f" or not node.shape:
        return False
    e, total = node.inputs
    if e.op.name != "exp" or not _is_along_last(total, "sum", e):
        return False
    away = e.inputs[0]
    return away.op.name == "subtract" and _is_along_last(away.inputs[1], "max", away.inputs[0])


def _is_along_last(node: Node, name: str, operand: Node) -> bool:
    """Does ``node`` reduce ``operand`` along its last axis, and keep it?"""
    if node.op.name != name or node.inputs[0] is not operand or node.dtype != operand.dtype:
        return False
    return dict(node.params)["keepdims"] and _reduced_axes(node) == (len(operand.shape) - 1,)


def _elements(node: Node) -> list[Key]:
    """What a reduction runs over: its operand seen at each place of the last axis."""
    operand = node.inputs[0]
    *lead, width = operand.shape
    whole = tuple((0, n, 1) for n in lead)
    return [(operand, (("slice", (*whole, (k, k + 1, 1))),)) for k in range(width)]


def _compose(first: View, views: tuple[View, ...]) -> tuple[View, ...]:
    """``first`` and then ``views``, with neighbours of one kind joined where one view does for two."""
    if not views:
        return (first,)
    name, params = views[0]
    if {first[0], name} == {"squeeze", "expand"} and first[1] == params:
        return views[1:]
    if name != first[0]:
        return (first, *views)
    if name == "permute":
        joined: Params = tuple(first[1][a] for a in params)
        return ((name, joined), *views[1:])
    return views if name in ("reshape", "broadcast") else (first, *views)


def _push(node: Node, views: tuple[View, ...]) -> tuple[list[Key], tuple[View, ...]]:
    """Push the longest possible prefix of ``views`` through an element-wise node."""
    operands: list[tuple[View, ...]] = [() for _ in node.inputs]
    shapes = [i.shape for i in node.inputs]
    out = node.shape
    pushed = 0
    for name, params in views:
        steps = [operand_views(name, params, out, shape) for shape in shapes]
        if any(step is None for step in steps):
            break
        for n, step in enumerate(steps):
            for view in step or ():
                operands[n] += (view,)
                shapes[n] = view_shape(*view, shapes[n])
        out = view_shape(name, params, out)
        pushed += 1
    return list(zip(node.inputs, operands, strict=True)), views[pushed:]


def _from_line(source: str, node: Node) -> Node:
    """``node`` as an operation of the line ``source``, unless it has a line of its own."""
    if not source or node.source or not node.inputs:
        return node
    return make(node.op, node.inputs, node.params, node.shape, node.dtype, source)


def _reduced_axes(node: Node) -> tuple[int, ...]:
    axis = dict(node.params)["axis"]
    if axis is None:
        return tuple(range(len(node.inputs[0].shape)))
    return (axis,) if isinstance(axis, int) else tuple(axis)


def _keeping(node: Node) -> Params:
    """Parameters of a reduction with ``keepdims``."""
    return tuple((name, True if name == "keepdims" else value) for name, value in node.params)


def _apply(node: Node, views: tuple[View, ...]) -> Node:
    for name, params in views:
        undone = name == "expand" and node.op.name == "squeeze" and node.params == params
        node = node.inputs[0] if undone else apply_view(name, params, node)
    return node
