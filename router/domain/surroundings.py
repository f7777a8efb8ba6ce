"""What the router stands on: room on the store's file system, and certificates that expire. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from router.domain.events import CertificateExpires, DiskSpace
from router.domain.rule import RuleSet

EXPIRES_SOON = timedelta(days=14)
"""So long before its end a certificate is told of: time enough to have another one issued."""
LOW_FACTOR = 2
"""Space is low below so many times what must stay free."""


class Space(NamedTuple):
    """A file system, in bytes."""

    free: int
    """What may still be written by who is not root."""
    size: int


def space_state(space: Space, minimum: int) -> str:
    """`full`: instances are refused; `low`: they soon will be; else `ok`."""
    if space.free < minimum:
        return "full"
    return "low" if space.free < LOW_FACTOR * minimum else "ok"


def space_change(before: str, space: Space, minimum: int) -> DiskSpace | None:
    """What there is to tell, where the last that was told is the state `before`."""
    state = space_state(space, minimum)
    if state == before:
        return None
    return DiskSpace(state=state, free=space.free, size=space.size, minimum=minimum)


def certificates(rules: RuleSet) -> dict[str, str]:
    """The key of the configuration that names a file with certificates -> the file's path.

    Files of nodes that are the router's own are not named again.
    """
    found: dict[str, str] = {}
    own = rules.router.tls
    if own is not None:
        found |= {"router.tls.certificate": own.certificate, "router.tls.ca": own.ca}
    web = rules.router.http_tls
    if web is not None:
        files = {"certificate": web.files.certificate, **({"ca": web.files.ca} if web.clients else {})}
        found |= {f"router.http_tls.{role}": path for role, path in files.items() if path not in found.values()}
    known = set(found.values())
    audit = rules.router.audit
    if audit is not None:
        files = {"certificate": audit.certificate, "ca": audit.ca}
        found |= {f"router.audit.{role}": path for role, path in files.items() if path and path not in known}
    for name, node in rules.nodes.items():
        if node.tls is not None:
            files = {"certificate": node.tls.certificate, "ca": node.tls.ca}
            found |= {f"nodes.{name}.tls.{role}": path for role, path in files.items() if path not in known}
    for name, channel in rules.router.notify.channels.items():
        if channel.ca:
            found[f"router.notify.channels.{name}.ca"] = channel.ca
    return found


def expiry_state(end: datetime | None, now: datetime) -> str:
    """`unreadable` (None), `expired`, `expiring` (within EXPIRES_SOON) or `ok`."""
    if end is None:
        return "unreadable"
    if end <= now:
        return "expired"
    return "expiring" if end - now <= EXPIRES_SOON else "ok"


def expiry_change(before: str, certificate: str, end: datetime | None, now: datetime) -> CertificateExpires | None:
    """What there is to tell, where the last that was told is the state `before`."""
    state = expiry_state(end, now)
    return None if state == before else CertificateExpires(certificate=certificate, state=state, expires_at=end)
