"""What the endpoints' side needs of S3: a place by its URI, and every version of a prefix gone.

Takes a boto3 client and lets its faults through; `serving.sagemaker` turns them into words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from serving.sagemaker import EndpointFault


@dataclass(frozen=True)
class Place:
    """A prefix in a bucket: empty, or ending in `/`."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> Place:
        """From `s3://bucket/prefix/`. Raises `EndpointFault` for anything else."""
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?:(.*)/)?", uri)
        if match is None:
            raise EndpointFault(
                f"`{uri}` is no prefix in S3; it must look like s3://bucket/models/."
            )
        return cls(match[1], f"{match[2]}/" if match[2] else "")

    def uri(self, name: str = "") -> str:
        return f"s3://{self.bucket}/{self.prefix}{name}"


def object_at(uri: str) -> tuple[str, str]:
    """Bucket and key of an object's URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def read(s3: Any, bucket: str, key: str) -> bytes | None:
    """An object's content, or None where there is none."""
    try:
        content: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return None
    return content


def exists(s3: Any, bucket: str, key: str) -> bool:
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except s3.exceptions.ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey"):
            return False
        raise
    return True


def versions(s3: Any, bucket: str, below: str) -> Iterator[dict[str, Any]]:
    """Every version and delete marker whose key begins with `below`."""
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=below):
        yield from page.get("Versions", ())
        yield from page.get("DeleteMarkers", ())


def erase(s3: Any, bucket: str, below: str) -> int:
    """Remove every version and delete marker whose key begins with `below`; how many went.

    Raises `EndpointFault` when S3 keeps some of them.
    """
    found = [
        {"Key": entry["Key"], "VersionId": entry["VersionId"]}
        for entry in versions(s3, bucket, below)
    ]
    for begin in range(0, len(found), 1000):  # most that one DeleteObjects takes
        answer = s3.delete_objects(
            Bucket=bucket, Delete={"Objects": found[begin : begin + 1000], "Quiet": True}
        )
        if answer.get("Errors"):
            raise EndpointFault(f"S3 kept {len(answer['Errors'])} of {len(found)} objects.")
    return len(found)
