"""`transfers`: what the ledger knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from router.cli.considered import considered_table
from router.cli.refused import refused_rows, show_refused
from router.cli.render import (
    STYLES,
    UNDER_WAY_STYLE,
    counted,
    size,
    transfer_row,
    transfers_table,
)
from router.cli.settings import limit_option, load_rules, no_such, plain, print_json, say, settings_of, terminal
from router.domain.appointment_rows import Considered, considered_row
from router.domain.board import said
from router.domain.levels import NEARLINE
from router.domain.pseudonym import Pseudonyms, is_pseudonym
from router.domain.rule import LOCAL, RuleSet
from router.domain.transfer import RULE_HOLDS, Attempt, Happening, Instance, State, Transfer
from router.domain.waiting import closed_nodes, explained
from router.domain.wishes import WORDS, Word
from router.engine.missing import missing_instances
from router.engine.ports import Ledger
from router.errors import ConfigurationError, LedgerMissing, RouterError, UsageError
from router.ledger.ledger import SqlLedger
from router.opening import running_services
from router.saying import say_to
from router.service import open_ledger, site_pseudonyms, studies_meant

_MISSING = 50
"""Missing instances that are listed for people; JSON has all."""


_MANY = 100_000
_STATE = click.Choice([str(state) for state in State])


@click.group(short_help="The ledger: list, show, retry, cancel, hold, release.")
def transfers() -> None:
    """List and show transfers; cancel, hold and release them; ask again for those that failed."""


@transfers.command("list", short_help="Transfers, newest first.")
@click.option("--state", "states", multiple=True, type=_STATE, help="Only this state.")
@click.option("--rule", default="", metavar="NAME", help="Only transfers of this rule.")
@click.option("--source", default="", metavar="NODE", help="Only transfers from this node.")
@click.option("--destination", default="", metavar="NODE", help="Only transfers to this node.")
@click.option(
    "--study", default="", metavar="UID", help="Only transfers of this study: its UID, or its pseudonym in the log."
)
@click.option("--history", is_flag=True, help="Only what ended long ago and is in the ledger's history.")
@limit_option()
@click.pass_context
def list_(
    ctx: click.Context,
    states: tuple[str, ...],
    rule: str,
    source: str,
    destination: str,
    study: str,
    history: bool,
    limit: int,
) -> int:
    """Transfers, newest first; with --study those in the history too."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with open_ledger(rules, read_only=True, create=False) as ledger:
        _require_known(ledger, rules, rule, source, destination)
        names = _pseudonyms(rules, ledger, needed=is_pseudonym(study))
        found = [
            transfer
            for uid in ([study] if names is None else studies_meant(study, names, ledger))
            for transfer in (ledger.history if history else ledger.transfers)(
                states=[State(s) for s in states],
                rule=rule,
                source=source,
                destination=destination,
                study_instance_uid=uid,
                limit=limit,
            )
        ][:limit]
        found = _explained(ledger, rules, found, ledger.clock().now())
    if settings.json:
        print_json({"transfers": [_row(t, names) for t in found]})
        return 0
    out = terminal()
    if not found:
        out.print("No such transfers in the history." if history else "No such transfers.")
        return 0
    out.print(transfers_table(found, width=out.width))
    if len(found) == limit:
        say(f"These are the newest {limit}; there may be more (--limit).")
    return 0


@transfers.command("show", short_help="One transfer: each attempt, and what is missing.")
@click.argument("number", type=int)
@click.pass_context
def show(ctx: click.Context, number: int) -> int:
    """One transfer: its state, each attempt, what is missing or was refused, for which appointments it is a prior."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with open_ledger(rules, read_only=True, create=False) as ledger:
        transfer = ledger.transfer(number)
        if transfer is None:
            raise RouterError(f"The ledger has no transfer {number}; `dicom-router transfers list` shows what it has.")
        (transfer,) = _explained(ledger, rules, [transfer], ledger.clock().now())
        attempts = ledger.attempts(number)
        missing = missing_instances(ledger, transfer)
        names = _pseudonyms(rules, ledger)
        reasons = ledger.reasons_of(number)
        refused = ledger.refused_instances(number)
        carried = ledger.expected_instances(number) if transfer.intent.source == LOCAL else None
    if settings.json:
        wanted = [considered_row(one, rules) for one in reasons]
        print_json(
            {
                "transfer": _row(transfer, names),
                "attempts": attempts,
                "missing": missing,
                "carries": _carried_row(carried),
                "refused": refused_rows(refused),
                "appointments": wanted,
            }
        )
    else:
        _show(transfer, attempts, missing, names, carried or ())
        show_refused(refused, transfer.intent.destination)
        _show_reasons(reasons, rules)
    return 0


def _pseudonyms(rules: RuleSet, ledger: SqlLedger, *, needed: bool = False) -> Pseudonyms | None:
    """What stands for studies in the log; None, unless it is `needed`, where there is no key or it may not be read."""
    try:
        return site_pseudonyms(rules, ledger.site_key)
    except (ConfigurationError, LedgerMissing):
        if needed:
            raise
        return None


def _explained(ledger: Ledger, rules: RuleSet, transfers: Iterable[Transfer], now: datetime) -> list[Transfer]:
    """The transfers with what they wait for now."""
    stopped = {one.route: one for one in ledger.stopped_routes()}
    return explained(transfers, stopped, closed_nodes(rules, now), now)


def _row(transfer: Transfer, names: Pseudonyms | None) -> dict[str, Any]:
    """A transfer as JSON, with what stands for its study in the log."""
    return transfer_row(transfer) | {"study": names and names.of(transfer.intent.study_instance_uid)}


def _show(
    transfer: Transfer,
    attempts: Sequence[Attempt],
    missing: list[str] | None,
    names: Pseudonyms | None,
    carried: Sequence[Instance],
) -> None:
    out = terminal()
    intent, total = transfer.intent, size(transfer)
    troubles = [
        f"{count} {word}" for word, count in (("failed", transfer.failed), ("warning", transfer.warning)) if count
    ]
    facts: dict[str, str | Text] = {
        "transfer": str(transfer.id),
        "state": Text(str(transfer.state), STYLES.get(transfer.state, UNDER_WAY_STYLE)),
        "why": plain(transfer.reason),
        "rule": transfer.rule,
        "from": said(intent.source),
        "to": intent.destination,
        "study": intent.study_instance_uid,
        "pseudonym": names.of(intent.study_instance_uid) if names else "",
        "series": intent.series_instance_uid,
        "instances": ", ".join([f"{transfer.completed} of {'?' if total is None else total}", *troubles]),
        "carries": _carried(carried),
        "near line": "yes, so it takes longer" if transfer.availability == NEARLINE else "",
        "attempts": str(transfer.attempts),
        "status": f"{transfer.status:04X}" if transfer.status is not None else "",
        "queued": f"{transfer.queued_at.astimezone():%Y-%m-%d %H:%M:%S}",
        "deadline": f"{transfer.deadline_at.astimezone():%Y-%m-%d %H:%M}" if transfer.deadline_at else "",
        "ended": f"{transfer.finished_at.astimezone():%Y-%m-%d %H:%M:%S}" if transfer.finished_at else "",
    }
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            grid.add_row(name, value)
    out.print(grid)
    if attempts:
        out.print()
        out.print(_steps(attempts))
    if missing:
        out.print(f"\n{len(missing)} missing at {intent.destination}:", style="bold")
        for uid in missing[:_MISSING]:
            out.print(f"  {uid}")
        if len(missing) > _MISSING:
            out.print(f"  and {len(missing) - _MISSING} more; --format json lists them")


def _carried(instances: Sequence[Instance]) -> str:
    """What a forward is to bring there in the end; empty where nothing was noted."""
    series = len({one.series_instance_uid for one in instances})
    return f"{counted(len(instances), 'instance')} in {counted(series, 'series', 'series')}" if instances else ""


def _carried_row(instances: Sequence[Instance] | None) -> dict[str, int] | None:
    """The same as JSON; None for what is no forward."""
    if instances is None:
        return None
    return {"series": len({one.series_instance_uid for one in instances}), "instances": len(instances)}


def _show_reasons(reasons: Sequence[Considered], rules: RuleSet) -> None:
    """For which appointments it was chosen, and why."""
    if reasons:
        out = terminal()
        out.print("\nA prior for:", style="bold")
        out.print(considered_table(reasons, rules))


def _steps(attempts: Sequence[Attempt]) -> Table:
    """What was done, a row each."""
    grid = Table(header_style="bold", box=None, pad_edge=False)
    for column in ("when", "step", "led to", "there"):
        grid.add_column(column, no_wrap=True)
    grid.add_column("what happened")
    for one in attempts:
        there = f"{one.completed}" + (f" ({one.failed} failed)" if one.failed else "")
        status = f"status {one.status:04X}" if one.status and f"{one.status:04X}" not in one.reason else ""
        grid.add_row(
            f"{one.started_at.astimezone():%m-%d %H:%M:%S}",
            one.step,
            one.happening.replace("_", " "),
            there,
            plain(f"{one.reason} ({status})" if one.reason and status else one.reason or status),
        )
    return grid


def _selection(command: Callable[..., int]) -> Callable[..., int]:
    """The numbers of transfers, or `--all` of those with certain properties."""
    options = (
        click.argument("numbers", type=int, nargs=-1),
        click.option("--all", "everything", is_flag=True, help="All it can be said to, with the properties given."),
        click.option(
            "--state", "states", multiple=True, type=click.Choice([str(s) for s in State]), help="With --all."
        ),
        click.option("--rule", default="", metavar="NAME", help="With --all: only transfers of this rule."),
        click.option("--source", default="", metavar="NODE", help="With --all: only transfers from this node."),
        click.option("--destination", default="", metavar="NODE", help="With --all: only transfers to this node."),
        click.pass_context,
    )
    for option in reversed(options):
        command = option(command)
    return command


@transfers.command("retry", short_help="Queue transfers that have ended again.")
@_selection
def retry(ctx: click.Context, **selection: Any) -> int:
    """Queue transfers that have ended again; only what is missing is moved.

    A running service takes them up, else the next `apply`. `--all` means those that failed, are partial or
    contradicted. Exit code 1 if one of them cannot be queued.
    """
    return _say_to(ctx, WORDS["retry"], **selection)


@transfers.command("cancel", short_help="Cancel transfers; what has arrived stays.")
@_selection
def cancel(ctx: click.Context, **selection: Any) -> int:
    """Cancel transfers. One that is moving is stopped (C-CANCEL); what has arrived stays.

    Exit code 1 if one of them cannot be cancelled.
    """
    return _say_to(ctx, WORDS["cancel"], **selection)


@transfers.command("hold", short_help="Keep transfers from moving until they are released.")
@_selection
def hold(ctx: click.Context, **selection: Any) -> int:
    """Keep transfers from moving until they are released. One that is moving is stopped; what has arrived stays.

    Exit code 1 if one of them cannot be held.
    """
    return _say_to(ctx, WORDS["hold"], **selection)


@transfers.command("release", short_help="Let held transfers go on.")
@_selection
def release(ctx: click.Context, **selection: Any) -> int:
    """Let held transfers go on; of a stopped route, let one try it at once.

    Exit code 1 if one of them is not held.
    """
    return _say_to(ctx, WORDS["release"], **selection)


def _require_known(ledger: SqlLedger, rules: RuleSet, rule: str, source: str, destination: str) -> None:
    """Raises UsageError for a name that neither the configuration nor the ledger has."""
    places = (LOCAL, *rules.nodes)
    for key, name, known in (
        ("rule", rule, rules.rules),
        ("source", source, places),
        ("destination", destination, places),
    ):
        if name and name not in known:
            its: Any = {key: name, "limit": 1}
            if not ledger.transfers(**its) and not ledger.history(**its):
                raise no_such("rule" if key == "rule" else "node", name, known)


def _say_to(
    ctx: click.Context,
    word: Word,
    *,
    numbers: tuple[int, ...],
    everything: bool,
    states: tuple[str, ...],
    rule: str,
    source: str,
    destination: str,
) -> int:
    if bool(numbers) is everything:
        raise UsageError("Name transfers by their numbers, or say --all.")
    if (states or rule or source or destination) and not everything:
        raise UsageError("--state, --rule, --source and --destination narrow --all; numbers need no narrowing.")
    settings = settings_of(ctx)
    changed: list[Transfer] = []
    problems: list[str] = []
    rules = load_rules(settings)
    with open_ledger(rules, create=False) as ledger:
        now = ledger.clock().now()
        if everything:
            _require_known(ledger, rules, rule, source, destination)
            chosen = [State(s) for s in states] or word.states
            found = ledger.transfers(states=chosen, rule=rule, source=source, destination=destination, limit=_MANY)
            if word.happening is Happening.HOLD:
                found = [one for one in found if one.state is not State.HELD or one.cause in RULE_HOLDS]
            numbers = tuple(sorted(transfer.id for transfer in found))
        for number in dict.fromkeys(numbers):
            try:
                changed.append(say_to(ledger, word, number, now))
            except RouterError as error:
                problems.append(str(error))
        shown = _explained(ledger, rules, changed, now)
        served = bool(running_services(ledger))
    if settings.json:
        print_json({"transfers": [transfer_row(t) for t in shown]})
    elif shown:
        out = terminal()
        out.print(transfers_table(shown, width=out.width))
    elif not problems:
        terminal().print("No such transfers.")
    under_way = sum(bool(transfer.wish) for transfer in changed)
    if under_way:
        how = "the service stops the work" if served else "its service has stopped: within a minute, or when it starts"
        say(f"{counted(under_way, 'transfer')} under way will be {word.done} in a moment; {how}.")
    waiting = len(changed) - under_way
    if waiting and not served and word.happening in (Happening.AGAIN, Happening.RELEASE):
        say(f"No service runs: `dicom-router apply` or `run` moves {'it' if waiting == 1 else 'them'}.")
    for problem in problems:
        say(f"dicom-router: {problem}")
    return 1 if problems else 0
