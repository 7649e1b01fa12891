"""The text of a function over rows: its arguments, blocks of code, loops, and values in memory.

In: lines and values. Out: ``RowText``, whose ``lines`` are the function's body so far; ``row_code`` and
``short_code`` say what is in it, and give ``RowCode``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fusegraph.engines.llvm.codegen import Code, Evaluator
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.values import Parts, memory_type, register_type
from fusegraph.graph import DType

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
    """Writes a function block by block; ``self.e`` writes the block that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.label = "entry"
        self.blocks = 0
        self.declared: dict[str, None] = {}

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

    def arguments(self, operands: int, kept: int) -> None:
        """What the function is given: sizes, where operands lie, memory for ``kept`` temporaries."""
        for at, name in enumerate(("outers", "rows", "n")):
            self.word(name, at)
        for at in range(operands):
            self.word(f"so{at}", HEAD + 2 * at)
            self.word(f"sr{at}", HEAD + 2 * at + 1)
            self.say(
                f"%d{at}.at = getelementptr ptr, ptr %pointers, i64 {at}",
                f"%d{at} = load ptr, ptr %d{at}.at",
            )
        for at in range(kept):
            self.word(f"t{at}.off", HEAD + 2 * operands + at)
            self.say(f"%t{at} = getelementptr i8, ptr %scratch, i64 %t{at}.off")

    def row_begins(self, operands: int, row: str) -> None:
        """``%p0, %p1, ...``: where a row of each operand begins."""
        for at in range(operands):
            self.say(
                f"%o{at}.o = mul i64 %outer, %so{at}",
                f"%o{at}.r = mul i64 {row}, %sr{at}",
                f"%o{at}.off = add i64 %o{at}.o, %o{at}.r",
                f"%p{at} = getelementptr i8, ptr %d{at}, i64 %o{at}.off",
            )

    def loop_begin(self, name: str, count: str, after: str) -> None:
        before = self.label
        self.say(f"br label %{name}.head")
        self.open(f"{name}.head")
        self.say(
            f"%{name} = phi i64 [0, %{before}], [%{name}.1, %{name}.next]",
            f"%{name}.more = icmp slt i64 %{name}, {count}",
            f"br i1 %{name}.more, label %{name}.body, label %{after}",
        )
        self.open(f"{name}.body")

    def loop_end(self, name: str, after: str) -> None:
        if name == "row":
            self.say(f"br label %{name}.next")
            self.open(f"{name}.next")
        self.say(f"%{name}.1 = add nuw nsw i64 %{name}, 1", f"br label %{name}.head")
        self.open(after)

    # --- memory -----------------------------------------------------------------------------------

    def loaded(self, name: str, dtype: DType, pointer: str, index: str, note: str) -> Parts:
        """The parts of a value in memory, at element ``index`` of a row or at its only one."""
        kind = memory_type(dtype)
        found = []
        for part, at in enumerate(_indices(dtype, index)):
            self.say(
                f"{name}.{part}.at = getelementptr {kind}, ptr {pointer}, i64 {at}",
                f"{name}.{part} = load {kind}, ptr {name}.{part}.at, {note}",
            )
            found.append(Value(kind, f"{name}.{part}"))
        return tuple(found)

    def stored(
        self, name: str, dtype: DType, value: Parts, pointer: str, index: str, note: str
    ) -> None:
        kind = memory_type(dtype)
        for part, (at, x) in enumerate(zip(_indices(dtype, index), value, strict=True)):
            self.say(
                f"{name}.{part}.at = getelementptr {kind}, ptr {pointer}, i64 {at}",
                f"store {kind} {x.name}, ptr {name}.{part}.at, {note}",
            )


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
