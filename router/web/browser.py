"""The pages for people, and the forms on them: they work without a script, and come back with a message (303)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from router import __version__
from router.config import Reload
from router.domain.events_people import ActionTaken
from router.domain.wishes import WORDS
from router.errors import LedgerError, NotPossible, NotThere, RouterError, TooBusy
from router.web import guard, pages
from router.web.api import Api, wanted
from router.web.callers import Caller, Callers, cookie_name, is_encrypted
from router.web.needs import Watched
from router.web.pages import PageContext
from router.web.reading import Asked, Parameter, form_of, parameters_of
from router.web.session import SESSION_SECONDS
from router.web.stream import Variant
from router.web.table import FILTER, STUDY

_FORM_KEY = "form_key"
_TOKEN = Parameter("token", "The token.")
_EXPLAIN = (
    Parameter("study_instance_uid", "Study Instance UID.", pattern=r"\s*[0-9.]{1,64}\s*"),
    Parameter("offline", "Ask no node.", choices=("on",)),
)
_BACK = re.compile(r"/(transfers(/[0-9]{1,18})?|configuration)?")
"""Pages that an action comes back to."""


class Browser:
    """Answers browsers."""

    def __init__(self, service: Watched, api: Api, callers: Callers, now: Callable[[], datetime]) -> None:
        self._service = service
        self._api = api
        self._callers = callers
        self._sessions = callers.sessions
        self._now = now

    # pages --------------------------------------------------------------------------------------------------------

    def board(self, asked: Asked) -> Response:
        """What goes on."""
        context = self._context(asked.request)
        return _page(pages.board_page(self._service.boards.board(identifiers=context.identifiers), context))

    def transfers(self, asked: Asked) -> Response:
        """A list of transfers, by properties that stand in the address."""
        return self._listed(asked.request, asked.query)

    def search(self, asked: Asked) -> Response:
        """The same by a form, that may hold the UID of a study: it stands in no address."""
        _, fields = self._form(asked, (*FILTER, STUDY))
        return self._listed(asked.request, fields)

    def transfer(self, asked: Asked) -> Response:
        """One transfer."""
        caller = self._callers.reader(asked.request)
        context = self._context(asked.request, caller)
        shown = self._service.lookup.transfer(
            asked.path["id"], identifiers=context.identifiers, appointments=caller.trusted
        )
        return _page(pages.transfer_page(shown.transfer, shown.attempts, shown.missing, shown.appointments, context))

    def explain(self, asked: Asked) -> Response:
        """The form for a study."""
        return _page(pages.explain_page("", None, "", self._context(asked.request)))

    def configuration(self, asked: Asked) -> Response:
        """What runs, and what is wrong with the latest attempt to load something else."""
        return _page(pages.configuration_page(self._api.overview(), self._context(asked.request)))

    def login(self, asked: Asked) -> Response:
        """The form for the token."""
        return _page(pages.login_page("", self._context(asked.request)))

    def error(self, request: Request, status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
        """A page that says why there is no other."""
        try:
            caller = self._callers.reader(request)
        except HTTPException:
            caller = Caller()
        return _page(pages.error_page(status, sentence, self._context(request, caller)), status, headers)

    def sections(self, variant: Variant) -> dict[str, str]:
        """The parts of the board for those who listen; they hold nothing that belongs to one of them."""
        context = PageContext(
            now=self._now(),
            version=__version__,
            logged_in=variant.logged_in,
            may_log_in=self._callers.may_log_in,
            identifiers=variant.identifiers,
            form_key="",
            message="",
            path="/",
            problems=self._service.readiness(),
            loaded=self._api.loaded(),
        )
        try:
            board = self._service.boards.board(identifiers=variant.identifiers)
        except LedgerError as error:
            return pages.troubled(str(error), context)
        return pages.sections(board, context)

    # forms --------------------------------------------------------------------------------------------------------

    def begin(self, asked: Asked) -> Response:
        """Log in with the token."""
        request = asked.request
        if refused := guard.own_form(request.headers):
            raise HTTPException(403, refused)
        shown = parameters_of(form_of(asked), (_TOKEN,), others=_FORM_KEY).get("token", "")
        token = self._callers.token()
        if token is None:
            return self._not_in(request, "There is no token to log in with; set router.token and restart.", 403)
        try:
            known = self._callers.try_token(request, shown, token)
        except HTTPException as late:
            return self._not_in(request, late.detail, late.status_code, dict(late.headers or {}))
        if not known:
            return self._not_in(request, "That is not the token that router.token names.", 403)
        session = self._sessions.begin(token)
        self._service.observe(ActionTaken(by="session", action="login"))
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            cookie_name(request),
            session.key,
            max_age=SESSION_SECONDS,
            path="/",
            secure=is_encrypted(request),
            httponly=True,
            samesite="strict",
        )
        return answer

    def end(self, asked: Asked) -> Response:
        """Log out."""
        caller, _ = self._form(asked, ())
        if caller.session is not None:
            self._sessions.end(caller.session.key)
        answer = RedirectResponse("/", 303)
        answer.delete_cookie(cookie_name(asked.request), path="/", httponly=True, samesite="strict")
        return answer

    def say(self, asked: Asked) -> Response:
        """Say a word to a transfer."""
        caller, _ = self._form(asked, ())
        word, number = asked.path["word"], asked.path["id"]

        def say() -> str:
            changed = self._service.saying.say(word, number)
            self._service.observe(ActionTaken(by=caller.by, action=word, transfer=number))
            if changed.wish:
                return f"Transfer {number} is under way; it will be {WORDS[word].done} in a moment."
            return f"Transfer {number} is {changed.state} now."

        return self._done(asked.request, caller, say, f"/transfers/{number}")

    def sweep(self, asked: Asked) -> Response:
        """Have a rule's sweep done now."""
        caller, _ = self._form(asked, ())
        name = asked.path["name"]

        def sweep() -> str:
            self._service.saying.sweep(name)
            self._service.observe(ActionTaken(by=caller.by, action="sweep", rule=name))
            return f"The rule {name} is swept as soon as its node lets it."

        return self._done(asked.request, caller, sweep, "/")

    def find_out(self, asked: Asked) -> Response:
        """Explain a study: the answer is the page itself, for it holds what no other page keeps."""
        caller, fields = self._form(asked, _EXPLAIN)
        study = str(fields.get("study_instance_uid", "")).strip()
        explained: dict[str, Any] | None = None
        problem, status = "", 200
        try:
            explained = self._api.explanation(caller, study, offline="offline" in fields)
        except RouterError as error:
            problem, status = str(error), status_of(error)
        return _page(pages.explain_page(study, explained, problem, self._context(asked.request, caller)), status)

    def may_reload(self, asked: Asked) -> Caller:
        """Who asks for a reload, by a form."""
        return self._form(asked, ())[0]

    def reloaded(self, request: Request, caller: Caller, done: Reload) -> Response:
        """What came of it."""
        if not done.accepted:
            said = "The configuration was refused: what ran runs on. See below."
        else:
            said = "The configuration was reloaded." if done.changed else "The configuration is the same as before."
        return self._back(request, caller, said, "/configuration", always=not done.accepted)

    # what they share ----------------------------------------------------------------------------------------------

    def _listed(self, request: Request, fields: dict[str, Any]) -> Response:
        context = self._context(request)
        rows = self._service.lookup.transfers(wanted(fields), identifiers=context.identifiers)
        filters = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in fields.items()}
        return _page(pages.transfers_page(rows, filters, context))

    def _form(self, asked: Asked, known: Sequence[Parameter]) -> tuple[Caller, dict[str, Any]]:
        """Who sends a form, and its fields. Raises HTTPException where he may not, or it is none."""
        given = form_of(asked)
        keys = [value for name, value in given if name == _FORM_KEY]
        caller = self._callers.person(asked.request, keys[0] if len(keys) == 1 else "")
        return caller, parameters_of(given, known, others=_FORM_KEY)

    def _done(self, request: Request, caller: Caller, act: Callable[[], str], default: str) -> Response:
        try:
            said = act()
        except (NotPossible, NotThere, TooBusy) as refused:
            said = str(refused)
        return self._back(request, caller, said, default)

    def _back(self, request: Request, caller: Caller, said: str, default: str, *, always: bool = False) -> Response:
        """To the page that the form was on, where that is one of ours, with a message."""
        if caller.session is not None:
            self._sessions.leave(caller.session.key, said)
        return RedirectResponse(default if always else came_from(request) or default, 303)

    def _not_in(self, request: Request, problem: str, status: int, headers: dict[str, str] | None = None) -> Response:
        return _page(pages.login_page(problem, self._context(request)), status, headers)

    def _context(self, request: Request, caller: Caller | None = None) -> PageContext:
        caller = self._callers.reader(request) if caller is None else caller
        session = caller.session
        return PageContext(
            now=self._now(),
            version=__version__,
            logged_in=session is not None,
            may_log_in=self._callers.may_log_in,
            identifiers=self._callers.shows(caller),
            form_key=session.form_key if session is not None else "",
            message=self._sessions.message(session.key) if session is not None else "",
            path=request.url.path,
            problems=self._service.readiness(),
            loaded=self._api.loaded(),
        )


def came_from(request: Request) -> str:
    """The page that a form was on, with its query; empty where it does not say, or that is none to come back to."""
    try:
        parts = urlsplit(request.headers.get("referer", ""))
    except ValueError:
        return ""
    if parts.netloc.lower() != request.headers.get("host", "").lower() or not _BACK.fullmatch(parts.path):
        return ""
    return parts.path + (f"?{parts.query}" if parts.query and parts.path == "/transfers" else "")


def now() -> datetime:
    """The time, aware, UTC."""
    return datetime.now(UTC)


def status_of(error: Exception) -> int:
    """The status of an answer that says why something did not come about."""
    if isinstance(error, NotThere):
        return 404
    return 409 if isinstance(error, NotPossible) else 503


def _page(html: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(html, status_code=status, headers=headers)
