"""Objects on disk: kept, bounded, and never run unless they are whole and made for this key."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from fusegraph.engines.llvm import compiler, objects

TEXT = "define i32 @answer() {{\n  ret i32 {0}\n}}\n"
KEY = objects.key_of("a", "b")
OBJECT = bytes(range(256)) * 8


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "directory", lambda: tmp_path / "objects")


def entry():
    (found,) = objects.directory().glob("*.o")
    return found


def test_what_is_stored_is_loaded():
    assert objects.load(KEY) is None
    objects.store(KEY, OBJECT)
    assert objects.load(KEY) == OBJECT
    assert objects.load(objects.key_of("ab")) is None
    assert not list(objects.directory().glob("*.partial"))


def test_keys_tell_facts_apart():
    facts = [("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ("", "ab")]
    assert len({objects.key_of(*f) for f in facts}) == len(facts)


DAMAGE = {
    "empty": lambda b: b"",
    "truncated": lambda b: b[:-1],
    "half": lambda b: b[: len(b) // 2],
    "only the head": lambda b: b[: len(objects.FORMAT)],
    "longer": lambda b: b + b"\0",
    "one bit of the object": lambda b: b[:-5] + bytes([b[-5] ^ 1]) + b[-4:],
    "one bit of the checksum": lambda b: (
        b[: len(objects.FORMAT) + 40]
        + bytes([b[len(objects.FORMAT) + 40] ^ 1])
        + b[len(objects.FORMAT) + 41 :]
    ),
    "another format": lambda b: b.replace(b"object 1", b"object 9"),
    "something else": lambda b: b"#!/bin/sh\nexit 1\n" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_not_loaded(damage):
    objects.store(KEY, OBJECT)
    path = entry()
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert objects.load(KEY) is None
    objects.store(KEY, OBJECT)
    assert objects.load(KEY) == OBJECT


def test_an_entry_of_another_key_is_not_loaded():
    other = objects.key_of("c")
    objects.store(other, OBJECT)
    entry().rename(objects.directory() / f"{KEY.hex()}.o")
    assert objects.load(KEY) is None


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions of other users")
def test_an_entry_that_others_may_write_is_not_loaded():
    objects.store(KEY, OBJECT)
    entry().chmod(0o666)
    assert objects.load(KEY) is None


def test_what_was_not_used_for_longest_goes_first():
    keys = [objects.key_of(str(n)) for n in range(5)]
    for age, key in enumerate(keys):
        objects.store(key, OBJECT)
        os.utime(objects.directory() / f"{key.hex()}.o", (1e9 + age, 1e9 + age))
    assert objects.load(keys[0]) == OBJECT  # now the last one used
    objects.shrink(2 * (len(OBJECT) + 200))
    assert [objects.load(key) is not None for key in keys] == [True, False, False, False, True]


def test_a_directory_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(objects, "directory", lambda: tmp_path / "file" / "objects")
    objects.store(KEY, OBJECT)
    assert objects.load(KEY) is None
    assert compiler.function(compiler.FLAT, TEXT.format(7), "answer")(None, None) == 7


def test_few_stores_look_at_all_entries(monkeypatch):
    """A store among 30,000 entries took 150 ms, of which all but one was for their sizes."""
    looks = []
    monkeypatch.setattr(objects, "shrink", lambda: looks.append(1))
    for n in range(256):
        objects.store(objects.key_of(str(n)), OBJECT)
    assert 0 < len(looks) < 16


def test_storing_keeps_to_the_bound(monkeypatch):
    monkeypatch.setattr(objects, "MOST_BYTES", 5 * (len(OBJECT) + 200))
    monkeypatch.setattr(objects, "SHRINKING", 1)
    keys = [objects.key_of(str(n)) for n in range(9)]
    for age, key in enumerate(keys):
        objects.store(key, OBJECT)
        os.utime(objects.directory() / f"{key.hex()}.o", (1e9 + age, 1e9 + age))
    assert [objects.load(key) is not None for key in keys] == [False] * 4 + [True] * 5
    objects.store(objects.key_of("large"), OBJECT * 5)  # would throw out what is used
    assert objects.load(objects.key_of("large")) is None


def test_an_object_belongs_to_its_compiler(monkeypatch):
    """What another pipeline or release made of one text is not taken for what this one makes."""
    made = []
    monkeypatch.setattr(objects, "key_of", lambda *facts: made.append(facts) or KEY)
    compiler.Compiler().machine_code(TEXT.format(5))
    (facts,) = made
    binding = pytest.importorskip("llvmlite.binding")
    for fact in (TEXT.format(5), repr(binding.llvm_version_info), compiler.PIPELINE):
        assert fact in facts
    assert binding.get_host_cpu_name() in facts


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_compiler_keeps_objects_and_remakes_damaged_ones(damage):
    text = TEXT.format(41)
    compiler.forget(text)
    assert compiler.function(compiler.FLAT, text, "answer")(None, None) == 41
    kept = entry().read_bytes()
    entry().write_bytes(DAMAGE[damage](kept))
    compiler.forget(text)
    assert compiler.function(compiler.FLAT, text, "answer")(None, None) == 41
    assert entry().read_bytes() == kept


def test_a_second_process_does_not_compile(tmp_path):
    program = textwrap.dedent(f"""
        import sys, numpy as np, pathlib
        import fusegraph as fg
        from fusegraph.engines.llvm import compiler, objects
        objects.directory = lambda: pathlib.Path({str(tmp_path)!r})
        if sys.argv[1] == "second":
            def optimised(self, text):
                raise SystemExit("compiled again")
            compiler.Compiler.optimised = optimised
        x = np.linspace(0, 1, 1000)
        with fg.options(engine="llvm", machine=fg.default_machine()):  # measuring compiles too
            y = (fg.asarray(x) * x + 1).compute()
        assert np.array_equal(y, x * x + 1)
    """)
    for which in ("first", "second"):
        subprocess.run([sys.executable, "-c", program, which], check=True, timeout=120)
    assert len(list(tmp_path.glob("*.o"))) == 2  # the kernel, and the loops around every kernel


def test_llvmlite_is_imported_by_the_first_kernel_only():
    program = (
        "import sys, fusegraph as fg; x = fg.ones(9) + 1;"
        "x.plan(engine='llvm', machine=fg.default_machine());"  # to measure one compiles
        "assert 'llvmlite' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_without_llvmlite_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    with pytest.raises(ImportError, match=r"pip install 'fusegraph\[llvm\]'"):
        compiler.Compiler()


@pytest.mark.parametrize(
    ("metadata", "there"),
    [
        ("0.44.0", False),
        ("0.45.1", True),
        ("0.50.0rc1", True),
        ("1.0", True),
        ("0.46rc1", True),
        ("0+unknown", True),
        (None, False),
    ],
)
def test_an_llvmlite_that_cannot_read_the_ir_is_none(metadata, there, monkeypatch):
    """LLVM 15 took no pointers without types, so that every kernel raised."""

    def version(_name):
        if metadata is None:
            raise compiler.PackageNotFoundError
        return metadata

    monkeypatch.setattr(compiler, "version", version)
    assert compiler.installed() is there


def test_without_llvmlite_everything_else_works():
    program = (
        "import sys; sys.modules['llvmlite'] = None\n"
        "import fusegraph as fg; y = fg.ones(9) + 1\n"
        "assert y.compute().sum() == 18\n"
        "try: y.compute(engine='llvm')\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=120, capture_output=True, text=True
    )
    assert done.stdout.endswith("pip install 'fusegraph[llvm]'\n")


def test_threads_compile_once(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    made = []
    optimised = compiler.Compiler.optimised

    def counted(self, text):
        made.append(text)
        return optimised(self, text)

    monkeypatch.setattr(compiler.Compiler, "optimised", counted)
    text = TEXT.format(int(np.random.default_rng().integers(1 << 30)))
    with ThreadPoolExecutor(8) as pool:
        addresses = set(pool.map(lambda _: compiler.address_of(text, "answer"), range(32)))
    assert len(addresses) == 1
    assert made == [text]
