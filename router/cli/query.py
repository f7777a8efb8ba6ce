"""`query`: an ad hoc C-FIND as table, JSON or CSV."""

from __future__ import annotations

import csv
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from router.auditing import by_hand
from router.cli.record import RecordOptions, needed_by_rules, record_rule, write
from router.cli.render import counted, short
from router.cli.settings import (
    Settings,
    limit_option,
    load_rules,
    no_such,
    plain,
    print_json,
    say,
    settings_of,
    terminal,
)
from router.config.values import nearest_attribute
from router.domain.attributes import LEVELS, level_of
from router.domain.bisection import SUSPICIOUS
from router.domain.dicom import Identifier, QueryRetrieveLevel, is_uid, name_of, tag_of, vr_of
from router.domain.levels import RETURN_KEYS
from router.domain.matcher import Evaluation, parse_operand
from router.domain.problem import ExpressionError
from router.domain.rule import Node
from router.domain.timing import parse_da
from router.engine.query import MAXIMUM_MATCHES, Inquiry, QueryFailed
from router.engine.recorder import Taken
from router.engine.slots import NodeSlots, Urgency
from router.errors import RouterError, UsageError, WireError
from router.service import SystemClock, open_peers

_HEADS = {
    "NumberOfStudyRelatedSeries": "Series",
    "NumberOfStudyRelatedInstances": "Instances",
    "NumberOfSeriesRelatedInstances": "Instances",
    "ModalitiesInStudy": "Modalities",
}
"""Shorter column heads; the values tell what they are."""
_NARROW_HEADS = _HEADS | {
    "StudyDate": "Date",
    "StudyTime": "Time",
    "AccessionNumber": "Accession",
    "StudyDescription": "Description",
    "SeriesDescription": "Description",
    "StudyInstanceUID": "Study",
    "SeriesInstanceUID": "Series",
    "SOPInstanceUID": "Instance",
}
_ELASTIC = {"PatientName": 12, "StudyDescription": 12, "SeriesDescription": 12}
"""Columns that may end in an ellipsis, and what is left of them at least."""
_GAP = 2

Row = dict[str, str]


@click.command(short_help="Ask a node with C-FIND: table, JSON or CSV.")
@click.argument("node")
@click.argument("keys", nargs=-1, metavar="KEY=VALUE...")
@click.option(
    "--level",
    type=click.Choice([str(level) for level in QueryRetrieveLevel], case_sensitive=False),
    default=None,
    help="Query/Retrieve level; by default the lowest that the keys belong to, at least STUDY.",
)
@limit_option("Cancel after so many matches.", default=1000, most=MAXIMUM_MATCHES)
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="Write the answer to this file with its identifiers replaced, for `test`.",
)
@click.option("--rule", default="", metavar="NAME", help="Record what this rule's sweep asks, in place of keys.")
@click.option(
    "--record-drop", "drop", multiple=True, metavar="KEYWORD", help="Leave this attribute out of the recording."
)
@click.option(
    "--record-keep",
    "keep",
    multiple=True,
    metavar="KEYWORD",
    help="Record this attribute as it is, for rules that look at it (InstitutionName, StationName).",
)
@click.option(
    "--record-key",
    "key",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="Replace by the key in this file, so that recordings agree; it is made if it is not there. Keep it secret.",
)
@click.option("--record-shift-dates", "shift_dates", is_flag=True, help="Record all dates so many weeks earlier.")
@click.option("--force", is_flag=True, help="Replace a recording that exists.")
@click.pass_context
def query(
    ctx: click.Context,
    /,
    node: str,
    keys: tuple[str, ...],
    level: str | None,
    limit: int,
    record: Path | None,
    rule: str,
    **options: Any,
) -> int:
    """Ask NODE with matching keys.

    For example: dicom-router query archive PatientID=123 StudyDate=20260101-20260131

    KEY is a DICOM keyword or (gggg,eeee); an empty VALUE asks for the attribute to be returned. Dates are days or
    A..B as in rules (today-2d..today), or DICOM's own ranges; the node is asked for whole days. Below STUDY an archive
    wants the unique keys above: StudyInstanceUID, and SeriesInstanceUID at IMAGE level.

    A recording holds studies. Names, UIDs, IDs, accession numbers, institutions and birth dates are replaced, the same
    by the same; by default nobody can go back from them. Descriptions stay as they were typed, and dates of studies as
    they are, for rules match by them: look through the file before you give it away.
    """
    settings = settings_of(ctx)
    recording = _recording(record, rule, keys, level, options, settings)
    rules = load_rules(settings)
    target = rules.nodes.get(node)
    if target is None:
        raise no_such("node", node, rules.nodes)
    if recording is not None and rule:
        try:
            return record_rule(settings, rules, target, rule, recording)
        except WireError as error:
            raise _unasked(error, node) from None
    now = SystemClock().now()
    wanted = _identifier(keys, Evaluation(now, ZoneInfo(target.timezone)))
    chosen = QueryRetrieveLevel(level) if level else _level(wanted)
    if recording is not None and chosen is not QueryRetrieveLevel.STUDY:
        raise UsageError("A recording holds studies: leave out the keys of lower levels, or record with --rule")
    returned = needed_by_rules(rules, node) if recording is not None else frozenset()
    asked = Identifier({**dict.fromkeys(RETURN_KEYS[chosen] | returned, ()), **wanted.elements})
    with open_peers(rules) as peers:
        inquiry = Inquiry(by_hand(rules, peers, SystemClock().now), NodeSlots())
        try:
            result = inquiry.find(target, chosen, asked, Urgency.SWEEP, threading.Event(), partial=True, maximum=limit)
        except WireError as error:
            raise _unasked(error, node) from None
    if recording is not None:
        taken = Taken(
            at=now,
            question=asked,
            returned=frozenset(asked.elements),
            studies=_each_once(result.identifiers),
            series={},
            complete=not (result.status or result.undecodable or _perhaps_cut(len(result.identifiers), target)),
        )
        return write(settings, target, taken, recording)
    columns = [name_of(tag) for tag in sorted(asked.elements)]
    rows = [{name: "\\".join(map(_text, row.values(name))) for name in columns} for row in result.identifiers]
    more = ""
    if result.status and len(rows) == limit:
        more = "There may be more (--limit)."
    elif result.status:
        more = f"The node ended with status {result.status:04X}: there may be more."
    elif _perhaps_cut(len(rows), target):
        more = "Archives cut their answers at such a number: there may be more; narrow the keys to see."
    if settings.json:
        print_json({"node": node, "level": str(chosen), "status": f"0x{result.status:04X}", "matches": rows})
    elif settings.format == "csv":
        writer = csv.DictWriter(sys.stdout, columns)
        writer.writeheader()
        writer.writerows(rows)
    else:
        out = terminal()
        if rows:
            _show(rows, [name_of(tag) for tag in sorted(wanted.elements)], columns, out)
        out.print(f"{counted(len(rows), 'match', 'matches')}. {more}".rstrip())
        return 0
    if more:
        say(more)
    return 0


def _unasked(error: WireError, node: str) -> RouterError:
    """What a person is told of a query that brought no answer."""
    if isinstance(error, QueryFailed):
        return RouterError(f"{error} It says: {error.comment}" if error.comment else str(error))
    return RouterError(f"{error} `dicom-router doctor {node}` looks for the cause.")


def _recording(
    path: Path | None, rule: str, keys: Sequence[str], level: str | None, options: Mapping[str, Any], settings: Settings
) -> RecordOptions | None:
    """What is to be recorded; None: nothing is. Raises UsageError."""
    if path is None:
        if rule or any(options.values()):
            raise UsageError("--rule, --force and the --record options go with --record FILE")
        return None
    if rule and (keys or level):
        raise UsageError("--rule asks what the rule's sweep asks: leave the keys and --level out")
    if settings.format == "csv":
        raise UsageError("A recording is YAML; --format csv does not go with --record")
    recording = RecordOptions(path=path, **options)
    recording.check(settings.config)
    return recording


def _each_once(rows: Sequence[Identifier]) -> list[Identifier]:
    """The studies of an answer; what has no UID is none."""
    found = {uid: row for row in reversed(rows) if is_uid(uid := row.text("StudyInstanceUID"))}
    return list(reversed(found.values()))


def _perhaps_cut(matches: int, node: Node) -> bool:
    """Whether a node may have had more, by the number alone; what sweeps have learned of it is in their account."""
    limit = node.find.max_results
    return matches in SUSPICIOUS if limit is None else 0 < limit <= matches


def _text(value: object) -> str:
    return value if isinstance(value, str) else "(sequence item)"


def _show(rows: Sequence[Row], asked: Sequence[str], columns: Sequence[str], out: Console) -> None:
    """A table; where it would be too wide one with shortened UIDs, else a block per match."""
    filled = [name for name in columns if name in asked or any(row[name] for row in rows)]
    brief = [{name: short(value) if name.endswith("UID") else value for name, value in row.items()} for row in rows]
    if _width(rows, filled, _HEADS, {}) <= out.width:
        out.print(_table(rows, filled, _HEADS))
    elif _width(brief, filled, _NARROW_HEADS, _ELASTIC) <= out.width:
        out.print(_table(brief, filled, _NARROW_HEADS))
        out.print("UIDs are shortened; --format csv and json have the whole.", style="dim")
    else:
        for row in rows:
            out.print(_block(row, [name for name in filled if row[name] or name in asked], max(map(len, filled))))
            out.print()


def _width(rows: Sequence[Row], columns: Sequence[str], heads: Mapping[str, str], least: Mapping[str, int]) -> int:
    """The columns of a terminal that a table takes if those in `least` are no wider than that."""
    widths = []
    for name in columns:
        width = max(cell_len(text) for text in (heads.get(name, name), *(row[name] for row in rows)))
        widths.append(min(width, least.get(name, width)))
    return sum(widths) + _GAP * (len(widths) - 1)


def _table(rows: Sequence[Row], columns: Sequence[str], heads: Mapping[str, str]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in columns:
        table.add_column(heads.get(name, name), no_wrap=name not in _ELASTIC, overflow="ellipsis")
    for row in rows:
        table.add_row(*(plain(row[name]) for name in columns))
    return table


def _block(row: Row, columns: Sequence[str], width: int) -> Table:
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(min_width=width, no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name in columns:
        grid.add_row(name, plain(row[name]))
    return grid


def _identifier(keys: tuple[str, ...], evaluation: Evaluation) -> Identifier:
    identifier = Identifier()
    for key in keys:
        name, separator, value = key.partition("=")
        if not separator:
            raise UsageError(f"{key} is not KEY=VALUE; to have an attribute returned, write {key}=")
        tag = tag_of(name)
        if tag is None:
            raise UsageError(f"{name} is no DICOM keyword; {nearest_attribute(name)}")
        values = value.split("\\") if value else []
        if vr_of(tag) == "DA":
            values = [_date(tag, name, text.strip(), evaluation) for text in values]
        identifier.elements[tag] = tuple(values)
    return identifier


def _date(tag: int, name: str, text: str, evaluation: Evaluation) -> str:
    """A date or a range as it goes to the node (PS3.4 section C.2.2.2.5). Raises UsageError."""
    ends = text.split("-")
    if len(ends) == 2 and any(ends) and all(not end or (len(end) == 8 and parse_da(end)) for end in ends):
        if all(ends) and ends[0] > ends[1]:
            raise UsageError(f"{name}: the date range {text!r} ends before it begins; swap its ends")
        return text
    if set(text) <= {"*"}:
        return ""
    try:
        dates = parse_operand(tag, text).dates
    except ExpressionError as error:
        raise UsageError(f"{name}: {error.message}" + (f"; {error.hint}" if error.hint else "")) from None
    return text if dates is None else dates.resolve(*evaluation).wire


def _level(identifier: Identifier) -> QueryRetrieveLevel:
    found = [QueryRetrieveLevel.STUDY, *(level for tag in identifier if (level := level_of(tag)) is not None)]
    return max(found, key=LEVELS.index)
