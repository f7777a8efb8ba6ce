"""Who has logged in: sessions in memory."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable

import msgspec

from router.web.guard import same

SESSION_SECONDS = 12 * 3600
"""From login on; then the token is asked for again."""
MOST_SESSIONS = 100
"""At once; one more ends the oldest."""
_KEY_BYTES = 32
_MOST_MESSAGE = 500


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who has shown the token in a browser."""

    key: str
    """What the cookie holds."""
    form_key: str
    """What each form holds, so that no other site can send one (CSRF)."""
    proof: bytes
    """Of the token that was shown: a new token ends the session."""
    ends: float
    """Monotonic seconds."""


def proof_of(token: str) -> bytes:
    """What is kept of a token that was shown."""
    return hashlib.sha256(token.encode()).digest()


class Sessions:
    """The sessions of a service; they end with it. Thread-safe and bounded."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` counts seconds and never goes back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._messages: dict[str, str] = {}

    def begin(self, token: str) -> Session:
        """A session for who has shown this token."""
        now = self._clock()
        session = Session(
            key=secrets.token_urlsafe(_KEY_BYTES),
            form_key=secrets.token_urlsafe(_KEY_BYTES),
            proof=proof_of(token),
            ends=now + SESSION_SECONDS,
        )
        with self._lock:
            for key in [one.key for one in self._sessions.values() if one.ends <= now]:
                self._end(key)
            while len(self._sessions) >= MOST_SESSIONS:
                self._end(next(iter(self._sessions)))
            self._sessions[session.key] = session
        return session

    def of(self, key: str, token: str | None) -> Session | None:
        """The session of a cookie, if it has not ended; `token` is what has to be shown now, None where nobody may."""
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            if session.ends <= self._clock() or token is None or session.proof != proof_of(token):
                self._end(key)
                return None
            return session

    def end(self, key: str) -> None:
        """End a session; what has ended already stays so."""
        with self._lock:
            self._end(key)

    def leave(self, key: str, message: str) -> None:
        """Leave a message for the next page of a session: what came of an action."""
        with self._lock:
            if key in self._sessions:
                self._messages[key] = message[:_MOST_MESSAGE]

    def message(self, key: str) -> str:
        """The message that was left; it is shown once."""
        with self._lock:
            return self._messages.pop(key, "")

    def _end(self, key: str) -> None:
        self._sessions.pop(key, None)
        self._messages.pop(key, None)


def right(shown: str, token: str) -> bool:
    """Whether that is the token; takes as long whatever is shown."""
    return same(shown.strip(), token)
