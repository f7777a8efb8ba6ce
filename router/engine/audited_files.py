"""The store's files, each removal told of to the audit repository."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from router.domain.audit import SERIOUS, Party, counted_by_class
from router.domain.audit_messages import study_deleted
from router.domain.receipt import Receipt
from router.engine.audited import Auditor, Identify
from router.engine.departure_port import Files
from router.errors import StoreError

MOST_TRIED = 20
"""Files of a study that are tried, to see whose it is."""
_MOST_FAILED = 1000
"""Studies of which is remembered that it was told that they cannot be removed."""


class AuditedFiles:
    """Files whose removal is audited, by study; what comes of it, and what is raised, stays as it is."""

    def __init__(self, files: Files, auditor: Auditor, own: Party, identify: Identify) -> None:
        self._files = files
        self._auditor = auditor
        self._own = own
        self._identify = identify
        self._failed: dict[str, str] = {}
        """Study -> why it could not be removed, as it was told last."""

    def is_whole(self, study_instance_uid: str, receipts: Sequence[Receipt]) -> bool:
        """See `Files.is_whole`."""
        return self._files.is_whole(study_instance_uid, receipts)

    def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
        """See `Files.remove`. A large study is removed in parts, and told so.

        Killed in between, a part is removed again as it is no more there, and told then. What fails again and again
        for the same reason is told once: it is tried every few seconds.
        """
        patients = self._patients(receipts)
        try:
            gone = self._files.remove(receipts)
        except StoreError as error:
            for study, patient in patients.items():
                self._tell_failure(study, patient, str(error))
            raise
        for study in patients:
            self._failed.pop(study, None)
        classes: dict[str, Counter[str]] = {}
        for one in gone:
            classes.setdefault(one.study_instance_uid, Counter())[one.sop_class_uid] += 1
        for study, counts in classes.items():
            self._auditor(study_deleted(self._own, study, patients[study], counted=counted_by_class(counts)))
        return gone

    def _tell_failure(self, study: str, patient: str, why: str) -> None:
        if self._failed.get(study) == why:
            return
        self._failed[study] = why
        if len(self._failed) > _MOST_FAILED:
            del self._failed[next(iter(self._failed))]
        self._auditor(study_deleted(self._own, study, patient, outcome=SERIOUS, description=why))

    def _patients(self, receipts: Sequence[Receipt]) -> dict[str, str]:
        """Study -> Patient ID, read while there is a file to read it from."""
        tried: Counter[str] = Counter()
        found: dict[str, str] = {}
        for one in receipts:
            study = one.study_instance_uid
            if not found.get(study) and tried[study] < MOST_TRIED:
                tried[study] += 1
                found[study] = self._identify(one.path).patient_id
        return found
