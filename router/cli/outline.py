"""What there is to complete, as data: commands, options, keys and codes, without loading any of the commands.

The file is made by `python scripts/outline.py` from the commands themselves; a test keeps it current. It exists because
a shell asks at every press of a key, and loading a command takes its database and its network along.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import NotRequired, TypedDict

FILE_NAME = "outline.json"


class Parameter(TypedDict):
    """An option (which has names) or an argument of a command."""

    names: list[str]
    kind: str
    """What its value is, in a word: RULE, NODE, DIR, FILE, PATH; empty: nothing that could be completed."""
    help: NotRequired[str]
    choices: NotRequired[list[str]]
    flag: NotRequired[bool]
    many: NotRequired[bool]
    """Whether it may be given more than once."""


class Command(TypedDict):
    """A command, or a group of commands."""

    help: str
    parameters: list[Parameter]
    commands: NotRequired[dict[str, Command]]


class Outline(TypedDict):
    """The file."""

    root: Command
    keys: dict[str, str]
    """The path of every key of the configuration, without names of one's own, with the first sentence about it."""
    codes: dict[str, str]
    """Every diagnostic code, with its title."""


@lru_cache(maxsize=1)
def outline() -> Outline:
    """The contents of the file."""
    contents: Outline = json.loads(resources.files("router.cli").joinpath(FILE_NAME).read_text("utf-8"))
    return contents
