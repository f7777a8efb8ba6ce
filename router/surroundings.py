"""Looks now and then at what the router stands on: room on the store's file system, certificates that expire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime

from router.dimse.probing import first_end
from router.domain.events import CertificateExpires, DiskSpace, Event
from router.domain.quarantine import Held
from router.domain.rule import RuleSet
from router.domain.surroundings import Space, certificates, expiry_change, space_change
from router.engine.ports import Clock
from router.errors import StoreError
from router.observe import logs

SPACE_SECONDS = 5.0
CERTIFICATES_SECONDS = 900.0
"""Files are renewed without a reload too."""
LOOK_SECONDS = 1.0
"""How long whoever asks waits for a look; then he is told what the one before found."""
HANGING_SECONDS = 10.0
"""After so long a look that has not ended is a problem itself."""
_STOP_SECONDS = 2.0


class Surroundings:
    """Looks in a thread of its own, which a file system that hangs may hold: nobody waits for it.

    `space` and `quarantined` (how much lies in the quarantine) may raise OSError; `intact`: whether the store's
    directory is the one that was opened. `show_space`, `show_quarantine` and `show_certificates` are told of each look,
    `observer` of what changed, and `well` of what is in order when it is looked at first: no news, but for those who
    knew it otherwise before a restart.
    """

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        space: Callable[[], Space],
        intact: Callable[[], bool],
        clock: Clock,
        observer: Callable[[Event], None],
        show_space: Callable[[Space], None],
        show_certificates: Callable[[Mapping[str, datetime | None]], None],
        quarantined: Callable[[], Held] = Held,
        show_quarantine: Callable[[int], None] = lambda objects: None,
        well: Callable[[Event], None] = lambda event: None,
        first_end: Callable[[str], datetime | None] = first_end,
    ) -> None:
        self._rules = rules
        self._space = space
        self._intact = intact
        self._clock = clock
        self._observer = observer
        self._show_space = show_space
        self._show_certificates = show_certificates
        self._look_at_quarantine = quarantined
        self.quarantined = 0
        """Objects in the quarantine when it was looked at last."""
        self._show_quarantine = show_quarantine
        self._well = well
        self._first_end = first_end
        self._space_told = ""
        self._certificates_told: dict[str, str] = {}
        self._certificates_at = float("-inf")
        self._store_problems: dict[str, str] = {}
        """What the last look at the store found."""
        self._news = threading.Condition()
        self._begun = self._ended = 0
        """Looks at the store."""
        self._began_at = float("-inf")
        """When the last of them began, monotonic."""
        self._stopping = False
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._looking, name="surroundings", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def adopt(self) -> None:
        """The configuration has changed: look at its certificates at once."""
        self._certificates_at = float("-inf")
        self._changed.set()

    def problems(self) -> dict[str, str]:
        """Why the store takes nothing now, by part; of a look that begins now, or the last one where it hangs."""
        if self._thread is None or self._stopping:
            return dict(self._store_problems)
        with self._news:
            wanted = self._begun + 1
            self._changed.set()
            if self._hanging_for() < LOOK_SECONDS:
                self._news.wait_for(lambda: self._ended >= wanted, LOOK_SECONDS)
            if (seconds := self._hanging_for()) >= HANGING_SECONDS:
                return {"disk": f"the file system of the store has not answered for {seconds:.0f} seconds"}
            return dict(self._store_problems)

    def _hanging_for(self) -> float:
        return time.monotonic() - self._began_at if self._begun > self._ended else 0.0

    def look(self) -> None:
        """One look."""
        with self._news:
            self._begun, self._began_at = self._begun + 1, time.monotonic()
        problems = {"disk": "nobody could look at the store; see the log"}
        try:
            problems = self._look_at_store()
        finally:
            with self._news:
                self._ended, self._store_problems = self._begun, problems
                self._news.notify_all()
        if time.monotonic() - self._certificates_at >= CERTIFICATES_SECONDS:
            self._certificates_at = time.monotonic()
            self._look_at_certificates()

    def _looking(self) -> None:
        while not self._stopping:
            self._changed.clear()
            try:
                self.look()
            except Exception as error:  # noqa: BLE001  a defect of ours must not end the looking
                logs.trouble("surroundings", error)
            self._changed.wait(SPACE_SECONDS)

    def _look_at_store(self) -> dict[str, str]:
        """Tell how full it is; what is wrong with it."""
        problems = {} if self._intact() else {"store": "the store's directory was moved or replaced: restart"}
        minimum = self._rules().router.minimum_free
        try:
            space = self._space()
            self.quarantined = self._look_at_quarantine().objects
        except OSError as error:
            logs.trouble("store", StoreError(f"The disk does not say how full it is ({error.strerror})."))
            return {**problems, "disk": error.strerror or "not readable"}
        self._show_space(space)
        self._show_quarantine(self.quarantined)
        change = space_change(self._space_told, space, minimum)
        if change is not None:
            self._tell(change, first=not self._space_told)
            self._space_told = change.state
        if space.free < minimum:
            problems["disk"] = f"{space.free} bytes free in the store, {minimum} wanted"
        return problems

    def _look_at_certificates(self) -> None:
        ends = {key: self._first_end(path) for key, path in certificates(self._rules()).items()}
        self._show_certificates(ends)
        told = self._certificates_told
        self._certificates_told = {}
        for key, end in ends.items():
            before = told.get(key, "")
            change = expiry_change(before, key, end, self._clock.now())
            self._certificates_told[key] = change.state if change is not None else before
            if change is not None:
                self._tell(change, first=not before)

    def _tell(self, change: DiskSpace | CertificateExpires, *, first: bool) -> None:
        (self._well if first and change.state == "ok" else self._observer)(change)
