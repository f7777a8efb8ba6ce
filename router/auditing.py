"""What makes a running router audited: the audit itself from the configuration, and requests to nodes that tell it."""

from __future__ import annotations

import getpass
import itertools
import os
import platform
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from router.dimse.request import find_identifier, worklist_identifier
from router.dimse.syslog import carrier_for
from router.domain.audit import MINOR, SERIOUS, SUCCESS, AuditMessage, AuditSettings, Party
from router.domain.audit_arrived import OLD
from router.domain.audit_messages import exported, party_of
from router.domain.audit_xml import Origin
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.events import Event
from router.domain.receipt import Receipt
from router.domain.rule import RuleSet
from router.engine.audited import AllPeers, AuditedPeers, Identify, Retrievals, Subject
from router.engine.audited_files import MOST_TRIED, AuditedFiles
from router.engine.departure_port import Files
from router.errors import StoreError
from router.object_headers import ObjectHeaders
from router.observe.audit import Audit
from router.observe.audit_spool import Spool

_STUDY, _PATIENT = known_tag("StudyInstanceUID"), known_tag("PatientID")


class Auditing:
    """The audit of a service; where the configuration wants none it does nothing. Thread-safe, never raises."""

    def __init__(
        self,
        rules: RuleSet,
        now: Callable[[], datetime],
        observer: Callable[[Event], None],
        running: Callable[[], RuleSet] | None = None,
    ) -> None:
        """Look what waits to be sent. Raises StoreError where the buffer cannot be used: nothing goes unaudited.

        `running` gives the configuration as it is later.
        """
        settings = rules.router.audit
        self._now = now
        self._rules = running or (lambda: rules)
        self._retrievals = Retrievals(now)
        self._identify = _identify(rules)
        self._audit = _audit(rules, settings, now, observer, self._rules) if settings is not None else None

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if self._audit is not None:
            self._audit(event)

    def record(self, message: AuditMessage) -> None:
        """Tell of something else."""
        if self._audit is not None:
            self._audit.record(message)

    def arrived(self, receipts: Iterable[Receipt]) -> None:
        """Take what is in the store now; what this router has retrieved itself is told already."""
        if self._audit is None:
            return
        since = self._now() - OLD
        pushed = [one for one in receipts if one.received_at >= since and not self._retrievals.brought(one)]
        if pushed:
            self._audit.arrived(pushed)

    def files(self, files: Files) -> Files:
        """The store's files, what is removed of them audited."""
        if self._audit is None:
            return files
        return AuditedFiles(files, self._audit.record, self._audit.own, self._identify)

    def peers(self, peers: AllPeers, rules: Callable[[], RuleSet]) -> AllPeers:
        """The same requests to nodes, audited."""
        if self._audit is None:
            return peers
        return AuditedPeers(
            peers, self._audit.record, self._audit.own, rules, _encode, self._identify, self._retrievals
        )

    def start(self) -> None:
        """The service starts."""
        if self._audit is not None:
            self._audit.start()

    def stop(self) -> None:
        """The service has stopped: what waits is sent for a few seconds more."""
        if self._audit is not None:
            self._audit.stop()


def by_hand(rules: RuleSet, peers: AllPeers, now: Callable[[], datetime]) -> AllPeers:
    """Requests that a person makes by a command, audited: the messages wait for the service, which sends them.

    Raises StoreError where they cannot be kept: then nothing is asked.
    """
    settings = rules.router.audit
    if settings is None:
        return peers
    audit = _audit(rules, settings, now, lambda event: None, lambda: rules)
    identify, retrievals = _identify(rules), Retrievals(now)
    return AuditedPeers(
        peers, audit.record, audit.own, lambda: rules, _encode, identify, retrievals, _person(audit.own)
    )


Exports = Callable[[str, Iterable[str], int, str], None]
"""Told of an exported study: its UID, paths of its files in the store, how many instances, what went wrong, if any."""


def exports_by_hand(rules: RuleSet, directory: Path, now: Callable[[], datetime]) -> Exports:
    """What tells of each study that a person has exported to a directory; the service sends it.

    Raises StoreError where messages cannot be kept: then nothing is to be exported.
    """
    settings = rules.router.audit
    if settings is None:
        return lambda study, paths, instances, failure: None
    audit = _audit(rules, settings, now, lambda event: None, lambda: rules)
    identify, person, uri = _identify(rules), _person(audit.own), directory.absolute().as_uri()

    def tell(study: str, paths: Iterable[str], instances: int, failure: str) -> None:
        audit.record(
            exported(
                audit.own,
                person,
                uri,
                study,
                _first(identify, paths).patient_id,
                outcome=SUCCESS if not failure else MINOR if instances else SERIOUS,
                description=failure,
                instances=instances,
            )
        )

    return tell


def _person(own: Party) -> Party:
    return Party(f"{_user()}@{own.host}", host=own.host)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # in a container a user need not have a name
        return str(os.getuid())


def _identify(rules: RuleSet) -> Identify:
    """Whose instances files of the store are."""
    headers = ObjectHeaders(rules.router.store)

    def identify(path: str) -> Subject:
        for _, header in headers.each((path,), (_STUDY, _PATIENT)):
            return Subject(header.text("StudyInstanceUID"), header.text("PatientID"))
        return Subject()

    return identify


def _first(identify: Identify, paths: Iterable[str]) -> Subject:
    few = map(identify, itertools.islice(paths, MOST_TRIED))
    return next((subject for subject in few if subject.study_instance_uid), Subject())


def _audit(
    rules: RuleSet,
    settings: AuditSettings,
    now: Callable[[], datetime],
    observer: Callable[[Event], None],
    running: Callable[[], RuleSet],
) -> Audit:
    router = rules.router
    try:
        spool = Spool(Path(router.store), settings.buffer)
        spool.check()
    except OSError as error:
        raise StoreError(
            f"Audit messages cannot be kept in {router.store} ({error.strerror}), so nothing is asked of nodes; check "
            "its path and permissions, or leave router.audit out."
        ) from None
    origin = Origin(
        own=Party(router.ae_title, router.ae_title, platform.node() or "localhost"),
        site=settings.site,
        facility=settings.facility,
        process=str(os.getpid()),
    )
    identify = _identify(rules)

    def sender(ae_title: str) -> Party:
        nodes = (node for node in running().nodes.values() if ae_title in node.calling_ae_titles)
        return next(map(party_of, nodes), Party(ae_title, ae_title))

    return Audit(
        origin=origin,
        spool=spool,
        carrier=carrier_for(settings),
        now=now,
        observer=observer,
        sender=sender,
        patient_of=lambda receipt: identify(receipt.path).patient_id,
    )


def _encode(level: QueryRetrieveLevel | None, keys: Identifier) -> bytes:
    if level is None:
        return worklist_identifier(keys, implicit=False)
    return find_identifier(level, keys, implicit=False)
