"""Events of what people and other systems do with this router over HTTP, and of what they are told. See `events`."""

from __future__ import annotations

from router.domain.events import Event


class ActionTaken(Event, frozen=True, kw_only=True):
    """Somebody had something done over HTTP.

    `by` is `session`, `token`, `certificate` or `local` (a program on this machine).
    """

    by: str
    action: str
    """A word of `router.domain.wishes.WORDS`, or `sweep`, `explain`, `reload`, `login`."""
    transfer: int | None = None
    rule: str = ""


class CallerRefused(Event, frozen=True, kw_only=True):
    """Somebody was refused over HTTP: he showed nothing, a wrong token, or so many that none is looked at any more."""

    request: str
    """Method and path as this router names it, without what stands in it: `POST /api/v1/transfers/{id}/{word}`."""
    http_status: int
    """401, 403 or 429."""
    ip_address: str = ""


class NotificationEnded(Event, frozen=True, kw_only=True):
    """A notification, or an attempt to deliver it, ended: result is a word of `router.domain.notice_delivery.RESULTS`.

    `suppressed` ones were told in a summary, for there were too many.
    """

    channel: str
    kind: str = ""
    """What it was about, a word of `router.domain.notice.KINDS` or `summary`."""
    result: str
    count: int = 1
    message: str = ""
    """Why it was not delivered, or what there is to remark; a sentence."""


class AuditSent(Event, frozen=True, kw_only=True):
    """Something became of audit messages: result is a word of AUDIT_RESULTS."""

    result: str
    count: int = 1
    message: str = ""
    """Why they were not sent, a sentence."""


SENT, DROPPED, FAILED = "sent", "dropped", "failed"
AUDIT_RESULTS = (SENT, DROPPED, FAILED)
"""What becomes of audit messages: the server has them; they are lost; an attempt to send failed, and they wait."""


class AuditWaiting(Event, frozen=True, kw_only=True):
    """So many audit messages are not sent yet."""

    count: int


class NotificationsWaiting(Event, frozen=True, kw_only=True):
    """So many notifications of a channel are not delivered yet."""

    channel: str
    count: int
