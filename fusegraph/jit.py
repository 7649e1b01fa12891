"""jit: trace a function of arrays once per signature, then run its plan on arrays.

In: a function of tensors. Out: a function of arrays that returns arrays. A signature is the dtypes,
ranks, memory orders and broadcast patterns of the arguments, not their sizes: a traced graph whose
shapes follow from its inputs is replayed for other sizes without calling the function again. A function
that reads a size while it is traced (``x.shape[0]``, ``len(x)``, a mean, a reshape) is traced again for
each size it meets.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusegraph import forks
from fusegraph.arrays import checked_array
from fusegraph.bound_plan import BoundPlan
from fusegraph.calibrate import current_machine
from fusegraph.engines.base import DirectCall
from fusegraph.execute import Program
from fusegraph.graph import Array, Node, topological
from fusegraph.options import Options, current_options
from fusegraph.orders import stand_in
from fusegraph.plan import build_plan
from fusegraph.plan_cache import Graph
from fusegraph.replay import is_size_free, replay
from fusegraph.signatures import (
    Key,
    any_size,
    arguments_of,
    is_array,
    name_of,
    refuse_unhashable,
    signature_text,
)
from fusegraph.tensor import SIZE_READS, Tensor, as_node, wrap

CACHED_TRACES = 64  # signatures a function
CACHED_PLANS = 128  # sizes and options a function
DIRECT = 4  # of these that are tried one after the other, before any key is made


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a jit function did and holds.

    ``hits`` are calls that found their plan, ``misses`` those that had to plan, ``traces`` those that
    had to call the function. ``signatures`` tells the traced signatures as text.
    """

    hits: int
    misses: int
    traces: int
    plans: int
    maxplans: int
    signatures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """A traced graph: ``roots`` over placeholders, and the arrays it captured from outside."""

    nodes: tuple[Node, ...]
    roots: tuple[Node, ...]
    captured: tuple[Array, ...]
    several: bool  # the function returned a tuple or list
    any_size: bool  # holds for every size of this signature


@dataclass(slots=True)
class Ready:
    """A plan that only needs arrays. ``used``: the count of calls when it last served one."""

    program: Program
    captured: tuple[Array, ...]
    several: bool
    used: int = 0
    direct: DirectCall | None = None
    tried: int = -1  # compiled kernels when it was last tried to make one


def jit(function: Callable[..., Any] | None = None, **changes: Any) -> Any:
    """Compile a function of arrays: ``@fg.jit``, or ``@fg.jit(engine="numpy")`` with options.

    The function is called with Tensors while it is traced. Array arguments become inputs; anything
    else (Python scalars, strings, None) is part of the signature by value. Arrays that the function
    takes from outside are held by the trace.

    Returns
    -------
    JitFunction
        Takes arrays, returns an array, or a tuple of arrays where the function returns several. It
        keeps its plans for 128 sizes; the one unused for longest goes first. Given a Tensor it is
        part of that tensor's expression, and returns a Tensor. It raises TypeError for an argument
        that is neither array nor hashable, and for a function that returns anything but arrays.

    Raises
    ------
    TypeError
        ``function`` cannot be called.

    Notes
    -----
    On a method the object is an argument like others, and so part of the signature by value. Its class
    has to say what its value is (``__eq__`` and ``__hash__``, as a frozen dataclass has): attributes
    that change unseen would leave the function with the plan of their old values.

    It is pickled by name, as functions are: what is pickled is decorated in a module.

    A trace serves other sizes where the function has read none. An error of sizes that the function
    itself catches is no reading: what it then did is done for every size.
    """
    if function is None:
        return lambda f: jit(f, **changes)
    if not callable(function):
        raise TypeError(
            f"jit: {type(function).__name__} cannot be called; give a function of arrays"
        )
    return JitFunction(function, changes)


class JitFunction:
    """A function that is planned once and run often; see :func:`jit`."""

    def __init__(self, function: Callable[..., Any], changes: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.changes = changes
        self._lock = forks.lock()
        self._ready: dict[Key, Ready] = {}
        self._traces: OrderedDict[Key, Trace] = OrderedDict()
        self._hits = self._misses = self._traced = 0
        self._merged = (current_options(), current_options(**changes))
        # With the options in force; each direct call stands beside its plan, which another thread may
        # be about to lose or find it for.
        self._direct: tuple[Options, tuple[tuple[Ready, DirectCall], ...]] = (self._merged[0], ())

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """The function itself on its class; on an object, the method."""
        if instance is None:
            return self
        if isinstance(instance, type):  # a class method's
            return functools.partial(self, instance)
        kind: Any = type(instance)
        if kind.__hash__ in (object.__hash__, None):
            raise TypeError(
                f"jit: {name_of(self.function)} is a method of {kind.__name__}, whose attributes may "
                "change without its hash; make the class a frozen dataclass, or pass to a function what "
                "it reads"
            )
        return functools.partial(self, instance)

    def __reduce__(self) -> str:
        """Pickled by name, as functions are; copies are the function itself."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def _options(self) -> Options:
        """The options in force with this function's own; merged once for each that are in force."""
        outer, merged = self._merged
        if outer is not current_options():
            outer = current_options()
            merged = current_options(**self.changes)
            self._merged = (outer, merged)
        return merged

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        outer, known = self._direct
        if known and not keywords and outer is current_options():
            for _, direct in known:
                result = direct.call(*args)
                if result is not None:
                    return result
        return self._call(args, keywords)

    def _call(self, args: Any, keywords: Any) -> Any:
        """The way of calls that no direct one takes."""
        for value in (*args, *keywords.values()) if keywords else args:
            if isinstance(value, Tensor):
                return self._expression(args, keywords)
        options = self._options()
        ready, arrays = self._ready_for(args, keywords, options)
        limit = options.memory_limit
        if limit is not None:
            self._bound(ready, arrays, options).keep_limit()
        results = ready.program.run((*arrays, *ready.captured))
        if not (keywords or limit):
            self._go_direct(ready, args)
        return tuple(results) if ready.several else results[0]

    def _expression(self, args: Any, keywords: Any) -> Any:
        """A call with Tensors among its arguments, in another trace perhaps: part of what they are."""
        roots, several = _called(self.function, *_tensors_for(args, keywords, _handle))
        results = tuple(map(wrap, roots))
        return results if several else results[0]

    def _go_direct(self, ready: Ready, args: Any) -> None:
        """Let later calls like this one go to compiled code at once, where the plan has come to that."""
        reached = ready.program.tiers_reached
        if ready.direct is not None and not ready.direct.valid:
            self._hits += ready.direct.calls
            ready.direct, ready.tried = None, -1
        if ready.direct is None and ready.tried == reached:
            return
        if not all(map(_may_go_direct, args)):
            return
        direct = ready.direct
        if direct is None:
            direct = ready.program.direct(args, ready.captured, ready.several)
            ready.tried = reached
        if direct is None:  # another thread may have found one since
            return
        ready.direct = direct
        outer, known = self._direct
        if outer is not current_options():
            known = ()
        others = tuple(pair for pair in known if pair[0] is not ready)
        self._direct = current_options(), ((ready, direct), *others)[:DIRECT]

    def plan(self, *args: Any, **keywords: Any) -> BoundPlan:
        """The plan that a call with these arguments would run."""
        options = self._options()
        ready, arrays = self._ready_for(args, keywords, options)
        return self._bound(ready, arrays, options)

    def _ready_for(self, args: Any, keywords: Any, options: Options) -> tuple[Ready, list[Any]]:
        """The plan for these arguments, kept or made, and the arrays among them."""
        try:
            arrays, key = arguments_of(args, keywords)
            ready = self._ready.get((key, options))
        except TypeError:
            refuse_unhashable(self.function, args, keywords)
            raise
        if ready is None:
            return self._prepare(args, keywords, arrays, key, options), arrays
        self._hits += 1
        ready.used = self._hits + self._misses
        return ready, arrays

    def cache_info(self) -> CacheInfo:
        """Hits, misses and what is cached."""
        with self._lock:
            shown = tuple(signature_text(key) for key in self._traces)
            hits = self._hits + sum(r.direct.calls for r in self._ready.values() if r.direct)
            return CacheInfo(
                hits, self._misses, self._traced, len(self._ready), CACHED_PLANS, shown
            )

    def cache_clear(self) -> None:
        """Forget traces and plans."""
        with self._lock:
            self._ready.clear()
            self._traces.clear()
            self._direct = (self._direct[0], ())
            self._hits = self._misses = self._traced = 0

    def _bound(self, ready: Ready, arrays: Sequence[Any], options: Options) -> BoundPlan:
        roots = ready.program.plan.graph
        graph = Graph(topological(roots), roots, (), [*arrays, *ready.captured])
        return BoundPlan(ready.program, graph, options)

    def _prepare(
        self, args: Any, keywords: Any, arrays: list[Any], key: Key, options: Options
    ) -> Ready:
        """Trace or replay, then plan."""
        trace, replayed = self._trace_for(args, keywords, arrays, key)
        roots = trace.roots
        if replayed:
            try:
                image = replay(trace.nodes, _inputs_of(trace, arrays))
            except ValueError:  # let the user's own line say which shapes do not fit
                trace_function(self.function, args, keywords, arrays)
                raise
            roots = tuple(image[root] for root in trace.roots)
        plan = build_plan(roots, options, options.machine or current_machine())
        ready = Ready(Program(plan), trace.captured, trace.several)
        with self._lock:
            self._misses += 1
            ready.used = self._hits + self._misses
            self._ready[key, options] = ready
            while len(self._ready) > CACHED_PLANS:
                self._drop_one()
        return ready

    def _drop_one(self) -> None:
        """Forget the plan unused for longest; those of direct calls are in use."""
        direct = {id(ready) for ready, _ in self._direct[1]}
        oldest = min(self._ready, key=lambda k: (id(self._ready[k]) in direct, self._ready[k].used))
        dropped = self._ready.pop(oldest)
        self._hits += dropped.direct.calls if dropped.direct else 0

    def _trace_for(
        self, args: Any, keywords: Any, arrays: list[Any], key: Key
    ) -> tuple[Trace, bool]:
        """The trace for a signature, and whether it comes from other sizes."""
        general, exact = any_size(key), key
        with self._lock:
            for known in (exact, general):
                found = self._traces.get(known)
                if found is not None:
                    self._traces.move_to_end(known)
                    return found, True
        trace = trace_function(self.function, args, keywords, arrays)
        with self._lock:
            self._traced += 1
            self._traces[general if trace.any_size else exact] = trace
            while len(self._traces) > CACHED_TRACES:
                self._traces.popitem(last=False)
        return trace, False


def trace_function(function: Any, args: Any, keywords: Any, arrays: list[Any]) -> Trace:
    """Call ``function`` on tensors over placeholders and take the graph of what it returns."""
    placeholders = iter([wrap(_placeholder(slot, a)) for slot, a in enumerate(arrays)])
    given = _tensors_for(args, keywords, lambda _: next(placeholders))
    before, SIZE_READS.seen = SIZE_READS.seen, False
    try:
        roots, several = _called(function, *given)
        read_sizes = SIZE_READS.seen
    finally:
        SIZE_READS.seen = before
    nodes = topological(roots)
    captured = [n for n in nodes if n.kind == "input" and n.data is not None]
    if captured:
        image = replay(nodes, {
            node: _placeholder(len(arrays) + at, node.data) for at, node in enumerate(captured)
        })  # fmt: skip
        nodes, roots = [image[n] for n in nodes], tuple(image[r] for r in roots)
    return Trace(
        nodes=tuple(nodes),
        roots=roots,
        captured=tuple(n.data for n in captured),
        several=several,
        any_size=not read_sizes and is_size_free(nodes),
    )


def _tensors_for(
    args: Any, keywords: Any, tensor_of: Callable[[Any], Tensor]
) -> tuple[list[Any], dict[str, Any]]:
    """What the function is called with: a tensor for each array, the rest as it is."""

    def given(value: Any) -> Any:
        return tensor_of(value) if is_array(value) or isinstance(value, Tensor) else value

    return [given(a) for a in args], {name: given(a) for name, a in sorted(keywords.items())}


def _handle(value: Any) -> Tensor:
    """A tensor of its own: in-place syntax in the function leaves the caller's alone."""
    return wrap(as_node(value))


def _called(
    function: Any, args: list[Any], keywords: dict[str, Any]
) -> tuple[tuple[Node, ...], bool]:
    """The nodes that ``function`` returns, and whether it returns several.

    Raises
    ------
    TypeError
        It returns anything but arrays, or nothing.
    """
    result = function(*args, **keywords)
    several = isinstance(result, (tuple, list))
    results = tuple(result) if several else (result,)
    for value in results:
        if not isinstance(value, _RESULTS):
            inside = f" in a {type(result).__name__}" if several else ""
            raise TypeError(
                f"jit: {name_of(function)} returned {type(value).__name__}{inside}; return a Tensor, or "
                "a tuple of Tensors"
            )
    if not results:
        raise TypeError(f"jit: {name_of(function)} returned nothing; return at least one Tensor")
    return tuple(as_node(value) for value in results), several


def _inputs_of(trace: Trace, arrays: list[Any]) -> dict[Node, Node]:
    """Placeholders of a trace, and those for the arrays of this call."""
    return {
        node: _placeholder(node.params[0], arrays[node.params[0]])
        for node in trace.nodes
        if node.kind == "input" and node.params[0] < len(arrays)
    }


def _placeholder(slot: int, array: Any) -> Node:
    checked_array(array)
    return stand_in(slot, array)


_RESULTS = (Tensor, np.ndarray, np.generic, bool, int, float, complex)


def _may_go_direct(value: Any) -> bool:
    """Is it an array that compiled code reads where it lies?"""
    if type(value) is not np.ndarray or not value.dtype.isnative:
        return False
    return bool(value.flags.c_contiguous and value.flags.aligned)
