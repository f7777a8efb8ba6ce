"""HTTP over TLS: versions, renewed certificates, clients' certificates instead of the token, guarded metrics."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from router.dimse.web_tls import own_context
from router.domain.rule import GUARDED, HttpTls, RouterSettings, TlsSettings
from router.domain.secret import Secret
from router.errors import RouterError, TlsFileError
from router.machine import ThisMachine
from router.web.server import HttpServer
from tests.support.certificates import Authority, Certificate
from tests.support.ports import free_port
from tests.support.router import RunningRouter, Site, node
from tests.support.web import TOKEN, Configuration, Part, Reply

BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Keys(NamedTuple):
    """Who shows what."""

    authority: Authority
    other: Authority
    web: Certificate
    operator: Certificate
    modality: Certificate
    stranger: Certificate
    expired: Certificate


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    directory = tmp_path_factory.mktemp("keys")
    authority, other = Authority(directory / "authority"), Authority(directory / "other")
    return Keys(
        authority,
        other,
        authority.issue("web", days=90),
        authority.issue("operator", names="DNS:operator.hospital.example"),
        authority.issue("modality"),
        other.issue("operator", names="DNS:operator.hospital.example"),
        authority.issue("expired", names="DNS:operator.hospital.example", days=-1),
    )


@pytest.fixture
def configuration() -> Configuration:
    return Configuration()


@pytest.fixture
def serve(configuration: Configuration) -> Iterator[Callable[[HttpTls, str], int]]:
    """Serves with these settings; gives the port."""
    running: list[HttpServer] = []

    def start(tls: HttpTls, metrics: str = "open") -> int:
        configuration.settings = RouterSettings(http_tls=tls, metrics=metrics)
        server = HttpServer(Part(), configuration, "127.0.0.1", 0, tls)
        running.append(server)
        server.start()
        return server.port

    yield start
    for server in running:
        server.stop()


def settings(keys: Keys, *clients: str) -> HttpTls:
    return HttpTls(files=keys.authority.settings(keys.web), clients=clients)


def client(keys: Keys, own: Certificate | None = None) -> ssl.SSLContext:
    """Trusts the authority, shows `own`."""
    context = ssl.create_default_context(cafile=str(keys.authority.certificate))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


def ask(
    port: int,
    context: ssl.SSLContext,
    path: str = "/healthz",
    method: str = "GET",
    headers: dict[str, str] | None = None,
) -> int:
    """The status of an answer. Raises OSError where there is none."""
    with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)) as connection:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status


def reload(port: int, context: ssl.SSLContext, **headers: str) -> int:
    return ask(port, context, "/-/reload", "POST", headers)


def test_all_is_served_over_tls_and_cookies_are_for_tls_only(
    serve: Callable[..., int], keys: Keys, configuration: Configuration
) -> None:
    configuration.secret = TOKEN
    port = serve(settings(keys))
    for path in ("/", "/metrics", "/healthz", "/api/v1/board"):
        assert ask(port, client(keys), path) == 200
    with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=client(keys))) as connection:
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"https://127.0.0.1:{port}"}
        connection.request("POST", "/login", body=f"token={TOKEN}", headers=form)
        assert "Secure" in connection.getresponse().headers["set-cookie"]
    assert reload(port, client(keys)) == 403
    assert reload(port, client(keys), **BEARER) == 200


def test_over_tls_the_certificate_says_by_which_names_the_router_is_called(
    serve: Callable[..., int], keys: Keys
) -> None:
    port = serve(settings(keys))
    assert ask(port, client(keys), "/", headers={"Host": "router.hospital.example"}) == 200


def test_plain_http_gets_a_clean_end_and_others_are_served_meanwhile(serve: Callable[..., int], keys: Keys) -> None:
    port = serve(settings(keys))
    with pytest.raises((OSError, http.client.HTTPException)):
        Reply(port, "/healthz")
    with socket.create_connection(("127.0.0.1", port), 20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        plain.settimeout(20)
        said = bytearray()
        while part := plain.recv(4096):
            said += part
        assert b"HTTP/" not in said, "an alert of TLS at most"
    assert ask(port, client(keys)) == 200


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_who_does_not_finish_the_handshake_is_dropped_as_soon_as_who_sends_no_request(
    serve: Callable[..., int], keys: Keys, begun: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", serve(settings(keys))), timeout=40) as stalled:
        stalled.sendall(begun)
        assert stalled.recv(1) == b""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_are_refused_and_new_ones_served(serve: Callable[..., int], keys: Keys) -> None:
    port = serve(settings(keys))
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client(keys)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        if version >= ssl.TLSVersion.TLSv1_2:
            assert ask(port, context) == 200
        else:
            with pytest.raises(ssl.SSLError):
                ask(port, context)


def test_a_named_clients_certificate_is_as_good_as_the_token(
    serve: Callable[..., int], keys: Keys, configuration: Configuration
) -> None:
    configuration.secret = TOKEN
    port = serve(settings(keys, "Operator.hospital.example"))
    assert reload(port, client(keys, keys.operator)) == 200
    assert reload(port, client(keys), **BEARER) == 200
    assert reload(port, client(keys)) == 403
    assert reload(port, client(keys, keys.modality)) == 403, "trusted, but no client that is named"
    assert reload(port, client(keys, keys.operator), Authorization="Bearer wrong") == 403
    assert configuration.reloads == 2
    for unfit in (keys.stranger, keys.expired):
        with pytest.raises(OSError, match=r"(?i)ssl|alert|reset|closed|pipe"):
            reload(port, client(keys, unfit))


def test_a_page_of_another_site_cannot_use_the_certificate_of_a_browser(
    serve: Callable[..., int], keys: Keys, configuration: Configuration
) -> None:
    port = serve(settings(keys, "operator"))
    assert reload(port, client(keys, keys.operator), Origin="https://evil.example") == 403
    assert reload(port, client(keys, keys.operator), **{"Sec-Fetch-Site": "cross-site"}) == 403
    assert configuration.reloads == 0


def test_without_a_token_nobody_but_a_named_client_changes_anything(
    serve: Callable[..., int], keys: Keys, configuration: Configuration
) -> None:
    port = serve(settings(keys, "operator"))
    assert reload(port, client(keys)) == 403, "not even a program on this machine"
    assert reload(port, client(keys, keys.operator)) == 200


def test_a_certificate_counts_for_nothing_where_no_clients_are_named(
    serve: Callable[..., int], keys: Keys, configuration: Configuration
) -> None:
    configuration.secret = TOKEN
    port = serve(settings(keys))
    assert reload(port, client(keys, keys.operator)) == 403


def test_guarded_metrics_need_the_token_or_a_clients_certificate(
    serve: Callable[..., int], keys: Keys, configuration: Configuration
) -> None:
    configuration.secret = TOKEN
    port = serve(settings(keys, "operator"), GUARDED)
    assert ask(port, client(keys), "/metrics") == 401
    assert ask(port, client(keys), "/metrics", headers={"Authorization": "Bearer wrong"}) == 401
    assert ask(port, client(keys, keys.modality), "/metrics") == 401
    assert ask(port, client(keys), "/metrics", headers=BEARER) == 200
    assert ask(port, client(keys, keys.operator), "/metrics") == 200
    assert ask(port, client(keys), "/healthz") == 200


def test_a_renewed_certificate_is_shown_without_a_restart_and_a_half_written_one_is_not(
    serve: Callable[..., int], keys: Keys, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "web.pem", tmp_path / "web.key"
    shutil.copy(keys.web.certificate, certificate)
    shutil.copy(keys.web.key, key)
    files = TlsSettings(ca=str(keys.authority.certificate), certificate=str(certificate), key=str(key))
    port = serve(HttpTls(files=files))

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=20)

    assert shown().split() == keys.web.certificate.read_text().split()
    renewed = keys.authority.issue("renewed")
    shutil.copy(renewed.certificate, certificate)
    assert shown().split() == keys.web.certificate.read_text().split(), "its key is not there yet"
    shutil.copy(renewed.key, key)
    assert shown().split() == renewed.certificate.read_text().split()


def test_a_file_that_cannot_be_loaded_is_said_at_the_start(keys: Keys, tmp_path: Path) -> None:
    files = TlsSettings(
        ca=str(keys.authority.certificate), certificate=str(tmp_path / "none.pem"), key=str(keys.web.key)
    )
    with pytest.raises(RouterError, match=r"none\.pem"):
        HttpServer(Part(), Configuration(), "127.0.0.1", 0, HttpTls(files=files))


def test_commands_on_this_machine_trust_the_routers_own_certificate_and_no_other(
    serve: Callable[..., int], keys: Keys, tmp_path: Path
) -> None:
    port = serve(settings(keys))
    assert ask(port, own_context(str(keys.web.certificate))) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(port, own_context(str(keys.modality.certificate)))
    (empty := tmp_path / "empty.pem").touch()
    with pytest.raises(TlsFileError):
        own_context(str(empty))


# --- A running service ------------------------------------------------------------------------------------------------


class SecuredRouter(RunningRouter):
    """`dicom-router run`, asked over TLS."""

    trusted: ssl.SSLContext

    def get(self, path: str) -> str:
        with closing(
            http.client.HTTPSConnection("127.0.0.1", self.site.http_port, timeout=60, context=self.trusted)
        ) as connection:
            connection.request("GET", path)
            return connection.getresponse().read().decode()


def test_commands_find_a_service_whose_http_is_over_tls_and_guarded(tmp_path: Path, keys: Keys) -> None:
    (tmp_path / "token").write_text(TOKEN)
    files = {"certificate": str(keys.web.certificate), "key": str(keys.web.key)}
    site = Site(
        tmp_path,
        nodes={"archive": node("ARCHIVE", free_port())},
        rules={},
        router={"http_tls": files, "metrics": "guarded", "token": {"file": str(tmp_path / "token")}},
    )
    SecuredRouter.trusted = client(keys)
    with SecuredRouter(site) as router:
        assert "needs the token" in router.get("/metrics")
        shown = " ".join(site.call("top", "--once").stdout.split())
        assert f"As the service at https://127.0.0.1:{site.http_port} says." in shown
        found = site.json("doctor", "archive", "--no-move", code=None)
        checks = {one["check"]: one["code"] for one in found["router"]}
        assert (checks["healthz"], checks["http certificate"]) == ("ok", "valid")
        assert (
            ThisMachine(
                RouterSettings(http_tls=settings(keys), metrics=GUARDED, token=Secret(file=str(tmp_path / "token")))
            ).ask(f"https://127.0.0.1:{site.http_port}", "/metrics")[0]
            == 200
        )
