"""The root command, the options every command shares, and the one place where errors become exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from router import __version__
from router.cli.help import Root
from router.cli.loading import Commands
from router.cli.settings import Settings, say
from router.errors import ConfigurationError, RouterError, UsageError

FORMATS = {"validate": ("text", "json", "github"), "query": ("text", "json", "csv")}
"""Commands that offer more than text and JSON."""
_USUAL = ("text", "json")
_ALL = tuple(dict.fromkeys((*_USUAL, *(one for formats in FORMATS.values() for one in formats))))


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None:
        setattr(ctx.ensure_object(Settings), str(parameter.name), value)


def _shared(formats: tuple[str, ...]) -> list[click.Parameter]:
    """`--config` and `--format`, accepted before and after the command's name."""

    def remember_format(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
        _remember(ctx, parameter, value)
        chosen = ctx.ensure_object(Settings).format  # it may have stood before the command
        if chosen not in formats:
            raise click.BadParameter(f"{chosen!r} is not one of {', '.join(map(repr, formats))}.", ctx, parameter)

    return [
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            metavar="DIR",
            expose_value=False,
            callback=_remember,
            help="Directory with the rule files.  [default: ./rules]",
        ),
        click.Option(
            ["--format"],
            type=click.Choice(formats),
            metavar="|".join(formats),
            expose_value=False,
            callback=remember_format,
            help="How to print.  [default: text]",
        ),
    ]


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dicom-router")
def root() -> None:
    """Route DICOM studies as YAML rules say, and prove what arrived.

    Begin with `dicom-router demo`, then `dicom-router init DIR`.
    """


_COMMANDS = {
    "run": "run",
    "apply": "apply",
    "plan": "plan",
    "explain": "explain",
    "validate": "validate",
    "test": "cases",
    "doctor": "doctor",
    "query": "query",
    "top": "top",
    "transfers": "transfers",
    "appointments": "appointments",
    "store": "store",
    "quarantine": "quarantine",
    "ledger": "ledger",
    "notify": "notify",
    "pseudonym": "pseudonym",
    "schema": "schema",
    "init": "init",
    "demo": "demo",
    "completion": "completion",
}
"""The commands, each with the module of `router.cli` that it stands in."""


def _prepare(command: click.Command) -> None:
    """Give a command, and those below it, the options that all of them share."""
    for one in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
        one.params.extend(_shared(FORMATS.get(str(one.name), _USUAL)))


root.params.extend(_shared(_ALL))
root.commands = Commands(_COMMANDS, _prepare)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 2 for usage and configuration errors, 1 for failed work."""
    try:
        code = root.main(arguments, prog_name="dicom-router", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (ConfigurationError, UsageError) as error:
        say(f"dicom-router: {error}")
        sys.exit(2)
    except RouterError as error:
        say(f"dicom-router: {error}")
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  a defect of ours: one sentence, no traceback, no value of a data set
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        at = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame is not None else "?"
        say(f"dicom-router: unforeseen {type(error).__name__} at {at}; please report this line with what you did.")
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
