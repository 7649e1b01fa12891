"""jit: one trace a signature, one plan a size; what is traced, cached, captured and refused."""

from __future__ import annotations

import copy
import dataclasses
import operator
import pickle

import numpy as np
import pytest

import fusegraph as fg

X = np.linspace(0, 1, 12).reshape(3, 4)
T = fg.asarray(X)


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function = function
        self.calls = 0

    def __call__(self, *args, **keywords):
        self.calls += 1
        return self.function(*args, **keywords)


def counted(function):
    inner = Counted(function)
    inner.__name__ = "counted"
    return inner, fg.jit(inner)


def test_traces_once_a_signature_and_not_a_size(assert_same):
    inner, f = counted(lambda x, y: (x + y) * 2)
    for size in (5, 5, 7, 1000, 9):
        x = np.arange(float(size))
        assert_same(f(x, x), (x + x) * 2)
    assert inner.calls == 1
    info = f.cache_info()
    assert (info.traces, info.misses, info.hits) == (1, 4, 1)
    assert info.signatures == ("float64[n], float64[n]",)


@pytest.mark.parametrize(
    "args",
    [
        (X.astype("f4"), X.astype("f4")),
        (X, X.astype("f4")),
        (X, X[0]),
        (X, X[:1]),
        (X, np.float64(2)),
        (X[:0], X[:0]),
        (np.asfortranarray(X), np.asfortranarray(X)),
        (X[:, ::2], X[:, ::2]),
        (X, 2.0),
        (X, 3),
    ],
)
def test_another_signature_is_traced_again(args, assert_same):
    inner, f = counted(lambda x, y: x * 2 + y)
    f(X, X)
    assert_same(f(*args), args[0] * 2 + args[1])
    f(*args)
    assert inner.calls == 2


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x / x.shape[0],
        lambda x: x * len(x),
        lambda x: x - x.mean(),
        lambda x: x.reshape(-1) * 2,
        lambda x: x + fg.ones(x.shape),
        lambda x: x[: x.size // 2],
        lambda x: x[::-1],
    ],
)
def test_reading_a_size_is_traced_for_each_size(body, assert_close):
    inner, f = counted(body)
    for size in (4, 6, 4, 6):
        x = np.linspace(0, 1, size)
        expected = body(fg.asarray(x)).compute()
        assert_close(f(x), expected, 0)
    assert inner.calls == 2


def added_in_place(x):
    x += 1
    return x


@pytest.mark.parametrize(
    "body",
    [
        added_in_place,
        lambda x: fg.logsumexp(x, axis=-1),
        lambda x: fg.squeeze(x.max(axis=1, keepdims=True), 1) * 2,
        lambda x: x.max(axis=-1)[:, None] - x[...],
        lambda x: x[None, :] * 2,
    ],
)
def test_what_holds_for_every_size_is_traced_once(body, assert_same):
    inner, f = counted(body)
    for size in (4, 6, 5):
        x = np.linspace(0, 1, 3 * size).reshape(size, 3)
        assert_same(f(x), body(fg.asarray(x)).compute())
    assert inner.calls == 1


def test_in_place_syntax_refuses_a_larger_result_of_other_sizes_too():
    f = fg.jit(operator.iadd)
    f(np.ones(3), np.ones(3))
    f(np.ones((2, 3)), np.ones(3))
    with pytest.raises(ValueError, match="in-place: the result has shape"):
        f(np.ones(1), np.ones(4))


def test_python_values_are_static(assert_same):
    inner, f = counted(lambda x, power, flag=False: -(x**power) if flag else x**power)
    with fg.options(exact=True):
        assert_same(f(X, 2), X**2)
        assert_same(f(X, 3), X**3)
        assert_same(f(X, 2, flag=True), -(X**2))
        assert_same(f(X, 2), X**2)
    assert inner.calls == 3


@pytest.mark.parametrize("pair", [(1, 1.0), (1, True), (0.0, -0.0), (float("nan"), 1.0)])
def test_static_values_that_compare_equal_stay_apart(pair, assert_same):
    _, f = counted(lambda x, value: x * value)
    ints = np.arange(4)
    for value in pair * 2:
        assert_same(f(ints, value), ints * value)


def test_several_results(assert_same):
    f = fg.jit(lambda x: (x + 1, x.sum(axis=0), x))
    a, b, c = f(X)
    assert_same(a, X + 1)
    assert_same(b, X.sum(axis=0))
    assert_same(c, X)
    assert isinstance(fg.jit(lambda x: [x + 1])(X), tuple)


def test_captured_arrays_are_held(assert_same):
    weights = np.arange(4.0)
    f = fg.jit(lambda x: x * weights)
    assert_same(f(X), X * weights)
    weights[:] = 7
    assert_same(f(X), X * 7)
    shared = fg.asarray(weights) * 2
    g = fg.jit(lambda x: x + shared)
    assert_same(g(X), X + 14.0)
    assert_same(g(X[:2]), X[:2] + 14.0)


def test_broadcast_pattern_is_part_of_the_signature(assert_same):
    inner, f = counted(lambda x, y: x + y)
    for a, b in (
        ((3, 4), (3, 4)),
        ((5, 6), (5, 6)),
        ((3, 1), (1, 4)),
        ((6, 1), (1, 2)),
        ((3, 4), (1, 4)),
    ):
        x, y = np.ones(a), np.full(b, 2.0)
        assert_same(f(x, y), x + y)
    assert inner.calls == 3


def test_jit_inside_jit(assert_same):
    inner = fg.jit(lambda x: x * 2)
    outer = fg.jit(lambda x: inner(x) + 1)
    assert_same(outer(X), X * 2 + 1)


def test_wrong_shapes_name_the_op():
    f = fg.jit(lambda x, y: x + y)
    with pytest.raises(ValueError, match=r"add: shapes of float64\[3, 4\] and float64\[5\] do not"):
        f(X, np.ones(5))
    f(np.ones(6), np.ones(6))
    with pytest.raises(ValueError, match=r"add: shapes of float64\[6\] and float64\[7\] do not"):
        f(np.ones(6), np.ones(7))
    assert f(np.ones(2), np.ones(2)).tolist() == [2, 2]


def test_values_are_not_known_while_tracing():
    f = fg.jit(lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(TypeError, match="is not known while a function is traced"):
        f(X)


def test_lists_and_scalars_are_arrays(assert_same):
    f = fg.jit(lambda x: fg.asarray(x) * 2)
    assert_same(f([1, 2, 3]), np.array([2, 4, 6]))
    assert_same(f(np.float32(2)), np.asarray(np.float32(4)))


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (({"w": X},), "argument 0 of f is a dict, which has no hash; pass each array"),
        (([X, X],), "argument 0 of f is a list of arrays; pass each array"),
        (([X, X[0]],), "argument 0 of f is a list of arrays"),
        (((X, X),), "argument 0 of f is a tuple of arrays"),
        (([[T, T]],), "argument 0 of f is a list of arrays"),
        (([1.0, [X]],), "argument 0 of f is a list of arrays"),
        (((0, [(T,)]),), "argument 0 of f is a tuple of arrays"),
        ((X, {1}), "argument 1 of f is a set"),
    ],
)
def test_arguments_that_are_no_part_of_a_signature_are_named(args, text):
    @fg.jit
    def f(x, y=None):
        return x

    for call in (f, f.plan):
        with pytest.raises(TypeError, match=f"^jit: {text}"):
            call(*args)
    with pytest.raises(TypeError, match=r"^jit: argument 'y' of f is a dict"):
        f(X, y={})


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "f returned NoneType; return a Tensor, or a tuple of Tensors"),
        ({"y": X}, "f returned dict; return a Tensor"),
        ("text", "f returned str"),
        ((X, None), "f returned NoneType in a tuple"),
        ([X, (X, X)], "f returned tuple in a list"),
        ((), "f returned nothing"),
    ],
    ids=["None", "dict", "str", "None in a tuple", "nested", "empty"],
)
def test_results_that_are_no_arrays_are_named(result, text):
    @fg.jit
    def f(x):
        return result

    with pytest.raises(TypeError, match=f"^jit: {text}"):
        f(X)


def test_a_tensor_by_keyword_is_part_of_the_expression(assert_same):
    f = fg.jit(lambda x, y: x * y)
    result = f(X, y=fg.asarray(X) + 1)
    assert isinstance(result, fg.Tensor)
    assert_same(result.compute(), X * (X + 1))


def test_the_plan_unused_for_longest_goes_first():
    f = fg.jit(lambda x: x + 1)
    for size in range(2, 400):
        f(np.ones(size))
        f(np.ones(7))
    info = f.cache_info()
    assert (info.plans, info.misses) == (128, 398)


def test_tensors_as_arguments(assert_same):
    f = fg.jit(lambda x: x * 2 + 1)
    assert_same(np.asarray(f(fg.asarray(X) + 1)), (X + 1) * 2 + 1)


def test_the_caches_are_bounded_and_can_be_cleared():
    f = fg.jit(lambda x: x + 1)
    for size in range(2, 200):
        f(np.ones(size))
    info = f.cache_info()
    assert info.plans == info.maxplans == 128
    assert info.traces == 1
    g = fg.jit(lambda x, k: x + k)
    for k in range(100):
        g(X, k)
    assert len(g.cache_info().signatures) == 64
    f.cache_clear()
    assert f.cache_info().plans == 0
    assert f(np.ones(3)).tolist() == [2, 2, 2]


def test_results_are_fresh_and_inputs_untouched():
    f = fg.jit(lambda x: x * 2)
    x = X.copy()
    first, second = f(x), f(x)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(x, X)


def test_options_of_a_jit_function():
    f = fg.jit(engine="numpy", threads=1)(lambda x: fg.tanh(x) + 1)
    assert [k.engine for k in f.plan(X).kernels] == ["numpy"]
    with pytest.raises(TypeError, match="unknown option 'speed'"):
        fg.jit(speed=1)(lambda x: x)(X)


def test_the_function_keeps_its_name_and_documentation():
    @fg.jit
    def doubled(x):
        """Twice."""
        return x * 2

    assert (doubled.__name__, doubled.__doc__) == ("doubled", "Twice.")


def test_other_layouts_of_one_size(assert_same):
    f = fg.jit(lambda x: x * 2 + x.T.T)
    for x in (X, np.asfortranarray(X), X[::-1], X[:, ::-1], X.astype(">f8"), X):
        assert_same(f(x), (x * 2 + x).astype("f8"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2,), (2.0,)),
        ((1,), (True,)),
        ((0.0,), (-0.0,)),
        (((3,),), ((3.0,),)),
        (frozenset({2}), frozenset({2.0})),
        ((frozenset({(1,)}),), (frozenset({(True,)}),)),
    ],
    ids=repr,
)
def test_equal_constants_in_tuples_and_sets_are_told_apart(first, second, assert_same):
    """A plan for one gave the other's dtype, or the sign of its zero."""

    def scaled(x, factor):
        while isinstance(factor, (tuple, frozenset)):
            (factor,) = factor
        return x * factor

    f, x = fg.jit(scaled), np.arange(-2, 3)
    for factor in (first, second):
        assert_same(f(x, factor), scaled(x, factor))


def test_constants_are_shown_as_they_were_given():
    f = fg.jit(lambda x, *constants: x + 1)
    f(X, 2.5, (1, "a", (None,)), frozenset({3}))
    (shown,) = f.cache_info().signatures
    assert shown == "float64[n, n], 2.5, (1, 'a', (None,)), frozenset({3})"


def test_a_file_in_another_order_has_a_plan_of_its_own(tmp_path, assert_same):
    """Its plan, for columns one after the other, was taken for arrays in C order too."""
    x = np.linspace(0, 1, 600 * 400).reshape(600, 400)
    np.save(tmp_path / "x.npy", np.asfortranarray(x))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    assert mapped.flags.f_contiguous
    f = fg.jit(lambda a: a * 2 + 1, engine="numpy")
    assert_same(f(mapped), x * 2 + 1)
    assert_same(f(x), x * 2 + 1)
    assert_same(f(np.asarray(mapped)), x * 2 + 1)
    assert f.cache_info().plans == 2


@pytest.mark.parametrize("array", [np.longdouble([1, 2]), np.array([1, "a"], object)], ids=str)
def test_arrays_of_dtypes_that_are_not_held_are_named(array):
    with pytest.raises(TypeError, match=r"dtype .* is not supported; cast to one of"):
        fg.jit(lambda x: x + 1)(array)


def test_a_method_of_an_object_with_a_value(assert_same):
    @dataclasses.dataclass(frozen=True)
    class Scaled:
        factor: float

        @fg.jit
        def times(self, a):
            return a * self.factor

    x = np.arange(4.0)
    for factor in (2.0, 3.0, 2.0):
        assert_same(Scaled(factor).times(x), x * factor)
    assert Scaled.times.cache_info().traces == 2


def test_a_method_of_an_object_whose_attributes_may_change_is_refused():
    class Scaled:
        factor = 2.0

        @fg.jit
        def times(self, a):
            return a * self.factor

    with pytest.raises(TypeError, match=r"times is a method of Scaled.*frozen dataclass"):
        Scaled().times(np.arange(4.0))


def test_what_cannot_be_called_is_refused():
    for decorate in (fg.jit, fg.jit(engine="numpy")):
        with pytest.raises(TypeError, match="jit: int cannot be called"):
            decorate(3)


def test_objects_that_are_equal_but_hold_other_types_are_other_constants(assert_same):
    @dataclasses.dataclass(frozen=True)
    class Scaled:
        factor: object

        @fg.jit
        def times(self, a):
            return a * self.factor

        @classmethod
        @fg.jit
        def twice(cls, a):
            return a * 2

    for x in (np.arange(4), -np.arange(4.0)):
        for factor in (2, 2.0, True, 0.0, -0.0):
            assert_same(Scaled(factor).times(x), x * factor)
    assert_same(Scaled.twice(np.arange(3)), np.arange(3) * 2)


def test_a_copy_of_another_result_is_an_array_of_its_own():
    x = np.arange(4.0).reshape(2, 2)
    for again in (
        lambda y: y.reshape(4).copy(),
        lambda y: y.T.copy(),
        lambda y: y[::2].copy(),
        lambda y: y.flatten(),
        lambda y: y.copy(),
    ):
        first, second = fg.jit(lambda t, again=again: (t + 1, again(t + 1)))(x)
        np.testing.assert_array_equal(second, again(x + 1))
        second[...] = 9
        np.testing.assert_array_equal(first, x + 1)


def test_a_value_returned_twice_goes_into_both_arrays():
    x = np.arange(4.0)
    outs = [np.zeros(4), np.zeros(4)]
    plan = fg.plan(fg.asarray(x) + 1, (fg.asarray(x) + 1) * 1)
    for result, out in zip(plan.program.run([x], outs), outs, strict=True):
        assert result is out
        np.testing.assert_array_equal(out, x + 1)


def test_a_tensor_among_the_arguments_changes_no_other(assert_same):
    """Lists were joined and not added, arrays were written in place, results were anything."""
    x, y = np.array([1.0, 2.0]), [3.0, 4.0]

    def total(a, b):
        b += 1
        return a * fg.mean(b + [1.0, 2.0])  # noqa: RUF005

    expected = fg.jit(total)(x, y)
    for a, b in ((fg.asarray(x), y), (x, fg.asarray(y)), (fg.asarray(x), fg.asarray(y))):
        got = fg.jit(total)(a, b)
        assert isinstance(got, fg.Tensor)
        assert_same(got.compute(), expected)
        if isinstance(b, fg.Tensor):
            assert_same(b.compute(), np.asarray(y))  # the caller's handle shows what it did
    kept = np.zeros(2)
    assert_same(fg.jit(total)(fg.asarray(x), kept).compute(), x * 2.5)
    assert_same(kept, np.zeros(2))
    several = fg.jit(lambda a, b: [a, b, 1.0])(fg.asarray(x), b=np.float32(2))
    assert [type(t) for t in several] == [fg.Tensor] * 3


def test_a_call_with_a_tensor_refuses_what_a_call_with_arrays_does():
    t = fg.ones(3)
    with pytest.raises(TypeError, match="returned dict; return a Tensor"):
        fg.jit(lambda a: {"a": a})(t)
    with pytest.raises(TypeError, match="returned nothing"):
        fg.jit(lambda a: ())(t)


def test_tensors_inside_arguments_are_refused_where_they_would_be_captured():
    """A tuple of them went into the signature by identity: in-place syntax left the old values."""
    x = np.arange(3.0)
    f = fg.jit(lambda p, y: p[0] + y)
    with pytest.raises(TypeError, match="argument 0 of <lambda> is a tuple of arrays"):
        f((fg.asarray(x),), x)
    with pytest.raises(TypeError, match="argument 0 of <lambda> is a Tensor"):
        f.plan(fg.asarray(x), x)


def test_a_function_in_a_trace_takes_containers_of_tensors():
    layer = fg.jit(lambda x, p: np.tanh(x @ p["w"] + p["b"]))
    net = fg.jit(lambda x, w, b: layer(x, {"w": w, "b": b}))
    x, w, b = np.ones((2, 3)), np.full((3, 4), 0.1), np.zeros(4)
    np.testing.assert_array_equal(net(x, w, b), np.tanh(x @ w + b))


# --- copies ---------------------------------------------------------------------------------------


@fg.jit
def doubled(x):
    return x * 2


def test_a_function_is_pickled_by_name_and_its_copies_are_itself(assert_same):
    assert_same(doubled(np.arange(3.0)), np.arange(3.0) * 2)
    for twin in (pickle.loads(pickle.dumps(doubled)), copy.copy(doubled), copy.deepcopy(doubled)):
        assert twin is doubled
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(fg.jit(doubled.function))


def test_plans_say_why_they_cannot_be_pickled_and_are_copied(assert_same):
    plan = (fg.asarray(np.arange(3.0)) * 2).plan()
    for whole in (plan, plan.plan, [plan]):
        with pytest.raises(
            TypeError, match=r"a plan cannot be pickled: .* pickle plan.to_dict\(\)"
        ):
            pickle.dumps(whole)
    for twin in (copy.copy(plan), copy.deepcopy(plan)):
        assert_same(twin.run()[0], np.arange(3.0) * 2)
        assert twin.plan is plan.plan
    assert copy.copy(plan.plan) is copy.deepcopy(plan.plan) is plan.plan


@pytest.mark.parametrize(
    "twin", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]
)
def test_what_a_user_holds_besides_can_be_copied(twin):
    plan = (fg.asarray(np.arange(3.0)) * 2).plan(threads=1)
    for value in (fg.machine(), fg.Options(engine="numpy"), plan.traffic, plan.cost):
        assert repr(twin(value)) == repr(value)
    with twin(fg.options(engine="numpy")):
        assert (fg.asarray(np.arange(3.0)) * 2).plan().plan.options.engine == "numpy"
