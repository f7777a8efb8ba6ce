"""Where a secret stands. The secret itself is never part of the configuration."""

from __future__ import annotations

import msgspec


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """Where a secret stands; one of the two is set. The secret itself is never part of the configuration."""

    env: str = ""
    """Name of an environment variable."""
    file: str = ""
    """Absolute path of a file that holds nothing else."""
