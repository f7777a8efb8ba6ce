"""Values of the domain as bytes: what is put in comes out again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.dicom import Identifier
from router.domain.relevance import CODES, Prior
from router.ledger.packing import pack_identifier, pack_prior, unpack_identifier, unpack_prior

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TAGS = st.integers(0, 0xFFFFFFFF)
FLAT = st.builds(Identifier, st.dictionaries(TAGS, st.lists(TEXT, max_size=3).map(tuple), max_size=4))
NESTED = st.recursive(
    FLAT,
    lambda items: st.builds(
        Identifier,
        st.dictionaries(TAGS, st.lists(items, max_size=3).map(tuple) | st.lists(TEXT).map(tuple), max_size=3),
    ),
    max_leaves=8,
)
PRIORS = st.builds(
    Prior,
    study_instance_uid=TEXT,
    destination=TEXT,
    taken=st.booleans(),
    code=st.sampled_from(sorted(CODES)),
    reason=TEXT,
    group=TEXT,
    score=st.none() | st.integers(0, 100),
    breakdown=TEXT,
    age_days=st.none() | st.integers(-(10**6), 10**6),
    instance_count=st.none() | st.integers(0, 2**31),
)


@given(NESTED)
def test_a_data_set_comes_back_with_its_sequences_at_any_depth(identifier: Identifier) -> None:
    back = unpack_identifier(pack_identifier(identifier))
    assert back == identifier
    assert all(isinstance(values, tuple) for values in back.elements.values())


@given(FLAT)
def test_the_order_of_attributes_makes_no_difference(identifier: Identifier) -> None:
    turned = Identifier(dict(reversed(identifier.elements.items())))
    assert pack_identifier(turned) == pack_identifier(identifier)


@given(PRIORS)
def test_a_decision_comes_back_as_it_was(prior: Prior) -> None:
    assert unpack_prior(pack_prior(prior)) == prior


def test_an_attribute_of_zero_length_is_still_there() -> None:
    back = unpack_identifier(pack_identifier(Identifier.of(PatientID="", Modality="CT")))
    assert "PatientID" in back
    assert back.values("PatientID") == ()
    assert back.text("Modality") == "CT"


def test_an_empty_data_set_is_one() -> None:
    assert unpack_identifier(pack_identifier(Identifier())) == Identifier()


def test_text_that_is_none_is_refused() -> None:
    with pytest.raises(UnicodeError):
        pack_identifier(Identifier.of(PatientID="\ud800"))
