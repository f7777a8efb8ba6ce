"""`notify`: whether notifications arrive, and what was told lately."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from router.cli.render import new_table
from router.cli.settings import limit_option, load_rules, no_such, plain, print_json, settings_of, terminal
from router.domain.notice_delivery import Told
from router.domain.notice_template import test_notification
from router.domain.notice_text import title_of
from router.domain.notify import Mail
from router.domain.rule import RuleSet
from router.errors import NotDelivered, RouterError
from router.observe.notify import sender_of
from router.service import SystemClock, open_ledger, open_postman


@click.group(short_help="Notifications: test whether they arrive, list what was told.")
def notify() -> None:
    """Send test notifications, and list what people were told lately."""


@notify.command("test", short_help="Send a test notification, and say what came of it.")
@click.argument("channel", required=False)
@click.pass_context
def test(ctx: click.Context, channel: str | None) -> int:
    """Send a test notification on a channel, else on each, and say what came of it. Needs no running service.

    Exit code 1: it did not get through on one of them.
    """
    settings = settings_of(ctx)
    rules = load_rules(settings)
    channels = rules.router.notify.channels
    if not channels:
        raise RouterError("There is no channel to notify people on; add one under router.notify.channels.")
    if channel is not None and channel not in channels:
        raise no_such("channel", channel, channels)
    tried = [_tried(name, rules) for name in ([channel] if channel is not None else channels)]
    if settings.json:
        print_json({"channels": tried})
    else:
        for one in tried:
            sentence = plain(f"{one['channel']}: {one['message']}", "green" if one["sent"] else "red")
            terminal().print(sentence, soft_wrap=True)
    return 0 if all(one["sent"] for one in tried) else 1


def _tried(name: str, rules: RuleSet) -> dict[str, Any]:
    """What came of one channel."""
    channel = rules.router.notify.channels[name]
    now = SystemClock().now()
    try:
        remark = open_postman().deliver(channel, test_notification(name, now), sender_of(rules))
    except (NotDelivered, RouterError) as error:
        return {"channel": name, "sent": False, "message": f"not sent. {error}"}
    if isinstance(channel, Mail):
        message = f"sent to {', '.join(channel.to)} by {channel.host}:{channel.port}."
    else:
        message = "posted, and answered with success."
    return {"channel": name, "sent": True, "message": message + (f" But {remark}." if remark else "")}


@notify.command("list", short_help="What people were told lately, the newest first.")
@limit_option()
@click.pass_context
def list_(ctx: click.Context, limit: int) -> int:
    """What people were told in the last two days, or are still to be told; the newest first."""
    settings = settings_of(ctx)
    rules = load_rules(settings)
    with open_ledger(rules, read_only=True, create=False) as ledger:
        found = ledger.notifications(limit)
    if settings.json:
        print_json({"notifications": [_row(one) for one in found]})
        return 0
    out = terminal()
    if not found:
        out.print("Nobody was told anything in the last two days.")
        return 0
    table = new_table("at", "channel", "what", "became of it")
    for one in found:
        cells = (_time(one.made_at), one.notification.channel, title_of(one.notification), _fate(one))
        table.add_row(*(plain(cell) for cell in cells))
    out.print(table)
    return 0


def _row(one: Told) -> dict[str, Any]:
    told = one.notification
    return {
        "channel": told.channel,
        "kind": told.kind,
        "status": "resolved" if told.over else "firing",
        "severity": told.severity,
        "title": title_of(told),
        "counts": told.counts,
        "made_at": one.made_at,
        "result": one.result or "waiting",
        "attempts": one.attempts,
        "reason": one.reason,
        "next_at": None if one.result else one.next_at,
        "finished_at": one.finished_at,
    }


def _fate(one: Told) -> str:
    if one.result == "sent" and one.finished_at is not None:
        late = one.attempts - 1
        after = f", after {late} vain attempt{'s' if late > 1 else ''}" if late else ""
        return f"sent {_time(one.finished_at)}{after}" + (f"; {one.reason}" if one.reason else "")
    if one.result:
        return f"given up: {one.reason}"
    return f"next attempt {_time(one.next_at)}: {one.reason}" if one.reason else "is about to be sent"


def _time(at: datetime) -> str:
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
