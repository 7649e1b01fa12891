"""What the engine relies on in the installed numexpr, and each limit it has as a constant."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import numexpr
import numpy as np
import pytest
from numexpr import interpreter

import fusegraph as fg
from fusegraph.engines import numexpr as engine_module
from fusegraph.engines.numexpr import MAX_INPUTS, MAX_REGISTERS, SERIAL_BELOW, NumexprEngine
from fusegraph.ops import ELEMENTWISE, NUMEXPR_CASTS, NUMEXPR_CODES

OPCODES = interpreter.opcodes


def instruction(name, out, *operands):
    return bytes((OPCODES[name], out, *[*operands, 255, 255][:2]))


def summing(inputs, temporaries=0):
    """A program that adds its inputs, with registers it does not use."""
    code = instruction(b"copy_dd", 0, 1) + b"".join(
        instruction(b"add_ddd", 0, 0, n) for n in range(2, inputs + 1)
    )
    names = tuple(f"v{n}" for n in range(inputs))
    return interpreter.NumExpr(b"d" * inputs, b"d" * temporaries, code, (), names)


# --- limits ---------------------------------------------------------------------------------------


def test_as_many_inputs_as_the_constant_says_work():
    arrays = [np.full(10, float(n)) for n in range(MAX_INPUTS)]
    np.testing.assert_array_equal(
        summing(MAX_INPUTS)(*arrays, ex_uses_vml=False), sum(range(MAX_INPUTS))
    )


def test_one_input_more_raises():
    arrays = [np.ones(10)] * (MAX_INPUTS + 1)
    with pytest.raises(ValueError, match="too many inputs"):
        summing(MAX_INPUTS + 1)(*arrays, ex_uses_vml=False)


def test_as_many_registers_as_the_constant_says_work():
    program = summing(1, MAX_REGISTERS - 2)  # the output and the input are registers
    np.testing.assert_array_equal(program(np.ones(3), ex_uses_vml=False), 1)


def test_one_register_more_raises():
    with pytest.raises(RuntimeError, match="too many buffers"):
        summing(1, MAX_REGISTERS - 1)


@pytest.mark.parametrize("count", [MAX_INPUTS - 1, MAX_INPUTS, MAX_INPUTS + 1, 3 * MAX_INPUTS])
def test_the_engine_stays_within_its_inputs(count, assert_same):
    arrays = [np.full(4000, float(n)) for n in range(count)]
    total = fg.asarray(arrays[0])
    for x in arrays[1:]:
        total = total + x
    plan = total.plan(engine="numexpr")
    assert {k.engine for k in plan.kernels} == {"numexpr"}
    assert all(len(k.region.inputs) <= MAX_INPUTS for k in plan.kernels)
    assert_same(plan.run()[0], np.full(4000, float(sum(range(count)))))


def test_the_engine_stays_within_its_registers(assert_same):
    x = fg.asarray(np.linspace(0, 1, 4000))
    terms = [x * float(n) for n in range(2, 400)]  # 398 constants
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    plan = total.plan(engine="numexpr")
    assert {k.engine for k in plan.kernels} == {"numexpr"}
    assert len(plan.kernels) > 1
    assert_same(plan.run()[0], total.compute(engine="numpy"))


def test_short_arrays_run_on_the_calling_thread():
    """Below the constant the count of threads has no effect, so it is not changed."""
    size = SERIAL_BELOW - 1
    t = fg.asarray(np.ones(size)) + 1
    np.testing.assert_array_equal(t.compute(engine="numexpr", threads=2), np.full(size, 2.0))


# --- the bytecode ---------------------------------------------------------------------------------


def test_self_check_accepts_this_release():
    engine_module.self_check()


def test_the_first_program_is_preceded_by_the_self_check(monkeypatch):
    asked = []
    monkeypatch.setattr(engine_module, "self_check", lambda: asked.append(True))
    engine_module._checked_once.cache_clear()
    for offset in (1.25, 2.25):
        fg.plan(fg.asarray(np.ones(3)) + offset, engine="numexpr")
    assert asked == [True]


def test_self_check_notices_wrong_results(monkeypatch):
    class Wrong:
        def __init__(self, *args):
            pass

        def __call__(self, x, out, **keywords):
            out[...] = 0

    monkeypatch.setattr(engine_module.interpreter, "NumExpr", Wrong)
    with pytest.raises(ImportError, match=r"computes wrong results; install >= 2\.14\.2"):
        engine_module.self_check()


@pytest.mark.parametrize("op", [op for op in ELEMENTWISE if op.opcode], ids=lambda op: op.name)
def test_every_instruction_that_a_row_names_exists(op):
    name, _, variant = op.opcode.partition(":")
    for code in op.runs:
        compares = op.flop_class == "compare" and op.name not in ("maximum", "minimum")
        result = "b" if compares else code
        if name == "f":
            suffix = result + code * op.arity
            assert f"{variant}_{suffix}".encode() in interpreter.funccodes
            assert f"func_{suffix}n".encode() in OPCODES
        elif name == "where":
            assert f"where_{result}b{code}{code}".encode() in OPCODES
        elif name == "mul2":
            assert f"mul_{code * 3}".encode() in OPCODES
        else:
            assert f"{name}_{result}{code * op.arity}".encode() in OPCODES


def test_every_cast_exists():
    for start, ends in NUMEXPR_CASTS.items():
        assert f"copy_{start}{start}".encode() in OPCODES
        for end in ends:
            assert f"cast_{end}{start}".encode() in OPCODES


@pytest.mark.parametrize("dtype", [d for d in NUMEXPR_CODES if d != np.dtype("?")], ids=str)
def test_constants_keep_their_dtype(dtype):
    code = NUMEXPR_CODES[dtype].encode()
    copy = instruction(b"copy_" + code + code, 0, 1)
    program = interpreter.NumExpr(b"", b"", copy, (dtype.type(3),), ())
    assert program.constsig == code


def test_bool_constants_must_be_pythons():
    with pytest.raises(TypeError, match="constants must be of type"):
        interpreter.NumExpr(b"", b"", instruction(b"copy_bb", 0, 1), (np.True_,), ())


def test_bool_constants_in_a_program(assert_same):
    x = np.array([1, 2, 3], np.int32)
    assert_same((fg.asarray(x) + True).compute(engine="numexpr"), x + True)
    assert_same(((fg.asarray(x) > 1) & True).compute(engine="numexpr"), x > 1)


def test_the_identical_array_may_be_output_and_input():
    x = np.arange(5000.0)
    summing(1)(x, out=x, ex_uses_vml=False)
    np.testing.assert_array_equal(x, np.arange(5000.0))


# --- facts that the rows and refusals answer to ---------------------------------------------------


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: fg.asarray(np.ones(3, "i1")) + 1, "numexpr has no int8 with NumPy's results"),
        (lambda: fg.asarray(np.ones(3, "u8")) + 1, "numexpr has no uint64 with NumPy's results"),
        (lambda: fg.asarray(np.ones(3, "f2")) + 1, "numexpr has no float16 with NumPy's results"),
        (lambda: fg.asarray(np.ones(3, "c16")) * 2, "numexpr has no complex128"),
        (lambda: fg.asarray(np.ones(3, "i8")) // 2, "numexpr has no floor_divide with NumPy's"),
        (lambda: fg.asarray(np.ones(3, "f8")) % 2, "numexpr has no remainder with NumPy's"),
        (lambda: fg.maximum(np.ones(3, "i8"), 2), "numexpr's maximum of int64 is not NumPy's"),
        (lambda: fg.cbrt(np.ones(3)), "numexpr has no cbrt with NumPy's"),
        (lambda: fg.asarray(np.ones(3)).astype("f4"), "numexpr cannot cast float64 to float32"),
        (lambda: fg.sum(np.ones(3)), "numexpr has no sum"),
    ],
)
def test_what_numexpr_computes_otherwise_is_refused(build, text):
    assert NumexprEngine().refuses(build().node).startswith(text)


def test_numexpr_wraps_uint64_as_int64():
    assert numexpr.evaluate("x + 0", {"x": np.array([2**64 - 1], np.uint64)}).dtype == np.int64


def test_numexpr_widens_small_integers():
    assert numexpr.evaluate("x + x", {"x": np.array([100], np.int8)}).tolist() == [200]


def test_numexpr_division_of_the_least_integer_kills_the_process():
    """Why no integer division is ever given to it."""
    script = """
        import numexpr, numpy as np
        numexpr.evaluate("a // b", {"a": np.array([-2**63] * 4), "b": np.array([-1] * 4)})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, check=False
    )
    if sys.platform == "linux":
        assert done.returncode < 0


def test_the_release_is_one_that_the_metadata_allows():
    version = tuple(int(n) for n in re.findall(r"\d+", numexpr.__version__)[:3])
    assert version >= (2, 14, 2)
