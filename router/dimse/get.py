"""C-GET as SCU, PS3.4 section C.4.3 and PS3.7 section 9.1.3: the instances come on the association that asks for them.

They are received as by the Store SCP: from the socket into the sink as they come, Success only when durable.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import msgspec

from router.dimse import command as commands
from router.dimse.association import Association, Context
from router.dimse.get_contexts import sendable, shortfall
from router.dimse.operation import MESSAGE_IDS
from router.dimse.retrieve import Deadlines, Follower, Operation
from router.dimse.services import Caller, ObjectSink, Session
from router.domain.events import Event, StoreRefusal
from router.domain.exchange import MoveProgress, MoveResult
from router.domain.receipt import Receipt


class Intake(NamedTuple):
    """Where instances go that come by C-GET."""

    sink: ObjectSink
    on_receipt: Callable[[Receipt], None]
    """Called before the sender gets its success; what it raises (RouterError) becomes a failure status."""


class Source(NamedTuple):
    """Who is asked, and what is known of the instances that are asked for."""

    caller: Caller
    known: Collection[str] = ()
    """The SOP classes of the instances, as far as they are known."""
    left_out: Sequence[str] = ()
    """Those of them for which no presentation context was left."""


def get(
    association: Association,
    context: Context,
    identifier: bytes,
    *,
    priority: int,
    deadlines: Deadlines,
    source: Source,
    intake: Intake,
    observer: Callable[[Event], None],
    on_response: Callable[[MoveProgress], None],
    cancelled: threading.Event,
) -> MoveResult:
    """Send C-GET with an encoded identifier, take in what comes, follow it to its final response.

    An arriving instance counts as activity. The result's note says what was not negotiated and what this side refused.
    Raises what `Follower.run` raises.
    """
    refusals: Counter[str] = Counter()

    def observe(event: Event) -> None:
        if isinstance(event, StoreRefusal):
            refusals[event.reason] += 1
        observer(event)

    with MESSAGE_IDS.one() as message_id:
        association.send(
            context.context_id,
            commands.encode(
                {
                    commands.AFFECTED_SOP_CLASS_UID: context.abstract_syntax,
                    commands.COMMAND_FIELD: commands.C_GET_RQ,
                    commands.MESSAGE_ID: message_id,
                    commands.PRIORITY: priority,
                    commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
                }
            ),
            identifier,
        )
        follower = Follower(
            Operation(association, context, message_id, "C-GET", commands.C_GET_RSP),
            deadlines,
            on_response=on_response,
            last_arrival=lambda: 0.0,
            cancelled=cancelled,
            serve=lambda message: session.serve(message),
        )
        session = Session(association, source.caller, intake.sink, intake.on_receipt, observe, watch=follower.check)
        result = follower.run()
    return msgspec.structs.replace(result, note=_note(result, refusals, association, source))


def _note(result: MoveResult, refusals: Counter[str], association: Association, source: Source) -> str:
    agreed = sendable(association)
    unsendable = [uid for uid in source.known if uid not in agreed]
    parts = []
    if refusals:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(refusals.items()))
        parts.append(f"This router refused some: {reasons}.")
    if unsendable or (result.counts.failed or 0) > refusals.total():
        parts.append(shortfall(agreed, source.known, source.left_out))
    return " ".join(parts)
