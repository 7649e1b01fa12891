"""The vector math: errors on a sample of points, special values, and the command that measures them."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest

pytest.importorskip("llvmlite")
pytest.importorskip("mpmath")

from fusegraph.engines.llvm import vecmath
from fusegraph.vecmath_check import references
from fusegraph.vecmath_check.__main__ import main
from fusegraph.vecmath_check.measurement import measure
from fusegraph.vecmath_check.points import draw
from fusegraph.vecmath_check.record import errors_of, recorded
from fusegraph.vecmath_check.references import FORMATS, double, exact_ulps, extended
from fusegraph.vecmath_check.subjects import error_kernel, subjects, value_kernel

SAMPLE = 200_000
EVERY = subjects()


@pytest.mark.parametrize("subject", EVERY, ids=lambda s: f"{s.name}-{s.dtype}")
def test_errors_are_within_bounds(subject):
    drawn = SAMPLE if extended() or subject.dtype == "float32" else 1_000
    found = measure(subject, drawn, threads=1)
    assert found.special == ()
    assert found.ulps <= found.bound, f"at {[x.hex() for x in found.at]}"
    # The sample is part of what the record is of: where it finds more, the function has changed since.
    kept = errors_of(recorded())[subject.name, subject.dtype]["ulps"]
    if drawn == SAMPLE:
        assert found.ulps <= kept + 0.001, "run python -m fusegraph.vecmath_check --json"


def test_every_function_of_the_table_is_checked_in_both_types():
    names = {row.name for row in vecmath.ROWS}
    for dtype in FORMATS:
        assert {s.name for s in EVERY if s.dtype == dtype} == names


@pytest.mark.parametrize("row", vecmath.ROWS, ids=lambda row: row.name)
def test_every_function_names_its_source(row):
    """Each docstring has a year; 9899 is C's number, and no year."""
    assert re.search(r"\b(?:19|20)\d\d\b", row.emit.__doc__)


@pytest.mark.parametrize("name", ["exp", "tanh", "pow", "logaddexp"])
def test_the_compiled_error_is_that_of_mpmath(name):
    (subject,) = subjects([name], ["float32"])
    operands = draw(subject, 4096, (1,))
    operands = [np.resize(x[np.isfinite(x)], 4096) for x in operands]
    result, error = np.empty(4096, np.float32), np.empty(4096, np.float32)
    value_kernel(subject)(*operands, result)
    (at,) = np.nonzero(np.isfinite(result))
    at = at[:50]
    with np.errstate(all="ignore"):
        error_kernel(subject)(
            *operands, double(name)(*(x.astype(np.float64) for x in operands)), error
        )
    arguments = [tuple(float(x[n]) for x in operands) for n in at]
    exact = [exact_ulps(subject, x, float(result[n])) for x, n in zip(arguments, at, strict=True)]
    np.testing.assert_allclose(error[at], exact, atol=1e-6)


def test_the_same_points_each_time():
    (subject,) = subjects(["atan2"], ["float64"])
    for a, b in zip(draw(subject, 1000, (3, 4)), draw(subject, 1000, (3, 4)), strict=True):
        np.testing.assert_array_equal(a.view(np.int64), b.view(np.int64))


def test_the_command_writes_what_it_found(tmp_path, capsys):
    path = tmp_path / "errors.json"
    assert main(["--only", "exp,hypot", "--sample", "50000", "--json", str(path)]) == 0
    found = json.loads(path.read_text())["findings"]
    assert {(f["function"], f["dtype"]) for f in found} >= {
        ("exp", "float32"),
        ("exp", "float64"),
        ("hypot", "float32"),
    }
    assert "exp" in capsys.readouterr().out


def complaint(arguments, capsys):
    """The one line on stderr of a command that is typed wrong."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "", "nothing was measured"
    assert err.startswith("fusegraph.vecmath_check: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--only", "sine"], "--only: there is no function 'sine'; the functions are exp, exp2"),
        (["--only", "exp,"], "--only: there is no function ''"),
        (["--only", ""], "--only: there is no function ''"),
        (["--sample", "-5"], "'-5' is no positive integer"),
        (["--sample", "0"], "'0' is no positive integer"),
        (["--threads", "0"], "'0' is no positive integer"),
        (["--dtype", "float16"], "invalid choice: 'float16'"),
        (["--json", "/nowhere/x.json"], "--json /nowhere/x.json: there is no folder /nowhere"),
        (["--json", "."], "--json .: it is a folder"),
    ],
)
def test_what_is_typed_wrong_is_said_before_anything_is_measured(arguments, text, capsys):
    assert text in complaint(arguments, capsys)


def test_names_may_have_spaces_between_them(capsys):
    assert main(["--only", "exp, pow", "--sample", "1000", "--dtype", "float32"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["exp", "pow"]


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("llvmlite", "llvmlite 0.45 or later; install it with"),
        ("scipy.special", "erf needs scipy; install it with"),
        ("mpmath", "needs mpmath; install it with"),
    ],
)
def test_a_package_that_is_missing_is_named_before_anything_is_measured(
    missing, text, capsys, monkeypatch
):
    for load in (references._erf_of_scipy, references._mpmath):
        load.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    assert text in complaint(["--only", "exp,erf", "--sample", "1000"], capsys)


def test_one_point_that_is_nan_is_no_error(capsys):
    assert main(["--only", "pow", "--sample", "1", "--dtype", "float64"]) == 0
    assert " 0.000  2  -0x1.0" in capsys.readouterr().out


def test_help_is_for_users(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "Measure the errors of the functions" in said
    assert "In: " not in said


# --- the record, and what users expect to the last bit --------------------------------------------


def test_the_record_is_of_every_function_and_within_bounds():
    found = errors_of(recorded())
    assert set(found) == {(s.name, s.dtype) for s in EVERY}
    for subject in EVERY:
        entry = found[subject.name, subject.dtype]
        assert entry["ulps"] <= subject.bound, entry
        assert entry["special_values_as_numpy"], entry
        assert entry["exhaustive"] == (subject.dtype == "float32" and subject.arity == 1)
        assert entry["exhaustive"] or entry["points"] >= 10_000_000


def evaluate(name, dtype, *operands):
    (subject,) = subjects([name], [dtype])
    arrays = [np.ascontiguousarray(x, dtype) for x in operands]
    result = np.empty(arrays[0].size, dtype)
    value_kernel(subject)(*arrays, result)
    return result


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_results_are_exact(dtype, assert_same):
    """Powers and logarithms of whole numbers, where a rounding would be seen at once."""
    top = 10 if dtype == "float32" else 22
    tens = np.array([10.0**k for k in range(top + 1)], dtype)
    k, n = np.arange(top + 1).astype(dtype), np.arange(200).astype(dtype)
    assert_same(evaluate("log10", dtype, tens), k)
    assert_same(evaluate("pow", dtype, np.full_like(k, 10), k), tens)
    assert_same(evaluate("pow", dtype, n, np.full_like(n, 2)), n * n)
    assert_same(evaluate("pow", dtype, n * n, np.full_like(n, 0.5)), n)
    assert_same(evaluate("cbrt", dtype, n * n * n), n)
    assert_same(evaluate("hypot", dtype, 3 * n, 4 * n), 5 * n)
    exponents = np.arange(-120, 120)
    powers = np.ldexp(np.ones((), dtype), exponents)
    assert_same(evaluate("exp2", dtype, exponents), powers)
    assert_same(evaluate("log2", dtype, powers), exponents.astype(dtype))
