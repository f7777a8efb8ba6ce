"""`explain` as its users meet it: a study at a PACS, the rules, the gates; and that it asks only, and tells nobody."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom.dataset import Dataset

from router.simulator import Behaviour, SimulatedPacs, make_study, make_uid
from tests.support.command import Done, in_process
from tests.support.ports import free_port
from tests.support.router import Site, node

TODAY = date.today()
NAME, PATIENT = "Secret^Name", "SECRET-4711"
CHEST, KNEE = str(make_uid("chest")), str(make_uid("knee"))


def study(seed: str, description: str, days: int = 0, **more: Any) -> list[Dataset]:
    fields: dict[str, Any] = {"patient_id": PATIENT, "patient_name": NAME, "instances": 3, "rows": 8} | more
    return make_study(seed=seed, description=description, study_date=TODAY - timedelta(days=days), **fields)


class Clinic:
    """An archive with some studies of one patient, a workstation, and the router between them."""

    def __init__(self, directory: Path, archive: SimulatedPacs, ws: SimulatedPacs) -> None:
        self.site = Site(directory, nodes={}, rules={})
        self.archive, self.ws = archive, ws
        archive.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        archive.set_destination("WS", ws.host, ws.port)
        self.nodes: dict[str, Any] = {"archive": node("ARCHIVE", archive.port), "ws": node("WS", ws.port)}
        self.rules: dict[str, Any] = {"chest": rule("chest"), "knee": rule("knee")}
        self.configure()

    def configure(self, **windows: Any) -> None:
        self.site.configure(nodes=self.nodes, rules=self.rules)
        if windows:
            text = yaml.safe_dump({"windows": windows})
            (self.site.rules_directory / "windows.yaml").write_text(text, encoding="utf-8")

    def call(self, *arguments: str) -> Done:
        """Run a command in this process."""
        done = in_process(self.site.rules_directory, *arguments)
        assert NAME not in done.err
        assert PATIENT not in done.err
        return done

    def explain(self, *arguments: str, code: int = 0) -> Done:
        done = self.call("explain", *arguments)
        assert done.code == code, done.err
        return done

    def rows(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The rules by name."""
        shown = self.explain(*arguments, "--format", "json", code=code).json
        return {row["rule"]: row for row in shown["rules"]}

    def requests(self) -> set[str]:
        """The kinds of requests that the PACS got since they were asked last."""
        kinds = {str(one.kind) for pacs in (self.archive, self.ws) for one in pacs.record}
        self.archive.record.clear()
        self.ws.record.clear()
        return kinds


def rule(words: str, to: tuple[str, ...] = ("ws",), **more: Any) -> dict[str, Any]:
    return {
        "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-1d..today"}},
        "where": {"StudyDescription": {"matches": f"(?i){words}"}},
        "move": {"to": list(to)},
        **more,
    }


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    studies = [*study("chest", "CT chest"), *study("knee", "MR knee", days=400, modality="MR")]
    with SimulatedPacs("ARCHIVE", studies=studies) as archive, SimulatedPacs("WS") as ws:
        yield Clinic(tmp_path, archive, ws)


def gates(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {gate["gate"]: gate for gate in row["gates"]}


def test_each_rule_is_explained_with_the_values_seen_and_what_decides(clinic: Clinic) -> None:
    done = clinic.explain(CHEST)
    assert f"): study of {TODAY:%Y%m%d} 101500, CT, 1 series, 3 instances, ONLINE" in done.words
    assert "chest (sweep of archive): found" in done.words
    assert "pass StudyDescription matches (?i)chest; seen: CT chest" in done.words
    assert "=> to ws: would be moved now" in done.words
    assert "FAIL StudyDescription matches (?i)knee; seen: CT chest <- decides" in done.words
    assert "=> skipped: StudyDescription does not match (?i)knee" in done.words
    assert done.words.endswith("The ledger has no transfer of it.")
    assert clinic.requests() == {"find"}


def test_json_has_the_same_as_the_plan(clinic: Clinic) -> None:
    rows = clinic.rows(CHEST)
    assert [(name, row["found"]) for name, row in rows.items()] == [("chest", True), ("knee", False)]
    planned = [
        (one["rule"], one["destination"], one["decision"], one["code"], one["reason"])
        for one in clinic.call("plan", "--format", "json").json["transfers"]
    ]
    explained = [
        (name, one["destination"], one["decision"], one["code"], one["reason"])
        for name, row in rows.items()
        for one in row["decisions"]
    ]
    assert explained == planned
    where = rows["knee"]["clauses"][1]
    assert (where["text"], where["passed"], where["decides"]) == ("where: all of", False, False)
    assert where["parts"] == [
        {
            "text": "StudyDescription matches (?i)knee",
            "passed": False,
            "decides": True,
            "seen": ["CT chest"],
            "parts": [],
        }
    ]
    shown = clinic.explain(CHEST, "--rule", "chest", "--format", "json").json
    assert set(shown) == {"study_instance_uid", "study", "rules", "considered", "transfers"}
    assert shown["study"]["archive"]["found"] is True
    values = shown["study"]["archive"]["values"]
    assert values["StudyDescription"] == ["CT chest"]
    assert "PatientName" not in values, "no rule looks at it"
    assert set(shown["rules"][0]) == {
        "rule",
        "trigger",
        "source",
        "found",
        "clauses",
        "gates",
        "decisions",
        "next_sweep_at",
        "notes",
        "problem",
    }


def test_a_closed_window_says_when_it_opens(clinic: Clinic) -> None:
    opens = f"{TODAY.year + 1}-01-02"
    clinic.nodes["archive"] |= {"windows": [{"use": "later"}], "timezone": "UTC"}
    closed = f"{TODAY}..{TODAY.year + 1}-01-01"
    clinic.configure(later={"timezone": "UTC", "open": ["daily 00:00-24:00"], "except": [closed]})
    row = clinic.rows(CHEST, "--rule", "chest")["chest"]
    assert gates(row)["source-window"]["state"] == "wait"
    assert gates(row)["source-window"]["opens_at"][:10] == opens
    assert row["decisions"][0]["conclusion"] == f"waits until {opens} 00:00 (source-window)"
    done = clinic.explain(CHEST)
    assert f"waits until {opens} 00:00 (source-window)" in done.words
    assert "It is asked all the same, for this study only." in done.err


def test_what_was_moved_says_by_which_transfer_and_what_the_destination_holds(clinic: Clinic) -> None:
    clinic.site.apply("--rule", "chest")
    clinic.requests()
    row = clinic.rows(CHEST)["chest"]
    assert gates(row)["duplicate"]["reason"] == "moved before: transfer 1, complete, by rule chest"
    assert gates(row)["already-there"]["reason"] == "ws holds 3 of 3 instances (skip_present)"
    assert (row["decisions"][0]["code"], row["decisions"][0]["transfer"]) == ("done", 1)
    assert clinic.requests() == {"find"}
    offline = clinic.rows(CHEST, "--offline")["chest"]
    assert (offline["found"], offline["decisions"][0]["code"]) == (None, "done")
    assert clinic.requests() == set()
    clinic.archive.add(study("chest", "CT chest", instances=5))
    row = clinic.rows(CHEST)["chest"]
    assert row["decisions"][0]["code"] == "grew"
    assert gates(row)["already-there"]["reason"] == "ws holds 3 of 5 instances"


def test_a_source_that_is_down_gives_a_sentence_and_the_rest_goes_on(clinic: Clinic) -> None:
    clinic.nodes["old"] = node("OLD", free_port())
    clinic.rules["old"] = rule("chest") | {"sweep": {"source": "old", "every": "1h", "keys": {"StudyDate": "today"}}}
    clinic.configure()
    rows = clinic.rows(CHEST, code=1)
    assert "refused the connection" in rows["old"]["problem"]
    assert (rows["old"]["found"], rows["chest"]["found"], rows["chest"]["problem"]) == (None, True, None)
    done = clinic.explain(CHEST, code=1)
    assert "old (sweep of old): not asked" in done.words
    assert "=> to ws: would be moved now" in done.words
    clinic.explain(CHEST, "--offline")


def test_a_source_that_computes_nothing_is_asked_for_the_series(clinic: Clinic) -> None:
    clinic.archive.behaviour = Behaviour(omit=frozenset({"ModalitiesInStudy"}))
    clinic.rules["chest"]["where"] = {"ModalitiesInStudy": "CT"}
    clinic.configure()
    row = clinic.rows(CHEST, "--rule", "chest")["chest"]
    assert row["found"] is True
    assert row["notes"] == ["archive does not say ModalitiesInStudy; it follows from the series."]


def test_a_study_that_nobody_has_is_said_to_be_nowhere(clinic: Clinic) -> None:
    done = clinic.explain("1.2.3.4")
    assert ": does not have the study" in done.words
    assert "chest (sweep of archive): not found archive does not have the study." in done.words
    shown = clinic.explain("1.2.3.4", "--format", "json").json
    assert shown["study"]["archive"] == {"found": False, "problem": None, "values": {}}


def test_what_does_not_fit_together_is_refused(clinic: Clinic) -> None:
    for arguments, words in (
        (("no-uid",), "STUDY_UID is no UID"),
        ((CHEST, "--rule", "chst"), "There is no rule chst; did you mean chest?"),
        ((CHEST, "--for", "x"), "CURRENT_STUDY_UID is no UID"),
        ((CHEST, "--for", KNEE), "none of these rules has any"),
        ((CHEST, "--for", KNEE, "--offline"), "--offline asks nothing"),
    ):
        done = clinic.call("explain", *arguments)
        assert done.code == 2
        assert words in " ".join(done.err.split())


def test_a_candidate_is_explained_against_a_current_study(clinic: Clinic) -> None:
    clinic.archive.add([*study("now", "MR knee", modality="MR"), *study("ct", "CT chest", days=30)])
    priors = {
        "source": "archive",
        "identity": "patient-id",
        "groups": [{"name": "same", "where": {"anatomy": "same", "modality": "same"}, "max": 2, "within": "5y"}],
    }
    clinic.rules = {"priors": rule("knee") | {"priors": priors}}
    clinic.configure()
    now = str(make_uid("now"))
    row = clinic.rows(KNEE, "--for", now)["priors"]
    (decision,) = row["decisions"]
    assert (row["found"], decision["code"], decision["group"], decision["decision"]) == (True, "new", "same", "move")
    assert "anatomy same" in decision["breakdown"]
    assert "anatomy is same (knee); seen: knee, by its description" in clinic.explain(KNEE, "--for", now).words
    row = clinic.rows(str(make_uid("ct")), "--for", now)["priors"]
    assert (row["found"], row["decisions"][0]["code"]) == (False, "no-group")
    done = clinic.explain(str(make_uid("ct")), "--for", now)
    assert "priors (sweep of archive): not taken as a prior" in done.words
    assert "FAIL one of the groups fits <- decides" in done.words
    as_current = clinic.rows(now)["priors"]
    assert as_current["found"] is True
    assert "As the current study it would make 1 transfer of priors" in as_current["notes"][0]
    assert clinic.requests() == {"find"}


def test_nothing_is_written_and_no_value_is_in_what_is(clinic: Clinic) -> None:
    clinic.site.apply("--rule", "chest")
    before = {path: path.read_bytes() for path in clinic.site.directory.rglob("*") if path.is_file()}
    clinic.explain(CHEST)
    after = {path: path.read_bytes() for path in clinic.site.directory.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path.suffix != ".db-shm"} == {
        path: content for path, content in before.items() if path.suffix != ".db-shm"
    }
