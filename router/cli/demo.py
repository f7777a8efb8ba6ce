"""`demo`: the main job on an embedded simulator, in a temporary directory, with nothing else to install."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table

from router import config
from router.cli.apply import good, sweep_now
from router.cli.plan import show_plan
from router.cli.progress import Seen
from router.cli.render import counted, summary, transfers_table
from router.cli.settings import interruptible, print_json, progress_terminal, settings_of, terminal
from router.domain.rule import RuleSet
from router.observe import logs
from router.service import Service
from router.simulator import SimulatedPacs, demo_archive, make_study

_NODES = """\
router:
  ae_title: ROUTER
  listen: 127.0.0.1:11112
  store: {directory}/store
  ledger: sqlite:///{directory}/ledger.db
  minimum_free: 0
nodes:
  archive: {{ae_title: ARCHIVE, address: {archive}, limits: {{associations: 4}}}}
  reading-room: {{ae_title: READING, address: {reading}}}
"""

_RULE = "chest-ct"
_RULES = """\
rules:
  chest-ct:
    sweep:
      source: archive
      every: 5m
      keys: {StudyDate: today-2d..today, ModalitiesInStudy: [CT, MR]}
    where:
      ModalitiesInStudy: CT
      StudyDescription: {matches: "(?i)chest|thorax"}
    move: {to: [reading-room, local]}
"""


@click.command(short_help="The main job on a simulated hospital, in half a minute.")
@click.pass_context
def demo(ctx: click.Context) -> int:
    """Run the main job on a simulated hospital: sweep, select, move, verify. Needs nothing, leaves nothing behind."""
    as_json = settings_of(ctx).json
    out = Console(quiet=True) if as_json else terminal()
    logs.configure(quiet=True)
    archive_studies = demo_archive(datetime.now().astimezone().date())
    with (
        interruptible(),
        tempfile.TemporaryDirectory(prefix="dicom-router-demo-") as directory,
        SimulatedPacs("READING") as reading,
        SimulatedPacs("ARCHIVE", studies=archive_studies) as archive,
    ):
        archive.set_destination("READING", reading.host, reading.port)
        rules = _configure(Path(directory), archive, reading)
        service = Service(rules)
        try:
            service.start(scheduled=False)
            archive.set_destination("ROUTER", "127.0.0.1", service.store_port)
            result = _Demo(service, rules, archive, reading, out, progress_terminal()).run()
        finally:
            service.stop(drain=0.0)
    if as_json:
        print_json(result)
    return 0 if result.good else 1


def _configure(directory: Path, archive: SimulatedPacs, reading: SimulatedPacs) -> RuleSet:
    files = directory / "rules"
    files.mkdir()
    nodes = _NODES.format(directory=directory, archive=archive.address, reading=reading.address)
    (files / "nodes.yaml").write_text(nodes)
    (files / "chest-ct.yaml").write_text(_RULES)
    loaded = config.load(files)
    assert loaded.rule_set is not None, [str(d) for d in loaded.diagnostics]
    rules = loaded.rule_set
    return msgspec.structs.replace(rules, router=msgspec.structs.replace(rules.router, listen_port=0))


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo saw."""

    good: bool
    instances_in_archive: int
    instances_at_reading_room: int
    instances_in_store: int
    transfers: int
    transfers_of_second_apply: int
    instances_moved_after_growth: int


class _Demo:
    """The demo's working state: each method is one act."""

    def __init__(
        self,
        service: Service,
        rules: RuleSet,
        archive: SimulatedPacs,
        reading: SimulatedPacs,
        out: Console,
        progress: Console,
    ) -> None:
        self._service = service
        self._rules = rules
        self._archive = archive
        self._reading = reading
        self._out = out
        self._progress = progress
        self._acts = 0

    def run(self) -> Result:
        self._introduce()
        self._act("The rule", "which studies go where; a second file says where the nodes are")
        self._out.print(Padding(Syntax(_RULES, "yaml", background_color="default", word_wrap=True), (0, 0, 0, 3)))
        self._act("Plan", "ask the archive, decide, move nothing")
        show_plan(self._rules, self._rules.rules[_RULE], self._service.sweeper, self._out)

        self._act("Apply", "move, then prove from the other side that it arrived")
        held = len(self._archive.instances)
        first = self._apply()
        self._out.print(transfers_table(first.transfers, width=self._out.width))
        self._out.print(summary(first.transfers))
        at_reading, in_store = len(self._reading.stored), self._in_store()

        self._act("Apply again", "what has been moved is not moved twice")
        second = self._apply()
        self._out.print(f"{counted(len(second.transfers), 'transfer')}: nothing to do.")

        self._act("One more image arrives in the archive", "only the difference is moved")
        _add_one_more(self._archive, first)
        third = self._apply()
        grown = len(self._reading.stored) - at_reading
        self._out.print(transfers_table(third.transfers, width=self._out.width))
        self._out.print(f"{counted(grown, 'instance')} went to the reading room, {self._in_store() - in_store} here.")

        result = Result(
            good=good(first) and good(third) and not second.transfers and grown == 1 and at_reading == in_store > 0,
            instances_in_archive=held,
            instances_at_reading_room=at_reading,
            instances_in_store=in_store,
            transfers=len(first.transfers),
            transfers_of_second_apply=len(second.transfers),
            instances_moved_after_growth=grown,
        )
        self._conclude(result)
        return result

    def _act(self, title: str, what: str) -> None:
        self._acts += 1
        self._out.print(f"\n[bold cyan]{self._acts}. {title}[/]: {what}")

    def _apply(self) -> Seen:
        seen, _ = sweep_now(self._service, list(self._rules.rules.values()), self._progress)
        return seen

    def _in_store(self) -> int:
        studies = {t.intent.study_instance_uid for t in self._service.ledger.transfers(destination="local")}
        return sum(len(self._service.ledger.received(study)) for study in studies)

    def _introduce(self) -> None:
        modalities = sorted({str(i.header.Modality) for i in self._archive.instances})
        studies = {str(i.header.StudyInstanceUID) for i in self._archive.instances}
        self._out.print("A small hospital, simulated in this process; nothing outside of it is touched.\n")
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column()
        grid.add_row(
            "archive",
            f"a PACS with {counted(len(studies), 'study', 'studies')}, "
            f"{counted(len(self._archive.instances), 'instance')}: {', '.join(modalities)}",
        )
        grid.add_row("reading-room", "a workstation, still empty")
        grid.add_row("local", "the router's own store, still empty")
        self._out.print(Padding(grid, (0, 0, 0, 3)))

    def _conclude(self, result: Result) -> None:
        if not result.good:
            self._out.print("\n[bold red]This did not go as it should; please report it with the text above.[/]")
            return
        self._out.print(
            f"\n[bold green]Done.[/] Of {result.instances_in_archive} instances the rule selected "
            f"{result.instances_in_store}; each is now in the reading room and in the router's store, "
            "proven by a query there and by receipts here. The rest stayed where it was."
            "\n\nYour own: [bold]dicom-router init my-rules[/], change my-rules/nodes.yaml, then "
            "[bold]dicom-router --config my-rules plan[/]"
        )


def _add_one_more(archive: SimulatedPacs, seen: Seen) -> None:
    """Give the first study that was moved a new last image."""
    study = seen.transfers[0].intent.study_instance_uid
    like = next(i.header for i in archive.instances if str(i.header.StudyInstanceUID) == study)
    (extra,) = make_study(
        seed="demo/late",
        modality=str(like.Modality),
        description=str(like.StudyDescription),
        patient_id=str(like.PatientID),
        patient_name=str(like.PatientName),
        study_date=str(like.StudyDate),
        study_time=str(like.StudyTime),
        accession=str(like.AccessionNumber),
        instances=1,
    )
    extra.StudyInstanceUID = study
    archive.add([extra])
