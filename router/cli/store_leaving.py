"""What `store leaving` prints: when studies leave the store, or why they stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console

from router.cli.leave import by_study
from router.cli.render import counted, new_table, short
from router.cli.settings import plain
from router.cli.store_text import byte_count
from router.domain.pseudonym import Pseudonyms
from router.domain.retention import HeldStudy, Leaving, Why

OFF = "router.retention is not set: nothing ever leaves the store."

MEANINGS: dict[Why, str] = {
    Why.TRANSFERS: "Transfers to or from the store are under way.",
    Why.ARRIVALS: "Rules have not yet decided whether to pass on what came in.",
    Why.APPOINTMENTS: "They are priors for appointments to come.",
    Why.NOT_SENT_ON: "Nothing sends them on: this store is where they are to be.",
    Why.UNPROVEN: "Not every forward is proven (dicom-router transfers list).",
    Why.UNSENT: "Some of their instances nothing sends on.",
    Why.RETURNED: "They came again after they had left, and were not sent on again.",
    Why.KEEP: "router.retention.keep is not over.",
    Why.ROOM: "They may leave, once the disk is fuller than the watermark.",
}


def leaving_row(decided: Leaving | None, names: Pseudonyms | None, limit: int) -> dict[str, Any]:
    """As JSON; its field names are a contract."""
    if decided is None:
        return {"retention": False, "leave": [], "stay": [], "counts": {}, "lacking": 0}
    return {
        "retention": True,
        "leave": [_row(one, names) for one in decided.leave[:limit]],
        "stay": [
            {**_row(one.study, names), "why": one.why, "reason": one.reason, "leaves_at": one.until}
            for one in decided.stay[:limit]
        ],
        "counts": {
            why: {"studies": len(of), "bytes": sum(one.size for one in of)} for why, of in _counts(decided).items()
        },
        "lacking": decided.lacking,
    }


def print_leaving(out: Console, decided: Leaving, names: Pseudonyms | None, limit: int) -> None:
    """For people: the sums, then each study, what leaves first."""
    studies = len(decided.leave) + len(decided.stay)
    size = byte_count(sum(one.size for one in decided.leave))
    out.print(f"{len(decided.leave)} of {counted(studies, 'study', 'studies')} would leave now, {size}.")
    if decided.lacking:
        out.print(f"That is {byte_count(decided.lacking)} less than the watermark wants.")
    if not studies:
        return
    sums = new_table("why they stay", "studies", "size", "", right=("studies", "size"))
    for why, of in _counts(decided).items():
        if why in MEANINGS:
            sums.add_row(why, str(len(of)), byte_count(sum(one.size for one in of)), MEANINGS[Why(why)])
    if sums.row_count:
        out.print()
        out.print(sums)
    table = new_table("study", "pseudonym", "size", "last", "leaves", "", right=("size",))
    leaves = by_study(decided)
    shown: Iterable[HeldStudy] = [*decided.leave, *(one.study for one in decided.stay)]
    for one in [*shown][:limit]:
        leave = leaves[one.study_instance_uid]
        table.add_row(
            short(one.study_instance_uid),
            names.of(one.study_instance_uid) if names else "-",
            byte_count(one.size),
            f"{one.last_received_at.astimezone():%Y-%m-%d %H:%M}",
            leave.word,
            plain(leave.reason),
        )
    out.print()
    out.print(table)
    if studies > limit:
        out.print(f"and {studies - limit} more (--limit)")


def _counts(decided: Leaving) -> dict[str, list[HeldStudy]]:
    """What leaves, and what stays for which reason, in the order of the reasons."""
    found: dict[str, list[HeldStudy]] = {"leave": list(decided.leave), **{str(why): [] for why in Why}}
    for one in decided.stay:
        found[one.why].append(one.study)
    return {why: of for why, of in found.items() if of}


def _row(study: HeldStudy, names: Pseudonyms | None) -> dict[str, Any]:
    return {
        "study_instance_uid": study.study_instance_uid,
        "study": names and names.of(study.study_instance_uid),
        "bytes": study.size,
        "last_received": study.last_received_at,
        "forwards": study.forwards,
        "proven": study.proven_forwards,
    }
