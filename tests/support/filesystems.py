"""Small file systems of their own, so that "the disk is full" is the kernel's word and not a patch of the test's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.process import wait_for

MEBIBYTE = 1 << 20
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_MAKE_SECONDS = 30.0


class SmallDisk:
    """A mounted file system of a few MiB. `hold` takes space away, `let_go` gives it back."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ballast = root / "ballast"

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def hold(self, size: int) -> None:
        """Take this many bytes away, as another program's file would; all that is left if it is less."""
        block = bytes(64 * 1024)
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while size > 0:
                    size -= file.write(block[:size])
            except OSError:
                return

    def fill(self) -> None:
        """Take away all that is left, to the last block."""
        self.hold(1 << 40)

    def let_go(self) -> None:
        """Give back all that was held."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(kind: str, directory: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """Mount a `tmpfs`, or an `ext4` on an image file, below the directory; unmount it in the end, come what may.

    Raises AssertionError, saying what it takes, where this machine does not let the test mount anything.
    """
    root = directory / f"disk-{kind}"
    root.mkdir(parents=True)
    if kind == "tmpfs":
        _call("mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=700", "dicom-router-test", str(root))
    else:
        image = directory / "disk.img"
        with image.open("wb") as file:
            file.truncate(mebibytes * MEBIBYTE)
        _call("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        _call("mount", "-o", "loop", str(image), str(root))  # the loop device goes with the mount
    try:
        yield SmallDisk(root)
    finally:
        _unmount(root)


def _unmount(root: Path) -> None:
    try:
        # What held files there was told to end; give it a moment to be gone.
        wait_for(lambda: _run("umount", str(root)).returncode == 0, f"{root} to be unmounted", 10.0, 0.1)
    except AssertionError:
        _run("umount", "--lazy", str(root))
        raise


def _call(*words: str) -> None:
    done = _run(*words)
    assert done.returncode == 0, (
        f"this test needs a small file system of its own, and `{words[0]}` does not let it have one: run the tests as "
        f"root, on a machine that allows mounts and loop devices ({done.stdout.strip()})"
    )


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": _PATH},
            timeout=_MAKE_SECONDS,
            check=False,
            text=True,
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(words, 127, str(error))
