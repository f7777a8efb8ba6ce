"""Guesses of the token: few from an address, and nobody else is kept out; by which names a router is called."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from router.web.guesses import GUESS_SECONDS, MOST_GUESSES, MOST_OF_PEER, Guesser, Guesses
from router.web.hosts import is_ours


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def behind(proxy: str, forwarded: str) -> Guesser:
    return Guesser(proxy, {"x-forwarded-for": forwarded})


def guess(guesses: Guesses, guesser: Guesser, times: int) -> int:
    """How many of so many guesses are looked at."""
    looked_at = 0
    for _ in range(times):
        if not guesses.wait(guesser):
            guesses.wrong(guesser)
            looked_at += 1
    return looked_at


def test_ten_wrong_tokens_a_minute_may_be_tried_from_an_address() -> None:
    clock = Clock()
    guesses, here = Guesses(clock), Guesser("10.0.0.1", {})
    for _ in range(MOST_GUESSES):
        assert guesses.wait(here) == 0
        guesses.wrong(here)
        clock.now += 1
    assert guesses.wait(here) == GUESS_SECONDS - MOST_GUESSES
    clock.now += GUESS_SECONDS - MOST_GUESSES
    assert guess(guesses, here, 5) == 1, "the second of the ten is less than a minute ago"


def test_nobody_else_waits_for_who_guesses() -> None:
    guesses = Guesses(Clock())
    assert guess(guesses, Guesser("10.0.0.1", {}), 50) == MOST_GUESSES
    assert guesses.wait(Guesser("10.0.0.2", {})) == 0
    assert guess(guesses, behind("127.0.0.1", "10.0.0.1"), 50) == MOST_GUESSES
    assert guesses.wait(behind("127.0.0.1", "10.0.0.2")) == 0
    assert guesses.wait(behind("127.0.0.1", "1.1.1.1, 10.0.0.1")) > 0, "who says he comes from elsewhere"
    assert guesses.wait(Guesser("127.0.0.1", {})) == 0, "a program beside the proxy"


def test_whom_a_proxy_speaks_for_cannot_be_invented_without_end() -> None:
    guesses = Guesses(Clock())
    tried = sum(guess(guesses, behind("10.0.0.1", f"10.1.{number}.1"), 1) for number in range(200))
    assert tried == MOST_OF_PEER
    assert guesses.wait(behind("10.0.0.2", "10.1.0.1")) == 0


def test_the_addresses_of_a_network_of_one_caller_are_one() -> None:
    guesses = Guesses(Clock())
    assert sum(guess(guesses, Guesser(f"2001:db8::{number:x}", {}), 1) for number in range(1, 50)) == MOST_GUESSES
    assert guesses.wait(Guesser("2001:db8:0:1::1", {})) == 0
    guess(guesses, Guesser("10.0.0.1", {}), 50)
    assert guesses.wait(Guesser("::ffff:10.0.0.1", {})) > 0


def test_so_many_addresses_are_remembered_and_no_more() -> None:
    guesses = Guesses(Clock())
    first = Guesser("10.0.0.1", {})
    guess(guesses, first, MOST_GUESSES)
    for number in range(5000):
        guesses.wrong(Guesser(f"10.1.{number // 256}.{number % 256}", {}))
    assert len(guesses._wrong) < 5000
    assert guesses.wait(first) == 0


@given(peer=st.text(max_size=50), forwarded=st.text(max_size=80))
@example(peer="", forwarded="unknown")
def test_whatever_a_caller_says_of_himself_ten_guesses_are_his(peer: str, forwarded: str) -> None:
    guesses = Guesses(Clock())
    assert guess(guesses, behind(peer, forwarded), 30) == MOST_GUESSES


NAMES = {"router", "router.hospital.example"}


def test_a_router_is_called_by_an_address_localhost_or_a_name_of_its_own() -> None:
    for host in (
        *("127.0.0.1", "10.0.0.5:9104", "[::1]:9104", "[fe80::1%25eth0]:9104", "localhost", "LOCALHOST:9104"),
        *("router", "Router:9104", "router.hospital.example.", "router.hospital.example:443", ""),
    ):
        assert is_ours(host, NAMES), host


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz.-:@[]%/\\ 0123456789", max_size=40))
@example("router.evil.example")
@example("127.0.0.1.evil.example")
@example("localhost.evil.example")
@example("router@evil.example")
@example("evil.example/router")
@example("[::1")
def test_a_name_that_holds_one_of_ours_is_none_of_ours(text: str) -> None:
    assert not is_ours(f"{text}.evil.example:9104", NAMES)
    assert not is_ours(f"evil.example:{text}", NAMES)
