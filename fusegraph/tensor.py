"""Tensor: the lazy array. Operators and NumPy's protocols come from the op table.

In: arrays, scalars, lists. Out: nodes, with shape, dtype and errors settled while the expression is
built; arrays, when a value is asked for.
"""

from __future__ import annotations

import inspect
import operator
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fusegraph.arrays import Array, checked_array, checked_dtype
from fusegraph.bound import BoundPlan, bind
from fusegraph.computing import as_computed, compute_into, compute_roots
from fusegraph.cost import Traffic
from fusegraph.graph import DType, Node, Shape, const, leaf, make, topological
from fusegraph.indexing import index_params, is_mask
from fusegraph.ops import OPS, REDUCTIONS, UFUNCS, Op, resolve
from fusegraph.options import Options, current_options
from fusegraph.promotion import WEAK, broadcast_node, promoted
from fusegraph.replay import matmul_shape
from fusegraph.sources import traced_line
from fusegraph.views import apply_view

ARRAY_FUNCTIONS: dict[Any, Callable[..., Any]] = {}
"""NumPy function -> what serves it on Tensors; filled where the functions are defined."""


class SizeReads(threading.local):
    """Did code in this thread read a size? ``jit`` asks: such a trace holds for its sizes alone.

    Functions of this package that follow sizes without depending on them read ``node.shape``.
    """

    seen = False


SIZE_READS = SizeReads()


class Tensor:
    """A lazy array: a handle on a node of the expression graph.

    Nothing runs until a value is needed (``compute``, ``np.asarray``, ``float``, ``bool``,
    ``tolist``). Arrays are shared, not copied, and never written; writing to one before computing
    changes what is computed. In-place syntax (``t += 1``, ``t[0] = 1``) points the handle at a new
    node and leaves the array alone.

    Parameters
    ----------
    value : array_like or Tensor
    """

    __slots__ = ("__weakref__", "node")
    __hash__ = object.__hash__
    __array_priority__ = 1000.0

    node: Node

    def __init__(self, value: Any) -> None:
        self.node = as_node(value)

    # --- what is known without computing ----------------------------------------------------------

    @property
    def shape(self) -> Shape:
        SIZE_READS.seen = True
        return self.node.shape

    @property
    def dtype(self) -> DType:
        return self.node.dtype

    @property
    def ndim(self) -> int:
        return len(self.node.shape)

    @property
    def size(self) -> int:
        SIZE_READS.seen = True
        return self.node.size

    @property
    def nbytes(self) -> int:
        """Bytes of the value when it is stored."""
        SIZE_READS.seen = True
        return self.node.nbytes

    @property
    def pending(self) -> int:
        """Operations that computing this tensor would run, before rewriting."""
        return sum(n.kind not in ("input", "const", "view") for n in topological([self.node]))

    def __repr__(self) -> str:
        pending = self.pending
        state = "computed" if not pending else f"{pending} op{'s' * (pending > 1)} pending"
        return f"Tensor({shown(self)}, {state})"

    def _repr_html_(self) -> str:
        return self.plan()._repr_html_()

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of a 0-d Tensor")
        return self.shape[0]

    # --- computing --------------------------------------------------------------------------------

    def compute(self, out: Array | None = None, **changes: Any) -> Array:
        """Run the plan; the result is kept, so what is built on this tensor later does not rerun it.

        Parameters
        ----------
        out : numpy.ndarray, optional
            Where to write the result: same shape and dtype, no overlap with an input.
        **changes
            Options for this call, see :class:`fusegraph.options.Options`.

        Returns
        -------
        numpy.ndarray
        """
        options = current_options(**changes)
        if out is not None:
            return compute_into(self.node, out, options)
        if self.node.data is not None and self.node.kind == "input":
            return as_computed(self.node)
        return compute_tensors([self], options)[0]

    def plan(self, **changes: Any) -> BoundPlan:
        """The plan for this tensor, with ``changes`` of options; nothing runs."""
        return bind([self.node], current_options(**changes))

    def traffic(self, **changes: Any) -> Traffic:
        """Modelled bytes before and after fusion: short for ``plan().traffic``."""
        return self.plan(**changes).traffic

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self.compute()
        return np.array(array, dtype=dtype, copy=copy)

    def item(self) -> Any:
        """The value of a one-element tensor as a Python scalar."""
        return self.compute().item()

    def tolist(self) -> Any:
        return self.compute().tolist()

    def __bool__(self) -> bool:
        return bool(self.compute())

    def __float__(self) -> float:
        return float(self.compute())

    def __int__(self) -> int:
        return int(self.compute())

    def __complex__(self) -> complex:
        return complex(self.compute())

    def __index__(self) -> int:
        return operator.index(self.compute())

    def __reduce__(self) -> Any:
        return Tensor, (np.array(self.compute()),)

    # --- indexing ---------------------------------------------------------------------------------

    def __contains__(self, value: Any) -> bool:
        """Is any element equal to ``value``? It is computed."""
        return bool(np.any((self == value).compute()))

    def __getitem__(self, key: Any) -> Tensor:
        expanded, kept = index_params(key, self.shape)
        node = apply_view("slice", kept, self.node)
        return wrap(apply_view("expand", expanded, node))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __setitem__(self, key: Any, value: Any) -> None:
        part = self._fitting(value)
        if is_mask(key, self.shape):
            self.node = self._masked(key, part).node
            return
        expanded, kept = index_params(key, self.shape)
        target = self[key]
        while target.ndim and part.ndim > target.ndim and part.shape[0] == 1:
            part = part[0]  # NumPy drops leading axes of one element
        try:
            fits = np.broadcast_shapes(part.shape, target.shape) == target.shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"setitem: values of shape {list(part.shape)} do not broadcast to the selection "
                f"{list(target.shape)}; give one value, or values of that shape"
            )
        if expanded:
            part = wrap(apply_view("squeeze", _trailing(expanded, part, target), part.node))
        inputs = (self.node, part.node)
        self.node = make(OPS["assign"], inputs, (("key", kept),), self.shape, self.dtype)

    def _fitting(self, value: Any) -> Tensor:
        """What is to be assigned, in this tensor's dtype, as NumPy casts it."""
        node = as_node(value)
        if node.dtype.kind == "c" and self.dtype.kind != "c":
            raise TypeError(
                f"setitem: {node.dtype} does not go into {self.dtype}; assign its real part, "
                "fg.real(values)"
            )
        if node.dtype.kind in "iu" and self.dtype.kind in "iu" and not hasattr(value, "dtype"):
            node = as_node(value, self.dtype)  # NumPy says where a Python integer does not fit
        return cast(wrap(node), self.dtype)

    def _masked(self, mask: Any, values: Tensor) -> Tensor:
        """``values`` where ``mask`` holds, else itself: how many are chosen is not known here."""
        given, shape = values.node.shape, self.node.shape
        if values.node.size != 1 and given != shape:
            raise ValueError(
                f"setitem: a mask takes one value, or values of the tensor's shape {list(shape)}, of "
                f"which it takes its own; got {list(given)}: write them with np.place on an array"
            )
        if given != shape:
            values = wrap(apply_view("reshape", (), values.node))
        return elementwise(OPS["where"], Tensor(mask), values, self)

    def _become(self, result: Tensor) -> None:
        """In-place syntax: the handle shows ``result``, in this tensor's shape and dtype."""
        if result.shape != self.shape:
            raise ValueError(
                f"in-place: the result has shape {list(result.shape)}, the tensor {list(self.shape)}; "
                "write t = t op value"
            )
        if not np.can_cast(result.dtype, self.dtype, "same_kind"):
            raise TypeError(
                f"in-place: {result.dtype} does not go into {self.dtype}; write t = t op value"
            )
        self.node = cast(result, self.dtype).node

    # --- NumPy's protocols ------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        out = keywords.pop("out", None)
        if method == "reduce" and ufunc in REDUCE_OF:
            keywords.setdefault("axis", 0)
            served = ARRAY_FUNCTIONS[REDUCE_OF[ufunc]]
            result = _served(served, f"{ufunc.__name__}.reduce", inputs, keywords)
        elif ufunc is np.divmod and method == "__call__" and not keywords and out is None:
            return tuple(apply(OPS[name], *inputs) for name in ("floor_divide", "remainder"))
        else:
            op = UFUNCS.get(ufunc) or _erf_row(ufunc)
            if op is None or method != "__call__" or set(keywords) - {"dtype"}:
                detail = "" if method == "__call__" else f".{method}"
                extra = f" with {', '.join(keywords)}" if keywords else ""
                raise TypeError(
                    f"{ufunc.__name__}{detail}{extra} has no lazy form; call np.asarray(t) first"
                )
            result = apply(op, *inputs, **keywords)
        return result if out is None else _store(result, out[0])

    def __array_function__(
        self, function: Any, types: Any, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> Any:
        served = ARRAY_FUNCTIONS.get(function)
        name = f"{function.__module__}.{function.__name__}"
        if served is None:
            raise TypeError(f"{name} has no lazy form; call np.asarray(t) first")
        if keywords.get("out", self) is None:  # NumPy's default, written out
            keywords = {k: v for k, v in keywords.items() if k != "out"}
        return _served(served, name, args, keywords)

    # --- operators: attached from the op table below ----------------------------------------------

    if TYPE_CHECKING:

        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __floordiv__(self, other: Any) -> Tensor: ...
        def __mod__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __getattr__(self, name: str) -> Any: ...

    def __pow__(self, other: Any) -> Tensor:
        return power(self, _operand(OPS["pow"], other))

    def __rpow__(self, other: Any) -> Tensor:
        return elementwise(OPS["pow"], _operand(OPS["pow"], other), self)

    def __ipow__(self, other: Any) -> Tensor:
        self._become(power(self, _operand(OPS["pow"], other)))
        return self

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return other // self, other % self

    def __format__(self, spec: str) -> str:
        """Of one value, computed, as Python's number; without a specification, as ``repr``."""
        if not spec:
            return repr(self)
        if self.node.shape:
            raise TypeError(
                f"format: {spec!r} is for one value, not {shown(self)}; index it, or print np.asarray(t)"
            )
        return format(self.item(), spec)


# --- values to nodes ------------------------------------------------------------------------------


def wrap(node: Node) -> Tensor:
    """A handle on a node that exists."""
    tensor = Tensor.__new__(Tensor)
    tensor.node = node
    return tensor


def as_node(value: Any, dtype: Any = None) -> Node:
    """The node of a value: a tensor's own, a leaf for an array, a constant for a scalar."""
    if type(value) is np.ndarray:
        return leaf(checked_array(value))
    if isinstance(value, Tensor):
        return value.node
    if isinstance(value, Node):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("asarray: a masked array would lose its mask; use .filled(value) first")
    if isinstance(value, (bool, int, float, complex, np.generic)):
        array = checked_array(np.asarray(value, dtype))
        return const(array, array.dtype)
    if isinstance(value, (list, tuple)) and _holds_tensor(value):
        return ARRAY_FUNCTIONS[np.stack]([Tensor(v) for v in value]).node  # type: ignore[no-any-return]
    try:
        array = np.asarray(value, dtype)
    except ValueError as error:
        raise ValueError(
            f"asarray: the list is ragged or holds what no array can hold ({error}); "
            "give rows of one length"
        ) from error
    return leaf(checked_array(array))


def _holds_tensor(value: Any) -> bool:
    return any(
        isinstance(v, Tensor) or (isinstance(v, (list, tuple)) and _holds_tensor(v)) for v in value
    )


def shown(x: Tensor) -> str:
    """Dtype and shape, as messages write them: ``float64[2, 3]``."""
    return f"{x.node.dtype}{list(x.node.shape)}"


def elementwise(op: Op, *operands: Any, params: tuple[Any, ...] = (), dtype: Any = None) -> Tensor:
    """The tensor of an element-wise op over tensors, arrays and scalars; see :func:`promoted`.

    ``dtype`` is the result's where the op is a cast.
    """
    nodes: list[Any] = []
    all_weak = True
    for value in operands:
        if type(value) in WEAK:
            nodes.append(value)
        else:
            nodes.append(value.node if isinstance(value, Tensor) else as_node(value))
            all_weak = False
    if all_weak:
        nodes = [as_node(value) for value in nodes]
    if dtype is not None:  # the parameter is the result, and tells plans apart
        return wrap(broadcast_node(op, (as_node(nodes[0]),), (*params, dtype), dtype))
    return wrap(promoted(op, nodes, params))


def apply(op: Op, *operands: Any, dtype: Any = None) -> Tensor:
    """A row over operands, with NumPy's ``dtype=`` keyword: the loop, and so the result, has it.

    Raises
    ------
    TypeError
        An operand does not cast to ``dtype`` within its kind, or the row has no such loop.
    """
    if dtype is not None:
        wanted = checked_dtype(dtype)
        operands = tuple(_for_loop(op, operand, wanted) for operand in operands)
    result = matmul(*operands) if op.kind == "matmul" else elementwise(op, *operands)
    if dtype is not None and result.dtype != wanted and op.flop_class != "compare":
        raise TypeError(f"{op.name}: NumPy has no loop for dtype={wanted}; cast the result instead")
    return result


def _for_loop(op: Op, operand: Any, wanted: DType) -> Any:
    if isinstance(operand, WEAK):
        return wrap(const(operand, wanted))
    tensor = Tensor(operand)
    if not np.can_cast(tensor.dtype, wanted, "same_kind"):
        raise TypeError(
            f"{op.name}: dtype={wanted} would change the kind of a {tensor.dtype} operand; cast it with "
            ".astype(...) first"
        )
    return cast(tensor, wanted)


def cast(x: Tensor, dtype: Any) -> Tensor:
    """``x`` in another dtype, by NumPy's rules for unsafe casts."""
    wanted = checked_dtype(dtype)
    if x.dtype == wanted:
        return x
    return elementwise(OPS["astype"], x, dtype=wanted)


def power(x: Any, exponent: Any) -> Tensor:
    """``x ** exponent``: NumPy's operator, which squares, inverts and roots without ``pow``."""
    if type(exponent) in (int, float) and isinstance(x, Tensor):
        shortcut = {2: "square", -1: "reciprocal", 0.5: "sqrt"}.get(exponent)
        of_bool = x.dtype.kind == "b" and type(exponent) is int and exponent == 2
        if shortcut is not None and (x.dtype.kind in "fc" or of_bool):
            return elementwise(OPS[shortcut], x)
    return elementwise(OPS["pow"], x, exponent)


def matmul(a: Any, b: Any, tile_size: int | None = None) -> Tensor:
    """Matrix product, with NumPy's rules for vectors, batches and broadcasting.

    Parameters
    ----------
    a, b : array_like
        ``(..., M, K)`` and ``(..., K, N)``; a vector is a row on the left, a column on the right.
    tile_size : int, optional
        Ask for the tiled path, with tiles of this many rows and columns.

    Raises
    ------
    ValueError
        The inner dimensions differ, an operand is a scalar, or ``tile_size`` is not positive.
    """
    left, right = as_node(a), as_node(b)
    if tile_size is not None:
        tile_size = checked_tile(tile_size)
    if not left.shape or not right.shape:
        raise ValueError(
            f"matmul: operands need at least one axis, got {left.dtype}{list(left.shape)} and "
            f"{right.dtype}{list(right.shape)}; use * for scalars"
        )
    shape = matmul_shape(left.shape, right.shape)
    _, dtype = resolve("matmul", (left.dtype, right.dtype))
    params = () if tile_size is None else (("tile_size", tile_size),)
    return wrap(make(OPS["matmul"], (left, right), params, shape, dtype, traced_line()))


def checked_tile(tile_size: Any) -> int:
    """``tile_size`` as a positive integer.

    Raises
    ------
    ValueError
        It is not one.
    """
    if isinstance(tile_size, bool) or not isinstance(tile_size, (int, np.integer)) or tile_size < 1:
        raise ValueError(f"Tile size must be at least 1 and an integer, got {tile_size!r}")
    return int(tile_size)


def _trailing(expanded: tuple[int, ...], part: Tensor, target: Tensor) -> tuple[int, ...]:
    """Axes of ``part`` that stand for axes inserted by ``None`` in the key."""
    offset = target.ndim - part.ndim
    return tuple(a - offset for a in expanded if a >= offset)


# --- computing ------------------------------------------------------------------------------------


def compute_tensors(tensors: list[Tensor], options: Options) -> list[Array]:
    """Run one plan for several tensors; each becomes a leaf that holds its result."""
    wanted = [t.node for t in tensors]
    computed = {node: leaf(array) for node, array in compute_roots(wanted, options).items()}
    for tensor, node in zip(tensors, wanted, strict=True):
        tensor.node = computed.get(node, node)
    return [as_computed(t.node) for t in tensors]


def _store(result: Tensor, out: Any) -> Any:
    """``out=`` of a ufunc: a tensor is pointed at the result, an array is written."""
    if isinstance(out, Tensor):
        out._become(result)
        return out
    if not np.can_cast(result.dtype, out.dtype, "same_kind"):
        raise TypeError(
            f"out: dtype {out.dtype} cannot hold {result.dtype}; give an array of {result.dtype}"
        )
    return compute_into(cast(result, out.dtype).node, out, current_options(), apart=False)


def _served(
    function: Callable[..., Any], name: str, args: tuple[Any, ...], keywords: dict[str, Any]
) -> Any:
    """A call of what serves a NumPy function.

    Raises
    ------
    TypeError
        It takes no such argument; the message names NumPy's function and the argument.
    """
    try:
        return function(*args, **keywords)
    except TypeError:
        signature = inspect.signature(function)
        try:
            signature.bind(*args, **keywords)
        except TypeError:
            unknown = [k for k in keywords if k not in signature.parameters]
            given = ", ".join(unknown) or f"{len(args) + len(keywords)} arguments"
            raise TypeError(
                f"{name} with {given} has no lazy form; call np.asarray(t) first"
            ) from None
        raise


def _erf_row(ufunc: Any) -> Op | None:
    return OPS["erf"] if getattr(ufunc, "__name__", "") == "erf" else None


# --- operators from the table ---------------------------------------------------------------------

REDUCE_OF = {OPS[op.combines].function: op.function for op in REDUCTIONS if op.combines}


def _attach_operators() -> None:
    for op in OPS.values():
        if not op.method or op.name == "pow":
            continue
        name = op.method
        if op.arity == 1:
            setattr(Tensor, f"__{name}__", _unary(op))
        else:
            setattr(Tensor, f"__{name}__", _binary(op))
            if op.flop_class != "compare":
                setattr(Tensor, f"__r{name}__", _reflected(op))
                setattr(Tensor, f"__i{name}__", _in_place(op))


_OPERAND_TYPES = (
    Tensor, np.ndarray, np.number, np.bool_, bool, int, float, complex, list, tuple,
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


def _binary(op: Op) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        return apply(op, self, _operand(op, other))

    return method


def _reflected(op: Op) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        return apply(op, _operand(op, other), self)

    return method


def _in_place(op: Op) -> Any:
    def method(self: Tensor, other: Any) -> Any:
        self._become(apply(op, self, _operand(op, other)))
        return self

    return method


_attach_operators()
