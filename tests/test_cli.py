"""The command line: what it prints, and where; exit codes."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import fusegraph as fg
from fusegraph.cli import main
from fusegraph.commands import machine as machine_command
from fusegraph.commands.comparison import summary
from fusegraph.commands.demo import demo_samples
from fusegraph.compare import Comparison, Row

GELU = "0.5*x*(1+tanh(0.79788456*(x+0.044715*x**3)))"


@pytest.fixture
def run(capsys):
    """Run a command: exit code, stdout, stderr."""

    def command(*argv):
        code = main([str(a) for a in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def matrix(tmp_path):
    path = tmp_path / "matrix.npy"
    np.save(path, np.random.default_rng(0).standard_normal((300, 8)))
    return path


def fine(result):
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def complaint(result, code):
    """The one line on stderr."""
    assert result[0] == code
    assert result[1] == ""
    assert result[2].startswith("fusegraph: ")
    assert result[2].count("\n") == 1
    return result[2]


# --- explain --------------------------------------------------------------------------------------


def test_explain_shows_the_plan_and_which_input_is_which(run):
    out = fine(run("explain", GELU, "--shape", "x=4000000", "--dtype", "float32"))
    assert "plan: 8 ops in 1 kernel" in out
    assert "288.0 MB before, 32.0 MB after" in out
    assert "names: v0 is x" in out


def test_explain_reads_no_data_that_it_only_plans(run):
    # 8 TB would not fit; the system maps no page of it.
    out = fine(run("explain", "x + 1", "--shape", "x=1000000000"))
    assert "8.0 GB" in out


def test_explain_takes_several_shapes_and_dtypes(run):
    argv = ("explain", "x @ w + b", "--shape", "x=100,64", "--shape", "w=64x32", "--shape", "b=32",
            "--dtype", "float32", "--dtype", "b=float64", "--json")  # fmt: skip
    facts = json.loads(fine(run(*argv)))
    assert facts["names"] == {"v0": "x", "v1": "w", "v2": "b"}
    dtypes = {i["name"]: (i["dtype"], i["shape"]) for i in facts["plan"]["inputs"]}
    assert dtypes["v0"] == ("float32", [100, 64])
    assert dtypes["v1"] == ("float32", [64, 32])
    assert dtypes["v2"] == ("float64", [32])


@pytest.mark.parametrize(("text", "shape"), [("x=", []), ("x=5", [5]), ("x=2,3", [2, 3]),
                                              ("x=(2, 3)", [2, 3]), ("x=2x3x1", [2, 3, 1]),
                                              ("x=0", [0])])  # fmt: skip
def test_shapes(run, text, shape):
    facts = json.loads(fine(run("explain", "tanh(x)", "--shape", text, "--json")))
    assert facts["plan"]["inputs"][0] == {"name": "v0", "dtype": "float64", "shape": shape}


def test_explain_reads_a_file(run, matrix):
    facts = json.loads(fine(run("explain", "sum(x, axis=0)", "--data", f"x={matrix}", "--json")))
    assert facts["plan"]["inputs"][0]["shape"] == [300, 8]


@pytest.mark.parametrize("stage", ["graph", "rewritten", "fused", "planned"])
def test_stages(run, stage):
    out = fine(run("explain", GELU, "--shape", "x=100", "--stage", stage))
    x = fg.asarray(np.empty(100))
    expected = (0.5 * x * (1 + fg.tanh(0.79788456 * (x + 0.044715 * x**3)))).plan().explain(stage)
    assert out == expected + "\n\nnames: v0 is x\n"


def test_a_stage_is_in_the_json_document(run):
    argv = ("explain", "x + 1", "--shape", "x=9", "--stage", "graph", "--json")
    facts = json.loads(fine(run(*argv)))
    assert facts["stage"]["name"] == "graph"
    assert facts["stage"]["text"].startswith("graph:")


def test_planning_options_reach_the_plan(run):
    argv = ("explain", "tanh(x) + 1", "--shape", "x=9", "--engine", "numpy", "--no-fuse", "--exact",
            "--threads", "1", "--json")  # fmt: skip
    plan = json.loads(fine(run(*argv)))["plan"]
    assert len(plan["kernels"]) == 2
    assert (
        plan["options"] | {"engine": "numpy", "fuse": False, "exact": True, "threads": 1}
        == (plan["options"])
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
def test_run_compares_with_numpy(run, dtype):
    argv = ("explain", "where(x > 0, x, 0)", "--shape", "x=1000", "--dtype", dtype, "--run")
    out = fine(run(*argv))
    assert "numpy eager" in out
    assert "values differ by at most 0 (0 ulps)" in out
    facts = json.loads(fine(run(*argv, "--json")))
    assert all(row["difference"] == 0 for row in facts["compare"]["rows"])
    assert facts["compare"]["rows"][0]["name"] == "numpy eager"


def test_run_is_quiet_about_values_and_json_has_no_infinity(run):
    argv = ("explain", "log(x - 1) / (x - x)", "--shape", "x=50", "--run", "--json")
    json.loads(fine(run(*argv)), parse_constant=pytest.fail)


def test_many_ulps_are_explained():
    def measured(ulps):
        row = Row("auto", 1, 1.0, 8, 1.0, ulps, 3e-8)
        return Comparison((replace(row, name="numpy eager", ulps=0.0, difference=0.0), row), 1)

    few, many = summary(measured(2.0)), summary(measured(4096.0))
    assert few.endswith("values differ by at most 3e-08 (2 ulps)")
    assert "values differ by at most 3e-08 (4096 ulps)\nMany ulps beside a tiny difference" in many
    assert "values near zero" in many


# --- demo -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_demo_runs_the_digits(run):
    pytest.importorskip("sklearn")
    out = fine(run("demo", "--rows", "2000"))
    assert out.startswith("data: scikit-learn's digits, 1,797 x 64; the run takes 2,000 rows")
    for part in ("plan:", "traffic (modelled)", "numpy eager", "values differ by at most"):
        assert part in out


def test_demo_takes_a_matrix(run, matrix):
    facts = json.loads(fine(run("demo", "--data", matrix, "--json", "--threads", "1")))
    assert facts["data"] == {
        "source": str(matrix), "note": "", "dtype": "float64", "shape": [300, 8]
    }  # fmt: skip
    assert facts["plan"]["traffic"]["ratio"] > 1
    assert facts["compare"]["rows"][-1]["difference"] < 1e-12


def test_demo_repeats_rows_of_integers(run, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12).reshape(4, 3))
    facts = json.loads(fine(run("demo", "--data", tmp_path / "a.npy", "--rows", "10", "--json")))
    assert facts["data"]["shape"] == [10, 3]
    assert facts["data"]["dtype"] == "float32"


def test_demo_without_scikit_learn_says_what_it_runs_on(run, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    samples = demo_samples(None, 50)
    monkeypatch.undo()
    assert samples.source == "generated numbers, 1,797 x 64"
    assert "pip install 'fusegraph[examples]'" in samples.note
    assert "--data" in samples.note
    assert samples.array.shape == (50, 64)


@pytest.mark.parametrize("array", [np.ones(3), np.ones((0, 3)), np.ones((2, 2), complex)])
def test_demo_needs_a_matrix(run, tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    assert "matrix" in complaint(run("demo", "--data", tmp_path / "a.npy"), 1)


# --- machine --------------------------------------------------------------------------------------


def lines_after(text, heading):
    """Lines that follow the one that begins with ``heading``."""
    lines = text.splitlines()
    (at,) = (at for at, line in enumerate(lines) if line.startswith(heading))
    return lines[at + 1 :]


def test_machine_shows_the_profile(run):
    facts = json.loads(fine(run("machine", "--json")))
    assert facts == json.loads(json.dumps(fg.machine().to_dict()))
    out = fine(run("machine"))
    assert f"cores           {fg.machine().cores}" in out
    for (key, speed), line in zip(
        fg.machine().streams.items(), lines_after(out, "stream"), strict=False
    ):
        assert line.split() == [*key.split(), f"{speed / 1e9:.1f}"]
    assert "ns an element" in out


def test_recalibrate_measures_first(run, monkeypatch):
    called = []
    monkeypatch.setattr(machine_command, "recalibrate", lambda: called.append(1) or fg.machine())
    fine(run("machine", "--recalibrate"))
    assert called == [1]


# --- errors and exit codes ------------------------------------------------------------------------


def test_version(run):
    assert fine(run("--version")) == f"fusegraph {fg.__version__}\n"


@pytest.mark.parametrize(
    "argv", [["--help"], ["demo", "--help"], ["explain", "-h"], ["bench", "-h"]]
)
def test_help(run, argv):
    assert "usage: fusegraph" in fine(run(*argv))


USAGE = [
    ([], "COMMAND"),
    (["nonsense"], "nonsense"),
    (["explain"], "EXPRESSION"),
    (["explain", "x", "--shape", "x"], "NAME="),
    (["explain", "x", "--shape", "x=a"], "NAME=N,N"),
    (["explain", "x", "--shape", "x=-1"], "NAME=N,N"),
    (["explain", "x", "--shape", "1x=2"], "NAME="),
    (["explain", "x", "--shape", "if=2"], "NAME="),
    (["explain", "x", "--shape", "x=2", "--shape", "x=3"], "x is given twice"),
    (["explain", "x", "--shape", "x=2", "--dtype", "float7"], "float7"),
    (["explain", "x", "--shape", "x=2", "--dtype", "object"], "object"),
    (["explain", "x", "--shape", "x=2", "--dtype", "y=int8"], "no --shape y"),
    (["explain", "x", "--shape", "x=999999999999999999"], "does not fit"),
    (["explain", "x", "--shape", "x=99999999999999999999999"], "does not fit"),
    (["explain", "x + y", "--shape", "x=2"], "name 'y' at column 5"),
    (["explain", "x+1", "--shape", "x=3", "--shape", "y=4"], "y: given, but the expression has no"),
    (["explain", "x +", "--shape", "x=2"], "syntax at column"),
    (["explain", "x.T", "--shape", "x=2"], "attribute .T at column 1"),
    (["explain", "transpose(x)", "--shape", "x=2", "--run"], "'transpose(x)' has nothing to run"),
    (["explain", "x", "--stage", "last"], "last"),
    (["explain", "x", "--engine", "none"], "none"),
    (["explain", "x", "--threads", "0"], "no positive integer"),
    (["demo", "--rows", "many"], "no positive integer"),
]


@pytest.mark.parametrize(("argv", "message"), USAGE, ids=[" ".join(a) or "none" for a, _ in USAGE])
def test_what_is_typed_wrong_is_a_usage_error(run, argv, message):
    assert message in complaint(run(*argv), 2)


def test_a_function_of_a_package_that_is_missing_is_a_usage_error():
    program = (
        "import sys; sys.modules['scipy'] = None; from fusegraph.cli import main; "
        "sys.exit(main(['explain', 'erf(x)', '--shape', 'x=10']))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    said = complaint((ran.returncode, ran.stdout, ran.stderr), 2)
    assert "erf: needs scipy; install it with: pip install" in said


def test_a_missing_file_is_a_failure(run, tmp_path):
    missing = tmp_path / "none.npy"
    assert "none.npy" in complaint(run("demo", "--data", missing), 1)
    assert "none.npy" in complaint(run("explain", "x", "--data", f"x={missing}"), 1)


def test_pickles_are_never_loaded(run, tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "b.npy").write_text("no array")
    (tmp_path / "c.npy").write_text("")
    np.savez(tmp_path / "d.npz", x=np.ones(3))
    for name in ("a.npy", "b.npy", "c.npy", "d.npz"):
        assert name in complaint(run("demo", "--data", tmp_path / name), 1)
        assert name in complaint(run("explain", "x", "--data", f"x={tmp_path / name}"), 1)


def test_an_interrupt_exits_with_130(run, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(machine_command, "current_machine", interrupt)
    assert run("machine") == (130, "", "")


def test_memory_that_runs_out_is_a_failure(run, monkeypatch):
    def refuse():
        raise MemoryError

    monkeypatch.setattr(machine_command, "current_machine", refuse)
    assert complaint(run("machine"), 1) == "fusegraph: MemoryError\n"


# --- as a process ---------------------------------------------------------------------------------


def test_the_module_runs_and_errors_go_to_stderr():
    command = [sys.executable, "-m", "fusegraph", "explain", "x + y", "--shape", "x=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fusegraph: name 'y'")


@pytest.mark.skipif(os.name != "posix", reason="pipes of a Unix shell")
def test_a_reader_that_leaves_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fusegraph", "explain", "x + 1", "--shape", "x=3"]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
