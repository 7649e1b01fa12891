"""Reductions of a run of elements in IR: sum, min, max, any and all, in lanes.

In: a row's name, the dtype of the operand and that of the result. Out: ``Fold``, three functions over a
state in memory, so that a row can pass by in chunks: begin, take ``count`` elements, finish. Lanes are
vectors of a fixed length, whatever the processor's: a result does not depend on its width.

Sums of 32 bits are added up in 64. Sums of 64 go by blocks of 16 additions a lane, whose sums are added
up with their rounding errors (Knuth, The Art of Computer Programming, volume 2, section 4.2.2, theorem
B): some 22 roundings, whatever the length, where NumPy's pairwise sum has 16 and one more a doubling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from fusegraph.graph import DType

# Of a vector of accumulators: eight registers of 256 bits or four of 512, so that additions overlap.
LANE_BYTES = 256
MASKED_LANES = 64  # lanes of a vector up to which the rest of a run is one masked load
STEPS = 16  # additions one after the other in a sum of doubles
IDENTITY = {"any": "0", "all": "1"}
INTEGERS = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}
FLOATS = {4: "float", 8: "double"}

Combine = Callable[[str, str, str, str], list[str]]
"""Lines that define ``name`` of ``type`` from an accumulator and elements: (name, type, acc, x)."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A reduction over runs of elements.

    Attributes
    ----------
    symbol : str
        ``@<symbol>_begin(ptr state)``, ``_take(ptr state, ptr x, i64 count)``, ``_finish(ptr state)``.
    element, result : str
        IR types in memory, and of what ``finish`` returns.
    state_bytes : int
    text : str
        The definitions of the three functions.
    declarations : tuple of str
        LLVM's intrinsics that they call.
    """

    symbol: str
    element: str
    result: str
    state_bytes: int
    text: str
    declarations: tuple[str, ...]


@cache
def fold_of(name: str, operand: DType, result: DType) -> Fold | None:
    """The fold of a reduction row, or None where there is none."""
    if name in ("any", "all"):
        return _logical(name) if operand.kind == "b" else None
    if name in ("min", "max"):
        return _extreme(name, operand) if operand == result else None
    if name == "sum":
        return _sum(operand, result)
    return None


def _logical(name: str) -> Fold:
    def combine(out: str, kind: str, acc: str, x: str) -> list[str]:
        return [f"  {out} = {'or' if name == 'any' else 'and'} {kind} {acc}, {x}"]

    return _laned(f"fg_{name}", "i8", "i8", "", IDENTITY[name], combine)


def _extreme(name: str, dtype: DType) -> Fold | None:
    if dtype.kind == "f" and dtype.itemsize in FLOATS:
        return _float_extreme(name, FLOATS[dtype.itemsize])
    if dtype.kind in "iu":
        info, kind = np.iinfo(dtype), INTEGERS[dtype.itemsize]
        ends = str(info.min if name == "max" else info.max)
        chosen = ("s" if dtype.kind == "i" else "u") + ("gt" if name == "max" else "lt")
        return _laned(f"fg_{name}_{dtype.name}", kind, kind, "", ends, _integer_extreme(chosen))
    return None


def _integer_extreme(chosen: str) -> Combine:
    def combine(out: str, kind: str, acc: str, x: str) -> list[str]:
        return [
            f"  {out}.c = icmp {chosen} {kind} {x}, {acc}",
            f"  {out} = select {_flags(kind)} {out}.c, {kind} {x}, {kind} {acc}",
        ]

    return combine


def _sum(operand: DType, result: DType) -> Fold | None:
    def add(out: str, kind: str, acc: str, x: str) -> list[str]:
        return [f"  {out} = {'fadd' if 'double' in kind else 'add'} {kind} {acc}, {x}"]

    if operand.kind == "f" and result.kind == "f" and operand.itemsize <= result.itemsize:
        if operand == np.float32:
            return _laned("fg_sum_float", "float", "double", "fpext", "0.0", add)
        return _sum_of_doubles() if operand == np.float64 else None
    if operand.kind in "biu" and result.kind in "iu":
        kind = INTEGERS[operand.itemsize]
        widen = "sext" if operand.kind == "i" else "zext"
        return _laned(
            f"fg_sum_{operand.name}", kind, "i64", widen if kind != "i64" else "", "0", add
        )
    return None


# --- text -----------------------------------------------------------------------------------------


def _flags(kind: str) -> str:
    """The type of a comparison of values of ``kind``."""
    return f"<{kind[1:].split(maxsplit=1)[0]} x i1>" if kind.startswith("<") else "i1"


def _size(kind: str) -> int:
    return {"float": 4, "double": 8}.get(kind) or int(kind[1:]) // 8


def _laned(
    symbol: str, element: str, kind: str, widen: str, identity: str, combine: Combine
) -> Fold:
    """Accumulators of ``kind`` in lanes; elements are widened to it."""
    lanes = LANE_BYTES // _size(kind)
    text = "\n".join(
        [
            _begin(symbol, kind, lanes, identity),
            _take(symbol, element, kind, lanes, widen, identity, combine),
            _finish(symbol, kind, lanes, combine),
        ]
    )
    return Fold(symbol, element, kind, LANE_BYTES, text, _declared(element, lanes))


def _begin(symbol: str, kind: str, lanes: int, identity: str) -> str:
    values = ", ".join([f"{kind} {identity}"] * lanes)
    return f"""define internal void @{symbol}_begin(ptr %state) alwaysinline {{
  store <{lanes} x {kind}> <{values}>, ptr %state
  ret void
}}"""


def _widened(out: str, widen: str, element: str, kind: str, x: str) -> list[str]:
    return [f"  {out} = {widen} {element} {x} to {kind}"] if widen else []


def _take(
    symbol: str, element: str, kind: str, lanes: int, widen: str, identity: str, combine: Combine
) -> str:
    """Whole vectors, then what is left into the first lanes."""
    many, wide = f"<{lanes} x {element}>", f"<{lanes} x {kind}>"
    lines = [
        f"define internal void @{symbol}_take(ptr %state, ptr %p, i64 %count) {{",
        "entry:",
        f"  %acc0 = load {wide}, ptr %state",
        f"  %whole = and i64 %count, {-lanes}",
        "  %some = icmp sgt i64 %whole, 0",
        "  br i1 %some, label %loop, label %rest",
        "loop:",
        "  %i = phi i64 [0, %entry], [%i1, %loop]",
        f"  %acc = phi {wide} [%acc0, %entry], [%acc1, %loop]",
        f"  %at = getelementptr inbounds {element}, ptr %p, i64 %i",
        f"  %x = load {many}, ptr %at, align {_size(element)}",
        *_widened("%w", widen, many, wide, "%x"),
        *combine("%acc1", wide, "%acc", "%w" if widen else "%x"),
        f"  %i1 = add nuw nsw i64 %i, {lanes}",
        "  %more = icmp slt i64 %i1, %whole",
        "  br i1 %more, label %loop, label %stored",
        "stored:",
        f"  store {wide} %acc1, ptr %state",
        "  br label %rest",
        "rest:",
        "  %left = icmp slt i64 %whole, %count",
        "  br i1 %left, label %tail, label %done",
    ]
    if lanes <= MASKED_LANES:
        lines += [
            "tail:",
            *_masked_tail(element, lanes, identity),
            *_widened("%tw", widen, many, wide, "%tx"),
            f"  %tacc = load {wide}, ptr %state",
            *combine("%tacc1", wide, "%tacc", "%tw" if widen else "%tx"),
            f"  store {wide} %tacc1, ptr %state",
            "  br label %done",
        ]
    else:
        lines += _tail_by_elements(element, kind, widen, combine)
    return "\n".join([*lines, "done:", "  ret void", "}"])


def _declared(element: str, lanes: int) -> tuple[str, ...]:
    """The declaration of LLVM's masked load, where it is used."""
    many = f"<{lanes} x {element}>"
    load = f"declare {many} @{_masked_name(element, lanes)}(ptr, i32, <{lanes} x i1>, {many})"
    return (load,) if lanes <= MASKED_LANES else ()


def _masked_name(element: str, lanes: int) -> str:
    short = {"float": "f32", "double": "f64"}.get(element, element)
    return f"llvm.masked.load.v{lanes}{short}.p0"


def _masked_tail(element: str, lanes: int, identity: str) -> list[str]:
    """Lines that load ``%tx``, the elements from ``%whole`` to ``%count`` and behind them the identity.

    One by one, through the state in memory, the rest of a row of 50 took as long as ten whole vectors.
    """
    many = f"<{lanes} x {element}>"
    steps = ", ".join(f"i32 {lane}" for lane in range(lanes))
    fill = ", ".join([f"{element} {identity}"] * lanes)
    spread = ", ".join(["i32 0"] * lanes)
    return [
        f"  %tat = getelementptr inbounds {element}, ptr %p, i64 %whole",
        "  %tleft = sub i64 %count, %whole",
        "  %tl = trunc i64 %tleft to i32",
        f"  %t0 = insertelement <{lanes} x i32> poison, i32 %tl, i32 0",
        f"  %tn = shufflevector <{lanes} x i32> %t0, <{lanes} x i32> poison, <{lanes} x i32> <{spread}>",
        f"  %tm = icmp ult <{lanes} x i32> <{steps}>, %tn",
        f"  %tx = call {many} @{_masked_name(element, lanes)}(ptr %tat, i32 {_size(element)}, "
        f"<{lanes} x i1> %tm, {many} <{fill}>)",
    ]


def _tail_by_elements(element: str, kind: str, widen: str, combine: Combine) -> list[str]:
    """The rest one by one: vectors of many small elements have no masked load everywhere."""
    return [
        "tail:",
        "  %j = phi i64 [%whole, %rest], [%j1, %tail]",
        f"  %tat = getelementptr inbounds {element}, ptr %p, i64 %j",
        f"  %tx = load {element}, ptr %tat, align {_size(element)}",
        *_widened("%tw", widen, element, kind, "%tx"),
        "  %lane = sub i64 %j, %whole",
        f"  %sat = getelementptr inbounds {kind}, ptr %state, i64 %lane",
        f"  %tacc = load {kind}, ptr %sat",
        *combine("%tacc1", kind, "%tacc", "%tw" if widen else "%tx"),
        f"  store {kind} %tacc1, ptr %sat",
        "  %j1 = add nuw nsw i64 %j, 1",
        "  %tmore = icmp slt i64 %j1, %count",
        "  br i1 %tmore, label %tail, label %done",
    ]


def _halved(name: str, kind: str, lanes: int, combine: Combine) -> list[str]:
    """Lines that fold ``<lanes x kind> name`` by halves; the result is ``name.1``."""
    lines, before = [], name
    while lanes > 1:
        half = lanes // 2
        now = f"{name}.{half}"
        wide, narrow = f"<{lanes} x {kind}>", f"<{half} x {kind}>"
        for part, first in (("l", 0), ("h", half)):
            mask = ", ".join(f"i32 {first + at}" for at in range(half))
            lines.append(
                f"  {now}.{part} = shufflevector {wide} {before}, {wide} poison, "
                f"<{half} x i32> <{mask}>"
            )
        if half == 1:
            lines += [
                f"  {now}.{part}s = extractelement {narrow} {now}.{part}, i32 0" for part in "lh"
            ]
            lines += combine(now, kind, f"{now}.ls", f"{now}.hs")
        else:
            lines += combine(now, narrow, f"{now}.l", f"{now}.h")
        before, lanes = now, half
    return lines


def _finish(symbol: str, kind: str, lanes: int, combine: Combine) -> str:
    return "\n".join(
        [
            f"define internal {kind} @{symbol}_finish(ptr %state) alwaysinline {{",
            f"  %s = load <{lanes} x {kind}>, ptr %state",
            *_halved("%s", kind, lanes, combine),
            f"  ret {kind} %s.1",
            "}",
        ]
    )


# --- extremes of floats -----------------------------------------------------------------------------


def _float_extreme(name: str, kind: str) -> Fold:
    """The largest or least number, and beside it whether a NaN passed by.

    That is one comparison for two vectors. With one and a choice for each vector, ``min`` and ``max`` of
    4,000,000 float32 took 398 us on one thread; they take 298 so.
    """
    lanes = LANE_BYTES // _size(kind)
    half, symbol = lanes // 2, f"fg_{name}_{kind}"
    many, two = f"<{lanes} x {kind}>", f"<{half} x {kind}>"
    least = "0xFFF0000000000000" if name == "max" else "0x7FF0000000000000"
    chosen = "ogt" if name == "max" else "olt"

    def combine(out: str, kind: str, acc: str, x: str) -> list[str]:
        return [
            f"  {out}.c = fcmp {chosen} {kind} {x}, {acc}",
            f"  {out} = select {_flags(kind)} {out}.c, {kind} {x}, {kind} {acc}",
        ]

    def seen(out: str, before: str, x: str) -> list[str]:
        """Lines that define ``out``: was a NaN seen before, or is one in ``x``?"""
        first = ", ".join(f"i32 {at}" for at in range(half))
        second = ", ".join(f"i32 {half + at}" for at in range(half))
        return [
            f"  {out}.l = shufflevector {many} {x}, {many} poison, <{half} x i32> <{first}>",
            f"  {out}.h = shufflevector {many} {x}, {many} poison, <{half} x i32> <{second}>",
            f"  {out}.u = fcmp uno {two} {out}.l, {out}.h",
            f"  {out} = or {_flags(two)} {before}, {out}.u",
        ]

    lines = [
        _begin(symbol, kind, lanes, least).replace("  ret void", _clear_flag()),
        f"define internal void @{symbol}_take(ptr %state, ptr %p, i64 %count) {{",
        "entry:",
        f"  %flag.at = getelementptr i8, ptr %state, i64 {LANE_BYTES}",
        f"  %acc0 = load {many}, ptr %state",
        f"  %whole = and i64 %count, {-lanes}",
        "  %some = icmp sgt i64 %whole, 0",
        "  br i1 %some, label %loop, label %rest",
        "loop:",
        "  %i = phi i64 [0, %entry], [%i1, %loop]",
        f"  %acc = phi {many} [%acc0, %entry], [%acc1, %loop]",
        f"  %nan = phi {_flags(two)} [zeroinitializer, %entry], [%nan1, %loop]",
        f"  %at = getelementptr inbounds {kind}, ptr %p, i64 %i",
        f"  %x = load {many}, ptr %at, align {_size(kind)}",
        *combine("%acc1", many, "%acc", "%x"),
        *seen("%nan1", "%nan", "%x"),
        f"  %i1 = add nuw nsw i64 %i, {lanes}",
        "  %more = icmp slt i64 %i1, %whole",
        "  br i1 %more, label %loop, label %rest",
        "rest:",
        f"  %acc2 = phi {many} [%acc0, %entry], [%acc1, %loop]",
        f"  %nan2 = phi {_flags(two)} [zeroinitializer, %entry], [%nan1, %loop]",
        "  %left = icmp slt i64 %whole, %count",
        "  br i1 %left, label %tail, label %done",
        "tail:",
        *_masked_tail(kind, lanes, least),
        *combine("%acc3", many, "%acc2", "%tx"),
        *seen("%nan3", "%nan2", "%tx"),
        "  br label %done",
        "done:",
        f"  %acc4 = phi {many} [%acc2, %rest], [%acc3, %tail]",
        f"  %nan4 = phi {_flags(two)} [%nan2, %rest], [%nan3, %tail]",
        f"  store {many} %acc4, ptr %state",
        f"  %bits = bitcast {_flags(two)} %nan4 to i{half}",
        f"  %any = icmp ne i{half} %bits, 0",
        "  %now = zext i1 %any to i8",
        "  %before = load i8, ptr %flag.at",
        "  %flag = or i8 %before, %now",
        "  store i8 %flag, ptr %flag.at",
        "  ret void",
        "}",
        f"define internal {kind} @{symbol}_finish(ptr %state) alwaysinline {{",
        f"  %flag.at = getelementptr i8, ptr %state, i64 {LANE_BYTES}",
        "  %flag = load i8, ptr %flag.at",
        "  %is.nan = icmp ne i8 %flag, 0",
        f"  %s = load {many}, ptr %state",
        *_halved("%s", kind, lanes, combine),
        f"  %found = select i1 %is.nan, {kind} 0x7FF8000000000000, {kind} %s.1",
        f"  ret {kind} %found",
        "}",
    ]
    declared = _declared(kind, lanes)
    return Fold(symbol, kind, kind, LANE_BYTES + 64, "\n".join(lines), declared)


def _clear_flag() -> str:
    return f"""  %flag.at = getelementptr i8, ptr %state, i64 {LANE_BYTES}
  store i8 0, ptr %flag.at
  ret void"""


# --- sums of doubles ------------------------------------------------------------------------------


def _sum_of_doubles() -> Fold:
    lanes = LANE_BYTES // 8
    wide = f"<{lanes} x double>"

    def add(out: str, kind: str, acc: str, x: str) -> list[str]:
        return [f"  {out} = fadd {kind} {acc}, {x}"]

    begin = f"""define internal void @fg_sum_double_begin(ptr %state) alwaysinline {{
  %errors = getelementptr i8, ptr %state, i64 {LANE_BYTES}
  store {wide} zeroinitializer, ptr %state
  store {wide} zeroinitializer, ptr %errors
  ret void
}}"""
    finish = "\n".join(
        [
            "define internal double @fg_sum_double_finish(ptr %state) alwaysinline {",
            f"  %errors = getelementptr i8, ptr %state, i64 {LANE_BYTES}",
            f"  %s = load {wide}, ptr %state",
            f"  %e = load {wide}, ptr %errors",
            *_halved("%s", "double", lanes, add),
            *_halved("%e", "double", lanes, add),
            "  %sum = fadd double %s.1, %e.1",
            "  ret double %sum",
            "}",
        ]
    )
    text = "\n".join([begin, _take_doubles(lanes), finish])
    declared = _declared("double", lanes)
    return Fold("fg_sum_double", "double", "double", 2 * LANE_BYTES, text, declared)


def _two_sum(name: str, kind: str, a: str, b: str) -> list[str]:
    """``name`` and its rounding error ``name.e``; the error of an infinite sum counts as zero."""
    zero = "zeroinitializer" if kind.startswith("<") else "0.0"
    return [
        f"  {name} = fadd {kind} {a}, {b}",
        f"  {name}.b = fsub {kind} {name}, {a}",
        f"  {name}.a = fsub {kind} {name}, {name}.b",
        f"  {name}.x = fsub {kind} {a}, {name}.a",
        f"  {name}.y = fsub {kind} {b}, {name}.b",
        f"  {name}.z = fadd {kind} {name}.x, {name}.y",
        f"  {name}.o = fcmp ord {kind} {name}.z, {name}.z",
        f"  {name}.e = select {_flags(kind)} {name}.o, {kind} {name}.z, {kind} {zero}",
    ]


def _take_doubles(lanes: int) -> str:
    wide = f"<{lanes} x double>"
    lines = [
        "define internal void @fg_sum_double_take(ptr %state, ptr %p, i64 %count) {",
        "entry:",
        f"  %errors = getelementptr i8, ptr %state, i64 {LANE_BYTES}",
        f"  %whole = and i64 %count, {-lanes}",
        "  br label %block",
        "block:",
        "  %i = phi i64 [0, %entry], [%i.end, %add]",
        "  %some = icmp slt i64 %i, %whole",
        "  br i1 %some, label %begin, label %rest",
        "begin:",
        f"  %full = add nuw nsw i64 %i, {lanes * STEPS}",
        "  %short = icmp slt i64 %whole, %full",
        "  %i.end = select i1 %short, i64 %whole, i64 %full",
        "  br label %loop",
        "loop:",
        "  %k = phi i64 [%i, %begin], [%k1, %loop]",
        f"  %acc = phi {wide} [zeroinitializer, %begin], [%acc1, %loop]",
        "  %at = getelementptr inbounds double, ptr %p, i64 %k",
        f"  %x = load {wide}, ptr %at, align 8",
        f"  %acc1 = fadd {wide} %acc, %x",
        f"  %k1 = add nuw nsw i64 %k, {lanes}",
        "  %more = icmp slt i64 %k1, %i.end",
        "  br i1 %more, label %loop, label %add",
        "add:",
        f"  %s0 = load {wide}, ptr %state",
        *_two_sum("%s", wide, "%s0", "%acc1"),
        f"  %e0 = load {wide}, ptr %errors",
        f"  %e1 = fadd {wide} %e0, %s.e",
        f"  store {wide} %s, ptr %state",
        f"  store {wide} %e1, ptr %errors",
        "  br label %block",
        "rest:",
        "  %left = icmp slt i64 %whole, %count",
        "  br i1 %left, label %tail, label %done",
        "tail:",
        *_masked_tail("double", lanes, "0.0"),
        f"  %ts0 = load {wide}, ptr %state",
        *_two_sum("%ts", wide, "%ts0", "%tx"),
        f"  %te0 = load {wide}, ptr %errors",
        f"  %te1 = fadd {wide} %te0, %ts.e",
        f"  store {wide} %ts, ptr %state",
        f"  store {wide} %te1, ptr %errors",
        "  br label %done",
        "done:",
        "  ret void",
        "}",
    ]
    return "\n".join(lines)
