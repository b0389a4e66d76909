"""What commands print of records: plain JSON rows, with the field names that scripts rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.actions import SetStatus
from studio.cli.console import Output
from studio.errors import UserError
from studio.parts import Parts
from studio.records import Avatar, Person, PersonalModel, Photo


def base_row(parts: Parts, base_id: str) -> dict[str, Any]:
    base = parts.bases.get(base_id)
    return {
        "id": base.id,
        "family": base.family,
        "available": parts.bases.available(base.id),
        "licence": base.licence,
        "memory_gb": base.memory_gb,
    }


def photo_row(photo: Photo) -> dict[str, Any]:
    return {
        "file": photo.filename,
        "decision": photo.decision.value,
        "confirmed": photo.confirmed,
        "reasons": [vars(reason) for reason in photo.reasons],
    }


def model_row(model: PersonalModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "id": model.id,
        "version": model.version,
        "base": model.base_id,
        "steps": model.steps,
        "seconds": model.seconds,
        "adapter_bytes": model.adapter_bytes,
        "report": model.report,
    }


def person_row(parts: Parts, person: Person) -> dict[str, Any]:
    user_id = person.user_id
    return {
        "name": person.name,
        "id": person.id,
        "models": len(parts.studio.models(user_id, person_id=person.id)),
        "avatars": len(parts.studio.avatars(user_id, person_id=person.id)),
        "bytes": parts.studio.storage_used(user_id, person.id),
    }


def avatar_row(avatar: Avatar, file: Path) -> dict[str, Any]:
    return {
        "file": str(file),
        "style": avatar.style_id,
        "seed": avatar.seed,
        "verdict": avatar.verdict["decision"],
        "attempts": avatar.attempts,
        "seconds": avatar.seconds,
    }


def print_photos(output: Output, photos: list[Photo], status: SetStatus) -> None:
    """One line a photo with its reasons, and what the set still needs."""
    for photo in photos:
        mark = "ok  " if photo.accepted else f"{photo.decision.value:4}"
        output.words(f"{mark} {photo.filename}")
        for reason in photo.reasons:
            output.words(f"     {reason.message} {reason.fix}".rstrip())
    need = f"; {status.missing} more are needed" if status.missing else ""
    need += f"; {status.excess} too many" if status.excess else ""
    output.words(f"{status.accepted} photos are accepted{need}.")
    for sentence in status.advice:
        output.words(sentence)


def files_of(folder: Path) -> list[Path]:
    """The files of a folder, hidden ones left out. Raises `UserError` when there are none."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.", "Name the folder that holds the photos.")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    if not files:
        raise UserError(
            f"The folder {folder} is empty.", "Put 10 to 15 photos of a person into it."
        )
    return files


def write_avatar(parts: Parts, avatar: Avatar, folder: Path) -> Path:
    """Copy an avatar into a folder under a name that is free."""
    number = 0
    while True:
        suffix = f"-{number}" if number else ""
        target = folder / f"{avatar.style_id}-{avatar.seed}{suffix}.png"
        try:
            with target.open("xb") as stream:
                stream.write(parts.storage.get(avatar.key))
        except FileExistsError:
            number += 1
            continue
        except OSError as fault:
            raise UserError(
                f"{target} cannot be written: {fault.strerror}.",
                "The avatars are kept in the studio; choose another folder.",
            ) from fault
        return target


def make_folder(folder: Path) -> None:
    """Make the folder that pictures go to, before any work. Raises `UserError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise UserError(
            f"{folder} cannot be made: {fault.strerror}.", "Choose another folder."
        ) from fault
