"""The command line on a terminal: live progress that fits, ends cleanly and leaves the result."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest
from rich.cells import cell_len

from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.e2e.test_commands import TODAY, sweep
from tests.support.router import COMMAND, Site, node

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
_SECONDS = 200.0
"""Bounds a hang."""


class Screen:
    """What a command wrote to a terminal of a size."""

    def __init__(self, arguments: list[str], directory: Path, columns: int, rows: int, **environment: str) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        env = {**os.environ, "TERM": "xterm-256color", **environment}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            env.pop(name, None)
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=directory, env=env, stdin=slave, stdout=slave, stderr=slave, close_fds=True
        )
        os.close(slave)
        try:
            self.raw = _read(master, time.monotonic() + _SECONDS)
            self.code = process.wait(10)
        finally:
            os.close(master)
            if process.poll() is None:
                process.kill()
                process.wait()
        self.columns = columns

    @property
    def text(self) -> str:
        """All that was ever drawn, without its colours."""
        return _ESCAPE.sub("", self.raw).replace("\r", "\n")

    @property
    def left(self) -> list[str]:
        """The lines that stay: what was drawn after the last live picture was wiped away."""
        return _ESCAPE.sub("", self.raw.rpartition(_SHOW)[2]).replace("\r\n", "\n").splitlines()

    def fits(self) -> bool:
        return all(cell_len(line) <= self.columns for line in self.text.splitlines())


def _read(master: int, deadline: float) -> str:
    data = b""
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 0.5)[0]:
            continue
        try:
            some = os.read(master, 65536)
        except OSError:  # the other side is closed: the command has ended
            return data.decode()
        if not some:
            return data.decode()
        data += some
    raise AssertionError(f"the command did not end; it wrote: {data[-2000:].decode(errors='replace')}")


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 40)])
def test_apply_shows_sub_operations_while_it_moves(tmp_path: Path, columns: int, rows: int) -> None:
    site = Site(tmp_path / "site", nodes={}, rules={})
    behaviour = Behaviour(suboperation_delay_seconds=0.15, fail_instances=2)
    studies = [
        instance
        for number in range(3)
        for instance in make_study(seed=f"s{number}", study_date=TODAY, instances=15, description="CT [bold]")
    ]
    with SimulatedPacs("ARCHIVE", studies=studies, behaviour=behaviour) as archive:
        archive.set_destination("ROUTER", "127.0.0.1", site.dicom_port)
        rule = {**sweep("the-archive-of-the-main-building"), "move": {"to": ["local"], "retry": {"attempts": 1}}}
        site.configure(
            nodes={"the-archive-of-the-main-building": node("ARCHIVE", archive.port, limits={"associations": 2})},
            rules={"everything-of-yesterday-and-today": rule},
        )
        screen = Screen(["--config", str(site.rules_directory), "apply"], site.directory, columns, rows)
    assert screen.code == 1
    assert "Traceback" not in screen.text
    assert screen.fits()
    assert re.search(r"0 of 3 transfers ended, \d+ of 45 instances there", screen.text)
    counts = re.findall(r" moving +[━╸╺]+ +(\d+)/15 +(\d+)", screen.text)
    assert len({done for done, _ in counts}) >= 3, "it moves while one looks"
    assert {failed for _, failed in counts} >= {"2"}
    assert "and 1 waiting" in screen.text
    assert screen.raw.count(_HIDE) == screen.raw.count(_SHOW) > 0, "the cursor is back"
    table = [line for line in screen.left if re.search(r" …\w{7} +13/15 +partial", line)]
    assert len(table) == 3
    assert screen.left[-1] == "3 transfers: 3 partial."
    assert not any("moving" in line for line in screen.left), "the live picture is gone"


def test_the_demo_on_a_terminal_leaves_nothing_behind(tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    screen = Screen(["demo"], tmp_path, 80, 24, TMPDIR=str(place))
    assert screen.code == 0
    assert screen.fits()
    assert re.search(r"\d of 8 transfers ended, \d+ of 302 instances there", screen.text)
    assert any(line.startswith("Done. Of 310 instances the rule selected 151") for line in screen.left)
    assert "Traceback" not in screen.text
    assert list(place.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_the_demo_without_a_terminal(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "demo", "--format", "json"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert '"instances_in_store": 151' in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert re.search(
        r"^transfer \d+ chest-ct: archive -> local: complete, 48 of 48 instances\.", done.stderr, re.MULTILINE
    )
    assert list(tmp_path.iterdir()) == []


def test_an_error_on_a_terminal_breaks_at_words(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", nodes={"archive": node("A", 1)}, rules={})
    screen = Screen(
        ["--config", str(site.rules_directory), "query", "a-name-that-nobody-has", "PatientID=1"], tmp_path, 30, 24
    )
    assert screen.code == 2
    assert screen.fits()
    assert " ".join(screen.left).split() == (
        ["dicom-router:", "There", "is", "no", "node", "a-name-that-nobody-has;", "there", "are:", "archive"]
    )
