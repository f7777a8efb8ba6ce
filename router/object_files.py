"""Files of the object store, read: head, completeness, receipts of what has none. Nothing here writes."""

from __future__ import annotations

import mmap
import os
from datetime import UTC, datetime

from router.domain.extent import Extent
from router.domain.part10 import MAXIMUM_HEAD, FileMeta, decode_file_meta
from router.domain.receipt import Receipt
from router.object_places import FILE_FLAGS, opened

_COMPARE_CHUNK = 1 << 20


def head_of(descriptor: int) -> tuple[FileMeta, int] | None:
    """The file meta information, and where the data set begins; None where it is no head of ours."""
    return decode_file_meta(os.pread(descriptor, MAXIMUM_HEAD, 0))


def cut_off(descriptor: int, transfer_syntax_uid: str, offset: int) -> bool:
    """Whether the data set in a file ends within an element, or is not there at all. Looks at the elements' heads."""
    size = os.fstat(descriptor).st_size
    if size <= offset:
        return True
    extent = Extent(transfer_syntax_uid)
    with (
        mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as content,
        memoryview(content) as view,
        view[offset:] as data,
    ):
        extent.feed(data)
    return extent.cut_off


def damaged_in(directory: int, name: str) -> bool:
    """Whether a file of ours ends too early; one that cannot be read is left alone."""
    with opened(name, FILE_FLAGS, directory) as descriptor:
        if descriptor is None:
            return False
        head = head_of(descriptor)
        return head is None or cut_off(descriptor, head[0].transfer_syntax_uid, head[1])


def same_data_set(descriptor: int, offset: int, final: str, directory: int) -> bool:
    """Whether a file and one of that name hold the same bytes in the same transfer syntax. Raises OSError."""
    held = os.open(final, FILE_FLAGS, dir_fd=directory)
    try:
        theirs, mine = head_of(held), head_of(descriptor)
        if theirs is None or mine is None or theirs[0].transfer_syntax_uid != mine[0].transfer_syntax_uid:
            return False
        held_offset = theirs[1]
        if os.fstat(held).st_size - held_offset != os.fstat(descriptor).st_size - offset:
            return False
        while True:
            one, other = os.pread(descriptor, _COMPARE_CHUNK, offset), os.pread(held, _COMPARE_CHUNK, held_offset)
            if one != other:
                return False
            if not one:
                return True
            offset += len(one)
            held_offset += len(other)
    finally:
        os.close(held)


def receipt_of(meta: FileMeta, study: str, series: str, size: int, received_at: datetime, store: str) -> Receipt:
    """The receipt of an instance under the path that its UIDs make, in the store of that name."""
    return Receipt(
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=meta.sop_instance_uid,
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        calling_ae_title=meta.calling_ae_title,
        size=size,
        path=f"{study}/{series}/{meta.sop_instance_uid}.dcm",
        received_at=received_at,
        store=store,
    )


def receipt_from_file(study: str, series: str, directory: int, name: str, store: str) -> Receipt | None:
    """The receipt of a file of the store of that name; None for what is none of ours."""
    with opened(name, FILE_FLAGS, directory) as descriptor:
        head = head_of(descriptor) if descriptor is not None else None
        if descriptor is None or head is None or head[0].sop_instance_uid != name.removesuffix(".dcm"):
            return None
        meta, offset = head
        if cut_off(descriptor, meta.transfer_syntax_uid, offset):
            return None
        status = os.fstat(descriptor)
        received_at = datetime.fromtimestamp(status.st_mtime, UTC)
        return receipt_of(meta, study, series, status.st_size - offset, received_at, store)
