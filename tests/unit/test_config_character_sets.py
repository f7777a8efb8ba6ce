"""`find.assume_character_set`: what is taken, what is refused, and how it stands in the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import config
from router.dimse.identifier import CODECS, character_set_encodings
from router.domain.character_set import DEFINED_TERMS, character_set
from router.domain.problem import ExpressionError

RULES = """
nodes:
  archive: {{ae_title: ARCHIVE, address: "10.0.0.5:104", find: {{assume_character_set: {value}}}}}
rules:
  all: {{sweep: {{source: archive, every: 5m, keys: {{StudyDate: today}}}}, move: {{to: [local]}}}}
"""


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("ISO_IR 100", "ISO_IR 100"),
        ("GB18030", "GB18030"),
        ("[ISO_IR 192]", "ISO_IR 192"),
        ("ISO 2022 IR 100", "ISO 2022 IR 100"),
        (r"\ISO 2022 IR 87", r"\ISO 2022 IR 87"),
        ('["", ISO 2022 IR 87]', r"\ISO 2022 IR 87"),
        ("[ISO 2022 IR 13, ISO 2022 IR 87]", r"ISO 2022 IR 13\ISO 2022 IR 87"),
        ('["", ISO 2022 IR 87, ISO 2022 IR 159]', r"\ISO 2022 IR 87\ISO 2022 IR 159"),
    ],
)
def test_terms_are_taken_as_text_and_as_list(tmp_path: Path, written: str, expected: str) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.format(value=written), "utf-8")
    loaded = config.load(tmp_path)
    assert loaded.rule_set is not None, loaded.errors
    assert loaded.rule_set.nodes["archive"].find.assume_character_set == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["ISO_IR 1000"], "no defined term"),
        (["latin1"], "no defined term"),
        ([""], "empty"),
        (["", ""], "empty"),
        (["ISO 2022 IR 100", ""], "empty"),
        (["ISO_IR 100", "ISO 2022 IR 87"], "stands alone"),
        (["", "ISO_IR 192"], "stands alone"),
        (["ISO 2022 IR 149"], "first value"),
        (["", "ISO 2022 IR 87", "ISO 2022 IR 87"], "twice"),
    ],
)
def test_what_the_standard_does_not_define_is_refused(values: list[str], words: str) -> None:
    with pytest.raises(ExpressionError, match=words):
        character_set(values)


def test_what_was_meant_is_named_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.format(value='["", iso_2022_ir_87]'), "utf-8")
    (error,) = config.load(tmp_path).errors
    assert error.hint == "did you mean ISO 2022 IR 87?"
    assert "iso_2022_ir_87" in error.message


def test_every_defined_term_can_be_read() -> None:
    for term in DEFINED_TERMS:
        assert term in CODECS
        (codec,) = character_set_encodings((term,))
        assert b"A".decode(codec) == "A"
