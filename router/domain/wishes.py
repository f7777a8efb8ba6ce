"""What a person may say to transfers and rules, and why one of these things cannot be said. Pure."""

from __future__ import annotations

from typing import NamedTuple

from router.domain.rule import Rule
from router.domain.selection import AGAIN_WHEN_ASKED
from router.domain.transfer import RULE_HOLDS, TRANSITIONS, Happening, State, Transfer


class Word(NamedTuple):
    """Something a person may say to transfers."""

    happening: Happening
    states: tuple[State, ...]
    """Those that are meant where all transfers are and no state is named."""
    done: str
    """What becomes of a transfer that a worker holds, at the end of a sentence."""


def _taking(happening: Happening) -> tuple[State, ...]:
    return tuple(state for state, ways in TRANSITIONS.items() if happening in ways)


WORDS = {
    "retry": Word(Happening.AGAIN, tuple(sorted(AGAIN_WHEN_ASKED)), "queued again"),
    "cancel": Word(Happening.CANCEL, _taking(Happening.CANCEL), "cancelled"),
    "hold": Word(Happening.HOLD, _taking(Happening.HOLD), "held"),
    "release": Word(Happening.RELEASE, _taking(Happening.RELEASE), "let go on"),
}


def sayable(transfer: Transfer, *, stopped: bool = False) -> tuple[str, ...]:
    """The words that can be said to a transfer now and would change something.

    `stopped`: it waits for a stopped route, which a release lets it try at once.
    """
    if transfer.ended:
        return ("retry",)
    if transfer.state is State.HELD:
        return ("cancel", "hold", "release") if transfer.cause in RULE_HOLDS else ("cancel", "release")
    wished = {"cancel": ("hold", "release"), "hold": ("cancel", "release")}
    return wished.get(transfer.wish, ("cancel", "hold", "release") if stopped else ("cancel", "hold"))


def refusal(transfer: Transfer, word: Word) -> str:
    """Why the word cannot be said to the transfer, in one sentence; empty where only the ledger knows."""
    head = f"Transfer {transfer.id}"
    if word.happening is Happening.AGAIN:
        return "" if transfer.ended else f"{head} has not ended: it is {transfer.state}."
    if transfer.ended:
        return f"{head} has ended: it is {transfer.state}."
    if word.happening is Happening.RELEASE:
        return "" if transfer.state is State.HELD else f"{head} is not held: it is {transfer.state}."
    by_person = transfer.state is State.HELD and transfer.cause not in RULE_HOLDS
    return f"{head} is held already." if word.happening is Happening.HOLD and by_person else ""


def unsweepable(rule: Rule) -> str:
    """Why nobody can ask for a sweep of the rule now, in one sentence; empty where it can be asked for."""
    if not rule.enabled:
        return f"The rule {rule.name} is not enabled; remove its `enabled: false` first."
    if rule.sweep is None and rule.worklist is None:
        what = "an order" if rule.trigger == "order" else "an arrival"
        return f"The rule {rule.name} has no sweep: {what} starts it, and asks nothing by itself."
    return ""
