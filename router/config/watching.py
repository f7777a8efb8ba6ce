"""Watches the configuration's directory. The only home of watchfiles, which gives hints; contents are the truth.

Editors write in several steps, network file systems tell nobody, and a container's volume swaps a symbolic link:
what counts is the checksum of what would be loaded, and that it has stayed the same for a moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from watchfiles import watch

STILL_SECONDS = 1.0
"""How long the contents must stay the same before they are loaded."""
RESTLESS_SECONDS = 60.0
"""Contents that change again and again are loaded as they are after so long: what is half written is refused."""
_GATHER_SECONDS = 0.3
"""What changes within this time is looked at once, so that a busy directory costs little."""
_HINT_STEP_MILLISECONDS = 100
_HINT_TIMEOUT_MILLISECONDS = 2_000
_STOP_SECONDS = 10.0


class Watched(Protocol):
    """What is watched: `Coordinator`."""

    def changed(self) -> str:
        """The checksum of the contents where they are not those that were loaded last; else empty."""

    def reload(self) -> object:
        """Load them."""


class Watcher:
    """Has changed contents loaded, from a thread of its own.

    `every`: seconds between two looks without a hint. `trouble` takes what goes wrong; the watching goes on.
    """

    def __init__(
        self,
        directory: Path,
        watched: Watched,
        trouble: Callable[[str, BaseException], None],
        *,
        every: float,
        still: float = STILL_SECONDS,
        restless: float = RESTLESS_SECONDS,
    ) -> None:
        self._directory = directory
        self._watched = watched
        self._trouble = trouble
        self._every = every
        self._still = still
        self._restless = restless
        self._hint = threading.Event()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._looking, name="watch", daemon=True),
            threading.Thread(target=self._hinting, name="watch-hints", daemon=True),
        ]

    def start(self) -> None:
        """Begin; what has changed before is noticed too."""
        self._hint.set()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; a reload under way is waited for."""
        self._stopping.set()
        self._hint.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_STOP_SECONDS)

    # looking --------------------------------------------------------------------------------------------------------

    def _looking(self) -> None:
        while not self._stopping.is_set():
            self._hint.wait(self._every)
            self._stopping.wait(_GATHER_SECONDS)
            self._hint.clear()
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  the next look must come
                self._trouble("watch", error)

    def look(self) -> bool:
        """Load the contents if they are others than were loaded last, once they are still; whether they were."""
        seen = self._watched.changed()
        deadline = time.monotonic() + self._restless
        while seen and not self._stopping.wait(self._still):
            before, seen = seen, self._watched.changed()
            if seen and (seen == before or time.monotonic() > deadline):
                self._watched.reload()
                return True
        return False

    # hints ----------------------------------------------------------------------------------------------------------

    def _hinting(self) -> None:
        """Wake the looking when the file system tells of a change; where it does not, the looks come all the same."""
        while not self._stopping.is_set():
            # The directory may be gone, or the system have no watches left: that is what the looks are for.
            with suppress(OSError, RuntimeError):
                self._hint_while_it_is_there()
            self._stopping.wait(min(self._every, _HINT_TIMEOUT_MILLISECONDS / 1000))

    def _hint_while_it_is_there(self) -> None:
        here = self._identity()
        for changes in watch(
            self._directory,
            watch_filter=None,
            step=_HINT_STEP_MILLISECONDS,
            debounce=_HINT_STEP_MILLISECONDS,
            rust_timeout=_HINT_TIMEOUT_MILLISECONDS,
            stop_event=self._stopping,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
        ):
            if changes:
                self._hint.set()
            if self._identity() != here:  # another directory has its name now
                self._hint.set()
                return

    def _identity(self) -> tuple[int, int]:
        found = self._directory.stat()
        return found.st_dev, found.st_ino
