"""What a certificate says: when it is valid (RFC 5280 section 4.1), whose it is. Values in, values out."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from router.domain.access import Shown

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_PIVOT = 50
"""Two digits of a year from here on are of the last century (RFC 5280 section 4.1.2.5.1)."""


class Validity(NamedTuple):
    """First and last moment of a certificate, in UTC."""

    first: datetime
    last: datetime


def ends(pem: str) -> datetime | None:
    """When the first of all certificates in a PEM text ends; None where there is none, or one cannot be read."""
    found = [validity(_BEGIN + part) for part in pem.split(_BEGIN)[1:]]
    last = [one.last for one in found if one is not None]
    return min(last) if last and len(last) == len(found) else None


def validity(pem: str) -> Validity | None:
    """Of the first certificate in a PEM text; None where it cannot be read."""
    start = pem.find(_BEGIN)
    end = pem.find(_END, start)
    if start < 0 or end < 0:
        return None
    try:
        data = ssl.PEM_cert_to_DER_cert(pem[start : end + len(_END)])
        _, certificate, _ = _element(data)
        _, content, _ = _element(certificate)
        tag, _, rest = _element(content)
        if tag == _VERSION:
            _, _, rest = _element(rest)  # the serial number
        for _ in ("signature", "issuer"):
            _, _, rest = _element(rest)
        tag, times, _ = _element(rest)
        if tag != _SEQUENCE:
            return None
        tag, first, rest = _element(times)
        last_tag, last, _ = _element(rest)
        return Validity(_moment(tag, first), _moment(last_tag, last))
    except (ValueError, IndexError):
        return None


def shown_by(connection: ssl.SSLObject | ssl.SSLSocket) -> Shown | None:
    """The certificate that the other side showed; None where it showed none, or it was not verified."""
    data, details = connection.getpeercert(binary_form=True), connection.getpeercert()
    if not data or not details:
        return None
    return Shown(tuple(dict.fromkeys(_names(details))), hashlib.sha256(data).hexdigest())


def _names(details: Mapping[str, Any]) -> Iterator[str]:
    for part in details.get("subject", ()):
        yield from (value for kind, value in part if kind == "commonName")
    yield from (value for kind, value in details.get("subjectAltName", ()) if kind == "DNS")


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element in DER, and what follows it."""
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    if start + length > len(data):
        raise ValueError("an element is cut off")
    return tag, data[start : start + length], data[start + length :]


def _moment(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if int(text[:2]) >= _PIVOT else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
