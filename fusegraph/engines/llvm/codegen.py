"""A region as IR: one function, one flat loop, every temporary in a register.

In: a ``Region``. Out: ``Code``, the IR and how its operands are to be placed. The function is
``void fg_kernel(ptr pointers, i64 count)``: one pointer an operand (inputs, then outputs), each to
``count`` dense elements, or to one element for a scalar. Whatever the layout of arrays, ``flat`` and
``strided`` give it dense operands, so the text depends on dtypes and on which operands are scalars, not
on sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fusegraph.engines.base import Region
from fusegraph.engines.llvm import lowering, vecmath
from fusegraph.engines.llvm.casts import cast
from fusegraph.engines.llvm.compiler import SIZES
from fusegraph.engines.llvm.halves import half_definitions
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.strided import ROW_STRIDE
from fusegraph.engines.llvm.values import (
    Parts,
    UnsupportedError,
    from_memory,
    literal,
    memory_type,
    register_type,
    to_memory,
)
from fusegraph.graph import SIZE, DType, Node
from fusegraph.ops import resolve

SYMBOL = "fg_kernel"
# Vectors in flight: a chain of operations waits for each result, and four chains wait side by side.
# LLVM's own choice is one for all but the smallest loops: GELU took 0.57 ns a float32 so and 0.49 with
# four (on 256-bit vectors 0.90 and 0.76), softplus 1.20 and 0.89.
INTERLEAVED = 4
LONGEST_INTERLEAVED = 100  # instructions-worth of nodes; longer bodies would take long to compile
FUNCTION_LENGTH = 25  # instructions of a function, about
LONGEST_BY_ROWS = 12  # instructions; longer bodies gain nothing, and some lose a quarter


@dataclass(frozen=True, slots=True)
class Code:
    """IR of a region.

    Attributes
    ----------
    body : str
        The kernel without the functions that it calls.
    functions : tuple of (str, str)
        Vector functions that it calls, by name and IR type.
    declarations : tuple of str
        LLVM's intrinsics that it calls.
    sizes : tuple of int
        Words that the code reads from memory: what follows from sizes, of which it knows none.
    """

    body: str
    functions: tuple[tuple[str, str], ...]
    declarations: tuple[str, ...]
    sizes: tuple[int, ...]

    def text(self, f16c: bool) -> str:
        """The whole module, for a processor with or without conversions of float16."""
        parts = [self.body]
        declared = dict.fromkeys(self.declarations)
        for function in self.functions:
            text, called = vecmath.definition(*function)
            parts.append(text)
            declared.update(dict.fromkeys(called))
        if "@fg_half_" in self.body:  # it converts float16
            # LLVM makes one conversion of double -> float -> half, and no processor has that.
            wide = any(vecmath.TABLE[name].wide for name, _ in self.functions)
            parts.append(half_definitions(f16c and not wide))
        if self.sizes:
            parts.append(f"@{SIZES} = global [{len(self.sizes)} x i64] zeroinitializer")
        return "\n".join((*parts, *declared))


def goes_by_rows(region: Region) -> bool:
    """Is its kernel over broadcast rows one loop nest, or called for each row?

    A long body needs the registers that the outer loop's pointers take: tanh(x) * w of 200 x 1000
    float32 took 72 us with calls and 93 as a nest, where x * w + b of short rows took 29 and 21.
    """
    moving = any(v.shape != region.shape and v.size != 1 for v in region.inputs)
    halves = any(node.dtype.char == "e" for node in region.nodes)  # converted before and after
    return moving and _length(region.nodes) * (3 if halves else 1) <= LONGEST_BY_ROWS


def _length(nodes: Iterable[Node]) -> int:
    """Instructions of a body, about."""
    return sum(FUNCTION_LENGTH if node.op.transcendental else 1 for node in nodes)


def generate(region: Region, fixed: Sequence[bool] = (), by_rows: bool = False) -> Code:
    """The IR of an element-wise region, over dense elements or over rows of them.

    ``fixed`` inputs are one element for all that a call passes over, or for a row, as those are that
    have no more.

    Raises
    ------
    UnsupportedError
        A node has no IR with NumPy's results.
    """
    return _Writer(region, fixed).write(by_rows)


@lru_cache(maxsize=4096)
def refusal(name: str, operands: tuple[DType, ...], result: DType) -> str | None:
    """Why there is no IR for a row over these dtypes, or None: it is written once to find out."""
    e = Emitter()
    values = tuple(literal(e, d.type(1), d) for d in operands)
    try:
        evaluate(e, name, operands, result, values)
    except UnsupportedError as error:
        return str(error)
    return None


def evaluate(
    e: Emitter, name: str, operands: tuple[DType, ...], result: DType, values: Sequence[Parts]
) -> Parts:
    """One operation: operands cast to the dtypes that NumPy computes in, then its rule."""
    if name == "astype":
        return cast(e, values[0], operands[0], result)
    loops, _ = resolve(name, operands)
    fitting = tuple(
        cast(e, value, start, loop)
        for value, start, loop in zip(values, operands, loops, strict=True)
    )
    return lowering.lower(e, name, loops, result, fitting)


def loop_metadata(nodes: Iterable[Node], first: int, long: bool) -> list[str]:
    """Metadata of a loop over elements: access group ``!first``, loop ``!(first + 1)``.

    Iterations may run in any order and side by side (each touches its own elements), but within one the
    order of loads and stores holds: this is what a vectorised loop needs and no more.

    Loops that are not ``long``, as those over a row may be, are left to LLVM: softmax of 2,000 rows of
    50 float32 took 120 us so, and 167 with four vectors in flight, which such a row never fills.
    """
    group, loop, accesses, progress, width = (f"!{first + at}" for at in range(5))
    facts = [accesses, progress]
    lines = [
        f"{group} = distinct !{{}}",
        f'{accesses} = !{{!"llvm.loop.parallel_accesses", {group}}}',
        f'{progress} = !{{!"llvm.loop.mustprogress"}}',
    ]
    if long and _length(nodes) <= LONGEST_INTERLEAVED:
        facts.append(width)
        lines.append(f'{width} = !{{!"llvm.loop.interleave.count", i32 {INTERLEAVED}}}')
    return [*lines, f"{loop} = distinct !{{{', '.join([loop, *facts])}}}"]


CHOOSING = frozenset({"where", "maximum", "minimum", "fmax", "fmin", *lowering.COMPARISONS})


def is_scalar(value: Node, region: Region) -> bool:
    """Is an operand one element for the whole region?"""
    return value.shape != region.shape and value.size == 1


class Evaluator:
    """Values of nodes, written as straight-line code into an ``Emitter``."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.e = Emitter()
        self.values: dict[Node, Parts] = {}
        self.functions: dict[tuple[str, str], None] = {}
        self.sizes: list[int] = []
        self.fenced: dict[tuple[Node, DType], Parts] = {}

    def evaluate_all(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self.values[node] = self.value_of(node)

    def value_of(self, node: Node) -> Parts:
        name, operands = node.op.name, tuple(i.dtype for i in node.inputs)
        values = tuple(self.values[i] for i in node.inputs)
        if name in vecmath.TABLE:
            self.functions[name, register_type(resolve(name, operands)[0][0])] = None
        if name in CHOOSING:
            loops, _ = resolve(name, operands)
            fenced = [self.fenced.get(pair) for pair in zip(node.inputs, loops, strict=True)]
            values = tuple(f or v for f, v in zip(fenced, values, strict=True))
            operands = tuple(t if f else o for f, t, o in zip(fenced, loops, operands, strict=True))
        return evaluate(self.e, name, operands, node.dtype, values)

    def literals(self) -> list[str]:
        """The constants that the region reads; lines to begin with, that load those of sizes."""
        return [*self.load_sizes(), *self.fence()]

    def fence(self) -> list[str]:
        """Floating-point constants among which nodes choose, hidden from LLVM.

        It takes ``max(max(x, c), c)`` for ``max(x, c)``, each a comparison and a choice, whichever way
        the two treat NaN (LLVM 22, instcombine). It knows so only of literals.
        """
        e = Emitter("fenced")
        for node in self.region.nodes:
            if node.op.name not in CHOOSING:
                continue
            loops, _ = resolve(node.op.name, tuple(i.dtype for i in node.inputs))
            for operand, loop in zip(node.inputs, loops, strict=True):
                if operand.kind == "const" and operand.params != SIZE and loop.kind in "fc":
                    with np.errstate(all="ignore"):
                        value = operand.data.astype(loop)[()]
                    parts = literal(e, value, loop)
                    self.fenced.setdefault((operand, loop), tuple(map(e.fence, parts)))
        self.e.declared.update(e.declared)
        return e.lines

    def load_sizes(self) -> list[str]:
        """Constants of the region as literals, and lines that load those which follow from sizes."""
        loads = []
        read = dict.fromkeys(i for node in self.region.nodes for i in node.inputs)
        for node in (i for i in read if i.kind == "const"):
            if node.params != SIZE:
                self.values[node] = literal(self.e, node.data[()], node.dtype)
                continue
            kind, name = register_type(node.dtype), f"%size{len(self.sizes)}"
            loads.append(f"  {name}.at = getelementptr i64, ptr @{SIZES}, i64 {len(self.sizes)}")
            loads.append(f"  {name} = load {kind}, ptr {name}.at")
            self.values[node] = (Value(kind, name),)
            self.sizes.append(int(node.data.view(np.int64)))
        return loads

    def code(self, body: str, declarations: Iterable[str]) -> Code:
        """What was written: ``body``, and what its nodes need beside it."""
        return Code(body, tuple(self.functions), tuple(declarations), tuple(self.sizes))


class _Writer(Evaluator):
    """Writes one kernel: pointers and scalars, then the loop."""

    def __init__(self, region: Region, fixed: Sequence[bool]) -> None:
        super().__init__(region)
        self.entry: list[str] = []
        self.loads: list[str] = []
        self.stores: list[str] = []
        fixed = fixed or [False] * len(region.inputs)
        self.scalars = tuple(
            one or is_scalar(v, region) for v, one in zip(region.inputs, fixed, strict=True)
        )

    def write(self, by_rows: bool) -> Code:
        region = self.region
        for at, (node, scalar) in enumerate(zip(region.inputs, self.scalars, strict=True)):
            self.values[node] = self.load(at, node.dtype, scalar)
        self.entry += self.literals()
        self.evaluate_all(region.nodes)
        for at, node in enumerate(region.outputs, len(region.inputs)):
            self.store(at, self.values[node], node.dtype)
        return self.code(self.over_rows() if by_rows else self.function(), self.e.declarations)

    def load(self, at: int, dtype: DType, scalar: bool) -> Parts:
        """An operand's value: before the loop where it is one element."""
        kind, parts = memory_type(dtype), 2 if dtype.kind == "c" else 1
        lines = self.entry if scalar else self.loads
        found = []
        for part in range(parts):
            name = f"%x{at}.{part}"
            if scalar:
                lines.append(f"  {name}.at = getelementptr {kind}, ptr %p{at}, i64 {part}")
                lines.append(f"  {name} = load {kind}, ptr {name}.at, align 1")
            else:
                lines.append(_element(name, kind, at, part, parts))
                lines.append(f"  {name} = load {kind}, ptr {name}.at, !llvm.access.group !1")
            found.append(Value(kind, name))
        return from_memory(self.e, tuple(found), dtype)

    def store(self, at: int, value: Parts, dtype: DType) -> None:
        kind = memory_type(dtype)
        stored = to_memory(self.e, value, dtype)
        for part, x in enumerate(stored):
            name = f"%y{at}.{part}"
            self.stores.append(_element(name, kind, at, part, len(stored)))
            self.stores.append(f"  store {kind} {x.name}, ptr {name}.at, !llvm.access.group !1")

    @property
    def places(self) -> range:
        """Those of its operands."""
        return range(len(self.region.inputs) + len(self.region.outputs))

    def function(self) -> str:
        """``void kernel(ptr pointers, i64 count)``: one loop."""
        lines = [
            f"define void @{SYMBOL}(ptr %pointers, i64 %count) {{",
            "entry:",
            *(line for at in self.places for line in _pointer(at, f"%p{at}")),
            *self.entry,
            "  %some = icmp sgt i64 %count, 0",
            "  br i1 %some, label %loop, label %done",
            *self.loop("entry", "done"),
            "done:",
            "  ret void",
            "}",
            *loop_metadata(self.region.nodes, 1, True),
        ]
        return "\n".join(lines)

    def over_rows(self) -> str:
        """``void kernel(ptr pointers, i64 count, i64 rows, ptr records, i64 words)``: rows of ``count``.

        The strided loop passes its operands' records: each has so many ``words``, and at ``ROW_STRIDE``
        the bytes from row to row.
        """
        lines = [
            f"define void @{SYMBOL}(ptr %pointers, i64 %count, i64 %rows, ptr %records, i64 %words) {{",
            "entry:",
            *(line for at in self.places for line in _moving_pointer(at)),
            "  br label %row",
            "row:",
            "  %r = phi i64 [0, %entry], [%r.next, %row.end]",
            *(
                f"  %p{at} = phi ptr [%p{at}.0, %entry], [%p{at}.next, %row.end]"
                for at in self.places
            ),
            *self.entry,
            "  br label %loop",
            *self.loop("row", "row.end"),
            "row.end:",
            *(f"  %p{at}.next = getelementptr i8, ptr %p{at}, i64 %step{at}" for at in self.places),
            "  %r.next = add nuw nsw i64 %r, 1",
            "  %r.more = icmp slt i64 %r.next, %rows",
            "  br i1 %r.more, label %row, label %done",
            "done:",
            "  ret void",
            "}",
            *loop_metadata(self.region.nodes, 1, True),
        ]
        return "\n".join(lines)

    def loop(self, before: str, after: str) -> list[str]:
        """The loop over elements, between two blocks."""
        return [
            "loop:",
            f"  %i = phi i64 [0, %{before}], [%i.next, %loop]",
            "  %i.real = shl nuw nsw i64 %i, 1",
            "  %i.imag = or disjoint i64 %i.real, 1",
            *self.loads,
            *self.e.lines,
            *self.stores,
            "  %i.next = add nuw nsw i64 %i, 1",
            "  %more = icmp slt i64 %i.next, %count",
            f"  br i1 %more, label %loop, label %{after}, !llvm.loop !2",
        ]


def _pointer(at: int, name: str) -> Iterable[str]:
    yield f"  %p{at}.at = getelementptr ptr, ptr %pointers, i64 {at}"
    yield f"  {name} = load ptr, ptr %p{at}.at"


def _moving_pointer(at: int) -> Iterable[str]:
    """The pointer of an operand in the first row, and its step."""
    yield from _pointer(at, f"%p{at}.0")
    yield f"  %record{at} = mul i64 %words, {at}"
    yield f"  %step{at}.word = add i64 %record{at}, {ROW_STRIDE}"
    yield f"  %step{at}.at = getelementptr i64, ptr %records, i64 %step{at}.word"
    yield f"  %step{at} = load i64, ptr %step{at}.at"


def _element(name: str, kind: str, at: int, part: int, parts: int) -> str:
    index = "%i" if parts == 1 else ("%i.real", "%i.imag")[part]
    return f"  {name}.at = getelementptr inbounds {kind}, ptr %p{at}, i64 {index}"
