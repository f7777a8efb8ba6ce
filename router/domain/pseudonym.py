"""Pseudonyms: what stands for an identifier in logs and on pages. Pure."""

from __future__ import annotations

import hashlib
import hmac

LENGTH = 12
"""Hexadecimal digits of a pseudonym: two of a million studies share one in some hundred sites."""


class Pseudonyms:
    """Gives each identifier of a site its pseudonym: the same one always, and no way back without the site's key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, identifier: str) -> str:
        """The pseudonym (HMAC-SHA-256 with the site's key, its first LENGTH digits); empty for what is empty."""
        if not identifier:
            return ""
        return hmac.new(self._key, identifier.encode(), hashlib.sha256).hexdigest()[:LENGTH]
