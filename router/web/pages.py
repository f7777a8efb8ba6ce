"""The pages, as HTML: server-rendered, complete without a script, nothing on them from anywhere else. Pure."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from router.domain.attention import Concern, Level, Loaded, attention, nodes_in_order, overdue, rules_in_order
from router.domain.board import MOST_LIVE, MOST_RECENT, Board, RuleSeen, TransferSeen
from router.domain.transfer import UNDER_WAY, Attempt, State
from router.lookup import MissingSeen
from router.web import shown
from router.web.shown import Clock, Look

MOST_ROWS = 30
"""Nodes and rules that stand open on the board; further ones are behind a click."""
SECTIONS = ("summary", "live", "queues", "failures", "nodes", "replicas", "rules", "activity")
"""Of the board, from the top."""
_LIMITS = ("20", "100", "500", "1000")


class PageContext(msgspec.Struct, frozen=True, kw_only=True):
    """What every page needs to know."""

    now: datetime
    version: str
    logged_in: bool
    may_log_in: bool
    """There is a token to be shown."""
    identifiers: bool
    """UIDs and patient IDs are shown."""
    form_key: str
    """What each form holds; empty where nobody is logged in, and in sections that many get."""
    message: str
    """What came of an action; empty where there was none."""
    path: str
    problems: dict[str, str]
    """What is not ready, by part."""
    loaded: Loaded | None = None
    """What came of the latest attempt to load the configuration."""


def board_page(board: Board, context: PageContext) -> str:
    """What goes on now."""
    return _page("board.html", context, sections=_sections(board, context, relative=True))


def sections(board: Board, context: PageContext) -> dict[str, str]:
    """The board's sections by id, for those who listen: times are absolute, and there is no form key.

    They change only when something happens; the script makes times relative and fills in the key.
    """
    return _sections(board, msgspec.structs.replace(context, form_key=""), relative=False)


def troubled(sentence: str, context: PageContext) -> dict[str, str]:
    """The same where there is no board to be had: the first section says why, the others stay as they are."""
    problems = {**context.problems, "ledger": sentence}
    concerns = attention(Board(at=context.now, states={}), problems, context.loaded)
    return {"summary": _summary(concerns, [], context, stale=True)}


def transfers_page(rows: Sequence[TransferSeen], filters: dict[str, str], context: PageContext) -> str:
    """A list of transfers, and the form that it was asked for with; several states stand with commas between."""
    return _page(
        "transfers.html",
        context,
        rows=rows,
        filters=filters,
        chosen=filters.get("state", "").split(","),
        states=[str(state) for state in State],
        limits=_limits(filters.get("limit", "")),
    )


def transfer_page(
    seen: TransferSeen,
    attempts: Sequence[Attempt],
    missing: MissingSeen | None,
    appointments: Sequence[dict[str, Any]] | None,
    context: PageContext,
) -> str:
    """One transfer."""
    return _page(
        "transfer.html", context, seen=seen, attempts=attempts, missing=missing, appointments=appointments or ()
    )


def explain_page(study: str, explained: dict[str, Any] | None, problem: str, context: PageContext) -> str:
    """Why a study is moved, or not."""
    return _page("explain.html", context, study=study, explained=explained, problem=problem)


def configuration_page(values: dict[str, Any], context: PageContext) -> str:
    """What runs, and what is wrong with the latest attempt to load something else; `values` are those of the API."""
    return _page("configuration.html", context, **values, uptime=shown.spelled(values["uptime_seconds"]))


def login_page(problem: str, context: PageContext) -> str:
    """Where the token is asked for."""
    return _page("login.html", context, problem=problem)


def error_page(status: int, sentence: str, context: PageContext) -> str:
    """Why there is no other page."""
    return _page("error.html", context, status=status, phrase=HTTPStatus(status).phrase, sentence=sentence)


# --- How ---------------------------------------------------------------------------------------------------------


def _page(template: str, context: PageContext, **values: Any) -> str:
    clock = Clock(context.now, relative=True)
    return _ENVIRONMENT.get_template(template).render(values, context=context, clock=clock)


def _sections(board: Board, context: PageContext, *, relative: bool) -> dict[str, str]:
    concerns = attention(board, context.problems, context.loaded)
    clock = Clock(context.now, relative=relative)

    def rule_row(rule: RuleSeen) -> str:
        late = overdue(rule, board.at)
        return _rule_row(rule, late, context, clock) if relative else _lasting_rule_row(rule, late, context.logged_in)

    values = {
        "board": board,
        "context": context,
        "clock": clock,
        "row": rule_row,
        "waiting": [one for one in board.queues if one.queued or one.held],
        "nodes": nodes_in_order(board.nodes),
        "rules": rules_in_order(board.rules, board.at),
    }
    return {
        "summary": _summary(concerns, _counts(board), context),
        **{name: _ENVIRONMENT.get_template(f"section_{name}.html").render(values).strip() for name in SECTIONS[1:]},
    }


def _summary(
    concerns: Sequence[Concern], counts: list[tuple[str, int]], context: PageContext, *, stale: bool = False
) -> str:
    headline = _headline([one.level for one in concerns])
    template = _ENVIRONMENT.get_template("section_summary.html")
    return template.render(concerns=concerns, headline=headline, counts=counts, context=context, stale=stale).strip()


def _rule_row(rule: RuleSeen, late: bool, context: PageContext | _Viewer, clock: Clock) -> str:
    template = _ENVIRONMENT.get_template("row_rule.html")
    return template.render(one=rule, late=late, context=context, logged_in=context.logged_in, clock=clock)


@functools.lru_cache(maxsize=4096)
def _lasting_rule_row(rule: RuleSeen, late: bool, logged_in: bool) -> str:
    """The row of a rule as those get it who listen. With hundreds of rules few of them change in a second."""
    return _rule_row(rule, late, _Viewer(logged_in), Clock(_ANY_TIME, relative=False))


class _Viewer(NamedTuple):
    """What a row needs of the context, but for the key."""

    logged_in: bool
    form_key: str = ""


_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""A clock that tells absolute times needs none."""


def _headline(levels: Sequence[Level]) -> str:
    """How much needs a look."""
    counts = [(levels.count(level), word) for level, word in ((Level.ERROR, "problem"), (Level.WARNING, "warning"))]
    return ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for number, word in counts if number)


def _counts(board: Board) -> list[tuple[str, int]]:
    """What is under way, always; of what has ended, what there is."""
    return [
        (str(state), board.states.get(state, 0)) for state in State if state in UNDER_WAY or board.states.get(state, 0)
    ]


def _limits(chosen: str) -> list[str]:
    """What may be chosen, and what was."""
    return sorted({*_LIMITS, chosen} - {""}, key=lambda one: (len(one), one))


def _clean(value: object) -> str:
    """A value on one line, without characters that have no picture, or turn the direction of what follows."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        " " if one in "\t\n\r" else "\ufffd" if unicodedata.category(one) in ("Cc", "Cf", "Cs") else one for one in text
    )


def _slug(name: str) -> str:
    """A name as part of an id; different names make different ones."""
    return "".join(one if one.isascii() and (one.isalnum() or one in "-_") else f".{ord(one):x}." for one in name)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


_LOOKS = {
    "stopped": Look("stopped", "bad"),
    "disabled": Look("not enabled", "idle"),
    "arriving": Look("arriving", "busy"),
    "overdue": Look("overdue", "warn"),
    "ok": Look("ok", "good"),
    "failing": Look("failing", "bad"),
    "refused": Look("refused", "bad"),
    "restart": Look("restart needed", "warn"),
    "problem": Look("problem", "bad"),
    "found": Look("found", "good"),
    "not_found": Look("not found", "idle"),
    "not_asked": Look("not asked", "idle"),
    "nothing_missing": Look("Nothing is missing.", "good"),
}

_FILTERS: dict[str, Callable[..., Any]] = {
    "machine": shown.machine,
    "absolute": shown.absolute,
    "took": shown.spelled,
    "moment": _moment,
    "clean": _clean,
    "slug": _slug,
    "quote": lambda text: quote(str(text), safe=""),
    "bar": shown.bar_of,
    "state": shown.of_state,
    "sweep": shown.of_sweep,
    "node": shown.of_node,
    "replica": shown.of_replica,
    "gate": shown.of_gate,
    "decision": shown.of_decision,
    "clause": shown.of_clause,
    "level": lambda level: shown.LEVELS[level],
    "tone": lambda level: shown.LEVELS[level].tone,
}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("router.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    environment.globals.update(looks=_LOOKS, most_rows=MOST_ROWS, most_live=MOST_LIVE, most_recent=MOST_RECENT)
    return environment


_ENVIRONMENT = _environment()
