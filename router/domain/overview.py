"""What a ledger tells about itself: who works on it, and how much waits."""

from __future__ import annotations

from datetime import datetime

import msgspec

from router.domain.transfer import State


class ServiceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A running service on a ledger."""

    owner: str
    address: str
    """Of its HTTP, host:port."""
    seen_at: datetime
    content_hash: str = ""
    """Of the configuration it runs."""


class BacklogRow(msgspec.Struct, frozen=True, kw_only=True):
    """Transfers of one state from one source to one destination."""

    source: str
    destination: str
    state: State
    count: int
    oldest_queued_at: datetime | None
