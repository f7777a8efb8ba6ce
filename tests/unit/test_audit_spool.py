"""Audit messages wait on the disk: in order, within a bound, across a killed process, sent by one process at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from router.observe.audit_spool import DIRECTORY, Spool


def waiting(spool: Spool) -> list[bytes]:
    return [message for _, message in spool.oldest(1000, 1 << 30)]


def test_messages_come_out_in_order_until_they_are_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "store", 1 << 20)
    for number in range(20):
        assert spool.put(b"%d" % number) == 0
    assert waiting(spool) == [b"%d" % number for number in range(20)]
    spool.remove(name for name, _ in spool.oldest(5, 1 << 20))
    assert (len(spool), waiting(spool)[0]) == (15, b"5")


def test_a_batch_is_bounded_but_never_empty(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    for _ in range(3):
        spool.put(b"x" * 100)
    assert len(spool.oldest(2, 1 << 20)) == 2
    assert len(spool.oldest(9, 250)) == 2
    assert len(spool.oldest(9, 10)) == 1


def test_the_oldest_go_where_the_bound_is_reached(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1000)
    assert [spool.put(b"%d" % number * 300) for number in range(5)] == [0, 0, 0, 1, 1]
    assert [message[:1] for message in waiting(spool)] == [b"2", b"3", b"4"]
    assert Spool(tmp_path, 1000).put(b"5" * 600) == 2


def test_one_that_is_larger_than_the_bound_is_kept_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 10)
    spool.put(b"first")
    assert spool.put(b"x" * 100) == 1
    assert waiting(spool) == [b"x" * 100]


def test_what_another_process_added_or_took_away_is_seen(tmp_path: Path) -> None:
    one, other = Spool(tmp_path, 1 << 20), Spool(tmp_path, 1 << 20)
    one.put(b"a")
    assert len(other) == 0
    other.look()
    assert waiting(other) == [b"a"]
    one.remove(name for name, _ in one.oldest(1, 1 << 20))
    assert waiting(other) == []
    assert len(other) == 0


def test_messages_survive_a_killed_process_whole(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from router.observe.audit_spool import Spool\n"
        f"spool = Spool(Path({str(tmp_path)!r}), 1 << 20)\n"
        "for number in range(50): spool.put(b'%d' % number)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False, timeout=60)
    assert done.returncode == -9
    assert waiting(Spool(tmp_path, 1 << 20)) == [b"%d" % number for number in range(50)]


def test_half_a_message_is_never_sent_and_is_removed_in_the_end(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    half = tmp_path / DIRECTORY / "00000000000000000001-1-000000.half"
    half.write_bytes(b"<85>1 2026")
    spool.look()
    assert waiting(spool) == []
    assert half.exists()
    long_ago = time.time() - 7200
    os.utime(half, (long_ago, long_ago))
    spool.look()
    assert not half.exists()


def test_only_the_router_may_read_what_waits(tmp_path: Path) -> None:
    Spool(tmp_path, 1 << 20).put(b"patient")
    directory = tmp_path / DIRECTORY
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


def test_one_process_sends_at_a_time(tmp_path: Path) -> None:
    one, other = Spool(tmp_path, 1 << 20), Spool(tmp_path, 1 << 20)
    assert one.lock()
    assert one.lock()
    assert not other.lock()
    one.release()
    assert other.lock()


def test_what_waits_can_be_settled_and_what_is_gone_meanwhile_does_not_matter(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.put(b"a")
    spool.put(b"b")
    next((tmp_path / DIRECTORY).glob("*.syslog")).unlink()
    spool.settle()
    assert len(waiting(spool)) == 1


def test_a_message_that_cannot_be_kept_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    (tmp_path / DIRECTORY).rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="No such file"):
        spool.put(b"a")
    assert len(spool) == 0


def test_a_draft_is_sent_as_it_was_last_once_it_is_finished(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.draft(1, b"one")
    spool.draft(2, b"two")
    spool.draft(1, b"one more")
    spool.settle()
    assert waiting(spool) == []
    assert spool.finish(1) == 0
    spool.put(b"later")
    assert waiting(spool) == [b"one more", b"later"]
    assert waiting(Spool(tmp_path, 1 << 20)) == [b"one more", b"later"]


def test_drafts_that_a_killed_process_left_are_sent_by_the_next_one(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib; from router.observe.audit_spool import Spool;"
        "s = Spool(pathlib.Path(sys.argv[1]), 1 << 20); s.draft(1, b'a'); s.draft(2, b'b'); s.finish(2); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == 9
    spool = Spool(tmp_path, 1 << 20)
    assert waiting(spool) == [b"b"]
    assert spool.finish_left() == 0
    assert waiting(spool) == [b"b", b"a"]
    assert spool.finish_left() == 0


def test_finishing_what_is_gone_is_an_error_and_what_is_finished_counts_against_the_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    spool.put(b"x" * 60)
    spool.draft(7, b"y" * 60)
    assert spool.finish(7) == 1
    assert waiting(spool) == [b"y" * 60]
    with pytest.raises(FileNotFoundError):
        spool.finish(7)


def test_drafts_that_another_process_still_writes_are_left_to_it(tmp_path: Path) -> None:
    service = Spool(tmp_path, 1 << 20)
    service.draft(1, b"one")
    beside_it = Spool(tmp_path, 1 << 20)
    assert beside_it.finish_left() == 0
    assert waiting(beside_it) == []
    service.draft(1, b"one more")
    assert service.finish(1) == 0
    beside_it.look()
    assert waiting(beside_it) == [b"one more"]
    service.draft(2, b"left")
    service.release()
    beside_it.finish_left()
    assert waiting(beside_it) == [b"one more", b"left"]
    assert {path.suffix for path in (tmp_path / DIRECTORY).iterdir()} == {".syslog"}


def test_what_is_no_file_is_no_message(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    (tmp_path / DIRECTORY / "00000000000000000001-1-000000.syslog").mkdir()
    os.mkfifo(tmp_path / DIRECTORY / "00000000000000000002-1-000000.syslog")
    spool.put(b"a")
    spool.look()
    assert waiting(spool) == [b"a"]


def test_one_that_cannot_be_read_holds_up_no_other_and_is_an_error_once_it_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 1 << 20)
    spool.put(b"a")
    spoilt = next((tmp_path / DIRECTORY).glob("*.syslog"))
    spool.put(b"b")
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path == spoilt:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    found = spool.oldest(1, 1 << 20)
    assert [message for _, message in found] == [b"b"]
    spool.remove(name for name, _ in found)
    with pytest.raises(PermissionError):
        spool.oldest(1, 1 << 20)
    assert spoilt.exists()
