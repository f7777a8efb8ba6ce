"""Every misbehaviour in the catalogue below, against the whole router: verdict, attempts, metrics.

The router runs in this process, its wire, ledger, store and receivers for real; simulated PACS misbehave.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from pydicom.dataset import Dataset
from rich.console import Console

from router import config
from router.cli.apply import good, sweep_now
from router.cli.progress import Ending, Seen
from router.dimse import find, retrieve
from router.domain import rule
from router.domain.rule import Node, Retry, RuleSet, Timeouts
from router.engine import verifier
from router.service import Service
from router.simulator import BUSY_WITHOUT_REASON, LOCAL_LIMIT_EXCEEDED, Behaviour, Rejection, SimulatedPacs, make_study

RULE = "everything"
GAUGES = ("sweep_complete", "move_suboperations_remaining", "route_stopped")

HONEST = Behaviour()

CT = make_study(seed="ct", description="CT Prüfung", series=[("CT", "Lung", 3), ("CT", "Scout", 1)])
SECOND = make_study(seed="second", description="CT Prüfung", series=[("CT", "Head", 2)])
MR = make_study(seed="mr", modality="MR", description="MR Knee", instances=2)
WITH_REPORT = make_study(seed="report", series=[("CT", "Lung", 2), ("SR", "Dose", 1)])


@dataclass(frozen=True, kw_only=True)
class Case:
    """One misbehaviour and what becomes of the work. What is not said is as with an honest archive."""

    of: tuple[str, ...]
    """The entries of the catalogue."""
    archive: Behaviour = HONEST
    workstation: Behaviour = HONEST
    to: str = "workstation"
    studies: tuple[list[Dataset], ...] = (CT,)
    rule: Mapping[str, Any] = field(default_factory=dict)
    node: Mapping[str, Any] = field(default_factory=dict)
    associations: int = 2
    attempts_allowed: int = 3
    deadlines: Mapping[str, float] = field(default_factory=dict)
    """`find` and `move`: seconds of silence, `total`: seconds of a C-MOVE, `negotiation`: generous where not said.

    They hold for what is to succeed as well, and there they leave a busy machine its time.
    """
    patient: bool = False
    """Evidence is waited for: it comes, and however slow the machine is, before anybody gives up."""
    # What is expected.
    verdicts: tuple[str, ...] = ("complete",)
    attempts: tuple[int, ...] | None = (1,)
    """Of each transfer; None where chance has a hand in it."""
    moves: int | None = None
    """C-MOVE requests the archive saw; None: as many as the attempts."""
    sweep: str = "complete"
    cause: str | None = None
    """Of the transfers, or of the sweep where it failed; None: not said."""
    completed: int | None = None
    """move_suboperations_total; None: as many as arrived."""
    failed: int = 0
    warning: int = 0
    arrived: int | None = None
    """Distinct instances at the destination; None: all of all studies."""
    twice: int = 0
    """How many of them came more than once."""
    refused: str = ""
    """The reason under which store_refused_total counts."""
    results: Mapping[str, int] = field(default_factory=dict)
    """associations_total of the archive by result, where it says something; at least."""


class Hospital:
    """An archive that misbehaves, a workstation, and a router between them whose patience is short."""

    def __init__(
        self,
        directory: Path,
        stack: ExitStack,
        case: Case,
        to: tuple[str, ...] = (),
    ) -> None:
        self.workstation = stack.enter_context(SimulatedPacs("WS", behaviour=case.workstation, timeout_seconds=5))
        self.archive = stack.enter_context(
            SimulatedPacs(
                "ARCHIVE",
                studies=[one for study in case.studies for one in study],
                behaviour=case.archive,
                timeout_seconds=5,
                destinations={"WS": (self.workstation.host, self.workstation.port)},
            )
        )
        self.to = to or (case.to,)
        self.rules = self._rules(directory, self.to, case)
        self.service = Service(self.rules)
        self._fallen: list[str] = []
        self._exceeded: list[float] = []
        self.counted: set[float] = set()
        """Numbers of sub-operations that /metrics showed on the way."""
        self._highest: dict[Any, float] = {}
        self.service.start(scheduled=False)
        stack.callback(self.service.stop, 0.0)
        if "local" in self.to:
            self.archive.set_destination("ROUTER", "127.0.0.1", self.service.store_port)

    def _rules(self, directory: Path, to: tuple[str, ...], case: Case) -> RuleSet:
        content = {
            "router": {
                "ae_title": "ROUTER",
                "listen": "127.0.0.1:11112",
                "store": f"{directory}/store",
                "ledger": f"sqlite:///{directory}/ledger.db",
                "minimum_free": 0,
            },
            "nodes": {
                "archive": {"ae_title": "ARCHIVE", "address": self.archive.address, **case.node},
                "workstation": {"ae_title": "WS", "address": self.workstation.address},
            },
            "rules": {
                RULE: {
                    "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "20240101..20240131"}},
                    "move": {"to": [*to]},
                    **case.rule,
                }
            },
        }
        (directory / "rules").mkdir()
        (directory / "rules" / "site.yaml").write_text(yaml.safe_dump(content))
        loaded = config.load(directory / "rules")
        assert loaded.rule_set is not None, [str(one) for one in loaded.diagnostics]
        rules = loaded.rule_set
        return msgspec.structs.replace(
            rules,
            router=msgspec.structs.replace(rules.router, listen_port=0),
            nodes={name: _within(one, case) for name, one in rules.nodes.items()},
            rules={
                name: msgspec.structs.replace(
                    one, move=msgspec.structs.replace(one.move, retry=Retry(attempts=case.attempts_allowed, delay=0.02))
                )
                for name, one in rules.rules.items()
            },
        )

    # the work -------------------------------------------------------------------------------------------------------

    def apply(self) -> Seen:
        """What `dicom-router apply` does; meanwhile no counter may fall."""
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,))
        watcher.start()
        try:
            seen, ending = sweep_now(self.service, [*self.rules.rules.values()], Console(quiet=True))
        finally:
            ended.set()
            watcher.join()
        assert ending is Ending.ENDED, seen
        assert not self._fallen, "a counter never falls"
        assert not self._exceeded, "never is more counted than has arrived"
        return seen

    def _watch(self, ended: threading.Event) -> None:
        going_on = True
        while going_on:
            going_on = not ended.wait(0.02)
            for destination in self.to:
                done = sum(
                    self.value("move_suboperations_total", destination=destination, outcome=outcome)
                    for outcome in ("completed", "warning")
                )
                self.counted.add(done)
                if done > len(self.arrived(destination)):
                    self._exceeded.append(done)

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """All samples of /metrics."""
        text = self.service.render_metrics("")[0].decode()
        found = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if family.type == "counter" or sample.name.removeprefix("dicom_router_") in GAUGES
        }
        for series, value in found.items():
            if series[0].endswith("_total"):
                if value < self._highest.get(series, 0.0):
                    self._fallen.append(series[0])
                self._highest[series] = value
        return found

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        return sum(
            value
            for (found, pairs), value in self.samples().items()
            if found == f"dicom_router_{name}" and pairs >= labels.items()
        )

    def arrived(self, destination: str) -> list[str]:
        """SOP Instance UIDs in the order they came in, repetitions included."""
        if destination == "workstation":
            return [str(one.sop_instance) for one in self.workstation.stored]
        return [path.stem for path in Path(self.rules.router.store).glob("[0-9]*/**/*.dcm")]


def _within(node: Node, case: Case) -> Node:
    seconds = {"find": 30.0, "move": 30.0, "total": 30.0, "negotiation": 20.0} | dict(case.deadlines)
    return msgspec.structs.replace(
        node,
        limits=msgspec.structs.replace(node.limits, associations=case.associations),
        find=msgspec.structs.replace(node.find, inactivity=seconds["find"]),
        move=msgspec.structs.replace(node.move, inactivity=seconds["move"], total=seconds["total"]),
        timeouts=Timeouts(negotiation=seconds["negotiation"]),
    )


# --- The catalogue: what there is to misbehave in, and the switches for it --------------------------------------------

CATALOGUE: Mapping[str, tuple[str, ...]] = {
    # Quirks of archives in the field, numbered.
    "1: silent cap": ("max_results",),
    "2: cap that looks like a cancel": ("max_results", "capped_status"),
    "3: too many matches refused": ("max_results", "capped_status"),
    "4: ModalitiesInStudy not matched": ("unmatched_keys",),
    "5: ModalitiesInStudy or counts missing": ("omit", "empty", "blank"),
    "6: keys of another level": ("misplaced_keys", "modalities_need_modality"),
    "7: reports not listed": ("unlisted_modalities",),
    "8: keys that must be there": ("required_keys",),
    "9: no combined date and time": ("refuse_study_time",),
    "10: no open ranges": ("refuse_open_ranges",),
    "11: wildcards in UIDs": ("match_uid_wildcards",),
    "12: character set missing or wrong": ("response_character_set", "claimed_character_set", "omit"),
    "13: names letter by letter": ("names_case_sensitive",),
    "14: few associations": ("max_associations", "excess_rejection", "reject_every"),
    "15: no pending": ("send_pending",),
    "16: pending for ever": ("pending_forever",),
    "17: Success with nothing, or before the data": ("move_nothing", "deliver_later_seconds"),
    "18: counters and status that hide failures": (
        "omit_failed_counter",
        "final_move_status",
        "deliver_fraction",
        "fail_instances",
    ),
    "19: hang after a failure": ("hang_after_failure",),
    "20: destination unknown, in disguise": ("unknown_destination_status", "abort_on_unknown_destination"),
    "21: stores after the association broke": ("continue_after_mover_left", "abort_move_after"),
    "22: cancel ignored or lost": ("ignore_cancel", "lose_early_cancel"),
    "23: AE titles compared exactly, or with tabs": ("check_called_ae_title", "accepted_callers", "titles"),
    "24: AE titles with NULs": ("titles",),
    "25: blank AE title": ("titles",),
    "26: TCP stays open": ("keep_tcp_open",),
    "27: many storage associations": ("association_per_suboperation",),
    "28: Implicit VR only": ("implicit_only",),
    "29: UIDs padded or malformed": ("uid_padding",),
    "30: odd lengths, unknown VRs": ("odd_lengths", "bad_vrs"),
    "31: maximum length of a PDU": ("max_pdu_length", "largest_max_pdu"),
    "32: near line and off line": ("availability", "move_start_delay_seconds"),
    "33: duplicate and stray rows": ("duplicate_rows", "stray_rows"),
    "34: rows without level or UID": ("row_level", "rows_without_uid", "omit", "empty"),
    "35: C-ECHO works, C-FIND does not": ("refuse_find_status", "refused_sop_classes"),
    # What else a source or a destination can do.
    "lists of values": ("match_value_lists",),
    "broken or undecodable answers": ("abort_find_after", "undecodable_row", "hang_on_find"),
    "wrong counts": ("instance_count_offset",),
    "statuses of C-MOVE": ("refuse_move_status",),
    "counters": ("completed_counter", "counters_in_pending", "counters_in_final"),
    "statuses of C-STORE": ("store_status", "forget_stored", "undecodable_instances"),
    "A-ASSOCIATE-RJ": ("reject",),
    "slow": ("response_delay_seconds", "suboperation_delay_seconds", "hang_on_associate"),
    "verification refused": ("echo_status",),
    "modality worklists": (
        "worklist_ignores_keys",
        "worklist_without_sequence",
        "worklist_steps_together",
        "worklist_empty_times",
    ),
    # What users of other routers complain of.
    "Success with all failed": ("fail_instances", "final_move_status"),
    "Success with 0 sub-operations when busy": ("move_nothing", "faulty_moves"),
    "no pending responses": ("send_pending",),
    "no counters in the final response": ("counters_in_final",),
    "long silence": ("hang_move_after",),
    "abort instead of A801": ("abort_on_unknown_destination",),
    "silent result cap": ("max_results",),
    "refused-as-too-broad": ("capped_status",),
    "cancel ignored": ("ignore_cancel",),
    "abort ~20 s after cancel": ("abort_after_cancel_seconds",),
    "failed list repeated/short/absent": ("failed_list",),
    "no Move Originator": ("move_originator",),
    "stores from another AE": ("stores_from",),
    "stores continue after the mover left": ("continue_after_mover_left",),
    "second association rejected (transient)": ("max_associations", "excess_rejection"),
    "0xB000 with all failed": ("fail_instances", "final_move_status"),
    "duplicated C-FIND matches": ("duplicate_rows",),
    "StudyDate empty": ("empty",),
    "NumberOfStudyRelatedInstances not supported (empty)": ("empty",),
}
"""What archives do -> the switches of the simulated PACS for it. Each switch has a case below."""

# --- The cases --------------------------------------------------------------------------------------------------------

ONLY_CT = {
    "sweep": {
        "source": "archive",
        "every": "1h",
        "keys": {"StudyDate": "20240101..20240131", "ModalitiesInStudy": "CT"},
    }
}


def keyed(**keys: Any) -> dict[str, Any]:
    """A rule with these keys."""
    return {"sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "20240101..20240131"} | keys}}


def renamed(study: list[Dataset], study_instance_uid: str) -> list[Dataset]:
    """The study under another UID."""
    copies = copy.deepcopy(study)
    for one in copies:
        one.StudyInstanceUID = study_instance_uid
    return copies


def cap(status: int = 0) -> dict[str, Any]:
    return {"archive": Behaviour(max_results=1, capped_status=status), "studies": (CT, SECOND)}


ONCE: dict[str, Any] = {"faulty_moves": 1}

CASES: dict[str, Case] = {
    "honest": Case(of=()),
    "honest to local": Case(of=(), to="local"),
    # -- C-FIND ------------------------------------------------------------------------------------------------------
    "cap, silent": Case(
        of=("1: silent cap", "silent result cap"),
        **cap(),
        node={"find": {"max_results": 1}},
        verdicts=("unproven",),
        completed=4,
        sweep="incomplete",
        arrived=4,
    ),
    "cap, cancelled": Case(
        of=("2: cap that looks like a cancel",), **cap(0xFE00), sweep="incomplete", arrived=4, verdicts=("unproven",)
    ),
    "cap, refused": Case(
        of=("3: too many matches refused", "refused-as-too-broad"),
        **cap(0xA700),
        sweep="failed",
        verdicts=(),
        attempts=(),
        arrived=0,
        cause="query-failed",
    ),
    "ModalitiesInStudy is not matched": Case(
        of=("4: ModalitiesInStudy not matched",),
        archive=Behaviour(unmatched_keys=frozenset({"ModalitiesInStudy"})),
        studies=(CT, MR),
        rule=ONLY_CT,
        arrived=4,
    ),
    "ModalitiesInStudy is absent": Case(
        of=("5: ModalitiesInStudy or counts missing",),
        archive=Behaviour(omit=frozenset({"ModalitiesInStudy"})),
        studies=(CT, MR),
        rule=ONLY_CT,
        arrived=4,
    ),
    "ModalitiesInStudy is empty and not matched": Case(
        of=("5: ModalitiesInStudy or counts missing",),
        archive=Behaviour(empty=frozenset({"ModalitiesInStudy"}), unmatched_keys=frozenset({"ModalitiesInStudy"})),
        studies=(CT, MR),
        rule=ONLY_CT,
        arrived=4,
    ),
    "ModalitiesInStudy is blank and not matched": Case(
        of=("5: ModalitiesInStudy or counts missing",),
        archive=Behaviour(blank=frozenset({"ModalitiesInStudy"}), unmatched_keys=frozenset({"ModalitiesInStudy"})),
        studies=(CT, MR),
        rule=ONLY_CT,
        arrived=4,
    ),
    "a key of another level empties the answer": Case(
        of=("6: keys of another level",),
        archive=Behaviour(misplaced_keys="no_rows"),
        studies=(CT, MR),
        rule=ONLY_CT,
        arrived=4,
    ),
    "ModalitiesInStudy alone finds too few": Case(
        of=("6: keys of another level",),
        archive=Behaviour(modalities_need_modality=True),
        studies=(CT, SECOND, MR),
        rule={"where": {"ModalitiesInStudy": "CT"}},
        verdicts=("complete", "complete"),
        attempts=(1, 1),
        arrived=6,
    ),
    "reports are not listed": Case(
        of=("7: reports not listed",),
        archive=Behaviour(unlisted_modalities=frozenset({"SR"})),
        studies=(WITH_REPORT,),
    ),
    "PatientID and PatientName must be there": Case(
        of=("8: keys that must be there",), archive=Behaviour(required_keys=frozenset({"PatientID", "PatientName"}))
    ),
    "no matching by time": Case(
        of=("9: no combined date and time",),
        archive=Behaviour(refuse_study_time=True),
        rule={"where": {"StudyTime": {"between": ["100000", "110000"]}}},
    ),
    "no open ranges": Case(of=("10: no open ranges",), archive=Behaviour(refuse_open_ranges=True)),
    "wildcards in UIDs match all": Case(of=("11: wildcards in UIDs",), archive=Behaviour(match_uid_wildcards=True)),
    "character set absent": Case(
        of=("12: character set missing or wrong",),
        archive=Behaviour(omit=frozenset({"SpecificCharacterSet"})),
        rule={"where": {"StudyDescription": {"matches": "^CT Pr.fung$"}}},
    ),
    "character set wrong": Case(
        of=("12: character set missing or wrong",),
        archive=Behaviour(claimed_character_set="ISO_IR 192"),
        rule={"where": {"StudyDescription": {"matches": "^CT Pr.*fung$"}}},
    ),
    "character set of its own": Case(
        of=("12: character set missing or wrong",),
        archive=Behaviour(response_character_set="GB18030"),
        rule={"where": {"StudyDescription": "CT Prüfung"}},
    ),
    "names letter by letter": Case(of=("13: names letter by letter",), archive=Behaviour(names_case_sensitive=True)),
    "duplicate rows": Case(
        of=("33: duplicate and stray rows", "duplicated C-FIND matches"), archive=Behaviour(duplicate_rows=True)
    ),
    "rows outside the filter": Case(
        of=("33: duplicate and stray rows",), archive=Behaviour(stray_rows=1), studies=(CT, MR), rule=ONLY_CT, arrived=4
    ),
    "rows of another level": Case(
        of=("34: rows without level or UID",),
        archive=Behaviour(row_level="PATIENT"),
        verdicts=(),
        attempts=(),
        arrived=0,
        sweep="incomplete",
    ),
    "rows that do not say their level": Case(
        of=("34: rows without level or UID",), archive=Behaviour(omit=frozenset({"QueryRetrieveLevel"}))
    ),
    "rows with an empty level": Case(of=("34: rows without level or UID",), archive=Behaviour(row_level="")),
    "a row without a StudyInstanceUID": Case(
        of=("34: rows without level or UID",),
        archive=Behaviour(rows_without_uid=1),
        studies=(CT, SECOND),
        sweep="incomplete",
        verdicts=("unproven",),
        arrived=2,
    ),
    "StudyDate is empty": Case(of=("StudyDate empty",), archive=Behaviour(empty=frozenset({"StudyDate"}))),
    "the count is empty": Case(
        of=("NumberOfStudyRelatedInstances not supported (empty)",),
        archive=Behaviour(empty=frozenset({"NumberOfStudyRelatedInstances"})),
    ),
    "the count is absent": Case(
        of=("5: ModalitiesInStudy or counts missing",),
        archive=Behaviour(omit=frozenset({"NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"})),
    ),
    "the count is too low": Case(of=("wrong counts",), archive=Behaviour(instance_count_offset=-2)),
    "the count is too high": Case(
        of=("wrong counts",),
        archive=Behaviour(instance_count_offset=1),
        verdicts=("partial",),
        attempts=(3,),
        moves=5,
        completed=4,
        twice=8,
    ),
    "the count is too high, and only the list is trusted": Case(
        of=("wrong counts",),
        archive=Behaviour(instance_count_offset=1),
        node={"find": {"expected": "image"}},
    ),
    "lists of values are literal": Case(
        of=("lists of values",),
        archive=Behaviour(match_value_lists=False),
        studies=(CT, MR),
        rule=keyed(ModalitiesInStudy=["CT", "MR"]),
        verdicts=("complete", "complete"),
        attempts=(1, 1),
    ),
    "an answer that breaks off": Case(
        of=("broken or undecodable answers",),
        archive=Behaviour(abort_find_after=1),
        studies=(CT, SECOND),
        sweep="failed",
        verdicts=(),
        attempts=(),
        arrived=0,
        cause="aborted",
    ),
    "a row that does not decode": Case(
        of=("broken or undecodable answers",),
        archive=Behaviour(undecodable_row=1),
        studies=(CT, SECOND),
        sweep="incomplete",
        arrived=4,
        verdicts=("unproven",),
        completed=4,
    ),
    "a query that is never answered": Case(
        deadlines={"find": 0.7},
        of=("broken or undecodable answers",),
        archive=Behaviour(hang_on_find=True),
        sweep="failed",
        verdicts=(),
        attempts=(),
        arrived=0,
        cause="timeout",
    ),
    "queries are not authorised": Case(
        of=("35: C-ECHO works, C-FIND does not",),
        archive=Behaviour(refuse_find_status=0x0124),
        sweep="failed",
        verdicts=(),
        attempts=(),
        arrived=0,
        cause="query-failed",
    ),
    "queries are not negotiated": Case(
        of=("35: C-ECHO works, C-FIND does not",),
        archive=Behaviour(
            refused_sop_classes=frozenset({"1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.2.1"})
        ),
        sweep="failed",
        verdicts=(),
        attempts=(),
        arrived=0,
        cause="no-context",
    ),
    "UIDs with a space": Case(of=("29: UIDs padded or malformed",), archive=Behaviour(uid_padding=" "), to="local"),
    "UIDs with two NULs": Case(of=("29: UIDs padded or malformed",), archive=Behaviour(uid_padding="\0\0")),
    "UIDs with leading zeros": Case(
        of=("29: UIDs padded or malformed",),
        archive=Behaviour(uid_padding="\0\0"),
        studies=(renamed(SECOND, "1.2.003.04"),),
        to="local",
    ),
    "UIDs that are too long": Case(
        of=("29: UIDs padded or malformed",),
        archive=Behaviour(uid_padding=" "),
        studies=(CT, renamed(SECOND, "1.2." + "3" * 62)),
        sweep="incomplete",
        arrived=4,
    ),
    "odd lengths": Case(
        of=("30: odd lengths, unknown VRs",),
        archive=Behaviour(odd_lengths=frozenset({"StudyDescription", "StudyInstanceUID", "PatientID"})),
        rule={"where": {"StudyDescription": "CT Prüfung"}},
    ),
    "unknown VRs": Case(
        of=("30: odd lengths, unknown VRs",),
        archive=Behaviour(bad_vrs=frozenset({"StudyDescription", "StudyID"})),
        rule={"where": {"StudyDescription": "CT Prüfung"}},
    ),
    "near line, and slow": Case(
        deadlines={"move": 1.0},
        of=("32: near line and off line",),
        archive=Behaviour(availability="NEARLINE", move_start_delay_seconds=1.5),
    ),
    "off line": Case(
        of=("32: near line and off line",),
        archive=Behaviour(availability="OFFLINE"),
        verdicts=(),
        attempts=(),
        arrived=0,
    ),
    # -- Associations ------------------------------------------------------------------------------------------------
    "one association at a time": Case(
        of=("14: few associations",),
        archive=Behaviour(max_associations=1),
        associations=1,
        studies=(CT, SECOND),
        verdicts=("complete", "complete"),
        attempts=(1, 1),
        results={"rejected_transient": 0},
    ),
    "one association at a time, and we open two": Case(
        of=("second association rejected (transient)",),
        archive=Behaviour(max_associations=1, excess_rejection=BUSY_WITHOUT_REASON, suboperation_delay_seconds=0.1),
        studies=(CT, SECOND),
        attempts_allowed=8,
        verdicts=("complete", "complete"),
        attempts=None,
    ),
    "busy now and then": Case(
        of=("14: few associations",),
        archive=Behaviour(reject_every=2, excess_rejection=LOCAL_LIMIT_EXCEEDED, association_per_suboperation=True),
        studies=(CT, SECOND),
        attempts_allowed=8,
        verdicts=("complete", "complete"),
        attempts=None,
    ),
    "Implicit VR only": Case(of=("28: Implicit VR only",), archive=Behaviour(implicit_only=True)),
    "the called AE title is checked": Case(
        of=("23: AE titles compared exactly, or with tabs",), archive=Behaviour(check_called_ae_title=True)
    ),
    "the calling AE title is checked": Case(
        of=("23: AE titles compared exactly, or with tabs",), archive=Behaviour(accepted_callers=frozenset({"ROUTER"}))
    ),
    "the calling AE title is checked, case and all": Case(
        of=("23: AE titles compared exactly, or with tabs",),
        archive=Behaviour(accepted_callers=frozenset({"router"})),
        sweep="failed",
        verdicts=(),
        attempts=(),
        arrived=0,
        cause="rejected-1-1-3",
        results={"rejected_permanent": 1},
    ),
    "maximum length 0": Case(of=("31: maximum length of a PDU",), archive=Behaviour(max_pdu_length=0), to="local"),
    "maximum length small": Case(
        of=("31: maximum length of a PDU",), archive=Behaviour(max_pdu_length=512), to="local"
    ),
    "maximum length huge": Case(
        of=("31: maximum length of a PDU",), archive=Behaviour(max_pdu_length=0xFFFFFFFF), to="local"
    ),
    "refuses a large maximum length": Case(
        of=("31: maximum length of a PDU",), archive=Behaviour(largest_max_pdu=131072), to="local"
    ),
    "TCP stays open": Case(of=("26: TCP stays open",), archive=Behaviour(keep_tcp_open=True), to="local"),
    "TCP stays open after its abort": Case(
        of=("26: TCP stays open",),
        archive=Behaviour(keep_tcp_open=True, abort_move_after=1, **ONCE),
        attempts=(2,),
        moves=3,
    ),
    "answers slowly": Case(of=("slow",), archive=Behaviour(response_delay_seconds=0.2)),
    "sends slowly": Case(of=("slow",), archive=Behaviour(suboperation_delay_seconds=0.3), to="local"),
    "associations are never answered": Case(
        deadlines={"negotiation": 0.7},
        of=("slow",),
        archive=Behaviour(hang_on_associate=True),
        sweep="failed",
        verdicts=(),
        attempts=(),
        arrived=0,
        cause="negotiation-timeout",
        results={"timeout": 1},
    ),
    "C-ECHO is refused": Case(of=("verification refused",), archive=Behaviour(echo_status=0x0122)),
    # -- C-MOVE: the answers -----------------------------------------------------------------------------------------
    "no pending": Case(of=("15: no pending", "no pending responses"), archive=Behaviour(send_pending=False)),
    "pending for ever": Case(
        deadlines={"total": 5.0, "move": 5.0},
        of=("16: pending for ever",),
        archive=Behaviour(pending_forever=True),
        cause="timeout-total",
    ),
    "Success, then nothing": Case(
        of=("17: Success with nothing, or before the data",),
        archive=Behaviour(move_nothing=True),
        attempts_allowed=2,
        verdicts=("contradicted",),
        attempts=(2,),
        arrived=0,
    ),
    "Success with nothing, once": Case(
        of=("Success with 0 sub-operations when busy",), archive=Behaviour(move_nothing=True, **ONCE), attempts=(2,)
    ),
    "Success at once, data later": Case(
        patient=True, of=("17: Success with nothing, or before the data",), archive=Behaviour(deliver_later_seconds=0.8)
    ),
    "Success at once, data later, here": Case(
        patient=True,
        of=("17: Success with nothing, or before the data",),
        archive=Behaviour(deliver_later_seconds=0.8),
        to="local",
    ),
    "Success with half, once": Case(
        of=("18: counters and status that hide failures",),
        archive=Behaviour(deliver_fraction=0.5, **ONCE),
        attempts=(2,),
        moves=3,
    ),
    "Success with half, once, here": Case(
        of=("18: counters and status that hide failures",),
        archive=Behaviour(deliver_fraction=0.5, **ONCE),
        to="local",
        attempts=(2,),
        moves=3,
    ),
    "Success with half, for ever": Case(
        of=("18: counters and status that hide failures",),
        archive=Behaviour(deliver_fraction=0.5),
        attempts_allowed=6,
        verdicts=("partial", "contradicted"),
        attempts=(3,),
        moves=5,
        arrived=2,
    ),
    "the failed counter is missing": Case(
        of=("18: counters and status that hide failures",),
        archive=Behaviour(fail_instances=1, omit_failed_counter=True, **ONCE),
        attempts=(2,),
    ),
    "Success with all failed": Case(
        of=("Success with all failed",),
        archive=Behaviour(fail_instances=99, final_move_status=0),
        attempts_allowed=2,
        verdicts=("failed",),
        attempts=(2,),
        arrived=0,
        failed=8,
        cause="all-failed",
    ),
    "B000 with all failed": Case(
        of=("0xB000 with all failed",),
        archive=Behaviour(fail_instances=99, final_move_status=0xB000),
        attempts_allowed=2,
        verdicts=("failed",),
        attempts=(2,),
        arrived=0,
        failed=8,
        cause="all-failed",
    ),
    "hangs after a failure": Case(
        deadlines={"move": 5.0},
        of=("19: hang after a failure",),
        archive=Behaviour(fail_instances=1, hang_after_failure=True, **ONCE),
        attempts=(2,),
        moves=3,
        failed=0,
    ),
    "cancel is ignored": Case(
        deadlines={"total": 5.0, "move": 5.0},
        of=("22: cancel ignored or lost", "cancel ignored"),
        archive=Behaviour(ignore_cancel=True, pending_forever=True),
        cause="timeout-total",
    ),
    "cancel is lost": Case(
        deadlines={"move": 5.0},
        of=("22: cancel ignored or lost",),
        archive=Behaviour(move_start_delay_seconds=7, lose_early_cancel=True, **ONCE),
        attempts=(2,),
        moves=3,
    ),
    "abort after cancel": Case(
        deadlines={"total": 5.0, "move": 5.0},
        of=("abort ~20 s after cancel",),
        archive=Behaviour(abort_after_cancel_seconds=0.1, pending_forever=True),
        cause="timeout-total",
    ),
    "silence": Case(
        deadlines={"move": 5.0},
        of=("long silence",),
        archive=Behaviour(hang_move_after=0, **ONCE),
        attempts=(2,),
        moves=3,
    ),
    "silence in the middle": Case(
        deadlines={"move": 5.0},
        of=("long silence",),
        archive=Behaviour(hang_move_after=2, **ONCE),
        attempts=(2,),
        moves=3,
    ),
    "the association breaks, the stores go on": Case(
        patient=True,
        of=("21: stores after the association broke",),
        archive=Behaviour(abort_move_after=1, continue_after_mover_left=True),
        cause="aborted",
    ),
    "the mover leaves, the stores go on": Case(
        patient=True,
        deadlines={"move": 3.0},
        of=("stores continue after the mover left",),
        archive=Behaviour(
            suboperation_delay_seconds=1.5, send_pending=False, continue_after_mover_left=True, ignore_cancel=True
        ),
        cause="timeout-inactivity",
    ),
    "A701": Case(
        of=("statuses of C-MOVE",), archive=Behaviour(refuse_move_status=0xA701, **ONCE), attempts=(2,), moves=3
    ),
    "C000": Case(of=("statuses of C-MOVE",), archive=Behaviour(refuse_move_status=0xC000, **ONCE), attempts=(2,)),
    "A900 for ever": Case(
        of=("statuses of C-MOVE",),
        archive=Behaviour(refuse_move_status=0xA900),
        verdicts=("failed",),
        arrived=0,
        cause="identifier-mismatch",
    ),
    # -- Counters ----------------------------------------------------------------------------------------------------
    **{
        f"the completed counter is {how}": Case(of=("counters",), archive=Behaviour(completed_counter=how))
        for how in ("restarting", "falling", "double", "zero")
    },
    "the completed counter is double, here": Case(
        of=("counters",), archive=Behaviour(completed_counter="double"), to="local"
    ),
    "no counters in pending": Case(of=("counters",), archive=Behaviour(counters_in_pending=False)),
    "no counters in the end": Case(
        of=("no counters in the final response",), archive=Behaviour(counters_in_final=False)
    ),
    "no counters": Case(of=("counters",), archive=Behaviour(counters_in_pending=False, counters_in_final=False)),
    "no counters, and half": Case(
        of=("counters",),
        archive=Behaviour(counters_in_pending=False, counters_in_final=False, deliver_fraction=0.5, **ONCE),
        attempts=(2,),
        moves=3,
    ),
    # -- C-STORE -----------------------------------------------------------------------------------------------------
    **{
        f"failed list {how}": Case(
            of=("failed list repeated/short/absent",),
            archive=Behaviour(fail_instances=2, failed_list=how, **ONCE),
            attempts=(2,),
            failed=2,
        )
        for how in ("absent", "repeated", "first")
    },
    **{
        f"Move Originator {how}": Case(of=("no Move Originator",), archive=Behaviour(move_originator=how), to="local")
        for how in ("absent", "self")
    },
    "stores from another AE title": Case(
        of=("stores from another AE",),
        archive=Behaviour(stores_from="ARCHIVE_OUT"),
        to="local",
        node={"sends_as": ["ARCHIVE", "ARCHIVE_OUT"]},
    ),
    "stores from an AE title nobody named": Case(
        of=("stores from another AE",),
        archive=Behaviour(stores_from="ARCHIVE_OUT"),
        to="local",
        attempts_allowed=2,
        verdicts=("failed",),
        attempts=(2,),
        arrived=0,
        failed=8,
        refused="association-rejected",
    ),
    "AE titles with a tab": Case(
        of=("23: AE titles compared exactly, or with tabs",), archive=Behaviour(titles="tab"), to="local"
    ),
    "AE titles with NULs": Case(of=("24: AE titles with NULs",), archive=Behaviour(titles="nuls"), to="local"),
    "a blank calling AE title": Case(
        of=("25: blank AE title",),
        archive=Behaviour(titles="blank"),
        to="local",
        attempts_allowed=2,
        verdicts=("failed",),
        attempts=(2,),
        arrived=0,
        failed=8,
        refused="association-rejected",
    ),
    "an association for each instance": Case(
        of=("27: many storage associations",), archive=Behaviour(association_per_suboperation=True), to="local"
    ),
    "the destination is full for a moment": Case(
        of=("statuses of C-STORE",),
        workstation=Behaviour(store_status=0xA700),
        attempts_allowed=2,
        verdicts=("failed",),
        attempts=(2,),
        failed=8,
        arrived=0,
    ),
    "the destination coerces": Case(
        of=("statuses of C-STORE",), workstation=Behaviour(store_status=0xB000), completed=0, warning=4
    ),
    "the destination forgets": Case(
        of=("statuses of C-STORE",),
        workstation=Behaviour(forget_stored=True),
        verdicts=("contradicted",),
        attempts=(3,),
        arrived=0,
    ),
    "instances that do not decode": Case(
        of=("statuses of C-STORE",),
        archive=Behaviour(undecodable_instances=1, **ONCE),
        to="local",
        attempts=(2,),
        failed=1,
    ),
    # -- A-ASSOCIATE-RJ ----------------------------------------------------------------------------------------------
    **{
        f"rejected {result}-{source}-{reason}": Case(
            of=("A-ASSOCIATE-RJ",),
            archive=Behaviour(reject=Rejection(result, source, reason)),
            sweep="failed",
            verdicts=(),
            attempts=(),
            arrived=0,
            cause=f"rejected-{result}-{source}-{reason}",
            results={counted: 1},
        )
        for result, source, reason, counted in (
            (1, 1, 1, "rejected_permanent"),
            (1, 1, 2, "rejected_permanent"),
            (1, 1, 3, "rejected_permanent"),
            (1, 1, 7, "rejected_permanent"),
            (1, 2, 1, "rejected_permanent"),
            (1, 2, 2, "rejected_permanent"),
            (2, 3, 1, "rejected_transient"),
            (2, 3, 2, "rejected_transient"),
            (2, 1, 1, "rejected_transient"),
            (2, 1, 2, "rejected_transient"),
            (1, 3, 2, "rejected_transient"),
        )
    },
}


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hospital]]:
    monkeypatch.setattr(rule, "SECONDS_PER_INSTANCE", 0.1)
    for module in (retrieve, find):
        monkeypatch.setattr(module, "CANCEL_GRACE", 0.4)

    with ExitStack() as stack:

        def start(case: Case, to: tuple[str, ...] = ()) -> Hospital:
            more = (2.0, 4.0, 8.0) if case.patient else ()
            looks = (0.1, 0.3, 0.4, *more)
            monkeypatch.setattr(verifier, "LOOK_DELAYS", dict.fromkeys(verifier.LOOK_DELAYS, looks))
            monkeypatch.setattr(verifier, "NOTHING_YET_DELAYS", looks)
            monkeypatch.setattr(verifier, "QUIET_DELAYS", looks)
            return Hospital(tmp_path, stack, case, to)

        yield start


@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_the_work(name: str, hospital: Callable[..., Hospital]) -> None:
    case = CASES[name]
    site = hospital(case)
    seen = site.apply()

    (sweep,) = seen.sweeps
    assert (sweep.state, site.value("sweep_complete")) == (case.sweep, case.sweep == "complete"), sweep
    assert site.value("sweeps_total", result=case.sweep) == 1
    told = [(t.state, t.attempts, t.cause, t.reason) for t in seen.transfers]
    if set(case.verdicts) == {"partial", "contradicted"}:
        assert {t.state for t in seen.transfers} <= set(case.verdicts), told
    else:
        assert tuple(t.state for t in seen.transfers) == case.verdicts, told
    for state in {t.state for t in seen.transfers}:
        assert site.value("transfers_total", verdict=state) == sum(t.state == state for t in seen.transfers)
    if case.attempts is not None:
        assert tuple(t.attempts for t in seen.transfers) == case.attempts, told
        moves = sum(case.attempts) if case.moves is None else case.moves
        assert len(site.archive.record.of("move")) == moves, told
    if case.cause is not None:
        assert sweep.report is not None
        assert ({t.cause for t in seen.transfers} or {sweep.report.cause}) == {case.cause}, told
    assert good(seen) == (case.sweep == "complete" and all(t.state in ("complete", "unproven") for t in seen.transfers))

    wanted = {str(one.SOPInstanceUID) for study in case.studies for one in study}
    arrived = site.arrived(case.to)
    assert len(set(arrived)) == (len(wanted) if case.arrived is None else case.arrived), told
    assert set(arrived) <= wanted
    assert len(arrived) - len(set(arrived)) == case.twice, "nothing comes twice"
    missing = [
        instance.sop_instance_uid for t in seen.transfers for instance in site.service.ledger.missing_instances(t.id)
    ]
    if {"partial", "contradicted"} & {t.state for t in seen.transfers}:
        assert set(missing) == wanted - set(arrived), "what is missing is listed"

    counted = {o: site.value("move_suboperations_total", outcome=o) for o in ("completed", "failed", "warning")}
    completed = len(arrived) if case.completed is None else case.completed
    assert counted == {"completed": completed, "failed": case.failed, "warning": case.warning}
    assert site.value("move_suboperations_remaining") == 0
    if case.refused:
        assert site.value("store_refused_total", reason=case.refused) > 0
    for result, least in case.results.items():
        assert site.value("associations_total", node="archive", result=result) >= least
    for one in site.archive.record.of("find"):
        assert not any("*" in value or "?" in value for key, value in one.keys.items() if key.endswith("UID"))
        assert not one.keys.get("PatientName"), "names are not matched by"
        assert not (one.level == "STUDY" and "Modality" in one.keys), "no key of another level is sent"


def test_what_arrives_here_is_counted_as_it_arrives(hospital: Callable[..., Hospital]) -> None:
    site = hospital(CASES["sends slowly"])
    site.apply()
    assert len(site.counted) > 2, "not at the end only"


@pytest.mark.parametrize(
    "name",
    [
        "Success at once, data later",
        "Success at once, data later, here",
        "Success with half, once",
        "the association breaks, the stores go on",
        "no counters",
    ],
)
def test_what_is_complete_is_not_moved_again(name: str, hospital: Callable[..., Hospital]) -> None:
    site = hospital(CASES[name])
    site.apply()
    moves = len(site.archive.record.of("move"))
    site.archive.behaviour = HONEST
    assert site.apply().transfers == []
    assert len(site.archive.record.of("move")) == moves


def test_only_the_gap_is_asked_for_again(hospital: Callable[..., Hospital]) -> None:
    """Of the series of three, two came: the third is asked for by itself; the series of one that is missing, whole."""
    site = hospital(CASES["Success with half, once"])
    site.apply()
    whole, *repairs = site.archive.record.of("move")
    came = site.arrived("workstation")[:2]
    assert (whole.level, [one.level for one in repairs]) == ("STUDY", ["SERIES", "IMAGE"])
    assert repairs[0].keys["SeriesInstanceUID"] == str(CT[3].SeriesInstanceUID)
    assert repairs[1].keys["SOPInstanceUID"] in {str(one.SOPInstanceUID) for one in CT[:3]} - set(came)


def test_what_was_off_line_is_moved_when_it_is_back(hospital: Callable[..., Hospital]) -> None:
    site = hospital(CASES["off line"])
    assert site.apply().transfers == []
    site.archive.behaviour = HONEST
    assert [t.state for t in site.apply().transfers] == ["complete"]


THREE = tuple(make_study(seed=f"three {number}", instances=2) for number in range(3))


@pytest.mark.parametrize(
    "archive",
    [
        HONEST,
        Behaviour(unknown_destination_status=0xA702),
        Behaviour(unknown_destination_status=0xC000),
        Behaviour(abort_on_unknown_destination=True),
    ],
    ids=["A801", "A702", "C000", "abort"],
)
def test_a_destination_the_archive_does_not_know_stops_its_route_and_no_other(
    archive: Behaviour, hospital: Callable[..., Hospital]
) -> None:
    site = hospital(
        Case(of=("20: destination unknown, in disguise",), archive=archive, studies=THREE, attempts_allowed=4),
        ("workstation", "local"),
    )
    site.archive.forget_destination("WS")
    seen = site.apply()
    by_destination = {d: [t for t in seen.transfers if t.intent.destination == d] for d in ("workstation", "local")}
    assert [t.state for t in by_destination["local"]] == ["complete"] * 3
    assert len(site.arrived("local")) == 6
    assert {t.id for t in by_destination["workstation"]} <= set(seen.waiting), "they wait for the route"
    assert site.value("route_stopped", source="archive", destination="workstation") == 1
    assert site.value("route_stopped", source="archive", destination="local") == 0
    assert site.value("transfers_total", destination="workstation") == 0
    assert not good(seen)
    asked = sum(one.destination == "WS" for one in site.archive.record.of("move"))
    assert asked <= 5, "it is not asked again and again"
    assert site.value("move_suboperations_total", destination="workstation") == 0
    assert site.value("move_suboperations_total", destination="local", outcome="completed") == 6

    site.archive.set_destination("WS", site.workstation.host, site.workstation.port)
    for route in site.service.ledger.stopped_routes():
        site.service.ledger.resume_route(route.route)
    again = site.apply()
    assert sorted(site.arrived("workstation")) == sorted({str(one.SOPInstanceUID) for study in THREE for one in study})
    assert {t.state for t in again.transfers if t.intent.destination == "workstation"} == {"complete"}
    assert site.value("route_stopped") == 0


@pytest.mark.parametrize("status", [0x0122, 0x0124])
def test_a_service_the_archive_does_not_give_stops_the_route(status: int, hospital: Callable[..., Hospital]) -> None:
    site = hospital(Case(of=("statuses of C-MOVE",), archive=Behaviour(refuse_move_status=status), studies=THREE))
    seen = site.apply()
    assert set(seen.waiting) == {t.id for t in seen.transfers}
    assert site.value("route_stopped", source="archive", destination="workstation") == 1
    assert len(site.archive.record.of("move")) <= 2, "one for each association"
    assert not good(seen)


# --- The catalogue and the cases hold together ------------------------------------------------------------------------


def switched(behaviour: Behaviour) -> set[str]:
    """The switches that are on."""
    honest = Behaviour()
    return {
        one.name for one in dataclasses.fields(Behaviour) if getattr(behaviour, one.name) != getattr(honest, one.name)
    }


ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "20: destination unknown, in disguise": ("unknown_destination_status", "abort_on_unknown_destination"),
    "abort instead of A801": ("abort_on_unknown_destination",),
    "modality worklists": (  # tests/wire/test_simulator_worklist.py
        "worklist_ignores_keys",
        "worklist_without_sequence",
        "worklist_steps_together",
        "worklist_empty_times",
    ),
}
"""Entries of the catalogue whose tests need more than a Case."""


def test_the_catalogue_is_whole_and_has_no_other_switches() -> None:
    numbered = [int(entry.partition(":")[0]) for entry in CATALOGUE if entry[0].isdigit() and ":" in entry]
    assert numbered == [*range(1, 36)]
    switches = {one.name for one in dataclasses.fields(Behaviour)}
    assert {name for names in CATALOGUE.values() for name in names} == switches


def test_each_entry_and_each_switch_has_a_case() -> None:
    cases = [*CASES.values()]
    assert {entry for case in cases for entry in case.of} | set(ELSEWHERE) == set(CATALOGUE)
    on = {name for case in cases for name in switched(case.archive) | switched(case.workstation)}
    on |= {name for names in ELSEWHERE.values() for name in names}
    assert on == {one.name for one in dataclasses.fields(Behaviour)}
    for case in cases:
        for entry in case.of:
            assert (switched(case.archive) | switched(case.workstation)) & set(CATALOGUE[entry]), entry
