"""`dicom-router schema`: the documentation of any key of the configuration, from its schema."""

from __future__ import annotations

import json
from typing import Any

import click

from router.cli.settings import settings_of
from router.config.schema import did_you_mean, full_schema
from router.errors import UsageError

_ANY = ("*", "[]")
"""Steps that stand for any name or any item of a list."""


def resolve(part: Any) -> Any:
    """A schema without a reference at its top."""
    while "$ref" in part:
        part = full_schema()["definitions"][part["$ref"].rpartition("/")[2]]
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
        elif step in _ANY and "items" in part:
            part = resolve(part["items"])
            continue
        elif "*" in known:
            named = resolve(known["*"])
            if step in members(named):
                part = resolve(members(named)[step])
                walked.append("*")
            elif _is_last(path, step) and did_you_mean(step, members(named)):
                raise _unknown(path, step, members(named))
            else:
                part, step = named, "*"
        else:
            raise _unknown(path, step, known)
        walked.append(step)
    return ".".join(walked), part


def _is_last(path: str, step: str) -> bool:
    return path.rpartition(".")[2] == step


def _unknown(path: str, step: str, known: dict[str, Any]) -> UsageError:
    hint = did_you_mean(step, known) or ("known keys: " + ", ".join(known) if known else "there is nothing below it")
    return UsageError(f"The configuration has no key {path}: {step!r} is unknown; {hint}")


def describe(path: str, part: Any) -> str:
    """The documentation of one key as text."""
    lines = [path or "(a file of the configuration)", "", f"  {part.get('description', '')}", ""]
    lines.append(f"  type:     {_type(part)}")
    if "default" in part:
        lines.append(f"  default:  {_shown(part['default'])}")
    limits = [f"{word} {part[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in part]
    if limits:
        lines.append(f"  range:    {' '.join(limits)}")
    for number, example in enumerate(part.get("examples", ())):
        lines.append(f"  {'examples:' if number == 0 else '         '} {_shown(example)}")
    if part.get("required"):
        lines.append(f"  required: {', '.join(part['required'])}")
    below = {key: resolve(value) for key, value in members(part).items()}
    if set(below) == {"*"} and members(below["*"]):
        below = {f"*.{key}": resolve(value) for key, value in members(below["*"]).items()}
    elif "*" in below:  # names that are only there for editors to offer
        below = {key: value for key, value in below.items() if key == "*" or value is not below["*"]}
    if below:
        width = max(len(key) for key in below)
        lines += ["", "  keys:"]
        for key, inner in below.items():
            default = f" [{_shown(inner['default'])}]" if "default" in inner and inner["default"] != "" else ""
            lines.append(f"    {key:<{width}}  {_first_sentence(inner.get('description', ''))}{default}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _first_sentence(text: str) -> str:
    sentence, dot, _ = text.partition(". ")
    return sentence + ("." if dot else "")


_WORDS = {"object": "mapping", "array": "list", "string": "text", "integer": "whole number", "boolean": "true | false"}


def _type(part: Any) -> str:
    if "enum" in part:
        return " | ".join(str(value) for value in part["enum"])
    types = part.get("type", "any")
    words = {
        "object": "mapping",
        "array": "list",
        "string": "text",
        "integer": "whole number",
        "boolean": "true | false",
    }
    return " or ".join(words.get(name, name) for name in ([types] if isinstance(types, str) else types))


@click.command(short_help="The documentation of any key of the configuration.")
@click.argument("path", default="")
@click.pass_context
def schema(ctx: click.Context, path: str) -> None:
    """Print the documentation of a key, such as `rules.*.sweep.keys`; with --format json its JSON Schema."""
    full, part = lookup(path)
    if settings_of(ctx).format == "json":
        click.echo(json.dumps(part, indent=2, ensure_ascii=False))
    else:
        click.echo(describe(full, part))
