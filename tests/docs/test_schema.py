"""The JSON Schema: it says what it means, and means what the model and the compiler do."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft7Validator

from router import config
from router.config.schema import FILE_NAME, full_schema, reading_schema, schema_at
from router.config.values import parse_address, parse_size, result_limit
from router.domain import rule as model
from router.domain.clause import OPERATORS
from router.domain.condition import KeyMatch, compile_condition
from router.domain.dicom import tag_of
from router.domain.problem import Step
from router.domain.timing import DURATION_PATTERN, parse_duration
from router.domain.window import Window
from tests.support.certificates import Authority

ROOT = Path(__file__).parents[2]
SCHEMA: dict[str, Any] = json.loads((ROOT / "schemas" / FILE_NAME).read_text())

KEYWORDS = set(Draft7Validator.META_SCHEMA["properties"])
FOR_EDITORS = {"markdownDescription", "enumDescriptions", "patternErrorMessage", "defaultSnippets"}
"""What yaml-language-server knows besides."""
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
    (("router", "log"), model.LogSettings),
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


# --- Defaults ---------------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "tests": {
        "a-case": {
            "rule": "swept",
            "now": "2026-11-28T08:00",
            "studies": {"ct": {"StudyDate": "today"}},
            "ledger": {"ct": {"workstation": {"state": "complete"}}},
            "expect": {"ct": {"decision": "skip"}},
        }
    },
    "router": {
        "hl7": {},
        "retention": {"watermark": {}},
        "notify": {
            "channels": {
                "on-call": {"mail": {"to": ["a@x.example"], "from": "r@x.example", "server": "mail.x.example:25"}},
                "chat": {"webhook": {"url": "https://chat.x.example/"}},
            }
        },
        "log": {},
        "audit": {"to": "audit.x.example:6514"},
        "page": {},
        "quarantine": {},
        "token": {"env": "TOKEN"},
        "tls": {"ca": "ca.pem", "certificate": "router.pem", "key": {"file": "router.key"}},
    },
    "windows": {"night": {"open": ["daily 20:00-06:00"]}},
    "anatomy": {"spine": {"codes": ["MRLSP"]}},
    "nodes": {
        "archive": {"ae_title": "ARCHIVE", "address": "10.0.0.5:104", "windows": [{"use": "night"}]}
        | {key: {} for key in ("limits", "breaker", "find", "move", "timeouts", "commitment")},
        "ris": {"ae_title": "RIS", "address": "10.0.0.6:104"},
        "workstation": {"ae_title": "WS1", "address": "10.0.0.9:104", "tls": {"ca": "ca.pem"}},
    },
    "rules": {
        "swept": {
            "sweep": {"source": "archive", "every": "5m", "keys": {"StudyDate": "today"}},
            "move": {"to": ["workstation"], "retry": {}},
            "limits": {},
        },
        "tiered": {
            "sweep": {"source": "archive", "tiers": [{"every": "5m", "lookback": "2h"}]},
            "move": {"to": ["workstation"]},
        },
    }
    | {
        f"of-{trigger}": {
            trigger: given,
            "priors": {"source": "archive", "groups": [{"name": "recent", "max": 3, "within": "5y"}]},
            "move": {"to": ["workstation"], "retry": {}},
        }
        for trigger, given in (("worklist", {"source": "ris", "every": "15m"}), ("order", {}), ("arrival", {}))
    }
    | {"passed-on": {"arrival": {}, "forward": {"to": ["workstation"], "retry": {}}}},
}
"""Every mapping that has keys with defaults, and nothing in it that need not be there. First what knows its place."""


def documented(part: Any, path: str = "") -> Iterator[str]:
    """The path of each key that has a default; `*` is any name, `[]` any item. Those of the defaults are the same."""
    for key, inner in part.get("properties", {}).items():
        if "default" in inner:
            yield f"{path}.{key}"
        if (path, key) != ("", "defaults"):
            yield from documented(inner, f"{path}.{key}")
    for step, keyword in ((".*", "additionalProperties"), ("[]", "items")):
        if isinstance(part.get(keyword), dict):
            yield from documented(part[keyword], path + step)


def left_out(given: Any, part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any], str, Any]]:
    """Each key with a default that BASE leaves out: its path, the mapping it belongs into, its name, the default."""
    if isinstance(given, list):
        for item in given:
            yield from left_out(item, part["items"], f"{path}[]")
    elif isinstance(given, dict):
        known = part.get("properties", {})
        for key, inner in known.items():
            if key not in given and "default" in inner:
                yield f"{path}.{key}", given, key, inner["default"]
        for key, value in given.items():
            inner = known.get(key, part.get("additionalProperties"))
            if isinstance(inner, dict):
                yield from left_out(value, inner, f"{path}.{key if key in known else '*'}")


def loaded_from(directory: Path, contents: dict[str, Any]) -> tuple[Any, ...]:
    """What comes of a configuration, but for the fingerprints of its text. JSON is YAML."""
    (directory / "all.yaml").write_text(json.dumps(contents, indent=1))
    loaded = config.load(directory)
    assert loaded.rule_set is not None, [str(one) for one in loaded.diagnostics]
    return msgspec.structs.replace(loaded.rule_set, content_hash="", work_hash=""), loaded.cases


def test_a_default_that_is_written_out_changes_nothing(tmp_path: Path) -> None:
    """What the schema documents as the default is what the compiler fills in, for every key that has one."""
    authority = Authority(tmp_path / "made")
    made = authority.issue("router")
    for source, target in (
        (authority.certificate, "ca.pem"),
        (made.certificate, "router.pem"),
        (made.key, "router.key"),
    ):
        shutil.copy(source, tmp_path / target)
    contents = copy.deepcopy(BASE)
    expected = loaded_from(tmp_path, contents)
    tried = list(left_out(contents, reading_schema()))
    assert {path for path, *_ in tried} == set(documented(reading_schema()))
    for path, mapping, key, default in tried:
        mapping[key] = default
        assert loaded_from(tmp_path, contents) == expected, path
        del mapping[key]


# --- What editors show ------------------------------------------------------------------------------------------------


def test_each_value_of_an_enumeration_is_described() -> None:
    enumerations = [(path, part) for path, part in ALL if "enum" in part]
    assert len(enumerations) > 10
    for path, part in enumerations:
        assert len(part["enumDescriptions"]) == len(part["enum"]), path
        assert len(set(part["enumDescriptions"])) == len(part["enum"]), path
        assert all(text.endswith(".") for text in part["enumDescriptions"]), path


def test_each_pattern_says_in_words_what_it_wants() -> None:
    patterns = [(path, part) for path, part in ALL if "pattern" in part]
    words = {part["pattern"]: part["patternErrorMessage"] for _, part in patterns}
    for path, part in patterns:
        assert part["patternErrorMessage"] == words[part["pattern"]], f"{path}: one pattern, one sentence"
        assert part["patternErrorMessage"].endswith("."), path


def test_the_sections_that_hold_things_by_name_offer_a_snippet_of_one() -> None:
    assert [name for name, part in SCHEMA["properties"].items() if "defaultSnippets" in part] == [
        name for name, part in SCHEMA["properties"].items() if "propertyNames" in part
    ]
    for path, part in ALL:
        for snippet in part.get("defaultSnippets", ()):
            assert set(snippet) == {"label", "description", "bodyText"}, path
            places = [int(number) for number in re.findall(r"\$\{(\d+):", snippet["bodyText"])]
            assert sorted(set(places)) == list(range(1, max(places) + 1)), f"{path}: the cursor goes from 1 on"
