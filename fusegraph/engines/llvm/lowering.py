"""One operation in IR: what each row of the op table means to NumPy, instruction by instruction.

In: an ``Emitter``, a row's name, its dtypes and the values of its operands. Out: the value of its
result, or ``UnsupportedError`` with the reason. LLVM leaves undefined what NumPy defines (division by
zero, shifts past the width, casts out of range): every such instruction is guarded here.

A value is held in registers as ``Parts``: one IR value, or real and imaginary part. A bool is an ``i1``;
a float16 is a ``float`` that is rounded after every operation, as NumPy's loops do.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from typing import Any

import numpy as np

from fusegraph.engines.llvm import vecmath
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.graph import DType

Parts = tuple[Value, ...]
Rule = Callable[..., Parts]

HALF, DOUBLE, UINT32, UINT64 = (np.dtype(c) for c in ("f2", "f8", "u4", "u8"))
_FLOAT_TYPES = {"e": "float", "f": "float", "d": "double", "F": "float", "D": "double"}
# C leaves a cast out of range undefined; NumPy gives what the processor does: x86 answers with the least
# integer, arm64 with the nearest one. tests/test_integers.py compares with the installed NumPy.
ARM = platform.machine().lower() in ("arm64", "aarch64")


class UnsupportedError(Exception):
    """No IR of an operation has NumPy's results; the message says why."""


def register_type(dtype: DType) -> str:
    """The IR type of a value's parts in registers."""
    if dtype.kind == "b":
        return "i1"
    if dtype.kind in "iu":
        return f"i{8 * dtype.itemsize}"
    return _FLOAT_TYPES[dtype.char]


def literal(e: Emitter, value: Any, dtype: DType) -> Parts:
    """A constant of ``dtype``."""
    kind = register_type(dtype)
    if dtype.kind == "c":
        return (e.real(kind, float(value.real)), e.real(kind, float(value.imag)))
    if dtype.kind == "f":
        return (e.real(kind, float(value)),)
    return (e.whole(kind, int(value)),)


def lower(
    e: Emitter, name: str, loops: tuple[DType, ...], result: DType, operands: tuple[Parts, ...]
) -> Parts:
    """``name`` of operands that have the loop's dtypes.

    Raises
    ------
    UnsupportedError
        NumPy's results cannot be promised.
    """
    if name in ("copysign", "fabs", "abs", "nextafter") and result == HALF:
        return RULES[name](e, HALF, *operands)  # exact: nothing to round
    rule = RULES.get(name)
    if rule is None:
        if name in vecmath.CANCELS:
            raise UnsupportedError(f"llvm's {name} is nearer to the value than NumPy's")
        found = _function(e, name, loops[0], operands)
    elif name in COMPARISONS:
        found = rule(e, loops, *operands)
    else:
        found = rule(e, loops[-1], *operands)
    return rounded(e, found) if result == HALF else found


def rounded(e: Emitter, x: Parts) -> Parts:
    """To float16 and back."""
    return (e.call("fg_half_rounded", "float", x[0]),)


def _function(e: Emitter, name: str, dtype: DType, operands: tuple[Parts, ...]) -> Parts:
    if name not in vecmath.TABLE:
        raise UnsupportedError(f"llvm has no {name} with NumPy's results")
    if dtype.kind != "f" or not vecmath.has(name, register_type(dtype)):
        raise UnsupportedError(f"llvm has no {name} of {dtype}")
    kind = register_type(dtype)
    return (e.call(vecmath.symbol(name, kind), kind, *(x for (x,) in operands)),)


# --- rules by kind --------------------------------------------------------------------------------


def _by_kind(**rules: Callable[..., Parts]) -> Rule:
    """A rule for each kind: ``b``, ``i``, ``u``, ``f``, ``c``; ``n`` stands for every number but c."""

    def rule(e: Emitter, dtype: DType, *operands: Parts) -> Parts:
        found = rules.get(dtype.kind) or (rules.get("n") if dtype.kind in "iuf" else None)
        if found is None:
            raise UnsupportedError(f"llvm has no such operation on {dtype} with NumPy's results")
        return found(e, dtype, *operands)

    return rule


def _plain(name: str) -> Rule:
    """An instruction over one-part values."""

    def rule(e: Emitter, dtype: DType, *operands: Parts) -> Parts:
        return (getattr(e, name)(*(x for (x,) in operands)),)

    return rule


def _each(name: str) -> Rule:
    """An instruction on real and imaginary part."""

    def rule(e: Emitter, dtype: DType, *operands: Parts) -> Parts:
        return tuple(getattr(e, name)(*parts) for parts in zip(*operands, strict=True))

    return rule


def _same(e: Emitter, dtype: DType, x: Parts) -> Parts:
    return x


def _number(e: Emitter, like: Value, value: float) -> Value:
    return (
        e.real(like.type, value)
        if like.type in ("float", "double")
        else e.whole(like.type, int(value))
    )


def _negative_int(e: Emitter, dtype: DType, x: Parts) -> Parts:
    return (e.sub(e.whole(x[0].type, 0), x[0]),)


def _constantly(value: int) -> Rule:
    return lambda e, dtype, *operands: (e.whole("i1", value),)


# --- arithmetic -----------------------------------------------------------------------------------


def numpy_fuses_complex_products() -> bool:
    """Does the installed NumPy multiply complex numbers with fused multiply-adds?

    Its loops do where the processor has them, so the result depends on both.
    """
    x = np.full(8, complex(1 + 2.0**-30, 1), np.complex128)
    return bool((x * x).real[0] != (1 + 2.0**-30) ** 2 - 1)


def _complex_multiply(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    (a, b), (c, d) = x, y
    if numpy_fuses_complex_products():
        return (e.fma(a, c, e.fneg(e.fmul(b, d))), e.fma(a, d, e.fmul(b, c)))
    return (e.fsub(e.fmul(a, c), e.fmul(b, d)), e.fadd(e.fmul(a, d), e.fmul(b, c)))


def _divide(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    if dtype.kind in "iu":  # NumPy's loops on small integers divide as doubles
        x, y = cast(e, x, dtype, DOUBLE), cast(e, y, dtype, DOUBLE)
    return (e.fdiv(x[0], y[0]),)


def _reciprocal_int(e: Emitter, dtype: DType, x: Parts) -> Parts:
    quotient = e.fdiv(e.real("double", 1.0), cast(e, x, dtype, DOUBLE)[0])
    if dtype == UINT32:  # infinity becomes 0, whichever way a processor casts it
        return (e.trunc(_truncated(e, quotient, "i64"), "i32"),)
    return cast(e, (quotient,), DOUBLE, dtype)


def _safe_divisor(e: Emitter, dtype: DType, y: Value) -> tuple[Value, Value, Value | None]:
    """A divisor that neither is zero nor overflows, whether y is zero, and whether it is -1."""
    zero = e.icmp("eq", y, e.whole(y.type, 0))
    unsafe, minus = zero, None
    if dtype.kind == "i":
        minus = e.icmp("eq", y, e.whole(y.type, -1))
        unsafe = e.or_(zero, minus)
    return e.select(unsafe, e.whole(y.type, 1), y), zero, minus


def _floor_divide_int(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    (a,), (b,) = x, y
    divisor, by_zero, by_minus = _safe_divisor(e, dtype, b)
    nought = e.whole(a.type, 0)
    if by_minus is None:
        return (e.select(by_zero, nought, e.udiv(a, divisor)),)
    quotient = e.sdiv(a, divisor)
    rest = e.srem(a, divisor)
    low = e.and_(e.icmp("ne", rest, nought), e.icmp("slt", e.xor(rest, divisor), nought))
    floor = e.select(low, e.sub(quotient, e.whole(a.type, 1)), quotient)
    floor = e.select(by_minus, e.sub(nought, a), floor)
    return (e.select(by_zero, nought, floor),)


def _remainder_int(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    (a,), (b,) = x, y
    divisor, by_zero, by_minus = _safe_divisor(e, dtype, b)
    nought = e.whole(a.type, 0)
    if by_minus is None:
        return (e.select(by_zero, nought, e.urem(a, divisor)),)
    rest = e.srem(a, divisor)
    low = e.and_(e.icmp("ne", rest, nought), e.icmp("slt", e.xor(rest, divisor), nought))
    return (e.select(by_zero, nought, e.select(low, e.add(rest, divisor), rest)),)


def _fmod_int(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    (a,), (b,) = x, y
    divisor, by_zero, _ = _safe_divisor(e, dtype, b)
    rest = e.srem(a, divisor) if dtype.kind == "i" else e.urem(a, divisor)
    return (e.select(by_zero, e.whole(a.type, 0), rest),)


def _divmod(e: Emitter, a: Value, b: Value) -> tuple[Value, Value]:
    """NumPy's npy_divmod: floor(a / b) that agrees with the remainder, and the remainder."""
    zero, one = e.real(a.type, 0.0), e.real(a.type, 1.0)
    by_zero = e.fcmp("oeq", b, zero)
    rest = e.frem(a, b)
    quotient = e.fdiv(e.fsub(a, rest), b)
    some = e.fcmp("une", rest, zero)
    crosses = e.xor(e.fcmp("olt", b, zero), e.fcmp("olt", rest, zero))
    adjust = e.and_(some, crosses)
    remainder = e.select(adjust, e.fadd(rest, b), e.select(some, rest, e.copysign(zero, b)))
    quotient = e.select(adjust, e.fsub(quotient, one), quotient)
    floor = e.floor(quotient)
    above = e.fcmp("ogt", e.fsub(quotient, floor), e.real(a.type, 0.5))
    floor = e.select(above, e.fadd(floor, one), floor)
    whole = e.fdiv(a, b)
    floor = e.select(e.fcmp("une", quotient, zero), floor, e.copysign(zero, whole))
    return e.select(by_zero, whole, floor), e.select(by_zero, rest, remainder)


def _floor_divide(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    return (_divmod(e, x[0], y[0])[0],)


def _remainder(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    return (_divmod(e, x[0], y[0])[1],)


def _abs_int(e: Emitter, dtype: DType, x: Parts) -> Parts:
    if dtype.kind == "u":
        return x
    zero = e.whole(x[0].type, 0)
    return (e.select(e.icmp("slt", x[0], zero), e.sub(zero, x[0]), x[0]),)


def _square(e: Emitter, dtype: DType, x: Parts) -> Parts:
    return RULES["multiply"](e, dtype, x, x)


def _reciprocal(e: Emitter, dtype: DType, x: Parts) -> Parts:
    return (e.fdiv(e.real(x[0].type, 1.0), x[0]),)


def _sign(e: Emitter, dtype: DType, x: Parts) -> Parts:
    value = x[0]
    zero, one = _number(e, value, 0), _number(e, value, 1)
    if dtype.kind == "u":
        return (e.select(e.icmp("eq", value, zero), zero, one),)
    minus = _number(e, value, -1)
    if dtype.kind == "i":
        below = e.select(e.icmp("slt", value, zero), minus, zero)
        return (e.select(e.icmp("sgt", value, zero), one, below),)
    number = e.select(e.fcmp("oeq", value, zero), zero, value)  # NaN stays
    number = e.select(e.fcmp("olt", value, zero), minus, number)
    return (e.select(e.fcmp("ogt", value, zero), one, number),)


def _heaviside(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    (a,), (b,) = x, y
    zero, one = e.real(a.type, 0.0), e.real(a.type, 1.0)
    found = e.select(e.fcmp("olt", a, zero), zero, a)
    found = e.select(e.fcmp("ogt", a, zero), one, found)
    return (e.select(e.fcmp("oeq", a, zero), b, found),)


def _times(value: Callable[[Any], Any]) -> Rule:
    """Multiplied by a constant that is computed in the value's own precision, as in NumPy."""

    def rule(e: Emitter, dtype: DType, x: Parts) -> Parts:
        precision = np.float64 if dtype == DOUBLE else np.float32
        return (e.fmul(x[0], e.real(x[0].type, float(value(precision)))),)

    return rule


# --- choosing and comparing -----------------------------------------------------------------------

_ORDER = {"equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge"}  # fmt: skip


def _compare(name: str) -> Rule:
    order = _ORDER[name]

    def rule(e: Emitter, loops: tuple[DType, ...], x: Parts, y: Parts) -> Parts:
        first, second = loops[0], loops[1]
        if first.kind == "c":
            return (_compare_complex(e, order, x, y),)
        if first.kind == "f":
            return (e.fcmp("une" if order == "ne" else f"o{order}", x[0], y[0]),)
        if first.kind != second.kind:  # int64 with uint64: NumPy compares their values
            a, b = (_widened(e, v[0], kind) for v, kind in ((x, first), (y, second)))
            return (e.icmp(order if order in ("eq", "ne") else f"s{order}", a, b),)
        prefix = "" if order in ("eq", "ne") else "s" if first.kind == "i" else "u"
        return (e.icmp(prefix + order, x[0], y[0]),)

    return rule


def _widened(e: Emitter, x: Value, dtype: DType) -> Value:
    return e.sext(x, "i128") if dtype.kind == "i" else e.zext(x, "i128")


def _compare_complex(e: Emitter, order: str, x: Parts, y: Parts) -> Value:
    if order not in ("eq", "ne"):
        raise UnsupportedError("llvm does not order complex numbers")
    test, join = ("oeq", e.and_) if order == "eq" else ("une", e.or_)
    return join(e.fcmp(test, x[0], y[0]), e.fcmp(test, x[1], y[1]))


def _extreme(order: str, skips_nan: bool) -> Rule:
    """Maximum ("gt") or minimum ("lt"): NaN wins, or loses where it is to be skipped."""

    def rule(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
        (a,), (b,) = x, y
        if dtype.kind == "b":
            return (e.or_(a, b) if order == "gt" else e.and_(a, b),)
        if dtype.kind in "iu":
            sign = "s" if dtype.kind == "i" else "u"
            return (e.select(e.icmp(sign + order, a, b), a, b),)
        doubtful = b if skips_nan else a
        first = e.or_(
            e.fcmp("oge" if order == "gt" else "ole", a, b), e.fcmp("uno", doubtful, doubtful)
        )
        return (e.select(first, a, b),)

    return _by_kind(b=rule, n=rule)


def _where(e: Emitter, dtype: DType, condition: Parts, x: Parts, y: Parts) -> Parts:
    return tuple(e.select(condition[0], a, b) for a, b in zip(x, y, strict=True))


def truth(e: Emitter, x: Parts, dtype: DType) -> Value:
    """Is it not zero? NaN is true."""
    if dtype.kind == "b":
        return x[0]
    if dtype.kind in "iu":
        return e.icmp("ne", x[0], e.whole(x[0].type, 0))
    parts = [e.fcmp("une", part, e.real(part.type, 0.0)) for part in x]
    return parts[0] if len(parts) == 1 else e.or_(*parts)


def _logical(join: str) -> Rule:
    def rule(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
        return (getattr(e, join)(truth(e, x, dtype), truth(e, y, dtype)),)

    return rule


def _logical_not(e: Emitter, dtype: DType, x: Parts) -> Parts:
    return (e.xor(truth(e, x, dtype), e.whole("i1", 1)),)


def _invert(e: Emitter, dtype: DType, x: Parts) -> Parts:
    return (e.xor(x[0], e.whole(x[0].type, 1 if dtype.kind == "b" else -1)),)


def _left_shift(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    (a,), (b,) = x, y
    zero = e.whole(a.type, 0)
    fits = e.icmp("ult", b, e.whole(b.type, 8 * dtype.itemsize))
    return (e.select(fits, e.shl(a, e.select(fits, b, zero)), zero),)


def _right_shift(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    (a,), (b,) = x, y
    width = 8 * dtype.itemsize
    fits = e.icmp("ult", b, e.whole(b.type, width))
    if dtype.kind == "i":  # past the width only the sign is left
        return (e.ashr(a, e.select(fits, b, e.whole(b.type, width - 1))),)
    zero = e.whole(a.type, 0)
    return (e.select(fits, e.lshr(a, e.select(fits, b, zero)), zero),)


# --- parts of floating-point numbers --------------------------------------------------------------


def _any_part(test: Callable[[Emitter, Value], Value]) -> Rule:
    def rule(e: Emitter, dtype: DType, x: Parts) -> Parts:
        found = [test(e, part) for part in x]
        return (found[0] if len(found) == 1 else e.or_(*found),)

    return rule


def _part_is_nan(e: Emitter, x: Value) -> Value:
    return e.fcmp("uno", x, x)


def _part_is_infinite(e: Emitter, x: Value) -> Value:
    return e.fcmp("oeq", e.fabs(x), e.real(x.type, math.inf))


def _is_finite(e: Emitter, dtype: DType, x: Parts) -> Parts:
    found = [e.fcmp("one", e.fabs(part), e.real(part.type, math.inf)) for part in x]
    return (found[0] if len(found) == 1 else e.and_(*found),)


def _signbit(e: Emitter, dtype: DType, x: Parts) -> Parts:
    whole = "i64" if x[0].type == "double" else "i32"
    return (e.icmp("slt", e.bitcast(x[0], whole), e.whole(whole, 0)),)


def _nextafter(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """One step on the integers that are the bits, as in C's nextafter."""
    (a,), (b,) = x, y
    whole = {"e": "i16", "f": "i32", "d": "i64"}[dtype.char]
    bits = e.call("fg_half_bits", "i16", a) if dtype == HALF else e.bitcast(a, whole)
    zero = e.real(a.type, 0.0)
    away = e.xor(e.fcmp("olt", a, b), e.fcmp("olt", a, zero))
    step = e.select(away, e.whole(whole, 1), e.whole(whole, -1))
    width = int(whole[1:])
    least = e.select(
        e.fcmp("ogt", b, zero), e.whole(whole, 1), e.whole(whole, (1 << (width - 1)) + 1)
    )
    moved = e.select(e.fcmp("oeq", a, zero), least, e.add(bits, step))
    back = e.call("fg_half_value", "float", moved) if dtype == HALF else e.bitcast(moved, a.type)
    back = e.select(e.fcmp("oeq", a, b), a if dtype == HALF else b, back)  # NumPy's own for float16
    return (e.select(e.fcmp("uno", a, b), e.fadd(a, b), back),)


def _conj(e: Emitter, dtype: DType, x: Parts) -> Parts:
    return (x[0], e.fneg(x[1]))


def _imag(e: Emitter, dtype: DType, x: Parts) -> Parts:
    return (x[1],) if dtype.kind == "c" else (_number(e, x[0], 0),)


# --- casts ----------------------------------------------------------------------------------------


def cast(e: Emitter, x: Parts, start: DType, end: DType) -> Parts:
    """``x.astype(end)``, as NumPy does it on this processor."""
    if start == end:
        return x
    if end.kind == "b":
        return (truth(e, x, start),)
    if end.kind == "c":
        return _to_complex(e, x, start, end)
    if start.kind == "c":
        x, start = x[:1], np.dtype(start.char.lower())
        return cast(e, x, start, end)
    if end.kind == "f":
        return _to_float(e, x, start, end)
    return (_to_integer(e, x[0], start, end),)


def _to_complex(e: Emitter, x: Parts, start: DType, end: DType) -> Parts:
    part = np.dtype(end.char.lower())
    if start.kind == "c":
        origin = np.dtype(start.char.lower())
        return tuple(cast(e, (p,), origin, part)[0] for p in x)
    return (*cast(e, x, start, part), e.real(register_type(end), 0.0))


def _to_float(e: Emitter, x: Parts, start: DType, end: DType) -> Parts:
    kind = register_type(end)
    value = x[0]
    if start.kind == "b":
        return (e.uitofp(value, kind),)
    if start.kind in "iu":
        found = (e.sitofp if start.kind == "i" else e.uitofp)(value, kind)
        return rounded(e, (found,)) if end == HALF else (found,)
    if end == HALF:
        if start == DOUBLE:
            value = _rounded_to_odd(e, value)
        return rounded(e, (value,))
    if value.type == kind:
        return x
    return ((e.fpext if kind == "double" else e.fptrunc)(value, kind),)


def _rounded_to_odd(e: Emitter, x: Value) -> Value:
    """A double as a float whose last bit tells that bits were lost: rounding it again rounds once.

    S. Boldo and G. Melquiond, "When double rounding is odd", 2005.
    """
    near = e.fptrunc(x, "float")
    back = e.fpext(near, "double")
    lost = e.fcmp("one", back, x)
    bits = e.bitcast(near, "i32")
    beyond = e.fcmp("ogt", e.fabs(back), e.fabs(x))
    toward_zero = e.select(beyond, e.sub(bits, e.whole("i32", 1)), bits)
    odd = e.or_(toward_zero, e.whole("i32", 1))
    return e.bitcast(e.select(lost, odd, bits), "float")


def _to_integer(e: Emitter, x: Value, start: DType, end: DType) -> Value:
    kind = register_type(end)
    if start.kind == "b":
        return e.zext(x, kind)
    if start.kind in "iu":
        if start.itemsize == end.itemsize:
            return x
        if start.itemsize > end.itemsize:
            return e.trunc(x, kind)
        return (e.sext if start.kind == "i" else e.zext)(x, kind)
    if end == UINT64:
        return _to_uint64(e, x)
    if end == UINT32 and not ARM:
        # NumPy's vectorised loop gives 2147483648 for NaN and its tail gives 0.
        raise UnsupportedError(
            "NumPy's cast to uint32 depends on the place where it is out of range"
        )
    middle = "i64" if end.itemsize == 8 or end == UINT32 else "i32"
    found = _truncated(e, x, middle)
    return found if middle == kind else e.trunc(found, kind)


def _truncated(e: Emitter, x: Value, kind: str) -> Value:
    """Toward zero. Out of range and NaN: the least integer (x86), the nearest one and 0 (arm64)."""
    width = int(kind[1:])
    if ARM:
        return e.intrinsic(f"fptosi.sat.{kind}.f{32 if x.type == 'float' else 64}", kind, x)
    least = e.real(x.type, -(2.0 ** (width - 1)))
    inside = e.and_(e.fcmp("oge", x, least), e.fcmp("olt", x, e.real(x.type, 2.0 ** (width - 1))))
    return e.fptosi(e.select(inside, x, least), kind)


def _to_uint64(e: Emitter, x: Value) -> Value:
    """What compilers make of it on x86: the upper half goes through the signed cast, moved by 2^63."""
    if ARM:
        return e.intrinsic(f"fptoui.sat.i64.f{32 if x.type == 'float' else 64}", "i64", x)
    half = e.real(x.type, 2.0**63)
    upper = e.fcmp("oge", x, half)
    moved = e.xor(_truncated(e, e.fsub(x, half), "i64"), e.whole("i64", -(2**63)))
    return e.select(upper, moved, _truncated(e, x, "i64"))


# --- float16 --------------------------------------------------------------------------------------


def half_definitions(f16c: bool) -> str:
    """Conversions between float16's bits and float: the processor's, or in integers."""
    if f16c:
        value, bits = (
            "%h = bitcast i16 %b to half\n  %v = fpext half %h to float",
            ("%h = fptrunc float %x to half\n  %b = bitcast half %h to i16"),
        )
    else:
        value, bits = _HALF_VALUE, _HALF_BITS
    return f"""
define internal float @fg_half_value(i16 %b) alwaysinline {{
  {value}
  ret float %v
}}
define internal i16 @fg_half_bits(float %x) alwaysinline {{
  {bits}
  ret i16 %b
}}
define internal float @fg_half_rounded(float %x) alwaysinline {{
  %b = call i16 @fg_half_bits(float %x)
  %v = call float @fg_half_value(i16 %b)
  ret float %v
}}
"""


# F. Giesen, "Half to float done quick" and "Float to half" (2012): a normal number moves its exponent, a
# subnormal one is scaled (or rounded by adding 0.5, whose last bit is float16's least subnormal).
_HALF_VALUE = f"""%w = zext i16 %b to i32
  %magnitude = and i32 %w, 32767
  %sign0 = and i32 %w, 32768
  %sign = shl i32 %sign0, 16
  %shifted = shl i32 %magnitude, 13
  %normal = add i32 %shifted, {112 << 23}
  %special = add i32 %shifted, {224 << 23}
  %whole = uitofp i32 %magnitude to float
  %tiny = fmul float %whole, 0x3e70000000000000
  %tiny.bits = bitcast float %tiny to i32
  %is.special = icmp uge i32 %magnitude, {0x7C00}
  %is.tiny = icmp ult i32 %magnitude, {0x400}
  %m0 = select i1 %is.special, i32 %special, i32 %normal
  %m1 = select i1 %is.tiny, i32 %tiny.bits, i32 %m0
  %m2 = or i32 %m1, %sign
  %v = bitcast i32 %m2 to float"""
_HALF_BITS = f"""%w = bitcast float %x to i32
  %u = and i32 %w, {0x7FFFFFFF}
  %sign0 = lshr i32 %w, 16
  %sign = and i32 %sign0, 32768
  %moved = sub i32 %u, {112 << 23}
  %last0 = lshr i32 %u, 13
  %last = and i32 %last0, 1
  %up = add i32 %last, 4095
  %sum = add i32 %moved, %up
  %normal = lshr i32 %sum, 13
  %magnitude = bitcast i32 %u to float
  %grid = fadd float %magnitude, 0x3fe0000000000000
  %grid.bits = bitcast float %grid to i32
  %tiny = sub i32 %grid.bits, {0x3F000000}
  %is.tiny = icmp ult i32 %u, {113 << 23}
  %is.large = icmp uge i32 %u, {143 << 23}
  %is.nan = icmp ugt i32 %u, {255 << 23}
  %m0 = select i1 %is.tiny, i32 %tiny, i32 %normal
  %m1 = select i1 %is.large, i32 {0x7C00}, i32 %m0
  %m2 = select i1 %is.nan, i32 {0x7E00}, i32 %m1
  %m3 = or i32 %m2, %sign
  %b = trunc i32 %m3 to i16"""


# --- the table ------------------------------------------------------------------------------------

COMPARISONS = frozenset(_ORDER)

# fmt: off
RULES: dict[str, Rule] = {
    "add": _by_kind(b=_plain("or_"), i=_plain("add"), u=_plain("add"), f=_plain("fadd"), c=_each("fadd")),
    "subtract": _by_kind(i=_plain("sub"), u=_plain("sub"), f=_plain("fsub"), c=_each("fsub")),
    "multiply": _by_kind(b=_plain("and_"), i=_plain("mul"), u=_plain("mul"), f=_plain("fmul"), c=_complex_multiply),
    "divide": _by_kind(n=_divide),
    "floor_divide": _by_kind(i=_floor_divide_int, u=_floor_divide_int, f=_floor_divide),
    "remainder": _by_kind(i=_remainder_int, u=_remainder_int, f=_remainder),
    "fmod": _by_kind(i=_fmod_int, u=_fmod_int, f=_plain("frem")),
    "negative": _by_kind(i=_negative_int, u=_negative_int, f=_plain("fneg"), c=_each("fneg")),
    "positive": _same,
    "abs": _by_kind(b=_same, i=_abs_int, u=_abs_int, f=_plain("fabs")),
    "fabs": _by_kind(f=_plain("fabs")),
    "square": _square,
    "sqrt": _by_kind(f=_plain("sqrt")),
    "reciprocal": _by_kind(i=_reciprocal_int, u=_reciprocal_int, f=_reciprocal),
    "sign": _by_kind(n=_sign),
    "heaviside": _by_kind(f=_heaviside),
    "deg2rad": _by_kind(f=_times(lambda t: t(np.pi) / t(180))),
    "rad2deg": _by_kind(f=_times(lambda t: t(180) / t(np.pi))),
    "floor": _by_kind(b=_same, i=_same, u=_same, f=_plain("floor")),
    "ceil": _by_kind(b=_same, i=_same, u=_same, f=_plain("ceil")),
    "trunc": _by_kind(b=_same, i=_same, u=_same, f=lambda e, t, x: (e.toward_zero(x[0]),)),
    "rint": _by_kind(f=_plain("rint")),
    "maximum": _extreme("gt", skips_nan=False),
    "minimum": _extreme("lt", skips_nan=False),
    "fmax": _extreme("gt", skips_nan=True),
    "fmin": _extreme("lt", skips_nan=True),
    "where": _where,
    **{name: _compare(name) for name in _ORDER},
    "logical_and": _logical("and_"),
    "logical_or": _logical("or_"),
    "logical_xor": _logical("xor"),
    "logical_not": _logical_not,
    "bitwise_and": _plain("and_"),
    "bitwise_or": _plain("or_"),
    "bitwise_xor": _plain("xor"),
    "bitwise_invert": _invert,
    "bitwise_left_shift": _by_kind(i=_left_shift, u=_left_shift),
    "bitwise_right_shift": _by_kind(i=_right_shift, u=_right_shift),
    "isnan": _by_kind(b=_constantly(0), i=_constantly(0), u=_constantly(0), f=_any_part(_part_is_nan), c=_any_part(_part_is_nan)),
    "isfinite": _by_kind(b=_constantly(1), i=_constantly(1), u=_constantly(1), f=_is_finite, c=_is_finite),
    "isinf": _by_kind(b=_constantly(0), i=_constantly(0), u=_constantly(0), f=_any_part(_part_is_infinite), c=_any_part(_part_is_infinite)),
    "signbit": _by_kind(f=_signbit),
    "copysign": _by_kind(f=_plain("copysign")),
    "nextafter": _by_kind(f=_nextafter),
    "conj": _by_kind(n=_same, c=_conj),
    "real": lambda e, dtype, x: x[:1],
    "imag": _imag,
}
# fmt: on
