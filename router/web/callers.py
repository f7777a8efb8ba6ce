"""Who calls, what he may see and what he may change."""

from __future__ import annotations

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from router.errors import ConfigurationError
from router.web import guard
from router.web.needs import Configured
from router.web.session import Session, Sessions, proof_of

_CHALLENGE = {"www-authenticate": "Bearer"}


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, as far as that matters."""

    by: str = ""
    """`session`, `token`, `local` (a program on this machine, where there is no token); empty: anybody."""
    session: Session | None = None
    proof: bytes = b""
    """Of the token that was shown."""

    @property
    def trusted(self) -> bool:
        """Has shown the token."""
        return self.by in ("session", "token")


class Callers:
    """Tells who calls. Every method may read the file that holds the token. Thread-safe."""

    def __init__(self, configuration: Configured, sessions: Sessions) -> None:
        self._configuration = configuration
        self.sessions = sessions

    def token(self) -> str | None:
        """The token that counts now; None where there is none, or it is not to be had."""
        try:
            return self._configuration.token()
        except ConfigurationError:
            return None

    def reader(self, request: Request) -> Caller:
        """Who wants to look at something. A wrong token is an error (401), none is not."""
        token = self.token()
        if token is not None and guard.bearer(request.headers):
            if refused := guard.with_token(request.headers, token):
                raise HTTPException(401, refused, _CHALLENGE)
            return Caller(by="token", proof=proof_of(token))
        session = self.sessions.of(request.cookies.get(cookie_name(request), ""), token)
        return Caller() if session is None else Caller(by="session", session=session, proof=session.proof)

    def program(self, request: Request, *, refused_with: int = 401, trusted: bool = False) -> Caller:
        """A program that wants to change something; with `trusted` one that wants to see what only the token opens.

        Raises HTTPException: `refused_with` where a token is to be shown, 403 where that would not help.
        """
        try:
            token = self._configuration.token()
        except ConfigurationError as error:
            raise HTTPException(
                403, f"The token that router.token names is not to be had, so nobody may do this: {error}."
            ) from None
        if token is not None:
            if refused := guard.with_token(request.headers, token):
                raise HTTPException(refused_with, refused, _CHALLENGE)
            return Caller(by="token", proof=proof_of(token))
        if trusted:
            raise HTTPException(403, self._no_token())
        if refused := guard.without_token(request.headers, request.client.host if request.client else ""):
            raise HTTPException(403, refused)
        return Caller(by="local")

    def person(self, request: Request, form_key: str) -> Caller:
        """Somebody who sends a form of ours. Raises HTTPException 403 for anybody else."""
        if refused := guard.own_form(request.headers):
            raise HTTPException(403, refused)
        caller = self.reader(request)
        if caller.session is None:
            said = "Log in first: this needs the token that router.token names."
            raise HTTPException(403, said if self.may_log_in else self._no_token())
        if not guard.same(form_key, caller.session.form_key):
            raise HTTPException(403, "The form is an old one; go back, load the page again, and repeat it.")
        return caller

    @property
    def may_log_in(self) -> bool:
        """Whether there is a token to be shown."""
        return self.token() is not None

    def shows(self, caller: Caller) -> bool:
        """Whether the caller sees identifiers."""
        return caller.trusted and self._configuration.settings.page.identifiers

    def holds(self, caller: Caller) -> bool:
        """Whether somebody who was trusted still is: his session has not ended, the token is the same."""
        if not caller.trusted:
            return True
        token = self.token()
        if caller.session is not None:
            return self.sessions.of(caller.session.key, token) is not None
        return token is not None and proof_of(token) == caller.proof

    def _no_token(self) -> str:
        return (
            "This needs a token, and the configuration has none: set router.token (see README, Status page), "
            "and restart the router."
        )


def cookie_name(request: Request) -> str:
    """The name of the session's cookie: browsers send cookies to every port of a machine, so each has its own."""
    server = request.scope.get("server") or ("", 0)
    return f"dicom-router-session-{server[1]}"


def is_encrypted(request: Request) -> bool:
    """Whether the browser speaks TLS, with us or with a proxy before us."""
    forwarded = request.headers.get("x-forwarded-proto", "").split(",")[0].strip().lower()
    return request.url.scheme == "https" or forwarded == "https"
