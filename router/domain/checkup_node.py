"""Verdicts of `doctor` on what a node does: answers to a cheap query, its clock, its cap, its routes in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from router.domain.bisection import SUSPICIOUS
from router.domain.causes import FIND_FAILURES
from router.domain.checkup import Around, Check, fail, ok, skipped, warn
from router.domain.dicom import Identifier, filled_in
from router.domain.exchange import FindResult
from router.domain.outcome import quotable
from router.domain.route import StoppedRoute
from router.domain.timing import parse_da

CANCELLED, OUT_OF_RESOURCES = 0xFE00, 0xA700
SLOW_ANSWER = 10.0
"""Seconds for a query of one day that are long."""
TOLERANCE = timedelta(minutes=15)
"""How far a study may be dated ahead: modalities' clocks are seldom better."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a cheap query brought. `first` and `last` are the days that were asked for (YYYYMMDD)."""

    result: FindResult
    asked: int
    """Matches after which it was cancelled."""
    seconds: float
    first: str
    last: str

    @property
    def rows(self) -> list[Identifier]:
        """The matches."""
        return self.result.identifiers

    @property
    def whole(self) -> bool:
        """Whether it ended by itself, with success."""
        return self.result.status == 0

    @property
    def enough(self) -> bool:
        """Whether it was this side that ended it."""
        return len(self.rows) >= self.asked


_ADVICE = {
    0x0124: "at {node}: allow {calling} to query",
    0x0122: "at {node}: allow {calling} to query, or try the other root at {root}",
    0xA900: "at {node}: switch on Study Root, or relational queries; or try the other root at {root}",
}
"""By the status of a query that failed: what to do."""


def answered(answer: Answer, around: Around) -> Check:
    """On the query itself."""
    node, result = around.node.name, answer.result
    if result.status not in (0, CANCELLED, OUT_OF_RESOURCES) and not answer.enough:
        meaning = FIND_FAILURES.get(result.status, "the source is unable to process the query")
        said = f" It says: {quotable(result.error_comment)}." if result.error_comment else ""
        return fail(
            "query",
            "query-failed",
            f"It failed a query for the studies of a day, status {result.status:04X}: {meaning}.{said}",
            _ADVICE.get(result.status, "at {node}: its log says why").format(
                node=node, calling=around.ae_title, root=around.at("root")
            ),
        )
    many = "more than " if answer.enough else ""
    count = answer.asked - 1 if answer.enough else len(answer.rows)
    days = "today" if answer.first == answer.last else f"{_day(answer.first)} to {_day(answer.last)}"
    sentence = f"It answered a query for {days} in {answer.seconds:.1f} s ({many}{_studies(count)})."
    if result.undecodable:
        return fail(
            "query",
            "undecodable",
            f"{sentence} {result.undecodable} of its answers cannot be read.",
            f"have the vendor of {node} look at it: its identifiers are not encoded as PS3.5 says",
        )
    days_of = [day for row in answer.rows if (day := parse_da(row.text("StudyDate"))) is not None]
    strays = sum(not answer.first <= f"{day:%Y%m%d}" <= answer.last for day in days_of)
    if strays:
        return warn(
            "query",
            "date-ignored",
            f"{sentence} {strays} of them are of other days: it does not match by StudyDate.",
            f"have the vendor of {node} look at it: until then every sweep reads more than it needs",
        )
    if answer.seconds > SLOW_ANSWER:
        return warn("query", "slow", sentence, f"sweep it less often, or at {node}: see why queries take so long")
    return ok("query", "answered", sentence)


def answered_worklist(answer: Answer, around: Around) -> Check:
    """On a worklist query for today."""
    node, result = around.node.name, answer.result
    if result.status not in (0, CANCELLED) and not answer.enough:
        meaning = FIND_FAILURES.get(result.status, "the source is unable to process the query")
        sentence = f"It failed a worklist query, status {result.status:04X}: {meaning}."
        return fail("worklist query", "query-failed", sentence, f"at {node}: its log says why")
    lacking = sum("ScheduledProcedureStepSequence" not in row for row in answer.rows)
    many = "more than " if answer.enough else ""
    count = answer.asked - 1 if answer.enough else len(answer.rows)
    sentence = f"It answered a worklist query for today in {answer.seconds:.1f} s ({many}{count} items)."
    if result.undecodable or lacking:
        return fail(
            "worklist query",
            "undecodable",
            f"{sentence} {result.undecodable + lacking} of its items cannot be used: no procedure step can be read.",
            f"have the vendor of {node} look at it: Scheduled Procedure Step Sequence is missing or not encoded right",
        )
    return ok("worklist query", "answered", sentence)


_WANTED = {
    "NumberOfStudyRelatedInstances": "what should arrive is then counted by queries at SERIES and IMAGE level",
    "ModalitiesInStudy": "rules that look at it see nothing",
}
"""Optional return keys that rules and verdicts use, and what their lack means."""


def returned(rows: Sequence[Identifier], around: Around) -> Check:
    """On the optional attributes that come back."""
    lacking = [name for name in _WANTED if not any(filled_in(row.values(name)) for row in rows)]
    availability = any(filled_in(row.values("InstanceAvailability")) for row in rows)
    if lacking:
        why = "; ".join(f"{name}: {_WANTED[name]}" for name in lacking)
        return warn(
            "attributes",
            "not-returned",
            f"It does not return {' and '.join(lacking)} ({why}).",
            f"at {around.node.name}: switch these attributes on for C-FIND at STUDY level, if it can",
        )
    less = "" if availability else ", but no InstanceAvailability: all counts as online"
    return ok("attributes", "returned", f"It returns {' and '.join(_WANTED)}{less}.")


def encoded(rows: Sequence[Identifier], around: Around) -> Check:
    """On the character set of answers (PS3.5 section 6.1)."""
    named_sets = {"\\".join(map(str, row.values("SpecificCharacterSet"))) for row in rows}
    sets = sorted(filter(None, named_sets))
    if sets:
        return ok("character set", "named", f"It answers in {', '.join(sets)}.")
    odd = any(_beyond_ascii(row) for row in rows)
    assumed = around.node.find.assume_character_set
    if assumed:
        return ok("character set", "assumed", f"It names no character set; {assumed} is assumed.")
    if odd:
        return warn(
            "character set",
            "not-named",
            "It names no character set, but its answers hold characters beyond ASCII.",
            f"set assume_character_set (ISO_IR 100, perhaps) at {around.at('find', 'assume_character_set')}",
        )
    return ok("character set", "default", "It answers in the default repertoire (ASCII).")


def timed(rows: Sequence[Identifier], around: Around, now: datetime) -> Check:
    """On clock and time zone, by studies dated in the future; C-FIND offers nothing better.

    `rows` are of today and of the days after. Study Time may be absent.
    """
    node, zone = around.node, ZoneInfo(around.node.timezone)
    offset = now.astimezone(zone).utcoffset() or timedelta()
    told = {row.text("TimezoneOffsetFromUTC") for row in rows} - {""}
    here = _offset(offset)
    if told and here not in told:
        return fail(
            "clock",
            "zone-differs",
            f"It says that its times are at {', '.join(sorted(told))} from UTC; {node.timezone} is at {here} now.",
            f"correct {around.at('timezone')}",
        )
    moments = [moment for row in rows if (moment := _moment(row, zone)) is not None]
    if not moments:
        return skipped("clock", "not-told", "Not to be told: it has no study of today with a time.")
    ahead = max(moments) - now
    if ahead <= TOLERANCE:
        return ok(
            "clock",
            "plausible",
            f"No study of today is dated in the future of {node.timezone} (the newest is {_age(-ahead)}).",
        )
    hours = round(ahead / timedelta(hours=1))
    if hours and abs(ahead - timedelta(hours=hours)) <= TOLERANCE and hours <= 14:
        guess = f"is {around.at('timezone')} right? If it is"
    else:
        guess = f"if {around.at('timezone')} is right"
    return warn(
        "clock",
        "ahead",
        f"Its newest study is dated {_span(ahead)} after now in {node.timezone}.",
        f"{guess}, set the clock of {node.name} or of the modality that made the study (NTP)",
    )


def capped(answer: Answer | None, learned: int | None, around: Around) -> Check:
    """On the number of matches at which it cuts its answers: as configured, as learned by sweeps, as seen now."""
    node = around.node
    configured, place = node.find.max_results, around.at("find", "max_results")
    seen = None
    if answer is not None and not answer.enough:
        if answer.result.status in (CANCELLED, OUT_OF_RESOURCES):
            seen = len(answer.rows) or None
            if seen is None:
                return warn(
                    "result cap",
                    "refuses",
                    "It refuses to answer for a whole day (A700): too many matches, or out of resources.",
                    f"at {node.name}: raise its limit of C-FIND results; sweeps divide their questions until then",
                )
        elif answer.whole and len(answer.rows) in SUSPICIOUS:
            seen = len(answer.rows)
    known = min(filter(None, (seen, learned)), default=None)
    if configured and known is not None and known < configured:
        return fail(
            "result cap",
            "lower",
            f"It cuts its answers at {known}, but max_results says {configured}: what is cut passes for whole.",
            f"set max_results: {known} at {place}, or take it out",
        )
    if configured == 0 and known is not None:
        return fail(
            "result cap",
            "denied",
            f"It cuts its answers at {known}, but max_results: 0 says that it never does.",
            f"set max_results: {known} at {place}, or take it out",
        )
    if configured:
        return ok("result cap", "configured", f"max_results says that it answers at most {configured} matches.")
    if learned:
        return ok("result cap", "learned", f"Sweeps have seen it cut its answers at {learned} and divide questions.")
    if seen:
        return warn(
            "result cap",
            "suspicious",
            f"It answered {_studies(seen)}: archives cut at such a number.",
            f"at {node.name}: look up its limit of C-FIND results and set max_results at {place}",
        )
    return ok("result cap", "none-seen", "No sign that it cuts its answers.")


# --- what the ledger and the service know -----------------------------------------------------------------------------


def routes(stopped: Sequence[StoppedRoute], broken: bool, around: Around) -> Check:
    """On routes that are stopped, and on a service that leaves the node alone."""
    name = around.node.name
    if broken:
        return warn(
            "routes",
            "left-alone",
            "The running service leaves it alone, for it did not answer; it is tried again by itself.",
            f"see the checks above; when {name} answers again, the service finds out",
        )
    if not stopped:
        return ok("routes", "open", "No route from it or to it is stopped.")
    first = stopped[0]
    source, destination = first.route
    more = f" ({len(stopped)} in all)" if len(stopped) > 1 else ""
    return warn(
        "routes",
        "stopped",
        f"The route {source} -> {destination} is stopped since {first.stopped_at.astimezone():%m-%d %H:%M %Z}{more}: "
        f"{first.reason}",
        "when that is mended, `dicom-router apply` tries the route at once",
    )


# --- helpers ----------------------------------------------------------------------------------------------------------


def choose(rows: Sequence[Identifier], counter: str, unique: str) -> list[Identifier]:
    """Studies or series to take an image from, the smallest first: what is not online or has nothing is left out."""
    fit = [
        row
        for row in rows
        if row.text(unique) and row.text("InstanceAvailability") in ("", "ONLINE") and row.number(counter) != 0
    ]
    return sorted(fit, key=lambda row: row.number(counter) or 1 << 30)


def _moment(row: Identifier, zone: ZoneInfo) -> datetime | None:
    """Study Date and Time (PS3.5 section 6.2) in the zone; None where one of them is not there."""
    day, text = parse_da(row.text("StudyDate")), row.text("StudyTime").partition(".")[0]
    if day is None or len(text) < 4 or not text.isdigit():
        return None
    hour, minute, second = int(text[:2]), int(text[2:4]), int(text[4:6] or 0)
    if hour > 23 or minute > 59:
        return None
    return datetime(day.year, day.month, day.day, hour, minute, min(second, 59), tzinfo=zone)


def _offset(offset: timedelta) -> str:
    """As Timezone Offset From UTC (0008,0201) has it: `+0100`."""
    minutes = int(offset.total_seconds() // 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{abs(minutes) % 60:02d}"


def _age(length: timedelta) -> str:
    return f"{_span(length)} old" if length > timedelta() else f"{_span(-length)} ahead"


def _span(length: timedelta) -> str:
    minutes = int(length.total_seconds() // 60)
    if minutes < 1:
        return "less than a minute"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _day(text: str) -> str:
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}"


def _studies(count: int) -> str:
    return f"{count} {'study' if count == 1 else 'studies'}"


def _beyond_ascii(row: Identifier) -> bool:
    texts: Mapping[int, tuple[object, ...]] = row.elements
    return any(isinstance(value, str) and not value.isascii() for values in texts.values() for value in values)
