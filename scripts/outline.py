"""Writes router/cli/outline.json, what a shell completes, from the commands, the schema and the diagnostic codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from router.cli.main import root
from router.cli.outline import FILE_NAME
from router.cli.reference import first_sentence, keys
from router.config.pages import pages

OUTLINE = Path(__file__).parent.parent / "router" / "cli" / FILE_NAME

KINDS = {"--rule": "RULE", "--run": "TEST", "nodes": "NODE", "directory": "DIR"}
"""What the value of an option or argument is, where its metavar does not say it."""


def main() -> str:
    """The whole file."""
    told = {
        "root": command(root),
        "keys": {path.replace(".*", ""): first_sentence(part["description"]) for path, part in keys()},
        "codes": {page.code: page.title for page in pages()},
    }
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def command(given: click.Command) -> dict[str, Any]:
    """A command with its parameters and what is below it."""
    told: dict[str, Any] = {
        "help": given.get_short_help_str(limit=100),
        "parameters": list(map(parameter, given.params)),
    }
    if isinstance(given, click.Group):
        told["commands"] = {name: command(inner) for name, inner in given.commands.items()}
    return told


def parameter(given: click.Parameter) -> dict[str, Any]:
    """An option or an argument."""
    is_option = isinstance(given, click.Option)
    metavar = re.sub(r"[^A-Z]", "", given.metavar or "" if is_option else given.metavar or str(given.name).upper())
    named = given.opts[0] if is_option else str(given.name)
    told: dict[str, Any] = {"names": [*given.opts, *given.secondary_opts] if is_option else []}
    told["kind"] = KINDS.get(named, metavar)
    if isinstance(given.type, click.Choice):
        told["choices"] = [str(choice) for choice in given.type.choices]
    if isinstance(given, click.Option):
        told["help"] = first_sentence(given.help or "")
        if given.is_flag:
            told["flag"] = True
    if getattr(given, "multiple", False) or given.nargs == -1:
        told["many"] = True
    return told


if __name__ == "__main__":
    OUTLINE.write_text(main(), "utf-8")
