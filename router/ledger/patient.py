"""A connection to PostgreSQL that does not wait for ever: a database that hangs is as good as one that is away.

One whose storage stalls, or that is stopped like a process, keeps its connections and says nothing: no timeout of its
own ends a statement then, and TCP finds the other side alive.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

try:
    import psycopg
except ImportError:  # an optional part of the installation
    pass
else:

    class UnansweredError(psycopg.OperationalError):
        """The database has said nothing for too long; the connection is closed."""

    class PatientConnection(psycopg.Connection[Any]):
        """A connection whose statements fail with UnansweredError once nothing was heard for so long.

        `patience` is in seconds, None: for ever. `unanswered` is called where it ran out.
        """

        patience: float | None = None
        unanswered: Callable[[], None] | None = None

        def wait(self, gen: Any, *arguments: Any, **named: Any) -> Any:
            """All that waits for the database goes through here (`psycopg.Connection.wait`)."""
            if self.patience is None:
                return super().wait(gen, *arguments, **named)
            try:
                return super().wait(_until(gen, self.patience), *arguments, **named)
            except UnansweredError:
                self.close()
                if self.unanswered is not None:
                    self.unanswered()
                raise

    def _until(waiting: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
        """The same, but for the end. The driver sends 0 ten times a second while there is nothing to read or write."""
        heard = time.monotonic()
        try:
            wanted = next(waiting)
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - heard > seconds:
                    raise UnansweredError("the database does not answer")
                wanted = waiting.send(ready)
        except StopIteration as end:
            return end.value
