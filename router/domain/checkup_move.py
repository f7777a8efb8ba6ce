"""Verdicts of `doctor` on the one image that a node was asked to move here, and on the AE titles it stores from."""

from __future__ import annotations

from collections.abc import Sequence

from router.domain.causes import CAUSES, status_cause
from router.domain.checkup import Around, Check, Landed, fail, ok, warn
from router.domain.checkup_wire import remedy
from router.domain.outcome import quotable


def landed(seen: Landed, status: int, comment: str, seconds: float, around: Around) -> list[Check]:
    """On a one-image C-MOVE to this router with a final status, and what came of it."""
    node = around.node
    said = f" It says: {quotable(comment)}." if comment else ""
    if not seen.came:
        return [_absent(seen, status, said, around)]
    checks = []
    encoding = f", in {seen.transfer_syntax}" if seen.transfer_syntax else ""
    sentence = f"It sent one image to this router in {seconds:.1f} s{encoding}."
    if seen.called_ae_title and seen.called_ae_title != around.ae_title:
        checks.append(
            fail(
                "move",
                "wrong-called-ae-title",
                f"It calls this router {seen.called_ae_title}, not {around.ae_title}; the router will reject that.",
                f"at {node.name}: correct the move destination: {around.entry}",
            )
        )
    elif seen.others:
        checks.append(
            warn(
                "move",
                "more-than-asked",
                f"{sentence} Others came besides it: it takes a request for one image for one for more.",
                f"have the vendor of {node.name} look at it; repairs of single images move more than they need",
            )
        )
    else:
        checks.append(ok("move", "arrived", sentence))
    checks.append(stores_from([seen.calling_ae_title], around))
    return checks


def stores_from(titles: Sequence[str], around: Around, since: str = "") -> Check:
    """On the AE titles that a node stores from, against those that are let in."""
    node = around.node
    strange = [title for title in titles if title not in node.calling_ae_titles]
    if not strange:
        return ok("stores from", "as-configured", f"It stores as {', '.join(titles)}, which is let in{since}.")
    known = [title for title in (*node.sends_as, *titles) if title != node.ae_title or title in titles]
    return fail(
        "stores from",
        "other-ae-title",
        f"It stores as {', '.join(strange)}, but only {', '.join(node.calling_ae_titles)} is let in: "
        "the router rejects what it sends.",
        f"set sends_as: [{', '.join(dict.fromkeys(known))}] at {around.at('sends_as')}",
    )


def turned_away(around: Around) -> list[Check]:
    """On an image that came to the running service, which stores only what rules ask for (`push`): it shows as much."""
    titles = around.node.calling_ae_titles
    sentence = "It sent one image to this router. The running service kept nothing: no rule asks for it (push: refuse)."
    known = ok("stores from", "as-configured", f"It stores as one of {', '.join(titles)}, which are let in.")
    return [ok("move", "arrived", sentence), stores_from(titles, around) if len(titles) == 1 else known]


_UNHEARD = "it is reached over IPv6, but this router listens on 0.0.0.0, which is IPv4 only, and not at {host}."


def unheard(around: Around) -> Check:
    """On a node that is reached over IPv6 by a router that listens on IPv4 only, where no move was tried."""
    sentence = _UNHEARD.format(host=around.host)
    return warn(
        "move address",
        "not-listening",
        sentence[0].upper() + sentence[1:],
        f"{around.first}at {around.node.name}: check the move destination: {around.entry}",
    )


def _absent(seen: Landed, status: int, said: str, around: Around) -> Check:
    """On an image that did not come."""
    node, entry = around.node.name, around.entry
    cause = status_cause(status)
    strangers = [one for one in seen.callers if one.called_ae_title != around.ae_title]
    if cause == "destination-unknown":
        return fail(
            "move",
            "destination-unknown",
            f"It does not know this router as a move destination (A801).{said}",
            f"{around.first}at {node}: add a move destination: {entry}",
        )
    if cause == "not-authorised" or cause == "class-not-supported":
        return fail("move", cause, f"{CAUSES[cause].sentence}{said}", f"at {node}: allow {around.ae_title} to retrieve")
    if seen.tls_trouble == "tls-unwanted":
        return fail(
            "move",
            "tls-to-us",
            "It connected to this router over TLS, which is not spoken here.",
            f"at {node}: send to {around.ae_title} without TLS, or set tls at {around.where('router')}",
        )
    if seen.tls_trouble:
        return fail(
            "move",
            "tls-to-us",
            f"It connected to this router, but the TLS handshake failed ({seen.tls_trouble}).",
            f"at {node}: send to {around.ae_title} over TLS with a certificate that {around.where('router', 'tls')} "
            "trusts",
        )
    if strangers:
        titles = ", ".join(dict.fromkeys(one.called_ae_title for one in strangers))
        return fail(
            "move",
            "wrong-called-ae-title",
            f"It connected, but called this router {titles}, and sent nothing.",
            f"at {node}: correct the move destination: {entry}",
        )
    if seen.callers:
        return fail(
            "move",
            "nothing-stored",
            f"It connected to this router but stored nothing (status {status:04X}).{said}",
            f"at {node}: its log says why; does it want to convert the image, or does it lack the file?",
        )
    if status == 0:
        return fail(
            "move",
            "sent-elsewhere",
            f"It reports success, but nothing came: it sends what is for {around.ae_title} somewhere else, or nowhere.",
            f"{around.first}at {node}: correct the move destination: {entry}",
        )
    if around.unheard:
        sentence = f"It could not send (status {status:04X}): {_UNHEARD.format(host=around.host)}{said}"
        return fail("move", "not-listening", sentence, f"{around.first}at {node}: check the move destination: {entry}")
    return fail(
        "move",
        f"move-{cause}",
        f"It could not send (status {status:04X}), and nothing reached this router.{said}",
        f"at {node}: check the move destination: {entry}; let the firewall pass TCP from there to port {around.port}",
    )


def move_broken(code: str, message: str, around: Around) -> Check:
    """On a one-image C-MOVE that ended with an error of the wire and brought nothing."""
    if code.startswith("aborted") or code in ("connection-lost", "timeout-inactivity", "timeout-total"):
        return fail(
            "move",
            "move-broken",
            f"{message} Nothing reached this router; some archives answer so where they do not know a destination.",
            f"{around.first}at {around.node.name}: check the move destination: {around.entry}",
        )
    return fail("move", code, message, remedy(code, around))
