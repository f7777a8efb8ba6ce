"""A sweep whose matches are all known, the decision and the ledger's part in it included, beside its C-FIND alone."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

from bench.harness import Bench, BenchmarkError, Contender, seconds
from bench.matches import garbage_collected_as_in_the_service, instance_count, study_instance_uid
from bench.result import Row, under
from router.config.compiler import load
from router.dimse.peers import Peers
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.levels import RETURN_KEYS
from router.domain.rule import RuleSet
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Intent, NewTransfer
from router.engine.query import Inquiry
from router.engine.slots import NodeSlots, Urgency
from router.engine.sweep import Sweeper
from router.ledger.ledger import SqlLedger
from tests.support.router import Site, node

_NOBODY = threading.Event()
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_RULE, _SOURCE = "chest", "archive"


class _Clock:
    def now(self) -> datetime:
        return _NOW


def run(bench: Bench) -> Iterator[Row]:
    """The rows of the table."""
    bench.stack.enter_context(garbage_collected_as_in_the_service())
    count = bench.scale(100_000, 2_000)
    bench.say(f"making {count} matches, and a ledger that knows them")
    port = bench.module("responder", count)
    site = Site(
        bench.folder("site"),
        nodes={_SOURCE: node("ARCHIVE", port)},
        rules={
            _RULE: {
                "sweep": {
                    "source": _SOURCE,
                    "every": "5m",
                    "keys": {"StudyDate": "20240101..20240131"},
                },
                "where": {
                    "ModalitiesInStudy": ["CT", "MR", "US", "CR"],
                    "StudyDescription": {"matches": "(?i)chest|thorax|head|abdomen"},
                    "NumberOfStudyRelatedInstances": {"gte": 10},
                },
                "move": {"to": ["local"]},
            }
        },
    )
    rules = load(site.rules_directory).rule_set
    assert rules is not None
    ledger = bench.stack.enter_context(SqlLedger.open(site.settings["ledger"]))
    _fill(ledger, site.settings["ledger"].removeprefix("sqlite:///"), count)
    peers = Peers("BENCH", lambda event: None)
    bench.stack.callback(peers.close)
    asking = _Asking(rules, ledger, peers, count)
    contenders = [
        Contender("sweep, decision included", lambda: seconds(asking.sweep), count),
        Contender("its C-FIND alone", lambda: seconds(asking.find), count),
    ]
    whole, alone = bench.compete(contenders, bench.scale(3, 1))
    yield Row(f"Sweep of {count:,} known studies", "s", whole, alone, under(1.5))


class _Asking:
    def __init__(self, rules: RuleSet, ledger: SqlLedger, peers: Peers, count: int) -> None:
        self._rules = rules
        self._count = count
        self._inquiry = Inquiry(peers, NodeSlots())
        self._sweeper = Sweeper(
            rules=lambda: rules, ledger=ledger, inquiry=self._inquiry, clock=_Clock(), observer=lambda event: None
        )

    def sweep(self) -> None:
        """What `plan` and a scheduled sweep do before anything is written."""
        answer = self._sweeper.look(self._rules, self._rules.rules[_RULE], _NOBODY)
        if answer.matches != self._count or answer.selection.to_move or not answer.complete:
            raise BenchmarkError("The sweep did not find all studies, or did not know them all.")

    def find(self) -> None:
        """The same question, its answer decoded."""
        keys = dict.fromkeys(RETURN_KEYS[QueryRetrieveLevel.STUDY], ())
        result = self._inquiry.find(
            self._rules.nodes[_SOURCE], QueryRetrieveLevel.STUDY, Identifier(keys), Urgency.SWEEP, _NOBODY
        )
        if len(result.identifiers) != self._count:
            raise BenchmarkError("The C-FIND did not bring all matches.")


def _fill(ledger: SqlLedger, path: str, count: int) -> None:
    """Each study was moved once, and did not grow since."""
    (number,) = ledger.add_sweeps([SweepDue(rule=_RULE, source=_SOURCE, due_at=_NOW)])
    sweep = ledger.claim_sweep([_SOURCE], _NOW, 600.0)
    assert sweep is not None
    assert sweep.id == number
    known = [
        NewTransfer(
            intent=Intent(_SOURCE, study_instance_uid(index), "", "local"),
            rule=_RULE,
            priority=1,
            instance_count=instance_count(index),
        )
        for index in range(count)
    ]
    ledger.finish_sweep(sweep, SweepReport(state=SweepState.COMPLETE), known, [], _NOW)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE transfers SET state = 'complete', finished_at = updated_at")
    connection.close()
