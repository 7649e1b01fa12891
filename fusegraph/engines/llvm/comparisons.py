"""Comparing, choosing and bits in IR, with NumPy's meaning of NaN, mixed integers and wide shifts.

In: an ``Emitter``, the dtypes of the loop, values. Out: the value of the result.
"""

from __future__ import annotations

from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.kinds import by_kind
from fusegraph.engines.llvm.values import ARM, HALF, Parts, Rule, UnsupportedError, truth
from fusegraph.graph import DType

ORDER = {
    "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt",
    "greater_equal": "ge",
}  # fmt: skip


def compare(name: str) -> Rule:
    """The comparison of a row."""
    order = ORDER[name]

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


def extreme(order: str, skips_nan: bool) -> Rule:
    """Maximum ("gt") or minimum ("lt"): NaN wins, or loses where it is to be skipped.

    Of two zeros NumPy takes what the processor's instruction takes: the second operand on x86-64,
    0.0 above -0.0 on arm64; its loops of float16, which have none, take the first. Where NaN is
    skipped they take either.
    """

    def rule(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
        (a,), (b,) = x, y
        if dtype.kind == "b":
            return (e.or_(a, b) if order == "gt" else e.and_(a, b),)
        if dtype.kind in "iu":
            sign = "s" if dtype.kind == "i" else "u"
            return (e.select(e.icmp(sign + order, a, b), a, b),)
        if dtype == HALF:
            doubtful = b if skips_nan else a
            first = e.or_(e.fcmp(f"o{order[0]}e", a, b), e.fcmp("uno", doubtful, doubtful))
            return (e.select(first, a, b),)
        if ARM and not skips_nan:
            return (e.extreme(order, a, b),)
        return (_extreme_of(e, order, skips_nan, a, b),)

    return by_kind(biuf=rule)


def _extreme_of(e: Emitter, order: str, skips_nan: bool, a: Value, b: Value) -> Value:
    """``a`` where it is beyond ``b``, or where NaN says so; else ``b``, of two zeros too.

    One instruction of x86-64 is ``a > b ? a : b``. It does where the operand whose NaN would give ``a``
    is known, and so does ``b < a ? b : a``, where that is the other and no zero.
    """
    doubtful, other = (b, a) if skips_nan else (a, b)
    if doubtful.number is not None:
        return e.select(e.fcmp(f"o{order}", a, b), a, b)
    if other.number is not None:  # unordered: the doubtful one is NaN
        test = f"u{order}" if other.number == 0 and not skips_nan else f"u{order[0]}e"
        return e.select(e.fcmp(test, a, b), a, b)
    plain = e.select(e.fcmp(f"o{order}", a, b), a, b)
    return e.select(e.fcmp("uno", doubtful, doubtful), a, plain)


def where(e: Emitter, dtype: DType, condition: Parts, x: Parts, y: Parts) -> Parts:
    """``x`` where the condition holds, else ``y``."""
    return tuple(e.select(condition[0], a, b) for a, b in zip(x, y, strict=True))


def logical(join: str) -> Rule:
    """A logical operation on what is true of x and y."""

    def rule(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
        return (getattr(e, join)(truth(e, x, dtype), truth(e, y, dtype)),)

    return rule


def logical_not(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """Is it zero?"""
    return (e.xor(truth(e, x, dtype), e.whole("i1", 1)),)


def invert(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """Every bit, or a bool, turned over."""
    return (e.xor(x[0], e.whole(x[0].type, 1 if dtype.kind == "b" else -1)),)


def left_shift(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """``x << y``; past the width nothing is left."""
    (a,), (b,) = x, y
    zero = e.whole(a.type, 0)
    fits = e.icmp("ult", b, e.whole(b.type, 8 * dtype.itemsize))
    return (e.select(fits, e.shl(a, e.select(fits, b, zero)), zero),)


def right_shift(e: Emitter, dtype: DType, x: Parts, y: Parts) -> Parts:
    """``x >> y``; past the width only the sign is left."""
    (a,), (b,) = x, y
    width = 8 * dtype.itemsize
    fits = e.icmp("ult", b, e.whole(b.type, width))
    if dtype.kind == "i":  # past the width only the sign is left
        return (e.ashr(a, e.select(fits, b, e.whole(b.type, width - 1))),)
    zero = e.whole(a.type, 0)
    return (e.select(fits, e.lshr(a, e.select(fits, b, zero)), zero),)
