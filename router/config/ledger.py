"""Where the ledger lives: `router.ledger`, a database URL (RFC 3986) as text, or a secret where a password is in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs

from router.config.diagnostics import Code
from router.config.document import MappingNode, Node
from router.config.schema import node_at
from router.config.secrets import read_secret, secret_setting
from router.config.tls import Report
from router.domain.rule import RouterSettings, Secret
from router.errors import ConfigurationError

_FILE = re.compile(r"sqlite(?:\+pysqlite)?:///(?P<path>.+)", re.DOTALL)
_SERVER = re.compile(
    r"postgres(?:ql)?(?:\+psycopg)?://(?:(?P<user>[^@/]*)@)?(?P<hosts>[^@/?]*)/(?P<name>[^/?@]+)(?:\?(?P<query>.*))?"
)
_PASSWORD = re.compile(r"\w[\w+]*://[^/@:]*:[^@]*@|[?&](?:ssl)?password=", re.IGNORECASE)
_IN_THE_OPEN = frozenset({"disable", "allow"})
_HINT = (
    "sqlite:///./data/ledger.db, or postgresql://USER@HOST/DATABASE with its password in {env: NAME} or {file: PATH}; "
    "characters such as @ / : ? # % in user or password are percent-encoded (@ as %40, / as %2F)"
)


def ledger_setting(tree: MappingNode, values: Mapping[str, Any], report: Report) -> str | Secret:
    """What `router.ledger` says; its default where it says nothing. No diagnostic quotes any of it."""
    given = values.get("ledger", RouterSettings().ledger)
    if isinstance(given, str):
        if "ledger" in tree.values:
            _check(given, tree.values["ledger"], report, plain=True)
        return given
    secret = secret_setting(
        tree, values, "ledger", "router", report, until="until then no command finds the ledger", shared=True
    )
    if secret is None:
        return RouterSettings().ledger
    # It may be had where the service runs; that it is not to be had here is reported already.
    with suppress(ConfigurationError):
        _check(read_secret(secret), node_at(tree, ("ledger", next(iter(given), ""))), report, plain=False)
    return secret


def _check(url: str, place: Node, report: Report, *, plain: bool) -> None:
    if plain and _PASSWORD.search(url):
        message = "router.ledger holds a password, which cannot stand here"
        hint = "put the whole URL into {env: NAME} or {file: path}, and replace the password by another one"
        report(place, Code.PLAIN_SECRET, message, hint)
        return
    where = "router.ledger" if plain else "what router.ledger refers to"
    if _FILE.fullmatch(url):
        return
    server = _SERVER.fullmatch(url)
    if server is None:
        report(place, Code.BAD_VALUE, f"{where} names no SQLite file and no PostgreSQL database", _HINT)
        return
    mode = parse_qs(server["query"] or "").get("sslmode", [""])[-1]
    if mode in _IN_THE_OPEN and not all(_is_here(host) for host in server["hosts"].split(",")):
        message = f"{where} has sslmode={mode}: password and patients' data go to the database unencrypted"
        report(place, Code.NOT_ENCRYPTED, message, "use sslmode=verify-full, or require", warning=True)


def _is_here(host: str) -> bool:
    """Whether a host, with its port, is this machine; empty: by the socket of the file system."""
    name = re.sub(r":\d*$", "", host).strip("[]").casefold()
    if name in ("", "localhost") or name.startswith("%2f"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
