"""Recordings of what a source answered, as YAML files: written at once, read with the place of each mistake."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from router.config.diagnostics import Code, Diagnostic
from router.config.document import (
    MAXIMUM_NODES,
    DocumentError,
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
    parse_document,
)
from router.config.values import is_zone
from router.domain.dicom import Identifier, name_of, tag_of
from router.domain.recording import Recording, calculable
from router.errors import RouterError, UsageError

VERSION = "1"
MAXIMUM_BYTES = 16 << 20
SERIES = "series"
_SHORTEST_KEY = 32
_KEY_BYTES = 32

HEAD = """\
# What a source answered to C-FIND, recorded by: dicom-router query NODE --record FILE
# Replaced: names, UIDs, IDs, accession numbers, birth dates, institutions, and every text that is not known to be
# harmless{kept}. Not replaced: descriptions as they were typed, dates of studies{dates}. Look through them before you
# give this file away; --record-drop KEYWORD leaves an attribute out.
"""

_Elements = dict[int, tuple[str | Identifier, ...]]


# writing --------------------------------------------------------------------------------------------------------------


def write_recording(path: Path, recording: Recording, *, force: bool) -> None:
    """Write it at once or not at all, for its owner only. Raises UsageError where it exists; RouterError."""
    contents = dumped(recording)
    if len(contents) > MAXIMUM_BYTES or _size(recording) > MAXIMUM_NODES:
        raise RouterError(
            f"A recording of {len(recording.studies)} studies is too large to be read again: narrow the keys."
        )
    try:
        path.parent.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".recording-", dir=path.parent)  # readable by its owner only
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(contents)
                stream.flush()
                os.fsync(stream.fileno())
            _put(Path(name), path, force=force)
        finally:
            Path(name).unlink(missing_ok=True)
    except FileExistsError:
        raise refused(path) from None
    except OSError as error:
        raise RouterError(f"The recording cannot be written to {path}: {error.strerror or 'I/O error'}.") from None


def _put(written: Path, path: Path, *, force: bool) -> None:
    """Give a file its name; what has it already stays, unless it is to be replaced."""
    if not force:
        try:
            os.link(written, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without links: somebody else may just be quicker there
            if path.exists():
                raise FileExistsError from None
        else:
            return
    written.replace(path)


def refused(path: Path) -> UsageError:
    """The error for a file that is there already."""
    return UsageError(f"{path} exists already; --force replaces it")


def recording_key(path: Path) -> bytes:
    """The key in a file, which is made where there is none. Raises RouterError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise RouterError(f"The key cannot be written to {path}: {error.strerror or 'I/O error'}.") from None
    else:
        with os.fdopen(handle, "w") as stream:
            stream.write(secrets.token_hex(_KEY_BYTES) + "\n")
    if path.exists() and not path.is_file():
        raise RouterError(f"The key in {path} cannot be read: it is no regular file.")
    try:
        with path.open("rb") as stream:
            key = stream.read(1 << 16).strip()
    except OSError as error:
        raise RouterError(f"The key in {path} cannot be read: {error.strerror or 'I/O error'}.") from None
    if len(key) < _SHORTEST_KEY:
        raise RouterError(f"The key in {path} has less than {_SHORTEST_KEY} characters; delete it, and one is made.")
    return key


def random_key() -> bytes:
    """A key that nobody has afterwards."""
    return secrets.token_bytes(_KEY_BYTES)


def dumped(recording: Recording) -> bytes:
    """The file: a line for each study or series, every value quoted, so that it is read as it stands."""
    lines = [
        f"recording: {VERSION}",
        f"source: {_quoted(recording.source)}",
        *([f"rule: {_quoted(recording.rule)}"] if recording.rule else []),
        *([f"kept: [{', '.join(map(_quoted, recording.kept))}]"] if recording.kept else []),
        f"recorded_at: {_quoted(recording.recorded_at.isoformat())}",
        f"timezone: {_quoted(recording.timezone)}",
        f"complete: {str(recording.complete).lower()}",
        f"shifted: {str(recording.shifted).lower()}",
        f"keys: {_row(recording.keys)}",
        f"returned: [{', '.join(map(_quoted, recording.returned))}]",
        "studies:" if recording.studies else "studies: {}",
    ]
    for name, row in recording.studies.items():
        below = recording.series.get(name)
        if below is None:
            lines.append(f"  {name}: {_row(row)}")
            continue
        lines.append(f"  {name}:")
        lines += [f"    {_name(tag)}: {_values(values)}" for tag, values in row.elements.items()]
        lines.append(f"    {SERIES}:" if below else f"    {SERIES}: {{}}")
        lines += [f"      {series}: {_row(one)}" for series, one in below.items()]
    dates = " (shifted, all by the same number of weeks)" if recording.shifted else ""
    kept = f" (kept: {', '.join(recording.kept)})" if recording.kept else ""
    return (HEAD.format(dates=dates, kept=kept) + "\n".join(lines) + "\n").encode()


def _row(row: Identifier) -> str:
    return "{" + ", ".join(f"{_name(tag)}: {_values(values)}" for tag, values in row.elements.items()) + "}"


def _name(tag: int) -> str:
    name = name_of(tag)
    return _quoted(name) if name.startswith("(") else name


def _values(values: tuple[str | Identifier, ...]) -> str:
    said = [_row(value) if isinstance(value, Identifier) else _quoted(value) for value in values]
    return said[0] if len(said) == 1 and isinstance(values[0], str) else f"[{', '.join(said)}]"


_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _quoted(text: str) -> str:
    """A text in YAML's double quotes: JSON, with escapes for what YAML does not take as it is."""
    said = json.dumps(_SURROGATE.sub("\ufffd", text), ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", said)


def _size(recording: Recording) -> int:
    """The values of the file, as reading counts them; a little more."""

    def of(row: Identifier) -> int:
        return 2 + sum(
            2 + sum(of(value) if isinstance(value, Identifier) else 1 for value in values)
            for values in row.elements.values()
        )

    below = (one for series in recording.series.values() for one in series.values())
    return 100 + sum(map(of, recording.studies.values())) + sum(map(of, below))


# reading --------------------------------------------------------------------------------------------------------------


def read_recording(path: Path) -> Recording:
    """A recording. Raises DocumentError, whose diagnostic has the place in it."""
    try:
        status = path.stat()
    except OSError as error:
        raise _error(str(path), f"cannot be read: {error.strerror or 'I/O error'}") from None
    if not stat.S_ISREG(status.st_mode):
        raise _error(str(path), "cannot be read: it is no regular file")
    return _read(path, status.st_mtime_ns, status.st_size)


def _error(file: str, message: str, node: Node | None = None, hint: str = "") -> DocumentError:
    line, column = (node.line, node.column) if node is not None else (0, 0)
    return DocumentError(
        Diagnostic(file=file, line=line, column=column, code=Code.RECORDING, message=message, hint=hint)
    )


@lru_cache(maxsize=8)
def _read(path: Path, modified_ns: int, size: int) -> Recording:
    """Read it once while it stays as it is: a configuration is loaded again and again."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            contents = stream.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise _error(file, f"cannot be read: {error.strerror or 'I/O error'}") from None
    if len(contents) > MAXIMUM_BYTES:
        raise _error(file, f"is larger than {MAXIMUM_BYTES >> 20} MiB, which no recording is")
    try:
        root, doubles = parse_document(contents, file)
    except DocumentError as error:
        found = error.diagnostic
        raise _error(file, found.message, _At(found), found.hint) from None
    if doubles:
        raise _error(file, doubles[0].message, _At(doubles[0]), doubles[0].hint)
    return _Reader(file).recording(root)


class _At(Node):
    """The place of a diagnostic."""

    def __init__(self, found: Diagnostic) -> None:
        super().__init__(found.file, found.line, found.column)


_KEYS = (
    "recording",
    "source",
    "recorded_at",
    "timezone",
    "complete",
    "shifted",
    "keys",
    "returned",
    "studies",
    "rule",
    "kept",
)
_BOOLEANS = {"true": True, "false": False}
_NONE = "is no recording"
_HOW = "dicom-router query NODE --record FILE writes one"


class _Reader:
    """Makes a recording of a tree; what is not as it was written is refused."""

    def __init__(self, file: str) -> None:
        self._file = file

    def recording(self, root: Node | None) -> Recording:
        if not isinstance(root, MappingNode) or "recording" not in root.values:
            raise _error(self._file, _NONE, root, _HOW)
        if self._text(root, "recording") != VERSION:
            raise self._wrong(root.values["recording"], "is a recording of another version", _HOW)
        for name in root.values:
            if name not in _KEYS:
                raise self._wrong(root.keys[name], f"has the key {name!r}, which no recording has")
        zone = self._text(root, "timezone")
        if not is_zone(zone):
            raise self._wrong(root.values["timezone"], f"names the time zone {zone!r}, which there is not")
        studies: dict[str, Identifier] = {}
        series: dict[str, dict[str, Identifier]] = {}
        for name, row in self._mapping(root, "studies").values.items():
            studies[name] = self._identifier(row, beside=SERIES)
            self._unique(row, studies[name], "StudyInstanceUID")
            if isinstance(row, MappingNode) and SERIES in row.values:
                series[name] = {}
                for one, below in self._mapping(row, SERIES).values.items():
                    series[name][one] = self._identifier(below)
                    self._unique(below, series[name][one], "SeriesInstanceUID")
        return Recording(
            source=self._text(root, "source"),
            recorded_at=self._moment(root),
            timezone=zone,
            keys=self._identifier(self._mapping(root, "keys")),
            returned=tuple(self._texts(root, "returned")),
            studies=studies,
            series=series,
            complete=self._boolean(root, "complete"),
            shifted=self._boolean(root, "shifted"),
            rule=self._text(root, "rule") if "rule" in root.values else "",
            kept=tuple(self._texts(root, "kept")) if "kept" in root.values else (),
        )

    def _wrong(self, node: Node, message: str, hint: str = "") -> DocumentError:
        return _error(self._file, message, node, hint)

    def _value(self, tree: MappingNode, key: str) -> Node:
        if key not in tree.values:
            raise self._wrong(tree, f"{_NONE}: it has no {key!r}", _HOW)
        return tree.values[key]

    def _mapping(self, tree: MappingNode, key: str) -> MappingNode:
        node = self._value(tree, key)
        if not isinstance(node, MappingNode):
            raise self._wrong(node, f"{_NONE}: {key} must be a mapping")
        return node

    def _text(self, tree: MappingNode, key: str) -> str:
        node = self._value(tree, key)
        if not isinstance(node, ScalarNode):
            raise self._wrong(node, f"{_NONE}: {key} must be a text")
        return node.text

    def _texts(self, tree: MappingNode, key: str) -> Iterator[str]:
        node = self._value(tree, key)
        for item in node.items if isinstance(node, SequenceNode) else [node]:
            if not isinstance(item, ScalarNode) or tag_of(item.text) is None:
                raise self._wrong(item, f"{_NONE}: {key} lists DICOM keywords")
            yield item.text

    def _boolean(self, tree: MappingNode, key: str) -> bool:
        text = self._text(tree, key)
        if text not in _BOOLEANS:
            raise self._wrong(tree.values[key], f"{_NONE}: {key} is true or false")
        return _BOOLEANS[text]

    def _moment(self, tree: MappingNode) -> datetime:
        text = self._text(tree, "recorded_at")
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise self._wrong(tree.values["recorded_at"], f"{_NONE}: recorded_at is no moment with an offset from UTC")
        if not calculable(moment):
            raise self._wrong(tree.values["recorded_at"], f"{_NONE}: recorded_at lies in the year {moment.year}")
        return moment

    def _identifier(self, node: Node, beside: str = "") -> Identifier:
        if not isinstance(node, MappingNode):
            raise self._wrong(node, f"{_NONE}: attributes stand in a mapping")
        elements: _Elements = {}
        for name, value in node.values.items():
            if name == beside:
                continue
            tag = tag_of(name)
            if tag is None:
                raise self._wrong(node.keys[name], f"has {name!r}, which is no DICOM attribute")
            items = value.items if isinstance(value, SequenceNode) else [value]
            elements[tag] = tuple(
                item.text if isinstance(item, ScalarNode) else self._identifier(item) for item in items
            )
        return Identifier(elements)

    def _unique(self, node: Node, row: Identifier, name: str) -> None:
        if not row.text(name):
            raise self._wrong(node, f"has a row without {name}")
