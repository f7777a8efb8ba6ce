"""Whether a data set ends where its elements say, told from its parts."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.extent import Extent
from tests.unit.test_header import BIG_ENDIAN, EXPLICIT, IMPLICIT, JPEG, encode, instance, nested

SYNTAXES = (IMPLICIT, EXPLICIT, BIG_ENDIAN)


def whole(syntax: str, *, undefined: bool = True) -> bytes:
    """A data set with nesting before, elements of every length, and pixel data in the end."""
    dataset = nested(undefined)
    dataset.Rows = 4
    dataset.add_new(0x00091010, "UN", b"private")
    dataset.add_new(0x7FE00010, "OW", bytes(64))
    return encode(dataset, syntax)


def cut_off(data: bytes, syntax: str, cuts: list[int]) -> bool:
    extent = Extent(syntax)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        extent.feed(memoryview(data)[start:end])
    return extent.cut_off


@given(st.sampled_from(SYNTAXES), st.booleans(), st.lists(st.integers(0, 10_000), max_size=6))
def test_what_is_whole_is_never_cut_off_however_it_comes(syntax: str, undefined: bool, cuts: list[int]) -> None:
    assert not cut_off(whole(syntax, undefined=undefined), syntax, cuts)


@given(st.sampled_from(SYNTAXES), st.integers(1, 63), st.lists(st.integers(0, 10_000), max_size=6))
def test_what_ends_within_its_pixel_data_is_cut_off(syntax: str, missing: int, cuts: list[int]) -> None:
    assert cut_off(whole(syntax)[:-missing], syntax, cuts)


@given(st.binary(max_size=400), st.sampled_from([*SYNTAXES, JPEG]), st.lists(st.integers(0, 500), max_size=5))
def test_any_bytes_in_any_parts_give_one_answer(data: bytes, syntax: str, cuts: list[int]) -> None:
    assert cut_off(data, syntax, cuts) == cut_off(data, syntax, [])


@pytest.mark.parametrize("padding", [b"\0", b"\0\0", b" ", b"\r\n"])
def test_padding_behind_the_last_element_is_odd_but_complete(padding: bytes) -> None:
    assert not cut_off(whole(EXPLICIT) + padding, EXPLICIT, [])


def test_elements_out_of_order_are_kept_as_they_came() -> None:
    data = encode(instance(), EXPLICIT)
    assert not cut_off(data + data[:-3], EXPLICIT, [])


def test_encapsulated_pixel_data_that_ends_within_a_fragment_is_cut_off() -> None:
    pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\x10\0\0\0"
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    data = encode(instance(), EXPLICIT) + pixels + bytes(16)
    assert not cut_off(data + end, JPEG, [])
    assert cut_off(data[:-4], JPEG, [])
