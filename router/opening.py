"""What commands open for themselves: the ledger, requests to nodes, and what plans are made with."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from router.auditing import by_hand
from router.config.secrets import read_secret
from router.dimse.get import Intake
from router.dimse.landing import Landing
from router.dimse.peers import Peers
from router.dimse.probing import Probing
from router.dimse.store_scp import ServerSettings
from router.domain.checkup import Check, Where
from router.domain.checkup_ledger import server
from router.domain.dicom import Identifier
from router.domain.overview import ServiceInfo
from router.domain.pseudonym import Pseudonyms, is_pseudonym
from router.domain.replicas import of_this
from router.domain.rule import RuleSet
from router.domain.stores import StoreSeen
from router.engine.caps import Caps
from router.engine.doctor import Doctor, Knowledge
from router.engine.doctor_move import MoveCheck
from router.engine.doctor_own import left_alone, own_side
from router.engine.doctor_port import ServiceSeen
from router.engine.explain import Explainer
from router.engine.explain_prior import PriorExplainer
from router.engine.explain_ways import Ways
from router.engine.explained import StudyExplained
from router.engine.forward_look import ForwardLook
from router.engine.ports import Trouble
from router.engine.prefetch import Prefetcher
from router.engine.query import Inquiry
from router.engine.shared_slots import SharedSlots
from router.engine.sweep import Sweeper
from router.errors import ConfigurationError, LedgerError, LedgerMissing
from router.ledger.backend import MAXIMUM_CONNECTIONS
from router.ledger.ledger import SqlLedger
from router.ledger.server import server_seen
from router.machine import ThisMachine
from router.object_headers import of_each, of_stored
from router.observe.postman import Postman
from router.store_name import name_at

CONNECTIONS = MAXIMUM_CONNECTIONS + 2
"""To a database server, that a service has at most: those of its pool, and two that lead and listen."""
SERVICE_SECONDS = 10.0
"""A service that announced itself within this time is running."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The time, aware, UTC."""
        return datetime.now(UTC)


def ledger_url(rules: RuleSet) -> str:
    """The database URL of the ledger. Raises ConfigurationError where it stands elsewhere and is not to be had."""
    configured = rules.router.ledger
    if isinstance(configured, str):
        return configured
    try:
        return read_secret(configured)
    except ConfigurationError as error:
        raise ConfigurationError(f"router.ledger: {error}; so there is no ledger to open.") from None


def _ledger_file(rules: RuleSet) -> str:
    """The file that the ledger lives in; empty where it lives on a server, or nobody can say where."""
    try:
        scheme, _, path = ledger_url(rules).partition(":///")
    except ConfigurationError:
        return ""
    return path if scheme.startswith("sqlite") else ""


def running_services(ledger: SqlLedger) -> list[ServiceInfo]:
    """The services that work on the ledger. Raises LedgerError."""
    return ledger.services(ledger.clock().now() - timedelta(seconds=SERVICE_SECONDS))


def own_services(rules: RuleSet, found: Sequence[ServiceInfo]) -> frozenset[str]:
    """The owners of those that are services of these rules on this machine."""
    return of_this(found, rules.router.replica, platform.node(), name_at(rules.router.store))


def _seen(rules: RuleSet, found: Sequence[ServiceInfo]) -> list[ServiceSeen]:
    """Running services, as `doctor` of these rules sees them."""
    own = own_services(rules, found)
    return [
        ServiceSeen(one.address, one.content_hash, one.work_hash, one.replica or one.owner, one.owner in own)
        for one in found
    ]


def _away(rules: RuleSet, found: Sequence[ServiceInfo], ledger: SqlLedger) -> dict[StoreSeen, int]:
    """Stores that no running service has, nor this machine, and how many instances each holds: those that hold any."""
    here = {one.store for one in found} | {name_at(rules.router.store)}
    gone = [one for one in ledger.stores() if one.name not in here]
    amounts = ledger.store_amounts() if gone else {}
    return {one: amounts[one.name] for one in gone if amounts.get(one.name)}


def _server(rules: RuleSet, services: int, where: Where, now: Callable[[], datetime]) -> list[Check]:
    """What `doctor` finds of the server that keeps the ledger; nothing where there is none, or it lets nobody in."""
    try:
        seen = server_seen(ledger_url(rules), now)
    except (ConfigurationError, LedgerError):
        return []  # the check of the ledger itself says why
    return [] if seen is None else server(seen, max(1, services), CONNECTIONS, where("router", "ledger"))


def open_ledger(rules: RuleSet, *, read_only: bool = False, create: bool = True) -> SqlLedger:
    """The configured ledger. Raises LedgerError; LedgerMissing where there is none and `create` is false."""
    return SqlLedger.open(ledger_url(rules), read_only=read_only, create=create)


def site_pseudonyms(rules: RuleSet, ledgers_key: Callable[[], bytes]) -> Pseudonyms:
    """What gives this site's studies their pseudonyms: with the configured key, else with the one the ledger keeps.

    Raises ConfigurationError where the configured one is not to be had, LedgerError where the ledger's is not.
    """
    configured = rules.router.log.key
    if configured is None:
        return Pseudonyms(ledgers_key())
    try:
        return Pseudonyms(read_secret(configured).encode())
    except ConfigurationError as error:
        raise ConfigurationError(f"router.log.key: {error}; so there are no pseudonyms.") from None


def lasting_pseudonyms(rules: RuleSet, ledgers_key: Callable[[], bytes], trouble: Trouble) -> Pseudonyms:
    """The same for a service: a configured key that is not to be had stops none, the ledger's own takes its place."""
    try:
        return site_pseudonyms(rules, ledgers_key)
    except ConfigurationError as error:
        trouble("pseudonyms are made with the ledger's own key", error)
        return Pseudonyms(ledgers_key())


def studies_meant(study: str, pseudonyms: Pseudonyms, ledger: SqlLedger) -> list[str]:
    """The Study Instance UIDs that a UID or pseudonym stands for: of a pseudonym none where the ledger has none."""
    if not is_pseudonym(study):
        return [study]
    return ledger.studies_where(lambda uid: pseudonyms.of(uid) == study)


def open_postman() -> Postman:
    """What takes notifications to people."""
    return Postman(lambda secret: read_secret(secret, spaces=True))


@contextmanager
def open_peers(rules: RuleSet) -> Iterator[Peers]:
    """Requests to nodes, for a command that needs nothing else."""
    peers = Peers(rules.router.ae_title, lambda event: None)
    try:
        yield peers
    finally:
        peers.close()


class Planner(NamedTuple):
    """What can look, on a ledger that it cannot write to."""

    sweeper: Sweeper
    prefetcher: Prefetcher
    ledger: SqlLedger
    slots: SharedSlots
    peers: Peers
    forwards: ForwardLook


def _ledger_to_read(rules: RuleSet, say: Callable[[str], None]) -> SqlLedger:
    """The ledger, that cannot be written to; an empty one where there is none yet."""
    try:
        return open_ledger(rules, read_only=True, create=False)
    except LedgerMissing as missing:
        say(f"{missing} So nothing counts as moved before.")
        return open_ledger(rules, read_only=True)


@contextmanager
def planner(rules: RuleSet, say: Callable[[str], None]) -> Iterator[Planner]:
    """What plans are made with; that there is no ledger yet it says."""
    with _ledger_to_read(rules, say) as ledger, open_peers(rules) as peers:
        yield _planner(rules, ledger, peers, SharedSlots(ledger.clock()))


@contextmanager
def planner_beside(opened: Planner, rules: RuleSet) -> Iterator[Planner]:
    """The same for another configuration, on the same ledger and within the limits that nodes have in either.

    The first one asks no more: associations that it keeps would count against those limits.
    """
    opened.peers.close()
    with open_peers(rules) as peers:
        beside = _planner(rules, opened.ledger, peers, opened.slots)
        yield beside._replace(forwards=opened.forwards.beside(rules))


def _metrics(machine: ThisMachine, addresses: Iterable[str]) -> str:
    """Those of services at these addresses; of one that does not answer, or has none, nothing."""
    answers = [machine.ask(address, "/metrics") for address in addresses if address]
    return "\n".join(answer[1] for answer in answers if answer is not None)


def _planner(
    rules: RuleSet, ledger: SqlLedger, peers: Peers, slots: SharedSlots, inquiry: Inquiry | None = None
) -> Planner:
    clock = ledger.clock()
    slots.join(rules)
    inquiry = inquiry or Inquiry(by_hand(rules, peers, clock.now), slots, Caps(ledger.caps()))
    sweeper = Sweeper(rules=lambda: rules, ledger=ledger, inquiry=inquiry, clock=clock, observer=lambda event: None)
    prefetcher = Prefetcher(
        rules=lambda: rules,
        ledger=ledger,
        inquiry=inquiry,
        held=ledger.received,
        stored=_stored(rules, ledger),
        clock=clock,
        observer=lambda event: None,
    )
    return Planner(sweeper, prefetcher, ledger, slots, peers, forward_look(rules, ledger))


def forward_look(rules: RuleSet, ledger: SqlLedger, *, offline: bool = False) -> ForwardLook:
    """What looks at the store as rules that pass on would; running services are asked whom they leave alone, once."""

    @functools.cache
    def alone() -> frozenset[str]:
        if offline:
            return frozenset()
        services = running_services(ledger)
        return left_alone(_metrics(ThisMachine(rules.router), [one.address for one in services]))

    return ForwardLook(rules, ledger, of_each(rules.router.store), alone, name_at(rules.router.store))


def _stored(rules: RuleSet, ledger: SqlLedger) -> Callable[[str, Collection[int]], Identifier | None]:
    """What the store of this machine says of a study."""
    own = name_at(rules.router.store)
    return of_stored(rules.router.store, lambda study: ledger.receipt_paths(study, own))


class Explaining(NamedTuple):
    """What can say why a study is moved or not, on a ledger that it cannot write to."""

    studies: Explainer
    priors: PriorExplainer
    ledger: SqlLedger


@contextmanager
def explaining(
    rules: RuleSet, study_instance_uid: str, say: Callable[[str], None], *, offline: bool
) -> Iterator[Explaining]:
    """What explains one study; that there is no ledger yet it says. `offline`: no node is asked."""
    with _ledger_to_read(rules, say) as ledger, open_peers(rules) as peers:
        clock = ledger.clock()
        slots = SharedSlots(clock)
        inquiry = Inquiry(by_hand(rules, peers, clock.now), slots, Caps(ledger.caps()))
        prefetcher = _planner(rules, ledger, peers, slots, inquiry).prefetcher
        services = [] if offline else ledger.services(clock.now() - timedelta(seconds=SERVICE_SECONDS))
        ways = Ways(
            study_instance_uid,
            rules=rules,
            ledger=ledger,
            inquiry=inquiry,
            now=clock.now(),
            left_alone=left_alone(_metrics(ThisMachine(rules.router), [one.address for one in services])),
            offline=offline,
        )
        studies = Explainer(
            study_instance_uid,
            rules=rules,
            ledger=ledger,
            inquiry=inquiry,
            prefetcher=prefetcher,
            stored=_stored(rules, ledger),
            forwards=forward_look(rules, ledger, offline=offline),
            clock=clock,
            ways=ways,
            offline=offline,
        )
        priors = PriorExplainer(study_instance_uid, rules=rules, inquiry=inquiry, prefetcher=prefetcher, ways=ways)
        yield Explaining(studies, priors, ledger)


def explain_study(rules: RuleSet, study_instance_uid: str, *, offline: bool) -> StudyExplained:
    """What every rule makes of a study; asks its nodes unless `offline`. Raises RouterError."""
    with explaining(rules, study_instance_uid, lambda _: None, offline=offline) as opened:
        return opened.studies.explain(list(rules.rules.values()))


class Practice(NamedTuple):
    """A doctor for the nodes, and what was found on this router's own side."""

    doctor: Doctor
    router: list[Check]


@contextmanager
def practice(rules: RuleSet, where: Where, warnings: list[str], *, wanted: bool | None) -> Iterator[Practice]:
    """What `doctor` works with. It writes neither to the ledger nor to the store; for `wanted` see MoveCheck."""
    clock, machine = SystemClock(), ThisMachine(rules.router)
    with ExitStack() as stack:
        ledger: SqlLedger | None = None
        said, problem = "", ""
        try:
            ledger = stack.enter_context(open_ledger(rules, read_only=True, create=False))
            said = "The ledger opens, and is of this version."
        except LedgerMissing as missing:
            said = f"{missing} The first start makes it." if _ledger_file(rules) else str(missing)
        except (LedgerError, ConfigurationError) as error:
            problem = str(error)
        services: list[ServiceSeen] = []
        away: dict[StoreSeen, int] = {}
        knowledge = Knowledge()
        if ledger is not None:
            found = running_services(ledger)
            services = _seen(rules, found)
            away = _away(rules, found, ledger)
            knowledge = Knowledge(caps=ledger.caps(), stopped=ledger.stopped_routes())

        def metrics() -> str:
            """Those of all services that run on this ledger."""
            return _metrics(machine, [one.address for one in services])

        router = own_side(
            rules,
            where,
            machine,
            services=services,
            warnings=warnings,
            ledger=said,
            ledger_problem=problem,
            ledger_file=_ledger_file(rules),
            server=_server(rules, len(services), where, clock.now),
            away=away,
            now=clock.now(),
        )
        if services:
            knowledge = Knowledge(caps=knowledge.caps, stopped=knowledge.stopped, left_alone=left_alone(metrics()))
        landing = Landing()
        stack.callback(landing.close)
        peers = Peers(
            rules.router.ae_title,
            lambda event: None,
            idle_seconds=0.0,
            intake=Intake(landing, lambda receipt: None),
        )
        stack.callback(peers.close)
        listening: list[Landing] = []

        def land(listen: bool) -> Landing:
            if listen and not listening:
                landing.open(
                    ServerSettings(
                        host=rules.router.listen_host, port=rules.router.listen_port, claim=True, tls=rules.router.tls
                    )
                )
                listening.append(landing)
            return landing

        asked = by_hand(rules, peers, clock.now)
        mover = MoveCheck(
            peers=asked,
            landing=land,
            memory=ledger,
            metrics=metrics if services else None,
            clock=clock,
            wanted=wanted,
        )
        doctor = Doctor(
            rules,
            where,
            probe=Probing(rules.router.ae_title),
            peers=asked,
            mover=mover,
            machine=machine,
            clock=clock,
            knowledge=knowledge,
        )
        yield Practice(doctor, router)
