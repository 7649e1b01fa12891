"""Sums of a run of doubles that keep what their additions were rounded by, as IR.

In: the ``Recipe`` of a sum of doubles. Out: a ``Fold``. Blocks of 16 additions a lane have sums that are
added up with their rounding errors (Knuth, The Art of Computer Programming, volume 2, section 4.2.2,
theorem B): some 22 roundings, whatever the length, where NumPy's pairwise sum has 16 and one more a
doubling.
"""

from __future__ import annotations

from fusegraph.engines.llvm.lanes import (
    LANE_BYTES,
    Fold,
    Recipe,
    elements,
    flags,
    halved,
    masked_tail,
)

STEPS = 16  # additions one after the other


def sum_of_doubles(recipe: Recipe) -> Fold:
    """The sum, and beside it the sum of the errors."""
    return Fold(recipe, 2 * LANE_BYTES, _text)


def _text(recipe: Recipe) -> str:
    symbol, lanes = recipe.symbol, recipe.lanes
    wide = f"<{lanes} x double>"
    begin = f"""define internal void @{symbol}_begin(ptr %state) alwaysinline {{
  %errors = getelementptr i8, ptr %state, i64 {LANE_BYTES}
  store {wide} zeroinitializer, ptr %state
  store {wide} zeroinitializer, ptr %errors
  ret void
}}"""
    finish = "\n".join(
        [
            f"define internal double @{symbol}_finish(ptr %state) alwaysinline {{",
            f"  %errors = getelementptr i8, ptr %state, i64 {LANE_BYTES}",
            f"  %s = load {wide}, ptr %state",
            f"  %e = load {wide}, ptr %errors",
            *halved("%s", recipe, lanes),
            *halved("%e", recipe, lanes),
            "  %sum = fadd double %s.1, %e.1",
            "  ret double %sum",
            "}",
        ]
    )
    return "\n".join([begin, _take(recipe), finish])


def _two_sum(name: str, kind: str, a: str, b: str) -> list[str]:
    """A vector ``name`` and its rounding error ``name.e``; that of an infinite sum counts as zero."""
    return [
        f"  {name} = fadd {kind} {a}, {b}",
        f"  {name}.b = fsub {kind} {name}, {a}",
        f"  {name}.a = fsub {kind} {name}, {name}.b",
        f"  {name}.x = fsub {kind} {a}, {name}.a",
        f"  {name}.y = fsub {kind} {b}, {name}.b",
        f"  {name}.z = fadd {kind} {name}.x, {name}.y",
        f"  {name}.o = fcmp ord {kind} {name}.z, {name}.z",
        f"  {name}.e = select {flags(kind)} {name}.o, {kind} {name}.z, {kind} zeroinitializer",
    ]


def _take(recipe: Recipe) -> str:
    lanes = recipe.lanes
    wide = f"<{lanes} x double>"
    lines = [
        f"define internal void @{recipe.symbol}_take({recipe.parameters}) {{",
        "entry:",
        *recipe.spread,
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
        *elements("%x", recipe, "%k"),
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
        *masked_tail(recipe),
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
