"""The queries about caps: at how many matches nodes were seen to cut their answers."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from router.ledger.database import insert_or
from router.ledger.tables import caps

_c = caps.c


def known(connection: Connection) -> dict[str, int]:
    """Name of a node -> number of matches."""
    return {row.node: row.matches for row in connection.execute(select(caps))}


def learn(connection: Connection, node: str, matches: int) -> None:
    """Remember one; 0 forgets it."""
    if not matches:
        connection.execute(delete(caps).where(_c.node == node))
        return
    statement = insert_or(caps, connection).values(node=node, matches=matches)
    connection.execute(statement.on_conflict_do_update(index_elements=["node"], set_={"matches": matches}))
