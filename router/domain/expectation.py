"""What a source holds of a study, by its answers at IMAGE, SERIES and STUDY level, and how to ask for some of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from router.domain.transfer import Instance

TRUSTS = ("auto", "image", "series", "study", "none")
"""How far a node is trusted to say what it holds: `nodes.NAME.find.expected`.

`auto`: its lists, its series' counts and its study's count; where they differ the greatest holds. `image`: its lists,
and counts only of series that it does not list. `series`: its series' counts. `study`: its study's. `none`: nothing.
"""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a node answered at SERIES and IMAGE level."""

    counts: Mapping[str, int | None]
    """Series Instance UID -> Number of Series Related Instances, None where it does not say."""
    instances: Mapping[str, tuple[str, ...]]
    """Series Instance UID -> SOP Instance UIDs; a series that was not asked for is not here."""
    cut: frozenset[str] = frozenset()
    """Series whose lists may not be whole; the empty string for the list of the series themselves."""

    @property
    def listed(self) -> list[Instance]:
        """All instances that are listed."""
        return [Instance(series, uid) for series, uids in self.instances.items() for uid in uids]


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What the source holds, as far as it says.

    A list shorter than a count is not the whole: archives exist that leave out reports at IMAGE level, or end every
    answer after a hundred matches.
    """

    instances: frozenset[Instance] | None = None
    """The IMAGE-level list, where it could be had."""
    series: Mapping[str, int | None] | None = None
    """Series Instance UID -> instances in it; None where nothing is known of a series."""
    count: int | None = None
    """The number it reports of the whole."""

    @property
    def by_series(self) -> Mapping[str, int] | None:
        """The number of instances of each series, where all are known."""
        if self.series is None and self.instances and len(self.instances) >= (self.count or 0):
            return Counter(one.series_instance_uid for one in self.instances)
        known = {series: number for series, number in (self.series or {}).items() if number is not None}
        return known if known and len(known) == len(self.series or {}) else None

    @property
    def size(self) -> int | None:
        """Number of instances, if known: the greatest of list, series' counts and count."""
        listed = len(self.instances or ())
        by_series = self.by_series
        if by_series is not None:
            return max(listed, sum(by_series.values()), self.count or 0)
        if self.series or self.instances is None:
            # A series of which nothing is known may hold more than the others' lists.
            return self.count if self.count is not None and self.count >= listed else None
        return max(listed, self.count or 0)

    @property
    def listed_in_full(self) -> bool:
        """Whether the list names every instance."""
        return self.instances is not None and len(self.instances) == self.size


def expect(trust: str, listing: Listing | None, count: int | None) -> Expectation:
    """What to expect of a source that answered so; `count` is what it reports of the whole.

    An empty list of a series means nothing: archives exist that list no reports. Its count holds then, if there is one.
    """
    if trust == "none":
        return Expectation()
    if trust == "study" or listing is None or not listing.counts:
        return Expectation(count=count)
    numbers: dict[str, int | None] = {}
    for series, counted in listing.counts.items():
        listed = len(listing.instances.get(series, ()))
        if series in listing.cut:
            numbers[series] = counted if counted is not None and counted >= listed else None
        elif not listed:
            numbers[series] = counted
        else:
            numbers[series] = listed if trust == "image" else max(listed, counted or 0)
    if "" in listing.cut:
        numbers[""] = None  # there may be series that nobody named
    whole = None not in numbers.values()
    return Expectation(
        instances=frozenset(listing.listed) or None,
        series=numbers,
        count=None if whole and trust in ("image", "series") else count,
    )


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """One C-MOVE: of all, of whole series, or of instances of one series."""

    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()
    size: int | None
    """Instances it asks for, if known."""


AS_A_WHOLE, BY_SERIES, BY_INSTANCE = 0, 1, 2
"""How small the requests are to be: as large as the difference allows, a series each, lists of instances."""


def requests(
    expectation: Expectation,
    missing: frozenset[Instance] | None,
    short: frozenset[str] | None,
    maximum: int,
    smallness: int = AS_A_WHOLE,
) -> list[Portion]:
    """The C-MOVEs that ask for what is missing, and for no more where that can be said.

    `missing` are instances, `short` series that are not whole at the destination; None where nobody knows. No list of
    UIDs is longer than `maximum`.
    """
    everything = Portion(size=expectation.size)
    if missing is not None and expectation.listed_in_full:
        if smallness == AS_A_WHOLE and missing == expectation.instances:
            return [everything]
        return portions(missing, expectation.instances or (), maximum, smallness)
    known = expectation.by_series
    if known is None:
        return [everything]
    wanted = sorted(short if short and short <= known.keys() else known)
    if smallness == AS_A_WHOLE:
        return [everything] if len(wanted) == len(known) else _series(wanted, known, maximum)
    listed: dict[str, list[Instance]] = {}
    for one in expectation.instances or ():
        listed.setdefault(one.series_instance_uid, []).append(one)
    result = []
    for series in wanted:
        of_it = listed.get(series, [])
        if smallness == BY_INSTANCE and len(of_it) == known[series]:
            result += portions(of_it, of_it, maximum, BY_INSTANCE)
        else:
            result += _series([series], known, maximum)
    return result


def portions(
    missing: Iterable[Instance], expected: Iterable[Instance], maximum: int, smallness: int = AS_A_WHOLE
) -> list[Portion]:
    """How to ask for what is missing only, where every instance is known.

    Series that are missing whole are asked for together at SERIES level, instances one list per series at IMAGE level
    (a list may not cross its parent, PS3.4 section C.4.2.1.4.1); no list is longer than `maximum` UIDs.
    """
    by_series: dict[str, list[str]] = {}
    for series, instance in sorted(missing):
        by_series.setdefault(series, []).append(instance)
    totals: dict[str, int] = {}
    for series, _ in expected:
        totals[series] = totals.get(series, 0) + 1
    whole = [
        series for series, uids in by_series.items() if smallness < BY_INSTANCE and len(uids) >= totals.get(series, 0)
    ]
    sizes = {series: len(by_series[series]) for series in whole}
    result = _series(whole, sizes, maximum if smallness == AS_A_WHOLE else 1)
    for series, uids in by_series.items():
        if series in sizes:
            continue
        for start in range(0, len(uids), maximum):
            some = tuple(uids[start : start + maximum])
            result.append(Portion(series_instance_uids=(series,), sop_instance_uids=some, size=len(some)))
    return result


def _series(series: list[str], sizes: Mapping[str, int], maximum: int) -> list[Portion]:
    result = []
    for start in range(0, len(series), maximum):
        some = tuple(series[start : start + maximum])
        result.append(Portion(series_instance_uids=some, size=sum(sizes[one] for one in some)))
    return result
