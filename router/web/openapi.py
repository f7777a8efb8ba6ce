"""The description of the API (OpenAPI 3.1), made of the table that the routes are made of."""

from __future__ import annotations

from typing import Any

import msgspec

from router import __version__
from router.web.answers import Problem
from router.web.reading import Parameter
from router.web.table import ENDPOINTS, Endpoint, Needs

_REFERENCE = "#/components/schemas/{name}"
_PROBLEMS = {
    400: "Something in the request is not understood.",
    401: "The token was not shown, or is another one.",
    403: "That is not for the caller to do.",
    404: "There is nothing of that number or name.",
    408: "The body did not come in time.",
    409: "As things stand that cannot be done.",
    413: "The body is too large.",
    429: "Too many wrong tokens came from this address.",
    503: "The ledger does not answer, or too much is under way.",
}


def description() -> dict[str, Any]:
    """The whole document."""
    types = _types()
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for one in ENDPOINTS:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dicom-router",
            "version": __version__,
            "description": "What a DICOM router does, and what may be said to it. Identifiers are shown only where "
            "`router.page.identifiers` is true and the caller has shown the token.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "What `router.token` names. Without one, programs on the router's own machine may "
                    "act without it.",
                }
            },
        },
    }


def _types() -> list[Any]:
    found = [Problem]
    for one in ENDPOINTS:
        found += [kind for _, kind in one.answers.values() if kind is not None]
        found += [one.body] if one.body is not None else []
    return list(dict.fromkeys(found))


def _operation(one: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "parameters": [
            *(_parameter(each, "path") for each in one.path_parameters),
            *(_parameter(each, "query") for each in one.parameters),
        ],
        "responses": {
            **{str(status): _answer(one, text, kind, schemas) for status, (text, kind) in one.answers.items()},
            **{str(status): _problem(status, schemas) for status in sorted(one.problems) if status not in one.answers},
        },
        "security": {Needs.NOTHING: [{}, {"token": []}], Needs.ACTING: [{"token": []}, {}]}.get(
            one.needs, [{"token": []}]
        ),
    }
    if one.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[repr(one.body)]}},
        }
    return operation


def _answer(one: Endpoint, text: str, kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "string"} if kind is None else schemas[repr(kind)]
    return {"description": text, "content": {one.media_type: {"schema": schema}}}


def _problem(status: int, schemas: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": _PROBLEMS[status],
        "content": {"application/json": {"schema": schemas[repr(Problem)]}},
    }


def _parameter(one: Parameter, where: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if one.between is not None:
        schema = {"type": "integer", "minimum": one.between[0], "maximum": one.between[1]}
    if one.choices:
        schema["enum"] = list(one.choices)
    if one.pattern:
        schema["pattern"] = f"^{one.pattern}$"
    if one.default is not None:
        schema["default"] = one.default
    if one.many:
        schema = {"type": "array", "items": schema}
    described = {
        "name": one.name,
        "in": where,
        "required": where == "path",
        "description": one.text,
        "schema": schema,
        "example": [one.example] if one.many else one.example,
    }
    return described | ({"explode": True} if one.many else {})
