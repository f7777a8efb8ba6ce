"""The `ledger` commands in processes of their own: beside a service, on a full disk, to PostgreSQL and back."""

from __future__ import annotations

import signal
import stat
import subprocess
from pathlib import Path

import pytest

from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import intent, new, queue
from tests.support import postgres
from tests.support.dcmtk import Address, storescu
from tests.support.filesystems import small_disk
from tests.support.process import READY_SECONDS, wait_for
from tests.support.router import COMMAND, Site, node
from tests.support.samples import make_study

NODES = {"sender": node("STORESCU", 104, push="allow")}
RULES = {
    "unused": {
        "sweep": {"source": "sender", "cron": "0 0 1 1 *", "keys": {"StudyDate": "today"}},
        "move": {"to": ["local"]},
    }
}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", nodes=NODES, rules=RULES)


def moved_to(site: Site, ledger: object) -> None:
    """Let the configuration name another ledger."""
    site.settings["ledger"] = ledger
    site.configure(nodes=NODES, rules=RULES)


def test_from_sqlite_to_postgresql_and_back(site: Site, tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", instances=3)
    first = str(site.settings["ledger"])
    with site.run() as router:
        storescu(Address("ROUTER", site.dicom_port), study.files)
        wait_for(lambda: site.json("store", "list")["studies"], "the study is known", READY_SECONDS)
        beside = site.json("ledger", "export", "beside")
        assert (beside["services"], beside["rows"]["receipts"]) == (1, 3)
        status = site.json("ledger", "status")
        assert len(status["services"]) == 1
        refused = site.call("ledger", "import", "beside")
        assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)
        assert "A service runs on the ledger" in refused.stderr
        assert router.stop() == 0
    done = site.call("ledger", "export", "one")
    assert done.returncode == 0, done.stderr
    assert "Exported 0 transfers, 3 receipts and all that belongs to them to one (" in done.stdout
    assert "A service runs" not in done.stdout
    assert stat.S_IMODE((site.directory / "one").stat().st_mode) == 0o600
    again = site.call("ledger", "export", "one")
    assert again.returncode == 2
    assert again.stderr == "dicom-router: one is there already; name another file, or replace it with --force.\n"
    assert site.call("ledger", "export", "one", "--force").returncode == 0
    with postgres.server().database() as url:
        (site.rules_directory / "url").write_text(url.replace("router@", "router:not-needed@"))
        moved_to(site, {"file": "url"})
        missing = site.call("ledger", "status")
        assert (missing.returncode, len(missing.stderr.splitlines())) == (1, 1)
        done = site.call("ledger", "import", "one")
        assert done.stdout == "Imported 0 transfers, 3 receipts and all that belongs to them from one.\n", done.stderr
        again = site.call("ledger", "import", "one")
        assert again.returncode == 1
        assert "is not empty, and an import never mixes" in again.stderr
        assert "not-needed" not in again.stderr
        with site.run() as router:  # the same studies in the same store
            assert [one["instances"] for one in site.json("store", "list")["studies"]] == [3]
            assert router.stop() == 0
        status = site.json("ledger", "status")
        assert status["database"].startswith("PostgreSQL ")
        assert {one["table"]: one["rows"] for one in status["tables"]}["receipts"] == 3
        assert site.json("ledger", "export", "two")["rows"]["receipts"] == 3
    moved_to(site, f"sqlite:///{site.directory}/back.db")
    assert site.json("ledger", "import", "two")["rows"]["receipts"] == 3
    assert site.json("store", "verify")["fault_counts"] == {}
    with SqlLedger.open(first) as before, SqlLedger.open(str(site.settings["ledger"])) as after:
        assert before.site_key() == after.site_key()
        uids = study.study_instance_uid
        assert before.received_instances(uids) == after.received_instances(uids)


def test_a_full_disk_keeps_nothing_of_an_export(site: Site, tmp_path: Path) -> None:
    with SqlLedger.open(str(site.settings["ledger"])) as ledger:
        queue(ledger, [new(intent(number)) for number in range(5000)])
    with small_disk("tmpfs", tmp_path, 1) as disk:
        disk.fill()
        done = site.call("ledger", "export", str(disk.root / "file"))
        assert done.returncode == 1
        assert "cannot be written (No space left on device); nothing of it was kept." in done.stderr
        assert [path.name for path in disk.root.iterdir()] == ["ballast"]
        disk.let_go()
        assert site.call("ledger", "export", str(disk.root / "file")).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_import_that_is_killed_leaves_an_empty_ledger(site: Site, number: signal.Signals) -> None:
    with SqlLedger.open(str(site.settings["ledger"])) as ledger:
        queue(ledger, [new(intent(number)) for number in range(20_000)])
    assert site.call("ledger", "export", "file").returncode == 0
    with postgres.server().database() as url:
        moved_to(site, url)
        command = [*COMMAND, "--config", str(site.rules_directory), "ledger", "import", "file"]
        importing = subprocess.Popen(command, cwd=site.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        name = url.rpartition("/")[2]
        copying = (
            f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE 'COPY %' AND state = 'active'"
        )
        wait_for(
            lambda: postgres.server().do(copying) or importing.poll() is not None, "it writes", READY_SECONDS, 0.005
        )
        importing.send_signal(number)
        _, errors = importing.communicate(timeout=READY_SECONDS)
        assert b"Traceback" not in errors
        if importing.returncode == 0:  # it was quicker than the signal
            return
        with SqlLedger.open(url) as ledger:
            assert ledger.transfers() == []
        assert site.json("ledger", "import", "file", seconds=READY_SECONDS)["rows"]["transfers"] == 20_000


def test_status_in_words(site: Site) -> None:
    with SqlLedger.open(str(site.settings["ledger"])) as ledger:
        queue(ledger, [new(intent(number)) for number in range(3)])
    done = site.call("ledger", "status")
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert f"{site.directory}/ledger.db: SQLite " in words
    assert "3 transfers not ended; the oldest of what waits was queued 2026-03-01" in words
    assert "No service runs on it." in words
