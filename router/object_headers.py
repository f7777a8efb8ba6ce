"""What the headers of files of the object store say: of their study as a whole, or of each instance by itself."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from router.domain.dicom import Identifier, filled_in, known_tag
from router.domain.prefetching import ATTRIBUTES
from router.domain.receipt import Receipt

MAXIMUM_SERIES = 50
"""Series of a study of which one file each is read."""

_MODALITY, _MODALITIES = known_tag("Modality"), known_tag("ModalitiesInStudy")
_OF_EACH_SERIES = frozenset({_MODALITY, known_tag("BodyPartExamined")})
_DEPTH = 4

MAXIMUM_VALUE = 1 << 20
"""Bytes of an element (of a sequence with all that is in it); what is longer counts as if it were not there."""


def of_stored(
    root: Path | str, paths: Callable[[str], Iterable[str]]
) -> Callable[[str, Collection[int]], Identifier | None]:
    """What the store says of a study, by its UID, as `ObjectHeaders.study`; `paths` says where its files are."""
    headers = ObjectHeaders(root)
    return lambda study_instance_uid, wanted: headers.study(paths(study_instance_uid), wanted)


def of_each(root: Path | str) -> Callable[[Sequence[Receipt], Collection[int]], dict[str, Identifier]]:
    """What the store says of each of these instances, by SOP Instance UID, as `ObjectHeaders.each`."""
    headers = ObjectHeaders(root)

    def read(receipts: Sequence[Receipt], wanted: Collection[int]) -> dict[str, Identifier]:
        uids = {one.path: one.sop_instance_uid for one in receipts}
        return {uids[path]: header for path, header in headers.each(uids, wanted)}

    return read


class ObjectHeaders:
    """Reads headers of stored objects; pixel data is never touched. Thread-safe."""

    def __init__(self, root: Path | str) -> None:
        self._root = Path(root)

    def study(self, paths: Iterable[str], wanted: Collection[int] = ()) -> Identifier | None:
        """What files, by their paths in the store, say of their study; None where none can be read.

        One file of each series is read, of `MAXIMUM_SERIES` at most: for `prefetching.ATTRIBUTES` and these tags. Of
        Modality and Body Part Examined there is the value of each series, of all else the first; what is blank is left
        out.
        """
        tags = sorted(ATTRIBUTES.union(wanted))
        firsts: dict[str, str] = {}
        for path in sorted(paths):
            firsts.setdefault(path.rpartition("/")[0], path)
        found: dict[int, tuple[str | Identifier, ...]] = {}
        for path in list(firsts.values())[:MAXIMUM_SERIES]:
            header = self._header(path, tags)
            for tag, values in header.elements.items() if header is not None else ():
                if filled_in(values):
                    known = found.setdefault(tag, values)
                    if tag in _OF_EACH_SERIES:
                        found[tag] = tuple(dict.fromkeys((*known, *values)))
        if _MODALITY in found:
            found[_MODALITIES] = found[_MODALITY]
        return Identifier(found) if found else None

    def each(self, paths: Iterable[str], wanted: Collection[int]) -> Iterator[tuple[str, Identifier]]:
        """What each file, by its path in the store, says of these tags; one that cannot be read is left out.

        Private attributes are found by their tags, attributes in sequences with the outermost of them. A value of
        unknown VR is taken as text where it is printable ASCII.
        """
        tags = sorted(wanted)
        for path in paths:
            header = self._header(path, tags)
            if header is not None:
                yield path, header

    def _header(self, path: str, tags: list[int]) -> Identifier | None:
        try:
            with self._opened(path) as file:
                return header_in(file, tags)
        except OSError:
            return None

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[BufferedReader]:
        descriptor = os.open(self._root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            yield file


def header_in(file: BinaryIO | io.RawIOBase, wanted: Collection[int]) -> Identifier | None:
    """What the header in an open Part 10 file says of these tags; None where it cannot be read."""
    try:
        data_set = dcmread(file, stop_before_pixels=True, specific_tags=list(wanted), defer_size=MAXIMUM_VALUE)
        return Identifier(dict(_elements(data_set, 0)))
    except Exception:  # noqa: BLE001  what a file holds is its sender's: there is no end of ways to be broken
        return None


def _elements(data_set: Dataset, depth: int) -> Iterator[tuple[int, tuple[str | Identifier, ...]]]:
    for tag, raw in list(data_set.items()):
        if isinstance(raw, RawDataElement) and raw.value is None and raw.length:
            continue  # too long: it was not read
        element = data_set[tag]
        value = element.value
        if element.VR == "SQ":
            if depth < _DEPTH:
                yield int(element.tag), tuple(Identifier(dict(_elements(item, depth + 1))) for item in value or ())
        else:
            values = value if isinstance(value, (MultiValue, list, tuple)) else [] if value is None else [value]
            yield int(element.tag), tuple(text for one in values if (text := _text(one).strip(" \0")))


def _text(value: object) -> str:
    """A value as text; of bytes that are none, nothing."""
    if not isinstance(value, bytes):
        return str(value)
    text = value.decode("latin-1").strip(" \0")
    return text if text.isascii() and text.isprintable() else ""
