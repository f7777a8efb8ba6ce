"""The JSON Schema of the configuration: finding it, reading trees by it, turning its errors into diagnostics."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError

from router.config.diagnostics import Code, Diagnostic
from router.config.document import MappingNode, Node, ScalarNode, SequenceNode
from router.domain.problem import Step

Schema = Mapping[str, Any]

FILE_NAME = "dicom-router.schema.json"

NAME = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
"""The pattern of names."""
_NAME_HINT = "letters, digits, dot, dash and underscore, at most 63 of them, a letter or digit first"

SECRET_KEYS = {"env", "file"}
"""The keys of a mapping that says where a secret stands."""

_EXPRESSIONS = frozenset({"keys", "where", "exclude", "leave_out", "unless", "when"})
"""Keys whose contents are compiled by the domain, with better messages than a schema can give."""


def schema_text() -> str:
    """The schema as it is shipped: in the package when installed, beside it in a working copy."""
    packaged = resources.files("router").joinpath("schemas", FILE_NAME)
    if packaged.is_file():
        return packaged.read_text("utf-8")
    return (Path(__file__).parents[2] / "schemas" / FILE_NAME).read_text("utf-8")


@lru_cache(maxsize=1)
def full_schema() -> Schema:
    """The schema, as editors see it."""
    schema: Schema = json.loads(schema_text())
    return schema


@lru_cache(maxsize=1)
def reading_schema() -> Schema:
    """The schema without references, and with expressions left open: what trees are read and checked by."""
    definitions = full_schema()["definitions"]

    def inlined(part: Any, name: str = "") -> Any:
        if name in _EXPRESSIONS and isinstance(part, dict):
            return {"type": "object"}
        if isinstance(part, list):
            return [inlined(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inlined(definitions[part["$ref"].rpartition("/")[2]])
        return {key: inlined(value, key) for key, value in part.items() if key != "definitions"}

    result: Schema = inlined(full_schema())
    return result


@lru_cache(maxsize=1)
def _validator() -> Draft7Validator:
    return Draft7Validator(dict(reading_schema()))


# --- Reading ----------------------------------------------------------------------------------------------------------

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def value_of(node: Node, schema: Schema | None) -> Any:
    """The value of a tree. A scalar is its literal text wherever the schema (or none) allows a text."""
    types = schema.get("type", ()) if schema is not None else ("string",)
    types = (types,) if isinstance(types, str) else types
    if isinstance(node, ScalarNode):
        if "string" in types:
            return node.text
        if node.is_nothing and types:
            return {} if {"object", "null"} <= set(types) else None
        if node.plain and "integer" in types and _INTEGER.match(node.text):
            return int(node.text)
        if node.plain and "boolean" in types and node.text in _BOOLEANS:
            return _BOOLEANS[node.text]
        return node.text
    if isinstance(node, SequenceNode):
        items = (schema or {}).get("items")
        return [value_of(item, items) for item in node.items]
    assert isinstance(node, MappingNode)
    return {key: value_of(value, member(schema, key)) for key, value in node.values.items()}


def raw_value(node: Node) -> Any:
    """The value of a tree in which every scalar is its literal text."""
    return value_of(node, None)


def member(schema: Schema | None, key: str) -> Schema | None:
    """The schema of a key of a mapping; None where anything goes."""
    if schema is None:
        return None
    found = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
    return found if isinstance(found, dict) else None


def node_at(root: Node, path: Iterable[Step], at_key: bool = False) -> Node:
    """The node at the end of a path (or its key); where the path leaves the tree, the last one on it."""
    node = place = root
    for step in path:
        if isinstance(node, MappingNode) and step in node.values:
            place, node = node.keys[str(step)], node.values[str(step)]
        elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.items):
            place = node = node.items[step]
        else:
            break
    return place if at_key else node


# --- Checking ---------------------------------------------------------------------------------------------------------


def check(root: Node) -> Iterator[tuple[tuple[Step, ...], Diagnostic]]:
    """Every error of a file by the schema, with the path of the value it concerns."""
    for error in _validator().iter_errors(value_of(root, reading_schema())):
        path = tuple(error.absolute_path)
        for key, diagnostic in _translated(error, root, path):
            yield (*path, *key), diagnostic


def _translated(
    error: ValidationError, root: Node, path: tuple[Step, ...]
) -> Iterator[tuple[tuple[Step, ...], Diagnostic]]:
    schema: Any = error.schema
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        if (beside := _misspelt_beside_names(path)) is not None:
            yield (), _unknown_key(str(path[-1]), path[:-1], beside, node_at(root, path, at_key=True))
            return
        for key in instance:
            if key not in schema["properties"]:
                yield (key,), _unknown_key(key, path, schema, node_at(root, (*path, key), at_key=True))
        return
    if error.validator == "required":
        for key in schema["required"]:
            strangers = [other for other in instance if other not in schema["properties"]]
            if key not in instance and f"'{key}'" in error.message and not _is_meant(key, strangers):
                message = f"{_subject(path)} needs {key!r}"
                node = node_at(root, path, at_key=True)
                yield (), diagnostic_at(node, Code.MISSING_KEY, message, _example(schema, key))
        return
    if "propertyNames" in error.absolute_schema_path:
        node = node_at(root, (*path, instance), at_key=True)
        message = f"{instance!r} cannot be a name"
        yield (str(instance),), diagnostic_at(node, Code.BAD_NAME, message, _NAME_HINT)
        return
    node = node_at(root, path)
    if error.validator == "pattern" and error.validator_value == NAME:
        yield (), diagnostic_at(node, Code.BAD_NAME, f"{_short(instance)} cannot be a name", _NAME_HINT)
    elif error.validator == "type" and isinstance(instance, str) and schema.get("properties", {}).keys() == SECRET_KEYS:
        hint = "{env: NAME} or {file: path}; what has stood here is to be replaced by another one"
        yield (), diagnostic_at(node, Code.PLAIN_SECRET, f"{_subject(path)} is a secret and cannot stand here", hint)
    elif error.validator == "type" and instance is None:
        message = f"nothing stands beside {_subject(path)}, which takes {_type_words(schema)}"
        yield (), diagnostic_at(node_at(root, path, at_key=True), Code.WRONG_TYPE, message, "leave the key out")
    elif error.validator == "type":
        yield (), diagnostic_at(node, Code.WRONG_TYPE, f"{_subject(path)} must be {_type_words(schema)}", _hint(schema))
    elif error.validator == "enum":
        allowed = [str(value) for value in schema["enum"]]
        meant = did_you_mean(str(instance), allowed)
        yield (
            (),
            diagnostic_at(
                node,
                Code.BAD_VALUE,
                f"{instance!r} is not allowed for {_subject(path)}",
                meant or "one of " + ", ".join(allowed),
            ),
        )
    else:
        yield (), diagnostic_at(node, Code.BAD_VALUE, _bad_value(error, schema, path), _hint(schema))


def _bad_value(error: ValidationError, schema: Mapping[str, Any], path: tuple[Step, ...]) -> str:
    limit = error.validator_value
    words = {
        "minimum": f"must be at least {limit}",
        "maximum": f"must be at most {limit}",
        "minItems": f"needs at least {limit} item",
        "maxItems": f"takes at most {limit} items",
        "minLength": "is empty",
        "minProperties": f"needs {limit} of its keys",
        "maxProperties": f"takes {limit} of its keys only",
    }
    if error.validator == "pattern":
        what = "duration" if str(schema.get("pattern", "")).endswith("d|w|mo|y)$") else "valid value"
        return f"{_short(error.instance)} is no {what} for {_subject(path)}"
    return f"{_subject(path)} {words.get(str(error.validator), 'has a value that is not allowed')}"


def _is_meant(key: str, strangers: Iterable[str]) -> bool:
    """Whether one of the unknown keys beside it is this one, misspelt: that is reported already."""
    return any(did_you_mean(stranger, [key]) for stranger in strangers)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _subject(path: Sequence[Step]) -> str:
    names = [str(step) for step in path if isinstance(step, str)]
    return ".".join(names) if names else "the file"


_TYPE_WORDS = {
    "string": "a text",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "number": "a number",
    "null": "nothing",
}


def _type_words(schema: Mapping[str, Any]) -> str:
    types = schema["type"]
    return " or ".join(_TYPE_WORDS[name] for name in ([types] if isinstance(types, str) else types))


def _hint(schema: Mapping[str, Any]) -> str:
    examples = schema.get("examples") or []
    return "for example " + " or ".join(json.dumps(one) for one in examples[:2]) if examples else ""


def _example(schema: Mapping[str, Any], key: str) -> str:
    examples = schema["properties"][key].get("examples") or []
    return f"for example {key}: {json.dumps(examples[0])}" if examples else ""


def _misspelt_beside_names(path: tuple[Step, ...]) -> Schema | None:
    """The schema of a mapping of names and keys where the name at the path is one of its keys, misspelt."""
    beside = schema_at(path[:-1]) if path and isinstance(path[-1], str) else None
    if beside is None or not isinstance(beside.get("additionalProperties"), dict):
        return None
    known = beside.get("properties", {})
    return beside if path[-1] not in known and did_you_mean(str(path[-1]), known) else None


def _unknown_key(key: str, path: tuple[Step, ...], schema: Mapping[str, Any], node: Node) -> Diagnostic:
    known: dict[str, Any] = schema["properties"]
    where = f"in {_subject(path)}" if path else "as a section"
    meant = did_you_mean(key, known)
    if not meant:
        inside = [name for name, part in known.items() if key in part.get("properties", {})]
        meant = f"it belongs into {inside[0]}" if inside else ""
    if not meant and path:
        parent = schema_at(path[:-1])
        if parent is not None and key in parent.get("properties", {}):
            meant = f"it belongs beside {path[-1]}, not into it"
    return diagnostic_at(
        node, Code.UNKNOWN_KEY, f"there is no key {_short(key)} {where}", meant or "known keys: " + ", ".join(known)
    )


def schema_at(path: Iterable[Step]) -> Schema | None:
    """The schema that holds at a path; None where there is none."""
    schema: Schema | None = reading_schema()
    for step in path:
        if schema is None:
            return None
        schema = schema.get("items") if isinstance(step, int) else member(schema, step)
    return schema


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint naming the nearest known word; empty where none is near."""
    known = list(known)
    folded = word.replace("-", "_").casefold()
    same = [one for one in known if one.casefold() == folded or one.replace("_", "").casefold() == folded]
    near = same or difflib.get_close_matches(word, known, n=1, cutoff=0.66)
    return f"did you mean {near[0]}?" if near else ""


def diagnostic_at(node: Node, code: Code, message: str, hint: str = "", **more: Any) -> Diagnostic:
    """A diagnostic at a node's place."""
    return Diagnostic(file=node.file, line=node.line, column=node.column, code=code, message=message, hint=hint, **more)
