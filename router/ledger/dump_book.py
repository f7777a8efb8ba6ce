"""The part of the ledger that treats it as a whole: out into a file, in from one, how large it is."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection

from router.domain.ledger_state import Exported, LedgerState, MovedTable
from router.errors import LedgerError
from router.ledger import dump
from router.ledger.census import census
from router.ledger.database import Database
from router.ledger.dump_file import new_dump, open_dump
from router.ledger.services import seen_since

ALIVE = timedelta(seconds=60)
"""A service that announced itself within this time may be working."""


class DumpBook:
    """The ledger as a whole. Raises only LedgerError and UsageError; thread-safe."""

    _database: Database

    def export_to(self, path: Path, *, force: bool, made_by: str, progress: dump.Progress) -> Exported:
        """Write all of it, as it is at this moment, to a new file that only its owner may read.

        Services may work on. `force` replaces a file of that name. Raises UsageError where the path cannot be used.
        """
        file = self._database.path
        keep = [file.with_name(f"{file.name}{end}") for end in ("", "-wal", "-shm", ".lock")] if file else []
        at = self._database.clock().now()
        with new_dump(path, force=force, keep=keep) as writer:
            with self._database.read(long=True) as connection:
                services = len(seen_since(connection, at - ALIVE))
                dump.export(connection, writer, made_at=at, made_by=made_by, progress=progress)
            moved = tuple(MovedTable(name=name, rows=rows) for name, rows in writer.end().items())
        return Exported(at=at, tables=moved, services=services)

    def import_from(self, path: Path, *, progress: dump.Progress) -> tuple[MovedTable, ...]:
        """Fill this ledger, which must be empty and not in use, from an export: all of it or nothing."""
        now = self._database.clock().now()
        with open_dump(path) as reader:
            try:
                dump.refuse_contents(reader.contents)
                with self._database.write(long=True) as connection:
                    self._refuse_if_in_use(connection, now)
                    return dump.import_(connection, reader, now=now, progress=progress)
            except dump.UnusableDumpError as error:
                raise LedgerError(f"{path} {error}; nothing was imported.") from None

    def _refuse_if_in_use(self, connection: Connection, now: datetime) -> None:
        name = self._database.name
        if seen_since(connection, now - ALIVE):
            raise LedgerError(f"A service runs on the ledger {name}; stop it, wait a minute, then import.")
        if dump.in_use(connection):
            raise LedgerError(
                f"The ledger {name} is not empty, and an import never mixes; name a new one in router.ledger, or, "
                "where a service was started on it too early, stop that and make the database anew."
            )

    def census(self) -> LedgerState:
        """What there is to know about it as a database."""
        with self._database.read() as connection:
            return census(connection, self._database.name, self._database.path, self._database.clock().now() - ALIVE)
