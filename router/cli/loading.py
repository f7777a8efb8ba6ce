"""Commands that are loaded when they are asked for: to check a configuration takes no database and no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module

import click


class Commands(MutableMapping[str, click.Command]):
    """Commands by name. Each is an attribute, of its own name, of a module of `router.cli`."""

    def __init__(self, modules: Mapping[str, str], prepare: Callable[[click.Command], None]) -> None:
        self._modules = dict(modules)
        self._loaded: dict[str, click.Command] = {}
        self._prepare = prepare

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            command: click.Command = getattr(import_module(f"router.cli.{self._modules[name]}"), name)
            self._prepare(command)
            self._loaded[name] = command
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._modules.setdefault(name, name)
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._modules[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)
