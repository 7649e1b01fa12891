"""Memory of a thread that compiled code works in: packed tiles, rows that a later phase reads again."""

from __future__ import annotations

import threading

import numpy as np

from fusegraph.buffers import LINE, whole_lines


class Buffer(threading.local):
    """Bytes of one thread, kept from call to call."""

    def __init__(self) -> None:
        self.grow(32 << 10)

    def grow(self, nbytes: int) -> None:
        self.memory = np.empty(nbytes + LINE, np.uint8)
        self.address = whole_lines(self.memory.ctypes.data)

    def address_of(self, nbytes: int) -> int:
        """The address of at least ``nbytes`` bytes, aligned to a cache line."""
        if nbytes + LINE > self.memory.size:
            self.grow(nbytes)
        return self.address


BUFFER = Buffer()
