"""Writes the tables of the README from the code, between `<!-- table: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from router import config
from router.config.diagnostics import CODES
from router.domain.events import ConfigurationLoaded
from router.domain.outcome import CAUSES
from router.observe.metrics import Metrics

README = Path(__file__).parent.parent / "README.md"


def causes() -> list[str]:
    """The outcome table."""
    rows = [f"| `{code}` | {cause.sentence} | {cause.remedy} |" for code, cause in CAUSES.items()]
    return ["| cause | sentence | what helps |", "|---|---|---|", *rows]


def diagnostics() -> list[str]:
    """The codes of `validate`."""
    return ["| code | meaning |", "|---|---|", *(f"| {code} | {meaning} |" for code, meaning in CODES.items())]


def metrics() -> list[str]:
    """The metrics with their labels."""
    loaded = config.load(README.parent / "rules")
    if loaded.rule_set is None:
        sys.exit("rules/ has errors")
    shown = Metrics()
    shown.configure(loaded.rule_set)
    shown.watch_backlog(list)
    shown(ConfigurationLoaded(successful=True, content_hash="0"))
    rows = {}
    for family in shown.registry.collect():
        labels = [label for label in family.samples[0].labels if label != "le"]
        name = f"{family.name}_total" if family.type == "counter" else family.name
        kind = " (histogram)" if family.type == "histogram" else ""
        rows[name] = f"| `{name}{'{' + ','.join(labels) + '}' if labels else ''}` | {family.documentation}{kind} |"
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
