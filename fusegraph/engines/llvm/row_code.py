"""A region over rows as IR: reductions along the last axis and what is between them, in one function.

In: a ``Region`` of wide values (``..., n``) and narrow ones (``..., 1``). Out: ``RowCode``. The function
is ``void fg_rows(ptr words, ptr pointers, ptr scratch)``, a pointer an operand: a loop over rows, and
for each row one pass a *phase*. A phase computes what needs no reduction that is not finished yet, in
chunks that stay in L1, and folds its reductions on the way: softmax is three phases, and reads memory in
the first. A wide value that a later phase reads is kept for the length of the row, never computed twice.

The text depends on dtypes and on which values are narrow, never on sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fusegraph.engines.base import Region
from fusegraph.engines.llvm import lowering
from fusegraph.engines.llvm.codegen import Code, Evaluator, loop_metadata, memory_type
from fusegraph.engines.llvm.folds import Fold, fold_of
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.lowering import Parts
from fusegraph.graph import DType, Node

SYMBOL = "fg_rows"
CHUNK = 1024  # elements that pass through L1 at a time; whole blocks of a sum of doubles
HEAD = 3  # words before those of the operands: outer rows, rows, elements of a row


@dataclass(slots=True)
class Phase:
    """One pass over a row."""

    wide: list[Node] = field(default_factory=list)
    folds: list[Node] = field(default_factory=list)
    narrow: list[Node] = field(default_factory=list)  # known once the folds are finished


@dataclass(frozen=True, slots=True)
class RowCode:
    """IR of a region over rows.

    Attributes
    ----------
    code : Code
    kept : tuple of (int, bool)
        Itemsize of each temporary in memory, and whether it has the length of a row or of a chunk.
    wide : tuple of bool
        Which operands have a row of elements, not one.
    flat : bool
        Is it one pass whose reductions run along all axes? Dense rows are then one long row.
    """

    code: Code
    kept: tuple[tuple[int, bool], ...]
    wide: tuple[bool, ...]
    flat: bool


def fold_for(node: Node) -> Fold | None:
    """The fold of a reduction, or None."""
    return fold_of(node.op.name, node.inputs[0].dtype, node.dtype)


def is_carried(node: Node) -> bool:
    """Does a reduction run over all rows, not along each?"""
    return node.kind == "reduce" and node.shape[:-1] != node.inputs[0].shape[:-1]


def row_length(nodes: Iterable[Node]) -> int:
    """Elements of the widest values: those of a row."""
    shapes = [v.shape for node in nodes for v in (node, *node.inputs)]
    return max(shape[-1] for shape in shapes if shape)


def phases_of(region: Region) -> list[Phase]:
    """Every node in the last phase before it is read, reductions as soon as they can be."""
    length = row_length(region.nodes)
    ready = dict.fromkeys(region.inputs, 0)
    for node in region.nodes:
        first = max((ready.get(i, 0) for i in node.inputs), default=0)
        ready[node] = first + 1 if node.kind == "reduce" else first
    passing = [n for n in region.nodes if n.kind == "reduce" or _is_wide(n, length)]
    last = max(ready[n] - (n.kind == "reduce") for n in passing)
    for node in reversed(region.nodes):
        if _is_wide(node, length) and node not in region.outputs:
            readers = [n for n in region.nodes if node in n.inputs]
            ready[node] = min(ready[n] - (n.kind == "reduce") for n in readers)
    found = [Phase() for _ in range(last + 1)]
    for node in region.nodes:
        if node.kind == "reduce":
            found[ready[node] - 1].folds.append(node)
        elif _is_wide(node, length):
            found[ready[node]].wide.append(node)
        elif ready[node]:
            found[ready[node] - 1].narrow.append(node)
    return found


def _is_wide(node: Node, length: int) -> bool:
    return bool(node.shape) and node.shape[-1] == length


def may_write_over(region: Region) -> bool:
    """May a result be written over an operand of its shape?

    It may where no operand's row is read after a result's row was begun.
    """
    length = row_length(region.nodes)
    found = _phase_numbers(phases_of(region))
    written = [found[n] for n in region.outputs if _is_wide(n, length)]
    read = [
        at
        for n, at in found.items()
        for i in n.inputs
        if i in region.inputs and _is_wide(i, length)
    ]
    folded = [at for n, at in found.items() if n.kind == "reduce"]
    return not written or min(written) >= max([*read, *folded], default=0)


def _phase_numbers(phases: Sequence[Phase]) -> dict[Node, int]:
    """The phase of every value of a row, and of every reduction."""
    return {n: at for at, p in enumerate(phases) for n in (*p.wide, *p.folds)}


def _kept_values(region: Region, phases: Sequence[Phase]) -> dict[Node, bool]:
    """Wide values in scratch memory: True where a later phase reads them."""
    phase_of = _phase_numbers(phases)
    found: dict[Node, bool] = {}
    for at, phase in enumerate(phases):
        for node in (*phase.wide, *phase.folds):
            for i in node.inputs:
                if i not in phase_of or i.kind == "reduce" or i in region.outputs:
                    continue
                if node.kind == "reduce" or phase_of[i] < at:
                    found[i] = found.get(i, False) or phase_of[i] < at
    return found


def kept_bytes(region: Region) -> int:
    """Bytes that a thread keeps of a row, at most."""
    length = row_length(region.nodes)
    kept = _kept_values(region, phases_of(region))
    return sum(
        node.dtype.itemsize * (length if whole else min(length, CHUNK)) + 64
        for node, whole in kept.items()
    )


def generate(region: Region) -> RowCode:
    """The IR of a region over rows."""
    return _RowWriter(region).write()


class _RowWriter(Evaluator):
    """Writes the function, block by block; ``self.e`` writes the block that is open."""

    def __init__(self, region: Region) -> None:
        super().__init__()
        self.region = region
        self.length = row_length(region.nodes)
        self.phases = phases_of(region)
        self.operands = (*region.inputs, *region.outputs)
        self.lines: list[str] = []
        self.label = "entry"
        self.blocks = self.pointers = 0
        self.declared: dict[str, None] = {}
        self.metadata: list[str] = []
        self.folds: dict[str, Fold] = {}
        self.phase_of = _phase_numbers(self.phases)
        self.kept = _kept_values(region, self.phases)

    # --- blocks -----------------------------------------------------------------------------------

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

    # --- the function -----------------------------------------------------------------------------

    def write(self) -> RowCode:
        carried = [n for phase in self.phases for n in phase.folds if is_carried(n)]
        self.entry(carried)
        self.loop_begin("outer", "%outers", "done.rows")
        self.loop_begin("row", "%rows", "outer.next")
        self.row()
        self.loop_end("row", "outer.next")
        self.loop_end("outer", "done.rows")
        for node in carried:
            self.finish(node)
            self.store_narrow(node, "%d")
        self.say("ret void")
        head = f"define void @{SYMBOL}(ptr %words, ptr %pointers, ptr %scratch) {{"
        body = "\n".join([head, *self.lines, "}", *self.metadata])
        folds = "\n".join(fold.text for fold in self.folds.values())
        halves = "@fg_half_" in body
        called = [line for fold in self.folds.values() for line in fold.declarations]
        declared = (*self.declared, *called)
        code = Code(f"{body}\n{folds}", tuple(self.functions), declared, halves, ())
        kept = tuple((_itemsize(n.dtype), whole) for n, whole in self.kept.items())
        wide = tuple(_is_wide(n, self.length) for n in self.operands)
        flat = len(self.phases) == 1 and len(carried) == len(self.phases[0].folds)
        return RowCode(code, kept, wide, flat)

    def entry(self, carried: Sequence[Node]) -> None:
        self.open("entry")
        for at, name in enumerate(("outers", "rows", "n")):
            self.word(name, at)
        for at in range(len(self.operands)):
            self.word(f"so{at}", HEAD + 2 * at)
            self.word(f"sr{at}", HEAD + 2 * at + 1)
            self.say(
                f"%d{at}.at = getelementptr ptr, ptr %pointers, i64 {at}",
                f"%d{at} = load ptr, ptr %d{at}.at",
            )
        for at in range(len(self.kept)):
            self.word(f"t{at}.off", HEAD + 2 * len(self.operands) + at)
            self.say(f"%t{at} = getelementptr i8, ptr %scratch, i64 %t{at}.off")
        self.literals(self.region)
        for node in (n for phase in self.phases for n in phase.folds):
            fold = fold_for(node)
            assert fold is not None, node
            self.folds[fold.symbol] = fold
            self.say(f"{self.state(node)} = alloca [{fold.state_bytes} x i8], align 64")
        for node in carried:
            self.begin(node)
        self.flush()

    def word(self, name: str, at: int) -> None:
        self.say(
            f"%{name}.at = getelementptr i64, ptr %words, i64 {at}",
            f"%{name} = load i64, ptr %{name}.at",
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

    def row(self) -> None:
        """One row: where it lies, its narrow operands, then the phases."""
        for at in range(len(self.operands)):
            self.say(
                f"%o{at}.o = mul i64 %outer, %so{at}",
                f"%o{at}.r = mul i64 %row, %sr{at}",
                f"%o{at}.off = add i64 %o{at}.o, %o{at}.r",
                f"%p{at} = getelementptr i8, ptr %d{at}, i64 %o{at}.off",
            )
        for at, node in enumerate(self.region.inputs):
            if not _is_wide(node, self.length):
                loaded = self.loaded(f"%n{at}", node.dtype, f"%p{at}", "", "align 1")
                self.values[node] = self.from_memory(loaded, node.dtype)
        self.flush()
        placed = {n for phase in self.phases for n in (*phase.wide, *phase.folds, *phase.narrow)}
        self.narrow_values([n for n in self.region.nodes if n not in placed])
        for at, phase in enumerate(self.phases):
            self.phase(at, phase)

    def narrow_values(self, nodes: Sequence[Node]) -> None:
        self.evaluate_all(nodes)
        self.flush()
        for node in nodes:
            if node in self.region.outputs:
                self.store_narrow(node, "%p")

    # --- phases -----------------------------------------------------------------------------------

    def phase(self, at: int, phase: Phase) -> None:
        own = [n for n in phase.folds if not is_carried(n)]
        for node in own:
            self.begin(node)
        direct = [n for n in phase.folds if n.inputs[0] not in phase.wide]
        if len(direct) == 1 and not phase.wide:
            self.take(direct[0], self.row_pointer(direct[0].inputs[0]), "%n")
        else:
            self.chunks(at, phase, direct)
        for node in own:
            self.finish(node)
            if node in self.region.outputs:
                self.store_narrow(node, "%p")
        self.narrow_values(phase.narrow)

    def chunks(self, at: int, phase: Phase, direct: Sequence[Node]) -> None:
        """A phase in chunks of a row where something is folded, else the row at once.

        ``direct`` are the reductions of values in memory: they read a chunk while it is in L1, and
        before a result may be written over it.
        """
        folds = [n for n in phase.folds if n not in direct]
        before, c = self.label, f"c{at}"
        self.say(f"br label %{c}.head")
        self.open(f"{c}.head")
        step = str(CHUNK) if phase.folds else "%n"
        self.say(
            f"%{c} = phi i64 [0, %{before}], [%{c}.1, %{c}.next]",
            f"%{c}.more = icmp slt i64 %{c}, %n",
            f"br i1 %{c}.more, label %{c}.body, label %{c}.done",
        )
        self.open(f"{c}.body")
        self.say(
            f"%{c}.left = sub i64 %n, %{c}",
            f"%{c}.last = icmp slt i64 %{c}.left, {step}",
            f"%{c}.m = select i1 %{c}.last, i64 %{c}.left, i64 {step}",
        )
        for node in direct:
            self.take(node, self.chunk_pointer(f"%{c}.d", node.inputs[0], f"%{c}"), f"%{c}.m")
        places = self.places(at, phase, f"%{c}")
        if phase.wide:
            self.elements(at, phase, places)
        else:
            self.say(f"br label %{c}.next")
        self.open(f"{c}.next")
        for node in folds:
            self.take(node, places[node.inputs[0]], f"%{c}.m")
        self.say(f"%{c}.1 = add i64 %{c}, {step}", f"br label %{c}.head")
        self.open(f"{c}.done")

    def places(self, at: int, phase: Phase, start: str) -> dict[Node, str]:
        """Pointers to this chunk of every value that the loop over elements reads or writes."""
        inside = set(phase.wide)
        read = [
            i for n in phase.wide for i in n.inputs
            if i not in inside and i.kind != "const" and _is_wide(i, self.length)
        ]  # fmt: skip
        written = [n for n in phase.wide if n in self.kept or n in self.region.outputs]
        found: dict[Node, str] = {}
        for node in dict.fromkeys([*read, *written]):
            base = self.row_pointer(node)
            if self.kept.get(node) is False:
                found[node] = base  # of a chunk's length: its beginning
                continue
            found[node] = self.chunk_pointer(f"%q{at}.", node, start)
        return found

    def chunk_pointer(self, prefix: str, node: Node, start: str) -> str:
        """Where a chunk of a wide value begins; a name that begins with ``prefix``."""
        self.pointers += 1
        name, parts = f"{prefix}{self.pointers}", 2 if node.dtype.kind == "c" else 1
        self.say(
            f"{name}.i = mul i64 {start}, {parts}",
            f"{name} = getelementptr {memory_type(node.dtype)}, ptr {self.row_pointer(node)}, "
            f"i64 {name}.i",
        )
        return name

    def row_pointer(self, node: Node) -> str:
        """Where the row of a wide value begins."""
        if node in self.kept:
            return f"%t{list(self.kept).index(node)}"
        return f"%p{self.operands.index(node)}"

    def elements(self, at: int, phase: Phase, places: dict[Node, str]) -> None:
        """The loop over the elements of a chunk; every one of them stands alone, so it vectorises."""
        before, i = self.label, f"%i{at}"
        group = f"!llvm.access.group !{10 * at + 10}"
        self.say(f"br label %e{at}")
        self.open(f"e{at}")
        self.say(
            f"{i} = phi i64 [0, %{before}], [{i}.1, %e{at}]",
            f"{i}.real = shl nuw nsw i64 {i}, 1",
            f"{i}.imag = or disjoint i64 {i}.real, 1",
        )
        inside = set(phase.wide)
        for node, place in places.items():
            if node not in inside:
                loaded = self.loaded(f"%x{at}.{place[1:]}", node.dtype, place, i, group)
                self.values[node] = self.from_memory(loaded, node.dtype)
        self.evaluate_all(phase.wide)
        stored = {
            node: self.to_memory(self.values[node], node.dtype) for node in places if node in inside
        }
        self.flush()
        for node, value in stored.items():
            self.stored(f"%y{at}.{places[node][1:]}", node.dtype, value, places[node], i, group)
        self.say(
            f"{i}.1 = add nuw nsw i64 {i}, 1",
            f"{i}.more = icmp slt i64 {i}.1, %c{at}.m",
            f"br i1 {i}.more, label %e{at}, label %c{at}.next, !llvm.loop !{10 * at + 11}",
        )
        for node in inside:  # their registers are those of one element
            self.values.pop(node)
        for node in places:
            self.values.pop(node, None)
        self.metadata += loop_metadata(phase.wide, 10 * at + 10, False)

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

    def store_narrow(self, node: Node, base: str) -> None:
        """A narrow result to where its row lies, or to its only place."""
        at = self.operands.index(node, len(self.region.inputs))
        value = self.to_memory(self.values[node], node.dtype)
        self.flush()
        self.stored(f"%z{at}", node.dtype, value, f"{base}{at}", "", "align 1")

    # --- folds ------------------------------------------------------------------------------------

    def state(self, node: Node) -> str:
        return f"%state{list(self.phase_of).index(node)}"

    def begin(self, node: Node) -> None:
        self.say(f"call void @{self.fold(node).symbol}_begin(ptr {self.state(node)})")

    def take(self, node: Node, pointer: str, count: str) -> None:
        fold = self.fold(node)
        self.say(
            f"call void @{fold.symbol}_take(ptr {self.state(node)}, ptr {pointer}, i64 {count})"
        )

    def finish(self, node: Node) -> None:
        """The result in the reduction's dtype."""
        fold = self.fold(node)
        found = self.e.call(f"{fold.symbol}_finish", fold.result, Value("ptr", self.state(node)))
        kind = lowering.register_type(node.dtype)
        if node.dtype.kind == "b":
            found = self.e.icmp("ne", found, self.e.whole("i8", 0))
        elif found.type == "double" and kind == "float":
            found = self.e.fptrunc(found, kind)
        elif found.type != kind:
            found = self.e.trunc(found, kind)
        self.values[node] = (found,)
        self.flush()

    def fold(self, node: Node) -> Fold:
        found = fold_for(node)
        assert found is not None
        return found


def _indices(dtype: DType, index: str) -> tuple[str, ...]:
    """Places of a value's parts, counted in parts."""
    if dtype.kind == "c":
        return (f"{index}.real", f"{index}.imag") if index else ("0", "1")
    return (index or "0",)


def _itemsize(dtype: DType) -> int:
    return 1 if dtype.kind == "b" else np.dtype(dtype).itemsize
