"""Attribute matching of PS3.4 section C.2.2.2: does a value satisfy a matching key? Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from pydicom.dataelem import DataElement

from .encoding import element_of, texts

#: Value representations in which `*` and `?` are wildcards (PS3.4 section C.2.2.2.4).
WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
RANGE_VRS = frozenset({"DA", "TM", "DT"})
_NUMBER_VRS = frozenset({"IS", "DS", "US", "SS", "UL", "SL", "FL", "FD", "UV", "SV"})

#: The earliest and the latest moment a value of less precision stands for, digit by digit.
_EARLIEST = {"DA": "00000101", "TM": "000000.000000", "DT": "00000101000000.000000"}
_LATEST = {"DA": "99991231", "TM": "235959.999999", "DT": "99991231235959.999999"}


def is_universal(key: DataElement) -> bool:
    """Whether a key matches everything: zero length, or `*` alone (PS3.4 sections C.2.2.2.3 and C.2.2.2.4)."""
    if key.VR == "SQ":
        return not key.value or not any(len(item) for item in key.value)
    wanted = texts(key)
    return not wanted or (key.VR in WILDCARD_VRS and set("".join(wanted)) == {"*"})


def matches(
    key: DataElement, value: DataElement | None, *, value_lists: bool = True, exact_names: bool = False
) -> bool:
    """Whether a value satisfies a key.

    A value of several matches if any of them does. Several values in a key are alternatives: for UIDs by the standard
    (list of UID matching), for the rest an extension many archives have, unless `value_lists` is off. Case does not
    count in a name, unless `exact_names` is on.
    """
    if is_universal(key):
        return True
    if value is None:
        return False
    if key.VR == "SQ":
        return value.VR == "SQ" and _sequence_matches(key, value, value_lists, exact_names)
    wanted = texts(key)
    if key.VR != "UI" and not value_lists:
        wanted = ["\\".join(wanted)]
    return any(_text_matches(key.VR, pattern, found, exact_names) for pattern in wanted for found in texts(value))


def _sequence_matches(key: DataElement, value: DataElement, value_lists: bool, exact_names: bool) -> bool:
    """PS3.4 section C.2.2.2.6: one item of the value satisfies all keys of the one item in the key."""
    return any(
        all(
            matches(inner, element_of(item, inner.tag), value_lists=value_lists, exact_names=exact_names)
            for inner in key.value[0]
        )
        for item in value.value
    )


def _text_matches(vr: str, pattern: str, found: str, exact_names: bool) -> bool:
    if vr in RANGE_VRS:
        return _moment_matches(vr, pattern, found)
    if vr in _NUMBER_VRS:
        return _number(pattern) == _number(found)
    if vr == "PN" and not exact_names:
        # Neither case nor trailing empty components count (PS3.4 section C.2.2.2.1 leaves it to the SCP). A name
        # has up to three representations; a key may be for any of them.
        groups = [found, *found.split("=")]
        return any(
            _pattern(pattern.rstrip("^=").casefold()).fullmatch(group.rstrip("^").casefold()) for group in groups
        )
    if vr in WILDCARD_VRS:
        return _pattern(pattern).fullmatch(found) is not None
    return pattern == found


@lru_cache(maxsize=512)
def _pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a DICOM wildcard."""
    return re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), re.DOTALL)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _moment_matches(vr: str, pattern: str, found: str) -> bool:
    """Single value and range matching of dates and times, both ends included (PS3.4 section C.2.2.2.5).

    A value of less precision stands for its whole span: `1015` is the minute.
    """
    first, dash, last = pattern.partition("-")
    if not dash:
        last = first
    moment = _complete(vr, found, _EARLIEST)
    return _complete(vr, first, _EARLIEST) <= moment <= _complete(vr, last or _LATEST[vr], _LATEST)


def _complete(vr: str, text: str, filling: dict[str, str]) -> str:
    """A date or time with all its digits; `2024.01.02` and `10:15` of the old standard included."""
    if vr == "DA":
        text = text.replace(".", "")
    text = text.replace(":", "")
    return text + filling[vr][len(text) :]


def has_wildcard(values: Sequence[str]) -> bool:
    """Whether any of the values holds `*` or `?`."""
    return any("*" in value or "?" in value for value in values)
