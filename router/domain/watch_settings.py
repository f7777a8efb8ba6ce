"""What `router.log` and `router.page` say: which lines of a kind are logged, and who may see the pages."""

from __future__ import annotations

import msgspec

from router.domain.secret import Secret


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the log of a service looks like, and what it tells."""

    format: str = "console"
    """`console`: for people; `json`: an object a line."""
    level: str = "info"
    """`debug`, `info`, `warning` or `error`: what matters less is left out."""
    identifiers: str = "hashed"
    """`hashed`: a pseudonym stands for a study; `none`: nothing does."""
    key: Secret | None = None
    """What pseudonyms are made with; None: a key that the ledger keeps."""


class PageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the status page and the API show."""

    identifiers: bool = False
    """UIDs and patient IDs, to those who have shown the token; else pseudonyms stand for studies."""
    hosts: tuple[str, ...] = ()
    """Further names by which browsers may call this router, without a port."""
