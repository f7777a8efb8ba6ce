"""The bounded scan of a data set's header for its UIDs."""

import contextlib
import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from router.domain.header import Header, MalformedHeader, scan

IMPLICIT, EXPLICIT, BIG_ENDIAN, JPEG = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50",
)
EXPECTED = Header("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4.5", "1.2.3", "1.2.3.4")


def encode(dataset: Dataset, transfer_syntax: str) -> bytes:
    stream = DicomBytesIO()
    stream.is_implicit_VR = transfer_syntax == IMPLICIT
    stream.is_little_endian = transfer_syntax != BIG_ENDIAN
    write_dataset(stream, dataset)
    return stream.getvalue()


def instance() -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = EXPECTED.sop_class_uid
    dataset.SOPInstanceUID = EXPECTED.sop_instance_uid
    dataset.StudyInstanceUID = EXPECTED.study_instance_uid
    dataset.SeriesInstanceUID = EXPECTED.series_instance_uid
    dataset.PatientName = "Doe^Jane"
    dataset.StudyDate = "20240101"
    return dataset


def nested(undefined_length: bool) -> Dataset:
    """A sequence before the wanted attributes that holds the same attributes with other values."""
    inner = Dataset()
    inner.StudyInstanceUID = "9.9.9"
    inner.SOPInstanceUID = "9.9.9.9"
    inner.is_undefined_length_sequence_item = undefined_length
    deeper = Dataset()
    deeper.ReferencedStudySequence = Sequence([inner])
    deeper["ReferencedStudySequence"].is_undefined_length = undefined_length
    deeper.is_undefined_length_sequence_item = undefined_length
    dataset = instance()
    dataset.ReferencedStudySequence = Sequence([deeper, inner])
    dataset["ReferencedStudySequence"].is_undefined_length = undefined_length
    return dataset


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("undefined_length", [False, True])
def test_finds_the_uids_of_the_instance_and_not_those_of_sequences(transfer_syntax, undefined_length):
    data = encode(nested(undefined_length), transfer_syntax)
    assert scan(data, transfer_syntax, complete=True) == EXPECTED
    assert scan(data, transfer_syntax, complete=False) == EXPECTED


def test_encapsulated_and_unknown_transfer_syntaxes_are_explicit_little_endian():
    data = encode(instance(), EXPLICIT)
    assert scan(data, JPEG, complete=True) == EXPECTED
    assert scan(data, "1.3.46.670589.33.1.4.1", complete=True) == EXPECTED


@pytest.mark.parametrize(("written", "declared"), [(IMPLICIT, EXPLICIT), (EXPLICIT, IMPLICIT)])
def test_a_sender_that_declares_the_other_vr_encoding_is_understood(written, declared):
    assert scan(encode(instance(), written), declared, complete=True) == EXPECTED


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_asks_for_more_until_it_knows_and_never_answers_otherwise(transfer_syntax):
    data = encode(nested(True), transfer_syntax)
    answers = [scan(data[:length], transfer_syntax, complete=False) for length in range(len(data) + 1)]
    known = [answer for answer in answers if answer is not None]
    assert set(known) == {EXPECTED}
    assert answers[0] is None


def test_a_complete_data_set_without_the_uids_gives_empty_ones():
    dataset = Dataset()
    dataset.PatientName = "Doe^Jane"
    assert scan(encode(dataset, EXPLICIT), EXPLICIT, complete=True) == Header("", "", "", "")
    assert scan(b"", EXPLICIT, complete=True) == Header("", "", "", "")


def test_padding_of_uids_is_removed():
    dataset = instance()
    data = encode(dataset, EXPLICIT).replace(b"UI\x06\x001.2.3\x00", b"UI\x08\x001.2.3 \x00 ")
    assert scan(data, EXPLICIT, complete=True) == EXPECTED


def test_an_unknown_vr_of_undefined_length_is_walked_into_as_implicit():
    # PS3.5 section 6.2.2: UN with undefined length holds a sequence in implicit VR little endian.
    item = struct.pack("<HHL", 0x0020, 0x000D, 6) + b"9.9.9\0"
    unknown = (
        struct.pack("<HH2sxxL", 0x0009, 0x1010, b"UN", 0xFFFFFFFF)
        + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        + item
        + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
        + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    )
    data = encode(instance(), EXPLICIT)
    position = data.index(b"\x10\x00\x10\x00PN")
    assert scan(data[:position] + unknown + data[position:], EXPLICIT, complete=True) == EXPECTED


@pytest.mark.parametrize(
    "data",
    [
        encode(instance(), EXPLICIT)[:-3],
        struct.pack("<HHL", 0xFFFE, 0xE00D, 0) * 3,
        struct.pack("<HH2sH", 0x0020, 0x000D, b"UI", 200) + b"1" * 200,
        (struct.pack("<HH2sxxL", 0x0008, 0x1110, b"SQ", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF))
        * 100,
    ],
)
def test_what_is_no_data_set_is_malformed(data):
    with pytest.raises(MalformedHeader):
        scan(data, EXPLICIT, complete=True)


@given(st.binary(max_size=400), st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN, JPEG]), st.booleans())
def test_any_bytes_end_in_an_answer_or_the_typed_error(data, transfer_syntax, complete):
    try:
        answer = scan(data, transfer_syntax, complete=complete)
    except MalformedHeader:
        return
    assert answer is not None or not complete


@given(st.data())
def test_damaged_data_sets_end_in_an_answer_or_the_typed_error(data):
    encoded = bytearray(encode(nested(True), EXPLICIT))
    for position in data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=4)):
        encoded[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedHeader):
        scan(BytesIO(bytes(encoded)).getbuffer(), EXPLICIT, complete=True)
