"""`dicom-router validate`: print what is wrong with a configuration."""

from __future__ import annotations

import os
from pathlib import Path

import click

from router import config
from router.cli.settings import settings_of
from router.config.diagnostics import as_github, as_json, as_text, relative_to
from router.errors import UsageError


@click.command(short_help="Check the configuration: every error with its place.")
@click.option("--strict", is_flag=True, help="Warnings fail as well: for checks before a change is merged.")
@click.pass_context
def validate(ctx: click.Context, strict: bool) -> None:
    """Check the configuration and print every error and warning with its place.

    Exit code 0 without errors (there may be warnings), 1 with errors (or with --strict warnings), 2 if there is no
    such directory. What a code means, with an example: dicom-router schema DR040.
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
            click.echo(as_github(relative_to(_repository(), loaded.diagnostics)))
    else:
        if loaded.diagnostics:
            click.echo(as_text(loaded.diagnostics))
        click.echo(_summary(settings.config, loaded), err=True)
    failed = any(strict or one.is_error for one in loaded.diagnostics)
    ctx.exit(1 if failed else 0)


def _repository() -> Path:
    """Where names of files begin for GitHub: its workspace; elsewhere the working directory."""
    return Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd())


def _summary(directory: Path, loaded: config.Loaded) -> str:
    errors = len(loaded.errors)
    warnings = _count(len(loaded.diagnostics) - errors, "warning")
    if loaded.rule_set is None:
        return f"{directory}: {_count(errors, 'error')}, {warnings}"
    rules = loaded.rule_set.rules.values()
    enabled = sum(rule.enabled for rule in rules)
    nodes = _count(len(loaded.rule_set.nodes), "node")
    return f"{directory} is valid: {nodes}, {_count(len(rules), 'rule')} ({enabled} enabled), {warnings}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
