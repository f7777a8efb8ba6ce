"""HL7 messages, read: bytes to what is asked for, or to why they cannot be taken. Pure; no bytes raise an exception.

Wrong in its content is AE, not to be taken at all is AR (HL7 table 0008): no message, a segment or a field that is
missing or unusable are AE; another type, event, version or sender, and more than fits, are AR.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from zoneinfo import ZoneInfo

import hl7

from router.domain.hl7 import (
    APPOINTMENTS,
    CHARACTER_SETS,
    CONTROLS,
    ERROR,
    EVENTS,
    FIELDS,
    ONLY_EVENTS,
    OTHER_EVENT,
    REJECT,
    STATUSES,
    Acknowledgement,
    Hl7Path,
    Hl7Settings,
    Merge,
    OrderMessage,
    OrderRequest,
    Request,
    takes,
)
from router.domain.triggers import MERGE_EVENT
from router.triggers.header import Header, header
from router.triggers.segments import Reader, Refused, Segment, Step, missing, segments_of

MAXIMUM_PARTS = 20_000
"""Fields, components and so on in the segments that are read: each costs hundreds of bytes, whatever it holds."""
MAXIMUM_ORDERS = 500
"""Orders, or merges, of one message."""

_VERSION = re.compile(r"2\.[1-9](\.[0-9])?\Z")
_LINES = re.compile(r"\r\n?|\n")
_NEVER_ABSENT = ("MSH", "PID", "ORC", "SCH", "MRG")
_PARTS_OF_AN_ORDER = ("ORC", "OBR", "IPC")
"""Each more of them is a further order, or a further step of one."""
_REQUIRED = {"ORM": ("PID", "ORC"), "OMI": ("PID", "ORC"), "SIU": ("SCH", "PID"), "ADT": ("PID",)}
_TYPES = frozenset(event.partition("^")[0] for event in EVENTS)


class Reading(NamedTuple):
    """What came of reading a message."""

    header: Header | None
    event: str
    """A word of EVENTS or OTHER_EVENT."""
    content: OrderMessage | Acknowledgement
    """What it asks for, or how it is to be answered."""


def read(data: bytes, settings: Hl7Settings) -> Reading:
    """Read a message, without its frame."""
    head = header(data)
    if head is None:
        return Reading(
            None, OTHER_EVENT, _malformed("This is no HL7 message: it does not begin with a valid MSH segment.")
        )
    kind = head.component(9, 1).upper()
    event = f"{kind}^{head.component(9, 2).upper() or ONLY_EVENTS.get(kind, '')}"
    known = event if event in EVENTS else OTHER_EVENT
    try:
        return Reading(head, known, _message(data, head, kind, event, settings))
    except Refused as refused:
        return Reading(head, known, refused.acknowledgement)


def _malformed(reason: str) -> Acknowledgement:
    return Acknowledgement(code=ERROR, reason=reason, condition=100, word="malformed")


def _unsupported(reason: str, condition: int) -> Acknowledgement:
    return Acknowledgement(code=REJECT, reason=reason, condition=condition, word="unsupported")


def _too_large(reason: str) -> Acknowledgement:
    return Acknowledgement(code=REJECT, reason=reason, condition=207, word="too-large")


def _message(data: bytes, head: Header, kind: str, event: str, settings: Hl7Settings) -> OrderMessage:
    codec = _codec(head, settings)
    try:
        text = data.decode(codec)
    except ValueError:
        raise Refused(_CHARACTER_SET) from None
    reader = Reader(
        kind, head.separators, codec, ZoneInfo(settings.timezone), {**FIELDS.get(kind, {}), **settings.fields}
    )
    segments = _segments(text, head, reader)
    application, facility = (reader.first((Hl7Path("MSH", field, 1),), segments[:1]) for field in (3, 4))
    message = OrderMessage(event=event, application=application, facility=facility)
    if not takes(settings.senders, message):
        reason = "Messages of this sending application are not taken here; see router.hl7.from."
        raise Refused(Acknowledgement(code=REJECT, reason=reason, condition=207, word="not-allowed"))
    _check(head, kind, event)
    names = [segment.name for segment in segments]
    missing = [name for name in _REQUIRED[kind] if name not in names]
    if missing:
        raise Refused(_malformed(f"The message has no {missing[0]} segment; it may have been cut off."))
    if event == MERGE_EVENT:
        merges = tuple(_merges(reader, segments))
        return OrderMessage(event=event, application=application, facility=facility, merges=merges)
    if names.count("PID") > 1:
        raise Refused(_malformed("The message has several PID segments; one patient is expected."))
    requests = tuple(_requests(reader, segments, event))
    return OrderMessage(event=event, application=application, facility=facility, requests=requests)


_CHARACTER_SET = Acknowledgement(
    code=ERROR,
    reason="The bytes of the message do not fit its character set (MSH-18, else router.hl7.character_set).",
    condition=102,
    word="character-set",
)


def _codec(head: Header, settings: Hl7Settings) -> str:
    """The Python codec of a message: by MSH-18 (HL7 table 0211), else by the settings.

    Where several are named, those after the first come in by escape sequences, which only codecs beyond ASCII read.
    """
    named = [name.strip().upper() for name in head.field(18).split(head.separators.repetition) if name.strip()]
    if not named:
        return settings.character_set
    codec = CHARACTER_SETS.get(next((name for name in named if CHARACTER_SETS.get(name) != "ascii"), named[0]))
    if codec is None:
        reason = "The message names a character set (MSH-18) that this router does not read."
        raise Refused(Acknowledgement(code=ERROR, reason=reason, condition=102, word="character-set"))
    return codec


def _check(head: Header, kind: str, event: str) -> None:
    """Refuse what is of another type, event or version (HL7 table 0357: 200, 201, 203)."""
    version = head.component(12, 1)
    if not kind:
        raise missing("The message type (MSH-9) is missing.")
    if kind not in _TYPES:
        raise Refused(_unsupported("Messages of this type are not taken here.", 200))
    if event not in EVENTS:
        raise Refused(_unsupported(f"Of {kind} this event is not taken here.", 201))
    if version and not _VERSION.match(version):
        raise Refused(_unsupported("HL7 versions 2.1 to 2.9 are read here, and the message is of another.", 203))


def _segments(text: str, head: Header, reader: Reader) -> Step:
    """The segments that may be of interest, in order, MSH first; of the others only the names are looked at."""
    wanted = {*_NEVER_ABSENT, *reader.segments}
    mark = head.separators.field
    lines = [
        line for line in _LINES.split(text.lstrip("\ufeff \t\r\n")) if line[:3] in wanted and line[3:4] in ("", mark)
    ]
    if sum(line.startswith("MSH") for line in lines) != 1:
        raise Refused(_malformed("One message is expected in a frame, and here are several."))
    if len(lines) + sum(line.count(separator) for line in lines for separator in head.separators) > MAXIMUM_PARTS:
        raise Refused(_too_large(f"The message has more than {MAXIMUM_PARTS} fields and components."))
    try:
        parsed = hl7.parse("\r".join(lines))
    except Exception as error:  # whatever the library stumbles over is the message's fault
        raise Refused(_malformed("The message cannot be parsed.")) from error
    return segments_of(parsed)


def _orders(segments: Step) -> Iterator[Step]:
    """The segments that each order of a message consists of, with those that all of them share.

    What stands before the first ORC belongs to all. A further OBR or IPC is a further step of its order. A single ZDS
    after the last of them speaks for all (IHE RAD TF-2, RAD-4).
    """
    names = [segment.name for segment in segments]
    alone = names.count("ZDS") == 1 and "ORC" not in names[names.index("ZDS") :]
    shared = [segments[names.index("ZDS")]] if alone else []
    order: Step = []
    places: dict[str, int] = {}
    for segment in segments:
        if segment.name in places:
            yield [*order, *shared]
            order = order[: places[segment.name]]
            places = {name: place for name, place in places.items() if place < len(order)}
        if segment.name in _PARTS_OF_AN_ORDER:
            places[segment.name] = len(order)
        order.append(segment)
    yield [*order, *shared]


def _requests(reader: Reader, segments: Step, event: str) -> Iterator[OrderRequest]:
    kind, _, trigger = event.partition("^")
    by_order = kind in ("ORM", "OMI")
    steps = _orders(segments) if by_order else iter((segments,))
    replaced = by_order and "RO" in {reader.first((_CONTROL,), [segment]).upper() for segment in segments}
    looked_at = 0
    for number, step in enumerate(steps):
        looked_at += len(step)
        if number == MAXIMUM_ORDERS or looked_at > MAXIMUM_PARTS:
            raise Refused(
                _too_large(f"The message has more than {MAXIMUM_ORDERS} orders, or too many segments in each.")
            )
        wanted = _wanted(reader, step, replaced=replaced) if by_order else APPOINTMENTS.get(trigger, Request.SCHEDULE)
        if wanted is not None:
            examination = reader.examination(step, lenient=wanted is Request.CANCEL)
            yield OrderRequest(request=wanted, key=reader.key(step, examination), examination=examination)


_CONTROL, _STATUS = Hl7Path("ORC", 1, 1), Hl7Path("ORC", 5, 1)


def _wanted(reader: Reader, step: Step, *, replaced: bool) -> Request | None:
    """What an order wants. With `replaced` the message also has what takes the place of its RP orders (RO)."""
    control = reader.first((_CONTROL,), step).upper()
    if not control:
        raise missing("The order control code (ORC-1) is missing.")
    wanted = CONTROLS.get(control)
    if wanted is not Request.SCHEDULE:
        return wanted
    if control == "RP" and replaced:
        return Request.CANCEL
    return STATUSES.get(reader.first((_STATUS,), step).upper(), wanted)


def _merges(reader: Reader, segments: Step) -> Iterator[Merge]:
    """The merges of an A40: each MRG with the PID before it; old and new ID of the same issuer where there is one."""
    patient: Segment | None = None
    count = 0
    for segment in segments:
        if segment.name == "PID":
            patient = segment
        if segment.name != "MRG":
            continue
        if patient is None:
            raise Refused(_malformed("A MRG segment stands before any PID segment."))
        new = reader.patient([patient])
        for old in reader.identities(_PRIOR_ID, [segment]):
            count += 1
            if count > MAXIMUM_ORDERS:
                raise Refused(_too_large(f"The message has more than {MAXIMUM_ORDERS} merges."))
            into = next((one for one in new if one.issuer == old.issuer), new[0])
            # One that names no issuer means the other's: never that of whoever happens to have the same number.
            merge = Merge(old.patient_id, old.issuer or into.issuer, into.patient_id, into.issuer or old.issuer)
            if merge[:2] != merge[2:]:
                yield merge
    if not count:
        raise Refused(_malformed("The message has no MRG segment; it may have been cut off."))


_PRIOR_ID = (Hl7Path("MRG", 1, 1),)
