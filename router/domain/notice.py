"""What events say to people who are told of trouble: which group of it they belong to, and who hears of it. Pure.

Names are those of the configuration; a study is its pseudonym.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from router.domain.events import (
    BreakerClosed,
    BreakerOpened,
    CertificateExpires,
    ConfigurationLoaded,
    DiskSpace,
    Event,
    LookEnded,
    PriorEnded,
    RouteResumed,
    RouteStopped,
    SweepEnded,
    TransferEnded,
)
from router.domain.rule import Rule, RuleSet
from router.domain.surroundings import certificates

SEVERITIES = ("info", "warning", "error", "critical")
"""From what is over to what stops the work."""

BROKEN_OFF = frozenset({"cancelled", "rule-removed"})
"""Causes of a sweep's failure that somebody brought about."""

_LINES_TOLD = 5
"""Diagnostics of a rejected configuration that are told, at most."""


class Kind(NamedTuple):
    """A kind of group."""

    fields: tuple[str, ...]
    """What the names of a group of this kind are, in order: one notification for each set of names."""
    ends: bool = False
    """It goes on until an event says that it is over."""
    reminded: bool = False
    """While it goes on nothing new happens: people are reminded of it by the clock."""


TRANSFERS, ROUTE, NODE, SWEEP, LOOK, PRIORS = "transfers", "route", "node", "sweep", "look", "priors"
CONFIGURATION, DISK, CERTIFICATE = "configuration", "disk", "certificate"
PAIR = ("source", "destination")
KINDS = {
    TRANSFERS: Kind(PAIR),
    ROUTE: Kind(PAIR, ends=True, reminded=True),
    NODE: Kind(("node",), ends=True),
    SWEEP: Kind(("rule", "source"), ends=True),
    LOOK: Kind(("rule", "source")),
    PRIORS: Kind(("rule",)),
    CONFIGURATION: Kind((), ends=True, reminded=True),
    DISK: Kind((), ends=True, reminded=True),
    CERTIFICATE: Kind(("certificate",), ends=True, reminded=True),
}

Key = tuple[str, ...]
"""A group: its kind and its names."""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What one event says. Without a `word` it says that what went on is over."""

    kind: str
    names: tuple[str, ...] = ()
    word: str = ""
    """A word of `router.domain.notify.WORDS`."""
    severity: str = "error"
    rule: str = ""
    """The rule whose wishes count; empty: none."""
    transfer: int = 0
    study: str = ""
    detail: str = ""
    """What happened, a sentence without identifiers."""

    @property
    def key(self) -> Key:
        """The group it belongs to."""
        return (self.kind, *self.names)


def notice_of(event: Event) -> Notice | None:
    """What an event says; None where nobody is told of it."""
    say = _SAYS.get(type(event))
    return say(event) if say is not None else None


_BAD_VERDICTS = frozenset({"failed", "partial", "contradicted"})


def _transfer(event: TransferEnded) -> Notice | None:
    if event.verdict not in _BAD_VERDICTS:
        return None
    return Notice(
        kind=TRANSFERS,
        names=(event.source, event.destination),
        word=event.verdict,
        rule=event.rule,
        transfer=event.transfer,
        study=event.study,
        detail=event.reason,
    )


def _stopped(event: RouteStopped) -> Notice:
    return Notice(
        kind=ROUTE, names=(event.source, event.destination), word="route-stopped", detail=event.message or event.cause
    )


def _resumed(event: RouteResumed) -> Notice:
    return Notice(kind=ROUTE, names=(event.source, event.destination))


def _sweep(event: SweepEnded) -> Notice | None:
    names = (event.rule, event.source)
    if event.result == "complete":
        return Notice(kind=SWEEP, names=names, rule=event.rule)
    if event.cause in BROKEN_OFF:
        return None
    failed = event.result == "failed"
    return Notice(
        kind=SWEEP,
        names=names,
        word="sweep-failed" if failed else "sweep-incomplete",
        severity="error" if failed else "warning",
        rule=event.rule,
        detail=event.message or event.cause,
    )


def _look(event: LookEnded) -> Notice | None:
    if event.result != "failed":
        return None
    detail = event.message or event.cause
    return Notice(kind=LOOK, names=(event.rule, event.source), word="look-failed", rule=event.rule, detail=detail)


def _prior(event: PriorEnded) -> Notice | None:
    if event.result == "on_time":
        return None
    severity = "error" if event.result == "missing" else "warning"
    return Notice(kind=PRIORS, names=(event.rule,), word="priors-late", severity=severity, rule=event.rule)


def _loaded(event: ConfigurationLoaded) -> Notice:
    if event.successful:
        return Notice(kind=CONFIGURATION)
    lines = list(event.diagnostics[:_LINES_TOLD])
    if len(event.diagnostics) > _LINES_TOLD:
        lines.append("and more; see dicom-router validate")
    return Notice(kind=CONFIGURATION, word="reload-failed", detail="\n".join(lines))


def _space(event: DiskSpace) -> Notice:
    if event.state == "ok":
        return Notice(kind=DISK)
    full = event.state == "full"
    free = f"{size_text(event.free)} of {size_text(event.size)} are free; {size_text(event.minimum)} must stay free"
    detail = f"{free}{', so instances are refused.' if full else '.'}"
    return Notice(kind=DISK, word="disk-low", severity="critical" if full else "warning", detail=detail)


def _certificate(event: CertificateExpires) -> Notice:
    if event.state == "ok":
        return Notice(kind=CERTIFICATE, names=(event.certificate,))
    day = f"{event.expires_at:%Y-%m-%d}" if event.expires_at is not None else ""
    details = {"expiring": f"It expires on {day}.", "expired": f"It expired on {day}."}
    return Notice(
        kind=CERTIFICATE,
        names=(event.certificate,),
        word="certificate-expiring",
        severity="warning" if event.state == "expiring" else "critical",
        detail=details.get(event.state, "The file cannot be read, or holds no certificate."),
    )


_SAYS: dict[type[Event], Callable[[Any], Notice | None]] = {
    TransferEnded: _transfer,
    RouteStopped: _stopped,
    RouteResumed: _resumed,
    BreakerOpened: lambda e: Notice(kind=NODE, names=(e.node,), word="node-down", detail=e.message or e.cause),
    BreakerClosed: lambda e: Notice(kind=NODE, names=(e.node,)),
    SweepEnded: _sweep,
    LookEnded: _look,
    PriorEnded: _prior,
    ConfigurationLoaded: _loaded,
    DiskSpace: _space,
    CertificateExpires: _certificate,
}


_USED: dict[str, Callable[[tuple[str, ...], RuleSet], bool]] = {
    ROUTE: lambda names, rules: any(
        rule.enabled and rule.source == names[0] and names[1] in rule.move.to for rule in rules.rules.values()
    ),
    NODE: lambda names, rules: rules.node(names[0]) is not None,
    SWEEP: lambda names, rules: any(rule.enabled and (rule.name, rule.asked) == names for rule in rules.rules.values()),
    CERTIFICATE: lambda names, rules: names[0] in certificates(rules),
}


def is_used(key: Key, rules: RuleSet) -> bool:
    """Whether the configuration still has what a group is about: of what it has not, nothing good is ever heard."""
    used = _USED.get(key[0])
    return used is None or used(key[1:], rules)


def size_text(size: int) -> str:
    """Bytes as people read them: `1.5 GiB`."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


# --- Who hears of it --------------------------------------------------------------------------------------------------


def hearers(notice: Notice, rules: RuleSet) -> tuple[str, ...]:
    """The channels that are told of it, each once.

    A rule's own wishes count for what happens to its work. A route stops for all rules that use it, so each of them is
    asked; what concerns no rule is told as `router.notify` says.
    """
    concerned = _concerned(notice, rules)
    names = [name for rule in concerned for name in _wished(notice.word, rule, rules)]
    return tuple(dict.fromkeys(name for name in names if name in rules.router.notify.channels))


def _concerned(notice: Notice, rules: RuleSet) -> list[Rule | None]:
    if notice.rule:
        return [rules.rules.get(notice.rule)]
    if notice.kind == ROUTE:
        source, destination = notice.names
        using = [rule for rule in rules.rules.values() if rule.enabled and rule.source == source]
        return [rule for rule in using if destination in rule.move.to] or [None]
    return [None]


def _wished(word: str, rule: Rule | None, rules: RuleSet) -> tuple[str, ...]:
    usual = rules.router.notify
    own_to = rule.notify.to if rule is not None else None
    own_on = rule.notify.on if rule is not None else None
    if word not in (usual.on if own_on is None else own_on):
        return ()
    return usual.heard_by if own_to is None else own_to
