"""The ledger over all its adapters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.ledger import postgres
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import ADAPTERS


@pytest.fixture(autouse=True)
def database_that_was_never_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' server has just started, and the times of these tests are not those of any clock."""
    monkeypatch.setattr(postgres, "LOST_SECONDS", 0.0)


@pytest.fixture(params=sorted(ADAPTERS))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a ledger that is not there yet; or of an empty one, where the test uses it as `ledger` too."""
    with ADAPTERS[request.param](tmp_path, "ledger" in request.fixturenames) as found:
        yield found


@pytest.fixture
def ledger(url: str) -> Iterator[SqlLedger]:
    with SqlLedger.open(url) as opened:
        yield opened
