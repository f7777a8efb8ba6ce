"""A node's quota of associations holds over all receivers, whichever of them it comes to; none is lost by a crash."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest

from router.dimse.association import Association
from router.errors import WireError
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.wire.scu import IMPLICIT, VERIFICATION, associate

MOST = 3


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    nodes = {
        "few": node("FEW", free_port(), sends_as=["FEW", "FEW_TOO"], limits={"incoming_associations": MOST}),
        "many": node("MANY", free_port()),
    }
    return Site(tmp_path_factory.mktemp("site"), nodes=nodes, rules={}, router={"receivers": 3})


@pytest.fixture(scope="module")
def router(site: Site) -> Iterator[RunningRouter]:
    with site.run() as running:
        yield running


def come(site: Site, calling: str) -> Association | None:
    """An association; None where there are too many. Raises WireError where nobody listens."""
    try:
        return associate(site.dicom_port, ((VERIFICATION, (IMPLICIT,)),), calling=calling)
    except WireError as error:
        if error.cause != "rejected-2-3-2":  # local limit exceeded
            raise
        return None


def until_full(site: Site, times: int = 24) -> list[Association]:
    """What is held after so many attempts, under either of the node's AE titles."""
    attempts = [come(site, "FEW" if number % 2 else "FEW_TOO") for number in range(times)]
    return [one for one in attempts if one is not None]


def test_a_node_holds_no_more_than_its_quota_over_all_receivers(router: RunningRouter, site: Site) -> None:
    held = until_full(site)
    assert len(held) == MOST
    others = [come(site, "MANY") for _ in range(8)]
    assert None not in others, "others are not touched"
    held.pop().release(5.0)
    held.append(wait_for(lambda: come(site, "FEW"), "a place that became free"))
    assert until_full(site) == []
    for one in (*held, *others):
        assert one is not None
        one.release(5.0)
    counted = r'^dicom_router_store_refused_total\{reason="too-many-of-node"\} (\S+)$'

    def refused() -> float:
        found = re.search(counted, router.metrics(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    wait_for(lambda: refused() >= 24 - MOST + 24, "the refusals are counted")


def test_what_a_receiver_held_that_died_is_held_no_more(router: RunningRouter, site: Site) -> None:
    held = wait_for(lambda: [one for one in [come(site, "FEW")] if one is not None], "a place")
    held += until_full(site)
    before = router.receivers()
    assert (len(held), len(before)) == (MOST, 3)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for one in held:
        one.close()
    wait_for(lambda: len(set(router.receivers()) - set(before)) == 3, "new receivers")

    def places() -> int:
        found: list[Association] = []
        try:
            for _ in range(2 * MOST):
                found += [one for one in [come(site, "FEW")] if one is not None]
        except WireError:  # not all of them listen yet
            return 0
        finally:
            for one in found:
                one.close()
        return len(found)

    wait_for(lambda: places() == MOST, "as many places as before")
