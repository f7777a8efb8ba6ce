"""How a soak is judged: what grows is found, what only wobbles is not, and the beginning does not count."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.at_work import Sample
from bench.soak import judge, report, slope
from bench.usage import Usage

MIB = 1 << 20
EVERY, SAMPLES = 15.0, 81


def run(
    resident: Callable[[float], float] = lambda share: 100.0,
    descriptors: Callable[[float], int] = lambda share: 40,
    threads: Callable[[float], int] = lambda share: 20,
    ledger: Callable[[int], float] = lambda transfers: 2000.0 * transfers,
) -> list[Sample]:
    """Twenty minutes at ten transfers a second; the figures by the share of the time, or by the transfers."""
    found = []
    for number in range(SAMPLES):
        share, transfers = number / (SAMPLES - 1), int(number * EVERY * 10)
        used = Usage(
            cpu_seconds=number * 7.5,
            resident=int(resident(share) * MIB),
            descriptors=descriptors(share),
            threads=threads(share),
            written=0,
        )
        found.append(Sample(number * EVERY, transfers, used, int(ledger(transfers))))
    return found


def growing(samples: list[Sample]) -> set[str]:
    return {one.name for one in judge(samples) if not one.flat}


def test_what_stays_is_flat() -> None:
    assert growing(run()) == set()


@pytest.mark.parametrize(
    ("samples", "name"),
    [
        (run(resident=lambda share: 100.0 + 20.0 * share), "resident memory"),
        (run(descriptors=lambda share: 40 + int(12 * share)), "descriptors"),
        (run(threads=lambda share: 20 + int(12 * share)), "threads"),
        (run(ledger=lambda transfers: 2000.0 * transfers + 0.2 * transfers**2), "ledger, bytes a transfer"),
    ],
)
def test_what_grows_all_the_time_is_found(samples: list[Sample], name: str) -> None:
    assert growing(samples) == {name}


def test_the_beginning_does_not_count() -> None:
    assert growing(run(resident=lambda share: 60.0 + 40.0 * min(1.0, share / 0.25))) == set()


@given(st.integers(0, 2**32))
def test_noise_is_no_growth(seed: int) -> None:
    noise = random.Random(seed)
    samples = run(
        resident=lambda share: 100.0 + noise.uniform(-3.0, 3.0),
        descriptors=lambda share: 40 + noise.randrange(6),
        threads=lambda share: 20 + noise.randrange(4),
    )
    assert growing(samples) == set()


@given(
    st.floats(-1e3, 1e3),
    st.floats(-1e3, 1e3),
    st.lists(st.integers(0, 1000), min_size=3, unique=True),
    st.integers(1, 9),
)
def test_the_slope_is_that_of_the_line_whatever_one_outlier_says(
    at: float, each: float, places: list[int], wild: int
) -> None:
    line = [(float(place), at + each * place) for place in sorted(places)]
    assert slope(line) == pytest.approx(each, abs=1e-6)
    if len(line) >= 7:
        line[len(line) // 2] = (line[len(line) // 2][0], at + wild * 1e6)
        assert slope(line) == pytest.approx(each, abs=1e-6)


def test_the_report_has_a_line_a_minute_and_the_verdicts() -> None:
    samples = run()
    lines = report("SQLite", samples, judge(samples)).splitlines()
    assert lines[0] == "SQLite"
    assert [line.split()[0] for line in lines[2:22]] == [f"{minute:.1f}" for minute in range(1, 21)]
    assert [line.split()[2] for line in lines[2:22]] == ["10.0"] * 20
    assert all(line.endswith("flat") for line in lines[22:])
    assert len(lines) == 26
