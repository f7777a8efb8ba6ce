"""Shell completion: the script for the shell, and what the shell is answered, without loading a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from router.cli.outline import Command, Parameter, outline
from router.config.names import names_in

PROGRAM = "dicom-router"
VARIABLE = "_DICOM_ROUTER_COMPLETE"
"""In the environment of a call that asks what may follow; its value is of the form `bash_complete`."""
SHELLS = ("bash", "zsh", "fish")

Items = list[CompletionItem[str]]


def complete() -> None:
    """Answer a shell, and exit. Whatever is wrong, nothing is said: somebody is typing."""
    try:
        shell, _, instruction = os.environ[VARIABLE].partition("_")
        completer = get_completion_class(shell)
        if completer is not None and instruction == "complete":
            click.echo(completer(commands(), {}, PROGRAM, VARIABLE).complete())
    except Exception:  # noqa: BLE001  a message would stand in the middle of the line that is being typed
        sys.exit(1)
    sys.exit(0)


def commands() -> click.Command:
    """The commands with their options as click completes them; they do nothing."""
    return _command(PROGRAM, outline()["root"])


def _command(name: str, told: Command) -> click.Command:
    parameters = [_parameter(one) for one in told["parameters"]]
    if "commands" not in told:
        return click.Command(name, params=parameters, short_help=told["help"])
    below = {name: _command(name, inner) for name, inner in told["commands"].items()}
    return click.Group(name, commands=below, params=parameters, short_help=told["help"])


def _parameter(told: Parameter) -> click.Parameter:
    settings: dict[str, Any] = {"type": click.Choice(told["choices"])} if "choices" in told else {}
    if told["kind"] in _COMPLETED:
        settings["shell_complete"] = _COMPLETED[told["kind"]]
    many = told.get("many", False)
    if not told["names"]:
        return click.Argument([told["kind"].lower() or "value"], nargs=-1 if many else 1, required=False, **settings)
    flag = told.get("flag", False)
    return click.Option(told["names"], is_flag=flag, multiple=many and not flag, help=told.get("help"), **settings)


# --- Values -----------------------------------------------------------------------------------------------------------


def _directory(ctx: click.Context) -> Path:
    """The configuration that the line names so far."""
    place: click.Context | None = ctx
    while place is not None:
        if named := place.params.get("config"):
            return Path(named).expanduser()
        place = place.parent
    return Path("rules")


def _names(section: str) -> Callable[[click.Context, click.Parameter, str], Items]:
    def offered(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
        given = ctx.params.get(str(parameter.name)) or ()
        names = [name for name in names_in(_directory(ctx), section) if name.startswith(incomplete)]
        return [CompletionItem(name) for name in names if isinstance(given, str) or name not in given]

    return offered


def _place(kind: str) -> Callable[[click.Context, click.Parameter, str], Items]:
    return lambda ctx, parameter, incomplete: [CompletionItem(incomplete, type=kind)]


def _keys(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """Paths of keys, one step further than what is typed, and codes once their letters are."""
    told = outline()
    if incomplete[:2].upper() == "DR" and incomplete[:2].isalpha():
        codes = [CompletionItem(code, help=title) for code, title in told["codes"].items()]
        return [item for item in codes if item.value.startswith(incomplete.upper())]
    steps = incomplete.count(".") + bool(incomplete)
    found = [CompletionItem(path, help=text) for path, text in told["keys"].items() if path.startswith(incomplete)]
    return [item for item in found if item.value.count(".") <= steps]


_COMPLETED: dict[str, Callable[[click.Context, click.Parameter, str], Items]] = {
    "RULE": _names("rules"),
    "NODE": _names("nodes"),
    "TEST": _names("tests"),
    "DIR": _place("dir"),
    "FILE": _place("file"),
    "PATH": _keys,
}
"""What is offered, by the kind of a parameter."""


# --- The script -------------------------------------------------------------------------------------------------------


@click.command(short_help="The script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that lets a SHELL complete commands, options, and the names of your rules and nodes."""
    completer = get_completion_class(shell)
    assert completer is not None
    script = completer(commands(), {}, PROGRAM, VARIABLE).source()
    from router.cli.settings import print_json, settings_of

    if settings_of(ctx).json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script, nl=False)
