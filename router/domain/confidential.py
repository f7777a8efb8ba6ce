"""What becomes of each value in a recording: it stays, stays without identifiers, is replaced or goes. Pure.

PS3.15 table E.1-1 names the attributes; what a C-FIND may bring beside them is replaced unless it is known to be
harmless, so that an attribute nobody thought of is no leak. Nor is a value harmless that its VR does not allow.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from enum import Enum, auto

from router.domain.attributes import identifying
from router.domain.dicom import is_uid, known_tag, vr_of
from router.domain.timing import parse_da, parse_tm


def _tags(keywords: str) -> frozenset[int]:
    return frozenset(map(known_tag, keywords.split()))


class Fate(Enum):
    """What becomes of a value."""

    STAYS = auto()
    SCRUBBED = auto()
    """Stays, without the identifiers that stand in it."""
    DAY = auto()
    """A DA or DT that stays, or is shifted with all others."""
    NAME = auto()
    UID = auto()
    TEXT = auto()
    """Replaced, as these three are."""
    ODD = auto()
    """Replaced too, for it is no value of its VR; it is not looked for in texts, where it may be a usual word."""
    BIRTH = auto()
    """A date of a person: some days off."""
    GONE = auto()


FREE_TEXTS = _tags("""
    StudyDescription SeriesDescription ProtocolName PerformedProcedureStepDescription RequestedProcedureDescription
    ScheduledProcedureStepDescription CodeMeaning""")
"""Texts that people type and rules match: they stay, but for the identifiers of the recording that stand in them."""

_CODED = _tags("SpecificCharacterSet TimezoneOffsetFromUTC")
_HARMLESS = (
    FREE_TEXTS
    | _CODED
    | _tags("""
    CodeValue CodingSchemeDesignator CodingSchemeVersion LongCodeValue URNCodeValue
    Manufacturer ManufacturerModelName SoftwareVersions""")
)
KEEPABLE = _tags("""
    InstitutionName InstitutionAddress InstitutionalDepartmentName RequestingService StationName StationAETitle
    PerformedStationName PerformedStationAETitle ScheduledStationName ScheduledStationAETitle PerformedLocation
    RetrieveAETitle DeviceSerialNumber GantryID ConvolutionKernel ReceiveCoilName SequenceName""")
"""What may be kept on request: names of places and devices, none of a person or a case."""

_CLASSES = _tags("""
    SOPClassUID SOPClassesInStudy ReferencedSOPClassUID MediaStorageSOPClassUID AvailableTransferSyntaxUID
    TransferSyntaxUID CodingSchemeUID ContextUID MappingResourceUID""")
"""UIDs of kinds of things. All others are of single things, and are replaced whatever they begin with."""
_STANDARD_UIDS = "1.2.840.10008."
"""Root of the UIDs that the standard itself defines (PS3.6 annex A): SOP classes, transfer syntaxes."""

_TEXT = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UN", "UR", "UT"})
"""Value representations that can hold anything."""
_DATED = frozenset({"DA", "DT", "TM"})
_PATIENT_GROUP = 0x0010


def is_replaced(tag: int) -> bool:
    """Whether the values of an attribute are replaced, whatever they are."""
    if tag in _HARMLESS:
        return False
    vr = vr_of(tag)
    if vr in _DATED:
        return tag >> 16 == _PATIENT_GROUP
    return vr in _TEXT or identifying(tag)


def is_lost(tag: int) -> bool:
    """Whether nobody can judge the usual values of an attribute by their replacements."""
    return is_replaced(tag) and tag not in _CLASSES and vr_of(tag) != "SQ"


def fate(tag: int, value: str, keep: frozenset[int] = frozenset()) -> Fate:
    """What becomes of a value; of `keep` only what is KEEPABLE is kept."""
    value, vr = value.strip(" \0"), vr_of(tag)
    if not value:
        return Fate.STAYS
    if tag in keep & KEEPABLE:
        return Fate.SCRUBBED
    if is_replaced(tag):
        if vr in _DATED:
            return Fate.BIRTH if vr == "DA" else Fate.GONE
        if tag in _CLASSES and value.startswith(_STANDARD_UIDS) and is_uid(value):
            return Fate.STAYS
        return {"PN": Fate.NAME, "UI": Fate.UID}.get(vr, Fate.TEXT)
    if tag in _HARMLESS - _CODED:
        return Fate.SCRUBBED
    if _fits(_CODE_FORMS.get(tag) or _FORMS.get(vr), value):
        return _FITTING.get(vr, Fate.STAYS)
    return Fate.ODD if vr == "CS" else Fate.GONE


# values of each VR (PS3.5 section 6.2) --------------------------------------------------------------------------------


def _ends(parsed: Callable[[str], object | None]) -> Callable[[str], bool]:
    """A value, or a range as keys have it."""

    def fits(value: str) -> bool:
        ends = [end for end in value.split("-", 1) if end]
        return parsed(value) is not None or (bool(ends) and all(parsed(end) is not None for end in ends))

    return fits


def _like(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda value: compiled.fullmatch(value) is not None


def _fits(form: Callable[[str], bool] | None, value: str) -> bool:
    return form is not None and form(value)


_INTEGER = _like("[+-]?[0-9]{1,20}")
_DECIMAL = _like(r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?")
_FORMS: dict[str, Callable[[str], bool]] = {
    "AS": _like("[0-9]{3}[DWMY]"),
    "CS": _like("[A-Za-z0-9 _*?]{1,16}"),
    "DA": _ends(parse_da),
    "DT": _like(r"[0-9]{4,14}(\.[0-9]{1,6})?([+-][0-9]{4})?"),
    "TM": _ends(parse_tm),
    **dict.fromkeys(("IS", "SL", "SS", "SV", "UL", "US", "UV"), _INTEGER),
    **dict.fromkeys(("DS", "FD", "FL"), _DECIMAL),
}
"""With small letters, which some send in a CS, and the wildcards of keys. Of other VRs no value is known to fit."""
_CODE_FORMS = {
    known_tag("SpecificCharacterSet"): _like("ISO[_ ](2022 )?IR [0-9]{1,3}|GB18030|GBK"),
    known_tag("TimezoneOffsetFromUTC"): _like("[+-][0-9]{4}"),
}
_FITTING = {"CS": Fate.SCRUBBED, "DA": Fate.DAY, "DT": Fate.DAY}


# how identifiers are written in texts ---------------------------------------------------------------------------------

_SEPARATORS = ("^", " ", ", ", ",", "_")
_WITHOUT_LETTERS = ("", "\u3000")
"""What stands between ideograms, beside these: nothing, or their wide space."""
_IDEOGRAMS = "\u2e80"
"""From here on a character is a syllable or a word: two of them are a name."""
_SHORTEST, _SHORTEST_IDEOGRAMS = 4, 2
HEAD = _SHORTEST_IDEOGRAMS
"""Characters that all that is looked for has."""
_MOST_COMPONENTS = 5
"""Of a person's name: family, given, middle name, prefix, suffix."""


def folded(text: str) -> str:
    """A text for comparison, letter by letter, so that it stays as long as it is: capital letters do not matter."""
    if text.isascii():
        return text.lower()
    return "".join(lower if len(lower := letter.lower()) == 1 else letter for letter in text)


_SHARP_S = str.maketrans({"ß": "ss", "ẞ": "ss"})
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ø": "oe", "æ": "ae", "å": "aa"})
_TWO_LETTERS = {"ae": "ä", "oe": "ö", "ue": "ü"}
_LETTER = re.compile("ae|oe|ue")


def spelled(text: str) -> set[str]:
    """A folded name as it may be spelled: umlauts as two letters or the other way round, without accents."""
    found = {text, _LETTER.sub(lambda found: _TWO_LETTERS[found[0]], text)}
    if not text.isascii():
        plain = unicodedata.normalize("NFKD", text.translate(_SHARP_S))
        found |= {text.translate(_SHARP_S), text.translate(_UMLAUTS)}
        found.add("".join(letter for letter in plain if not unicodedata.combining(letter)))
    return found


def looked_for(text: str) -> bool:
    """Whether an identifier is looked for within texts; shorter ones stand in too many words and numbers."""
    return len(text) >= (_SHORTEST_IDEOGRAMS if max(text, default="") >= _IDEOGRAMS else _SHORTEST)


def written(name: str) -> Iterator[str]:
    """How people write a PN value (PS3.5 section 6.2.1) in a text: each of its groups, whole or family and given name.

    With carets, spaces or commas; the given name first, too, and of several given names only the first. A family name
    alone is not looked for: it may be a word that rules match.
    """
    for group in name.split("="):
        whole = group.strip(" \0^")
        yield whole
        components = whole.split("^")[:_MOST_COMPONENTS] if "^" in whole else re.split(r"[,\s]+", whole)
        said = [part.strip() for part in components if part.strip()][:_MOST_COMPONENTS]
        if len(said) < 2:
            continue
        family, given, *others = said
        first = given.split()[0]
        orders = [[family, given, *others[:end]] for end in range(len(others) + 1)]
        orders += [[family, first], [given, family], [first, family]]
        separators = _SEPARATORS + (_WITHOUT_LETTERS if max(whole) >= _IDEOGRAMS else ())
        yield from (separator.join(names) for names in orders for separator in separators)
        yield from (f"{family}{comma}{' '.join(names[1:])}" for names in orders for comma in (", ", ",", "^"))
