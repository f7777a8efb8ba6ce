"""Makes the pictures of the pages in docs/: a router at work between simulated PACS, seen by Chromium.

Run it as `.venv/bin/python -m scripts.screenshots` from the top of the repository.
"""

from __future__ import annotations

import json
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Browser
from pydicom.dataset import Dataset

from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.browser import Screen, chromium
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node

DOCS = Path(__file__).parent.parent / "docs"
TOKEN = "the-token-of-the-pictures"
BODY_PARTS = ("CHEST", "ABDOMEN", "HEAD", "KNEE")
WAIT = 90.0


def study(seed: str, modality: str, instances: int) -> list[Dataset]:
    """A study of January 2024."""
    part = BODY_PARTS[len(seed) % len(BODY_PARTS)]
    return make_study(seed=seed, modality=modality, instances=instances, description=f"{modality} {part}")


def rule(source: str, to: str, modality: str, description: str, **sweep: Any) -> dict[str, Any]:
    """A rule for a modality."""
    keys = {"StudyDate": "20240101..20240131", "ModalitiesInStudy": modality}
    return {
        "description": description,
        "owner": "PACS team",
        "sweep": {"source": source, "every": "15m", "keys": keys, **sweep},
        "move": {"to": [to], "retry": {"attempts": 2, "delay": "1s"}},
    }


class Scene:
    """A hospital at an interesting moment."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        reading, research = (stack.enter_context(SimulatedPacs(one)) for one in ("READING", "RESEARCH"))
        self.archive = stack.enter_context(
            SimulatedPacs(
                "ARCHIVE",
                destinations={one.ae_title: (one.host, one.port) for one in (reading, research)},
            )
        )
        self.xray = stack.enter_context(SimulatedPacs("XRAY", destinations={"READING": (reading.host, reading.port)}))
        (directory / "token").write_text(TOKEN)
        now = datetime.now().astimezone()
        opens = (now.hour + 3) % 24
        nodes = {
            "archive": node("ARCHIVE", self.archive.port, limits={"associations": 4}),
            "x-ray": node("XRAY", self.xray.port),
            "reading-room": node("READING", reading.port),
            "research": node("RESEARCH", research.port, windows=[{"use": "off-peak"}]),
            "old-archive": node("OLD", free_port()),
        }
        rules = {
            "ct-to-reading-room": rule("archive", "reading-room", "CT", "CT studies for reading."),
            "mr-to-research": rule("archive", "research", "MR", "MR studies for the trial, at night."),
            "x-ray-to-reading-room": rule("x-ray", "reading-room", "DX", "Radiographs for reading."),
            "migration": rule("old-archive", "local", "CT", "Old studies, until the archive is switched off."),
        }
        self.site = Site(directory, nodes=nodes, rules=rules, router={"token": {"file": str(directory / "token")}})
        window = {"windows": {"off-peak": {"open": [f"daily {opens:02}:00-{(opens + 2) % 24:02}:00"]}}}
        (self.site.rules_directory / "windows.yaml").write_text(yaml.safe_dump(window))
        self.router: RunningRouter = stack.enter_context(self.site.run())

    def transfers(self, state: str = "") -> list[dict[str, Any]]:
        """Those in a state, or all."""
        address = f"http://127.0.0.1:{self.site.http_port}/api/v1/transfers?limit=1000&state={state}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return list(json.load(answer)["transfers"])

    def say(self, path: str) -> None:
        """Have something done over the API."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.site.http_port}/api/v1/{path}",
            method="POST",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    def sweep(self, name: str) -> None:
        """Sweep, once the sweep before has ended."""

        def asked() -> bool:
            try:
                self.say(f"rules/{name}/sweep")
            except urllib.error.HTTPError as error:
                if error.code != 409:
                    raise
                return False
            return True

        wait_for(asked, f"{name} is swept", WAIT, interval=0.5)

    def wait(self, state: str, number: int) -> None:
        """Wait until so many transfers are in a state."""
        wait_for(lambda: len(self.transfers(state)) >= number, f"{number} {state}", WAIT, interval=0.5)

    def play(self) -> None:
        """Work that ended well, work that failed, work that waits, and work under way."""
        for number in range(7):
            self.archive.add(study(f"read-{'x' * number}", "CT", 6 + number))
        self.sweep("ct-to-reading-room")
        self.wait("complete", 7)
        self.xray.add([*study("one", "DX", 4), *study("three", "DX", 8)])
        self.xray.behaviour = Behaviour(refuse_move_status=0xA900)
        self.sweep("x-ray-to-reading-room")
        self.wait("failed", 2)
        self.xray.behaviour = Behaviour(fail_instances=2)
        self.say(f"transfers/{self.transfers('failed')[0]['id']}/retry")
        self.wait("partial", 1)
        for number in range(4):
            self.archive.add(study(f"trial-{'x' * number}", "MR", 30))
        self.sweep("mr-to-research")
        self.wait("queued", 4)
        self.archive.behaviour = replace(Behaviour(), suboperation_delay_seconds=0.12)
        for number in range(9):
            self.archive.add(study(f"new-{'x' * number}", "CT", 260 + 45 * number))
        self.sweep("ct-to-reading-room")
        self.wait("moving", 2)
        waiting = [one for one in self.transfers("queued") if one["rule"] == "ct-to-reading-room"]
        self.say(f"transfers/{waiting[0]['id']}/hold")
        self.wait("held", 1)
        time.sleep(8)  # until the bars have something to show, and say when they end


def take(
    browser: Browser,
    scene: Scene,
    name: str,
    path: str,
    do: Callable[[Screen], None],
    size: tuple[int, int],
    **settings: Any,
) -> None:
    """The top of a page, by somebody who has logged in."""
    width, height = size
    screen = Screen(browser, scene.site.http_port, viewport={"width": width, "height": height}, **settings)
    try:
        screen.log_in(TOKEN)
        screen.page.locator("#logout").wait_for()
        screen.go(path)
        do(screen)
        screen.page.mouse.move(0, 0)
        screen.page.screenshot(path=DOCS / name)
    finally:
        screen.close()


def live(screen: Screen) -> None:
    """Wait until the board is connected."""
    screen.page.locator("#connection.good").wait_for()
    screen.page.wait_for_timeout(1500)


def explain(screen: Screen) -> None:
    """Explain a study that waits for a window."""
    screen.page.get_by_label("Study Instance UID").fill(str(study("trial-", "MR", 30)[0].StudyInstanceUID))
    screen.page.locator("#explain").click()
    screen.page.get_by_text("What the sources say").wait_for()


def main() -> None:
    """Set the scene and take all pictures."""
    with ExitStack() as stack:
        scene = Scene(Path(stack.enter_context(tempfile.TemporaryDirectory())), stack)
        scene.play()
        browser = stack.enter_context(chromium())
        (partial,) = scene.transfers("partial")
        take(browser, scene, "status-page.png", "/", live, (1280, 1180))
        take(browser, scene, "status-page-dark.png", "/", live, (1280, 1180), color_scheme="dark")
        take(browser, scene, "status-page-phone.png", "/", live, (390, 1300))
        take(browser, scene, "transfer.png", f"/transfers/{partial['id']}", lambda _: None, (1280, 1240))
        take(browser, scene, "explain.png", "/explain", explain, (1280, 1180))


if __name__ == "__main__":
    main()
