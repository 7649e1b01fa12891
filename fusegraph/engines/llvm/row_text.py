"""The text of a function over rows: its arguments, blocks of code, loops, and values in memory.

In: lines and values. Out: ``RowText``, whose ``lines`` are the function's body so far; ``row_code`` and
``short_code`` say what is in it, and give ``RowCode``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fusegraph.buffers import LINE
from fusegraph.engines.base import Region
from fusegraph.engines.llvm.codegen import Code, Evaluator
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.row_phases import Phase, is_wide, row_length
from fusegraph.engines.llvm.values import Parts, from_memory, memory_type, register_type
from fusegraph.graph import DType, Node, Shape

SYMBOL = "fg_rows"
HEAD = 3  # words before those of the operands: outer rows, rows, elements of a row


class Kept(NamedTuple):
    """Elements that a thread keeps of a value: of ``rows`` rows, and ``more``; at most ``most``."""

    itemsize: int
    rows: int = 1
    more: int = 0
    most: int | None = None

    def nbytes(self, length: int) -> int:
        """Bytes for rows of ``length``."""
        elements = self.rows * length + self.more
        return self.itemsize * (elements if self.most is None else min(elements, self.most))


@dataclass(frozen=True, slots=True)
class RowCode:
    """IR of a region over rows.

    Attributes
    ----------
    code : Code
    kept : tuple of Kept
        The temporaries in memory.
    wide : tuple of bool
        Which operands have a row of elements, not one.
    flat : bool
        Is it one pass whose reductions run along all axes? Dense rows are then one long row.
    fixed : tuple of bool
        Which wide operands are one row for all, where the others have to be dense.
    """

    code: Code
    kept: tuple[Kept, ...]
    wide: tuple[bool, ...]
    flat: bool
    fixed: tuple[bool, ...] = ()


class RowText(Evaluator):
    """Writes the function of a region block by block; ``self.e`` writes the block that is open."""

    def __init__(self, region: Region, phases: list[Phase]) -> None:
        super().__init__(region)
        self.length = row_length(region.nodes)
        self.phases = phases
        self.operands = (*region.inputs, *region.outputs)
        self.temporaries: list[Kept] = []  # in memory
        self.lines: list[str] = []
        self.metadata: list[str] = []
        self.label = "entry"
        self.blocks = 0
        self.declared: dict[str, None] = {}

    def wide(self, node: Node) -> bool:
        return is_wide(node, self.length)

    @property
    def kept_bytes(self) -> int:
        """Bytes that a thread keeps, at most."""
        return sum(kept.nbytes(self.length) + LINE for kept in self.temporaries)

    def row_code(
        self, folds: Sequence[str], flat: bool = False, fixed: tuple[bool, ...] = ()
    ) -> RowCode:
        """What was written, with the texts of the folds that it calls."""
        head = f"define void @{SYMBOL}(ptr %words, ptr %pointers, ptr %scratch) {{"
        body = "\n".join([head, *self.lines, "}", *self.metadata, *folds])
        wide = tuple(map(self.wide, self.operands))
        code = self.code(body, self.declared)
        return RowCode(code, tuple(self.temporaries), wide, flat, fixed)

    def open(self, label: str) -> None:
        """Begin a block of code; names in it are of its own."""
        self.lines.append(f"{label}:")
        self.label = label
        self.blocks += 1
        self.e = Emitter(f"b{self.blocks}_")

    def flush(self) -> None:
        """Write what the open block has computed so far."""
        self.lines += self.e.lines
        self.declared.update(dict.fromkeys(self.e.declarations))
        self.blocks += 1
        self.e = Emitter(f"b{self.blocks}_")

    def say(self, *lines: str) -> None:
        self.lines += [f"  {line}" for line in lines]

    def word(self, name: str, at: int) -> None:
        self.say(
            f"%{name}.at = getelementptr i64, ptr %words, i64 {at}",
            f"%{name} = load i64, ptr %{name}.at",
        )

    def arguments(self) -> None:
        """What the function is given: sizes, where operands lie, memory for temporaries."""
        operands = len(self.operands)
        for at, name in enumerate(("outers", "rows", "n")):
            self.word(name, at)
        for at in range(operands):
            self.word(f"so{at}", HEAD + 2 * at)
            self.word(f"sr{at}", HEAD + 2 * at + 1)
            self.say(
                f"%d{at}.at = getelementptr ptr, ptr %pointers, i64 {at}",
                f"%d{at} = load ptr, ptr %d{at}.at",
            )
        for at in range(len(self.temporaries)):
            self.word(f"t{at}.off", HEAD + 2 * operands + at)
            self.say(f"%t{at} = getelementptr i8, ptr %scratch, i64 %t{at}.off")

    def row_begins(self, row: str) -> None:
        """``%p0, %p1, ...``: where a row of each operand begins."""
        for at in range(len(self.operands)):
            self.say(
                f"%o{at}.o = mul i64 %outer, %so{at}",
                f"%o{at}.r = mul i64 {row}, %sr{at}",
                f"%o{at}.off = add i64 %o{at}.o, %o{at}.r",
                f"%p{at} = getelementptr i8, ptr %d{at}, i64 %o{at}.off",
            )

    # --- loops ------------------------------------------------------------------------------------

    def over_rows(self, count: str, body: Callable[[], None]) -> None:
        """Loops over ``%outer``, and over ``%row`` up to ``count``, with ``body`` inside."""
        self.loop_begins("outer", "%outers", "done.rows")
        self.loop_begins("row", count, "outer.next")
        body()
        self.say("br label %row.next")
        self.open("row.next")
        self.loop_ends("row", "outer.next")
        self.loop_ends("outer", "done.rows")

    def loop_begins(self, name: str, count: str, after: str) -> None:
        before = self.label
        self.say(f"br label %{name}.head")
        self.open(f"{name}.head")
        self.say(
            f"%{name} = phi i64 [0, %{before}], [%{name}.1, %{name}.next]",
            f"%{name}.more = icmp slt i64 %{name}, {count}",
            f"br i1 %{name}.more, label %{name}.body, label %{after}",
        )
        self.open(f"{name}.body")

    def loop_ends(self, name: str, after: str) -> None:
        self.say(f"%{name}.1 = add nuw nsw i64 %{name}, 1", f"br label %{name}.head")
        self.open(after)

    def block_loop(
        self, name: str, count: str, body: Callable[[str], None], metadata: str = ""
    ) -> None:
        """A loop that is one block, at least once around: ``body`` of the index."""
        before, i = self.label, f"%{name}.i"
        self.say(f"br label %{name}")
        self.open(name)
        self.say(f"{i} = phi i64 [0, %{before}], [{i}.1, %{name}]")
        body(i)
        self.say(
            f"{i}.1 = add nuw nsw i64 {i}, 1",
            f"{i}.more = icmp slt i64 {i}.1, {count}",
            f"br i1 {i}.more, label %{name}, label %{name}.done{metadata}",
        )
        self.open(f"{name}.done")

    # --- memory -----------------------------------------------------------------------------------

    def loaded(self, name: str, dtype: DType, pointer: str, index: str, note: str) -> Parts:
        """A value in memory, at element ``index`` of a row or at its only one."""
        kind = memory_type(dtype)
        found = []
        for part, at in enumerate(_indices(dtype, index)):
            self.say(
                f"{name}.{part}.at = getelementptr {kind}, ptr {pointer}, i64 {at}",
                f"{name}.{part} = load {kind}, ptr {name}.{part}.at, {note}",
            )
            found.append(Value(kind, f"{name}.{part}"))
        return from_memory(self.e, tuple(found), dtype)

    def stored(
        self, name: str, dtype: DType, value: Parts, pointer: str, index: str, note: str
    ) -> None:
        kind = memory_type(dtype)
        for part, (at, x) in enumerate(zip(_indices(dtype, index), value, strict=True)):
            self.say(
                f"{name}.{part}.at = getelementptr {kind}, ptr {pointer}, i64 {at}",
                f"store {kind} {x.name}, ptr {name}.{part}.at, {note}",
            )


def is_fixed(value: Node, lead: Shape) -> bool:
    """Is a wide value one row, the same for all that there are along ``lead``?"""
    return value.shape[:-1] != lead and math.prod(value.shape[:-1]) == 1


def result_of(e: Emitter, found: Value, dtype: DType) -> Parts:
    """What a fold gives, in the dtype of its reduction."""
    kind = register_type(dtype)
    if dtype.kind == "b":
        return (e.icmp("ne", found, e.whole("i8", 0)),)
    if found.type == "double" and kind == "float":
        return (e.fptrunc(found, kind),)
    return (found if found.type == kind else e.trunc(found, kind),)


def _indices(dtype: DType, index: str) -> tuple[str, ...]:
    """Places of a value's parts, counted in parts."""
    if dtype.kind == "c":
        return (f"{index}.real", f"{index}.imag") if index else ("0", "1")
    return (index or "0",)
