"""The `store` commands in processes of their own, beside a service whose store fills meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from router.ledger.ledger import SqlLedger
from tests.support.router import Site, node
from tests.support.stored import Stored

RULES = {
    "unused": {
        "sweep": {"source": "scanner", "cron": "0 0 1 1 *", "keys": {"StudyDate": "today"}},
        "move": {"to": ["local"]},
    }
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", nodes={"scanner": node("CT1", 104, push="allow")}, rules=RULES)


def test_exit_codes_say_whether_all_is_well(site: Site) -> None:
    with SqlLedger.open(str(site.settings["ledger"])) as ledger:
        stored = Stored(site.store, ledger)
        receipt = stored.put(1)
        stored.put(1, 1, 2)
        stored.close()
    assert site.json("store", "verify")["first_read"] == 2
    assert site.json("store", "export", "out")["copied"] == 2
    content = bytearray(stored.file(receipt).read_bytes())
    content[-100] ^= 1
    stored.file(receipt).write_bytes(content)
    assert site.json("store", "verify", code=1)["fault_counts"] == {"checksum": 1}
    assert site.json("store", "export", "other", code=1)["fault_counts"] == {"checksum": 1}
    assert site.json("store", "export", "out", code=1)["fault_counts"] == {"checksum": 1}
    done = site.call("store", "verify", "--study", "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_beside_a_service_whose_store_fills_there_is_no_false_alarm(site: Site) -> None:
    enough = threading.Event()
    with site.run() as router, SqlLedger.open(str(site.settings["ledger"])) as ledger:
        stored = Stored(site.store, ledger)

        def fill() -> None:
            number = 0
            while not enough.wait(0.01):
                number += 1
                for _ in range(2):  # once more: the same again is a success
                    stored.put(number % 20, number // 20 % 3, number)

        thread = threading.Thread(target=fill)
        thread.start()
        try:
            told = [site.json("store", "verify") for _ in range(2)]
            exported = site.json("store", "export", "out")
        finally:
            enough.set()
            thread.join(60)
        assert [one["fault_counts"] for one in (*told, exported)] == [{}] * 3
        assert told[0]["instances"] < told[1]["instances"]
        assert len(list((site.directory / "out").rglob("*.dcm"))) == exported["instances"]
        last = site.json("store", "verify")
        assert (last["instances"], last["faults"]) == (ledger.stored_amount().instances, [])
        stored.close()
        assert router.stop() == 0
