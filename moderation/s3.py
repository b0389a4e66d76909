"""Photos below an `s3://bucket/prefix/`, for screening in bulk.

In a bucket that keeps versions, a photo that is deleted or put aside stays as an old version until
the bucket's own rules remove it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from moderation.aws import ServiceFault, client
from moderation.source import PHOTO_ENDINGS

REFUSED = "refused/"
MOST_BYTES = 64 << 20  # no photo is larger; a body is not read further


class S3Source:
    """A `moderation.source.Source` in S3. Raises `ServiceFault` for what S3 refuses."""

    def __init__(
        self, uri: str, region: str, *, endpoint_url: str | None = None, timeout_s: float = 30.0
    ) -> None:
        """Raises ValueError for what is no place in S3, MissingExtra without boto3."""
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", uri)
        if match is None:
            raise ValueError(f"`{uri}` is no place in S3; it must look like s3://bucket/prefix/.")
        self._bucket = match[1]
        prefix = (match[2] or "").strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._s3 = client("s3", region, endpoint_url, timeout_s)
        self._marks: dict[str, str] = {}

    def names(self) -> Iterable[str]:
        """The names of all photos below the prefix, sorted; those put aside left out."""
        self._marks = {}
        try:
            pages = self._s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for found in page.get("Contents", ()):
                    name = found["Key"].removeprefix(self._prefix)
                    if not name.startswith(REFUSED) and name.lower().endswith(tuple(PHOTO_ENDINGS)):
                        self._marks[name] = f"{found['Size']} {found['ETag']}"
        except Exception as error:
            raise self._fault("list the photos", error) from error
        return sorted(self._marks)

    def mark(self, name: str) -> str:
        """Size and entity tag, as they were when the names were listed."""
        return self._marks[name]

    def read(self, name: str) -> bytes:
        """The object's bytes. Raises `ServiceFault` also for one that is no photo by its size."""
        try:
            body = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"]
            content: bytes = body.read(MOST_BYTES + 1)
        except Exception as error:
            raise self._fault("read a photo", error) from error
        if len(content) > MOST_BYTES:
            raise ServiceFault(f"{name} has more than {MOST_BYTES} bytes.")
        return content

    def move(self, name: str) -> None:
        """Put the object below `refused/`, under another name if one is there already."""
        stem, dot, ending = name.rpartition(".")
        target, number = REFUSED + name, 1
        try:
            while self._there(target):
                target = f"{REFUSED}{stem}-{number}{dot}{ending}"
                number += 1
            source = {"Bucket": self._bucket, "Key": self._prefix + name}
            self._s3.copy_object(
                Bucket=self._bucket,
                Key=self._prefix + target,
                CopySource=source,
                ServerSideEncryption="aws:kms",
            )
            self._s3.delete_object(**source)
        except Exception as error:
            raise self._fault("put a photo aside", error) from error

    def delete(self, name: str) -> None:
        """Delete the object."""
        try:
            self._s3.delete_object(Bucket=self._bucket, Key=self._prefix + name)
        except Exception as error:
            raise self._fault("delete a photo", error) from error

    def write(self, name: str, content: bytes) -> None:
        """Put a small file beside the photos."""
        try:
            self._s3.put_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Body=content,
                ServerSideEncryption="aws:kms",
            )
        except Exception as error:
            raise self._fault("write beside the photos", error) from error

    def _there(self, name: str) -> bool:
        listed = self._s3.list_objects_v2(
            Bucket=self._bucket, Prefix=self._prefix + name, MaxKeys=1
        )
        return any(o["Key"] == self._prefix + name for o in listed.get("Contents", ()))

    def _fault(self, what: str, error: Exception) -> ServiceFault:
        known: dict[str, Any] = (getattr(error, "response", None) or {}).get("Error", {})
        code = known.get("Code") or type(error).__name__
        return ServiceFault(f"The bucket {self._bucket} did not let us {what} ({code}).")
