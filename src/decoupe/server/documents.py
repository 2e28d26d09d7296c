"""What the OpenAPI document tells of each route, with examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.responses import Response
from pydantic import BaseModel

from decoupe.server.compat import FILE, PARAMETERS, REMBG_PARAMETERS
from decoupe.server.guard import Limits
from decoupe.server.options import CutOptions, SegmentOptions
from decoupe.server.worker import Workplace

Route = dict[str, Any]

_TEXT = {"type": "string"}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


_PROBLEM = _object(
    {"title": _TEXT, "status": {"type": "integer"}, "code": _TEXT, "detail": _TEXT},
    ["title", "status", "detail"],
)
_ERROR = _object({"title": _TEXT, "code": _TEXT}, ["title", "code"])
_ERRORS = _object({"errors": {"type": "array", "items": _ERROR}}, ["errors"])
_MEANINGS = {
    "400": ("Bad Request", "grow and shrink undo each other: give one of them"),
    "401": ("Unauthorized", "the token is missing or wrong: send Authorization: Bearer TOKEN"),
    "403": ("Forbidden", "pages of other sites may not ask: list them with --cors"),
    "404": ("Not Found", "this server has no segment model: start it with one"),
    "408": ("Request Timeout", "the request did not come in time: send it faster, or smaller"),
    "413": ("Request Entity Too Large", "the request is larger than 25 MB: send a smaller picture"),
    "415": ("Unsupported Media Type", "expected multipart/form-data, or another form"),
    "429": ("Too Many Requests", "the server is busy: try again in a moment"),
    "500": ("Internal Server Error", "the server failed; its log says why"),
    "503": ("Service Unavailable", "the worker ended while it had this picture: try again"),
    "504": ("Gateway Timeout", "the picture took longer than 60 seconds: make it smaller"),
}
_ALL = tuple(_MEANINGS)


def _problems(*statuses: str) -> dict[str, Any]:
    """What each of these statuses means, as problem details."""
    return {
        status: {
            "description": _MEANINGS[status][0],
            "content": {
                "application/problem+json": {
                    "schema": _PROBLEM,
                    "example": {
                        "type": "about:blank",
                        "title": _MEANINGS[status][0],
                        "status": int(status),
                        "code": _MEANINGS[status][0].lower().replace(" ", "_"),
                        "detail": _MEANINGS[status][1],
                    },
                }
            },
        }
        for status in statuses
    }


def _errors(*statuses: str) -> dict[str, Any]:
    """The same in remove.bg's form."""
    example = {"errors": [{"title": "API Key invalid", "code": "auth_failed"}]}
    content = {"application/json": {"schema": _ERRORS, "example": example}}
    return {status: {"description": _MEANINGS[status][0], "content": content} for status in statuses}


def _given(description: str, *media_types: str) -> dict[str, Any]:
    content = {kind: {"schema": {} if kind == "application/json" else FILE} for kind in media_types}
    return {"200": {"description": description, "content": content}}


def _form(properties: dict[str, Any], required: list[str], examples: dict[str, Any]) -> dict[str, Any]:
    schema = {**_object(properties, required), "additionalProperties": False}
    return {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}


def _told(options: type[BaseModel]) -> dict[str, Any]:
    properties: dict[str, Any] = options.model_json_schema()["properties"]
    return {
        name: {key: schema[key] for key in schema if key != "title"} for name, schema in properties.items()
    }


def _post(
    summary: str, responses: dict[str, Any], content: dict[str, Any], parameters: Sequence[Any] = ()
) -> Route:
    body = {"required": True, "content": content}
    extra = {"parameters": parameters, "requestBody": body} if parameters else {"requestBody": body}
    return {"summary": summary, "response_class": Response, "responses": responses, "openapi_extra": extra}


def _picture_route(
    summary: str,
    options: type[BaseModel],
    files: dict[str, Any],
    given: dict[str, Any],
    examples: dict[str, Any],
) -> Route:
    """A route that takes a picture as a form's file or as the whole body, and options in form or address."""
    told = _told(options)
    parameters = [
        {"name": name, "in": "query", "description": schema["description"], "schema": schema}
        for name, schema in told.items()
    ]
    content = {
        "multipart/form-data": _form({"image": FILE, **told, **files}, ["image"], examples),
        "image/*": {"schema": FILE},
    }
    return _post(summary, given | _problems(*_ALL), content, parameters)


def _get(summary: str, given: dict[str, Any], *problems: str) -> Route:
    return {"summary": summary, "response_class": Response, "responses": given | _problems(*problems)}


_PICTURES = ("image/png", "image/webp", "image/tiff", "image/avif", "image/jpeg")
_COLOUR_OR_FILE = {
    "description": "A colour such as white or #1e90ff, blur, or a picture's file.",
    "anyOf": [{"type": "string"}, FILE],
}

CUT = _picture_route(
    "Cut the subject out of a picture; the answer is the file that `decoupe cut` writes.",
    CutOptions,
    {"over": _COLOUR_OR_FILE},
    _given("The picture, in the format that was asked for.", *_PICTURES),
    {
        "cut-out": {"image": "photo.jpg"},
        "product": {
            "image": "mug.jpg",
            "over": "white",
            "crop": True,
            "margin": "8%",
            "aspect": "1:1",
            "format": "jpg",
        },
        "what is in a box": {"image": "street.jpg", "box": "40,60,320,400"},
    },
)
SEGMENT = _picture_route(
    "Say what is where in a picture; needs a segment model.",
    SegmentOptions,
    {},
    _given("The segments as JSON, or as a picture.", "application/json", "image/png"),
    {"polygons": {"image": "street.jpg"}, "COCO": {"image": "street.jpg", "format": "coco"}},
)

_ENCODED = _form(
    {name: one for name, one in PARAMETERS.items() if one is not FILE},
    ["image_file_b64"],
    {"documentation": {"image_file_b64": "…", "size": "auto"}},
)
REMOVE_BG = _post(
    "Cut as remove.bg does: its clients work with this address.",
    _given("The picture.", "image/png", "image/jpeg", "image/webp", "application/zip", "application/json")
    | _errors(*(status for status in _ALL if status != "401")),
    {
        "multipart/form-data": _form(
            PARAMETERS, [], {"documentation": {"image_file": "file.jpg", "size": "auto"}}
        ),
        "application/json": _ENCODED,
        "application/x-www-form-urlencoded": _ENCODED,
    },
)
REMBG = _post(
    "Cut as rembg's server does: its clients work with this address.",
    _given("The picture.", "image/png") | _problems(*_ALL),
    {"multipart/form-data": _form(REMBG_PARAMETERS, ["file"], {"README": {"file": "input.jpg"}})},
)
MODELS = _get(
    "The models that are loaded, and the limits.", _given("Both.", "application/json"), "401", "403"
)
_OPEN: Route = {"openapi_extra": {"security": []}}
HEALTH = _get("Whether the server lives.", _given("It does.", "application/json")) | _OPEN
READY = _get("Whether a worker is ready.", _given("One is.", "application/json"), "503") | _OPEN
METRICS = _get("Counters for Prometheus.", _given("Text.", "text/plain"), "401", "403")


def security(needed: bool) -> dict[str, Any]:
    """How a token is sent with all that is not open; where none is needed, nothing is another way."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    }
    ways: list[dict[str, list[str]]] = [{name: []} for name in schemes]
    return {"components": {"securitySchemes": schemes}, "security": ways if needed else [*ways, {}]}


def limits_told(limits: Limits, place: Workplace) -> dict[str, Any]:
    """The limits that clients may know before they send."""
    return {
        "megabytes": limits.megabytes,
        "pixels": place.max_pixels,
        "frames": place.max_frames,
        "seconds": limits.seconds,
    }
