"""The keys `tls` and `http_tls`: from paths beside the YAML to settings whose files were loaded once: they fit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from router.config.diagnostics import Code
from router.config.document import MappingNode, Node
from router.config.schema import node_at
from router.dimse.tls_files import faults, lapse
from router.domain.rule import HttpTls, TlsSettings

_FILES = ("ca", "certificate", "key")


class Report(Protocol):
    """Takes a finding: `Builder.report`."""

    def __call__(self, place: Node, code: Code, message: str, hint: str = "", *, warning: bool = False) -> None:
        """Note it."""


def tls_settings(
    tree: MappingNode,
    values: Mapping[str, Any],
    subject: str,
    *,
    own: TlsSettings | None,
    whole: bool,
    report: Report,
) -> TlsSettings | None:
    """What the key `tls` of a node or of the router says; what it leaves out is the router's `own`.

    None without TLS. Faults of the files go to `report`, and what is missing, where the tree is `whole`.
    """
    given = values.get("tls", False)
    if given is False:
        return None
    given = given if isinstance(given, dict) else {}
    place = node_at(tree, ("tls",))
    paths = {name: _path(tree, given, name) for name in _FILES if name in given}
    pair = {"certificate", "key"} & set(paths)
    borrowed = [] if own is None else [name for name in _FILES if name not in paths and not (pair and name != "ca")]
    for name in borrowed:
        paths[name] = getattr(own, name)
    missing = [name for name in _FILES if name not in paths]
    if missing:
        if whole:
            hint = (
                "certificate and key belong together" if len(pair) == 1 else "name the files here or under router.tls"
            )
            report(place, Code.MISSING_KEY, f"{subject}.tls has no {' and no '.join(missing)}", hint)
        return None
    settings = TlsSettings(**paths, verify_hostname=given.get("verify_hostname", True))
    found = list(faults(settings))
    for fault in found:
        if fault.setting not in borrowed:
            report(_place(tree, fault.setting), Code.TLS_FILE, f"{subject}.tls.{fault.setting}: {fault}")
    if "certificate" not in borrowed and "certificate" not in {fault.setting for fault in found}:
        sentence = lapse(settings.certificate, datetime.now(UTC))
        if sentence:  # no error: it costs one peer, and must not keep the router from its others
            place = _place(tree, "certificate")
            report(place, Code.TLS_FILE, f"{subject}.tls.certificate: {sentence}", "renew it", warning=True)
    return settings


def http_tls_settings(
    tree: MappingNode, values: Mapping[str, Any], *, own: TlsSettings | None, whole: bool, report: Report
) -> HttpTls | None:
    """What the key `http_tls` of the router says; what it leaves out is the router's `own`. None without TLS.

    Faults of the files go to `report`, and what is missing, where the tree is `whole`.
    """
    given = values.get("http_tls", False)
    if given is False:
        return None
    given = given if isinstance(given, dict) else {}
    clients = tuple(dict.fromkeys(given.get("clients", ())))
    paths = {name: _path(tree, given, name, "http_tls") for name in _FILES if isinstance(_file(given.get(name)), str)}
    borrowed = [name for name in _FILES if own is not None and name not in paths]
    if {"certificate", "key"} & set(paths):
        borrowed = [name for name in borrowed if name == "ca"]
    paths |= {name: getattr(own, name) for name in borrowed}
    if not clients:
        paths.setdefault("ca", paths.get("certificate", ""))  # nobody is asked for a certificate
    missing = [name for name in _FILES if name not in paths]
    if missing:
        if whole:
            message = f"router.http_tls has no {' and no '.join(missing)}"
            report(node_at(tree, ("http_tls",)), Code.MISSING_KEY, message, "name the files here or under router.tls")
        return None
    files = TlsSettings(**paths, verify_hostname=False)
    faulty = set()
    for fault in faults(files):
        faulty.add(fault.setting)
        if fault.setting in given:
            place = _place(tree, fault.setting, "http_tls")
            report(place, Code.TLS_FILE, f"router.http_tls.{fault.setting}: {fault}")
    seen = "certificate" in given and "certificate" not in faulty
    if sentence := lapse(files.certificate, datetime.now(UTC)) if seen else "":
        place = _place(tree, "certificate", "http_tls")
        report(place, Code.TLS_FILE, f"router.http_tls.certificate: {sentence}", "renew it", warning=True)
    return HttpTls(files=files, clients=clients)


def _path(tree: MappingNode, given: Mapping[str, Any], name: str, key: str = "tls") -> str:
    """An absolute path; a relative one starts where the file lies in which it stands."""
    return str(Path(_place(tree, name, key).file).absolute().parent / str(_file(given[name])))


def _file(value: Any) -> Any:
    """The name of a file as it stands there, or as `file` of a secret."""
    return value.get("file") if isinstance(value, dict) else value


def _place(tree: MappingNode, name: str, key: str = "tls") -> Node:
    return node_at(tree, (key, name, "file"))
