"""Python's syntax on tensors: operators from the op table, their in-place forms, items.

In: a tensor and operands. Out: tensors. In-place syntax points the handle at a new node and leaves the
array that it was made of alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusegraph.gathering import get_item, names_places, with_places
from fusegraph.graph import DType, make
from fusegraph.indexing import index_params, is_mask
from fusegraph.operations import apply, cast, elementwise, power
from fusegraph.ops import OPS, Op
from fusegraph.tensor import Tensor, as_node, holds_tensor, wrap
from fusegraph.views import apply_view, broadcasts

_OPERAND_TYPES = (  # the most frequent first
    Tensor, float, int, np.ndarray, np.number, np.bool_, bool, complex, list, tuple,
)  # fmt: skip


def _operand(op: Op, value: Any) -> Any:
    """An operand of an operator: what is no number and no array is an error, for ``==`` too."""
    if isinstance(value, _OPERAND_TYPES):
        return value
    raise TypeError(
        f"{op.name}: an operand is of type {type(value).__name__}; give a number, an array, a list "
        "or a Tensor"
    )


def _unary(op: Op) -> Any:
    return lambda self: elementwise(op, self)


def _stands_back(name: str, other: Any) -> bool:
    """Is the other operand to decide, by its method ``__r<name>__``, as NumPy lets it?

    A class without ufuncs decides always; one that has but a priority, as sparse matrices have, where it
    has such a method: their comparisons have none.
    """
    if isinstance(other, _OPERAND_TYPES):
        return False
    kind, missing = type(other), object()
    protocol = getattr(kind, "__array_ufunc__", missing)
    if protocol is None:
        return True
    reflected = hasattr(kind, "__array_priority__") and hasattr(kind, f"__r{name}__")
    return protocol is missing and reflected


def _binary(op: Op) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        if _stands_back(op.method, other):
            return NotImplemented
        return apply(op, self, _operand(op, other))

    return method


def _reflected(op: Op) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        return apply(op, _operand(op, other), self)

    return method


def _in_place(op: Op) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        become(self, apply(op, self, _operand(op, other)))
        return self

    return method


def _pow(self: Tensor, other: Any) -> Any:
    if _stands_back("pow", other):
        return NotImplemented
    return power(self, _operand(OPS["pow"], other))


def _ipow(self: Tensor, other: Any) -> Tensor:
    become(self, power(self, _operand(OPS["pow"], other)))
    return self


def _divmod(self: Tensor, other: Any) -> Any:
    if _stands_back("divmod", other):
        return NotImplemented
    return self // other, self % other


def _rdivmod(self: Tensor, other: Any) -> tuple[Tensor, Tensor]:
    return other // self, other % self


# --- in place -------------------------------------------------------------------------------------


def become(t: Tensor, result: Tensor) -> None:
    """In-place syntax: the handle shows ``result``, in the tensor's own shape and dtype."""
    # Equal now, they are for all sizes that a trace serves: those of 1 are part of its signature.
    if result.node.shape != t.node.shape:
        raise ValueError(
            f"in-place: the result has shape {list(result.shape)}, the tensor {list(t.shape)}; "
            "write t = t op value"
        )
    if not np.can_cast(result.dtype, t.dtype, "same_kind"):
        raise TypeError(
            f"in-place: {result.dtype} does not go into {t.dtype}; write t = t op value"
        )
    t.node = cast(result, t.dtype).node


def set_item(t: Tensor, key: Any, value: Any) -> None:
    """``t[key] = value``: the handle shows a node with other values there."""
    part = _fitting(t, value)
    if is_mask(key, t.shape) and (part.node.size == 1 or part.node.shape == t.node.shape):
        t.node = _masked(t, key, part).node
        return
    target = t[key]
    places = names_places(key)
    is_array = target.ndim or places or _has_ellipsis(key)  # else it is one element: a number
    while is_array and part.ndim > target.ndim and part.shape[0] == 1:
        part = part[0]  # NumPy drops leading axes of one element
    if not broadcasts(part.shape, target.shape):
        raise ValueError(
            f"setitem: values of shape {list(part.shape)} do not broadcast to the selection "
            f"{list(target.shape)}; give one value, or values of that shape"
        )
    if places:
        t.node = with_places(t, key, part).node
        return
    expanded, kept = index_params(key, t.shape)
    if expanded:
        part = wrap(apply_view("squeeze", _trailing(expanded, part, target), part.node))
    inputs = (t.node, part.node)
    t.node = make(OPS["assign"], inputs, (("key", kept),), t.shape, t.dtype)


def _fitting(t: Tensor, value: Any) -> Tensor:
    """What is to be assigned, in the tensor's dtype, as NumPy casts it."""
    is_list = isinstance(value, (list, tuple)) and not holds_tensor(value)
    if is_list or isinstance(value, (int, float, np.generic)):
        value = _written(value, t.dtype)
    node = as_node(value)
    if node.dtype.kind == "c" and t.dtype.kind != "c":
        raise TypeError(
            f"setitem: {node.dtype} does not go into {t.dtype}; assign its real part, "
            "fg.real(values)"
        )
    return cast(wrap(node), t.dtype)


def _written(value: Any, dtype: DType) -> Any:
    """A number, or lists of them, in the dtype of a tensor: NumPy says where one does not fit."""
    given = np.asarray(value)
    if given.dtype.kind == "c" and dtype.kind != "c":
        return given
    written = np.empty(given.shape, dtype)
    written[...] = value
    return written[()]  # one number is a constant, no operand


def _has_ellipsis(key: Any) -> bool:
    return any(k is Ellipsis for k in (key if isinstance(key, tuple) else (key,)))


def _masked(t: Tensor, mask: Any, values: Tensor) -> Tensor:
    """``values``, one or those of the tensor's shape, where ``mask`` holds, else those of ``t``."""
    if values.node.shape != t.node.shape:
        values = wrap(apply_view("reshape", (), values.node))
    return elementwise(OPS["where"], Tensor(mask), values, t)


def _trailing(expanded: tuple[int, ...], part: Tensor, target: Tensor) -> tuple[int, ...]:
    """Axes of ``part`` that stand for axes inserted by ``None`` in the key."""
    offset = target.ndim - part.ndim
    return tuple(a - offset for a in expanded if a >= offset)


def attach_operators() -> None:
    """Give ``Tensor`` its operators: those of the table, and what has no row of its own."""
    methods: dict[str, Any] = {}
    for op in OPS.values():
        if op.method:
            methods[op.method] = _unary(op) if op.arity == 1 else _binary(op)
            if op.arity == 2 and op.flop_class != "compare":
                methods[f"r{op.method}"], methods[f"i{op.method}"] = _reflected(op), _in_place(op)
    methods.update(pow=_pow, ipow=_ipow, divmod=_divmod, rdivmod=_rdivmod)
    methods.update(getitem=get_item, setitem=set_item)
    for name, method in methods.items():
        setattr(Tensor, f"__{name}__", method)
