"""What `explain` says, for people: a tree of clauses, the gates, what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import tzinfo

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from router.cli.considered import age
from router.cli.considered import score as score_of
from router.cli.lines import in_lines
from router.cli.render import counted
from router.cli.settings import plain
from router.domain.arriving import zone_of
from router.domain.condition import Explanation
from router.domain.gates import Gate, Way
from router.domain.rule import RuleSet
from router.engine.explained import RuleExplained, StudyExplained, StudySeen, WayExplained

_MARKS = {Way.PASS: ("✓", "pass", "green"), Way.FAIL: ("✗", "FAIL", "red"), Way.WAIT: ("…", "wait", "yellow")}
_SHOWN_VALUES = 8
_NAME_WIDTH = 18
_TRIGGERS = {
    "sweep": "sweep of {}",
    "worklist": "worklist of {}",
    "order": "orders; priors are at {}",
    "arrival": "arrivals here; priors are at {}",
}


def show(rules: RuleSet, explained: StudyExplained, out: Console) -> None:
    """Print the study and each rule."""
    for seen in explained.seen:
        out.print(_study(rules, seen))
    for one in explained.rules:
        out.print()
        _Rule(rules, one, out).show()


def _study(rules: RuleSet, seen: StudySeen) -> Text:
    node = rules.node(seen.source)
    zone = f" (times in {node.timezone}): " if node is not None else ": "
    head = Text.assemble((seen.source, "bold"), zone)
    if seen.problem:
        return head.append_text(plain(seen.problem, "red"))
    if not seen.asked:
        return head.append("not asked (--offline)", "dim")
    row = seen.row
    if row is None:
        head.append("does not have the study", "yellow")
        return head.append("; whole UIDs are in: plan --format json, query", "dim")
    instances, series = row.number("NumberOfStudyRelatedInstances"), row.number("NumberOfStudyRelatedSeries")
    parts = [
        f"study of {row.text('StudyDate') or 'no date'} {row.text('StudyTime')}".rstrip(),
        "\\".join(str(value) for value in row.values("ModalitiesInStudy")),
        counted(series, "series", "series") if series is not None else "",
        counted(instances, "instance") if instances is not None else "",
        row.text("InstanceAvailability"),
    ]
    return head.append_text(plain(", ".join(filter(None, parts))))


class _Rule:
    """Prints one rule."""

    def __init__(self, rules: RuleSet, one: RuleExplained, out: Console) -> None:
        self._one = one
        self._out = out
        self._zone: tzinfo = zone_of(rules, one.rule)
        self._words = not out.is_terminal or not out.encoding.lower().startswith("utf")

    def show(self) -> None:
        one = self._one
        found = {True: ("found", "green"), False: ("not found", "yellow"), None: ("not asked", "dim")}[one.found]
        where = _TRIGGERS[one.rule.trigger].format(one.rule.asked)
        if one.rule.forward is not None:
            senders = one.rule.arrival.senders if one.rule.arrival is not None else ()
            where = f"arrivals here from {' or '.join(senders) or 'anywhere'}"
            found = ("taken", "green") if one.found else ("not taken", "yellow")
        if one.found is None and not one.problem and one.rule.sweep is None:
            found = ("not found by studies", "dim")
        if any(way.decision.prior is not None for way in one.ways):
            found = ("taken as a prior", "green") if one.found else ("not taken as a prior", "yellow")
        self._out.print(Text.assemble((one.rule.name, "bold"), f" ({where}): ", found))
        if one.problem:
            self._say(plain(one.problem, "red"))
        decides = one.decides
        for place, clause in enumerate(one.clauses):
            self._clause(clause, 1, decides[1:] if decides[:1] == (place,) else None)
        for note in one.notes:
            self._say(plain(note, "dim"))
        led = [way for way in one.ways if way.destination]
        # Of a study that the rule does not find only what shuts the whole rule matters.
        self._gates(one.gates if one.found or led else [gate for gate in one.gates if gate.way is Way.FAIL], 1)
        for way in one.ways:
            self._way(way)

    def _clause(self, one: Explanation, indent: int, decides: tuple[int, ...] | None) -> None:
        """A clause and its parts; for `decides` see `explain_rows`."""
        text = plain(one.text)
        if not one.parts:
            some = ", ".join(one.seen[:_SHOWN_VALUES]) + (", ..." if len(one.seen) > _SHOWN_VALUES else "")
            text = text.append_text(plain(f"; seen: {some or 'no value'}", "cyan"))
        if decides == ():
            text.append("  <- decides", "bold red")
        self._line(indent, Way.PASS if one.passed else Way.FAIL, text)
        for place, part in enumerate(one.parts):
            self._clause(part, indent + 1, decides[1:] if decides and decides[0] == place else None)

    def _gates(self, gates: Sequence[Gate], indent: int) -> None:
        for gate in gates:
            opens = ""
            if gate.opens_at is not None:
                opens = f"; opens at {gate.opens_at.astimezone(self._zone):%Y-%m-%d %H:%M}"
            self._line(indent, gate.way, plain(gate.reason + opens), gate.gate.replace("-", " "))

    def _way(self, way: WayExplained) -> None:
        of = f" ({counted(len(way.series), 'series', 'series')})" if way.series else ""
        head = Text.assemble(("=> ", "bold"), (f"to {way.destination}{of}: " if way.destination else "", "bold"))
        prior = way.decision.prior
        if way.destination:
            first = f"{of[:-1]}; gates of the first):" if len(way.series) > 1 else f"{of}:"
            if way.gates or prior is not None:
                self._line(1, None, plain(f"on the way to {way.destination}{first}"))
            if prior is not None:
                words = f"score {score_of(prior)}; age {age(prior.age_days)}; group {prior.group or '-'}"
                self._line(2, None, plain(words, "dim"))
            self._gates(way.gates, 2)
        if self._one.found is None:
            head.append("if the rule finds it: ")
        self._say(head.append_text(plain(way.conclusion.text, "bold")))

    def _say(self, text: Text) -> None:
        self._line(1, None, text)

    def _line(self, indent: int, way: Way | None, text: Text, name: str = "") -> None:
        """One line, broken behind its mark."""
        cells: list[Text] = []
        widths: list[int] = []
        if way is not None:
            sign, word, style = _MARKS[way]
            cells.append(Text(word if self._words else sign, style))
            widths.append(0)
        if name:
            cells.append(Text(name))
            widths.append(_NAME_WIDTH)
        whole = in_lines(self._out, [(*cells, text)], indent=2 * indent, widths=widths)
        if whole is not None:
            self._out.print(whole)
            return
        grid = Table.grid(padding=(0, 1, 0, 0))
        for width in widths:
            grid.add_column(no_wrap=True, min_width=width or None)
        grid.add_column(overflow="fold")
        grid.add_row(*cells, text)
        self._out.print(Padding(grid, (0, 0, 0, 2 * indent), expand=False))
