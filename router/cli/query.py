"""`query`: an ad hoc C-FIND as table, JSON or CSV."""

from __future__ import annotations

import csv
import sys
import threading

import click
from rich.table import Table

from router.cli.settings import load_rules, print_json, settings_of, terminal
from router.config.values import nearest_attribute
from router.domain.attributes import LEVELS, level_of
from router.domain.dicom import Identifier, QueryRetrieveLevel, name_of, tag_of
from router.domain.levels import RETURN_KEYS
from router.engine.query import MAXIMUM_MATCHES, Inquiry
from router.engine.slots import NodeSlots, Urgency
from router.errors import UsageError
from router.service import open_peers


@click.command()
@click.argument("node")
@click.argument("keys", nargs=-1, metavar="KEY=VALUE...")
@click.option(
    "--level",
    type=click.Choice([str(level) for level in QueryRetrieveLevel]),
    default=None,
    help="Query/Retrieve level; by default the lowest that the keys belong to, at least STUDY.",
)
@click.option(
    "--limit",
    default=1000,
    show_default=True,
    type=click.IntRange(1, MAXIMUM_MATCHES),
    help="Cancel after so many matches.",
)
@click.pass_context
def query(ctx: click.Context, node: str, keys: tuple[str, ...], level: str | None, limit: int) -> int:
    """Ask NODE with matching keys: `query archive PatientID=123 StudyDate=20260101-20260131 Modality=`.

    KEY is a DICOM keyword or (gggg,eeee); an empty VALUE asks for the attribute to be returned.
    """
    settings = settings_of(ctx)
    rules = load_rules(settings)
    target = rules.node(node)
    if target is None:
        raise UsageError(f"There is no node {node}; there are: {', '.join(rules.nodes) or 'none'}.")
    wanted = _identifier(keys)
    chosen = QueryRetrieveLevel(level) if level else _level(wanted)
    asked = Identifier({**dict.fromkeys(RETURN_KEYS[chosen], ()), **wanted.elements})
    with open_peers(rules) as peers:
        inquiry = Inquiry(peers, NodeSlots())
        result = inquiry.find(target, chosen, asked, Urgency.SWEEP, threading.Event(), partial=True, maximum=limit)
    columns = [name_of(tag) for tag in sorted(asked.elements)]
    rows = [{name: "\\".join(map(_text, row.values(name))) for name in columns} for row in result.identifiers]
    if settings.json:
        print_json({"node": node, "level": str(chosen), "status": f"0x{result.status:04X}", "matches": rows})
    elif settings.format == "csv":
        writer = csv.DictWriter(sys.stdout, columns)
        writer.writeheader()
        writer.writerows(rows)
    else:
        table = Table(header_style="bold", box=None, pad_edge=False)
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        terminal().print(table)
        terminal().print(
            f"{len(rows)} matches." + ("" if result.status == 0 else f" Status {result.status:04X}: there may be more.")
        )
    return 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else "(sequence item)"


def _identifier(keys: tuple[str, ...]) -> Identifier:
    identifier = Identifier()
    for key in keys:
        name, separator, value = key.partition("=")
        tag = tag_of(name)
        if not separator or tag is None:
            raise UsageError(f"{key} is not KEY=VALUE with a DICOM keyword: {nearest_attribute(name)}")
        identifier.elements[tag] = tuple(value.split("\\")) if value else ()
    return identifier


def _level(identifier: Identifier) -> QueryRetrieveLevel:
    found = [QueryRetrieveLevel.STUDY, *(level for tag in identifier if (level := level_of(tag)) is not None)]
    return max(found, key=LEVELS.index)
