"""What requests carry: parameters that are known, bodies that are bounded. What is not understood is an error (400)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

MOST_BYTES = 16 << 10
"""Of a body."""
BODY_SECONDS = 10.0
"""In which a body must be there."""
_MOST_FIELDS = 20
Kind = TypeVar("Kind", bound=msgspec.Struct)

_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"
_DIGITS = re.compile(r"[0-9]{1,18}")


class Parameter(NamedTuple):
    """A parameter of a query, a path or a form."""

    name: str
    text: str
    """What it means, a sentence."""
    pattern: str = ""
    """A regular expression that the whole value matches."""
    choices: tuple[str, ...] = ()
    """The only values."""
    between: tuple[int, int] | None = None
    """It is a number, within these bounds."""
    default: int | None = None
    many: bool = False
    """It may be given several times."""
    example: str | int = ""


class Asked(NamedTuple):
    """A request as far as it is understood."""

    request: Request
    path: dict[str, Any]
    query: dict[str, Any]
    """Name -> value; a tuple of values for `many`. What is not given is left out, unless it has a default."""
    body: bytes = b""


def parameters_of(given: Sequence[tuple[str, str]], known: Sequence[Parameter], *, others: str = "") -> dict[str, Any]:
    """The values of these parameters; empty ones count as not given.

    Raises HTTPException 400 for an unknown name, a second value or a wrong one; `others`: a name that is passed over.
    """
    by_name = {one.name: one for one in known}
    found: dict[str, Any] = {}
    for name, value in given:
        parameter = by_name.get(name)
        if parameter is None:
            if others and name == others:
                continue
            there = ", ".join(by_name) or "none"
            raise HTTPException(400, f"There is no such parameter here; there are: {there}.")
        if value == "":
            continue
        if name in found and not parameter.many:
            raise HTTPException(400, f"{name} is given twice.")
        read = value_of(parameter, value)
        found[name] = (*found.get(name, ()), read) if parameter.many else read
    return {one.name: one.default for one in known if one.default is not None} | found


def value_of(parameter: Parameter, value: str) -> str | int:
    """One value. Raises HTTPException 400 where it cannot be one."""
    name = parameter.name
    if parameter.between is not None:
        least, most = parameter.between
        if not _DIGITS.fullmatch(value) or not least <= int(value) <= most:
            raise HTTPException(400, f"{name} is no whole number from {least} to {most}.")
        return int(value)
    if parameter.choices and value not in parameter.choices:
        raise HTTPException(400, f"{name} is none of: {', '.join(parameter.choices)}.")
    if parameter.pattern and not re.fullmatch(parameter.pattern, value):
        raise HTTPException(400, f"{name} is none: {parameter.text}")
    return value


async def body_of(request: Request) -> bytes:
    """The body. Raises HTTPException 413 where it is too large, 408 where it does not come."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MOST_BYTES:
                    raise HTTPException(413, f"The body has more than {MOST_BYTES} bytes.")
    except TimeoutError:
        raise HTTPException(408, f"The body did not come within {BODY_SECONDS:g} seconds.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The connection ended before the body did.") from None
    return bytes(body)


def form_of(asked: Asked) -> list[tuple[str, str]]:
    """The fields of a form. Raises HTTPException 400 where it is none."""
    if _media_type(asked.request) != _FORM and asked.body:
        raise HTTPException(400, f"The body is no form: content-type {_FORM}.")
    try:
        return parse_qsl(
            asked.body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="replace"
        )
    except ValueError:
        raise HTTPException(400, "The body is no form.") from None


def json_of(asked: Asked, kind: type[Kind]) -> Kind:
    """The body as a value. Raises HTTPException 400 where it is none."""
    if _media_type(asked.request) != _JSON:
        raise HTTPException(400, f"Send the body as JSON, with the header Content-Type: {_JSON}.")
    try:
        return msgspec.json.decode(asked.body, type=kind)
    except msgspec.ValidationError:
        fields = ", ".join(field.name for field in msgspec.structs.fields(kind))
        raise HTTPException(400, f"The body is no object of these fields: {fields}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise HTTPException(400, "The body is not valid JSON.") from None


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
