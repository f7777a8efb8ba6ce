"""`schema`: any key by its path, any code by its number, both by words."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema import Draft7Validator

from router.cli.main import root
from router.cli.reference import keys, lookup
from router.config.pages import pages
from router.config.schema import full_schema
from router.errors import UsageError


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(root, ["schema", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(root, ["schema", *arguments])
    assert isinstance(result.exception, UsageError)
    return str(result.exception)


def test_every_key_is_found_at_its_path_and_without_names_of_ones_own() -> None:
    found = list(keys())
    assert len(found) > 150
    for path, part in found:
        assert lookup(path) == (path, part)
        assert lookup(path.replace(".*", ""))[1] == part, path


def test_a_key_is_told_with_its_default_its_values_and_what_each_means() -> None:
    text = printed("rules.move.verify")
    assert text.startswith("rules.*.move.verify\n")
    assert "  default:  auto\n" in text
    assert "    find        Only what the destination answers to a query.\n" in text
    assert "  form:     A duration: a number and s, m, h" in printed("router.drain")
    assert "  range:    from 1 to 64\n" in printed("nodes.limits.associations")


def test_a_mapping_is_told_with_the_keys_below_it() -> None:
    text = printed("nodes")
    assert "    *.ae_title " in text
    assert re.search(r"^    \*\.root +Information model for queries and moves\. \[study\]$", text, re.MULTILINE)
    assert "  required: ae_title, address\n" in printed("nodes.*")
    assert "    StudyDate  " in printed("rules.sweep.keys")


def test_no_line_of_a_description_is_wider_than_a_terminal() -> None:
    for path, _ in keys():
        paragraph = printed(path).split("\n\n")[1]
        assert max(map(len, paragraph.splitlines())) <= 100, path


def test_as_json_a_key_is_its_schema() -> None:
    part: dict[str, Any] = json.loads(printed("rules.sweep.every", "--format", "json"))
    Draft7Validator.check_schema(part)
    assert part == full_schema()["definitions"]["every"]


@pytest.mark.parametrize("page", pages(), ids=[page.code for page in pages()])
def test_a_code_is_told_with_an_example_and_what_to_do(page: Any) -> None:
    text = printed(page.code)
    assert text.startswith(f"{page.code} {page.title}\n")
    words = " ".join(text.split())
    for part in (page.meaning, page.example, page.diagnostic, page.remedy, page.repaired):
        assert " ".join(part.split()) in words
    assert json.loads(printed(page.code.lower(), "--format", "json"))["code"] == page.code


def test_words_find_keys_and_codes() -> None:
    lines = printed("--search", "DUTY").splitlines()
    assert any(line.startswith("nodes.*.limits.duty ") for line in lines)
    text = printed("--search", "whole archive")
    assert "DR040  A sweep without a key" in text
    found = json.loads(printed("--search", "whole archive", "--format", "json"))
    assert {one["code"] for one in found["codes"]} >= {"DR040"}
    assert all(set(one) == {"path", "description"} for one in found["keys"])


def test_a_value_of_an_enumeration_finds_its_key() -> None:
    assert "rules.*.move.verify" in printed("--search", "commitment destination")


def test_what_is_not_there_is_answered_with_what_is_meant() -> None:
    assert "did you mean settle?" in refused("rules.sweep.setle")
    assert "did you mean DR041?" in refused("DR41")
    assert "there is no code dr999" in refused("dr999").casefold()
    assert "nothing below it" in refused("router.drain.more")
    assert "try another word" in refused("--search", "xyzzy")
