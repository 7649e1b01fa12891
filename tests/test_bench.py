"""``fusegraph bench``: the suite's rows, what a run says about them, the conversation with workers."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy._core import _multiarray_umath

import fusegraph as fg
from fusegraph.bench import functions, race
from fusegraph.bench.code_pages import MAPS, code_of_this_process, mapped_code
from fusegraph.bench.results import Choice, Results, RowResult, Way, summarise
from fusegraph.bench.runners import RUNNERS
from fusegraph.bench.runners.base import Runner, UnsupportedError
from fusegraph.bench.runners.fused import copy_on, copying
from fusegraph.bench.runners.loops import LOOPS
from fusegraph.bench.runners.parallel import loop_of
from fusegraph.bench.runners.programs import PROGRAMS, bind_literals
from fusegraph.bench.runners.tensors import FUSED_FUNCTIONS
from fusegraph.bench.suite import SUITE, as_list, error_of, find_row, matching_rows
from fusegraph.bench.tables import results_text
from fusegraph.bench.worker import Worker
from fusegraph.cli import main
from fusegraph.processor import available_cores
from fusegraph.report.documents import document

SMALL = [row.shrunk() for row in SUITE]
NAMES = {row.function.__name__ for row in SUITE}


# --- the suite ------------------------------------------------------------------------------------


def test_names_are_unique_and_find_their_row():
    assert len({row.name for row in SUITE}) == len(SUITE)
    assert all(find_row(row.name) is row for row in SUITE)


def test_the_suite_covers_what_was_agreed():
    groups = {"element-wise", "transcendental", "reductions", "rows", "products", "attention"}
    assert {row.group for row in SUITE} == groups
    assert {"float32", "float64"} <= {row.dtype for row in SUITE}
    near = {row.function for row in SUITE if row.near_copy}
    f = functions
    assert near == {f.gelu, f.triad, f.hardswish, f.polynomial, f.adam}
    assert all(row.elements == 32_000_000 for row in SUITE if row.near_copy)


@pytest.mark.parametrize("row", SMALL, ids=lambda row: row.name)
def test_fusegraph_gives_what_numpy_gives(row):
    arrays = row.arrays()
    fused = fg.jit(functools.partial(row.function, fg))
    assert error_of(as_list(fused(*arrays)), row.results(arrays)) <= row.tolerance


@pytest.mark.parametrize("row", SMALL, ids=lambda row: row.name)
def test_loops_give_what_numpy_gives(row):
    """In plain Python: what numba compiles runs without it."""
    arrays = row.arrays()
    assert error_of(as_list(loop_of(row)(*arrays)), row.results(arrays)) <= row.tolerance


PROGRAMMED = [row for row in SMALL if row.function.__name__ in PROGRAMS]


@pytest.mark.parametrize("row", PROGRAMMED, ids=lambda row: row.name)
def test_numexpr_programs_give_what_numpy_gives(row):
    arrays = row.arrays()
    call = RUNNERS["numexpr"]().build("numexpr", row, arrays)
    assert error_of(call(*arrays), row.results(arrays)) <= row.tolerance


def test_forms_are_for_functions_of_the_suite():
    assert set(LOOPS) == NAMES
    assert set(PROGRAMS) < NAMES
    assert set(FUSED_FUNCTIONS) < NAMES


def test_literals_get_the_dtype_of_the_row():
    text, constants = bind_literals("sum(x2*0.5 + 1e-8, axis=0)", "float32")
    assert text == "sum(x2*c0_5 + c1__8, axis=0)"
    assert constants == {"c0_5": np.float32(0.5), "c1__8": np.float32(1e-8)}


ERRORS = [
    ([1.0, 2.0], [1.0, 2.0], 0.0),
    ([1.0, 2.5], [1.0, 2.0], 0.5 / 3.5),  # the mean size is 1.5
    ([1.0, math.nan], [1.0, math.nan], 0.0),
    ([1.0, math.nan], [1.0, 2.0], math.inf),
    ([1.0], [1.0, 2.0], math.inf),
]


@pytest.mark.parametrize(("a", "b", "expected"), ERRORS)
def test_error_is_relative_to_an_element_and_the_mean(a, b, expected):
    assert error_of([np.array(a)], [np.array(b)]) == expected


def test_another_dtype_or_number_of_results_is_an_error():
    ones = np.ones(3)
    assert error_of([ones.astype("f")], [ones]) == math.inf
    assert error_of([ones, ones], [ones]) == math.inf


def test_patterns_and_groups_choose_rows():
    assert [row.name for row in matching_rows(["gelu-*-4M"])] == [
        "gelu-float32-4M",
        "gelu-float64-4M",
    ]
    assert all(row.group == "rows" for row in matching_rows(["rows"]))
    assert matching_rows([]) == SUITE
    with pytest.raises(ValueError, match="no row is called 'gelu'"):
        matching_rows(["gelu"])


# --- what a run says ------------------------------------------------------------------------------


def made_up(
    name="a", auto=1e-3, elements=4_000_000, first=2e-3, predicted=1e-3, beside=1e-3, **others
):
    """A row whose peers, engines and copy take the given seconds, and half of them at the least."""
    seconds = {"fusegraph": auto, "numpy": 2e-3, **others}
    ways = [Way(n.replace("__", "."), s, s / 2, 4e-3, 0.0, 10) for n, s in seconds.items()]
    ways[0] = replace(ways[0], first=first)
    kernel = Choice("llvm", "flat", 2, "memory", predicted, 3, True)
    near = "copy" in others
    return RowResult(name, "rows", "float32", elements, near, 32, (kernel,), tuple(ways), beside)


def ending(text):
    """How a requirement ends, where another one goes on."""
    return text if text.endswith("30%") else ""


def broken(rows, text):
    """What the requirement whose text holds ``text`` says of rows."""
    (one,) = (r for r in summarise(rows) if text in r.text and r.text.endswith(ending(text)))
    return one.value, one.holds, [row.split()[0] for row in one.rows]


def test_ratios_of_a_row():
    row = made_up(jax=5e-4, fusegraph__llvm=8e-4, fusegraph__numpy=3e-3, copy=4e-4)
    assert [w.name for w in row.peers] == ["jax", "numpy"]
    assert [w.name for w in row.engines] == ["fusegraph.llvm", "fusegraph.numpy"]
    assert row.against_best == pytest.approx(0.5)
    assert row.against_numpy == pytest.approx(2)
    assert row.against_copy == pytest.approx(2.5)
    assert row.against_engines == pytest.approx(1.25)
    assert row.first_allowed == pytest.approx(8e-3)
    assert row.prediction_error == pytest.approx(0)
    assert replace(row, predicted_beside=1.1e-3).error_beside == pytest.approx(0.1)


def test_a_row_that_failed_has_no_ratios():
    row = replace(made_up(), ways=(Way("fusegraph", reason="lost"), Way("jax", 1.0)), kernels=())
    assert row.against_best is row.against_numpy is row.against_copy is row.prediction_error is None
    ran, *others = summarise([row])
    assert (ran.value, ran.holds, ran.rows) == (1, False, ("a lost",))
    assert all(one.holds is None and one.value is None for one in others)


def test_mean_speed_is_geometric():
    rows = [made_up("a", jax=1e-3), made_up("b", auto=2.5e-4, jax=1e-3)]
    assert broken(rows, "geometric mean") == (pytest.approx(2.0), True, [])
    assert broken(rows[:1], "geometric mean") == (pytest.approx(1.0), False, [])


def test_rows_below_the_best_peer_are_named():
    rows = [made_up("a", jax=9.1e-4), made_up("b", jax=8.9e-4)]
    assert broken(rows, "best peer's speed") == (1, False, ["b"])


def test_rows_beyond_the_copy_bound_are_named():
    rows = [made_up("a", copy=8e-4), made_up("b", copy=7e-4), made_up("c")]
    assert broken(rows, "copy bound") == (1, False, ["b"])


def test_first_calls_beyond_what_is_allowed_are_named():
    rows = [made_up("a", first=7.9e-3), made_up("b", first=8.1e-3)]
    assert broken(rows, "first call") == (1, False, ["b"])


def test_auto_is_compared_with_the_best_engine():
    rows = [made_up(str(n), fusegraph__llvm=9.5e-4) for n in range(9)]
    rows += [made_up("x", fusegraph__llvm=8e-4), made_up("y")]  # no engine by name ran y
    assert broken(rows, "best engine") == (pytest.approx(0.9), True, ["x"])


def test_rows_slower_than_numpy_are_named():
    rows = [made_up("a", auto=1.9e-3), made_up("b", auto=2.1e-3)]
    assert broken(rows, "slower than NumPy") == (1, False, ["b"])


def test_predictions_count_above_100_000_elements():
    rows = [made_up("a", predicted=1.29e-3), made_up("b", predicted=6.9e-4),
            made_up("c", predicted=9e-3, elements=100_000)]  # fmt: skip
    assert broken(rows, "predicted within 30%") == (pytest.approx(0.5), False, ["b"])


def test_predictions_with_bandwidths_beside_the_rows_are_a_line_of_their_own():
    rows = [made_up("a", predicted=9e-3), made_up("b", beside=6.9e-4), made_up("c", beside=None)]
    assert broken(rows, "beside each") == (pytest.approx(0.5), False, ["b"])


def results(*rows):
    facts = race.run_facts(3)
    return Results(facts, {"numpy": "2.0"}, {"jax": "not installed"}, rows)


def test_results_survive_json():
    failed = replace(made_up("b"), ways=(Way("fusegraph", reason="lost"),), kernels=())
    made = results(made_up("a", jax=1e-3, copy=5e-4), failed)
    data = json.loads(document(made.to_dict()))
    assert Results.from_dict(data) == made
    assert data["rows"][0]["best_peer"] == "jax"
    assert [one["holds"] for one in data["summary"]].count(None) == 1  # no engine by name


def test_text_tells_rows_versions_what_failed_and_what_is_missing():
    wrong = Way("torch", error=1.0, first=1.0, reason="wrong: an error of 1.0e+00")
    row = made_up("some-row", jax=5e-4)
    text = results_text(results(replace(row, ways=(*row.ways, wrong))))
    for part in ("some-row", "0.50x", "llvm flat from call 3", "numpy 2.0", "jax: not installed",
                 "torch: wrong: an error of 1.0e+00 (some-row)", "some-row 0.50 (jax)"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.2, "1 second"), (59, "59 seconds"), (61, "1 minute"), (200, "3 minutes")],
)
def test_text_tells_how_long_it_took(seconds, text):
    facts = {**race.run_facts(1), "seconds": seconds, "cores": 1, "load": None}
    lines = results_text(Results(facts, {}, {}, (made_up("a"),))).splitlines()
    assert f", 1 round in {text}" in "\n".join(lines)
    assert any(line.startswith("machine") and ", 1 core," in line for line in lines)


def table_of(text, title):
    """Rows of the table below a title, by column; plain tables have two spaces between columns."""
    (part,) = (part for part in text.split("\n\n") if part.startswith(f"{title}\n"))
    _, header, *rows = part.splitlines()
    ends = [m.end() for m in re.finditer(r"\S+", header)]
    names = header.split()
    return {
        row.split()[0]: {
            name: row[start:end].strip()
            for name, start, end in zip(names[1:], ends, ends[1:], strict=False)
        }
        for row in rows
    }


def test_text_has_medians_and_first_calls_of_every_way():
    never = Way("torch", first=5.0, reason="wrong: an error of 1.0e+00")
    late = Way("jax", 5e-4, first=7e-2)
    ways = (*made_up(first=3e-3).ways, late, never)
    text = results_text(results(replace(made_up("a"), ways=ways), made_up("b", first=6e-3)))
    assert table_of(text, "medians of all ways") == {
        "a": {"fusegraph": "1.00 ms", "numpy": "2.00 ms", "jax": "500.00 us"},
        "b": {"fusegraph": "1.00 ms", "numpy": "2.00 ms", "jax": ""},
    }
    assert table_of(text, "first calls of all ways") == {
        "a": {"fusegraph": "3.00 ms", "numpy": "4.00 ms", "jax": "70.00 ms", "torch": "5.00 s"},
        "b": {"fusegraph": "6.00 ms", "numpy": "4.00 ms", "jax": "", "torch": ""},
    }


def test_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from fusegraph.bench.pictures import draw_results

    draw_results(results(made_up("a", jax=1e-3), made_up("b")), tmp_path / "run.svg")
    assert "<svg" in (tmp_path / "run.svg").read_text()


# --- workers --------------------------------------------------------------------------------------


class Stub(Runner):
    """Ways that are right, that are wrong, that raise, and that have no form."""

    name, packages, ways = "stub", ("numpy",), ("right", "wrong", "raises", "none")

    def build(self, way, row, arrays):
        if way == "none":
            raise UnsupportedError("no form")
        if way == "raises":
            raise RuntimeError("first line\nsecond")
        more = 0.0 if way == "right" else 1.0
        return lambda *a: row.function(np, *a) + np.float32(more)


def test_a_worker_checks_every_way():
    worker = Worker(Stub())
    answers = worker.start(find_row("triad-float32-100k").shrunk())
    assert answers["right"]["error"] == 0
    assert answers["right"]["first"] > 0
    assert "reason" not in answers["right"]
    assert answers["wrong"]["reason"].startswith("wrong: an error of ")
    assert answers["raises"]["reason"] == "RuntimeError: first line"
    assert answers["none"]["reason"] == "no form"
    seconds = worker.time("right")["seconds"]
    assert len(seconds) >= 2
    assert min(seconds) > 0
    assert worker.end() == {}
    assert worker.arrays == []


def test_a_worker_holds_the_code_of_its_libraries():
    pieces = list(code_of_this_process())
    held = mapped_code()
    assert sum(map(len, held)) == sum(length for _, _, length in pieces)
    if MAPS.exists():
        library = Path(_multiarray_umath.__file__).resolve()
        assert library in [path.resolve() for path, _, _ in pieces]
    else:
        assert not held


def test_arrays_in_no_form_of_the_library_are_a_reason():
    class Refusing(Stub):
        def own(self, row, arrays):
            raise TypeError("none of these")

    answers = Worker(Refusing()).start(SMALL[0])
    assert answers["right"] == {"reason": "TypeError: none of these"}


def test_fusegraph_settles_before_it_is_timed():
    runner = RUNNERS["fusegraph"]()
    row = find_row("gelu-float32-100k").shrunk()
    worker = Worker(runner)
    answers = worker.start(row)
    facts = answers["fusegraph"]["facts"]
    assert facts["elements"] == 16
    assert facts["bytes_moved"] == 128
    assert all(kernel["predicted"] > 0 for kernel in facts["kernels"])
    assert answers["copy"].keys() == {"facts"}


def test_bandwidths_beside_a_row_are_what_it_is_predicted_with():
    worker = Worker(RUNNERS["fusegraph"]())
    worker.runner.load()
    row = find_row("triad-float32-32M")
    row = replace(row, shapes=tuple((20_000_000,) for _ in row.shapes))
    with fg.options(machine=fg.machine()):  # as in a worker's process
        facts = worker.start(row)["fusegraph"]["facts"]
    streams = worker.answer({"do": "surroundings"})["streams"]
    assert set(streams) == {f"copy {at} {who}" for at in ("L3", "memory") for who in ("one", "all")}
    assert all(0 < found < 1e13 for found in streams.values())
    assert all(kernel["reached"] for kernel in facts["kernels"])
    known = {key: fg.machine().streams[key] for key in streams}
    same, half = (
        worker.answer({"do": "predict", "streams": {k: v * by for k, v in known.items()}})[
            "predicted"
        ]
        for by in (1.0, 0.5)
    )
    assert same == pytest.approx(sum(kernel["predicted"] for kernel in facts["kernels"]))
    assert half == pytest.approx(2 * same, rel=0.01)


def test_what_predicts_nothing_says_so():
    worker = Worker(Stub())
    worker.start(SMALL[0])
    assert worker.answer({"do": "surroundings"}) == {"streams": {}}
    assert worker.answer({"do": "predict", "streams": {}}) == {"predicted": None}


def test_the_copy_takes_every_byte_of_half_the_traffic():
    row = find_row("triad-float32-100k").shrunk(7)
    source, target = np.arange(42, dtype=np.uint8), np.zeros(42, np.uint8)
    for threads in (1, 2, 5, 42):
        target[...] = 0
        copy_on(threads, source, target)()
        np.testing.assert_array_equal(target, source)
    copying(row, row.arrays())()


def test_the_copy_reads_memory_that_was_written(monkeypatch):
    """Pages that nobody wrote are one page, which stays in cache: the bound was too short."""
    sources = []
    monkeypatch.setattr(
        "fusegraph.bench.runners.fused.copy_on",
        lambda threads, source, target: sources.append(source) or (lambda *_: None),
    )
    row = find_row("triad-float32-100k")
    copying(row, row.arrays())
    assert sources
    assert all(source.all() for source in sources)
    assert {source.nbytes for source in sources} == {600_000}


def test_a_library_that_is_not_installed_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run = race.Race(["jax"], 1)
    assert run.missing == {"jax": "not installed"}
    assert run.run(SMALL[0]).ways == ()


def test_a_process_that_ends_says_why():
    with pytest.raises(race.LostError, match="its process ended with 1: KeyError: 'nobody'"):
        race.Process("nobody")


def test_a_lost_process_is_started_again_for_the_next_row():
    run = race.Race(["numpy"], 1)
    try:
        row = find_row("exp-float64-100k")
        lost = run._processes["numpy"]
        lost._process.kill()
        way = run.run(row).way("numpy")
        assert way.seconds is None
        assert way.reason.startswith("its process ended with ")
        assert run.run(row).way("numpy").seconds > 0
    finally:
        run.close()


# --- the command ----------------------------------------------------------------------------------


def test_list_runs_nothing(capsys):
    assert main(["bench", "--list", "--rows", "products"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["row", "group", "dtype", "arrays"]
    assert [line.split()[1] for line in out[1:]] == ["products"] * 3
    assert main(["bench", "--list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == len(SUITE)


def test_rows_that_do_not_exist_are_a_usage_error(capsys):
    assert main(["bench", "--rows", "nothing"]) == 2
    assert "no row is called 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "message"), [("a.txt", "ending"), ("none/a.svg", "no folder")])
def test_a_picture_that_cannot_be_written_is_told_before_the_run(name, message, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["bench", "--plot", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_one_row(tmp_path):
    command = [sys.executable, "-m", "fusegraph", "bench", "--rows", "exp-float64-100k",
               "--peers", "numexpr", "--repeats", "1", "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr.startswith("[1/1] exp-float64-100k: ")
    run = Results.from_dict(json.loads(done.stdout))
    (row,) = run.rows
    assert {"numpy", "numexpr", "fusegraph", "fusegraph.numpy", "copy"} <= {
        w.name for w in row.ways
    }
    for name in ("numpy", "numexpr", "fusegraph", "copy"):
        assert row.way(name).seconds > 0
        assert row.way(name).calls >= 2
    assert row.against_best > 0
    assert {"numpy", "numexpr", "fusegraph"} <= set(run.versions)
    assert run.facts["cores"] == available_cores()


class Talking:
    """A process that answers, and is lost when it is to predict."""

    hello: ClassVar[dict] = {"versions": {}, "ways": ["fusegraph"]}

    def ask(self, **request):
        if request["do"] == "predict":
            raise race.LostError("gone")
        return {
            "start": {"fusegraph": {"first": 1e-3, "error": 0.0, "facts": {}}},
            "surroundings": {"streams": {"copy memory all": 1e9}},
            "time": {"seconds": [2e-3, 1e-3, 3e-3]},
            "end": {},
        }[request["do"]]

    def close(self):
        pass


def test_a_process_that_is_lost_when_it_predicts_leaves_its_times(monkeypatch):
    monkeypatch.setattr(race, "Process", lambda name: Talking())
    run = race.Race(["fusegraph"], 2)
    row = run.run(SMALL[0])
    assert (row.measured, row.predicted_beside, row.way("fusegraph").reason) == (2e-3, None, "")
    assert list(run._processes) == ["fusegraph"], "begun again for the next row"
