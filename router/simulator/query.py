"""Identifiers and what answers them: validation for C-FIND and C-MOVE, matches and rows (PS3.4 annex C). No network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from .archive import Archive, Instance, Series, Study
from .behaviour import Behaviour
from .encoding import Undecodable, decode, element_of, encode, keyword_of, text_of, texts
from .malformed import encode_spoilt, spoils
from .matching import RANGE_VRS, has_wildcard, is_universal, matches
from .models import ALL_LEVELS, ATTRIBUTES, FIND_MODELS, GET_MODELS, MOVE_MODELS, UNIQUE_KEYS

_IDENTIFIER_MISMATCH = 0xA900
_SOP_CLASS_NOT_SUPPORTED = 0x0122

#: Attributes of the identifier that are no keys.
_NOT_KEYS = frozenset({"QueryRetrieveLevel", "SpecificCharacterSet"})


class Refusal(NamedTuple):
    """Why a request is refused: DIMSE status, the element at fault, and a comment that holds no value."""

    status: int
    offending: BaseTag | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """The identifier of a request: its level and keys, and why it must be refused if it must."""

    level: str
    levels: Sequence[str]
    keys: Sequence[DataElement]
    identifier: Dataset
    refusal: Refusal | None = None

    def values(self, keyword: str) -> list[str]:
        """The values of one key."""
        return texts(element_of(self.identifier, keyword))

    def as_text(self) -> dict[str, str]:
        """The keys by keyword, values joined by backslashes."""
        return {keyword_of(key): "\\".join(texts(key)) for key in self.keys}


def read_find(encoded: bytes, transfer_syntax: UID, sop_class: UID, behaviour: Behaviour | None = None) -> Query:
    """Read the identifier of a C-FIND and check it."""
    query = _read(encoded, transfer_syntax, FIND_MODELS.get(sop_class, ()))
    if query.refusal:
        return query
    return replace(query, refusal=_check_above(query) or _check_find(query, behaviour or Behaviour()))


def read_worklist(encoded: bytes, transfer_syntax: UID) -> Query:
    """Read the identifier of a C-FIND of a modality worklist, which has no levels."""
    return _read(encoded, transfer_syntax, ("",))


def read_move(encoded: bytes, transfer_syntax: UID, sop_class: UID) -> Query:
    """Read the identifier of a C-MOVE and check it."""
    return _read_retrieve(encoded, transfer_syntax, MOVE_MODELS.get(sop_class, ()))


def read_get(encoded: bytes, transfer_syntax: UID, sop_class: UID) -> Query:
    """Read the identifier of a C-GET and check it."""
    return _read_retrieve(encoded, transfer_syntax, GET_MODELS.get(sop_class, ()))


def _read_retrieve(encoded: bytes, transfer_syntax: UID, levels: Sequence[str]) -> Query:
    query = _read(encoded, transfer_syntax, levels)
    return query if query.refusal else replace(query, refusal=_check_above(query) or _check_move(query))


def _read(encoded: bytes, transfer_syntax: UID, levels: Sequence[str]) -> Query:
    if not levels:
        return Query(
            "", (), (), Dataset(), Refusal(_SOP_CLASS_NOT_SUPPORTED, None, "Not one of our information models")
        )
    try:
        identifier = decode(encoded, transfer_syntax)
    except Undecodable:
        return Query("", levels, (), Dataset(), Refusal(_IDENTIFIER_MISMATCH, None, "Identifier does not parse"))
    keys = []
    for tag in sorted(identifier.keys()):
        key = element_of(identifier, tag)
        if key is None:
            return Query("", levels, (), identifier, Refusal(_IDENTIFIER_MISMATCH, tag, "Key cannot be read"))
        if key.keyword not in _NOT_KEYS and key.tag.element != 0:
            keys.append(key)
    return Query(text_of(identifier, "QueryRetrieveLevel"), levels, keys, identifier)


def _mismatch(keyword: str, comment: str) -> Refusal:
    return Refusal(_IDENTIFIER_MISMATCH, Tag(keyword), comment)


def _check_above(query: Query) -> Refusal | None:
    """Hierarchical search (PS3.4 section C.4.1.2.2.1): a single value for each unique key above the level."""
    if query.level not in query.levels:
        return _mismatch("QueryRetrieveLevel", "Level missing or not of this model")
    for level in query.levels[: query.levels.index(query.level)]:
        values = query.values(UNIQUE_KEYS[level])
        if len(values) != 1 or has_wildcard(values):
            return _mismatch(UNIQUE_KEYS[level], "Unique key above the level needs a single value")
    return None


def _check_find(query: Query, behaviour: Behaviour) -> Refusal | None:
    """UIDs are matched by value or list only (PS3.4 section C.2.2.2.4). The rest the standard allows."""
    if query.level in ALL_LEVELS[:2]:
        for keyword in sorted(behaviour.required_keys):
            if Tag(keyword) not in query.identifier:
                return _mismatch(keyword, "This key must be there")
    for key in query.keys:
        values = texts(key)
        if key.VR == "UI" and has_wildcard(values) and not behaviour.match_uid_wildcards:
            return Refusal(_IDENTIFIER_MISMATCH, key.tag, "No wildcard in a UID")
        if behaviour.refuse_study_time and key.keyword == "StudyTime" and values:
            return Refusal(_IDENTIFIER_MISMATCH, key.tag, "No matching by time")
        if behaviour.refuse_open_ranges and key.VR in RANGE_VRS and any(v[0] == "-" or v[-1] == "-" for v in values):
            return Refusal(_IDENTIFIER_MISMATCH, key.tag, "Both ends of a range are needed")
    return None


def _check_move(query: Query) -> Refusal | None:
    """PS3.4 section C.4.2.2.1: the unique keys and no other; PatientID with a single value."""
    own = UNIQUE_KEYS[query.level]
    values = query.values(own)
    if not values or has_wildcard(values) or (query.level == "PATIENT" and len(values) > 1):
        return _mismatch(own, "Unique key missing, a wildcard, or several patients")
    allowed = {Tag(UNIQUE_KEYS[level]) for level in query.levels[: query.levels.index(query.level) + 1]}
    for key in query.keys:
        if key.tag not in allowed:
            return Refusal(_IDENTIFIER_MISMATCH, key.tag, "Not a unique key")
    return None


def select(archive: Archive, query: Query) -> list[Instance]:
    """The instances that the checked identifier of a C-MOVE names."""
    patient = query.values("PatientID")
    return archive.select(
        patient_id=patient[0] if patient else "",
        studies=query.values("StudyInstanceUID"),
        series=query.values("SeriesInstanceUID"),
        instances=query.values("SOPInstanceUID"),
    )


@dataclass(frozen=True, slots=True)
class Match:
    """An entity of the query's level: a patient, study, series or instance, with what it belongs to."""

    instance: Instance
    studies: Sequence[Study]
    series: Series


@dataclass(frozen=True, slots=True)
class Finder:
    """Answers one C-FIND: finds the matches and makes a row of each."""

    archive: Archive
    ae_title: str
    behaviour: Behaviour

    def find(self, query: Query) -> list[Match]:
        """The entities of the level that satisfy all keys."""
        behaviour = self.behaviour
        supported = [self.supports(query, keyword_of(key)) for key in query.keys]
        if behaviour.misplaced_keys == "no_rows" and not all(supported):
            return []
        conditions = [
            key
            for key, known in zip(query.keys, supported, strict=True)
            if known
            and not is_universal(key)
            and keyword_of(key) not in behaviour.unmatched_keys
            and not (key.VR == "UI" and has_wildcard(texts(key)))
        ]
        inside: list[Match] = []
        outside: list[Match] = []
        for match in self._candidates(query):
            holds = all(
                matches(
                    key,
                    self._element(match, key),
                    value_lists=behaviour.match_value_lists,
                    exact_names=behaviour.names_case_sensitive,
                )
                for key in conditions
            )
            (inside if holds else outside).append(match)
        narrowed = query.values("ModalitiesInStudy") and Tag("Modality") not in query.identifier
        if behaviour.modalities_need_modality and narrowed:
            inside = inside[:1]
        return inside + outside[: behaviour.stray_rows]

    def supports(self, query: Query, keyword: str) -> bool:
        """Whether a key is of the query's level or one above; else it is returned empty and status is FF01."""
        if query.level == "IMAGE" or keyword in _COMPUTED:
            return query.level in _COMPUTED[keyword][0] if keyword in _COMPUTED else True
        return any(keyword in ATTRIBUTES[level] for level in ALL_LEVELS[: ALL_LEVELS.index(query.level) + 1])

    def row(self, query: Query, match: Match) -> Dataset:
        """The identifier of one response: every key that was asked for, with its value or zero length."""
        row = Dataset()
        stored = element_of(match.instance.header, "SpecificCharacterSet")
        if self.behaviour.response_character_set or stored is not None:
            row.SpecificCharacterSet = self.behaviour.response_character_set or copy.copy(
                stored.value if stored else ""
            )
        row.QueryRetrieveLevel = query.level if self.behaviour.row_level is None else self.behaviour.row_level
        row.RetrieveAETitle = self.ae_title
        asked = [*query.keys]
        for level in query.levels[: query.levels.index(query.level) + 1]:
            tag = Tag(UNIQUE_KEYS[level])
            if tag not in query.identifier:
                asked.append(DataElement(tag, dictionary_VR(tag), ""))
        for key in asked:
            keyword = keyword_of(key)
            value = self._element(match, key) if self.supports(query, keyword) else None
            row.add(copied(key, value))
        for keyword in self.behaviour.empty:
            if keyword in row:
                row[keyword].value = [] if row[keyword].VR == "SQ" else ""
        return row

    def encode_row(self, query: Query, match: Match, transfer_syntax: UID, *, without_uid: bool = False) -> bytes:
        """The bytes of a row. What is omitted is taken out last, so that text keeps its character set unsaid."""
        row = self.row(query, match)
        if without_uid:
            row[UNIQUE_KEYS[query.level]].value = ""
        character_set = text_of(row, "SpecificCharacterSet")
        for keyword in self.behaviour.omit:
            if keyword in row:
                del row[keyword]
        claimed = Dataset()
        if self.behaviour.claimed_character_set is not None:
            claimed.SpecificCharacterSet = self.behaviour.claimed_character_set
            row.pop("SpecificCharacterSet", None)
        if spoils(self.behaviour):
            return encode(claimed, transfer_syntax) + encode_spoilt(row, self.behaviour, transfer_syntax, character_set)
        return encode(claimed, transfer_syntax) + encode(row, transfer_syntax, character_set)

    def _candidates(self, query: Query) -> Iterator[Match]:
        studies = self.archive.studies()
        if query.level == "PATIENT":
            patients: dict[str, list[Study]] = {}
            for study in studies:
                patients.setdefault(text_of(study.first.header, "PatientID"), []).append(study)
            for belonging in patients.values():
                yield Match(belonging[0].first, belonging, next(iter(belonging[0].series.values())))
            return
        for study in studies:
            if query.level == "STUDY":
                yield Match(study.first, [study], next(iter(study.series.values())))
                continue
            if study.first.study not in query.values("StudyInstanceUID"):
                continue
            for series in study.series.values():
                if query.level == "SERIES":
                    yield Match(series.first, [study], series)
                elif text_of(series.first.header, "Modality") not in self.behaviour.unlisted_modalities:
                    for instance in series.instances.values():
                        yield Match(instance, [study], series)

    def _element(self, match: Match, key: DataElement) -> DataElement | None:
        computed = _COMPUTED.get(key.keyword)
        if computed is None:
            return element_of(match.instance.header, key.tag)
        return DataElement(key.tag, dictionary_VR(key.tag), computed[1](match, self))


def copied(key: DataElement, value: DataElement | None) -> DataElement:
    """A response's element: the stored value under the key's tag, zero length where there is none."""
    if value is None or value.value is None:
        return DataElement(key.tag, key.VR, [] if key.VR == "SQ" else "")
    if value.VR == "SQ":
        return DataElement(key.tag, "SQ", copy.deepcopy(value.value))
    if isinstance(value.value, bytes):
        return DataElement(key.tag, value.VR, value.value)
    return DataElement(key.tag, value.VR, texts(value) if value.VR not in _BINARY_VRS else copy.copy(value.value))


_BINARY_VRS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "AT"})


def _related_instances(studies: Sequence[Study], finder: Finder) -> int:
    return max(0, sum(len(study.instances()) for study in studies) + finder.behaviour.instance_count_offset)


def _in_study(match: Match, keyword: str) -> list[str]:
    return sorted({text_of(one.header, keyword) for one in match.studies[0].instances()} - {""})


_BELOW_PATIENT = frozenset(ALL_LEVELS[1:])
_BELOW_STUDY = frozenset(ALL_LEVELS[2:])

#: Attributes that are in no image (PS3.4 section C.3.4): the levels that have them, and their value.
_COMPUTED: Mapping[str, tuple[frozenset[str], Callable[[Match, Finder], object]]] = {
    "NumberOfPatientRelatedStudies": (frozenset({"PATIENT"}), lambda match, _: len(match.studies)),
    "NumberOfPatientRelatedSeries": (
        frozenset({"PATIENT"}),
        lambda match, _: sum(len(study.series) for study in match.studies),
    ),
    "NumberOfPatientRelatedInstances": (
        frozenset({"PATIENT"}),
        lambda match, finder: _related_instances(match.studies, finder),
    ),
    "NumberOfStudyRelatedSeries": (_BELOW_PATIENT, lambda match, _: len(match.studies[0].series)),
    "NumberOfStudyRelatedInstances": (
        _BELOW_PATIENT,
        lambda match, finder: _related_instances(match.studies, finder),
    ),
    "NumberOfSeriesRelatedInstances": (
        _BELOW_STUDY,
        lambda match, finder: max(0, len(match.series.instances) + finder.behaviour.instance_count_offset),
    ),
    "ModalitiesInStudy": (_BELOW_PATIENT, lambda match, _: _in_study(match, "Modality")),
    "SOPClassesInStudy": (_BELOW_PATIENT, lambda match, _: _in_study(match, "SOPClassUID")),
    "AvailableTransferSyntaxUID": (frozenset({"IMAGE"}), lambda match, _: str(match.instance.transfer_syntax)),
    "InstanceAvailability": (frozenset(ALL_LEVELS), lambda _, finder: finder.behaviour.availability),
    "RetrieveAETitle": (frozenset(ALL_LEVELS), lambda _, finder: finder.ae_title),
}
