"""Every listener of a running router, as a stranger: no store, no query, no reload, no page with patient data."""

from __future__ import annotations

import http.client
import os
import re
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest
from starlette.routing import Route

from router.dimse import pdu
from router.dimse.pdu import AssociateRequest, ProposedContext
from router.errors import WireError
from router.ledger.ledger import SqlLedger
from router.web.app import make_app
from tests.support.dcmtk import Address, echoscu, findscu, movescu, storescu
from tests.support.hl7 import PATIENT as ORDERED
from tests.support.hl7 import framed, order, parse_answer
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import make_study
from tests.support.web import PATIENT, STUDY, TOKEN, Configuration, Part, Work
from tests.wire.scu import CT, EXPLICIT, IMPLICIT, VERIFICATION, associate

REQUESTS = {
    **{
        f"{request} {root}": f"1.2.840.10008.5.1.4.1.2.{root}.{number}"
        for root in (1, 2)
        for number, request in enumerate(("C-FIND", "C-MOVE", "C-GET"), 1)
    },
    "worklist": "1.2.840.10008.5.1.4.31",
    "storage commitment": "1.2.840.10008.1.20.1",
    "performed procedure step": "1.2.840.10008.3.1.2.3.3",
    "unified procedure step": "1.2.840.10008.5.1.4.34.6.1",
    "instance availability": "1.2.840.10008.5.1.4.33",
    "print": "1.2.840.10008.5.1.1.9",
}
"""What this router does for nobody: SOP classes of requests other than C-STORE and C-ECHO."""
QUERIES = tuple((sop_class, (IMPLICIT,)) for sop_class in REQUESTS.values())
ELSEWHERE = "127.0.0.2"
"""An address that nobody is allowed to come from."""
RULE = {"sweep": {"source": "pacs", "cron": "0 0 1 1 *", "keys": {"StudyDate": "today"}}, "move": {"to": ["ws"]}}
SECRETS = (PATIENT, STUDY, ORDERED, "Erika", TOKEN)
FILLING = {"id": "1", "word": "cancel", "name": "r"}


class Place:
    """A router with work in its ledger and an image in its store; and what there was before strangers came."""

    def __init__(self, site: Site, router: RunningRouter) -> None:
        self.site = site
        self.router = router
        self.stored = set(site.stored())
        self.states = self.transfers()

    @property
    def dicom(self) -> Address:
        return Address("ROUTER", self.site.dicom_port)

    @property
    def hl7(self) -> int:
        return int(self.site.settings["hl7"]["listen"].rpartition(":")[2])

    def transfers(self) -> dict[int, str]:
        with SqlLedger.open(str(self.site.settings["ledger"]), read_only=True) as ledger:
            return {one.id: str(one.state) for one in ledger.transfers() if one.id < 3}

    def metric(self, line: str) -> float:
        """A metric, to who shows the token."""
        status, text = self.known("/metrics")
        assert status == 200
        found = re.search(rf"^dicom_router_{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def known(self, path: str) -> tuple[int, str]:
        """What is said to who shows the token."""
        return self.ask("GET", path, headers={"Authorization": f"Bearer {TOKEN}"}, source="127.0.0.1")

    def ask(
        self,
        method: str,
        path: str,
        body: str | None = None,
        headers: dict[str, str] | None = None,
        source: str = ELSEWHERE,
    ) -> tuple[int, str]:
        """Status, and headers and body of an answer; of one without an end what comes first.

        Strangers are elsewhere: their wrong tokens keep nobody else out.
        """
        with closing(
            http.client.HTTPConnection("127.0.0.1", self.site.http_port, timeout=60, source_address=(source, 0))
        ) as connection:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            endless = answer.headers.get("content-type", "").startswith("text/event-stream")
            said = answer.read1(1 << 20) if endless else answer.read()
            return answer.status, f"{answer.headers}\n{said.decode()}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("site")
    Work(directory).ledger.close()
    (directory / "token").write_text(TOKEN)
    site = Site(
        directory,
        nodes={
            "pacs": node("PACS", free_port(), sends_from=["127.0.0.1"], push="allow"),
            "ws": node("WS", free_port()),
        },
        rules={"r": RULE},
        router={
            "receivers": 2,
            "token": {"file": str(directory / "token")},
            "metrics": "guarded",
            "page": {"identifiers": True},
            "hl7": {"listen": f"127.0.0.1:{free_port()}", "from": ["RIS"], "allow": ["127.0.0.1"]},
            "log": {"format": "json"},
        },
    )
    with site.run() as router:
        storescu(Address("ROUTER", site.dicom_port), make_study(directory / "studies").files, calling="PACS")
        wait_for(site.stored, "what a known node stores")
        yield Place(site, router)


def listening(group: int) -> set[int]:
    """The TCP ports that the processes of a group listen on."""
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                inodes |= {str(file.readlink()) for file in (process / "fd").iterdir()}
        except OSError:  # it has ended
            continue
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                ports.add(int(words[1].rpartition(":")[2], 16))
    return ports


def test_there_are_no_listeners_but_those_that_are_walked_here(place: Place) -> None:
    known = {place.site.dicom_port, place.site.http_port, place.hl7}
    assert listening(os.getpgid(place.router.pid)) == known


# --- DICOM ------------------------------------------------------------------------------------------------------------


def rejection(place: Place, source: str, calling: str, called: str = "ROUTER") -> bytes:
    """Result, source and reason of the A-ASSOCIATE-RJ."""
    contexts = (ProposedContext(1, CT, (EXPLICIT,)), ProposedContext(3, VERIFICATION, (IMPLICIT,)))
    with socket.create_connection(("127.0.0.1", place.site.dicom_port), 20, (source, 0)) as connection:
        connection.sendall(pdu.encode_associate_request(AssociateRequest(called, calling, contexts, 16384)))
        answer = connection.recv(64)
    assert answer[0] == 0x03, "A-ASSOCIATE-RJ"
    return answer[7:10]


@pytest.mark.parametrize(
    ("source", "calling", "called", "numbers", "reason"),
    [
        ("127.0.0.1", "STRANGER", "ROUTER", b"\1\1\3", "association-rejected"),
        ("127.0.0.1", "pacs", "ROUTER", b"\1\1\3", "association-rejected"),
        ("127.0.0.1", "PACS", "OTHER", b"\1\1\7", "association-rejected"),
        (ELSEWHERE, "PACS", "ROUTER", b"\1\1\3", "address"),
    ],
)
def test_a_stranger_gets_no_association(
    place: Place, source: str, calling: str, called: str, numbers: bytes, reason: str
) -> None:
    series = f'store_refused_total{{reason="{reason}"}}'
    before = place.metric(series)
    assert rejection(place, source, calling, called) == numbers
    wait_for(lambda: place.metric(series) == before + 1, "the refusal is counted")


def test_a_stranger_stores_nothing_and_gets_no_echo(place: Place, tmp_path: Path) -> None:
    files = make_study(tmp_path).files
    for calling, called in (("STRANGER", "ROUTER"), ("PACS", "OTHER"), ("pacs", "ROUTER")):
        there = Address(called, place.site.dicom_port)
        assert storescu(there, files, calling=calling, check=False).returncode != 0
        assert echoscu(there, calling=calling, check=False).returncode != 0
    assert set(place.site.stored()) == place.stored


def test_nobody_queries_this_router_not_even_a_node(place: Place) -> None:
    with pytest.raises(WireError) as caught:
        associate(place.site.dicom_port, QUERIES, calling="STRANGER")
    assert caught.value.cause == "rejected-1-1-3"
    association = associate(place.site.dicom_port, (*QUERIES, (VERIFICATION, (IMPLICIT,))), calling="PACS")
    assert {context.abstract_syntax for context in association.contexts.values()} == {VERIFICATION}
    association.release(5.0)
    for calling in ("STRANGER", "PACS"):
        with pytest.raises(AssertionError, match=r"Not Recognized|No Acceptable Presentation Contexts"):
            findscu(place.dicom, "STUDY", {"PatientID": PATIENT}, calling=calling)
        assert not movescu(place.dicom, "WS", "STUDY", {"StudyInstanceUID": STUDY}, calling=calling).responses


# --- HL7 --------------------------------------------------------------------------------------------------------------


def answered(place: Place, source: str, data: bytes) -> bytes:
    """What comes back for a message."""
    with socket.create_connection(("127.0.0.1", place.hl7), 20, (source, 0)) as connection:
        try:
            connection.sendall(framed(data))
            return connection.recv(65536)
        except OSError:
            return b""


def test_a_stranger_orders_nothing(place: Place) -> None:
    answer = answered(place, "127.0.0.1", order(application="EVIL"))
    assert parse_answer(answer.strip(b"\x0b\x1c\r")).code == "AR"
    assert ORDERED.encode() not in answer
    assert answered(place, ELSEWHERE, order()) == b"", "hung up on"
    # The one that is hung up on is counted afterwards.
    wait_for(lambda: place.metric('order_messages_refused_total{reason="not-allowed"}') == 2, "both to be counted")


# --- HTTP -------------------------------------------------------------------------------------------------------------


def endpoints() -> list[tuple[str, str]]:
    """Method and path of whatever the router answers to."""
    found = []
    for route in make_app(Part(), Configuration()).routes:
        assert isinstance(route, Route)
        path = route.path.replace("/static/{name}", "/static/page.css")
        for name, value in FILLING.items():
            path = path.replace(f"{{{name}}}", value)
        found += [(method, path) for method in sorted(route.methods or ()) if method != "HEAD"]
    return found


def openly(place: Place, secrets: tuple[str, ...], said: str) -> list[str]:
    uids = {uid for path in (place.site.store).rglob("*.dcm") for uid in (path.stem, path.parent.name)}
    return [one for one in (*secrets, *uids) if len(one) > 3 and one in said]


def test_the_walk_meets_every_way_in() -> None:
    assert {("GET", "/"), ("GET", "/metrics"), ("POST", "/-/reload"), ("POST", "/api/v1/explain")} <= set(endpoints())
    assert len(endpoints()) > 20


MISPLACED = {
    "nothing": {},
    "a cookie": {"Cookie": "dicom-router-session-9104=x"},
    "the token as a cookie": {"Cookie": f"dicom-router-session-9104={TOKEN}; token={TOKEN}"},
    "the token in a header of its own": {"X-Token": TOKEN, "Token": TOKEN, "X-Api-Key": TOKEN},
    "the token without a scheme": {"Authorization": TOKEN},
    "the token as a password": {"Authorization": "Basic " + b64encode(f"admin:{TOKEN}".encode()).decode()},
    "the token through a proxy": {"Proxy-Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "127.0.0.1"},
}
"""What opens nothing; the token does, where it belongs."""


@pytest.mark.parametrize("shown", MISPLACED.values(), ids=list(MISPLACED))
@pytest.mark.parametrize(("method", "path"), [one for one in endpoints() if one[0] == "GET"])
def test_a_stranger_reads_nothing_of_a_patient(place: Place, method: str, path: str, shown: dict[str, str]) -> None:
    status, said = place.ask(method, path, headers=shown)
    assert status in ((401,) if path == "/metrics" else (200, 404))
    assert openly(place, SECRETS, said) == []


@pytest.mark.parametrize("name", ["token", "access_token", "authorization"])
@pytest.mark.parametrize("path", [path for method, path in endpoints() if method == "GET"])
def test_the_token_in_an_address_opens_nothing(place: Place, path: str, name: str) -> None:
    status, said = place.ask("GET", f"{path}?{urlencode({name: TOKEN})}")
    assert status in ((401,) if path == "/metrics" else (200, 400, 404))
    assert openly(place, SECRETS, said) == []


METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for path in sorted({path for _, path in endpoints()})
        for method in METHODS
        if (method, path) not in endpoints()
    ],
)
def test_other_methods_than_those_there_are_do_nothing(place: Place, method: str, path: str) -> None:
    reloads = place.metric("config_last_reload_success_timestamp_seconds")
    status, said = place.ask(method, path, "x=1")
    assert status in (404, 405)
    assert openly(place, SECRETS, said) == []
    assert place.metric("config_last_reload_success_timestamp_seconds") == reloads
    assert place.transfers() == place.states


@pytest.mark.parametrize("path", ["/api/v1/transfers", "/api/v1/transfers/1", "/transfers", "/transfers/1"])
def test_what_a_stranger_is_not_shown_is_there_for_who_shows_the_token(place: Place, path: str) -> None:
    status, said = place.known(path)
    assert status == 200
    assert STUDY in said, "the walk would have met it"


@pytest.mark.parametrize(("method", "path"), [one for one in endpoints() if one[0] != "GET"])
@pytest.mark.parametrize(
    "body",
    [
        ("application/json", f'{{"study_instance_uid": "{STUDY}.1"}}'),
        ("application/x-www-form-urlencoded", urlencode({"study": f"{STUDY}.1", "token": "guess", "form_key": ""})),
    ],
    ids=["JSON", "a form"],
)
@pytest.mark.parametrize(
    "shown", [*MISPLACED.values(), {"Authorization": "Bearer guess"}], ids=[*MISPLACED, "a wrong token"]
)
def test_a_stranger_has_nothing_done(
    place: Place, method: str, path: str, body: tuple[str, str], shown: dict[str, str]
) -> None:
    reloads = place.metric("config_last_reload_success_timestamp_seconds")
    status, said = place.ask(method, path, body[1], {"Content-Type": body[0], **shown})
    assert status in (400, 401, 403, 415, 429) or (path == "/logout" and status == 303)
    assert openly(place, (PATIENT, ORDERED, "Erika", TOKEN), said) == []
    assert place.metric("config_last_reload_success_timestamp_seconds") == reloads
    assert place.transfers() == place.states


def test_neither_the_log_nor_the_metrics_know_whom_strangers_asked_for(place: Place) -> None:
    assert openly(place, SECRETS, place.router.log) == []
    assert openly(place, SECRETS, place.known("/metrics")[1]) == []
