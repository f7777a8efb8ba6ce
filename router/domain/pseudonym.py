"""Pseudonyms: what stands for an identifier in logs and on pages. Pure."""

from __future__ import annotations

import hmac
import re

LENGTH = 12
"""Hexadecimal digits of a pseudonym: two of a million studies share one in some hundred sites."""

_PSEUDONYM = re.compile(rf"[0-9a-f]{{{LENGTH}}}\Z")


_UID = re.compile(
    r"\d+(?:\.\d+){4,}"  # an IPv4 address, with its three dots, is none
    r"|(?<![\d.])2\.25(?:\.\d+)+"
    r"|(?<![\d.])[0-2](?=[\d.]*\d{4})(?:\.\d+){2,}"
)
"""Something that may be a UID (PS3.5 section 9.1)."""


def without_uids(text: str) -> str:
    """A text in which something stands for whatever may be a UID: no text should hold one, and none leaves."""
    return _UID.sub("…", text)


def is_pseudonym(text: str) -> bool:
    """Whether a text can be a pseudonym; no UID of practice can: it has dots (PS3.5 section 9.1)."""
    return _PSEUDONYM.match(text) is not None


class Pseudonyms:
    """Gives each identifier of a site its pseudonym: the same one always, and no way back without the site's key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, identifier: str) -> str:
        """The pseudonym (HMAC-SHA-256 with the site's key, its first LENGTH digits); empty for what is empty."""
        if not identifier:
            return ""
        return hmac.digest(self._key, identifier.encode(), "sha256").hex()[:LENGTH]
