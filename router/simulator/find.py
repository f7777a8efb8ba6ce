"""The C-FIND SCP: sends the rows of one query (PS3.4 section C.4.1)."""

from __future__ import annotations

from .encoding import undecodable
from .query import Finder, Query
from .session import CANCELLED, PENDING, PENDING_UNSUPPORTED_KEYS, SUCCESS, Session


def answer(session: Session, finder: Finder, query: Query) -> None:
    """Send the matches and the final response."""
    behaviour = finder.behaviour
    found = finder.find(query)
    status = SUCCESS
    if behaviour.max_results is not None and len(found) > behaviour.max_results:
        status = behaviour.capped_status
        found = [] if status >> 8 == 0xA7 else found[: behaviour.max_results]
    if behaviour.duplicate_rows:
        found = [match for match in found for _ in range(2)]
    unsupported = not all(finder.supports(query, keyword) for keyword in query.as_text())
    pending = PENDING_UNSUPPORTED_KEYS if unsupported else PENDING
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
            without_uid = index < behaviour.rows_without_uid
            row = finder.encode_row(query, match, session.transfer_syntax, without_uid=without_uid)
            session.respond(pending, identifier=row)
    session.finish(status)
