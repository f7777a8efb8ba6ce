"""What the status page and its JSON say, as plain values: of the configuration and the service, never of patients."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined

from router import __version__
from router.config import Reload, Standing

DIAGNOSTICS_SHOWN = 500
"""Diagnostics in one answer, at most."""

_ENVIRONMENT = Environment(
    loader=PackageLoader("router.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Of the page: it needs nothing from anywhere, and nothing may frame it."""


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
    """The values of `GET /api/v1/configuration` and of the page."""
    last = standing.last
    return {
        "version": __version__,
        "uptime_seconds": round(uptime_seconds, 1),
        "configuration": {
            "directory": standing.directory,
            "hash": standing.content_hash,
            "loaded_at": _time(standing.loaded_at),
            "files": list(standing.files),
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


def page(values: dict[str, Any]) -> str:
    """The status page of an overview."""
    return _ENVIRONMENT.get_template("status.html").render(values, uptime=_spelled(values["uptime_seconds"]))


def _diagnostics(reload: Reload) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(one.discreet) for one in reload.diagnostics[:DIAGNOSTICS_SHOWN]]


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _word(problems: dict[str, str]) -> str:
    return "failing" if problems else "ok"


def _spelled(seconds: float) -> str:
    """A duration in its two largest units."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((number for number, (amount, _) in enumerate(parts) if amount), len(parts) - 1)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[first : first + 2])
