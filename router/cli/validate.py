"""`dicom-router validate`: print what is wrong with a configuration."""

from __future__ import annotations

import click

from router import config
from router.cli.settings import settings_of
from router.config.diagnostics import as_github, as_json, as_text
from router.errors import UsageError


@click.command(short_help="Check the configuration: every error with its place.")
@click.pass_context
def validate(ctx: click.Context) -> None:
    """Check the configuration and print every error and warning with its place.

    Exit code 0 without errors (there may be warnings), 1 with errors, 2 if there is no such directory.
    """
    settings = settings_of(ctx)
    if not settings.config.is_dir():
        raise UsageError(
            f"{settings.config} is no directory: name the configuration with --config DIR, "
            "or make one with: dicom-router init DIR"
        )
    loaded = config.load(settings.config)
    if settings.format == "json":
        click.echo(as_json(loaded.diagnostics))
    elif settings.format == "github":
        if loaded.diagnostics:
            click.echo(as_github(loaded.diagnostics))
    else:
        if loaded.diagnostics:
            click.echo(as_text(loaded.diagnostics))
        errors = len(loaded.errors)
        warnings = len(loaded.diagnostics) - errors
        if loaded.rule_set is None:
            click.echo(f"{settings.config}: {_count(errors, 'error')}, {_count(warnings, 'warning')}", err=True)
        else:
            rules = loaded.rule_set.rules.values()
            enabled = sum(rule.enabled for rule in rules)
            click.echo(
                f"{settings.config} is valid: {_count(len(loaded.rule_set.nodes), 'node')}, "
                f"{_count(len(rules), 'rule')} ({enabled} enabled), {_count(warnings, 'warning')}",
                err=True,
            )
    ctx.exit(1 if loaded.errors else 0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
