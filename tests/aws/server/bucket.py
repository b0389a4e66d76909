"""The server's own hand in S3 (moto): what a job reads and writes as SageMaker would."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import boto3


class Bucket:
    """Reads and writes by `s3://` URI."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.s3: Any = boto3.client("s3", endpoint_url=url, region_name="us-east-1")

    def objects(self, uri: str) -> list[tuple[str, str]]:
        """(bucket, key) of every object whose key begins with the URI's."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [(bucket, found["Key"]) for page in pages for found in page.get("Contents", [])]

    def read(self, uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self.s3.exceptions.NoSuchKey:
            raise KeyError(uri) from None

    def write(self, uri: str, content: bytes) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.s3.put_object(Bucket=bucket, Key=key, Body=content)

    def down(self, uri: str, folder: Path) -> int:
        """Copy everything below the URI into a folder, as a File mode channel does."""
        prefix = uri.removeprefix("s3://").partition("/")[2]
        count = 0
        for bucket, key in self.objects(uri):
            below = key.removeprefix(prefix).lstrip("/") or key.rpartition("/")[2]
            target = folder / below
            target.parent.mkdir(parents=True, exist_ok=True)
            self.s3.download_file(bucket, key, str(target))
            count += 1
        return count

    def up(self, folder: Path, uri: str, seen: dict[str, float]) -> None:
        """Copy what is new or changed in a folder below the URI, as checkpoint syncing does."""
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or path.name.endswith(".partial"):
                continue
            name = path.relative_to(folder).as_posix()
            try:
                stamp = path.stat().st_mtime_ns
                if seen.get(name) != stamp:
                    self.write(f"{uri.rstrip('/')}/{name}", path.read_bytes())
                    seen[name] = stamp
            except FileNotFoundError:
                continue

    def pack(self, folder: Path, uri: str, scratch: Path) -> None:
        """Store a folder as tar.gz at the URI, as a finished job's model."""
        archive = scratch / "model.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, arcname=path.name)
        self.write(uri, archive.read_bytes())
