"""Watching the directory: hints wake it, contents decide, and what is not still yet waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from router import config
from router.config.watching import Watcher
from router.domain.events import ConfigurationLoaded, Event
from tests.support.process import wait_for

SLOWLY = 3600.0
"""No look comes by itself while a test runs: what is noticed was a hint."""
TEXT = (
    "nodes: {{archive: {{ae_title: ARCHIVE, address: 10.0.0.5:104}}}}\n"
    "rules: {{chest: {{move: {{to: [local]}}, "
    "sweep: {{source: archive, every: {every}, keys: {{StudyDate: today}}}}}}}}\n"
)


class Bench:
    """A watched directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.events: list[Event] = []
        self.troubles: list[BaseException] = []
        if not any(directory.glob("*.yaml")):
            (directory / "a.yaml").write_text(TEXT.format(every="1m"))
        self.coordinator = config.Coordinator(directory, self.events.append)
        self.watcher: Watcher | None = None

    def watch(self, every: float = SLOWLY, still: float = 0.1) -> None:
        self.watcher = Watcher(
            self.directory,
            self.coordinator,
            lambda where, error: self.troubles.append(error),
            every=every,
            still=still,
        )
        self.watcher.start()

    def stop(self) -> None:
        if self.watcher is not None:
            self.watcher.stop()

    @property
    def every(self) -> float | None:
        return self.coordinator.current.rules["chest"].tiers[0].schedule.every

    @property
    def reloads(self) -> int:
        return sum(isinstance(event, ConfigurationLoaded) for event in self.events) - 1


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "rules")
    yield made
    made.stop()
    assert made.troubles == []


def save(path: Path, every: str) -> None:
    path.write_text(TEXT.format(every=every))


def test_what_an_editor_writes_is_taken_by_a_hint(bench: Bench) -> None:
    bench.watch()
    # Until the file system tells of changes, which nobody can see, it is written again.
    for number in range(100):
        save(bench.directory / "a.yaml", f"{100 + number}s")
        try:
            wait_for(lambda n=number: bench.every == 100 + n, "the edit to be taken", seconds=60)
            break
        except AssertionError:
            continue
    assert bench.every is not None
    assert bench.every >= 100

    # As vi does it: another file, renamed over the first, with its odds and ends beside it.
    (bench.directory / "4913").touch()
    (bench.directory / "4913").unlink()
    (bench.directory / "a.yaml").rename(bench.directory / "a.yaml~")
    save(bench.directory / ".a.yaml.swp", "9m")
    save(bench.directory / "a.yaml", "8m")
    wait_for(lambda: bench.every == 480, "the edit to be taken")


def test_a_look_finds_what_no_hint_tells(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watcher, "_hint_while_it_is_there", lambda self: None)
    bench.watch(every=0.2)
    save(bench.directory / "a.yaml", "3m")
    wait_for(lambda: bench.every == 180, "the look to find it")


def test_a_volume_whose_link_is_swapped_is_taken_whole(tmp_path: Path) -> None:
    """As Kubernetes brings a ConfigMap: each file is a link into `..data`, and `..data` is swapped."""
    rules = tmp_path / "rules"
    for name, every in (("..1", "1m"), ("..2", "2m")):
        (rules / name).mkdir(parents=True)
        save(rules / name / "a.yaml", every)
    (rules / "..data").symlink_to("..1")
    (rules / "a.yaml").symlink_to("..data/a.yaml")
    bench = Bench(rules)
    bench.watch(every=0.5)
    try:
        assert bench.every == 60
        (rules / "..new").symlink_to("..2")
        (rules / "..new").replace(rules / "..data")
        wait_for(lambda: bench.every == 120, "the swap to be noticed")
    finally:
        bench.stop()
    assert bench.reloads == 1


def test_a_directory_replaced_by_another_is_taken_and_watched_on(bench: Bench, tmp_path: Path) -> None:
    bench.watch(every=0.5)
    other = tmp_path / "other"
    other.mkdir()
    save(other / "a.yaml", "4m")
    bench.directory.rename(tmp_path / "before")
    wait_for(lambda: bench.reloads == 1, "its loss to be noticed")
    assert bench.every == 60, "what ran goes on"
    assert not bench.coordinator.standing.last.accepted
    other.rename(bench.directory)
    wait_for(lambda: bench.every == 240, "the other to be taken")
    save(bench.directory / "a.yaml", "5m")
    wait_for(lambda: bench.every == 300, "an edit in it to be taken")


def test_what_does_not_concern_the_configuration_loads_nothing(bench: Bench) -> None:
    bench.watch(every=0.1)
    for name in ("a.yaml~", ".a.yaml.swp", "4913", "#a.yaml#", "notes.txt", "a.yaml.bak"):
        save(bench.directory / name, "7m")
    (bench.directory / ".#a.yaml").symlink_to("nobody@nowhere")
    os.utime(bench.directory / "a.yaml", (0, 0))  # touched, or of a machine whose clock is wrong: the same contents
    save(bench.directory / "b.yaml", "1m")
    (bench.directory / "b.yaml").write_text("# nothing in it\n")
    wait_for(lambda: bench.reloads == 1, "the one file that counts to be taken")
    assert bench.every == 60


def test_a_bad_edit_is_told_once_however_often_it_is_looked_at(bench: Bench) -> None:
    looks = threading.Semaphore(0)
    changed = bench.coordinator.changed

    def counted() -> str:
        looks.release()
        return changed()

    bench.coordinator.changed = counted  # type: ignore[method-assign]
    bench.watch(every=0.1)
    (bench.directory / "a.yaml").write_text("rulez: {}")
    wait_for(lambda: bench.reloads == 1, "the bad edit to be refused")
    for _ in range(5):
        assert looks.acquire(timeout=30)
    assert bench.reloads == 1
    save(bench.directory / "a.yaml", "2m")
    wait_for(lambda: bench.every == 120, "the mended edit to be taken")


class Restless:
    """Contents as a test says, look by look."""

    def __init__(self, *seen: str) -> None:
        self.seen = list(seen)
        self.reloads = 0

    def changed(self) -> str:
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]

    def reload(self) -> None:
        self.reloads += 1


def looked(watched: Restless, restless: float = 60.0) -> bool:
    watcher = Watcher(Path(), watched, lambda *_: None, every=SLOWLY, still=0.001, restless=restless)
    return watcher.look()


def test_contents_that_still_change_wait_until_they_are_still() -> None:
    watched = Restless("a", "ab", "abc", "abc")
    assert looked(watched)
    assert (watched.reloads, watched.seen) == (1, ["abc"])


def test_contents_that_are_as_before_again_load_nothing() -> None:
    watched = Restless("half", "")
    assert not looked(watched)
    assert watched.reloads == 0


def test_contents_that_never_are_still_are_loaded_at_last() -> None:
    watched = Restless(*(str(number) for number in range(10_000)))
    assert looked(watched, restless=0.05)
    assert watched.reloads == 1


def test_what_goes_wrong_at_a_look_does_not_end_the_watching() -> None:
    class Broken(Restless):
        def changed(self) -> str:
            if self.seen == ["x"]:
                raise RuntimeError("broken")
            return super().changed()

    watched, troubles = Broken("x"), []
    watcher = Watcher(Path("/nowhere"), watched, lambda where, error: troubles.append(where), every=0.05, still=0.001)
    watcher.start()
    try:
        wait_for(lambda: len(troubles) > 1, "two looks to fail")
        watched.seen = ["y", "y"]
        wait_for(lambda: watched.reloads, "the next look to work")
    finally:
        watcher.stop()
    assert set(troubles) == {"watch"}
