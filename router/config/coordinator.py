"""Holds the running configuration and swaps it as a whole: a bad edit changes nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from router.config.compiler import Loaded, compile_sources, load, read
from router.config.diagnostics import Diagnostic, as_text
from router.config.secrets import read_secret
from router.domain.events import ConfigurationLoaded, Event
from router.domain.rule import RouterSettings, RuleSet
from router.errors import ConfigurationError

DIAGNOSTICS_TOLD = 50
"""Lines that are logged of one configuration, at most."""


_SWITCH_SECONDS = 0.0005


@contextmanager
def _in_small_steps() -> Iterator[None]:
    """Let other threads go on soon: to compile is one long calculation, which sweeps in many short ones stand beside.

    With the usual interval a thousand rules, which take two seconds, cost them two thirds of their speed meanwhile.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one attempt to load the configuration again."""

    at: datetime
    accepted: bool
    changed: bool
    """Another configuration runs than before."""
    content_hash: str
    """Of what was found in the directory."""
    diagnostics: tuple[Diagnostic, ...]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand with the configuration, at one moment."""

    directory: str
    content_hash: str
    """Of the running configuration."""
    loaded_at: datetime
    """Since when it has been running."""
    files: tuple[str, ...]
    rules: int
    nodes: int
    restart_needed: tuple[str, ...]
    """Keys under `router:` that have changed since the start and take effect after a restart."""
    last: Reload
    """The latest attempt to load it; the first one was the start."""


class Coordinator:
    """The configuration of a service. Thread-safe."""

    def __init__(self, directory: Path, observer: Callable[[Event], None], loaded: Loaded | None = None) -> None:
        """Take what was loaded already (told of by `announce`), else load the directory.

        Raises ConfigurationError, with every error in its message.
        """
        self._directory = directory
        self._observer = observer
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[RuleSet], None]] = []
        self._loaded = loaded or load(directory)
        if self._loaded.rule_set is None:
            observer(ConfigurationLoaded(successful=False, content_hash=self._loaded.content_hash))
            raise ConfigurationError(as_text(self._loaded.errors))
        self._started = self._loaded.rule_set
        self._told_restart: tuple[str, ...] = ()
        self._standing = self._begin(self._loaded, self._started, accepted=True, changed=True)
        self._current = self._started
        if loaded is None:
            self.announce()

    def announce(self) -> None:
        """Tell the observer which configuration runs."""
        running = self._current
        self._observer(
            ConfigurationLoaded(successful=True, content_hash=running.content_hash, work_hash=running.work_hash)
        )

    @property
    def current(self) -> RuleSet:
        """The running configuration: one reference, never half of one and half of another."""
        return self._current

    @property
    def latest(self) -> Loaded:
        """What the latest attempt to load brought, with its diagnostics; its rules run only if it had no error."""
        return self._loaded

    @property
    def standing(self) -> Standing:
        """How things stand: one reference, as `current`."""
        return self._standing

    @property
    def settings(self) -> RouterSettings:
        """What stood under `router:` at the start: it holds until a restart."""
        return self._started.router

    def token(self) -> str | None:
        """The secret that callers must show, read now; None where the configuration has none.

        Raises ConfigurationError where it has one that is not to be had.
        """
        secret = self.settings.token
        return None if secret is None else read_secret(secret)

    def subscribe(self, subscriber: Callable[[RuleSet], None]) -> None:
        """Have a function called with each new configuration, before `reload` returns. It must not raise.

        It is called at once where one has come since the start.
        """
        with self._lock:
            self._subscribers.append(subscriber)
            if self._current is not self._started:
                subscriber(self._current)

    def changed(self) -> str:
        """The content hash of the directory where that differs from the latest attempt's; else empty."""
        found = read(self._directory).content_hash
        return found if found != self._loaded.content_hash else ""

    def reload(self) -> Reload:
        """Load again. Where the directory has errors nothing changes.

        Contents that are those of the last attempt are compiled again only where something was wrong with them: a
        certificate, a secret or a recording they name may have come. Subscribers are called for other contents only.
        """
        with self._lock:
            sources = read(self._directory)
            if sources.content_hash != self._loaded.content_hash or self._loaded.diagnostics:
                with _in_small_steps():
                    self._loaded = compile_sources(sources, datetime.now(UTC))
            rule_set = self._loaded.rule_set
            swapped = False
            if rule_set is None:
                standing = self._begin(self._loaded, self._current, accepted=False, changed=False)
            else:
                swapped = rule_set.content_hash != self._current.content_hash
                standing = self._begin(self._loaded, rule_set, accepted=True, changed=swapped)
                if swapped:
                    self._current = rule_set
                    for subscriber in self._subscribers:
                        subscriber(rule_set)
            self._tell(standing, self._loaded.errors)
            self._standing = standing  # last: who sees it sees all that came of it
            return standing.last

    def _begin(self, loaded: Loaded, running: RuleSet, *, accepted: bool, changed: bool) -> Standing:
        """The standing after an attempt."""
        now = datetime.now(UTC)
        last = Reload(
            at=now,
            accepted=accepted,
            changed=changed,
            content_hash=loaded.content_hash,
            diagnostics=loaded.diagnostics,
        )
        if not changed:
            return msgspec.structs.replace(self._standing, last=last)
        return Standing(
            directory=str(self._directory),
            content_hash=running.content_hash,
            loaded_at=now,
            files=loaded.files,
            rules=len(running.rules),
            nodes=len(running.nodes),
            restart_needed=self._started.router.restart_needed(running.router),
            last=last,
        )

    def _tell(self, standing: Standing, errors: Sequence[Diagnostic]) -> None:
        keys = standing.restart_needed if standing.restart_needed != self._told_restart else ()
        self._told_restart = standing.restart_needed
        lines = [str(one.discreet) for one in errors[:DIAGNOSTICS_TOLD]]
        if len(errors) > DIAGNOSTICS_TOLD:
            lines.append(f"and {len(errors) - DIAGNOSTICS_TOLD} more; see the status page, or run validate")
        accepted = standing.last.accepted
        self._observer(
            ConfigurationLoaded(
                successful=accepted,
                content_hash=standing.content_hash if accepted else standing.last.content_hash,
                work_hash=self._current.work_hash if accepted else "",
                diagnostics=tuple(lines),
                restart_needed=keys,
            )
        )
