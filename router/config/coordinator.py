"""Holds the running configuration and swaps it as a whole: a bad edit changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from router.config.compiler import Loaded, compile_sources, load, read
from router.config.diagnostics import as_text
from router.domain.events import ConfigurationLoaded, Event
from router.domain.rule import RuleSet
from router.errors import ConfigurationError


class Coordinator:
    """The configuration of a service. Thread-safe."""

    def __init__(self, directory: Path, observer: Callable[[Event], None]) -> None:
        """Load the directory. Raises ConfigurationError, with every error in its message."""
        self._directory = directory
        self._observer = observer
        self._lock = threading.Lock()
        self._subscribers: list[Callable[[RuleSet], None]] = []
        self._loaded = load(directory)
        if self._loaded.rule_set is None:
            observer(ConfigurationLoaded(successful=False, content_hash=self._loaded.content_hash))
            raise ConfigurationError(as_text(self._loaded.errors))
        self._current = self._loaded.rule_set
        observer(ConfigurationLoaded(successful=True, content_hash=self._current.content_hash))

    @property
    def current(self) -> RuleSet:
        """The running configuration: one reference, never half of one and half of another."""
        return self._current

    @property
    def latest(self) -> Loaded:
        """What the latest attempt to load brought, with its diagnostics; its rules run only if it had no error."""
        return self._loaded

    def subscribe(self, subscriber: Callable[[RuleSet], None]) -> None:
        """Have a function called with each new configuration, before `reload` returns. It must not raise."""
        self._subscribers.append(subscriber)

    def reload(self) -> bool:
        """Load again. False, with the running set unchanged, where the directory has errors.

        Contents that are those of the last attempt are not compiled again, and subscribers are not called.
        """
        with self._lock:
            sources = read(self._directory)
            changed = sources.content_hash != self._loaded.content_hash
            if changed:
                self._loaded = compile_sources(sources, datetime.now(UTC))
            rule_set = self._loaded.rule_set
            if rule_set is None:
                self._observer(ConfigurationLoaded(successful=False, content_hash=self._loaded.content_hash))
                return False
            if changed and rule_set.content_hash != self._current.content_hash:
                self._current = rule_set
                for subscriber in self._subscribers:
                    subscriber(rule_set)
            self._observer(ConfigurationLoaded(successful=True, content_hash=self._current.content_hash))
            return True
