"""Verdicts of `doctor` on the database server that keeps the ledger. Pure."""

from __future__ import annotations

from router.domain.checkup import Check, fail, ok, warn
from router.domain.ledger_state import DatabaseSeen

SLOW_SECONDS = 0.02
"""A claim takes some questions, one after the other: with slower answers the database decides how much is moved."""
APART_SECONDS = 2.0
_UTF8 = "UTF8"


def server(seen: DatabaseSeen, services: int, connections_each: int, place: str) -> list[Check]:
    """On a server as it was found. `services` share it, each with so many connections; `place` names the key."""
    return [
        _answers(seen),
        _rights(seen, place),
        _encoding(seen),
        _clock(seen),
        _connections(seen, services, connections_each),
        _durability(seen),
    ]


def _answers(seen: DatabaseSeen) -> Check:
    sentence = f"PostgreSQL {seen.version} answers within {seen.seconds * 1000:.1f} ms."
    if seen.seconds > SLOW_SECONDS:
        return warn("database", "slow", sentence, "put it on the same network; each transfer takes some dozen answers")
    return ok("database", "answers", sentence)


def _rights(seen: DatabaseSeen, place: str) -> Check:
    check = "database rights"
    if seen.read_only:
        sentence = "The database takes no changes: it is a standby, or set to be read only."
        return fail(check, "read-only", sentence, f"name the primary server in {place}")
    if not seen.may_create:
        sentence = "This user may not make tables, which the first start and each upgrade do."
        return fail(check, "no-tables", sentence, "let the user own the database: ALTER DATABASE ... OWNER TO ...")
    if not seen.may_write:
        sentence = "This user may not change the ledger's tables: they belong to another."
        return fail(check, "not-its-own", sentence, f"use their owner in {place}, or give them to this user")
    return ok(check, "sufficient", "This user may make and change tables.")


def _encoding(seen: DatabaseSeen) -> Check:
    check = "database encoding"
    if seen.encoding != _UTF8:
        sentence = f"The database keeps its texts in {seen.encoding}, which lacks characters of patients' data."
        return fail(
            check, "not-utf8", sentence, "create it anew: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )
    return ok(check, "utf8", "The database keeps its texts in UTF-8.")


def _clock(seen: DatabaseSeen) -> Check:
    check = "database clock"
    apart = abs(seen.ahead_seconds)
    if apart > APART_SECONDS:
        way = "ahead of" if seen.ahead_seconds > 0 else "behind"
        sentence = f"The database's clock is {apart:.1f} s {way} this machine's."
        return warn(check, "apart", sentence, "set up NTP on both (chrony, systemd-timesyncd)")
    return ok(check, "together", f"The database's clock and this machine's agree within {max(apart, 0.1):.1f} s.")


def _connections(seen: DatabaseSeen, services: int, each: int) -> Check:
    check, wanted = "database connections", services * each
    whose = "a service needs" if services == 1 else f"{services} services need"
    sentence = f"The database lets in {seen.connections} connections at once; {whose} up to {wanted}."
    if seen.connections < wanted:
        return fail(check, "few", sentence, f"set max_connections to {wanted + 10} or more, and restart the database")
    if seen.connections < wanted + each:  # while one is replaced there is one more
        return warn(check, "scarce", sentence, f"set max_connections to {wanted + each + 10} or more")
    return ok(check, "enough", sentence)


def _durability(seen: DatabaseSeen) -> Check:
    check, advice = "database durability", "set it to on in postgresql.conf"
    if not seen.fsync:
        return warn(
            check, "no-fsync", "fsync is off: a crash of the database's machine may destroy the ledger.", advice
        )
    if seen.synchronous_commit == "off":
        sentence = "synchronous_commit is off: after a crash of the database the last moves may be made again."
        return warn(check, "not-synchronous", sentence, advice)
    return ok(check, "kept", "What the database has acknowledged outlives a crash.")
