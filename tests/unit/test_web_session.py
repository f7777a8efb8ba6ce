"""Sessions of browsers: bounded, and ending."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.web import guard, session
from router.web.session import Sessions, right

TOKEN = "0123456789abcdef"


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_lasts_twelve_hours_and_no_longer() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    one = sessions.begin(TOKEN)
    clock.now += session.SESSION_SECONDS - 1
    assert sessions.of(one.key, TOKEN) == one
    clock.now += 1
    assert sessions.of(one.key, TOKEN) is None
    clock.now -= 10
    assert sessions.of(one.key, TOKEN) is None, "what has ended does not come back"


def test_keys_are_long_and_never_the_same() -> None:
    sessions = Sessions(Clock())
    keys = {key for one in (sessions.begin(TOKEN) for _ in range(50)) for key in (one.key, one.form_key)}
    assert len(keys) == 100
    assert min(map(len, keys)) >= 40


def test_there_are_a_hundred_sessions_and_the_oldest_goes_first() -> None:
    sessions = Sessions(Clock())
    begun = [sessions.begin(TOKEN) for _ in range(session.MOST_SESSIONS + 5)]
    alive = [one for one in begun if sessions.of(one.key, TOKEN) is not None]
    assert alive == begun[5:]


def test_ended_sessions_make_room_before_living_ones_go() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    for _ in range(session.MOST_SESSIONS - 1):
        sessions.begin(TOKEN)
    clock.now += session.SESSION_SECONDS - 10
    young = sessions.begin(TOKEN)
    clock.now += 10
    for _ in range(session.MOST_SESSIONS - 1):
        sessions.begin(TOKEN)
    assert sessions.of(young.key, TOKEN) == young


def test_another_token_ends_the_session_and_so_does_none() -> None:
    sessions = Sessions(Clock())
    for token in ("another token than that", None):
        one = sessions.begin(TOKEN)
        assert sessions.of(one.key, token) is None
        assert sessions.of(one.key, TOKEN) is None


def test_a_message_is_shown_once_and_to_nobody_else() -> None:
    sessions = Sessions(Clock())
    one, other = sessions.begin(TOKEN), sessions.begin(TOKEN)
    sessions.leave(one.key, "Done. " + "x" * 10_000)
    assert sessions.message(other.key) == ""
    assert sessions.message(one.key).startswith("Done.")
    assert sessions.message(one.key) == ""
    sessions.leave("no session", "Done.")
    assert sessions.message("no session") == ""
    sessions.leave(one.key, "Done.")
    sessions.end(one.key)
    assert sessions.message(one.key) == ""


@given(st.text(max_size=40))
def test_only_the_token_is_right(shown: str) -> None:
    assert right(f" {TOKEN}\n", TOKEN)
    assert right(shown, TOKEN) is (shown.strip() == TOKEN)


@given(
    host=st.sampled_from(["router.example", "127.0.0.1:9104", "[::1]:9104"]),
    scheme=st.sampled_from(["http", "https"]),
    other=st.sampled_from(["evil.example", "127.0.0.1:9999", "router.example.evil", "router.example:81", ""]),
)
def test_a_form_of_a_page_of_ours_is_taken_and_of_another_is_not(host: str, scheme: str, other: str) -> None:
    assert guard.own_form({"host": host, "origin": f"{scheme}://{host}", "sec-fetch-site": "same-origin"}) == ""
    assert guard.own_form({"host": host}) == ""
    assert guard.own_form({"host": host.upper(), "origin": f"{scheme}://{host}"}) == ""
    for headers in (
        {"host": host, "origin": f"{scheme}://{other}"},
        {"host": host, "origin": "null"},
        {"origin": f"{scheme}://{host}"},
        {"host": host, "origin": f"{scheme}://{host}", "sec-fetch-site": "cross-site"},
    ):
        assert "another site" in guard.own_form(headers)
