"""The key `router.audit`: where audit messages go, and how much of them may wait."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.config.base import Base
from router.config.diagnostics import Code
from router.config.document import MappingNode
from router.config.schema import node_at
from router.config.values import ADDRESS_HINT, parse_address, parse_size
from router.dimse.tls_files import faults
from router.domain.audit import TLS, AuditSettings
from router.domain.rule import TlsSettings

SMALLEST, LARGEST = 1 << 20, 100 << 30
"""Bytes that the buffer may have."""

_FILES = ("ca", "certificate", "key")


def audit_settings(
    base: Base, router: MappingNode, values: Mapping[str, Any], own: TlsSettings | None
) -> AuditSettings | None:
    """What the router's tree says of audit messages; None where it says nothing. `own` are the files of `router.tls`.

    Files that are left out are the router's own, where it has some.
    """
    node = router.values.get("audit")
    if not isinstance(node, MappingNode):
        return None
    given: Mapping[str, Any] = values.get("audit", {})
    changes = {key: given[key] for key in ("transport", "verify_hostname", "site", "facility") if key in given}
    address = parse_address(given.get("to", ""))
    if address is None and "to" in given:
        base.report(node.values["to"], Code.ADDRESS, f"{given['to']!r} is no address", ADDRESS_HINT)
    if given.get("transport", TLS) == TLS:
        changes |= _files(base, node, given, own)
    else:
        _in_the_open(base, node, given, address[0] if address else "")
    if "buffer" in given:
        changes["buffer"] = size = parse_size(given["buffer"]) or 0
        if not SMALLEST <= size <= LARGEST:
            message = f"router.audit.buffer: {given['buffer']!r} is no size for the buffer"
            base.report(node.values["buffer"], Code.AUDIT_BUFFER, message, "1MiB to 100GiB, 64MiB is usual")
    return AuditSettings(host=address[0], port=address[1], **changes) if address is not None else None


def _in_the_open(base: Base, tree: MappingNode, given: Mapping[str, Any], host: str) -> None:
    unused = [name for name in (*_FILES, "verify_hostname") if name in given]
    for name in unused:
        message = f"router.audit.{name} is of no use with transport: udp"
        base.report(tree.values[name], Code.AUDIT_TLS_UNUSED, message, "set transport: tls, or leave it out")
    if host and not unused and not _is_here(host):
        message = f"router.audit: Patient IDs go to {host} in the open"
        base.report(tree.values["to"], Code.AUDIT_IN_THE_OPEN, message, "use transport: tls", warning=True)


def _is_here(host: str) -> bool:
    """Whether a host is this machine: nobody reads along on the way there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _files(base: Base, tree: MappingNode, given: Mapping[str, Any], own: TlsSettings | None) -> dict[str, str]:
    """Absolute paths of what is named or borrowed. What cannot be used is reported."""
    pair = [name for name in ("certificate", "key") if name in given]
    if len(pair) == 1:
        lacks = "key" if pair == ["certificate"] else "certificate"
        message = f"router.audit has a {pair[0]} and no {lacks}"
        base.report(tree.values[pair[0]], Code.MISSING_KEY, message, "certificate and key belong together")
        return {}
    paths = {name: _path(tree, given, name) for name in _FILES if name in given}
    if own is not None:
        borrowed = _FILES if not pair else ("ca",)
        paths = {name: getattr(own, name) for name in borrowed} | paths
    if "certificate" in paths and "ca" not in paths:
        message = "router.audit has a certificate and no ca"
        base.report(tree.values["certificate"], Code.MISSING_KEY, message, "name the file of the server's authority")
        return paths
    known = {name: paths.get(name, "") for name in _FILES}
    settings = TlsSettings(ca=known["ca"], certificate=known["certificate"], key=known["key"])
    for fault in faults(settings) if paths else ():
        if fault.setting in given:
            place = node_at(tree, (fault.setting, "file"))
            base.report(place, Code.TLS_FILE, f"router.audit.{fault.setting}: {fault}")
    return paths


def _path(tree: MappingNode, given: Mapping[str, Any], name: str) -> str:
    """An absolute path; a relative one starts where the file lies in which it stands."""
    value = given[name]
    text = value["file"] if isinstance(value, dict) else value
    return str(Path(node_at(tree, (name, "file")).file).absolute().parent / text)
