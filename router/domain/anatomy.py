"""Where in the body an examination was: a table of regions, and what of a study says which of them. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import NamedTuple

import msgspec

from router.domain.examination import Code, Examination
from router.domain.pattern import MAXIMUM_SUBJECT

_REMEMBERED = 4096
"""Descriptions whose regions are kept: a hospital has a few hundred, and a sweep asks for the same again and again."""


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """One region of the body, and how it is recognised."""

    name: str
    codes: frozenset[str] = frozenset()
    """Procedure codes, as `CODE` or `SCHEME:CODE`."""
    description: tuple[re.Pattern[str], ...] = ()
    """Searched for in the first 256 characters of a description; `_` and `^` in it count as blanks."""
    regions: frozenset[str] = frozenset()
    """Codes of Anatomic Region Sequence, as `CODE` or `SCHEME:CODE`."""
    body_part: frozenset[str] = frozenset()
    """Values of Body Part Examined; blanks, dashes and the like in it do not count, nor does case."""
    near: frozenset[str] = frozenset()
    """Names of its neighbours."""


class Located(NamedTuple):
    """The regions of an examination."""

    regions: frozenset[str] = frozenset()
    by: str = ""
    """What said so, a word of KINDS; empty where nothing did."""


KINDS = ("code", "description", "region", "body-part")
"""What is asked, in this order; the first that says anything counts. Of descriptions too, the first that does."""


class Anatomy(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The table; being near holds both ways."""

    regions: Mapping[str, Region] = {}

    def regions_of(self, examination: Examination) -> Located:
        """Where an examination was."""
        for by, regions in self._said(examination):
            if regions:
                return Located(regions, by)
        return Located()

    def near(self, regions: frozenset[str]) -> frozenset[str]:
        """The neighbours of these regions."""
        return frozenset().union(*(self._neighbours.get(name, frozenset()) for name in regions))

    def _said(self, examination: Examination) -> Iterator[tuple[str, frozenset[str]]]:
        code, description, region, body_part = KINDS
        yield code, _coded(self._by_code, examination.codes)
        for text in examination.descriptions:
            yield description, self._described(text[:MAXIMUM_SUBJECT])
        yield region, _coded(self._by_region, examination.regions)
        yield body_part, _found(self._by_body_part, map(_part_key, examination.body_parts))

    # --- Looked up, not searched: these are made once -----------------------------------------------------------------

    @cached_property
    def _described(self) -> Callable[[str], frozenset[str]]:
        return lru_cache(maxsize=_REMEMBERED)(self._searched)

    def _searched(self, text: str) -> frozenset[str]:
        text = unicodedata.normalize("NFC", text).translate(_BLANKS)
        return frozenset(
            name
            for name, region in self.regions.items()
            if any(pattern.search(text) is not None for pattern in region.description)
        )

    @cached_property
    def _by_code(self) -> _Index:
        return _index((_code_key(code), name) for name, region in self.regions.items() for code in region.codes)

    @cached_property
    def _by_region(self) -> _Index:
        return _index((_code_key(code), name) for name, region in self.regions.items() for code in region.regions)

    @cached_property
    def _by_body_part(self) -> _Index:
        return _index((_part_key(part), name) for name, region in self.regions.items() for part in region.body_part)

    @cached_property
    def _neighbours(self) -> _Index:
        pairs = [(name, other) for name, region in self.regions.items() for other in region.near]
        return _index([*pairs, *((other, name) for name, other in pairs)])


_Index = Mapping[str, frozenset[str]]
_BLANKS = str.maketrans("_^", "  ")


def _index(pairs: Iterable[tuple[str, str]]) -> _Index:
    collected: dict[str, set[str]] = {}
    for key, name in pairs:
        collected.setdefault(key, set()).add(name)
    return {key: frozenset(names) for key, names in collected.items()}


def _found(index: _Index, keys: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*(index[key] for key in keys if key in index))


def _coded(index: _Index, codes: Iterable[Code]) -> frozenset[str]:
    keys = (key for code in codes for key in (code.value, f"{code.scheme}:{code.value}"))
    return _found(index, map(_code_key, keys))


def _code_key(text: str) -> str:
    """`CODE`, or `SCHEME:CODE` with the scheme in upper case."""
    scheme, colon, code = text.partition(":")
    return scheme.upper() + colon + code


def _part_key(text: str) -> str:
    return "".join(filter(str.isalnum, text.upper()))
