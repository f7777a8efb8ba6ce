"""Contexts for TLS to servers that are no DICOM nodes: mail servers and webhooks. They show no certificate of ours."""

from __future__ import annotations

import ssl

from router.dimse.tls_files import load_authorities


def client_context(ca: str = "") -> ssl.SSLContext:
    """TLS 1.2 or later, to who shows a certificate for the host's name that an authority has issued.

    `ca`: path of a PEM file of the authorities that are trusted; empty: those of the system. Raises TlsFileError.
    """
    if not ca:
        context = ssl.create_default_context()
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        load_authorities(context, ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
