"""Rules by kind: an instruction for each kind of dtype.

In: rules of bools, integers, floats and complex numbers. Out: one rule of them all.
"""

from __future__ import annotations

from collections.abc import Callable

from fusegraph.engines.llvm.ir import Emitter
from fusegraph.engines.llvm.values import Parts, Rule, UnsupportedError
from fusegraph.graph import DType


def by_kind(**rules: Callable[..., Parts]) -> Rule:
    """A rule for each kind: ``b``, ``i``, ``u``, ``f``, ``c``; ``n`` stands for every number but c."""

    def rule(e: Emitter, dtype: DType, *operands: Parts) -> Parts:
        found = rules.get(dtype.kind) or (rules.get("n") if dtype.kind in "iuf" else None)
        if found is None:
            raise UnsupportedError(f"llvm has no such operation on {dtype} with NumPy's results")
        return found(e, dtype, *operands)

    return rule


def plain(name: str) -> Rule:
    """An instruction over one-part values."""

    def rule(e: Emitter, dtype: DType, *operands: Parts) -> Parts:
        return (getattr(e, name)(*(x for (x,) in operands)),)

    return rule


def each(name: str) -> Rule:
    """An instruction on real and imaginary part."""

    def rule(e: Emitter, dtype: DType, *operands: Parts) -> Parts:
        return tuple(getattr(e, name)(*parts) for parts in zip(*operands, strict=True))

    return rule


def same(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """``x`` itself."""
    return x


def negative_int(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """``-x``, around the end of the range."""
    return (e.sub(e.whole(x[0].type, 0), x[0]),)


def constantly(value: int) -> Rule:
    """The same bool for every element."""
    return lambda e, dtype, *operands: (e.whole("i1", value),)
