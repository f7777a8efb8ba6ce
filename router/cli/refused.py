"""The instances that a destination did not take, with the reasons: what `transfers show` says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router.cli.settings import terminal

_NAMED = 50
"""Instances that are named for people; JSON has all that are remembered."""


def refused_rows(reasons: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """A row for each instance, as JSON."""
    return [{"sop_instance_uid": uid, "reason": words} for words, uids in reasons.items() for uid in sorted(uids)]


def show_refused(reasons: Mapping[str, Sequence[str]], destination: str) -> None:
    """Reason by reason, with the instances below it."""
    out, left = terminal(), _NAMED
    for words, uids in sorted(reasons.items(), key=lambda one: (-len(one[1]), one[0])):
        out.print(f"\n{len(uids)} not taken by {destination}: {words}", style="bold")
        for uid in sorted(uids)[:left]:
            out.print(f"  {uid}")
        if len(uids) > left:
            out.print(f"  and {len(uids) - left} more; --format json lists them")
        left = max(0, left - len(uids))
