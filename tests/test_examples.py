"""Every example runs, prints a plan and agrees with NumPy: each asserts that itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples():
    assert {path.stem for path in EXAMPLES} >= {
        "adam", "black_scholes", "digits", "gelu", "neighbours", "tour", "transformer",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    if "sklearn" in path.read_text(encoding="utf-8"):
        pytest.importorskip("sklearn")
    run = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "plan:" in run.stdout
    assert "numpy eager" in run.stdout
    assert not run.stderr
