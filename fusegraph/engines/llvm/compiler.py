"""Machine code from IR: the one module that knows llvmlite.

In: IR text. Out: the addresses of its functions, from this process's memory, from the disk cache, or
compiled for this processor (O3 with loop vectorisation). Code stays in memory while somebody holds it or
little was made since. ``llvmlite`` is imported when the first kernel is compiled, and takes 40 ms once.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from weakref import WeakValueDictionary

from fusegraph import forks
from fusegraph.engines.llvm import objects
from fusegraph.engines.llvm.streaming import PAST, past_caches

# Whatever calls LLVM holds this: it has locks of its own, which a forked child would find taken.
_compiling = forks.lock()
_unloading: list[object] = []  # let go of by the next one who compiles

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


class MachineCode:
    """Machine code in memory. Its addresses hold for as long as somebody holds this object."""

    __slots__ = ("__weakref__", "_addresses", "_kept")

    def __init__(self, addresses: Mapping[str, int], kept: object) -> None:
        self._addresses = addresses
        self._kept = kept

    def __del__(self, unloading: list[object] = _unloading) -> None:
        # To unload is a call of LLVM, and this may be a garbage collection in any thread.
        unloading.append(self._kept)

    def __getitem__(self, symbol: str) -> int:
        """The address of an exported symbol."""
        return self._addresses[symbol]


def code_of(text: str, sizes: tuple[int, ...] = ()) -> MachineCode:
    """The machine code of the IR ``text``, compiled if it was not yet.

    ``sizes`` are the words at ``@fg_sizes`` that it reads: other sizes are other copies of one machine
    code, which are linked and not compiled.

    Raises
    ------
    ImportError
        llvmlite is missing; the message says how to install it.
    """
    found = _held.get((text, sizes))
    if found is None:
        with _compiling:
            found = _held.get((text, sizes))
            if found is None:
                _unloading.clear()
                found = _held[text, sizes] = _compiler().code(text, sizes)
                _recent.append(found)
    return found


def address_of(text: str, symbol: str) -> int:
    """The address of function ``symbol`` of the IR ``text``, which stays to the end of the process."""
    code = _permanent.get(text)
    if code is None:
        code = _permanent[text] = code_of(text)
    return code[symbol]


SIZES = "fg_sizes"
PIPELINE = "O3, loops vectorised and interleaved"  # part of the key of what is kept on disk
RECENT = (
    256  # pieces of code that are kept whoever holds them, for plans that come back: 65 kB each
)
_held: WeakValueDictionary[tuple[str, tuple[int, ...]], MachineCode] = WeakValueDictionary()
_recent: deque[MachineCode] = deque(maxlen=RECENT)
_permanent: dict[str, MachineCode] = {}
_EXPORTED = re.compile(rf"^(?:define (?!internal).*?@(?=\w+\()|@(?={SIZES} ))(\w+)", re.MULTILINE)


def forget(text: str) -> None:
    """Let the next call ask the disk again. Machine code that is in use stays where it is."""
    for key in [key for key in _held if key[0] == text]:
        del _held[key]


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
        self.count = 0  # of libraries: a name is never used again

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
        if text.startswith(PAST):
            module = self.binding.parse_assembly(past_caches(str(module)))
        return module

    def code(self, text: str, sizes: tuple[int, ...]) -> MachineCode:
        """Machine code for ``text`` in memory, that reads ``sizes``."""
        code = self.link(self.machine_code(text), _EXPORTED.findall(text))
        if sizes:
            words = (ctypes.c_int64 * len(sizes))(*sizes)
            ctypes.memmove(code[SIZES], words, ctypes.sizeof(words))
        return code

    def link(self, code: bytes, symbols: Sequence[str]) -> MachineCode:
        """Load an object into a library of its own, whose names meet nobody else's."""
        library = self.binding.JITLibraryBuilder().add_object_img(code).add_current_process()
        for symbol in symbols:
            library = library.export_symbol(symbol)
        self.count += 1
        tracker = library.link(self.linker, f"k{self.count}")
        # The tracker unloads the library when it goes, which needs the linker.
        return MachineCode(
            {symbol: int(tracker[symbol]) for symbol in symbols}, (tracker, self.linker)
        )


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
    code = code_of(text)
    found = prototype(code[symbol])
    found.code = code  # which it needs
    return found
