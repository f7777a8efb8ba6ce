"""The queries about what services share about nodes: read, decide, write, under the rows' locks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

from sqlalchemy import Connection, bindparam, delete, select, update

from router.domain.node_state import MOVES_SECONDS, NodeState
from router.domain.ration import Circle, Ration, RationLook
from router.domain.replicas import LOST_SECONDS
from router.ledger.database import insert_or
from router.ledger.node_state_tables import node_states
from router.ledger.tables import services

_Decision = TypeVar("_Decision")

CIRCLE = ""
"""The name of the row that is no node's."""
_FORGOTTEN_AFTER = timedelta(seconds=2 * MOVES_SECONDS)


Versions = dict[str, tuple[int, NodeState]]
"""Node -> the version of its state, which rises whenever it is written, and the state."""


# Built once: what is asked with each slot is to cost little.
_c = node_states.c
_STATES = select(_c.node, _c.version, _c.state).where(_c.node.in_(bindparam("nodes", expanding=True))).order_by(_c.node)
_LOCK, _SHARE = _STATES.with_for_update(), _STATES.with_for_update(read=True)
_VERSIONS = select(_c.node, _c.version)
_CHANGE = update(node_states).where(_c.node == bindparam("name"))
_SEEN = select(services.c.owner, services.c.seen_at)


class _Row(NamedTuple):
    version: int
    content: bytes


def _seen(connection: Connection) -> dict[str, datetime]:
    """When each service announced itself last."""
    return {row.owner: row.seen_at for row in connection.execute(_SEEN)}


def _lost(seen: Mapping[str, datetime], owners: Collection[str], lost_at: datetime) -> frozenset[str]:
    """Those of these owners that live no more: they have withdrawn, or were not seen for so long."""
    since = lost_at - timedelta(seconds=LOST_SECONDS)
    return frozenset(owner for owner in owners if owner not in seen or seen[owner] < since)


def decide(
    connection: Connection,
    nodes: Collection[str] | None,
    decision: Callable[[Ration], _Decision],
    now: datetime,
    lost_at: datetime,
) -> tuple[_Decision, Versions]:
    """Have it decided about these nodes, and write down what it changed; what they are then.

    `nodes` None: about all there are, and the circle. Else the circle is only read, and stays as it is until the end.
    The rows are locked in one order, the circle first, so that no two wait for each other.
    """
    everything = nodes is None
    locked = _known(connection, [CIRCLE], share=not everything)
    if not locked:
        _insert(connection, [CIRCLE], Circle().packed(), now)
        locked = _known(connection, [CIRCLE], share=not everything)
    circle = locked[CIRCLE]
    names = sorted(_names(connection) if nodes is None else nodes)
    rows = _known(connection, names)
    missing = [name for name in names if name not in rows]
    if missing:
        _insert(connection, missing, NodeState().packed(0.0), now)
        rows = _known(connection, names)
    ration = Ration(
        Circle.unpacked(circle.content),
        {name: NodeState.unpacked(rows[name].content) for name in names},
        lambda owners: _lost(_seen(connection), owners, lost_at),
    )
    decided = decision(ration)
    if everything:
        _write(connection, CIRCLE, circle, ration.circle.packed(), now)
        added = ration.nodes.keys() - rows.keys()
        if added:
            _insert(connection, sorted(added), NodeState().packed(0.0), now)
            rows |= _known(connection, sorted(added))
        connection.execute(
            delete(node_states).where(
                node_states.c.changed_at < now - _FORGOTTEN_AFTER, node_states.c.node.not_in([CIRCLE, *_busy(ration)])
            )
        )
    versions: Versions = {}
    for name, state in ration.nodes.items():
        number = _write(connection, name, rows[name], state.packed(now.timestamp()), now)
        versions[name] = number, state
    return decided, versions


def look(connection: Connection, known: Mapping[str, int], lost_at: datetime) -> RationLook:
    """The circle, when each of it was seen, and the states of the nodes that are not of the version that is known."""
    rows = connection.execute(_VERSIONS).all()
    names = [row.node for row in rows if row.node == CIRCLE or known.get(row.node) != row.version]
    found = _read(connection, names)
    content = found.pop(CIRCLE, None)
    circle = Circle.unpacked(content.content) if content is not None else Circle()
    seen = _seen(connection)
    states = {name: (row.version, NodeState.unpacked(row.content)) for name, row in found.items()}
    return RationLook(circle, seen, _lost(seen, circle.members, lost_at), states)


def _busy(ration: Ration) -> list[str]:
    return [name for name, state in ration.nodes.items() if state.held or state.coming]


def _names(connection: Connection) -> list[str]:
    return list(connection.scalars(select(node_states.c.node).where(node_states.c.node != CIRCLE)))


def _read(connection: Connection, names: Collection[str]) -> dict[str, _Row]:
    rows = connection.execute(_STATES, {"nodes": list(names)})
    return {row.node: _Row(row.version, row.state) for row in rows}


def _known(connection: Connection, names: Collection[str], *, share: bool = False) -> dict[str, _Row]:
    """These rows, locked until the transaction ends."""
    rows = connection.execute(_SHARE if share else _LOCK, {"nodes": list(names)})
    return {row.node: _Row(row.version, row.state) for row in rows}


def _insert(connection: Connection, names: Collection[str], content: bytes, now: datetime) -> None:
    # Above all versions that a forgotten row of that name can have had: who knew it is to see what is new.
    version = int(now.timestamp() * 1e6)
    rows = [{"node": name, "state": content, "version": version, "changed_at": now} for name in names]
    connection.execute(insert_or(node_states, connection).on_conflict_do_nothing(), rows)


def _write(connection: Connection, name: str, before: _Row, content: bytes, now: datetime) -> int:
    """Write a state where it is another than before; its version."""
    if content == before.content:
        return before.version
    version = before.version + 1
    connection.execute(_CHANGE, {"name": name, "state": content, "version": version, "changed_at": now})
    return version
