"""The key `router.history`: when transfers that have ended go into the ledger's history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.config.base import Base
from router.config.diagnostics import Code
from router.config.document import MappingNode

SHORTEST = 3600.0
"""Seconds: limits such as `moves_per_hour` count what ended that lately."""


def history_keep(base: Base, router: MappingNode, values: Mapping[str, Any]) -> float | None:
    """The seconds after which they go; None where the router's tree says nothing of it."""
    tree = router.values.get("history")
    if not isinstance(tree, MappingNode) or "keep" not in values["history"]:
        return None
    given: Mapping[str, Any] = values["history"]
    keep = base.durations(tree, given, "keep").get("keep")
    if keep is not None and keep < SHORTEST:
        message = f"router.history.keep: {given['keep']} is shorter than 1h"
        base.report(
            tree.values["keep"], Code.BAD_VALUE, message, "limits count what ended within the hour; 90d is usual"
        )
        return None
    return keep
