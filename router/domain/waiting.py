"""Why transfers wait, in words that hold now: a stopped route, a closed window, a hold, somebody's wish. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from router.domain.allowance import allowance, opens_at
from router.domain.route import StoppedRoute, said_of, waits_for
from router.domain.rule import RuleSet
from router.domain.transfer import RULE_HOLDS, Route, State, Transfer


def closed_nodes(rules: RuleSet, now: datetime) -> dict[str, str]:
    """What to say of each node that its windows close now."""
    said = {}
    for name, node in rules.nodes.items():
        if not allowance(node, rules.windows, now).open:
            opens = opens_at(node, rules.windows, now)
            until = f" until {opens.astimezone():%m-%d %H:%M %Z}" if opens else " and does not open any more"
            said[name] = f"{name} is closed by its windows{until}."
    return said


def explained(
    transfers: Iterable[Transfer], stopped: Mapping[Route, StoppedRoute], closed: Mapping[str, str], now: datetime
) -> list[Transfer]:
    """The transfers with the reason that holds now: what stops or closes their way, or what somebody wants of them."""
    found = []
    for transfer in transfers:
        stop = waits_for(transfer, stopped)
        if stop is not None:
            at = f"at {stop.probe_at.astimezone():%H:%M %Z}" if stop.probe_at > now else "at once"
            transfer = msgspec.structs.replace(transfer, reason=said_of(stop, at))
        elif transfer.wish:
            transfer = msgspec.structs.replace(transfer, reason=f"Somebody wants to {transfer.wish} it.")
        elif transfer.state is State.HELD and transfer.cause in RULE_HOLDS and transfer.next_at > now:
            until = f"{transfer.reason} Not before {transfer.next_at.astimezone():%m-%d %H:%M %Z}."
            transfer = msgspec.structs.replace(transfer, reason=until)
        elif shut := _closed_for(transfer, closed):
            transfer = msgspec.structs.replace(transfer, reason=f"{transfer.reason} {shut}".strip())
        found.append(transfer)
    return found


def _closed_for(transfer: Transfer, closed: Mapping[str, str]) -> str:
    """What to say of the node that it waits for: the source or the destination, once it has moved the latter."""
    intent = transfer.intent
    if transfer.state is State.QUEUED:
        return closed.get(intent.source) or closed.get(intent.destination, "")
    return closed.get(intent.destination, "") if transfer.state is State.VERIFYING else ""
