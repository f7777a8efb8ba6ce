"""What the command line says of appointments and priors: `appointments`, `explain`, and their part in `transfers`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from router import opening
from router.cli import appointments, transfers
from router.cli.main import root
from router.domain.appointment import Appointment, AppointmentState
from router.domain.dicom import Identifier
from router.domain.relevance import Prior
from router.domain.transfer import Intent, State, Transfer

CONFIGURATION = """\
nodes:
  archive: {ae_title: ARCHIVE, address: 127.0.0.1:104, timezone: Asia/Tokyo}
rules:
  tomorrow:
    sweep: {source: archive, every: 5m, keys: {StudyDate: today}}
    move: {to: [local]}
"""
START = datetime(2026, 11, 28, 1, 0, tzinfo=UTC)
"""10:00 in Tokyo."""
STUDY = "1.2.826.0.1.1234567"
SECRET = "4711-SECRET"


def appointment(number: int, **changes: Any) -> Appointment:
    base = Appointment(
        id=number,
        rule="tomorrow",
        trigger="worklist",
        key=f"{SECRET}-{number}",
        source="archive",
        current=Identifier.of(PatientID=SECRET, PatientName=SECRET),
        patient_id=SECRET,
        issuer=SECRET,
        start_at=START,
        due_at=START - timedelta(hours=2),
        state=AppointmentState.DONE,
        candidates=9,
        taken=2,
        queries=3,
        noted_at=START - timedelta(days=1),
        finished_at=START - timedelta(hours=1),
    )
    return msgspec.structs.replace(base, **changes)


TAKEN = Prior(
    study_instance_uid=STUDY,
    destination="local",
    taken=True,
    code="taken",
    reason="the first of 3 for same-region",
    group="same-region",
    score=93,
    breakdown="anatomy same 50 + modality same 25 + recency 18",
    age_days=800,
)
LEFT = Prior(
    study_instance_uid="1.2.826.0.1.7654321",
    destination="local",
    taken=False,
    code="no-group",
    reason="it fits no group",
    age_days=12,
)


class Ledger:
    """A ledger of two appointments, of which the first has one prior taken and moved."""

    def __init__(self) -> None:
        self.known = {1: appointment(1), 2: appointment(2, state=AppointmentState.WAITING, start_at=None, taken=0)}
        self.moved = Transfer(
            id=7,
            intent=Intent("archive", STUDY, "", "local"),
            rule="tomorrow",
            priority=1,
            state=State.COMPLETE,
            instance_count=4,
            completed=4,
            queued_at=START,
            next_at=START,
            updated_at=START,
            deadline_at=START,
        )

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def appointments(
        self, *, rule: str = "", states: Sequence[AppointmentState] = (), limit: int = 1000
    ) -> list[Appointment]:
        found = [a for a in self.known.values() if rule in ("", a.rule) and (not states or a.state in states)]
        return found[:limit]

    def appointment(self, number: int) -> Appointment | None:
        return self.known.get(number)

    def priors_of(self, number: int) -> list[Prior]:
        return [TAKEN, LEFT] if number == 1 else []

    def priors_considered(self, uid: str, limit: int = 100) -> list[tuple[Appointment, Prior]]:
        return [(self.known[1], TAKEN)] if uid == STUDY else []

    def reasons_of(self, transfer: int) -> list[tuple[Appointment, Prior]]:
        return [(self.known[1], TAKEN)] if transfer == 7 else []

    def transfers(self, *, study_instance_uid: str = "", **_: object) -> list[Transfer]:
        return [self.moved] if study_instance_uid in ("", STUDY) else []

    def transfer(self, number: int) -> Transfer | None:
        return self.moved if number == 7 else None

    def attempts(self, number: int) -> list[object]:
        return []

    def refused_instances(self, number: int) -> dict[str, list[str]]:
        return {}

    def expected_instances(self, number: int) -> None:
        return None

    def stopped_routes(self) -> list[object]:
        return []

    def moves_since(self, moment: datetime) -> list[object]:
        return []

    def services(self, moment: datetime) -> list[object]:
        return []

    def caps(self) -> dict[str, int]:
        return {}

    def facts(self, source: str, uids: Sequence[str]) -> dict[Intent, object]:
        return {}

    def held(self, rule: str, source: str, settled_before: datetime, most: int) -> list[object]:
        return []

    def received(self, study: str, series: str = "") -> set[str]:
        return set()

    def receipt_paths(self, study: str) -> set[str]:
        return set()

    def site_key(self) -> bytes:
        return bytes(32)

    def clock(self) -> opening.SystemClock:
        return opening.SystemClock()


Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    (tmp_path / "rules.yaml").write_text(CONFIGURATION)
    for module in (appointments, transfers, opening):
        monkeypatch.setattr(module, "open_ledger", lambda *_, **__: Ledger())

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(root, ["--config", str(tmp_path), *arguments])

    return call


def printed(result: Result) -> str:
    assert result.exception is None, result.exception
    assert SECRET not in result.output
    return " ".join(result.stdout.split())


def parsed(result: Result) -> Any:
    assert result.exception is None, result.exception
    assert SECRET not in result.output
    return json.loads(result.stdout)


def test_appointments_are_listed_with_times_of_where_the_priors_are(command: Command) -> None:
    out = printed(command("appointments", "list"))
    assert "1 tomorrow worklist 2026-11-28 10:00 2026-11-28 08:00 done 9 2 2026-11-28 09:00" in out
    assert "2 tomorrow worklist - 2026-11-28 08:00 waiting 9 0" in out


def test_a_list_is_narrowed_by_rule_state_and_number(command: Command) -> None:
    rows = parsed(command("appointments", "list", "--rule", "tomorrow", "--state", "waiting", "--format", "json"))
    assert [row["id"] for row in rows["appointments"]] == [2]
    result = command("appointments", "list", "--limit", "1")
    assert "2 tomorrow" not in printed(result)
    assert "These are the first 1; there may be more (--limit)." in result.stderr
    assert printed(command("appointments", "list", "--state", "cancelled")) == "No such appointments."


def test_json_has_the_same_and_no_patient(command: Command) -> None:
    first, second = parsed(command("appointments", "list", "--format", "json"))["appointments"]
    assert first == {
        "id": 1,
        "rule": "tomorrow",
        "trigger": "worklist",
        "source": "archive",
        "start": "2026-11-28T10:00:00+09:00",
        "due": "2026-11-28T08:00:00+09:00",
        "state": "done",
        "candidates": 9,
        "taken": 2,
        "queries": 3,
        "complete": True,
        "cause": None,
        "reason": "",
        "noted": "2026-11-27T01:00:00Z",
        "looked": "2026-11-28T00:00:00Z",
    }
    assert second["start"] is None


@pytest.mark.parametrize("arguments", [("appointments", "list"), ("explain", "1.2.3")])
def test_a_rule_that_nobody_knows_is_an_error_with_a_hint(command: Command, arguments: tuple[str, ...]) -> None:
    result = command(*arguments, "--rule", "tomorow")
    assert str(result.exception) == "There is no rule tomorow; did you mean tomorrow?"


def test_an_appointment_is_shown_with_each_candidate_and_why(command: Command) -> None:
    out = printed(command("appointments", "show", "1"))
    assert "appointment 1 state done" in out
    assert "start 2026-11-28 10:00" in out
    assert f"move {STUDY} local same-region 2.2 years 93 = anatomy same 50 + modality same 25 + recency 18" in out
    assert "the first of 3 for same-region" in out
    assert f"skip {LEFT.study_instance_uid} local - 12 days - it fits no group" in out
    shown = parsed(command("appointments", "show", "1", "--format", "json"))
    assert shown["appointment"]["id"] == 1
    assert [one["decision"] for one in shown["candidates"]] == ["move", "skip"]
    assert shown["candidates"][0] == {
        "study_instance_uid": STUDY,
        "destination": "local",
        "decision": "move",
        "code": "taken",
        "reason": "the first of 3 for same-region",
        "group": "same-region",
        "score": 93,
        "breakdown": "anatomy same 50 + modality same 25 + recency 18",
        "age_days": 800,
    }


def test_an_appointment_that_is_not_there_is_an_error(command: Command) -> None:
    result = command("appointments", "show", "3")
    assert "The ledger has no appointment 3" in str(result.exception)


def test_a_transfer_says_for_which_appointments_it_is_and_by_when(command: Command) -> None:
    out = printed(command("transfers", "show", "7"))
    assert f"deadline {START.astimezone():%Y-%m-%d %H:%M}" in out
    assert "A prior for:" in out
    assert "move tomorrow 1 2026-11-28 10:00 local same-region 2.2 years 93 = anatomy same 50" in out
    shown = parsed(command("transfers", "show", "7", "--format", "json"))
    assert shown["transfer"]["deadline"] == "2026-11-28T01:00:00Z"
    (reason,) = shown["appointments"]
    assert (reason["appointment"], reason["rule"], reason["group"]) == (1, "tomorrow", "same-region")


def test_transfers_are_listed_with_their_deadline(command: Command) -> None:
    assert f"complete {START.astimezone():%m-%d %H:%M}" in printed(command("transfers", "list"))
    (row,) = parsed(command("transfers", "list", "--format", "json"))["transfers"]
    assert row["deadline"] == "2026-11-28T01:00:00Z"


def test_a_study_is_explained_with_what_became_of_it(command: Command) -> None:
    out = printed(command("explain", STUDY, "--offline"))
    assert "move tomorrow 1 2026-11-28 10:00 local same-region 2.2 years 93 = anatomy same 50" in out
    assert "7 tomorrow archive local" in out
    shown = parsed(command("explain", STUDY, "--offline", "--format", "json"))
    assert shown["study_instance_uid"] == STUDY
    (one,) = shown["considered"]
    assert (one["decision"], one["score"], one["start"]) == ("move", 93, "2026-11-28T10:00:00+09:00")
    assert [transfer["id"] for transfer in shown["transfers"]] == [7]


def test_where_nothing_is_known_it_says_so_and_what_would_be(command: Command) -> None:
    result = command("explain", "1.2.3", "--offline")
    out = printed(result)
    assert "archive (times in Asia/Tokyo): not asked (--offline)" in out
    assert "=> to local: if the rule finds it: would be moved now" in out
    assert out.endswith("The ledger has no transfer of it.")
    assert result.exit_code == 0
    assert parsed(command("explain", "1.2.3", "--offline", "--format", "json"))["considered"] == []


def test_what_is_no_uid_is_an_error(command: Command) -> None:
    assert "STUDY_UID is no UID" in str(command("explain", "ct-abdomen").exception)
