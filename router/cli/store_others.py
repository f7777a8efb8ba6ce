"""`store`, where several replicas have one each: whose is whose, what cannot be seen from here, one that is gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import click

from router.cli.render import counted
from router.cli.settings import interruptible, load_rules, plain, print_json, say, settings_of, terminal
from router.domain.replicas import SILENT_SECONDS
from router.errors import NotPossible, NotThere, UsageError
from router.ledger.ledger import SqlLedger
from router.service import open_ledger

SEEN_SECONDS = 60.0
"""A service that was seen so lately may still have its store."""
_NAMED = 20
"""Numbers of transfers that are listed for people; JSON has all."""


def replicas_of(ledger: SqlLedger) -> dict[str, str]:
    """Name of a store -> the replica that has it, or had it last; empty where that had no name."""
    return {one.name: one.replica for one in ledger.stores()}


def say_elsewhere(ledger: SqlLedger, own: str, only: Sequence[str] | None, done: str) -> None:
    """Tell what is in the stores of other replicas, and was therefore not done."""
    all_, here = ledger.stored_amount(only), ledger.stored_amount(only, own)
    if all_.instances > here.instances:
        others = sorted({replica or name for name, replica in replicas_of(ledger).items() if name != own})
        where = f" ({', '.join(others)})" if others else ""
        what = counted(all_.instances - here.instances, "instance")
        say(f"{what} in the stores of other replicas{where} cannot be seen from here and are not {done}: do it there.")


@click.command("forget", short_help="Forget a store that is gone for good.")
@click.argument("name", metavar="STORE")
@click.option("--yes", is_flag=True, help="Really do it: what the store held counts as received no more.")
@click.option("--retry", is_flag=True, help="With --yes: queue the transfers again that lose instances by it.")
@click.pass_context
def forget(ctx: click.Context, name: str, yes: bool, retry: bool) -> int:
    """Forget the receipts of a store that is gone for good: STORE is the name of its replica, or of the store itself.

    What it held is then no evidence any more, and nothing waits for it: transfers that were to send it on go on with
    what there is. Studies that were moved there are not moved again by themselves: `--retry` queues their transfers,
    those in the history too; only what is missing is moved. No file is touched.
    """
    rules = load_rules(settings_of(ctx))
    with interruptible(), open_ledger(rules, create=False) as ledger:
        store = _meant(name, ledger)
        now = ledger.clock().now()
        for one in ledger.services(now - timedelta(seconds=SEEN_SECONDS)):
            if one.store == store:
                raise NotPossible(_not_gone(name, one.replica, (now - one.seen_at).total_seconds()))
        if not yes:
            amount = counted(ledger.store_amounts().get(store, 0), "instance")
            raise UsageError(f"The store {name} held {amount}{_would_lose(ledger.losing(store))}")
        forgotten = ledger.forget_store(store, again_at=now if retry else None)
    queued = len(forgotten.lost) if retry else 0
    if settings_of(ctx).json:
        row = {"store": store, "forgotten": forgotten.instances, "lost": list(forgotten.lost), "queued": queued}
        print_json(row)
    else:
        terminal().print(f"Forgotten: the store {store} with {counted(forgotten.instances, 'instance')}.")
        if forgotten.lost:
            terminal().print(plain(_lost(forgotten.lost, queued)))
    return 0


def _not_gone(name: str, replica: str, seconds: float) -> str:
    if seconds < SILENT_SECONDS:
        return f"The store {name} is not gone: {replica or 'a service'} runs and has it. Stop that first."
    who = f"The replica {replica}" if replica else "A service"
    return f"{who}, whose store that is, was last seen {seconds:.0f} s ago; if it is gone, say this again in a minute."


def _would_lose(losing: Sequence[int]) -> str:
    if not losing:
        return "; say --yes to forget them for good."
    them = counted(len(losing), "transfer")
    return (
        f", which {them} to local would lose; say --yes --retry to forget them for good and have what was lost moved "
        "again, or --yes to forget them only."
    )


def _lost(lost: Sequence[int], queued: int) -> str:
    has = f"{counted(len(lost), 'transfer')} to local {'has' if len(lost) == 1 else 'have'} lost instances"
    if queued:
        return f"{has} and {'is' if queued == 1 else 'are'} queued again."
    if len(lost) > _NAMED:
        numbers = " ".join(map(str, lost[:_NAMED]))
        more = f"{numbers} and {len(lost) - _NAMED} more"
        return f"{has}: {more}. `dicom-router transfers retry NUMBER ...` queues them again."
    return f"{has}; `dicom-router transfers retry {' '.join(map(str, lost))}` queues them again."


def _meant(name: str, ledger: SqlLedger) -> str:
    """The name of the store. Raises NotThere, UsageError where a replica had several."""
    amounts = ledger.store_amounts()
    known = replicas_of(ledger)
    if name and (name in amounts or name in known):
        return name
    theirs = [store for store, replica in known.items() if replica and replica == name]
    if len(theirs) > 1:
        raise UsageError(f"The replica {name} had several stores: say which: {', '.join(sorted(theirs))}.")
    if not theirs:
        there = sorted({known.get(store) or store for store in {*amounts, *known} if store})
        raise NotThere(f"No store of the ledger is called so; there are: {', '.join(there) or 'none'}.")
    return theirs[0]
