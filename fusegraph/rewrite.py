"""Rewriting: the same values from fewer, cheaper or better placed nodes.

In: the outputs of a graph. Out: the outputs of a new graph, and which rules fired. One driver walks
producers first: it pushes views to the leaves, keeps reduced axes, writes out narrow reductions, and
lets ``rules`` simplify each element-wise node until none fires.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fusegraph.graph import GraphError, Node, const, consumers, make, reduced_axes, topological
from fusegraph.ops import OPS
from fusegraph.rules import rules_for
from fusegraph.views import Params, View, apply_view, operand_views, view_shape

MAX_ROUNDS = 16  # a rule set that still fires on one node after this many rounds does not converge
# Elements of a last axis along which a reduction is written out: up to here NumPy adds one after the
# other. Distances of 2000 x 2000 points with three coordinates took 17 ms as a reduction, and 2.3 so.
MAX_WRITTEN_OUT = 7
MOST_WRITTEN_OUT = 256  # nodes that this may give


@dataclass(frozen=True, slots=True)
class Fired:
    """One application of a rule, shown by ``explain("rewritten")``: what it found, and what it made."""

    rule: str
    found: Node
    made: Node

    @property
    def before(self) -> str:
        """What it found, as text: op, dtype and shape."""
        return repr(self.found)

    @property
    def after(self) -> str:
        """What it made, as text."""
        return repr(self.made)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A rewritten graph and how it came to be."""

    outputs: tuple[Node, ...]
    fired: tuple[Fired, ...]
    image: dict[Node, Node]  # node of the old graph -> what stands for it, where it still exists
    order: list[Node]  # every node of the new graph, producers first

    def mapped(self, step: dict[Node, Node]) -> Rewritten:
        """The same after a further step that replaced nodes."""
        image = {old: step.get(new, new) for old, new in self.image.items()}
        outputs = tuple(step.get(o, o) for o in self.outputs)
        return Rewritten(outputs, self.fired, image, topological(outputs))


def unchanged(outputs: Sequence[Node]) -> Rewritten:
    """The graph below ``outputs`` as it is."""
    order = topological(outputs)
    return Rewritten(tuple(outputs), (), {n: n for n in outputs}, order)


def rewrite(outputs: Sequence[Node], ulp: bool) -> Rewritten:
    """Rewrite the graph below ``outputs``; with ``ulp`` also by rules that move the last bits."""
    return _Driver(outputs, ulp).run()


# --- the driver -----------------------------------------------------------------------------------

Key = tuple[Node, tuple[View, ...]]
"""A node of the old graph seen through views, innermost first: what a new node stands for."""


class _Driver:
    def __init__(self, outputs: Sequence[Node], ulp: bool) -> None:
        self.outputs = outputs
        self.ulp = ulp
        self.order = topological(outputs)
        self.consumers = consumers(self.order)
        self.returned = Counter(outputs)
        self.done: dict[Key, Node] = {}
        self.fired: list[Fired] = []

    def run(self) -> Rewritten:
        for output in self.outputs:
            self.build((output, ()))
        new = tuple(self.done[output, ()] for output in self.outputs)
        image = {node: built for (node, views), built in self.done.items() if views}
        image.update({node: built for (node, views), built in self.done.items() if not views})
        order = self.order if new == tuple(self.outputs) else topological(new)
        return Rewritten(new, tuple(self.fired), image, order)

    def is_read_once(self, node: Node) -> bool:
        """Does one operation need the value, or the user once, and nothing else?"""
        return len(self.consumers[node]) + self.returned[node] == 1

    def build(self, root: Key) -> None:
        done = self.done
        opened: dict[Key, tuple[list[Key], tuple[View, ...]]] = {}
        stack = [root]
        while stack:
            key = stack.pop()
            if key in done:
                continue
            if key in opened:  # what it is made of is done
                parts, rest = opened.pop(key)
                done[key] = self.assemble(key, [done[part] for part in parts], rest)
            else:
                opened[key] = parts, rest = self.parts(key)
                stack.append(key)
                stack += reversed(parts)

    def parts(self, key: Key) -> tuple[list[Key], tuple[View, ...]]:
        """What ``key`` is made of, and the views that stay outside of it."""
        node, views = key
        if node.kind == "view":
            return [(node.inputs[0], _compose((node.op.name, node.params), views))], ()
        if not views:
            if node.kind == "reduce" and self.is_written_out(node):
                return _elements(node), ()
            return [(i, ()) for i in node.inputs], ()
        if node.kind == "elementwise" and self.is_read_once(node):
            pushed, rest = _push(node, views)
            if len(rest) < len(views):
                return pushed, rest
        return [(node, ())], views

    def assemble(self, key: Key, parts: list[Node], rest: tuple[View, ...]) -> Node:
        node, views = key
        if node.kind == "elementwise" and not views:
            inputs = tuple(parts)
            if inputs != node.inputs:
                node = make(node.op, inputs, node.params, node.shape, node.dtype, node.source)
            return self.simplify(node)
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
        if shape == node.shape and tuple(parts) == node.inputs:
            new = node
        else:
            new = make(node.op, tuple(parts), node.params, shape, node.dtype, node.source)
        for name, _ in inside:
            self.note(f"push-{name}", node, new)
        if node.kind == "matmul" and self.ulp and self.is_read_once(node.inputs[0]):
            new = self.divide_after(new)
        return _apply(self.simplify(new) if node.kind == "elementwise" else new, rest)

    def is_written_out(self, node: Node) -> bool:
        """Is a reduction better as operations on the elements of its narrow last axis?

        It is where nothing else needs what it reduces, nor the arrays behind that: then no value of
        that width is read twice.
        """
        operand = node.inputs[0]
        width = operand.shape[-1] if operand.shape else 0
        if reduced_axes(node) != (len(operand.shape) - 1,) or not 2 <= width <= MAX_WRITTEN_OUT:
            return False
        exact = operand.dtype == node.dtype and node.dtype.kind != "c" and node.dtype.char != "e"
        if not node.op.combines or not exact:
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
        return all(r in inside for v in inside if v is not node for r in self.consumers[v])

    def write_out(self, node: Node, elements: list[Node]) -> Node:
        """One operation an element, in NumPy's order."""
        op = OPS[node.op.combines]
        if node.op.name == "sum" and node.dtype.kind == "f":
            # NumPy begins at 0.0: -0.0 becomes 0.0.
            elements = [const(0.0, node.dtype), *elements]
        total = elements[0]
        for element in elements[1:]:
            total = make(op, (total, element), (), element.shape, node.dtype, node.source)
            total = self.simplify(total)
        self.note("write-out-narrow", node, total)
        axes = () if dict(node.params)["keepdims"] else reduced_axes(node)
        return apply_view("squeeze", axes, total)

    def divide_after(self, product: Node) -> Node:
        """``(e / sum(e)) @ v`` as ``(e' @ v) / sum(e')``, where e is at most 1: weights of a softmax.

        Attention divides its result so, and not its scores, of which there are many times as many. e'
        is e by a power of two that is at least the number of weights, so that their sum is at most 1
        too and nothing overflows that did not before. Of float16 too little would be left. A product
        with a vector has no axis along which its result could be divided, and is as cheap as its scores.
        """
        weights, values = product.inputs
        if not _is_softmax(weights) or product.dtype != weights.dtype or len(values.shape) < 2:
            return product
        e, total = weights.inputs
        count = max(1, e.shape[-1])
        share = const(2.0 ** -math.ceil(math.log2(count)), e.dtype)
        e = make(OPS["multiply"], (e, share), (), e.shape, e.dtype, e.source)
        total = make(total.op, (e,), total.params, total.shape, total.dtype, total.source)
        source = product.source
        inner = make(product.op, (e, values), product.params, product.shape, product.dtype, source)
        divided = make(weights.op, (inner, total), (), product.shape, product.dtype, weights.source)
        self.note("divide-after-product", product, divided)
        return divided

    def keep_axes(self, node: Node, operand: Node) -> Node:
        """A reduction that keeps its axes, seen without them: its value aligns with what it reduces."""
        axes = reduced_axes(node)
        shape = tuple(1 if a in axes else n for a, n in enumerate(operand.shape))
        kept = make(node.op, (operand,), _keeping(node), shape, node.dtype, node.source)
        if axes:
            self.note("keep-reduced-axes", node, kept)
        return apply_view("squeeze", axes, kept)

    def simplify(self, node: Node) -> Node:
        for _ in range(MAX_ROUNDS):
            if node.kind == "view" and node.inputs[0].kind == "elementwise":
                return apply_view(node.op.name, node.params, self.simplify(node.inputs[0]))
            if node.kind != "elementwise":
                return node
            over = frozenset([operand.op.name for operand in node.inputs])
            for rule in rules_for(node.op.name, over, self.ulp):
                better = rule.apply(node)
                if better is not None:
                    self.note(rule.name, node, better)
                    node = _from_line(node.source, better)
                    break
            else:
                return node
        raise GraphError(f"rewriting {node} does not converge: {self.fired[-3:]}")

    def note(self, rule: str, found: Node, made: Node) -> None:
        self.fired.append(Fired(rule, found, made))


def _is_softmax(node: Node) -> bool:
    """Is it ``e / sum(e)`` of ``e = exp(x - max(x))``, along the last axis, in floats?"""
    if node.op.name != "divide" or node.dtype.name not in ("float32", "float64") or not node.shape:
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
    return dict(node.params)["keepdims"] and reduced_axes(node) == (len(operand.shape) - 1,)


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


def _keeping(node: Node) -> Params:
    """Parameters of a reduction with ``keepdims``."""
    return tuple((name, True if name == "keepdims" else value) for name, value in node.params)


def _apply(node: Node, views: tuple[View, ...]) -> Node:
    for name, params in views:
        undone = name == "expand" and node.op.name == "squeeze" and node.params == params
        node = node.inputs[0] if undone else apply_view(name, params, node)
    return node
