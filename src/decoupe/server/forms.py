"""What a request holds: fields and files, kept in memory and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote_plus

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from decoupe.server.guard import Limits
from decoupe.server.problems import ProblemError

_MOST_FILES = 2
_LONGEST_FIELD = 4096  # characters; remove.bg's base64 pictures alone are longer
_LONGEST_ENCODED = 4 * _LONGEST_FIELD  # bytes in UTF-8
_LONGEST_QUOTED = 3 * _LONGEST_FIELD  # bytes, each written as %XX
_QUOTED = {b"%2B": b"+", b"%2F": b"/", b"%3D": b"=", b"%3A": b":", b"%3B": b";", b"%2C": b","}
_QUOTED |= {b"%0D": b"\r", b"%0A": b"\n"}
"""What quotes of base64 in lines, and of the head of a ``data:`` address that may stand before it."""
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")
_MOST_SIGNS = 4096  # commas and opening brackets of a JSON body: far more than all options need


Part = tuple[str, str | bytes]
"""A field or a file, with its name."""


@dataclass(frozen=True)
class Form:
    """The fields and files of a request, by name."""

    fields: Mapping[str, list[str]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class _InMemory(MultiPartParser):
    spool_max_size = 2**62  # Starlette's own writes files of more than a megabyte to disk
    long: str | None = None

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Take some of a part; a field ends where it is too long, before it is decoded."""
        part = self._current_part
        long = part.file is None and part.field_name != self.long
        if long and len(part.data) + end - start > _LONGEST_ENCODED:
            raise _too_long(part.field_name, "characters")
        super().on_part_data(data, start, end)


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
    parts: list[Part] = [*request.query_params.multi_items()]
    if kind == "multipart/form-data":
        parts += await _multipart(request, limits, long)
    # Not all that says so is a form: curl --data-binary says it of pictures.
    elif kind == "application/x-www-form-urlencoded" and (raw is None or (await request.body()).isascii()):
        parts += _urlencoded(await request.body(), limits, long)
    elif kind == "application/json" and long is not None:
        parts += _of_json(await request.body())
    elif raw is not None:
        parts.append((raw, await request.body()))
    elif await request.body():
        raise ProblemError(415, "expected multipart/form-data, or another form: send the picture as a field")
    return _checked(parts, limits, long)


def _checked(parts: list[Part], limits: Limits, long: str | None) -> Form:
    fields: dict[str, list[str]] = {}
    files: dict[str, bytes] = {}
    for name, value in parts:
        if isinstance(value, bytes):
            if name in files:
                raise ProblemError(400, f"{name[:40]!r} is given twice: give it once")
            files[name] = value
        elif value:  # an empty field is as if it were not there
            fields.setdefault(name, []).append(value)
            if name != long and len(value) > _LONGEST_FIELD:
                raise _too_long(name, "characters")
    if sum(map(len, fields.values())) > limits.fields:
        raise _too_many(limits)
    return Form(fields, files)


def _too_long(name: str, unit: str) -> ProblemError:
    return ProblemError(400, f"{name[:40]!r} is longer than {_LONGEST_FIELD} {unit}: make it shorter")


def _too_many(limits: Limits) -> ProblemError:
    return ProblemError(400, f"there are more than {limits.fields} fields: leave some out")


async def _multipart(request: Request, limits: Limits, long: str | None) -> list[Part]:
    _, options = parse_options_header(request.headers["content-type"])
    # Starlette takes any codec of Python's, punycode too, whose time is quadratic.
    if options.get(b"charset", b"utf-8").lower() not in _CHARSETS:
        raise ProblemError(415, "the form is not in UTF-8: send it so, without a charset")
    parser = _InMemory(
        request.headers,
        cast(Any, request.stream()),
        max_files=_MOST_FILES,
        max_fields=limits.fields,
        max_part_size=int(limits.megabytes * 1e6),
    )
    parser.long = long
    try:
        parsed = await parser.parse()
    except MultiPartException as error:
        raise ProblemError(400, f"the form cannot be read: {error.message.rstrip('.')}") from None
    except (KeyError, ValueError, AssertionError):  # whatever a broken head of a part makes the parser raise
        raise ProblemError(400, "the form cannot be read: its boundary or a part's head is broken") from None
    return [
        (name, value if isinstance(value, str) else await value.read())
        for name, value in parsed.multi_items()
        if isinstance(value, str) or value.filename or value.size  # else a page's field for files, left alone
    ]


def _urlencoded(body: bytes, limits: Limits, long: str | None) -> list[Part]:
    if body.count(b"&") >= limits.fields:
        raise _too_many(limits)
    parts: list[Part] = []
    for pair in body.split(b"&"):
        quoted, _, value = pair.partition(b"=")
        name = _unquoted(quoted, "the name of a field")
        parts.append((name, _base64(name, value) if name == long else _unquoted(value, name)))
    return parts


def _unquoted(quoted: bytes, name: str) -> str:
    # Before it is unquoted: that takes seconds and gigabytes for megabytes of %XX.
    if len(quoted) > _LONGEST_QUOTED:
        raise _too_long(name, "bytes")
    return unquote_plus(quoted.decode("utf-8", "replace"))


def _base64(name: str, value: bytes) -> str:
    """A long field, unquoted as far as base64 needs it; a plus that was not quoted is meant as one."""
    for quoted, byte in _QUOTED.items():
        value = value.replace(quoted, byte).replace(quoted.lower(), byte)
    if b"%" in value or not value.isascii():
        raise ProblemError(400, f"{name} is not base64: encode the file's bytes", code="invalid_file")
    return value.decode("ascii")


def _of_json(body: bytes) -> list[Part]:
    # Before it is parsed: lists by the million block the server for seconds and take hundreds of megabytes.
    # Base64 has none of these signs, and the other fields are short.
    if sum(map(body.count, (b"[", b"{", b","))) > _MOST_SIGNS:
        raise ProblemError(
            400, 'the body is not a flat JSON object: send the options as one, such as {"size": "auto"}'
        )
    try:
        # Numbers stay text, as in forms: computing one of millions of digits takes seconds.
        data = json.loads(body, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise ProblemError(
            400, 'the body is not a JSON object: send the options as one, such as {"size": "auto"}'
        )
    return [(name, _text(name, value)) for name, value in data.items() if value is not None and value != ""]


def _text(name: str, value: object) -> str:
    if isinstance(value, (list, dict)):
        raise ProblemError(
            400, f"{name[:40]!r} is a list or an object: send it as text, a number, true or false"
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
