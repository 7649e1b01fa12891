"""Replaying a graph over other inputs: the same operations, with shapes worked out anew.

In: nodes in topological order and replacements for some of them. Out: old node to new node. Used to
take the arrays out of a graph, and to run a traced function on other sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fusegraph.graph import Node, Shape, common_shape, make, reduced_axes
from fusegraph.views import view_shape

SIZE_FREE = {"elementwise", "reduce", "matmul", "input", "const"}
SIZE_FREE_VIEWS = {"permute", "expand", "squeeze"}


def replay(nodes: Sequence[Node], replacement: Mapping[Node, Node]) -> dict[Node, Node]:
    """Rebuild ``nodes`` with some replaced.

    Raises
    ------
    ValueError
        Shapes do not fit where sizes changed.
    """
    image: dict[Node, Node] = dict(replacement)
    for node in nodes:
        if node in image:
            continue
        inputs = tuple(image[i] for i in node.inputs)
        if inputs == node.inputs:
            image[node] = node
            continue
        same = all(a.shape == b.shape for a, b in zip(inputs, node.inputs, strict=True))
        shape = node.shape if same else infer_shape(node, inputs)
        image[node] = make(node.op, inputs, node.params, shape, node.dtype, node.source)
    return image


def is_size_free(nodes: Iterable[Node]) -> bool:
    """Can the graph be replayed for other sizes? Not where a parameter holds a size."""
    return all(
        node.op.name in SIZE_FREE_VIEWS if node.kind == "view" else node.kind in SIZE_FREE
        for node in nodes
    )


def infer_shape(node: Node, inputs: tuple[Node, ...]) -> Shape:
    """Shape of ``node`` over ``inputs``; only for nodes whose parameters hold no size."""
    shapes = [i.shape for i in inputs]
    if node.kind == "view":
        return view_shape(node.op.name, node.params, shapes[0])
    if node.kind == "reduce":
        axes, keep = reduced_axes(node), dict(node.params)["keepdims"]
        return tuple(
            1 if a in axes else n for a, n in enumerate(shapes[0]) if keep or a not in axes
        )
    if node.kind == "matmul":
        return matmul_shape(*shapes)
    return common_shape(*shapes)


def matmul_shape(a: Shape, b: Shape) -> Shape:
    """Shape of a matrix product.

    Raises
    ------
    ValueError
        The inner sizes differ or the batch axes do not broadcast.
    """
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        axis = -2 if len(b) > 1 else -1
        raise ValueError(
            f"Matrix multiplication shape mismatch: {a} @ {b}. "
            f"Inner dimensions must match: a.shape[-1]={a[-1]} != b.shape[{axis}]={inner}"
        )
    try:
        batch = common_shape(a[:-2], b[:-2])
    except ValueError:
        raise ValueError(
            f"matmul: batch axes of {a} and {b} do not broadcast; make them equal, or 1 by t[:, None]"
        ) from None
    return (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))
