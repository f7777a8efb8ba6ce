"""The C-FIND SCP: sends the rows of one query (PS3.4 section C.4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pydicom.dataset import Dataset

from .behaviour import Behaviour
from .encoding import undecodable
from .query import Finder, Match, Query
from .session import CANCELLED, PENDING, PENDING_UNSUPPORTED_KEYS, SUCCESS, Session
from .worklist import encode_step, steps_found

T = TypeVar("T")


def answer(session: Session, finder: Finder, query: Query) -> None:
    """Send the matches and the final response."""
    behaviour = finder.behaviour
    unsupported = not all(finder.supports(query, keyword) for keyword in query.as_text())
    pending = PENDING_UNSUPPORTED_KEYS if unsupported else PENDING

    def encoded(index: int, match: Match) -> bytes:
        without_uid = index < behaviour.rows_without_uid
        return finder.encode_row(query, match, session.transfer_syntax, without_uid=without_uid)

    _send(session, behaviour, finder.find(query), encoded, pending)


def answer_worklist(session: Session, items: Sequence[Dataset], query: Query, behaviour: Behaviour) -> None:
    """The same for a modality worklist of these items."""

    def encoded(_: int, item: Dataset) -> bytes:
        return encode_step(query, item, behaviour, session.transfer_syntax)

    _send(session, behaviour, steps_found(items, query, behaviour), encoded, PENDING)


def _send(
    session: Session, behaviour: Behaviour, found: Sequence[T], encoded: Callable[[int, T], bytes], pending: int
) -> None:
    status = SUCCESS
    if behaviour.max_results is not None and len(found) > behaviour.max_results:
        status = behaviour.capped_status
        found = [] if status >> 8 == 0xA7 else found[: behaviour.max_results]
    if behaviour.duplicate_rows:
        found = [match for match in found for _ in range(2)]
    for index, match in enumerate(found):
        if session.peer_left:
            return
        if index == behaviour.abort_find_after:
            session.abort()
            return
        if session.cancelled and not behaviour.ignore_cancel:
            session.finish(CANCELLED)
            return
        if index == behaviour.undecodable_row:
            session.respond(pending, identifier=undecodable(session.transfer_syntax))
        else:
            session.respond(pending, identifier=encoded(index, match))
    session.finish(status)
