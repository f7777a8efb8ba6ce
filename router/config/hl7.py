"""The key `router.hl7`: the listener for orders, and where in their messages the values stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from router.config.access import networks
from router.config.base import Base
from router.config.diagnostics import Code
from router.config.document import MappingNode, Node
from router.config.schema import did_you_mean, node_at
from router.config.values import ADDRESS_HINT, nearest_attribute, parse_address, parse_size
from router.domain.dicom import tag_of
from router.domain.hl7 import CHARACTER_SETS, FIELDS, Hl7Path, Hl7Settings
from router.domain.rule import TlsSettings

FILLED = tuple(dict.fromkeys(attribute for table in FIELDS.values() for attribute in table))
"""The attributes that orders fill. ScheduledProcedureStepStartDate is a whole timestamp there."""

_PATH = re.compile(r"([A-Z][A-Z0-9]{2})-([1-9][0-9]{0,2})(?:\.([1-9][0-9]{0,2})(?:\.([1-9][0-9]{0,2}))?)?\Z")
_PROBE = b"MSH|^~&\\x41\\u0041.xn--mnchen-3ya+AGE-"
"""What a character set must read as it is written: else the separators of a message would not be found."""
_SMALLEST, _LARGEST = 1 << 10, 64 << 20
"""Bytes that a message may have at most: less than the one holds no order, more than the other no memory."""


def hl7_settings(
    base: Base, router: MappingNode, values: Mapping[str, Any], tls: TlsSettings | None
) -> Hl7Settings | None:
    """What the router's tree says of HL7; None where it says nothing. `tls` are the router's own files."""
    if "hl7" not in values:
        return None
    node = router.values["hl7"]
    tree = node if isinstance(node, MappingNode) else MappingNode(node.file, node.line, node.column)
    given = values["hl7"]
    changes = {key: given[key] for key in ("messages_per_minute", "connections") if key in given}
    changes |= base.durations(tree, given, "timeout", "idle")
    if "listen" in given:
        address = parse_address(given["listen"])
        if address is None:
            base.report(tree.values["listen"], Code.ADDRESS, f"{given['listen']!r} is no address", ADDRESS_HINT)
        else:
            changes["host"], changes["port"] = address
    if given.get("tls", False):
        changes["tls"] = True
        if tls is None and "tls" not in values and not base.is_damaged("router"):
            message = "router.hl7.tls has no certificate to show"
            base.report(tree.values["tls"], Code.MISSING_KEY, message, "name the files under router.tls")
    if "character_set" in given:
        changes["character_set"] = _codec(base, tree.values["character_set"], given["character_set"])
    if "maximum_size" in given:
        changes["maximum_size"] = size = parse_size(given["maximum_size"]) or 0
        if not _SMALLEST <= size <= _LARGEST:
            message = f"router.hl7.maximum_size: {given['maximum_size']!r} is no size for a message"
            base.report(tree.values["maximum_size"], Code.BAD_VALUE, message, "1KiB to 64MiB, 1MiB is usual")
    return Hl7Settings(
        timezone=base.zone(tree, given, base.machine_zone),
        allow=networks(tree, ("allow",), given.get("allow", ()), "router.hl7.allow", base.report),
        senders=tuple(dict.fromkeys(given.get("from", ()))),
        fields=_fields(base, tree, given.get("fields", {})),
        **changes,
    )


def _codec(base: Base, place: Node, name: str) -> str:
    codec = CHARACTER_SETS.get(name.strip().upper(), name.strip())
    try:
        usable = _PROBE.decode(codec) == _PROBE.decode("ascii")
    except (LookupError, ValueError):
        usable = False
    if usable:
        return codec
    message = f"router.hl7.character_set: there is no character set {name!r} for messages"
    known = ["utf-8", "iso8859-1", "cp1252", *CHARACTER_SETS]
    base.report(place, Code.BAD_VALUE, message, did_you_mean(name, known) or "for example utf-8, 8859/1 or cp1252")
    return Hl7Settings().character_set


def _fields(base: Base, tree: MappingNode, given: Mapping[str, Any]) -> dict[str, tuple[Hl7Path, ...]]:
    fields = {}
    for keyword, value in given.items():
        subject = f"router.hl7.fields.{keyword}"
        if keyword not in FILLED:
            known = tag_of(keyword) is not None
            message = f"{subject}: " + ("orders do not fill it" if known else f"{keyword!r} is no DICOM attribute")
            hint = did_you_mean(keyword, FILLED) or (", ".join(FILLED) if known else nearest_attribute(keyword))
            code = Code.HL7_FIELD if known else Code.UNKNOWN_ATTRIBUTE
            base.report(node_at(tree, ("fields", keyword), at_key=True), code, message, hint)
            continue
        paths = []
        for index, text in enumerate(value if isinstance(value, list) else [value]):
            match = _PATH.match(text)
            if match is None:
                place = node_at(tree, ("fields", keyword, *((index,) if isinstance(value, list) else ())))
                hint = "SEGMENT-FIELD, with component and subcomponent after dots: OBR-18, PID-3.1, PID-3.4.2"
                base.report(place, Code.HL7_FIELD, f"{subject}: {text!r} is no path into a message", hint)
                continue
            paths.append(Hl7Path(match[1], *(int(number or 0) for number in match.groups()[1:])))
        fields[keyword] = tuple(paths)
    return fields
