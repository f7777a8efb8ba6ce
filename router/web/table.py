"""The endpoints for programs, one row each. Routes, the reading of parameters and the description are made of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from router.domain.board import Board
from router.domain.transfer import State
from router.domain.wishes import WORDS
from router.web import answers
from router.web.reading import Parameter

NUMBER = Parameter("id", "Number of a transfer.", between=(1, 10**18 - 1), example=17)
WORD = Parameter("word", "What is said to the transfer.", choices=tuple(WORDS), example="retry")
RULE = Parameter("name", "Name of a rule.", pattern=r"[^\x00-\x1f]{1,200}", example="ct-to-workstation")
_UID = r"[0-9.]{1,64}"
_NAME = r"[^\x00-\x1f]{1,200}"
FILTER = (
    Parameter(
        "state", "Only this state; may be repeated.", choices=tuple(map(str, State)), many=True, example="failed"
    ),
    Parameter("rule", "Only transfers of this rule.", pattern=_NAME, example="ct-to-workstation"),
    Parameter("source", "Only transfers from this node.", pattern=_NAME, example="archive"),
    Parameter("destination", "Only transfers to this node, or `local`.", pattern=_NAME, example="local"),
    Parameter("limit", "At most so many.", between=(1, 1000), default=100, example=20),
)
INSTANCE = (
    Parameter("study", "Study Instance UID.", pattern=_UID, example="1.2.3"),
    Parameter("series", "Series Instance UID.", pattern=_UID, example="1.2.3.4"),
    Parameter("instance", "SOP Instance UID.", pattern=_UID, example="1.2.3.4.5"),
)
STUDY = Parameter("study", "Only transfers of this Study Instance UID; needs the token.", pattern=_UID, example="1.2.3")
EVENT_STREAM = "text/event-stream"
PART10 = "application/dicom"


class Needs(StrEnum):
    """What a caller has to be."""

    NOTHING = "nothing"
    ACTING = "acting"
    """Has shown the token, or is a program on this machine where there is none."""
    TOKEN = "token"
    """Has shown the token."""


class Endpoint(NamedTuple):
    """One endpoint."""

    method: str
    path: str
    name: str
    """Of the function that answers."""
    summary: str
    answers: dict[int, tuple[str, Any]]
    """Status -> in words, and the type of the JSON; None: of no type that could be described."""
    problems: tuple[int, ...] = ()
    """Statuses with a Problem."""
    parameters: tuple[Parameter, ...] = ()
    """Of the query."""
    path_parameters: tuple[Parameter, ...] = ()
    body: Any = None
    needs: Needs = Needs.NOTHING
    media_type: str = "application/json"
    checked: bool = True
    """Unknown parameters are an error."""


_READ = (400, 401, 403, 429, 503)
_ACT = (400, 401, 403, 408, 413, 429, 503)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/api/v1/board",
        "board",
        "What moves now, what waits and why, rules, nodes, recent failures and other ends.",
        {200: ("The board.", Board)},
        _READ,
    ),
    Endpoint(
        "GET",
        "/api/v1/rules",
        "rules",
        "The rules with their last and next sweeps.",
        {200: ("The rules.", answers.RulesAnswer)},
        _READ,
    ),
    Endpoint(
        "GET",
        "/api/v1/nodes",
        "nodes",
        "The nodes, and why they hold work back.",
        {200: ("The nodes.", answers.NodesAnswer)},
        _READ,
    ),
    Endpoint(
        "GET",
        "/api/v1/transfers",
        "transfers",
        "Transfers, the newest first.",
        {200: ("Those that have all of the properties asked for.", answers.TransfersAnswer)},
        _READ,
        parameters=(*FILTER, STUDY),
    ),
    Endpoint(
        "GET",
        "/api/v1/transfers/{id}",
        "transfer",
        "One transfer, its attempts, what is missing, and the appointments that it is a prior for.",
        {200: ("The transfer.", answers.TransferAnswer)},
        (*_READ, 404),
        path_parameters=(NUMBER,),
    ),
    Endpoint(
        "POST",
        "/api/v1/transfers/{id}/{word}",
        "say",
        "Say retry, cancel, hold or release to a transfer.",
        {200: ("What it is now; where a worker holds it, what it is until he lets go of it.", answers.SaidAnswer)},
        (*_ACT, 404, 409),
        path_parameters=(NUMBER, WORD),
        needs=Needs.ACTING,
    ),
    Endpoint(
        "POST",
        "/api/v1/rules/{name}/sweep",
        "sweep",
        "Have the rule's sweep (of the tier that looks back farthest), or its look at the worklist, done now.",
        {202: ("It will be done as soon as its node lets it.", answers.SweepAnswer)},
        (*_ACT, 404, 409),
        path_parameters=(RULE,),
        needs=Needs.ACTING,
    ),
    Endpoint(
        "POST",
        "/api/v1/explain",
        "explain",
        "Say what each rule makes of a study, and why. Asks nodes (C-FIND) unless offline; moves nothing.",
        {200: ("Each rule with its clauses, gates and decisions.", answers.ExplainAnswer)},
        (*_ACT, 409),
        body=answers.ExplainRequest,
        needs=Needs.TOKEN,
    ),
    Endpoint(
        "GET",
        "/api/v1/objects/{study}/{series}/{instance}",
        "object",
        "An instance of this router's own object store, as it came. Other replicas fetch what they send on.",
        {200: ("The Part 10 file (PS3.10 section 7), byte for byte.", None)},
        (400, 401, 403, 404, 429, 503),
        path_parameters=INSTANCE,
        needs=Needs.TOKEN,
        media_type=PART10,
    ),
    Endpoint(
        "GET",
        "/api/v1/configuration",
        "configuration",
        "The running configuration, the latest attempt to load one with its diagnostics, health and readiness.",
        {200: ("How things stand.", answers.ConfigurationAnswer)},
        (400, 403),
    ),
    Endpoint(
        "GET",
        "/api/v1/events",
        "events",
        "The parts of the board's page, as they change (server-sent events).",
        {
            200: (
                "`board`: JSON, section -> HTML, of what changed; first all of it. `heartbeat` where nothing does.",
                None,
            )
        },
        _READ,
        media_type=EVENT_STREAM,
    ),
    Endpoint(
        "GET",
        "/api/v1/openapi.json",
        "openapi",
        "This description.",
        {200: ("OpenAPI 3.1.", dict[str, Any])},
        (400, 403),
    ),
    Endpoint(
        "POST",
        "/-/reload",
        "reload",
        "Load the configuration again; where it has errors nothing changes.",
        {200: ("It was taken.", answers.ReloadAnswer), 422: ("It was refused.", answers.ReloadAnswer)},
        (403, 429, 503),
        needs=Needs.ACTING,
        checked=False,
    ),
    Endpoint(
        "GET",
        "/healthz",
        "healthz",
        "Whether the process works.",
        {200: ("It does.", answers.StateAnswer), 503: ("It does not.", answers.StateAnswer)},
        checked=False,
    ),
    Endpoint(
        "GET",
        "/readyz",
        "readyz",
        "Whether work can be taken.",
        {200: ("It can.", answers.StateAnswer), 503: ("It cannot.", answers.StateAnswer)},
        checked=False,
    ),
    Endpoint(
        "GET",
        "/metrics",
        "metrics",
        "Metrics for Prometheus. Where router.metrics is guarded they need the token.",
        {200: ("In the format that is asked for.", None)},
        (401, 403, 429),
        media_type="text/plain",
        checked=False,
    ),
)
