"""What monitoring/ tells people to type exists: each command it names is one of ours, with options that it has."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from router.cli.main import root

MONITORING = Path(__file__).parents[2] / "monitoring"
COMMANDS = "|".join(root.commands)


def texts(value: Any) -> Iterator[str]:
    """Every text in a value of JSON or YAML, on one line."""
    if isinstance(value, str):
        yield " ".join(value.split())
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


def named() -> dict[str, list[str]]:
    """Where -> what stands in backticks there."""
    found = {}
    for path in sorted([*MONITORING.glob("*.y*ml"), *MONITORING.rglob("*.json")]):
        content = json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
        found[path.name] = [span for text in texts(content) for span in re.findall(r"`([^`]+)`", text)]
    return found


LINES = sorted({span for spans in named().values() for span in spans if span.startswith("dicom-router ")})


def filled_in(line: str) -> list[str]:
    """A line as somebody would type it, with values in the place of words in capitals and of labels."""
    line = re.sub(r"\{\{[^}]*\}\}|\$\{?\w+\}?", "archive", line)
    return [{"ID": "1", "CODE": "DR001"}.get(word, word) for word in shlex.split(line)[1:]]


@pytest.mark.parametrize("line", LINES)
def test_a_command_that_monitoring_names_is_understood(line: str) -> None:
    context: click.Context = root.make_context("dicom-router", filled_in(line))
    arguments = [*context._protected_args, *context.args]
    command: click.Command = root
    while isinstance(command, click.Group):
        assert arguments, f"{line}: which of its commands?"
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None, name
        command = found
        context = command.make_context(name, arguments, parent=context)
        arguments = [*context._protected_args, *context.args]


def test_commands_are_named_in_full() -> None:
    assert len(LINES) > 10
    for name, spans in named().items():
        for span in spans:
            assert not re.match(rf"({COMMANDS}) ", span), f"{name}: `{span}` lacks its program"
