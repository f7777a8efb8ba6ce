"""The key `router.log`: how lines of the log look, how much of it there is, what stands for a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.config.document import MappingNode
from router.config.schema import node_at
from router.config.secrets import secret_setting
from router.config.tls import Report
from router.domain.rule import LogSettings

_UNTIL = "until then pseudonyms are made with the ledger's own key"


def log_settings(router: MappingNode, values: Mapping[str, Any], report: Report) -> LogSettings:
    """What the router's tree says of the log."""
    given: Mapping[str, Any] = values.get("log", {})
    changes = {key: given[key] for key in ("format", "level", "identifiers") if key in given}
    tree = node_at(router, ("log",))
    if isinstance(tree, MappingNode):
        changes["key"] = secret_setting(tree, given, "key", "router.log", report, until=_UNTIL)
    return LogSettings(**changes)
