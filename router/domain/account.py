"""What a sweep says of how it asked: sentences for people, without identifiers. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from router.domain.bisection import Cut, Dimension


def cannot_divide(name: str, cut: Cut, status: int, matches: int) -> str:
    """Why an answer of a node may lack something, where its question cannot be asked in parts."""
    if status != 0:
        return f"{name} ended a query early with status {status:04X}; {matches} matches came before."
    if cut is Cut.YES:
        return f"{name} answers at most {matches} matches, and so many came."
    return (
        f"{name} answered just {matches} matches, a number at which archives cut their answers, and the question "
        "cannot be asked in parts; set find.max_results: none there if it never does."
    )


def left_out(name: str, dropped: Mapping[str, int], level: str, unique_key: str) -> Iterator[str]:
    """What could not be used of a node's matches, and so was not looked at."""
    if number := dropped.get("undecodable", 0):
        yield f"{name} sent {number} matches that do not decode."
    if number := dropped.get("level", 0):
        yield f"{name} sent {number} matches of another level than {level}; they cannot be moved."
    if number := dropped.get("uid", 0):
        yield f"{name} sent {number} matches whose {unique_key} is none; they cannot be moved."


def account(queries: int, cut_at: int | None, splits: Mapping[Dimension, int], *, doubted: bool) -> str:
    """What it took to find everything, or as much as could be; empty where one query did."""
    if queries <= 1:
        return ""
    if cut_at is None and not splits:
        verdict = "" if doubted else ", it was no cut"
        return f"{queries} queries: a suspicious number of matches was looked into{verdict}."
    at = f"are cut at {cut_at}" if cut_at else "are cut short"
    ways = [f"{times} by {dimension}" for dimension, times in splits.items()]
    asked = f"; asked in parts: {', '.join(ways)}" if ways else ""
    return f"{queries} queries: answers {at}{asked}."
