"""Who may store unasked: only what a rule asked for enters the store, whoever asks, however late it comes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dcmtk import Address, storescu
from tests.support.orthanc import Orthanc
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import make_study

COUNTED = re.compile(r'^dicom_router_store_refused_total\{reason="not-asked-for"\} (\S+)$', re.MULTILINE)
REFUSED = "(Unknown Status: 0x124)"
"""What storescu says of Refused: Not Authorized (PS3.7 section 9.1.1.1.9)."""
SWEEP = {
    "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "20240101..today"}},
    "move": {"to": ["local"]},
}


def configured(directory: Path, nodes: dict[str, Any], rules: dict[str, Any] | None = None, **router: Any) -> Site:
    return Site(directory, nodes=nodes, rules=rules or {}, router={"log": {"format": "json"}, **router})


def push(site: Site, files: list[Path], calling: str) -> str:
    """What storescu said about a push that goes on after refusals."""
    return storescu(Address("ROUTER", site.dicom_port), files, "--no-halt", calling=calling, check=False).stdout


@pytest.fixture
def site(tmp_path: Path) -> Site:
    nodes = {
        "archive": node("ARCHIVE", free_port()),
        "scanner": node("SCANNER", free_port(), push="allow"),
        "kiosk": node("KIOSK", free_port(), push="quarantine"),
    }
    return configured(tmp_path / "site", nodes)


@pytest.fixture
def router(site: Site) -> Iterator[RunningRouter]:
    with site.run() as running:
        yield running


def test_a_node_may_not_push_unless_its_configuration_says_so(
    site: Site, router: RunningRouter, tmp_path: Path
) -> None:
    refused, allowed = make_study(tmp_path / "one", instances=3), make_study(tmp_path / "other", instances=2)
    said = push(site, refused.files, "ARCHIVE")
    assert REFUSED in said
    push(site, allowed.files, "SCANNER")
    wait_for(lambda: len(site.stored()) == 2, "what may be pushed")
    assert set(site.stored()) == allowed.instances
    wait_for(lambda: _refused(router) == 3, "the refusals are counted")
    lines = [one for one in router.log.splitlines() if "not-asked-for" in one]
    assert len(lines) == 1, "told once, however many instances an association brings"
    assert '"archive"' in lines[0]
    assert refused.study_instance_uid not in router.log
    assert site.json("quarantine", "list")["objects"] == []


def test_a_reload_lets_a_node_push(site: Site, router: RunningRouter, tmp_path: Path) -> None:
    made = make_study(tmp_path / "one", instances=1)
    assert REFUSED in push(site, made.files, "ARCHIVE")
    site.configure(nodes={"archive": node("ARCHIVE", free_port(), push="allow")}, rules={})

    def is_let_in() -> bool:
        push(site, made.files, "ARCHIVE")
        return len(site.stored()) == 1

    wait_for(is_let_in, "the new configuration")


def test_what_a_rule_asks_for_comes_in_and_nothing_else_of_its_source(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc]
) -> None:
    """`apply` brings up its own Store SCP; a service on the same ledger knows from it what another has asked for."""
    archive = start_orthanc()
    made, other = make_study(tmp_path / "one", instances=5), make_study(tmp_path / "other", instances=1)
    site = configured(tmp_path / "site", {"archive": node(archive.ae_title, archive.dicom_port)}, {"all": SWEEP})
    archive.register("ROUTER", site.dicom_port)
    storescu(archive.address, made.files)
    [moved] = site.apply()["transfers"]
    assert (moved["verdict"], moved["expected"]) == ("complete", 5)
    with site.run():
        assert REFUSED in push(site, other.files, archive.ae_title)
        late = push(site, made.files, archive.ae_title)
        assert REFUSED not in late, "it was asked for a moment ago: a source may go on sending"
    assert set(site.stored()) == made.instances


def test_several_receivers_know_what_was_asked_for(tmp_path: Path, start_orthanc: Callable[..., Orthanc]) -> None:
    archive = start_orthanc()
    studies = [make_study(tmp_path / str(number), instances=4) for number in range(3)]
    site = configured(
        tmp_path / "site", {"archive": node(archive.ae_title, archive.dicom_port)}, {"all": SWEEP}, receivers=3
    )
    archive.register("ROUTER", site.dicom_port)
    for made in studies:
        storescu(archive.address, made.files)
    moved = site.apply()["transfers"]
    assert [one["verdict"] for one in moved] == ["complete"] * 3


def _refused(router: RunningRouter) -> float:
    found = COUNTED.search(router.metrics())
    return float(found[1]) if found else -1.0
