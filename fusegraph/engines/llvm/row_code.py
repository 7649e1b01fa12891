"""A region over rows as IR: reductions along the last axis and what is between them, in one function.

In: a ``Region`` of wide values (``..., n``) and narrow ones (``..., 1``). Out: ``RowCode``. The function
is ``void fg_rows(ptr words, ptr pointers, ptr scratch)``, a pointer an operand: a loop over rows, and
for each row one pass a *phase*. A phase computes what needs no reduction that is not finished yet, in
chunks that stay in L1, and folds its reductions on the way: softmax is three phases, and reads memory in
the first. A wide value that a later phase reads is kept for the length of the row, never computed twice.
A reduction over the rows, not along them, has an accumulator a column, and ends after the last row.

The text depends on dtypes, on which values are narrow, and on whether a row is long, on no other size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from fusegraph.engines.base import Region
from fusegraph.engines.llvm import row_phases
from fusegraph.engines.llvm.codegen import loop_metadata
from fusegraph.engines.llvm.columns import accumulators, begun, finished, taken
from fusegraph.engines.llvm.ir import Value
from fusegraph.engines.llvm.lanes import Fold
from fusegraph.engines.llvm.row_phases import (
    CHUNK,
    Phase,
    factors_of_sums,
    fold_for,
    is_carried,
    kept_values,
    made_as_read,
    phase_numbers,
    phases_of,
    read_by,
    squared_differences,
)
from fusegraph.engines.llvm.row_text import Kept, RowCode, RowText, is_fixed, result_of
from fusegraph.engines.llvm.values import Parts, memory_type, to_memory
from fusegraph.graph import Node

# Elements of a row that fills four vectors in flight: softmax of 4096 x 1024 float32 took 2.4 ms on one
# thread where LLVM chose, and takes 2.0.
LONG_ROW = 256
# Beyond so many rows a copy of one that they share pays: layer norm of 16 rows of 1024 float32 took 5.4
# us with its weight and bias in place and 5.6 with copies, of 32 rows 9.4 and 9.2.
MANY_ROWS = 31
COPY = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"


def generate(region: Region) -> RowCode:
    """The IR of a region over rows."""
    return _RowWriter(region).write()


def kept_bytes(region: Region) -> int:
    """Bytes that a thread keeps of a row, at most."""
    return _RowWriter(region).kept_bytes


def may_write_over(region: Region) -> bool:
    """May a result be written over an operand of its shape?"""
    return row_phases.may_write_over(region, made_as_read(region))


class _RowWriter(RowText):
    """Writes the function."""

    def __init__(self, region: Region) -> None:
        super().__init__(region, phases_of(region, made_as_read(region)))
        self.pointers = 0
        self.folds: dict[str, Fold] = {}
        self.sources = squared_differences(region) | factors_of_sums(region, self.phases)
        self.products = {fold.inputs[0] for fold in self.sources}
        self.phases = [
            replace(phase, wide=[n for n in phase.wide if n not in self.products])
            for phase in self.phases
        ]
        self.phase_of = phase_numbers(self.phases)
        self.kept = kept_values(region, self.phases)
        # Accumulators of columns: memory of the length of a row behind what is kept of rows.
        columns = [n for phase in self.phases for n in phase.columns]
        self.columns = [(n, k) for n in columns for k in range(accumulators(n))]
        self.temporaries = [
            Kept(n.dtype.itemsize, most=None if whole else CHUNK) for n, whole in self.kept.items()
        ]
        self.temporaries += [Kept(n.dtype.itemsize) for n, _ in self.columns]
        self.fixed = {v: len(self.temporaries) + at for at, v in enumerate(self.fixed_rows())}
        self.temporaries += [Kept(v.dtype.itemsize) for v in self.fixed]

    def fixed_rows(self) -> list[Node]:
        """Operands that are one row for all rows."""
        lead = max((n.shape for n in self.region.nodes), key=len)[:-1]
        return [v for v in self.region.inputs if self.wide(v) and is_fixed(v, lead)]

    # --- the function -----------------------------------------------------------------------------

    def write(self) -> RowCode:
        carried = [n for phase in self.phases for n in phase.folds if is_carried(n)]
        self.entry(carried)
        self.column_loop("begin.columns", self.begin_column)
        self.over_rows("%rows", self.row)
        for node in carried:
            self.finish(node)
            self.store_narrow(node, "%d")
        self.column_loop("end.columns", self.end_column)
        self.say("ret void")
        for fold in self.folds.values():
            self.declared.update(dict.fromkeys(fold.declarations))
        one = len(self.phases) == 1 and not self.columns
        flat = one and len(carried) == len(self.phases[0].folds)
        return self.row_code(["\n".join(fold.text for fold in self.folds.values())], flat)

    def entry(self, carried: Sequence[Node]) -> None:
        self.open("entry")
        self.arguments()
        self.lines += self.literals()
        for node in (n for phase in self.phases for n in phase.folds):
            fold = self.fold(node)
            self.folds[fold.symbol] = fold
            self.say(f"{self.state(node)} = alloca [{fold.state_bytes} x i8], align 64")
        for node in carried:
            self.begin(node)
        self.align_fixed_rows()
        self.flush()

    def align_fixed_rows(self) -> None:
        """Copies of rows that all rows read, ``%f0, %f1, ...``, where there are enough to read them.

        NumPy's arrays begin 16 bytes behind a cache line, so that vectors lie in two: layer norm of
        4096 x 1024 float32 on two threads took 0.635 ms with its weight and bias there, and takes 0.585.
        """
        if not self.fixed:
            return
        self.declared[COPY] = None
        self.say("%all = mul i64 %outers, %rows", f"%many = icmp sgt i64 %all, {MANY_ROWS}")
        for value, at in self.fixed.items():
            place = self.operands.index(value)
            self.say(
                f"%f{place}.all = mul i64 %n, {value.dtype.itemsize}",
                f"%f{place}.bytes = select i1 %many, i64 %f{place}.all, i64 0",
                f"call void @llvm.memcpy.p0.p0.i64(ptr %t{at}, ptr %d{place}, "
                f"i64 %f{place}.bytes, i1 false)",
                f"%f{place} = select i1 %many, ptr %t{at}, ptr %d{place}",
            )

    def row(self) -> None:
        """One row: where it lies, its narrow operands, then the phases."""
        self.row_begins("%row")
        for at, node in enumerate(self.region.inputs):
            if not self.wide(node):
                self.values[node] = self.loaded(f"%n{at}", node.dtype, f"%p{at}", "", "align 1")
        self.flush()
        placed = {n for p in self.phases for n in (*p.wide, *p.folds, *p.columns, *p.narrow)}
        first = [n for n in self.region.nodes if n not in placed and not self.wide(n)]
        self.narrow_values(first)
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
        direct = [n for n in phase.folds if not any(s in phase.wide for s in self.runs(n))]
        if len(direct) == 1 and not (phase.wide or phase.columns):
            self.take(direct[0], self.row_pointer, "%n")
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
            self.take(node, lambda s: self.chunk_pointer(f"%{c}.d", s, f"%{c}"), f"%{c}.m")
        places = self.places(at, phase, f"%{c}")
        if phase.wide or phase.columns:
            self.elements(at, phase, places)
        else:
            self.say(f"br label %{c}.next")
        self.open(f"{c}.next")
        for node in folds:
            self.take(node, places.__getitem__, f"%{c}.m")
        self.say(f"%{c}.1 = add i64 %{c}, {step}", f"br label %{c}.head")
        self.open(f"{c}.done")

    def places(self, at: int, phase: Phase, start: str) -> dict[Node, str]:
        """Pointers to this chunk of every value that the loop over elements reads or writes."""
        nodes = [*phase.wide, *phase.columns]
        read = [i for i in read_by(nodes) if self.wide(i)]
        written = [n for n in phase.wide if n in self.kept or n in self.region.outputs]
        found: dict[Node, str] = {}
        for node in dict.fromkeys([*read, *written]):
            base = self.row_pointer(node)
            if self.kept.get(node) is False:
                found[node] = base  # of a chunk's length: its beginning
                continue
            found[node] = self.chunk_pointer(f"%q{at}.", node, start)
        return found

    # --- columns ----------------------------------------------------------------------------------

    def accumulator(self, node: Node, which: int) -> str:
        """Where the accumulators of a column reduction begin."""
        return f"%t{len(self.kept) + self.columns.index((node, which))}"

    def column_loop(self, name: str, body: Callable[[Node, str], None]) -> None:
        """A loop over the columns, with ``body`` for each reduction over rows."""
        nodes = list(dict.fromkeys(node for node, _ in self.columns))
        if not nodes:
            return

        def each(index: str) -> None:
            for node in nodes:
                body(node, index)

        self.block_loop(name, "%n", each)

    def begin_column(self, node: Node, index: str) -> None:
        name = f"%begin{self.column_number(node)}"
        for which, value in enumerate(begun(self.e, node)):
            self.store_accumulator(f"{name}.{which}", node, which, value, index, "align 1")

    def end_column(self, node: Node, index: str) -> None:
        at = self.column_number(node)
        kept = self.loaded_accumulators(f"%end{at}", node, index, "align 1")
        stored = to_memory(self.e, finished(self.e, kept), node.dtype)
        self.flush()
        place = self.operands.index(node, len(self.region.inputs))
        self.stored(f"%end{at}.y", node.dtype, stored, f"%d{place}", index, "align 1")

    def column_number(self, node: Node) -> int:
        """A number for the names of a column reduction."""
        return self.columns.index((node, 0))

    def loaded_accumulators(self, name: str, node: Node, index: str, note: str) -> list[Parts]:
        return [
            self.loaded(f"{name}.{k}", node.dtype, self.accumulator(node, k), index, note)
            for k in range(accumulators(node))
        ]

    def take_column(self, at: int, node: Node, index: str, note: str) -> None:
        """Let one element into the accumulators of its column; ``%c`` is the row's first column here."""
        name, start = f"%k{at}.{self.column_number(node)}", f"%c{at}"
        self.say(f"{name}.i = add i64 {index}, {start}")
        kept = self.loaded_accumulators(name, node, f"{name}.i", note)
        found = taken(self.e, node, kept, self.values[node.inputs[0]])
        for which, value in enumerate(found):
            self.store_accumulator(f"{name}.y{which}", node, which, value, f"{name}.i", note)

    def store_accumulator(
        self, name: str, node: Node, which: int, value: Parts, index: str, note: str
    ) -> None:
        stored = to_memory(self.e, value, node.dtype)
        self.flush()
        self.stored(name, node.dtype, stored, self.accumulator(node, which), index, note)

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
        return f"%{'f' if node in self.fixed else 'p'}{self.operands.index(node)}"

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
                name = f"%x{at}.{place[1:]}"
                self.values[node] = self.loaded(name, node.dtype, place, i, group)
        self.evaluate_all(phase.wide)
        stored = {
            node: to_memory(self.e, self.values[node], node.dtype)
            for node in places
            if node in inside
        }
        self.flush()
        for node in phase.columns:
            self.take_column(at, node, i, group)
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
        self.metadata += loop_metadata(phase.wide, 10 * at + 10, self.length >= LONG_ROW)

    def store_narrow(self, node: Node, base: str) -> None:
        """A narrow result to where its row lies, or to its only place."""
        at = self.operands.index(node, len(self.region.inputs))
        value = to_memory(self.e, self.values[node], node.dtype)
        self.flush()
        self.stored(f"%z{at}", node.dtype, value, f"{base}{at}", "", "align 1")

    # --- folds ------------------------------------------------------------------------------------

    def state(self, node: Node) -> str:
        return f"%state{list(self.phase_of).index(node)}"

    def begin(self, node: Node) -> None:
        self.say(f"call void @{self.fold(node).symbol}_begin(ptr {self.state(node)})")

    def runs(self, node: Node) -> tuple[Node, ...]:
        """What a reduction reads: its operand, or what that is made of."""
        return self.sources[node].runs if node in self.sources else node.inputs

    def take(self, node: Node, place: Callable[[Node], str], count: str) -> None:
        """Fold elements of what a reduction reads, from their ``place`` on."""
        read = "".join(f", ptr {place(run)}" for run in self.runs(node))
        number = self.sources[node].number if node in self.sources else None
        if number is not None:
            (value,) = self.values[number]
            read += f", {value.type} {value.name}"
        state = self.state(node)
        self.say(f"call void @{self.fold(node).symbol}_take(ptr {state}{read}, i64 {count})")

    def finish(self, node: Node) -> None:
        """The result in the reduction's dtype."""
        fold = self.fold(node)
        found = self.e.call(f"{fold.symbol}_finish", fold.result, Value("ptr", self.state(node)))
        self.values[node] = result_of(self.e, found, node.dtype)
        self.flush()

    def fold(self, node: Node) -> Fold:
        found = fold_for(node, self.sources[node].made if node in self.sources else "")
        assert found is not None
        return found
