"""What every command shares: the chosen configuration directory and output format, and how they are loaded."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console

from router import config
from router.domain.rule import RuleSet
from router.errors import ConfigurationError


class Settings(msgspec.Struct):
    """The shared options; the click context's object."""

    config: Path = Path("rules")
    format: str = "text"

    @property
    def json(self) -> bool:
        """Whether output is for programs."""
        return self.format == "json"


def settings_of(ctx: click.Context) -> Settings:
    """The shared options of this call."""
    return ctx.ensure_object(Settings)


def load_rules(settings: Settings) -> RuleSet:
    """The configuration. Prints its diagnostics and raises ConfigurationError where it has errors."""
    loaded = config.load(settings.config)
    if loaded.rule_set is None:
        for diagnostic in loaded.diagnostics:
            click.echo(str(diagnostic), err=True)
        raise ConfigurationError(f"The configuration in {settings.config} has errors; nothing was done.")
    return loaded.rule_set


def print_json(value: object) -> None:
    """Print a value of plain types, structs and datetimes as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def terminal() -> Console:
    """Where results go."""
    return _console(stderr=False)


def progress_terminal() -> Console:
    """Where progress goes: standard error, so that results can be piped."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    """A console; where no terminal says how wide it is, wide enough that a table's row stays a line."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=200)
