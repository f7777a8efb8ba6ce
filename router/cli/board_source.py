"""Where `top` has its board from: the service that runs on the ledger, else the ledger itself."""

from __future__ import annotations

import http.client
import secrets
import time
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from router.boards import Boards
from router.config.secrets import read_secret
from router.dimse.web_tls import own_context
from router.domain.board import Board
from router.domain.pseudonym import Pseudonyms
from router.domain.replicas import to_ask
from router.domain.rule import HttpTls, RuleSet
from router.errors import LedgerMissing, TlsFileError
from router.ledger.ledger import SqlLedger
from router.opening import open_ledger, own_services, running_services, site_pseudonyms

ASK_SECONDS = 5.0
"""How long the service may take to answer."""
MOST_BYTES = 64 << 20
_CHUNK = 1 << 16
_TLS = "https://"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""A service that listens on all addresses, and where it is called from its own machine."""


class Answer(NamedTuple):
    """A board, and where it is from, as a sentence."""

    board: Board
    origin: str


class BoardSource:
    """Gets boards; a context. Raises LedgerError, ConfigurationError where a secret is not to be had."""

    def __init__(self, rules: RuleSet, *, identifiers: bool) -> None:
        self._rules = rules
        self._identifiers = identifiers
        self._token = _token(rules) if identifiers else ""
        self._ledger = open_ledger(rules, read_only=True, create=False)
        self._clock = self._ledger.clock()
        self._boards = Boards(
            rules=lambda: rules, ledger=self._ledger, clock=self._clock, pseudonyms=_pseudonyms(rules, self._ledger)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ledger.close()

    def get(self) -> Answer:
        """The board of now."""
        address = self._address()
        if not address:
            return Answer(self._boards.board(identifiers=self._identifiers), "No service runs: as the ledger has it.")
        try:
            board = ask(address, self._token, tls=self._rules.router.http_tls)
        except (OSError, http.client.HTTPException, msgspec.MsgspecError, ValueError, TlsFileError) as error:
            why = f"The service at {address} {_said(error)}: as the ledger has it."
            return Answer(self._boards.board(identifiers=self._identifiers), why)
        origin = f"As the service at {address} says."
        if self._identifiers and not board.identifiers:
            origin += " It shows no identifiers: router.page.identifiers is not set there, or the token is another."
        return Answer(board, origin)

    def _address(self) -> str:
        """Of the service to ask; empty where none runs."""
        services = running_services(self._ledger)
        one = to_ask(services, own_services(self._rules, services), self._clock.now())
        return one.address if one is not None else ""


def ask(address: str, token: str = "", *, seconds: float = ASK_SECONDS, tls: HttpTls | None = None) -> Board:
    """The board of the service whose HTTP is at `host:port`, `https://host:port` where it speaks TLS as `tls` says.

    Raises OSError, HTTPException, MsgspecError, ValueError, TlsFileError.

    Straight there, whatever proxies the environment names.
    """
    host, _, port = address.removeprefix(_TLS).rpartition(":")
    host = host.strip("[]")
    deadline = time.monotonic() + seconds
    here, number = _EVERYWHERE.get(host, host), int(port)
    if not address.startswith(_TLS):
        connection = http.client.HTTPConnection(here, number, timeout=seconds)
    elif tls is None:
        raise http.client.HTTPException("answers over TLS, which router.http_tls does not say")
    else:
        context = own_context(tls.files.certificate)
        connection = http.client.HTTPSConnection(here, number, timeout=seconds, context=context)
    try:
        headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        connection.request("GET", "/api/v1/board", headers=headers)
        with connection.getresponse() as answer:  # which has the socket to itself where the other side ends it
            if answer.status != http.client.OK:
                raise http.client.HTTPException(f"answered {answer.status}")
            body = bytearray()
            while chunk := answer.read1(_CHUNK):
                body += chunk
                if len(body) > MOST_BYTES:
                    raise http.client.HTTPException("answered too much")
                if time.monotonic() > deadline:
                    raise TimeoutError
    finally:
        connection.close()
    return msgspec.json.decode(bytes(body), type=Board)


def _said(error: Exception) -> str:
    """What became of a question to the service, after its name."""
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, OSError):
        return "is not to be reached"
    if isinstance(error, msgspec.MsgspecError):
        return "answers otherwise than this version does"
    said = str(error)
    return said if said.startswith("answer") else "does not answer as it should"


def _token(rules: RuleSet) -> str:
    if rules.router.token is None:
        return ""  # what is shown then is for the service to say
    return read_secret(rules.router.token)


def _pseudonyms(rules: RuleSet, ledger: SqlLedger) -> Pseudonyms:
    try:
        return site_pseudonyms(rules, ledger.site_key)
    except LedgerMissing:
        return Pseudonyms(secrets.token_bytes(32))  # no service ever ran here: nobody knows others of these studies
