"""A base model from its hub: pinned, resumed, checked file by file, and complete or not there."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

from diffusion.bases import (
    RECORD,
    Base,
    BaseDamaged,
    BaseError,
    BaseMissing,
    Bases,
    FetchFailed,
    file_sha256,
    write_json,
)

Progress = Callable[[int, int], None]  # bytes done, bytes in all


def fetch(bases: Bases, id: str, progress: Progress | None = None) -> Base:
    """Download a base at its pinned revision; an interrupted fetch continues where it stopped.

    Only the listed files come (weights as safetensors only), each checked against the hash
    that the repository states and the one in the registry. Returns at once when it is there.
    Raises `UnknownBase`, `FetchFailed`, or `BaseDamaged` naming a file that came wrong.
    """
    base = bases.get(id)
    if bases.available(id):
        return base
    if not base.repository:
        raise BaseMissing(f"{base.name} is not in {base.folder} and has nowhere to come from.")
    _download(base, progress)
    return base


def _download(base: Base, progress: Progress | None) -> None:
    """Fetch every file, check it, and write the record last."""
    # The hub's client is heavy, and only a fetch needs it.
    from huggingface_hub import HfApi, hf_hub_download

    incoming = base.folder / ".incoming"
    try:
        base.folder.mkdir(parents=True, exist_ok=True)
        info = HfApi(base.endpoint).model_info(
            base.repository, revision=base.revision, files_metadata=True
        )
        stated = {s.rfilename: s for s in info.siblings or []}
        sizes = {name: int(getattr(stated.get(name), "size", 0) or 0) for name in base.files}
        _check_room(base, sum(sizes.values()))
        done = 0
        hashes: dict[str, str] = {}
        for remote, local in base.files.items():
            target = base.folder / local
            lfs = getattr(stated.get(remote), "lfs", None)
            expected = {h for h in (base.sha256.get(local), getattr(lfs, "sha256", None)) if h}
            if not (target.is_file() and expected == {file_sha256(target)}):
                came = hf_hub_download(
                    base.repository,
                    remote,
                    revision=base.revision,
                    local_dir=incoming,
                    endpoint=base.endpoint,
                )
                _accept(base, Path(came), target, expected)
            hashes[local] = file_sha256(target)
            done += sizes[remote]
            if progress is not None:
                progress(done, sum(sizes.values()))
        write_json(base.folder / RECORD, {"revision": base.revision, "sha256": hashes})
        shutil.rmtree(incoming, ignore_errors=True)
    except BaseError:
        raise
    except Exception as error:
        raise FetchFailed(_why(base, error)) from error


def _accept(base: Base, came: Path, target: Path, expected: set[str]) -> None:
    """Move a downloaded file to its place if its hash is every expected one."""
    actual = file_sha256(came)
    if expected and expected != {actual}:
        came.unlink()
        raise BaseDamaged(
            f"{came.name} of {base.repository} came with hash {actual[:12]}…, "
            f"expected {' and '.join(sorted(h[:12] + '…' for h in expected))}. "
            "It was deleted; try again, or check who publishes this repository."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    came.replace(target)


def _check_room(base: Base, needed: int) -> None:
    free = shutil.disk_usage(base.folder).free
    if needed > free:
        raise FetchFailed(
            f"{base.name} needs {needed / 1e9:.1f} GB, but {base.folder} has room for "
            f"{free / 1e9:.1f} GB. Free some space or move AVATAR_HOME."
        )


def _why(base: Base, error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {base.folder} is full. Free some space, then fetch {base.id} again."
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"):
        return f"{base.repository} no longer offers revision {base.revision[:12]} ({kind})."
    if kind == "GatedRepoError":
        return f"{base.repository} asks you to accept its licence first: {base.licence_url}"
    return (
        f"{base.repository} could not be reached or stopped sending ({kind}: {error}). "
        f"What came is kept; check the connection and fetch {base.id} again."
    )
