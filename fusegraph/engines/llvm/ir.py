"""IR text, written one value at a time.

In: calls such as ``e.fadd(a, b)``. Out: ``lines``, straight-line code in static single assignment, and
``declarations`` of the LLVM intrinsics it calls. Types are IR's (``float``, ``double``, ``i32``); types
that do not fit are an ``AssertionError`` here, not a message of LLVM's about a line of generated text.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import SupportsFloat

import numpy as np

REAL = ("half", "float", "double")


@dataclass(frozen=True, slots=True)
class Value:
    """An operand: a name or a literal, and its type; ``number``, where it is known and no NaN."""

    type: str
    name: str
    number: float | None = None


def _binary(instruction: str, floats: bool) -> Callable[[Emitter, Value, Value], Value]:
    """The method that writes an instruction on two values of one type."""

    def method(e: Emitter, a: Value, b: Value) -> Value:
        assert a.type == b.type, (instruction, a, b)
        assert (a.type in REAL) == floats, (instruction, a)
        return e.define(a.type, f"{instruction} {a.type} {a.name}, {b.name}")

    return method


def _conversion(instruction: str) -> Callable[[Emitter, Value, str], Value]:
    """The method that writes a conversion to another type."""

    def method(e: Emitter, x: Value, type_name: str) -> Value:
        return e.define(type_name, f"{instruction} {x.type} {x.name} to {type_name}")

    return method


def _unary(name: str) -> Callable[[Emitter, Value], Value]:
    """The method that calls an intrinsic on a float."""
    return lambda e, x: e.on_floats(name, x)


class Emitter:
    """Writes instructions; every method returns the value that its instruction defines."""

    def __init__(self, prefix: str = "v") -> None:
        self.prefix = prefix
        self.lines: list[str] = []
        self.declared: dict[str, None] = {}

    @property
    def declarations(self) -> tuple[str, ...]:
        """``declare`` lines of the intrinsics that were called."""
        return tuple(self.declared)

    def define(self, type_name: str, instruction: str) -> Value:
        """A new value of ``type_name``, defined by ``instruction``."""
        value = Value(type_name, f"%{self.prefix}{len(self.lines)}")
        self.lines.append(f"  {value.name} = {instruction}")
        return value

    # --- literals ---------------------------------------------------------------------------------

    def real(self, type_name: str, value: SupportsFloat) -> Value:
        """A floating-point literal, rounded to ``type_name``; exact, NaN and infinities included."""
        number = float(np.float32(float(value))) if type_name == "float" else float(value)
        (bits,) = struct.unpack("<Q", struct.pack("<d", number))
        return Value(type_name, f"0x{bits:016x}", None if math.isnan(number) else number)

    def whole(self, type_name: str, value: int) -> Value:
        """An integer literal; values that differ by a multiple of 2^width are one."""
        width = int(type_name[1:])
        value &= (1 << width) - 1
        return Value(
            type_name, str(value - (1 << width) if value >> (width - 1) and width > 1 else value)
        )

    # --- two operands of one type -----------------------------------------------------------------

    fadd = _binary("fadd", floats=True)
    fsub = _binary("fsub", floats=True)
    fmul = _binary("fmul", floats=True)
    fdiv = _binary("fdiv", floats=True)
    frem = _binary("frem", floats=True)
    add = _binary("add", floats=False)
    sub = _binary("sub", floats=False)
    mul = _binary("mul", floats=False)
    sdiv = _binary("sdiv", floats=False)
    udiv = _binary("udiv", floats=False)
    srem = _binary("srem", floats=False)
    urem = _binary("urem", floats=False)
    and_ = _binary("and", floats=False)
    or_ = _binary("or", floats=False)
    xor = _binary("xor", floats=False)
    shl = _binary("shl", floats=False)
    lshr = _binary("lshr", floats=False)
    ashr = _binary("ashr", floats=False)

    # --- comparing and choosing -------------------------------------------------------------------

    def fcmp(self, order: str, a: Value, b: Value) -> Value:
        """An ``i1``; ``order`` is IR's: ``olt`` (ordered, less), ``une``, ``uno`` (a NaN), ..."""
        assert a.type == b.type, (order, a, b)
        return self.define("i1", f"fcmp {order} {a.type} {a.name}, {b.name}")

    def icmp(self, order: str, a: Value, b: Value) -> Value:
        """An ``i1``; ``order`` is IR's: ``slt`` (signed), ``ult`` (unsigned), ``eq``, ..."""
        assert a.type == b.type, (order, a, b)
        return self.define("i1", f"icmp {order} {a.type} {a.name}, {b.name}")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """``a`` where ``condition`` holds, else ``b``: both are computed."""
        assert condition.type == "i1", condition
        assert a.type == b.type, (a, b)
        return self.define(
            a.type, f"select i1 {condition.name}, {a.type} {a.name}, {b.type} {b.name}"
        )

    # --- from type to type ------------------------------------------------------------------------

    bitcast = _conversion("bitcast")
    fptosi = _conversion("fptosi")
    """Toward zero. Undefined out of range: guard it."""
    sitofp = _conversion("sitofp")
    uitofp = _conversion("uitofp")
    fpext = _conversion("fpext")
    fptrunc = _conversion("fptrunc")
    trunc = _conversion("trunc")
    """The low bits of an integer."""
    zext = _conversion("zext")
    sext = _conversion("sext")

    # --- calls ------------------------------------------------------------------------------------

    def call(self, symbol: str, type_name: str, *arguments: Value) -> Value:
        """A call of a function of the module."""
        listed = ", ".join(f"{a.type} {a.name}" for a in arguments)
        return self.define(type_name, f"call {type_name} @{symbol}({listed})")

    def intrinsic(self, name: str, type_name: str, *arguments: Value) -> Value:
        """A call of LLVM's intrinsic ``llvm.<name>``, declared as it is used."""
        kinds = ", ".join(a.type for a in arguments)
        self.declared[f"declare {type_name} @llvm.{name}({kinds})"] = None
        return self.call(f"llvm.{name}", type_name, *arguments)

    def on_floats(self, name: str, *arguments: Value) -> Value:
        """A call of an intrinsic on floats of one type, which its result has."""
        (kind,) = {a.type for a in arguments}
        return self.intrinsic(f"{name}.{'f64' if kind == 'double' else 'f32'}", kind, *arguments)

    def extreme(self, order: str, a: Value, b: Value) -> Value:
        """Maximum ("gt") or minimum ("lt") of IEEE 754-2019: NaN wins, and 0.0 is above -0.0."""
        return self.on_floats("maximum" if order == "gt" else "minimum", a, b)

    def fence(self, x: Value) -> Value:
        """``x``, of which LLVM knows nothing any more; no instruction."""
        return replace(self.on_floats("arithmetic.fence", x), number=x.number)

    def fneg(self, x: Value) -> Value:
        return self.define(x.type, f"fneg {x.type} {x.name}")

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """``a * b + c``, rounded once."""
        return self.on_floats("fma", a, b, c)

    def copysign(self, size: Value, sign: Value) -> Value:
        return self.on_floats("copysign", size, sign)

    fabs = _unary("fabs")
    sqrt = _unary("sqrt")
    floor = _unary("floor")
    ceil = _unary("ceil")
    rint = _unary("rint")
    """To the nearest whole number, ties to even."""
    toward_zero = _unary("trunc")
    """LLVM's ``trunc`` of a floating-point number (``trunc`` here is of integers)."""
