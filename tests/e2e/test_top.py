"""`top` on a terminal beside a router that works: it moves while one looks, fits, and leaves the terminal as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.e2e.test_commands import TODAY, sweep
from tests.support.router import COMMAND, Site, node

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_HOME = "\x1b[H"
_ENTER, _LEAVE = "\x1b[?1049h", "\x1b[?1049l"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_TOKEN = "a-token-of-a-test-long-enough"


class Terminal:
    """A command on a terminal whose size can be changed while it runs."""

    def __init__(self, arguments: list[str], directory: Path, columns: int, rows: int) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        env = {**os.environ, "TERM": "xterm-256color", "THE_TOKEN": _TOKEN}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            env.pop(name, None)
        self._process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=directory, env=env, stdin=slave, stdout=slave, stderr=slave, close_fds=True,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.raw = ""

    def resize(self, columns: int, rows: int) -> None:
        self._rows = rows
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def pictures(self) -> list[list[str]]:
        """The lines of every picture so far; the last one only where it is as high as the terminal: drawn whole."""
        parts = [_SEQUENCE.sub("", part) for part in self.raw.partition(_ENTER)[2].split(_HOME)[1:]]
        found = [[line.rstrip() for line in part.replace("\r\n", "\n").split("\n")] for part in parts]
        return found if found and len(found[-1]) == self._rows else found[:-1]

    def wait(self, until: Callable[[list[list[str]]], bool], what: str) -> None:
        deadline = time.monotonic() + 90
        while not until(self.pictures()):
            assert time.monotonic() < deadline, f"{what} does not come; it wrote: {self.raw[-3000:]}"
            assert self._read(), f"it ended before {what} came; it wrote: {self.raw[-3000:]}"

    def interrupt(self, number: int = signal.SIGINT) -> int:
        """Press Ctrl-C; the exit code."""
        self._process.send_signal(number)
        return self.end()

    def end(self) -> int:
        """Wait for its end; the exit code."""
        deadline = time.monotonic() + 60
        while self._read():
            assert time.monotonic() < deadline, "it does not end"
        return self._process.wait(30)

    def close(self) -> None:
        os.close(self._master)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def _read(self) -> bool:
        """Read what is there, for half a second at most; False where the command has ended."""
        if not select.select([self._master], [], [], 0.5)[0]:
            return self._process.poll() is None
        try:
            some = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.raw += some.decode(errors="replace")
        return bool(some)


@contextmanager
def terminal(site: Site, *arguments: str, columns: int = 120, rows: int = 30) -> Iterator[Terminal]:
    opened = Terminal(["--config", str(site.rules_directory), "top", *arguments], site.directory, columns, rows)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def archive() -> Iterator[SimulatedPacs]:
    """It sends slowly, and fails to send two instances of each study."""
    studies = [
        instance for number in range(4) for instance in make_study(seed=f"s{number}", study_date=TODAY, instances=20)
    ]
    behaviour = Behaviour(suboperation_delay_seconds=0.2, fail_instances=2)
    with SimulatedPacs("ARCHIVE", studies=studies, behaviour=behaviour) as pacs:
        yield pacs


@pytest.fixture
def site(tmp_path: Path, archive: SimulatedPacs, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("THE_TOKEN", _TOKEN)
    settings = {"token": {"env": "THE_TOKEN"}, "page": {"identifiers": True}}
    made = Site(tmp_path / "site", nodes={}, rules={}, router=settings)
    archive.set_destination("ROUTER", "127.0.0.1", made.dicom_port)
    made.configure(
        nodes={"archive": node("ARCHIVE", archive.port, limits={"associations": 1})},
        rules={"today": {**sweep("archive"), "move": {"to": ["local"], "retry": {"attempts": 1}}}},
    )
    return made


def test_it_moves_while_one_looks_and_leaves_the_terminal_as_it_was(site: Site, archive: SimulatedPacs) -> None:
    archive.behaviour = replace(archive.behaviour, suboperation_delay_seconds=1.0)  # however slowly the command starts
    with site.run(), terminal(site, "--every", "0.5") as screen:
        screen.wait(lambda pictures: _progress(pictures) >= 4, "progress")
        screen.wait(lambda pictures: any(" partial " in line for line in _last(pictures)), "a failure")
        assert screen.interrupt() == 0
    pictures = screen.pictures()
    text = "\n".join(line for picture in pictures for line in picture)
    assert f"As the service at 127.0.0.1:{site.http_port} says." in text
    assert re.search(r"archive +local +[1-3] +\d+ s +archive is busy: 1 of 1 associations in use\.", text)
    assert re.search(r" +\d+ +\w{12} +today +archive +local +━+·* +\d+/20 +2 +\d+ s", text), "how long it takes"
    assert re.search(r"today +complete \d+ s ago +4 +4", text)
    assert "1.2.826" not in text
    assert "Traceback" not in screen.raw
    assert all(len(picture) <= 30 and all(cell_len(line) <= 120 for line in picture) for picture in pictures)
    assert screen.raw.count(_ENTER) == screen.raw.count(_LEAVE) == 1
    assert screen.raw.rindex(_LEAVE) > screen.raw.rindex(_HOME)
    assert screen.raw.rindex(_SHOW) > screen.raw.rindex(_HIDE), "the cursor is back"


def _progress(pictures: list[list[str]]) -> int:
    """How many different counts of instances were seen."""
    return len({count for picture in pictures for line in picture for count in re.findall(r" (\d+)/20 ", line)})


def test_it_fits_a_terminal_that_changes_its_size(site: Site) -> None:
    with site.run(), terminal(site, "--every", "60", columns=100, rows=24) as screen:
        screen.wait(lambda pictures: bool(pictures), "the first picture")
        for columns, rows in ((40, 12), (200, 50)):
            screen.resize(columns, rows)
            screen.wait(lambda pictures, high=rows: len(_last(pictures)) == high, "a picture of that height")
            last = screen.pictures()[-1]
            assert all(cell_len(line) <= columns for line in last)
            assert max(cell_len(line) for line in last) > 20
        assert screen.interrupt(signal.SIGTERM) == 0
    assert screen.raw.count(_LEAVE) == 1


def test_it_goes_on_when_the_service_stops_and_says_so(site: Site) -> None:
    with site.run() as router, terminal(site, "--every", "0.5") as screen:
        screen.wait(lambda pictures: any("As the service" in line for line in _last(pictures)), "the service")
        router.stop()
        screen.wait(lambda pictures: any("as the ledger has it." in line for line in _last(pictures)), "the ledger")
        assert screen.interrupt() == 0


def _last(pictures: list[list[str]]) -> list[str]:
    return pictures[-1] if pictures else []


def test_once_it_prints_a_screen_and_ends_and_so_it_does_without_a_terminal(site: Site) -> None:
    with site.run():
        with terminal(site, "--once", columns=60, rows=12) as screen:
            assert screen.end() == 0
        lines = _SEQUENCE.sub("", screen.raw).replace("\r\n", "\n").splitlines()
        assert 3 < len(lines) < 12
        assert all(cell_len(line) <= 60 for line in lines)
        assert _ENTER not in screen.raw
        piped = site.call("top")
        assert piped.returncode == 0
        assert "\x1b" not in piped.stdout
        assert f"As the service at 127.0.0.1:{site.http_port} says." in piped.stdout
        assert piped.stderr == ""
        masked, shown = site.json("top"), site.json("top", "--identifiers")
    assert (masked["served"], masked["identifiers"], shown["identifiers"]) == (True, False, True)
    assert {one["study_instance_uid"] for one in masked["live"]} <= {None}
    assert {node["name"]: node["up"] for node in masked["nodes"]} == {"archive": True}
    assert masked["rules"][0]["next_at"]
    after = site.call("top", "--once")
    assert "No service runs: as the ledger has it." in after.stdout
    assert site.json("top")["served"] is False


def test_without_a_ledger_it_says_what_is_missing(tmp_path: Path) -> None:
    empty = Site(tmp_path / "site", nodes={"archive": node("A", 1)}, rules={})
    done = empty.call("top")
    assert done.returncode == 1
    assert re.fullmatch(r"dicom-router: There is no ledger at .*\n", done.stderr)
