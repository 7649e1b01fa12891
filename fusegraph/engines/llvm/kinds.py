"""Rules by kind: an instruction for each kind of dtype.

In: rules of bools, integers, floats and complex numbers. Out: one rule of them all.
"""

from __future__ import annotations

from collections.abc import Callable

from fusegraph.engines.llvm.ir import Emitter
from fusegraph.engines.llvm.values import Parts, Rule, UnsupportedError
from fusegraph.graph import DType


def by_kind(**rules: Callable[..., Parts]) -> Rule:
    """A rule for each kind of dtype; ``iu`` is that of both ``i`` and ``u``."""
    known = {kind: rule for kinds, rule in rules.items() for kind in kinds}

    def rule(e: Emitter, dtype: DType, *operands: Parts) -> Parts:
        if dtype.kind not in known:
            raise UnsupportedError(f"llvm has no such operation on {dtype} with NumPy's results")
        return known[dtype.kind](e, dtype, *operands)

    return rule


def each(name: str) -> Rule:
    """An instruction on every part: one, or the real and the imaginary part."""

    def rule(e: Emitter, dtype: DType, *operands: Parts) -> Parts:
        return tuple(getattr(e, name)(*parts) for parts in zip(*operands, strict=True))

    return rule


def same(e: Emitter, dtype: DType, x: Parts) -> Parts:
    """``x`` itself."""
    return x


def constantly(value: int) -> Rule:
    """The same bool for every element."""
    return lambda e, dtype, *operands: (e.whole("i1", value),)
