"""The body of a panel: element-wise stages, reductions and products over rows that stay in cache.

In: a region, how it is cut, and the engine of its stages. Out: ``PanelBody``. Without an engine every
node is one call of NumPy; with one, the longest runs of nodes that the engine accepts are one call each.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import replace

from fusegraph.engines.base import Chain, Engine, Extent, Multiply, Region
from fusegraph.engines.blocks import Call, NumpyBody, Register, Stage
from fusegraph.engines.reductions import reorders, to_partial, whole_axes
from fusegraph.engines.temporaries import temporary_bytes
from fusegraph.graph import DType, Node, Shape, iteration_space, make, reduced_axes
from fusegraph.ops import OPS
from fusegraph.panels import Panels, blocked_shape, partial_dtype
from fusegraph.properties import lazy_property

SHARES = 4  # tasks of a thread at least, where rows are cut for them
ROWS_TOGETHER = 16  # that they are cut to, or multiples of that: products take some rows at a time


class PanelBody(NumpyBody):
    """A body over panels: element-wise steps, reductions, products from the left.

    The values of a region are aligned by their axes. Inside a panel they have the axis order of
    ``panels.layout``; where that is not their order in memory, inputs and results are copied once.
    """

    def __init__(
        self,
        region: Region,
        panels: Panels,
        engine: Engine | None = None,
        threads: int = 1,
        exact: bool = False,
    ) -> None:
        self.panels = panels
        self.engine = engine
        self.exact = exact  # leave to NumPy what the engine would round differently
        self.compiled: list[Region] = []  # what the engine evaluates
        self.threads = threads  # of an engine that shares a panel among threads of its own
        self.partial = set(panels.partial)
        self.products: dict[Node, Multiply] = {}  # that the engine evaluates
        self.find_products(region)
        # Inputs that are packed once for all panels, by place, and what packs them.
        self.packs = {
            region.inputs.index(node.inputs[1]): product
            for node, product in self.products.items()
            if product.packed
        }
        self.uses_blas = any(n.kind == "matmul" and n not in self.products for n in region.nodes)
        super().__init__(_packed(region) if panels.narrow else _products_last(region))

    def find_products(self, region: Region) -> None:
        """Take over the products by a right side, where the engine has all of them."""
        products = [n for n in region.nodes if n.kind == "matmul"]
        for right in dict.fromkeys(n.inputs[1] for n in products):
            readers = [n for n in products if n.inputs[1] is right]
            one = math.prod(right.shape[:-2]) == 1
            found = [self.engine.product(n, one) if self.engine else None for n in readers]
            if all(product is not None for product in found):
                self.products.update(zip(readers, found, strict=True))  # type: ignore[arg-type]

    @property
    def compile_seconds(self) -> float:
        """Predicted seconds until everything is compiled."""
        if self.engine is None:
            return 0.0
        stages = sum(self.engine.compile_seconds(part) for part in self.compiled)
        return stages + max((p.compile_seconds for p in self.products.values()), default=0.0)

    @property
    def packed_bytes(self) -> int:
        """Bytes of right sides that are packed once."""
        return sum(product.packed_bytes for product in self.packs.values())

    @property
    def whole_stage(self) -> Stage | None:
        """The stage that is all there is to a panel and shares panels among threads, or None."""
        if len(self.steps) != 1:
            return None
        stage = self.steps[0][0]
        return stage if isinstance(stage, Stage) and stage.body.shares_parts else None

    @property
    def whole_product(self) -> Multiply | None:
        """The product that is all there is to a panel and has one right side, or None."""
        return next(iter(self.packs.values()), None) if len(self.nodes) == 1 else None

    @property
    def chained(self) -> bool:
        """Are all its calls the engine's, which one job may run in order?"""
        products = list(self.products.values())
        return not self.panels.narrow and all(
            call.body.shares_parts if isinstance(call, Stage) else call in products
            for call, *_ in self.steps
        )

    @property
    def splits(self) -> bool:
        """Are there rows that threads may cut finer? Not where a panel packs, or is a partial result."""
        return not self.panels.partial and len(self.packs) == len(self.products)

    @property
    def most_threads(self) -> int:
        """How many threads at most have something to do, where its calls are one job."""
        if not self.splits:
            return self.panels.count
        return max(1, math.prod(self.panels.rows) // ROWS_TOGETHER)

    def shared_block(self, threads: int) -> Shape:
        """The extent of a panel where threads share the job that it is a task of."""
        if threads == 1 or not self.splits:
            return self.panels.block
        rows = self.panels.rows
        few = -(-math.prod(rows) // (threads * SHARES * ROWS_TOGETHER)) * ROWS_TOGETHER
        return blocked_shape(rows, min(self.panels.height, few))

    @lazy_property
    def chain(self) -> Chain | None:
        """That job, or None where there is none.

        Places in it are among operands, results and scratch: there are no constants between these.
        """
        available = all(product.available for product in self.products.values())
        if self.engine is None or not self.chained or not available:
            return None
        gap, calls = len(self.constants), []
        for call, _, a, b, _, out in self.steps:
            body, places = (
                (call.body, call.places) if isinstance(call, Stage) else (call, (a, b, out))
            )
            calls.append((body, [at if at < self.first_output else at - gap for at in places]))
        return self.engine.chain(calls)

    @property
    def engine_stages(self) -> list[Stage]:
        """The calls that are stages of the engine."""
        return [step[0] for step in self.steps if isinstance(step[0], Stage)]

    @property
    def panel_bytes(self) -> int:
        """Bytes of temporaries of one panel, and of what reductions to partial results hold."""
        scratch = self.scratch_shapes(self.panels.block)
        partial = sum(
            self.panel_elements(n.inputs[0]) * partial_dtype(n).itemsize
            for n in self.panels.partial
        )
        products = (p.scratch_bytes(self.panels.height) for p in self.products.values())
        stages = (stage.body.call_bytes for stage in self.engine_stages)
        own = (temporary_bytes(n, self.panel_elements(n), False) for n in self.nodes)
        calls = max([*products, *stages, *own])
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in scratch) + partial + calls

    def panel_elements(self, value: Node) -> int:
        """Elements of a value that has all rows, in one panel."""
        return self.panels.height * math.prod(value.shape[len(self.panels.rows) :])

    def register_of(self, node: Node) -> Register:
        """The kind of register that can hold ``node``: its extent along the axes that are cut."""
        dtype = partial_dtype(node) if node in self.partial else node.dtype
        missing = len(self.panels.layout) - len(node.shape)
        shape = [
            None if n == self.rows(a) and n != 1 else n
            for a, n in enumerate((1,) * missing + node.shape)
        ]
        return Register(dtype, tuple(shape[a] for a in self.panels.layout))

    def rows(self, axis: int) -> int | None:
        """Size of an axis that is cut."""
        return self.panels.rows[axis] if axis < len(self.panels.rows) else None

    def scratch_shapes(self, block: Shape) -> tuple[tuple[Shape, DType], ...]:
        """Shape and dtype of each scratch register for a panel of extent ``block``."""
        return tuple((self.shape_of(r, block), r.dtype) for r in self.scratch)

    def shape_of(self, register: Register, block: Shape) -> Shape:
        """The shape of a register in a panel of extent ``block``."""
        assert register.shape is not None
        return tuple(
            block[axis] if n is None else n
            for axis, n in zip(self.panels.layout, register.shape, strict=True)
        )

    def calls(self, region: Region) -> list[Call]:
        """Stages of the engine, and the calls of NumPy between them."""
        if self.engine is None:
            return [self.call_of(node) for node in region.nodes]
        found: list[Call] = []
        for stage in self.stages(region):
            parts = self.parts(stage, region) if self.accepts(stage[0]) else ()
            if parts and all(self.engine.limit(part.extent) is None for part in parts):
                found += [self.stage_call(part) for part in parts]
            else:
                found += [self.call_of(node) for node in stage]
        return found

    def stages(self, region: Region) -> list[list[Node]]:
        """Nodes in order, the longest runs that the engine evaluates together."""
        assert self.engine is not None
        found: list[list[Node]] = []
        run: Run | None = None
        for node in region.nodes:
            accepted = self.accepts(node)
            if accepted and run is not None and run.takes(node):
                found[-1].append(node)
            else:
                found.append([node])
                # A narrow axis lies first: the last one of the arrays is then an axis of rows.
                rows = self.engine.rows and not self.panels.narrow
                run = Run(node, rows) if accepted else None
        return found

    def accepts(self, node: Node) -> bool:
        """Does the engine evaluate ``node`` inside a panel?"""
        return (
            self.engine is not None
            and node.params != PACK
            and (node not in self.partial or self.engine.rows)
            and not (self.exact and (node.op.ulp or reorders(node)))
            and self.engine.refuses_in_panel(node, self.panels.layout) is None
        )

    def parts(self, stage: list[Node], region: Region) -> list[Region]:
        """A run of nodes as one region, or as one a stored value where the engine has one output."""
        assert self.engine is not None
        inside = set(stage)
        later = {i for node in region.nodes if node not in inside for i in node.inputs}
        stored = [n for n in stage if n in later or n in region.outputs]
        if self.engine.limit(Extent(1, 0, 2, 2)) is None:
            return [Region.of(stage, stored, region.shape)]
        return [Region.of(tree, tree[-1:], region.shape) for tree in _trees(stage, set(stored))]

    def stage_call(self, part: Region) -> Call:
        """A region that the engine evaluates on a panel."""
        assert self.engine is not None
        self.compiled.append(part)
        body = self.engine.compile(_with_partials(part, self.partial))
        stage = Stage(body, len(part.inputs), self.threads)
        return Call(part.inputs, part.outputs, stage, body.in_place)

    def call_of(self, node: Node) -> Call:
        """NumPy's reduction or product, its ufunc, or a partial reduction."""
        if node in self.products:
            return Call(node.inputs, (node,), self.products[node])
        if node.kind != "reduce":
            return super().call_of(node)
        place = self.panels.layout.index
        axes = tuple(place(axis) for axis in reduced_axes(node))
        reduction = to_partial if node in self.partial else whole_axes
        return Call(node.inputs, (node,), reduction(node, axes))


class Run:
    """A run of nodes that one stage may evaluate: of one shape, or of rows and one element a row."""

    def __init__(self, first: Node, rows: bool) -> None:
        self.rows = rows
        self.lead, self.width = _row_of(first)

    def takes(self, node: Node) -> bool:
        """Does the run go on with ``node``?"""
        lead, width = _row_of(node)
        if lead != self.lead:
            return False
        if width != self.width:
            widens = self.width == 1 or (width == 1 and node.kind != "reduce")
            if not (self.rows and widens and max(width, self.width) > 1 and min(width, self.width)):
                return False
        self.width = max(width, self.width)
        return True


def _products_last(region: Region) -> Region:
    """The same, where no product runs before what does not need it: stages become longer."""
    if all(node.kind != "matmul" for node in region.nodes):
        return region
    place = {node: at for at, node in enumerate(region.nodes)}
    readers: dict[Node, list[Node]] = {}
    missing = {}
    for node in region.nodes:
        operands = {i for i in node.inputs if i in place}
        missing[node] = len(operands)
        for operand in operands:
            readers.setdefault(operand, []).append(node)
    # What is ready, products behind all others, and otherwise in order.
    ready = [(n.kind == "matmul", place[n]) for n in region.nodes if not missing[n]]
    heapq.heapify(ready)
    nodes = []
    while ready:
        node = region.nodes[heapq.heappop(ready)[1]]
        nodes.append(node)
        for reader in readers.get(node, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (reader.kind == "matmul", place[reader]))
    return replace(region, nodes=tuple(nodes))


def _row_of(node: Node) -> tuple[Shape, int]:
    """The axes before the last one of what a node passes through, and the last one's size."""
    shape = iteration_space(node)
    return shape[:-1], shape[-1] if shape else 1


def _with_partials(part: Region, partial: set[Node]) -> Region:
    """``part`` whose partial sums have the dtype that they are kept in."""
    kept = {
        n: make(n.op, n.inputs, _summed_in(n), n.shape, partial_dtype(n))
        for n in part.nodes
        if n in partial and partial_dtype(n) != n.dtype
    }
    nodes, outputs = (tuple(kept.get(n, n) for n in group) for group in (part.nodes, part.outputs))
    return Region(nodes, part.inputs, outputs, part.shape)


def _summed_in(node: Node) -> tuple[tuple[str, object], ...]:
    return (*(p for p in node.params if p[0] != "dtype"), ("dtype", partial_dtype(node)))


def _trees(stage: list[Node], stored: set[Node]) -> list[list[Node]]:
    """The nodes behind each value that is stored or read twice, none of them in two trees."""
    uses: dict[Node, int] = {}
    for node in stage:
        for operand in dict.fromkeys(node.inputs):
            uses[operand] = uses.get(operand, 0) + 1
    root: dict[Node, Node] = {}
    for node in reversed(stage):
        home = root.setdefault(node, node)
        for operand in node.inputs:
            if operand not in stored and uses[operand] == 1:
                root.setdefault(operand, home)
    trees: dict[Node, list[Node]] = {}
    for node in stage:
        trees.setdefault(root[node], []).append(node)
    return sorted(trees.values(), key=lambda tree: stage.index(tree[-1]))


def _packed(region: Region) -> Region:
    """``region`` with copies of inputs that have a last axis, and of such results, in panel order."""
    image: dict[Node, Node] = {}
    nodes: list[Node] = []

    def copied(node: Node) -> Node:
        nodes.append(make(OPS["astype"], (node,), PACK, node.shape, node.dtype))
        return nodes[-1]

    for value in region.inputs:
        if value.shape and value.shape[-1] > 1:
            image[value] = copied(value)
    for node in region.nodes:
        inputs = tuple(image.get(i, i) for i in node.inputs)
        image[node] = make(node.op, inputs, node.params, node.shape, node.dtype)
        nodes.append(image[node])
    stored = [copied(image[n]) if n.shape[-1] > 1 else image[n] for n in region.outputs]
    return Region(tuple(nodes), region.inputs, tuple(stored), region.shape)


PACK = ("pack",)  # parameter of the copies between the order in memory and that of a panel
