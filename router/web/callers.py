"""Who calls, what he may see and what he may change."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from router.domain.access import bears
from router.domain.rule import GUARDED
from router.errors import ConfigurationError
from router.web import guard
from router.web.guesses import Guesser, Guesses
from router.web.needs import Configured
from router.web.session import Session, Sessions, proof_of, right

_CHALLENGE = {"www-authenticate": "Bearer"}
_CERTIFICATE = "This needs a client's certificate that router.http_tls.clients names: show one over TLS."


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, as far as that matters."""

    by: str = ""
    """`session`, `token`, `certificate`, `local` (a program on this machine, where nothing is asked for); empty:
    anybody."""
    session: Session | None = None
    proof: bytes = b""
    """Of the token that was shown."""

    @property
    def trusted(self) -> bool:
        """Has shown the token, or a client's certificate."""
        return self.by in ("session", "token", "certificate")


class Callers:
    """Tells who calls. Every method may read the file that holds the token. Thread-safe."""

    def __init__(
        self,
        configuration: Configured,
        sessions: Sessions,
        guesses: Guesses,
        own_names: Callable[[], Collection[str]],
    ) -> None:
        """`own_names`: by which names this machine goes, in lower case."""
        self._configuration = configuration
        self.sessions = sessions
        self._guesses = guesses
        self._own_names = own_names

    @property
    def names(self) -> frozenset[str]:
        """By which names this router may be called, in lower case."""
        settings = self._configuration.settings
        return frozenset({settings.http_host.lower(), *self._own_names(), *map(str.lower, settings.page.hosts)})

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
            return self._showing(request, token, 401)
        session = self.sessions.of(request.cookies.get(cookie_name(request), ""), token)
        if session is not None:
            return Caller(by="session", session=session, proof=session.proof)
        return Caller(by="certificate") if self._certified(request) else Caller()

    def trusted(self, request: Request) -> Caller:
        """Who wants to look at what is guarded. Raises HTTPException for who has shown nothing."""
        caller = self.reader(request)
        if caller.trusted:
            return caller
        if self.may_log_in:
            raise HTTPException(401, guard.with_token({}, "-"), _CHALLENGE)
        raise HTTPException(403, _CERTIFICATE if self._clients else self._no_token())

    def program(self, request: Request, *, refused_with: int = 401, trusted: bool = False) -> Caller:
        """A program that wants to change something; with `trusted` one that wants to see what only the token opens.

        Raises HTTPException: `refused_with` where a token is to be shown, 403 where that would not help.
        """
        if self._certified(request) and not guard.bearer(request.headers):
            if refused := guard.own_form(request.headers):  # a browser shows its certificate whoever has it ask
                raise HTTPException(403, refused)
            return Caller(by="certificate")
        try:
            token = self._configuration.token()
        except ConfigurationError as error:
            raise HTTPException(
                403, f"The token that router.token names is not to be had, so nobody may do this: {error}."
            ) from None
        if token is not None:
            return self._showing(request, token, refused_with)
        if self._clients:
            raise HTTPException(403, _CERTIFICATE)
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

    def shows_token(self, request: Request) -> bool:
        """Whether a program shows the token; a wrong one counts as a guess."""
        token = self.token()
        if token is None or not guard.bearer(request.headers):
            return False
        try:
            return bool(self._showing(request, token, 401))
        except HTTPException:
            return False

    def try_token(self, request: Request, shown: str, token: str) -> bool:
        """Whether somebody shows the token; a wrong one is counted, once in a request.

        Raises HTTPException 429 where too many wrong ones came from there: then it is not looked at.
        """
        guesser = Guesser(request.client.host if request.client else "", request.headers)
        if (wait := self._guesses.wait(guesser)) and not getattr(request.state, "guessed", False):
            said = f"Too many wrong tokens came from this address; try again in {wait} seconds."
            raise HTTPException(429, said, {"retry-after": str(wait)})
        if right(shown, token):
            return True
        if not getattr(request.state, "guessed", False):
            request.state.guessed = True
            self._guesses.wrong(guesser)
        return False

    def _showing(self, request: Request, token: str, refused_with: int) -> Caller:
        """A program that shows the token. Raises HTTPException where it does not."""
        shown = guard.bearer(request.headers)
        if shown and self.try_token(request, shown, token):
            return Caller(by="token", proof=proof_of(token))
        raise HTTPException(refused_with, guard.with_token(request.headers, token), _CHALLENGE)

    @property
    def guards_metrics(self) -> bool:
        """Whether metrics are for those only who are trusted."""
        return self._configuration.settings.metrics == GUARDED

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
        if caller.by == "certificate":  # its connection stands
            return True
        token = self.token()
        if caller.session is not None:
            return self.sessions.of(caller.session.key, token) is not None
        return token is not None and proof_of(token) == caller.proof

    @property
    def _clients(self) -> tuple[str, ...]:
        """The certificates that are as good as the token."""
        tls = self._configuration.settings.http_tls
        return tls.clients if tls is not None else ()

    def _certified(self, request: Request) -> bool:
        """Whether the caller shows one of them."""
        clients = self._clients
        return bool(clients) and bears(getattr(request.state, "shown", None), clients)

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
