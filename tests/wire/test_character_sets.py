"""Character sets: answers that name none or a wrong one, keys that are not ASCII, both ways to decode alike."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dimse.identifier import Decoder, decode, decode_with_pydicom
from router.dimse.peers import Peers
from router.dimse.request import find_identifier, move_identifier
from router.dimse.text import encoder_for
from router.domain.character_set import DEFINED_TERMS, MULTI_BYTE_EXTENSIONS
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.exchange import MoveRequest
from router.domain.rule import FindSettings, Node
from router.simulator import Behaviour, SimulatedPacs, make_study

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BOTH = pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT])
STUDY = QueryRetrieveLevel.STUDY
ALONE = [term for term in DEFINED_TERMS if term not in MULTI_BYTE_EXTENSIONS]
EXTENDED = [
    r"\ISO 2022 IR 87",
    r"ISO 2022 IR 13\ISO 2022 IR 87",
    r"\ISO 2022 IR 149",
    r"\ISO 2022 IR 58",
    r"ISO 2022 IR 100\ISO 2022 IR 144",
    r"ISO 2022 IR 6\ISO 2022 IR 100",
]


def raw(*elements: tuple[int, str, bytes], transfer_syntax: str) -> bytes:
    parts = []
    for tag, vr, value in elements:
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        length = (
            struct.pack("<L", len(value))
            if transfer_syntax == IMPLICIT
            else struct.pack("<2sH", vr.encode(), len(value))
        )
        parts.append(head + length + value)
    return b"".join(parts)


# answers ------------------------------------------------------------------------------------------------------------

text_bytes = st.one_of(
    st.binary(max_size=16),
    st.text("é山Ł \\^=김ﾔ", max_size=8).map(str.encode),
    st.sampled_from(
        [b"M\xfcller^J\xf6rg", b"\xd4\xcf", b"\x1b$B;3ED\x1b(B", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"]
    ),
)
declared = st.sampled_from(
    [
        None,
        b"",
        b"  ",
        b"ISO_IR 100",
        b"ISO_IR 192 ",
        b"FOO ",
        b"\\ISO 2022 IR 87",
        b"ISO_IR 192\\ISO 2022 IR 87",
        b"utf8",
        b"\\",
    ]
)


@BOTH
@given(st.sampled_from(["", *DEFINED_TERMS, *EXTENDED]), declared, st.lists(text_bytes, min_size=3, max_size=3))
def test_both_paths_agree_whatever_is_assumed_and_declared(
    transfer_syntax: str, assumed: str, declared: bytes | None, values: list[bytes]
) -> None:
    elements = [(0x00080005, "CS", declared)] if declared is not None else []
    elements += [
        (tag, vr, value + b" " * (len(value) % 2))
        for (tag, vr), value in zip([(0x00081030, "LO"), (0x00100010, "PN"), (0x00104000, "LT")], values, strict=True)
    ]
    data = raw(*elements, transfer_syntax=transfer_syntax)
    found = [path(data, transfer_syntax, assumed) for path in (decode, decode_with_pydicom)]
    found.append(Decoder(transfer_syntax, assumed).decode(data))
    assert found[0].elements == found[1].elements == found[2].elements


@BOTH
@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (None, "Żółć"),
        (b"", "Żółć"),
        (b"  ", "Żółć"),
        (b"ISO_IR 100", "¯ó³æ"),
        (b"NONSENSE", "¯ó³æ"),
        (b"ISO 2022 IR 999 ", "¯ó³æ"),
    ],
)
def test_a_set_is_assumed_only_where_none_is_named(
    transfer_syntax: str, declared: bytes | None, expected: str, recwarn: pytest.WarningsRecorder
) -> None:
    elements = [] if declared is None else [(0x00080005, "CS", declared)]
    elements.append((0x00100010, "PN", "Żółć".encode("iso8859_2")))
    found = decode(raw(*elements, transfer_syntax=transfer_syntax), transfer_syntax, "ISO_IR 101")
    assert found.text("PatientName") == expected
    assert "Ż" not in "".join(str(one.message) for one in recwarn.list)


@BOTH
@pytest.mark.parametrize(
    "declared",
    [
        b"ISO_IR\x00100",
        b"\x00\x01\x02\x03",
        b"\xff\xfe",
        b"ISO 2022 IR 87\\ISO 2022 IR 87",
        b"ISO_IR 192\\ISO_IR 100",
        b"\\" * 6,
        b"rot13 ",
        b"hex ",
    ],
)
def test_a_wrong_character_set_costs_no_match(transfer_syntax: str, declared: bytes) -> None:
    elements = [
        (0x00080005, "CS", declared),
        (0x0008103E, "LO", b"K\xf6ln"),
        (0x00100010, "PN", b"M\xfcller"),
        (0x0020000D, "UI", b"1.2.3\0"),
    ]
    found = decode(raw(*elements, transfer_syntax=transfer_syntax), transfer_syntax)
    assert found.text("StudyInstanceUID") == "1.2.3"
    assert found.text("PatientName").startswith("M")


def test_code_extensions_are_assumed_as_well() -> None:
    name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B="
    data = raw((0x00100010, "PN", name), transfer_syntax=EXPLICIT)
    assert decode(data, EXPLICIT, r"\ISO 2022 IR 87").text("PatientName") == "Yamada^Tarou=山田^太郎="


# keys ---------------------------------------------------------------------------------------------------------------


def asked(character_set: str = "", **keys: str) -> Identifier:
    """An identifier as an archive reads it: with the character set it names, and no other."""
    data = find_identifier(STUDY, Identifier.of(**keys), implicit=False, character_set=character_set)
    return decode(data, EXPLICIT)


def test_plain_keys_name_no_character_set() -> None:
    assert "SpecificCharacterSet" not in asked("ISO_IR 100", PatientName="Muller*", StudyDescription="")


@pytest.mark.parametrize(
    ("assumed", "name", "expected"),
    [
        ("", "Müller*", ("ISO_IR 192",)),
        ("ISO_IR 100", "Müller*", ("ISO_IR 100",)),
        ("ISO_IR 100", "Łukasz*", ("ISO_IR 192",)),
        ("ISO_IR 6", "Müller*", ("ISO_IR 192",)),
        ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", ("ISO_IR 13",)),
        ("ISO_IR 13", "山田^太郎", ("ISO_IR 192",)),
        ("GB18030", "王^小东", ("GB18030",)),
        ("GBK", "王^小东", ("GBK",)),
        ("ISO_IR 203", "Bœuf*", ("ISO_IR 203",)),
        (r"\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう", ("", "ISO 2022 IR 87")),
        (r"\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동", ("", "ISO 2022 IR 149")),
        (r"\ISO 2022 IR 87", "Jörg^太郎", ("ISO_IR 192",)),
        (r"\ISO 2022 IR 100", "Jörg^Ü", ("", "ISO 2022 IR 100")),
        (r"ISO 2022 IR 100\ISO 2022 IR 144", "Люксембург^Jörg", ("ISO 2022 IR 100", "ISO 2022 IR 144")),
        (r"\ISO 2022 IR 87", "Łukasz*", ("ISO_IR 192",)),
    ],
)
def test_keys_go_in_the_nodes_own_set_where_it_holds_them(assumed: str, name: str, expected: tuple[str, ...]) -> None:
    found = asked(assumed, PatientName=name, StudyDescription="Thorax")
    assert found.values("SpecificCharacterSet") == expected
    assert found.text("PatientName") == name
    assert found.text("StudyDescription") == "Thorax"


@given(st.sampled_from(["", *ALONE, *EXTENDED]), st.text("AZ^=*? -äßŁżЯ山太ﾔ김洪王ğœ€é", min_size=1, max_size=16))
def test_no_key_is_changed_by_its_encoding(assumed: str, text: str) -> None:
    text = text.strip(" ") or "Ä"
    found = asked(assumed, PatientName=text)
    assert found.text("PatientName") == text
    names, encode = encoder_for(assumed, [text])
    assert isinstance(encode(text), bytes)
    assert names in {("ISO_IR 192",), tuple(assumed.split("\\"))}


def test_a_patient_id_goes_back_in_the_set_it_came_in() -> None:
    request = MoveRequest(destination_ae_title="A", level=STUDY, study_instance_uid="1.2", patient_id="Ä1")
    data = move_identifier(request, False, with_patient=True, character_set="ISO_IR 100")
    assert b"ISO_IR 100" in data
    assert b"\xc41" in data


# an archive that keeps its set to itself ----------------------------------------------------------------------------


@pytest.fixture
def peers() -> Iterator[Peers]:
    peers = Peers("ROUTER", lambda event: None)
    yield peers
    peers.close()


@pytest.mark.parametrize("term", ["ISO_IR 101", r"\ISO 2022 IR 87", "GB18030", "ISO_IR 192"])
def test_an_archive_that_names_no_set_is_asked_and_read_in_the_assumed_one(peers: Peers, term: str) -> None:
    name = {"ISO_IR 101": "Łukasz^Żółć", r"\ISO 2022 IR 87": "Yamada=山田^太郎"}.get(term, "王^小东")
    studies = [
        make_study(seed="a", patient_id="P1"),
        make_study(seed="b", patient_name="Plain^Jane", patient_id="P2"),
    ]
    for one in studies[0]:
        one.SpecificCharacterSet = "ISO_IR 192"
        one.PatientName = name
    behaviour = Behaviour(omit=frozenset({"SpecificCharacterSet"}), response_character_set=term)
    with SimulatedPacs(studies=[one for study in studies for one in study], behaviour=behaviour) as pacs:
        for assumed, expected in ((term, {name, "Plain^Jane"}), ("", None)):
            node = Node(
                name="archive", ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.port,
                find=FindSettings(assume_character_set=assumed),
            )  # fmt: skip

            def find(node: Node = node, **keys: str) -> list[Identifier]:
                result = peers.find(node, STUDY, Identifier.of(**keys), maximum=9, cancelled=threading.Event())
                assert (result.status, result.undecodable) == (0, 0)
                return result.identifiers

            found = {row.text("PatientName") for row in find(PatientName="", StudyInstanceUID="")}
            assert len(found) == 2
            assert expected is None or found == expected
            (one,) = find(PatientName=name, StudyInstanceUID="")
            if assumed:
                assert one.text("PatientName") == name
