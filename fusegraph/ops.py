"""The op table: everything fusegraph knows about an operation stands in its row.

In: nothing. Out: ``OPS`` (name -> row) and ``resolve`` (operand dtypes -> loop and result dtypes).
Methods, functions, NumPy protocols, engines, costs, reports and the tests read the rows; adding an
element-wise operation is adding one row to ``ELEMENTWISE``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fusegraph import callables

DTYPES: tuple[np.dtype[Any], ...] = tuple(
    np.dtype(code)
    for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
)
"""The dtypes a Tensor may have, in NumPy's promotion order within a kind."""

# dtype -> numexpr type code. Every other dtype changes its type inside numexpr (int8 becomes int32
# and no longer wraps, float16 becomes float32, ...), so a row never claims them. complex128 is left
# out because numexpr's complex product rounds differently from NumPy's fused one.
NUMEXPR_CODES = {
    np.dtype("?"): "b",
    np.dtype("i4"): "i",
    np.dtype("i8"): "l",
    np.dtype("f4"): "f",
    np.dtype("f8"): "d",
}


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation.

    ``kind`` says how it is planned: ``elementwise``, ``view``, ``reduce``, ``matmul``, ``call`` (a
    library call over stored operands), ``const``, ``input``. ``flops`` is floating-point operations
    per output element and ``flop_class`` names their class (add, multiply, divide, sqrt, compare,
    select, transcendental, move).
    """

    name: str
    kind: str
    arity: int  # operands; -1: any number
    function: Callable[..., Any]  # NumPy's: f(*inputs, out=) for element-wise rows
    flop_class: str = "move"
    text: str = ""  # numexpr spelling with {0}, {1}, ...; also what plans print
    opcode: str = ""  # numexpr instruction: "add" (opcode) or "f:tanh" (function table)
    runs: str = ""  # numexpr type codes of the loops whose bits (or stated ulps) are NumPy's
    aliases: tuple[str, ...] = ()
    method: str = ""  # operator method, without underscores: "add" gives __add__ and __radd__
    ulp: int = 0  # largest difference between an engine and NumPy; 0: bit-identical
    domain: str = "any"  # where tests draw operands from: any, real, positive, unit, above_one
    combines: str = ""  # of a reduction: the row that puts two elements together

    def __repr__(self) -> str:
        return f"Op({self.name})"

    @property
    def flops(self) -> int:
        """Floating-point operations per output element (a transcendental call counts as one)."""
        return 0 if self.flop_class == "move" else 1

    @property
    def transcendental(self) -> bool:
        return self.flop_class == "transcendental"


# --- the table ------------------------------------------------------------------------------------

_FLOAT, _NUM = "fd", "ilfd"


def _row(name: str, arity: int, function: Any, flop_class: str, **facts: Any) -> Op:
    facts.setdefault("text", f"{name}({', '.join(f'{{{i}}}' for i in range(arity))})")
    return Op(name, "elementwise", arity, function, flop_class, **facts)


def _infix(name: str, function: Any, flop_class: str, symbol: str, **facts: Any) -> Op:
    return _row(name, 2, function, flop_class, text=f"({{0}} {symbol} {{1}})", **facts)


def _libm(name: str, function: Any, alias: str = "", opcode: str = "", **facts: Any) -> Op:
    """A transcendental function; ``opcode`` is its name in numexpr where it has one."""
    facts.setdefault("ulp", 4)
    facts.setdefault("domain", "real")
    return _row(
        name, facts.pop("arity", 1), function, "transcendental",
        opcode=f"f:{opcode}" if opcode else "", runs=_FLOAT if opcode else "",
        aliases=(alias,) if alias else (), **facts,
    )  # fmt: skip


# fmt: off
ELEMENTWISE: tuple[Op, ...] = (
    # arithmetic
    _infix("add", np.add, "add", "+", opcode="add", runs=_NUM, method="add"),
    _infix("subtract", np.subtract, "add", "-", opcode="sub", runs=_NUM, method="sub"),
    _infix("multiply", np.multiply, "multiply", "*", opcode="mul", runs=_NUM, method="mul"),
    _infix("divide", np.divide, "divide", "/", opcode="div", runs=_FLOAT, method="truediv", aliases=("true_divide",)),
    _infix("floor_divide", np.floor_divide, "divide", "//", method="floordiv"),
    _infix("remainder", np.remainder, "divide", "%", method="mod", aliases=("mod",)),
    _infix("pow", np.power, "transcendental", "**", opcode="pow", runs=_FLOAT, method="pow", aliases=("power",), ulp=4, domain="positive"),
    _row("fmod", 2, np.fmod, "divide"),
    _row("negative", 1, np.negative, "add", text="(-{0})", opcode="neg", runs=_NUM, method="neg"),
    _row("positive", 1, np.positive, "move", text="(+{0})", method="pos"),
    _row("abs", 1, np.absolute, "add", opcode="f:absolute", runs=_NUM, method="abs", aliases=("absolute",)),
    _row("fabs", 1, np.fabs, "add", opcode="f:absolute", runs=_FLOAT),
    _row("square", 1, np.square, "multiply", text="({0} * {0})", opcode="mul2", runs=_NUM),
    _row("sqrt", 1, np.sqrt, "sqrt", opcode="sqrt", runs=_FLOAT, domain="positive"),
    _row("reciprocal", 1, np.reciprocal, "divide", text="(1 / {0})", domain="positive"),
    _row("sign", 1, np.sign, "compare"),
    _row("heaviside", 2, np.heaviside, "compare"),
    _row("deg2rad", 1, np.deg2rad, "multiply", aliases=("radians",)),
    _row("rad2deg", 1, np.rad2deg, "multiply", aliases=("degrees",)),
    # rounding
    _row("floor", 1, np.floor, "add", opcode="f:floor", runs=_FLOAT),
    _row("ceil", 1, np.ceil, "add", opcode="f:ceil", runs=_FLOAT),
    _row("trunc", 1, np.trunc, "add", opcode="f:trunc", runs=_FLOAT),
    _row("rint", 1, np.rint, "add", opcode="f:round", runs=_FLOAT),
    # choosing
    _row("maximum", 2, np.maximum, "compare", opcode="f:maximum", runs=_FLOAT),
    _row("minimum", 2, np.minimum, "compare", opcode="f:minimum", runs=_FLOAT),
    _row("fmax", 2, np.fmax, "compare"),
    _row("fmin", 2, np.fmin, "compare"),
    _row("where", 3, callables.where, "select", opcode="where", runs="bilfd"),
    # comparing
    _infix("equal", np.equal, "compare", "==", opcode="eq", runs="bilfd", method="eq"),
    _infix("not_equal", np.not_equal, "compare", "!=", opcode="ne", runs="bilfd", method="ne"),
    _infix("less", np.less, "compare", "<", opcode="gt:swap", runs=_NUM, method="lt"),
    _infix("less_equal", np.less_equal, "compare", "<=", opcode="ge:swap", runs=_NUM, method="le"),
    _infix("greater", np.greater, "compare", ">", opcode="gt", runs=_NUM, method="gt"),
    _infix("greater_equal", np.greater_equal, "compare", ">=", opcode="ge", runs=_NUM, method="ge"),
    # truth and bits
    _row("logical_and", 2, np.logical_and, "compare", opcode="and", runs="b", text="({0} & {1})"),
    _row("logical_or", 2, np.logical_or, "compare", opcode="or", runs="b", text="({0} | {1})"),
    _row("logical_xor", 2, np.logical_xor, "compare", opcode="xor", runs="b", text="({0} ^ {1})"),
    _row("logical_not", 1, np.logical_not, "compare", opcode="invert", runs="b", text="(~{0})"),
    _infix("bitwise_and", np.bitwise_and, "add", "&", opcode="and", runs="bil", method="and"),
    _infix("bitwise_or", np.bitwise_or, "add", "|", opcode="or", runs="bil", method="or"),
    _infix("bitwise_xor", np.bitwise_xor, "add", "^", opcode="xor", runs="bil", method="xor"),
    _row("bitwise_invert", 1, np.invert, "add", text="(~{0})", opcode="invert", runs="bil", method="invert", aliases=("invert", "bitwise_not")),
    _infix("bitwise_left_shift", np.left_shift, "add", "<<", method="lshift", aliases=("left_shift",)),
    _infix("bitwise_right_shift", np.right_shift, "add", ">>", method="rshift", aliases=("right_shift",)),
    _row("isnan", 1, np.isnan, "compare", opcode="f:isnan", runs=_FLOAT),
    _row("isfinite", 1, np.isfinite, "compare", opcode="f:isfinite", runs=_FLOAT),
    _row("isinf", 1, np.isinf, "compare", opcode="f:isinf", runs=_FLOAT),
    _row("signbit", 1, np.signbit, "compare", opcode="f:signbit", runs=_FLOAT),
    _row("copysign", 2, np.copysign, "select", opcode="f:copysign", runs=_FLOAT),
    _row("nextafter", 2, np.nextafter, "add", opcode="f:nextafter", runs=_FLOAT),
    # exponentials and logarithms
    _libm("exp", np.exp, opcode="exp"),
    _libm("exp2", np.exp2),
    _libm("expm1", np.expm1, opcode="expm1"),
    _libm("log", np.log, opcode="log", domain="positive"),
    _libm("log2", np.log2, opcode="log2", domain="positive"),
    _libm("log10", np.log10, opcode="log10", domain="positive"),
    _libm("log1p", np.log1p, opcode="log1p", domain="positive"),
    _libm("logaddexp", np.logaddexp, arity=2),
    _libm("logaddexp2", np.logaddexp2, arity=2),
    # angles
    _libm("sin", np.sin, opcode="sin"),
    _libm("cos", np.cos, opcode="cos"),
    _libm("tan", np.tan, opcode="tan"),
    _libm("asin", np.arcsin, "arcsin", "arcsin", domain="unit"),
    _libm("acos", np.arccos, "arccos", "arccos", domain="unit"),
    _libm("atan", np.arctan, "arctan", "arctan"),
    _libm("atan2", np.arctan2, "arctan2", "arctan2", arity=2),
    _libm("sinh", np.sinh, opcode="sinh"),
    _libm("cosh", np.cosh, opcode="cosh"),
    _libm("tanh", np.tanh, opcode="tanh"),
    _libm("asinh", np.arcsinh, "arcsinh", "arcsinh"),
    _libm("acosh", np.arccosh, "arccosh", "arccosh", domain="above_one"),
    _libm("atanh", np.arctanh, "arctanh", "arctanh", domain="unit"),
    _libm("hypot", np.hypot, opcode="hypot", arity=2),
    _libm("cbrt", np.cbrt),
    _libm("erf", callables.erf),
    # complex parts and casts
    _row("conj", 1, np.conjugate, "add", aliases=("conjugate",)),
    _row("real", 1, callables.real, "move"),
    _row("imag", 1, callables.imag, "move"),
    _row("astype", 1, callables.cast, "move", opcode="cast"),
)
# fmt: on

# Casts that numexpr has an instruction for, by type code: from -> to. Only widening ones.
NUMEXPR_CASTS = {"b": "i", "i": "lfd", "l": "fd", "f": "d", "d": ""}

REDUCTIONS: tuple[Op, ...] = (
    Op("sum", "reduce", 1, np.sum, "add", combines="add"),
    Op("prod", "reduce", 1, np.prod, "multiply", combines="multiply"),
    Op("max", "reduce", 1, np.max, "compare", aliases=("amax",), combines="maximum"),
    Op("min", "reduce", 1, np.min, "compare", aliases=("amin",), combines="minimum"),
    Op("any", "reduce", 1, np.any, "compare", combines="logical_or"),
    Op("all", "reduce", 1, np.all, "compare", combines="logical_and"),
    Op("argmax", "reduce", 1, np.argmax, "compare"),
    Op("argmin", "reduce", 1, np.argmin, "compare"),
)


VIEWS: tuple[Op, ...] = (
    Op("permute", "view", 1, lambda x, *axes: x.transpose(axes)),
    Op("reshape", "view", 1, lambda x, *shape: x.reshape(shape)),
    Op("broadcast", "view", 1, lambda x, *shape: np.broadcast_to(x, shape)),
    Op("expand", "view", 1, lambda x, *axes: np.expand_dims(x, axes)),
    Op("squeeze", "view", 1, lambda x, *axes: x.squeeze(axes)),
    Op("slice", "view", 1, callables.slice_view),
)


OTHERS: tuple[Op, ...] = (
    Op("matmul", "matmul", 2, np.matmul, "multiply", text="({0} @ {1})", method="matmul"),
    Op("concat", "call", -1, np.concatenate, aliases=("concatenate",)),
    Op("assign", "call", 2, callables.assign),
    Op("assign_places", "call", -1, callables.assign_places),
    Op("sort", "call", 1, callables.sort, "transcendental"),
    Op("argsort", "call", 1, callables.argsort, "transcendental"),
    Op("searchsorted", "call", 2, callables.searchsorted, "transcendental"),
    Op("take", "call", 2, callables.take),
    Op("take_along_axis", "call", 2, callables.take_along_axis),
    Op("index", "call", -1, callables.index),
    Op("cumulative_sum", "call", 1, callables.cumulative_sum, "add"),
    Op("cumulative_prod", "call", 1, callables.cumulative_prod, "multiply"),
    Op("input", "input", 0, np.asarray),
    Op("const", "const", 0, np.asarray),
)

OPS: dict[str, Op] = {op.name: op for op in ELEMENTWISE + REDUCTIONS + VIEWS + OTHERS}
UFUNCS: dict[Any, Op] = {
    function: op
    for op in ELEMENTWISE + OTHERS
    for function in (op.function, *(getattr(np, alias, None) for alias in op.aliases))
    if isinstance(function, np.ufunc)
}
"""NumPy's ufuncs, and the row that serves each."""


@lru_cache(maxsize=4096)
def resolve(
    name: str, operands: tuple[Any, ...]
) -> tuple[tuple[np.dtype[Any], ...], np.dtype[Any]]:
    """Loop dtypes and result dtype of an element-wise op or matmul, by NumPy's own promotion.

    Parameters
    ----------
    name : str
        Row name.
    operands : tuple
        A dtype per operand; ``int``, ``float`` or ``complex`` for a Python scalar (weak, NEP 50).

    Raises
    ------
    TypeError
        NumPy has no loop for these dtypes. The message names the op, the dtypes and the remedy.
    """
    op = OPS[name]
    if name == "where":
        value = promote(operands[1:])
        return (np.dtype(bool), value, value), value
    if name in ("real", "imag"):
        dtype = operands[0]
        return (dtype,), np.empty(0, dtype).real.dtype
    if name == "erf":
        return _resolve_ufunc(op, callables.scipy_erf(), operands)
    return _resolve_ufunc(op, op.function, operands)


def promote(operands: tuple[Any, ...]) -> np.dtype[Any]:
    """Promotion of values that only move (``where``, ``concat``): NumPy's ``result_type``."""
    probes = [t(0) if isinstance(t, type) else t for t in operands]
    return np.result_type(*probes)


def _resolve_ufunc(
    op: Op, ufunc: Any, operands: tuple[Any, ...]
) -> tuple[tuple[np.dtype[Any], ...], np.dtype[Any]]:
    try:
        *loops, result = ufunc.resolve_dtypes((*operands, None))
    except TypeError as error:
        names = " and ".join(getattr(t, "name", None) or t.__name__ for t in operands)
        raise TypeError(
            f"{op.name}: NumPy has no loop for {names}; cast an operand with .astype(...) first"
        ) from error
    if result not in DTYPES:
        raise TypeError(
            f"{op.name}: the result would be {result}, which fusegraph does not hold; cast an operand "
            "with .astype(...) first"
        )
    return tuple(loops), result
