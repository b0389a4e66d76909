"""Fetches picture classifiers: pinned revisions, every file checked before it counts.

Knows the hub's client and the list in `picture_models.toml`, nothing of what the models say.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SHIPPED = Path(__file__).with_name("picture_models.toml")
RECORD = "fetched.json"
"""Written last, so a folder that has it is complete."""
FOLDER = "checks"


class FetchFailed(RuntimeError):
    """A model could not be fetched; the text says why and what to do. What came is kept."""


@dataclass(frozen=True)
class PictureModel:
    """One classifier that can be fetched. `endpoint` is the hub's address where it is a mirror."""

    id: str
    name: str
    repository: str
    revision: str
    licence: str
    licence_url: str
    files: tuple[str, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)
    endpoint: str | None = None

    def folder(self, home: Path) -> Path:
        """Where it lies below a studio's home."""
        return home / FOLDER / self.id

    def there(self, home: Path) -> bool:
        """Whether it was fetched whole, at the revision that is listed."""
        try:
            record = json.loads((self.folder(home) / RECORD).read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return bool(record.get("revision") == self.revision)


def listed(file: Path = SHIPPED) -> dict[str, PictureModel]:
    """The classifiers that can be fetched, by id, best first."""
    rows = tomllib.loads(file.read_text("utf-8"))["model"]
    models = [PictureModel(**{**row, "files": tuple(row["files"])}) for row in rows]
    return {model.id: model for model in models}


def fetched(home: Path, file: Path = SHIPPED) -> Path | None:
    """The folder of the best classifier that is there."""
    return next((m.folder(home) for m in listed(file).values() if m.there(home)), None)


def fetch(
    model: PictureModel, home: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Download a classifier; an interrupted download goes on where it stopped -> its folder.

    Raises FetchFailed when the hub does not answer or a file is not what it should be.
    """
    folder = model.folder(home)
    if model.there(home):
        return folder
    # The hub's client is heavy, and only a fetch needs it.
    from huggingface_hub import HfApi, hf_hub_download

    try:
        facts = HfApi(model.endpoint).model_info(
            model.repository, revision=model.revision, files_metadata=True
        )
        stated = {entry.rfilename: entry for entry in facts.siblings or []}
        total = sum(int(getattr(stated.get(name), "size", 0) or 0) for name in model.files)
        done = 0
        for name in model.files:
            came = Path(
                hf_hub_download(
                    model.repository,
                    name,
                    revision=model.revision,
                    local_dir=folder,
                    endpoint=model.endpoint,
                )
            )
            large = getattr(stated.get(name), "lfs", None)
            _check(model, came, {model.sha256.get(name), getattr(large, "sha256", None)} - {None})
            done += came.stat().st_size
            progress(done, max(total, done))
    except FetchFailed:
        raise
    except Exception as error:
        raise FetchFailed(
            f"{model.repository} could not be fetched ({type(error).__name__}: {error}). What came "
            "is kept; check the connection and the disk, and run the same command again."
        ) from error
    (folder / RECORD).write_text(json.dumps({"revision": model.revision}) + "\n", "utf-8")
    return folder


def _check(model: PictureModel, came: Path, expected: set[str | None]) -> None:
    with came.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if expected and expected != {actual}:
        came.unlink()
        raise FetchFailed(
            f"{came.name} of {model.repository} came with another hash ({actual[:12]}…) than the "
            "listed one. It was deleted; try again, or check who publishes this repository."
        )
