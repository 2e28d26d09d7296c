"""What a request holds: fields and files, kept in memory and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import Request

from decoupe.server.guard import Limits
from decoupe.server.problems import ProblemError

_MOST_FILES = 2
_LONGEST_FIELD = 4096  # characters; remove.bg's base64 pictures alone are longer


@dataclass(frozen=True)
class Form:
    """The fields and files of a request, by name."""

    fields: Mapping[str, list[str]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class _InMemory(MultiPartParser):
    spool_max_size = 2**62  # Starlette's own writes files of more than a megabyte to disk


async def read_form(
    request: Request, limits: Limits, *, raw: str | None = None, long: str | None = None
) -> Form:
    """What a request holds, of its address and of its body.

    Args:
        request: whose body has not been read.
        limits: of fields; the `Guard` has those of bytes.
        raw: the name that a body gets which is neither a form nor JSON; None refuses it.
        long: a field that may be as long as the request.

    Raises:
        ProblemError: a form that is broken, or has too many fields or files; JSON that holds no object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields = _by_name(request.query_params.multi_items())
    files: dict[str, bytes] = {}
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        data = await _parsed(request, kind, limits)
        for name, value in data.multi_items():
            if isinstance(value, UploadFile):
                if name in files:
                    raise ProblemError(400, f"{_shown(name)} is given twice: give it once")
                files[name] = await value.read()
            elif value:
                fields.setdefault(name, []).append(value)
    elif kind == "application/json" and long is not None:
        fields = _by_name(
            [*((n, v) for n, vs in fields.items() for v in vs), *_of_json(await request.body())]
        )
    else:
        body = await request.body()
        if raw is None and body:
            raise ProblemError(
                415, "expected multipart/form-data, or another form: send the picture as a field"
            )
        if raw is not None:
            files[raw] = body
    if sum(map(len, fields.values())) > limits.fields:
        raise ProblemError(400, f"there are more than {limits.fields} fields: leave some out")
    for name, values in fields.items():
        if name != long and max(map(len, values)) > _LONGEST_FIELD:
            raise ProblemError(
                400, f"{_shown(name)} is longer than {_LONGEST_FIELD} characters: make it shorter"
            )
    return Form(fields, files)


async def _parsed(request: Request, kind: str, limits: Limits) -> FormData:
    longest = int(limits.megabytes * 1e6)
    stream = cast(Any, request.stream())
    try:
        if kind == "multipart/form-data":
            return await _InMemory(
                request.headers,
                stream,
                max_files=_MOST_FILES,
                max_fields=limits.fields,
                max_part_size=longest,
            ).parse()
        return await FormParser(
            request.headers, stream, max_fields=limits.fields, max_part_size=longest
        ).parse()
    except MultiPartException as error:
        raise ProblemError(400, f"the form cannot be read: {error.message.rstrip('.')}") from None
    except (KeyError, ValueError, AssertionError):  # whatever a broken head of a part makes the parser raise
        raise ProblemError(400, "the form cannot be read: its boundary or a part's head is broken") from None


def _of_json(body: bytes) -> list[tuple[str, str]]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise ProblemError(
            400, 'the body is no JSON object: send the options as one, such as {"size": "auto"}'
        )
    words = {True: "true", False: "false"}
    return [
        (name, words[value] if isinstance(value, bool) else str(value))
        for name, value in data.items()
        if value is not None and value != ""
    ]


def _by_name(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if value:
            found.setdefault(name, []).append(value)
    return found


def _shown(name: str) -> str:
    return repr(name[:40])
