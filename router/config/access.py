"""Who may come from where, with which certificate, by which name: networks, names of certificates and hosts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from router.config.diagnostics import Code
from router.config.document import MappingNode
from router.config.schema import node_at
from router.config.tls import Report
from router.domain.access import fingerprint
from router.domain.problem import Step
from router.domain.rule import PageSettings

_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\Z", re.IGNORECASE)
_MEANT_AS_FINGERPRINT = re.compile(
    r"(sha-?[0-9]+:|md5:)|(?:[0-9a-f]{2}:){7,}[0-9a-f]{2}\Z|[0-9a-f]{32,}\Z", re.IGNORECASE
)


def networks(
    tree: MappingNode, path: tuple[Step, ...], given: Sequence[str], subject: str, report: Report
) -> tuple[str, ...]:
    """Those that are networks or addresses; what is none is reported."""
    return tuple(text for index, text in enumerate(given) if _is_network(tree, (*path, index), text, subject, report))


def certificate_names(
    tree: MappingNode, path: tuple[Step, ...], given: Sequence[str], subject: str, report: Report
) -> tuple[str, ...]:
    """Names and fingerprints; what is meant as a fingerprint and is no SHA-256 is reported: no certificate has it."""
    usable: dict[str, None] = {}
    for index, text in enumerate(given):
        if _MEANT_AS_FINGERPRINT.match(text) and not fingerprint(text):
            message = f"{subject}: {text!r} is no SHA-256 fingerprint"
            hint = "64 hexadecimal digits: openssl x509 -in FILE -noout -fingerprint -sha256"
            report(node_at(tree, (*path, index)), Code.CERTIFICATE_NAME, message, hint)
        else:
            usable[text] = None
    return tuple(usable)


def page_settings(tree: MappingNode, values: Mapping[str, Any], report: Report) -> PageSettings:
    """What the key `page` of the router says; what is no host name is reported."""
    given = dict(values.get("page", {}))
    for index, text in enumerate(given.get("hosts", ())):
        if not _HOST_NAME.match(text):
            message = f"router.page.hosts: {text!r} is no host name"
            hint = "the name alone, as in router.hospital.example: without https://, port, path and wildcards"
            report(node_at(tree, ("page", "hosts", index)), Code.HOST_NAME, message, hint)
    return PageSettings(identifiers=given.get("identifiers", False), hosts=tuple(given.get("hosts", ())))


def _is_network(tree: MappingNode, path: tuple[Step, ...], text: str, subject: str, report: Report) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        hint = "for example 10.0.0.0/8, 192.168.1.20 or 2001:db8::/32"
        with suppress(ValueError):
            hint = f"did you mean {ipaddress.ip_network(text, strict=False)}?"
        report(node_at(tree, path), Code.ADDRESS, f"{subject}: {text!r} is no network and no address", hint)
        return False
    return True
