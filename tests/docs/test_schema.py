"""The JSON Schema: it says what it means, and means what the model and the compiler do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft7Validator

from router.config.schema import FILE_NAME, full_schema, reading_schema, schema_at
from router.config.values import parse_address, parse_size, result_limit
from router.domain import rule as model
from router.domain.clause import OPERATORS
from router.domain.condition import KeyMatch, compile_condition
from router.domain.dicom import tag_of
from router.domain.problem import Step
from router.domain.timing import DURATION_PATTERN, parse_duration
from router.domain.window import Window

ROOT = Path(__file__).parents[2]
SCHEMA: dict[str, Any] = json.loads((ROOT / "schemas" / FILE_NAME).read_text())

KEYWORDS = set(Draft7Validator.META_SCHEMA["properties"])
FOR_EDITORS = {"markdownDescription"}
MAZES = {"oneOf", "anyOf", "allOf", "if", "then", "else", "not", "dependencies", "patternProperties"}
MAPS = ("properties", "definitions")


def schemas(part: Any, path: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema in the schema, with where it stands."""
    yield path, part
    for keyword in MAPS:
        for name, inner in part.get(keyword, {}).items():
            yield from schemas(inner, f"{path}/{keyword}/{name}")
    for keyword in ("items", "additionalProperties", "propertyNames"):
        if isinstance(part.get(keyword), dict):
            yield from schemas(part[keyword], f"{path}/{keyword}")


ALL = list(schemas(SCHEMA))


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        part = SCHEMA["definitions"][part["$ref"].rpartition("/")[2]]
    return part


def validator(part: dict[str, Any]) -> Draft7Validator:
    return Draft7Validator({**part, "definitions": SCHEMA["definitions"]})


def test_it_is_a_draft_07_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert SCHEMA["$id"].endswith(FILE_NAME)


def test_there_are_no_unknown_keywords_and_no_mazes() -> None:
    """JSON Schema ignores what it does not know: a misspelt `additional_properties` would silently allow anything."""
    for path, part in ALL:
        assert set(part) <= KEYWORDS | FOR_EDITORS, path
        assert not set(part) & MAZES, path
        if "$ref" in part:
            assert set(part) == {"$ref"}, f"{path}: draft-07 ignores what stands beside $ref"


@pytest.mark.parametrize(("path", "part"), ALL, ids=[path for path, _ in ALL])
def test_every_part_is_described_and_its_examples_are_valid(path: str, part: dict[str, Any]) -> None:
    if path.endswith("/propertyNames"):
        return
    part = resolved(part)
    assert part["title"]
    assert part["description"].endswith(".")
    assert part["examples"]
    for example in part["examples"]:
        validator(part).validate(example)
    if "default" in part:
        validator(part).validate(part["default"])
    if part.get("type") == "object":
        assert "additionalProperties" in part


def test_every_definition_is_used() -> None:
    used = {part["$ref"].rpartition("/")[2] for _, part in ALL if "$ref" in part}
    assert used == set(SCHEMA["definitions"])


STRUCTS = [
    (("router",), model.RouterSettings),
    (("nodes", "x"), model.Node),
    (("nodes", "x", "limits"), model.NodeLimits),
    (("nodes", "x", "windows", 0), model.WindowUse),
    (("nodes", "x", "find"), model.FindSettings),
    (("nodes", "x", "move"), model.MoveSettings),
    (("nodes", "x", "timeouts"), model.Timeouts),
    (("nodes", "x", "tls"), model.TlsSettings),
    (("nodes", "x", "commitment"), model.CommitmentSettings),
    (("windows", "x"), Window),
    (("rules", "x"), model.Rule),
    (("rules", "x", "move"), model.Move),
    (("rules", "x", "move", "retry"), model.Retry),
]


@pytest.mark.parametrize(("path", "struct"), STRUCTS, ids=[".".join(map(str, path)) for path, _ in STRUCTS])
def test_documented_defaults_are_those_of_the_model(path: tuple[Step, ...], struct: type[msgspec.Struct]) -> None:
    part = schema_at(path)
    assert part is not None
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    for key, documented in part["properties"].items():
        if "default" not in documented:
            continue
        default = documented["default"]
        if key in ("listen", "http"):
            assert parse_address(default) == (fields[f"{key}_host"].default, fields[f"{key}_port"].default)
        elif key == "minimum_free":
            assert parse_size(default) == fields[key].default
        elif key == "max_results":
            assert result_limit(default) == fields[key].default
        elif fields[key].type is float:
            assert parse_duration(default) == fields[key].default
        else:
            assert default == getattr(fields[key].default, "value", fields[key].default)


def test_durations_have_the_one_pattern() -> None:
    patterns = {part["pattern"] for _, part in ALL if "(s|m|h|d|w|mo|y)" in str(part.get("pattern"))}
    assert patterns == {DURATION_PATTERN}


def test_the_matchers_are_those_of_the_domain() -> None:
    assert set(SCHEMA["definitions"]["matcher"]["properties"]) == set(OPERATORS) | {"code", "scheme"}


def test_the_attributes_offered_exist_and_their_examples_compile() -> None:
    definitions = SCHEMA["definitions"]
    names = [*definitions["keys"]["properties"], *definitions["condition"]["properties"]]
    assert [name for name in names if tag_of(name) is None] == ["all", "any", "not"]
    for example in definitions["condition"]["examples"]:
        assert compile_condition(example)[1] == []
    for example in definitions["keys"]["examples"]:
        for name, value in example.items():
            KeyMatch.of(name, *(value if isinstance(value, list) else [value]))


def test_the_schema_that_reads_is_the_schema_that_documents() -> None:
    assert full_schema() == SCHEMA
    text = json.dumps(reading_schema())
    assert "$ref" not in text
    assert set(reading_schema()["properties"]) == set(SCHEMA["properties"])


def test_the_example_is_valid_for_an_editor_too() -> None:
    """Editors read plain YAML: there 00123 is a number, and the schema must not mind."""

    class Plain(yaml.SafeLoader):
        """YAML 1.2's few types, as editors have them."""

    Plain.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(("timestamp", "bool"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for path in sorted((ROOT / "rules").glob("*.yaml")):
        contents = yaml.load(
            path.read_text().replace("false", "!!bool false").replace("true", "!!bool true"), Loader=Plain
        )
        errors = [error.message for error in validator(SCHEMA).iter_errors(contents)]
        assert not errors, path.name
