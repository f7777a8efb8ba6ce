"""A page for each diagnostic code: what it means, a configuration with the mistake, what to do. The texts are data."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Any

import msgspec

from router.config.diagnostics import CODES, Code
from router.config.document import parse_document
from router.config.schema import raw_value

FILE_NAME = "pages.yaml"
"""The texts, packaged beside this file."""
EXAMPLE = "example.yaml"
"""What the file with the example is called in `Page.diagnostic`."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know about one code."""

    code: Code
    title: str
    """A line, the one of CODES."""
    meaning: str
    """Some sentences: what happens, and why it matters."""
    example: str
    """YAML with the mistake."""
    diagnostic: str
    """What `validate` prints for the example, in a file of the name EXAMPLE."""
    remedy: str
    """What to do about it, in sentences."""
    repaired: str
    """The example without the mistake."""
    around: str = ""
    """What else the configuration of the example holds, in a file of its own; empty: nothing."""
    encoding: str = "utf-8"
    """In which the example is saved."""


@lru_cache(maxsize=1)
def pages() -> list[Page]:
    """Every page, by code."""
    contents = resources.files("router.config").joinpath(FILE_NAME).read_bytes()
    root, _ = parse_document(contents, FILE_NAME)
    assert root is not None
    texts: dict[str, Any] = raw_value(root)
    return [_page(Code(code), given, texts["around"]) for code, given in texts["pages"].items()]


def page(code: Code) -> Page:
    """The page of a code."""
    return next(one for one in pages() if one.code is code)


def _page(code: Code, given: dict[str, str], around: str) -> Page:
    given = dict(given)
    alone = given.pop("alone", "") == "true"
    return Page(code=code, title=CODES[code], around="" if alone else around, **given)
