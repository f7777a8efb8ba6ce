"""The quarantine on a disk that is full: nothing half is left of what it cannot keep, and no number is given twice."""

from __future__ import annotations

from pathlib import Path

from router.domain.quarantine import NOT_ASKED_FOR, QuarantineSettings
from router.objects import ObjectStore
from router.quarantine import Quarantine
from tests.support.filesystems import small_disk
from tests.support.stored import CT, EXPLICIT, data_set, uids


def test_a_full_disk_leaves_nothing_of_what_cannot_be_kept_and_the_next_number_as_it_was(tmp_path: Path) -> None:
    with small_disk("tmpfs", tmp_path, 4) as disk:
        store = ObjectStore(disk.root / "store")
        quarantine = Quarantine(store.root, QuarantineSettings())

        def offer(instance: int) -> bool:
            content = data_set(*uids(1, 1, instance))
            writer = store.begin(
                sop_class_uid=CT,
                sop_instance_uid=uids(1, 1, instance)[2],
                transfer_syntax_uid=EXPLICIT,
                calling_ae_title="CT",
            )
            try:
                writer.append(memoryview(content))
                if instance > 2:
                    disk.fill()
                return quarantine.keep(writer, reason=NOT_ASKED_FOR, node="ct", calling_ae_title="CT")
            finally:
                writer.discard()
                disk.let_go()

        def names() -> list[str]:
            return sorted(path.name for path in quarantine.path.iterdir())

        assert [offer(1), offer(2)] == [True, True]
        quarantine.remove(2)
        before = names()
        for instance in range(3, 8):
            assert not offer(instance)
            assert names() == before
        assert offer(2)
        assert [one.number for one in quarantine.all()] == [3, 1]
        store.close()
