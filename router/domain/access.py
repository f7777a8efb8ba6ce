"""Who may open associations to this router: from where, with which certificate, how many at once. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from router.domain.quarantine import REFUSE
from router.domain.rule import Model, RuleSet

STRANGER = "association-rejected"
ADDRESS = "address"
WRONG_CERTIFICATE = "tls-wrong-certificate"
REFUSALS = (STRANGER, ADDRESS, WRONG_CERTIFICATE)
"""Why an association is rejected for good, as labels: nobody known, or a node from elsewhere, or not itself."""
TOO_MANY, TOO_MANY_OF_NODE = "too-many-associations", "too-many-of-node"
QUOTAS = (TOO_MANY, TOO_MANY_OF_NODE)
"""Why one is rejected for now."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FINGERPRINT = re.compile(r"(?:sha-?256:)?((?:[0-9a-f]{2}:){31}[0-9a-f]{2}|[0-9a-f]{64})\Z")
_MOST_SHOWN = 64
"""Characters of a certificate's name that a log may hold."""


class Shown(NamedTuple):
    """A certificate that the other side showed, and that was verified."""

    names: tuple[str, ...]
    """Common names of its subject and DNS names of its extension (RFC 5280 section 4.2.1.6), as they stand there."""
    fingerprint: str
    """SHA-256 of the certificate in DER, in lower-case hexadecimal digits."""

    @property
    def called(self) -> str:
        """What a log may call it: its first name, printable, else its fingerprint."""
        name = self.names[0] if self.names else self.fingerprint
        return "".join(one if " " <= one <= "~" else "?" for one in name[:_MOST_SHOWN])


class Admission(Model, frozen=True, kw_only=True):
    """How a node may come to this router."""

    node: str
    networks: tuple[str, ...] = ()
    """From where; empty: from anywhere."""
    certificate_names: tuple[str, ...] = ()
    """Over TLS its certificate bears one of them; empty: any certificate that is trusted."""
    associations: int | None = None
    """So many at once, at most; None: as many as there are."""
    push: str = REFUSE
    """What becomes of what it sends unasked, a word of `router.domain.quarantine`."""


def admissions(rules: RuleSet) -> dict[str, Admission]:
    """AE titles that may call this router -> how."""
    return {
        title: Admission(
            node=node.name,
            networks=node.sends_from,
            certificate_names=node.certificate_names,
            associations=node.limits.incoming_associations,
            push=node.push,
        )
        for node in rules.nodes.values()
        for title in node.calling_ae_titles
    }


def refusal(admission: Admission, address: str, shown: Shown | None) -> str:
    """Why the node is rejected that calls from this address with this certificate (None: without TLS), a label.

    Empty where it is let in.
    """
    if not is_allowed(tuple(map(_network, admission.networks)), address):
        return ADDRESS
    if shown is not None and not bears(shown, admission.certificate_names):
        return WRONG_CERTIFICATE
    return ""


def bears(shown: Shown | None, wanted: Sequence[str]) -> bool:
    """Whether a certificate bears one of these names or is one of these fingerprints; none wanted: any does.

    Names are compared as they stand, but for upper and lower case: a wildcard is a name like any other.
    """
    if not wanted:
        return True
    if shown is None:
        return False
    names = {name.casefold() for name in shown.names}
    return any(one.casefold() in names or fingerprint(one) == shown.fingerprint for one in wanted)


def fingerprint(text: str) -> str:
    """A SHA-256 fingerprint as digits only, written with or without colons; empty where the text is none."""
    match = _FINGERPRINT.match(text.strip().lower())
    return match[1].replace(":", "") if match else ""


def is_allowed(networks: Sequence[Network], host: str) -> bool:
    """Whether a peer's address is in one of these networks; none: any is. An IPv4 address may come as an IPv6 one."""
    if not networks:
        return True
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return any(address in network or (mapped is not None and mapped in network) for network in networks)


@lru_cache(maxsize=4096)
def _network(text: str) -> Network:
    return ipaddress.ip_network(text, strict=False)
