"""Reloading: what the coordinator takes and refuses, what it says of it, and secrets."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import config
from router.config.coordinator import DIAGNOSTICS_TOLD
from router.config.diagnostics import Code
from router.config.secrets import read_secret
from router.domain.events import ConfigurationLoaded, Event
from router.domain.rule import RouterSettings, RuleSet, Secret
from router.errors import ConfigurationError

NODES = "nodes:\n  archive: {ae_title: ARCHIVE, address: 10.0.0.5:104}\n  ws: {ae_title: WS1, address: 10.0.0.9:104}\n"
RULE = "rules:\n  chest:\n    sweep: {source: archive, every: 5m, keys: {StudyDate: today}}\n    move: {to: [ws]}\n"
BAD = RULE.replace("archive", "archiv")


class Bench:
    def __init__(self, directory: Path, router: str = "") -> None:
        self.directory = directory
        self.events: list[Event] = []
        self.write(router)
        self.coordinator = config.Coordinator(directory, self.events.append)

    def write(self, router: str = "", rules: str = RULE) -> None:
        (self.directory / "a.yaml").write_text(router + NODES + rules)

    @property
    def told(self) -> list[ConfigurationLoaded]:
        return [event for event in self.events if isinstance(event, ConfigurationLoaded)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_reload_says_whether_it_was_taken_whether_anything_changed_and_what_was_found(bench: Bench) -> None:
    start = bench.coordinator.standing
    assert (start.rules, start.nodes, start.files) == (1, 2, (str(bench.directory / "a.yaml"),))
    assert (start.last.accepted, start.last.content_hash) == (True, start.content_hash)

    same = bench.coordinator.reload()
    assert (same.accepted, same.changed, same.diagnostics) == (True, False, ())
    assert bench.coordinator.standing.loaded_at == start.loaded_at

    bench.write(rules=RULE.replace("5m", "6m"))
    other = bench.coordinator.reload()
    assert (other.accepted, other.changed) == (True, True)
    assert bench.coordinator.standing.content_hash == other.content_hash != start.content_hash


def test_what_is_refused_leaves_the_running_set_and_is_shown_with_its_places(bench: Bench) -> None:
    running, before = bench.coordinator.current, bench.coordinator.standing
    bench.write(rules=BAD)
    refused = bench.coordinator.reload()
    assert (refused.accepted, refused.changed) == (False, False)
    assert [(one.code, one.line) for one in refused.diagnostics] == [(Code.UNKNOWN_NODE, 6)]
    assert bench.coordinator.current is running
    assert bench.coordinator.standing.content_hash == before.content_hash
    assert bench.coordinator.standing.last == refused


def test_who_asks_for_a_reload_is_told_what_is_wrong_line_by_line_up_to_a_bound(bench: Bench) -> None:
    bench.write(rules=BAD)
    for _ in range(3):
        bench.coordinator.reload()
    assert [len(event.diagnostics) for event in bench.told[1:]] == [1, 1, 1]
    assert "a.yaml:6:" in bench.told[1].diagnostics[0]

    many = "rules:\n" + "".join(f"  r{n}:{BAD.partition('chest:')[2]}" for n in range(DIAGNOSTICS_TOLD + 7))
    bench.write(rules=many)
    bench.coordinator.reload()
    assert len(bench.told[-1].diagnostics) == DIAGNOSTICS_TOLD + 1
    assert bench.told[-1].diagnostics[-1].startswith("and 7 more")
    assert len(bench.coordinator.standing.last.diagnostics) == DIAGNOSTICS_TOLD + 7


def test_a_file_that_was_missing_is_taken_up_though_the_configuration_is_the_same(bench: Bench, tmp_path: Path) -> None:
    token = tmp_path / "token"
    bench.write(rules=f"router:\n  token: {{file: {token}}}\n" + RULE)
    assert [one.code for one in bench.coordinator.reload().diagnostics] == [Code.SECRET]
    token.write_text("0123456789abcdef0123456789abcdef")
    assert bench.coordinator.reload().diagnostics == ()


def test_who_subscribes_late_is_told_of_what_came_since_the_start(bench: Bench) -> None:
    late: list[RuleSet] = []
    bench.coordinator.subscribe(late.append)
    assert late == []
    bench.write(rules=RULE.replace("chest", "thorax"))
    bench.coordinator.reload()
    later: list[RuleSet] = []
    bench.coordinator.subscribe(later.append)
    assert late == later == [bench.coordinator.current]


def test_what_was_loaded_already_is_not_loaded_twice(bench: Bench) -> None:
    loaded = config.load(bench.directory)
    bench.write(rules=BAD)
    coordinator = config.Coordinator(bench.directory, bench.events.append, loaded)
    assert coordinator.current is loaded.rule_set
    assert coordinator.changed()


def test_reloads_at_the_same_time_come_one_after_the_other(bench: Bench) -> None:
    swapped: list[RuleSet] = []
    bench.coordinator.subscribe(swapped.append)
    bench.write(rules=RULE.replace("5m", "7m"))
    threads = [threading.Thread(target=bench.coordinator.reload) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert swapped == [bench.coordinator.current], "one of them changed it, once"


# --- What needs a restart ---------------------------------------------------------------------------------------------


def test_what_needs_a_restart_is_named_until_it_is_taken_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "router: {http: 127.0.0.1:9104}\n")
    bench.write("router: {http: 127.0.0.1:9105, drain: 9s}\n")
    bench.coordinator.reload()
    assert bench.coordinator.standing.restart_needed == ("http", "drain")
    bench.write("router: {http: 127.0.0.1:9105, drain: 9s}\n", RULE.replace("5m", "6m"))
    bench.coordinator.reload()
    bench.write("router: {http: 127.0.0.1:9105, drain: 9s}\n", BAD)
    bench.coordinator.reload()
    assert bench.coordinator.standing.restart_needed == ("http", "drain"), "another reload does not lose it"
    assert [event.restart_needed for event in bench.told] == [(), ("http", "drain"), (), ()], "told once"
    bench.write("router: {http: 127.0.0.1:9104}\n")
    bench.coordinator.reload()
    assert bench.coordinator.standing.restart_needed == ()
    assert bench.coordinator.settings.http_port == 9104


@given(st.sets(st.sampled_from(["listen_port", "listen_host", "http_port", "receivers", "watch", "drain"])))
def test_keys_that_need_a_restart_are_named_as_they_are_written(changed: set[str]) -> None:
    values = {"listen_port": 1, "listen_host": "h", "http_port": 2, "receivers": 3, "watch": False, "drain": 1.5}
    wanted = RouterSettings(**{name: values[name] for name in changed})  # type: ignore[arg-type]
    named = RouterSettings().restart_needed(wanted)
    assert sorted(named) == sorted({name.removesuffix("_port").removesuffix("_host") for name in changed})


# --- Bad places -------------------------------------------------------------------------------------------------------


def test_a_directory_that_is_gone_is_refused_and_taken_when_it_is_back(bench: Bench) -> None:
    running = bench.coordinator.current
    moved = bench.directory.with_name("moved")
    bench.directory.rename(moved)
    assert [one.code for one in bench.coordinator.reload().diagnostics] == [Code.UNREADABLE]
    moved.rename(bench.directory)
    assert bench.coordinator.reload().accepted
    assert bench.coordinator.current is running


def test_a_file_half_written_too_many_files_and_a_pipe_are_refused(bench: Bench) -> None:
    whole = (bench.directory / "a.yaml").read_text()
    (bench.directory / "a.yaml").write_text(whole[: whole.index("every")])
    assert not bench.coordinator.reload().accepted
    (bench.directory / "a.yaml").write_text(whole)

    os.mkfifo(bench.directory / "pipe.yaml")
    (refusal,) = bench.coordinator.reload().diagnostics
    assert "ordinary file" in refusal.message
    (bench.directory / "pipe.yaml").unlink()

    for number in range(2000):
        (bench.directory / f"x{number}.yaml").touch()
    (refusal,) = bench.coordinator.reload().diagnostics
    assert "more than 2000 files" in refusal.message
    for path in bench.directory.glob("x*.yaml"):
        path.unlink()
    assert bench.coordinator.reload().accepted
    assert len(bench.told) == 5


def test_a_link_that_leads_nowhere_is_refused(bench: Bench) -> None:
    (bench.directory / "b.yaml").symlink_to("gone")
    assert [one.code for one in bench.coordinator.reload().diagnostics] == [Code.UNREADABLE]


def test_an_edit_in_several_files_is_taken_whole_or_not_at_all(bench: Bench, tmp_path: Path) -> None:
    (bench.directory / "b.yaml").write_text("rules:\n  more:" + BAD.partition("chest:")[2])
    bench.write(rules=RULE.replace("5m", "9m"))
    assert not bench.coordinator.reload().accepted
    tier = bench.coordinator.current.rules["chest"].tiers[0]
    assert tier.schedule.every == 300.0
    shutil.rmtree(bench.directory)


# --- Secrets ----------------------------------------------------------------------------------------------------------

TOKEN = "0123456789abcdef0123456789abcdef"


def test_the_token_is_read_anew_and_what_is_not_to_be_had_is_an_error(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text(f"{TOKEN}\n")
    bench = Bench(tmp_path, "router: {token: {file: token}}\n")
    assert bench.coordinator.token() == TOKEN
    secret.write_text("another0123456789")
    assert bench.coordinator.token() == "another0123456789"
    secret.unlink()
    with pytest.raises(ConfigurationError, match=r"token cannot be read \(No such file or directory\)"):
        bench.coordinator.token()


def test_without_a_token_there_is_none(bench: Bench) -> None:
    assert bench.coordinator.token() is None


@pytest.mark.parametrize("contents", [b"", b" \n", b"two words of it, long", b"\xff" * 20, b"x" * 5000, b"a\nb" * 9])
def test_a_file_without_a_secret_is_an_error_that_does_not_show_it(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "token").write_bytes(contents)
    with pytest.raises(ConfigurationError) as told:
        read_secret(Secret(file=str(tmp_path / "token")))
    assert "holds no secret" in str(told.value)
    assert "words" not in str(told.value)


def test_a_secret_of_the_environment_is_read_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_TOKEN", TOKEN)
    assert read_secret(Secret(env="ROUTER_TOKEN")) == TOKEN
    monkeypatch.delenv("ROUTER_TOKEN")
    with pytest.raises(ConfigurationError, match="ROUTER_TOKEN is not set"):
        read_secret(Secret(env="ROUTER_TOKEN"))


def test_a_token_in_plain_text_is_refused_without_showing_it(bench: Bench) -> None:
    bench.write(f"router: {{token: {TOKEN}}}\n")
    (refusal,) = bench.coordinator.reload().diagnostics
    assert (refusal.code, refusal.line) == (Code.PLAIN_SECRET, 1)
    assert TOKEN not in str(refusal)
