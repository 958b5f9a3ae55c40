"""Requests that are answered with a reason in place of a result."""

from __future__ import annotations

import http
import math

from starlette.responses import JSONResponse


class Refusal(Exception):  # noqa: N818 - an answer
    """A request that is not served.

    Attributes:
      status: of HTTP.
      detail: why, and what to do, in one line.
      headers: of the answer.
    """

    def __init__(self, status: int, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        if status == 401:
            self.headers["WWW-Authenticate"] = 'Bearer realm="dmphn"'


def refused(refusal: Refusal) -> JSONResponse:
    """Returns the answer, a problem document (RFC 9457)."""
    return problem(refusal.status, refusal.detail, refusal.headers)


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Returns a problem document with a status and a line of words."""
    content = {"title": http.HTTPStatus(status).phrase, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, "application/problem+json")
