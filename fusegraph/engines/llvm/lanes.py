"""Vectors of accumulators as IR: what a reduction of a run of elements is made of.

In: a ``Recipe``, how elements are put together. Out: ``laned``, the ``Fold`` of accumulators that lie
side by side, the lines that other folds share with it, and ``vector_fold``, of a run so short that it is
one vector. Lanes are vectors of a fixed length, whatever the processor's: a result does not depend on
its width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fusegraph.properties import lazy_property

# Of a vector of accumulators: eight registers of 256 bits or four of 512, so that additions overlap.
LANE_BYTES = 256
MASKED_LANES = 64  # lanes of a vector up to which the rest of a run is one masked load

# What is made of elements as they are read, and of how many runs: their squares, products, squares of
# differences, and squares of deviations from one number.
MADE_OF = {"squares": 1, "products": 2, "differences": 2, "deviations": 1}

Combine = Callable[[str, str, str, str], list[str]]
"""Lines that define ``name`` of ``type`` from an accumulator and elements: (name, type, acc, x)."""


class Recipe(NamedTuple):
    """How elements are put together.

    Attributes
    ----------
    symbol : str
        What functions that do it are called.
    element, kind : str
        IR types of an element in memory and of an accumulator.
    widen : str
        The instruction that makes the one of the other, or nothing where they are the same.
    identity : str
        The element that changes nothing.
    combine : callable
    misses_nan : bool
        Does it say nothing of NaN, which has to be looked for beside it?
    made : str
        What is folded of the elements of a run, or of two: see ``MADE_OF``. Nothing: a run as it is.
    """

    symbol: str
    element: str
    kind: str
    widen: str
    identity: str
    combine: Combine
    misses_nan: bool = False
    made: str = ""

    @property
    def lanes(self) -> int:
        """Accumulators side by side."""
        return LANE_BYTES // size(self.kind)

    @property
    def is_grouped(self) -> bool:
        """Is it a sum of floats that are widened? Some are added before."""
        return self.widen == "fpext"

    def runs(self, out: str) -> dict[str, str]:
        """Pointers to the runs of which ``out`` is made, by the names of their elements."""
        if MADE_OF.get(self.made) == 2:
            return {f"{out}.f": "%p", f"{out}.g": "%q"}
        return {f"{out}.f" if self.made else out: "%p"}

    @property
    def parameters(self) -> str:
        """Of the function that takes elements."""
        pointers = ", ".join(f"ptr {pointer}" for pointer in self.runs("").values())
        number = f", {self.element} %from" if self.made == "deviations" else ""
        return f"ptr %state, {pointers}{number}, i64 %count"

    @property
    def spread(self) -> list[str]:
        """Lines that ``elements`` needs before it: the number that they deviate from, in every lane."""
        if self.made != "deviations":
            return []
        many, zeros = f"<{self.lanes} x {self.element}>", ", ".join(["i32 0"] * self.lanes)
        return [
            f"  %from.0 = insertelement {many} poison, {self.element} %from, i32 0",
            f"  %from.all = shufflevector {many} %from.0, {many} poison, <{self.lanes} x i32> <{zeros}>",
        ]


@dataclass(frozen=True)
class Fold:
    """A reduction over runs of elements.

    Attributes
    ----------
    recipe : Recipe
    state_bytes : int
    writes : callable
        Writes ``text``, which a plan that does not come to be compiled needs not.
    """

    recipe: Recipe
    state_bytes: int
    writes: Callable[[Recipe], str]

    @property
    def symbol(self) -> str:
        """Of ``_begin(ptr state)``, ``_take(ptr state, ptr x, i64 count)``, ``_finish(ptr state)``.

        One that multiplies two runs takes a pointer to each.
        """
        return self.recipe.symbol

    @property
    def result(self) -> str:
        """The IR type of what ``finish`` returns."""
        return self.recipe.kind

    @lazy_property
    def text(self) -> str:
        """The definitions of the three functions."""
        return self.writes(self.recipe)

    @property
    def declarations(self) -> tuple[str, ...]:
        """LLVM's intrinsics that they call."""
        return declared(self.recipe, self.recipe.lanes)


def flags(kind: str) -> str:
    """The type of a comparison of values of ``kind``."""
    return f"<{kind[1:].split(maxsplit=1)[0]} x i1>" if kind.startswith("<") else "i1"


def size(kind: str) -> int:
    """Bytes of an element of ``kind`` in memory."""
    return {"float": 4, "double": 8}.get(kind) or int(kind[1:]) // 8


def laned(recipe: Recipe) -> Fold:
    """Accumulators in lanes; elements are widened to their type."""
    return Fold(recipe, LANE_BYTES, _laned_text)


def _laned_text(recipe: Recipe) -> str:
    return "\n".join([begin(recipe), _take(recipe), _finish(recipe)])


def begin(recipe: Recipe, *more: str) -> str:
    """The function that fills a state with what changes nothing; ``more`` lines do the rest."""
    wide = f"<{recipe.lanes} x {recipe.kind}>"
    values = ", ".join([f"{recipe.kind} {recipe.identity}"] * recipe.lanes)
    return "\n".join(
        [
            f"define internal void @{recipe.symbol}_begin(ptr %state) alwaysinline {{",
            f"  store {wide} <{values}>, ptr %state",
            *more,
            "  ret void",
            "}",
        ]
    )


def _widened(out: str, widen: str, element: str, kind: str, x: str) -> list[str]:
    return [f"  {out} = {widen} {element} {x} to {kind}"] if widen else []


def _take(recipe: Recipe) -> str:
    """Whole vectors, then what is left into the first lanes."""
    kind, widen, combine, lanes = recipe.kind, recipe.widen, recipe.combine, recipe.lanes
    many, wide = f"<{lanes} x {recipe.element}>", f"<{lanes} x {kind}>"
    grouped = _take_groups(recipe) if recipe.is_grouped else []
    before, start = ("singles", "%groups") if grouped else ("entry", "0")
    lines = [
        f"define internal void @{recipe.symbol}_take({recipe.parameters}) {{",
        "entry:",
        *recipe.spread,
        *(grouped and [*grouped, "singles:"]),
        f"  %acc0 = load {wide}, ptr %state",
        f"  %whole = and i64 %count, {-lanes}",
        f"  %some = icmp sgt i64 %whole, {start}",
        "  br i1 %some, label %loop, label %rest",
        "loop:",
        f"  %i = phi i64 [{start}, %{before}], [%i1, %loop]",
        f"  %acc = phi {wide} [%acc0, %{before}], [%acc1, %loop]",
        *elements("%x", recipe, "%i"),
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
            *masked_tail(recipe),
            *_widened("%tw", widen, many, wide, "%tx"),
            f"  %tacc = load {wide}, ptr %state",
            *combine("%tacc1", wide, "%tacc", "%tw" if widen else "%tx"),
            f"  store {wide} %tacc1, ptr %state",
            "  br label %done",
        ]
    else:
        lines += _tail_by_elements(recipe)
    return "\n".join([*lines, "done:", "  ret void", "}"])


GROUP = 4  # vectors of floats that are added in pairs before they are widened


def _take_groups(recipe: Recipe) -> list[str]:
    """Lines that fold groups of vectors, up to element ``%groups``; ``%singles`` comes next.

    Two roundings of the narrow type are a small part of what a sum may have, and widening was half of
    its work: layer norm of rows of 1024 float32 took 0.335 ns an element, and takes 0.25.
    """
    kind, lanes, combine = recipe.element, recipe.lanes, recipe.combine
    many, wide = f"<{lanes} x {kind}>", f"<{lanes} x {recipe.kind}>"
    lines = [
        f"  %groups = and i64 %count, {-GROUP * lanes}",
        "  %any = icmp sgt i64 %groups, 0",
        "  br i1 %any, label %begin, label %singles",
        "begin:",
        f"  %gacc0 = load {wide}, ptr %state",
        "  br label %group",
        "group:",
        "  %g = phi i64 [0, %begin], [%g1, %group]",
        f"  %gacc = phi {wide} [%gacc0, %begin], [%gacc1, %group]",
    ]
    for at in range(GROUP):
        lines.append(f"  %g.{at} = add nuw nsw i64 %g, {at * lanes}")
        lines += elements(f"%y{at}", recipe, f"%g.{at}")
    return [
        *lines,
        f"  %s0 = fadd {many} %y0, %y1",
        f"  %s1 = fadd {many} %y2, %y3",
        f"  %s = fadd {many} %s0, %s1",
        *_widened("%gw", recipe.widen, many, wide, "%s"),
        *combine("%gacc1", wide, "%gacc", "%gw"),
        f"  %g1 = add nuw nsw i64 %g, {GROUP * lanes}",
        "  %gmore = icmp slt i64 %g1, %groups",
        "  br i1 %gmore, label %group, label %grouped",
        "grouped:",
        f"  store {wide} %gacc1, ptr %state",
        "  br label %singles",
    ]


def elements(out: str, recipe: Recipe, index: str) -> list[str]:
    """Lines that define ``out``, the vector that is folded next: of a run, or made of one or two."""
    many = f"<{recipe.lanes} x {recipe.element}>"
    lines = []
    for name, pointer in recipe.runs(out).items():
        lines += [
            f"  {name}.at = getelementptr inbounds {recipe.element}, ptr {pointer}, i64 {index}",
            f"  {name} = load {many}, ptr {name}.at, align {size(recipe.element)}",
        ]
    return lines + _made(out, recipe, many)


def _made(out: str, recipe: Recipe, many: str, mask: str = "") -> list[str]:
    """Lines that define ``out``, where it is made of what was loaded.

    Behind the ``mask`` that is 0, and so is what is made of it, but for deviations from a number.
    """
    if not recipe.made:
        return []
    first, *other = recipe.runs(out)
    if recipe.made in ("squares", "products"):
        return [f"  {out} = fmul {many} {first}, {(other or [first])[0]}"]
    apart = f"{out}.d"
    lines = [f"  {apart} = fsub {many} {first}, {(other or ['%from.all'])[0]}"]
    if mask and not other:
        chosen = f"<{recipe.lanes} x i1> {mask}, {many} {apart}, {many} zeroinitializer"
        lines.append(f"  {apart}.in = select {chosen}")
        apart = f"{apart}.in"
    return [*lines, f"  {out} = fmul {many} {apart}, {apart}"]


def declared(recipe: Recipe, lanes: int) -> tuple[str, ...]:
    """The declaration of LLVM's masked load, where it is used."""
    many = f"<{lanes} x {recipe.element}>"
    load = (
        f"declare {many} @{_masked_name(recipe.element, lanes)}(ptr, i32, <{lanes} x i1>, {many})"
    )
    return (load,) if lanes <= MASKED_LANES else ()


def _masked_name(element: str, lanes: int) -> str:
    short = {"float": "f32", "double": "f64"}.get(element, element)
    return f"llvm.masked.load.v{lanes}{short}.p0"


def masked_tail(recipe: Recipe) -> list[str]:
    """Lines that load ``%tx``, the elements from ``%whole`` to ``%count`` and behind them the identity.

    One by one, through the state in memory, the rest of a row of 50 took as long as ten whole vectors.
    """
    lines = ["  %tleft = sub i64 %count, %whole", *first_lanes("%tm", "%tleft", recipe.lanes)]
    for name, pointer in recipe.runs("%tx").items():
        lines += [
            f"  {name}.at = getelementptr inbounds {recipe.element}, ptr {pointer}, i64 %whole",
            masked_load(name, recipe, recipe.lanes, f"{name}.at", "%tm"),
        ]
    return lines + _made("%tx", recipe, f"<{recipe.lanes} x {recipe.element}>", "%tm")


def first_lanes(out: str, count: str, lanes: int) -> list[str]:
    """Lines that define ``out``, a flag a lane: is it one of the first ``count``, an ``i64``?"""
    steps = ", ".join(f"i32 {lane}" for lane in range(lanes))
    spread = ", ".join(["i32 0"] * lanes)
    many = f"<{lanes} x i32>"
    return [
        f"  {out}.l = trunc i64 {count} to i32",
        f"  {out}.0 = insertelement {many} poison, i32 {out}.l, i32 0",
        f"  {out}.n = shufflevector {many} {out}.0, {many} poison, {many} <{spread}>",
        f"  {out} = icmp ult {many} <{steps}>, {out}.n",
    ]


def masked_load(out: str, recipe: Recipe, lanes: int, pointer: str, mask: str) -> str:
    """The line that loads ``out``: elements where ``mask`` says so, elsewhere the identity."""
    element = recipe.element
    many = f"<{lanes} x {element}>"
    fill = ", ".join([f"{element} {recipe.identity}"] * lanes)
    return (
        f"  {out} = call {many} @{_masked_name(element, lanes)}(ptr {pointer}, i32 {size(element)}, "
        f"<{lanes} x i1> {mask}, {many} <{fill}>)"
    )


def _tail_by_elements(recipe: Recipe) -> list[str]:
    """The rest one by one: vectors of many small elements have no masked load everywhere."""
    element, kind, widen = recipe.element, recipe.kind, recipe.widen
    return [
        "tail:",
        "  %j = phi i64 [%whole, %rest], [%j1, %tail]",
        f"  %tat = getelementptr inbounds {element}, ptr %p, i64 %j",
        f"  %tx = load {element}, ptr %tat, align {size(element)}",
        *_widened("%tw", widen, element, kind, "%tx"),
        "  %lane = sub i64 %j, %whole",
        f"  %sat = getelementptr inbounds {kind}, ptr %state, i64 %lane",
        f"  %tacc = load {kind}, ptr %sat",
        *recipe.combine("%tacc1", kind, "%tacc", "%tw" if widen else "%tx"),
        f"  store {kind} %tacc1, ptr %sat",
        "  %j1 = add nuw nsw i64 %j, 1",
        "  %tmore = icmp slt i64 %j1, %count",
        "  br i1 %tmore, label %tail, label %done",
    ]


def halved(name: str, recipe: Recipe, lanes: int) -> list[str]:
    """Lines that fold a vector ``name`` of accumulators by halves; the result is ``name.1``."""
    lines, before, kind = [], name, recipe.kind
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
            lines += recipe.combine(now, kind, f"{now}.ls", f"{now}.hs")
        else:
            lines += recipe.combine(now, narrow, f"{now}.l", f"{now}.h")
        before, lanes = now, half
    return lines


def _finish(recipe: Recipe) -> str:
    return "\n".join(
        [
            f"define internal {recipe.kind} @{recipe.symbol}_finish(ptr %state) alwaysinline {{",
            f"  %s = load <{recipe.lanes} x {recipe.kind}>, ptr %state",
            *halved("%s", recipe, recipe.lanes),
            f"  ret {recipe.kind} %s.1",
            "}",
        ]
    )


# --- runs of one vector ---------------------------------------------------------------------------


class VectorFold(NamedTuple):
    """``<result> @<symbol>(ptr run, <lanes x i1> which)``, and what its module declares."""

    symbol: str
    result: str
    text: str
    declarations: tuple[str, ...]


def vector_fold(recipe: Recipe, lanes: int) -> VectorFold:
    """The fold of runs of at most ``lanes`` elements, a power of two.

    Lanes behind the end of a run are the identity; halves are put together until one element is left.
    """
    kind, widen = recipe.kind, recipe.widen
    symbol, many = f"{recipe.symbol}_{lanes}", f"<{lanes} x {recipe.element}>"
    x = "%x" if widen else "%e"
    found = f"{x}.1"
    lines = [
        f"define internal {kind} @{symbol}(ptr %p, <{lanes} x i1> %which) alwaysinline {{",
        masked_load("%e", recipe, lanes, "%p", "%which"),
        *_widened("%x", widen, many, f"<{lanes} x {kind}>", "%e"),
        *halved(x, recipe, lanes),
    ]
    if recipe.misses_nan:
        lines += [
            f"  %u = fcmp uno {many} %e, %e",
            f"  %bits = bitcast {flags(many)} %u to i{lanes}",
            f"  %some = icmp ne i{lanes} %bits, 0",
            f"  %found = select i1 %some, {kind} 0x7FF8000000000000, {kind} {found}",
        ]
        found = "%found"
    else:  # NumPy begins with the identity: a full vector of -0.0 adds up to 0.0
        lines += recipe.combine("%total", kind, found, recipe.identity)
        found = "%total"
    text = "\n".join([*lines, f"  ret {kind} {found}", "}"])
    return VectorFold(symbol, kind, text, declared(recipe, lanes))
