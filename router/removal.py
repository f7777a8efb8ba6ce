"""Takes files out of the object store for good. What came in a moment ago stays, whoever wanted it removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from router.domain.dicom import is_uid
from router.domain.receipt import Receipt, skew
from router.errors import StoreError
from router.object_places import DIRECTORY_FLAGS, is_at, lock, opened

SETTLE_SECONDS = 900.0
"""A file that was received again within so long before may have a receipt on its way."""
_SLACK_SECONDS = 0.001
"""A receipt that was made of a file has its time but for this."""
_AT_ONCE = 50
"""Files that are removed while receivers of the same study wait."""
_LOCK_SECONDS = 1.0
_INSTANCE = re.compile(r"[0-9.]{1,64}\.dcm\Z")


class Remover:
    """Thread-safe, and safe beside other processes on the same store. Raises StoreError where there is none."""

    def __init__(
        self,
        root: Path | str,
        *,
        durability: str = "fsync",
        wall_clock: Callable[[], float] = time.time,
        ahead: Callable[[], timedelta] = timedelta,
    ) -> None:
        """`ahead`: by how much the clock of receipts is ahead of the machine's, which files have their times by."""
        self.root = Path(root)
        self._durable = durability == "fsync"
        self._wall_clock = wall_clock
        self._ahead = ahead
        try:
            self._root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(
                f"The object store {self.root} cannot be used: {error.strerror}; check router.store, its permissions."
            ) from None

    def close(self) -> None:
        """Give the root back."""
        os.close(self._root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def is_whole(self, study_instance_uid: str, receipts: Sequence[Receipt]) -> bool:
        """Whether the store has files of these, no other of the study, and none that just came again.

        What has been stored, but is not in the ledger yet, shows here; so does a store whose disk is not mounted.
        Raises StoreError.
        """
        known = {(one.series_instance_uid, f"{one.sop_instance_uid}.dcm"): one for one in receipts}
        seen, by = 0, self._skew()
        with self._study(study_instance_uid) as study:
            for series in filter(is_uid, _names(study) if study is not None else ()):
                with opened(series, DIRECTORY_FLAGS, study, FileNotFoundError) as directory:
                    for name in filter(_INSTANCE.match, _names(directory) if directory is not None else ()):
                        receipt = known.get((series, name))
                        if receipt is None or directory is None or self._came_again(receipt, name, directory, by):
                            return False
                        seen += 1
        return seen > 0

    def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
        """Remove the files of these; those of which none is there any more, durably. Raises StoreError.

        One that came again stays. So does all of a study that receivers are too busy with.
        """
        gone: list[Receipt] = []
        by = self._skew()
        by_study = attrgetter("study_instance_uid")
        for uid, of_study in groupby(sorted(receipts, key=by_study), by_study):
            wanted = list(of_study)
            for start in range(0, len(wanted), _AT_ONCE):
                gone += self._remove(uid, wanted[start : start + _AT_ONCE], by)
        return gone

    # ------------------------------------------------------------------------------------------------------------------

    def _remove(self, uid: str, wanted: Sequence[Receipt], by: float) -> list[Receipt]:
        with self._study(uid) as study:
            if study is None:
                return list(wanted)
            gone: list[Receipt] = []
            by_series = attrgetter("series_instance_uid")
            for series, of_series in groupby(sorted(wanted, key=by_series), by_series):
                with opened(series, DIRECTORY_FLAGS, study, FileNotFoundError) as directory:
                    gone += [one for one in of_series if directory is None or self._unlink(one, directory, by)]
                    if directory is not None and self._durable:
                        os.fsync(directory)
                self._remove_empty(series, study)
            self._remove_empty(uid, self._root)
            return gone

    def _unlink(self, receipt: Receipt, directory: int, by: float) -> bool:
        name = f"{receipt.sop_instance_uid}.dcm"
        try:
            if self._came_again(receipt, name, directory, by):
                return False
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        return True

    def _skew(self) -> float:
        # Found out before receivers have to wait: the ledger may be asked for it.
        return skew(self._ahead()).total_seconds()

    def _came_again(self, receipt: Receipt, name: str, directory: int, by: float) -> bool:
        changed_at = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
        later = changed_at + by > receipt.received_at.timestamp() + _SLACK_SECONDS
        return later and changed_at > self._wall_clock() - SETTLE_SECONDS

    def _remove_empty(self, name: str, parent: int) -> None:
        with contextlib.suppress(OSError):  # it is not empty, or gone already
            os.rmdir(name, dir_fd=parent)
            if self._durable:
                os.fsync(parent)

    @contextlib.contextmanager
    def _study(self, uid: str) -> Iterator[int | None]:
        """The study's directory, for us alone; None where there is none. Raises StoreError."""
        try:
            if not is_uid(uid):
                yield None
                return
            with opened(uid, DIRECTORY_FLAGS, self._root, FileNotFoundError) as directory:
                if directory is not None:
                    lock(directory, fcntl.LOCK_EX, _LOCK_SECONDS)
                yield directory if directory is not None and is_at(directory, uid, self._root) else None
        except OSError as error:
            raise StoreError(f"Files in the store {self.root} cannot be removed now: {error.strerror}.") from None


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]
