"""Who may change something over HTTP: who shows the token, or a program on this machine; from which pages. Pure."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers by which a proxy shows itself: the connection then says nothing of who calls."""
_OWN_SITES = ("same-origin", "none")
_SET_TOKEN = "set router.token, and send it as Authorization: Bearer TOKEN"
_SCHEME = "bearer "


def with_token(headers: Mapping[str, str], token: str) -> str:
    """Why a caller may not, as a sentence; empty where he shows the token. Takes as long whatever is shown."""
    shown = bearer(headers)
    if same(shown, token):
        return ""
    if not shown:
        return "This needs the token that router.token names: send it as Authorization: Bearer TOKEN."
    return "That is not the token that router.token names; if it was renewed, send the new one."


def without_token(headers: Mapping[str, str], peer: str) -> str:
    """The same where the configuration has no token: programs on this machine may, pages in its browsers may not.

    `peer` is the address that the connection comes from. A page of any site can make a browser call this machine, and
    with a name of its own that leads here (DNS rebinding) it looks like this site's: the Host header tells.
    """
    if not _is_loopback(peer) or any(name in headers for name in _FORWARDED):
        return f"Without a token only programs on the router's own machine may do this; from elsewhere: {_SET_TOKEN}."
    host = headers.get("host", "")
    if not _is_here(host):
        return f"The request is for another host than this machine: call it as 127.0.0.1 or localhost, or {_SET_TOKEN}."
    if not _from_own_page(headers, host):
        return f"The request comes from a page of another site; use a program such as curl, or {_SET_TOKEN}."
    return ""


def own_form(headers: Mapping[str, str]) -> str:
    """Why a form is not taken, as a sentence; empty where it comes from a page of this router (or no browser says)."""
    if _from_own_page(headers, headers.get("host", "")):
        return ""
    return "The form comes from a page of another site; open the page of this router and do it there."


def same(shown: str, wanted: str) -> bool:
    """Whether two secrets are the same; takes as long whatever is shown."""
    return hmac.compare_digest(shown.encode("utf-8", "replace"), wanted.encode("utf-8", "replace"))


def bearer(headers: Mapping[str, str]) -> str:
    """The token that a program shows; empty where it shows none."""
    given = headers.get("authorization", "")
    return given[len(_SCHEME) :].strip() if given[: len(_SCHEME)].lower() == _SCHEME else ""


def _from_own_page(headers: Mapping[str, str], host: str) -> bool:
    """Whether nothing says that a page of another site had the browser send this."""
    origin = headers.get("origin")
    elsewhere = origin is not None and (not host or _site(origin) != host.lower())
    return not elsewhere and headers.get("sec-fetch-site", "none") in _OWN_SITES


def _site(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def _is_here(host: str) -> bool:
    """Whether a Host header names this machine by what no name server can change."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)
