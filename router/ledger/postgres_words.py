"""What PostgreSQL's errors mean and what to do about them, as the end of a sentence. Pure.

The SQLSTATEs: appendix A of PostgreSQL's manual. A connection that does not come about has none: there the server's
words are looked at, but never repeated, for they may hold a name or an address.
"""

from __future__ import annotations

import re

OTHER = "could not be read or written"

_GONE = "ended the connection, as when the database stops or starts anew; see to it that it runs"
_NOT_ALLOWED = "does not allow this to the user it is opened as; grant it the right to the tables and to create them"
_WRONG_USER = "does not let the router in: user or password is wrong; check them"
_NO_PASSWORD = "was given no password; put it into the URL, PGPASSWORD or the service user's ~/.pgpass"
_BUSY = "is too busy: a write waited 10 s for its turn"

_PROBLEMS = {
    "08": _GONE,
    "22": "cannot hold a value: it is not valid text, or too large a number",
    "23": "refused a value that its rules do not allow; please report this as a bug",
    "25006": "may only be read: it is a standby server, or is set so; name the primary server",
    "25P02": OTHER,
    "25P03": "ended a transaction that did nothing for too long; see whether the machine is overloaded",
    "28": _WRONG_USER,
    "3D": "does not exist; create the database, or correct its name",
    "3F": "has no schema to create tables in; create it, or correct the search path",
    "40": "was changed by another at the same moment; it is tried again",
    "42501": _NOT_ALLOWED,
    "42": "has tables this program does not understand; choose another database to start anew",
    "53100": "cannot grow: the disk of the database is full; make room",
    "53200": "has no memory left; see to the database's server",
    "53300": "has no connection left; raise max_connections, or run fewer replicas",
    "53": "lacks something it needs to go on; see to the database's server",
    "54": "refused a value that is too large",
    "55P03": _BUSY,
    "57014": "took too long: a statement was ended after 30 s; see whether the database is overloaded",
    "57P": _GONE,
    "58": "could not be read or written: the disk of the database reports an error; check it",
    "XX001": "is damaged; stop the routers and restore it from a backup",
    "XX002": "is damaged; stop the routers and restore it from a backup",
}

_FATAL = "fatal"
"""The server's own word for what ends a connection; what the library says has none."""
_SAID = (
    # The first words that the server, or the library, says where no connection comes about; names are taken out.
    (("pg_hba.conf",), "does not let this machine or user in; add it to pg_hba.conf on the database's server"),
    (("too many", "connection slots"), _PROBLEMS["53300"]),
    (("permission denied",), "may not be connected to by its user; GRANT CONNECT ON DATABASE to that user"),
    (("not currently accepting",), "lets nobody in; see to it with ALTER DATABASE ... ALLOW_CONNECTIONS true"),
    (("no password supplied",), _NO_PASSWORD),
    (("authentication failed",), _WRONG_USER),
    (("role ", "user name"), _WRONG_USER),
    (("read-only", "not primary", "hot standby"), _PROBLEMS["25006"]),
    (("starting up", "shutting down", "recovery", "not yet accepting"), "is starting or stopping; wait for it"),
    (('database "" does not exist',), _PROBLEMS["3D"]),
    (("ssl", "certificate", "tls"), "cannot be reached by TLS; check sslmode and the certificates"),
    (("translate host name", "name or service"), "cannot be reached: its host name is not known; check it"),
)
_OF_THE_LIBRARY = ("was given", "cannot", "may only")
"""What the library says by itself begins so."""
_REFUSED = "does not let the router in; the log of the database's server says why"
_NAME = re.compile(r'"[^"]*"')
"""A name that is quoted: it may hold any of the words."""
_SILENT = "does not answer; see whether its server, or the storage that it is on, hangs"
_UNREACHABLE = "cannot be reached; check host and port, and that the database runs"


def problem(error: BaseException) -> str:
    """What happened and what to do."""
    if type(error).__name__ == "UnansweredError":
        return _SILENT
    state: str | None = getattr(error, "sqlstate", None)
    if state is not None:
        found = [_PROBLEMS[key] for length in (5, 3, 2) if (key := state[:length]) in _PROBLEMS]
        return found[0] if found else OTHER
    if type(error).__name__ not in {"OperationalError", "ConnectionTimeout", "InterfaceError"}:
        return OTHER
    said = _NAME.sub('""', str(error)).lower()
    if "consuming input failed" in said or "server closed" in said or "connection is lost" in said:
        return _GONE
    for words, sentence in _SAID:
        if any(word in said for word in words) and (_FATAL in said or sentence.startswith(_OF_THE_LIBRARY)):
            return sentence
    if "the connection is closed" in said:
        return _GONE
    return _REFUSED if _FATAL in said else _UNREACHABLE


def is_gone(error: BaseException) -> bool:
    """Whether an error says that the connection has ended."""
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith(("08", "57P")) or state == "25P03"
