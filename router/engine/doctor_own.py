"""`doctor` on this router's own side, over ports; what each finding means stands in `domain.checkup_router`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import PurePath

from router.domain import checkup_router
from router.domain.checkup import Check, Where, fail, ok
from router.domain.checkup_wire import expiring
from router.domain.rule import RuleSet
from router.domain.stores import StoreSeen
from router.domain.surroundings import certificates
from router.engine.doctor_port import Machine, ServiceSeen

_WHOSE = {
    "router.tls.certificate": ("certificate", "The Store SCP's certificate"),
    "router.http_tls.certificate": ("http certificate", "The certificate of HTTP"),
}
_LEFT_ALONE = re.compile(r'^dicom_router_breaker_open\{node="([^"]*)"\} 1(?:\.0)?$', re.MULTILINE)


def left_alone(metrics: str) -> frozenset[str]:
    """The nodes that a running service leaves alone, by its metrics."""
    return frozenset(_LEFT_ALONE.findall(metrics))


def own_side(
    rules: RuleSet,
    where: Where,
    machine: Machine,
    *,
    services: Sequence[ServiceSeen],
    warnings: Sequence[str],
    ledger: str,
    ledger_problem: str,
    ledger_file: str,
    server: Sequence[Check] = (),
    away: Mapping[StoreSeen, int] | None = None,
    now: datetime,
) -> list[Check]:
    """The checks of this router.

    `ledger` says what was found of it, `ledger_problem` why it cannot be opened, `ledger_file` where it lives;
    `server` are the checks of the server that keeps it otherwise; `away` are stores that no running service has, with
    how many instances they hold.
    """
    checks = [checkup_router.configuration(len(rules.nodes), len(rules.rules), warnings)]
    checks.append(checkup_router.ae_title(rules.router, where))
    own = [service for service in services if service.own]
    unlisted = _unlisted(rules, machine) if ledger_problem else {}
    running = None if ledger_problem and not unlisted else bool(own or unlisted)
    checks += _ports(rules, where, machine, running)
    checks.append(checkup_router.reachable(rules, where))
    for address, answers in unlisted.items():
        checks += checkup_router.service(answers, address, same=True)
    for service in services:
        if service.address:
            if service.own:
                same, other = service.content_hash == rules.content_hash, ""
            else:
                same, other = service.work_hash == rules.work_hash, service.replica
            checks += checkup_router.service(_answers(machine, service.address), service.address, same, other)
    if services and not own:
        checks.append(checkup_router.not_here([service.replica for service in services]))
    for store, instances in (away or {}).items():
        checks.append(checkup_router.away(store.replica or store.name, store.seen_at, instances))
    checks += _store(rules, where, machine)
    checks += [*_ledger(ledger, ledger_problem, ledger_file, where, machine), *server]
    checks.append(checkup_router.open_files(machine.open_files(), rules.router, where))
    zones = {node.timezone for node in rules.nodes.values()} | {one.timezone for one in rules.windows.values()}
    lacking = sorted(zone for zone in zones if not machine.zone_loads(zone))
    checks.append(checkup_router.zones(lacking, machine.zone_version(), now))
    checks.append(checkup_router.clock(machine.clock_synchronised()))
    return checks + _certificates(rules, where, machine, now)


def _certificates(rules: RuleSet, where: Where, machine: Machine, now: datetime) -> list[Check]:
    """Files with certificates, each once; what this router shows a node is looked at where the node is."""
    checks = []
    for key, path in certificates(rules).items():
        *keys, role = key.split(".")
        if keys[0] == "nodes" and role == "certificate":
            continue
        if role == "certificate":
            valid = machine.certificate(path)
            last = valid.last if valid is not None else None
        else:
            last = machine.first_end(path)
        check, whose = _WHOSE.get(key, ("authorities", f"A certificate in {key}"))
        renew = f"renew the file {role} in {where(*keys)}"
        checks.append(expiring(check, f"{whose} {path}", last, now, renew))
    return checks


def _unlisted(rules: RuleSet, machine: Machine) -> dict[str, dict[str, tuple[int, str] | None]]:
    """The address and answers of a service at the configured HTTP port, where no ledger tells of one; else nothing."""
    router = rules.router
    host = f"[{router.http_host}]" if ":" in router.http_host.strip("[]") else router.http_host
    address = f"{'https://' if router.http_tls is not None else ''}{host}:{router.http_port}"
    if machine.port_problem(router.http_host, router.http_port) != "in-use":
        return {}
    said = machine.ask(address, "/healthz")
    return {address: _answers(machine, address)} if said is not None and _is_ours(said[1]) else {}


def _is_ours(body: str) -> bool:
    """Whether a service of ours answers /healthz so."""
    try:
        found = json.loads(body)
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() >= {"status", "problems"}


def _answers(machine: Machine, address: str) -> dict[str, tuple[int, str] | None]:
    return {path: _state(machine.ask(address, path)) for path in ("/healthz", "/readyz")}


def _ports(rules: RuleSet, where: Where, machine: Machine, running: bool | None) -> list[Check]:
    """`running`: the service of this configuration runs; None: that is not known."""
    router = rules.router
    ports: list[tuple[str, str, str, int, tuple[str, ...]]] = [
        ("dicom port", "the Store SCP", router.listen_host, router.listen_port, ("router", "listen")),
        ("http port", "HTTP", router.http_host, router.http_port, ("router", "http")),
    ]
    if router.hl7 is not None:
        ports.append(("hl7 port", "HL7", router.hl7.host, router.hl7.port, ("router", "hl7", "listen")))
    return [
        checkup_router.port(check, what, f"{host}:{number}", machine.port_problem(host, number), running, where(*keys))
        for check, what, host, number, keys in ports
    ]


def _store(rules: RuleSet, where: Where, machine: Machine) -> list[Check]:
    found = machine.directory(rules.router.store)
    check = checkup_router.directory("store", found.path, found.exists, found.problem, where("router", "store"))
    if found.problem and not found.free:
        return [check]
    return [
        check,
        checkup_router.space(found.free, rules.router.minimum_free, where),
        checkup_router.inodes(found.inodes_free, found.inodes),
    ]


def _ledger(said: str, problem: str, file: str, where: Where, machine: Machine) -> list[Check]:
    place = where("router", "ledger")
    if problem:
        return [fail("ledger", "unusable", problem, f"mend it, or change {place}")]
    if file:
        found = machine.directory(str(PurePath(file).parent))
        tried = checkup_router.directory("ledger", found.path, found.exists, found.problem, place)
        if found.problem:
            return [tried]
    return [ok("ledger", "usable", said)]


def _state(answer: tuple[int, str] | None) -> tuple[int, str] | None:
    """The status and the problems that a service names, as words."""
    if answer is None:
        return None
    try:
        problems = json.loads(answer[1]).get("problems", {})
        return answer[0], "; ".join(f"{part}: {what}" for part, what in problems.items())
    except (ValueError, AttributeError):
        return answer[0], ""
