"""The documentation of the configuration's keys, read from its schema: found by path or by word, and told as text."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from router.config.schema import did_you_mean, full_schema
from router.errors import UsageError

ANY = ("*", "[]")
"""Steps that stand for any name or any item of a list."""

WIDTH = 100
"""Columns of the text."""

_DEFINITIONS = "#/definitions/"


def resolve(part: Any) -> Any:
    """A schema without a reference at its top."""
    while "$ref" in part:
        part = full_schema()["definitions"][part["$ref"].removeprefix(_DEFINITIONS)]
    return part


def members(part: Any) -> dict[str, Any]:
    """What may follow in a path: keys, `*` for names of one's own, and what the items of a list hold."""
    found = dict(part.get("properties", {}))
    if isinstance(part.get("additionalProperties"), dict):
        found["*"] = part["additionalProperties"]
    items = part.get("items")
    if items is not None and "object" in str(resolve(items).get("type")):
        found |= {key: value for key, value in members(resolve(items)).items() if key not in found}
    return found


def lookup(path: str) -> tuple[str, Any]:
    """The schema at a path such as `rules.*.sweep.keys`, and the path in full. Raises UsageError.

    Names of one's own may be left out: `rules.sweep`, `rules.my-rule.sweep` and `rules.*.sweep` are the same.
    """
    part: Any = resolve(full_schema())
    walked: list[str] = []
    for step in (step for step in path.split(".") if step):
        known = members(part)
        if step in known:
            part = resolve(known[step])
        elif step in ANY and "items" in part:
            part = resolve(part["items"])
            continue
        elif "*" in known:
            named = resolve(known["*"])
            left_out = _names_before(step, part)
            if left_out:
                for _ in range(left_out):
                    part = resolve(members(part)["*"])
                part = resolve(members(part)[step])
                walked += ["*"] * left_out
            elif _is_last(path, step) and did_you_mean(step, members(named)):
                raise _unknown(path, step, members(named))
            else:
                part, step = named, "*"
        else:
            raise _unknown(path, step, known)
        walked.append(step)
    return ".".join(walked), part


def _names_before(step: str, part: Any) -> int:
    """How many names of one's own stand before a key; 0 where it is no key below names."""
    for number in range(1, 4):
        part = resolve(members(part).get("*", {}))
        if step != "*" and step in members(part):
            return number
    return 0


def _is_last(path: str, step: str) -> bool:
    return path.rpartition(".")[2] == step


def _unknown(path: str, step: str, known: dict[str, Any]) -> UsageError:
    hint = did_you_mean(step, known) or ("known keys: " + ", ".join(known) if known else "there is nothing below it")
    return UsageError(f"The configuration has no key {path}: {step!r} is unknown; {hint}")


def below(part: Any) -> dict[str, Any]:
    """The keys to tell of beneath a key; of `*` those that follow it, where nothing else does."""
    found = {key: resolve(value) for key, value in members(part).items()}
    if set(found) == {"*"} and members(found["*"]):
        return {f"*.{key}": resolve(value) for key, value in members(found["*"]).items()}
    if "*" in found:  # names that are only there for editors to offer
        return {key: value for key, value in found.items() if key == "*" or value is not found["*"]}
    return found


def keys() -> Iterator[tuple[str, Any]]:
    """Every key with its path, each part of the schema once, where it stands first: conditions hold conditions."""
    seen: set[int] = set()
    sections = sorted(full_schema()["properties"].items(), key=lambda section: section[0] == "defaults")
    waiting = [(name, resolve(part)) for name, part in sections]  # the defaults last: they repeat what others hold
    while waiting:
        path, part = waiting.pop(0)
        if id(part) in seen:
            continue
        seen.add(id(part))
        if not path.endswith(ANY):
            yield path, part
        waiting[:0] = [(f"{path}.{key}", resolve(inner)) for key, inner in members(part).items()]


def search(words: str) -> list[tuple[str, Any]]:
    """The keys whose path, title, description or values hold each of these words; upper and lower case are the same."""
    wanted = words.casefold().split()
    found = []
    for path, part in keys():
        texts = [path, part["title"], part["description"], *map(str, part.get("enum", ()))]
        if all(word in " ".join([*texts, *part.get("enumDescriptions", ())]).casefold() for word in wanted):
            found.append((path, part))
    return found


def describe(path: str, part: Any) -> str:
    """The documentation of one key as text."""
    lines = [path or "(a file of the configuration)", ""]
    lines += textwrap.wrap(part.get("description", ""), WIDTH, initial_indent="  ", subsequent_indent="  ")
    lines += ["", f"  type:     {type_of(part)}"]
    if "default" in part:
        lines.append(f"  default:  {shown(part['default'])}")
    if limits := limits_of(part):
        lines.append(f"  range:    {limits}")
    if "patternErrorMessage" in part:
        lines.append(f"  form:     {part['patternErrorMessage']}")
    for number, example in enumerate(part.get("examples", ())):
        lines.append(f"  {'examples:' if number == 0 else '         '} {shown(example)}")
    if part.get("required"):
        lines.append(f"  required: {', '.join(part['required'])}")
    if "enum" in part:
        lines += ["", "  values:", *_columns(dict(zip(part["enum"], part["enumDescriptions"], strict=True)))]
    if following := below(part):
        lines += ["", "  keys:", *_columns({key: _summary(inner) for key, inner in following.items()})]
    return "\n".join(lines)


def overview(found: list[tuple[str, Any]]) -> str:
    """Keys that were searched for, one a line, as text."""
    return "\n".join(line.removeprefix("    ") for line in _columns({path: _summary(part) for path, part in found}))


def _summary(part: Any) -> str:
    default = f" [{shown(part['default'])}]" if part.get("default", "") != "" else ""
    return first_sentence(part.get("description", "")) + default


def _columns(rows: dict[str, str]) -> list[str]:
    width = max(len(key) for key in rows)
    return [f"    {key:<{width}}  {text}" for key, text in rows.items()]


def shown(value: Any) -> str:
    """A value as it is written in a file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def first_sentence(text: str) -> str:
    """The first sentence of a description."""
    sentence, dot, _ = text.partition(". ")
    return sentence + ("." if dot else "")


def limits_of(part: Any) -> str:
    """The least and the greatest value of a number; empty where there is none."""
    return " ".join(f"{word} {part[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in part)


_WORDS = {"object": "mapping", "array": "list", "string": "text", "integer": "whole number", "boolean": "true | false"}


def type_of(part: Any) -> str:
    """What kind of value a key has, in words."""
    if "enum" in part:
        return " | ".join(str(value) for value in part["enum"])
    types = part.get("type", "any")
    return " or ".join(_WORDS.get(name, name) for name in ([types] if isinstance(types, str) else types))
