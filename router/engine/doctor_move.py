"""The doctor's one image: whether a node knows this router as a destination, and which AE title it stores from.

Where no service runs, the doctor itself receives it and keeps nothing. Where one runs, its port and its store are its
own: then what it has received tells the same, and an image is moved into its store only where a person asks for that.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from router.domain import checkup_move, checkup_wire
from router.domain.access import ADDRESS, STRANGER, WRONG_CERTIFICATE
from router.domain.causes import CAUSES, status_cause
from router.domain.checkup import Around, Check, Landed, fail, ok, skipped, warn
from router.domain.checkup_node import choose
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.exchange import MoveProgress, MoveRequest, MoveResult
from router.domain.outcome import quotable
from router.domain.rule import GET
from router.engine.doctor_port import Landing, Memory
from router.engine.doctor_query import Questions
from router.engine.ports import Clock, Peers
from router.engine.query import unique_keys
from router.errors import ConfigurationError, LedgerError, WireError

LATE_SECONDS = 8.0
"""How long an image may come after success, or an association that broke: some archives answer before they send."""
_AFTER_FAILURE = 1.0
"""The same after a failure, which means what it says."""
_SERIES, _IMAGES = 20, 3
_TRIES = 2
_GLANCE_SECONDS = 0.2
_REFUSED = re.compile(
    r'^dicom_router_store_refused_total\{reason="(association-rejected|address|tls-wrong-certificate)"\} (\S+)',
    re.MULTILINE,
)
_TURNED_AWAY = {
    STRANGER: ("it stores under an AE title not let in", "calling_ae_title", "sends_as"),
    ADDRESS: ("it stores from an address not let in", "ip_address", "sends_from"),
    WRONG_CERTIFICATE: ("it shows a certificate not let in", "certificate_name", "certificate_names"),
}
"""By reason of a StoreRefusal: what is wrong, the field of the log that says more, the key of the node to correct."""
_NOT_ASKED_FOR = re.compile(
    r'^dicom_router_store_instances_total\{calling="([^"]*)",status="0x0124"\} (\S+)', re.MULTILINE
)


class Image(NamedTuple):
    """The image that is asked for."""

    study: str
    series: str
    instance: str
    sop_class: str
    patient_id: str


class MoveCheck:
    """One image at a time, over all nodes. Thread-safe.

    `wanted`: True tries it with every node, False with none, None with those that rules bring studies from. `landing`
    listens when it is first called and raises ConfigurationError where it cannot; `metrics` gives those of the running
    service, None where none runs.
    """

    def __init__(
        self,
        *,
        peers: Peers,
        landing: Callable[[bool], Landing],
        memory: Memory | None,
        metrics: Callable[[], str] | None,
        clock: Clock,
        wanted: bool | None,
    ) -> None:
        self._peers = peers
        self._landing = landing
        self._memory = memory
        self._metrics = metrics
        self._clock = clock
        self._wanted = wanted
        self._turn = threading.Lock()
        self._running = threading.Event()
        """Set, it ends the request that is under way."""
        self._ended = False

    def cancel(self) -> None:
        """End what is under way and begin nothing any more: a person has had enough."""
        self._ended = True
        self._running.set()

    def run(self, around: Around, rows: Sequence[Identifier], questions: Questions, seconds: float) -> list[Check]:
        """The checks of a node whose studies are `rows`, within so many seconds and its `questions`."""
        needs = around.needs
        if self._wanted is False:
            return [skipped("move", "not-wanted", "Not tried: --no-move.")]
        if not (needs.brings or needs.fetched or self._wanted):
            why = "Not tried: no rule brings its studies to this router; --move tries it all the same."
            return [skipped("move", "not-needed", why)]
        by_get = not needs.brings and (bool(needs.fetched) or around.node.move.via == GET)
        try:
            if not by_get and self._metrics is not None and not self._wanted:
                return self._remembered(around)
            if not self._turn.acquire(timeout=seconds):
                why = "Not tried: the moves of other nodes took too long."
                return [skipped("move", "no-time", why, f"ask it alone: dicom-router doctor {around.node.name}")]
            try:
                self._running = threading.Event()
                if self._ended:
                    return [skipped("move", "no-time", "Not tried: it was interrupted.")]
                image = self._choose(rows, questions, held=self._metrics is not None and not by_get)
                if image is None:
                    return [questions.no_image()]
                if by_get:
                    return self._get(around, image)
                return self._by_service(around, image) if self._metrics is not None else self._here(around, image)
            finally:
                self._turn.release()
        except ConfigurationError as error:
            return [skipped("move", "no-port", f"Not tried: {error}")]
        except WireError as error:
            return [checkup_wire.broken("move", error.cause, str(error), around)]
        except LedgerError as error:
            return [skipped("move", "no-ledger", f"Not tried: {error}")]

    def _choose(self, rows: Sequence[Identifier], questions: Questions, *, held: bool) -> Image | None:
        """An image of a small series of a small study; one that the store holds already, if there is one.

        Raises WireError.
        """
        for study in choose(rows, "NumberOfStudyRelatedInstances", "StudyInstanceUID")[:_TRIES]:
            uid, patient_id = study.text("StudyInstanceUID"), study.text("PatientID")
            keys = unique_keys(patient_id, uid)
            keys.elements |= Identifier.of(SeriesInstanceUID="", NumberOfSeriesRelatedInstances="").elements
            answer = questions.find(QueryRetrieveLevel.SERIES, keys, _SERIES)
            series = choose(answer.rows, "NumberOfSeriesRelatedInstances", "SeriesInstanceUID") if answer else []
            for one in series[:_TRIES]:
                keys = unique_keys(patient_id, uid, one.text("SeriesInstanceUID"))
                keys.elements |= {_SOP_INSTANCE_UID: (), _SOP_CLASS_UID: ()}
                answer = questions.find(QueryRetrieveLevel.IMAGE, keys, _IMAGES)
                images = [
                    Image(uid, one.text("SeriesInstanceUID"), instance, row.text("SOPClassUID"), patient_id)
                    for row in (answer.rows if answer else ())
                    if (instance := row.text("SOPInstanceUID"))
                ]
                if held and self._memory is not None:
                    known = [image for image in images if self._memory.receipt(*image[:3]) is not None]
                    images = known or images
                if images:
                    return images[0]
        return None

    # the ways it may come -----------------------------------------------------------------------------------------

    def _remembered(self, around: Around) -> list[Check]:
        """What the running service has received tells which AE title the node stores from. Raises LedgerError."""
        titles = self._memory.stored_from(around.node.name) if self._memory is not None else {}
        if not titles:
            why = "Not tried: a service runs and receives itself, and has received nothing from it yet."
            advice = "--move has it send one image into the service's store; or stop the service and ask again"
            return [skipped("move", "service-runs", why, advice)]
        last = f"{max(titles.values()).astimezone():%Y-%m-%d %H:%M}"
        sentence = f"A running service received from it, the last time at {last}; no image was moved."
        return [ok("move", "has-arrived", sentence), checkup_move.stores_from(sorted(titles), around)]

    def _here(self, around: Around, image: Image) -> list[Check]:
        """To the doctor itself. Raises ConfigurationError where it cannot listen."""
        landing = self._landing(True)
        landing.expect(image.instance)
        return self._move(around, image, landing.last_arrival, landing.wait)

    def _by_service(self, around: Around, image: Image) -> list[Check]:
        """Into the store of the running service. Raises LedgerError."""
        since, before, turned_away = self._clock.now(), self._refused(), self._turned_away(around)
        memory = self._memory

        def wait(seconds: float) -> Landed:
            deadline = time.monotonic() + seconds
            while True:
                receipt = memory.receipt(*image[:3]) if memory is not None else None
                if receipt is not None and receipt.received_at >= since:
                    return Landed(
                        calling_ae_title=receipt.calling_ae_title,
                        called_ae_title=around.ae_title,
                    )
                if time.monotonic() >= deadline or self._turned_away(around) > turned_away:
                    return Landed()
                time.sleep(_GLANCE_SECONDS)

        checks = self._move(around, image, lambda: 0.0, wait)
        after = self._refused()
        reason = next((one for one in _TURNED_AWAY if after.get(one, 0.0) > before.get(one, 0.0)), "")
        if reason and not any(check.check == "stores from" for check in checks):
            what, field, key = _TURNED_AWAY[reason]
            sentence = f"The running service turned a caller away meanwhile: {what}."
            advice = f"enter {field} from the service's log as {key} at {around.at(key)}"
            return [fail("move", "caller-refused", sentence, advice)]
        if self._turned_away(around) > turned_away:
            return checkup_move.turned_away(around)
        return checks

    def _refused(self) -> dict[str, float]:
        """Associations that the running service turned away so far, by reasons of `_TURNED_AWAY`."""
        text = self._metrics() if self._metrics is not None else ""
        return {reason: float(value) for reason, value in _REFUSED.findall(text)}

    def _turned_away(self, around: Around) -> float:
        """Instances of the node that the running service refused so far, for the ledger knows of nobody who asked."""
        text = self._metrics() if self._metrics is not None else ""
        return sum(float(value) for calling, value in _NOT_ASKED_FOR.findall(text) if calling == around.node.name)

    def _move(
        self,
        around: Around,
        image: Image,
        last_arrival: Callable[[], float],
        wait: Callable[[float], Landed],
    ) -> list[Check]:
        started = time.monotonic()
        cancelled = self._running
        try:
            result = self._peers.move(
                around.node,
                _request(around, image),
                on_response=_no_more_than_one(cancelled),
                last_arrival=last_arrival,
                cancelled=cancelled,
            )
        except WireError as error:
            seen = wait(LATE_SECONDS)
            if not seen.came:
                return [checkup_move.move_broken(error.cause, str(error), around)]
            sentence = f"The image came, but the request for it did not end well. {error}"
            advice = f"at {around.node.name}: its log says why"
            return [
                warn("move", "ended-badly", sentence, advice),
                checkup_move.stores_from([seen.calling_ae_title], around),
            ]
        seconds = time.monotonic() - started
        seen = wait(LATE_SECONDS if result.status == 0 else _AFTER_FAILURE)
        return checkup_move.landed(seen, result.status, result.error_comment, seconds, around)

    def _get(self, around: Around, image: Image) -> list[Check]:
        """By C-GET, for which nobody needs to listen. Raises WireError, ConfigurationError."""
        started = time.monotonic()
        landing = self._landing(False)
        landing.expect(image.instance)
        cancelled = self._running
        result: MoveResult = self._peers.get(
            around.node,
            _request(around, image),
            sop_classes=[image.sop_class] if image.sop_class else [],
            on_response=_no_more_than_one(cancelled),
            cancelled=cancelled,
        )
        seconds = time.monotonic() - started
        seen = landing.wait(0.0)
        if seen.came:
            return [ok("move", "arrived", f"It sent one image by C-GET in {seconds:.1f} s.")]
        cause = status_cause(result.status)
        said = f" It says: {quotable(result.error_comment)}." if result.error_comment else ""
        sentence = f"It sent no image by C-GET (status {result.status:04X}): {CAUSES[cause].sentence} {result.note}"
        advice = f"at {around.node.name}: allow {around.ae_title} to use C-GET, or set via: move at {around.at('move')}"
        return [fail("move", f"get-{cause}", sentence.strip() + said, advice)]


def _request(around: Around, image: Image) -> MoveRequest:
    return MoveRequest(
        destination_ae_title=around.ae_title,
        level=QueryRetrieveLevel.IMAGE,
        study_instance_uid=image.study,
        series_instance_uids=(image.series,),
        sop_instance_uids=(image.instance,),
        patient_id=image.patient_id,
    )


def _no_more_than_one(cancelled: threading.Event) -> Callable[[MoveProgress], None]:
    """Cancels a request for one image that turns out to move more."""

    def look(progress: MoveProgress) -> None:
        counts = progress.counts
        if sum(filter(None, (counts.remaining, counts.completed, counts.failed, counts.warning))) > 1:
            cancelled.set()

    return look


_SOP_INSTANCE_UID, _SOP_CLASS_UID = known_tag("SOPInstanceUID"), known_tag("SOPClassUID")
