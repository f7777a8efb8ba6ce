"""Every command as its users meet it: text and JSON, exit codes, and errors of one sentence."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydicom.dataset import Dataset

from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Happening, Intent, NewTransfer
from router.ledger.ledger import SqlLedger
from router.simulator import Behaviour, SimulatedPacs, make_study, make_uid
from tests.support.command import Done, in_process
from tests.support.ports import free_port
from tests.support.process import Process, wait_for
from tests.support.router import COMMAND, Site, node

TODAY = date.today()
SWEEP_FIELDS = {"rule", "source", "matches", "complete", "queries", "account"}
TRANSFER_FIELDS = {
    "rule",
    "source",
    "destination",
    "study_instance_uid",
    "series_instance_uid",
    "expected",
    "completed",
    "failed",
    "warning",
    "attempts",
    "status",
    "reason",
}
CHEST = str(make_uid("chest"))
LUNG = str(make_uid("lung"))
HOSTILE = "[/bold] [red]CT\x1b[31m"


class Hospital:
    """An archive with two chest CT, an abdomen and an MR; a reading room; and the router between them."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.directory = directory
        self.site = Site(directory, nodes={}, rules={})
        self.reading = stack.enter_context(SimulatedPacs("READING"))
        self.archive = self.pacs("ARCHIVE", studies())
        self.nodes: dict[str, Any] = {
            "archive": node("ARCHIVE", self.archive.port, limits={"associations": 2}),
            "reading-room": node("READING", self.reading.port),
        }
        self.rules: dict[str, Any] = {
            "chest-ct": {
                **sweep("archive"),
                "where": {"ModalitiesInStudy": "CT", "StudyDescription": {"matches": "(?i)chest|lung"}},
                "move": {"to": ["reading-room", "local"], "retry": {"attempts": 1}},
            }
        }
        self.configure()

    def pacs(self, title: str, datasets: Sequence[Dataset], behaviour: Behaviour | None = None) -> SimulatedPacs:
        pacs = SimulatedPacs(title, studies=datasets, behaviour=behaviour)
        pacs.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        pacs.set_destination("READING", self.reading.host, self.reading.port)
        return self.stack.enter_context(pacs)

    def configure(self) -> None:
        self.site.configure(nodes=self.nodes, rules=self.rules)

    def call(self, *arguments: str) -> Done:
        """Run a command in this process: those that neither log nor move."""
        return in_process(self.site.rules_directory, *arguments)

    def start(self, *arguments: str) -> Process:
        """Start a command that a signal is to end."""
        words = [*COMMAND, "--config", str(self.site.rules_directory), *arguments]
        process = Process(words, self.directory, name=f"command-{len(arguments)}", working_directory=self.directory)
        return self.stack.enter_context(process)

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger.db"

    def open_ledger(self) -> SqlLedger:
        return SqlLedger.open(f"sqlite:///{self.ledger}")


def studies() -> list[Dataset]:
    return [
        *make_study(
            seed="chest",
            description="CT Chest",
            patient_id="P1",
            patient_name="Doe^Jane",
            study_date=TODAY,
            series=2,
            instances=3,
            accession="ACC1",
        ),
        *make_study(seed="lung", description="CT Lung", patient_id="P2", study_date=TODAY, instances=2),
        *make_study(seed="abdomen", description="CT Abdomen", patient_id="P2", study_date=TODAY, instances=2),
        *make_study(seed="brain", modality="MR", description="Chest wall", patient_id="P3", study_date=TODAY),
    ]


def sweep(source: str) -> dict[str, Any]:
    return {"sweep": {"source": source, "every": "1h", "keys": {"StudyDate": "today-1d..today"}}}


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    with contextlib.ExitStack() as stack:
        yield Hospital(tmp_path / "site", stack)


def one_sentence(text: str, *parts: str) -> None:
    (line,) = text.strip().splitlines()
    assert line.startswith("dicom-router: ")
    for part in parts:
        assert part in line


# --- options every command shares ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "json", "transfers", "list"],
        ["transfers", "--format", "json", "list"],
        ["transfers", "list", "--format", "json"],
    ],
)
def test_shared_options_stand_before_and_after(hospital: Hospital, arguments: list[str]) -> None:
    hospital.open_ledger().close()
    assert hospital.call(*arguments).json == {"transfers": []}


def test_the_configuration_may_be_named_after_the_command(hospital: Hospital, tmp_path: Path) -> None:
    done = hospital.call("validate", "--config", str(tmp_path / "elsewhere"))
    assert done.code == 2
    one_sentence(done.err, "elsewhere", "--config")


@pytest.mark.parametrize("command", [["plan"], ["apply"], ["transfers", "list"], ["run"], ["schema"], ["demo"]])
@pytest.mark.parametrize("before", [True, False])
def test_a_format_that_a_command_has_not_is_a_usage_error(hospital: Hospital, command: list[str], before: bool) -> None:
    option = ["--format", "csv"]
    done = hospital.call(*option, *command) if before else hospital.call(*command, *option)
    assert done.code == 2
    assert done.out == ""
    assert "'csv' is not one of 'text', 'json'" in done.err


@pytest.mark.parametrize("arguments", [["nonsense"], ["apply", "--nonsense"], ["transfers", "show", "x"], ["query"]])
def test_usage_errors_exit_2(hospital: Hospital, arguments: list[str]) -> None:
    done = hospital.call(*arguments)
    assert done.code == 2
    assert "Error: " in done.err


def test_help_names_every_command(hospital: Hospital) -> None:
    done = hospital.call("--help")
    assert done.code == 0
    for command in ["run", "apply", "plan", "validate", "query", "transfers", "schema", "init", "demo"]:
        assert re.search(rf"^  {command} +[A-Z].*\.$", done.out, re.MULTILINE), command
        assert hospital.call(command, "--help").code == 0


# --- query -----------------------------------------------------------------------------------------------------------


def test_query_at_every_level(hospital: Hospital) -> None:
    patients = hospital.call("query", "archive", "--level", "PATIENT", "--format", "json").json
    assert patients["level"] == "PATIENT"
    assert {row["PatientID"] for row in patients["matches"]} == {"P1", "P2", "P3"}

    found = hospital.call("query", "archive", "ModalitiesInStudy=CT", "PatientID=P1", "--format", "json").json
    assert (found["node"], found["level"], found["status"]) == ("archive", "STUDY", "0x0000")
    (study,) = found["matches"]
    assert (study["StudyInstanceUID"], study["PatientName"], study["AccessionNumber"]) == (CHEST, "Doe^Jane", "ACC1")
    assert study["NumberOfStudyRelatedInstances"] == "6"

    series = hospital.call("query", "archive", f"StudyInstanceUID={CHEST}", "Modality=", "--format", "json").json
    assert series["level"] == "SERIES", "the lowest level that a key belongs to"
    assert [row["Modality"] for row in series["matches"]] == ["CT", "CT"]

    unique = [f"StudyInstanceUID={CHEST}", f"SeriesInstanceUID={series['matches'][0]['SeriesInstanceUID']}"]
    images = hospital.call("query", "archive", *unique, "--level", "image", "--format", "json").json
    assert len({row["SOPInstanceUID"] for row in images["matches"]}) == 3


def test_query_as_csv_and_table(hospital: Hospital) -> None:
    done = hospital.call("query", "archive", "PatientID=P2", "(0008,1030)=", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert {(row["PatientID"], row["StudyDescription"]) for row in rows} == {("P2", "CT Lung"), ("P2", "CT Abdomen")}
    table = hospital.call("query", "archive", "PatientID=P2")
    assert table.out.splitlines()[0].startswith("StudyDate  StudyTime")
    assert table.out.splitlines()[-1] == "2 matches."
    assert LUNG in table.out


def test_query_without_a_match(hospital: Hospital) -> None:
    assert hospital.call("query", "archive", "PatientID=NOBODY") == Done(0, "0 matches.\n", "")
    assert hospital.call("query", "archive", "PatientID=NOBODY", "--format", "json").json["matches"] == []
    csv_only = hospital.call("query", "archive", "PatientID=NOBODY", "--format", "csv")
    assert len(csv_only.out.splitlines()) == 1, "the heads"


def test_query_stops_at_the_limit(hospital: Hospital) -> None:
    done = hospital.call("query", "archive", "--limit", "1")
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("1 match. There may be more (--limit).")


def test_query_says_where_an_answer_may_have_been_cut(hospital: Hospital) -> None:
    may_be = "Archives cut their answers at such a number: there may be more"
    hospital.nodes["archive"]["find"] = {"max_results": 2}
    hospital.configure()
    table = hospital.call("query", "archive", "PatientID=P2")
    assert table.out.splitlines()[-1].startswith(f"2 matches. {may_be}")
    rows = hospital.call("query", "archive", "PatientID=P2", "--format", "csv")
    assert len(rows.out.splitlines()) == 3
    assert rows.err.startswith(may_be)


def test_what_a_node_says_is_printed_as_it_is(hospital: Hospital) -> None:
    hospital.archive.add(make_study(seed="odd", description=HOSTILE, patient_id="P9", study_date=TODAY, instances=1))
    done = hospital.call("query", "archive", "PatientID=P9")
    assert done.code == 0
    assert "[/bold] [red]CT" in done.out
    assert "\x1b" not in done.out
    matches = hospital.call("query", "archive", "PatientID=P9", "--format", "json").json["matches"]
    assert matches[0]["StudyDescription"] == HOSTILE


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["archiv"], ["no node archiv", "did you mean archive?"]),
        (["xyz"], ["no node xyz", "archive, reading-room"]),
        (["archive", "PatientNam=x"], ["PatientNam", "did you mean PatientName?"]),
        (["archive", "patientname=x"], ["did you mean PatientName?"]),
        (["archive", "(8,1030)=x"], ["(gggg,eeee)"]),
        (["archive", "PatientID"], ["KEY=VALUE", "PatientID="]),
        (["archive", "StudyDate=20261345"], ["StudyDate", "'20261345' is no day of the calendar", "today, yesterday"]),
        (["archive", "StudyDate=20261301-20261305"], ["StudyDate", "20240101, 2024-01-01"]),
        (["archive", "StudyDate=heute"], ["'heute' is no date", "today, yesterday"]),
        (["archive", "StudyDate=2026*"], ["StudyDate", "today, yesterday"]),
        (["archive", "StudyDate=today.."], ["is open", "give both ends"]),
        (["archive", "StudyDate=today..yesterday"], ["ends before it begins", "swap"]),
        (["archive", "StudyDate=20260102-20260101"], ["ends before it begins", "swap"]),
    ],
)
def test_query_of_what_is_not_there(hospital: Hospital, arguments: list[str], parts: list[str]) -> None:
    done = hospital.call("query", *arguments)
    assert (done.code, done.out) == (2, "")
    one_sentence(done.err, *parts)


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("today", "{0:%Y%m%d}"),
        ("yesterday..today", "{1:%Y%m%d}-{0:%Y%m%d}"),
        ("now-2h..now", "{2:%Y%m%d}-{0:%Y%m%d}"),
        ("2026-11-01", "20261101"),
        ("2026-11-01..20261103", "20261101-20261103"),
        ("20261101-20261103", "20261101-20261103"),
        ("20261101-", "20261101-"),
        ("-20261103", "-20261103"),
        ("*", ""),
        ("", ""),
    ],
)
def test_dates_of_a_query_are_those_of_the_rules(hospital: Hospital, said: str, sent: str) -> None:
    zone = ZoneInfo("Pacific/Kiritimati")
    hospital.nodes["archive"]["timezone"] = zone.key
    hospital.configure()
    while True:
        now = datetime.now(zone)
        assert hospital.call("query", "archive", f"StudyDate={said}", "PatientID=").code == 0
        if datetime.now(zone).date() == now.date():
            break
    ends = (now, now - timedelta(days=1), now - timedelta(hours=2))
    expected = sent.format(*ends)
    first, _, last = expected.partition("-")
    if first == last:
        expected = first
    asked = hospital.archive.record.of("find")[-1].keys
    assert asked["StudyDate"] == expected


def test_query_of_a_node_that_is_down(hospital: Hospital) -> None:
    port = free_port()
    hospital.nodes["dead"] = node("DEAD", port)
    hospital.configure()
    done = hospital.call("query", "dead", "PatientID=1")
    assert (done.code, done.out) == (1, "")
    one_sentence(done.err, "dead", str(port), "refused")


def test_query_that_is_refused(hospital: Hospital) -> None:
    hospital.archive.behaviour = Behaviour(refuse_find_status=0x0124)
    done = hospital.call("query", "archive", "PatientID=1")
    assert (done.code, done.out) == (1, "")
    one_sentence(done.err, "archive", "0124")


# --- plan ------------------------------------------------------------------------------------------------------------


def test_plan_says_what_would_be_done_and_does_nothing(hospital: Hospital) -> None:
    done = hospital.call("plan", "--format", "json")
    assert done.code == 0
    (one,) = done.json["sweeps"]
    assert set(one) == SWEEP_FIELDS | {"reason"}
    assert (one["rule"], one["source"], one["matches"], one["complete"]) == ("chest-ct", "archive", 4, True)
    rows = done.json["transfers"]
    assert all(set(row) == TRANSFER_FIELDS | {"decision", "code", "availability"} for row in rows)
    moves = {(row["study_instance_uid"], row["destination"]) for row in rows if row["decision"] == "move"}
    assert moves == {(study, to) for study in (CHEST, LUNG) for to in ("reading-room", "local")}
    skips = {row["study_instance_uid"]: row["reason"] for row in rows if row["decision"] == "skip"}
    assert skips == {
        str(make_uid("abdomen")): "StudyDescription does not match (?i)chest|lung",
        str(make_uid("brain")): "ModalitiesInStudy is not CT",
    }
    assert not hospital.ledger.exists()
    assert not hospital.site.store.exists()
    assert hospital.archive.record.of("move") == ()


def test_plan_for_people(hospital: Hospital) -> None:
    done = hospital.call("plan")
    assert done.code == 0
    assert done.out.startswith("chest-ct: 4 matches at archive, 1 query\n")
    assert re.search(rf"^move +…{CHEST[-7:]} +6 +reading-room, local +not moved before", done.out, re.MULTILINE)
    assert "4 transfers with 16 instances to move." in done.out
    assert re.search(r"^skip 1: +ModalitiesInStudy is not CT", done.out, re.MULTILINE)
    everything = hospital.call("plan", "--all").out
    assert re.search(rf"^skip +…{make_uid('brain')[-7:]} ", everything, re.MULTILINE)


def test_plan_shows_what_is_held_and_what_is_done(hospital: Hospital) -> None:
    with hospital.open_ledger() as ledger:
        queue(ledger, Intent("archive", CHEST, "", "local"))
        ledger.apply(1, Happening.HOLD, datetime.now(UTC))
    rows = hospital.call("plan", "--format", "json").json["transfers"]
    held = {row["destination"]: (row["decision"], row["reason"]) for row in rows if row["study_instance_uid"] == CHEST}
    assert held == {"local": ("hold", "held by an administrator"), "reading-room": ("move", "not moved before")}


@pytest.mark.parametrize(
    ("availability", "decision", "words"),
    [("OFFLINE", "skip", "off line at the source"), ("NEARLINE", "move", "near line, so it takes longer")],
)
def test_plan_shows_what_is_on_tape(hospital: Hospital, availability: str, decision: str, words: str) -> None:
    hospital.archive.behaviour = Behaviour(availability=availability)
    rows = hospital.call("plan", "--format", "json").json["transfers"]
    (found,) = {
        (row["decision"], row["availability"], words in row["reason"])
        for row in rows
        if row["study_instance_uid"] == CHEST
    }
    assert found == (decision, availability, True)
    text = hospital.call("plan").out
    assert words in " ".join(text.split())


def test_plan_of_a_source_that_is_down_says_so_and_plans_the_others(hospital: Hospital) -> None:
    hospital.nodes["dead"] = node("DEAD", free_port())
    hospital.rules["from-dead"] = {**sweep("dead"), "move": {"to": ["local"]}}
    hospital.configure()
    done = hospital.call("plan", "--format", "json")
    assert done.code == 1
    assert [(one["rule"], one["complete"]) for one in done.json["sweeps"]] == [("chest-ct", True), ("from-dead", False)]
    assert "refused" in done.json["sweeps"][1]["reason"]
    assert hospital.call("plan", "--rule", "chest-ct").code == 0


def queue(ledger: SqlLedger, *intents: Intent) -> None:
    """Put transfers into the ledger as a sweep does."""
    now = datetime.now(UTC)
    ledger.add_sweeps([SweepDue(rule="chest-ct", source="archive", due_at=now)])
    claimed = ledger.claim_sweep(["archive"], now, 60)
    assert claimed is not None
    new = [NewTransfer(intent=intent, rule="chest-ct", priority=1, instance_count=6) for intent in intents]
    assert ledger.finish_sweep(claimed, SweepReport(state=SweepState.COMPLETE), new, [], now)


# --- apply -----------------------------------------------------------------------------------------------------------


def test_apply_as_json_then_the_ledger(hospital: Hospital) -> None:
    done = hospital.site.apply()
    (one,) = done["sweeps"]
    assert set(one) == SWEEP_FIELDS | {"state", "selected", "reason"}
    assert (one["matches"], one["complete"]) == (4, True)
    fields = TRANSFER_FIELDS | {"verdict", "id", "state", "cause", "deadline"}
    assert all(set(row) == fields for row in done["transfers"])
    assert [(row["verdict"], row["expected"], row["completed"]) for row in done["transfers"]] == [
        ("complete", count, count) for count in (6, 6, 2, 2)
    ]
    assert {row["series_instance_uid"] for row in done["transfers"]} == {None}

    listed = hospital.call("transfers", "list", "--format", "json").json["transfers"]
    assert all(re.fullmatch(r"[0-9a-f]{12}", row.pop("study")) for row in listed)
    assert listed == list(reversed(done["transfers"]))
    for option, value, count in [
        ("--destination", "local", 2),
        ("--source", "archive", 4),
        ("--source", "reading-room", 0),
        ("--rule", "chest-ct", 4),
        ("--state", "complete", 4),
        ("--state", "failed", 0),
        ("--study", CHEST, 2),
        ("--limit", "3", 3),
    ]:
        rows = hospital.call("transfers", "list", option, value, "--format", "json").json["transfers"]
        assert len(rows) == count, (option, value)
    both = hospital.call("transfers", "list", "--study", LUNG, "--destination", "local")
    assert len(re.findall(r"chest-ct +archive +local +…\w{7} +2/2 +complete", both.out)) == 1
    assert hospital.call("transfers", "list", "--state", "failed").out == "No such transfers.\n"


def test_apply_for_people_without_a_terminal(hospital: Hospital) -> None:
    done = hospital.site.call("apply")
    assert done.returncode == 0
    assert re.search(r"^chest-ct +archive +complete +4 +4 +1", done.stdout, re.MULTILINE)
    assert re.search(r"^ *1 +chest-ct +archive +\S+ +…\w{7} +6/6 +complete", done.stdout, re.MULTILINE)
    assert done.stdout.rstrip().endswith("4 transfers: 4 complete.")
    lines = done.stderr.splitlines()
    assert "sweep chest-ct of archive: complete, 4 matches, 4 to move." in lines
    told = re.compile(
        r"(sweep|transfer \d+ chest-ct: archive -> [\w-]+: (moving \d+ instances|complete, \d of \d instances\.))"
    )
    assert all(told.match(line) for line in lines), lines
    again = hospital.site.call("apply")
    assert again.returncode == 0
    assert " ".join(again.stdout.split()).endswith("has been moved before, or is held or was cancelled.")


def test_apply_of_some_rules(hospital: Hospital) -> None:
    hospital.rules["brain"] = {**sweep("archive"), "where": {"PatientID": "P3"}, "move": {"to": ["local"]}}
    hospital.rules["off"] = {**sweep("archive"), "enabled": False, "move": {"to": ["local"]}}
    hospital.configure()
    done = hospital.site.apply("--rule", "brain")
    assert [one["rule"] for one in done["sweeps"]] == ["brain"]
    assert [row["study_instance_uid"] for row in done["transfers"]] == [str(make_uid("brain"))]
    for name, parts in (("brian", ["did you mean brain?"]), ("off", ["not enabled"]), ("zz", ["chest-ct, brain, off"])):
        for command in ("apply", "plan"):
            refused = hospital.call(command, "--rule", name)
            assert (refused.code, refused.out) == (2, "")
            one_sentence(refused.err, f"rule {name}", *parts)


def test_plan_and_apply_look_back_as_far_as_the_widest_tier(hospital: Hospital) -> None:
    old = make_study(seed="old", study_date=TODAY - timedelta(days=5), instances=1, patient_id="OLD")
    hospital.archive.add(old)
    tiers = [{"every": "1h", "lookback": "1d"}, {"cron": "0 2 * * *", "lookback": "10d"}]
    rule = {"sweep": {"source": "archive", "tiers": tiers, "keys": {"PatientID": "OLD"}}, "move": {"to": ["local"]}}
    hospital.rules = {"tiered": rule}
    hospital.configure()
    planned = hospital.call("plan", "--format", "json").json["transfers"]
    assert [(row["study_instance_uid"], row["decision"]) for row in planned] == [(str(make_uid("old")), "move")]
    assert [row["verdict"] for row in hospital.site.apply()["transfers"]] == ["complete"]


def test_what_nobody_can_prove_is_no_failure_if_the_status_is_clean(hospital: Hospital) -> None:
    hospital.reading.behaviour = Behaviour(refuse_find_status=0x0124)
    done = hospital.site.apply(code=0)
    assert {row["destination"]: row["verdict"] for row in done["transfers"]} == {
        "reading-room": "unproven",
        "local": "complete",
    }


def test_a_partial_transfer_is_a_failure_that_retry_betters(hospital: Hospital) -> None:
    broken = hospital.pacs("BROKEN", make_study(seed="b", study_date=TODAY), Behaviour(fail_instances=2))
    hospital.nodes = {"broken": node("BROKEN", broken.port)}
    hospital.rules = {"r": {**sweep("broken"), "move": {"to": ["local"], "retry": {"attempts": 1}}}}
    hospital.configure()
    done = hospital.site.call("apply")
    assert done.returncode == 1
    assert re.search(r"^ *1 +r +broken +local +…\w{7} +3/5 +partial", done.stdout, re.MULTILINE)
    assert re.search(r"^ *1 +The destination holds 3 of 5 instances", done.stdout, re.MULTILINE), "why, below the table"
    assert done.stdout.rstrip().endswith("1 transfer: 1 partial.")

    shown = hospital.call("transfers", "show", "1", "--format", "json").json
    assert set(shown) == {"transfer", "attempts", "missing", "appointments", "refused", "carries"}
    assert [one["step"] for one in shown["attempts"]] == ["move", "verify"]
    held = set(hospital.site.stored())
    assert set(shown["missing"]) == {str(i.sop_instance) for i in broken.instances} - held
    text = hospital.call("transfers", "show", "1")
    assert "3 of 5, 2 failed" in text.out
    assert "2 missing at local:" in text.out
    assert shown["missing"][0] in text.out

    broken.behaviour = Behaviour()
    asked = hospital.call("transfers", "retry", "1", "--format", "json")
    assert [(row["id"], row["state"], row["verdict"]) for row in asked.json["transfers"]] == [(1, "queued", None)]
    assert hospital.site.apply(code=0)["transfers"][0]["verdict"] == "complete"
    assert broken.record.of("move")[-1].level == "IMAGE", "the difference only"


def test_a_transfer_that_is_not_there(hospital: Hospital) -> None:
    with hospital.open_ledger() as ledger:
        queue(ledger, Intent("archive", CHEST, "", "local"), Intent("archive", LUNG, "", "local"))
        claimed = ledger.claim_transfer(["archive"], datetime.now(UTC), 60)
        assert claimed is not None
    shown = hospital.call("transfers", "show", "99")
    assert (shown.code, shown.out) == (1, "")
    one_sentence(shown.err, "no transfer 99", "transfers list")
    retried = hospital.call("transfers", "retry", "99", str(claimed.id), "2", "--format", "json")
    assert retried.code == 1
    assert [row["id"] for row in retried.json["transfers"]] == [2], "the others are queued all the same"
    assert "no transfer 99" in retried.err
    assert f"Transfer {claimed.id} has not ended: it is moving." in retried.err


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "1"], ["retry", "1"], ["cancel", "1"], ["hold", "--all"], ["release", "--all"]],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("form", ["text", "json"])
def test_transfers_without_a_ledger(hospital: Hospital, arguments: list[str], form: str) -> None:
    done = hospital.call("transfers", *arguments, "--format", form)
    assert (done.code, done.out) == (1, "")
    one_sentence(
        done.err, f"There is no ledger at {hospital.ledger} yet; relative paths start at the working directory."
    )
    assert not hospital.ledger.exists()


def test_a_ledger_that_cannot_be_opened_is_no_empty_one(hospital: Hospital) -> None:
    hospital.ledger.mkdir()
    for arguments in (["transfers", "list"], ["transfers", "show", "1"], ["transfers", "hold", "1"], ["plan"]):
        done = hospital.call(*arguments)
        assert (done.code, done.out) == (1, "")
        one_sentence(done.err, str(hospital.ledger), "cannot be opened")


def test_plan_without_a_ledger_says_so(hospital: Hospital) -> None:
    done = hospital.call("plan", "--format", "json")
    assert done.code == 0
    assert {row["decision"] for row in done.json["transfers"]} == {"move", "skip"}
    assert f"There is no ledger at {hospital.ledger} yet" in done.err
    assert not hospital.ledger.exists()
    hospital.open_ledger().close()
    assert hospital.call("plan").err == ""


def test_names_that_neither_the_configuration_nor_the_ledger_has(hospital: Hospital) -> None:
    with hospital.open_ledger() as ledger:
        queue(ledger, Intent("old-archive", CHEST, "", "old-room"))
    for option, name, hint in (
        ("--rule", "chest-xt", "did you mean chest-ct?"),
        ("--source", "archiv", "did you mean archive?"),
        ("--destination", "locl", "did you mean local?"),
    ):
        for command in (["list"], ["hold", "--all"], ["cancel", "--all"], ["retry", "--all"], ["release", "--all"]):
            done = hospital.call("transfers", *command, option, name)
            assert (done.code, done.out) == (2, "")
            one_sentence(done.err, f"no {'rule' if option == '--rule' else 'node'} {name}", hint)
    for option, name in (("--source", "old-archive"), ("--destination", "old-room")):
        assert len(hospital.call("transfers", "list", option, name, "--format", "json").json["transfers"]) == 1
    for option, name in (("--source", "archive"), ("--destination", "local"), ("--destination", "reading-room")):
        assert hospital.call("transfers", "list", option, name) == Done(0, "No such transfers.\n", "")


def test_what_nobody_moves_is_said_with_who_would(hospital: Hospital) -> None:
    with hospital.open_ledger() as ledger:
        queue(ledger, Intent("archive", CHEST, "", "local"), Intent("archive", LUNG, "", "local"))
    said = "No service runs: `dicom-router apply` or `run` moves them.\n"
    assert hospital.call("transfers", "hold", "1", "2").err == ""
    assert hospital.call("transfers", "release", "1", "2").err == said
    assert hospital.call("transfers", "cancel", "1").err == ""
    assert hospital.call("transfers", "retry", "1").err == said.replace("them", "it")


def test_apply_waits_no_longer_than_it_is_told(hospital: Hospital) -> None:
    hospital.archive.behaviour = Behaviour(suboperation_delay_seconds=20)
    done = hospital.site.call("apply", "--timeout", "8.5", "--format", "json")
    assert done.returncode == 1
    assert "Stopped waiting after 8.5 s; 4 of 4 transfers have not ended." in done.stderr
    assert {row["verdict"] for row in json.loads(done.stdout)["transfers"]} == {None}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_apply_that_is_interrupted_cancels_and_the_next_goes_on(hospital: Hospital, number: signal.Signals) -> None:
    hospital.archive.behaviour = Behaviour(suboperation_delay_seconds=1.0)
    del hospital.rules["chest-ct"]["where"]["ModalitiesInStudy"]
    hospital.rules["chest-ct"]["where"]["StudyDescription"] = "CT Chest"
    hospital.rules["chest-ct"]["move"]["to"] = ["local"]
    hospital.configure()
    command = hospital.start("apply")
    wait_for(hospital.site.stored, "the first instance")
    command.send_signal(number)
    assert command.wait() == 130
    assert "Interrupted. Moves that were running are cancelled" in command.log
    assert "Traceback" not in command.log
    assert len(hospital.archive.record.of("cancel")) == 1
    held = len(hospital.site.stored())
    assert 0 < held < 6
    assert [row["state"] for row in hospital.call("transfers", "list", "--format", "json").json["transfers"]] == [
        "queued"
    ]
    hospital.archive.behaviour = Behaviour()
    (transfer,) = hospital.site.apply()["transfers"]
    assert (transfer["verdict"], transfer["completed"]) == ("complete", 6)
    assert len(hospital.site.stored()) == 6
    assert sum(move.level == "STUDY" for move in hospital.archive.record.of("move")) == 1, "then the difference only"


def test_two_applies_at_once_help_each_other(hospital: Hospital) -> None:
    """The second finds the first at work and lets it; when that ends it goes on by itself."""
    hospital.archive.behaviour = Behaviour(suboperation_delay_seconds=0.1)
    slow = hospital.pacs(
        "SLOW", make_study(seed="slow", study_date=TODAY, instances=30), Behaviour(suboperation_delay_seconds=0.15)
    )
    hospital.nodes["slow"] = node("SLOW", slow.port)
    hospital.rules["from-slow"] = {**sweep("slow"), "move": {"to": ["local"]}}
    hospital.configure()
    first = hospital.start("apply", "--rule", "chest-ct")
    hospital.archive.record.wait_for("move")
    second = hospital.site.apply("--rule", "from-slow")
    assert first.wait() == 0
    assert [(row["rule"], row["verdict"], row["completed"]) for row in second["transfers"]] == [
        ("from-slow", "complete", 30)
    ]


# --- the others ------------------------------------------------------------------------------------------------------


def test_commands_beside_a_running_service(hospital: Hospital) -> None:
    del hospital.rules["chest-ct"]["where"]["ModalitiesInStudy"]
    hospital.configure()
    with hospital.site.run() as router:
        assert hospital.call("plan").code == 0
        assert hospital.call("transfers", "list").code == 0
        for http in (hospital.site.http_port, free_port()):
            hospital.site.settings["http"] = f"127.0.0.1:{http}"
            hospital.configure()
            done = hospital.site.call("run")
            assert done.returncode == 1
            last = done.stderr.strip().splitlines()[-1] + "\n"
            one_sentence(last, "annot listen", "runs on the same ledger already", f"{hospital.site.http_port}")
            assert "Traceback" not in done.stderr
        assert hospital.site.apply()["sweeps"][0]["complete"]
        assert router.stop() == 0


def test_validate_in_every_format(hospital: Hospital) -> None:
    assert hospital.call("validate").code == 0
    assert hospital.call("validate", "--format", "json").json == {"diagnostics": []}
    hospital.rules["chest-ct"]["move"]["two"] = ["local"]
    hospital.configure()
    text = hospital.call("validate")
    assert text.code == 1
    assert re.search(r"site\.yaml:\d+:\d+: error DR\d+ .*two", text.out)
    (diagnostic,) = hospital.call("validate", "--format", "json").json["diagnostics"]
    assert diagnostic["line"] > 1
    github = hospital.call("--format", "github", "validate")
    assert (github.code, github.out.startswith("::error file=")) == (1, True)
    for command in (["apply"], ["plan"], ["run"], ["transfers", "list"], ["query", "archive"]):
        done = hospital.call(*command)
        assert (done.code, done.out) == (2, "")
        assert "error DR" in done.err
        assert done.err.splitlines()[-1].startswith("dicom-router: The configuration in ")


def test_schema_and_init(hospital: Hospital, tmp_path: Path) -> None:
    assert "rules.*.sweep.keys" in hospital.call("schema", "rules.sweep.keys").out
    assert hospital.call("schema", "router.drain", "--format", "json").json["default"]
    unknown = hospital.call("schema", "nodes.*.limit")
    assert unknown.code == 2
    one_sentence(unknown.err, "did you mean limits?")
    directory = str(tmp_path / "new")
    assert hospital.call("init", directory).code == 0
    assert hospital.call("validate", "--config", directory).code == 0
    again = hospital.call("init", directory)
    assert again.code == 2
    one_sentence(again.err, "nothing was written")
