"""Bytes in an S3 bucket: encrypted with KMS, never public, and erased with every old version.

Objects are written whole by the service. Reading by path needs a copy on this machine; copies lie
in `cache`, go with `delete_prefix` here, and after `CACHE_S` without use on other machines.
"""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from studio.errors import BackendError

# The same keys as the local folder takes: ids, fixed words and file endings.
_PART = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")
_HELD = ".held"
_NO_BLOCK = "NoSuchPublicAccessBlockConfiguration"
_RIGHTS = {
    "list_objects_v2": "s3:ListBucket",
    "list_object_versions": "s3:ListBucketVersions",
    "list_multipart_uploads": "s3:ListBucketMultipartUploads",
}
_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
MULTIPART_BYTES = 8 << 20
DELETE_BATCH = 1000  # most that one DeleteObjects takes
LONGEST_LINK_S = 7 * 24 * 3600
CACHE_S = 24 * 3600.0
READ_S = 60.0
ATTEMPTS = 5

Batch = list[dict[str, str]]


class S3Storage:
    """Keys lie below `prefix` of `bucket`. Several machines may use the same bucket."""

    def __init__(
        self,
        bucket: str,
        cache: Path,
        *,
        prefix: str = "",
        region: str = "us-east-1",
        kms_key: str = "",
        endpoint_url: str = "",
        delete_batch: int = DELETE_BATCH,
    ) -> None:
        self.bucket = bucket
        self.delete_batch = delete_batch
        self.cache = cache.resolve()
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.encryption = {"ServerSideEncryption": "aws:kms"}
        if kms_key:
            self.encryption["SSEKMSKeyId"] = kms_key
        self._s3 = s3_client(region, endpoint_url)
        self._checked = False
        self._swept = 0.0

    @classmethod
    def from_url(cls, url: str, cache: Path, **settings: Any) -> S3Storage:
        """From `s3://bucket/prefix`. Raises `BackendError` for anything else."""
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url)
        if match is None:
            raise BackendError(f"`{url}` is no bucket. Set AVATAR_STORAGE to s3://bucket/prefix.")
        return cls(match[1], cache, prefix=match[2] or "", **settings)

    def check(self) -> None:
        """Raises `BackendError` unless the bucket is there and public access is blocked."""
        settings: dict[str, Any] = {}
        with (
            contextlib.suppress(KeyError),
            self._asking("s3:GetBucketPublicAccessBlock", absent=_NO_BLOCK),
        ):
            answer = self._s3.get_public_access_block(Bucket=self.bucket)
            settings = answer["PublicAccessBlockConfiguration"]
        open_doors = [name for name in _BLOCKS if settings.get(name) is not True]
        if open_doors:
            raise BackendError(
                f"The bucket {self.bucket} does not block public access ({', '.join(open_doors)}). "
                "Photos are not stored in it. Switch on all four settings of Block Public Access."
            )
        self._checked = True

    def put(self, key: str, content: bytes | Path) -> None:
        """Store under `key`, replacing what was there in one step; large files in parts.

        Raises `BackendError` when the bucket cannot take it or is open to the public.
        """
        full = self._key(key)
        if isinstance(content, Path) and not content.is_file():
            raise FileNotFoundError(content)
        if not self._checked:
            self.check()
        extra = {
            **self.encryption,
            "ContentType": mimetypes.guess_type(key)[0] or "application/octet-stream",
        }
        with self._asking("s3:PutObject"):
            if isinstance(content, bytes):
                self._s3.put_object(Bucket=self.bucket, Key=full, Body=content, **extra)
            else:
                self._s3.upload_file(
                    str(content), self.bucket, full, ExtraArgs=extra, Config=_transfer()
                )

    def get(self, key: str) -> bytes:
        """The content. Raises `KeyError` if the key is absent."""
        full = self._key(key)
        with self._asking("s3:GetObject", absent=key):
            content: bytes = self._s3.get_object(Bucket=self.bucket, Key=full)["Body"].read()
        return content

    def open(self, key: str) -> BinaryIO:
        """A stream of the content, to be closed by the caller. `KeyError` if absent."""
        path = self.fetch(key)
        if path.is_dir():
            raise KeyError(key)
        return path.open("rb")

    def fetch(self, key: str) -> Path:
        """A copy of the file or folder on this machine; to be read only. `KeyError` if absent."""
        full = self._key(key)
        objects = tuple(self._objects(full))
        if not objects:
            raise KeyError(key)
        self._sweep()
        content = "".join(f"{o['Key']} {o['ETag']}\n" for o in objects)
        place = self.cache / key / _HELD / hashlib.sha256(content.encode()).hexdigest()[:32]
        single = len(objects) == 1 and objects[0]["Key"] == full
        wanted = place / key.rpartition("/")[2] if single else place
        if place.is_dir():
            with contextlib.suppress(OSError):
                place.touch()
            return wanted
        partial = place.with_name(f"{place.name}.{secrets.token_hex(8)}")
        try:
            for found in objects:
                below = found["Key"].removeprefix(full).lstrip("/") or key.rpartition("/")[2]
                target = partial / below
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with self._asking("s3:GetObject", absent=key):
                    self._s3.download_file(
                        self.bucket, found["Key"], str(target), Config=_transfer()
                    )
            with contextlib.suppress(OSError):  # another process was first with the same content
                partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return wanted

    def list(self, prefix: str) -> Iterator[str]:
        """All whole keys at or below `prefix` (a whole path part), sorted."""
        for found in self._objects(self._key(prefix) if prefix else ""):
            yield found["Key"].removeprefix(self.prefix)

    def size(self, prefix: str) -> int:
        """Bytes under a prefix."""
        return sum(o["Size"] for o in self._objects(self._key(prefix) if prefix else ""))

    def delete_prefix(self, prefix: str) -> int:
        """Remove the key or all keys below it with every version, delete marker and unfinished
        upload; how many keys went. Empty prefixes are refused.

        Raises `BackendError` if anything could not be removed: some of it may be gone by then.
        """
        full = self._key(prefix)
        present = {found["Key"] for found in self._objects(full)}
        batch: Batch = []
        for key, version in self._versions(full):
            batch.append({"Key": key, "VersionId": version})
            if len(batch) == self.delete_batch:
                self._delete(batch)
                batch = []
        self._delete(batch)
        self._abort_uploads(full)
        self._forget(prefix)
        return len(present)

    def drop_copies(self, wanted: Callable[[str], bool], age_s: float) -> int:
        """Remove copies here of keys that are not wanted and were not used for `age_s` seconds,
        and all that nobody used for `CACHE_S`; how many."""
        gone = 0
        for held in list(self.cache.rglob(_HELD)):
            limit = CACHE_S if wanted(held.parent.relative_to(self.cache).as_posix()) else age_s
            with contextlib.suppress(OSError):  # another process was faster
                for place in held.iterdir():
                    if time.time() - place.stat().st_mtime > limit:
                        shutil.rmtree(place)
                        gone += 1
        return gone

    def url(self, key: str, *, expires_s: int) -> str | None:
        """A link that downloads the content for `expires_s` seconds (1 second to 7 days)."""
        if not 1 <= expires_s <= LONGEST_LINK_S:
            raise ValueError(f"`expires_s` is {expires_s}, not within 1 to {LONGEST_LINK_S}.")
        return self._s3.generate_presigned_url(
            "get_object",
            Params={"Bucket": self.bucket, "Key": self._key(key)},
            ExpiresIn=expires_s,
        )

    def _key(self, key: str) -> str:
        if not all(_PART.match(part) for part in key.split("/")):
            raise ValueError(f"`{key}` is not a storage key: ids joined by `/` are expected.")
        return self.prefix + key

    def _pages(self, operation: str, full: str) -> Iterator[dict[str, Any]]:
        pages = self._s3.get_paginator(operation)
        with self._asking(_RIGHTS[operation]):
            yield from pages.paginate(Bucket=self.bucket, Prefix=full or self.prefix)

    def _objects(self, full: str) -> Iterator[dict[str, Any]]:
        for page in self._pages("list_objects_v2", full):
            for found in page.get("Contents", ()):
                if _at_or_below(found["Key"], full):
                    yield found

    def _versions(self, full: str) -> Iterator[tuple[str, str]]:
        for page in self._pages("list_object_versions", full):
            for found in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if _at_or_below(found["Key"], full):
                    yield found["Key"], found["VersionId"]

    def _delete(self, batch: Batch) -> None:
        if not batch:
            return
        with self._asking("s3:DeleteObjectVersion"):
            answer = self._s3.delete_objects(
                Bucket=self.bucket, Delete={"Objects": batch, "Quiet": True}
            )
        left = answer.get("Errors", ())
        if left:
            raise BackendError(
                f"{len(left)} of {len(batch)} objects in the bucket {self.bucket} could not be "
                f"removed ({left[0].get('Code')}). Allow s3:DeleteObjectVersion and erase again."
            )

    def _abort_uploads(self, full: str) -> None:
        for page in self._pages("list_multipart_uploads", full):
            for upload in page.get("Uploads", ()):
                if not _at_or_below(upload["Key"], full):
                    continue
                with self._asking("s3:AbortMultipartUpload"):
                    self._s3.abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )

    def _forget(self, prefix: str) -> None:
        """Drop this machine's copies of the prefix, also those inside copies of its parents."""
        shutil.rmtree(self.cache / prefix, ignore_errors=True)
        parts = prefix.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            shutil.rmtree(self.cache.joinpath(*parts[:depth], _HELD), ignore_errors=True)

    def _sweep(self) -> None:
        """Drop copies nobody used for `CACHE_S`; looks at most once in ten minutes."""
        present = time.time()
        if present - self._swept < 600:
            return
        self._swept = present
        self.drop_copies(lambda _key: True, CACHE_S)

    @contextlib.contextmanager
    def _asking(self, needed: str, absent: str = "") -> Iterator[None]:
        """Any fault of S3 becomes a `BackendError`; "not there" a `KeyError` where `absent`."""
        try:
            yield
        except _faults() as fault:
            code = _code(fault)
            if absent and code in ("NoSuchKey", "404", _NO_BLOCK):
                raise KeyError(absent) from None
            raise BackendError(
                f"The bucket {self.bucket} failed with {code}. Check that it exists in this "
                f"region, that the credentials are valid and that they allow {needed}."
            ) from fault


def s3_client(region: str, endpoint_url: str = "") -> Any:
    """A boto3 S3 client that signs with version 4 (KMS needs it) and waits for bounded time.

    Raises `BackendError` without the aws extra.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as fault:
        raise BackendError(
            "boto3 is not installed, so S3 cannot be used. Run: pip install 'avatar-studio[aws]'"
        ) from fault
    limits = Config(
        signature_version="s3v4",
        connect_timeout=5,
        read_timeout=READ_S,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    session = boto3.session.Session(region_name=region)
    return session.client("s3", endpoint_url=endpoint_url or None, config=limits)


def make_bucket(bucket: str, region: str, *, kms_key: str = "", endpoint_url: str = "") -> None:
    """Create a bucket as the studio wants it: private, encrypted, versioned, TLS only.

    Unfinished uploads go after a day, old versions after seven. An own existing bucket is brought
    into the same state. Raises `BackendError` when the name is taken or a right is missing.
    """
    s3 = s3_client(region, endpoint_url)
    place = {} if region == "us-east-1" else {"LocationConstraint": region}
    created: dict[str, Any] = {"CreateBucketConfiguration": place} if place else {}
    try:
        s3.create_bucket(Bucket=bucket, **created)
    except _faults() as fault:
        if _code(fault) != "BucketAlreadyOwnedByYou":
            raise BackendError(f"The bucket {bucket} was not created: {_code(fault)}.") from fault
    rule = {"SSEAlgorithm": "aws:kms", **({"KMSMasterKeyID": kms_key} if kms_key else {})}
    try:
        s3.put_public_access_block(
            Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(_BLOCKS, True)
        )
        s3.put_bucket_encryption(
            Bucket=bucket,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": rule, "BucketKeyEnabled": True}]
            },
        )
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        s3.put_bucket_lifecycle_configuration(
            Bucket=bucket,
            LifecycleConfiguration={
                "Rules": [
                    {
                        "ID": "leftovers",
                        "Status": "Enabled",
                        "Filter": {"Prefix": ""},
                        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                        "NoncurrentVersionExpiration": {"NoncurrentDays": 7},
                    }
                ]
            },
        )
        s3.put_bucket_policy(Bucket=bucket, Policy=_tls_only(bucket))
    except _faults() as fault:
        raise BackendError(f"The bucket {bucket} was not set up: {_code(fault)}.") from fault


def _tls_only(bucket: str) -> str:
    return (
        '{"Version":"2012-10-17","Statement":[{"Sid":"OnlyTls","Effect":"Deny","Principal":"*",'
        f'"Action":"s3:*","Resource":["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"],'
        '"Condition":{"Bool":{"aws:SecureTransport":"false"}}}]}'
    )


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES)


def _at_or_below(key: str, full: str) -> bool:
    """Whole path parts: `users/1` is not below `users/11`."""
    return not full or key == full or key.startswith(f"{full}/")


def _faults() -> tuple[type[Exception], ...]:
    """What boto3 raises for anything that goes wrong between here and S3."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, Boto3Error, ClientError)


def _code(fault: BaseException) -> str:
    """The service's error code, or the kind of failure where there was no answer."""
    response = getattr(fault, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return type(fault).__name__
