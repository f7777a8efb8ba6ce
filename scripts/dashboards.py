"""Writes monitoring/grafana/dashboards: the dashboards for Grafana, each from its module in scripts/grafana."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

sys.path.append(str(Path(__file__).parent))

from grafana import node, overview, prefetch, rule, store

DASHBOARDS = Path(__file__).parent.parent / "monitoring" / "grafana" / "dashboards"
MODULES: tuple[ModuleType, ...] = (overview, node, rule, store, prefetch)


def main() -> dict[str, str]:
    """{file name: its text}."""
    return {
        f"{module.__name__.rpartition('.')[2]}.json": json.dumps(module.board(), indent=2, ensure_ascii=False) + "\n"
        for module in MODULES
    }


if __name__ == "__main__":
    for name, text in main().items():
        (DASHBOARDS / name).write_text(text, "utf-8")
