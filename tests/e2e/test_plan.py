"""`plan` as its users meet it: how long moves take, what a changed configuration makes different; it only asks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
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
PARTS = {"chest": 6, "lung": 2, "abdomen": 3}
UIDS = {part: str(make_uid(part)) for part in PARTS}


class Clinic:
    """An archive with three CT studies, a workstation, and the router between them; and what its rules become."""

    def __init__(self, directory: Path, archive: SimulatedPacs, ws: SimulatedPacs) -> None:
        self.site = Site(directory / "site", nodes={}, rules={})
        self.changed = directory / "changed"
        self.archive = archive
        archive.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        archive.set_destination("WS", ws.host, ws.port)
        self.nodes = {"archive": node("ARCHIVE", archive.port), "ws": node("WS", ws.port)}
        self.rules = {"chest": rule("chest")}
        self.configure()

    def configure(self) -> None:
        self.site.configure(nodes=self.nodes, rules=self.rules)

    def change(self, *, nodes: dict[str, Any] | None = None, **rules: Any) -> Path:
        """Write a changed configuration: these rules, and these settings of nodes besides their own."""
        merged = {name: settings | (nodes or {}).get(name, {}) for name, settings in self.nodes.items()}
        content = {"router": self.site.settings, "nodes": merged, "rules": rules}
        self.changed.mkdir(exist_ok=True)
        (self.changed / "site.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return self.changed

    def call(self, *arguments: str) -> Done:
        """Run a command in this process."""
        return in_process(self.site.rules_directory, *arguments)

    def against(self, *arguments: str) -> Any:
        """The difference as JSON."""
        done = self.call("plan", "--against", str(self.changed), *arguments, "--format", "json")
        assert done.code == 0, done.err
        return done.json

    def files(self) -> dict[str, tuple[bytes, int]]:
        """All files of the router with their content and when they were written."""
        paths = [path for path in self.site.directory.rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    def asked(self) -> set[str]:
        """The kinds of requests that the archive got since it was asked last."""
        kinds = {str(one.kind) for one in self.archive.record}
        self.archive.record.clear()
        return kinds


def rule(words: str, to: tuple[str, ...] = ("ws",), **more: Any) -> dict[str, Any]:
    """Whatever has one of the words in its description."""
    return {
        "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-1d..today"}},
        "where": {"StudyDescription": {"matches": f"(?i){words}"}},
        "move": {"to": list(to)},
        **more,
    }


SWEEP_OF_LATELY = {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-2d..today"}}


def studies() -> list[Dataset]:
    return [
        one
        for part, instances in PARTS.items()
        for one in make_study(
            seed=part, description=f"CT {part}", patient_id="P1", study_date=TODAY, instances=instances, rows=8
        )
    ]


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    with SimulatedPacs("ARCHIVE", studies=studies()) as archive, SimulatedPacs("WS") as ws:
        yield Clinic(tmp_path, archive, ws)


def counts(row: dict[str, Any]) -> tuple[int, int, int, int]:
    return row["added"], row["removed"], row["changed"], row["unchanged"]


class TestEstimate:
    def test_before_anything_was_moved_no_time_is_invented(self, clinic: Clinic) -> None:
        done = clinic.call("plan")
        assert done.code == 0
        assert (
            "1 transfer with 6 instances to move. No past moves from archive to ws to estimate the time from."
        ) in done.out
        (row,) = clinic.call("plan", "--format", "json").json["estimate"]["rules"]
        assert row == {
            "rule": "chest",
            "studies": 1,
            "transfers": 1,
            "instances": 6,
            "held": 0,
            "skipped": 2,
            "seconds": None,
            "finish_at": None,
            "basis": "no past moves from archive to ws to estimate the time from",
        }

    def test_after_moves_the_time_is_estimated_from_them(self, clinic: Clinic) -> None:
        clinic.site.apply()
        clinic.rules = {"rest": rule("lung|abdomen"), "all": rule("lung|abdomen|chest")}
        clinic.configure()
        done = clinic.call("plan")
        line = (
            r"2 transfers with 5 instances to move: about \d+ s at the rate of the last move \([\d.,]+ instances/s\)\."
        )
        assert re.search(f"^{line}$", done.out, re.MULTILINE)
        assert re.search(rf"^In all 2 studies, {line}$", done.out, re.MULTILINE), "what both rules want counts once"
        found = clinic.call("plan", "--format", "json").json["estimate"]
        assert [row["rule"] for row in found["rules"]] == ["rest", "all"]
        for row in (*found["rules"], found["total"]):
            assert (row["studies"], row["transfers"], row["instances"]) == (2, 2, 5)
            assert row["seconds"] > 0
            assert row["finish_at"]
        assert found["total"]["waiting"] == 0

    def test_a_source_that_is_closed_says_when_it_opens(self, clinic: Clinic) -> None:
        clinic.site.apply()
        other = f"{TODAY.year + 1}-01-01"
        content = {
            "windows": {
                "never-today": {"timezone": "UTC", "open": ["daily 00:00-24:00"], "except": [f"{TODAY}..{other}"]}
            }
        }
        (clinic.site.rules_directory / "windows.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        clinic.nodes["archive"] |= {"windows": [{"use": "never-today"}]}
        clinic.rules = {"rest": rule("lung")}
        clinic.configure()
        (row,) = clinic.call("plan", "--format", "json").json["estimate"]["rules"]
        assert row["finish_at"][:10] == f"{TODAY.year + 1}-01-02"
        assert "archive is closed by its windows until 01-0" in row["basis"]


class TestAgainst:
    def test_says_what_is_moved_besides_and_what_no_more(self, clinic: Clinic) -> None:
        clinic.rules["chest"] = rule("chest|lung")
        clinic.configure()
        clinic.change(chest=rule("lung|abdomen"))
        found = clinic.against()
        assert found["against"] == str(clinic.changed)
        (row,) = found["rules"]
        assert counts(row) == (1, 1, 0, 1)
        assert row["differences"] == [
            {
                "study_instance_uid": UIDS["abdomen"],
                "series_instance_uid": None,
                "destination": "ws",
                "before": {
                    "decision": "skip",
                    "code": "condition",
                    "reason": row["differences"][0]["before"]["reason"],
                },
                "after": {"decision": "move", "code": "new", "reason": "not moved before"},
            },
            {
                "study_instance_uid": UIDS["chest"],
                "series_instance_uid": None,
                "destination": "ws",
                "before": {"decision": "move", "code": "new", "reason": "not moved before"},
                "after": {
                    "decision": "skip",
                    "code": "condition",
                    "reason": row["differences"][1]["after"]["reason"],
                },
            },
        ]
        assert row["differences"][0]["before"]["reason"].startswith("StudyDescription")
        assert (found["added"], found["removed"], found["unchanged"]) == (1, 1, 1)
        assert {one["study_instance_uid"] for one in found["transfers"] if one["decision"] == "move"} == {
            UIDS["chest"],
            UIDS["lung"],
        }, "the usual part is the plan of what runs now"
        assert found["estimate"]["total"]["instances"] == 8
        assert found["estimate_against"]["total"]["instances"] == 5

    def test_in_text_counts_each_rule_and_lists_studies_on_request(self, clinic: Clinic) -> None:
        clinic.change(chest=rule("lung|abdomen"))
        done = clinic.call("plan", "--against", str(clinic.changed))
        assert done.code == 0
        lines = done.out.splitlines()
        assert (
            lines[0] == f"{clinic.site.rules_directory} is what runs now, {clinic.changed} the changed configuration."
        )
        assert "chest: +2 -1 (=0 unchanged)" in lines
        assert "In all: +2 -1 (=0 unchanged); what several rules want counts once." in lines
        assert "Now: 1 transfer with 6 instances to move. No past moves" in done.out
        assert "After the change: 2 transfers with 5 instances to move. No past moves" in done.out
        assert UIDS["lung"][-7:] not in done.out
        listed = clinic.call("plan", "--against", str(clinic.changed), "--studies").out
        assert re.search(
            rf"^\+ +…{UIDS['lung'][-7:]} +ws +skip: StudyDescription .* move: not moved before *$", listed, re.MULTILINE
        )
        assert re.search(rf"^- +…{UIDS['chest'][-7:]} +ws +move: not moved before +skip: ", listed, re.MULTILINE)

    def test_tells_apart_where_only_the_reason_reads_otherwise(self, clinic: Clinic) -> None:
        clinic.change(chest=rule("chest|lung"))
        (row,) = clinic.against()["rules"]
        assert (row["changed"], row["reworded"]) == (1, 1)
        counted = "chest: +1 -0 (=1 unchanged), 1 as before for a reason that reads otherwise"
        arguments = ("plan", "--against", str(clinic.changed), "--studies")
        some, everything = clinic.call(*arguments).out, clinic.call(*arguments, "--all").out
        for text in (some, everything):
            assert counted in text.splitlines()
        assert UIDS["abdomen"][-7:] not in some
        assert UIDS["abdomen"][-7:] in everything

    def test_a_study_that_another_rule_takes_over_is_no_difference_over_all(self, clinic: Clinic) -> None:
        clinic.change(ours=rule("chest|lung"))
        found = clinic.against()
        assert [(one["rule"], one["change"], *counts(one)) for one in found["rules"]] == [
            ("chest", "gone", 0, 1, 0, 0),
            ("ours", "new", 2, 0, 0, 0),
        ]
        assert (found["added"], found["removed"], found["unchanged"]) == (1, 0, 1)
        text = clinic.call("plan", "--against", str(clinic.changed)).out
        assert "chest (gone): +0 -1 (=0 unchanged)" in text
        assert "ours (new): +2 -0 (=0 unchanged)" in text

    def test_a_limit_turns_moves_into_holds(self, clinic: Clinic) -> None:
        clinic.rules["chest"] = rule("chest|lung|abdomen")
        clinic.configure()
        clinic.change(chest=rule("chest|lung|abdomen", limits={"studies_per_sweep": 1}))
        (row,) = clinic.against()["rules"]
        assert counts(row) == (0, 2, 0, 1)
        assert {one["after"]["code"] for one in row["differences"]} == {"limit"}

    def test_names_nodes_that_changed(self, clinic: Clinic) -> None:
        clinic.change(
            nodes={"ws": {"address": "10.0.0.9:104"}, "archive": {"limits": {"associations": 4}}}, **clinic.rules
        )
        found = clinic.against()
        (archive, ws) = sorted(found["nodes"], key=lambda one: one["node"])
        assert archive["changes"] == [{"setting": "limits.associations", "before": "1", "after": "4"}]
        assert ws["changes"][0]["after"] == "WS at 10.0.0.9:104"
        assert counts(found["rules"][0]) == (0, 0, 0, 1)
        assert "node archive: limits.associations 1 -> 4\n" in clinic.call("plan", "--against", str(clinic.changed)).out

    def test_asks_a_source_once_for_both(self, clinic: Clinic) -> None:
        clinic.change(chest=rule("lung|abdomen"))
        clinic.archive.record.clear()
        clinic.against()
        assert len(clinic.archive.record.of("find")) == 1

    def test_a_source_that_moved_is_asked_where_it_is_after_the_change(self, clinic: Clinic) -> None:
        lung = make_study(seed="lung", description="CT lung", study_date=TODAY, instances=2, rows=8)
        with SimulatedPacs("ARCHIVE", studies=lung) as other:
            clinic.rules["chest"] = rule("chest|lung")
            clinic.configure()
            clinic.change(nodes={"archive": {"address": f"127.0.0.1:{other.port}"}}, **clinic.rules)
            (row,) = clinic.against()["rules"]
        assert counts(row) == (0, 1, 0, 1)
        assert row["differences"][0]["after"] is None

    def test_the_priors_of_a_rule_are_compared_as_well(self, clinic: Clinic) -> None:
        for number, day in enumerate(("20200101", "20210101", "20220101")):
            clinic.archive.add(
                make_study(
                    seed=f"old{number}", description="CT old", patient_id="P1", study_date=day, instances=1, rows=8
                )
            )

        def priors(most: int) -> dict[str, Any]:
            return rule("chest", priors={"source": "archive", "groups": [{"name": "recent", "max": most}]})

        clinic.rules["chest"] = priors(1)
        clinic.configure()
        clinic.change(chest=priors(3))
        (row,) = clinic.against()["rules"]
        assert (row["added"], row["removed"], row["unchanged"]) == (2, 0, 1)

    def test_a_source_that_cannot_be_asked_is_not_compared(self, clinic: Clinic) -> None:
        clinic.change(nodes={"archive": {"address": f"127.0.0.1:{free_port()}"}}, **clinic.rules)
        done = clinic.call("plan", "--against", str(clinic.changed))
        assert done.code == 1
        assert "chest: not compared: " in done.out
        assert "In all" not in done.out  # nothing was compared, so nothing is known of all

    def test_an_invalid_configuration_is_refused_with_its_diagnostics(self, clinic: Clinic) -> None:
        clinic.change(chest=rule("chest") | {"mvoe": {}})
        done = clinic.call("plan", "--against", str(clinic.changed))
        assert done.code == 2
        assert "site.yaml:" in done.err
        assert "did you mean move?" in done.err
        assert done.err.splitlines()[-1].startswith(f"dicom-router: --against: The configuration in {clinic.changed}")
        assert clinic.asked() == set()

    def test_arguments_that_do_not_fit_are_refused(self, clinic: Clinic) -> None:
        assert clinic.call("plan", "--studies").code == 2
        clinic.change(other=rule("lung"))
        none = clinic.call("plan", "--against", str(clinic.changed), "--rule", "chesst")
        assert none.code == 2
        assert "did you mean chest?" in none.err
        only = clinic.call("plan", "--against", str(clinic.changed), "--rule", "other", "--format", "json")
        assert [one["rule"] for one in only.json["rules"]] == ["other"]


class TestOneArchiveByTwoConfigurations:
    """The archive has one association and takes no second one."""

    @pytest.fixture
    def clinic(self, tmp_path: Path) -> Iterator[Clinic]:
        strict = Behaviour(max_associations=1)
        with SimulatedPacs("ARCHIVE", studies=studies(), behaviour=strict) as archive, SimulatedPacs("WS") as ws:
            yield Clinic(tmp_path, archive, ws)

    @pytest.mark.parametrize(
        "settings", [{"timezone": "Asia/Tokyo"}, {"limits": {"associations": 3}}, {"timeouts": {"connect": "7s"}}]
    )
    def test_a_changed_node_is_asked_when_the_first_associations_are_closed(
        self, clinic: Clinic, settings: dict[str, Any]
    ) -> None:
        clinic.change(nodes={"archive": settings}, chest=rule("chest|lung", sweep=SWEEP_OF_LATELY))
        (row,) = clinic.against()["rules"]
        assert (row["added"], row["removed"], row["unchanged"]) == (1, 0, 1)
        assert (clinic.archive.associations_peak, clinic.archive.associations_rejected) == (1, 0)

    def test_a_renamed_archive_is_the_same_one(self, clinic: Clinic) -> None:
        clinic.nodes["pacs"] = clinic.nodes.pop("archive")
        clinic.change(chest=rule("chest|lung", sweep=SWEEP_OF_LATELY | {"source": "pacs"}))
        found = clinic.against()
        for one in (found, *found["rules"]):
            assert (one["added"], one["removed"], one["unchanged"]) == (1, 0, 1)
        assert found["nodes"] == [
            {"node": "archive", "changes": [{"setting": "name", "before": "archive", "after": "pacs"}]}
        ]
        said = clinic.call("plan", "--against", str(clinic.changed)).out
        assert "node archive is called pacs now\n" in said
        assert (clinic.archive.associations_peak, clinic.archive.associations_rejected) == (1, 0)


def test_many_rules_that_ask_alike_share_one_query(clinic: Clinic) -> None:
    parts = list(PARTS)
    clinic.rules = {f"r{number}": rule(parts[number % len(parts)]) for number in range(60)}
    clinic.configure()
    found = clinic.call("plan", "--format", "json").json
    assert [row["queries"] for row in found["sweeps"]] == [1] + [0] * 59
    assert found["estimate"]["total"]["transfers"] == len(PARTS)
    clinic.change(**clinic.rules | {"r1": rule("chest|lung")})
    clinic.archive.record.clear()
    difference = clinic.against()
    assert sum(row["queries"] for row in difference["sweeps"]) == 1
    assert sum(1 for one in clinic.archive.record if "FIND" in str(one.kind).upper()) == 1
    assert [row["rule"] for row in difference["rules"] if row["added"]] == ["r1"]


def test_a_plan_only_asks_and_leaves_every_file_as_it_was(clinic: Clinic) -> None:
    clinic.site.apply()
    clinic.rules["chest"] = rule("chest|lung", ("ws", "local"))
    clinic.configure()
    clinic.change(chest=rule("chest|lung|abdomen", ("ws", "local")))
    clinic.asked()
    before = clinic.files()
    assert any(name.endswith("ledger.db") for name in before)
    assert not any(name.endswith("-wal") for name in before)
    for arguments in (["plan"], ["plan", "--all"], ["plan", "--against", str(clinic.changed), "--studies"]):
        assert clinic.call(*arguments).code == 0
        assert clinic.call(*arguments, "--format", "json").code == 0
    assert clinic.asked() == {"find"}
    assert clinic.files() == before


def test_a_plan_without_a_ledger_makes_none(clinic: Clinic) -> None:
    clinic.change(chest=rule("lung"))
    before = clinic.files()
    assert clinic.call("plan").code == 0
    clinic.against()
    assert clinic.files() == before
