"""What the soak and the sizing rest on: the made-up archive and destination, the service between them, its usage."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydicom import dcmread

from bench.at_work import AtWork
from bench.factory import sop_instance_uid, study_instance_uid
from bench.soak import judge, report
from tests.support.process import wait_for

STUDIES, INSTANCES = 6, 3


def test_all_that_the_archive_lists_is_moved_and_passed_on_and_what_that_took_is_read(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        service = AtWork(stack, tmp_path, "SQLite", instances=INSTANCES, every="1s")
        before = service.sample()
        service.factory.offer(0, STUDIES)
        wait_for(lambda: service.ended() == 2 * STUDIES, "a move and a forward of each study")
        after = service.sample()
        assert service.not_complete() == 0
        assert after.transfers - before.transfers == 2 * STUDIES
        assert after.used.cpu_seconds > before.used.cpu_seconds
        assert after.ledger > before.ledger
        assert after.used.resident > 30 << 20
        assert after.used.threads >= 5
        assert after.used.descriptors >= 10
        stored = {str(dcmread(path).SOPInstanceUID): path for path in service.site.stored().values()}
        assert set(stored) == {sop_instance_uid(n, i) for n in range(STUDIES) for i in range(INSTANCES)}
        assert {path.parent.parent.name for path in stored.values()} == {study_instance_uid(n) for n in range(STUDIES)}
        service.feed()
        text = report("SQLite", service.samples, judge(service.samples))
        assert text.splitlines()[0] == "SQLite"
