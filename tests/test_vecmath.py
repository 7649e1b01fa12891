"""The vector math: errors on a sample of points, special values, and the command that measures them."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("llvmlite")
pytest.importorskip("mpmath")

from fusegraph.engines.llvm import vecmath
from fusegraph.vecmath_check.__main__ import main
from fusegraph.vecmath_check.measurement import measure
from fusegraph.vecmath_check.points import draw
from fusegraph.vecmath_check.references import FORMATS, double, exact_ulps, extended
from fusegraph.vecmath_check.subjects import error_kernel, subjects, value_kernel

SAMPLE = 200_000
EVERY = subjects()


@pytest.mark.parametrize("subject", EVERY, ids=lambda s: f"{s.name}-{s.dtype}")
def test_errors_are_within_bounds(subject):
    found = measure(subject, SAMPLE if extended() else 2_000, threads=1)
    assert found.special == ()
    assert found.ulps <= found.bound, f"at {[x.hex() for x in found.at]}"


def test_every_function_of_the_table_is_checked_in_both_types():
    names = {row.name for row in vecmath.ROWS}
    for dtype in FORMATS:
        assert {s.name for s in EVERY if s.dtype == dtype} >= {
            n for n in names if "double" in vecmath.TABLE[n].types
        }


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


def test_the_command_knows_its_functions(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "sine"])
    assert "sine" in capsys.readouterr().err
