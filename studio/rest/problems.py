"""Errors as application/problem+json (RFC 9457): what happened, and what to do next.

Knows which status and which wait belong to the studio's error codes. Nothing internal gets out.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException

from studio.errors import BackendError, NotAllowed, UserError
from studio.rest.shapes import Problem, Warned

MAX_BODY_BYTES = 64_000
KIND = "application/problem+json"

STATUSES = {
    "invalid": 422, "unknown-style": 404, "key-reused": 422, "refused": 422, "withheld": 422,
    "no-model": 409, "cancelled": 409, "locked": 403, "quota": 429, "cool-down": 429,
    "unchecked": 503, "engine": 503, "backend": 503, "unknown": 500,
}  # fmt: skip
"""Status by the code of an error or of a run that failed."""

WAIT_S = {"cool-down": 600, "quota": 3600, "unchecked": 30, "engine": 30, "backend": 30}
"""What `Retry-After` says, in seconds."""

log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that ends in a problem; `warnings` are the checks' own words."""

    def __init__(self, code: str, detail: str, warnings: list[Warned] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.warnings = warnings or []


def problem(
    status: int, code: str, detail: str, warnings: list[Warned] | None = None, wait_s: int = 0
) -> Response:
    """The answer for an error."""
    told = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        warnings=warnings or [],
    )
    headers = {"cache-control": "no-store"} | ({"retry-after": str(wait_s)} if wait_s else {})
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(told.model_dump_json(), status, headers, KIND)


def coded(code: str, detail: str, warnings: list[Warned] | None = None) -> Response:
    """The answer for one of the studio's codes."""
    known = code if code in STATUSES else "invalid"
    return problem(STATUSES[known], code, detail, warnings, WAIT_S.get(known, 0))


class ProblemRoute(APIRoute):
    """A route whose errors are problems, and whose bodies are bounded before they are read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                declared = request.headers.get("content-length", "0")
                if (
                    not (declared.isascii() and declared.isdigit())
                    or int(declared) > MAX_BODY_BYTES
                ):
                    return _too_large()
                if len(await request.body()) > MAX_BODY_BYTES:
                    return _too_large()
                return await inner(request)
            except Exception as fault:  # noqa: BLE001 - the one edge where errors become answers
                return answer(fault)

        return handled


def answer(fault: Exception) -> Response:
    """The problem for anything that was raised; what is not ours is logged under an id."""
    if isinstance(fault, Refused):
        return coded(fault.code, fault.detail, fault.warnings)
    if isinstance(fault, UserError):
        return coded(fault.code, str(fault))
    if isinstance(fault, NotAllowed):
        return problem(404, "not-found", str(fault))
    if isinstance(fault, RequestValidationError):
        return problem(422, "invalid", _first(fault))
    if isinstance(fault, HTTPException | StarletteHTTPException):
        return problem(fault.status_code, "invalid", str(fault.detail))
    error_id = secrets.token_hex(4)
    if isinstance(fault, BackendError):
        log.error("error %s: %s", error_id, fault)
        return coded("backend", f"This is not available right now (error {error_id}).")
    log.error("error %s", error_id, exc_info=fault)
    return coded("unknown", f"Something went wrong (error {error_id}).")


def as_problem(refused: PlainTextResponse) -> Response:
    """A refusal of the studio's guard, as programs read it."""
    status = refused.status_code
    code = {401: "signed-out", 404: "not-found", 429: "too-fast"}.get(status, "invalid")
    wait_s = int(refused.headers.get("retry-after", 0))
    told = problem(status, code, bytes(refused.body).decode(), wait_s=wait_s)
    if "allow" in refused.headers:
        told.headers["allow"] = refused.headers["allow"]
    return told


def _too_large() -> Response:
    return problem(413, "too-large", f"A body has at most {MAX_BODY_BYTES} bytes.")


def _first(fault: RequestValidationError) -> str:
    """The first thing that is wrong, without repeating what was sent."""
    first = fault.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    return f"{where}: {first['msg']}."
