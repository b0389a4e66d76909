"""The API's routes: `/v1/avatars`, `/v1/pictures`, `/classifier/checkToxicity` and `/classifier`.

Whose request it is says the home that serves them, in `scope["user_name"]`; nothing a client sends
names an owner.
"""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import StringConstraints

from studio.rest.problems import KIND, ProblemRoute, problem
from studio.rest.service import Pictures
from studio.rest.shapes import AvatarWish, Drawing, Problem, StoredFile, TextToCheck, TextVerdict
from studio.studio import Studio

RETRY_S = 5

Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=128,
        pattern=r"^[\x21-\x7e]*$",
        description="The same key and body draw once and answer the same",
    ),
]
Prefer = Annotated[
    str,
    Header(
        max_length=100,
        pattern=r"^[\x20-\x7e]*$",
        description="`wait=N` waits at most N seconds, `respond-async` not at all (RFC 7240)",
    ),
]
Name = Annotated[
    str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_-]+$"), Path(description="An id")
]

Documented = dict[int | str, dict[str, Any]]

_ERRORS = {
    400: "The request is not JSON, or came from another site",
    401: "Nobody is signed in",
    403: "Locked on this studio",
    404: "Not there, or somebody else's: nobody can tell which",
    409: "There is no personal model yet, or the drawing was cancelled",
    413: "The body is too large",
    415: "The body is not application/json",
    422: "A field is wrong, or a check refused the text or every picture",
    429: "Too much in a short time",
    500: "Something went wrong",
    503: "A check or the drawing service did not answer: nothing is shown unchecked",
}


_BYTES: Documented = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
    303: {"description": "A link that works for ten minutes"},
}


def _errors(*statuses: int) -> Documented:
    """The documented problems of a route."""
    return {
        status: {
            "description": _ERRORS[status],
            "content": {KIND: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def routes(studio: Studio, *, wait_s: float) -> APIRouter:
    """All of the API's routes. `wait_s` is how long a request waits for its drawing."""
    router = APIRouter(route_class=ProblemRoute)
    pictures = Pictures(studio, wait_s)

    def owner(request: Request) -> str:
        """Policy of every route here: the owner is who signed in, by the home's own finding."""
        return studio.user(request.scope["user_name"]).id

    Owner = Annotated[str, Depends(owner)]
    later: Documented = {202: {"model": Drawing, "description": "On its way: ask again at `url`"}}
    drawing_errors = _errors(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503)

    @router.post(
        "/v1/avatars", operation_id="draw", summary="Draw a prompt, moderated",
        responses=later | drawing_errors, response_model=Drawing,
    )  # fmt: skip
    async def draw(owner: Owner, wish: AvatarWish, key: Key = "", prefer: Prefer = "") -> Response:
        wait = _preferred(prefer, wait_s)
        return _drawing(await pictures.draw(owner, wish, key, wait))

    @router.get(
        "/v1/avatars/{drawing_id}", operation_id="look", summary="A drawing as it is now",
        responses=later | _errors(400, 401, 404, 409, 422, 429, 500, 503), response_model=Drawing,
    )  # fmt: skip
    async def look(owner: Owner, drawing_id: Name) -> Response:
        return _drawing(await pictures.look(owner, drawing_id))

    @router.get(
        "/v1/pictures/{name}", operation_id="picture", summary="The bytes of a picture",
        response_class=Response,
        responses=_BYTES | _errors(400, 401, 404, 422, 429, 500, 503),
    )  # fmt: skip
    def picture(owner: Owner, name: Name) -> Response:
        found = pictures.content(owner, name)
        if isinstance(found, str):
            return RedirectResponse(found, 303, {"cache-control": "no-store"})
        return Response(found, 200, {"cache-control": "private, no-store"}, "image/png")

    @router.post(
        "/classifier/checkToxicity", operation_id="check_toxicity", summary="Judge a text",
        responses=_errors(400, 401, 413, 415, 422, 429, 500, 503), response_model=TextVerdict,
    )  # fmt: skip
    async def check_toxicity(owner: Owner, text: TextToCheck) -> Response:
        told = await pictures.check(owner, text.text)
        return JSONResponse(told.model_dump(mode="json"), 200, _timing(told.seconds.model_dump()))

    @router.post(
        "/classifier", operation_id="classify", summary="One picture for a text; its stored name",
        responses=later | drawing_errors, response_model=StoredFile,
    )  # fmt: skip
    async def classify(owner: Owner, text: TextToCheck, key: Key = "") -> Response:
        found = await pictures.classify(owner, text.text, key)
        if isinstance(found, Drawing):
            return _drawing(found)
        seconds = found.seconds.model_dump()
        return JSONResponse(found.model_dump(mode="json"), 200, _timing(seconds))

    @router.get("/v1/openapi.json", include_in_schema=False)
    def schema(owner: Owner) -> JSONResponse:
        return JSONResponse(openapi(router))

    return router


def openapi(router: APIRouter) -> dict[str, Any]:
    """The API's description (OpenAPI 3.1)."""
    described = get_openapi(
        title="Avatar Studio: the moderated picture API", version="1", routes=router.routes
    )
    described["components"]["schemas"]["Problem"] = Problem.model_json_schema(
        ref_template="#/components/schemas/{model}"
    )
    described["components"]["schemas"]["Problem"].pop("$defs", None)
    return described


def nothing_here() -> Response:
    """The problem for a path that is none of the API's."""
    return problem(404, "not-found", "There is nothing here.")


def _drawing(told: Drawing) -> Response:
    headers = _timing(told.seconds.model_dump())
    if told.state == "done":
        return JSONResponse(told.model_dump(mode="json"), 200, headers)
    headers |= {"retry-after": str(RETRY_S), "location": told.url}
    return JSONResponse(told.model_dump(mode="json"), 202, headers)


def _timing(seconds: dict[str, float]) -> dict[str, str]:
    """The stages' times as browsers and proxies read them, in milliseconds."""
    told = ", ".join(f"{stage};dur={value * 1000:.1f}" for stage, value in seconds.items())
    return {"server-timing": told, "cache-control": "no-store"}


def _preferred(prefer: str, most_s: float) -> float:
    if re.search(r"\brespond-async\b", prefer):
        return 0.0
    found = re.search(r"\bwait=(\d{1,4})\b", prefer)
    return min(float(found[1]), most_s) if found else most_s
