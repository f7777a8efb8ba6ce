"""What `doctor` finds: checks with their result, what the rules need of a node, and what was seen of one. Pure.

The verdicts on nodes are in `checkup_wire.py` (how it is reached) and `checkup_node.py` (what it does), those on this
router's own side in `checkup_router.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv6Address, ip_address

import msgspec

from router.domain.dicom import InformationModel
from router.domain.quarantine import REFUSE
from router.domain.rule import GET, LOCAL, Node, Rule, RuleSet, TlsSettings


class Result(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    """It works, but somebody should look at it."""
    FAIL = "fail"
    """It does not work, or will not."""
    SKIPPED = "skipped"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a node or of this router, as `doctor --format json` has it."""

    check: str
    result: Result
    code: str
    """What was found, one of a finite set."""
    message: str
    """What was found, a sentence."""
    remedy: str = ""
    """What to change, and on which system or in which line; empty where there is nothing to change."""


Where = Callable[..., str]
"""From the steps to a key (`"nodes", "archive", "address"`) to its place: `nodes.archive.address in FILE:LINE`."""


def ok(check: str, code: str, message: str, remedy: str = "") -> Check:
    """A check that went well."""
    return Check(check=check, result=Result.OK, code=code, message=message, remedy=remedy)


def warn(check: str, code: str, message: str, remedy: str = "") -> Check:
    """A check after which somebody should look."""
    return Check(check=check, result=Result.WARN, code=code, message=message, remedy=remedy)


def fail(check: str, code: str, message: str, remedy: str = "") -> Check:
    """A check that found what does not work."""
    return Check(check=check, result=Result.FAIL, code=code, message=message, remedy=remedy)


def skipped(check: str, code: str, message: str, remedy: str = "") -> Check:
    """A check that was not made, and why."""
    return Check(check=check, result=Result.SKIPPED, code=code, message=message, remedy=remedy)


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What the enabled rules need of a node; each field has the names of the rules that need it."""

    queried: tuple[str, ...] = ()
    """C-FIND for studies."""
    moved: tuple[str, ...] = ()
    """C-MOVE from it."""
    fetched: tuple[str, ...] = ()
    """C-GET from it."""
    worklist: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    """It is a destination."""
    passed: tuple[str, ...] = ()
    """Those of them that have this router itself store there (`forward`)."""
    evidence: tuple[str, ...] = ()
    """It is asked what it holds as a destination."""
    required: tuple[str, ...] = ()
    """Those of them that go without any proof, or move nothing, where it cannot be asked (`verify: find`)."""
    committed: tuple[str, ...] = ()
    """Storage commitment as a destination."""
    brings: tuple[str, ...] = ()
    """It stores to this router, asked by C-MOVE."""

    @property
    def used(self) -> bool:
        """Whether a rule needs anything of it."""
        return any(getattr(self, field) for field in self.__struct_fields__)

    @property
    def only_receives(self) -> bool:
        """Whether all that the rules need is that others can send to it."""
        asked = (self.queried, self.moved, self.fetched, self.worklist, self.required, self.committed, self.passed)
        return bool(self.stores) and not any(asked)


def needs_of(rules: RuleSet, node: Node) -> Needs:
    """What the enabled rules need of a node."""
    found: dict[str, list[str]] = {field: [] for field in Needs.__struct_fields__}
    for rule in rules.rules.values():
        if rule.enabled:
            for field, needed in _needs(rule, node).items():
                if needed:
                    found[field].append(rule.name)
    return Needs(**{field: tuple(names) for field, names in found.items()})


def _needs(rule: Rule, node: Node) -> dict[str, bool]:
    source = rule.source == node.name
    destination = node.name in rule.move.to
    fetched = source and LOCAL in rule.move.to and (rule.move.via or node.move.via) == GET
    return {
        "queried": source or (rule.sweep is not None and rule.sweep.source == node.name),
        "moved": source and any(to != LOCAL or not fetched for to in rule.move.to),
        "fetched": fetched,
        "worklist": rule.worklist is not None and rule.worklist.source == node.name,
        "stores": destination,
        "passed": destination and rule.forward is not None,
        "evidence": destination and (rule.move.verify in ("auto", "find") or rule.move.skip_present),
        "required": destination and rule.move.verify == "find",
        "committed": destination and (node.commitment is not None or rule.move.verify == "commitment"),
        "brings": source and LOCAL in rule.move.to and not fetched,
    }


def named(rules: Sequence[str]) -> str:
    """Rules in a sentence."""
    shown = ", ".join(rules[:3]) + (f" and {len(rules) - 3} more" if len(rules) > 3 else "")
    return f"rule{'s' if len(rules) > 1 else ''} {shown}"


_CONNECT, _NEGOTIATION, _SILENCE, _TOTAL = 10.0, 15.0, 20.0, 30.0
_MOVE_SILENCE, _MOVE_TOTAL = 40.0, 60.0


def patient(node: Node) -> Node:
    """The node with deadlines for somebody who waits: its own, but no longer than it takes to learn something."""
    return msgspec.structs.replace(
        node,
        timeouts=msgspec.structs.replace(
            node.timeouts,
            connect=min(node.timeouts.connect, _CONNECT),
            negotiation=min(node.timeouts.negotiation, _NEGOTIATION),
        ),
        find=msgspec.structs.replace(
            node.find, inactivity=min(node.find.inactivity, _SILENCE), total=min(node.find.total, _TOTAL)
        ),
        move=msgspec.structs.replace(
            node.move, inactivity=min(node.move.inactivity, _MOVE_SILENCE), total=min(node.move.total, _MOVE_TOTAL)
        ),
    )


# --- what was seen ----------------------------------------------------------------------------------------------------


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP connection that came about."""

    seconds: float
    own_address: str
    """This machine's address on the way to the node: what the node should know it by."""


class Secured(msgspec.Struct, frozen=True, kw_only=True):
    """A TLS handshake that succeeded."""

    version: str
    expires_at: datetime | None = None
    """Of the peer's certificate; None where it cannot be read."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked this router for an association while an image was awaited."""

    calling_ae_title: str
    called_ae_title: str
    ip_address: str


class Landed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the one image that was asked for, on this side."""

    calling_ae_title: str = ""
    """Of who stored it; empty where it did not come."""
    called_ae_title: str = ""
    transfer_syntax: str = ""
    """Its name; empty where it is not known."""
    others: int = 0
    """Instances that were stored, or tried to, besides the one that was asked for."""
    callers: tuple[Caller, ...] = ()
    tls_trouble: str = ""
    """Why a TLS handshake of somebody failed meanwhile, a label; empty where none did."""

    @property
    def came(self) -> bool:
        """Whether the image came."""
        return bool(self.calling_ae_title)


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What sentences about a node mention besides it."""

    node: Node
    needs: Needs
    ae_title: str
    """This router's."""
    host: str
    """What the node should know this router by."""
    port: int
    where: Where
    listen_host: str = ""
    """What this router listens on."""
    retains: bool = False
    """What was passed on leaves the store once it is proven (`router.retention`)."""
    named: bool = False
    """It is one of several that share a ledger (`router.replica`), perhaps behind a load balancer."""

    def at(self, *keys: str) -> str:
        """Where a key of the node stands."""
        return self.where("nodes", self.node.name, *keys)

    @property
    def entry(self) -> str:
        """What the node needs to have about this router."""
        words = f"an application entity with AE title {self.ae_title}, host {self.host}, port {self.port}"
        balanced = " (behind a load balancer: its host and port; it passes nothing on before a replica runs)"
        return f"{words}{balanced if self.named else ''}"

    def own_certificate(self, ours: TlsSettings | None) -> str:
        """Where the certificate stands that this router shows the node: with `tls: true` it is that of `router.tls`."""
        shown = self.node.tls.certificate if self.node.tls is not None else ""
        return self.where("router", "tls") if ours is not None and ours.certificate == shown else self.at("tls")

    @property
    def only_pushes(self) -> bool:
        """Whether no rule needs anything of it, and it may send to this router unasked."""
        return not self.needs.used and self.node.push != REFUSE

    @property
    def unheard(self) -> bool:
        """Whether the node is reached over IPv6, but this router listens on 0.0.0.0, which is IPv4 only."""
        try:
            own = ip_address(self.host)
        except ValueError:
            return False
        return self.listen_host == "0.0.0.0" and isinstance(own, IPv6Address) and own.ipv4_mapped is None

    @property
    def first(self) -> str:
        """What has to change here before a node can send to `host`, the beginning of a remedy; empty: nothing."""
        if not self.unheard:
            return ""
        return f'set listen: "[::]:{self.port}" (IPv6 and IPv4) at {self.where("router", "listen")}; then '


def spelled_days(back: int | None) -> str:
    """The days from today back in a sentence."""
    return f"the last {back} days" if back else "today"


ROOT_NAMES = {InformationModel.STUDY_ROOT: "Study Root", InformationModel.PATIENT_ROOT: "Patient Root"}

WORKLIST_SOP_CLASS = "1.2.840.10008.5.1.4.31"
"""Modality Worklist Information Model - FIND."""

STORAGE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "enhanced MR",
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",
    "1.2.840.10008.5.1.4.1.1.6.1": "US",
    "1.2.840.10008.5.1.4.1.1.3.1": "US multi-frame",
    "1.2.840.10008.5.1.4.1.1.12.1": "XA",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.128": "PET",
    "1.2.840.10008.5.1.4.1.1.7": "secondary capture",
    "1.2.840.10008.5.1.4.1.1.88.22": "enhanced SR",
    "1.2.840.10008.5.1.4.1.1.88.67": "dose reports",
    "1.2.840.10008.5.1.4.1.1.11.1": "presentation states",
    "1.2.840.10008.5.1.4.1.1.88.59": "key objects",
}
"""A few storage SOP classes that most destinations take, by what people call them."""
