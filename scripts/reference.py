"""Writes docs/reference.md: every key of the configuration, from its schema, and the page of every diagnostic code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from router.cli.reference import limits_of, members, resolve, shown, type_of
from router.config.pages import EXAMPLE, Page, pages
from router.config.schema import full_schema

REFERENCE = Path(__file__).parent.parent / "docs" / "reference.md"

HEAD = """\
# Reference

Every key of the configuration, and every code of `dicom-router validate`. This file is made by
`python scripts/reference.py`; the same is printed by `dicom-router schema PATH`, such as
`dicom-router schema rules.sweep.keys` or `dicom-router schema DR040`, and shown by editors.

In a path `*` is a name of your own. A key in **bold** must be there. A duration is a number and `s`, `m`, `h`, `d`,
`w`, `mo` or `y`, such as `90s` or `7d`; a size a number and `B`, `KiB`, `MiB`, `GiB`, `TiB`, `KB`, `MB`, `GB` or `TB`;
a name has letters, digits, dot, dash and underscore, at most 63 of them, a letter or digit first.
"""


def main() -> str:
    """The whole file."""
    sections = dict(full_schema()["properties"])
    sections["defaults"] = sections.pop("defaults")  # last: what it holds is told where it belongs
    told: dict[int, str] = {}
    texts = []
    for name, part in sections.items():
        texts += mapping(name, resolve(part), told)
    contents = [f"[{name}](#{name})" for name in sections]
    lines = [HEAD, f"Sections: {', '.join(contents)}. [Codes of `validate`](#codes).", "", "## Keys", ""]
    lines += texts
    lines += ['<a id="codes"></a>', "", "## Codes of `validate`", "", "| code | meaning |", "|---|---|"]
    lines += [f"| [{page.code}](#{page.code.lower()}) | {escaped(page.title)} |" for page in pages()]
    for page in pages():
        lines += ["", *described(page)]
    return "\n".join(lines) + "\n"


# --- Keys -------------------------------------------------------------------------------------------------------------


def mapping(path: str, part: Any, told: dict[int, str]) -> Iterator[str]:
    """A mapping with its keys, and after it the mappings among them; each part of the schema is told once."""
    told[identity(part)] = path
    level = min(6, 3 + path.replace(".*", "").count("."))
    yield from (f'<a id="{path}"></a>', "", f"{'#' * level} `{path}`", "", text_of(part), "")
    for example in part["examples"][:2]:
        text = yaml.safe_dump(example, sort_keys=False, allow_unicode=True, width=100).removesuffix("...\n").rstrip()
        yield from ("```yaml", text, "```", "")
    found = {key: resolve(inner) for key, inner in members(part).items()}
    following: list[tuple[str, Any]] = []
    if set(found) == {"*"}:  # names of one's own, and nothing else
        yield from mapping(f"{path}.*", found["*"], told) if is_mapping(found["*"]) else plain(found)
        return
    yield from ("| key | value | default | meaning |", "|---|---|---|---|")
    for name, key, inner in rows(found, part.get("required", ())):
        where = f"{path}.{key}"
        if is_mapping(inner) and identity(inner) not in told:
            told[identity(inner)] = where
            following.append((where, inner))
        link = told[identity(inner)] if is_mapping(inner) else None
        yield f"| {name} | {value(inner)} | {default(inner)} | {meaning(inner, link)} |"
    yield ""
    for where, inner in following:
        yield from mapping(where, inner, told)


def rows(found: dict[str, Any], required: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Each key as it is printed, its name, and what it is; names that editors merely offer share one row."""
    alike = [key for key in found if "*" in found and key != "*" and found[key] is found["*"]]
    for key, part in found.items():
        if key == "*":
            such = f", such as {', '.join(f'`{one}`' for one in alike)}" if alike else ""
            yield f"`*`{such}", key, part
        elif key not in alike:
            yield f"**`{key}`**" if key in required else f"`{key}`", key, part


def plain(found: dict[str, Any]) -> Iterator[str]:
    """What stands under names of one's own where that is no mapping."""
    yield from ("| key | value | default | meaning |", "|---|---|---|---|")
    yield from (f"| `{key}` | {value(part)} | {default(part)} | {meaning(part, None)} |" for key, part in found.items())
    yield ""


def is_mapping(part: Any) -> bool:
    """Whether a key has keys below it, in itself or in the items of its list."""
    return bool(members(part))


def identity(part: Any) -> int:
    """What is the same for a mapping and for a list of such mappings."""
    return id(part) if "items" not in part or "properties" in part else id(resolve(part["items"]))


def value(part: Any) -> str:
    """The type with its range, or the kind of text."""
    if kind := re.match(r"An? ([a-z ]+): ", part.get("patternErrorMessage", "")):
        return kind[1]
    words = "one of the values" if "enum" in part else type_of(part).replace("true | false", "`true` or `false`")
    return f"{words}, {limits_of(part)}" if limits_of(part) else words


def default(part: Any) -> str:
    """The default, where there is one."""
    return f"`{shown(part['default'])}`" if part.get("default", "") != "" else ""


def meaning(part: Any, link: str | None) -> str:
    """A key in a row: a mapping in a sentence that leads to its own section, all else in full."""
    if link is not None:
        return f"{text_of(part).split('. ')[0].rstrip('.')}. See [`{link}`](#{link})."
    lines = [text_of(part)]
    if "enum" in part:
        described_values = zip(part["enum"], part["enumDescriptions"], strict=True)
        lines += [f"`{one}`: {escaped(words)}" for one, words in described_values]
    else:
        lines.append("Example: " + ", ".join(f"`{shown(one)}`".replace("|", "\\|") for one in part["examples"][:2]))
    return "<br>".join(lines)


def text_of(part: Any) -> str:
    """The description, as Markdown."""
    return str(part.get("markdownDescription") or escaped(part["description"]))


def escaped(text: str) -> str:
    """A plain text as Markdown; what stands between backquotes is left as it is."""
    return "".join(
        piece if number % 2 else re.sub(r"([\\*_|<>\[\]])", r"\\\1", piece)
        for number, piece in enumerate(re.split(r"(`[^`]*`)", text))
    )


# --- Codes ------------------------------------------------------------------------------------------------------------


def described(page: Page) -> Iterator[str]:
    """The page of a code."""
    yield from (f'<a id="{page.code.lower()}"></a>', "", f"### {page.code}", "")
    yield from (f"**{escaped(page.title)}** {escaped(page.meaning)}", "")
    yield from ("```yaml", f"# {EXAMPLE}", page.example.rstrip(), "```", "")
    yield from ("```", page.diagnostic.rstrip(), "```", "")
    yield from (escaped(page.remedy), "", "```yaml", page.repaired.rstrip(), "```")


if __name__ == "__main__":
    REFERENCE.write_text(main(), "utf-8")
