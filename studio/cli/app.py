"""The studio in a terminal: the same verbs as the page, with JSON and exit codes for scripts.

Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a check, 4 a check was unavailable.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from moderation.verdict import Decision
from studio import doctor as doctor_room
from studio.actions import Quality, Shape
from studio.cli import (
    accounts,
    appeals,
    aws,
    backup,
    bases,
    models,
    moderation,
    people,
    styles,
    tokens,
)  # fmt: skip
from studio.cli.console import (
    FAILED,
    REFUSED,
    UNCHECKED,
    USAGE,
    Json,
    Output,
    follow,
    reporting,
    run_failed,
)
from studio.cli.listing import (
    avatar_row,
    files_of,
    make_folder,
    model_row,
    photo_row,
    print_photos,
    write_avatar,
)
from studio.cloud.costs import cost_words
from studio.cloud.costs import training as training_cost
from studio.errors import BackendError, UserError
from studio.parts import Parts, opened
from studio.records import Person, Photo, Run
from studio.settings import read_settings
from studio.web.accounts import LOCAL_USER
from studio.work.supervisor import Supervisor

WORKER_START_S = 60.0

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
for name, group in (
    ("accounts", accounts), ("appeals", appeals), ("aws", aws), ("bases", bases),
    ("models", models), ("moderate", moderation), ("people", people), ("tokens", tokens),
):  # fmt: skip
    app.add_typer(group.app, name=name, no_args_is_help=True)
app.add_typer(styles.app, name="styles")
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)

AcceptUnsure = Annotated[
    bool, typer.Option("--accept-unsure", help="Confirm every photo that is your call.")
]


@contextmanager
def worker(parts: Parts) -> Iterator[Callable[[], None]]:
    """A worker for this home: the one that runs, or one of our own for as long as we need it.

    Yields a check that raises `BackendError` when our own worker cannot start.
    """
    if parts.roster.living():
        yield lambda: None
        return
    own = Supervisor(parts.settings.model_copy(update={"workers": 1}))
    own.start()

    def check() -> None:
        health = own.health()[0]
        if health.restarts >= 3:
            raise BackendError(
                f"The worker ended {health.restarts} times (code {health.last_exit}). Its messages "
                "above say why; `avatar-studio doctor` looks at every part."
            )

    try:
        yield check
    finally:
        own.stop()


@app.command()
def doctor(as_json: Json = False) -> None:
    """What works, what was chosen and why, and what to do about the rest."""
    with reporting(as_json) as output:
        found = doctor_room.examine(read_settings())
        bad = [check for check in found["checks"] if not check["ok"]]
        for check in found["checks"]:
            output.words(f"{'ok  ' if check['ok'] else 'BAD '} {check['name']}: {check['detail']}")
            if not check["ok"] and check["fix"]:
                output.words(f"     {check['fix']}")
        for choice in found["choices"]:
            output.words(f"     {choice['part']}: {choice['chosen']} ({choice['reason']})")
        output.result(found, FAILED if bad else 0)


@app.command()
def screen(
    source: Annotated[str, typer.Argument(help="A folder, or s3://bucket/prefix/ in bulk.")],
    accept_unsure: AcceptUnsure = False,
    report: Annotated[
        Path | None, typer.Option(help="In bulk, of any number of photos: folder of the report.")
    ] = None,
    action: Annotated[
        str, typer.Option(help="In bulk, what becomes of refused photos: flag, move or delete.")
    ] = "flag",
    as_json: Json = False,
) -> None:
    """Check the photos of a folder as one person's set, as the page would; nothing is kept.

    In bulk (with --report) each photo counts by itself, and the same command again goes on.
    """
    with reporting(as_json) as output:
        if report is not None or source.startswith("s3://"):
            moderation.screen(output, source, report, action)
        else:
            _screen_set(output, Path(source), accept_unsure)


def _screen_set(output: Output, folder: Path, accept_unsure: bool) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="avatar-screen-") as home,
        opened(read_settings().model_copy(update=_throwaway(Path(home)))) as parts,
    ):
        user_id = parts.studio.user(LOCAL_USER).id
        person = parts.studio.add_person(user_id, "screened")
        set_id = parts.studio.photo_set(user_id, person.id).id
        photos = _add(output, parts, user_id, set_id, folder)
        if accept_unsure:
            photos = _confirmed(photos, parts.studio.confirm_all(user_id, set_id))
        status = parts.studio.set_status(user_id, set_id)
        print_photos(output, photos, status)
        output.result(
            {
                "set": {
                    "decision": status.decision.value,
                    "accepted": status.accepted,
                    "missing": status.missing,
                },
                "photos": [photo_row(photo) for photo in photos],
            },
            {Decision.ALLOW: 0, Decision.UNAVAILABLE: UNCHECKED}.get(status.decision, REFUSED),
        )


@app.command()
def train(
    folder: Path,
    name: Annotated[str, typer.Option(help="Whose photos these are; also names the model.")],
    i_have_consent: Annotated[
        bool,
        typer.Option(
            "--i-have-consent",
            help="The photos show me, or an adult who has given me permission.",
        ),
    ] = False,
    accept_unsure: AcceptUnsure = False,
    base: Annotated[str, typer.Option(help="Base model id; the best one here by default.")] = "",
    steps: Annotated[int | None, typer.Option(help="Steps; the recipe decides by default.")] = None,
    quality: Annotated[str, typer.Option(help="fast, balanced or best.")] = "balanced",
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Train a personal model from the photos of a folder."""
    with reporting(as_json) as output, opened() as parts:
        if not i_have_consent:
            raise UserError(
                "Training needs consent.",
                "Add --i-have-consent if the photos show you, or an adult who permitted this.",
                code="no-consent",
            )
        user_id = parts.studio.user(LOCAL_USER).id
        person = _person(parts, user_id, name)
        set_id = parts.studio.photo_set(user_id, person.id).id
        photos = _add(output, parts, user_id, set_id, folder)
        if accept_unsure:
            photos = _confirmed(photos, parts.studio.confirm_all(user_id, set_id))
        status = parts.studio.set_status(user_id, set_id)
        if status.missing or status.excess:
            print_photos(output, photos, status)
        parts.studio.consent(user_id, person.id)
        if parts.settings.trainer != "local":
            found = parts.studio.estimate(user_id, set_id, cast(Quality, quality), base)
            family = parts.bases.get(found.base_id).family
            output.words(cost_words(training_cost(parts.settings, steps or found.steps, family)))
        run = parts.studio.train(
            user_id, set_id, name=name, quality=cast(Quality, quality), base_id=base, steps=steps,
            seed=seed,
        )  # fmt: skip
        run = _finish(output, parts, run)
        model = parts.studio.model(user_id, run.detail["model_id"])
        output.words(
            f"{model.name}, version {model.version}, is ready after {model.seconds:.0f} s "
            f"({model.steps} steps on {model.base_id})."
        )
        output.result(model_row(model))


@app.command()
def generate(
    model: Annotated[str, typer.Option(help="Name or id of a personal model.")],
    style: Annotated[list[str], typer.Option(help="Style id; may be given several times.")],
    out: Annotated[Path, typer.Option(help="Folder that the pictures are written to.")],
    prompt: Annotated[str, typer.Option(help="Free text.")] = "",
    count: Annotated[int, typer.Option(help="Avatars in each style.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Same seed and wishes, same picture.")] = None,
    quality: Annotated[str, typer.Option(help="fast, balanced or best.")] = "balanced",
    shape: Annotated[str, typer.Option(help="square, portrait, banner or circle.")] = "square",
    as_json: Json = False,
) -> None:
    """Draw avatars with a personal model."""
    with reporting(as_json) as output, opened() as parts:
        user_id = parts.studio.user(LOCAL_USER).id
        chosen = parts.studio.model(user_id, model)
        make_folder(out)
        run = parts.studio.generate(
            user_id, chosen.id, style_ids=style, text=prompt, count=count, seed=seed,
            quality=cast(Quality, quality), shape=cast(Shape, shape),
        )  # fmt: skip
        run = _finish(output, parts, run)
        rows = [
            avatar_row(avatar, write_avatar(parts, avatar, out))
            for avatar in parts.studio.avatars(user_id, run_id=run.id)
        ]
        for row in rows:
            output.words(f"{row['file']}  seed {row['seed']}, {row['seconds']:.1f} s")
        for refused in run.detail["refused"]:
            output.words(f"{refused['style']}: {refused['reason']}")
        output.result({"avatars": rows, "refused": run.detail["refused"]})


@app.command()
def export(
    model: Annotated[str, typer.Option(help="Name or id of a personal model.")],
    out: Annotated[Path, typer.Option(help="Folder that gets the files.")],
    as_json: Json = False,
) -> None:
    """Copy a personal model's weights and card into a folder."""
    with reporting(as_json) as output, opened() as parts:
        user_id = parts.studio.user(LOCAL_USER).id
        files = parts.studio.export_model(user_id, parts.studio.model(user_id, model).id, out)
        output.words("\n".join(str(file) for file in files))
        output.result({"model": model, "files": [str(file) for file in files]})


@app.command()
def erase(
    person: Annotated[str, typer.Option(help="Name of the person to erase for good.")],
    as_json: Json = False,
) -> None:
    """Erase a person: photos, models, avatars and all records. This cannot be undone."""
    with reporting(as_json) as output, opened() as parts:
        user_id = parts.studio.user(LOCAL_USER).id
        found = next((p for p in parts.studio.people(user_id) if p.name == person), None)
        if found is None:
            raise UserError(f"There is no person called “{person}”.", "See people list.")
        receipt = parts.studio.erase_person(user_id, found.id)
        row = {"person": person, **vars(receipt), "remains": list(receipt.remains)}
        output.words(
            f"{person} is erased: {receipt.photos} photos, {receipt.models} models, "
            f"{receipt.avatars} avatars, {receipt.files} files."
        )
        output.result(row)


@app.command("worker")
def worker_command(as_json: Json = False) -> None:
    """Run a worker until it is told to stop. It trains and draws for this home and database."""
    from studio.work import worker as worker_room

    with reporting(as_json):
        worker_room.serve(read_settings())


@app.command()
def serve(as_json: Json = False) -> None:
    """Serve the page, with the workers beside it, until it is told to stop."""
    from studio.web import app as web

    with reporting(as_json):
        web.serve(read_settings())


def _throwaway(home: Path) -> dict[str, Any]:
    """Settings of a studio that nobody else sees and that is gone afterwards."""
    return {"home": home, "database_url": "", "workflow_database_url": "", "storage": "local"}


def _person(parts: Parts, user_id: str, name: str) -> Person:
    found = [person for person in parts.studio.people(user_id) if person.name == name.strip()]
    return found[0] if found else parts.studio.add_person(user_id, name)


def _add(output: Output, parts: Parts, user_id: str, set_id: str, folder: Path) -> list[Photo]:
    """Add a folder's files to a set; those that are in it already are not added twice."""
    found = parts.studio.photos(user_id, set_id)
    there = {photo.facts.get("upload_sha256"): photo for photo in found}
    photos, files = [], files_of(folder)
    with output.busy("Checking the photos …") as tell:
        for number, file in enumerate(files, 1):
            tell(f"Checking photo {number} of {len(files)} …")
            with file.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            known = there.get(sha256)
            photos.append(known or parts.studio.add_photo(user_id, set_id, file.name, file))
    return photos


def _confirmed(photos: list[Photo], now_in_set: list[Photo]) -> list[Photo]:
    by_id = {photo.id: photo for photo in now_in_set}
    return [by_id.get(photo.id, photo) for photo in photos]


def _finish(output: Output, parts: Parts, run: Run) -> Run:
    """Follow a run to its end; cancels it when the terminal says stop. Raises if it failed."""
    with worker(parts) as check:
        try:
            run = follow(output, lambda: parts.catalog.get_run(run.id), check=check)
        except (KeyboardInterrupt, BackendError):
            parts.studio.cancel(run.user_id, run.id)
            raise
    if run.state != "done":
        raise run_failed(run)
    return run


# What the parser raises for a wrong command line, by the public name of its nearest kind.
USAGE_ERROR: type[Any] = typer.BadParameter.__bases__[0]


def main() -> None:
    """Entry point of `avatar-studio`: usage errors end in JSON, too, when JSON is asked for."""
    try:
        code = app(standalone_mode=False)
    except USAGE_ERROR as fault:
        if "--json" in sys.argv:
            error = {"message": fault.format_message(), "hint": "See --help.", "code": "usage"}
            typer.echo(json.dumps({"error": error}, ensure_ascii=False))
        else:
            fault.show()
        code = USAGE
    except typer.Abort:
        code = FAILED
    raise SystemExit(code)


if __name__ == "__main__":
    main()
