"""A region over short rows as IR: many rows pass together, so that every loop is long.

In: a ``Region`` of wide values (``..., n``), n at most 32, and narrow ones (``..., 1``). Out:
``RowCode`` for a function like that of ``row_code``, over dense rows. It takes a tile of 64 rows through
all phases: what is element-wise is one loop over the elements of the tile, a reduction is one vector a
row, and a narrow value that wide ones read is spread over the elements of its row in memory first.

The text depends on dtypes, on which values are narrow, and on the power of two that holds a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fusegraph.engines.base import Region
from fusegraph.engines.llvm import row_phases
from fusegraph.engines.llvm.codegen import loop_metadata
from fusegraph.engines.llvm.columns import is_column
from fusegraph.engines.llvm.folds import recipe_of
from fusegraph.engines.llvm.ir import Value
from fusegraph.engines.llvm.lanes import VectorFold, first_lanes, vector_fold
from fusegraph.engines.llvm.row_phases import (
    Phase,
    is_carried,
    is_wide,
    kept_values,
    phases_of,
    read_by,
    row_length,
)
from fusegraph.engines.llvm.row_text import Kept, RowCode, RowText, is_fixed, result_of
from fusegraph.engines.llvm.values import memory_type, to_memory
from fusegraph.graph import Node

LONGEST = 32  # elements of a row: one vector of what most processors have in four registers
TILE = 64  # rows that pass together: a few values of each stay in L1


def fits(nodes: Sequence[Node]) -> bool:
    """Is there code for a region of these nodes as short rows?"""
    length = row_length(nodes)
    if not 1 < length <= LONGEST:
        return False
    lead = max((n.shape for n in nodes), key=len)[:-1]
    values = dict.fromkeys(v for node in nodes for v in (node, *node.inputs))
    wide = [v for v in values if is_wide(v, length) and v.shape[:-1] != lead]
    return all(is_fixed(v, lead) and v not in nodes for v in wide) and all(map(_fits, nodes))


def _fits(node: Node) -> bool:
    if any(v.dtype.kind == "c" or v.dtype.itemsize == 2 for v in (node, *node.inputs)):
        return False
    if node.kind != "reduce":
        return True
    recipe = recipe_of(node.op.name, node.inputs[0].dtype, node.dtype)
    # Vectors of small elements have no masked load everywhere.
    return (
        bool(recipe)
        and node.inputs[0].dtype.itemsize >= 4
        and not (is_carried(node) or is_column(node))
    )


def lanes_for(length: int) -> int:
    """The vector that holds a row."""
    return max(4, 1 << (length - 1).bit_length())


def generate(region: Region) -> RowCode:
    """The IR of a region over short rows."""
    return _ShortWriter(region).write()


def may_write_over(region: Region) -> bool:
    """May a result be written over an operand of its shape?

    Of narrow operands no phase keeps a copy: a result of an early one would be read by a later one.
    """
    length = row_length(region.nodes)
    wide = all(is_wide(value, length) for value in region.inputs)
    return wide and row_phases.may_write_over(region, frozenset())


def kept_bytes(region: Region) -> int:
    """Bytes that a thread keeps of a tile, at most."""
    return _ShortWriter(region).kept_bytes


class _ShortWriter(RowText):
    """Writes the function. What stands in memory, and where: ``tiles``, a temporary each."""

    def __init__(self, region: Region) -> None:
        super().__init__(region, phases_of(region))
        self.lanes = lanes_for(self.length)
        self.loops = 0
        self.folds: dict[str, VectorFold] = {}
        placed = {n for p in self.phases for n in (*p.wide, *p.folds, *p.narrow)}
        self.first = [n for n in region.nodes if n not in placed]
        lead = max((n.shape for n in region.nodes), key=len)[:-1]
        self.fixed = [v for v in region.inputs if self.wide(v) and is_fixed(v, lead)]
        spread = [n for n in read_by([*filter(self.wide, region.nodes)]) if not self.wide(n)]
        narrow = [n for n in region.nodes if not self.wide(n)]
        self.tiles: dict[tuple[Node, bool], Kept] = {
            **{(n, False): Kept(n.dtype.itemsize, TILE) for n in kept_values(region, self.phases)},
            **{(n, False): Kept(n.dtype.itemsize, 0, TILE) for n in narrow},
            **{(n, True): Kept(n.dtype.itemsize, TILE, self.lanes) for n in (*spread, *self.fixed)},
        }
        self.temporaries = [*self.tiles.values()]

    def write(self) -> RowCode:
        self.entry()
        self.over_rows("%tiles", self.tile)
        self.say("ret void")
        for fold in self.folds.values():
            self.declared.update(dict.fromkeys(fold.declarations))
        folds = [fold.text for fold in self.folds.values()]
        fixed = tuple(node in self.fixed for node in self.operands)
        return self.row_code(folds, fixed=fixed)

    def entry(self) -> None:
        self.open("entry")
        self.arguments()
        self.lines += first_lanes("%which", "%n", self.lanes)
        self.say(f"%more.rows = add i64 %rows, {TILE - 1}", f"%tiles = sdiv i64 %more.rows, {TILE}")
        self.lines += self.literals()
        self.flush()
        self.repeat(self.fixed)

    def tile(self) -> None:
        """A tile of rows: where it lies, then the phases."""
        self.say(
            f"%r0 = mul i64 %row, {TILE}",
            "%left = sub i64 %rows, %r0",
            f"%short = icmp slt i64 %left, {TILE}",
            f"%m = select i1 %short, i64 %left, i64 {TILE}",
            "%elements = mul i64 %m, %n",
        )
        self.row_begins("%r0")
        narrow = [n for n in self.region.inputs if not self.wide(n)]
        self.spread([n for n in narrow if (n, True) in self.tiles])
        self.narrow(self.first)
        for phase in self.phases:
            self.fold([n for n in phase.folds if n.inputs[0] not in phase.wide])
            self.elements(phase)
            self.fold([n for n in phase.folds if n.inputs[0] in phase.wide])
            self.spread([n for n in phase.folds if (n, True) in self.tiles])
            self.narrow(phase.narrow)

    # --- loops ------------------------------------------------------------------------------------

    def loop(self, count: str, nodes: Iterable[Node], body: Callable[[str, str], None]) -> None:
        """A loop over rows or elements that stand alone: ``body`` of the index and a note for access.

        That over all elements of a tile is long enough for four vectors in flight: softmax of 400,000 x
        10 float32 took 4.0 ms without them, and takes 3.5.
        """
        self.loops += 1
        name, group = f"l{self.loops}", 10 * self.loops
        note, metadata = f"!llvm.access.group !{group}", f", !llvm.loop !{group + 1}"
        self.block_loop(name, count, lambda index: body(index, note), metadata)
        self.metadata += loop_metadata(nodes, group, count == "%elements")

    def fold(self, nodes: Sequence[Node]) -> None:
        """Reductions of values in memory, a vector a row."""
        if not nodes:
            return

        def body(index: str, note: str) -> None:
            for node in nodes:
                self.fold_row(node, index)

        self.loop("%m", (), body)

    def fold_row(self, node: Node, index: str) -> None:
        operand, result = node.inputs[0], node.dtype
        recipe = recipe_of(node.op.name, operand.dtype, result)
        assert recipe is not None
        fold = vector_fold(recipe, self.lanes)
        self.folds[fold.symbol] = fold
        name = f"{index}.f{self.place(node)[2:]}"
        self.say(
            f"{name}.at = mul i64 {index}, %n",
            f"{name}.p = getelementptr {memory_type(operand.dtype)}, ptr {self.place(operand)}, "
            f"i64 {name}.at",
            f"{name}.x = call {fold.result} @{fold.symbol}(ptr {name}.p, <{self.lanes} x i1> %which)",
        )
        self.values[node] = result_of(self.e, Value(fold.result, f"{name}.x"), result)
        self.store_narrow(node, index, "align 1")
        self.values.pop(node)

    def narrow(self, nodes: Sequence[Node]) -> None:
        """Values that have one element a row, then those of them that wide ones read."""
        if not nodes:
            return

        def body(index: str, note: str) -> None:
            loaded = read_by(nodes)
            for node in loaded:
                self.load_narrow(node, index, note)
            self.evaluate_all(nodes)
            self.flush()
            for node in nodes:
                self.store_narrow(node, index, note)
            for node in (*loaded, *nodes):
                self.values.pop(node)

        self.loop("%m", nodes, body)
        self.spread([n for n in nodes if (n, True) in self.tiles])

    def spread(self, nodes: Sequence[Node]) -> None:
        """Fill the rows of a tile with a value each; a row's vector may reach into the next one's."""
        if not nodes:
            return

        def body(index: str, note: str) -> None:
            for node in nodes:
                kind, place = memory_type(node.dtype), f"%t{list(self.tiles).index((node, True))}"
                name, many = f"{index}.s{place[2:]}", f"<{self.lanes} x {memory_type(node.dtype)}>"
                zeros = ", ".join(["i32 0"] * self.lanes)
                self.narrow_pointer(f"{name}.from", node, index)
                self.say(
                    f"{name}.v = load {kind}, ptr {name}.from, align 1",
                    f"{name}.0 = insertelement {many} poison, {kind} {name}.v, i32 0",
                    f"{name}.w = shufflevector {many} {name}.0, {many} poison, "
                    f"<{self.lanes} x i32> <{zeros}>",
                    f"{name}.at = mul i64 {index}, %n",
                    f"{name}.to = getelementptr {kind}, ptr {place}, i64 {name}.at",
                    f"store {many} {name}.w, ptr {name}.to, align 1",
                )

        self.loop("%m", (), body)

    def repeat(self, nodes: Sequence[Node]) -> None:
        """Fill tiles with a row that is the same for all, once."""
        if not nodes:
            return

        def body(index: str, note: str) -> None:
            for node in nodes:
                at, place = self.operands.index(node), self.place(node, True)
                name = f"{index}.r{at}"
                self.say(
                    f"{name}.at = mul i64 {index}, %n",
                    f"{name} = getelementptr {memory_type(node.dtype)}, ptr {place}, i64 {name}.at",
                    f"{name}.bytes = mul i64 %n, {node.dtype.itemsize}",
                    f"call void @llvm.memcpy.p0.p0.i64(ptr {name}, ptr %d{at}, i64 {name}.bytes, "
                    "i1 false)",
                )

        self.declared["declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"] = None
        self.loop(str(TILE), (), body)

    def elements(self, phase: Phase) -> None:
        """The wide values of a phase, element by element."""
        if not phase.wide:
            return

        def body(index: str, note: str) -> None:
            loaded = read_by(phase.wide)
            for node in loaded:
                place = self.place(node, node in self.fixed or not self.wide(node))
                name = f"{index}.x{place[1:]}"
                self.values[node] = self.loaded(name, node.dtype, place, index, note)
            self.evaluate_all(phase.wide)
            stored = [n for n in phase.wide if (n, False) in self.tiles or n in self.region.outputs]
            found = {n: to_memory(self.e, self.values[n], n.dtype) for n in stored}
            self.flush()
            for node, parts in found.items():
                for place in self.targets(node):
                    self.stored(f"{index}.y{place[1:]}", node.dtype, parts, place, index, note)
            for node in (*loaded, *phase.wide):
                self.values.pop(node)

        self.loop("%elements", phase.wide, body)

    # --- memory -----------------------------------------------------------------------------------

    def place(self, node: Node, spread: bool = False) -> str:
        """Where a value of the tile begins."""
        if (node, spread) in self.tiles:
            return f"%t{list(self.tiles).index((node, spread))}"
        return f"%p{self.operands.index(node)}"

    def targets(self, node: Node) -> list[str]:
        """Where a wide value is stored."""
        found = [self.place(node)] if (node, False) in self.tiles else []
        if node in self.region.outputs:
            found.append(f"%p{self.operands.index(node, len(self.region.inputs))}")
        return found

    def narrow_pointer(self, name: str, node: Node, index: str) -> None:
        """``name``: where the value of a row stands, in a tile or among the operands."""
        if (node, False) in self.tiles:
            kind = memory_type(node.dtype)
            self.say(f"{name} = getelementptr {kind}, ptr {self.place(node)}, i64 {index}")
        else:
            self.row_pointer(name, self.operands.index(node), index)

    def row_pointer(self, name: str, at: int, index: str) -> None:
        """``name``: where the only element of a row of operand ``at`` stands."""
        self.say(
            f"{name}.o = mul i64 {index}, %sr{at}",
            f"{name} = getelementptr i8, ptr %p{at}, i64 {name}.o",
        )

    def load_narrow(self, node: Node, index: str, note: str) -> None:
        name = f"{index}.n{self.place(node)[1:]}"
        self.narrow_pointer(f"{name}.p", node, index)
        self.values[node] = self.loaded(name, node.dtype, f"{name}.p", "", note)
        self.flush()

    def store_narrow(self, node: Node, index: str, note: str) -> None:
        """A value of a row into its tile, and to the results."""
        parts = to_memory(self.e, self.values[node], node.dtype)
        self.flush()
        self.stored(
            f"{index}.z{self.place(node)[1:]}", node.dtype, parts, self.place(node), index, note
        )
        if node in self.region.outputs:
            at = self.operands.index(node, len(self.region.inputs))
            self.row_pointer(f"{index}.z{at}.p", at, index)
            self.stored(f"{index}.z{at}", node.dtype, parts, f"{index}.z{at}.p", "", note)
