"""Who may have the configuration reloaded over HTTP."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.web.guard import with_token, without_token

TOKEN = "0123456789abcdef"
HERE = {"host": "127.0.0.1:9104"}


@pytest.mark.parametrize("shown", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer   {TOKEN} "])
def test_who_shows_the_token_may(shown: str) -> None:
    assert with_token({"authorization": shown}, TOKEN) == ""


@given(st.text(max_size=40))
def test_who_shows_anything_else_may_not_and_is_told_what_to_send(shown: str) -> None:
    if shown.strip() != TOKEN:
        assert "router.token" in with_token({"authorization": f"Bearer {shown}"}, TOKEN)
    assert "Bearer TOKEN" in with_token({"authorization": shown}, TOKEN)
    assert "Bearer TOKEN" in with_token({}, TOKEN)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["127.0.0.1:9104", "localhost", "LOCALHOST:80", "[::1]:9104", "127.0.0.1"])
def test_without_a_token_programs_on_this_machine_may(peer: str, host: str) -> None:
    assert without_token({"host": host}, peer) == ""
    assert without_token({"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}, peer) == ""


@pytest.mark.parametrize("peer", ["10.0.0.7", "192.168.1.1", "fe80::1%eth0", "::ffff:10.0.0.7", "", "localhost"])
def test_without_a_token_nobody_else_may(peer: str) -> None:
    assert "set router.token" in without_token(HERE, peer)


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "via", "x-real-ip", "x-forwarded-host"])
def test_who_comes_through_a_proxy_is_not_on_this_machine(header: str) -> None:
    assert "set router.token" in without_token(HERE | {header: "127.0.0.1"}, "127.0.0.1")


@pytest.mark.parametrize(
    "host", ["router.example.org:9104", "localhost.evil.example", "10.0.0.7", "", "[", "127.0.0.1.nip.io"]
)
def test_a_name_that_leads_here_by_a_trick_is_refused(host: str) -> None:
    assert "another host" in without_token({"host": host}, "127.0.0.1")


@pytest.mark.parametrize(
    "browser",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:9104", "sec-fetch-site": "cross-site"},
    ],
)
def test_a_page_of_another_site_is_refused(browser: dict[str, str]) -> None:
    assert "another site" in without_token(HERE | browser, "127.0.0.1")


def test_an_origin_that_is_no_address_is_another_site() -> None:
    headers = {"host": "127.0.0.1:9104", "origin": "http://["}
    assert "another site" in without_token(headers, "127.0.0.1")
