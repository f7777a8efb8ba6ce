"""C-STORE as SCU: to real peers byte for byte, to peers that refuse, fail, hang or go, and what each instance hears."""

import functools
import itertools
import os
import random
import socket
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import AE, build_context, evt
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from router.dimse import command as commands
from router.dimse import pdu, store_frame
from router.dimse.association import Association, Limits, Refusal
from router.dimse.pdu import AssociateRequest, ContextReply
from router.dimse.peers import Peers
from router.dimse.store_contexts import batches, portions
from router.dimse.store_frame import CutOff, Frame
from router.domain.events import AssociationEnded, AssociationsActive, Event, NodeReachability
from router.domain.exchange import (
    MoveOriginator,
    Standing,
    StoredObject,
    StoreOutcome,
    StoreResult,
    store_status,
)
from router.domain.rule import Node, NodeLimits, StoreSettings, Timeouts
from router.errors import StoreError, WireError
from tests.support.part10 import read_part10
from tests.support.samples import RealFile, real_files, settled_files
from tests.wire.scu import CT, EXPLICIT, IMPLICIT, Server

SR, DEFLATED, JPEG = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"


def open_file(stored: StoredObject) -> tuple[int, int]:
    """As the object store does it."""
    size = len(read_part10(Path(stored.path)).dataset)
    descriptor = os.open(stored.path, os.O_RDONLY)
    end = os.lseek(descriptor, 0, os.SEEK_END)
    os.lseek(descriptor, end - size, os.SEEK_SET)
    return descriptor, size


class Sending:
    """The router's side: peers, the outcomes and events of what it sent."""

    def __init__(self, directory: Path, idle_seconds: float = 3.0) -> None:
        self.events: list[Event] = []
        self.outcomes: list[StoreOutcome] = []
        self.cancelled = threading.Event()
        self.peers = Peers("ROUTER", self.events.append, idle_seconds=idle_seconds)
        self._directory = directory
        self._numbers = itertools.count(1)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def opened(self) -> int:
        return sum(event.change > 0 for event in self.of(AssociationsActive))

    def made(self, size: int = 100, sop_class: str = CT, syntax: str = EXPLICIT) -> StoredObject:
        """An instance of so many bytes that mean nothing."""
        number = next(self._numbers)
        path = self._directory / f"{number}.raw"
        path.write_bytes(random.Random(number).randbytes(size))
        return StoredObject(
            path=str(path), sop_class_uid=sop_class, sop_instance_uid=f"1.2.9.{number}", transfer_syntax_uid=syntax
        )

    def store(self, node: Node, objects: Any, **options: Any) -> StoreResult:
        arguments: dict[str, Any] = {
            "open_object": open_raw,
            "on_outcome": self.outcomes.append,
            "cancelled": self.cancelled,
            **options,
        }
        before = len(self.outcomes)
        result = self.peers.store(node, objects, **arguments)
        reported = Counter(outcome.standing for outcome in self.outcomes[before:])
        assert result.counts == reported
        return result

    @property
    def standings(self) -> list[Standing]:
        return [outcome.standing for outcome in self.outcomes]

    @property
    def causes(self) -> list[str]:
        return [outcome.cause for outcome in self.outcomes]


def open_raw(stored: StoredObject) -> tuple[int, int]:
    """A file that is all data set."""
    return os.open(stored.path, os.O_RDONLY), Path(stored.path).stat().st_size


def content(stored: StoredObject) -> bytes:
    return Path(stored.path).read_bytes()


def objects_of(files: list[RealFile]) -> list[StoredObject]:
    return [
        StoredObject(
            path=str(file.path),
            sop_class_uid=file.sop_class_uid,
            sop_instance_uid=file.sop_instance_uid,
            transfer_syntax_uid=file.transfer_syntax_uid,
        )
        for file in files
    ]


@pytest.fixture
def router(tmp_path) -> Iterator[Sending]:
    (tmp_path / "made").mkdir()
    sending = Sending(tmp_path / "made")
    yield sending
    sending.peers.close()
    assert sum(event.change for event in sending.of(AssociationsActive)) == 0
    still_open = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_file()]
    assert not [path for path in still_open if path.suffix in {".dcm", ".raw"}]


def node(port: int, ae_title: str = "PACS", limits: NodeLimits | None = None, **settings: Any) -> Node:
    return Node(
        name="archive",
        ae_title=ae_title,
        host="127.0.0.1",
        port=port,
        limits=limits or NodeLimits(),
        timeouts=Timeouts(negotiation=10.0),
        store=StoreSettings(**{"inactivity": 20.0, **settings}),
    )


# real peers, byte for byte ------------------------------------------------------------------------------------------


def test_every_sample_arrives_at_our_store_byte_for_byte(router, tmp_path):
    files = list(real_files())
    with Server(tmp_path / "store") as server:
        result = router.store(node(server.port), objects_of(files), open_object=open_file)
        assert (result.complete, result.delivered, result.cause) == (True, len(files), "")
        receipts = {receipt.sop_instance_uid: receipt for receipt in server.receipts}
        for file in files:
            receipt = receipts[file.sop_instance_uid]
            assert receipt.transfer_syntax_uid == file.transfer_syntax_uid
            arrived = read_part10(server.store.root / receipt.path)
            assert (arrived.dataset, file.path.name) == (read_part10(file.path).dataset, file.path.name)
        # and onwards, as the object store gives them out
        with Server(tmp_path / "second") as second:
            onwards = router.store(
                node(second.port),
                objects_of(files),
                open_object=lambda stored: server.store.open(receipts[stored.sop_instance_uid]),
            )
            assert onwards.complete
            assert {(each.sop_instance_uid, each.size) for each in second.receipts} == {
                (each.sop_instance_uid, each.size) for each in server.receipts
            }
    assert router.opened == 2


def test_every_sample_arrives_at_storescp_byte_for_byte(router, storescp):
    files = list(real_files())
    result = router.store(node(storescp.port, storescp.ae_title), objects_of(files), open_object=open_file)
    assert (result.complete, router.causes) == (True, ["success"] * len(files))
    arrived = storescp.instances()
    for file in files:
        sent, there = read_part10(file.path), read_part10(arrived[file.sop_instance_uid])
        assert (there.dataset, there.transfer_syntax_uid) == (sent.dataset, sent.transfer_syntax_uid), file.path.name


def test_every_sample_arrives_at_orthanc(router, orthanc, tmp_path):
    """It decodes and encodes anew what it stores; what is already in its own encoding stays as it is."""
    (tmp_path / "settled").mkdir()
    files = settled_files(tmp_path / "settled")
    router.store(node(orthanc.dicom_port, orthanc.ae_title), objects_of(files), open_object=open_file)
    assert set(router.standings) == {Standing.SUCCESS}
    assert set(orthanc.instances()) == {file.sop_instance_uid for file in files}
    for file in files:
        there = tmp_path / "there.dcm"
        there.write_bytes(orthanc.file(file.sop_instance_uid))
        assert read_part10(there).dataset == read_part10(file.path).dataset, file.path.name


@pytest.fixture
def field() -> Iterator[Callable[..., Node]]:
    """Start a pynetdicom AE with this C-STORE handler and these contexts; gives the node."""
    servers = []

    def start(
        handle: Callable[[evt.Event], Any],
        contexts: list[tuple[str, list[str]]] = [(CT, [EXPLICIT])],  # noqa: B006
        handlers: Any = (),
        maximum: int = 16384,
        **settings: Any,
    ) -> Node:
        entity = AE("PACS")
        entity.maximum_pdu_size = maximum
        entity.maximum_associations = 20
        server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, handle), *handlers],
            contexts=[build_context(*context) for context in contexts],
        )
        servers.append((entity, server))
        return node(server.server_address[1], **settings)

    yield start
    for entity, server in servers:
        server.shutdown()
        entity.shutdown()


class Kept:
    """A handler that keeps what came."""

    def __init__(self, *statuses: int) -> None:
        self.data: dict[str, bytes] = {}
        self.requests: list[Any] = []
        self._statuses = iter(statuses)

    def __call__(self, event: evt.Event) -> Any:
        self.requests.append(event.request)
        self.data[str(event.request.AffectedSOPInstanceUID)] = event.request.DataSet.getvalue()
        return next(self._statuses, 0x0000)


def test_every_sample_arrives_at_pynetdicom_deflated_ones_too(router, field):
    files = list(real_files(deflated=True))
    assert DEFLATED in {file.transfer_syntax_uid for file in files}
    syntaxes = sorted({file.transfer_syntax_uid for file in files})
    kept = Kept()
    target = field(kept, [(uid, syntaxes) for uid in sorted({file.sop_class_uid for file in files})])
    assert router.store(target, objects_of(files), open_object=open_file).complete
    for file in files:
        assert kept.data[file.sop_instance_uid] == read_part10(file.path).dataset, file.path.name


def test_every_encoding_of_every_sample_in_one_go(router, scripted):
    """The same instance in several transfer syntaxes, deflated ones too: each on the context of its own."""
    peer = scripted(obliging)
    files = list(real_files(deflated=True, distinct=False))
    assert router.store(node(peer.port), objects_of(files), open_object=open_file).complete
    assert peer.stored == [(file.sop_instance_uid, read_part10(file.path).dataset) for file in files]
    (request,) = peer.requests
    assert {context[1:] for context in request.contexts} == {
        (file.sop_class_uid, (file.transfer_syntax_uid,)) for file in files
    }


@pytest.mark.parametrize("maximum", [4096, 16384, 131072, 0])
def test_sizes_around_the_edges_of_pdus(router, field, maximum):
    """Odd lengths, one byte, whole numbers of PDUs and of buffers; contexts that take turns."""
    kept = Kept()
    target = field(kept, [(SR, [EXPLICIT]), (CT, [IMPLICIT])], maximum=maximum)
    piece = (maximum or 1 << 20) - 6
    capacity = Frame(maximum).capacity
    sizes = [1, 2, piece - 1, piece, piece + 1, 2 * piece, 3 * piece + 1]
    sizes += [capacity - 1, capacity, capacity + 1, 2 * capacity, 2 * capacity + 3]
    kinds = itertools.cycle([(SR, EXPLICIT), (CT, IMPLICIT), (SR, EXPLICIT)])
    sent = [router.made(size, *next(kinds)) for size in sizes]
    result = router.store(target, sent)
    assert result.complete, (result, router.outcomes)
    assert {uid: len(data) for uid, data in kept.data.items()} == {
        stored.sop_instance_uid: size for stored, size in zip(sent, sizes, strict=True)
    }
    assert all(kept.data[stored.sop_instance_uid] == content(stored) for stored in sent)
    assert router.opened == 1


# PDUs ---------------------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_frame_gives_the_same_pdus_as_cutting_the_data_at_once(tmp_path_factory, data):
    """For any size, receiver, buffer, and file system that gives less than was asked for."""
    limit = data.draw(st.one_of(st.just(0), st.integers(pdu.MINIMUM_LENGTH, 700)))
    small = data.draw(st.integers(64, 900))
    at_once = data.draw(st.integers(1, 300))
    values = data.draw(
        st.lists(st.tuples(st.sampled_from([1, 3, 255]), st.binary(min_size=1, max_size=3000)), max_size=5)
    )
    path = tmp_path_factory.getbasetemp() / f"frame-{os.getpid()}"

    def stingy(descriptor: int, slots: list[memoryview]) -> int:
        part = os.read(descriptor, min(at_once, sum(map(len, slots))))
        place = 0
        for slot in slots:
            some = part[place : place + len(slot)]
            slot[: len(some)] = some
            place += len(some)
        return len(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_frame, "_SIZE", small)
        patch.setattr("router.dimse.store_frame.os.readv", stingy)
        frame = Frame(limit)
        longest = frame._step + 6
        for context_id, value in values:
            path.write_bytes(value)
            sent = bytearray()
            with path.open("rb", buffering=0) as file:
                remaining = len(value)
                while remaining:
                    part = min(remaining, frame.capacity)
                    remaining -= part
                    sent += frame.fill(file.fileno(), context_id, part, last=not remaining)
                with pytest.raises(CutOff):
                    frame.fill(file.fileno(), context_id, 1, last=True)
            assert longest <= (limit or longest)
            assert sent == b"".join(map(bytes, pdu.fragments(context_id, False, value, longest)))


uids = st.integers(1, 400).map(lambda number: f"1.2.{number}")


@given(st.lists(st.tuples(uids, st.sampled_from([EXPLICIT, JPEG])), max_size=600), st.integers(1, 700))
def test_contexts_made_from_the_instances(pairs, size):
    sent = [
        StoredObject(path="", sop_class_uid=uid, sop_instance_uid=f"1.{number}", transfer_syntax_uid=syntax)
        for number, (uid, syntax) in enumerate(pairs)
    ]
    taken = []
    for batch in batches(iter(sent), size):
        assert len(batch) <= size
        made = portions(batch)
        assert len(made) == -(-len({(each.sop_class_uid, each.transfer_syntax_uid) for each in batch}) // 128)
        for portion in made:
            ids = [context.context_id for context in portion.contexts]
            assert ids == list(range(1, 2 * len(ids), 2))
            assert len(ids) <= 128
            needed = [(each.sop_class_uid, (each.transfer_syntax_uid,)) for each in portion.objects]
            assert portion.offers == set(needed)
            # The order stays where an association's worth allows.
            assert portion.objects == sorted(portion.objects, key=lambda each: int(each.sop_instance_uid[2:]))
            taken += portion.objects
    assert Counter(each.sop_instance_uid for each in taken) == Counter(each.sop_instance_uid for each in sent)


def test_the_statuses_are_the_standards():
    """Held against pynetdicom's table of PS3.4 table B.2-1 and PS3.7 annex C."""
    names = {"Success": Standing.SUCCESS, "Warning": Standing.WARNING}  # a C-STORE cannot be cancelled
    for status in STORAGE_SERVICE_CLASS_STATUS:
        assert store_status(status)[0] is names.get(code_to_category(status), Standing.FAILURE), f"{status:04X}"
    assert store_status(0xA7FF) == (Standing.FAILURE, "out-of-resources")
    assert store_status(0xFF00) == (Standing.FAILURE, "unknown-status")


# a peer by script ---------------------------------------------------------------------------------------------------


class Scp:
    """A Store SCP made of our own acceptor: `script(scp, association)` serves an association that was accepted."""

    def __init__(
        self, script: Callable[["Scp", Association], None], decide: Any = None, maximum_length: int = 16384
    ) -> None:
        self._script = script
        self._decide = decide or self._accept_all
        self._limits = Limits(inactivity=20.0, maximum_length=maximum_length)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[AssociateRequest] = []
        self.stored: list[tuple[str, bytes]] = []
        self.faults: list[BaseException] = []
        self.connections: list[socket.socket] = []
        self.done = threading.Event()
        """Scripts may wait for it: the test is over."""
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept_all(self, request: AssociateRequest) -> list[ContextReply]:
        return [ContextReply(context.context_id, 0, context.transfer_syntaxes[0]) for context in request.contexts]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        def decide(request: AssociateRequest, _shown: object) -> Any:
            self.requests.append(request)
            return self._decide(request)

        with connection:
            try:
                self._script(self, Association.accept(connection, decide, peer="The router", limits=self._limits))
            except WireError:
                return
            except BaseException as fault:
                self.faults.append(fault)
                raise

    def next(self, association: Association) -> tuple[int, commands.Command]:
        """The next request, its data set kept."""
        message = association.receive(time.monotonic() + 20.0)
        assert message is not None
        assert message.command.field == commands.C_STORE_RQ
        data = association.read_data(message.context_id, 1 << 30)
        self.stored.append((message.command.text(commands.AFFECTED_SOP_INSTANCE_UID), data))
        return message.context_id, message.command

    def answer(
        self, association: Association, request: tuple[int, commands.Command], status: int = 0, **fields: Any
    ) -> None:
        context_id, command = request
        elements: dict[int, int | str] = {
            commands.COMMAND_FIELD: commands.C_STORE_RSP,
            commands.MESSAGE_ID_BEING_RESPONDED_TO: command.number(commands.MESSAGE_ID) or 0,
            commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
            commands.STATUS: status,
            **{getattr(commands, name): value for name, value in fields.items()},
        }
        association.send(context_id, commands.encode(elements))

    def stop(self) -> None:
        self.done.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(10)
        assert not self.faults


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scp]]:
    peers = []

    def start(script: Callable[[Scp, Association], None], **options: Any) -> Scp:
        peers.append(Scp(script, **options))
        return peers[-1]

    yield start
    for peer in peers:
        peer.stop()


def obliging(scp: Scp, association: Association) -> None:
    """Success for everything."""
    while True:
        scp.answer(association, scp.next(association))


# refusals -----------------------------------------------------------------------------------------------------------


def test_what_a_node_refuses_is_named_and_the_rest_goes_on(router, field):
    kept = Kept()
    target = field(kept, [(CT, [EXPLICIT, IMPLICIT])])
    sent = [router.made(), router.made(syntax=JPEG), router.made(sop_class=SR), router.made(syntax=IMPLICIT)]
    result = router.store(target, sent)
    by_uid = {outcome.stored.sop_instance_uid: (outcome.standing, outcome.cause) for outcome in router.outcomes}
    assert [by_uid[stored.sop_instance_uid] for stored in sent] == [
        (Standing.SUCCESS, "success"),
        (Standing.REFUSED, "syntax-refused"),
        (Standing.REFUSED, "class-refused"),
        (Standing.SUCCESS, "success"),
    ]
    assert set(kept.data) == {sent[0].sop_instance_uid, sent[3].sop_instance_uid}
    assert (result.complete, result.delivered, result.cause) == (False, 2, "")


def test_storescp_as_delivered_refuses_compressed_instances(router, start_storescp):
    peer = start_storescp(options=())
    files = list(real_files())
    router.store(node(peer.port, peer.ae_title), objects_of(files), open_object=open_file)
    refused = {outcome.stored.path for outcome in router.outcomes if outcome.standing is Standing.REFUSED}
    assert refused == {str(file.path) for file in files if file.compressed}
    assert len(peer.files()) == len(files) - len(refused)


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        (1, "context-rejected"),
        (2, "context-rejected"),
        (3, "class-refused"),
        (4, "syntax-refused"),
        (9, "context-rejected"),
    ],
)
def test_each_result_of_a_context_has_its_cause(router, scripted, result, cause):
    peer = scripted(
        obliging, decide=lambda request: [ContextReply(each.context_id, result, "") for each in request.contexts]
    )
    assert router.store(node(peer.port), [router.made()]).delivered == 0
    assert [(outcome.standing, outcome.cause) for outcome in router.outcomes] == [(Standing.REFUSED, cause)]


def test_a_context_the_node_does_not_mention_is_refused(router, scripted):
    peer = scripted(obliging, decide=lambda request: [])
    router.store(node(peer.port), [router.made()])
    assert router.causes == ["context-rejected"]


def test_more_than_128_contexts_take_several_associations(router, tmp_path):
    with Server(tmp_path / "store") as server:
        template = next(
            file for file in real_files() if file.sop_class_uid == CT and file.transfer_syntax_uid == EXPLICIT
        )
        data = read_part10(template.path).dataset
        path = tmp_path / "raw"
        sent = []
        for number in range(300):
            # As long as CT Image Storage is, so that all lengths stay.
            sop_class, instance = f"1.2.826.0.1.{number:03}.4.5.6.7.8", f"{template.sop_instance_uid[:-3]}{number:03}"
            old, new = (text.encode("ascii") for text in (template.sop_instance_uid, instance))
            assert data.count(old) == 1
            changed = data.replace(old, new).replace(
                CT.encode("ascii").ljust(26, b"\0"), sop_class.encode("ascii").ljust(26, b"\0")
            )
            path = tmp_path / f"{number}.raw"
            path.write_bytes(changed)
            sent.append(
                StoredObject(
                    path=str(path), sop_class_uid=sop_class, sop_instance_uid=instance, transfer_syntax_uid=EXPLICIT
                )
            )
        result = router.store(node(server.port), sent)
        assert result.complete, Counter(map(str, router.outcomes))
        assert router.opened == 3
        for receipt, stored in zip(server.receipts, sent, strict=True):
            assert receipt.sop_class_uid == stored.sop_class_uid
            assert read_part10(server.store.root / receipt.path).dataset == content(stored)


# statuses -----------------------------------------------------------------------------------------------------------


def test_statuses_and_scrubbed_comments_instance_by_instance(router, scripted):
    statuses = [0x0000, 0xB000, 0xB007, 0xA700, 0xA900, 0xC123, 0x0124, 0x0000]

    def script(scp: Scp, association: Association) -> None:
        for status in statuses:
            scp.answer(association, scp.next(association), status, ERROR_COMMENT="Doe^Jane is 1.2.3.45678")

    peer = scripted(script)
    result = router.store(node(peer.port), [router.made() for _ in statuses])
    assert [outcome.status for outcome in router.outcomes] == statuses
    assert router.causes == [
        "success",
        "coerced",
        "class-mismatch",
        "out-of-resources",
        "class-mismatch",
        "unable-to-process",
        "not-authorised",
        "success",
    ]
    assert {outcome.error_comment for outcome in router.outcomes} == {"… is …"}
    assert (result.delivered, result.count(Standing.FAILURE), result.cause) == (4, 4, "")


def test_a_full_node_is_left_in_peace(router, field):
    kept = Kept(0x0000, *[0xA700] * 99)
    target = field(kept)
    result = router.store(target, [router.made() for _ in range(9)])
    assert result.counts == {Standing.SUCCESS: 1, Standing.FAILURE: 3, Standing.NOT_SENT: 5}
    assert (result.cause, len(kept.data)) == ("out-of-resources", 4)
    assert "archive (PACS at" in result.reason
    assert router.causes[-1] == "out-of-resources"
    assert [event.up for event in router.of(NodeReachability)] == [True]
    # it is in step, and used again
    assert router.store(target, [router.made()]).count(Standing.FAILURE) == 1
    assert router.opened == 1


def test_the_move_originator_is_named_where_there_is_one(router, field):
    kept = Kept()
    target = field(kept)
    router.store(target, [router.made()])
    router.store(target, [router.made()], originator=MoveOriginator(ae_title="ASKER", message_id=77))
    assert [
        (request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID) for request in kept.requests
    ] == [(None, None), ("ASKER", 77)]


# files --------------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_sent_do_not_stop_the_others(router, scripted):
    peer = scripted(obliging)
    good = [router.made(), router.made(3_000_000), router.made()]
    gone, empty, short, odd_uid, odd_class = (router.made(size) for size in (10, 0, 10, 10, 10))
    Path(gone.path).unlink()
    odd_uid = StoredObject(**{**{f: getattr(odd_uid, f) for f in odd_uid.__struct_fields__}, "sop_instance_uid": "a/b"})
    odd_class = StoredObject(**{**{f: getattr(odd_class, f) for f in odd_class.__struct_fields__}, "sop_class_uid": ""})

    def opening(stored: StoredObject) -> tuple[int, int]:
        if stored is gone:
            raise StoreError("It is gone.")
        descriptor, size = open_raw(stored)
        return descriptor, size + (stored is short)

    sent = [good[0], gone, empty, good[1], short, odd_uid, odd_class, good[2]]
    result = router.store(node(peer.port), sent, open_object=opening)
    causes = {outcome.stored.path: outcome.cause for outcome in router.outcomes}
    assert [causes[stored.path] for stored in sent] == [
        "success", "unreadable", "empty", "success", "cut-off", "invalid-uid", "invalid-uid", "success",
    ]  # fmt: skip
    assert result.counts == {Standing.SUCCESS: 3, Standing.UNREADABLE: 5}
    assert peer.stored == [(stored.sop_instance_uid, content(stored)) for stored in good]
    assert router.opened == 1


def test_a_big_file_that_shrinks_on_its_way_costs_the_association_only(router, scripted):
    peer = scripted(obliging)
    first, shrinking, last = router.made(), router.made(5_000_000), router.made()

    def opening(stored: StoredObject) -> tuple[int, int]:
        descriptor, size = open_raw(stored)
        return descriptor, size + 1_000_000 * (stored is shrinking)

    result = router.store(node(peer.port), [first, shrinking, last], open_object=opening)
    assert (router.causes, result.cause) == (["success", "cut-off", "success"], "")
    assert [uid for uid, _ in peer.stored] == [first.sop_instance_uid, last.sop_instance_uid]
    assert router.opened == 2


def test_64_mib_in_constant_memory(router, tmp_path):
    """Through our own store as well, so both directions; what Python allocates is counted."""
    size = 64 << 20
    prefix = read_part10(next(file.path for file in real_files() if file.transfer_syntax_uid == EXPLICIT)).dataset
    file = next(file for file in real_files() if file.transfer_syntax_uid == EXPLICIT)
    path = tmp_path / "big"
    block = random.Random(1).randbytes(1 << 20)
    with path.open("wb") as stream:
        stream.write(prefix + b"\xfc\xff\xfc\xffOB\0\0" + size.to_bytes(4, "little"))
        for _ in range(size >> 20):
            stream.write(block)
    big = StoredObject(
        path=str(path),
        sop_class_uid=file.sop_class_uid,
        sop_instance_uid=file.sop_instance_uid,
        transfer_syntax_uid=EXPLICIT,
    )
    with Server(tmp_path / "store") as server:
        target = node(server.port)
        assert router.store(target, [big]).complete
        server.store.root.joinpath(server.receipts[0].path).unlink()
        tracemalloc.start()
        try:
            assert router.store(target, [big]).complete
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 << 20
        arrived = server.store.root / server.receipts[1].path
        offset = arrived.stat().st_size - path.stat().st_size
        with arrived.open("rb") as there, path.open("rb") as here:
            there.seek(offset)
            while part := here.read(1 << 20):
                assert there.read(len(part)) == part
    path.unlink()


# peers that go or hang ----------------------------------------------------------------------------------------------


def test_an_abort_in_the_middle(router, scripted):
    def script(scp: Scp, association: Association) -> None:
        scp.answer(association, scp.next(association))
        scp.next(association)
        association.abort()

    peer = scripted(script)
    result = router.store(node(peer.port), [router.made() for _ in range(5)])
    assert router.standings == [Standing.SUCCESS, Standing.UNCONFIRMED, *[Standing.NOT_SENT] * 3]
    assert router.causes == ["success", *["aborted"] * 4]
    assert (result.cause, len(peer.requests)) == ("aborted", 1)
    assert "aborted the association" in result.reason
    assert [event.up for event in router.of(NodeReachability)] == [False]
    assert [event.result for event in router.of(AssociationEnded)] == ["aborted"]


def test_a_connection_that_closes_in_the_middle_of_a_data_set(router, scripted):
    def script(scp: Scp, association: Association) -> None:
        assert association.receive(time.monotonic() + 10.0) is not None
        association.close()

    peer = scripted(script)
    result = router.store(node(peer.port), [router.made(40_000_000), router.made()])
    assert router.standings == [Standing.NOT_SENT] * 2  # its end was never sent: the node cannot have it
    assert result.cause == "connection-lost"


def test_a_node_that_never_answers(router, scripted):
    peer = scripted(lambda scp, association: (scp.next(association), scp.done.wait(60)))
    started = time.monotonic()
    result = router.store(node(peer.port, inactivity=0.5), [router.made() for _ in range(3)])
    assert time.monotonic() - started < 40
    assert router.standings == [Standing.UNCONFIRMED, Standing.NOT_SENT, Standing.NOT_SENT]
    assert (result.cause, set(router.causes)) == ("timeout", {"timeout"})
    assert "did not answer a C-STORE within 0.5 s" in result.reason


def test_a_node_that_stops_reading(router, scripted):
    peer = scripted(lambda scp, association: scp.done.wait(60))
    started = time.monotonic()
    result = router.store(node(peer.port, inactivity=0.5), [router.made(60_000_000), router.made()])
    assert time.monotonic() - started < 40
    assert router.standings == [Standing.NOT_SENT] * 2
    assert "stopped taking data in the middle of a C-STORE" in result.reason


def test_a_node_that_reads_slowly_but_steadily_is_waited_for(router, scripted):
    """The whole takes far longer than the inactivity."""

    def script(scp: Scp, association: Association) -> None:
        message = association.receive(time.monotonic() + 10.0)
        assert message is not None
        pauses = itertools.count()

        def sink(part: memoryview) -> None:
            if next(pauses) % 100 == 0:
                scp.done.wait(0.3)

        association.stream_data(message.context_id, sink)
        scp.answer(association, (message.context_id, message.command))

    peer = scripted(script)
    started = time.monotonic()
    assert router.store(node(peer.port, inactivity=3.0), [router.made(40_000_000)]).complete
    assert time.monotonic() - started > 3.5


def test_an_answer_to_something_else(router, scripted):
    def script(scp: Scp, association: Association) -> None:
        scp.answer(association, scp.next(association), MESSAGE_ID_BEING_RESPONDED_TO=4711)
        association.receive(time.monotonic() + 10.0)

    peer = scripted(script)
    result = router.store(node(peer.port), [router.made(), router.made()])
    assert router.standings == [Standing.UNCONFIRMED, Standing.NOT_SENT]
    assert (result.cause, "answered a request that was not made" in result.reason) == ("protocol", True)


def test_nobody_there_and_nobody_welcome(router, scripted):
    nobody = router.store(node(1), (router.made() for _ in range(2)))
    assert (nobody.cause, nobody.counts) == ("connection-refused", {Standing.NOT_SENT: 2})
    assert "refused the connection" in nobody.reason
    busy = scripted(obliging, decide=lambda request: Refusal(2, 3, 2))
    rejected = router.store(node(busy.port), [router.made()])
    assert (rejected.cause, rejected.counts) == ("rejected-2-3-2", {Standing.NOT_SENT: 1})
    assert [event.up for event in router.of(NodeReachability)] == [False, False]


def test_nothing_to_send_opens_nothing(router):
    result = router.store(node(1), [])
    assert (result.counts, result.complete, router.opened) == ({}, True, 0)


def test_the_total_time_ends_it_in_order(router, scripted):
    def script(scp: Scp, association: Association) -> None:
        while True:
            request = scp.next(association)
            scp.done.wait(0.3)
            scp.answer(association, request)

    peer = scripted(script)
    result = router.store(node(peer.port, total=0.5), [router.made() for _ in range(20)])
    assert result.cause == "timeout"
    assert 1 <= result.delivered < 10
    assert result.delivered + result.count(Standing.NOT_SENT) == 20
    assert len(peer.stored) == result.delivered
    assert [event.result for event in router.of(AssociationEnded)] == []  # in step, kept for the next


# cancelling ---------------------------------------------------------------------------------------------------------


def test_cancelling_lets_the_instance_under_way_end(router, scripted):
    def script(scp: Scp, association: Association) -> None:
        first = scp.next(association)
        router.cancelled.set()
        scp.done.wait(0.5)
        scp.answer(association, first)
        obliging(scp, association)

    peer = scripted(script)
    result = router.store(node(peer.port), [router.made() for _ in range(3)])
    assert (router.standings, result.cause) == ([Standing.SUCCESS, Standing.NOT_SENT, Standing.NOT_SENT], "cancelled")
    assert len(peer.stored) == 1
    assert router.of(NodeReachability) == []
    router.cancelled.clear()
    assert router.store(node(peer.port), [router.made()]).complete
    assert router.opened == 1


def test_cancelling_gives_up_a_node_that_hangs(router, scripted, monkeypatch):
    monkeypatch.setattr("router.dimse.store_scu.CANCEL_GRACE", 0.3)

    def silent(scp: Scp, association: Association) -> None:
        scp.next(association)
        router.cancelled.set()
        scp.done.wait(60)

    def deaf(scp: Scp, association: Association) -> None:
        router.cancelled.set()
        scp.done.wait(60)

    started = time.monotonic()
    assert router.store(node(scripted(silent).port), [router.made(), router.made()]).cause == "cancelled"
    router.cancelled.clear()
    assert router.store(node(scripted(deaf).port), [router.made(60_000_000)]).cause == "cancelled"
    assert time.monotonic() - started < 50
    assert router.standings[:2] == [Standing.UNCONFIRMED, Standing.NOT_SENT]
    assert router.standings[2:] == [Standing.NOT_SENT]


def test_cancelled_before_it_began(router, scripted):
    router.cancelled.set()
    peer = scripted(obliging)
    assert router.store(node(peer.port), [router.made()]).cause == "cancelled"
    assert (router.standings, router.opened) == ([Standing.NOT_SENT], 0)


@pytest.mark.parametrize("callback", ["on_outcome", "open_object"])
def test_a_callback_that_fails_ends_the_association(router, scripted, callback):
    def fail(_: object) -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError):
        router.peers.store(
            node(scripted(obliging).port),
            [router.made(), router.made()],
            **{
                "open_object": open_raw,
                "on_outcome": router.outcomes.append,
                "cancelled": router.cancelled,
                callback: fail,
            },
        )
    assert [event.change for event in router.of(AssociationsActive)] == [1, -1]


# reuse --------------------------------------------------------------------------------------------------------------


def test_one_association_for_consecutive_requests(router, scripted):
    peer = scripted(obliging)
    target = node(peer.port, limits=NodeLimits(associations=2))
    router.store(target, [router.made(), router.made(sop_class=SR)])
    for sop_class in (CT, SR, CT):
        assert router.store(target, [router.made(sop_class=sop_class)]).complete
    assert router.opened == 1
    # Other contexts need another one; the node does not hold both.
    assert router.store(target, [router.made(syntax=JPEG)]).complete
    assert (router.opened, len(router.of(AssociationEnded))) == (2, 1)
    other = node(peer.port, "OTHER", limits=NodeLimits(associations=2))
    assert router.store(other, [router.made(syntax=JPEG)]).complete
    assert (router.opened, len(router.of(AssociationEnded))) == (3, 1)


@pytest.mark.parametrize(("allowed", "opened"), [(1, 4), (2, 2)])
def test_storage_does_not_take_the_association_of_queries(router, tmp_path, allowed, opened):
    """Where only one is allowed the idle one is released before another is opened: the node never holds two."""
    with Server(tmp_path / "store") as server:
        target = node(server.port, limits=NodeLimits(associations=allowed))
        router.peers.echo(target)
        router.store(target, [router.made()])
        router.peers.echo(target)
        router.store(target, [router.made()])
        assert (router.opened, len(router.of(AssociationEnded))) == (opened, opened - allowed)
        changes = [event.change for event in router.of(AssociationsActive)]
        assert max(itertools.accumulate(changes)) == allowed


def test_an_idle_association_that_breaks_on_use_is_replaced(router, scripted):
    """The node closes it when it sees the next message: nothing was answered, so all is sent again, once."""
    served: list[int] = []

    def script(scp: Scp, association: Association) -> None:
        served.append(0)
        number = len(served)
        scp.answer(association, scp.next(association))
        if number == 1:
            assert association.receive(time.monotonic() + 10.0) is not None
            association.close()
            return
        obliging(scp, association)

    peer = scripted(script)
    target = node(peer.port)
    router.store(target, [router.made()])
    sent = [router.made(), router.made()]
    assert router.store(target, sent).complete
    assert (router.opened, len(router.outcomes)) == (2, 3)
    assert [uid for uid, _ in peer.stored[1:]] == [stored.sop_instance_uid for stored in sent]


def test_a_fresh_association_that_breaks_is_not_tried_again(router, scripted):
    peer = scripted(lambda scp, association: association.close())
    assert router.store(node(peer.port), [router.made()]).cause == "connection-lost"
    assert len(peer.requests) == 1


# asynchronous operations --------------------------------------------------------------------------------------------


@pytest.fixture
def agreed(monkeypatch):
    """Have our own acceptor agree to three operations."""
    monkeypatch.setattr(pdu, "encode_associate_accept", functools.partial(pdu.encode_associate_accept, operations=3))


def test_several_under_way_where_that_was_agreed(router, scripted, agreed):
    """Answers may come in any order; each reaches its instance."""
    most = []

    def script(scp: Scp, association: Association) -> None:
        for number in range(3):
            requests = [scp.next(association) for _ in range(3)]
            most.append(association.receive(time.monotonic() + 0.2))  # no fourth one comes
            for place, request in reversed(list(enumerate(requests))):
                scp.answer(association, request, 0xC000 + 3 * number + place)

    peer = scripted(script)
    sent = [router.made(size) for size in (10, 3_000_000, 30, 4, 5, 6, 7, 8, 9)]
    router.store(node(peer.port, operations=8), sent)
    assert peer.requests[0].operations == 8
    assert most == [None] * 3
    assert [uid for uid, _ in peer.stored] == [stored.sop_instance_uid for stored in sent]
    statuses = {outcome.stored.sop_instance_uid: outcome.status for outcome in router.outcomes}
    assert [statuses[stored.sop_instance_uid] for stored in sent] == list(range(0xC000, 0xC009))


def test_those_under_way_are_unconfirmed_when_the_association_goes(router, scripted, agreed):
    def script(scp: Scp, association: Association) -> None:
        first, *_ = [scp.next(association) for _ in range(3)]
        scp.answer(association, first)
        scp.next(association)
        association.abort()

    peer = scripted(script)
    router.store(node(peer.port, operations=3), [router.made() for _ in range(6)])
    assert router.standings == [Standing.SUCCESS, *[Standing.UNCONFIRMED] * 3, *[Standing.NOT_SENT] * 2]


def test_synchronous_where_nothing_was_agreed_or_asked_for(router, scripted):
    crowded: list[object] = []

    def script(scp: Scp, association: Association) -> None:
        while True:
            request = scp.next(association)
            crowded.append(association.receive(time.monotonic() + 0.1))
            scp.answer(association, request)

    peer = scripted(script)
    router.store(node(peer.port, operations=8), [router.made() for _ in range(3)])
    assert crowded == [None] * 3
    asking = pdu.encode_associate_request(peer.requests[0]._replace(operations=8))
    assert len(asking) == len(pdu.encode_associate_request(peer.requests[0]._replace(operations=1))) + 8
    other = scripted(script)
    router.store(node(other.port), [router.made()])
    assert other.requests[0].operations == 1


def test_a_window_negotiated_with_pynetdicom(router, field):
    kept = Kept()
    target = field(kept, handlers=[(evt.EVT_ASYNC_OPS, lambda event: (4, 1))], operations=8)
    sent = [router.made(size) for size in range(1, 60)]
    assert router.store(target, sent).complete
    assert kept.data == {stored.sop_instance_uid: content(stored) for stored in sent}
