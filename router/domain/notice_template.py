"""Templates of notifications: what an administrator writes to have them look otherwise. Pure.

They see the keys of the document (`notice_text.document_of`) and nothing else: no file, no code of ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateRuntimeError, TemplateSyntaxError, UndefinedError, meta
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from router.domain import notice as kinds
from router.domain.notice_group import SUMMARY, Example, Notification
from router.domain.notice_text import TEST, Sender, document_of

MAXIMUM_TEMPLATE = 64 << 10
"""Characters of a template."""
MAXIMUM_RESULT = 256 << 10
"""Characters of what a template makes."""

MOST_STEPS = 10_000
"""What a template may count to with `range`, all loops together."""

_SUBJECT = "subject:"
_WORDS = {
    kinds.TRANSFERS: "failed",
    kinds.ROUTE: "route-stopped",
    kinds.NODE: "node-down",
    kinds.SWEEP: "sweep-failed",
    kinds.LOOK: "look-failed",
    kinds.PRIORS: "priors-late",
    kinds.CONFIGURATION: "reload-failed",
    kinds.DISK: "disk-low",
    kinds.CERTIFICATE: "certificate-expiring",
}
"""What samples of each kind count."""


class TemplateFault(Exception):
    """A template that cannot be used; the message ends a sentence about it."""


class _Environment(ImmutableSandboxedEnvironment):
    """What a template can do; made anew for each rendering, for it counts."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
        self._steps = MOST_STEPS
        self.globals.pop("lipsum")
        self.globals["range"] = self._range

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Work out what could grow without a bound, where it stays small."""
        if operator == "**":
            raise TemplateRuntimeError("powers are not worked out")
        for repeated, times in ((left, right), (right, left)):
            if isinstance(repeated, str | list | tuple) and len(repeated) * times > MAXIMUM_RESULT:
                raise TemplateRuntimeError(f"makes more than {MAXIMUM_RESULT >> 10} KiB of text")
        return super().call_binop(context, operator, left, right)

    def _range(self, *numbers: int) -> range:
        found = range(*numbers)
        self._steps -= len(found)
        if self._steps < 0:
            raise TemplateRuntimeError(f"counts to more than {MOST_STEPS} in all")
        return found


def render(template: str, document: Mapping[str, Any]) -> str:
    """What a template makes of a document. Raises TemplateFault."""
    environment = _Environment()
    try:
        strangers = meta.find_undeclared_variables(environment.parse(template)) - {*document, *environment.globals}
        if strangers:
            known = ", ".join(document)
            raise TemplateFault(f"asks for {min(strangers)}, which is not there; there are: {known}")
        pieces, size = [], 0
        for piece in environment.from_string(template).generate(document):
            pieces.append(piece)
            size += len(piece)
            if size > MAXIMUM_RESULT:
                raise TemplateFault(f"makes more than {MAXIMUM_RESULT >> 10} KiB of text")
    except TemplateSyntaxError as error:
        raise TemplateFault(f"is no template: line {error.lineno}: {error.message}") from None
    except UndefinedError as error:
        raise TemplateFault(f"asks for something that is not there: {error.message}") from None
    except TemplateFault:
        raise
    except TemplateError as error:
        raise TemplateFault(f"cannot be used: {error.message}") from None
    except Exception as error:  # noqa: BLE001  what an expression of the template runs into, whatever it is
        raise TemplateFault(f"cannot be used: {type(error).__name__}") from None
    return "".join(pieces)


def render_json(template: str, document: Mapping[str, Any]) -> str:
    """The JSON that a template makes. Raises TemplateFault."""
    text = render(template, document)
    try:
        json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        at = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise TemplateFault(f"makes no JSON: {at} (write values as {{{{ text | tojson }}}})") from None
    return text


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is none")


def render_mail(template: str, document: Mapping[str, Any]) -> tuple[str | None, str]:
    """Subject and text; the subject is what a first line says that begins with `Subject:`. Raises TemplateFault."""
    text = render(template, document)
    first, _, rest = text.partition("\n")
    if not first.casefold().startswith(_SUBJECT):
        return None, text
    return first[len(_SUBJECT) :].strip(), rest.lstrip("\n")


def check(template: str, *, makes_json: bool) -> None:
    """Try a template on every kind of notification. Raises TemplateFault for the first that it fails on."""
    if len(template) > MAXIMUM_TEMPLATE:
        raise TemplateFault(f"is longer than {MAXIMUM_TEMPLATE >> 10} KiB")
    for document in samples():
        (render_json if makes_json else render)(template, document)


def samples() -> list[dict[str, Any]]:
    """A document of every kind, as trouble and as its end."""
    at = datetime(2026, 11, 28, 2, 10, tzinfo=UTC)
    example = Example(transfer=4711, study="0c5ae3c9b1f4", rule="ct", word="failed", reason='Refused: "full".')
    sorts = [
        (kind, over) for kind, known in kinds.KINDS.items() for over in ((False, True) if known.ends else (False,))
    ]
    found = [
        Notification(
            channel="on-call",
            kind=kind,
            names=tuple(f"a-{field}" for field in kinds.KINDS[kind].fields),
            over=over,
            severity="info" if over else "error",
            counts={} if over else {_WORDS[kind]: 1},
            rules={"ct": 1} if kind == kinds.TRANSFERS else {},
            examples=(example,) if kind == kinds.TRANSFERS else (),
            detail='What happened, "quoted".',
            first_at=at,
            last_at=at,
            thread="0123456789abcdef",
        )
        for kind, over in sorts
    ]
    summary = Notification(
        channel="on-call",
        kind=SUMMARY,
        severity="error",
        counts={"failed": 1},
        first_at=at,
        last_at=at,
        thread="0123456789abcdef",
        parts=tuple(found[:2]),
        unnamed=1,
    )
    sender = Sender("ROUTER", "https://router.hospital.example/")
    told = [*found, summary, test_notification("on-call", at)]
    return [document_of(one, sender) for one in told]


def test_notification(channel: str, now: datetime) -> Notification:
    """What `dicom-router notify test` sends."""
    thread = f"test-{int(now.timestamp() * 1000):x}"
    return Notification(channel=channel, kind=TEST, severity="info", first_at=now, last_at=now, thread=thread)
