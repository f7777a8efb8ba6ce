"""What tests of containers share: the files that are read, and the types they have to be of."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from router import config
from router.domain.hl7 import Hl7Settings
from router.domain.rule import RouterSettings, RuleSet

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SETTINGS = RouterSettings()
PORTS = {str(SETTINGS.listen_port), str(SETTINGS.http_port), str(Hl7Settings().port)}

CONFIGURATION_DIRECTORY = "/etc/dicom-router"
DATA_DIRECTORY = "/var/lib/dicom-router"
TIDY_SECONDS = 60
"""What a service may need beside router.leave and router.drain: to cancel moves, and to write what came."""


class Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A part of a file: what is not named here is taken for a mistake."""


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def only(instruction: str) -> str:
    """Return the argument of an instruction that is there once."""
    (argument,) = [rest for word, rest in dockerfile() if word == instruction]
    return argument


def configuration(directory: Path) -> RuleSet:
    """The rules of a configuration. Raises AssertionError where it has errors."""
    loaded = config.load(directory)
    assert loaded.rule_set is not None, [str(diagnostic) for diagnostic in loaded.diagnostics]
    return loaded.rule_set
