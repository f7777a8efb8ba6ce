"""The simulated PACS that its tests share, with a destination of its own; sockets they left open are closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router.simulator import SimulatedPacs
from tests.wire.simulated import CT, CT2, MR, Entity


@pytest.fixture(autouse=True)
def _close_sockets() -> Iterator[None]:
    yield
    while Entity.opened:
        Entity.opened.pop().close()


@pytest.fixture
def destination() -> Iterator[SimulatedPacs]:
    """Where the PACS can send to."""
    with SimulatedPacs("DEST") as pacs:
        yield pacs


@pytest.fixture
def pacs(destination: SimulatedPacs) -> Iterator[SimulatedPacs]:
    """Honest, until a test says otherwise."""
    with SimulatedPacs(
        studies=[*CT, *CT2, *MR], destinations={"DEST": ("127.0.0.1", destination.port)}, timeout_seconds=10
    ) as pacs:
        yield pacs
