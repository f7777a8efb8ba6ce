"""What the status page and its JSON say, as plain values: of the configuration and the service, never of patients."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from router import __version__
from router.config import Reload, Severity, Standing
from router.domain.attention import Loaded

DIAGNOSTICS_SHOWN = 500
"""Diagnostics in one answer, at most."""


def reload_answer(standing: Standing, reload: Reload) -> dict[str, Any]:
    """The answer of `POST /-/reload`; `hash` is that of the running configuration."""
    return {
        "reloaded": reload.accepted,
        "changed": reload.changed,
        "hash": standing.content_hash,
        "restart_needed": list(standing.restart_needed),
        "diagnostics": _diagnostics(reload),
    }


def overview(
    standing: Standing, health: dict[str, str], readiness: dict[str, str], uptime_seconds: float
) -> dict[str, Any]:
    """The values of `GET /api/v1/configuration` and of its page."""
    last = standing.last
    return {
        "version": __version__,
        "uptime_seconds": round(uptime_seconds, 1),
        "configuration": {
            "directory": _sayable(standing.directory),
            "hash": standing.content_hash,
            "loaded_at": _time(standing.loaded_at),
            "files": [_sayable(file) for file in standing.files],
            "rules": standing.rules,
            "nodes": standing.nodes,
            "restart_needed": list(standing.restart_needed),
            "last_reload": {
                "at": _time(last.at),
                "reloaded": last.accepted,
                "changed": last.changed,
                "hash": last.content_hash,
                "diagnostics": _diagnostics(last),
                "diagnostics_total": len(last.diagnostics),
            },
        },
        "health": {"status": _word(health), "problems": health},
        "readiness": {"status": _word(readiness), "problems": readiness},
    }


def loaded(standing: Standing) -> Loaded:
    """What came of the latest attempt to load the configuration, in short."""
    last = standing.last
    errors = sum(one.severity is Severity.ERROR for one in last.diagnostics)
    return Loaded(
        accepted=last.accepted,
        at=last.at,
        errors=errors,
        warnings=len(last.diagnostics) - errors,
        restart_needed=standing.restart_needed,
    )


def _diagnostics(reload: Reload) -> list[dict[str, Any]]:
    discreet = (one.discreet for one in reload.diagnostics[:DIAGNOSTICS_SHOWN])
    return [msgspec.to_builtins(msgspec.structs.replace(one, file=_sayable(one.file))) for one in discreet]


def _sayable(path: str) -> str:
    """A path without what is no character: names of files are bytes."""
    return path.encode("utf-8", "replace").decode()


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _word(problems: dict[str, str]) -> str:
    return "failing" if problems else "ok"
