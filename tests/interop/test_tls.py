"""TLS against DCMTK's programs: who is who he says is let in, everybody else is refused with its cause in the log."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from router.dimse.association import Association
from router.dimse.pdu import AssociateRequest, ProposedContext
from router.dimse.tls_files import requestor_context
from router.errors import WireError
from tests.support.certificates import Authority, Certificate
from tests.support.dcmtk import Address, Storescp, echoscu, storescu
from tests.support.hl7 import MllpClient, order
from tests.support.ports import free_port
from tests.support.process import run, wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.web import Reply
from tests.wire.scu import PATIENT, VERIFICATION

IMPLICIT = ("1.2.840.10008.1.2",)


class Keys(NamedTuple):
    """What the sides show and trust."""

    authority: Authority
    router: Certificate
    pacs: Certificate
    modality: Certificate
    expired: Certificate
    stranger: Certificate


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    directory = tmp_path_factory.mktemp("keys")
    authority, other = Authority(directory / "authority"), Authority(directory / "other")
    return Keys(
        authority,
        authority.issue("router"),
        authority.issue("pacs", names="DNS:pacs.hospital.example,IP:127.0.0.1"),
        authority.issue("modality", names="DNS:ct.hospital.example"),
        authority.issue("expired", names="DNS:pacs.hospital.example,IP:127.0.0.1", days=-1),
        other.issue("pacs", names="DNS:pacs.hospital.example"),
    )


def dcmtk(keys: Keys, own: Certificate) -> tuple[str, ...]:
    """DCMTK's options."""
    return ("+tls", str(own.key), str(own.certificate), "+cf", str(keys.authority.certificate))


def fingerprint(certificate: Certificate) -> str:
    """As openssl prints it."""
    data = ssl.PEM_cert_to_DER_cert(certificate.certificate.read_text())
    return hashlib.sha256(data).digest().hex(":").upper()


def nodes(keys: Keys) -> dict[str, Any]:
    return {
        "pacs": node(
            "PACS",
            104,
            certificate_names=["PACS.hospital.example"],
            limits={"incoming_associations": 2},
            push="allow",
        ),
        "ct": node("CT", 104, push="allow", certificate_names=[fingerprint(keys.modality)]),
        "by-name": node("BYNAME", 104, push="allow", certificate_names=["nobody", "modality"]),
        "any": node("ANY", 104, push="allow"),
        "elsewhere": node("ELSEWHERE", 104, sends_from=["10.0.0.0/24", "2001:db8::/32"]),
        "here": node("HERE", 104, push="allow", sends_from=["10.0.0.0/24", "127.0.0.1"]),
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, keys: Keys) -> Site:
    directory = tmp_path_factory.mktemp("site")
    files = {
        "ca": str(keys.authority.certificate),
        "certificate": str(directory / "router.pem"),
        "key": str(directory / "router.key"),
    }
    for source, name in ((keys.router.certificate, "router.pem"), (keys.router.key, "router.key")):
        shutil.copy(source, directory / name)
    settings = {
        "tls": files,
        "hl7": {"listen": f"127.0.0.1:{free_port()}", "tls": True},
        "http_tls": {"clients": ["operator"]},
        "log": {"format": "json"},
    }
    return Site(directory, nodes=nodes(keys), rules={}, router=settings)


class SecuredRouter(RunningRouter):
    """`dicom-router run`, asked over TLS."""

    trusted: ssl.SSLContext

    def get(self, path: str) -> str:
        with closing(
            http.client.HTTPSConnection("127.0.0.1", self.site.http_port, timeout=60, context=self.trusted)
        ) as connection:
            connection.request("GET", path)
            return connection.getresponse().read().decode()


@pytest.fixture(scope="module")
def router(site: Site, keys: Keys) -> Iterator[RunningRouter]:
    SecuredRouter.trusted = ssl.create_default_context(cafile=str(keys.authority.certificate))
    with SecuredRouter(site) as running:
        yield running


def refusals(router: RunningRouter) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in router.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "store refused"]


def refused(router: RunningRouter, before: int) -> dict[str, Any]:
    """The one refusal that the log tells of since there were so many."""
    wait_for(lambda: len(refusals(router)) > before, "the refusal in the log")
    [line] = refusals(router)[before:]
    return line


def in_log(router: RunningRouter, reason: str) -> None:
    """The log tells of it: once of many of a kind."""
    wait_for(
        lambda: (reason, "127.0.0.1") in [(line["reason"], line["ip_address"]) for line in refusals(router)],
        f"{reason} in the log",
    )


def counted(router: RunningRouter, reason: str, family: str = "store") -> float:
    [line] = [
        line
        for line in router.metrics().splitlines()
        if line.startswith(f'dicom_router_{family}_refused_total{{reason="{reason}"}}')
    ]
    return float(line.rpartition(" ")[2])


def here(site: Site) -> Address:
    return Address("ROUTER", site.dicom_port)


@pytest.mark.parametrize(
    ("calling", "shown"),
    [
        ("PACS", "pacs"),
        ("CT", "modality"),
        ("BYNAME", "modality"),
        ("ANY", "modality"),
        ("ANY", "pacs"),
        ("HERE", "pacs"),
    ],
)
def test_who_shows_the_certificate_of_its_node_is_let_in(
    router: RunningRouter, site: Site, keys: Keys, calling: str, shown: str
) -> None:
    echoscu(here(site), *dcmtk(keys, getattr(keys, shown)), calling=calling)


@pytest.mark.parametrize(
    ("calling", "shown", "reason"),
    [
        ("PACS", "modality", "tls-wrong-certificate"),
        ("CT", "pacs", "tls-wrong-certificate"),
        ("BYNAME", "pacs", "tls-wrong-certificate"),
        ("STRANGER", "pacs", "association-rejected"),
        ("ELSEWHERE", "pacs", "address"),
        ("PACS", "expired", "tls-expired"),
        ("PACS", "stranger", "tls-unknown-ca"),
    ],
)
def test_anybody_else_is_refused_and_the_log_says_why(
    router: RunningRouter, site: Site, keys: Keys, calling: str, shown: str, reason: str
) -> None:
    before, count = len(refusals(router)), counted(router, reason)
    done = echoscu(here(site), *dcmtk(keys, getattr(keys, shown)), calling=calling, check=False)
    assert done.returncode != 0
    line = refused(router, before)
    assert line["reason"] == reason
    wait_for(lambda: counted(router, reason) == count + 1, "the refusal is counted")
    if reason in ("tls-wrong-certificate", "association-rejected", "address"):
        assert "Calling AE Title Not Recognized" in done.stdout
        assert (line["calling_ae_title"], line["ip_address"]) == (calling, "127.0.0.1")
        assert line["certificate_name"] == shown


def test_storing_with_another_nodes_certificate_stores_nothing(
    router: RunningRouter, site: Site, keys: Keys, study: Callable[..., Any]
) -> None:
    made = study(series=1, instances=2)
    done = storescu(here(site), made.files, *dcmtk(keys, keys.modality), calling="PACS", check=False)
    assert done.returncode != 0
    assert not site.stored()
    storescu(here(site), made.files, *dcmtk(keys, keys.pacs), calling="PACS")
    assert set(site.stored()) == made.instances


@pytest.mark.parametrize(
    ("shown", "program"),
    [
        *(("plain", program) for program in ("echoscu", "storescu", "findscu", "movescu")),
        *(("no certificate", program) for program in ("echoscu", "storescu", "findscu")),  # movescu speaks no TLS
    ],
)
def test_a_program_that_shows_no_certificate_is_refused(
    router: RunningRouter, site: Site, keys: Keys, program: str, shown: str, study: Callable[..., Any]
) -> None:
    reason = {"plain": "tls-not-spoken", "no certificate": "tls-no-certificate"}[shown]
    options = () if shown == "plain" else ("+tla", "+cf", str(keys.authority.certificate))
    count = counted(router, reason)
    words = [program, "-aet", "PACS", "-aec", "ROUTER", *options]
    if program in ("findscu", "movescu"):
        words += ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID="]
    files = study(series=1, instances=1).files if program == "storescu" else []
    assert run([*words, "127.0.0.1", str(site.dicom_port), *files], check=False).returncode != 0
    wait_for(lambda: counted(router, reason) == count + 1, "the refusal is counted")
    in_log(router, reason)


OLD = {"TLS 1.0": ssl.TLSVersion.TLSv1, "TLS 1.1": ssl.TLSVersion.TLSv1_1}


def of_version(keys: Keys, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Right but for its version."""
    context = requestor_context(keys.authority.settings(keys.pacs))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", OLD)
def test_old_versions_are_refused(router: RunningRouter, site: Site, keys: Keys, version: str) -> None:
    count = counted(router, "tls-version")
    with pytest.raises(WireError, match=r"TLS 1\.2 or 1\.3 is needed"):
        associate(site, of_version(keys, OLD[version]))
    wait_for(lambda: counted(router, "tls-version") == count + 1, "the refusal is counted")
    in_log(router, "tls-version")


def test_tls_1_2_and_1_3_are_spoken(router: RunningRouter, site: Site, keys: Keys) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        associate(site, of_version(keys, version)).release(5.0)


def test_tls_on_the_port_without_is_refused_and_the_log_says_so(tmp_path: Path, keys: Keys) -> None:
    site = Site(tmp_path, nodes={"pacs": node("PACS", 104)}, rules={}, router={"log": {"format": "json"}})
    with site.run() as router:
        count = counted(router, "tls-unwanted")
        done = echoscu(here(site), *dcmtk(keys, keys.pacs), calling="PACS", check=False)
        assert done.returncode != 0
        wait_for(lambda: counted(router, "tls-unwanted") == count + 1, "the refusal is counted")
        in_log(router, "tls-unwanted")
        echoscu(here(site), calling="PACS")


# --- HL7 and HTTP -----------------------------------------------------------------------------------------------------


def strangers(keys: Keys) -> dict[str, ssl.SSLContext | None]:
    """What the log says of who is nobody -> what he speaks; None: no TLS."""

    def showing(own: Certificate | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(keys.authority.certificate))
        if own is not None:
            context.load_cert_chain(own.certificate, own.key)
        return context

    return {
        "does not speak TLS": None,
        "showed no certificate": showing(None),
        "has expired": showing(keys.expired),
        "no authority in the file ca has issued": showing(keys.stranger),
        "no version of TLS or cipher in common": of_version(keys, ssl.TLSVersion.TLSv1_1),
    }


def told(router: RunningRouter, who: str, what: str) -> bool:
    """Whether a line of the log says it."""
    return any(who in line and what in line for line in router.log.splitlines())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_stranger_orders_anything_over_tls(router: RunningRouter, site: Site, keys: Keys) -> None:
    port = int(site.settings["hl7"]["listen"].rpartition(":")[2])
    for said, context in strangers(keys).items():
        count = counted(router, "tls", "order_messages")
        with pytest.raises((OSError, EOFError)), MllpClient(port, context=context) as client:
            client.ask(order())
        wait_for(partial(told, router, "HL7 message not taken", said), said)
        assert counted(router, "tls", "order_messages") == count + 1
    with MllpClient(port, context=requestor_context(keys.authority.settings(keys.modality))) as client:
        assert client.ask(order()).code == "AA"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_stranger_changes_anything_over_https(router: RunningRouter, site: Site, keys: Keys) -> None:
    def reload(context: ssl.SSLContext | None) -> int:
        if context is None:
            return Reply(site.http_port, "/-/reload", method="POST").status
        with closing(
            http.client.HTTPSConnection("127.0.0.1", site.http_port, timeout=60, context=context)
        ) as connection:
            connection.request("POST", "/-/reload")
            return connection.getresponse().status

    for said, context in strangers(keys).items():
        if said == "showed no certificate":
            assert reload(context) == 403
            continue
        with pytest.raises((OSError, http.client.HTTPException)):
            reload(context)
        wait_for(partial(told, router, "A peer of HTTP", said), said)
    known = requestor_context(keys.authority.settings(keys.modality))
    assert reload(known) == 403, "trusted, but none of router.http_tls.clients"
    assert reload(requestor_context(keys.authority.settings(keys.authority.issue("operator")))) == 200


def associate(site: Site, context: ssl.SSLContext, calling: str = "PACS") -> Association:
    contexts = (ProposedContext(1, VERIFICATION, IMPLICIT),)
    request = AssociateRequest("ROUTER", calling, contexts, 16384)
    return Association.request("127.0.0.1", site.dicom_port, request, peer="The router", limits=PATIENT, tls=context)


def test_a_node_holds_no_more_associations_than_its_limit_and_others_are_not_touched(
    router: RunningRouter, site: Site, keys: Keys
) -> None:
    before = len(refusals(router))
    context = requestor_context(keys.authority.settings(keys.pacs))
    held = [associate(site, context) for _ in range(2)]
    with pytest.raises(WireError) as caught:
        associate(site, context)
    assert caught.value.cause == "rejected-2-3-2", "transient: local limit exceeded"
    assert refused(router, before)["reason"] == "too-many-of-node"
    associate(site, context, "ANY").release(5.0)
    held.pop().release(5.0)

    def again() -> Association | None:
        try:
            return associate(site, context)
        except WireError:
            return None

    held.append(wait_for(again, "a place that became free"))
    for association in held:
        association.release(5.0)


def test_a_reload_changes_who_is_let_in_without_a_restart(router: RunningRouter, site: Site, keys: Keys) -> None:
    shown = dcmtk(keys, keys.modality)
    assert echoscu(here(site), *shown, calling="PACS", check=False).returncode != 0
    changed = nodes(keys)
    changed["pacs"]["certificate_names"] = ["ct.hospital.example"]
    site.configure(nodes=changed, rules={})
    wait_for(lambda: echoscu(here(site), *shown, calling="PACS", check=False).returncode == 0, "the new names")
    assert echoscu(here(site), *dcmtk(keys, keys.pacs), calling="PACS", check=False).returncode != 0
    site.configure(nodes=nodes(keys), rules={})
    wait_for(lambda: echoscu(here(site), *shown, calling="PACS", check=False).returncode != 0, "the old names")


def test_a_renewed_certificate_is_shown_without_a_restart(router: RunningRouter, site: Site, keys: Keys) -> None:
    renewed = keys.authority.issue("renewed")
    for source, name in ((renewed.certificate, "router.pem"), (renewed.key, "router.key")):
        shutil.copy(source, site.directory / name)
    association = associate(site, requestor_context(keys.authority.settings(keys.pacs)))
    transport = association._transport
    assert transport.shown is not None and "renewed" in transport.shown.names  # type: ignore[attr-defined]
    association.release(5.0)


# --- As requestor -----------------------------------------------------------------------------------------------------


def asking(directory: Path, keys: Keys, port: int, *, tls: bool = True, **settings: Any) -> Site:
    """A router that asks the node `there`."""
    files = keys.authority.settings(keys.router)
    own = {"ca": files.ca, "certificate": files.certificate, "key": files.key}
    there = node("STORESCP", port, **({"tls": True} if tls else {}), **settings)
    return Site(directory, nodes={"there": there}, rules={}, router={"tls": own})


SERVERS = {
    # what the server is -> the code of doctor's check, and what a query says
    "right": ("secured", "accepts no C-FIND from this router"),
    "expired": ("tls-expired", "showed a certificate that has expired"),
    "stranger": ("tls-unknown-ca", "no authority in the file ca has issued"),
    "modality": ("tls-host-name", "showed a certificate"),
    "wrong name": ("tls-wrong-certificate", "showed a certificate that is trusted but is not this node's (pacs)"),
    "does not know us": ("tls-refused", "does not accept this router's certificate"),
    "plain": ("tls-not-spoken", "does it speak TLS at that port?"),
    "old": ("tls-version", "TLS 1.2 or 1.3 is needed"),
    "wants TLS": ("tls-wanted", "does it want `tls: true`?"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("server", SERVERS)
def test_of_servers_only_the_right_one_is_asked_and_each_other_is_named_for_what_it_is(
    tmp_path: Path, keys: Keys, server: str
) -> None:
    code, answer = SERVERS[server]
    options = () if server == "plain" else dcmtk(keys, getattr(keys, server, keys.pacs))
    named = {"certificate_names": ["other.hospital.example"]} if server == "wrong name" else {}
    with ExitStack() as stack:
        if server == "does not know us":
            options = (*options[:3], "+cf", str(Authority(tmp_path / "unknown").certificate))
        if server == "old":
            port = stack.enter_context(old_server(keys))
        else:
            port = stack.enter_context(Storescp(tmp_path / "scp", options=options)).port
        site = asking(tmp_path / "asking", keys, port, tls=server != "wants TLS", **named)
        done = site.call("query", "there", "StudyDate=20240101")
        codes = {one["code"] for one in _checks(site.json("doctor", "there", "--no-move", code=None))}
    assert answer in " ".join((done.stdout + done.stderr).split())
    assert code in codes
    assert ("secured" in codes) is (server == "right")


@contextmanager
def old_server(keys: Keys) -> Iterator[int]:
    """Speaks TLS 1.1 and nothing else, which DCMTK does no longer; gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.load_cert_chain(keys.pacs.certificate, keys.pacs.key)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                connection.settimeout(20)
                with connection, suppress(OSError):
                    context.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(20)


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        (["pacs.hospital.example"], "accepts no C-FIND from this router"),
        (["other.hospital.example"], "showed a certificate that is trusted but is not this node's (pacs)"),
    ],
)
def test_a_server_is_asked_only_where_it_shows_the_certificate_of_its_node(
    tmp_path: Path, keys: Keys, names: list[str], answer: str
) -> None:
    with Storescp(tmp_path / "scp", options=dcmtk(keys, keys.pacs)) as scp:
        site = asking(tmp_path / "asking", keys, scp.port, certificate_names=names)
        done = site.call("query", "there", "StudyDate=20240101")
        assert answer in " ".join((done.stdout + done.stderr).split())
        checks = site.json("doctor", "there", "--no-move", code=None)
    codes = {one["check"]: one["code"] for one in _checks(checks)}
    assert codes["tls"] == ("secured" if names[0].startswith("pacs") else "tls-wrong-certificate")


def _checks(found: Any) -> Iterator[dict[str, Any]]:
    """Every check in what `doctor` says, wherever it stands."""
    if isinstance(found, dict):
        if "check" in found and "code" in found:
            yield found
        for value in found.values():
            yield from _checks(value)
    elif isinstance(found, list):
        for value in found:
            yield from _checks(value)
