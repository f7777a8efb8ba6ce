"""C-GET: what is proposed, and instances that come in between the responses of scripted peers, good and bad ones."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from router.dimse import command as commands
from router.dimse.get import Intake
from router.dimse.get_contexts import COMMON, GROUPINGS, names, propose, shortfall
from router.dimse.pdu import MAXIMUM_CONTEXTS, PDATA_HEADER, PduType, encode_associate_request
from router.dimse.peers import Peers
from router.dimse.services import is_storage
from router.domain.dicom import InformationModel, QueryRetrieveLevel, SubOperationCounts
from router.domain.events import AssociationsActive, Event, InstanceStored, StoreRefusal
from router.domain.exchange import MoveProgress, MoveRequest, MoveResult, StoredObject, StoreOutcome
from router.domain.receipt import Receipt
from router.domain.rule import MoveSettings, Node, NodeLimits
from router.errors import (
    AssociationAborted,
    Cancelled,
    ConnectionLost,
    ContextRefused,
    DeadlineExceeded,
    LedgerError,
    LocalProtocolError,
    RemoteProtocolError,
    StoreRefused,
)
from router.objects import ObjectStore
from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.part10 import dataset_bytes
from tests.wire.scripted import Archive, Call
from tests.wire.scu import store_command

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
JPEG_LOSSLESS, JPEG_2000 = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90"
STUDY_GET = InformationModel.STUDY_ROOT.get
Levels = QueryRetrieveLevel


# what is proposed ---------------------------------------------------------------------------------------------------

classes = st.integers(0, 10**6).map(lambda number: f"1.2.826.0.1.{number}")


@given(st.sets(classes | st.sampled_from(COMMON), max_size=140))
def test_every_known_class_is_proposed_as_long_as_there_is_room(known):
    proposal = propose(known)
    assert len(proposal.contexts) <= MAXIMUM_CONTEXTS
    assert len({context.context_id for context in proposal.contexts}) == len(proposal.contexts)
    assert {model.get for model in InformationModel} <= {context.abstract_syntax for context in proposal.contexts}
    proposed = {context.abstract_syntax for context in proposal.contexts if is_storage(context.abstract_syntax)}
    assert {role.sop_class_uid for role in proposal.roles} == proposed
    assert all(role.scp and not role.scu for role in proposal.roles)
    assert set(proposal.left_out) == known - proposed
    assert bool(proposal.left_out) == (len(known) > MAXIMUM_CONTEXTS - 2)
    for uid in known & proposed:
        syntaxes = [one for context in proposal.contexts if context.abstract_syntax == uid for one in context[2]]
        assert sorted(syntaxes) == sorted({syntax for group in GROUPINGS[0] for syntax in group})


def test_every_grouping_holds_the_same_encodings_and_none_that_is_deflated():
    everything = [sorted(uid for group in grouping for uid in group) for grouping in GROUPINGS]
    assert all(one == everything[0] for one in everything)
    assert len(set(everything[0])) == len(everything[0])
    assert all(UID(uid).is_transfer_syntax and not UID(uid).is_deflated for uid in everything[0] if ".4.11" not in uid)
    assert [len(grouping) for grouping in GROUPINGS] == sorted((len(one) for one in GROUPINGS), reverse=True)


def test_few_classes_have_a_context_for_each_encoding():
    contexts = [context for context in propose([CT, MR]).contexts if context.abstract_syntax == CT]
    assert all(len(context.transfer_syntaxes) == 1 for context in contexts)
    assert contexts[0].transfer_syntaxes == (EXPLICIT,)


def test_the_common_classes_are_storage_classes_of_the_standard():
    assert len(set(COMMON)) == len(COMMON)
    assert all(is_storage(uid) and UID(uid).name != uid for uid in COMMON)
    proposed = {context.abstract_syntax for context in propose([]).contexts}
    assert {CT, MR, COMMON[30]} <= proposed


def test_what_is_no_storage_class_is_not_proposed():
    assert propose(["1.2.840.10008.1.1", STUDY_GET, "rubbish", ""]) == propose([])


def test_what_was_not_negotiated_is_named():
    assert shortfall({CT: [EXPLICIT]}, [CT, MR, "1.2.3"], ()) == (
        "The source did not agree to send by C-GET: one of its own, MR Image Storage."
    )
    assert shortfall({}, ["1.2.3"], ["1.2.3"]) == "No presentation context was left for one of its own."
    sentence = shortfall({CT: [EXPLICIT, IMPLICIT]}, [CT], ())
    assert sentence.endswith("agreed were Explicit VR Little Endian, Implicit VR Little Endian.")
    assert names(COMMON[:20]).endswith("and 15 more")


# instances between the responses --------------------------------------------------------------------------------------


class Router:
    """Peers with a real store behind them."""

    def __init__(self, root: Path) -> None:
        self.events: list[Event] = []
        self.receipts: list[Receipt] = []
        self.progress: list[MoveProgress] = []
        self.store = ObjectStore(root)
        self.on_receipt: Callable[[Receipt], None] = self.receipts.append
        self.peers = Peers(
            "ROUTER", self.events.append, intake=Intake(self.store, lambda receipt: self.on_receipt(receipt))
        )

    def get(self, node: Node, *known: str, study: str = "1.2.3", **arguments: Any) -> MoveResult:
        self.progress.clear()
        cancelled = arguments.pop("cancelled", threading.Event())
        request = MoveRequest(
            **{"destination_ae_title": "", "level": Levels.STUDY, "study_instance_uid": study, **arguments}
        )
        return self.peers.get(
            node, request, sop_classes=known or (CT,), on_response=self.progress.append, cancelled=cancelled
        )

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def held(self, receipt: Receipt) -> bytes:
        return dataset_bytes(self.store.root / receipt.path)

    def leftovers(self) -> list[Path]:
        return list((self.store.root / ".incoming").iterdir())

    @property
    def opened(self) -> int:
        return sum(event.change > 0 for event in self.of(AssociationsActive))


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    made = Router(tmp_path / "store")
    yield made
    made.peers.close()
    made.store.close()
    assert sum(event.change for event in made.of(AssociationsActive)) == 0


@pytest.fixture
def source() -> Iterator[Callable[..., Node]]:
    """Start a scripted archive; gives the node."""
    archives: list[Archive] = []

    def start(script: Callable[[Call], None], *, archive: dict[str, Any] | None = None, **settings: Any) -> Node:
        archives.append(Archive(script, **(archive or {})))
        return Node(name="archive", ae_title="PACS", host="127.0.0.1", port=archives[-1].port, **settings)

    start.archives = archives  # type: ignore[attr-defined]
    yield start
    for archive in archives:
        archive.stop()


@pytest.fixture
def images(study: Any) -> list[tuple[str, bytes]]:
    made = study(instances=4)
    return [(uid, dataset_bytes(path)) for path, uid in made.sop_instance_uids.items()]


def deliver(call: Call, images: list[tuple[str, bytes]]) -> list[int]:
    """Each instance by C-STORE, each followed by a Pending; the statuses."""
    context = call.context_of(CT, EXPLICIT)
    statuses = []
    for number, (uid, data) in enumerate(images, 1):
        statuses.append(call.store(context, CT, uid, data, number=number).status)
        call.respond(0xFF00, remaining=len(images) - number, completed=number, failed=0, warning=0)
    return statuses


def begin(call: Call, instance: str, sop_class: str = CT) -> None:
    """The command set of a C-STORE in the context of CT."""
    context = call.context_of(CT, EXPLICIT)
    assert context is not None
    call.association.send(context, store_command(instance, sop_class))


def part(call: Call, data: bytes) -> None:
    """A part of its data set, which is not the last."""
    context = call.context_of(CT, EXPLICIT)
    assert context is not None
    head = PDATA_HEADER.pack(PduType.P_DATA, len(data) + 6, len(data) + 2, context, 0)
    call.association.write([head, data], 5.0, lambda sent: None)


def next_field(call: Call) -> int:
    """The command field of the next message."""
    message = call.association.receive(time.monotonic() + 10.0)
    assert message is not None
    return message.command.field


def test_instances_between_pending_responses_are_kept_byte_for_byte(router, source, images):
    statuses: list[int] = []

    def script(call: Call) -> None:
        statuses.extend(deliver(call, images))
        call.respond(0x0000, completed=4, failed=0, warning=0)

    node = source(script)
    result = router.get(node)
    assert (result.status, result.counts, result.note) == (0, SubOperationCounts(None, 4, 0, 0), "")
    assert statuses == [0, 0, 0, 0]
    assert [progress.counts.completed for progress in router.progress] == [1, 2, 3, 4, 4]
    assert {receipt.sop_instance_uid: router.held(receipt) for receipt in router.receipts} == dict(images)
    assert {receipt.calling_ae_title for receipt in router.receipts} == {"PACS"}
    assert [(event.calling, event.status) for event in router.of(InstanceStored)] == [("archive", 0)] * 4
    assert sum(event.size for event in router.of(InstanceStored)) == sum(len(data) for _, data in images)
    assert router.leftovers() == []

    assert router.get(node).status == 0  # again, on the same association; what is there already is a success
    assert statuses == [0] * 8
    assert router.opened == 1


def test_what_it_proposes_on_the_wire(router, source):
    node = source(lambda call: call.respond(0x0000))
    router.get(node, CT, MR)
    (request,) = source.archives[0].requests
    assert {role.sop_class_uid for role in request.roles} >= {CT, MR}
    assert len(request.contexts) <= MAXIMUM_CONTEXTS
    assert len(encode_associate_request(request)) < 32768


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, JPEG_LOSSLESS, JPEG_2000])
def test_the_encoding_an_instance_is_stored_in_has_a_context_of_its_own(router, source, syntax):
    contexts: list[int | None] = []

    def script(call: Call) -> None:
        contexts.append(call.context_of(MR, syntax))
        call.respond(0x0000)

    router.get(source(script), CT, MR)
    assert contexts != [None]


def test_associations_for_get_query_and_store_are_not_mixed_up(router, source, images, tmp_path):
    fields: list[int] = []

    def script(call: Call) -> None:
        fields.append(len(call.association.contexts))
        call.respond(0x0000)

    node = source(script, limits=NodeLimits(associations=2))
    router.get(node)
    router.peers.echo(node)
    router.get(node)
    router.get(node, MR)  # other contexts
    assert router.opened == 3
    outcomes: list[StoreOutcome] = []
    stored = StoredObject(path="x", sop_class_uid=CT, sop_instance_uid="1.2", transfer_syntax_uid=EXPLICIT)
    router.get(node, CT)
    before = router.opened
    with pytest.raises(ZeroDivisionError):
        router.peers.store(
            node,
            [stored],
            open_object=lambda stored: 1 // 0,
            on_outcome=outcomes.append,
            cancelled=threading.Event(),
        )
    assert router.opened == before + 1  # as the SCU of storage it needs one without those roles


def test_an_archive_that_allows_one_association_never_holds_two(router, source):
    node = source(lambda call: call.respond(0x0000))
    for _ in range(2):
        router.get(node)
        router.peers.echo(node)
        router.get(node, MR)
    changes = [event.change for event in router.of(AssociationsActive)]
    assert (max(itertools.accumulate(changes)), router.opened) == (1, 6)


def test_a_refused_class_is_named(router, source, images):
    def script(call: Call) -> None:
        assert call.context_of(MR, EXPLICIT) is None
        deliver(call, images[:2])
        call.respond(0xB000, completed=2, failed=2, warning=0, failed_uids=["1.2.8", "1.2.9"])

    result = router.get(source(script, archive={"refused": {MR}}), CT, MR)
    assert result.status == 0xB000
    assert result.note == "The source did not agree to send by C-GET: MR Image Storage."
    assert result.failed_sop_instance_uids == ("1.2.8", "1.2.9")


def test_a_class_accepted_without_the_role_is_named_too(router, source):
    node = source(lambda call: call.respond(0xA702, failed=3), archive={"unsent": {CT}})
    assert "CT Image Storage" in router.get(node, CT, MR).note


def test_failures_of_agreed_classes_name_the_encodings(router, source):
    note = router.get(source(lambda call: call.respond(0xB000, completed=1, failed=3)), CT).note
    assert "encoding that was not agreed to; agreed were Explicit VR Little Endian, Implicit VR" in note


def test_a_peer_that_answers_no_roles_is_asked_all_the_same(router, source, images):
    def script(call: Call) -> None:
        deliver(call, images)
        call.respond(0x0000, completed=4, failed=0, warning=0)

    assert router.get(source(script, archive={"answers_roles": False})).status == 0
    assert len(router.receipts) == 4


def test_a_peer_that_sends_nothing_it_may_be_asked_for(router, source):
    everything = {context.abstract_syntax for context in propose([CT]).contexts}
    storage = {uid for uid in everything if is_storage(uid)}
    with pytest.raises(ContextRefused, match=r"archive \(PACS .* agreed to send no storage SOP class"):
        router.get(source(lambda call: None, archive={"refused": storage}))


def test_a_peer_without_c_get(router, source):
    both = {model.get for model in InformationModel}
    with pytest.raises(ContextRefused, match=r"archive \(PACS .* accepts no C-GET from this router"):
        router.get(source(lambda call: None, archive={"refused": both}))


def test_patient_root_alone_needs_a_patient(router, source):
    node = source(lambda call: call.respond(0x0000), archive={"refused": {STUDY_GET}})
    with pytest.raises(ContextRefused, match="Patient ID with Patient Root"):
        router.get(node)
    assert router.get(node, patient_id="TEST-1").status == 0


def test_a_c_store_in_the_context_of_another_class_is_refused_and_the_rest_goes_on(router, source, images):
    statuses: list[int] = []

    def script(call: Call) -> None:
        uid, data = images[0]
        statuses.append(call.store(call.context_of(MR, EXPLICIT), CT, uid, data).status)
        statuses.append(call.store(None, STUDY_GET, uid, data).status)  # not even storage
        statuses.append(call.store(call.context_of(CT, EXPLICIT), CT, uid, data).status)
        call.respond(0xB000, completed=1, failed=2, warning=0)

    result = router.get(source(script), CT, MR)
    assert statuses == [0x0122, 0x0122, 0]
    assert result.note == "This router refused some: class (2)."
    assert [receipt.sop_instance_uid for receipt in router.receipts] == [images[0][0]]
    assert [(event.calling, event.reason) for event in router.of(StoreRefusal)] == [("archive", "class")] * 2


def test_what_the_store_or_the_ledger_cannot_take_is_a_failed_sub_operation(router, source, images, monkeypatch):
    statuses: list[int] = []

    def full(receipt: Receipt) -> None:
        raise LedgerError

    def no_space() -> None:
        raise StoreRefused(0xA700, "out-of-space")

    def script(call: Call) -> None:
        router.on_receipt = full
        statuses.extend(deliver(call, images[:1]))
        monkeypatch.setattr(router.store, "check_space", no_space)
        statuses.extend(deliver(call, images[1:2]))
        call.respond(0xB000, completed=0, failed=2, warning=0)

    result = router.get(source(script))
    assert statuses == [0x0110, 0xA700]
    assert result.note == "This router refused some: not-indexed (1), out-of-space (1)."


def test_a_c_store_in_a_context_that_was_not_accepted_ends_the_association(router, source, images):
    def script(call: Call) -> None:
        call.send_store(255, CT, *images[0])

    with pytest.raises(RemoteProtocolError, match="presentation context that was not accepted"):
        router.get(source(script, archive={"refused": set(COMMON) - {CT}}))


def test_an_abort_in_the_middle_of_an_instance_leaves_nothing_half_written(router, source, images):
    def script(call: Call) -> None:
        deliver(call, images[:1])
        uid, data = images[1]
        begin(call, uid)
        part(call, data[:1024])
        call.association.abort()

    with pytest.raises((AssociationAborted, ConnectionLost)):
        router.get(source(script))
    assert [receipt.sop_instance_uid for receipt in router.receipts] == [images[0][0]]
    assert router.leftovers() == []


def test_it_can_be_cancelled_from_this_side_and_instances_under_way_still_arrive(router, source, images):
    cancelled = threading.Event()

    def script(call: Call) -> None:
        deliver(call, images[:1])
        cancelled.set()
        # The one under way when the C-CANCEL comes.
        call.send_store(call.context_of(CT, EXPLICIT), CT, *images[1])
        assert {next_field(call), next_field(call)} == {commands.C_CANCEL_RQ, commands.C_STORE_RSP}
        call.respond(0xFE00, remaining=2, completed=2, failed=0, warning=0)

    result = router.get(source(script), cancelled=cancelled)
    assert (result.status, result.counts.completed) == (0xFE00, 2)
    assert len(router.receipts) == 2


def test_a_cancel_that_is_ignored_ends_in_an_abort(router, source, images, monkeypatch):
    monkeypatch.setattr("router.dimse.retrieve.CANCEL_GRACE", 0.3)
    cancelled = threading.Event()
    cancelled.set()

    def script(call: Call) -> None:
        assert call.wait_for_cancel()
        while call.alive:
            deliver(call, images[:1])

    with pytest.raises(Cancelled, match="The C-GET of archive"):
        router.get(source(script), cancelled=cancelled)


def test_silence_is_cancelled(router, source):
    seen: list[bool] = []

    def script(call: Call) -> None:
        seen.append(call.wait_for_cancel())
        call.respond(0xFE00)

    with pytest.raises(DeadlineExceeded, match=r"made no progress with a C-GET for 0.4 s; it was cancelled"):
        router.get(source(script, move=MoveSettings(inactivity=0.4)))
    assert seen == [True]


def test_an_arriving_instance_counts_as_progress(router, source, images):
    def script(call: Call) -> None:
        for uid, data in images:
            time.sleep(1.0)
            call.store(call.context_of(CT, EXPLICIT), CT, uid, data)
        call.respond(0x0000, completed=4, failed=0, warning=0)

    assert router.get(source(script, move=MoveSettings(inactivity=3.5))).status == 0
    assert len(router.receipts) == 4


def test_instances_without_end_are_cancelled_at_the_total(router, source, images):
    def script(call: Call) -> None:
        context = call.context_of(CT, EXPLICIT)
        field = 0
        while field != commands.C_CANCEL_RQ:
            time.sleep(0.02)  # so that the end falls between two instances, nearly always
            call.send_store(context, CT, *images[0])
            field = next_field(call)
        assert next_field(call) == commands.C_STORE_RSP
        call.respond(0xFE00)

    # Where the end falls into an instance after all, there is nothing to wait for: the association is aborted.
    with pytest.raises(DeadlineExceeded, match=r"did not finish a C-GET within 3 s; it was (cancelled|aborted)"):
        router.get(source(script, move=MoveSettings(inactivity=2.0, total=3.0)))


@pytest.mark.parametrize("refused", [False, True], ids=["kept", "refused"])
def test_a_data_set_that_trickles_is_aborted_at_the_total(router, source, images, refused):
    ended = threading.Event()

    def script(call: Call) -> None:
        uid, data = images[0]
        try:
            begin(call, uid, MR if refused else CT)
            for start in range(0, len(data), 16):
                part(call, data[start : start + 16])
                time.sleep(0.01)
        finally:
            ended.set()

    node = source(script, move=MoveSettings(inactivity=2.0, total=3.0))
    with pytest.raises(DeadlineExceeded, match=r"did not finish a C-GET within 3 s; it was aborted"):
        router.get(node)
    assert ended.wait(10)
    assert router.receipts == []
    assert router.leftovers() == []


def test_a_response_to_something_else_is_an_error(router, source):
    with pytest.raises(RemoteProtocolError, match="answered a request that was not made"):
        router.get(source(lambda call: call.respond(0x0000, message_id=call.message_id + 1)))


def test_an_association_the_peer_has_closed_in_the_meantime_is_replaced(router, source, images):
    def script(call: Call) -> None:
        deliver(call, images)
        call.respond(0x0000, completed=4, failed=0, warning=0)

    node = source(script)
    router.get(node)
    source.archives[0].close_on_next_message = True
    assert router.get(node).status == 0
    assert router.opened == 2


# the simulated PACS, which is built on pynetdicom -----------------------------------------------------------------


def simulated(pacs: SimulatedPacs) -> Node:
    return Node(name="archive", ae_title=pacs.ae_title, host=pacs.host, port=pacs.port)


def test_a_study_of_the_simulator_comes_across(router):
    datasets = make_study(seed=1, series=2, instances=3)
    study = datasets[0].StudyInstanceUID
    with SimulatedPacs(studies=datasets) as pacs:
        result = router.get(simulated(pacs), CT, study=study)
        assert (result.status, result.counts) == (0, SubOperationCounts(None, 6, 0, 0))
        assert {receipt.sop_instance_uid: router.held(receipt) for receipt in router.receipts} == {
            str(instance.sop_instance): instance.encoded for instance in pacs.instances
        }
        assert [operation.kind for operation in pacs.record] == ["get"]
        assert router.get(simulated(pacs), CT, study="1.2.3").counts.completed == 0
        router.peers.close()


@pytest.mark.parametrize(
    ("behaviour", "status", "note"),
    [
        (Behaviour(undecodable_instances=1), 0xB000, "This router refused some: unparseable (1)."),
        (Behaviour(refused_sop_classes=frozenset({CT})), 0xA702, "did not agree to send by C-GET: CT Image Storage"),
        (Behaviour(refuse_move_status=0xA701), 0xA701, ""),
    ],
)
def test_a_misbehaving_simulator(router, behaviour, status, note):
    datasets = make_study(seed=1, series=1, instances=3)
    with SimulatedPacs(studies=datasets, behaviour=behaviour) as pacs:
        result = router.get(simulated(pacs), CT, MR, study=datasets[0].StudyInstanceUID)
        router.peers.close()
    assert result.status == status
    assert note in result.note


def test_a_simulator_that_breaks_off(router):
    datasets = make_study(seed=1, series=1, instances=3)
    with SimulatedPacs(studies=datasets, behaviour=Behaviour(abort_move_after=2)) as pacs:
        with pytest.raises(AssociationAborted):
            router.get(simulated(pacs), study=datasets[0].StudyInstanceUID)
        assert len(router.receipts) == 2


def test_a_simulator_is_cancelled(router):
    datasets = make_study(seed=1, series=1, instances=50)
    cancelled = threading.Event()
    router.on_receipt = lambda receipt: (router.receipts.append(receipt), cancelled.set())[0]
    with SimulatedPacs(studies=datasets, behaviour=Behaviour(suboperation_delay_seconds=0.05)) as pacs:
        result = router.get(simulated(pacs), study=datasets[0].StudyInstanceUID, cancelled=cancelled)
        router.peers.close()
        assert [operation.kind for operation in pacs.record] == ["get", "cancel"]
    assert result.status == 0xFE00
    assert 0 < (result.counts.completed or 0) < 50


def test_without_a_store_there_is_no_c_get(source):
    peers = Peers("ROUTER", lambda event: None)
    request = MoveRequest(destination_ae_title="", level=Levels.STUDY, study_instance_uid="1.2.3")
    with pytest.raises(LocalProtocolError, match="no store"):
        peers.get(
            source(lambda call: None),
            request,
            sop_classes=(),
            on_response=lambda progress: None,
            cancelled=threading.Event(),
        )


def test_a_level_without_its_unique_key_is_refused_before_anything_is_sent(router, source):
    with pytest.raises(LocalProtocolError, match="A C-GET at SERIES level needs SeriesInstanceUID"):
        router.get(source(lambda call: None), level=Levels.SERIES)
