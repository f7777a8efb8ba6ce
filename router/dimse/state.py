"""The upper layer's state machine, PS3.8 section 9.2: every transition is a cell of TABLE, nothing here does I/O.

What an action means is done by `association.py`; an event that has no cell in a state cannot come from a peer, so it is
a fault of this side.
"""

from __future__ import annotations

from enum import Enum, StrEnum

from router.errors import LocalProtocolError


class Role(StrEnum):
    """Who asked for the association."""

    REQUESTOR = "requestor"
    ACCEPTOR = "acceptor"


class State(Enum):
    """PS3.8 table 9-1 to 9-5."""

    IDLE = 1
    AWAITING_ASSOCIATE_RQ = 2
    AWAITING_LOCAL_ASSOCIATE_RESPONSE = 3
    AWAITING_TRANSPORT = 4
    AWAITING_ASSOCIATE_AC = 5
    ESTABLISHED = 6
    AWAITING_RELEASE_RP = 7
    AWAITING_LOCAL_RELEASE_RESPONSE = 8
    COLLISION_REQUESTOR = 9
    COLLISION_ACCEPTOR = 10
    COLLISION_REQUESTOR_AWAITING_RP = 11
    COLLISION_ACCEPTOR_AWAITING_LOCAL = 12
    AWAITING_CLOSE = 13


class Event(Enum):
    """PS3.8 table 9-10, the rows."""

    ASSOCIATE_REQUEST = 1
    TRANSPORT_CONFIRM = 2
    ASSOCIATE_AC_PDU = 3
    ASSOCIATE_RJ_PDU = 4
    TRANSPORT_INDICATION = 5
    ASSOCIATE_RQ_PDU = 6
    ASSOCIATE_ACCEPT = 7
    ASSOCIATE_REJECT = 8
    P_DATA_REQUEST = 9
    P_DATA_PDU = 10
    RELEASE_REQUEST = 11
    RELEASE_RQ_PDU = 12
    RELEASE_RP_PDU = 13
    RELEASE_RESPONSE = 14
    ABORT_REQUEST = 15
    ABORT_PDU = 16
    TRANSPORT_CLOSED = 17
    ARTIM_EXPIRED = 18
    INVALID_PDU = 19


class Action(StrEnum):
    """PS3.8 tables 9-6 to 9-9."""

    AE_1 = "AE-1"
    AE_2 = "AE-2"
    AE_3 = "AE-3"
    AE_4 = "AE-4"
    AE_5 = "AE-5"
    AE_6 = "AE-6"
    AE_7 = "AE-7"
    AE_8 = "AE-8"
    DT_1 = "DT-1"
    DT_2 = "DT-2"
    AR_1 = "AR-1"
    AR_2 = "AR-2"
    AR_3 = "AR-3"
    AR_4 = "AR-4"
    AR_5 = "AR-5"
    AR_6 = "AR-6"
    AR_7 = "AR-7"
    AR_8 = "AR-8"
    AR_9 = "AR-9"
    AR_10 = "AR-10"
    AA_1 = "AA-1"
    AA_2 = "AA-2"
    AA_3 = "AA-3"
    AA_4 = "AA-4"
    AA_5 = "AA-5"
    AA_6 = "AA-6"
    AA_7 = "AA-7"
    AA_8 = "AA-8"


_S, _E, _A = State, Event, Action

_REFUSE = (_A.AA_8, _S.AWAITING_CLOSE)
_ABORT = (_A.AA_1, _S.AWAITING_CLOSE)
_ABORTED = (_A.AA_3, _S.IDLE)
_CLOSED = (_A.AA_4, _S.IDLE)
_IGNORE = (_A.AA_6, _S.AWAITING_CLOSE)
_CLOSE = (_A.AA_2, _S.IDLE)

Cell = tuple[Action, State]

# What holds in every state that has an association or waits for one, unless the state's own row says otherwise.
_COMMON: dict[Event, Cell] = {
    _E.ASSOCIATE_AC_PDU: _REFUSE,
    _E.ASSOCIATE_RJ_PDU: _REFUSE,
    _E.ASSOCIATE_RQ_PDU: _REFUSE,
    _E.P_DATA_PDU: _REFUSE,
    _E.RELEASE_RQ_PDU: _REFUSE,
    _E.RELEASE_RP_PDU: _REFUSE,
    _E.ABORT_REQUEST: _ABORT,
    _E.ABORT_PDU: _ABORTED,
    _E.TRANSPORT_CLOSED: _CLOSED,
    _E.INVALID_PDU: _REFUSE,
}

TABLE: dict[State, dict[Event, Cell]] = {
    _S.IDLE: {
        _E.ASSOCIATE_REQUEST: (_A.AE_1, _S.AWAITING_TRANSPORT),
        _E.TRANSPORT_INDICATION: (_A.AE_5, _S.AWAITING_ASSOCIATE_RQ),
    },
    _S.AWAITING_ASSOCIATE_RQ: {
        _E.ASSOCIATE_AC_PDU: _ABORT,
        _E.ASSOCIATE_RJ_PDU: _ABORT,
        _E.ASSOCIATE_RQ_PDU: (_A.AE_6, _S.AWAITING_LOCAL_ASSOCIATE_RESPONSE),
        _E.P_DATA_PDU: _ABORT,
        _E.RELEASE_RQ_PDU: _ABORT,
        _E.RELEASE_RP_PDU: _ABORT,
        _E.ABORT_PDU: _CLOSE,
        _E.TRANSPORT_CLOSED: (_A.AA_5, _S.IDLE),
        _E.ARTIM_EXPIRED: _CLOSE,
        _E.INVALID_PDU: _ABORT,
    },
    _S.AWAITING_LOCAL_ASSOCIATE_RESPONSE: _COMMON
    | {
        _E.ASSOCIATE_ACCEPT: (_A.AE_7, _S.ESTABLISHED),
        _E.ASSOCIATE_REJECT: (_A.AE_8, _S.AWAITING_CLOSE),
    },
    _S.AWAITING_TRANSPORT: {
        _E.TRANSPORT_CONFIRM: (_A.AE_2, _S.AWAITING_ASSOCIATE_AC),
        _E.ABORT_REQUEST: _CLOSE,
        _E.TRANSPORT_CLOSED: _CLOSED,
    },
    _S.AWAITING_ASSOCIATE_AC: _COMMON
    | {
        _E.ASSOCIATE_AC_PDU: (_A.AE_3, _S.ESTABLISHED),
        _E.ASSOCIATE_RJ_PDU: (_A.AE_4, _S.IDLE),
    },
    _S.ESTABLISHED: _COMMON
    | {
        _E.P_DATA_REQUEST: (_A.DT_1, _S.ESTABLISHED),
        _E.P_DATA_PDU: (_A.DT_2, _S.ESTABLISHED),
        _E.RELEASE_REQUEST: (_A.AR_1, _S.AWAITING_RELEASE_RP),
        _E.RELEASE_RQ_PDU: (_A.AR_2, _S.AWAITING_LOCAL_RELEASE_RESPONSE),
    },
    _S.AWAITING_RELEASE_RP: _COMMON
    | {
        _E.P_DATA_PDU: (_A.AR_6, _S.AWAITING_RELEASE_RP),
        # AR-8: the table has Sta9 for a requestor and Sta10 for an acceptor; `Machine` resolves it.
        _E.RELEASE_RQ_PDU: (_A.AR_8, _S.COLLISION_REQUESTOR),
        _E.RELEASE_RP_PDU: (_A.AR_3, _S.IDLE),
    },
    _S.AWAITING_LOCAL_RELEASE_RESPONSE: _COMMON
    | {
        _E.P_DATA_REQUEST: (_A.AR_7, _S.AWAITING_LOCAL_RELEASE_RESPONSE),
        _E.RELEASE_RESPONSE: (_A.AR_4, _S.AWAITING_CLOSE),
    },
    _S.COLLISION_REQUESTOR: _COMMON | {_E.RELEASE_RESPONSE: (_A.AR_9, _S.COLLISION_REQUESTOR_AWAITING_RP)},
    _S.COLLISION_ACCEPTOR: _COMMON | {_E.RELEASE_RP_PDU: (_A.AR_10, _S.COLLISION_ACCEPTOR_AWAITING_LOCAL)},
    _S.COLLISION_REQUESTOR_AWAITING_RP: _COMMON | {_E.RELEASE_RP_PDU: (_A.AR_3, _S.IDLE)},
    _S.COLLISION_ACCEPTOR_AWAITING_LOCAL: _COMMON | {_E.RELEASE_RESPONSE: (_A.AR_4, _S.AWAITING_CLOSE)},
    _S.AWAITING_CLOSE: {
        _E.ASSOCIATE_AC_PDU: _IGNORE,
        _E.ASSOCIATE_RJ_PDU: _IGNORE,
        _E.ASSOCIATE_RQ_PDU: (_A.AA_7, _S.AWAITING_CLOSE),
        _E.P_DATA_PDU: _IGNORE,
        _E.RELEASE_RQ_PDU: _IGNORE,
        _E.RELEASE_RP_PDU: _IGNORE,
        _E.ABORT_PDU: _CLOSE,
        _E.TRANSPORT_CLOSED: (_A.AR_5, _S.IDLE),
        _E.ARTIM_EXPIRED: _CLOSE,
        _E.INVALID_PDU: (_A.AA_7, _S.AWAITING_CLOSE),
    },
}


class Machine:
    """Where one association stands."""

    __slots__ = ("role", "state")

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.IDLE

    def step(self, event: Event) -> Action:
        """Follow the table. Raises LocalProtocolError where it has no cell, as only this side can cause that."""
        cell = TABLE[self.state].get(event)
        if cell is None:
            raise LocalProtocolError(f"{_words(event)} is not allowed while {_words(self.state)}.")
        action, self.state = cell
        if action is Action.AR_8 and self.role is Role.ACCEPTOR:
            self.state = State.COLLISION_ACCEPTOR
        return action


def _words(member: Enum) -> str:
    return member.name.lower().replace("_", " ")
