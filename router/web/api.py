"""The API for programs: JSON of what there is, and the actions."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from router.domain.attention import Loaded
from router.domain.events_people import ActionTaken
from router.domain.transfer import State
from router.engine.explain_rows import explained_row
from router.lookup import Wanted
from router.web import status
from router.web.answers import (
    ExplainRequest,
    NodesAnswer,
    RulesAnswer,
    SaidAnswer,
    SweepAnswer,
    TransfersAnswer,
)
from router.web.callers import Caller, Callers
from router.web.needs import Configured, Watched
from router.web.openapi import description
from router.web.reading import Asked, json_of
from router.web.stream import Events, Stream, Variant


def answered(value: Any, status_code: int = 200) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), status_code=status_code, media_type="application/json")


class Api:
    """Answers programs. The methods are named in the table of endpoints; those of RouterError become answers later."""

    def __init__(self, service: Watched, configuration: Configured, callers: Callers, stream: Stream) -> None:
        self._service = service
        self._configuration = configuration
        self._callers = callers
        self._stream = stream
        self._began = time.monotonic()
        self._description = msgspec.json.encode(description())

    # reading ------------------------------------------------------------------------------------------------------

    def board(self, asked: Asked) -> Response:
        """The whole board."""
        return answered(self._service.boards.board(identifiers=self._shows(asked)))

    def rules(self, asked: Asked) -> Response:
        """Its rules."""
        board = self._service.boards.board(identifiers=self._shows(asked))
        return answered(RulesAnswer(at=board.at, rules=board.rules))

    def nodes(self, asked: Asked) -> Response:
        """Its nodes."""
        board = self._service.boards.board(identifiers=self._shows(asked))
        return answered(NodesAnswer(at=board.at, nodes=board.nodes))

    def transfers(self, asked: Asked) -> Response:
        """Transfers by their properties."""
        caller = self._callers.reader(asked.request)
        if "study" in asked.query and not caller.trusted:
            caller = self._callers.program(asked.request, trusted=True)
        found = self._service.lookup.transfers(wanted(asked.query), identifiers=self._callers.shows(caller))
        return answered(TransfersAnswer(transfers=found))

    def transfer(self, asked: Asked) -> Response:
        """One of them."""
        caller = self._callers.reader(asked.request)
        return answered(
            self._service.lookup.transfer(
                asked.path["id"], identifiers=self._callers.shows(caller), appointments=caller.trusted
            )
        )

    def configuration(self, asked: Asked) -> Response:
        """How things stand with the configuration."""
        return answered(self.overview())

    def overview(self) -> dict[str, Any]:
        """The values of it."""
        return status.overview(
            self._configuration.standing,
            self._service.health(),
            self._service.readiness(),
            time.monotonic() - self._began,
        )

    def loaded(self) -> Loaded:
        """What came of the latest attempt to load the configuration."""
        return status.loaded(self._configuration.standing)

    def openapi(self, asked: Asked) -> Response:
        """The description of all this."""
        return Response(self._description, media_type="application/json")

    def healthz(self, asked: Asked) -> Response:
        """Whether the process works."""
        return _state(self._service.health())

    def readyz(self, asked: Asked) -> Response:
        """Whether work can be taken."""
        return _state(self._service.readiness())

    def metrics(self, asked: Asked) -> Response:
        """Metrics for Prometheus."""
        if self._callers.guards_metrics:
            self._callers.trusted(asked.request)
        body, content_type = self._service.render_metrics(", ".join(asked.request.headers.getlist("accept")))
        return Response(body, headers={"content-type": content_type})

    def listener(self, asked: Asked) -> tuple[Caller, Variant]:
        """Who wants to listen, and what he may see."""
        caller = self._callers.reader(asked.request)
        return caller, Variant(logged_in=caller.session is not None, identifiers=self._callers.shows(caller))

    def events(self, caller: Caller, variant: Variant) -> Response:
        """What changes on the board, as it changes; in the event loop."""
        listener = self._stream.join(caller, variant)
        if listener is None:
            raise HTTPException(503, "Too many listen already; try again in a moment.", {"retry-after": "10"})
        return Events(self._stream, listener)

    # acting -------------------------------------------------------------------------------------------------------

    def say(self, asked: Asked) -> Response:
        """Say a word to a transfer."""
        caller = self._callers.program(asked.request)
        word, number = asked.path["word"], asked.path["id"]
        changed = self._service.saying.say(word, number)
        self._service.observe(ActionTaken(by=caller.by, action=word, transfer=number))
        seen = self._service.lookup.seen(changed, identifiers=self._callers.shows(caller))
        return answered(SaidAnswer(transfer=seen))

    def sweep(self, asked: Asked) -> Response:
        """Have a rule's sweep done now."""
        caller = self._callers.program(asked.request)
        name = asked.path["name"]
        number = self._service.saying.sweep(name)
        self._service.observe(ActionTaken(by=caller.by, action="sweep", rule=name))
        return answered(SweepAnswer(rule=name, sweep=number), 202)

    def explain(self, asked: Asked) -> Response:
        """Explain a study."""
        caller = self._callers.program(asked.request, trusted=True)
        wish = json_of(asked, ExplainRequest)
        return answered(self.explanation(caller, wish.study_instance_uid, offline=wish.offline))

    def explanation(self, caller: Caller, study: str, *, offline: bool) -> dict[str, Any]:
        """The values of it, for who has shown the token."""
        found = self._service.saying.explain(study, offline=offline)
        self._service.observe(ActionTaken(by=caller.by, action="explain"))
        known = self._service.lookup.study(study, identifiers=self._callers.shows(caller))
        return {
            "study_instance_uid": study,
            **explained_row(found),
            "considered": known.considered,
            "transfers": known.transfers,
        }

    def _shows(self, asked: Asked) -> bool:
        return self._callers.shows(self._callers.reader(asked.request))


def wanted(query: dict[str, Any]) -> Wanted:
    """The transfers that a query asks for."""
    return Wanted(
        states=tuple(State(one) for one in query.get("state", ())),
        rule=query.get("rule", ""),
        source=query.get("source", ""),
        destination=query.get("destination", ""),
        study_instance_uid=query.get("study", ""),
        limit=query["limit"],
    )


def _state(problems: dict[str, str]) -> Response:
    return answered({"status": "failing" if problems else "ok", "problems": problems}, 503 if problems else 200)
