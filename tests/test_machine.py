"""The machine profile: what is measured, how it is kept, and what is never trusted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import fusegraph as fg
from fusegraph import calibrate, machine_file, processor, streams
from fusegraph.engines import ELEMENTWISE_ENGINES
from fusegraph.machine import CLASS_COST, Machine
from fusegraph.machine_file import FORMAT, default_machine, load, save
from fusegraph.ops import OPS


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache file of this test's own, and no profile in memory."""
    path = tmp_path / "deep" / "machine.json"
    monkeypatch.setattr(machine_file, "cache_file", lambda: path)
    monkeypatch.setattr(calibrate, "_current", [])
    return path


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measurement by a profile; counts how often it is asked for."""
    calls = []

    def measure():
        calls.append(1)
        return replace(default_machine(), name=f"measured {len(calls)}", measured=True)

    monkeypatch.setattr(calibrate, "measure", measure)
    return calls


@pytest.fixture(scope="module")
def this_machine():
    return calibrate.measure()


def numbers(machine):
    for value in machine.to_dict().values():
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield value


# --- measuring ------------------------------------------------------------------------------------


def test_a_measurement_is_complete(this_machine):
    assert this_machine.measured
    assert set(this_machine.launch) == set(ELEMENTWISE_ENGINES)
    assert set(this_machine.gigaflops) == {"float32", "float64", "complex64", "complex128"}
    for name in ("add", "multiply", "divide", "sqrt", "exp", "tanh", "where", "sum", "max"):
        assert f"numpy {name} float32" in this_machine.nanoseconds
        assert f"numpy {name} float64" in this_machine.nanoseconds
    assert this_machine.gigaflops_all.keys() == this_machine.gigaflops.keys()
    assert set(this_machine.streams) == {
        f"{stream} {level}"
        for stream in ("read", "copy", "triad")
        for level in ("L1 one", "L2 one", "L3 one", "L3 all", "memory one", "memory all")
    }
    assert "numexpr tanh float32" in this_machine.nanoseconds
    assert "numpy add int64" in this_machine.nanoseconds
    assert this_machine.cores == processor.available_cores()


def test_measured_numbers_are_positive_and_finite(this_machine):
    found = list(numbers(this_machine))
    assert len(found) > 100
    assert all(0 < number < math.inf for number in found)


def test_a_measurement_knows_what_the_defaults_know(this_machine):
    """The shipped profile and a measured one answer the same questions."""
    shipped = default_machine()
    assert set(this_machine.nanoseconds) >= set(shipped.nanoseconds)
    assert set(this_machine.step) == set(shipped.step)


class Simulated:
    """A clock that runs with calls of streams: each takes 400 ns and its bytes, longer at times."""

    speed = 80e9  # bytes per second

    def __init__(self, monkeypatch, slowed):
        self.now, self.slowed = 0.0, slowed
        monkeypatch.setattr(streams, "time", self)
        monkeypatch.setattr(streams, "_call", self.call)

    def perf_counter(self):
        return self.now

    def call(self, stream, *arrays):
        nbytes = sum(x.nbytes for x in arrays)
        self.now += (4e-7 + nbytes / self.speed) * self.slowed(self.now, nbytes)


L1_ARRAYS = [np.zeros(2048, np.float32) for _ in range(2)]


@pytest.mark.parametrize("begin", np.arange(0, 3e-3, 1e-4))
def test_what_others_take_for_a_while_is_no_bandwidth(begin, monkeypatch):
    """Which stood in profiles as an L1 of 16 TB/s, where it fell on the calls that are subtracted."""
    Simulated(monkeypatch, lambda now, _: 3.0 if begin < now < begin + 1.3e-3 else 1.0)
    assert streams._near_bandwidth("copy", L1_ARRAYS) == pytest.approx(Simulated.speed, rel=0.01)


def test_what_others_take_now_and_then_is_no_bandwidth(monkeypatch):
    generator = np.random.default_rng(0)
    Simulated(monkeypatch, lambda *_: 1 + generator.exponential(0.5))
    found = streams._near_bandwidth("copy", L1_ARRAYS)
    assert Simulated.speed / 3 < found < Simulated.speed * 1.5


def test_a_bandwidth_that_nothing_reaches_gives_way_to_whole_calls(monkeypatch):
    Simulated(monkeypatch, lambda _, nbytes: 1.0 if nbytes > 1000 else 2.0)
    seconds = 4e-7 + 16384 / Simulated.speed
    assert streams._near_bandwidth("copy", L1_ARRAYS) == pytest.approx(16384 / seconds)


def test_l1_is_as_fast_as_l2(monkeypatch):
    monkeypatch.setattr(streams, "_bandwidth", lambda stream, nbytes, *_: float(nbytes))
    found = streams.bandwidths(1 << 15, 1 << 20, 1 << 22, 2)
    assert found["copy L1 one"] == found["copy L2 one"] == 1 << 19


def test_l1_is_measured_twice(monkeypatch):
    """What others take may last longer than the milliseconds of one measurement."""
    speeds = iter([50e9, 50e9, 50e9, 110e9, 100e9, 90e9])
    near = 1 << 14
    monkeypatch.setattr(
        streams, "_bandwidth", lambda stream, nbytes, *_: next(speeds) if nbytes == near else 60e9
    )
    found = streams.bandwidths(2 * near, 1 << 20, 1 << 22, 2)
    assert [found[f"{stream} L1 one"] for stream in streams.STREAMS] == [110e9, 100e9, 90e9]


# --- the shipped profile --------------------------------------------------------------------------


def test_the_shipped_profile_loads():
    machine = default_machine()
    assert not machine.measured
    assert all(0 < number < math.inf for number in numbers(machine))
    assert machine.l1_bytes < machine.l2_bytes < machine.l3_bytes


def test_a_measured_operation_has_its_own_figure():
    machine = default_machine()
    known = machine.nanoseconds["numpy tanh float32"]
    assert machine.ns("numpy", "tanh", np.dtype("float32"), "transcendental") == known


@pytest.mark.parametrize("flop_class", CLASS_COST)
def test_an_operation_that_was_not_measured_goes_by_its_class(flop_class):
    machine = default_machine()
    add = machine.nanoseconds["numpy add float64"]
    found = machine.ns("numpy", "no_such_op", np.dtype("float64"), flop_class)
    assert found == add * CLASS_COST[flop_class]


def test_a_dtype_that_was_not_measured_goes_by_its_width():
    known = {f"{engine} add float32": 0.2 for engine in default_machine().launch}
    machine = replace(default_machine(), nanoseconds=known)
    assert machine.ns("numpy", "add", np.dtype("complex128"), "add") == pytest.approx(0.8)
    assert machine.ns("numpy", "add", np.dtype("int8"), "add") == pytest.approx(0.05)
    assert machine.ns("numpy", "divide", np.dtype("float64"), "divide") == pytest.approx(1.6)


@pytest.mark.parametrize("flop_class", sorted({op.flop_class for op in OPS.values()}))
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "complex64"])
def test_every_class_and_dtype_has_an_answer(flop_class, dtype):
    if flop_class:
        for engine in ELEMENTWISE_ENGINES:
            assert default_machine().ns(engine, "?", np.dtype(dtype), flop_class) > 0


def test_bandwidth_is_that_of_the_level_that_holds_the_bytes():
    machine = default_machine()
    for nbytes, threads, level, who in (
        (machine.l2_bytes, 1, "L2", "one"),
        (machine.l2_bytes + 1, 1, "L3", "one"),
        (2 * machine.l2_bytes + 1, 2, "L3", "all"),
        (machine.kept_bytes, 1, "L3", "one"),
        (machine.kept_bytes + 1, 2, "memory", "all"),
    ):
        expected = (level, machine.streams[f"copy {level} {who}"])
        assert machine.bandwidth(nbytes, threads) == expected
    each = machine.streams["copy L2 one"]
    assert machine.bandwidth(2 * machine.l2_bytes, 2) == ("L2", 2 * each)


SIZES = [1 << 10, 1 << 20, 1 << 25, 1 << 28, 1 << 34]


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_pass_at_the_bandwidth_of_a_copy(nbytes, threads):
    """Which is measured so: half of the bytes are read, half are written by ordinary stores."""
    machine = default_machine()
    seconds = machine.transfer_seconds(nbytes, nbytes // 2, threads)
    level, bandwidth = machine.bandwidth(nbytes, threads)
    kept = machine.kept_bytes / nbytes if level == "memory" else 0.0
    assert seconds == pytest.approx(
        nbytes * ((1 - kept) / bandwidth + kept / machine.roof("L3", threads))
    )


def test_a_line_that_is_read_before_it_is_written_counts_twice_in_memory_only():
    machine = default_machine()
    inside, beyond = machine.kept_bytes, 1 << 36
    assert machine.transfer_seconds(inside, inside, 2) == machine.transfer_seconds(inside, 0, 2)
    filled, past = (machine.transfer_seconds(beyond, n, 2) for n in (beyond // 4, 0))
    assert filled / past == pytest.approx(5 / 4, rel=machine.l3_bytes / beyond)


def test_time_does_not_jump_where_the_caches_end():
    machine = default_machine()
    inside = machine.kept_bytes
    at, after = (machine.transfer_seconds(n, n // 2, 2) for n in (inside, inside + 64))
    assert at < after < 1.001 * at


# --- profiles of one's own ------------------------------------------------------------------------


def without(table, key):
    return {table: {k: n for k, n in getattr(default_machine(), table).items() if k != key}}


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"cores": 0}, ValueError, r"cores=0: give a positive integer"),
        ({"cores": 2.5}, TypeError, r"cores=2\.5: give a positive integer"),
        ({"cores": True}, TypeError, r"cores=True: give a positive integer"),
        ({"l2_bytes": -1}, ValueError, r"l2_bytes=-1: give a positive integer"),
        ({"waking": 0.0}, ValueError, r"waking=0\.0: give a positive, finite number"),
        ({"handover": "1"}, TypeError, r"handover='1': give a positive number"),
        ({"launch": [1]}, TypeError, r"launch=\[1\]: give a dictionary"),
        (
            {"step": {"numpy": math.nan}},
            ValueError,
            r"step\['numpy'\]=nan: give a positive, finite",
        ),
        ({"step": {}}, ValueError, r"step has no 'numpy'"),
        ({"streams": {}}, ValueError, r"streams has no 'copy L1 one', .*'copy memory all'"),
        (without("streams", "copy L3 all"), ValueError, r"streams has no 'copy L3 all'"),
        (without("launch", "numexpr"), ValueError, r"launch has no 'numexpr'"),
        (without("nanoseconds", "llvm add float32"), ValueError, r"has no 'llvm add float32'"),
        (without("gigaflops", "float64"), ValueError, r"gigaflops has no 'float64'"),
        (without("gigaflops_all", "float64"), ValueError, r"gigaflops_all has no 'float64'"),
        ({"gigaflops": {}, "gigaflops_all": {}}, ValueError, r"gigaflops has no 'float32'"),
    ],
)
def test_a_profile_that_could_not_plan_is_refused(changes, kind, text):
    with pytest.raises(kind, match=rf"Machine: .*{text}.*; .*replace\(fg\.default_machine\(\)"):
        replace(default_machine(), **changes)


def test_sizes_alone_are_no_profile():
    with pytest.raises(ValueError, match=r"Machine: streams has no 'copy L1 one'"):
        fg.Machine("mine", 4, 32768, 2**20, 2**24)


def test_numpys_integers_are_sizes():
    machine = replace(default_machine(), cores=np.int64(4), l2_bytes=np.int32(1 << 20))
    assert (type(machine.cores), type(machine.l2_bytes)) == (int, int)


@pytest.mark.skipif("llvm" not in ELEMENTWISE_ENGINES, reason="the profile knows every engine")
def test_a_profile_without_an_engine_that_is_installed_is_refused():
    """It failed with a KeyError where a kernel might have gone there."""
    launch = {name: n for name, n in default_machine().launch.items() if name != "llvm"}
    machine = replace(default_machine(), name="older", launch=launch)
    with pytest.raises(ValueError, match="the profile 'older' has no figures of the engine llvm"):
        fg.plan(fg.Tensor(np.zeros(4)) + 1, machine=machine)


@pytest.fixture
def system_caches(tmp_path, monkeypatch):
    """Write what the system says of a cache."""
    monkeypatch.setattr(processor, "Path", lambda _: tmp_path)

    def write(number, level, size, kind="Data"):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text)

    return write


def test_a_cache_of_no_bytes_is_not_taken_from_the_system(system_caches):
    system_caches(0, "1", "0K")
    assert processor.cache_bytes((1, 2, 3)) == (1, 2, 3)


@pytest.mark.parametrize("size", ["", "\n", "K", "many", "32 KiB", "1.5M", "3K2K", "\0"])
def test_a_cache_whose_size_cannot_be_read_is_passed_over(size, system_caches):
    """Measuring the machine, and so the first plan of all, failed with an IndexError."""
    system_caches(0, "1", size)
    system_caches(1, "1", "16K\n", "Instruction\n")
    system_caches(2, "2", "3M\n", "Unified\n")
    system_caches(3, "3", "5000000")
    assert processor.cache_bytes((1, 2, 3)) == (1, 3 << 20, 5_000_000)


# --- the cache file -------------------------------------------------------------------------------


def test_a_profile_comes_back_as_it_was_saved(cache):
    machine = replace(default_machine(), name="round trip", measured=True)
    save(machine, cache)
    assert load(cache).to_dict() == machine.to_dict()
    assert [path.name for path in cache.parent.iterdir()] == [cache.name], "no partial file is left"


def test_a_profile_is_measured_once_and_kept(cache, measured, monkeypatch):
    first = calibrate.current_machine()
    assert calibrate.current_machine() is first
    monkeypatch.setattr(calibrate, "_current", [])  # as in another process
    assert calibrate.current_machine().to_dict() == first.to_dict()
    assert len(measured) == 1
    assert fg.machine().name == "measured 1"


def test_an_engine_that_was_installed_since_is_measured(cache, measured):
    """A profile of before knew nothing of it, and planning failed with a KeyError."""
    launch = {"numpy": 1e-6, "numexpr": 2e-6}
    known = {k: n for k, n in default_machine().nanoseconds.items() if not k.startswith("llvm ")}
    save(replace(default_machine(), launch=launch, nanoseconds=known), cache)
    assert load(cache) is not None
    assert set(ELEMENTWISE_ENGINES) <= set(calibrate.current_machine().launch)
    assert len(measured) == (len(ELEMENTWISE_ENGINES) > 2)


def test_recalibrating_measures_again_and_keeps_that(cache, measured):
    assert calibrate.current_machine().name == "measured 1"
    again = calibrate.recalibrate()
    assert again.name == "measured 2"
    assert calibrate.current_machine() is again
    assert load(cache).name == "measured 2"


def rewritten(path, change):
    """Change the stored record."""
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))


DAMAGE = {
    "empty": lambda path: path.write_text(""),
    "truncated": lambda path: path.write_text(path.read_text()[:500]),
    "no JSON": lambda path: path.write_text("import os"),
    "binary": lambda path: path.write_bytes(b"\x80\xff\x00" * 100),
    "a list": lambda path: path.write_text("[1, 2]"),
    "a number": lambda path: path.write_text("7"),
    "null": lambda path: path.write_text("null"),
    "nested too deep": lambda path: path.write_text("[" * 100_000),
    "another format": lambda path: rewritten(path, lambda s: s.update(format=FORMAT + 1)),
    "no format": lambda path: rewritten(path, lambda s: s.pop("format")),
    "another machine": lambda path: rewritten(path, lambda s: s.update(fingerprint="arm64/x/8/2/2")),
    "no machine": lambda path: rewritten(path, lambda s: s.pop("machine")),
    "machine is text": lambda path: rewritten(path, lambda s: s.update(machine="fast")),
    "unknown field": lambda path: rewritten(path, lambda s: s["machine"].update(warp=9)),
    "missing field": lambda path: rewritten(path, lambda s: s["machine"].pop("l2_bytes")),
    "negative time": lambda path: rewritten(
        path, lambda s: s["machine"]["nanoseconds"].update({"numpy add float32": -1.0})
    ),
    "infinite bandwidth": lambda path: rewritten(
        path, lambda s: s["machine"]["streams"].update({"read L1 one": float("inf")})
    ),
    "a level without its bandwidth": lambda path: rewritten(
        path, lambda s: s["machine"]["streams"].pop("copy L3 all")
    ),
    "not a number": lambda path: rewritten(
        path, lambda s: s["machine"]["launch"].update(numpy=float("nan"))
    ),
    "text for a number": lambda path: rewritten(path, lambda s: s["machine"].update(cores="2")),
    "an engine without its launch": lambda path: rewritten(
        path, lambda s: s["machine"]["launch"].pop("numpy")
    ),
    "no addition to go by": lambda path: rewritten(
        path, lambda s: s["machine"].update(nanoseconds={})
    ),
    "no step": lambda path: rewritten(path, lambda s: s["machine"]["step"].clear()),
    "list for a table": lambda path: rewritten(path, lambda s: s["machine"].update(launch=[1])),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_cannot_be_trusted_is_made_again(cache, measured, damage):
    save(replace(default_machine(), name="old"), cache)
    assert load(cache).name == "old"
    damage(cache)
    assert load(cache) is None
    assert calibrate.current_machine().name == "measured 1"
    assert load(cache).name == "measured 1"


def test_a_missing_file_is_no_profile(tmp_path):
    assert load(tmp_path / "nothing.json") is None
    assert load(tmp_path) is None, "a directory is no profile"


def test_a_new_release_of_numpy_is_another_machine(cache, monkeypatch):
    save(default_machine(), cache)
    monkeypatch.setattr(np, "__version__", "99.0")
    assert load(cache) is None


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path, measured, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the directory should be")
    monkeypatch.setattr(machine_file, "cache_file", lambda: blocked / "machine.json")
    monkeypatch.setattr(calibrate, "_current", [])
    assert calibrate.current_machine().name == "measured 1"
    assert calibrate.recalibrate().name == "measured 2"


def test_a_full_disk_is_no_error_and_leaves_nothing(cache, monkeypatch):
    def full(*args, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(cache), "write_text", full)
    save(default_machine(), cache)
    assert list(cache.parent.iterdir()) == []


def test_an_option_takes_a_profile():
    streams = dict.fromkeys(default_machine().streams, 1e9)
    slow = replace(default_machine(), name="slow", streams=streams)
    x = fg.Tensor(np.zeros(10_000_000, np.float32))
    with fg.options(engine="numpy", threads=1):
        slowly = fg.plan(x + 1, machine=slow)
        plan = fg.plan(x + 1, machine=default_machine())
    assert slowly.seconds > plan.seconds
    assert slowly.plan.machine is slow
    assert slowly.kernels[0].bound == "memory"
    assert isinstance(slowly.plan.machine, Machine)


def test_a_machine_is_shown_in_a_line():
    """It was a line of 10,000 characters."""
    machine = replace(default_machine(), name="box", cores=2, l2_bytes=1 << 20)
    shown = "<machine box: cores 2, L1 {:,} KiB, L2 1,024 KiB, L3 {:,} KiB; shipped figures>"
    assert repr(machine) == shown.format(machine.l1_bytes >> 10, machine.l3_bytes >> 10)
