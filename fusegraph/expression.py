"""The readable form of a region: an expression a person can read, in numexpr's spelling.

In: a region and the names of its inputs. Out: text. Shared values, and values whose text grows long,
get a name of their own (``a = ...; b = ...; result``), so the text stays linear in the region.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusegraph.engines.base import Region
from fusegraph.graph import Node

INLINE = 160  # characters; a longer operand is named
LONGEST = 2000  # characters of one expression; the rest is counted, not shown


def constant_text(node: Node) -> str:
    """A constant as Python would write it, with as many digits as its dtype holds."""
    value: Any = node.data[()]
    return str(value.item()) if node.dtype.kind in "biu" else str(value)


def _strip(text: str) -> str:
    """Without the outermost parentheses, where they match each other."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and at < len(text) - 1:
            return text
    return text[1:-1]


def expression(region: Region, names: Mapping[Node, str]) -> str:
    """Text of what a region computes."""
    uses: dict[Node, int] = {}
    for node in region.nodes:
        for operand in node.inputs:
            uses[operand] = uses.get(operand, 0) + 1
    text: dict[Node, str] = dict(names)
    lines: list[str] = []
    length = 0
    stored = set(region.outputs)
    for at, node in enumerate(region.nodes):
        operands = [constant_text(i) if i.kind == "const" else text[i] for i in node.inputs]
        shown = node_text(node, operands)
        if node in stored:
            line, text[node] = f"{names[node]} = {_strip(shown)}", names[node]
        elif uses.get(node, 0) > 1 or len(shown) > INLINE:
            name = f"s{len(lines)}"
            line, text[node] = f"{name} = {_strip(shown)}", name
        else:
            text[node] = shown
            continue
        lines.append(line)
        length += len(line)
        if length > LONGEST and at + 1 < len(region.nodes):
            lines.append(f"... ({len(region.nodes) - at - 1} more ops)")
            break
    return "; ".join(lines)


def node_text(node: Node, operands: list[str]) -> str:
    """One op over the texts of its operands."""
    if node.op.name == "astype":
        return f"{node.dtype}({_strip(operands[0])})"
    if node.op.text:
        return node.op.text.format(*(_bare(node, o) for o in operands))
    named = node.params if node.kind in ("reduce", "call") else ()
    keywords = [f"{k}={v}" for k, v in named if v is not None]
    return f"{node.op.name}({', '.join([*operands, *keywords])})"


def _bare(node: Node, operand: str) -> str:
    """Operands of a call need no parentheses of their own."""
    return _strip(operand) if node.op.text.startswith(node.op.name + "(") else operand
