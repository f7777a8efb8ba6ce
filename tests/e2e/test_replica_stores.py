"""Replicas with a store each: what arrives is spread over them, and is verified and passed on as a whole."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from router.domain.rule import LOCAL
from router.domain.transfer import State, Transfer
from router.simulator import SimulatedPacs
from router.simulator import make_study as make_simulated
from tests.support.dcmtk import Address, Storescp, storescu
from tests.support.part10 import dataset_bytes, read_part10
from tests.support.process import wait_for
from tests.support.replicas import Fleet
from tests.support.router import node
from tests.support.samples import StudyFiles, make_study
from tests.support.stocked import passes_on

TOKEN = "a-token-of-at-least-16-characters"
SECONDS = 120.0


class Spread:
    """Two replicas, and a workstation that gets what arrives."""

    def __init__(self, directory: Path) -> None:
        self.workstation = Storescp(directory / "ws", ae_title="WS")
        (directory / "token").write_text(TOKEN, encoding="utf-8")
        self.fleet = Fleet(
            directory,
            nodes={
                "ct1": node("CT1", 104, push="allow"),
                "ws": node("WS", self.workstation.port),
            },
            rules={"pass-on": {**passes_on("ws"), "arrival": {"stable": "2s"}}},
            replicas=2,
            router={"token": {"file": str(directory / "token")}},
        )

    def close(self) -> None:
        self.fleet.close()
        self.workstation.stop()

    def store(self, number: int, files: list[Path]) -> None:
        storescu(Address("ROUTER", self.fleet.sites[number].dicom_port), files, calling="CT1")

    @property
    def forwards(self) -> list[Transfer]:
        return [one for one in self.fleet.transfers() if one.intent.source == LOCAL]

    def received(self) -> dict[str, bytes]:
        return {read_part10(path).sop_instance_uid: dataset_bytes(path) for path in self.workstation.received.iterdir()}

    def wait_for_sent(self, number: int) -> None:
        def sent() -> bool:
            self.fleet.assert_running()
            return len(list(self.workstation.received.iterdir())) >= number and all(one.ended for one in self.forwards)

        try:
            wait_for(sent, f"{number} instances at the workstation", SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.forwards}\n{self.fleet.logs()[-8000:]}") from None

    def get(self, number: int, path: str, token: str = TOKEN) -> tuple[int, bytes, str]:
        """Status, body and Content-Length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.fleet.sites[number].http_port, timeout=60)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body, answer.headers["content-length"]


@pytest.fixture
def spread(tmp_path: Path) -> Iterator[Spread]:
    made = Spread(tmp_path)
    yield made
    made.close()


def halves(study: StudyFiles) -> tuple[list[Path], list[Path]]:
    return study.files[::2], study.files[1::2]


def contents(study: StudyFiles) -> dict[str, bytes]:
    return {read_part10(path).sop_instance_uid: dataset_bytes(path) for path in study.files}


def test_what_is_spread_over_two_stores_is_sent_on_as_one_study(spread: Spread, tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", instances=10, rows=64)
    one, other = halves(study)
    spread.fleet.start()
    spread.store(0, one)
    spread.store(1, other)
    spread.wait_for_sent(10)
    assert spread.received() == contents(study), "byte for byte, whoever received them"
    (transfer,) = spread.forwards
    assert transfer.completed == 10
    stored = {number: len(found) for number, found in spread.fleet.stored().items()}
    assert stored == {0: 5, 1: 5}, "what was fetched was not kept"
    told = spread.fleet.sites[0].json("store", "list")["studies"]
    assert [one["instances"] for one in told] == [10]
    assert sorted(told[0]["stores"]) == ["replica-0", "replica-1"]
    uids = list(contents(study))
    assert not [uid for uid in uids if uid in spread.fleet.logs()], "no UID in a log"


def test_what_a_stopped_replica_holds_waits_with_a_sentence_until_it_is_back(spread: Spread, tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", instances=6, rows=64)
    one, other = halves(study)
    spread.fleet.start(1)
    spread.workstation.stop()
    spread.store(1, other)  # the workstation is down: nothing leaves
    spread.fleet.start(0)
    spread.store(0, one)
    wait_for(lambda: len(spread.forwards) == 1, "the study is to be passed on", SECONDS)
    spread.fleet.stop(1)
    spread.workstation = Storescp(tmp_path / "ws", ae_title="WS", port=spread.workstation.port)

    def waits() -> bool:
        spread.fleet.assert_running()
        sent = len(list(spread.workstation.received.iterdir()))  # it may have waited before the other half was known
        return sent >= len(one) and any(
            it.cause == "replica-away" and it.state is State.QUEUED for it in spread.forwards
        )

    wait_for(waits, "the rest waits", SECONDS)
    (transfer,) = spread.forwards
    assert "replica-1" in transfer.reason
    assert "does not run" in transfer.reason or "is not to be reached" in transfer.reason
    assert set(spread.received()) == {read_part10(path).sop_instance_uid for path in one}, "what is here was sent"
    spread.fleet.start(1)
    spread.wait_for_sent(6)
    assert spread.received() == contents(study)


@pytest.mark.timeout(900)
def test_a_move_whose_instances_come_to_both_replicas_is_complete(tmp_path: Path) -> None:
    def studies(first: int) -> list[Any]:
        made = [
            make_simulated(seed=str(number), study_date=date.today(), instances=8, patient_id=f"P{number}")
            for number in range(first, first + 4)
        ]
        return [one for study in made for one in study]

    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    with (
        SimulatedPacs("ARCHIVE", studies=studies(0)) as archive,
        Fleet(
            tmp_path,
            nodes={"archive": node("ARCHIVE", archive.port)},
            rules={
                "keep": {
                    "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-1d..today+1d"}},
                    "move": {"to": ["local"]},
                }
            },
            replicas=2,
            router={"token": {"file": str(tmp_path / "token")}},
        ) as fleet,
    ):
        fleet.is_destination_of(archive)
        fleet.start()
        # The archive opens an association for each study; where it ends is the balancer's affair, so that all four may
        # come to the same one.
        for done in range(4, 28, 4):
            fleet.sites[0].call("apply", "--rule", "keep")
            fleet.wait_for_states({State.COMPLETE: done}, SECONDS)
            stored = [len(found) for found in fleet.stored().values()]
            assert sum(stored) == 8 * done
            if min(stored) > 0:
                break
            archive.add(studies(done))
        assert min(stored) > 0, "both received"
        assert {one.attempts for one in fleet.transfers()} == {1}, "what came to another was seen at once"
        # What is in the other's store is told by the command of this machine, and verified there.
        verified = fleet.sites[0].call("store", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert f"{stored[1]} instances in the stores of other replicas (replica-1) cannot be seen" in verified.stderr
        fleet.stop(1)
        refused = fleet.sites[0].call("store", "forget", "replica-1")
        assert refused.returncode == 2
        assert f"held {stored[1]} instances, which" in refused.stderr
        assert "to local would lose; say --yes --retry" in refused.stderr
        assert fleet.sites[0].call("store", "forget", "replica-0", "--yes").returncode == 1, "it runs"
        forgot = fleet.sites[0].call("store", "forget", "replica-1", "--yes", "--retry")
        assert (forgot.returncode, f"with {stored[1]} instances" in forgot.stdout) == (0, True)
        assert "to local have lost instances and are queued again." in " ".join(forgot.stdout.split())
        # What only the lost store had is moved again, to the one that is left.
        wait_for(lambda: len(fleet.stored()[0]) == sum(stored), "all is in the store that is left", SECONDS)
        fleet.wait_for_states({State.COMPLETE: sum(stored) // 8}, SECONDS)


def test_instances_are_given_to_who_shows_the_token(spread: Spread, tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", instances=1, rows=64)
    spread.fleet.start(0)
    spread.store(0, study.files)
    (file,) = spread.fleet.sites[0].stored().values()
    place = "/".join([*file.parts[-3:-1], file.stem])
    path = f"/api/v1/objects/{place}"
    content = file.read_bytes()
    assert spread.get(0, path) == (200, content, str(len(content)))
    assert spread.get(0, path, token="")[0] == 401
    assert spread.get(0, path, token="another-token-that-is-wrong")[0] == 401
    status, body, _ = spread.get(0, "/api/v1/objects/1.2/1.2.3/1.2.3.4")
    assert status == 404
    assert b"1.2.3" not in body
    assert spread.get(0, "/api/v1/objects/1.2/../../rules")[0] == 404
    assert spread.get(0, "/api/v1/objects/1.2/x/1.2.3")[0] == 404
    log = spread.fleet.logs()
    assert not [uid for uid in file.parts[-3:] if uid.removesuffix(".dcm") in log]
