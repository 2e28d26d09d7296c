"""What goes wrong in a request, as the answer its sender gets: one clear line, never a traceback.

Errors are problem details (RFC 9457). Under ``/v1.0/`` they have the form that remove.bg's clients read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from starlette.responses import JSONResponse

REMOVE_BG = "/v1.0/"
"""Where the routes begin whose errors are remove.bg's."""


class ProblemError(Exception):
    """A request that is refused, or that fails.

    Args:
        status: of HTTP, from 400.
        detail: one line: what is wrong, what was expected, what to do.
        code: a word for programs; None is the status's own phrase.
        retry_after: seconds after which another try makes sense.
        headers: of the answer, beside those that all answers have.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code or HTTPStatus(status).phrase.lower().replace(" ", "_")
        self.retry_after = retry_after
        self.headers = headers

    def response(self, path: str) -> JSONResponse:
        """The answer to a request for ``path``."""
        retry = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        headers = {**retry, **self.headers}
        if path.startswith(REMOVE_BG):
            error = {"title": self.detail, "code": self.code}
            return JSONResponse({"errors": [error]}, self.status, headers)
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        return JSONResponse(content, self.status, headers, media_type="application/problem+json")


def of_options(line: str) -> str:
    """A message with options as requests name them: ``--keep-hidden`` becomes ``keep_hidden``."""
    return re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), line)
