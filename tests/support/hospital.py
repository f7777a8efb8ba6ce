"""A hospital at work: archives that do well and badly, and a router between them. What happens there is known."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from router.dimse.peers import Peers
from router.domain.rule import Node
from router.errors import WireError
from router.simulator import CALLING_NOT_RECOGNISED, Behaviour, SimulatedPacs, make_study
from tests.support.certificates import Authority
from tests.support.hl7 import PATIENT, MllpClient, message, order
from tests.support.orthanc import Orthanc
from tests.support.ports import free_port
from tests.support.router import Site, node
from tests.support.worklist import scheduled

INSTANCES = 4
ORDERED, SCHEDULED = PATIENT, "P1"
"""A patient of whom orders tell, and one who stands in the worklist."""
BORN = {ORDERED: "19640812", SCHEDULED: "19700101"}
PRIORS = {
    "source": "past",
    "groups": [{"name": "same-region", "where": {"anatomy": "same"}, "max": 1, "within": "5y"}],
}


class Webhook:
    """Takes what is posted to it."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        taken = self.taken

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10.0)


class Hospital:
    """A router at work: what it did is known, so that what is shown of it can be held against it.

    `vault` commits itself to what it is sent.
    """

    def __init__(self, directory: Path, stack: ExitStack, vault: Orthanc) -> None:
        self.stack = stack
        self.hl7_port = free_port()
        self.told = stack.enter_context(Webhook())
        channel = {"webhook": {"url": self.told.url, "encryption": "none"}}
        self.site = Site(
            directory / "site",
            nodes={},
            rules={},
            router={
                "hl7": {"listen": f"127.0.0.1:{self.hl7_port}", "timezone": "UTC"},
                "notify": {"channels": {"chat": channel}, "wait": "1s"},
            },
        )
        self.nodes: dict[str, Any] = {}
        self.rules: dict[str, Any] = {}
        self.reading = stack.enter_context(SimulatedPacs("READING"))
        self.nodes["reading-room"] = node("READING", self.reading.port, timezone="UTC")
        vault.register("ROUTER", self.site.dicom_port)
        self.vault_port = vault.dicom_port
        self.nodes["vault"] = node(vault.ae_title, vault.dicom_port, commitment=True, timezone="UTC")
        gently = {"moves_per_hour": 100, "duty": "50%"}  # after each move the next one has to wait
        self.healthy = self.archive("healthy", None, "local", "reading-room", "vault", limits=gently)
        self.archive("loses-some", Behaviour(undecodable_instances=1), "local")
        self.archive("rejects", Behaviour(reject=CALLING_NOT_RECOGNISED), "local")
        self.archive("forgetful", None, "local", knows_router=False)
        self.nodes["dead"] = node("DEAD", free_port(), timezone="UTC", breaker={"failures": 1, "pause": "10m"})
        self.rules["from-dead"] = self.rule("dead", "local")
        self.nodes["never-asked"] = node("NEVER", free_port(), timezone="UTC")
        self.prefetch()
        self.night(directory)
        self.site.configure(nodes=self.nodes, rules=self.rules)

    def archive(
        self, name: str, behaviour: Behaviour | None, *destinations: str, knows_router: bool = True, **settings: Any
    ) -> SimulatedPacs:
        """An archive with a study of today, and a rule that moves it."""
        studies = make_study(seed=name, study_date=f"{date.today():%Y%m%d}", instances=INSTANCES)
        pacs = self.pacs(name, behaviour, studies=studies, knows_router=knows_router, **settings)
        self.rules[f"from-{name}"] = self.rule(name, *destinations)
        return pacs

    def pacs(
        self, name: str, behaviour: Behaviour | None = None, *, studies: Any, knows_router: bool = True, **settings: Any
    ) -> SimulatedPacs:
        """An archive that is a node."""
        known = {
            "ROUTER": ("127.0.0.1", self.site.dicom_port),
            "READING": ("127.0.0.1", self.reading.port),
            "VAULT": ("127.0.0.1", self.vault_port),
        }
        if not knows_router:
            del known["ROUTER"]
        pacs = SimulatedPacs(name.upper(), studies=studies, behaviour=behaviour, destinations=known)
        self.stack.enter_context(pacs)
        self.nodes[name] = node(name.upper(), pacs.port, timezone="UTC", **settings)
        return pacs

    @staticmethod
    def rule(source: str, *destinations: str) -> dict[str, Any]:
        """A rule whose sweeps come when they are asked for."""
        return {
            "sweep": {"source": source, "cron": "0 0 1 1 *", "keys": {"StudyDate": "today-2d..today"}},
            "move": {"to": list(destinations), "retry": {"attempts": 1}},
        }

    def prefetch(self) -> None:
        """Two patients with an earlier study each, a worklist and rules for their priors."""
        last_year = f"{date.today() - timedelta(days=300):%Y%m%d}"
        self.pacs(
            "past",
            studies=[
                one
                for patient, modality, region in ((ORDERED, "CT", "Abdomen"), (SCHEDULED, "MR", "Knee"))
                for one in make_study(
                    seed=patient,
                    modality=modality,
                    description=f"{modality} {region}",
                    patient_id=patient,
                    patient_birth_date=BORN[patient],
                    patient_sex="F",
                    study_date=last_year,
                    instances=2,
                )
            ],
        )
        at = datetime.now(UTC) + timedelta(hours=26)
        when: dict[str, Any] = {"date": f"{at:%Y%m%d}", "time": f"{at:%H%M}00"}
        worklist = [
            scheduled("ACC1", patient_id=SCHEDULED, **when),
            scheduled("ACC2", patient_id="P*", **when),  # it would widen the question, and is refused
        ]
        ris = self.stack.enter_context(SimulatedPacs("RIS", worklist=worklist))
        self.nodes["ris"] = node("RIS", ris.port, timezone="UTC")
        move = {"to": ["reading-room"], "retry": {"attempts": 1}}
        keys = {"ScheduledProcedureStepStartDate": "today..today+4d", "Modality": "MR"}
        self.rules["from-worklist"] = {
            "worklist": {"source": "ris", "cron": "0 0 1 1 *", "keys": keys},
            "priors": PRIORS,
            "move": move,
        }
        self.rules["from-orders"] = {"order": {}, "priors": PRIORS, "move": move}

    def night(self, directory: Path) -> None:
        """A node that is closed at this time, and is spoken to by TLS when it is open."""
        authority = Authority(directory / "keys")
        own = authority.issue("own")
        tls = {"ca": str(authority.certificate), "certificate": str(own.certificate), "key": {"file": str(own.key)}}
        day = datetime.now(UTC) + timedelta(days=3)
        windows = {"not-now": {"timezone": "UTC", "open": [f"{day:%a} 00:00-24:00".lower()]}}
        (self.site.rules_directory / "windows.yaml").write_text(json.dumps({"windows": windows}), "utf-8")
        self.nodes["night"] = node("NIGHT", free_port(), timezone="UTC", tls=tls, windows=[{"use": "not-now"}])

    # what happens -----------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Everything, once: orders, messages that are none, a stranger, and all sweeps with what they bring."""
        at = datetime.now(UTC) + timedelta(hours=26)
        with MllpClient(self.hl7_port) as client:
            assert client.ask(order(start=f"{at:%Y%m%d%H%M}")).code == "AA"
            assert client.ask(message("PID|1", "ORC|NW", "OBR|1")).code != "AA"
        self.call_as_a_stranger()
        self.site.apply(code=None)

    def call_as_a_stranger(self) -> None:
        """An association of somebody whom nobody knows; it is rejected."""
        peers = Peers("STRANGER", lambda event: None)
        try:
            peers.echo(Node(name="router", ae_title="ROUTER", host="127.0.0.1", port=self.site.dicom_port))
        except WireError:
            return
        finally:
            peers.close()
        raise AssertionError("the stranger was let in")
