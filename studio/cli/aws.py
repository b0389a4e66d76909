"""`avatar-studio aws …`: the host's verbs for AWS, with JSON like every other command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_args

import typer

from studio.cli.async_endpoint import app as async_app
from studio.cli.async_endpoint import hosting_errors
from studio.cli.console import FAILED, Json, reporting
from studio.cli.deploy import add_to as add_deploy_to
from studio.cloud import aws as aws_room
from studio.cloud.costs import cost_words
from studio.cloud.costs import costs as cost_sheet
from studio.cloud.costs import training as training_cost
from studio.errors import BackendError, UserError
from studio.settings import Settings, read_settings
from training.request import Family

app = typer.Typer(
    help="AWS: is it ready, its bases, its endpoint, its costs.", no_args_is_help=True
)
endpoint_app = typer.Typer(help="The endpoint that draws.", no_args_is_help=True)
bucket_app = typer.Typer(help="The bucket that everything lies in.", no_args_is_help=True)
app.add_typer(endpoint_app, name="endpoint")
app.add_typer(async_app, name="async")
app.add_typer(bucket_app, name="bucket")
add_deploy_to(app)

Name = Annotated[str, typer.Option("--name", help="The endpoint; else AVATAR_AWS_ENDPOINT.")]


def _settings(name: str = "") -> Settings:
    settings = read_settings()
    return settings.model_copy(update={"aws_endpoint": name}) if name else settings


@app.command()
def doctor(
    endpoint_instance: Annotated[
        str, typer.Option(help="Instance type that the endpoint runs, or will run, on.")
    ] = "ml.g5.xlarge",
    as_json: Json = False,
) -> None:
    """Look at identity, bucket, rights, quotas, model and endpoint, and say what to do."""
    with reporting(as_json) as output:
        found = aws_room.doctor(_settings(), endpoint_instance=endpoint_instance)
        for check in found["checks"]:
            mark = "ok" if check["ok"] else "no"
            output.words(f"{mark}  {check['name']}: {check['detail']}")
            if not check["ok"]:
                output.words(f"      {check['fix']}")
        bad = not all(check["ok"] for check in found["checks"])
        output.result(found, FAILED if bad else 0)


@app.command()
def bases(
    part: Annotated[str, typer.Option("--part", help="What the names contain.")] = "txt2img",
    details: Annotated[
        bool, typer.Option("--details", help="Ask of each whether, and on what, it is trained.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models of JumpStart's public hub whose names contain a part."""
    from training.aws import asking
    from training.errors import TrainingError
    from training.hub import offers

    with reporting(as_json) as output:
        try:
            with asking("list JumpStart's models"):
                found = offers(aws_room.client("sagemaker", _settings()), part, details=details)
        except TrainingError as fault:
            raise BackendError(str(fault)) from fault
        for one in found:
            words = f"{one.id} {one.version}"
            if one.trainable is not None:
                words += (
                    f": trained on {', '.join(one.instances or ())}"
                    if one.trainable
                    else (": drawn with only")
                )
            output.words(words)
        output.result({"bases": [asdict(one) for one in found]})


@app.command()
def costs(
    endpoint_instance: Annotated[
        str, typer.Option(help="Instance type of the endpoint.")
    ] = "ml.g5.xlarge",
    steps: Annotated[int, typer.Option(help="Steps of a training; 0 takes the usual.")] = 0,
    prices: Annotated[Path | None, typer.Option(help="Own prices in place of the shipped.")] = None,
    as_json: Json = False,
) -> None:
    """Print the cost sheet: an estimate from dated prices, not an offer."""
    with reporting(as_json) as output:
        settings = _settings()
        if prices is not None:
            settings = settings.model_copy(update={"aws_prices_file": prices})
        sheet = cost_sheet(settings, endpoint_instance=endpoint_instance, steps=steps)
        output.words(f"Estimates in US dollars, {sheet['region']}, prices of {sheet['date']}.")
        for line in sheet["costs"]:
            output.words(
                f"{line['dollars']:>10.4f}  per {line['unit']}: {line['what']} ({line['how']})"
            )
        output.result(sheet)


@app.command()
def estimate(
    steps: Annotated[int, typer.Option(help="Steps of the training.")] = 850,
    family: Annotated[str, typer.Option(help="starter, sd15, sd21 or sdxl.")] = "sd21",
    people: Annotated[int, typer.Option(help="People who share the job, 1 to 10.")] = 1,
    as_json: Json = False,
) -> None:
    """Say how long a training at AWS takes and what it costs a person."""
    with reporting(as_json) as output:
        if family not in get_args(Family) or not 1 <= people <= 10:
            raise UserError(
                f"There is no estimate for {people} people on a base of family “{family}”.",
                f"Choose 1 to 10 people and one of {', '.join(get_args(Family))}.",
            )
        cost = training_cost(_settings(), steps, family, people)
        output.words(cost_words(cost))
        output.result({"estimate": {"steps": steps, "people": people, **asdict(cost)}})


@endpoint_app.command("create")
def endpoint_create(
    image: Annotated[str, typer.Option(help="Image of the endpoint in your registry.")],
    instance: Annotated[str, typer.Option(help="Instance type.")] = "ml.g5.xlarge",
    least: Annotated[int, typer.Option(help="Fewest instances.")] = 1,
    most: Annotated[int, typer.Option(help="Most instances.")] = 2,
    cache: Annotated[bool, typer.Option(help="Keep models in memory between pictures.")] = True,
    name: Name = "",
    as_json: Json = False,
) -> None:
    """Create the endpoint, or bring it to these options. It costs money until it is deleted."""
    with reporting(as_json) as output, hosting_errors():
        settings = _settings(name)
        plan = aws_room.endpoint_plan(
            settings, image=image, instance=instance, least=least, most=most, cache=cache
        )
        state = aws_room.hosting(settings).create(plan)
        output.words(f"The endpoint {state.name} is {state.state}; this takes about ten minutes.")
        output.words("When it is in service, run: avatar-studio aws endpoint scale")
        output.result({"endpoint": asdict(state)})


@endpoint_app.command("scale")
def endpoint_scale(
    least: Annotated[int, typer.Option(help="Fewest instances.")] = 1,
    most: Annotated[int, typer.Option(help="Most instances.")] = 2,
    name: Name = "",
    as_json: Json = False,
) -> None:
    """Let AWS add and remove instances by how much is drawn."""
    with reporting(as_json) as output, hosting_errors():
        settings = _settings(name)
        plan = aws_room.endpoint_plan(
            settings, image="", instance="ml.c5.xlarge", least=least, most=most, cache=True
        )
        aws_room.hosting(settings).scale(plan)
        output.words(f"{settings.aws_endpoint} keeps {least} to {most} instances.")
        output.result({"endpoint": settings.aws_endpoint, "least": least, "most": most})


@endpoint_app.command("status")
def endpoint_status(name: Name = "", as_json: Json = False) -> None:
    """Show the endpoint's state and what of erased models may still be in it."""
    with reporting(as_json) as output, hosting_errors():
        told = aws_room.endpoint_status(_settings(name))
        state = told["endpoint"]
        reason = f": {state['reason']}" if state["reason"] else ""
        output.words(
            f"{state['name']} is {state['state']}{reason}; instances: {state['instances']}"
        )
        output.words(f"Of an erased model remains {told['remains']}.")
        output.result(told)


@endpoint_app.command("recycle")
def endpoint_recycle(name: Name = "", as_json: Json = False) -> None:
    """Replace the endpoint's instances: copies of erased models go with them."""
    with reporting(as_json) as output, hosting_errors():
        settings = _settings(name)
        state = aws_room.hosting(settings).recycle(settings.aws_endpoint)
        output.words(f"{state.name} is {state.state}; the old instances answer until it is done.")
        output.result({"endpoint": asdict(state)})


@endpoint_app.command("delete")
def endpoint_delete(name: Name = "", as_json: Json = False) -> None:
    """Take the endpoint away with everything that belongs to it. Published models stay in S3."""
    with reporting(as_json) as output, hosting_errors():
        settings = _settings(name)
        gone = aws_room.hosting(settings).delete(settings.aws_endpoint)
        output.words(f"Gone: {', '.join(gone) or 'nothing; there was no such endpoint'}.")
        output.result({"gone": gone})


@bucket_app.command("create")
def bucket_create(bucket: str, as_json: Json = False) -> None:
    """Make a private, encrypted, versioned bucket, or bring an own one into that state."""
    from studio.storage.s3 import make_bucket

    with reporting(as_json) as output:
        settings = _settings()
        make_bucket(
            bucket,
            settings.aws_region,
            kms_key=settings.aws_kms_key,
            endpoint_url=settings.aws_endpoint_url,
        )
        output.words(f"{bucket} is ready. Set AVATAR_STORAGE to s3://{bucket}/studio")
        output.result({"bucket": bucket})
