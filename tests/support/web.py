"""The web part without a router: what it shows and takes is as a test says. And its callers: programs and browsers."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from router.boards import Boards as RealBoards
from router.config import Code, Diagnostic, Reload, Standing
from router.domain.board import Board, TransferSeen
from router.domain.condition import Explanation
from router.domain.dicom import Identifier
from router.domain.events import Event
from router.domain.events_people import CallerRefused
from router.domain.gates import Conclusion, Gate, Way
from router.domain.rule import Order, RouterSettings, RuleSet
from router.domain.selection import Action, Decision
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Finish, Happening, Instance, Intent, NewTransfer, Transfer
from router.engine.explained import RuleExplained, StudyExplained, StudySeen, WayExplained
from router.errors import ConfigurationError, NotThere
from router.lookup import Lookup as RealLookup
from router.lookup import StudyKnown, TransferShown, Wanted
from router.objects import ObjectStore
from router.saying import Saying as RealSaying
from router.web.needs import Boards, Lookup, Saying
from tests.support.engine import Bench

TOKEN = "0123456789abcdef"
COMMENT = "No study of MILLER JANE"
"""What a peer says of a transfer."""
STUDY, SERIES, PATIENT = "1.2.826.0.1.3680043.10.1", "1.2.826.0.1.3680043.10.1.1", "PAT-4711"


class Reply:
    """An HTTP response."""

    def __init__(
        self, port: int, path: str, *, method: str = "GET", body: bytes | str | None = None, **headers: str
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers=named)
            response = connection.getresponse()
            self.headers = response.headers
            self.status = response.status
            self.content_type = response.headers.get("content-type", "")
            self.body = response.read()
        finally:
            connection.close()

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def problems(self) -> dict[str, str]:
        said = json.loads(self.body)
        assert said["status"] == ("ok" if self.status == 200 else "failing")
        assert self.content_type == "application/json"
        return dict(said["problems"])


class EmptyBoards:
    """Nothing goes on."""

    def board(self, *, identifiers: bool) -> Board:
        return Board(at=datetime.now(UTC), identifiers=identifiers, states={})


class Silent:
    """Has nothing, and nothing can be said."""

    def say(self, word: str, transfer_id: int) -> Transfer:
        raise NotThere

    def sweep(self, name: str) -> int:
        raise NotThere

    def explain(self, study_instance_uid: str, *, offline: bool) -> StudyExplained:
        raise NotThere

    def transfers(self, wanted: Wanted, *, identifiers: bool) -> tuple[TransferSeen, ...]:
        return ()

    def transfer(self, transfer_id: int, *, identifiers: bool, appointments: bool) -> TransferShown:
        raise NotThere

    def seen(self, transfer: Transfer, *, identifiers: bool) -> TransferSeen:
        raise NotThere

    def study(self, study_instance_uid: str, *, identifiers: bool) -> StudyKnown:
        raise NotThere


class Part:
    """What the endpoints show, as the test says."""

    def __init__(self) -> None:
        self.metrics: Callable[[], bytes] = lambda: b"x 1\n"
        self.unwell: dict[str, str] = {}
        self.unready: dict[str, str] = {}
        self.events: list[Event] = []
        self.boards: Boards = EmptyBoards()
        self.saying: Saying = Silent()
        self.lookup: Lookup = Silent()

    def observe(self, event: Event) -> None:
        self.events.append(event)

    @property
    def done(self) -> list[Event]:
        """What somebody had done; not who was refused."""
        return [event for event in self.events if not isinstance(event, CallerRefused)]

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        return self.metrics(), "text/plain"

    def health(self) -> dict[str, str]:
        return self.unwell

    def readiness(self) -> dict[str, str]:
        return {**self.unwell, **self.unready}


GOOD = Reload(
    at=datetime(2026, 11, 23, 9, 0, tzinfo=UTC), accepted=True, changed=True, content_hash="abc", diagnostics=()
)
MISTAKE = Diagnostic(
    file="rules/<b>.yaml", line=8, column=42, code=Code.UNKNOWN_NODE, message="there is no node '<x>'", hint="try & see"
)


class Configuration:
    """A configuration as the test says."""

    def __init__(self) -> None:
        self.secret: str | None = None
        self.settings = RouterSettings()
        self.lost = ""
        self.reloads = 0
        self.loading: Callable[[], Reload] = lambda: GOOD
        self.standing = Standing(
            directory="rules",
            content_hash="abc",
            loaded_at=GOOD.at,
            files=("rules/a.yaml", "rules/<b>.yaml"),
            rules=3,
            nodes=2,
            restart_needed=(),
            last=GOOD,
        )

    def reload(self) -> Reload:
        self.reloads += 1
        last = self.loading()
        self.standing = msgspec.structs.replace(self.standing, last=last)
        return last

    def refuse(self, *diagnostics: Diagnostic) -> None:
        refused = msgspec.structs.replace(
            GOOD, accepted=False, changed=False, content_hash="bad", diagnostics=diagnostics
        )
        self.loading = lambda: refused

    def token(self) -> str | None:
        if self.lost:
            raise ConfigurationError(self.lost)
        return self.secret


class Work(Part):
    """A ledger with three transfers of rule `r` (1 failed, 2 complete, 3 queued), and what the service makes of it.

    The rule `off` is disabled, `orders` has no sweep.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.bench = bench = Bench(directory)
        bench.to("ws")
        rule = bench.rules.rules["r"]
        orders = msgspec.structs.replace(bench.prefetches("ws"), name="orders", order=Order())
        rules = {"r": rule, "off": msgspec.structs.replace(rule, name="off", enabled=False), "orders": orders}
        self.rules: RuleSet = msgspec.structs.replace(bench.rules, rules=rules)
        self.woken = 0
        self.ledger, self.clock = bench.ledger, bench.clock
        self.store = ObjectStore(directory / "store", durability="rename")
        self.explain: Callable[..., StudyExplained] = lambda rules, study, *, offline: explained(rules, study)
        self.boards = self.real_boards = RealBoards(
            rules=lambda: self.rules, ledger=self.ledger, clock=self.clock, pseudonyms=bench.pseudonyms
        )
        self.saying = RealSaying(
            rules=lambda: self.rules,
            ledger=self.ledger,
            clock=self.clock,
            wake=self._wake,
            explain=lambda rules, study, *, offline: self.explain(rules, study, offline=offline),
            trouble=lambda where, error: None,
        )
        self.lookup = RealLookup(
            rules=lambda: self.rules, ledger=self.ledger, clock=self.clock, pseudonyms=bench.pseudonyms
        )
        self._fill()

    def _wake(self) -> None:
        self.woken += 1

    def _fill(self) -> None:
        now = self.clock.now()
        self.ledger.add_sweeps([SweepDue(rule="r", source="pacs", due_at=now)])
        claim = self.ledger.claim_sweep(["pacs"], now, 60.0)
        assert claim is not None
        report = SweepReport(state=SweepState.COMPLETE, matches=3, selected=3, queries=1)
        self.ledger.finish_sweep(claim, report, [self._new(number) for number in (1, 2, 3)], (), now)
        for happening in (Happening.FAIL, Happening.PROVEN):
            transfer = self.ledger.claim_transfer(["pacs"], now, 60.0)
            assert transfer is not None
            failed = 3 if happening is Happening.FAIL else 0
            self.ledger.set_missing(transfer, [Instance(SERIES, f"{SERIES}.{number}") for number in range(failed)])
            finish = Finish(
                happening=happening,
                reason="It did not work.",
                comment=COMMENT if failed else "",
                status=0xA702,
                moved=True,
                failed=failed,
            )
            assert self.ledger.finish(transfer, finish, now, now) is not None

    def _new(self, number: int) -> NewTransfer:
        return NewTransfer(
            intent=Intent("pacs", f"{STUDY}.{number}", SERIES, "ws"),
            rule="r",
            priority=0,
            instance_count=3,
            patient_id=PATIENT,
        )


def explained(rules: RuleSet, study: str) -> StudyExplained:
    """What a source and a rule could say of a study."""
    seen = StudySeen(source="pacs", row=Identifier({0x00080020: ("20261122",)}), looked_at=(0x00080020,))
    decision = Decision(action=Action.SKIP, code="known", reason="It is known.", study_instance_uid=study)
    way = WayExplained(
        destination="ws",
        decision=decision,
        gates=(Gate(gate="window", way=Way.PASS, reason="ws is open"),),
        conclusion=Conclusion(text="nothing would be moved"),
    )
    clause = Explanation(text="StudyDate: today", passed=True, seen=("20261122",))
    rule = RuleExplained(rule=rules.rules["r"], found=True, clauses=(clause,), ways=(way,))
    return StudyExplained(seen=(seen,), rules=(rule,))


class Visitor:
    """A browser without a screen: it keeps cookies, fills in forms, says where they come from."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}
        self.page = "/"
        """The page that it is on."""

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Reply:
        """Go to a page."""
        reply = Reply(self.port, path, **self._cookie())
        self.page = path
        return reply

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Reply:
        """Send a form that is on the page, as it is; nothing is followed."""
        sent = {
            "Origin": self.origin,
            "Referer": self.origin + self.page,
            "Sec_Fetch_Site": "same-origin",
            "Content_Type": "application/x-www-form-urlencoded",
            **self._cookie(),
            **headers,
        }
        reply = Reply(self.port, path, method="POST", body=urlencode(fields), **sent)
        for cookie in reply.headers.get_all("set-cookie", []):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
        return reply

    def do(self, path: str, **fields: str) -> Reply:
        """Send a form with the key that the page has for it."""
        return self.post(path, {"form_key": self.form_key(), **fields})

    def log_in(self, token: str = TOKEN) -> Reply:
        """Show the token."""
        return self.post("/login", {"token": token})

    def form_key(self) -> str:
        """The key that forms hold."""
        found = re.search(
            r'name="form-key" content="([^"]*)"', Reply(self.port, "/configuration", **self._cookie()).text
        )
        assert found is not None
        return found[1]

    def _cookie(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}
