"""What people read in a notification: its title, its text, and the document that programs get. Pure.

Nothing here holds an identifier but `study_instance_uids`, which are handed in only where the configuration says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from router.domain import notice as kinds
from router.domain.notice_group import SUMMARY, Example, Notification
from router.domain.pseudonym import without_uids

VERSION = 1
"""Of the document; a key may come, none changes its meaning."""

TEST = "test"
"""The kind of a notification that a person asked for, to see whether it arrives."""

_COUNTED = {
    "failed": ("transfer failed", "transfers failed"),
    "partial": ("transfer partial", "transfers partial"),
    "contradicted": ("transfer contradicted", "transfers contradicted"),
    "route-stopped": ("stop of a route", "stops of routes"),
    "node-down": ("time without an answer", "times without an answer"),
    "sweep-failed": ("sweep failed", "sweeps failed"),
    "sweep-incomplete": ("sweep incomplete", "sweeps incomplete"),
    "look-failed": ("look for priors failed", "looks for priors failed"),
    "priors-late": ("prior late or missing", "priors late or missing"),
    "reload-failed": ("configuration rejected", "configurations rejected"),
    "disk-low": ("time too little room", "times too little room"),
    "certificate-expiring": ("certificate to renew", "certificates to renew"),
}
"""Word -> how one and how several are counted."""


class Sender(NamedTuple):
    """Who tells: this router, as its settings name it."""

    ae_title: str
    link: str = ""
    moment: Callable[[datetime], str] = lambda at: at.strftime("%Y-%m-%d %H:%M:%S UTC")
    """A time as the people read it."""


def discreet(text: str) -> str:
    """A text without anything that looks like a UID, and without control characters but line ends."""
    kept = "".join(character if character.isprintable() or character == "\n" else " " for character in text)
    return without_uids(kept)


# --- Title ------------------------------------------------------------------------------------------------------------


def title_of(notification: Notification) -> str:
    """What it is about, in one line without identifiers."""
    title = _TITLES[notification.kind] if not notification.unused else _unused
    return discreet(title(notification)).replace("\n", " ")


def _subject(told: Notification) -> str:
    """Whom it is about."""
    named = dict(zip(kinds.KINDS[told.kind].fields, told.names, strict=False))
    if "destination" in named:
        return f"{named['source']} -> {named['destination']}"
    if "source" in named:
        return f"rule {named['rule']}, {named['source']}"
    return f"rule {named['rule']}" if "rule" in named else next(iter(named.values()), "")


def counted(counts: Mapping[str, int]) -> str:
    """`3 transfers failed, 1 transfer partial`."""
    return ", ".join(f"{number} {_COUNTED[word][number != 1]}" for word, number in counts.items() if word in _COUNTED)


def _counts(told: Notification) -> str:
    return f"{_subject(told)}: {counted(told.counts)}" if told.counts else _subject(told)


def _standing(bad: str, good: str) -> Callable[[Notification], str]:
    def title(told: Notification) -> str:
        return (good if told.over else bad).format(_subject(told))

    return title


def _unused(told: Notification) -> str:
    return f"{_subject(told)}: not in the configuration any more"


def _sweep(told: Notification) -> str:
    if told.over:
        return f"{_subject(told)}: sweeps are complete again"
    return _counts(told)


def _disk(told: Notification) -> str:
    if told.over:
        return "the store has room again"
    full = told.severity == "critical"
    return "the store is full: instances are refused" if full else "the store is nearly full"


def _certificate(told: Notification) -> str:
    if told.over:
        return f"{_subject(told)} is in order again"
    expiring = told.severity == "warning"
    return f"{_subject(told)} expires soon" if expiring else f"{_subject(told)} has expired, or cannot be used"


def _summary(told: Notification) -> str:
    groups = len(told.parts) + told.unnamed
    return f"{groups} things at once: {counted(told.counts)}" if told.counts else f"{groups} things are over"


_TITLES: dict[str, Callable[[Notification], str]] = {
    kinds.TRANSFERS: _counts,
    kinds.ROUTE: _standing("{}: route stopped", "{}: route works again"),
    kinds.NODE: _standing("{} does not answer", "{} answers again"),
    kinds.SWEEP: _sweep,
    kinds.LOOK: _counts,
    kinds.PRIORS: _counts,
    kinds.CONFIGURATION: _standing("configuration rejected", "configuration accepted again"),
    kinds.DISK: _disk,
    kinds.CERTIFICATE: _certificate,
    SUMMARY: _summary,
    TEST: lambda told: "test: this is how notifications arrive",
}

# --- Text -------------------------------------------------------------------------------------------------------------

_MEANING = {
    kinds.ROUTE: "Nothing is moved this way until somebody corrects a configuration; its transfers wait.",
    kinds.NODE: "It is left alone and tried now and then; what is to go from or to it waits.",
    kinds.SWEEP: "Studies may have been missed.",
    kinds.LOOK: "The priors of an appointment were not looked up.",
    kinds.CONFIGURATION: "The configuration before it stays in force.",
    kinds.CERTIFICATE: "Once it has expired, connections that need it fail.",
}
"""What it means while it goes on."""
_COMMANDS = {
    kinds.TRANSFERS: "dicom-router transfers list --destination {1}",
    kinds.ROUTE: "dicom-router doctor",
    kinds.NODE: "dicom-router doctor {0}",
    kinds.CONFIGURATION: "dicom-router validate",
    kinds.CERTIFICATE: "dicom-router doctor",
}
"""What shows more."""


def text_of(notification: Notification, sender: Sender, study_instance_uids: Mapping[int, str] | None = None) -> str:
    """The text for people: plain, some lines. Number of a transfer -> its study's UID, where those may be told."""
    lines = [f"{title_of(notification)}.", ""]
    if notification.kind == TEST:
        lines += [f"Sent by hand. The channel {notification.channel} works; nothing is wrong.", ""]
    lines += _when(notification, sender)
    if notification.kind == SUMMARY:
        lines += _parts(notification)
    else:
        lines += _what(notification, study_instance_uids or {})
    command = _COMMANDS.get(notification.kind)
    if command is not None and not notification.over:
        lines += [f"More: {command.format(*notification.names)}"]
    if sender.link:
        lines += [f"Status: {sender.link}"]
    return "\n".join([*lines, f"-- dicom-router {discreet(sender.ae_title)}", ""])


def _when(told: Notification, sender: Sender) -> list[str]:
    if told.first_at is None or told.last_at is None or told.kind == TEST:
        return []
    first, last = sender.moment(told.first_at), sender.moment(told.last_at)
    if not told.counts:
        return [f"{'Since' if told.over else 'Still so, told last at'} {last}.", ""]
    return [f"At {first}." if first == last else f"From {first} to {last}.", ""]


def _what(told: Notification, uids: Mapping[int, str]) -> list[str]:
    lines = []
    if told.over and told.counts:
        lines += [f"Before it was over: {counted(told.counts)}.", ""]
    elif sum(told.counts.values()) > 1 and told.kind != kinds.TRANSFERS:
        lines += [f"Since it was told last: {counted(told.counts)}.", ""] if told.number > 1 else []
    if told.kind != kinds.TRANSFERS and told.detail:
        lines += [f"{'It was: ' if told.over else ''}{discreet(told.detail)}", ""]
    if told.kind in _MEANING and not told.over:
        lines += [_MEANING[told.kind], ""]
    if told.rules:
        lines += ["Rules: " + ", ".join(f"{name} ({number})" for name, number in told.rules.items()) + ".", ""]
    if told.examples:
        some = len(told.examples) < sum(told.counts.values())
        lines += ["For example:" if some else "These are:", *(_line(one, uids) for one in told.examples), ""]
    return lines


def _line(example: Example, uids: Mapping[int, str]) -> str:
    study = uids.get(example.transfer) or example.study
    named = f"transfer {example.transfer}" + (f", study {study}" if study else "")
    reason = discreet(example.reason)
    return f"  {named}: {example.word}" + (f": {reason}" if reason else "")


def _parts(told: Notification) -> list[str]:
    lines = ["So much has happened that it is told in one:"]
    lines += [f"  {title_of(part)}" for part in told.parts]
    lines += [f"  and {told.unnamed} more"] if told.unnamed else []
    return [*lines, ""]


# --- Document ---------------------------------------------------------------------------------------------------------


def document_of(
    notification: Notification, sender: Sender, study_instance_uids: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """What a webhook is sent, and what templates are made with: plain values for JSON; times as ISO 8601."""
    uids = study_instance_uids or {}
    kind = kinds.KINDS.get(notification.kind)
    named = dict(zip(kind.fields, notification.names, strict=False)) if kind is not None else {}
    return {
        "version": VERSION,
        "router": sender.ae_title,
        "channel": notification.channel,
        "kind": notification.kind,
        "status": "resolved" if notification.over else "firing",
        "severity": notification.severity,
        "title": title_of(notification),
        "text": text_of(notification, sender, uids),
        "source": named.get("source", ""),
        "destination": named.get("destination", ""),
        "node": named.get("node", ""),
        "rule": named.get("rule", ""),
        "certificate": named.get("certificate", ""),
        "rules": dict(notification.rules),
        "counts": dict(notification.counts),
        "detail": discreet(notification.detail),
        "first_at": _iso(notification.first_at),
        "last_at": _iso(notification.last_at),
        "transfers": [_transfer(one, uids) for one in notification.examples],
        "groups": [_part(part) for part in notification.parts],
        "groups_unnamed": notification.unnamed,
        "thread": notification.thread,
        "number": notification.number,
        "url": sender.link,
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at is not None else None


def _transfer(example: Example, uids: Mapping[int, str]) -> dict[str, Any]:
    found = msgspec.structs.asdict(example)
    named = {"id": found.pop("transfer"), "verdict": found.pop("word"), **found, "reason": discreet(example.reason)}
    uid = uids.get(example.transfer)
    return named | ({"study_instance_uid": uid} if uid else {})


def _part(part: Notification) -> dict[str, Any]:
    return {
        "kind": part.kind,
        "status": "resolved" if part.over else "firing",
        "severity": part.severity,
        "title": title_of(part),
        "counts": dict(part.counts),
        "thread": part.thread,
    }
