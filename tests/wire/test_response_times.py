"""How soon a node answers: one time for each request, from its end to the first that comes; none where nothing came."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.dimse.peers import Peers
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.events import Event, NodeResponded
from router.domain.exchange import MoveRequest, StoredObject
from router.domain.rule import FindSettings, Node, Timeouts
from router.errors import WireError
from router.simulator import Behaviour, SimulatedPacs
from tests.support.ports import free_port
from tests.wire.simulated import CT_UID
from tests.wire.test_store_scu import Sending, open_file


class Asking:
    """Requests to a node, and the times that are told of them."""

    def __init__(self, port: int, ae_title: str) -> None:
        self.events: list[Event] = []
        self.peers = Peers("ROUTER", self.events.append)
        self.node = Node(
            name="archive",
            ae_title=ae_title,
            host="127.0.0.1",
            port=port,
            find=FindSettings(inactivity=1.0, total=5.0),
            timeouts=Timeouts(connect=2.0, negotiation=2.0),
        )

    def echo(self) -> None:
        self.peers.echo(self.node)

    def find(self) -> None:
        keys = Identifier.of(StudyInstanceUID="", PatientID="*")
        self.peers.find(self.node, QueryRetrieveLevel.STUDY, keys, maximum=100, cancelled=threading.Event())

    def move(self) -> None:
        request = MoveRequest(
            destination_ae_title="DEST", level=QueryRetrieveLevel.STUDY, study_instance_uid=CT_UID, patient_id="P1"
        )
        self.peers.move(
            self.node,
            request,
            on_response=lambda progress: None,
            last_arrival=lambda: 0.0,
            cancelled=threading.Event(),
        )

    def times(self) -> list[float]:
        return [event.seconds for event in self.events if isinstance(event, NodeResponded) and event.node == "archive"]


REQUESTS: dict[str, Callable[[Asking], None]] = {"echo": Asking.echo, "find": Asking.find, "move": Asking.move}


@pytest.fixture
def asking(pacs: SimulatedPacs) -> Iterator[Asking]:
    made = Asking(pacs.port, pacs.ae_title)
    yield made
    made.peers.close()


@pytest.mark.parametrize("name", REQUESTS)
def test_each_request_has_one_time_however_many_responses_come(asking: Asking, name: str) -> None:
    for number in (1, 2, 3):
        REQUESTS[name](asking)
        assert len(asking.times()) == number
    assert all(seconds >= 0 for seconds in asking.times())


def test_a_node_that_takes_its_time_has_it_told(asking: Asking, pacs: SimulatedPacs) -> None:
    pacs.behaviour = Behaviour(response_delay_seconds=0.3)
    asking.find()
    (seconds,) = asking.times()
    assert seconds >= 0.3


def test_nothing_is_told_where_nothing_answers() -> None:
    asking = Asking(free_port(), "NOBODY")
    with pytest.raises(WireError):
        asking.echo()
    assert asking.times() == []


def test_of_instances_that_are_sent_each_answer_has_its_time(tmp_path: Path, start_storescp: Any, samples: Any) -> None:
    peer = start_storescp()
    sending = Sending(tmp_path)
    node = Node(name="archive", ae_title=peer.ae_title, host="127.0.0.1", port=peer.port)
    objects = [
        StoredObject(
            path=str(one.path),
            sop_class_uid=one.sop_class_uid,
            sop_instance_uid=one.sop_instance_uid,
            transfer_syntax_uid=one.transfer_syntax_uid,
        )
        for one in samples[:5]
    ]
    sending.store(node, objects, open_object=open_file)
    answered = [outcome for outcome in sending.outcomes if outcome.status is not None]
    assert len(answered) >= 1
    assert len(sending.of(NodeResponded)) == len(answered)
    assert all(event.seconds >= 0 for event in sending.of(NodeResponded))
    sending.peers.close()
