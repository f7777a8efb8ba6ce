"""Who is let in: certificates by name and fingerprint, addresses by network."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.access import Admission, Shown, admissions, bears, fingerprint, refusal
from router.domain.rule import CommitmentSettings, Node, NodeLimits, RouterSettings, RuleSet

DIGITS = "3f5a0c917e22b8d46b10fe9348a7c52d81603bee947d15c208abf16639d05e72"
SHOWN = Shown(("pacs", "pacs.hospital.example", "*.hospital.example"), DIGITS)


def colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ([], True),
        (["pacs"], True),
        (["PACS"], True),
        (["Pacs.Hospital.Example"], True),
        (["nobody", "pacs"], True),
        (["*.hospital.example"], True),
        (["ct.hospital.example"], False),
        (["acs"], False),
        (["pacs.hospital.example."], False),
        ([DIGITS], True),
        ([DIGITS.upper()], True),
        ([colons(DIGITS)], True),
        ([f"sha256:{colons(DIGITS).upper()}"], True),
        ([f"SHA-256:{DIGITS}"], True),
        ([DIGITS[:-1] + "3"], False),
        ([DIGITS[:40]], False),
    ],
)
def test_a_certificate_is_known_by_its_whole_name_or_its_fingerprint(wanted: list[str], fits: bool) -> None:
    assert bears(SHOWN, wanted) is fits


def test_without_a_certificate_no_name_fits() -> None:
    assert bears(None, ["pacs"]) is False
    assert bears(None, []) is True
    assert bears(Shown((), DIGITS), ["", "pacs"]) is False


@given(st.binary(min_size=32, max_size=32))
def test_a_fingerprint_is_the_same_however_it_is_written(data: bytes) -> None:
    written = [data.hex(), data.hex(":"), data.hex(":").upper(), f"sha256:{data.hex()}", f" {data.hex()}\n"]
    assert {fingerprint(text) for text in written} == {data.hex()}


@given(st.text(max_size=100))
def test_any_other_text_is_no_fingerprint(text: str) -> None:
    found = fingerprint(text)
    assert found == "" or (len(found) == 64 and int(found, 16) >= 0)


@given(st.ip_addresses(), st.integers(0, 32))
def test_an_address_is_let_in_where_it_is_in_the_network(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int
) -> None:
    network = ipaddress.ip_network((address, bits), strict=False)
    admission = Admission(node="n", networks=(str(network),))
    assert refusal(admission, str(address), None) == ""
    outside = ipaddress.ip_address("192.0.2.1" if address.version == 6 else "2001:db8::1")
    assert refusal(admission, str(outside), None) == "address"


@pytest.mark.parametrize(
    ("address", "shown", "reason"),
    [
        ("10.0.0.7", SHOWN, ""),
        ("::ffff:10.0.0.7", SHOWN, ""),
        ("10.0.1.7", SHOWN, "address"),
        ("10.0.0.7", Shown(("ct",), "0" * 64), "tls-wrong-certificate"),
        ("10.0.1.7", Shown(("ct",), "0" * 64), "address"),
        ("10.0.0.7", None, ""),
    ],
)
def test_the_address_is_looked_at_first_and_over_tls_the_certificate(
    address: str, shown: Shown | None, reason: str
) -> None:
    admission = Admission(node="pacs", networks=("10.0.0.0/24",), certificate_names=("pacs",))
    assert refusal(admission, address, shown) == reason


def test_a_node_is_admitted_under_every_title_that_it_calls_with() -> None:
    node = Node(
        name="pacs",
        ae_title="PACS",
        host="h",
        port=104,
        sends_as=("OUT1", "OUT2"),
        sends_from=("10.0.0.0/24",),
        certificate_names=("pacs",),
        limits=NodeLimits(incoming_associations=3),
        commitment=CommitmentSettings(),
    )
    rules = RuleSet(router=RouterSettings(), nodes={"pacs": node}, rules={}, content_hash="x")
    wanted = Admission(node="pacs", networks=("10.0.0.0/24",), certificate_names=("pacs",), associations=3)
    assert admissions(rules) == dict.fromkeys(("OUT1", "OUT2", "PACS"), wanted)


def test_what_a_log_calls_a_certificate_is_short_and_printable() -> None:
    assert SHOWN.called == "pacs"
    assert Shown((), DIGITS).called == DIGITS
    assert Shown(("a\nb\x1b[0m" + "ü" * 100,), DIGITS).called == "a?b?[0m" + "?" * 57
