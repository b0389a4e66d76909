"""`avatar-studio aws async …`: the endpoint that draws orders and costs nothing while idle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from serving.errors import EngineError
from studio.cli.console import Json, reporting
from studio.cloud import aws as aws_room
from studio.errors import BackendError
from studio.settings import Settings, read_settings

app = typer.Typer(
    help="The endpoint that draws orders, and costs nothing while idle.", no_args_is_help=True
)

Name = Annotated[str, typer.Option("--name", help="The endpoint; else AVATAR_AWS_ASYNC_ENDPOINT.")]
Most = Annotated[int, typer.Option(help="Most instances.")]


@contextmanager
def hosting_errors() -> Iterator[None]:
    """Errors about an endpoint are the host's to mend."""
    try:
        yield
    except EngineError as fault:
        raise BackendError(str(fault)) from fault


def _settings(name: str) -> Settings:
    settings = read_settings()
    return settings.model_copy(update={"aws_async_endpoint": name}) if name else settings


@app.command("create")
def create(
    image: Annotated[
        str, typer.Option(help="Image of deploy/endpoint.Dockerfile, for a GPU with its torch.")
    ],
    instance: Annotated[str, typer.Option(help="Instance type, with or without a GPU.")] = (
        "ml.g5.xlarge"
    ),
    most: Most = 1,
    name: Name = "",
    as_json: Json = False,
) -> None:
    """Create the asynchronous endpoint, or bring it to these options."""
    with reporting(as_json) as output, hosting_errors():
        settings = _settings(name)
        plan = aws_room.async_plan(settings, image=image, instance=instance, most=most)
        state = aws_room.hosting(settings).create(plan)
        output.words(f"The endpoint {state.name} is {state.state}; this takes about ten minutes.")
        output.words("When it is in service, run: avatar-studio aws async scale")
        output.result({"endpoint": asdict(state)})


@app.command("scale")
def scale(most: Most = 1, name: Name = "", as_json: Json = False) -> None:
    """Let AWS bring instances when orders wait, and take all of them away when none do."""
    with reporting(as_json) as output, hosting_errors():
        settings = _settings(name)
        plan = aws_room.async_plan(settings, image="", instance="ml.c5.xlarge", most=most)
        aws_room.hosting(settings).scale(plan)
        output.words(f"{settings.aws_async_endpoint} keeps 0 to {most} instances.")
        output.result({"endpoint": settings.aws_async_endpoint, "least": 0, "most": most})


@app.command("status")
def status(name: Name = "", as_json: Json = False) -> None:
    """Show the endpoint's state and how many instances it has now."""
    with reporting(as_json) as output, hosting_errors():
        settings = _settings(name)
        state = aws_room.hosting(settings).state(settings.aws_async_endpoint)
        reason = f": {state.reason}" if state.reason else ""
        output.words(f"{state.name} is {state.state}{reason}; instances: {state.instances}")
        output.result({"endpoint": asdict(state)})


@app.command("delete")
def delete(name: Name = "", as_json: Json = False) -> None:
    """Take the endpoint away with everything that belongs to it; orders in line are lost."""
    with reporting(as_json) as output, hosting_errors():
        settings = _settings(name)
        gone = aws_room.hosting(settings).delete(settings.aws_async_endpoint)
        output.words(f"Gone: {', '.join(gone) or 'nothing; there was no such endpoint'}.")
        output.result({"gone": gone})
