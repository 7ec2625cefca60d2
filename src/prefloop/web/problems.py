"""What a refused request looks like: `{"error": {"code", "message"}}` on the API, a plain page elsewhere.

Knows which of our errors means which HTTP status; knows nothing of the routes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.templating import Jinja2Templates
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from prefloop.errors import ConfigError, DataError, NotFoundError, PrefloopError, StateError, UnavailableError

_log = logging.getLogger(__name__)
_CODES = {
    401: "sign_in",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_long",
    429: "too_many",
}
_STATUS: tuple[tuple[type[PrefloopError], int, str], ...] = (
    (NotFoundError, 404, "not_found"),
    (StateError, 409, "conflict"),
    (DataError, 422, "invalid"),
    (ConfigError, 422, "invalid"),
    (UnavailableError, 503, "unavailable"),
)


class Problem(HTTPException):
    """A refusal with a code that a program can act on and a sentence that a person can read."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code


class ProblemFacts(BaseModel):
    code: str = Field(description="for programs")
    message: str = Field(description="a sentence with the value, the limit and the next action")


class ProblemBody(BaseModel):
    """The one JSON shape of a refusal."""

    error: ProblemFacts


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemBody, "description": description}
    for status, description in (
        (401, "Not signed in"),
        (403, "Not this role's, or a request from another site"),
        (404, "Not there, or not yours"),
        (409, "Not possible as things stand"),
        (422, "A value that cannot be"),
    )
}
"""For OpenAPI: what every route may answer."""


def problem_response(status: int, code: str, message: str) -> JSONResponse:
    """The one JSON error shape."""
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status)


def add_problem_handlers(app: FastAPI, templates: Jinja2Templates) -> None:
    """Turns every exception of a request into the JSON shape, or into a page for a person outside of `/api/`."""

    def answer(request: Request, status: int, code: str, message: str) -> Response:
        if request.url.path.startswith("/api/"):
            return problem_response(status, code, message)
        facts = {"status": status, "code": code, "message": message}
        if status == 401 and request.url.path.startswith("/researcher"):
            asked = request.url.path if request.method == "GET" else "/researcher"
            facts |= {"target": asked if not request.url.query else f"{asked}?{request.url.query}", "name": ""}
            return templates.TemplateResponse(request, "sign_in.html", facts, status_code=status)
        return templates.TemplateResponse(request, "problem.html", facts, status_code=status)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = error.code if isinstance(error, Problem) else _CODES.get(error.status_code, "error")
        response = answer(request, error.status_code, code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"][1:]) or "body"
        return answer(request, 422, "invalid", f"{field}: {fault['msg']}.")

    async def known(request: Request, error: Exception) -> Response:
        for kind, status, code in _STATUS:
            if isinstance(error, kind):
                return answer(request, status, code, str(error))
        return await unknown(request, error)

    async def unknown(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(request, 500, "internal", "The server made a mistake; it is in the log. Please try again.")

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: refused,
        RequestValidationError: invalid,
        PrefloopError: known,
        Exception: unknown,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
