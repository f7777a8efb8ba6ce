"""`dicom-router init`: write a commented starter configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from router.cli.settings import settings_of
from router.config.schema import FILE_NAME, schema_text
from router.errors import UsageError

_MODELINE = f"# yaml-language-server: $schema=./{FILE_NAME}\n"

STARTER: dict[str, Callable[[], str]] = {
    FILE_NAME: schema_text,
    "router.yaml": lambda: (
        _MODELINE
        + """#
# This router. Every setting is optional. All keys: dicom-router schema router

router:
  ae_title: ROUTER
  listen: 0.0.0.0:11112           # where archives send to when a rule says `to: [local]`
  store: ./data/store             # relative paths start at the working directory of the process
  ledger: sqlite:///./data/ledger.db
  http: 127.0.0.1:9104            # the status page, /metrics, /healthz, /readyz
  # token: {file: /run/secrets/dicom-router-token}   # whoever shows it may act on the status page and over the API
  # notify:                                          # who is told when something goes wrong; dicom-router notify test
  #   channels:
  #     on-call: {mail: {to: [pacs@hospital.example], from: router@hospital.example, server: "mail.example:587"}}
"""
    ),
    "nodes.yaml": lambda: (
        _MODELINE
        + """#
# The systems this router talks to. Change the AE titles and addresses to yours; the names are up to you.
# The archive must allow ROUTER to query and to move, and must know each destination, ROUTER included, by AE title,
# host and port: it does the sending. All keys: dicom-router schema nodes

nodes:
  archive:
    ae_title: ARCHIVE             # compared letter by letter
    address: 10.0.0.5:104
    # timezone: Europe/Berlin     # of its dates and times; without it, that of this machine

  workstation:
    ae_title: WORKSTATION
    address: 10.0.0.9:104
"""
    ),
    "rules.yaml": lambda: (
        _MODELINE
        + """#
# Which studies go where. Try it without moving anything: dicom-router plan. All keys: dicom-router schema rules

rules:
  ct-to-workstation:
    description: Recent chest CT to the reading room
    sweep:
      source: archive
      every: 5m                   # or cron: "*/5 7-19 * * mon-fri"
      keys:                       # what the archive is asked
        StudyDate: today-2d..today
        ModalitiesInStudy: CT
    where:                        # what must hold of each answer
      StudyDescription: {matches: "(?i)chest|thorax"}
    move:
      to: [workstation, local]    # local: this router's own store
"""
    ),
}
"""The files of a starter configuration and what makes their text."""


def write_starter(directory: Path) -> list[Path]:
    """Write the starter files; nothing is written if one is there. Raises UsageError."""
    paths = [directory / name for name in STARTER]
    existing = [path.name for path in paths if path.exists()]
    if existing:
        raise UsageError(
            f"{directory} already holds {', '.join(existing)}: nothing was written; name another directory."
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, STARTER.values(), strict=True):
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text())
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror or 'I/O error'}.") from None
    return paths


@click.command(short_help="Write a commented starter configuration.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.pass_context
def init(ctx: click.Context, directory: Path) -> None:
    """Write a commented starter configuration into DIRECTORY."""
    paths = write_starter(directory)
    settings = settings_of(ctx)
    if settings.format == "json":
        click.echo(json.dumps({"files": [str(path) for path in paths]}, indent=2))
        return
    for path in paths:
        click.echo(str(path))
    click.echo(f"\nChange nodes.yaml to your systems, then: dicom-router --config {directory} validate")
