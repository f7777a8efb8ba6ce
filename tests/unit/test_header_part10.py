"""The head of a DICOM file: written as pydicom reads it, read back, and never trusted."""

import struct
from io import BytesIO

from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file

from router.domain.part10 import MAXIMUM_HEAD, FileMeta, decode_file_meta, encode_file_meta

uids = st.lists(st.integers(0, 9999), min_size=1, max_size=12).map(lambda parts: ".".join(map(str, parts)))
metas = st.tuples(uids, uids, uids, st.text("ABC_09", min_size=1, max_size=16)).map(lambda found: FileMeta(*found))


@given(metas)
def test_a_head_comes_back_as_it_was_and_pydicom_reads_it(meta):
    head = encode_file_meta(meta)
    assert len(head) < MAXIMUM_HEAD
    assert head[:128] == bytes(128)
    assert decode_file_meta(head + b"data set") == (meta, len(head))
    theirs = dcmread(BytesIO(head)).file_meta
    assert theirs.FileMetaInformationGroupLength == len(head) - 144
    assert FileMeta(
        theirs.MediaStorageSOPClassUID,
        theirs.MediaStorageSOPInstanceUID,
        theirs.TransferSyntaxUID,
        theirs.SourceApplicationEntityTitle,
    ) == tuple(meta)


def test_heads_of_others_are_read_too():
    path = get_testdata_file("CT_small.dcm")
    with open(path, "rb") as stream:  # noqa: PTH123 - pydicom gives a text
        head = stream.read(MAXIMUM_HEAD)
    found = decode_file_meta(head)
    assert found is not None
    meta, offset = found
    theirs = dcmread(path)
    assert meta.sop_instance_uid == theirs.SOPInstanceUID
    assert struct.unpack_from("<H", head, offset)[0] >= 8


@given(metas, st.data())
def test_damaged_heads_are_none_or_a_head(meta, data):
    head = bytearray(encode_file_meta(meta))
    for position in data.draw(st.lists(st.integers(128, len(head) - 1), min_size=1, max_size=4)):
        head[position] = data.draw(st.integers(0, 255))
    found = decode_file_meta(bytes(head[: data.draw(st.integers(0, len(head)))]))
    assert found is None or found[1] <= len(head)
