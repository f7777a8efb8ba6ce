"""Secrets: where they stand (`{env: NAME}` or `{file: path}`), and reading them. They are never part of the model."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.config.diagnostics import Code
from router.config.document import MappingNode
from router.config.schema import node_at
from router.config.tls import Report
from router.domain.rule import Secret
from router.errors import ConfigurationError

MINIMUM_CHARACTERS = 16
"""A shorter secret is found by trying."""
_MAXIMUM_BYTES = 4096


def secret_setting(
    tree: MappingNode,
    values: Mapping[str, Any],
    key: str,
    subject: str,
    report: Report,
    *,
    until: str = "until then nobody has it",
    shared: bool = False,
) -> Secret | None:
    """What a key says of where its secret stands; None where it is not given.

    A secret that is not to be had is a warning only: it may be had where the service runs, and costs nobody else.
    What holds `until` it is to be had, the warning says. `shared`: it is not ours to choose, and may be short.
    """
    given = values.get(key)
    if not isinstance(given, dict):
        return None
    place = node_at(tree, (key, next(iter(given), "")))
    file = str(Path(place.file).absolute().parent / given["file"]) if "file" in given else ""
    secret = Secret(env=given.get("env", ""), file=file)
    try:
        text = read_secret(secret, spaces=shared)
    except ConfigurationError as error:
        report(place, Code.SECRET, f"{subject}.{key}: {error}", until, warning=True)
        return secret
    if len(text) < MINIMUM_CHARACTERS and not shared:
        message = f"{subject}.{key} has fewer than {MINIMUM_CHARACTERS} characters"
        report(place, Code.SECRET, message, "make one with: openssl rand -hex 32", warning=True)
    return secret


def read_secret(secret: Secret, *, spaces: bool = False) -> str:
    """The secret, which may hold `spaces` or not.

    Raises ConfigurationError, with a sentence that does not hold it, where it is not to be had.
    """
    if secret.env:
        text, where = os.environ.get(secret.env), f"the environment variable {secret.env}"
        if text is None:
            raise ConfigurationError(f"{where} is not set")
    else:
        where = f"the file {secret.file}"
        try:
            if not stat.S_ISREG(Path(secret.file).stat().st_mode):  # a pipe would be waited for
                raise ConfigurationError(f"{where} is no ordinary file")
            with Path(secret.file).open("rb") as stream:
                contents = stream.read(_MAXIMUM_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(f"{where} cannot be read ({error.strerror or 'I/O error'})") from None
        text = contents.decode("latin-1")
    text = text.strip()
    usable = text.isascii() and text.isprintable() and (spaces or " " not in text)
    if not text or len(text) > _MAXIMUM_BYTES or not usable:
        without = "" if spaces else " without spaces"
        raise ConfigurationError(f"{where} holds no secret: printable ASCII characters{without}, on one line")
    return text
