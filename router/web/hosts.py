"""By which names this router may be called over HTTP, so that no page of another site reads it. Pure.

A page of any site can have a browser call a name of its own that leads here (DNS rebinding): for the browser both are
one site then, and the page may read what it gets. But its request bears that name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

OPEN = frozenset({"/metrics", "/healthz", "/readyz"})
"""Paths that answer whatever name they are called by: monitoring has names of its own, and they tell of no patient."""
REFUSED = (
    "The request is for another host than this router: call it by its address, or enter the name under "
    "router.page.hosts. Programs that show the token may use any name (set router.token, and send it as "
    "Authorization: Bearer TOKEN)."
)


def is_ours(host: str, names: Collection[str]) -> bool:
    """Whether a Host header names this router: by an address, as localhost, or by one of these names (lower case).

    A program that sends none (HTTP/1.0) is no browser.
    """
    if not host:
        return True
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    return name == "localhost" or name in names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
