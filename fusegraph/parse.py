"""Parsing: the text of an array expression becomes a tensor. Nothing is evaluated, nothing runs.

In: text, and the tensors it may name. Out: a lazy ``Tensor``, or a ``ValueError`` that names the
construct and its column. The text is read with ``ast`` and walked by a table of allowed constructs, so
text from a stranger can build a graph and nothing else.
"""

from __future__ import annotations

import ast
import inspect
import math
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from fusegraph.elementwise import MOST_DECIMALS
from fusegraph.namespace import FUNCTIONS
from fusegraph.ops import DTYPES
from fusegraph.tensor import Tensor

MAX_TEXT = 8192  # characters
MAX_DEPTH = 100  # of nesting; a chain a + b + c + ... is one level
MAX_BITS = 1024  # of an integer: what float64 can hold

PREFIXES = ("np", "numpy", "fg", "fusegraph")
CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}
DTYPE_NAMES = {str(dtype): dtype for dtype in DTYPES}
OF_ATTRIBUTES = {"T": "transpose", "mT": "matrix_transpose"}  # the others are named alike
STORED_AT_ONCE = {"arange", "eye", "linspace"}  # allocate what a number in the text says
ARRAY_PARAMETERS = {
    "operands", "x", "a", "b", "x1", "x2", "y", "condition", "arrays", "weight", "bias", "min", "max",
}  # fmt: skip

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow, ast.MatMult: operator.matmul, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}  # fmt: skip
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Invert: operator.invert,
}  # fmt: skip
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
REFUSED: dict[type[ast.AST], str] = {
    ast.BoolOp: "'and'/'or' (write & or | between comparisons in parentheses)",
    ast.Not: "'not' (write ~)",
    ast.Is: "'is'", ast.IsNot: "'is not'", ast.In: "'in'", ast.NotIn: "'not in'",
    ast.IfExp: "'if' ... 'else' (write where(condition, x, y))",
    ast.Lambda: "lambda", ast.NamedExpr: "':='", ast.JoinedStr: "f-string", ast.Starred: "'*'",
    ast.ListComp: "comprehension", ast.SetComp: "comprehension", ast.DictComp: "comprehension",
    ast.GeneratorExp: "comprehension", ast.Dict: "dictionary", ast.Set: "set",
    ast.Await: "await", ast.Yield: "yield", ast.YieldFrom: "yield",
    ast.Slice: "slice outside of [ ]",
}  # fmt: skip


def parse_expression(text: str, names: Mapping[str, Tensor]) -> Tensor:
    """The tensor that ``text`` stands for.

    Parameters
    ----------
    text : str
        Arithmetic, comparisons, ``& | ~ ^ << >> @``, numbers, names, subscripts of integers and slices,
        and calls of fusegraph's functions, alone or after ``np.``, ``numpy.`` or ``fg.``; also ``pi``,
        ``e``, ``inf``, ``nan``, and dtype names as arguments.
    names : mapping of str to Tensor
        What the names in the text stand for; they come before the constants.

    Returns
    -------
    Tensor
        With the shape and dtype that NumPy would give.

    Raises
    ------
    ValueError
        The text is no such expression, or an operation refuses its operands; the message names the
        construct and its column, counted from 1.

    Examples
    --------
    >>> import numpy as np
    >>> x = Tensor(np.ones(4, np.float32))
    >>> parse_expression("0.5 * x * (1 + np.tanh(x))", {"x": x})
    Tensor(float32[4], 4 ops pending)
    """
    reader = _Reader(text, names)
    value = reader.read(_tree(text), 0)
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (bool, int, float, complex)):
        try:
            return Tensor(value)
        except OverflowError as error:
            raise ValueError(str(error)) from None
    raise ValueError(f"the expression is a {type(value).__name__}, not an array")


def names_in(text: str) -> set[str]:
    """The names that an expression mentions."""
    return {node.id for node in ast.walk(_tree(text)) if isinstance(node, ast.Name)}


def _tree(text: str) -> ast.expr:
    if len(text) > MAX_TEXT:
        raise ValueError(f"the expression has {len(text):,} characters; {MAX_TEXT:,} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text.lstrip(), mode="eval").body
    except SyntaxError as error:
        at = (error.offset or 1) + len(text) - len(text.lstrip())
        raise ValueError(f"syntax at column {at}: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError(
            "the expression is nested too deep, or a chain in it is too long"
        ) from None
    except ValueError as error:  # a null character
        raise ValueError(f"syntax: {error}") from None


class _Reader:
    """One walk over a syntax tree: every construct has a row in ``_READS``, or is refused."""

    def __init__(self, text: str, names: Mapping[str, Tensor]) -> None:
        self.lines = text.lstrip().splitlines() or [""]
        self.indent = len(text) - len(text.lstrip())
        self.names = names

    # --- errors -----------------------------------------------------------------------------------

    def place(self, node: Any) -> str:
        """Where a node begins: ``column 7``, or ``line 2, column 7``."""
        line = self.lines[min(node.lineno, len(self.lines)) - 1]
        column = len(line.encode()[: node.col_offset].decode(errors="ignore")) + 1
        return (
            f"column {column + self.indent}"
            if node.lineno == 1
            else f"line {node.lineno}, column {column}"
        )

    def error(self, node: Any, what: str, detail: str = "is not allowed here") -> ValueError:
        return ValueError(f"{what} at {self.place(node)}: {detail}")

    def built(self, node: Any, what: str, build: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """The result of an operation; its refusal becomes an error with a column."""
        try:
            value = build(*args, **kw)
        except (TypeError, ValueError, IndexError, ArithmeticError, RecursionError) as error:
            # Remedies are written for Python, where a cast is a method.
            detail = str(error).replace(".astype(...)", "astype(x, dtype)")
            raise self.error(node, what, detail) from error
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise self.error(node, what, f"the number has more than {MAX_BITS} bits")
        return value

    # --- reading ----------------------------------------------------------------------------------

    def read(self, node: ast.expr, depth: int) -> Any:
        """The value of a node: a tensor, a number, a dtype, None, or a tuple of these."""
        if depth > MAX_DEPTH:
            raise self.error(node, "expression", f"nested deeper than {MAX_DEPTH} levels")
        read = _READS.get(type(node))
        if read is None:
            raise self.error(node, REFUSED.get(type(node), type(node).__name__))
        return read(self, node, depth)

    def operand(self, node: ast.expr, depth: int) -> Any:
        """A tensor or a number: what arithmetic takes."""
        value = self.read(node, depth)
        if not isinstance(value, (Tensor, bool, int, float, complex)):
            raise self.error(node, type(value).__name__, "no operand of arithmetic")
        return value

    def constant(self, node: ast.Constant, depth: int) -> Any:
        value = node.value
        if isinstance(value, (str, bytes)):
            raise self.error(node, "string")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise self.error(node, "number", f"it has more than {MAX_BITS} bits")
        return value

    def name(self, node: ast.Name, depth: int) -> Any:
        if node.id in self.names:
            return self.names[node.id]
        return self.known(node, node.id)

    def known(self, node: ast.expr, name: str) -> Any:
        """A constant or a dtype by name."""
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in DTYPE_NAMES:
            return DTYPE_NAMES[name]
        if name in FUNCTIONS:
            raise self.error(node, f"function {name!r}", "call it, as in " + name + "(x)")
        given = ", ".join(self.names) or "none"
        raise self.error(node, f"name {name!r}", f"it is not given; given names: {given}")

    def attribute(self, node: ast.Attribute, depth: int) -> Any:
        if isinstance(node.value, ast.Name) and node.value.id in PREFIXES:
            return self.known(node, node.attr)
        function = OF_ATTRIBUTES.get(node.attr, node.attr)
        example = function if function in FUNCTIONS else "sum"
        raise self.error(
            node, f"attribute .{node.attr}", f"write a function of the array, as in {example}(x)"
        )

    def sequence(self, node: ast.Tuple | ast.List, depth: int) -> Any:
        return tuple(self.read(item, depth + 1) for item in node.elts)

    def unary(self, node: ast.UnaryOp, depth: int) -> Any:
        apply = UNARY.get(type(node.op))
        if apply is None:
            raise self.error(node, REFUSED[type(node.op)])
        value = self.operand(node.operand, depth + 1)
        if isinstance(value, bool):
            raise self.error(
                node, _symbol(node.op), "True and False have no arithmetic of one operand"
            )
        return self.built(node, _symbol(node.op), apply, value)

    def binary(self, node: ast.BinOp, depth: int) -> Any:
        """A chain to the left is folded in a loop, so a long sum is not deep."""
        chain: list[ast.BinOp] = []
        first: ast.expr = node
        while isinstance(first, ast.BinOp):
            chain.append(first)
            first = first.left
        value = self.operand(first, depth + 1)
        for step in reversed(chain):
            right = self.operand(step.right, depth + 1)
            if not isinstance(value, Tensor) and not isinstance(right, Tensor):
                self.check_size(step, value, right)
            value = self.built(step, _symbol(step.op), BINARY[type(step.op)], value, right)
        return value

    def check_size(self, node: ast.BinOp, left: Any, right: Any) -> None:
        """Refuse a power or shift of two integers before it is computed, where it would be huge."""
        if not isinstance(left, int) or not isinstance(right, int):
            return
        bits = 0
        if isinstance(node.op, ast.Pow) and abs(left) > 1:
            bits = right * left.bit_length()
        if isinstance(node.op, ast.LShift):
            bits = right + left.bit_length()
        if bits > MAX_BITS:
            raise self.error(node, _symbol(node.op), f"the number has more than {MAX_BITS} bits")

    def compare(self, node: ast.Compare, depth: int) -> Any:
        apply = COMPARE.get(type(node.ops[0]))
        if apply is None:
            raise self.error(node, REFUSED[type(node.ops[0])])
        if len(node.ops) > 1:
            raise self.error(node, "chained comparison", "write (a < b) & (b < c)")
        left = self.operand(node.left, depth + 1)
        right = self.operand(node.comparators[0], depth + 1)
        return self.built(node, "comparison", apply, left, right)

    # --- subscripts -------------------------------------------------------------------------------

    def subscript(self, node: ast.Subscript, depth: int) -> Any:
        value = self.read(node.value, depth + 1)
        if not isinstance(value, Tensor):
            raise self.error(node, "subscript", "only arrays have elements")
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        keys = tuple(self.key(part, depth + 1) for part in parts)
        return self.built(node, "subscript", operator.getitem, value, keys)

    def key(self, node: ast.expr, depth: int) -> Any:
        if isinstance(node, ast.Slice):
            bounds = (node.lower, node.upper, node.step)
            return slice(*[None if b is None else self.whole(b, depth) for b in bounds])
        if isinstance(node, ast.Constant) and node.value in (None, Ellipsis):
            return node.value
        return self.whole(node, depth)

    def whole(self, node: ast.expr, depth: int) -> int | None:
        """An integer of an index, or None in a slice."""
        value = self.read(node, depth + 1)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise self.error(node, "subscript", "index with integers, slices, None and ...")

    # --- calls ------------------------------------------------------------------------------------

    def call(self, node: ast.Call, depth: int) -> Any:
        name = self.function_name(node)
        starred = [a for a in node.args if isinstance(a, ast.Starred)]
        if starred or any(k.arg is None for k in node.keywords):
            raise self.error(starred[0] if starred else node, "'*' or '**' in a call")
        args = [self.read(a, depth + 1) for a in node.args]
        keywords = {k.arg: self.read(k.value, depth + 1) for k in node.keywords if k.arg}
        what = f"call of {name}"
        signature = inspect.signature(FUNCTIONS[name])
        bound = self.built(node, what, signature.bind, *args, **keywords)
        for parameter, value in bound.arguments.items():
            self.check_argument(node, what, parameter, value)
        result = self.built(node, what, FUNCTIONS[name], *args, **keywords)
        if not isinstance(result, Tensor):
            raise self.error(node, what, "it gives no array")
        return result

    def function_name(self, node: ast.Call) -> str:
        called = node.func
        if isinstance(called, ast.Attribute):
            if not isinstance(called.value, ast.Name) or called.value.id not in PREFIXES:
                raise self.error(
                    called,
                    f"attribute .{called.attr}",
                    f"write {called.attr}(x, ...), not x.{called.attr}(...)",
                )
            name = called.attr
        elif isinstance(called, ast.Name):
            name = called.id
        else:
            raise self.error(called, "call of an expression")
        if name in STORED_AT_ONCE:
            raise self.error(called, f"function {name!r}", "give its array as data instead")
        if name not in FUNCTIONS:
            raise self.error(called, f"function {name!r}", "fusegraph has no such function")
        return name

    def check_argument(self, node: ast.Call, what: str, parameter: str, value: Any) -> None:
        """Arrays go where arrays are meant: an axis or a shape must not run a computation."""
        if parameter == "arrays" and not isinstance(value, tuple):
            raise self.error(node, what, "give a list of arrays, as in [x, y]")
        if parameter not in ARRAY_PARAMETERS and _holds_tensor(value):
            raise self.error(node, what, f"{parameter} takes numbers, not an array")
        if parameter == "decimals" and not (isinstance(value, int) and abs(value) <= MOST_DECIMALS):
            raise self.error(node, what, f"decimals is an integer of at most {MOST_DECIMALS}")


def _symbol(op: ast.AST) -> str:
    return f"operator {type(op).__name__.lower()}"


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_holds_tensor(v) for v in value)
    return isinstance(value, Tensor)


_READS: dict[type[ast.expr], Callable[..., Any]] = {
    ast.Constant: _Reader.constant,
    ast.Name: _Reader.name,
    ast.Attribute: _Reader.attribute,
    ast.Tuple: _Reader.sequence,
    ast.List: _Reader.sequence,
    ast.UnaryOp: _Reader.unary,
    ast.BinOp: _Reader.binary,
    ast.Compare: _Reader.compare,
    ast.Subscript: _Reader.subscript,
    ast.Call: _Reader.call,
}
