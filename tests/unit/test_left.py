"""What has left the store, having been passed on: no verdict turns bad, nothing of it is moved again but who asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.domain.relevance import Presence
from router.domain.transfer import Happening, State, Transfer
from router.engine.missing import missing_instances
from tests.support.departures import pass_on
from tests.unit.test_presence import Asks, study

STUDY = "1.1"


class Passing(Asks):
    """A bench whose store has what it was sent on, and then not any more."""

    def pass_on(self) -> None:
        """Prove that all the store holds is at `ws` too."""
        pass_on(self.ledger, STUDY, self.clock.now())

    def leave(self) -> None:
        (held,) = self.ledger.held_studies([STUDY], self.clock.now())
        departure = self.ledger.begin_departure(held, self.clock.now())
        assert departure is not None
        self.ledger.forget_receipts(self.ledger.leaving_receipts(departure, ("", ""), 999))
        self.ledger.end_departure(departure, self.clock.now())
        assert self.ledger.received(STUDY) == set()

    def local(self) -> Transfer:
        """The transfer to the store."""
        (transfer,) = self.ledger.transfers(destination="local")
        return transfer

    @property
    def moves(self) -> int:
        return len(self.peers.requests)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Passing]:
    """The study was moved here, passed on, and has left."""
    bench = Passing(tmp_path)
    bench.peers.add("pacs", STUDY, "1.1.1", "1.1.1.1", "1.1.1.2", PatientID="P")
    bench.sweep()
    (transfer,) = bench.finish()
    assert (transfer.state, bench.moves) == (State.COMPLETE, 1)
    bench.pass_on()
    bench.leave()
    yield bench
    bench.ledger.close()


def test_sweeps_leave_it_alone_and_its_verdict_stands(bench: Passing) -> None:
    for manual in (False, True):
        bench.sweep(manual=manual)
        bench.finish()
    assert bench.local().state is State.COMPLETE
    assert bench.moves == 1
    assert missing_instances(bench.ledger, bench.local()) == []


def test_of_a_study_that_grew_only_the_difference_is_moved(bench: Passing) -> None:
    bench.peers.add("pacs", STUDY, "1.1.1", "1.1.1.3", PatientID="P")
    bench.sweep()
    bench.finish()
    transfer = bench.local()
    assert (transfer.state, transfer.expected, transfer.completed) == (State.COMPLETE, 3, 3)
    assert bench.ledger.received(STUDY) == {"1.1.1.3"}
    assert "left the store since" in transfer.reason


def test_an_instance_that_came_later_and_was_lost_is_moved_again(bench: Passing) -> None:
    bench.peers.add("pacs", STUDY, "1.1.1", "1.1.1.3", PatientID="P")
    bench.sweep()
    bench.finish()
    bench.lost_files.add("1.1.1.3")
    bench.ledger.apply(bench.local().id, Happening.AGAIN, bench.clock.now())
    before = bench.moves
    bench.step()
    assert bench.moves == before + 1
    bench.lost_files.clear()
    bench.finish()
    assert bench.ledger.received(STUDY) == {"1.1.1.1", "1.1.1.2", "1.1.1.3"}


def test_who_asks_for_it_again_gets_it_again(bench: Passing) -> None:
    bench.ledger.apply(bench.local().id, Happening.AGAIN, bench.clock.now())
    bench.finish()
    assert bench.ledger.received(STUDY) == {"1.1.1.1", "1.1.1.2"}
    assert bench.local().state is State.COMPLETE


def test_a_prior_that_has_left_counts_as_there_for_as_long_as_is_believed(bench: Passing) -> None:
    asked = bench.ask(study(STUDY), study("1.9"), destination="local")
    assert asked.presence == {STUDY: Presence.THERE, "1.9": Presence.ABSENT}
    bench.clock.advance(31 * 86400)
    assert bench.ask(study(STUDY), destination="local").presence == {STUDY: Presence.ABSENT}
