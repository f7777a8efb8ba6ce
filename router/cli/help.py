"""The help of the root command, from the outline: to list the commands none of them is loaded."""

from __future__ import annotations

import click

from router.cli.outline import outline


class Root(click.Group):
    """A group whose help tells of its commands as the outline does."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each command."""
        told = outline()["root"]["commands"]
        with formatter.section("Commands"):
            formatter.write_dl([(name, told[name]["help"]) for name in self.list_commands(ctx) if name in told])
