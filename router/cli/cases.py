"""`test`: the configuration's own cases, offline, with a fixed clock."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from router.cli.render import counted
from router.cli.replay import replay
from router.cli.settings import load_configuration, plain, print_json, settings_of, terminal
from router.config.cases import AnyCase
from router.domain.arriving import zone_of
from router.domain.case import Failure
from router.domain.rule import RuleSet
from router.errors import RouterError, UsageError


class Ran(NamedTuple):
    """A case with what was not as expected, and how many seconds it took."""

    case: AnyCase
    failures: list[Failure]
    seconds: float


@click.command("test", short_help="Run the configuration's test cases, offline.")
@click.option(
    "--run", "pattern", default="", metavar="PATTERN", help="Only cases whose name holds it; * and ? are wildcards."
)
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="Write the results to this file as JUnit XML as well.",
)
@click.option(
    "--replay",
    "recording",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    metavar="FILE",
    help="Run no case; say what the rules would decide about a recording of `query --record`.",
)
@click.option("--rule", default="", metavar="NAME", help="With --replay: only this rule.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="With --replay: say what the changed configuration in DIR makes different.",
)
@click.pass_context
def test(
    ctx: click.Context, pattern: str, junit: Path | None, recording: Path | None, rule: str, against: Path | None
) -> int:
    """Run the cases of the configuration's `tests`: what its rules move, hold and skip, or pass on, and why.

    Asks no node and reads no ledger; the time is that of the case, or of the recording. Exit code 1 if a case fails.
    """
    settings = settings_of(ctx)
    loaded, rules = load_configuration(settings)
    if recording is not None:
        if pattern or junit:
            raise UsageError("--replay runs no case, so that --run and --junit do not go with it")
        return replay(settings, rules, recording, rule, against)
    if rule or against:
        raise UsageError("--rule and --against go with --replay FILE; --run PATTERN chooses cases")
    chosen = [case for case in loaded.cases if fnmatchcase(case.name, f"*{pattern}*")]
    if pattern and not chosen:
        there = ", ".join(case.name for case in loaded.cases) or "none at all"
        raise UsageError(f"No case's name holds {pattern}; there are: {there}")
    ran = [_run(case, rules) for case in chosen]
    if junit is not None:
        _write_junit(junit, ran)
    if settings.json:
        print_json(_json(ran))
    else:
        _tell(ran, terminal())
    return 1 if any(one.failures for one in ran) else 0


def _run(case: AnyCase, rules: RuleSet) -> Ran:
    rule = rules.rules[case.rule]
    began = time.perf_counter()
    failures = case.run(rule, rules.anatomy, zone_of(rules, rule))
    return Ran(case, failures, time.perf_counter() - began)


def _tell(ran: Sequence[Ran], out: Console) -> None:
    """A line for each case, and below it how what came differs from what was expected."""
    for case, failures, _ in ran:
        mark = Text("FAIL", "bold red") if failures else Text("ok  ", "green")
        out.print(Text.assemble(mark, "  ", plain(case.name), plain("  " + case.place if failures else "", "dim")))
        for failure in failures:
            out.print(Padding(_difference(failure), (0, 0, 0, 6)))
    failed = sum(bool(one.failures) for one in ran)
    if not ran:
        out.print("The configuration has no test cases (section tests).")
    else:
        out.print(f"{counted(len(ran), 'case')}: {len(ran) - failed} passed, {failed} failed.")


def _difference(failure: Failure) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(plain(failure.study, "bold"), plain(f"at {failure.destination}" if failure.destination else ""))
    grid.add_row("  expected", plain(failure.expected, "green"))
    grid.add_row("  got", plain(failure.got, "red"))
    for number, clause in enumerate(failure.clauses):
        grid.add_row("" if number else "  by", plain(clause, "dim"))
    return grid


def _json(ran: Sequence[Ran]) -> dict[str, Any]:
    failed = sum(bool(one.failures) for one in ran)
    return {
        "cases": [
            {
                "name": one.case.name,
                "rule": one.case.rule,
                "place": one.case.place,
                "passed": not one.failures,
                "failures": one.failures,
            }
            for one in ran
        ],
        "passed": len(ran) - failed,
        "failed": failed,
    }


def _told(failure: Failure) -> str:
    """A failure as plain lines."""
    head = f"{failure.study} at {failure.destination}" if failure.destination else failure.study
    lines = [head, f"  expected {failure.expected}", f"  got      {failure.got}"]
    return "\n".join(lines + [f"  by       {clause}" for clause in failure.clauses])


_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write (section 2.2, Char)."""


def _printable(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _write_junit(path: Path, ran: Sequence[Ran]) -> None:
    """JUnit XML as CI systems read it. Raises RouterError where the file cannot be written."""
    failed = sum(bool(one.failures) for one in ran)
    totals = {"tests": str(len(ran)), "failures": str(failed), "errors": "0"}
    totals["time"] = f"{sum(one.seconds for one in ran):.3f}"
    suites = ElementTree.Element("testsuites", totals)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "dicom-router", **totals})
    for case, failures, seconds in ran:
        file, _, place = case.place.rpartition(":")[0].rpartition(":")
        attributes = {"name": case.name, "classname": case.rule, "time": f"{seconds:.3f}", "file": file, "line": place}
        element = ElementTree.SubElement(suite, "testcase", attributes)
        if failures:
            told = [_told(failure) for failure in failures]
            message = f"{counted(len(failures), 'study', 'studies')} decided otherwise"
            ElementTree.SubElement(element, "failure", {"message": message}).text = "\n".join(told)
    for element in suites.iter():
        element.text = _printable(element.text) if element.text else None
        element.attrib.update({key: _printable(value) for key, value in element.attrib.items()})
    ElementTree.indent(suites)
    try:
        path.write_bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True) + b"\n")
    except OSError as error:
        raise RouterError(f"The results cannot be written to {path}: {error.strerror or 'I/O error'}.") from None
