"""Writes the tables of the README from the code, between `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from router.config.diagnostics import CODES
from router.domain.causes import ABORTS, CAUSES, COUNTER_PATTERNS, MOVE_STATUSES, REJECTIONS, STATUS_RANGES
from router.observe.catalogue import CATALOGUE
from router.observe.definitions import PREFIX

README = Path(__file__).parent.parent / "README.md"


def causes() -> list[str]:
    """The outcome table, with what leads to each row."""
    rows = []
    for code, cause in CAUSES.items():
        rows.append(f"| `{code}` | {'; '.join(origins(code))} | {cause.sentence} | {cause.remedy} |")
    return ["| cause | comes from | sentence | what helps |", "|---|---|---|---|", *rows]


def origins(code: str) -> list[str]:
    """The statuses, counters, rejections and aborts that lead to a cause."""
    refined = {pattern.family for pattern in COUNTER_PATTERNS}
    ranges = [(low, high) for low, high, cause in STATUS_RANGES if cause == code and code not in refined]
    single = [status for status, cause in MOVE_STATUSES.items() if cause == code and code not in refined]
    found = [f"{status:04X}" for status in single if not any(low <= status <= high for low, high in ranges)]
    found += [f"{low:04X} to {high:04X}" for low, high in ranges]
    if code == "unknown-status":
        found.append("any other status")
    words = {"success": "0000", "some-failed": "0001, 0107, 0116, Bxxx"}
    for family in dict.fromkeys(pattern.family for pattern in COUNTER_PATTERNS):
        holds = [pattern.predicate for pattern in COUNTER_PATTERNS if (pattern.family, pattern.cause) == (family, code)]
        if code == family:
            holds.append("else")
        if holds:
            found.append(f"{words[family]}: {', '.join(holds)}")
    for (result, source, reason), cause in REJECTIONS.items():
        if cause == code:
            found.append(f"A-ASSOCIATE-RJ {result},{source},{'other' if reason is None else reason}")
    for (source, reason), cause in ABORTS.items():
        if cause == code:
            found.append(f"A-ABORT {source}{',other' if reason is None else f',{reason}'}")
    return found


def diagnostics() -> list[str]:
    """The codes of `validate`."""
    return ["| code | meaning |", "|---|---|", *(f"| {code} | {meaning} |" for code, meaning in CODES.items())]


def metrics() -> list[str]:
    """The metrics with their labels."""
    rows = {}
    for one in CATALOGUE.values():
        labels = f"{{{','.join(one.labels)}}}" if one.labels else ""
        kind = " (histogram)" if one.kind == "histogram" else ""
        rows[one.name] = f"| `{PREFIX}{one.name}{labels}` | {one.text}{kind} |"
    return ["| metric | meaning |", "|---|---|", *(rows[name] for name in sorted(rows))]


TABLES = {"causes": causes, "diagnostics": diagnostics, "metrics": metrics}


def current(text: str) -> str:
    """The README with its tables as they should be."""
    for name, table in TABLES.items():
        block = "\n".join([f"<!-- table: {name} -->", *table(), "<!-- end -->"])
        text, found = re.subn(
            rf"<!-- table: {name} -->.*?<!-- end -->", lambda _, block=block: block, text, flags=re.DOTALL
        )
        if found != 1:
            sys.exit(f"README.md has {found} places for the table {name}")
    return text


if __name__ == "__main__":
    README.write_text(current(README.read_text("utf-8")), "utf-8")
