"""`demo`: the main job on an embedded simulator, in a temporary directory, with nothing else to install."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.syntax import Syntax

from router import config
from router.cli.apply import good, summary, sweep_now
from router.cli.plan import show_plan
from router.cli.render import transfers_table
from router.cli.settings import progress_terminal, terminal
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
nodes:
  archive: {{ae_title: ARCHIVE, address: {archive}, limits: {{associations: 4}}}}
  reading-room: {{ae_title: READING, address: {reading}}}
"""

_RULES = """\
rules:
  chest-ct:
    description: Recent chest CT to the reading room, with a copy here
    sweep:
      source: archive
      every: 5m
      keys: {StudyDate: today-2d..today, ModalitiesInStudy: [CT, MR]}
    where:
      ModalitiesInStudy: CT
      StudyDescription: {matches: "(?i)chest|thorax"}
    move: {to: [reading-room, local]}
"""


@click.command()
@click.pass_context
def demo(ctx: click.Context) -> int:
    """Run the main job on a simulated hospital: sweep, select, move, verify. Needs nothing, leaves nothing behind."""
    out, progress = terminal(), progress_terminal()
    logs.configure(quiet=True)
    archive_studies = demo_archive(datetime.now().astimezone().date())
    with (
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
            return _tell(service, rules, archive, reading, out, progress)
        finally:
            service.stop(drain=0.0)


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


def _tell(
    service: Service, rules: RuleSet, archive: SimulatedPacs, reading: SimulatedPacs, out: Console, progress: Console
) -> int:
    modalities = sorted({str(i.header.Modality) for i in archive.instances})
    studies = {str(i.header.StudyInstanceUID) for i in archive.instances}
    out.print(
        f"A simulated archive holds {len(studies)} studies ({len(archive.instances)} instances) of "
        f"{', '.join(modalities)}. This is the rule:\n"
    )
    out.print(Syntax(_RULES, "yaml", background_color="default"))
    out.rule("plan: what the rule would do, before it does it", align="left")
    show_plan(rules, rules.rules["chest-ct"], service.sweeper)

    out.rule("apply: sweep, move, verify", align="left")
    sweeps, transfers = sweep_now(service, list(rules.rules.values()), progress)
    out.print(transfers_table(transfers, title=""))
    out.print(summary(transfers))
    fine = good(sweeps, transfers)
    moved = sum(t.expected or 0 for t in transfers if t.intent.destination == "local")

    out.rule("apply again: nothing is moved twice", align="left")
    sweeps, transfers = sweep_now(service, list(rules.rules.values()), progress)
    out.print(summary(transfers))
    fine = fine and not transfers

    out.rule("one more image arrives in the archive: the difference is moved", align="left")
    before = len(reading.stored)
    archive.add(_one_more(archive, service))
    sweeps, transfers = sweep_now(service, list(rules.rules.values()), progress)
    out.print(transfers_table(transfers, title=""))
    grown = len(reading.stored) - before
    fine = fine and good(sweeps, transfers) and grown == 1

    out.rule("what you saw", align="left")
    out.print(
        f"{moved} instances of {len(studies)} studies' worth matched, and are proven to be in the reading room and in "
        f"the router's own store;\nthe rest stayed where it was. The second sweep moved nothing, the third exactly "
        f"{grown} instance.\nNext: [bold]dicom-router init my-rules[/], then edit the YAML and run "
        f"[bold]dicom-router --config my-rules plan[/]."
    )
    return 0 if fine else 1


def _one_more(archive: SimulatedPacs, service: Service) -> list:  # type: ignore[type-arg]
    """A new last image for the first study that was moved."""
    study = service.ledger.transfers(destination="local")[0].intent.study_instance_uid
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
    return [extra]
