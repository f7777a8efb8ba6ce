"""Passing on what was taken of what arrived: who gets it, and what is still to be sent. Pure.

What a destination is known to hold is not sent again; who sent an instance does not get it back. What comes later is
sent later, that alone. Reasons hold no identifier: they are stored and printed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from router.domain.arriving import Consignment
from router.domain.forward import Choice, Forward, Group
from router.domain.forward_choice import Bond, Chosen, Health, choose
from router.domain.rule import LOCAL, Rule
from router.domain.selection import AGAIN_WHEN_ASKED, PRIORITIES, Action, Decision
from router.domain.transfer import (
    TRANSITIONS,
    UNDER_WAY,
    Happening,
    Instance,
    Intent,
    NewTransfer,
    State,
    TransferFact,
)

FELL_BACK = "fell-back"
"""Cause of a cancellation that is nobody's word on the study: another node of the group has got it."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger knows of a transfer of what arrived."""

    fact: TransferFact
    wanted: frozenset[str] = frozenset()
    """SOP Instance UIDs that it was to carry when it was last decided about."""
    there: frozenset[str] = frozenset()
    """Of those, what the destination holds: proven or, where there is no proof to be had, acknowledged."""


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done for a consignment at one destination."""

    decision: Decision
    wanted: frozenset[Instance] = frozenset()
    """All that is to be there in the end."""
    missing: frozenset[Instance] = frozenset()
    """Of that, what the destination is not known to hold."""
    withdrawn: tuple[int, ...] = ()
    """Transfers to cancel with the cause FELL_BACK, in the same transaction."""
    open: bool = False
    """Whether it is to be decided about again: more has arrived than what is under way carries, or the node has got
    nothing yet and another of its group may have to."""


def decide(
    *,
    rule: Rule,
    consignments: Sequence[Consignment],
    known: Mapping[Intent, Known],
    health: Mapping[str, Health],
    studies: Mapping[str, int],
    callers: Mapping[str, str],
    manual: bool = False,
) -> list[Passage]:
    """A decision for each consignment and destination.

    `known`: every transfer of these studies from `local`. `health`: of the nodes that are not ready. `studies`: how
    many each node has got of this rule. `manual`: a person asked, so failures are tried again.
    """
    action = rule.forward
    assert action is not None
    turns = Counter(studies)
    bonds: dict[tuple[str, str], Bond] = {}
    for intent, one in known.items():
        place = intent.study_instance_uid, intent.destination
        bonds[place] = max(bonds.get(place, Bond.NONE), _bond(one), key=_STRENGTH.__getitem__)
    of_study: dict[str, list[Consignment]] = defaultdict(list)
    for consignment in consignments:
        of_study[consignment.study_instance_uid].append(consignment)
    passages = []
    for study, members in of_study.items():
        for group, chosen in _choices(action, study, members, bonds, health, turns, callers):
            waiting = {
                name: tuple(
                    one.fact.id
                    for intent, one in known.items()
                    if (intent.study_instance_uid, intent.destination) == (study, name) and _bond(one) is Bond.WAITS
                )
                for name in chosen.withdrawn
            }
            withdrawn = tuple(number for numbers in waiting.values() for number in numbers)
            for consignment in members:
                if not chosen.nodes:
                    passages.append(_left(consignment, "sender", f"it came from {' and '.join(group.nodes)}"))
                others = group.choice is not Choice.ALL_OF and len(group.nodes) > 1
                for node in chosen.nodes:
                    passage = _at(rule, consignment, node, chosen.note, known, callers, manual, others)
                    passages.append(msgspec.structs.replace(passage, withdrawn=withdrawn))
                    withdrawn = ()
    return passages


def _choices(
    action: Forward,
    study: str,
    members: Sequence[Consignment],
    bonds: Mapping[tuple[str, str], Bond],
    health: Mapping[str, Health],
    turns: Counter[str],
    callers: Mapping[str, str],
) -> Iterator[tuple[Group, Chosen]]:
    """Who gets a study, for each group; `turns` goes on counting."""
    senders = {callers.get(one.calling_ae_title, "") for consignment in members for one in consignment.receipts}
    for group in action.to:
        single = group.choice is Choice.ALL_OF
        of_group = {name: bonds.get((study, name), Bond.NONE) for name in group.nodes}
        chosen = choose(
            # Who sent a part of a study still gets the rest, where each node gets all.
            group,
            senders=() if single else senders,
            bonds=of_group,
            health=health,
            studies=turns,
        )
        turns.update(name for name in chosen.nodes if of_group[name] in (Bond.NONE, Bond.SPOILED))
        yield group, chosen


_STRENGTH = {bond: strength for strength, bond in enumerate(Bond)}

_BONDS: dict[State, Bond] = {
    State.QUEUED: Bond.WAITS,
    State.NOTHING: Bond.NONE,
    State.FAILED: Bond.SPOILED,
    State.PARTIAL: Bond.SPOILED,
    State.CONTRADICTED: Bond.SPOILED,
}
"""What a transfer of which nothing is there means; in any other state the study is bound to the node."""


def _bond(known: Known) -> Bond:
    if known.there:
        return Bond.BOUND
    if known.fact.state is State.CANCELLED and known.fact.cause == FELL_BACK:
        return Bond.NONE
    return _BONDS.get(known.fact.state, Bond.BOUND)


def _at(
    rule: Rule,
    consignment: Consignment,
    node: str,
    note: str,
    known: Mapping[Intent, Known],
    callers: Mapping[str, str],
    manual: bool,
    others: bool,
) -> Passage:
    """What is to be done at one destination; `others`: another node may get it instead."""
    wanted = frozenset(
        Instance(one.series_instance_uid, one.sop_instance_uid)
        for one in consignment.receipts
        if callers.get(one.calling_ae_title, "") != node
    )
    if not wanted:
        return _left(consignment, "sender", "it came from there", node)
    intent = Intent(LOCAL, consignment.study_instance_uid, consignment.series_instance_uid, node)
    before = known.get(intent)
    there = before.there if before is not None else frozenset()
    uids = {one.sop_instance_uid for one in wanted}
    action, code, reason, happening = _judge(before, uids, manual)
    new = None
    if action is Action.MOVE or happening is not None:
        new = NewTransfer(
            intent=intent,
            rule=rule.name,
            priority=PRIORITIES[rule.priority],
            instance_count=len(wanted),
            happening=happening,
        )
    return Passage(
        decision=Decision(
            action=action,
            code=code,
            reason=f"{reason}; {note}" if note and code not in _ENDED else reason,
            study_instance_uid=consignment.study_instance_uid,
            series_instance_uid=consignment.series_instance_uid,
            destination=node,
            instance_count=len(wanted),
            transfer=before.fact.id if before is not None else None,
            new=new,
        ),
        wanted=wanted,
        missing=frozenset(one for one in wanted if one.sop_instance_uid not in there),
        open=(others and not there and (new is not None or code in _UNDER_WAY))
        or (code == "under-way" and before is not None and not uids <= before.wanted | before.there),
    )


_UNDER_WAY = frozenset({"under-way", "held"})
"""Codes of what has not ended."""

_ENDED = frozenset({"done", "failed-before"})
"""Codes of what waits for no node any more, so that how a node is now says nothing about it."""

_Judgement = tuple[Action, str, str, Happening | None]


def _judge(before: Known | None, wanted: Collection[str], manual: bool) -> _Judgement:
    """Action, code, reason, and what happens to the transfer that there is."""
    if before is None:
        return Action.MOVE, "new", "not forwarded before", None
    state, cause = before.fact.state, before.fact.cause
    more = len(set(wanted) - before.wanted - before.there)
    grown = f"{more} more {'instance has' if more == 1 else 'instances have'} arrived"
    if state is State.HELD:
        return Action.HOLD, "held", "held by an administrator", Happening.GREW if more else None
    if more and Happening.GREW in TRANSITIONS[state]:
        return Action.MOVE, "grew", grown, Happening.GREW
    if state in UNDER_WAY:
        return Action.SKIP, "under-way", f"already {state}" + (f"; {grown}, which goes next" if more else ""), None
    if state is State.CANCELLED and cause == FELL_BACK:
        return Action.MOVE, "again", "another node of the group was to get it, and did not", Happening.AGAIN
    if state is State.NOTHING:
        return Action.MOVE, "again", "was gone before, but has arrived again", Happening.AGAIN
    if state in AGAIN_WHEN_ASKED:
        if manual:
            return Action.MOVE, "again", f"{state} before; asked for again", Happening.AGAIN
        return Action.SKIP, "failed-before", f"{state} before ({cause}); `transfers retry` asks again", None
    return Action.SKIP, "done", f"already {state}", None


def _left(consignment: Consignment, code: str, reason: str, node: str = "") -> Passage:
    return Passage(
        decision=Decision(
            action=Action.SKIP,
            code=code,
            reason=reason,
            study_instance_uid=consignment.study_instance_uid,
            series_instance_uid=consignment.series_instance_uid,
            destination=node,
            instance_count=len(consignment.receipts),
        )
    )
