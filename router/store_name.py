"""The name of an object store: in the file `.store` of its root, made by who uses it first, never changed.

It tells receipts of several stores in one ledger apart. Replicas that share a file system have the same one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from router.object_places import FILE_FLAGS

_FILE = ".store"
_NAME = re.compile(r"[0-9a-f]{12}\n?\Z")
_MOST = 64


def named(root: int) -> str:
    """The name of the store whose root is this open directory; it gets one where it has none. Raises OSError."""
    while (name := name_of(root)) is None:
        temporary = f"{_FILE}.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root)
        try:
            os.write(descriptor, f"{secrets.token_hex(6)}\n".encode())
            os.fsync(descriptor)
            with contextlib.suppress(FileExistsError):  # another one was first: its name counts
                _link(temporary, root)
            os.fsync(root)
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=root)
    return name


def name_of(root: int) -> str | None:
    """The name that a store has; None where it has none yet. Raises OSError, also where the file holds none."""
    try:
        descriptor = os.open(_FILE, FILE_FLAGS, dir_fd=root)
    except FileNotFoundError:
        return None
    try:
        text = os.read(descriptor, _MOST).decode("ascii", "replace")
    finally:
        os.close(descriptor)
    if not _NAME.match(text):
        raise OSError(0, f"its file {_FILE} does not hold a name of 12 hexadecimal digits: restore it from a backup")
    return text.strip()


def name_at(root: Path | str) -> str:
    """The name of the store at a place; empty where there is none (yet), or it cannot be read."""
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return name_of(descriptor) or ""
        finally:
            os.close(descriptor)
    except OSError:
        return ""


def _link(temporary: str, root: int) -> None:
    try:
        os.link(temporary, _FILE, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: who is first creates the file itself.
        content = os.open(temporary, FILE_FLAGS, dir_fd=root)
        try:
            name = os.read(content, _MOST)
        finally:
            os.close(content)
        final = os.open(_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root)
        try:
            os.write(final, name)
            os.fsync(final)
        finally:
            os.close(final)
