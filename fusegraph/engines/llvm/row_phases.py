"""The phases of a region over rows: what one pass over a row can compute, and what it must keep.

In: a ``Region`` of wide values (``..., n``) and narrow ones (``..., 1``). Out: its phases, and which
values wait in memory for a later one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from fusegraph.engines.base import Region
from fusegraph.engines.llvm.columns import is_column
from fusegraph.engines.llvm.folds import fold_of
from fusegraph.engines.llvm.lanes import Fold
from fusegraph.graph import Node

CHUNK = 1024  # elements that pass through L1 at a time; whole blocks of a sum of doubles


@dataclass(slots=True)
class Phase:
    """One pass over a row."""

    wide: list[Node] = field(default_factory=list)
    folds: list[Node] = field(default_factory=list)
    columns: list[Node] = field(default_factory=list)  # reductions over the rows, not along them
    narrow: list[Node] = field(default_factory=list)  # known once the folds are finished


class Sources(NamedTuple):
    """What a fold reads: the runs of a row, what it makes of them (see ``MADE_OF``), and a number."""

    runs: tuple[Node, ...]
    made: str = ""
    number: Node | None = None


def fold_for(node: Node, made: str = "") -> Fold | None:
    """The fold of a reduction, or None; ``made``: its operand, as it is read."""
    return fold_of(node.op.name, node.inputs[0].dtype, node.dtype, made)


def is_carried(node: Node) -> bool:
    """Does a reduction run along all rows, not along each?"""
    if node.kind != "reduce" or is_column(node):
        return False
    return node.shape[:-1] != node.inputs[0].shape[:-1]


def row_length(nodes: Iterable[Node]) -> int:
    """Elements of the widest values: those of a row."""
    shapes = [v.shape for node in nodes for v in (node, *node.inputs)]
    return max(shape[-1] for shape in shapes if shape)


@lru_cache(maxsize=64)  # a body asks three times while it is planned
def phases_of(region: Region, without: frozenset[Node] = frozenset()) -> list[Phase]:
    """Every node in the last phase before it is read, reductions as soon as they can be.

    Nodes ``without`` which the region is computed are in none.
    """
    length = row_length(region.nodes)
    ready = dict.fromkeys(region.inputs, 0)
    for node in region.nodes:
        first = max((ready.get(i, 0) for i in node.inputs), default=0)
        ready[node] = first + 1 if node.kind == "reduce" else first
    passing = [n for n in region.nodes if n.kind == "reduce" or is_wide(n, length)]
    last = max(ready[n] - (n.kind == "reduce") for n in passing)
    for node in reversed(region.nodes):
        if node not in without and is_wide(node, length) and node not in region.outputs:
            readers = [n for n in region.nodes if node in n.inputs and n not in without]
            ready[node] = min(ready[n] - (n.kind == "reduce") for n in readers)
    found = [Phase() for _ in range(last + 1)]
    for node in region.nodes:
        if node in without:
            continue
        if is_column(node):
            found[ready[node] - 1].columns.append(node)
        elif node.kind == "reduce":
            found[ready[node] - 1].folds.append(node)
        elif is_wide(node, length):
            found[ready[node]].wide.append(node)
        elif ready[node]:
            found[ready[node] - 1].narrow.append(node)
    return found


@lru_cache(maxsize=64)
def squared_differences(region: Region) -> dict[Node, Sources]:
    """Sums of squared differences of two operands, or of one and a number, made as they are read.

    Stored to be squared, those from the mean cost layer norm of 4096 x 1024 float32 a tenth, of float64
    four tenths, whose rows leave L1.
    """
    length = row_length(region.nodes)
    found = {}
    for fold in region.nodes:
        if fold.kind != "reduce" or is_column(fold) or not is_summed_product(fold):
            continue
        product = fold.inputs[0]
        apart, *other = dict.fromkeys(product.inputs)
        if other or apart.op.name != "subtract" or apart not in region.nodes:
            continue
        readers = sum(product in node.inputs for node in region.nodes)
        stored = product in region.outputs or apart in region.outputs
        x, y = apart.inputs
        if stored or readers > 1 or any(i.dtype != apart.dtype for i in (x, y)):
            continue
        if all(i in region.inputs and is_wide(i, length) for i in (x, y)):
            found[fold] = Sources((x, y), "differences")
        elif x in region.inputs and is_wide(x, length) and not is_wide(y, length):
            found[fold] = Sources((x,), "deviations", y)
    return found


def made_as_read(region: Region) -> frozenset[Node]:
    """What :func:`squared_differences` are made of and nothing else reads."""
    squares = {fold.inputs[0] for fold in squared_differences(region)}
    others = {i for node in region.nodes if node not in squares for i in node.inputs}
    return frozenset(squares | {s.inputs[0] for s in squares if s.inputs[0] not in others})


def factors_of_sums(region: Region, phases: Sequence[Phase]) -> dict[Node, Sources]:
    """Sums of products whose factors stand in memory, with these: they are multiplied as they are read.

    Stored to be folded, squares cost layer norm of 4096 x 1024 float32 a tenth, RMS norm a fifth.
    """
    kept, phase_of = kept_values(region, phases), phase_numbers(phases)
    length = row_length(region.nodes)

    def stands(value: Node) -> bool:
        in_memory = value in region.inputs or value in region.outputs or kept.get(value, False)
        return in_memory and is_wide(value, length)

    found = {}
    for at, phase in enumerate(phases):
        for fold in phase.folds:
            product = fold.inputs[0]
            if not is_summed_product(fold) or product not in phase.wide:
                continue
            factors = tuple(dict.fromkeys(product.inputs))
            # A factor of before may be written over by the loop that computes another one.
            here = {phase_of.get(factor) == at for factor in factors}
            alone = sum(product in node.inputs for node in region.nodes) == 1
            if (
                alone
                and product not in region.outputs
                and len(here) == 1
                and all(map(stands, factors))
            ):
                found[fold] = Sources(factors, ("squares", "products")[len(factors) - 1])
    return found


def passed_through_memory(region: Region) -> tuple[list[Node], list[Node]]:
    """Folds of what is stored for one of them, and folds that load a second run beside the first.

    About: predictions need no more. What is stored in fact, ``kept_values`` says.
    """
    read_apart = squared_differences(region)
    stored: dict[Node, Node] = {}
    beside = []
    for fold in (n for n in region.nodes if n.kind == "reduce"):
        runs = read_apart[fold].runs if fold in read_apart else fold.inputs
        product = fold.inputs[0]
        if fold not in read_apart and product in region.nodes and is_summed_product(fold):
            runs = tuple(dict.fromkeys(product.inputs))
            others = {i for n in region.nodes if n is not product for i in n.inputs}
            made = [f for f in runs if f in region.nodes and f not in others]
            stored.update(dict.fromkeys(made[:1], fold))
        elif runs[0] in region.nodes:
            stored[runs[0]] = fold
        if len(runs) > 1:
            beside.append(fold)
    return list(stored.values()), beside


def is_summed_product(node: Node) -> bool:
    """Is it a sum of products of floats?"""
    product = node.inputs[0]
    return (
        node.op.name == "sum"
        and product.op.name in ("multiply", "square")
        and product.dtype.char in "fd"
        and all(factor.dtype == product.dtype for factor in product.inputs)
        and fold_for(node) is not None
    )


def is_wide(node: Node, length: int) -> bool:
    """Has it an element for each column?"""
    return bool(node.shape) and node.shape[-1] == length


def read_by(nodes: Sequence[Node]) -> list[Node]:
    """Values of elsewhere that nodes read, once each; constants are part of the code."""
    inside = set(nodes)
    read = dict.fromkeys(i for node in nodes for i in node.inputs if i not in inside)
    return [i for i in read if i.kind != "const"]


def may_write_over(region: Region, without: frozenset[Node]) -> bool:
    """May a result be written over an operand of its shape?

    It may where no operand's row is read after a result's row was begun. Phases are those of a region
    ``without`` some nodes.
    """
    length = row_length(region.nodes)
    phases = phases_of(region, without)
    found = phase_numbers(phases)
    written = [found[n] for n in region.outputs if n in found and is_wide(n, length)]
    read = [
        at
        for n, at in [*found.items(), *((n, at) for at, p in enumerate(phases) for n in p.columns)]
        for i in n.inputs
        if i in region.inputs and is_wide(i, length)
    ]
    folded = [at for n, at in found.items() if n.kind == "reduce"]
    return not written or min(written) >= max([*read, *folded], default=0)


def phase_numbers(phases: Sequence[Phase]) -> dict[Node, int]:
    """The phase of every value of a row, and of every reduction."""
    return {n: at for at, p in enumerate(phases) for n in (*p.wide, *p.folds)}


def kept_values(region: Region, phases: Sequence[Phase]) -> dict[Node, bool]:
    """Wide values in scratch memory: True where a later phase reads them."""
    phase_of = phase_numbers(phases)
    found: dict[Node, bool] = {}
    for at, phase in enumerate(phases):
        for node in (*phase.wide, *phase.folds, *phase.columns):
            for i in node.inputs:
                if i not in phase_of or i.kind == "reduce" or i in region.outputs:
                    continue
                if node in phase.folds or phase_of[i] < at:
                    found[i] = found.get(i, False) or phase_of[i] < at
    return found
