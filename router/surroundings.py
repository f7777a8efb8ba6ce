"""Looks now and then at what the router stands on: room on the store's file system, certificates that expire."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime

from router.dimse.probing import first_end
from router.domain.events import Event
from router.domain.rule import RuleSet
from router.domain.surroundings import Space, certificates, expiry_change, space_change
from router.engine.ports import Clock
from router.errors import StoreError
from router.observe import logs

SPACE_SECONDS = 5.0
CERTIFICATES_SECONDS = 900.0
"""Files are renewed without a reload too."""
_STOP_SECONDS = 2.0


class Surroundings:
    """Looks in a thread of its own, which a file system that hangs may hold: nobody waits for it.

    `space` may raise OSError. `show_space` and `show_certificates` are told of each look, `observer` of what changed.
    """

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        space: Callable[[], Space],
        clock: Clock,
        observer: Callable[[Event], None],
        show_space: Callable[[Space], None],
        show_certificates: Callable[[Mapping[str, datetime | None]], None],
        first_end: Callable[[str], datetime | None] = first_end,
    ) -> None:
        self._rules = rules
        self._space = space
        self._clock = clock
        self._observer = observer
        self._show_space = show_space
        self._show_certificates = show_certificates
        self._first_end = first_end
        self._space_told = "ok"
        self._certificates_told: dict[str, str] = {}
        self._certificates_at = float("-inf")
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

    def look(self) -> None:
        """One look."""
        self._look_at_space()
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

    def _look_at_space(self) -> None:
        try:
            space = self._space()
        except OSError as error:
            logs.trouble("store", StoreError(f"The disk does not say how full it is ({error.strerror})."))
            return
        self._show_space(space)
        change = space_change(self._space_told, space, self._rules().router.minimum_free)
        if change is not None:
            self._space_told = change.state
            self._observer(change)

    def _look_at_certificates(self) -> None:
        ends = {key: self._first_end(path) for key, path in certificates(self._rules()).items()}
        self._show_certificates(ends)
        told = self._certificates_told
        self._certificates_told = {}
        for key, end in ends.items():
            change = expiry_change(told.get(key, "ok"), key, end, self._clock.now())
            self._certificates_told[key] = change.state if change is not None else told.get(key, "ok")
            if change is not None:
                self._observer(change)
