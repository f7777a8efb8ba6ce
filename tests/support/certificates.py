"""Certificates for tests, made with the program `openssl`: authorities, and what they issue."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from router.domain.rule import TlsSettings
from tests.support.process import run

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
HERE = "IP:127.0.0.1,DNS:localhost"


class Certificate(NamedTuple):
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority with its files in a directory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.certificate = directory / "ca.pem"
        self._key = directory / "ca.key"
        subject = ("-subj", f"/CN={directory.name}", "-days", "30")
        run(["openssl", "req", "-x509", *_KEY, "-keyout", self._key, "-out", self.certificate, *subject])

    def issue(self, name: str, *, names: str = HERE, days: int = 30) -> Certificate:
        """A certificate for these names; of a negative number of days it is one that has expired."""
        made = Certificate(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n")
        run(["openssl", "req", "-new", *_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}"])
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        run(["openssl", "x509", "-req", "-in", request, *signed, "-days", str(days), "-out", made.certificate])
        return made

    def settings(self, own: Certificate, *, verify_hostname: bool = True) -> TlsSettings:
        """Trust this authority, and show `own`."""
        return TlsSettings(
            ca=str(self.certificate),
            certificate=str(own.certificate),
            key=str(own.key),
            verify_hostname=verify_hostname,
        )
