"""What PostgreSQL says, by the words of PostgreSQL 15 and its library, and what the router makes of it."""

from __future__ import annotations

import psycopg
import pytest

from router.ledger.postgres_words import problem

AT = 'connection to server at "127.0.0.1", port 5432 failed: '
HBA = 'no pg_hba.conf entry for host "10.0.0.9", user "router", database "ledger"'
CONNECT = 'permission denied for database "ledger"\nDETAIL:  User does not have CONNECT privilege.'
HOT = "the database system is not accepting connections\nDETAIL:  Hot standby mode is disabled."
FULL = "remaining connection slots are reserved for non-replication superuser connections"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (f"FATAL:  {HBA}, SSL encryption\n{AT}FATAL:  {HBA}, no encryption", "add it to pg_hba.conf"),
        (f"FATAL:  {HBA}, SSL off", "add it to pg_hba.conf"),
        ('FATAL:  pg_hba.conf rejects connection for host "::1", user "r", database "d"', "add it to pg_hba.conf"),
        ('FATAL:  too many connections for role "router"', "has no connection left"),
        ('FATAL:  too many connections for database "ledger"', "has no connection left"),
        ("FATAL:  sorry, too many clients already", "has no connection left"),
        (f"FATAL:  {FULL}", "has no connection left"),
        (f"FATAL:  {CONNECT}", "GRANT CONNECT"),
        ('FATAL:  database "ledger" is not currently accepting connections', "ALLOW_CONNECTIONS"),
        ("fe_sendauth: no password supplied", "was given no password; put it into the URL, PGPASSWORD or"),
        ('FATAL:  database "ledger" does not exist', "does not exist; create the database"),
        ('FATAL:  role "router" does not exist', "user or password is wrong"),
        ('FATAL:  role "router" is not permitted to log in', "user or password is wrong"),
        ('FATAL:  password authentication failed for user "router"', "user or password is wrong"),
        ('FATAL:  password authentication failed for user "in recovery"', "user or password is wrong"),
        ("FATAL:  the database system is starting up", "is starting or stopping"),
        ("FATAL:  the database system is shutting down", "is starting or stopping"),
        ("FATAL:  the database system is in recovery mode", "is starting or stopping"),
        ("FATAL:  the database system is not yet accepting connections", "is starting or stopping"),
        (f"FATAL:  {HOT}", "standby"),
        ("session is read-only", "standby"),
        ("FATAL:  Passwort-Authentifizierung f\u00fcr Benutzer \u00bbr\u00ab fehlgeschlagen", "log of the database's"),
        ("server does not support SSL, but SSL was required", "by TLS"),
        ('root certificate file "/x/root.crt" does not exist', "by TLS"),
        ("Connection refused\n\tIs the server running on that host?", "check host and port"),
    ],
)
def test_what_is_said_where_no_connection_comes_about(said: str, words: str) -> None:
    assert words in problem(psycopg.OperationalError(f"connection failed: {AT}{said}"))


def test_a_name_is_no_word() -> None:
    refused = 'connection to server at "tls.pg_hba.conf.example" (10.0.0.1), port 5432 failed: Connection refused'
    assert problem(psycopg.OperationalError(refused)).startswith("cannot be reached; check host")
    unknown = 'could not translate host name "db.example" to address: Name or service not known'
    assert "host name is not known" in problem(psycopg.OperationalError(unknown))
