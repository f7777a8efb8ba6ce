"""The audit repository of tests: syslog servers over UDP and TLS, and what PS3.15 section A.5.1 says of a message."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import ssl
import threading
import xml.etree.ElementTree as ET
from datetime import datetime
from typing import NamedTuple, Self

from tests.support.certificates import Certificate
from tests.support.process import wait_for
from tests.support.sinks import server_context

HEADER = re.compile(
    rb"<(?P<pri>\d{1,3})>1 (?P<at>\S+) (?P<host>\S+) (?P<app>\S+) (?P<process>\S+) (?P<msgid>\S+) - \xef\xbb\xbf"
)

# The schema as a table: element -> attributes that must be and may be there, and its children in order with how many.
_CODED = ({"csd-code", "codeSystemName", "originalText"}, {"displayName"}, ())
_SCHEMA: dict[str, tuple[set[str], set[str], tuple[tuple[str, str], ...]]] = {
    "AuditMessage": (
        set(),
        set(),
        (
            ("EventIdentification", "1"),
            ("ActiveParticipant", "+"),
            ("AuditSourceIdentification", "1"),
            ("ParticipantObjectIdentification", "*"),
        ),
    ),
    "EventIdentification": (
        {"EventDateTime", "EventOutcomeIndicator"},
        {"EventActionCode"},
        (("EventID", "1"), ("EventTypeCode", "*"), ("EventOutcomeDescription", "?")),
    ),
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
        (("RoleIDCode", "*"), ("MediaIdentifier", "?")),
    ),
    "MediaIdentifier": (set(), set(), (("MediaType", "1"),)),
    "MediaType": _CODED,
    "AuditSourceIdentification": (
        {"AuditSourceID"},
        {"AuditEnterpriseSiteID"},
        (("AuditSourceTypeCode", "*"),),
    ),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"},
        {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole"},
        (
            ("ParticipantObjectIDTypeCode", "1"),
            ("ParticipantObjectName|ParticipantObjectQuery", "1"),
            ("ParticipantObjectDetail", "*"),
            ("ParticipantObjectDescription", "*"),
        ),
    ),
    "ParticipantObjectDescription": (set(), set(), (("SOPClass", "*"),)),
    "SOPClass": ({"NumberOfInstances"}, {"UID"}, ()),
    "ParticipantObjectDetail": ({"type", "value"}, set(), ()),
    "AuditSourceTypeCode": ({"csd-code"}, set(), ()),
    "EventID": _CODED,
    "EventTypeCode": _CODED,
    "RoleIDCode": _CODED,
    "ParticipantObjectIDTypeCode": _CODED,
    "EventOutcomeDescription": (set(), set(), ()),
    "ParticipantObjectName": (set(), set(), ()),
    "ParticipantObjectQuery": (set(), set(), ()),
}
_VALUES = {
    "EventActionCode": "[CRUDE]",
    "EventOutcomeIndicator": "0|4|8|12",
    "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectTypeCode": "[1-4]",
    "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
    "NumberOfInstances": r"\d+",
}
# What takes part in a message, and what it is about, by PS3.15 section A.5.3: event -> actions, roles with how often at
# least and at most, participants in all at most, types of objects with how often at least.
_SOURCE, _DESTINATION = "Source Role ID", "Destination Role ID"
_WAYS = {_SOURCE: (1, 1), _DESTINATION: (1, 1)}
_STUDY = {"Study Instance UID": 1, "Patient Number": 1}
_EVENTS: dict[str, tuple[str, dict[str, tuple[int, int]], int, dict[str, int]]] = {
    "110100": ("E", {"Application": (1, 1)}, 3, {}),
    "110102": ("E", _WAYS, 5, _STUDY),
    "110104": ("CRU", _WAYS, 5, _STUDY),
    "110105": ("D", {}, 2, _STUDY),
    "110106": ("R", {_SOURCE: (1, 2), "Destination Media": (1, 1)}, 5, _STUDY),
    "110112": ("E", _WAYS, 5, {"SOP Class UID": 1}),
    "110113": ("E", {}, 5, {"Node ID": 1}),
}
_TIMES = {"1": "{}", "?": "(?:{})?", "*": "(?:{})*", "+": "(?:{})+"}


def validate(element: ET.Element) -> None:
    """Hold an element and all in it against the schema of PS3.15 section A.5.1."""
    needed, allowed, children = _SCHEMA[element.tag]
    given = set(element.attrib)
    assert needed <= given <= needed | allowed, (element.tag, given)
    pattern = "".join(
        _TIMES[times].format(f"(?:{names})," if times == "1" else f"{names},") for names, times in children
    )
    order = "".join(f"{child.tag}," for child in element)
    assert re.fullmatch(pattern, order), (element.tag, order)
    for name, value in element.attrib.items():
        assert re.fullmatch(_VALUES.get(name, r"[\s\S]*"), value), (name, value)
    if element.tag == "ParticipantObjectQuery":
        base64.b64decode(element.text or "", validate=True)
    if element.tag == "ParticipantObjectDetail":
        base64.b64decode(element.attrib["value"], validate=True)
    for child in element:
        validate(child)


def validate_event(heard: Heard) -> None:
    """Hold a message against what PS3.15 section A.5.3 says of its kind."""
    actions, roles, most, objects = _EVENTS[heard.code]
    assert heard.action in actions, heard.code
    assert 1 <= len(heard.sides) <= most, heard.sides
    given = [side.role for side in heard.sides]
    assert {role for role in given if role} == set(roles), given
    for role, (least, at_most) in roles.items():
        assert least <= given.count(role) <= at_most, given
    kinds = [
        one.attrib["originalText"] for one in heard.root.iterfind("ParticipantObjectIdentification/*[@originalText]")
    ]
    assert set(kinds) == set(objects), kinds
    assert all(kinds.count(kind) >= least for kind, least in objects.items()), kinds
    assert all(one.attrib["ParticipantObjectID"] for one in heard.root.iter("ParticipantObjectIdentification"))
    assert all(side.user for side in heard.sides), heard.sides
    assert heard.code == "110100" or sum(side.requestor for side in heard.sides) == 1, heard.sides
    media = {"Destination Media"} if heard.code == "110106" else set()
    with_media = heard.root.iterfind("ActiveParticipant[MediaIdentifier]/RoleIDCode")
    assert {one.attrib["originalText"] for one in with_media} == media


class Side(NamedTuple):
    """An ActiveParticipant, as tests compare it."""

    user: str
    ae_titles: str
    role: str
    requestor: bool


class Heard(NamedTuple):
    """A syslog message that came in, taken apart."""

    pri: int
    at: datetime
    host: str
    process: str
    root: ET.Element

    @property
    def _event(self) -> ET.Element:
        found = self.root.find("EventIdentification")
        assert found is not None
        return found

    @property
    def event(self) -> str:
        return self._event.find("EventID").attrib["originalText"]  # type: ignore[union-attr]

    @property
    def code(self) -> str:
        return self._event.find("EventID").attrib["csd-code"]  # type: ignore[union-attr]

    @property
    def types(self) -> list[str]:
        return [one.attrib["originalText"] for one in self._event.findall("EventTypeCode")]

    @property
    def action(self) -> str:
        return self._event.attrib["EventActionCode"]

    @property
    def outcome(self) -> int:
        return int(self._event.attrib["EventOutcomeIndicator"])

    @property
    def description(self) -> str:
        return self._event.findtext("EventOutcomeDescription", "")

    @property
    def sides(self) -> list[Side]:
        found = []
        for one in self.root.findall("ActiveParticipant"):
            role = one.find("RoleIDCode")
            found.append(
                Side(
                    one.attrib["UserID"],
                    one.attrib.get("AlternativeUserID", ""),
                    "" if role is None else role.attrib["originalText"],
                    one.attrib["UserIsRequestor"] == "true",
                )
            )
        return found

    @property
    def objects(self) -> dict[str, str]:
        """What kind of ID -> the ID."""
        found = {}
        for one in self.root.findall("ParticipantObjectIdentification"):
            kind = one.find("ParticipantObjectIDTypeCode")
            assert kind is not None
            found[kind.attrib["originalText"]] = one.attrib["ParticipantObjectID"]
        return found

    @property
    def instances(self) -> int | None:
        counted = [int(one.attrib["NumberOfInstances"]) for one in self.root.iter("SOPClass")]
        return sum(counted) if counted else None

    @property
    def classes(self) -> dict[str, int]:
        """SOP classes with how many instances; an empty one stands for those that are not told."""
        return {one.attrib.get("UID", ""): int(one.attrib["NumberOfInstances"]) for one in self.root.iter("SOPClass")}

    @property
    def details(self) -> dict[str, str]:
        found = self.root.iter("ParticipantObjectDetail")
        return {one.attrib["type"]: base64.b64decode(one.attrib["value"]).decode() for one in found}

    @property
    def query(self) -> bytes:
        return base64.b64decode(self.root.findtext(".//ParticipantObjectQuery", ""))


def taken_apart(message: bytes) -> Heard:
    """A message that must be one by RFC 5424 and PS3.15 sections A.5.1 and A.6."""
    assert len(message) < 32768
    match = HEADER.match(message)
    assert match, message[:120]
    assert match["app"] == b"dicom-router"
    assert match["msgid"] == b"DICOM+RFC3881"
    root = ET.fromstring(message[match.end() :].decode())
    validate(root)
    at = datetime.fromisoformat(match["at"].decode())
    heard = Heard(int(match["pri"]), at, match["host"].decode(), match["process"].decode(), root)
    validate_event(heard)
    return heard


class Repository:
    """What a syslog server of the tests has heard."""

    port: int

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self._ended = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def heard(self) -> list[Heard]:
        return [taken_apart(message) for message in list(self.messages)]

    @property
    def text(self) -> str:
        return b"\n".join(list(self.messages)).decode()

    def wait(self, count: int) -> list[Heard]:
        """So many messages, once they are there."""
        wait_for(lambda: len(self.messages) >= count, f"{count} audit messages")
        return self.heard


class UdpRepository(Repository):
    """A syslog server over UDP (RFC 5426)."""

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self._socket.settimeout(0.1)
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                self.messages.append(self._socket.recv(1 << 16))


class TlsRepository(Repository):
    """A syslog server over TLS (RFC 5425); with `clients` only who shows a certificate of that file may send."""

    def __init__(self, own: Certificate, *, clients: str = "", port: int = 0) -> None:
        super().__init__()
        context = server_context(own)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(0.1)
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._open: list[ssl.SSLSocket] = []
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(10)

    def hang_up(self) -> None:
        """Close every connection."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                plain, _ = self._listener.accept()
                plain.settimeout(20)
                made = self._context.wrap_socket(plain, server_side=True)
            except OSError:  # nobody came, or somebody without the right certificate
                continue
            self.connections += 1
            self._open.append(made)
            thread = threading.Thread(target=self._listen, args=(made,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _listen(self, made: ssl.SSLSocket) -> None:
        made.settimeout(None)
        buffer = b""
        with contextlib.suppress(OSError):
            while data := made.recv(1 << 16):
                buffer += data
                while (match := re.match(rb"([1-9]\d*) ", buffer)) and len(buffer) >= match.end() + int(match[1]):
                    end = match.end() + int(match[1])
                    self.messages.append(buffer[match.end() : end])
                    buffer = buffer[end:]
