"""Storage commitment in the engine, with fake peers and a real ledger: asked once, waited for by nobody, believed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.commitment import CommitmentAnswer, failure_sentence
from router.domain.dicom import QueryRetrieveLevel
from router.domain.events import CommitmentNoted
from router.domain.rule import CommitmentSettings, Retry
from router.domain.transfer import Happening, State, Transfer
from router.engine.mover import LEASE_SECONDS
from router.errors import (
    CommitmentRefused,
    ConnectionFailed,
    ContextRefused,
    DeadlineExceeded,
    WireError,
)
from tests.support.engine import Bench

ALL = {"1.1.1.1", "1.1.1.2", "1.1.2.1"}


class Vault(Bench):
    """`ws` answers storage commitment requests, when the test says so."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.to("ws")
        self.commit(CommitmentSettings())
        self.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", "1.1.1.2")
        self.peers.add("pacs", "1.1", "1.1.2", "1.1.2.1")

    def commit(self, settings: CommitmentSettings | None) -> None:
        ws = msgspec.structs.replace(self.rules.nodes["ws"], commitment=settings)
        self.rules = msgspec.structs.replace(self.rules, nodes={**self.rules.nodes, "ws": ws})

    def until_asked(self) -> Transfer:
        """Sweep, move, ask; the transfer then waits."""
        self.sweep()
        return self.wait()

    def wait(self) -> Transfer:
        """Work on what is due, no more; the transfer then."""
        while self.step() is not None:
            pass
        return self.transfer

    @property
    def transfer(self) -> Transfer:
        (transfer,) = self.ledger.transfers(destination="ws")
        return transfer

    def report(self, number: int = -1, **changes: Any) -> bool:
        """The archive reports on a request of before."""
        name, request = self.peers.commitments[number]
        answer = msgspec.structs.replace(self.peers.judge(name, request), **changes)
        return self.committer.take(answer, ["ws"])

    def fail(self) -> Transfer:
        """The archive reports; where it does not commit itself to all, it is asked anew until it is believed."""
        rounds = self.transfer.rounds
        for _ in range(4):
            assert self.report()
            transfer = self.wait()
            if transfer.ended or transfer.rounds > rounds:
                return transfer
            self.clock.advance((transfer.next_at - self.clock.now()).total_seconds())
            self.wait()
        raise AssertionError("it is asked for ever")

    def noted(self) -> list[str]:
        return [one.result for one in self.events if isinstance(one, CommitmentNoted)]


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    bench = Vault(tmp_path)
    yield bench
    bench.ledger.close()


def test_an_archive_that_commits_itself_later_makes_it_complete_at_once(vault: Vault) -> None:
    transfer = vault.until_asked()
    assert transfer.state is State.VERIFYING
    assert transfer.reason == "ws took the storage commitment request and has not answered it yet."
    assert transfer.lease_until is None, "no worker waits for it"
    assert (transfer.next_at - vault.clock.now()).total_seconds() > 1
    ((node, request),) = vault.peers.commitments
    assert (node, {uid for _, uid in request.references}) == ("ws", ALL)
    assert request.transaction_uid.startswith("2.25.")
    assert vault.report()
    assert vault.transfer.next_at <= vault.clock.now(), "it is due without waiting"
    transfer = vault.wait()
    assert (transfer.state, transfer.completed) == (State.COMPLETE, 3)
    assert transfer.reason == "The destination has committed itself to all 3 instances."
    assert vault.noted() == ["requested", "committed"]
    assert len(vault.peers.requests) == 1


def test_an_answer_on_the_same_association(vault: Vault) -> None:
    vault.peers.report_at_once = True
    transfer = vault.until_asked()
    assert transfer.state is State.COMPLETE
    assert vault.noted() == ["committed", "requested"]


def test_an_answer_that_comes_while_it_is_looked_at_is_seen_at_once(vault: Vault) -> None:
    """It comes after the look has read the ledger, and before it ends."""
    vault.sweep()
    assert vault.step() is not None
    honest = vault.ledger.commitments
    reads = 0

    def late(transfer_id: int) -> Any:
        nonlocal reads
        found = honest(transfer_id)
        reads += 1
        if found and found[0].answered_at is None:
            assert vault.report()
        return found

    vault.ledger.commitments = late  # type: ignore[method-assign]
    assert vault.step() is not None
    assert reads
    assert vault.transfer.state is State.VERIFYING
    assert vault.transfer.next_at <= vault.clock.now()
    assert vault.wait().state is State.COMPLETE


def test_what_it_did_not_commit_itself_to_is_moved_again_and_asked_about_anew(vault: Vault) -> None:
    vault.peers.uncommitted = {"1.1.1.2": 0x0112}
    vault.until_asked()
    transfer = vault.fail()
    vault.peers.uncommitted = {}
    assert (transfer.state, transfer.rounds) == (State.VERIFYING, 1)
    assert [request.sop_instance_uids for _, request in vault.peers.requests] == [(), ("1.1.1.2",)]
    asked = [request.transaction_uid for _, request in vault.peers.commitments]
    assert len(set(asked)) == len(asked)
    assert [one.transaction_uid for one in vault.ledger.commitments(transfer.id)] == [asked[-1]]
    vault.report()
    assert vault.wait().state is State.COMPLETE
    assert vault.noted() == ["requested", "failed"] * 2 + ["requested", "committed"]


def test_what_it_has_not_taken_in_yet_is_asked_about_anew_before_it_is_moved_again(vault: Vault) -> None:
    """Archives index what they were sent after they have answered the C-STORE, sources send after they say success."""
    vault.peers.uncommitted = dict.fromkeys(ALL, 0x0112)
    vault.until_asked()
    vault.report()
    transfer = vault.wait()
    assert (transfer.state, transfer.rounds) == (State.VERIFYING, 0)
    vault.peers.uncommitted = {}
    vault.clock.advance(61)
    vault.wait()
    vault.report()
    assert vault.wait().state is State.COMPLETE
    assert len(vault.peers.requests) == 1


@pytest.mark.parametrize("reason", [0x0119, 0x0131])
def test_what_no_waiting_helps_against_is_moved_again_at_once(vault: Vault, reason: int) -> None:
    vault.peers.uncommitted = {"1.1.1.2": reason}
    vault.until_asked()
    vault.report()
    assert vault.wait().rounds == 1


def test_what_it_never_commits_itself_to_ends_as_what_it_is(vault: Vault) -> None:
    vault.peers.uncommitted = {"1.1.1.2": 0x0112, "1.1.2.1": 0x0213}
    vault.until_asked()
    for _ in range(3):
        transfer = vault.fail()
    assert (transfer.state, transfer.completed, transfer.rounds) == (State.CONTRADICTED, 1, 2)
    assert transfer.reason == (
        "The source reports success, but the destination holds 1 of 3 instances. "
        "It does not commit itself to 1 (no such instance, 0112), 1 (short of resources, 0213)."
    )
    (last,) = vault.ledger.commitments(transfer.id)
    assert last.failed == {"1.1.1.2": 0x0112, "1.1.2.1": 0x0213}


def test_what_is_not_mentioned_is_not_committed(vault: Vault) -> None:
    vault.until_asked()
    vault.report(committed=frozenset({"1.1.1.1", "1.1.1.2"}))
    transfer = vault.wait()
    assert (transfer.state, transfer.rounds) == (State.VERIFYING, 1)


def test_without_an_answer_it_is_asked_by_c_find_in_the_end(vault: Vault) -> None:
    vault.commit(CommitmentSettings(timeout=7200.0))
    vault.sweep()
    started = vault.clock.now()
    (transfer,) = vault.finish()
    assert 7200 <= (vault.clock.now() - started).total_seconds() < 7400
    assert transfer.state is State.COMPLETE
    assert transfer.reason == "All 3 instances are there. ws did not answer the storage commitment request in time."
    assert vault.noted() == ["requested", "overdue"]
    assert transfer.looks < 8
    vault.report()
    assert vault.wait().updated_at == transfer.updated_at, "an answer after the verdict changes nothing"


REFUSALS: list[WireError] = [
    ContextRefused("ws accepts no storage commitment requests."),
    CommitmentRefused(0x0122, "ws refused."),
    CommitmentRefused(0x0110, "ws refused."),
    DeadlineExceeded("ws did not answer."),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=[type(one).__name__ + str(n) for n, one in enumerate(REFUSALS)])
def test_an_archive_that_refuses_is_asked_by_c_find(vault: Vault, refusal: WireError) -> None:
    vault.peers.refuse = refusal
    transfer = vault.until_asked()
    assert transfer.state is State.COMPLETE
    assert transfer.reason == f"All 3 instances are there. {refusal}"
    assert vault.ledger.commitments(transfer.id) == [], "nothing is awaited"
    assert vault.noted() == ["refused"]


def test_who_has_just_refused_is_not_asked_again_for_the_next(vault: Vault) -> None:
    vault.peers.add("pacs", "1.2", "1.2.1", "1.2.1.1")
    vault.peers.refuse = ContextRefused("No.")
    vault.sweep()
    assert [transfer.state for transfer in vault.finish()] == [State.COMPLETE] * 2
    assert vault.noted() == ["refused"]


def test_nobody_to_ask_by_c_find_either_is_unproven(vault: Vault) -> None:
    vault.peers.refuse = ContextRefused("No commitment.")
    vault.peers.mute.add("ws")
    transfer = vault.until_asked()
    assert transfer.state is State.UNPROVEN
    assert transfer.reason == "No commitment. ws answers no query, so nobody can say what arrived there."


def test_a_destination_without_c_find_is_proven_by_commitment(vault: Vault) -> None:
    """The SOP classes are known from the source."""
    vault.peers.mute.add("ws")
    vault.until_asked()
    vault.report()
    assert vault.wait().state is State.COMPLETE


def test_a_destination_that_is_away_is_asked_when_it_is_back(vault: Vault) -> None:
    vault.sweep()
    assert vault.step() is not None
    vault.peers.down.add("ws")
    for _ in range(3):
        assert vault.step() is not None
        vault.clock.advance(60)
    assert vault.transfer.state is State.VERIFYING
    vault.peers.down.clear()
    vault.wait()
    vault.report()
    assert vault.wait().state is State.COMPLETE
    assert vault.noted() == ["requested", "committed"]


class TestOnlyCommitment:
    """`verify: commitment` takes nothing else."""

    def test_an_answer_proves(self, vault: Vault) -> None:
        vault.to("ws", verify="commitment")
        vault.until_asked()
        vault.report()
        assert vault.wait().state is State.COMPLETE

    @pytest.mark.parametrize("status", [0x0122, 0x0118])
    def test_a_refusal_leaves_it_unproven(self, vault: Vault, status: int) -> None:
        vault.to("ws", verify="commitment")
        vault.peers.refuse = ContextRefused("ws refused.")
        transfer = vault.until_asked()
        assert (transfer.state, transfer.reason) == (State.UNPROVEN, "ws refused.")

    def test_a_refusal_that_may_pass_is_waited_for(self, vault: Vault) -> None:
        vault.to("ws", verify="commitment")
        vault.peers.refuse = CommitmentRefused(0x0213, "ws is short of resources.")
        transfer = vault.until_asked()
        assert (transfer.state, transfer.reason) == (State.VERIFYING, "ws is short of resources.")
        vault.peers.refuse = None
        vault.peers.report_at_once = True
        before = vault.committer._mute.copy()
        vault.committer._mute.clear()  # a minute has passed
        assert before
        (transfer,) = vault.finish()
        assert transfer.state is State.COMPLETE

    def test_time_that_is_up_leaves_it_unproven(self, vault: Vault) -> None:
        vault.to("ws", verify="commitment")
        vault.sweep()
        (transfer,) = vault.finish()
        assert transfer.state is State.UNPROVEN
        assert "did not answer the storage commitment request in time" in transfer.reason

    def test_a_node_that_lost_its_setting(self, vault: Vault) -> None:
        vault.to("ws", verify="commitment")
        vault.commit(None)
        assert vault.until_asked().state is State.UNPROVEN


@pytest.mark.parametrize("verify", ["find", "none"])
def test_a_rule_may_want_something_else(vault: Vault, verify: str) -> None:
    vault.to("ws", verify=verify)
    vault.sweep()
    vault.finish()
    assert vault.peers.commitments == []


def test_local_needs_no_commitment(vault: Vault) -> None:
    vault.to("local", "ws")
    vault.sweep()
    vault.wait()
    states = {transfer.intent.destination: transfer.state for transfer in vault.ledger.transfers()}
    assert states == {"local": State.COMPLETE, "ws": State.VERIFYING}
    assert len(vault.peers.commitments) == 1


def test_what_was_there_before_is_committed_too(vault: Vault) -> None:
    vault.peers.holdings["ws"]["1.1"] = {k: set(v) for k, v in vault.peers.holdings["pacs"]["1.1"].items()}
    transfer = vault.until_asked()
    assert (transfer.state, transfer.cause) == (State.VERIFYING, "already-present")
    assert vault.peers.requests == []
    vault.report()
    assert vault.wait().state is State.COMPLETE


def test_what_it_lists_but_has_lost_is_moved_again(vault: Vault) -> None:
    vault.peers.holdings["ws"]["1.1"] = {k: set(v) for k, v in vault.peers.holdings["pacs"]["1.1"].items()}
    vault.peers.uncommitted = {"1.1.2.1": 0x0112}
    vault.until_asked()
    vault.fail()
    assert [request.series_instance_uids for _, request in vault.peers.requests] == [("1.1.2",)]


class TestClasses:
    """A request names the SOP class of each instance."""

    def test_our_own_receipts_know_them(self, vault: Vault) -> None:
        vault.to("local")
        vault.sweep()
        vault.finish()
        vault.to("ws")
        vault.peers.classes = False
        vault.sweep()
        vault.wait()
        ((_, request),) = vault.peers.commitments
        assert {uid for _, uid in request.references} == ALL

    def test_a_source_that_does_not_say_leaves_it_to_the_destination(self, vault: Vault) -> None:
        honest = vault.peers.find

        def find(node: Any, level: QueryRetrieveLevel, keys: Any, **named: Any) -> Any:
            vault.peers.classes = node.name == "ws"
            return honest(node, level, keys, **named)

        vault.peers.find = find  # type: ignore[method-assign]
        vault.until_asked()
        ((_, request),) = vault.peers.commitments
        assert {uid for _, uid in request.references} == ALL

    def test_nobody_who_says_them_leaves_c_find(self, vault: Vault) -> None:
        vault.peers.classes = False
        transfer = vault.until_asked()
        assert transfer.state is State.COMPLETE
        assert "Of 3 instances nobody says the SOP class" in transfer.reason
        assert vault.peers.commitments == []

    def test_classes_that_are_not_committed_are_asked_for_by_c_find(self, vault: Vault) -> None:
        vault.peers.uncommitted = {"1.1.2.1": 0x0122}
        vault.until_asked()
        vault.report()
        transfer = vault.wait()
        assert transfer.state is State.COMPLETE
        assert transfer.reason == (
            "All 3 instances are there. ws does not commit itself to some SOP classes; those were asked for by C-FIND."
        )

    def test_unless_the_rule_takes_nothing_but_commitment(self, vault: Vault) -> None:
        vault.to("ws", verify="commitment", retry=Retry(attempts=1))
        vault.peers.uncommitted = {"1.1.2.1": 0x0122}
        vault.until_asked()
        vault.report()
        transfer = vault.wait()
        assert transfer.state is State.CONTRADICTED
        assert "1 (the SOP class is not supported for storage commitment, 0122)" in transfer.reason


class TestAnswersThatAreNotOurs:
    """Counted, and dropped."""

    def test_an_unknown_transaction(self, vault: Vault) -> None:
        vault.until_asked()
        assert not vault.report(transaction_uid="2.25.4711")
        assert vault.noted() == ["requested", "unknown"]
        assert vault.transfer.next_at > vault.clock.now()

    def test_a_node_that_was_not_asked(self, vault: Vault) -> None:
        vault.until_asked()
        name, request = vault.peers.commitments[0]
        assert not vault.committer.take(vault.peers.judge(name, request), ["pacs"])
        assert not vault.committer.take(vault.peers.judge(name, request), [])
        assert vault.wait().state is State.VERIFYING

    def test_the_first_answer_holds(self, vault: Vault) -> None:
        vault.until_asked()
        assert vault.report()
        lie = CommitmentAnswer(
            transaction_uid=vault.peers.commitments[0][1].transaction_uid,
            calling_ae_title="WS",
            failed=dict.fromkeys(ALL, 0x0112),
        )
        assert not vault.committer.take(lie, ["ws"])
        assert vault.wait().state is State.COMPLETE
        assert vault.noted() == ["requested", "committed"]

    def test_the_answer_about_a_move_of_before(self, vault: Vault) -> None:
        vault.until_asked()
        vault.report()
        vault.wait()
        vault.ledger.apply(vault.transfer.id, Happening.AGAIN, vault.clock.now())
        vault.wait()
        assert len(vault.peers.commitments) == 2
        assert not vault.report(0)
        assert vault.transfer.state is State.VERIFYING


def test_a_crash_while_asking_asks_again(vault: Vault) -> None:
    vault.sweep()
    assert vault.step() is not None
    claimed = vault.ledger.claim_verification(["ws"], vault.clock.now(), LEASE_SECONDS)
    assert claimed is not None
    assert vault.ledger.request_commitment(claimed, "ws", ["2.25.1"], vault.clock.now())
    vault.clock.advance(LEASE_SECONDS + 1)
    assert vault.ledger.expire_leases(vault.clock.now()) == 1
    vault.wait()
    assert len(vault.peers.commitments) == 1
    vault.report()
    assert vault.wait().state is State.COMPLETE


def test_a_move_that_broke_is_given_a_moment_before_it_is_asked_about(vault: Vault) -> None:
    """Stores that are under way when the association breaks may still end well."""
    honest = vault.peers.move

    def move(*arguments: Any, **named: Any) -> Any:
        honest(*arguments, **named)
        raise DeadlineExceeded("pacs did not answer.")

    vault.peers.move = move  # type: ignore[method-assign]
    transfer = vault.until_asked()
    assert vault.peers.commitments == []
    assert transfer.state is State.VERIFYING
    for _ in range(3):
        vault.clock.advance(4)
        vault.wait()
    vault.report()
    assert vault.wait().state is State.COMPLETE


def test_a_cancelled_request_leaves_nothing_awaited(vault: Vault) -> None:
    vault.sweep()
    assert vault.step() is not None
    vault.never.set()
    vault.peers.refuse = ConnectionFailed("not reached")
    transfer = vault.ledger.claim_verification(["ws"], vault.clock.now(), LEASE_SECONDS)
    assert transfer is not None
    after = vault.verifier.run(transfer, vault.never)
    assert after is not None
    assert vault.ledger.commitments(after.id) == []


def test_reasons_are_sentences_without_identifiers() -> None:
    assert failure_sentence({}) == ""
    assert failure_sentence({"2.25.1": 0x0110, "2.25.2": 0x0110, "2.25.3": 0x4711}) == (
        "It does not commit itself to 2 (a general failure, 0110), 1 (a reason the standard does not define, 4711)."
    )
