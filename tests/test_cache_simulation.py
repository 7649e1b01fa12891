"""The modelled bytes against a cache simulator: cachegrind's, as callgrind runs it.

One process under valgrind evaluates each way once, between two calls of ``getppid``; callgrind writes
its counts at each of them. The simulated last-level cache is 4 MiB, half of the smallest array, so that
what one operation writes has left it before the next one reads: a miss is 64 bytes moved. A line that is
written without having been read counts as a write miss. Plans are made for 1 MiB: what stays from panel
to panel (scratch, and the interpreter, whose 40 kB a smaller cache reads again for each partial sum)
then stays in the simulated cache too. Arrays begin with a cache line: a load that touches two of them is
one miss to the simulator, even where it misses both, as vectors do that are not loaded one by one.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

VALGRIND = shutil.which("valgrind")
LINE = 64  # bytes of a simulated cache line

pytestmark = pytest.mark.skipif(
    VALGRIND is None, reason="valgrind is not installed: it simulates the cache"
)

SCRIPT = '''
import gc, json, os
import numpy as np
import fusegraph as fg
from dataclasses import replace
from fusegraph.machine_file import default_machine


def small_cache():
    """The shipped profile with less cache than is simulated: blocks and the interpreter must fit."""
    return replace(default_machine(), l3_bytes=1 << 20)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * (x * x * x))))


def eager(x):
    """Operand by operand: NumPy reuses no temporary that has a name."""
    half = 0.5 * x
    square = x * x
    cube = square * x
    scaled = 0.044715 * cube
    total = x + scaled
    inner = 0.7978845608028654 * total
    tanh = np.tanh(inner)
    one = 1 + tanh
    return half * one


def rows(x):
    table = x.reshape(-1, 1000)
    return np.maximum(table * table[0] + table[1], 0)


def softmax(x):
    table = x.reshape(-1, 1000)
    e = np.exp(table - table.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x):
    table = x.reshape(-1, 1000)
    away = table - table.mean(axis=-1, keepdims=True)
    return away / np.sqrt((away * away).mean(axis=-1, keepdims=True) + 1e-5)


def total(x):
    half = x.shape[0] // 2
    return (x[:half] * x[half:]).sum()


def attention(x):
    rows = x.reshape(-1, 64)
    keys = rows.shape[0] // 482
    k, v, q = rows[:keys], rows[keys : 2 * keys], rows[2 * keys :]
    scores = (q @ k.T) * 0.125
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)) @ v


WAYS = {  # function, elements, options
    "fuse=False": (gelu, 2_000_000, {"engine": "numpy", "fuse": False}),
    # Scratch of one block enters the cache once: 128 KiB, 1.6 % of an array of 8 MB.
    "numpy": (gelu, 4_000_000, {"engine": "numpy"}),
    "numexpr": (gelu, 2_000_000, {"engine": "numexpr"}),
    "broadcast": (rows, 2_000_000, {"engine": "numpy"}),
    "softmax": (softmax, 4_000_000, {"engine": "numpy"}),
    "layer norm": (layer_norm, 4_000_000, {"engine": "numpy"}),
    "sum of products": (total, 4_000_000, {"engine": "llvm"}),
    "attention": (attention, 482 * 128 * 64, {"engine": "llvm"}),
}

COMPILED = [name for name, (_, _, changes) in WAYS.items() if changes["engine"] == "llvm"]


def ready(share):
    """Bound plans of every way: their blocks fit in the simulated cache."""
    with fg.options(machine=small_cache(), threads=1):
        return {
            name: fg.plan(function(fg.Tensor(x[: size // share])), **changes)
            for name, (function, size, changes) in WAYS.items()
        }


def traffic(plan):
    before, after = plan.traffic.before, plan.traffic.after
    scratch = sum(kernel.scratch_bytes for kernel in plan.kernels)
    moved = [before.bytes_read, before.bytes_written, after.bytes_read, after.bytes_written]
    return {"moved": moved, "scratch": scratch}


gc.disable()  # a collection walks every object of the process
memory = np.empty(16_000_064, np.uint8)
x = memory[-memory.ctypes.data % 64 :][:16_000_000].view(np.float32)
x[:] = 0.5
for plan in ready(16).values():
    plan.run()  # what is loaded or made once
plans = ready(1)
for name in COMPILED:
    plans[name].run()  # what is made once for these shapes: machine code, loops
print(json.dumps({name: traffic(plan) for name, plan in plans.items()}))
for run in (lambda: eager(x[:2_000_000]), *[plan.run for plan in plans.values()]):
    os.getppid()
    run()
    os.getppid()
'''


class Simulation:
    """A run of the script under valgrind, beside whatever else goes on."""

    def __init__(self, folder):
        path = folder / "script.py"
        path.write_text(SCRIPT)
        self.counts = folder / "counts"
        self.process = subprocess.Popen(
            [
                VALGRIND, "--tool=callgrind", "--cache-sim=yes", "--LL=4194304,16,64",
                "--dump-before=getppid", "--combine-dumps=yes",
                f"--callgrind-out-file={self.counts}", sys.executable, str(path),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                 "NUMEXPR_NUM_THREADS": "1", "HOME": str(folder)},
        )  # fmt: skip

    def finish(self):
        """What the script prints, and the counts between its calls of ``getppid``, one dict a part."""
        printed, complaints = self.process.communicate()
        assert self.process.returncode == 0, complaints[-3000:]
        text = self.counts.read_text()
        events = re.search(r"^events: (.*)$", text, re.MULTILINE)[1].split()
        parts = [
            dict(zip(events, map(int, found.split()), strict=False))  # trailing zeros are left out
            for found in re.findall(r"^summary: (.*)$", text, re.MULTILINE)
        ]
        return printed, parts


def begin(folder):
    """Start the simulation, where that is possible: the other tests run meanwhile."""
    return Simulation(folder) if VALGRIND is not None else None


@pytest.fixture(scope="module")
def simulated(simulation):
    """Way -> simulated (bytes read, bytes written), and way -> the model's bytes."""
    printed, parts = simulation.finish()
    modelled = json.loads(printed)
    ways = ["eager", *modelled]
    assert len(parts) == 2 * len(ways) + 1, "a part before each call of getppid, and the last"
    moved = [(LINE * part["DLmr"], LINE * part["DLmw"]) for part in parts[1::2]]
    return dict(zip(ways, moved, strict=True)), modelled


MB = 1_000_000


KEYS = 2 * 128 * 64 * 4  # bytes of the keys and values of attention
ROWS = 240 * KEYS  # of its queries, and of its result


@pytest.mark.parametrize(
    ("way", "reads", "writes"),
    [
        ("eager", 12 * 8 * MB, 9 * 8 * MB),
        ("fuse=False", 12 * 8 * MB, 9 * 8 * MB),
        ("numpy", 16 * MB, 16 * MB),
        ("numexpr", 8 * MB, 8 * MB),
        ("broadcast", 8 * MB, 8 * MB),
        ("softmax", 16 * MB, 16 * MB),
        ("layer norm", 16 * MB, 16 * MB),
        ("sum of products", 16 * MB, 0),
        ("attention", KEYS + ROWS, ROWS),
    ],
)
def test_simulated_bytes_are_the_modelled_bytes(simulated, way, reads, writes):
    moved, modelled = simulated
    model = modelled["fuse=False" if way == "eager" else way]
    before_read, before_written, *after = model["moved"]
    assert after == pytest.approx([reads, writes], abs=8)  # a sum is one number
    if way in ("eager", "fuse=False", "numpy", "numexpr"):  # GELU
        size = reads if after[0] == after[1] else reads // 12
        assert (before_read, before_written) == (12 * size, 9 * size)
    # Scratch enters the cache once, and so does what BLAS packs.
    scratch = model["scratch"] if way == "attention" else 0
    assert moved[way][0] == pytest.approx(reads, rel=0.02, abs=0.02 * reads + scratch)
    assert moved[way][1] == pytest.approx(writes, rel=0.02, abs=0.02 * reads + scratch)
    assert sum(moved[way]) == pytest.approx(reads + writes, rel=0.02, abs=scratch)
