"""The keys `tls`: whose files are used where, and what is said of files that cannot be used."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import config
from router.config.diagnostics import Code, Severity, as_text
from router.dimse.certificate import validity
from router.dimse.tls_files import lapse
from router.domain.rule import HttpTls, RuleSet, TlsSettings
from tests.support.certificates import Authority
from tests.support.process import run

NODES = """
nodes:
  archive:
    ae_title: ARCHIVE
    address: 10.0.0.5:2762
    tls: %s
  plain: {ae_title: WS1, address: 10.0.0.9:104}
"""
ROUTER = """
router:
  tls: {ca: keys/ca.pem, certificate: keys/router.pem, key: {file: keys/router.key}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    authority = Authority(tmp_path_factory.mktemp("made") / "keys")
    authority.issue("router")
    authority.issue("other")
    authority.issue("lapsed", days=-1)
    return authority.directory


@pytest.fixture
def directory(tmp_path: Path, made: Path) -> Path:
    (tmp_path / "keys").symlink_to(made)
    return tmp_path


def load(directory: Path, *texts: str) -> config.Loaded:
    for number, text in enumerate(texts):
        (directory / f"{number}.yaml").write_text(text, "utf-8")
    return config.load(directory)


def rule_set(directory: Path, *texts: str) -> RuleSet:
    loaded = load(directory, *texts)
    assert loaded.rule_set is not None, as_text(loaded.diagnostics)
    return loaded.rule_set


def settings(directory: Path, name: str = "router", *, verify_hostname: bool = True) -> TlsSettings:
    keys = directory / "keys"
    return TlsSettings(
        ca=str(keys / "ca.pem"),
        certificate=str(keys / f"{name}.pem"),
        key=str(keys / f"{name}.key"),
        verify_hostname=verify_hostname,
    )


def test_the_router_its_nodes_and_those_without(directory: Path) -> None:
    rules = rule_set(directory, ROUTER, NODES % "true")
    assert rules.router.tls == rules.nodes["archive"].tls == settings(directory)
    assert rules.nodes["plain"].tls is None


@pytest.mark.parametrize("value", ["{}", "", "true"])
def test_nothing_said_means_the_files_of_the_router(directory: Path, value: str) -> None:
    assert rule_set(directory, ROUTER, NODES % value).nodes["archive"].tls == settings(directory)


def test_a_node_has_its_own_and_borrows_the_rest(directory: Path) -> None:
    rules = rule_set(directory, ROUTER, NODES % "{certificate: keys/other.pem, key: keys/other.key}")
    assert rules.nodes["archive"].tls == settings(directory, "other")
    rules = rule_set(directory, ROUTER, NODES % "{verify_hostname: false}")
    assert rules.nodes["archive"].tls == settings(directory, verify_hostname=False)


def test_a_node_may_speak_tls_where_the_router_does_not(directory: Path) -> None:
    own = f"{{ca: {directory}/keys/ca.pem, certificate: keys/other.pem, key: {{file: keys/other.key}}}}"
    rules = rule_set(directory, NODES % own)
    assert (rules.router.tls, rules.nodes["archive"].tls) == (None, settings(directory, "other"))


def test_defaults_and_an_exception(directory: Path) -> None:
    rules = rule_set(directory, ROUTER, NODES % "false", "defaults: {nodes: {tls: true}}")
    assert rules.nodes["archive"].tls is None
    assert rules.nodes["plain"].tls == settings(directory)


def test_paths_start_at_the_configuration_not_at_the_working_directory(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    rule_set(directory, ROUTER, NODES % "true")
    loaded = config.load(Path(os.path.relpath(directory)))
    assert loaded.rule_set is not None
    assert loaded.rule_set.router.tls == settings(directory)


def test_files_that_cannot_be_used_are_shown_where_they_are_named(directory: Path, made: Path) -> None:
    (directory / "empty.pem").touch()
    locked = directory / "locked.key"
    run(["openssl", "ec", "-in", made / "router.key", "-aes128", "-passout", "pass:x", "-out", locked])
    cases = {
        "{ca: keys/none.pem, certificate: keys/router.pem, key: keys/router.key}":
            [(6, 15, "nodes.archive.tls.ca: '%s/keys/none.pem' cannot be read: No such file or directory.")],
        "{ca: keys, certificate: keys/router.pem, key: keys/router.key}":
            [(6, 15, "nodes.archive.tls.ca: '%s/keys' cannot be read: Is a directory.")],
        "{ca: none.pem, certificate: none.pem, key: none.key}": [
            (6, 15, "nodes.archive.tls.ca: '%s/none.pem' cannot be read: No such file or directory."),
            (6, 38, "nodes.archive.tls.certificate: '%s/none.pem' cannot be read: No such file or directory."),
            (6, 53, "nodes.archive.tls.key: '%s/none.key' cannot be read: No such file or directory.")],
        "{ca: empty.pem, certificate: empty.pem, key: keys/router.key}": [
            (6, 15, "nodes.archive.tls.ca: %s/empty.pem holds no certificate in PEM format."),
            (6, 39, "nodes.archive.tls.certificate: %s/empty.pem holds no certificate in PEM format.")],
        "{ca: keys/ca.pem, certificate: keys/router.pem, key: {file: keys/router.pem}}":
            [(6, 70, "nodes.archive.tls.key: %s/keys/router.pem holds no private key in PEM format.")],
        "{ca: keys/ca.pem, certificate: keys/router.pem, key: {file: keys/other.key}}":
            [(6, 70, "nodes.archive.tls.key: %s/keys/other.key is not the key of the certificate %s/keys/router.pem.")],
        "{ca: keys/ca.pem, certificate: keys/router.pem, key: locked.key}":
            [(6, 63, "nodes.archive.tls.key: %s/locked.key is encrypted; the router needs it without a password.")],
        '{ca: "keys/a\\0b", certificate: keys/router.pem, key: keys/router.key}':
            [(6, 15, "nodes.archive.tls.ca: '%s/keys/a\\x00b' cannot be read: no file can be called so.")],
    }  # fmt: skip
    for text, expected in cases.items():
        loaded = load(directory, NODES % text)
        found = [(one.code, one.line, one.column, one.message) for one in loaded.diagnostics if one.is_error]
        assert found == [
            ("DR028", line, column, message.replace("%s", str(directory))) for line, column, message in expected
        ]


def test_an_own_certificate_that_has_expired_is_a_warning(directory: Path) -> None:
    lapsed = ROUTER.replace("router.pem", "lapsed.pem").replace("router.key", "lapsed.key")
    own = "{certificate: keys/lapsed.pem, key: keys/lapsed.key}"
    for texts, number, subject in (
        ((lapsed, NODES % "true"), 0, "router"),
        ((ROUTER, NODES % own), 1, "nodes.archive"),
    ):
        loaded = load(directory, *texts)
        assert loaded.rule_set is not None, "the other peers can do without"
        (found,) = (one for one in loaded.diagnostics if one.code == "DR028")
        place = (Path(found.file).name, texts[number].splitlines()[found.line - 1][found.column - 1 :][:15])
        assert place == (f"{number}.yaml", "keys/lapsed.pem")
        assert not found.is_error
        said = f"{subject}.tls.certificate: {directory}/keys/lapsed.pem has expired on "
        assert found.message.startswith(said)


def test_the_time_of_a_certificate_is_read_as_openssl_reads_it(made: Path) -> None:
    for name in ("router", "lapsed", "ca"):
        path = made / f"{name}.pem"
        valid = validity(path.read_text())
        assert valid is not None
        said = run(["openssl", "x509", "-in", path, "-noout", "-dates"]).stdout
        ends = [line.partition("=")[2] for line in said.splitlines()]
        assert [one.timestamp() for one in valid] == [ssl.cert_time_to_seconds(one) for one in ends]
    assert lapse(str(made / "router.pem"), datetime.now(UTC)) == ""
    assert "is not valid before" in lapse(str(made / "router.pem"), datetime(2001, 1, 1, tzinfo=UTC))


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_certificate_is_no_crash(made: Path, garbage: bytes, position: int, value: int) -> None:
    whole = bytearray(ssl.PEM_cert_to_DER_cert((made / "router.pem").read_text()))
    whole[position % len(whole)] = value
    for data in (garbage, bytes(whole), bytes(whole[:position])):
        validity(ssl.DER_cert_to_PEM_cert(data))
    assert validity(garbage.decode("latin-1")) is None


def test_borrowed_files_are_reported_once(directory: Path) -> None:
    broken = ROUTER.replace("router.key", "other.key")
    loaded = load(directory, broken, NODES % "true")
    assert [(Path(one.file).name, one.code) for one in loaded.errors] == [("0.yaml", "DR028")]


def test_what_is_missing_at_the_router_is_said_once(directory: Path) -> None:
    loaded = load(directory, "router: {tls: {ca: keys/ca.pem}}", NODES % "true")
    assert {one.code for one in loaded.errors} == {"DR013"}
    assert {Path(one.file).name for one in loaded.errors} == {"0.yaml"}


def test_a_key_comes_from_a_file_and_from_nowhere_else(directory: Path) -> None:
    loaded = load(directory, ROUTER, NODES % "{certificate: keys/other.pem, key: {env: KEY}}")
    assert {one.code for one in loaded.errors} == {"DR010", "DR013"}


def test_the_listener_for_orders_uses_the_files_of_the_router(directory: Path) -> None:
    order = """
rules:
  ahead:
    order:
    priors: {source: archive, groups: [{name: recent, max: 2}]}
    move: {to: [plain]}
"""
    with_listener = ROUTER + "  hl7: {tls: true}\n"
    hl7 = rule_set(directory, with_listener, NODES % "true", order).router.hl7
    assert hl7 is not None and hl7.tls
    # Files that cannot be used are named once, where they are named.
    lost = with_listener.replace("router.pem", "lost.pem")
    assert {one.code for one in load(directory, lost, NODES % "false", order).diagnostics} == {"DR028"}


# --- HTTP, and whose certificate it is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name", "clients"),
    [
        ("true", "router", ()),
        ("{clients: [operator, Operator.example, operator]}", "router", ("operator", "Operator.example")),
        ("{certificate: keys/other.pem, key: {file: keys/other.key}, clients: [x]}", "other", ("x",)),
    ],
)
def test_http_borrows_the_files_of_the_store_scp(
    directory: Path, value: str, name: str, clients: tuple[str, ...]
) -> None:
    rules = rule_set(directory, f"{ROUTER}  http_tls: {value}\n", NODES % "false")
    files = settings(directory, name, verify_hostname=False)
    assert rules.router.http_tls == HttpTls(files=files, clients=clients)


def test_http_over_tls_needs_no_tls_for_dicom_and_an_authority_only_for_clients(directory: Path) -> None:
    pair = "certificate: keys/other.pem, key: keys/other.key"
    rules = rule_set(directory, f"router: {{http_tls: {{{pair}}}}}", NODES % "false")
    assert rules.router.tls is None
    assert rules.router.http_tls is not None
    assert rules.router.http_tls.files.certificate == str(directory / "keys" / "other.pem")
    loaded = load(directory, f"router: {{http_tls: {{{pair}, clients: [x]}}}}", NODES % "false")
    assert "router.http_tls has no ca" in [one.message for one in loaded.diagnostics]
    loaded = load(directory, "router: {http_tls: {certificate: keys/other.pem}}", NODES % "false")
    assert "router.http_tls has no key" in [one.message for one in loaded.diagnostics]


def test_names_of_a_certificate_are_said_to_be_unseen_where_the_store_scp_speaks_no_tls(directory: Path) -> None:
    named = NODES % "{ca: keys/ca.pem, certificate: keys/other.pem, key: keys/other.key}\n    certificate_names: [pacs]"
    [one] = [one for one in load(directory, named).diagnostics if one.code is Code.UNSEEN_CERTIFICATE]
    assert one.severity is Severity.WARNING
    assert "who calls as archive is let in without" in one.message
    assert Code.UNSEEN_CERTIFICATE not in {one.code for one in load(directory, ROUTER, named).diagnostics}
    rules = rule_set(directory, ROUTER, NODES % "false\n    certificate_names: [pacs]\n    sends_from: [10.0.0.0/24]")
    node = rules.nodes["archive"]
    assert (node.certificate_names, node.sends_from) == (("pacs",), ("10.0.0.0/24",))


def test_a_change_of_http_takes_effect_after_a_restart(directory: Path) -> None:
    plain, secured = (
        rule_set(directory, f"{ROUTER}{more}", NODES % "false").router
        for more in ("", "  http_tls: true\n  metrics: guarded\n  token: {file: keys/router.key}\n")
    )
    assert set(plain.restart_needed(secured)) == {"http_tls", "metrics", "token"}
