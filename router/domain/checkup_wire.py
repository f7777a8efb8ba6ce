"""Verdicts of `doctor` on how a node is reached: name, TCP, TLS, certificates, association, presentation contexts.

Sentences of errors come from the wire; which system to change what on stands in tables here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from router.domain.causes import error_cause
from router.domain.checkup import (
    ROOT_NAMES,
    STORAGE_CLASSES,
    WORKLIST_SOP_CLASS,
    Around,
    Check,
    Reached,
    Secured,
    fail,
    named,
    ok,
    skipped,
    warn,
)
from router.domain.commitment import STORAGE_COMMITMENT_SOP_CLASS
from router.domain.dicom import InformationModel

EXPIRY_DAYS = 30
"""A certificate that is valid for fewer days than this is warned of."""
SLOW_CONNECTION = 1.0
"""Seconds for a TCP connection that are more than any network in a hospital should take."""

REMEDIES: dict[str, str] = {
    "name-unresolved": "correct {address}, or enter the name in this machine's DNS or hosts file",
    "connection-refused": "start {node}'s DICOM service, or correct {address}",
    "connect-timeout": "correct {address}, or let the firewall between pass TCP from {host} to {peer}",
    "unreachable": "correct {address}, or have the network between {host} and {peer} repaired",
    "negotiation-timeout": "correct the port in {address}; if it is right, see the log of {node} and restart it",
    "rejected-calling-ae-title": "at {node}: add {entry}, and allow it to query and retrieve",
    "rejected-called-ae-title": "correct {ae_title}: {called} is not what {node} calls itself",
    "rejected": "at {node}: add {entry}; its log says why it rejects",
    "rejected-by-acse": "at {node}: its log says why it rejects; does it know {entry}?",
    "rejected-application-context": "correct the port in {address}: this one serves no usual DICOM",
    "rejected-protocol-version": "correct the port in {address}: this one serves no usual DICOM",
    "rejected-congestion": "try again later; if it stays so, at {node}: see its log",
    "rejected-local-limit": "lower {associations}, or at {node}: allow {calling} more associations at once",
    "rejected-busy": "try again later; if it stays so, at {node}: allow {calling} more associations at once",
    "rejected-busy-permanent": "lower {associations}, or at {node}: allow {calling} more associations at once",
    "aborted": "at {node}: its log says why; add {entry}, and check {ae_title}",
    "connection-lost": "at {node}: its log says why it hangs up; is the port in {address} its DICOM port?",
    "timeout": "at {node}: see its log; it takes associations but does not answer requests",
    "protocol": "correct the port in {address}, or have the vendor of {node} look at it",
    "no-context": "at {node}: allow {calling} to use this service",
    "tls-not-spoken": "take {tls} out, or correct the port in {address}, or at {node}: switch TLS on at that port",
    "tls-version": "at {node}: switch TLS 1.2 or 1.3 on",
    "tls-files": "correct {tls}",
    "tls-host-name": "use a name of the certificate in {address}, or set verify_hostname: false in {tls}",
    "tls-expired": "at {node}: renew the certificate; if it is valid, correct the clock of this machine",
    "tls-unknown-ca": "name the file with the authority that issued {node}'s certificate as ca in {tls}",
    "tls-wrong-certificate": "enter the name that its certificate bears in {certificate_names}, if it is {node}'s",
    "tls-certificate": "at {node}: renew the certificate",
    "tls-no-certificate": "at {node}: give it a certificate",
    "tls-refused": "at {node}: trust the authority of this router's certificate, the file certificate in {tls}",
    "tls": "at {node}: see its log, and compare with {tls}",
    "tls-wanted": "add tls to {node_key} (ca, certificate and key), or name {node}'s port without TLS in {address}",
}
"""By the code of the outcome table: who has to change what. `{address}` and the like are places in our files."""

PASSING = frozenset({"rejected-congestion", "rejected-local-limit", "rejected-busy", "rejected-busy-permanent"})
"""Codes that may be gone in a moment: a warning, for a running service may hold what is missing."""


def remedy(code: str, around: Around) -> str:
    """What to change after this code; empty where nobody knows."""
    node = around.node
    cause = code if code in REMEDIES else error_cause(code)
    while cause not in REMEDIES and "-" in cause:
        cause = cause.rpartition("-")[0]
    return REMEDIES.get(cause, "").format(
        node=node.name,
        node_key=around.at(),
        peer=f"{node.host}:{node.port}",
        host=around.host,
        entry=around.entry,
        calling=around.ae_title,
        called=node.ae_title,
        address=around.at("address"),
        ae_title=around.at("ae_title"),
        associations=around.at("limits", "associations"),
        tls=around.at("tls"),
        certificate_names=around.at("certificate_names"),
    )


_STRANGER = frozenset({"rejected-calling-ae-title", "rejected", "rejected-by-acse", "aborted", "no-context"})
"""Codes with which a node turns this router away, but perhaps nobody else."""


def broken(check: str, code: str, message: str, around: Around) -> Check:
    """A check that ended with an error of the wire: `code` is its cause.

    A destination that turns this router away may still take what a source sends it by C-MOVE: a warning. So is all
    about a node that only pushes to this router: a modality often answers nobody.
    """
    cause = code if code in REMEDIES else error_cause(code)
    if around.only_pushes:
        message += " It may push to this router all the same; nothing asks it or sends to it."
        change = remedy(code, around)
        return warn(check, cause, message, "none, if it only sends" + (f"; else {change}" if change else ""))
    if cause in _STRANGER and around.needs.only_receives:
        message += " What sources send there may arrive all the same, but stays unproven."
        return warn(check, cause, message, remedy(code, around))
    make = warn if cause in PASSING else fail
    return make(check, cause, message, remedy(code, around))


def connected(reached: Reached, around: Around) -> Check:
    """On a TCP connection that came about."""
    peer = f"{around.node.host}:{around.node.port}"
    if reached.seconds > SLOW_CONNECTION:
        return warn(
            "connect",
            "slow",
            f"{peer} took the connection only after {reached.seconds:.1f} s.",
            f"have the network between {around.host} and {peer} looked at",
        )
    return ok("connect", "connected", f"{peer} takes connections ({_spelled(reached.seconds)}).")


def secured(seen: Secured) -> Check:
    """On a TLS handshake that succeeded."""
    return ok("tls", "secured", f"It speaks {seen.version}, and both sides accept each other's certificate.")


def expiring(check: str, whose: str, expires_at: datetime | None, now: datetime, renew: str) -> Check:
    """On the last day of a certificate; `whose` begins the sentence, `renew` is what to do."""
    if expires_at is None:
        return skipped(check, "not-told", f"{whose} has no date that can be read.")
    left = expires_at - now
    day = f"{expires_at:%Y-%m-%d}"
    if left < timedelta():
        return fail(check, "expired", f"{whose} has expired on {day}.", renew)
    if left < timedelta(days=EXPIRY_DAYS):
        count = left.days
        return warn(check, "expires-soon", f"{whose} expires on {day}, in {count} day{'s' * (count != 1)}.", renew)
    return ok(check, "valid", f"{whose} is valid until {day}.")


# --- presentation contexts --------------------------------------------------------------------------------------------


def retrieval_contexts(accepted: Mapping[str, bool], around: Around) -> list[Check]:
    """On C-FIND, C-MOVE and C-GET of both information models, by SOP class; the node's `root` comes first."""
    node, needs = around.node, around.needs
    services: tuple[tuple[str, str, Sequence[str], Callable[[InformationModel], str]], ...] = (
        ("find", "C-FIND", needs.queried or needs.required, lambda model: model.find),
        ("move", "C-MOVE", needs.moved, lambda model: model.move),
        ("get", "C-GET", needs.fetched, lambda model: model.get),
    )
    unproven = [rule for rule in needs.evidence if rule not in needs.committed]
    checks = []
    for name, service, rules, sop_class in services:
        roots = [model for model in InformationModel if accepted.get(sop_class(model))]
        words = " and ".join(ROOT_NAMES[model] for model in sorted(roots, key=lambda one: one is not node.root))
        check = f"{name} context"
        if node.root in roots:
            checks.append(ok(check, "accepted", f"It accepts {service} ({words})."))
        elif roots and rules:
            checks.append(
                warn(
                    check,
                    "other-root",
                    f"It accepts {service} with {words} only, which {named(rules)} then use.",
                    f"at {node.name}: switch {ROOT_NAMES[node.root]} on, or set root: {roots[0].value} at "
                    f"{around.at('root')}",
                )
            )
        elif rules:
            instead = " or set via: move" if name == "get" else ""
            checks.append(
                fail(
                    check,
                    "not-accepted",
                    f"It accepts no {service}, which {named(rules)} need{'s' if len(rules) == 1 else ''}.",
                    f"at {node.name}: allow {around.ae_title} to use {service}" + instead,
                )
            )
        elif name == "find" and unproven:
            stays = bool(around.retains and needs.passed)
            instead = f"commitment: true in {around.at()}, if it offers that" if stays else "verify: none in the rule"
            checks.append(
                warn(
                    check,
                    "no-evidence",
                    f"It accepts no C-FIND: what {named(unproven)} brings there stays unproven"
                    + (", so router.retention never lets it go." if stays else "."),
                    f"at {node.name}: allow {around.ae_title} to query, or set {instead}",
                )
            )
        elif not roots:
            checks.append(ok(check, "not-needed", f"It accepts no {service}; no rule needs it."))
        else:
            checks.append(ok(check, "accepted", f"It accepts {service} ({words})."))
    return checks


def storage_contexts(accepted: Mapping[str, bool], around: Around) -> Check:
    """On the storage SOP classes that a destination takes of those that were proposed."""
    taken = [name for uid, name in STORAGE_CLASSES.items() if accepted.get(uid)]
    refused = [name for uid, name in STORAGE_CLASSES.items() if not accepted.get(uid)]
    node = around.node.name
    if not taken:
        return fail(
            "storage contexts",
            "no-storage",
            f"It takes none of {len(refused)} usual storage classes from this router.",
            f"at {node}: allow it to receive; is {node} the right destination for {named(around.needs.stores)}?",
        )
    if refused:
        return warn(
            "storage contexts",
            "some-storage",
            f"It takes {', '.join(taken)}; from this router it does not take {', '.join(refused)}.",
            f"at {node}: switch on what it should receive, or leave it out in {named(around.needs.stores)}",
        )
    return ok("storage contexts", "accepted", f"It takes all {len(taken)} usual storage classes.")


def worklist_context(accepted: Mapping[str, bool], around: Around) -> Check:
    """On modality worklist queries."""
    if accepted.get(WORKLIST_SOP_CLASS):
        return ok("worklist context", "accepted", "It accepts modality worklist queries.")
    return fail(
        "worklist context",
        "not-accepted",
        f"It accepts no modality worklist queries, which {named(around.needs.worklist)} need.",
        f"at {around.node.name}: let {around.ae_title} ask for the worklist, or correct {around.at()}",
    )


def commitment_context(accepted: Mapping[str, bool], around: Around) -> Check:
    """On storage commitment."""
    if accepted.get(STORAGE_COMMITMENT_SOP_CLASS):
        return ok("commitment context", "accepted", "It accepts storage commitment requests.")
    return fail(
        "commitment context",
        "not-accepted",
        f"It accepts no storage commitment requests, which {named(around.needs.committed)} need.",
        f"at {around.node.name}: switch storage commitment on for {around.ae_title}, or take out "
        f"{around.at('commitment')}",
    )


def _spelled(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
