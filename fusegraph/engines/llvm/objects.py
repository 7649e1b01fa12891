"""Compiled objects on disk, so that the next process links instead of compiling.

In: a key (a hash of everything that shapes the machine code) and an object's bytes. Out: the bytes, or
None. An entry is machine code that will be executed, so it is read as carefully as it is written: an
entry that is damaged, truncated, made for another key, or writable by others is as good as missing. A
cache that cannot be written is no error.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from platformdirs import user_cache_path

FORMAT = b"fusegraph object 1\n"
MOST_BYTES = 64 << 20  # of all entries; a kernel's object takes 2 to 20 kB
SHRINKING = 64  # of so many stores one looks at every entry: 30,000 take 150 ms
_DIGEST = hashlib.sha256().digest_size


def directory() -> Path:
    """Where the objects are kept."""
    return user_cache_path("fusegraph") / "objects"


def key_of(*facts: str) -> bytes:
    """A key: the same facts give the same object."""
    digest = hashlib.sha256()
    for fact in facts:
        encoded = fact.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()


def load(key: bytes) -> bytes | None:
    """The object kept under ``key``; None where there is none that can be trusted."""
    path = _path(key)
    try:
        with path.open("rb") as file:
            if not _ours(os.fstat(file.fileno())):
                return None
            entry = file.read(MOST_BYTES + 1)
        payload = _payload(entry, key)
        if payload is not None:
            os.utime(path)  # when it was last used
    except OSError:
        return None
    return payload


def store(key: bytes, payload: bytes) -> None:
    """Keep an object. Written beside its place and moved there: a reader never sees half of it."""
    path = _path(key)
    if len(payload) > MOST_BYTES // 4:
        return
    partial = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        with os.fdopen(handle, "wb") as file:
            file.write(_entry(payload, key))
        Path(partial).replace(path)
        partial = None
        if key[0] % SHRINKING == 0:
            shrink()
    except OSError:
        pass
    finally:
        if partial is not None:
            with suppress(OSError):
                Path(partial).unlink()


def shrink(most: int | None = None) -> None:
    """Remove what was not used for longest until the entries take at most ``most`` bytes.

    None is ``MOST_BYTES``.
    """
    bound = MOST_BYTES if most is None else most
    found = []
    for entry in os.scandir(directory()):
        with suppress(OSError):  # another process may remove it first
            facts = entry.stat()
            found.append((facts.st_mtime, facts.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, name in sorted(found):
        if total <= bound:
            return
        with suppress(OSError):
            Path(name).unlink()
        total -= size


def _path(key: bytes) -> Path:
    return directory() / f"{key.hex()}.o"


def _entry(payload: bytes, key: bytes) -> bytes:
    return b"".join((FORMAT, key, hashlib.sha256(key + payload).digest(), payload))


def _payload(entry: bytes, key: bytes) -> bytes | None:
    """What an entry holds, if it is whole and made for ``key``."""
    head = FORMAT + key
    start = len(head) + _DIGEST
    payload = entry[start:]
    if not entry.startswith(head) or not payload:
        return None
    if hashlib.sha256(key + payload).digest() != entry[len(head) : start]:
        return None
    return payload


def _ours(facts: os.stat_result) -> bool:
    """A file of this user's that nobody else may write (where the system knows users)."""
    if not hasattr(os, "getuid"):
        return True
    return facts.st_uid == os.getuid() and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
