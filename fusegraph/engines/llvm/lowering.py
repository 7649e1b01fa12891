"""One operation in IR: what each row of the op table means to NumPy.

In: an ``Emitter``, a row's name, its dtypes and the values of its operands. Out: the value of its
result, or ``UnsupportedError`` with the reason. LLVM leaves undefined what NumPy defines (division by
zero, shifts past the width, casts out of range): every such instruction is guarded where it is written.
"""

from __future__ import annotations

import numpy as np

from fusegraph.engines.llvm import arithmetic, comparisons, float_parts, vecmath
from fusegraph.engines.llvm.casts import rounded
from fusegraph.engines.llvm.ir import Emitter
from fusegraph.engines.llvm.kinds import by_kind, constantly, each, same
from fusegraph.engines.llvm.values import HALF, Parts, Rule, UnsupportedError, register_type
from fusegraph.graph import DType


def lower(
    e: Emitter, name: str, loops: tuple[DType, ...], result: DType, operands: tuple[Parts, ...]
) -> Parts:
    """``name`` of operands that have the loop's dtypes.

    Raises
    ------
    UnsupportedError
        NumPy's results cannot be promised.
    """
    rule = RULES.get(name)
    if rule is None:
        found = _function(e, name, loops[0], operands)
    else:
        found = rule(e, loops if name in COMPARISONS else loops[-1], *operands)
    return rounded(e, found) if result == HALF and name not in EXACT else found


def _function(e: Emitter, name: str, dtype: DType, operands: tuple[Parts, ...]) -> Parts:
    if name in vecmath.CANCELS:
        raise UnsupportedError(f"llvm's {name} is nearer to the value than NumPy's")
    if name not in vecmath.TABLE:
        raise UnsupportedError(f"llvm has no {name} with NumPy's results")
    if dtype.kind != "f":
        raise UnsupportedError(f"llvm has no {name} of {dtype}")
    kind = register_type(dtype)
    return (e.call(vecmath.symbol(name, kind), kind, *(x for (x,) in operands)),)


COMPARISONS = frozenset(comparisons.ORDER)
EXACT = frozenset({"copysign", "fabs", "abs", "nextafter"})  # of float16 too: nothing to round

RULES: dict[str, Rule] = {
    "add": by_kind(b=each("or_"), iu=each("add"), fc=each("fadd")),
    "subtract": by_kind(iu=each("sub"), fc=each("fsub")),
    "multiply": arithmetic.MULTIPLY,
    "divide": by_kind(iuf=arithmetic.divide),
    "floor_divide": by_kind(iu=arithmetic.floor_divide_int, f=arithmetic.floor_divide),
    "remainder": by_kind(iu=arithmetic.remainder_int, f=arithmetic.remainder),
    "fmod": by_kind(iu=arithmetic.fmod_int, f=each("frem")),
    "negative": by_kind(iu=arithmetic.negative_int, fc=each("fneg")),
    "positive": same,
    "abs": by_kind(b=same, iu=arithmetic.abs_int, f=each("fabs")),
    "fabs": by_kind(f=each("fabs")),
    "square": arithmetic.square,
    "sqrt": by_kind(f=each("sqrt")),
    "reciprocal": by_kind(iu=arithmetic.reciprocal_int, f=arithmetic.reciprocal),
    "sign": by_kind(iuf=arithmetic.sign),
    "heaviside": by_kind(f=arithmetic.heaviside),
    "deg2rad": by_kind(f=arithmetic.times(lambda t: t(np.pi) / t(180))),
    "rad2deg": by_kind(f=arithmetic.times(lambda t: t(180) / t(np.pi))),
    "floor": by_kind(biu=same, f=each("floor")),
    "ceil": by_kind(biu=same, f=each("ceil")),
    "trunc": by_kind(biu=same, f=each("toward_zero")),
    "rint": by_kind(f=each("rint")),
    "maximum": comparisons.extreme("gt", skips_nan=False),
    "minimum": comparisons.extreme("lt", skips_nan=False),
    "fmax": comparisons.extreme("gt", skips_nan=True),
    "fmin": comparisons.extreme("lt", skips_nan=True),
    "where": comparisons.where,
    **{name: comparisons.compare(name) for name in comparisons.ORDER},
    "logical_and": comparisons.logical("and_"),
    "logical_or": comparisons.logical("or_"),
    "logical_xor": comparisons.logical("xor"),
    "logical_not": comparisons.logical_not,
    "bitwise_and": each("and_"),
    "bitwise_or": each("or_"),
    "bitwise_xor": each("xor"),
    "bitwise_invert": comparisons.invert,
    "bitwise_left_shift": by_kind(iu=comparisons.left_shift),
    "bitwise_right_shift": by_kind(iu=comparisons.right_shift),
    "isnan": by_kind(biu=constantly(0), fc=float_parts.any_part(float_parts.part_is_nan)),
    "isfinite": by_kind(biu=constantly(1), fc=float_parts.is_finite),
    "isinf": by_kind(biu=constantly(0), fc=float_parts.any_part(float_parts.part_is_infinite)),
    "signbit": by_kind(f=float_parts.signbit),
    "copysign": by_kind(f=each("copysign")),
    "nextafter": by_kind(f=float_parts.nextafter),
    "conj": by_kind(iuf=same, c=float_parts.conj),
    "real": lambda e, dtype, x: x[:1],
    "imag": float_parts.imag,
}
