"""`pseudonym`: what stands for a study in logs, on the page and in notifications."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from router.cli.settings import load_rules, print_json, settings_of
from router.domain.dicom import is_uid
from router.domain.rule import RuleSet
from router.errors import UsageError
from router.service import open_ledger, site_pseudonyms

_LINE = 1000
"""Characters of standard input that are read as one line."""


@click.command(short_help="What stands for a study in the log.")
@click.argument("uids", metavar="UID...", nargs=-1, required=True)
@click.pass_context
def pseudonym(ctx: click.Context, uids: tuple[str, ...]) -> int:
    """The pseudonym of each Study Instance UID, one a line, to search the log for; `-` reads UIDs from standard input.

    The way back: `dicom-router transfers list --study PSEUDONYM`.
    """
    settings = settings_of(ctx)
    rules = load_rules(settings)
    pseudonyms = site_pseudonyms(rules, lambda: _ledgers_key(rules))
    found = ((uid, pseudonyms.of(uid)) for uid in _given(uids))
    if settings.json:
        print_json({"pseudonyms": [{"study_instance_uid": uid, "study": name} for uid, name in found]})
    else:
        for _, name in found:
            click.echo(name)
    return 0


def _ledgers_key(rules: RuleSet) -> bytes:
    with open_ledger(rules, read_only=True, create=False) as ledger:
        return ledger.site_key()


def _given(words: tuple[str, ...]) -> Iterator[str]:
    """The UIDs in order, those of standard input where `-` stands. Raises UsageError for what is none."""
    for word in words:
        for text in _standard_input() if word == "-" else (word,):
            uid = text.strip(" \0\r\n\t")
            if uid and not is_uid(uid):
                raise UsageError(f"{uid[:70]!r} is no UID: digits and single dots, at most 64 characters.")
            if uid:
                yield uid


def _standard_input() -> Iterator[str]:
    while line := sys.stdin.buffer.readline(_LINE):
        yield line.decode("ascii", "replace")
