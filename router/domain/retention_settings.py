"""What `router.retention` says: how long studies are kept in the object store, and how full its disk may become."""

from __future__ import annotations

import msgspec


class Watermark(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the file system that may be in use, of 0 to 1: from `high` on studies leave, until it is `low`."""

    high: float
    low: float


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long studies are kept. Without a watermark all leave that may."""

    keep: float
    """Seconds since the last instance came in, and since the last forward was proven."""
    watermark: Watermark | None = None
