"""What `doctor` finds of a database server: verdicts on what was seen, and what is seen of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.checkup import Result
from router.domain.checkup_ledger import server as verdicts
from router.domain.ledger_state import DatabaseSeen
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger
from router.ledger.server import server_seen
from tests.support import postgres
from tests.support.command import in_process
from tests.support.ports import free_port

WELL = DatabaseSeen(
    version="15.6",
    seconds=0.0004,
    ahead_seconds=0.02,
    may_create=True,
    may_write=True,
    read_only=False,
    encoding="UTF8",
    connections=97,
    synchronous_commit="on",
    fsync=True,
)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize(
    ("changed", "check", "code", "result"),
    [
        ({"seconds": 0.5}, "database", "slow", Result.WARN),
        ({"read_only": True}, "database rights", "read-only", Result.FAIL),
        ({"may_create": False}, "database rights", "no-tables", Result.FAIL),
        ({"may_write": False}, "database rights", "not-its-own", Result.FAIL),
        ({"encoding": "SQL_ASCII"}, "database encoding", "not-utf8", Result.FAIL),
        ({"ahead_seconds": 30.0}, "database clock", "apart", Result.WARN),
        ({"ahead_seconds": -30.0}, "database clock", "apart", Result.WARN),
        ({"connections": 20}, "database connections", "few", Result.FAIL),
        ({"connections": 25}, "database connections", "scarce", Result.WARN),
        ({"synchronous_commit": "off"}, "database durability", "not-synchronous", Result.WARN),
        ({"fsync": False}, "database durability", "no-fsync", Result.WARN),
    ],
)
def test_each_thing_that_is_not_well_is_said(changed: dict[str, Any], check: str, code: str, result: Result) -> None:
    found = verdicts(msgspec.structs.replace(WELL, **changed), 3, 7, "router.ledger in site.yaml:1")
    assert [(one.check, one.code, one.result) for one in found if one.result is not Result.OK] == [
        (check, code, result)
    ]
    assert all(one.message.endswith(".") for one in found)
    assert all(one.remedy for one in found if one.result is not Result.OK)


def test_a_server_that_is_well() -> None:
    found = verdicts(WELL, 3, 7, "router.ledger in site.yaml:1")
    assert {one.result for one in found} == {Result.OK}
    assert found[0].message == "PostgreSQL 15.6 answers within 0.4 ms."


@pytest.fixture
def url() -> Iterator[str]:
    with postgres.server().database() as made:
        yield made


def test_a_real_server_before_and_after_the_tables_are_there(url: str) -> None:
    for _ in range(2):
        seen = server_seen(url, now)
        assert seen is not None
        assert (seen.may_create, seen.may_write, seen.read_only, seen.encoding) == (True, True, False, "UTF8")
        assert seen.version.split(".")[0].isdigit()
        assert (seen.fsync, seen.connections) == (False, 197)
        SqlLedger.open(url).close()


def test_the_clocks_are_compared(url: str) -> None:
    seen = server_seen(url, lambda: now() - timedelta(hours=1))
    assert seen is not None
    assert seen.ahead_seconds > 3000


def test_a_user_who_may_only_read_and_a_database_that_takes_nothing(url: str) -> None:
    name = url.rpartition("/")[2]
    SqlLedger.open(url).close()
    server = postgres.server()
    server.do(f"DROP ROLE IF EXISTS looker_{name}")
    server.do(f"CREATE ROLE looker_{name} LOGIN")
    try:
        server.do("REVOKE CREATE ON SCHEMA public FROM PUBLIC", name)
        server.do(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker_{name}", name)
        seen = server_seen(server.url(name, f"looker_{name}"), now)
        assert seen is not None
        assert (seen.may_create, seen.may_write) == (False, False)
        server.do(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        seen = server_seen(url, now)
        assert seen is not None
        assert seen.read_only
    finally:
        server.do(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        server.do(f"DROP OWNED BY looker_{name}", name)
        server.do(f"DROP ROLE looker_{name}")


def test_a_file_is_no_server_and_a_server_that_is_away_is_an_error(tmp_path: Path) -> None:
    assert server_seen(f"sqlite:///{tmp_path}/ledger.db", now) is None
    with pytest.raises(LedgerError):
        server_seen("postgresql://router@127.0.0.1:1/nothing", now)


def test_doctor_tells_of_the_server(url: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        f"""
router: {{ledger: "{url}", store: {tmp_path}/store, listen: "127.0.0.1:{free_port()}", http: "127.0.0.1:{free_port()}"}}
nodes: {{a: {{ae_title: A, address: "127.0.0.1:1"}}}}
rules: {{r: {{sweep: {{source: a, every: 5m, keys: {{StudyDate: today}}}}, move: {{to: [local]}}}}}}
"""
    )
    done = in_process(tmp_path, "doctor", "--format", "json")
    checks = {one["check"]: one for part in _lists(done.json) for one in part}
    assert checks["database"]["result"] == "ok"
    assert checks["database durability"]["code"] == "no-fsync"
    assert checks["ledger"]["result"] == "ok"
    said = "the first start makes it, or `dicom-router ledger import FILE` before it."
    assert checks["ledger"]["message"].endswith(said)


def _lists(value: Any) -> Iterator[list[dict[str, Any]]]:
    """Every list of checks in what was printed."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "check" in value[0]:
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _lists(inner)
