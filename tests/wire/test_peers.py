"""C-ECHO, C-FIND and C-MOVE to real archives, and to peers that behave as some in the field do."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, evt

from router.dimse.peers import Peers
from router.dimse.request import find_identifier
from router.domain.dicom import Identifier, InformationModel, QueryRetrieveLevel, SubOperationCounts
from router.domain.events import AssociationEnded, AssociationsActive, Event, NodeReachability
from router.domain.exchange import MoveProgress, MoveRequest
from router.domain.rule import FindSettings, MoveSettings, Node, Timeouts
from router.errors import (
    AssociationAborted,
    AssociationRejected,
    Cancelled,
    ConnectionFailed,
    ConnectionLost,
    ContextRefused,
    DeadlineExceeded,
    LocalProtocolError,
    WireError,
)
from tests.support.process import wait_for
from tests.wire.scripted import Archive
from tests.wire.scu import Server

STUDY, PATIENT = InformationModel.STUDY_ROOT, InformationModel.PATIENT_ROOT
IMPLICIT = "1.2.840.10008.1.2"
Levels = QueryRetrieveLevel


class Observed:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.peers = Peers("ROUTER", self.events.append)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def find(self, node: Node, level: Levels = Levels.STUDY, maximum: int = 1000, **keys: Any):
        keys = keys or {"StudyInstanceUID": "", "PatientID": ""}
        return self.peers.find(node, level, Identifier.of(**keys), maximum=maximum, cancelled=threading.Event())

    def move(self, node: Node, destination: str = "ROUTER", study: str = "1.2.3", **request: Any):
        self.progress: list[MoveProgress] = []
        arguments: dict[str, Any] = {
            "last_arrival": request.pop("last_arrival", lambda: 0.0),
            "cancelled": request.pop("cancelled", threading.Event()),
        }
        asked = MoveRequest(
            **{"destination_ae_title": destination, "level": Levels.STUDY, "study_instance_uid": study, **request}
        )
        return self.peers.move(node, asked, on_response=self.progress.append, **arguments)

    @property
    def opened(self) -> int:
        return sum(event.change > 0 for event in self.of(AssociationsActive))


@pytest.fixture
def router() -> Iterator[Observed]:
    observed = Observed()
    yield observed
    observed.peers.close()
    assert sum(event.change for event in observed.of(AssociationsActive)) == 0


def node(port: int, ae_title: str = "PACS", **settings: Any) -> Node:
    return Node(name="archive", ae_title=ae_title, host="127.0.0.1", port=port, **settings)


# real archives ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["orthanc", "dcmqrscp"])
def archive(request, tmp_path, study, start_orthanc, start_dcmqrscp, storescp):
    """A real archive with two studies, our Store SCP and a third party it knows."""
    made = [study(series=2, instances=2), study(modality="MR", patient_id="TEST-2", patient_name="Roe^Rick")]
    files = [file for one in made for file in one.files]
    with Server(tmp_path / "store") as server:
        destinations = {"ROUTER": server.port, storescp.ae_title: storescp.port}
        if request.param == "orthanc":
            peer = start_orthanc(modalities=destinations)
            peer.upload(*files)
        else:
            peer = start_dcmqrscp(destinations=destinations)
            peer.load(files)
        yield node(peer.address.port, peer.address.ae_title), made, server, storescp


def test_echo_find_and_move_with_a_real_archive(archive, router):
    source, (first, second), server, third_party = archive
    router.peers.echo(source)

    everything = router.find(source, PatientName="", StudyInstanceUID="", ModalitiesInStudy="")
    assert everything.status == 0
    assert {match.text("StudyInstanceUID") for match in everything.identifiers} == {
        first.study_instance_uid,
        second.study_instance_uid,
    }
    assert everything.undecodable == 0
    (only,) = router.find(source, PatientName="Roe*", StudyInstanceUID="").identifiers
    assert only.text("PatientName") == "Roe^Rick"
    series = router.find(source, Levels.SERIES, StudyInstanceUID=first.study_instance_uid, SeriesInstanceUID="")
    assert {match.text("SeriesInstanceUID") for match in series.identifiers} == set(first.series)
    one = next(iter(first.series))
    images = router.find(
        source,
        Levels.IMAGE,
        StudyInstanceUID=first.study_instance_uid,
        SeriesInstanceUID=one,
        SOPInstanceUID="",
    )
    assert len(images.identifiers) == 2
    patients = router.find(source, Levels.PATIENT, PatientID="TEST-2", PatientName="")
    assert [match.text("PatientName") for match in patients.identifiers] == ["Roe^Rick"]

    moved = router.move(source, study=first.study_instance_uid)
    assert (moved.status, moved.counts.completed, moved.failed_sop_instance_uids) == (0, 4, ())
    assert {receipt.sop_instance_uid for receipt in server.receipts} == first.instances
    assert [progress.status for progress in router.progress][-1] == 0
    assert router.progress[0].counts == SubOperationCounts(remaining=3, completed=1, failed=0, warning=0)

    server.receipts.clear()
    moved = router.move(
        source,
        study=first.study_instance_uid,
        level=Levels.IMAGE,
        series_instance_uids=(one,),
        sop_instance_uids=tuple(match.text("SOPInstanceUID") for match in images.identifiers),
    )
    assert moved.status == 0
    assert len(server.receipts) == 2

    moved = router.move(source, third_party.ae_title, study=second.study_instance_uid)
    assert moved.status == 0
    assert set(third_party.wait_for_instances(len(second.instances))) == second.instances

    unknown = router.move(source, "NOBODY", study=second.study_instance_uid)
    assert unknown.status in {0xA801, 0xC000}
    assert router.opened == 1  # one association for all of it
    assert {event.up for event in router.of(NodeReachability)} == {True}


def test_character_sets_of_a_real_archive(router, study, orthanc):
    made = study(patient_name="Müller^Jörg", character_set="ISO_IR 100")
    orthanc.upload(*made.files)
    orthanc.register("ROUTER", 1)
    source = node(orthanc.address.port, orthanc.ae_title)
    (match,) = router.find(source, PatientName="Müller*", StudyInstanceUID="").identifiers
    assert match.text("PatientName") == "Müller^Jörg"


def test_an_archive_that_does_not_know_us(router, start_dcmqrscp):
    peer = start_dcmqrscp()
    with pytest.raises(
        AssociationRejected, match=r"archive \(OTHER at 127\.0\.0\.1:\d+\) .*correct ae_title of the node"
    ):
        router.peers.echo(node(peer.address.port, "OTHER"))
    assert [event.result for event in router.of(AssociationEnded)] == ["rejected_permanent"]
    assert [event.up for event in router.of(NodeReachability)] == [False]


def test_an_address_where_nobody_listens(router, start_dcmqrscp):
    with pytest.raises(
        ConnectionFailed, match=r"archive \(PACS at 127\.0\.0\.1:1\) refused the connection; is it running"
    ):
        router.peers.echo(node(1))
    assert [event.result for event in router.of(AssociationEnded)] == ["refused"]
    assert router.opened == 0


# peers as in the field ----------------------------------------------------------------------------------------------


@pytest.fixture
def field() -> Iterator[Callable[..., Node]]:
    """Start a pynetdicom AE with these handlers and contexts; gives the node."""
    servers = []

    def start(handlers: dict[Any, Any], contexts: list[str] | None = None, **settings: Any) -> Node:
        entity = AE("PACS")
        entity.maximum_associations = 50
        models = contexts or [uid for root in InformationModel for uid in (root.find, root.move)] + [
            "1.2.840.10008.1.1"
        ]
        server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=list(handlers.items()),
            contexts=[build_context(uid, [IMPLICIT]) for uid in models],
        )
        servers.append((entity, server))
        return node(server.server_address[1], **settings)

    yield start
    for entity, server in servers:
        server.shutdown()
        entity.shutdown()


def match(number: int = 1, **attributes: str) -> Dataset:
    dataset = Dataset()
    dataset.QueryRetrieveLevel = "STUDY"
    dataset.StudyInstanceUID = f"1.2.{number}"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def final(status: int, comment: str = "") -> Dataset:
    dataset = Dataset()
    dataset.Status = status
    if comment:
        dataset.ErrorComment = comment
    return dataset


def test_pending_with_unsupported_keys_is_noted(router, field):
    def handle(event: evt.Event):
        yield 0xFF01, match(1)
        yield 0xFF00, match(2)

    result = router.find(field({evt.EVT_C_FIND: handle}))
    assert (result.status, len(result.identifiers), result.optional_keys_unsupported) == (0, 2, True)


def test_a_failure_has_its_status_and_a_scrubbed_comment(router, field):
    def handle(event: evt.Event):
        yield 0xFF00, match(1)
        yield final(0xA700, "Too many: ask for less than 1.2.840.113619.2"), None

    result = router.find(field({evt.EVT_C_FIND: handle}))
    assert (result.status, len(result.identifiers)) == (0xA700, 1)
    assert result.error_comment == "Too many: ask for less than …"


def test_more_than_the_maximum_is_cancelled(router, scripted):
    identifier = find_identifier(Levels.STUDY, Identifier.of(StudyInstanceUID="1.2"), implicit=False)
    sent: list[int] = []

    def script(call) -> None:
        sent.append(0)
        while not call.wait_for_cancel(0.001):
            call.match(identifier)
            sent[-1] += 1
        call.respond(0xFE00)

    source = scripted(script)
    result = router.find(source, maximum=10)
    assert (result.status, len(result.identifiers)) == (0xFE00, 10)
    assert router.find(source, maximum=5).status == 0xFE00  # the association is in step
    assert router.opened == 1
    assert all(count > 5 for count in sent)


def test_a_cancel_that_is_ignored_ends_in_an_abort(router, field, monkeypatch):
    monkeypatch.setattr("router.dimse.find.CANCEL_GRACE", 0.3)
    aborted = threading.Event()

    def handle(event: evt.Event):
        while event.assoc.is_established:
            yield 0xFF00, match()

    source = field({evt.EVT_C_FIND: handle, evt.EVT_ABORTED: lambda event: aborted.set()})
    result = router.find(source, maximum=3)
    assert (result.status, len(result.identifiers)) == (0xFE00, 3)
    assert aborted.wait(10)


def test_identifiers_that_do_not_decode_are_counted(router, scripted):
    good = find_identifier(Levels.STUDY, Identifier.of(StudyInstanceUID="1.2"), implicit=False)

    def script(call) -> None:
        call.match(good)
        call.match(good[:-1])
        call.match(b"rubbish rubbish rubbish")
        call.match(None)
        call.match(good)
        call.respond(0x0000)

    result = router.find(scripted(script))
    assert (result.status, len(result.identifiers), result.undecodable) == (0, 2, 3)


def test_a_peer_that_stays_silent_after_a_query(router, field, monkeypatch):
    monkeypatch.setattr("router.dimse.find.CANCEL_GRACE", 0.3)
    release = threading.Event()

    def handle(event: evt.Event):
        release.wait(20)
        yield 0x0000, None

    source = field({evt.EVT_C_FIND: handle}, find=FindSettings(inactivity=0.4))
    with pytest.raises(DeadlineExceeded, match=r"did not finish a C-FIND; given up after 0.4 s of silence"):
        router.find(source)
    release.set()
    assert [event.result for event in router.of(AssociationEnded)] == ["timeout"]


def test_pending_for_ever_ends_at_the_total(router, field):
    def handle(event: evt.Event):
        while not event.is_cancelled and event.assoc.is_established:
            time.sleep(0.02)
            yield 0xFF00, match()
        yield 0xFE00, None

    source = field({evt.EVT_C_FIND: handle}, find=FindSettings(total=0.6))
    with pytest.raises(DeadlineExceeded, match=r"given up after 0.6 s"):
        router.find(source)


def test_a_query_can_be_cancelled_from_this_side(router, field):
    cancelled = threading.Event()

    def handle(event: evt.Event):
        yield 0xFF00, match()
        cancelled.set()
        while not event.is_cancelled and event.assoc.is_established:
            time.sleep(0.02)
        yield 0xFE00, None

    source = field({evt.EVT_C_FIND: handle})
    with pytest.raises(Cancelled):
        router.peers.find(source, Levels.STUDY, Identifier.of(PatientID=""), maximum=10, cancelled=cancelled)
    assert router.of(NodeReachability) == []


def test_the_other_root_is_used_where_the_first_is_refused(router, field):
    asked = []

    def handle(event: evt.Event):
        asked.append(str(event.request.AffectedSOPClassUID))
        yield 0xFF00, match()

    source = field({evt.EVT_C_FIND: handle}, [PATIENT.find])
    assert router.find(source, PatientID="1").status == 0
    source = field({evt.EVT_C_FIND: handle}, [STUDY.find, PATIENT.find], root=PATIENT)
    assert router.find(source, PatientID="1").status == 0
    assert asked == [PATIENT.find, PATIENT.find]


def test_services_that_are_refused_are_named(router, field):
    echo_only = field({}, ["1.2.840.10008.1.1"])
    router.peers.echo(echo_only)
    with pytest.raises(ContextRefused, match=r"archive \(PACS at .*\) accepts no C-FIND from this router"):
        router.find(echo_only)
    with pytest.raises(ContextRefused, match="accepts no C-MOVE"):
        router.move(echo_only)
    find_only = field({}, [STUDY.find])
    with pytest.raises(ContextRefused, match="accepts associations but no C-ECHO"):
        router.peers.echo(find_only)
    with pytest.raises(ContextRefused, match="at PATIENT level it needs Patient Root"):
        router.find(find_only, Levels.PATIENT)
    patient_only = field({}, [PATIENT.move])
    with pytest.raises(ContextRefused, match="at STUDY level it needs Study Root, or a Patient ID"):
        router.move(patient_only)


def test_a_move_with_patient_root_sends_the_patient_id(router, field):
    asked = []

    def handle(event: evt.Event):
        asked.append(event.identifier)
        yield None, None

    source = field({evt.EVT_C_MOVE: handle}, [PATIENT.move])
    assert router.move(source, patient_id="P1").status == 0xA801
    assert (asked[0].PatientID, asked[0].StudyInstanceUID) == ("P1", "1.2.3")


def test_a_move_without_its_key_never_leaves(router, field):
    source = field({})
    with pytest.raises(LocalProtocolError, match="needs StudyInstanceUID"):
        router.move(source, study="")
    assert router.of(NodeReachability) == []


@pytest.fixture
def scripted(tmp_path) -> Iterator[Callable[..., Node]]:
    """An archive made of our own acceptor that answers a C-MOVE with a script of responses."""
    archives = []

    def start(script: Callable[..., None], **settings: Any) -> Node:
        archive = Archive(script)
        archives.append(archive)
        return node(archive.port, **settings)

    yield start
    for archive in archives:
        archive.stop()


def test_counters_failed_uids_and_comments_of_a_move(router, scripted):
    def script(call) -> None:
        call.respond(0xFF00, remaining=3, completed=0, failed=0, warning=0)
        call.respond(0xFF00)
        call.respond(0xFF00, remaining=1, completed=1, failed=1, warning=0)
        call.respond(
            0xB000, completed=1, failed=2, warning=0, comment="2 failed\x07 of Doe^Jane", failed_uids=["1.2.8", "1.2.9"]
        )

    result = router.move(scripted(script))
    assert result.status == 0xB000
    assert result.counts == SubOperationCounts(None, 1, 2, 0)
    assert result.failed_sop_instance_uids == ("1.2.8", "1.2.9")
    assert result.error_comment == "2 failed of …"
    assert [tuple(progress.counts) for progress in router.progress] == [
        (3, 0, 0, 0),
        (None, None, None, None),
        (1, 1, 1, 0),
        (None, 1, 2, 0),
    ]


def test_a_final_response_without_counters_keeps_the_last_ones(router, scripted):
    def script(call) -> None:
        call.respond(0xFF00, remaining=1, completed=4, failed=0, warning=0)
        call.respond(0x0000)

    assert router.move(scripted(script)).counts == SubOperationCounts(1, 4, 0, 0)


def test_a_move_without_progress_is_cancelled(router, scripted):
    seen: list[bool] = []

    def script(call) -> None:
        call.respond(0xFF00, remaining=2, completed=0, failed=0, warning=0)
        seen.append(call.wait_for_cancel())
        call.respond(0xFE00, remaining=2, completed=0, failed=0, warning=0)

    with pytest.raises(DeadlineExceeded, match=r"made no progress with a C-MOVE for 0.4 s; it was cancelled") as caught:
        router.move(scripted(script, move=MoveSettings(inactivity=0.4)))
    assert caught.value.cause == "timeout-inactivity"
    assert seen == [True]
    assert len(router.progress) == 2


def test_an_arriving_instance_counts_as_progress(router, scripted):
    def script(call) -> None:
        time.sleep(1.2)
        call.respond(0x0000, completed=1, failed=0, warning=0)

    source = scripted(script, move=MoveSettings(inactivity=0.5))
    assert router.move(source, last_arrival=time.monotonic).status == 0


def test_a_move_that_never_ends_is_cancelled_at_the_total(router, scripted):
    def script(call) -> None:
        while not call.wait_for_cancel(0.02):
            call.respond(0xFF00, remaining=1, completed=0, failed=0, warning=0)
        call.respond(0xFE00)

    with pytest.raises(DeadlineExceeded, match=r"did not finish a C-MOVE within 0.6 s") as caught:
        router.move(scripted(script, move=MoveSettings(total=0.6)))
    assert caught.value.cause == "timeout-total"


def test_a_request_may_take_longer_than_the_node_usually_does(router, scripted):
    """A tape, or thousands of instances: both deadlines are those of the request where they are longer."""

    def script(call) -> None:
        time.sleep(1.0)
        call.respond(0x0000, completed=1, failed=0, warning=0)

    source = scripted(script, move=MoveSettings(inactivity=0.3, total=0.5))
    assert router.move(source, inactivity=20.0, total=20.0).status == 0


def test_arriving_instances_do_not_put_off_the_total(router, scripted):
    def script(call) -> None:
        assert call.wait_for_cancel()
        call.respond(0xFE00)

    with pytest.raises(DeadlineExceeded, match=r"did not finish a C-MOVE within 0\.6 s"):
        router.move(scripted(script, move=MoveSettings(inactivity=0.3, total=0.6)), last_arrival=time.monotonic)


def test_each_way_of_not_getting_an_association_has_a_cause_of_its_own(router, monkeypatch):
    def causes(**settings: Any) -> str:
        with pytest.raises(WireError) as caught:
            router.peers.echo(node(**settings))
        return caught.value.cause

    def unresolved(*_: Any) -> None:
        raise socket.gaierror

    def unanswered(*_: Any) -> None:
        raise TimeoutError

    assert causes(port=1) == "connection-refused"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert causes(port=port, timeouts=Timeouts(negotiation=0.3)) == "negotiation-timeout"
    monkeypatch.setattr("router.dimse.association.connect", unresolved)
    assert causes(port=1) == "name-unresolved"
    monkeypatch.setattr("router.dimse.association.connect", unanswered)
    assert causes(port=1) == "connect-timeout"


def test_a_move_can_be_cancelled_from_this_side(router, scripted):
    cancelled = threading.Event()

    def script(call) -> None:
        call.respond(0xFF00, remaining=2, completed=1, failed=0, warning=0)
        cancelled.set()
        assert call.wait_for_cancel()
        call.respond(0xFE00, remaining=2, completed=1, failed=0, warning=0)

    result = router.move(scripted(script), cancelled=cancelled)
    assert (result.status, result.counts.completed) == (0xFE00, 1)


def test_a_cancelled_move_that_goes_on_is_aborted(router, scripted, monkeypatch):
    monkeypatch.setattr("router.dimse.retrieve.CANCEL_GRACE", 0.3)
    cancelled = threading.Event()
    cancelled.set()

    def script(call) -> None:
        while call.alive:
            call.respond(0xFF00, remaining=2, completed=1, failed=0, warning=0)
            time.sleep(0.02)

    with pytest.raises(Cancelled):
        router.move(scripted(script), cancelled=cancelled)


def test_a_response_to_something_else_is_an_error(router, scripted):
    def script(call) -> None:
        call.respond(0x0000, message_id=call.message_id + 1)

    with pytest.raises(WireError, match="answered a request that was not made"):
        router.move(scripted(script))


def test_a_move_is_never_repeated(router, scripted):
    calls: list[int] = []

    def script(call) -> None:
        calls.append(call.message_id)
        call.close()

    source = scripted(script)
    router.peers.echo(source)
    with pytest.raises(ConnectionLost):
        router.move(source)
    assert len(calls) == 1


def test_message_ids_differ_from_request_to_request(router, scripted):
    calls: list[int] = []

    def script(call) -> None:
        calls.append(call.message_id)
        call.respond(0x0000)

    source = scripted(script)
    for _ in range(3):
        router.move(source)
    assert len(set(calls)) == 3
    assert 0 not in calls


# reuse --------------------------------------------------------------------------------------------------------------


def test_associations_are_reused_and_released_when_idle(scripted):
    observed = Observed()
    observed.peers = Peers("ROUTER", observed.events.append, idle_seconds=0.3)
    source = scripted(lambda call: call.respond(0x0000))
    for _ in range(5):
        observed.peers.echo(source)
    assert observed.opened == 1
    wait_for(lambda: observed.of(AssociationEnded), "the idle association to be released")
    assert [event.result for event in observed.of(AssociationEnded)] == ["accepted"]
    observed.peers.echo(source)
    assert observed.opened == 2
    observed.peers.close()
    with pytest.raises(Cancelled):
        observed.peers.echo(source)


def test_an_association_the_peer_closed_is_replaced(router, scripted):
    archive = Archive(lambda call: call.respond(0x0000))
    source = node(archive.port)
    router.peers.echo(source)
    archive.drop_connections()
    router.peers.echo(source)
    archive.drop_connections()
    assert router.move(source).status == 0
    assert router.opened == 3
    archive.stop()


def test_one_that_breaks_on_use_is_replaced_once(router):
    archive = Archive(lambda call: call.respond(0x0000))
    source = node(archive.port, timeouts=Timeouts(negotiation=5.0))
    router.peers.echo(source)
    archive.close_on_next_message = True
    router.peers.echo(source)
    assert router.opened == 2
    archive.stop()


def test_concurrent_requests_have_associations_of_their_own(router, scripted):
    together = threading.Barrier(3)

    def script(call) -> None:
        together.wait(10)
        call.respond(0x0000)

    source = scripted(script)
    threads = [threading.Thread(target=router.peers.move, args=(source, request()), kwargs=follow()) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert router.opened == 3


def request() -> MoveRequest:
    return MoveRequest(destination_ae_title="X", level=Levels.STUDY, study_instance_uid="1.2.3")


def follow() -> dict[str, Any]:
    return {
        "on_response": lambda progress: None,
        "last_arrival": lambda: 0.0,
        "cancelled": threading.Event(),
    }


def test_an_observer_of_progress_that_fails_ends_the_association(router, scripted):
    def fail(progress: MoveProgress) -> None:
        raise RuntimeError("a fault of ours")

    source = scripted(lambda call: call.respond(0x0000))
    with pytest.raises(RuntimeError):
        router.peers.move(source, request(), **{**follow(), "on_response": fail})
    assert [event.change for event in router.of(AssociationsActive)] == [1, -1]


def test_an_archive_that_aborts_is_a_sentence_that_says_where_to_look(router, orthanc):
    """Orthanc aborts a C-FIND of an AE it does not know."""
    with pytest.raises(AssociationAborted, match=r"archive \(ORTHANC at .*accept ROUTER as .*is ORTHANC its own"):
        router.find(node(orthanc.address.port, orthanc.ae_title))
