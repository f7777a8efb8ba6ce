"""Reloading a running service: by itself, by signal, over HTTP; a thousand rules under load; what is under way."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from router import config
from router.domain.sweep import SweepRecord, SweepState
from router.domain.transfer import State
from router.ledger.ledger import SqlLedger
from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node

TOKEN = "0123456789abcdef0123456789abcdef"
YEARLY = {"cron": "0 0 1 1 *", "keys": {"StudyDate": "today"}}


def post(port: int, **headers: str) -> tuple[int, dict[str, Any]]:
    """Ask for a reload: status, and what was answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/-/reload", headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def standing(router: RunningRouter) -> dict[str, Any]:
    """How the service says that things stand with its configuration."""
    return dict(json.loads(router.get("/api/v1/configuration"))["configuration"])


def settled(router: RunningRouter, hashed: str) -> bool:
    """Whether another configuration than that one runs."""
    return bool(standing(router)["hash"] != hashed)


# --- One rule ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path, nodes={"archive": node("ARCHIVE", free_port())}, rules={})
    write(made, "1m")
    return made


def write(site: Site, every: str, **changes: Any) -> None:
    rule = {"sweep": {"source": "archive", "every": every, "keys": {"StudyDate": "today"}}, "move": {"to": ["local"]}}
    site.configure(nodes={"archive": node("ARCHIVE", free_port())}, rules={"r": rule | changes})


def test_an_edit_is_taken_by_itself_and_a_bad_one_is_shown_and_changes_nothing(site: Site) -> None:
    with site.run() as router:
        first = standing(router)["hash"]
        write(site, "2m")
        wait_for(lambda: settled(router, first), "the edit to be taken")
        second = standing(router)["hash"]

        write(site, "5 minutes")
        wait_for(lambda: not standing(router)["last_reload"]["reloaded"], "the bad edit to be refused")
        assert standing(router)["hash"] == second
        (found,) = standing(router)["last_reload"]["diagnostics"]
        assert (found["code"], found["severity"]) == ("DR014", "error")
        assert "dicom_router_config_last_reload_successful 0.0" in router.metrics()
        assert "refused" in router.get("/")
        page = router.get("/configuration")
        for shown in ("refused", f"site.yaml:{found['line']}:{found['column']}", "DR014"):
            assert shown in page
        status, answer = post(site.http_port)
        assert (status, answer["reloaded"], answer["hash"], answer["diagnostics"]) == (422, False, second, [found])
        assert router.log.count("configuration rejected    ") == 2, "a line for the diagnostic at each attempt"

        write(site, "3m")
        wait_for(lambda: standing(router)["last_reload"]["reloaded"], "the mended edit to be taken")
        assert standing(router)["hash"] not in (first, second)
        assert "dicom_router_config_last_reload_successful 1.0" in router.metrics()
        assert router.stop() == 0
    assert "Traceback" not in router.log


def test_without_watching_it_takes_a_signal_or_a_request_with_the_token(site: Site) -> None:
    secret = site.directory / "token"
    secret.write_text(TOKEN)
    site.settings |= {"watch": False, "token": {"file": str(secret)}}
    write(site, "1m")
    with site.run() as router:
        first = standing(router)["hash"]
        write(site, "2m")
        assert post(site.http_port)[0] == 403
        assert standing(router)["hash"] == first
        status, answer = post(site.http_port, Authorization=f"Bearer {TOKEN}")
        assert (status, answer["reloaded"], answer["changed"]) == (200, True, True)
        secret.write_text(TOKEN[::-1])
        assert post(site.http_port, Authorization=f"Bearer {TOKEN}")[0] == 403
        assert post(site.http_port, Authorization=f"Bearer {TOKEN[::-1]}")[0] == 200
        write(site, "3m")
        router.send_signal(signal.SIGHUP)
        wait_for(lambda: settled(router, answer["hash"]), "the signal to be heeded")
        assert TOKEN not in router.log


def test_what_needs_a_restart_is_said_until_the_restart(site: Site) -> None:
    site.settings["drain"] = "30s"
    write(site, "1m")
    with site.run() as router:
        site.settings["drain"] = "5s"
        for every in ("2m", "3m"):
            before = standing(router)["hash"]
            write(site, every)
            wait_for(lambda hashed=before: settled(router, hashed), "the edit to be taken")
            assert standing(router)["restart_needed"] == ["drain"]
            assert "router.drain" in router.get("/")
        assert router.log.count("take effect after a restart") == 1
    with site.run() as router:
        assert standing(router)["restart_needed"] == []


# --- Under way --------------------------------------------------------------------------------------------------------


class Ward:
    """An archive with studies of today, a workstation that is simulated too, and a router between them."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.site = Site(directory, nodes={}, rules={})
        self.archive = stack.enter_context(SimulatedPacs("ARCHIVE"))
        self.archive.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        self.nodes = {"archive": node("ARCHIVE", self.archive.port)}

    def configure(self, **rules: Any) -> None:
        self.site.configure(nodes=self.nodes, rules=rules)

    def rule(self, **changes: Any) -> dict[str, Any]:
        sweep = {"source": "archive", "every": "1s", "keys": {"StudyDate": "today-1d..today"}}
        return {"sweep": sweep | changes.pop("sweep", {}), "move": {"to": ["local"]}, **changes}

    def add(self, *seeds: str, instances: int = 2) -> None:
        for seed in seeds:
            self.archive.add(make_study(seed=seed, study_date=date.today(), instances=instances))


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        yield Ward(tmp_path / "site", stack)


def test_a_transfer_that_moves_while_its_rule_and_source_are_removed_ends_as_it_began(ward: Ward) -> None:
    ward.archive.behaviour = Behaviour(suboperation_delay_seconds=0.5, association_per_suboperation=True)
    ward.add("a", instances=8)
    ward.configure(all=ward.rule())
    with ward.site.run() as router, SqlLedger.open(ward.site.settings["ledger"], read_only=True) as ledger:
        wait_for(lambda: [t.state for t in ledger.transfers()] == [State.MOVING], "the move to begin")
        before = standing(router)["hash"]
        ward.nodes = {"another": node("ANOTHER", free_port())}
        ward.configure(new={"sweep": YEARLY | {"source": "another"}, "move": {"to": ["local"]}})
        wait_for(lambda: settled(router, before), "the edit to be taken")
        wait_for(lambda: ledger.transfers(states=[State.COMPLETE]), "the transfer to end")
        (transfer,) = ledger.transfers()
        assert (transfer.completed, transfer.attempts) == (8, 1)
        assert router.stop() == 0
    assert len(ward.archive.record.of("move")) == 1


def test_what_a_removed_rule_held_back_is_moved(ward: Ward) -> None:
    ward.add("a", "b", "c")
    ward.configure(all=ward.rule(sweep={"every": "1h"}, limits={"studies_per_sweep": 1}))
    with ward.site.run() as router, SqlLedger.open(ward.site.settings["ledger"], read_only=True) as ledger:
        wait_for(lambda: len(ledger.transfers(states=[State.HELD])) == 2, "the limit to hold two")
        ward.configure(other={"sweep": YEARLY | {"source": "archive"}, "move": {"to": ["local"]}})
        wait_for(lambda: len(ledger.transfers(states=[State.COMPLETE])) == 3, "all to be moved", seconds=90)
        assert "dicom_router_holds_released_total 2.0" in router.metrics()
    assert "the transfers that it held back go on" in router.log


# --- A thousand rules -------------------------------------------------------------------------------------------------

FILES, IN_A_FILE, SOURCES = 50, 20, 4
EVERY = 30.0
"""The first rule of every second file is due every so many seconds: 25 in all, which leaves a slow machine room."""


class Hospital:
    """A thousand rules in fifty files, over a few archives."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.archives = [stack.enter_context(SimulatedPacs(f"ARCHIVE{n}")) for n in range(SOURCES)]
        nodes = {f"archive{n}": node(f"ARCHIVE{n}", pacs.port) for n, pacs in enumerate(self.archives)}
        for number, pacs in enumerate(self.archives):
            pacs.add(make_study(seed=f"s{number}", study_date=date.today(), instances=1))
        self.site = Site(directory, nodes=nodes, rules={})
        self.rules = {number: self.file(number) for number in range(FILES)}
        for number in range(FILES):
            self.save(number)

    def file(self, number: int) -> dict[str, Any]:
        names = [f"r{number}-{index}" for index in range(IN_A_FILE)]
        return {name: self.rule(number + index, index == 0 and number % 2 == 1) for index, name in enumerate(names)}

    def rule(self, number: int, short: bool, description: str = "") -> dict[str, Any]:
        when = {"every": f"{EVERY:g}s"} if short else {"cron": f"{number % 60} 3 1 1 *"}
        return {
            "description": description,
            "sweep": {"source": f"archive{number // 2 % SOURCES}", **when, "keys": {"StudyDate": "today"}},
            "where": {"StudyDescription": f"nothing has this {number}"},
            "move": {"to": ["local"]},
        }

    def save(self, number: int, *, remark: str = "", text: str = "") -> None:
        contents = text or yaml.safe_dump({"rules": self.rules[number]}, sort_keys=False)
        (self.site.rules_directory / f"f{number:02}.yaml").write_text(f"# {remark}\n{contents}")

    @property
    def short(self) -> set[str]:
        return {name for rules in self.rules.values() for name, rule in rules.items() if "every" in rule["sweep"]}


def taken(router: RunningRouter, before: str) -> str:
    """Wait until another configuration runs than before; its hash."""
    wait_for(lambda: settled(router, before), "the edit to be taken", seconds=60, interval=0.2)
    return str(standing(router)["hash"])


def missed(router: RunningRouter, rules: set[str]) -> dict[str, float]:
    """How many due times brought no sweep, by rule."""
    series = re.findall(r'^dicom_router_sweeps_missed_total{rule="([^"]+)",.*} (\S+)$', router.metrics(), re.MULTILINE)
    found = {rule: float(count) for rule, count in series if rule in rules}
    assert found.keys() == rules
    return found


def in_rhythm(ledger: SqlLedger, rules: set[str]) -> bool:
    """Whether each rule has swept twice at least, and none is open."""
    swept = Counter(sweep.due.rule for sweep in ledger.sweeps(range(1, 1_000)))
    return all(swept[name] >= 2 for name in rules) and not ledger.open_sweeps()


def sweeps_by_rule(site: Site) -> dict[str, list[SweepRecord]]:
    found: dict[str, list[SweepRecord]] = defaultdict(list)
    with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
        for start in range(1, 20_000, 1_000):
            for sweep in ledger.sweeps(range(start, start + 1_000)):
                found[sweep.due.rule].append(sweep)
    return found


def test_a_thousand_rules_are_edited_again_and_again_and_no_sweep_is_missed_or_doubled(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        hospital = Hospital(tmp_path, stack)
        unchanged = hospital.short - {"r9-0"}
        router = stack.enter_context(hospital.site.run())
        ledger = stack.enter_context(SqlLedger.open(hospital.site.settings["ledger"], read_only=True))
        # All begin at once when it starts, whenever they are due next: what is due in that moment is missed.
        wait_for(lambda: in_rhythm(ledger, hospital.short), "each rule to have swept at a due time", seconds=120)
        before = missed(router, unchanged)
        running = standing(router)["hash"]
        assert standing(router)["rules"] == FILES * IN_A_FILE

        hospital.save(1, remark="touched")  # by itself
        running = taken(router, running)

        for name in hospital.rules[2]:  # other words, the same schedules
            hospital.rules[2][name]["description"] = "edited"
        hospital.save(2)
        with contextlib.ExitStack() as asking:  # by everybody at once
            for _ in range(3):
                thread = threading.Thread(target=post, args=(hospital.site.http_port,))
                thread.start()
                asking.callback(thread.join, 60)
            router.send_signal(signal.SIGHUP)
            running = taken(router, running)

        hospital.save(3, text="rules: {half: {sweep: {sour")  # half written, then whole again
        status, refused = post(hospital.site.http_port)
        assert (status, refused["hash"]) == (422, running)
        assert "dicom_router_config_last_reload_successful 0.0" in router.metrics()

        del hospital.rules[9]["r9-0"]
        hospital.rules[3]["new"] = hospital.rule(0, short=True)
        hospital.save(3)
        hospital.save(9)
        running = taken(router, running)
        changed_at = datetime.now(UTC)

        for number in range(2):  # as fast as it can be asked for
            hospital.save(20 + number, remark=f"again {number}")
            status, done = post(hospital.site.http_port)
            assert (status, done["reloaded"]) == (200, True)

        pause = EVERY + 10 - (datetime.now(UTC) - changed_at).total_seconds()
        time.sleep(max(0.0, pause))  # the new rule has had its time, the removed one would have
        assert missed(router, unchanged) == before
        stopped_at = datetime.now(UTC)
        assert router.stop() == 0

    assert "Traceback" not in router.log
    found = sweeps_by_rule(hospital.site)
    assert set(found) == unchanged | {"r9-0", "new"}, "those by the calendar are not due"
    rule_set = config.load(hospital.site.rules_directory).rule_set
    assert rule_set is not None
    period = timedelta(seconds=EVERY)
    for name in sorted(unchanged):
        due = sorted(sweep.due.due_at for sweep in found[name])
        schedule = rule_set.rules[name].tiers[0].schedule
        # The ledger has whole seconds, and the first sweep is that of the start.
        times = [(moment + timedelta(seconds=0.999)).timestamp() - schedule.phase for moment in due[1:]]
        numbers = [int(one // EVERY) for one in times]
        assert len(set(numbers)) == len(numbers), f"{name} swept twice for one due time: {due}"
        left_out = numbers[-1] - numbers[0] + 1 - len(numbers) if numbers else 0
        assert left_out <= before[name], f"{name} has a gap: {due}"
        assert stopped_at - due[-1] < period + timedelta(seconds=10), f"{name} went on to the end"
    ended = [sweep for sweeps in found.values() for sweep in sweeps if sweep.state is not SweepState.DUE]
    assert {sweep.state for sweep in ended if sweep.due.rule != "r9-0"} <= {SweepState.COMPLETE, SweepState.RUNNING}
    assert max(sweep.due.due_at for sweep in found["r9-0"]) <= changed_at
    assert len(found["new"]) >= 2
