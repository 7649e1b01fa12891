"""What is checked: every function of the vector math, and what the library composes of them.

In: a name and a dtype. Out: ``Subject``s, and their machine code: a function of arrays, and for floats
one that computes the error beside the result.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusegraph.engines.llvm import compiler, vecmath
from fusegraph.engines.llvm.codegen import loop_metadata
from fusegraph.engines.llvm.ir import Emitter, Value

Array = np.ndarray[Any, Any]

SYMBOL = "fg_check"
PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
TYPES = {"float32": "float", "float64": "double"}
BOUNDS = {"float32": 1.5, "float64": 2.0}
CANCELLATION = 64  # logaddexp counts in ulps of this part of its larger operand, or larger ones
FLOAT_BITS, DOUBLE_BITS, DOUBLE_BIAS = 24, 53, 1023


@dataclass(frozen=True, slots=True)
class Subject:
    """One function in one dtype.

    ``write`` emits its value, with calls of ``functions`` of ``vecmath``; ``bound`` is in ulps.
    """

    name: str
    dtype: str
    arity: int
    write: Callable[..., Value]
    functions: tuple[str, ...]
    edges: tuple[float, ...]
    bound: float

    @property
    def type(self) -> str:
        """The type in IR."""
        return TYPES[self.dtype]

    @property
    def cancels(self) -> bool:
        return self.name in vecmath.CANCELS


def subjects(names: Sequence[str] = (), dtypes: Sequence[str] = tuple(TYPES)) -> list[Subject]:
    """The subjects of these names and dtypes; of all names where none is given."""
    return [
        _of_row(row, dtype)
        for dtype in dtypes
        for row in vecmath.ROWS
        if not names or row.name in names
    ]


def _of_row(row: vecmath.MathFunction, dtype: str) -> Subject:
    kind = TYPES[dtype]

    def write(e: Emitter, *operands: Value) -> Value:
        return e.call(vecmath.symbol(row.name, kind), kind, *operands)

    return Subject(row.name, dtype, row.arity, write, (row.name,), row.edges, BOUNDS[dtype])


# --- machine code ---------------------------------------------------------------------------------


def value_kernel(subject: Subject) -> Callable[..., None]:
    """``run(*operands, result)`` over dense arrays of the subject's dtype."""
    return _compiled(value_text(subject))


def value_text(subject: Subject) -> str:
    """The IR of ``value_kernel``."""
    e = Emitter()
    result = subject.write(e, *_arguments(subject))
    return _text(subject, e, [subject.type] * (subject.arity + 1), result)


def error_kernel(subject: Subject) -> Callable[..., None]:
    """``run(*operands, reference, error)``: float operands, a reference in double, ulps in float.

    The error is infinite where one is NaN and the other not, or where a zero has the wrong sign.
    """
    e = Emitter()
    operands = _arguments(subject)
    reference = Value("double", f"%x{subject.arity}")
    result = e.fpext(subject.write(e, *operands), "double")
    least = [e.fpext(x, "double") for x in operands] if subject.cancels else []
    error = e.fptrunc(_float_ulps(e, result, reference, least), "float")
    kinds = ["float"] * subject.arity + ["double", "float"]
    return _compiled(_text(subject, e, kinds, error))


def _arguments(subject: Subject) -> list[Value]:
    return [Value(subject.type, f"%x{at}") for at in range(subject.arity)]


def _float_ulps(e: Emitter, result: Value, reference: Value, operands: list[Value]) -> Value:
    """``|result - reference|`` in ulps of float, all of them doubles."""
    end, zero = e.real("double", 2.0**128), e.real("double", 0.0)
    nan = e.fcmp("uno", reference, reference)
    unlike = e.xor(nan, e.fcmp("uno", result, result))
    signs = [e.icmp("slt", e.bitcast(x, "i64"), e.whole("i64", 0)) for x in (result, reference)]
    join = e.and_ if operands else e.or_  # where terms cancel, the reference's zero is rounded too
    is_zero = join(e.fcmp("oeq", result, zero), e.fcmp("oeq", reference, zero))
    unlike = e.or_(unlike, e.and_(is_zero, e.xor(*signs)))
    a, b = (_limited(e, x, end) for x in (result, reference))
    size = e.fabs(b)
    for x in operands:
        part = e.fmul(e.fabs(x), e.real("double", 1 / CANCELLATION))
        size = e.select(e.fcmp("ogt", part, size), part, size)
    least, most = e.real("double", 2.0**-126), e.real("double", 2.0**127)
    size = e.select(e.fcmp("ogt", size, least), size, least)
    size = e.select(e.fcmp("olt", size, most), size, most)
    fraction = DOUBLE_BITS - 1
    exponent = e.and_(e.bitcast(size, "i64"), e.whole("i64", 0x7FF << fraction))
    # 2**(23 - e): an exact reciprocal of an ulp
    whole = e.whole("i64", (2 * DOUBLE_BIAS + FLOAT_BITS - 1) << fraction)
    error = e.fmul(e.fabs(e.fsub(a, b)), e.bitcast(e.sub(whole, exponent), "double"))
    error = e.select(nan, zero, error)
    return e.select(unlike, e.real("double", float("inf")), error)


def _limited(e: Emitter, x: Value, end: Value) -> Value:
    x = e.select(e.fcmp("ogt", x, end), end, x)
    low = e.fneg(end)
    return e.select(e.fcmp("olt", x, low), low, x)


def _compiled(text: str) -> Callable[..., None]:
    function = compiler.function(PROTOTYPE, text, SYMBOL)

    def run(*arrays: Array) -> None:
        addresses = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
        function(addresses, arrays[0].size)

    return run


def _text(subject: Subject, e: Emitter, kinds: list[str], result: Value) -> str:
    """The engine's own loop around ``e``'s lines: what they read is ``%x0 ...``, the last is written."""
    entry, loads, places = [], [], []
    for at, kind in enumerate(kinds):
        entry.append(f"  %p{at}.at = getelementptr ptr, ptr %pointers, i64 {at}")
        entry.append(f"  %p{at} = load ptr, ptr %p{at}.at")
        places.append(f"  %x{at}.at = getelementptr inbounds {kind}, ptr %p{at}, i64 %i")
        loads.append(f"  %x{at} = load {kind}, ptr %x{at}.at, !llvm.access.group !1")
    last = len(kinds) - 1
    store = f"  store {kinds[-1]} {result.name}, ptr %x{last}.at, !llvm.access.group !1"
    definitions = [vecmath.definition(name, subject.type) for name in subject.functions]
    declared = dict.fromkeys(e.declarations)
    for definition in definitions:
        declared.update(dict.fromkeys(definition.declarations))
    return "\n".join((
        f"define void @{SYMBOL}(ptr %pointers, i64 %count) {{",
        "entry:",
        *entry,
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [0, %entry], [%i.next, %loop]",
        *places,
        *loads[:-1],
        *e.lines,
        store,
        "  %i.next = add nuw nsw i64 %i, 1",
        "  %more = icmp slt i64 %i.next, %count",
        "  br i1 %more, label %loop, label %done, !llvm.loop !2",
        "done:",
        "  ret void",
        "}",
        *loop_metadata((), 1, True),
        *(definition.text for definition in definitions),
        *declared,
    ))  # fmt: skip
