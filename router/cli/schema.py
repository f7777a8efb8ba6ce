"""`dicom-router schema`: the documentation of any key of the configuration, and of any code of `validate`."""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any

import click
import msgspec

from router.cli.reference import WIDTH, describe, first_sentence, lookup, overview, search
from router.cli.settings import print_json, settings_of
from router.config.diagnostics import CODES
from router.config.pages import EXAMPLE, Page, pages
from router.config.schema import did_you_mean
from router.errors import UsageError

_CODE = re.compile(r"[Dd][Rr][0-9]{1,4}\Z")


def page_of(word: str) -> Page:
    """The page of a code, such as DR040. Raises UsageError."""
    for page in pages():
        if page.code == word.upper():
            return page
    hint = did_you_mean(word.upper(), CODES) or "dicom-router schema --search WORD finds one"
    raise UsageError(f"There is no code {word.upper()}; {hint}")


def describe_page(page: Page) -> str:
    """A page as text."""
    lines = [f"{page.code} {page.title}", "", _wrapped(page.meaning), "", f"  {EXAMPLE}:", "", _indented(page.example)]
    lines += ["", "  What validate says:", "", _wrapped(page.diagnostic, "    ")]
    lines += ["", "  What to do:", "", _wrapped(page.remedy, "    "), "", "  Repaired:", "", _indented(page.repaired)]
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _indented(text: str) -> str:
    return textwrap.indent(text.rstrip(), "    ")


def _found(words: str) -> tuple[list[tuple[str, Any]], list[Page]]:
    wanted = words.casefold().split()
    keys = search(words)
    codes = [one for one in pages() if all(word in _text_of(one) for word in wanted)]
    if not keys and not codes:
        raise UsageError(f"No key and no code has to do with {words!r}; try another word, or a part of one.")
    return keys, codes


def _text_of(page: Page) -> str:
    return " ".join([page.code, page.title, page.meaning, page.diagnostic, page.remedy]).casefold()


@click.command(short_help="The documentation of any key of the configuration.")
@click.argument("path", default="", metavar="[PATH]")
@click.option("--search", "words", metavar="WORDS", help="List the keys and codes that have to do with these words.")
@click.pass_context
def schema(ctx: click.Context, path: str, words: str | None) -> None:
    """Print the documentation of a key, such as `rules.*.sweep.keys`; with --format json its JSON Schema.

    A code of `validate`, such as DR040, prints what it means, an example and what to do.
    """
    as_json = settings_of(ctx).json
    if words is not None:
        keys, codes = _found(words)
        if as_json:
            found = [{"path": at, "description": part["description"]} for at, part in keys]
            print_json({"keys": found, "codes": [{"code": one.code, "title": one.title} for one in codes]})
        else:
            lines = [overview(keys)] if keys else []
            click.echo("\n".join([*lines, *(f"{one.code}  {first_sentence(one.title)}" for one in codes)]))
    elif _CODE.match(path):
        page = page_of(path)
        if as_json:
            print_json(msgspec.structs.asdict(page))
        else:
            click.echo(describe_page(page))
    else:
        full, part = lookup(path)
        click.echo(json.dumps(part, indent=2, ensure_ascii=False) if as_json else describe(full, part))
