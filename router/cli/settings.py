"""What every command shares: the chosen directory and output format, how they are loaded, where output goes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.text import Text

from router import config
from router.config.schema import did_you_mean
from router.domain.rule import RuleSet
from router.errors import ConfigurationError, UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])

_WIDTH = 200
"""Columns where no terminal says how many there are: enough that a table's row stays a line."""
_BREAKS = {9: " ", 10: " ", 13: " "}
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "\ufffd") | _BREAKS
"""What a text from outside may not send to a terminal, and what stands in its place."""


class Settings(msgspec.Struct):
    """The shared options; the click context's object."""

    config: Path = Path("rules")
    format: str = "text"

    @property
    def json(self) -> bool:
        """Whether output is for programs."""
        return self.format == "json"


def limit_option(
    help: str = "At most so many.", *, default: int = 100, most: int = 100_000
) -> Callable[[_Command], _Command]:
    """`--limit` of what may be long."""
    return click.option(
        "--limit", default=default, show_default=True, metavar="NUMBER", type=click.IntRange(1, most), help=help
    )


def settings_of(ctx: click.Context) -> Settings:
    """The shared options of this call."""
    return ctx.ensure_object(Settings)


def load_rules(settings: Settings) -> RuleSet:
    """The configuration. Prints its diagnostics and raises ConfigurationError where it has errors."""
    return load_configuration(settings)[1]


def load_configuration(settings: Settings) -> tuple[config.Loaded, RuleSet]:
    """The same with all that came of loading it, its test cases too."""
    loaded = config.load(settings.config)
    if loaded.rule_set is None:
        for diagnostic in loaded.diagnostics:
            say(str(diagnostic))
        raise ConfigurationError(f"The configuration in {settings.config} has errors; nothing was done.")
    return loaded, loaded.rule_set


def no_such(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that the configuration does not have."""
    names = list(known)
    hint = did_you_mean(name, names) or (f"there are: {', '.join(names)}" if names else f"there is no {kind} at all")
    return UsageError(f"There is no {kind} {name}; {hint}")


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: as KeyboardInterrupt, so that what runs is cancelled and tidied up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_json(value: object) -> None:
    """Print a value of plain types, structs and datetimes as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def terminal() -> Console:
    """Where results go."""
    return _console(stderr=False)


def progress_terminal() -> Console:
    """Where progress goes: standard error, so that results can be piped."""
    return _console(stderr=True)


def say(sentence: str) -> None:
    """Tell the user something that is no result: broken at words on a terminal, one line elsewhere."""
    console = progress_terminal()
    console.print(plain(sentence), soft_wrap=not console.is_terminal)


def plain(value: str, style: str = "") -> Text:
    """A text from outside as it is: nothing in it is taken for markup or for a terminal's control sequence."""
    return Text(value.translate(_CONTROLS), style=style)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, emoji=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, emoji=False, width=_WIDTH)
