"""docs/reference.md: made from the schema and the pages of the codes, and current."""

from __future__ import annotations

import re
from pathlib import Path

from router.cli.reference import keys
from router.config.pages import pages
from tests.support.scripts import script

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text("utf-8")


def test_the_reference_is_current() -> None:
    assert script("reference").main() == REFERENCE, "run `python scripts/reference.py`"


def test_every_key_is_told() -> None:
    for path, part in keys():
        _, _, name = path.rpartition(".")
        assert f"`{name}`" in REFERENCE, path
        assert script("reference").text_of(part).split(". ")[0].rstrip(".") in REFERENCE, path


def test_every_value_of_an_enumeration_is_told() -> None:
    for path, part in keys():
        for value in part.get("enum", ()):
            assert f"`{value}`: " in REFERENCE, path


def test_every_code_has_its_place() -> None:
    for page in pages():
        assert f'<a id="{page.code.lower()}"></a>' in REFERENCE
        assert page.diagnostic.rstrip() in REFERENCE
        assert page.repaired.rstrip() in REFERENCE


def test_every_link_leads_to_a_place_of_the_file() -> None:
    places = re.findall(r'<a id="([^"]+)"></a>', REFERENCE)
    assert len(places) == len(set(places))
    assert set(re.findall(r"\]\(#([^)]+)\)", REFERENCE)) <= set(places)


def test_rows_have_as_many_cells_as_their_heads() -> None:
    width = 0
    for line in REFERENCE.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells == width or not (cells and width), line
        width = cells
