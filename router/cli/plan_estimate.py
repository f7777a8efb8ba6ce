"""The part of `plan` that says how much would be moved and how long that takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from router.cli.planned import Planned
from router.cli.render import counted
from router.domain.estimate import Estimate, Rate, Work, estimate, rate_of
from router.domain.rule import RuleSet
from router.domain.selection import Action
from router.domain.transfer import Intent, Route
from router.ledger.ledger import SqlLedger

_HOUR = timedelta(hours=1)
_LONG = timedelta(minutes=30)
"""What takes longer says until when."""
_ROUTES_NAMED = 3


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """How much would be moved, and how long that takes."""

    studies: int
    """Each once, whatever its destinations and series."""
    transfers: int
    instances: int
    unknown: int
    """Transfers whose number of instances nobody knows."""
    waiting: int = 0
    """Transfers that wait in the ledger already, which the estimate reckons with."""
    stopped: tuple[Route, ...] = ()
    """Routes that are stopped: the estimate holds if they work."""
    estimate: Estimate


class Forecaster:
    """Says how long moves take, by what the ledger remembers and the configuration allows."""

    def __init__(self, ledger: SqlLedger, rules: RuleSet, now: datetime) -> None:
        """Reckons from `now` (aware). Raises LedgerError."""
        self._ledger = ledger
        self._rules = rules
        self._now = now
        self._rates: dict[Route, Rate | None] = {}
        self._stopped = [one.route for one in ledger.stopped_routes()]
        self._begun: dict[str, list[datetime]] = {}
        for route, at in ledger.moves_since(now - _HOUR):
            for name in set(route):
                self._begun.setdefault(name, []).append(at)

    def rule(self, planned: Planned) -> Forecast:
        """Of one rule, as if it were the only one. Raises LedgerError."""
        return self._of(planned.moves, ())

    def total(self, planned: Sequence[Planned]) -> Forecast:
        """Of all rules, what several of them want once, and of what waits already. Raises LedgerError."""
        moves = {intent: count for one in planned for intent, count in one.moves.items()}
        return self._of(moves, self._ledger.queued())

    def _of(self, moves: Mapping[Intent, int | None], waiting: Sequence[Work]) -> Forecast:
        sizes: dict[Route, list[int | None]] = {}
        for intent, count in moves.items():
            sizes.setdefault(Route(intent.source, intent.destination), []).append(count)
        works = [Work.of(route, counts) for route, counts in sizes.items()]
        routes = [one.route for one in (*works, *waiting)]
        return Forecast(
            studies=len({(intent.source, intent.study_instance_uid) for intent in moves}),
            transfers=len(moves),
            instances=sum(one.instances for one in works),
            unknown=sum(one.unknown for one in works),
            waiting=sum(one.moves for one in waiting),
            stopped=tuple(route for route in self._stopped if route in routes),
            estimate=estimate(
                [*works, *waiting],
                self._measured(routes),
                self._rules.nodes,
                self._rules.windows,
                self._now,
                self._begun,
            ),
        )

    def _measured(self, routes: Sequence[Route]) -> dict[Route, Rate]:
        unread = [route for route in routes if route not in self._rates]
        past = self._ledger.past_moves(unread) if unread else {}
        self._rates |= {route: rate_of(past.get(route, ())) for route in unread}
        found = {route: self._rates[route] for route in routes}
        return {route: rate for route, rate in found.items() if rate is not None}


# JSON -----------------------------------------------------------------------------------------------------------------


def estimate_json(planned: Sequence[Planned], forecaster: Forecaster) -> dict[str, Any]:
    """The `estimate` of a plan. Raises LedgerError."""
    total = forecaster.total(planned)
    return {
        "rules": [{"rule": one.rule.name, **_tally(one), **_row(forecaster.rule(one))} for one in planned],
        "total": {**_row(total), "waiting": total.waiting},
    }


def _tally(planned: Planned) -> dict[str, int]:
    actions = Counter(one.action for one in planned.decisions)
    return {"held": actions[Action.HOLD], "skipped": actions[Action.SKIP]}


def _row(forecast: Forecast) -> dict[str, Any]:
    found = forecast.estimate
    return {
        "studies": forecast.studies,
        "transfers": forecast.transfers,
        "instances": forecast.instances,
        "seconds": None if found.seconds is None else round(found.seconds, 1),
        "finish_at": found.finish_at,
        "basis": basis(forecast),
    }


# text -----------------------------------------------------------------------------------------------------------------


def said(forecast: Forecast | None, transfers: int, instances: int, unknown: int = 0, verb: str = "move") -> str:
    """One line: what is to be moved (or `verb`), and where there is a forecast how long it takes."""
    unsure = f" ({counted(unknown, 'transfer')} of unknown size)" if unknown else ""
    head = f"{_number(transfers, 'transfer')} with {_number(instances, 'instance')}{unsure} to {verb}"
    if not transfers and (forecast is None or not forecast.waiting):
        return f"Nothing to {verb}."
    if forecast is None:
        return f"{head}."
    found, why = forecast.estimate, basis(forecast)
    if found.seconds is None or found.finish_at is None:
        return f"{head}. {why[:1].upper()}{why[1:]}."
    until = ""
    if found.opens_at or found.seconds >= _LONG.total_seconds():
        until = f", until {_moment(found.finish_at)},"
    return f"{head}: about {spelled(found.seconds)}{until} {why}."


def said_of(forecast: Forecast) -> str:
    """The same for a forecast by itself."""
    return said(forecast, forecast.transfers, forecast.instances, forecast.unknown)


def said_in_all(forecast: Forecast) -> str:
    """The same for all rules together."""
    return f"In all {_number(forecast.studies, 'study', 'studies')}, {said_of(forecast)}"


def basis(forecast: Forecast) -> str:
    """What the estimate is from and what it depends on, as the rest of a sentence."""
    found = forecast.estimate
    closed = [
        f"{name} is closed by its windows" + (f" until {_moment(opens)}" if opens else " and does not open any more")
        for name, opens in found.opens_at.items()
    ]
    closed += [f"the route from {one.source} to {one.destination} is stopped" for one in forecast.stopped]
    verbs = "waits already is" if forecast.waiting == 1 else "wait already are"
    waiting = [f"{_number(forecast.waiting, 'transfer')} that {verbs} reckoned with"]
    waiting = waiting if forecast.waiting else []
    if not (forecast.transfers or forecast.waiting):
        return "nothing is to be moved"
    if found.unmeasured:
        named = " and ".join(f"from {one.source} to {one.destination}" for one in found.unmeasured[:_ROUTES_NAMED])
        more = len(found.unmeasured) - _ROUTES_NAMED
        others = f" and on {counted(more, 'other route')}" if more > 0 else ""
        return "; ".join([f"no past moves {named}{others} to estimate the time from", *closed])
    limit = f"limited by {found.bound.node}'s {found.bound.limit}" if found.bound else ""
    if found.endless:
        return "; ".join([f"it does not end within a year, {limit}", *closed, *waiting])
    rate = f"at the rate of the last {_number(found.past_moves, 'move')} ({_per_second(found)} instances/s)"
    if found.past_moves == 1:
        rate = f"at the rate of the last move ({_per_second(found)} instances/s)"
    usual = found.bound is None or found.bound.limit == "associations"
    return "; ".join([rate, *([] if usual else [limit]), *closed, *waiting])


def spelled(seconds: float) -> str:
    """A duration for people, by its largest unit or two: `4 min`, `3 h 20 min`."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if round(seconds) < 60:
        return f"{max(1, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    return _by_two(minutes, 60, "h", "min") if minutes < 24 * 60 else _by_two(hours, 24, "d", "h")


def _by_two(parts: int, size: int, unit: str, smaller: str) -> str:
    whole, rest = divmod(parts, size)
    return f"{whole} {unit}" + (f" {rest} {smaller}" if rest else "")


def _per_second(found: Estimate) -> str:
    rate = found.instances_per_second
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _moment(at: datetime) -> str:
    return f"{at.astimezone():%m-%d %H:%M %Z}"


def _number(number: int, noun: str, plural: str = "") -> str:
    return counted(number, noun, plural).replace(str(number), f"{number:,}", 1)
