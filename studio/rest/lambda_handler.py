"""The API's other home: AWS Lambda behind API Gateway. Its handler is `handler` below.

Three kinds of events come: API Gateway's (REST and HTTP APIs; the routes are the studio's own,
through Mangum), `{"draw": run id}`, which the function sends to itself so that a drawing may take
longer than a request, and `{"sweep": true}` from a schedule. Identity is what API Gateway's
authorizer found; a client cannot name it. Needs neither torch nor Gradio nor DBOS.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from datetime import timedelta
from functools import cache
from typing import Any, Protocol
from urllib.parse import quote

from fastapi import FastAPI
from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.cloud.aws import client
from studio.errors import BackendError, NotAllowed, StudioError, UserError
from studio.keeping import retention
from studio.parts import Parts, build
from studio.records import Run, now
from studio.rest import problems
from studio.rest.problems import KIND, problem
from studio.rest.routes import nothing_here, routes
from studio.settings import Settings, read_settings
from studio.studio import Studio
from studio.web.oidc import name_of
from studio.work.drawing import Drawing
from studio.work.engines import Engines
from studio.work.learning import Ended
from studio.work.shift import Shift

GIVEN_UP = timedelta(minutes=20)
"""A drawing that nothing was heard of for longer than an invocation can last (15 minutes)."""

HEADERS = {
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}

log = logging.getLogger("studio.lambda")


class Context(Protocol):
    """What Lambda tells of an invocation. Retries of one event keep their request's id."""

    function_name: str
    aws_request_id: str


def handler(event: dict[str, Any], context: Context) -> Any:
    """Lambda's entry."""
    home = _home(context.function_name)
    if "requestContext" in event:
        return home.answer(event, context)
    if isinstance(event.get("draw"), str):
        return home.draw(event["draw"], context.aws_request_id)
    if event.get("sweep") is True:
        return home.sweep()
    raise ValueError("The event is neither API Gateway's nor a `draw` or `sweep` of our own.")


@cache
def _home(function_name: str) -> Home:
    return Home(with_secrets(read_settings()), function_name)


class Home:
    """A studio without pages and workers. One per sandbox; lives as long as Lambda keeps it."""

    def __init__(self, settings: Settings, function_name: str) -> None:
        parts = build(settings)
        studio = Studio(
            settings=settings,
            catalog=parts.catalog,
            storage=parts.storage,
            moderation=parts.moderation,
            styles=parts.styles,
            bases=parts.bases,
            workflows=Invocations(client("lambda", settings), parts, function_name),
        )
        self.parts = dataclasses.replace(parts, studio=studio)
        self._shift = Shift()
        engines = Engines(settings, parts.bases, parts.machine)
        self._drawing = Drawing(self.parts, self._shift, engines)
        self._http = Mangum(
            Signed(api(studio, settings.api_wait_seconds)),
            lifespan="off",
            # What is not named here goes out as base64, which API Gateway would not undo.
            text_mime_types=[*DEFAULT_TEXT_MIME_TYPES, KIND],
        )

    def answer(self, event: Any, context: Any) -> Any:
        """What a request gets. A refusal leaves a line for the alarms, without who and what."""
        answer = self._http(event, context)
        if answer["statusCode"] >= 400:
            told = json.loads(answer["body"])
            _told({"stage": "answer", "outcome": told["code"], "status": answer["statusCode"]})
        return answer

    def draw(self, run_id: str, request_id: str) -> dict[str, Any]:
        """Draw a run that this function was sent, once, and end it with a sentence."""
        if not self._claimed(run_id, request_id):
            return {"outcome": "taken"}
        outcome, sentence = "done", ""
        try:
            with self._shift.at_work():
                self._drawing.draw(run_id)
        except (Ended, NotAllowed):  # cancelled, or its records were erased
            outcome = "ended"
        except UserError as fault:
            outcome, sentence = fault.code, str(fault)
        except StudioError as fault:
            log.error("run %s: %s", run_id, fault)
            outcome, sentence = "backend", "This is not available right now."
        except Exception:
            log.exception("run %s", run_id)
            outcome, sentence = "unknown", "Something went wrong."
        if sentence:
            self.parts.catalog.update_run(
                run_id, state="failed", message=sentence, seconds_left=None,
                detail={"code": outcome},
            )  # fmt: skip
        return _measured(outcome, self.parts.catalog.get(Run, run_id))

    def sweep(self) -> dict[str, Any]:
        """What retention promises, and runs whose invocations died."""
        parts = self.parts
        stuck = 0
        for run in parts.catalog.active_runs("generate"):
            if "invoked" in run.detail and now() - run.updated_at > GIVEN_UP:
                stuck += parts.catalog.update_run(
                    run.id, state="failed", message="The drawing was interrupted. Try again.",
                    detail={"code": "backend"},
                )  # fmt: skip
        swept = retention.sweep(parts.catalog, parts.storage, parts.settings)
        return _told({"stage": "sweep", "stuck": stuck, **dataclasses.asdict(swept)})

    def _claimed(self, run_id: str, request_id: str) -> bool:
        """Whether this invocation is the one that draws: an event may come more than once."""
        catalog = self.parts.catalog
        mine = {"invocation": request_id}
        if catalog.update_run(run_id, expected=("waiting",), state="preparing", detail=mine):
            return True
        run = catalog.get(Run, run_id)
        return run is not None and not run.over and run.detail.get("invocation") == request_id


class Invocations:
    """`studio.work.workflows.Workflows` by the function sending itself an event for every drawing.

    Lambda keeps the event, and sends it again when an invocation dies.
    """

    def __init__(self, functions: Any, parts: Parts, function_name: str) -> None:
        self._functions = functions
        self._runs = parts.catalog
        self._name = function_name

    def start_train(self, run_id: str, *, user_id: str = "") -> None:
        """Raises `BackendError`: a training takes longer than a function may run."""
        raise BackendError("This home of the API draws; models are trained in the studio.")

    def start_generate(self, run_id: str, *, user_id: str = "") -> None:
        self._runs.update_run(run_id, detail={"invoked": True})
        self._functions.invoke(
            FunctionName=self._name,
            InvocationType="Event",
            Payload=json.dumps({"draw": run_id}).encode(),
        )

    def cancel(self, run_id: str) -> None:
        self._runs.update_run(run_id, state="cancelled", message="You cancelled this.")

    def ahead(self, run_id: str) -> int:
        """Nobody waits for another: Lambda runs invocations beside one another."""
        return 0

    def ahead_of_next(self, kind: str, user_id: str) -> int:
        return 0


class Signed:
    """Whose request it is, by API Gateway's authorizer; the headers of every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                fixed = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *fixed]
            await send(message)

        name = signed_in(scope["aws.event"])
        if not name:
            refused = problem(401, "signed-out", "Sign in, and send the token as Authorization.")
            await refused(scope, receive, add)
            return
        scope["user_name"] = name
        await self.app(scope, receive, add)


def signed_in(event: dict[str, Any]) -> str:
    """Our name for whom an authorizer of API Gateway found; empty where it found nobody.

    By issuer and subject, so that a studio whose people sign in at the same provider knows them by
    the same name. Not by the user name: that may be another's after its first owner has left.
    """
    context = event.get("requestContext")
    authorizer = context.get("authorizer") if isinstance(context, dict) else None
    if not isinstance(authorizer, dict):
        return ""
    jwt = authorizer.get("jwt")
    claims = authorizer.get("claims") or (jwt.get("claims") if isinstance(jwt, dict) else None)
    found = [claims.get(name) for name in ("iss", "sub")] if isinstance(claims, dict) else []
    told = [one for one in found if isinstance(one, str) and one]
    return name_of(*told) if len(told) == 2 else ""


def api(studio: Studio, wait_s: float) -> FastAPI:
    """The app that serves the API alone."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(routes(studio, wait_s=wait_s))

    @app.exception_handler(404)
    def absent(_request: Any, _fault: Any) -> Any:
        return nothing_here()

    @app.exception_handler(405)
    def not_this_way(_request: Any, fault: Any) -> Any:
        refused = problem(405, "invalid", "This cannot be done here.")
        refused.headers["allow"] = (fault.headers or {}).get("Allow", "")
        return refused

    @app.exception_handler(500)
    def broken(_request: Any, fault: Any) -> Any:
        return problems.answer(fault)

    return app


def with_secrets(settings: Settings) -> Settings:
    """The settings with what Secrets Manager holds of them. Raises `BackendError`."""
    found: dict[str, Any] = {}
    if settings.aws_database_secret:
        held = json.loads(_secret(settings, settings.aws_database_secret))
        user, password = (quote(str(held[name]), safe="") for name in ("username", "password"))
        place = f"{held['host']}:{held['port']}/{held['dbname']}"
        found["database_url"] = f"postgresql://{user}:{password}@{place}?sslmode=require"
    if settings.aws_signing_secret:
        found["signing_key"] = SecretStr(_secret(settings, settings.aws_signing_secret))
    return settings.model_copy(update=found)


def _secret(settings: Settings, name: str) -> str:
    try:
        answer = client("secretsmanager", settings).get_secret_value(SecretId=name)
        return str(answer["SecretString"])
    except Exception as fault:
        code = (getattr(fault, "response", None) or {}).get("Error", {}).get("Code")
        raise BackendError(
            f"The secret {name} cannot be read ({code or type(fault).__name__}). Allow "
            "secretsmanager:GetSecretValue on it."
        ) from fault


def _measured(outcome: str, run: Run | None) -> dict[str, Any]:
    """One line for CloudWatch's metric filters: numbers and codes, no text and no owner."""
    detail = run.detail if run is not None else {}
    return _told(
        {
            "stage": "draw",
            "outcome": outcome,
            "pictures": len(detail.get("avatar_ids", [])),
            "refused": len(detail.get("refused", [])),
            "seconds": detail.get("seconds", {}),
        }
    )


def _told(line: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps({"avatar_studio": line}), flush=True)
    return line
