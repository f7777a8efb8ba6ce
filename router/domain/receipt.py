"""What our Store SCP holds."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that is durably in the object store.

    `path` is relative to the store's root; `size` counts the bytes of the data set.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    size: int
    path: str
    received_at: datetime
