"""`apply`: sweep now, wait until the transfers end, say how."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import click
import msgspec
from rich.console import Console
from rich.text import Text

from router.cli.apply_forwards import Asked, Forwards, ask
from router.cli.considered import appointments_summary
from router.cli.progress import Ending, Seen, wait
from router.cli.render import counted, summary, sweep_row, sweeps_table, transfer_row, transfers_table
from router.cli.settings import (
    interruptible,
    load_rules,
    no_such,
    plain,
    print_json,
    progress_terminal,
    say,
    settings_of,
    terminal,
)
from router.domain.appointment import AppointmentState
from router.domain.appointment_rows import appointment_row
from router.domain.route import waits_for
from router.domain.rule import Rule, RuleSet
from router.domain.sweep import SweepState
from router.domain.transfer import State, Transfer
from router.domain.waiting import closed_nodes, explained
from router.errors import UsageError
from router.ledger.ledger import SqlLedger
from router.observe import logs
from router.opening import forward_look, running_services
from router.saying import make_due
from router.service import Service, SystemClock, open_ledger

_MANY = 100_000
_DONE = {"move": "moved", "forward": "forwarded"}


def rules_named(rules: RuleSet, names: tuple[str, ...]) -> list[Rule]:
    """The enabled rules of these names, or all. Raises UsageError for a name that is not there, or where none is."""
    for name in names:
        if name not in rules.rules:
            raise no_such("rule", name, rules.rules)
        if not rules.rules[name].enabled:
            raise UsageError(f"The rule {name} is not enabled; remove its `enabled: false` first.")
    chosen = [r for r in rules.rules.values() if r.enabled and (not names or r.name in names)]
    if not chosen:
        raise UsageError("No rule is enabled, so there is nothing to do.")
    return chosen


@click.command(short_help="Run the sweeps now and wait until their transfers end.")
@click.option("--rule", "names", multiple=True, metavar="NAME", help="Only this rule; may be repeated.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, max=10 * 365 * 86400),
    default=None,
    metavar="SECONDS",
    help="Stop waiting after so many seconds.",
)
@click.pass_context
def apply(ctx: click.Context, names: tuple[str, ...], timeout: float | None) -> int:
    """Run the sweeps of all (or these) rules now, wait until their transfers end, print what became of them.

    Rules that forward look at all that is in the store from their senders, and forward what was not forwarded. Uses the
    service that runs on the same ledger, if there is one. Exit code 0 if all is complete (or unproven with a clean
    status), 1 if not, 130 if interrupted.
    """
    settings = settings_of(ctx)
    rules = load_rules(settings)
    chosen = rules_named(rules, names)
    closed = closed_nodes(rules, SystemClock().now())
    for name in dict.fromkeys(node for r in chosen for node in (r.asked, r.source, *r.move.to) if node in closed):
        say(f"{closed[name]} What concerns it waits; --timeout ends the waiting.")
    with interruptible():
        done = _apply(rules, chosen, progress_terminal(), timeout)
    seen, ending, forwards = done.seen, done.ending, done.forwards
    if settings.json:
        rows = [transfer_row(t) | ({"verdict": "failed"} if t.id in seen.waiting else {}) for t in seen.transfers]
        looks = {"appointments": [appointment_row(one, rules) for one in seen.appointments]}
        asked = looks if any(rule.priors is not None for rule in chosen) else {}
        passed = {"forwards": [one.row for one in forwards]} if forwards else {}
        print_json({"sweeps": [sweep_row(s) for s in seen.sweeps], **passed, **asked, "transfers": rows})
    else:
        _tell(seen, terminal(), forwards)
    if ending is Ending.DEADLINE:
        open_ones = sum(not t.ended and t.id not in seen.waiting for t in seen.transfers)
        say(f"Stopped waiting after {timeout:g} s; {open_ones} of {len(seen.transfers)} transfers have not ended.")
    return 0 if good(seen) else 1


class _Done(NamedTuple):
    """What came of it."""

    seen: Seen
    ending: Ending
    forwards: Sequence[Asked] = ()
    """What rules that forward were asked for."""


def _apply(rules: RuleSet, chosen: Sequence[Rule], console: Console, timeout: float | None) -> _Done:
    """By the service that runs on this ledger, else by one of our own for the time being."""
    deadline = time.monotonic() + timeout if timeout is not None else None
    ids: list[int] | None = None
    forwards: Forwards | None = None
    with open_ledger(rules) as ledger:
        services = running_services(ledger)
        if services:
            if all(service.content_hash != rules.content_hash for service in services):
                say("The running service has another configuration loaded; it sweeps with that one.")
            ids = make_due(ledger, _sweeping(chosen), ledger.clock().now())
            forwards = ask(ledger, forward_look(rules, ledger), chosen, ledger.clock().now())
            try:
                seen, ending = wait(
                    _look(ledger, ids, rules, forwards), console, deadline, lambda: bool(running_services(ledger))
                )
            except KeyboardInterrupt:
                say("Interrupted. The running service goes on with the sweeps and their transfers.")
                raise
            if ending is not Ending.ALONE:
                return _Done(seen, ending, forwards.asked)
            say("The running service has stopped; going on without it.")
    logs.configure(quiet=True)
    service = Service(rules)
    try:
        service.start(scheduled=False)
        return _work(service, chosen, console, deadline, ids, forwards)
    except KeyboardInterrupt:
        say("Interrupted. Moves that were running are cancelled and wait in the ledger for the next apply or run.")
        raise
    finally:
        service.stop(drain=0.0)


def sweep_now(service: Service, chosen: Sequence[Rule], console: Console) -> tuple[Seen, Ending]:
    """Make these rules' sweeps due in a service of our own and wait for what comes of it."""
    return _work(service, chosen, console)[:2]


def _work(
    service: Service,
    chosen: Sequence[Rule],
    console: Console,
    deadline: float | None = None,
    ids: Sequence[int] | None = None,
    forwards: Forwards | None = None,
) -> _Done:
    """The same, unless these ids were made due and these forwards were asked for already."""
    ledger = service.ledger
    if ids is None:
        ids = make_due(ledger, _sweeping(chosen), ledger.clock().now())
    if forwards is None:
        forwards = ask(ledger, forward_look(service.rules, ledger), chosen, ledger.clock().now())
    else:
        forwards = Forwards(ledger, forwards.asked, forwards.since)
    service.wake()
    return _Done(*wait(_look(ledger, ids, service.rules, forwards), console, deadline), forwards.asked)


def _sweeping(chosen: Sequence[Rule]) -> list[Rule]:
    """Those that have a sweep, or appointments that it hastens."""
    return [rule for rule in chosen if rule.forward is None]


def _look(ledger: SqlLedger, ids: Sequence[int], rules: RuleSet, forwards: Forwards) -> Callable[[], Seen]:
    def look() -> Seen:
        # Sweeps first: one that has ended has its transfers, or its appointments, in the ledger; these have theirs.
        sweeps = ledger.sweeps(ids)
        appointments = ledger.appointments(sweeps=ids, limit=_MANY) if ids else []
        before = ledger.stopped_routes()
        passed = forwards.transfers
        swept = ledger.transfers(sweeps=ids, limit=_MANY) if ids else []
        transfers = sorted({t.id: t for t in (*swept, *passed)}.values(), key=lambda t: t.id)
        # What changed while we looked is looked at again before anybody says that nothing comes of it.
        now = ledger.clock().now()
        stopped = {one.route: one for one in ledger.stopped_routes() if one in before}
        lasting = {route: one for route, one in stopped.items() if one.probe_at > now}
        waiting = {t.id for t in transfers if waits_for(t, lasting)}
        shown = explained(transfers, stopped, closed_nodes(rules, now), now)
        return Seen(sweeps, shown, waiting, appointments, forwards.undecided(passed))

    return look


def _judged(seen: Seen) -> list[Transfer]:
    """The transfers as people are told of them: what waits for a stopped route has failed for now."""
    failed = State.FAILED
    return [msgspec.structs.replace(t, state=failed) if t.id in seen.waiting else t for t in seen.transfers]


def _tell(seen: Seen, out: Console, forwards: Sequence[Asked]) -> None:
    if seen.sweeps:
        out.print(sweeps_table(seen.sweeps))
    for one in forwards:
        out.print(plain(one.sentence))
    out.print()
    if seen.appointments:
        out.print(appointments_summary(seen.appointments))
        out.print()
    if seen.transfers:
        judged = _judged(seen)
        out.print(transfers_table(judged, width=out.width))
        out.print()
        out.print(summary(judged))
    elif seen.undecided:
        out.print(f"{counted(seen.undecided, 'study', 'studies')} not looked at yet.")
    elif all(sweep.state is SweepState.COMPLETE for sweep in seen.sweeps):
        verb = "move" if seen.sweeps or not forwards else "forward"
        out.print(
            f"Nothing to {verb}: what the rules select has been {_DONE[verb]} before, or is held or was cancelled."
        )
    else:
        out.print(Text("Nothing was moved.", "red"))


def good(seen: Seen) -> bool:
    """Whether everything is there, as far as anybody can say."""
    if seen.undecided:
        return False
    for one in seen.appointments:
        if one.state is not AppointmentState.CANCELLED and not (one.state is AppointmentState.DONE and one.complete):
            return False
    return all(sweep.state is SweepState.COMPLETE for sweep in seen.sweeps) and all(
        transfer.state in (State.COMPLETE, State.UNPROVEN) for transfer in seen.transfers
    )
