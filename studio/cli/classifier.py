"""A custom classifier at Comprehend: `avatar-studio moderate train-classifier`, then
`moderate classifier status | serve | stop`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from moderation.aws import MissingExtra
from moderation.classifier_training import ClassifierError, ClassifierTraining, training_csv
from studio.cli.console import FAILED, Json, reporting
from studio.cloud.parts import place
from studio.errors import BackendError
from studio.settings import read_settings

app = typer.Typer(
    help="A custom classifier at Comprehend: its training, its endpoint.", no_args_is_help=True
)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (ClassifierError, MissingExtra) as fault:
        raise BackendError(str(fault)) from fault


def _training() -> ClassifierTraining:
    settings = read_settings()
    if not settings.aws_role:
        raise BackendError("Set AVATAR_AWS_ROLE to a role that Comprehend may assume.")
    return ClassifierTraining(
        settings.aws_region,
        role=settings.aws_role,
        place=place(settings, "aws_training", "training") + "classifier",
        endpoint_url=settings.aws_endpoint_url or None,
    )


def rows(file: Path | None, authored: int) -> Iterator[tuple[str, str]]:
    """(label, text) from a JSON-lines file of `{"label", "text"}`, or from the shipped corpus."""
    if file is None:
        from moderation.corpus import Author

        for example in Author(0).examples(authored):
            yield example.kind, example.text
        return
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            yield str(row["label"]), str(row["text"])
        except (ValueError, KeyError, TypeError) as fault:
            raise ClassifierError(f"Line {number} of {file} is no label with a text.") from fault


def train(
    version: Annotated[str, typer.Option(help="Name of this version.")],
    name: Annotated[str, typer.Option(help="Name of the classifier.")] = "avatar-prompts",
    file: Annotated[
        Path | None, typer.Option("--in", help="JSON lines of label and text; else the corpus.")
    ] = None,
    authored: Annotated[int, typer.Option(help="Texts to take from the corpus.")] = 4000,
    csv: Annotated[Path | None, typer.Option(help="Only write the CSV to this file.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is trained.")] = False,
    as_json: Json = False,
) -> None:
    """Write Comprehend's CSV and start the training, which takes about 40 minutes."""
    with reporting(as_json) as output, _errors():
        content = training_csv(rows(file, authored))
        if csv is not None:
            csv.write_bytes(content)
            output.words(f"{csv} is written.")
            output.result({"csv": str(csv)})
            return
        training = _training()
        arn = training.start(name, content, version=version)
        output.words(f"{arn} is being trained.")
        if not wait:
            output.result({"classifier": arn})
            return
        with output.busy("Comprehend is learning …") as tell:
            told = training.training(arn)
            while told.state in ("waiting", "learning"):
                tell(f"Comprehend: {told.state} …")
                time.sleep(read_settings().aws_poll_seconds)
                told = training.training(arn)
        output.words(f"{told.state} {told.message}".strip())
        result = {"classifier": arn, "state": told.state, "message": told.message}
        output.result(result, FAILED if told.state == "failed" else 0)


@app.command("status")
def status(arn: str, as_json: Json = False) -> None:
    """Show how a classifier's training, or its endpoint, is doing."""
    with reporting(as_json) as output, _errors():
        serving = ":document-classifier-endpoint/" in arn
        told = _training().serving(arn) if serving else _training().training(arn)
        output.words(f"{told.state} {told.message}".strip())
        output.result(asdict(told), FAILED if told.state == "failed" else 0)


@app.command("serve")
def serve(
    arn: str,
    name: Annotated[str, typer.Option(help="Name of the endpoint.")] = "avatar-prompts",
    units: Annotated[int, typer.Option(help="100 characters a second each, 1 to 10.")] = 1,
    as_json: Json = False,
) -> None:
    """Create the endpoint of a trained classifier: about 43 dollars a day while it exists."""
    with reporting(as_json) as output, _errors():
        endpoint = _training().serve(name, arn, units=units)
        output.words(f"When it is ready, set AVATAR_AWS_CLASSIFIER_ARN to {endpoint}")
        output.result({"endpoint": endpoint})


@app.command("stop")
def stop(arn: str, as_json: Json = False) -> None:
    """Delete an endpoint; the trained classifier stays."""
    with reporting(as_json) as output, _errors():
        _training().stop(arn)
        output.words(f"{arn} is gone.")
        output.result({"gone": [arn]})
