"""What a remote training needs of S3: folders up, folders down, and every version of a prefix gone.

Knows runs by their place only, no users. All functions take a boto3 client and let its faults
through; `training.sagemaker` turns them into words.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from training.errors import TrainingError

SUFFIXES = frozenset(
    {".safetensors", ".json", ".jsonl", ".txt", ".md", ".toml", ".png", ".jpg", ".webp"}
)
AT_ONCE = 4
MAX_FILES = 10_000
MAX_BYTES = 30 << 30


@dataclass(frozen=True)
class Place:
    """A prefix in a bucket."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> Place:
        """From `s3://bucket/prefix`. Raises `TrainingError` for anything else."""
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", uri)
        if match is None:
            raise TrainingError(f"`{uri}` is no place in S3; it must look like s3://bucket/prefix.")
        return cls(match[1], (match[2] or "").strip("/"))

    def __truediv__(self, part: str) -> Place:
        return Place(self.bucket, f"{self.prefix}/{part}".strip("/"))

    @property
    def uri(self) -> str:
        """With a slash at the end: JumpStart reads nothing from a prefix without one."""
        return f"s3://{self.bucket}/{self.prefix}/"


def put_file(s3: Any, path: Path, place: Place, encryption: dict[str, str]) -> None:
    s3.upload_file(str(path), place.bucket, place.prefix, ExtraArgs=encryption)


def put_bytes(s3: Any, content: bytes, place: Place, encryption: dict[str, str]) -> None:
    s3.put_object(Bucket=place.bucket, Key=place.prefix, Body=content, **encryption)


def put_folder(s3: Any, folder: Path, place: Place, encryption: dict[str, str]) -> None:
    """Every file below a folder, links and dot files left out."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sent = [
            pool.submit(put_file, s3, path, place / path.relative_to(folder).as_posix(), encryption)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
        ]
        for each in sent:
            each.result()


def objects(s3: Any, place: Place) -> Iterator[dict[str, Any]]:
    """The objects below a prefix, with their path below it as `below`."""
    prefix = f"{place.prefix}/" if place.prefix else ""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix)
    for page in pages:
        for found in page.get("Contents", ()):
            yield {**found, "below": found["Key"].removeprefix(prefix)}


def exists(s3: Any, place: Place) -> bool:
    return next(objects(s3, place), None) is not None


def read(s3: Any, place: Place) -> bytes | None:
    """An object's content, or None where there is none."""
    try:
        return s3.get_object(Bucket=place.bucket, Key=place.prefix)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return None


def safe_name(name: str) -> bool:
    """A relative path of plain parts with an ending that a result may have."""
    path = PurePosixPath(name)
    plain = all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", part) for part in path.parts)
    return bool(path.parts) and not path.is_absolute() and plain and path.suffix in SUFFIXES


def get_folder(s3: Any, place: Place, folder: Path) -> int:
    """Copy everything below a prefix into `folder`, which appears whole or not at all.

    Raises `TrainingError` for names, counts or sizes that no result has. How many files came.
    """
    found = list(objects(s3, place))
    strange = [entry["below"] for entry in found if not safe_name(entry["below"])]
    if strange:
        raise TrainingError(f"The result holds a file that does not belong there: {strange[0]!r}.")
    if len(found) > MAX_FILES or sum(entry["Size"] for entry in found) > MAX_BYTES:
        raise TrainingError(f"The result is larger than {MAX_FILES} files or {MAX_BYTES} bytes.")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        fetched = []
        for entry in found:
            target = partial / entry["below"]
            target.parent.mkdir(parents=True, exist_ok=True)
            fetched.append(pool.submit(s3.download_file, place.bucket, entry["Key"], str(target)))
        for each in fetched:
            each.result()
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return len(found)


def erase(s3: Any, places: Iterable[Place]) -> int:
    """Remove every version and delete marker below the prefixes; how many went.

    Raises `TrainingError` when S3 keeps some of them.
    """
    gone = 0
    for place in places:
        pages = s3.get_paginator("list_object_versions").paginate(
            Bucket=place.bucket, Prefix=f"{place.prefix}/"
        )
        for page in pages:
            batch = [
                {"Key": entry["Key"], "VersionId": entry["VersionId"]}
                for entry in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
            ]
            if not batch:
                continue
            answer = s3.delete_objects(
                Bucket=place.bucket, Delete={"Objects": batch, "Quiet": True}
            )
            if answer.get("Errors"):
                raise TrainingError(
                    f"{len(answer['Errors'])} objects below {place.uri} could not be removed "
                    f"({answer['Errors'][0].get('Code')}). Allow s3:DeleteObjectVersion."
                )
            gone += len(batch)
    return gone
