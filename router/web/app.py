"""The application: what answers at which path, how errors are told, which headers go with every answer."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.config import Reload
from router.dimse.hostname import OwnNames
from router.domain.events_people import ActionTaken
from router.errors import RouterError
from router.observe import logs
from router.web import hosts, status
from router.web.answers import Problem
from router.web.api import Api, answered
from router.web.browser import Browser, now, status_of
from router.web.callers import Callers
from router.web.guesses import Guesses
from router.web.needs import Configured, Watched
from router.web.objects import Given
from router.web.reading import Asked, Parameter, body_of, parameters_of, value_of
from router.web.refusals import Refusals
from router.web.session import Sessions
from router.web.stream import Stream
from router.web.table import ENDPOINTS, EVENT_STREAM, FILTER, INSTANCE, NUMBER, RULE, WORD

_RELOADS_WAITING = 16
"""Requests to reload that may wait for one that is under way; further ones are told to come again."""
MOST_AT_WORK = 32
"""Requests that may ask the ledger at once. There are 40 threads: if a disk hangs, some are left to tell of it."""
WORK_SECONDS = 10.0
"""How long a further one waits for its turn."""
_STATIC_SECONDS = 300
_MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer browsers do not say which site a form comes from
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer, unless it has its own: it needs nothing from anywhere, nothing may frame it, nothing keeps it."""


class Reloads:
    """Reloads, one after the other; knows how many wait."""

    def __init__(self, configuration: Configured) -> None:
        self._configuration = configuration
        self._lock = asyncio.Lock()
        self._waiting = 0
        """Whose turn it is, included."""

    async def reload(self) -> Reload:
        """Load the configuration again. Raises HTTPException 503 where too many want to."""
        if self._waiting >= _RELOADS_WAITING:
            sentence = "Too many requests wait for a reload; try again in a moment."
            raise HTTPException(503, sentence, {"retry-after": "2"})
        self._waiting += 1
        try:
            async with self._lock:  # who waits here takes no thread from those who ask for health or metrics
                return await run_in_threadpool(self._configuration.reload)
        finally:
            self._waiting -= 1


def make_app(service: Watched, configuration: Configured, *, clock: Callable[[], float] = time.monotonic) -> Starlette:
    """The application; `clock` counts the seconds of sessions. Its `state.stream` is to be closed before it ends."""
    callers = Callers(configuration, Sessions(clock), Guesses(clock), OwnNames())
    stream = Stream(lambda variant: browser.sections(variant), callers.holds, logs.trouble)
    api = Api(service, configuration, callers, stream)
    browser = Browser(service, api, callers, now)
    reloads = Reloads(configuration)
    at_work = asyncio.Semaphore(MOST_AT_WORK)

    async def reload(request: Request) -> Response:
        caller = await run_in_threadpool(callers.program, request, refused_with=403)
        done = await reloads.reload()
        service.observe(ActionTaken(by=caller.by, action="reload"))
        return answered(status.reload_answer(configuration.standing, done), 200 if done.accepted else 422)

    async def reload_form(request: Request) -> Response:
        caller = await run_in_threadpool(browser.may_reload, Asked(request, {}, {}, await body_of(request)))
        done = await reloads.reload()
        service.observe(ActionTaken(by=caller.by, action="reload"))
        return browser.reloaded(request, caller, done)

    async def events(request: Request) -> Response:
        caller, variant = await run_in_threadpool(api.listener, Asked(request, {}, parameters_of(_query(request), ())))
        if request.method == "HEAD":
            return Response(media_type=EVENT_STREAM)
        return api.events(caller, variant)

    given = Given(service, callers)

    async def instance(request: Request) -> Response:
        parameters_of(_query(request), ())
        uids = {one.name: str(_of_path(one, request.path_params[one.name])) for one in INSTANCE}
        return await given.answer(request, **uids)

    special = {"reload": reload, "events": events, "object": instance}
    routes = [
        Route(
            one.path,
            special.get(one.name)
            or _answering(
                getattr(api, one.name),
                one.parameters if one.checked else None,
                one.path_parameters,
                at_work if 503 in one.problems else None,
            ),
            methods=[one.method],
            name=one.name,
        )
        for one in ENDPOINTS
    ]
    forms: list[tuple[str, str, Any, Sequence[Parameter], Sequence[Parameter]]] = [
        ("GET", "/", browser.board, (), ()),
        ("GET", "/transfers", browser.transfers, FILTER, ()),
        ("POST", "/transfers", browser.search, (), ()),
        ("GET", "/transfers/{id}", browser.transfer, (), (NUMBER,)),
        ("POST", "/transfers/{id}/{word}", browser.say, (), (NUMBER, WORD)),
        ("POST", "/rules/{name}/sweep", browser.sweep, (), (RULE,)),
        ("GET", "/explain", browser.explain, (), ()),
        ("POST", "/explain", browser.find_out, (), ()),
        ("GET", "/configuration", browser.configuration, (), ()),
        ("GET", "/login", browser.login, (), ()),
        ("POST", "/login", browser.begin, (), ()),
        ("POST", "/logout", browser.end, (), ()),
    ]
    routes += [
        Route(path, _answering(handler, query, in_path, at_work), methods=[method])
        for method, path, handler, query, in_path in forms
    ]
    routes += [Route("/reload", reload_form, methods=["POST"]), Route("/static/{name}", _Static().answer)]

    def problem(request: Request, code: int, sentence: str, headers: dict[str, str] | None) -> Response:
        if request.url.path.startswith(("/api/", "/-/")):
            answer = answered(Problem(error=sentence), code)
            answer.headers.update(headers or {})
            return answer
        return browser.error(request, code, sentence, headers)

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        sentence = error.detail
        if sentence == HTTPStatus(error.status_code).phrase:
            sentence = f"There is no {request.method} here." if error.status_code == 405 else "There is nothing here."
        return problem(request, error.status_code, sentence, headers)

    def impossible(request: Request, error: Exception) -> Response:
        code = status_of(error)
        return problem(request, code, str(error), {"retry-after": "2"} if code == 503 else None)

    def failed(request: Request, error: Exception) -> Response:
        logs.trouble("http", error)
        return PlainTextResponse("The router failed to answer; see its log.\n", status_code=500, headers=HEADERS)

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(_Headers),
            Middleware(Refusals, observe=service.observe, routes=routes),
            Middleware(_Hosts, callers=callers),
        ],
        exception_handlers={HTTPException: refused, RouterError: impossible, Exception: failed},
    )
    app.router.redirect_slashes = False
    app.state.stream = stream
    return app


def _answering(
    handler: Callable[[Asked], Response],
    query: Sequence[Parameter] | None,
    in_path: Sequence[Parameter],
    at_work: asyncio.Semaphore | None,
) -> Callable[[Request], Awaitable[Response]]:
    """Has a request read, and answered in a thread; `query`: the parameters there are, None: any, passed over.

    `at_work`: it may take long, and waits for its turn.
    """

    async def answer(request: Request) -> Response:
        asked = Asked(
            request,
            {one.name: _of_path(one, request.path_params[one.name]) for one in in_path},
            {} if query is None else parameters_of(_query(request), query),
            await body_of(request) if request.method == "POST" else b"",
        )
        if at_work is None:
            return await run_in_threadpool(handler, asked)
        try:
            async with asyncio.timeout(WORK_SECONDS):
                await at_work.acquire()
        except TimeoutError:
            sentence = "Too many requests wait for the ledger; try again in a moment."
            raise HTTPException(503, sentence, {"retry-after": "10"}) from None
        try:
            return await run_in_threadpool(handler, asked)
        finally:
            at_work.release()

    return answer


def _query(request: Request) -> list[tuple[str, str]]:
    return request.query_params.multi_items()


def _of_path(parameter: Parameter, value: str) -> str | int:
    try:
        return value_of(parameter, value)
    except HTTPException as error:
        raise HTTPException(404, error.detail) from None


class _Headers:
    """Adds the headers that every answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class _Hosts:
    """Answers nobody who calls this router by a name that is none of its own."""

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Over TLS the certificate keeps browsers away from other names.
        if scope["type"] == "http" and scope["scheme"] == "http" and scope["path"] not in hosts.OPEN:
            request = Request(scope)
            known = hosts.is_ours(request.headers.get("host", ""), self._callers.names)
            if not known and not await run_in_threadpool(self._callers.shows_token, request):
                await _misdirected(request.url.path)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _misdirected(path: str) -> Response:
    if path.startswith(("/api/", "/-/")):
        return answered(Problem(error=hosts.REFUSED), 403)
    return PlainTextResponse(f"{hosts.REFUSED}\n", 403)


class _Static:
    """The files of the page, kept in memory: what a browser has already is not sent again."""

    def __init__(self) -> None:
        directory = resources.files("router.web") / "static"
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for file in directory.iterdir() if directory.is_dir() else ():
            media_type = _MEDIA_TYPES.get(file.name.rpartition(".")[2])
            if media_type is not None:
                body = file.read_bytes()
                self._files[file.name] = (body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    async def answer(self, request: Request) -> Response:
        """A file, or that it is the one that the browser has."""
        found = self._files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        body, media_type, tag = found
        headers = {"etag": tag, "cache-control": f"max-age={_STATIC_SECONDS}"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=media_type, headers=headers)
