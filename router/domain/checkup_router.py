"""Verdicts of `doctor` on this router's own side: ports, disk, limits, clock, time zones, a running service. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from ipaddress import ip_address

from router.domain.checkup import Check, Where, fail, ok, skipped, warn
from router.domain.rule import LOCAL, RouterSettings, RuleSet

_MIB = 1 << 20
_FILES_BESIDES = 128
"""Files that a receiver has open besides its associations: libraries, pipes, the ledger."""
_FILES_EACH = 3
"""Per association: its socket, the file it writes, the directory that goes in."""
_FEW_INODES = 0.02
_ZONES_YEARS = 2
_STOPPING = "service: stopping"
"""What /readyz says of a service that has been told to stop."""

_PORTS = {
    "in-use": ("another program uses the port", "stop it, or change {place}"),
    "not-allowed": ("this user may not listen there: ports below 1024 need a privilege", "change {place}"),
    "no-such-address": ("this machine does not have that address", "change {place}"),
    "unusable": ("the system does not allow it", "change {place}"),
}
"""By what stands in the way of listening: the words, and what to do."""


def port(check: str, what: str, address: str, problem: str, ours: bool | None, place: str) -> Check:
    """On a port to listen at. `ours`: a running service is taken to hold it, None: that is not to be told.

    `place` is its key.
    """
    if problem == "in-use" and ours is None:
        sentence = f"A program listens on {address} ({what}); whether it is this router's service cannot be told"
        return warn(check, "whose", f"{sentence} without the ledger.", "mend the ledger first, then look again")
    if problem == "in-use" and ours:
        return ok(check, "ours", f"The running service listens on {address} ({what}).")
    if problem:
        words, advice = _PORTS[problem]
        return fail(check, problem, f"{what} cannot listen on {address}: {words}.", advice.format(place=place))
    if ours:
        sentence = f"A service runs on this ledger, but does not listen on {address} ({what})."
        return warn(check, "not-listening", sentence, f"restart it, if {place} was changed; else see its log")
    return ok(check, "free", f"{address} is free for {what}.")


def reachable(rules: RuleSet, where: Where) -> Check:
    """On the address that others reach this router at."""
    host = rules.router.listen_host
    bringing = [
        node
        for rule in rules.rules.values()
        if rule.enabled and LOCAL in rule.move.to and (node := rules.nodes.get(rule.source)) is not None
    ]
    far = sorted({node.name for node in bringing if not _loopback(node.host)})
    if _loopback(host) and far:
        return warn(
            "listen address",
            "loopback",
            f"This router listens on {host}, which {', '.join(far)} cannot reach.",
            f"set listen: 0.0.0.0:{rules.router.listen_port} at {where('router', 'listen')}",
        )
    whom = f"Sources send to AE title {rules.router.ae_title} at port {rules.router.listen_port}"
    return ok("listen address", "reachable", f"{whom}{'' if host in ('0.0.0.0', '::') else f' of {host}'}.")


def directory(check: str, path: str, exists: bool, problem: str, place: str) -> Check:
    """On a directory that was tried: write, sync, rename."""
    if problem:
        return fail(
            check, "unusable", f"{path} cannot be used: {problem}.", f"give this user the right, or change {place}"
        )
    state = "can be written, synced and renamed in" if exists else "can be made"
    return ok(check, "usable", f"{path} {state}.")


def space(free: int, minimum: int, where: Where) -> Check:
    """On the free space of the store's file system, in bytes."""
    place = where("router", "minimum_free")
    sentence = f"{_bytes(free)} are free for the store, {_bytes(minimum)} must stay free"
    if free < minimum:
        return fail("disk", "full", f"{sentence}: every instance is refused (A700).", f"make room, or lower {place}")
    if free < 2 * minimum:
        return warn("disk", "low", f"{sentence}.", f"make room, or lower {place}")
    return ok("disk", "enough", f"{sentence}.")


def inodes(free: int, total: int) -> Check:
    """On the files that the store's file system has room for: each instance is one."""
    if not total:
        return ok("inodes", "not-counted", "The store's file system does not count files.")
    if free < total * _FEW_INODES:
        return fail("inodes", "few", f"The store's file system has room for {free:,} more files.", "make room there")
    return ok("inodes", "enough", f"The store's file system has room for {free:,} more files.")


def open_files(limit: int, router: RouterSettings, where: Where) -> Check:
    """On the limit of open files of a process against the associations a receiver may have."""
    wanted = router.maximum_associations * _FILES_EACH + _FILES_BESIDES
    if limit < wanted:
        return warn(
            "open files",
            "few",
            f"A process started here may open {limit} files; {router.maximum_associations} associations may need more.",
            f"raise the limit (ulimit -n, LimitNOFILE) to {wanted}, or lower {where('router', 'maximum_associations')}",
        )
    return ok("open files", "enough", f"A process started here may open {limit} files; at most {wanted} are needed.")


def zones(lacking: Sequence[str], version: str, now: datetime) -> Check:
    """On the time zone database: zones that do not load, its release."""
    if lacking:
        names = ", ".join(lacking)
        return fail("time zones", "missing", f"The time zone database lacks {names}.", "update tzdata on this machine")
    if not version:
        return ok("time zones", "loaded", "Every configured time zone loads.")
    year = int(version[:4]) if version[:4].isdigit() else now.year
    if now.year - year >= _ZONES_YEARS:
        sentence = f"The time zone database is of {version}; rules for summer time may have changed since."
        return warn("time zones", "old", sentence, "update tzdata on this machine")
    return ok("time zones", "loaded", f"Every configured time zone loads (tzdata {version}).")


def clock(synchronised: bool | None) -> Check:
    """On this machine's clock."""
    if synchronised is None:
        return skipped(
            "clock", "not-told", "Not to be told: the system does not say whether its clock is synchronised."
        )
    if not synchronised:
        sentence = "The system says that its clock is not synchronised."
        return warn("clock", "not-synchronised", sentence, "set up NTP on this machine (chrony, systemd-timesyncd)")
    return ok("clock", "synchronised", "The system says that its clock is synchronised.")


def configuration(nodes: int, rules: int, warnings: Sequence[str]) -> Check:
    """On the configuration, which has no errors; each warning begins with its place."""
    if warnings:
        count = f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''}"
        sentence = f"The configuration is valid, with {count}: {warnings[0].rstrip('.')}."
        return warn("configuration", "warnings", sentence, "see all with: dicom-router validate")
    return ok("configuration", "valid", f"The configuration is valid: nodes {nodes}, rules {rules}.")


def service(answers: dict[str, tuple[int, str] | None], address: str, same: bool, other: str = "") -> list[Check]:
    """On a running service, by what its /healthz and /readyz answer (status and problems).

    `same`: it has this configuration, as far as it should; `other` names a replica that has one of its own.
    """
    checks = []
    who = f"The replica {other}" if other else "The running service"
    for path, answer in answers.items():
        check = path.strip("/")
        if answer is None:
            advice = "see its log; is it the one that runs on this ledger?"
            checks.append(fail(check, "silent", f"{who} does not answer at {address}{path}.", advice))
        elif _STOPPING in answer[1]:
            sentence = f"{who} at {address} is being stopped."
            checks.append(warn(check, "stopping", sentence, "nothing, where somebody stops it on purpose"))
        elif answer[0] != 200:
            sentence = f"{who} says at {address}{path}: {answer[1] or answer[0]}."
            checks.append(fail(check, "failing", sentence, "mend what it names; its log says more"))
        else:
            checks.append(ok(check, "ok", f"{who} says at {address}{path} that all is well."))
    if not same and other:
        sentence = f"{who} has other nodes, rules or windows loaded than these files."
        checks.append(warn("service", "other-configuration", sentence, "give it the same files, or wait until it has"))
    elif not same:
        sentence = f"{who} has another configuration loaded than these files."
        checks.append(warn("service", "other-configuration", sentence, "send it SIGHUP, or restart it"))
    return checks


def not_here(others: Sequence[str]) -> Check:
    """On a replica that does not run while others do."""
    sentence = f"This replica does not run; others do: {', '.join(others)}."
    return warn("service", "not-here", sentence, "start it, unless it is stopped on purpose; its log says why it ended")


def away(replica: str, seen_at: datetime, instances: int) -> Check:
    """On a store that no running replica has, but which the ledger says holds instances."""
    held = f"{instances:,} instance{'' if instances == 1 else 's'}"
    seen = f"{seen_at.astimezone():%Y-%m-%d %H:%M}"
    return warn(
        "replica",
        "away",
        f"The replica {replica} does not run (last seen {seen}); its store holds {held}, and work may wait for them.",
        f"start it again; where it is gone for good: dicom-router store forget {replica}",
    )


def ae_title(router: RouterSettings, where: Where) -> Check:
    """On this router's AE title."""
    title = router.ae_title
    if title != title.upper():
        sentence = f"This router's AE title is {title}: some systems only know capital letters."
        return warn("ae title", "lower-case", sentence, f"use capital letters at {where('router', 'ae_title')}")
    return ok("ae title", "usual", f"This router's AE title is {title}.")


def _loopback(host: str) -> bool:
    if host.casefold() in ("localhost", "ip6-localhost") or host.casefold().endswith(".localhost"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _bytes(number: int) -> str:
    return f"{number / (1 << 30):.1f} GiB" if number >= 1 << 30 else f"{number // _MIB} MiB"
