"""Machine code from IR: the one module that knows llvmlite.

In: IR text. Out: the address of a function, from this process's memory, from the disk cache, or
compiled for this processor (O3 with loop vectorisation). What was compiled stays for the life of the
process. ``llvmlite`` is imported when the first kernel is compiled, and takes 40 ms once.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import threading
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fusegraph.engines.llvm import objects

_compiling = threading.Lock()


OLDEST = (0, 45)
"""Of llvmlite: LLVM 15, which earlier ones have, does not read pointers without types."""
REMEDY = (
    "engine='llvm' needs llvmlite 0.45 or later; install it with: pip install 'fusegraph[llvm]'"
)


def installed() -> bool:
    """Is an llvmlite there that reads what we write? It is not imported to find out."""
    if importlib.util.find_spec("llvmlite") is None:
        return False
    try:
        found = re.match(r"(\d+)\.(\d+)", version("llvmlite"))
    except PackageNotFoundError:
        return False
    return found is None or tuple(map(int, found.groups())) >= OLDEST  # one of no number is new


def address_of(text: str, symbol: str, sizes: tuple[int, ...] = ()) -> int:
    """The address of function ``symbol`` of the IR ``text``, compiled if it was not yet.

    ``sizes`` are the words at ``@fg_sizes`` that it reads: other sizes are other copies of one machine
    code, which are linked and not compiled.

    Raises
    ------
    ImportError
        llvmlite is missing; the message says how to install it.
    """
    found = _addresses.get((text, sizes))
    if found is None:
        with _compiling:
            found = _addresses.get((text, sizes))
            if found is None:
                code, names = _compiler().machine_code(text), _EXPORTED.findall(text)
                found = _compiler().link(code, names)
                if sizes:
                    words = (ctypes.c_int64 * len(sizes))(*sizes)
                    ctypes.memmove(found[SIZES], words, ctypes.sizeof(words))
                _addresses[text, sizes] = found
    return found[symbol]


SIZES = "fg_sizes"
PIPELINE = "O3, loops vectorised and interleaved"  # part of the key of what is kept on disk
_addresses: dict[tuple[str, tuple[int, ...]], dict[str, int]] = {}
_EXPORTED = re.compile(rf"^(?:define (?!internal).*?@(?=\w+\()|@(?={SIZES} ))(\w+)", re.MULTILINE)


def forget(text: str) -> None:
    """Let the next call ask the disk again. Machine code that is in use stays where it is."""
    for key in [key for key in _addresses if key[0] == text]:
        del _addresses[key]


def optimised(text: str) -> str:
    """The IR ``text`` after LLVM's passes, for reading."""
    with _compiling:
        return str(_compiler().optimised(text))


def assembly(text: str) -> str:
    """What the processor runs, for reading: the IR ``text`` as assembly."""
    with _compiling:
        compiler = _compiler()
        return str(compiler.machine.emit_assembly(compiler.optimised(text)))


def has_feature(name: str) -> bool:
    """Does this processor have an instruction set: ``f16c``, ``fma``, ...?"""
    with _compiling:
        return bool(_compiler().features.get(name, False))


class Compiler:
    """llvmlite's objects for this processor."""

    def __init__(self) -> None:
        self.binding = _binding()
        self.binding.initialize_native_target()
        self.binding.initialize_native_asmprinter()
        self.cpu = self.binding.get_host_cpu_name()
        self.features = self.binding.get_host_cpu_features()
        self.flags = self._flags()
        self.machine = self._machine()
        self.linker = self.binding.create_lljit_compiler(self._machine())
        self.linked: list[Any] = []  # what keeps the machine code in memory

    def _machine(self) -> Any:
        target = self.binding.Target.from_default_triple()
        return target.create_target_machine(cpu=self.cpu, features=self.flags, opt=3, jit=True)

    def _flags(self) -> str:
        """The processor's features, with the widest vectors where using them costs no clock.

        LLVM keeps to 256 bits on Intel's processors, whose first models with 512 slowed down for them;
        those from Ice Lake on do not. exp of 16,384 float32 took 0.41 ns an element so, 0.30 with 512.
        """
        flags = str(self.features.flatten())
        return flags + ",-prefer-256-bit" if self.features.get("avx512vbmi2", False) else flags

    def machine_code(self, text: str) -> bytes:
        """An object file for ``text``: kept from before, or made now."""
        key = objects.key_of(
            text, self.cpu, self.flags, self.machine.triple, version("llvmlite"),
            repr(self.binding.llvm_version_info), PIPELINE,
        )  # fmt: skip
        found = objects.load(key)
        if found is None:
            found = bytes(self.machine.emit_object(self.optimised(text)))
            objects.store(key, found)
        return found

    def optimised(self, text: str) -> Any:
        """The module after the O3 pipeline. One flat loop has nothing for SLP to find.

        Another pipeline makes other objects of one text: then ``PIPELINE`` has to change.
        """
        module = self.binding.parse_assembly(text)
        module.verify()
        tuning = self.binding.create_pipeline_tuning_options(speed_level=3)
        tuning.loop_vectorization = True
        tuning.loop_interleaving = True
        tuning.loop_unrolling = True
        tuning.slp_vectorization = False
        builder = self.binding.create_pass_builder(self.machine, tuning)
        builder.getModulePassManager().run(module, builder)
        return module

    def link(self, code: bytes, symbols: Sequence[str]) -> dict[str, int]:
        """Load an object into a library of its own, whose names meet nobody else's: its addresses."""
        library = self.binding.JITLibraryBuilder().add_object_img(code).add_current_process()
        for symbol in symbols:
            library = library.export_symbol(symbol)
        tracker = library.link(self.linker, f"k{len(self.linked)}")
        self.linked.append(tracker)
        return {symbol: int(tracker[symbol]) for symbol in symbols}


@cache
def _compiler() -> Compiler:
    return Compiler()


def _binding() -> Any:
    try:
        import llvmlite.binding  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise ImportError(REMEDY) from error
    return llvmlite.binding


# --- calling --------------------------------------------------------------------------------------

FLAT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def function(prototype: Any, text: str, symbol: str) -> Any:
    """A function of the IR ``text``, to be called from Python; calls let go of the GIL."""
    return prototype(address_of(text, symbol))
