"""Loading: literal values, defaults, merging, the model that comes out, and reloading."""

from __future__ import annotations

import os
import shutil
import time
from datetime import UTC, date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import config
from router.config.compiler import Sources, compile_sources
from router.config.diagnostics import Code, as_text
from router.config.values import ae_title_problem, machine_zone, parse_address, parse_percentage, parse_size
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, InformationModel, QueryRetrieveLevel
from router.domain.events import ConfigurationLoaded, Event
from router.domain.rule import BreakerSettings, NodeLimits, RouterSettings, RuleSet, WindowUse
from router.domain.window import Window, parse_span
from router.errors import ConfigurationError

NOW = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)
EVALUATION = Evaluation(NOW, ZoneInfo("UTC"))

NODES = """
nodes:
  archive: {ae_title: ARCHIVE, address: 10.0.0.5:104, timezone: Europe/Berlin}
  workstation: {ae_title: WS1, address: "[2001:db8::9]:104"}
"""
RULE = """
rules:
  chest:
    sweep: {source: archive, every: 5m, keys: {StudyDate: today}}
    move: {to: [workstation]}
"""


IN_PIECES = {Code.UNUSED_NODE, Code.HIDDEN_RULE}
"""What is said of configurations that are pieces: nodes no rule names, rules that all do the same."""


def compiled(*files: str) -> RuleSet:
    sources = Sources(tuple((f"{number}.yaml", text.encode()) for number, text in enumerate(files)), ())
    loaded = compile_sources(sources, NOW)
    assert loaded.rule_set is not None, as_text(loaded.diagnostics)
    assert {one.code for one in loaded.diagnostics} <= IN_PIECES, as_text(loaded.diagnostics)
    return loaded.rule_set


def test_everything_that_can_be_said_arrives_in_the_model() -> None:
    rules = compiled("""
router:
  ae_title: MOVER
  listen: 0.0.0.0:104
  store: /var/store
  ledger: sqlite:////var/ledger.db
  http: "[::]:80"
  durability: rename
  minimum_free: 2.5 GiB
  maximum_associations: 7
  drain: 2m
nodes:
  archive:
    ae_title: ARCHIVE
    address: pacs.example.org:104
    timezone: Europe/Berlin
    sends_as: [ARCHIVE, ARCHIVE_OUT]
    root: patient
    limits: {associations: 3}
    find: {inactivity: 1m, total: 5m, max_results: 500, expected: image}
    move: {inactivity: 1h, total: 3h, nearline_inactivity: 2h, max_uids: 10, probe: 5m}
    timeouts: {connect: 3s, negotiation: 4s}
  workstation: {ae_title: WS1, address: 10.0.0.9:104}
rules:
  chest:
    description: Chest
    owner: me
    enabled: true
    priority: urgent
    sweep:
      source: archive
      level: SERIES
      tiers: [{every: 10m, lookback: 2h}, {cron: 0 2 * * *, lookback: 7d}]
      timezone: UTC
      keys: {Modality: [CT, MR], PatientSex: }
    where: {StudyDescription: {matches: chest}}
    move:
      to: [workstation, local]
      level: SERIES
      verify: find
      skip_present: false
      retry: {attempts: 2, delay: 5s, maximum_delay: 1m}
""")
    router, archive, rule = rules.router, rules.nodes["archive"], rules.rules["chest"]
    assert (router.ae_title, router.listen_host, router.listen_port) == ("MOVER", "0.0.0.0", 104)
    assert (router.http_host, router.http_port, router.store) == ("::", 80, "/var/store")
    assert (router.ledger, router.durability, router.minimum_free) == (
        "sqlite:////var/ledger.db", "rename", 2.5 * 2**30)  # fmt: skip
    assert (router.maximum_associations, router.drain) == (7, 120)
    assert (archive.host, archive.port, archive.timezone) == ("pacs.example.org", 104, "Europe/Berlin")
    assert archive.calling_ae_titles == ("ARCHIVE", "ARCHIVE_OUT")
    assert archive.root is InformationModel.PATIENT_ROOT
    assert (archive.limits.associations, archive.find.max_results, archive.move.max_uids) == (3, 500, 10)
    assert (archive.find.inactivity, archive.find.total) == (60, 300)
    assert archive.find.expected == "image"
    assert (archive.move.inactivity, archive.move.total, archive.move.nearline_inactivity) == (3600, 10800, 7200)
    assert archive.move.probe == 300
    assert (archive.timeouts.connect, archive.timeouts.negotiation) == (3, 4)
    assert rules.nodes["workstation"].timezone == machine_zone()
    assert (rule.name, rule.description, rule.owner, rule.enabled, rule.priority) == (
        "chest", "Chest", "me", True, "urgent")  # fmt: skip
    assert (rule.sweep.source, rule.sweep.level) == ("archive", QueryRetrieveLevel.SERIES)
    assert [tier.lookback for tier in rule.sweep.tiers] == [7200, 604800]
    assert rule.sweep.tiers[0].schedule.every == 600
    assert rule.sweep.tiers[1].schedule.text == "cron 0 2 * * * (UTC)"
    assert [(key.name, key.wire(EVALUATION)) for key in rule.sweep.keys] == [
        ("Modality", (("CT",), ("MR",))), ("PatientSex", ())]  # fmt: skip
    assert rule.where.holds(Identifier.of(StudyDescription="my chest"), EVALUATION)
    assert (rule.move.to, rule.move.level, rule.move.verify, rule.move.skip_present) == (
        ("workstation", "local"), QueryRetrieveLevel.SERIES, "find", False)  # fmt: skip
    assert (rule.move.retry.attempts, rule.move.retry.delay, rule.move.retry.maximum_delay) == (2, 5, 60)


def test_what_is_not_said_has_its_default() -> None:
    rules = compiled(NODES, RULE)
    assert rules.router == RouterSettings()
    rule = rules.rules["chest"]
    assert (rule.enabled, rule.priority, rule.move.verify, rule.move.skip_present) == (True, "normal", "auto", True)
    assert rule.sweep.level is QueryRetrieveLevel.STUDY
    assert rule.where.holds(Identifier(), EVALUATION)


@pytest.mark.parametrize(
    ("said", "timeout"),
    [
        ("", None),
        ("commitment: false", None),
        ("commitment: true", 6 * 3600),
        ("commitment: {}", 6 * 3600),
        ("commitment: {timeout: 2d}", 2 * 86400),
    ],
)
def test_a_node_may_commit_itself(said: str, timeout: float | None) -> None:
    nodes = f"nodes:\n  archive:\n    ae_title: ARCHIVE\n    address: a:104\n    sends_as: [OUT]\n    {said}\n"
    archive = compiled(nodes, RULE.replace("workstation", "local")).nodes["archive"]
    assert (archive.commitment.timeout if archive.commitment else None) == timeout
    # It stores under the names it says, but reports under its own.
    assert archive.calling_ae_titles == (("OUT",) if timeout is None else ("OUT", "ARCHIVE"))


@pytest.mark.parametrize(("said", "limit"), [("auto", None), ("none", 0), ("250", 250)])
def test_how_an_archive_cuts_its_answers_and_how_far_a_sweep_catches_up(said: str, limit: int | None) -> None:
    find = f"{{max_results: {said}, max_queries: 200}}"
    rules = compiled(f"""
nodes: {{archive: {{ae_title: A, address: h:104, find: {find}}}, spare: {{ae_title: B, address: h:105}}}}
rules:
  r: {{sweep: {{source: archive, every: 1h, catch_up: 3d, keys: {{StudyDate: today}}}}, move: {{to: [local]}}}}
  s: {{sweep: {{source: archive, every: 1h, catch_up: 0s, keys: {{StudyDate: today}}}}, move: {{to: [local]}}}}
  t: {{sweep: {{source: archive, every: 1h, keys: {{StudyDate: today}}}}, move: {{to: [local]}}}}
""")
    assert (rules.nodes["archive"].find.max_results, rules.nodes["archive"].find.max_queries) == (limit, 200)
    assert (rules.nodes["spare"].find.max_results, rules.nodes["spare"].find.max_queries) == (None, 1000)
    assert [rules.rules[name].sweep.catch_up for name in "rst"] == [3 * 86400.0, 0.0, 7 * 86400.0]


def test_a_rule_may_take_nothing_but_commitment() -> None:
    nodes = NODES.replace('9]:104"}', '9]:104", commitment: true}')
    rules = compiled(nodes, RULE.replace("[workstation]", "[workstation, local], verify: commitment"))
    assert rules.rules["chest"].move.verify == "commitment"


def test_windows_arrive_in_the_model_whatever_file_they_stand_in() -> None:
    rules = compiled(
        """
windows:
  night:
    description: Nobody reads
    timezone: America/New_York
    open: [mon 19:00-07:00, mon-sun 20:00-21:00]
    except: [2026-12-25, 2026-12-24]
""",
        """
defaults: {nodes: {windows: [{use: here}]}}
windows: {here: {open: [daily 01:00-02:00]}}
nodes:
  archive:
    ae_title: ARCHIVE
    address: 10.0.0.5:104
    windows:
      - {use: night, associations: 6, queries_per_minute: 60, moves_per_hour: 400, duty: 12.5%, incoming: 2}
      - {always: true, associations: 1}
  workstation: {ae_title: WS1, address: 10.0.0.9:104}
""",
        RULE,
    )
    assert rules.windows == {
        "night": Window.of(
            "night",
            "America/New_York",
            [*parse_span("mon 19:00-07:00"), *parse_span("daily 20:00-21:00")],
            [(date(2026, 12, 24), date(2026, 12, 25))],
            "Nobody reads",
        ),
        "here": Window.of("here", machine_zone(), parse_span("daily 01:00-02:00")),
    }
    assert rules.nodes["archive"].windows == (
        WindowUse(window="night", associations=6, queries_per_minute=60, moves_per_hour=400, duty=0.125, incoming=2),
        WindowUse(associations=1),
    )
    assert rules.nodes["workstation"].windows == (WindowUse(window="here"),)


def test_limits_and_breaker_of_a_node_arrive_in_the_model() -> None:
    rules = compiled("""
defaults: {nodes: {breaker: {failures: 3}}}
nodes:
  archive:
    ae_title: A
    address: h:104
    limits: {associations: 4, queries_per_minute: 60, moves_per_hour: 400, duty: 12.5%, incoming: 2}
    breaker: {failures: 7, pause: 1m, maximum_pause: 1h}
  spare: {ae_title: B, address: h:105}
rules:
  r: {sweep: {source: archive, every: 1h, keys: {StudyDate: today}}, move: {to: [local]}}
""")
    assert rules.nodes["archive"].limits == NodeLimits(
        associations=4, queries_per_minute=60, moves_per_hour=400, duty=0.125, incoming=2
    )
    assert rules.nodes["archive"].breaker == BreakerSettings(failures=7, pause=60.0, maximum_pause=3600.0)
    assert rules.nodes["spare"].limits == NodeLimits()
    assert rules.nodes["spare"].breaker == BreakerSettings(failures=3)


@pytest.mark.parametrize(
    ("text", "share"), [("50%", 0.5), ("100 %", 1.0), ("0.5%", 0.005), ("0%", None), ("101%", None), ("0.5", None)]
)
def test_percentages(text: str, share: float | None) -> None:
    assert parse_percentage(text) == share


def test_rules_that_ask_one_source_equally_often_fall_due_together_and_sources_apart() -> None:
    def phase(rules: RuleSet, rule: str) -> float:
        return rules.rules[rule].sweep.tiers[0].schedule.phase

    sweep = "sweep: {{source: {}, {}, keys: {{StudyDate: today}}}}, move: {{to: [local]}}"
    made = compiled(
        NODES,
        "rules:\n"
        f"  a: {{{sweep.format('archive', 'every: 5m')}}}\n"
        f"  b: {{{sweep.format('archive', 'tiers: [{every: 300s}]')}}}\n"
        f"  c: {{{sweep.format('archive', 'every: 10m')}}}\n"
        f"  d: {{{sweep.format('workstation', 'every: 5m')}}}\n",
    )
    assert phase(made, "a") == phase(made, "b")
    assert len({phase(made, name) for name in "acd"}) == 3


def test_cron_is_read_in_the_zone_of_the_source() -> None:
    rules = compiled(NODES, RULE.replace("every: 5m", "cron: 0 2 * * *"))
    assert rules.rules["chest"].sweep.tiers[0].schedule.timezone == "Europe/Berlin"


def test_defaults_are_merged_below_what_nodes_and_rules_say() -> None:
    rules = compiled(
        NODES,
        RULE,
        """
defaults:
  nodes: {timezone: America/New_York, find: {inactivity: 9s, total: 90s}}
  rules:
    priority: low
    sweep: {cron: 0 2 * * *, keys: {StudyDate: yesterday, ModalitiesInStudy: CT}}
    move: {to: [local], verify: none, retry: {attempts: 3}}
""",
        """
rules:
  other:
    sweep: {source: archive, keys: {ModalitiesInStudy: MR}}
    move: {retry: {delay: 1s}}
""",
    )
    assert rules.nodes["archive"].timezone == "Europe/Berlin"
    assert rules.nodes["workstation"].timezone == "America/New_York"
    assert rules.nodes["workstation"].find.inactivity == 9
    chest, other = rules.rules["chest"], rules.rules["other"]
    assert (chest.priority, chest.move.to, chest.move.verify) == ("low", ("workstation",), "none")
    assert [tier.schedule.every for tier in chest.sweep.tiers] == [300]  # its schedule replaces that of the defaults
    assert {key.name: key.wire(EVALUATION) for key in chest.sweep.keys} == {
        "StudyDate": (("20261123",),), "ModalitiesInStudy": (("CT",),)}  # fmt: skip
    assert (other.move.to, other.move.retry.attempts, other.move.retry.delay) == (("local",), 3, 1)
    assert other.sweep.tiers[0].schedule.cron is not None
    assert {key.name: key.wire(EVALUATION) for key in other.sweep.keys} == {
        "StudyDate": (("20261122",),), "ModalitiesInStudy": (("MR",),)}  # fmt: skip


def test_a_mistake_in_the_defaults_is_shown_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(NODES + RULE.replace("{to: [workstation]}", "{verify: none}"))
    (tmp_path / "b.yaml").write_text("defaults:\n  rules:\n    move: {to: [worksation]}\n")
    [one] = config.load(tmp_path).diagnostics
    assert (Path(one.file).name, one.line, one.code) == ("b.yaml", 3, Code.UNKNOWN_NODE)


LITERAL = ["00123", "0777", "NO", "ON", "yes", "true", "null", "~x", "1.10", "1e3", "0x1F", "12:30:00", "2026-11-22",
           "1_000", ".5", "+1", "=", "a: b"[:1], "0o17"]  # fmt: skip


@pytest.mark.parametrize("text", LITERAL)
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_scalar_is_its_literal_text(text: str, quote: str) -> None:
    """YAML alone makes 83 of 00123, False of NO and 45000 of 12:30:00."""
    rules = compiled(
        NODES,
        f"""
rules:
  chest:
    sweep: {{source: archive, every: 5m, keys: {{PatientID: {quote}{text}{quote}}}}}
    where:
      StationName: {quote}{text}{quote}
      StudyID: [{quote}{text}{quote}, x]
      StudyDescription: {{equals: {quote}{text}{quote}}}
    move: {{to: [workstation]}}
    owner: {quote}{text}{quote}
""",
    )
    rule = rules.rules["chest"]
    assert rule.sweep.keys[0].wire(EVALUATION) == ((text,),)
    assert rule.where.holds(Identifier.of(StationName=text, StudyID=text, StudyDescription=text), EVALUATION)
    assert rule.owner == text


@settings(max_examples=150)
@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=20))
def test_any_quoted_text_is_literal(text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    rules = compiled(NODES, RULE + f"    where: {{StudyDescription: {quoted}}}\n    description: {quoted}\n")
    assert rules.rules["chest"].description == text
    assert rules.rules["chest"].where.holds(Identifier.of(StudyDescription=text), EVALUATION)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text("{}[]:,-&*!|>'\"%@`#? \n\tabnodesrul0", max_size=120).map(str.encode))
def test_no_file_breaks_the_compiler(contents: bytes) -> None:
    loaded = compile_sources(Sources((("a.yaml", NODES.encode()), ("b.yaml", contents)), ()), NOW)
    assert (loaded.rule_set is None) is bool(loaded.errors)


def test_anchors_and_aliases_work() -> None:
    rules = compiled(
        NODES,
        """
rules:
  one:
    sweep: &sweep {source: archive, every: 5m, keys: {StudyDate: today}}
    move: &move {to: [workstation]}
  two: {sweep: *sweep, move: *move}
""",
    )
    assert rules.rules["one"].sweep.keys == rules.rules["two"].sweep.keys
    assert rules.rules["one"].sweep.tiers == rules.rules["two"].sweep.tiers


def test_empty_files_and_sections_are_nothing() -> None:
    assert list(compiled(NODES, RULE, "", "# nothing\n", "rules:\n", "router:\ndefaults:\n").rules) == ["chest"]


def test_the_order_of_files_and_sections_does_not_count() -> None:
    one, two = compiled(NODES, RULE), compiled(RULE, NODES)
    assert (one.nodes, one.rules) == (two.nodes, two.rules)


def test_only_yaml_files_of_the_directory_itself_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(NODES + RULE)
    (tmp_path / ".b.yaml").write_text("nonsense: 1")
    (tmp_path / "c.yml").write_text("nonsense: 1")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e.yaml").write_text("nonsense: 1")
    assert config.load(tmp_path).rule_set is not None


def test_a_thousand_rules_are_quick(tmp_path: Path) -> None:
    (tmp_path / "nodes.yaml").write_text(NODES)
    rule = """
  rule-{0}:
    sweep: {{source: archive, cron: "*/5 7-19 * * mon-fri", keys: {{StudyDate: today, Modality: [CT]}}, level: SERIES}}
    where:
      StudyDescription: {{matches: "(?i)chest|thorax{0}"}}
      any: [PatientAge: {{gte: 18Y}}, PatientSex: F]
    move: {{to: [workstation, local], retry: {{attempts: 3}}}}
"""
    for file in range(50):
        rules = "".join(rule.format(f"{file}-{number}") for number in range(20))
        (tmp_path / f"rules-{file}.yaml").write_text("rules:" + rules)
    started = time.process_time()
    loaded = config.load(tmp_path)
    spent = time.process_time() - started
    assert loaded.rule_set is not None
    assert len(loaded.rule_set.rules) == 1000
    assert spent < 10  # 0.6 s where it was written; the bound is for a loaded machine


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [("10.0.0.5:104", ("10.0.0.5", 104)), ("[::1]:11112", ("::1", 11112)),
     ("pacs-1.example.org:1", ("pacs-1.example.org", 1)),
     ("10.0.0.5", None), (":104", None), ("a:0", None), ("a:65536", None), ("::1:104", None), ("a:1\n", None),
     ("a b:1", None)],
)  # fmt: skip
def test_addresses(text: str, address: tuple[str, int] | None) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1024", 1024), ("1KiB", 1024), ("1.5 GB", 1_500_000_000), ("1TiB", 1 << 40), ("1 gb", None),
     ("-1", None), ("x", None)],
)  # fmt: skip
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("title", ["A", "ORTHANC", "a b", "1234567890123456", "WS-1_2.3"])
def test_ae_titles(title: str) -> None:
    assert ae_title_problem(title) == ""


def test_the_zone_of_the_machine_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ZoneInfo(machine_zone())
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert machine_zone() == "Asia/Tokyo"
    monkeypatch.setenv("TZ", "Nowhere/Land")
    ZoneInfo(machine_zone())


# --- Reloading --------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(NODES + RULE)
    return tmp_path


def test_reload(directory: Path) -> None:
    events: list[Event] = []
    swapped: list[RuleSet] = []
    coordinator = config.Coordinator(directory, events.append)
    coordinator.subscribe(swapped.append)
    first = coordinator.current
    assert events == [ConfigurationLoaded(successful=True, content_hash=first.content_hash, work_hash=first.work_hash)]

    assert coordinator.reload().accepted  # nothing changed: nobody is bothered
    assert coordinator.current is first
    assert not swapped

    (directory / "a.yaml").write_text(NODES + RULE.replace("chest", "thorax"))
    assert coordinator.reload().accepted
    assert list(coordinator.current.rules) == ["thorax"]
    assert swapped == [coordinator.current]
    assert coordinator.current.content_hash != first.content_hash
    hashes = {"content_hash": swapped[0].content_hash, "work_hash": swapped[0].work_hash}
    assert events[-1] == ConfigurationLoaded(successful=True, **hashes)
    assert swapped[0].work_hash not in ("", first.work_hash)

    running = coordinator.current
    (directory / "a.yaml").write_text(NODES + RULE.replace("archive", "archiv"))
    assert not coordinator.reload().accepted
    assert not coordinator.reload().accepted
    assert coordinator.current is running
    assert [one.code for one in coordinator.latest.errors] == [Code.UNKNOWN_NODE]
    assert swapped == [running]
    assert [event.successful for event in events if isinstance(event, ConfigurationLoaded)][-2:] == [False, False]

    shutil.rmtree(directory)
    assert not coordinator.reload().accepted
    assert coordinator.current is running

    directory.mkdir()
    (directory / "a.yaml").write_text(NODES + RULE.replace("chest", "thorax"))
    assert coordinator.reload().accepted  # good again, and what runs already
    assert coordinator.current is running
    assert swapped == [running]


def test_a_service_does_not_start_on_a_bad_configuration(directory: Path) -> None:
    (directory / "a.yaml").write_text("rulez: {}")
    events: list[Event] = []
    with pytest.raises(ConfigurationError, match="DR010"):
        config.Coordinator(directory, events.append)
    assert [event.successful for event in events if isinstance(event, ConfigurationLoaded)] == [False]


def test_a_name_of_a_file_that_is_no_utf_8_is_shown_as_far_as_it_can_be(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"n\xff.yaml")).write_text("rulez: {}")
    [one] = config.load(tmp_path).diagnostics
    assert one.file.endswith("n\ufffd.yaml")
    assert str(one).encode().startswith(str(tmp_path).encode())
