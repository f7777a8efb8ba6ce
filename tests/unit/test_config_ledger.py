"""`router.ledger`: where it may point, where its URL may stand, and that its password is shown nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router import config
from router.domain.rule import Secret
from router.errors import ConfigurationError, LedgerError
from router.ledger import postgres
from router.opening import ledger_url, open_ledger
from tests.support.command import in_process

REST = """
nodes:
  a: {ae_title: A, address: "a.example:104"}
  b: {ae_title: B, address: "b.example:104"}
rules:
  r: {sweep: {source: a, every: 5m, keys: {StudyDate: today}}, move: {to: [b]}}
"""
HIDDEN = "correct-horse"


def write(directory: Path, ledger: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "router.yaml").write_text(f"router: {{ledger: {ledger}}}\n{REST}")
    return directory


def found(directory: Path) -> list[tuple[str, str]]:
    return [(str(one.code), str(one.severity)) for one in config.load(directory).diagnostics]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///ledger.db",
        "sqlite:////var/lib/ledger.db",
        "postgresql://router@db.example/router",
        "postgresql+psycopg://router@db.example:5433/router?sslmode=verify-full",
        "postgresql://router@one.example:5432,two.example:5433/router?target_session_attrs=read-write",
        "postgresql://router@127.0.0.1/router?sslmode=disable",
        "postgresql:///router?host=/run/postgresql",
    ],
)
def test_files_and_databases_are_accepted_as_text(tmp_path: Path, url: str) -> None:
    assert found(write(tmp_path, f'"{url}"')) == []


@pytest.mark.parametrize(
    "url", ["", "sqlite:///", "sqlite://", "mysql://h/x", "postgresql://h", "postgresql://h/", "/x"]
)
def test_anything_else_is_refused(tmp_path: Path, url: str) -> None:
    assert found(write(tmp_path, f'"{url}"')) == [("DR014", "error")]


ENCODED = "percent-encoded (@ as %40, / as %2F)"


@pytest.mark.parametrize("password", [f"{HIDDEN}/x", f"12/{HIDDEN}", f"{HIDDEN}@x", f"{HIDDEN}@x/y"])
def test_a_password_with_characters_that_a_url_is_made_of_is_said_to_need_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    url = f"postgresql://router:{password}@db.example/x"
    (tmp_path / "url").write_text(url)
    (one,) = config.load(write(tmp_path, "{file: url}")).diagnostics
    assert str(one.code) == "DR014"
    assert ENCODED in str(one)
    assert HIDDEN not in str(one)
    monkeypatch.setenv("SOME_LEDGER", "postgresql://router@db.example/x")
    rules = config.load(write(tmp_path / "later", "{env: SOME_LEDGER}")).rule_set
    assert rules is not None
    monkeypatch.setenv("SOME_LEDGER", url)  # after it was loaded
    with pytest.raises(LedgerError) as caught:
        open_ledger(rules)
    assert ENCODED in str(caught.value)
    assert HIDDEN not in str(caught.value)


def test_a_password_that_is_encoded_will_do(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://router:a%40b%2Fc%3A%3F%23%25@db.example/x?sslrootcert=/etc/ca@site.pem")
    assert found(write(tmp_path, "{file: url}")) == []
    given_ = postgres._parameters((tmp_path / "url").read_text(), read_only=False)
    assert (given_["password"], given_["host"], given_["dbname"]) == ("a@b/c:?#%", "db.example", "x")


def test_a_driver_that_is_not_there_is_said_to_be_had_from_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_INSTALLED", False)
    with pytest.raises(LedgerError, match=r"pip install 'psycopg\[binary\]>=3\.2' \(in the source directory"):
        postgres.PostgresBackend("postgresql://router@db.example/x", read_only=True)


def test_a_url_stands_in_a_file_or_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text(f"  sqlite:///{tmp_path}/one.db\n")
    monkeypatch.setenv("SOME_LEDGER", f"sqlite:///{tmp_path}/two.db")
    for given_, name in (("{file: url}", "one.db"), ("{env: SOME_LEDGER}", "two.db")):
        loaded = config.load(write(tmp_path, given_))
        assert loaded.diagnostics == ()
        assert loaded.rule_set is not None
        assert isinstance(loaded.rule_set.router.ledger, Secret)
        with open_ledger(loaded.rule_set):
            assert (tmp_path / name).exists()


def test_what_is_not_to_be_had_is_a_warning_and_nothing_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    directory = write(tmp_path, "{env: NOT_SET}")
    assert found(directory) == [("DR067", "warning")]
    rules = config.load(directory).rule_set
    assert rules is not None
    with pytest.raises(ConfigurationError, match=r"router\.ledger: the environment variable NOT_SET is not set; so"):
        ledger_url(rules)
    done = in_process(directory, "transfers", "list")
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_what_a_secret_holds_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"mysql://router:{HIDDEN}@db.example/x")
    directory = write(tmp_path, "{file: url}")
    assert found(directory) == [("DR014", "error")]
    (tmp_path / "url").write_text(f"postgresql://router:{HIDDEN}@db.example/x?sslmode=disable")
    assert found(directory) == [("DR078", "warning")]
    (tmp_path / "url").write_text(f"postgresql://router:{HIDDEN}@db.example/x")
    assert found(directory) == []


USERS = st.text("abc%41.-", min_size=0, max_size=5)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheme=st.sampled_from(["postgresql", "postgresql+psycopg", "postgres", "mysql", "POSTGRESQL"]),
    user=USERS,
    before=st.text("x/?#:%&", max_size=3),
    after=st.text("x/?#:%&", max_size=3),
    rest=st.sampled_from(["/name", "", "/name?sslmode=disable", ":5432,other:5433/name"]),
)
def test_no_diagnostic_quotes_a_password(
    tmp_path: Path, scheme: str, user: str, before: str, after: str, rest: str
) -> None:
    directory = write(tmp_path, f'"{scheme}://{user}:{before}{HIDDEN}{after}@db.example{rest}"')
    loaded = config.load(directory)
    assert loaded.rule_set is None
    assert all(HIDDEN not in str(one) for one in loaded.diagnostics)


@pytest.mark.parametrize("rest", ["", "?connect_timeout=2", "?sslmode=bogus", "?nonsense=1"])
@pytest.mark.parametrize("command", [("transfers", "list"), ("ledger", "status"), ("doctor",)])
def test_no_command_shows_the_password(tmp_path: Path, command: tuple[str, ...], rest: str) -> None:
    (tmp_path / "url").write_text(f"postgresql://router:{HIDDEN}@127.0.0.1:1/router{rest}")
    done = in_process(write(tmp_path, "{file: url}"), *command)
    assert done.code in (1, 2)
    assert HIDDEN not in done.out + done.err


def test_a_ledger_that_is_no_database_is_said_to_be_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_LEDGER", "sqlite:///ledger.db")
    rules = config.load(write(tmp_path, "{env: SOME_LEDGER}")).rule_set
    assert rules is not None
    monkeypatch.setenv("SOME_LEDGER", f"nonsense-{HIDDEN}")  # after it was loaded
    with pytest.raises(LedgerError) as caught:
        open_ledger(rules)
    assert HIDDEN not in str(caught.value)
