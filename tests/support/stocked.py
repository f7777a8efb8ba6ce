"""A site whose store holds files, as if they had come in, with transfers that pass them on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from router.domain.receipt import Receipt
from router.domain.rule import LOCAL
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Instance, Intent, NewTransfer, Transfer
from router.ledger.ledger import SqlLedger
from router.objects import ObjectStore
from tests.support.part10 import read_part10
from tests.support.router import Site

RETRY = {"attempts": 3, "delay": "1s", "maximum_delay": "2s"}


def passes_on(*destinations: str, **forward: Any) -> dict[str, Any]:
    """A rule that passes on whatever arrives."""
    return {"arrival": {}, "forward": {"to": list(destinations), "retry": RETRY, **forward}}


class Stock:
    """Fills the store of a site, and queues what is in it. Only while no router runs there."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def add(self, files: Iterable[Path], calling: str = "MODALITY") -> list[Receipt]:
        """Put Part 10 files into the store, their data sets byte for byte, and index them."""
        store = ObjectStore(self._site.store, durability="rename")
        receipts = []
        for path in files:
            file = read_part10(path)
            writer = store.begin(
                sop_class_uid=file.sop_class_uid,
                sop_instance_uid=file.sop_instance_uid,
                transfer_syntax_uid=file.transfer_syntax_uid,
                calling_ae_title=calling,
            )
            try:
                writer.write(memoryview(file.dataset))
                receipts.append(writer.commit())
            finally:
                writer.discard()
        store.close()
        with self._ledger() as ledger:
            ledger.add_receipts(receipts)
        return receipts

    def queue(self, receipts: Iterable[Receipt], *destinations: str, rule: str = "on") -> None:
        """Queue these, a transfer for each study and destination."""
        studies: dict[str, list[Instance]] = defaultdict(list)
        for one in receipts:
            studies[one.study_instance_uid].append(Instance(one.series_instance_uid, one.sop_instance_uid))
        now = datetime.now(UTC)
        with self._ledger() as ledger:
            ledger.add_sweeps([SweepDue(rule=rule, source=LOCAL, due_at=now)])
            sweep = ledger.claim_sweep([LOCAL], now, 60.0)
            assert sweep is not None
            new = [
                NewTransfer(
                    intent=Intent(LOCAL, study, "", destination),
                    rule=rule,
                    priority=1,
                    instance_count=len(instances),
                )
                for study, instances in studies.items()
                for destination in destinations
            ]
            assert ledger.finish_sweep(sweep, SweepReport(state=SweepState.COMPLETE), new, [], now)
            for transfer in ledger.transfers(source=LOCAL, limit=10_000):
                ledger.set_expected(transfer, sorted(studies[transfer.intent.study_instance_uid]))

    def _ledger(self) -> SqlLedger:
        (self._site.directory / "data").mkdir(exist_ok=True)
        return SqlLedger.open(self._site.settings["ledger"])


def forwards(site: Site) -> list[Transfer]:
    """The transfers from the site's store."""
    with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
        return ledger.transfers(source=LOCAL, limit=10_000)


def ended(site: Site) -> bool:
    """Whether all of them have their verdict."""
    return all(one.ended for one in forwards(site))


def refused(site: Site, transfers: Iterable[Transfer]) -> dict[str, str]:
    """SOP Instance UID -> reason, of what these transfers' destinations did not take."""
    with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
        reasons = [reason for one in transfers for reason in ledger.refused_instances(one.id).items()]
    return {uid: words for words, uids in reasons for uid in uids}
