"""IR text, written one value at a time.

In: calls such as ``e.fadd(a, b)``. Out: ``lines``, straight-line code in static single assignment, and
``declarations`` of the LLVM intrinsics it calls. Types are IR's (``float``, ``double``, ``i32``); types
that do not fit are an ``AssertionError`` here, not a message of LLVM's about a line of generated text.
"""

from __future__ import annotations

import math
import struct
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

    def _binary(self, instruction: str, a: Value, b: Value, real: bool) -> Value:
        assert a.type == b.type, (instruction, a, b)
        assert (a.type in REAL) == real, (instruction, a)
        return self.define(a.type, f"{instruction} {a.type} {a.name}, {b.name}")

    def fadd(self, a: Value, b: Value) -> Value:
        return self._binary("fadd", a, b, True)

    def fsub(self, a: Value, b: Value) -> Value:
        return self._binary("fsub", a, b, True)

    def fmul(self, a: Value, b: Value) -> Value:
        return self._binary("fmul", a, b, True)

    def fdiv(self, a: Value, b: Value) -> Value:
        return self._binary("fdiv", a, b, True)

    def frem(self, a: Value, b: Value) -> Value:
        return self._binary("frem", a, b, True)

    def add(self, a: Value, b: Value) -> Value:
        return self._binary("add", a, b, False)

    def sub(self, a: Value, b: Value) -> Value:
        return self._binary("sub", a, b, False)

    def mul(self, a: Value, b: Value) -> Value:
        return self._binary("mul", a, b, False)

    def sdiv(self, a: Value, b: Value) -> Value:
        return self._binary("sdiv", a, b, False)

    def udiv(self, a: Value, b: Value) -> Value:
        return self._binary("udiv", a, b, False)

    def srem(self, a: Value, b: Value) -> Value:
        return self._binary("srem", a, b, False)

    def urem(self, a: Value, b: Value) -> Value:
        return self._binary("urem", a, b, False)

    def and_(self, a: Value, b: Value) -> Value:
        return self._binary("and", a, b, False)

    def or_(self, a: Value, b: Value) -> Value:
        return self._binary("or", a, b, False)

    def xor(self, a: Value, b: Value) -> Value:
        return self._binary("xor", a, b, False)

    def shl(self, a: Value, b: Value) -> Value:
        return self._binary("shl", a, b, False)

    def lshr(self, a: Value, b: Value) -> Value:
        return self._binary("lshr", a, b, False)

    def ashr(self, a: Value, b: Value) -> Value:
        return self._binary("ashr", a, b, False)

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

    def _convert(self, instruction: str, x: Value, type_name: str) -> Value:
        return self.define(type_name, f"{instruction} {x.type} {x.name} to {type_name}")

    def bitcast(self, x: Value, type_name: str) -> Value:
        return self._convert("bitcast", x, type_name)

    def fptosi(self, x: Value, type_name: str) -> Value:
        """Toward zero. Undefined out of range: guard it."""
        return self._convert("fptosi", x, type_name)

    def sitofp(self, x: Value, type_name: str) -> Value:
        return self._convert("sitofp", x, type_name)

    def uitofp(self, x: Value, type_name: str) -> Value:
        return self._convert("uitofp", x, type_name)

    def fpext(self, x: Value, type_name: str) -> Value:
        return self._convert("fpext", x, type_name)

    def fptrunc(self, x: Value, type_name: str) -> Value:
        return self._convert("fptrunc", x, type_name)

    def trunc(self, x: Value, type_name: str) -> Value:
        """The low bits of an integer."""
        return self._convert("trunc", x, type_name)

    def zext(self, x: Value, type_name: str) -> Value:
        return self._convert("zext", x, type_name)

    def sext(self, x: Value, type_name: str) -> Value:
        return self._convert("sext", x, type_name)

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

    def _of_one_type(self, name: str, *arguments: Value) -> Value:
        (kind,) = {a.type for a in arguments}
        return self.intrinsic(f"{name}.{'f64' if kind == 'double' else 'f32'}", kind, *arguments)

    def extreme(self, order: str, a: Value, b: Value) -> Value:
        """Maximum ("gt") or minimum ("lt") of IEEE 754-2019: NaN wins, and 0.0 is above -0.0."""
        return self._of_one_type("maximum" if order == "gt" else "minimum", a, b)

    def fence(self, x: Value) -> Value:
        """``x``, of which LLVM knows nothing any more; no instruction."""
        return replace(self._of_one_type("arithmetic.fence", x), number=x.number)

    def fneg(self, x: Value) -> Value:
        return self.define(x.type, f"fneg {x.type} {x.name}")

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """``a * b + c``, rounded once."""
        return self._of_one_type("fma", a, b, c)

    def fabs(self, x: Value) -> Value:
        return self._of_one_type("fabs", x)

    def sqrt(self, x: Value) -> Value:
        return self._of_one_type("sqrt", x)

    def floor(self, x: Value) -> Value:
        return self._of_one_type("floor", x)

    def ceil(self, x: Value) -> Value:
        return self._of_one_type("ceil", x)

    def rint(self, x: Value) -> Value:
        """To the nearest whole number, ties to even."""
        return self._of_one_type("rint", x)

    def toward_zero(self, x: Value) -> Value:
        """LLVM's ``trunc`` of a floating-point number (``trunc`` here is of integers)."""
        return self._of_one_type("trunc", x)

    def copysign(self, size: Value, sign: Value) -> Value:
        return self._of_one_type("copysign", size, sign)
