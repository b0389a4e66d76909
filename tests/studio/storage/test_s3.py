"""What only S3 has: encryption, versions, links, parts, copies on this machine, and its faults."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request

import boto3
import pytest

from studio.errors import BackendError
from studio.storage.s3 import CACHE_S, S3Storage, make_bucket


@pytest.fixture
def storage(bucket, tmp_path):
    return S3Storage(bucket, tmp_path / "cache", prefix="studio")


@pytest.fixture
def s3(bucket):
    return boto3.client("s3")


def test_a_made_bucket_is_private_encrypted_and_versioned(bucket, s3):
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    make_bucket(bucket, "us-east-1")  # again is the same, and here with its policy
    policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    (rule,) = policy["Statement"]
    assert (rule["Effect"], rule["Principal"], rule["Action"]) == ("Deny", "*", "s3:*")
    assert rule["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert rule["Resource"] == [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]


def test_everything_is_encrypted_with_the_chosen_key(bucket, s3, tmp_path):
    key = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
    storage = S3Storage(bucket, tmp_path / "cache", kms_key=key)
    large = tmp_path / "large.safetensors"
    large.write_bytes(os.urandom(9 << 20))
    storage.put("users/u1/a.png", b"x")
    storage.put("users/u1/large.safetensors", large)
    for name in ("a.png", "large.safetensors"):
        head = s3.head_object(Bucket=bucket, Key=f"users/u1/{name}")
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)
    assert s3.head_object(Bucket=bucket, Key="users/u1/a.png")["ContentType"] == "image/png"


def test_large_files_go_up_in_parts_and_come_back_whole(storage, s3, bucket, tmp_path):
    content = os.urandom((8 << 20) * 2 + 5)
    (tmp_path / "large.bin").write_bytes(content)
    storage.put("users/u1/large.bin", tmp_path / "large.bin")
    tag = s3.head_object(Bucket=bucket, Key="studio/users/u1/large.bin")["ETag"]
    assert tag.strip('"').endswith("-3"), "three parts"
    assert storage.fetch("users/u1/large.bin").read_bytes() == content


def test_erasing_takes_versions_delete_markers_and_unfinished_uploads(storage, s3, bucket):
    storage.put("users/u1/a.png", b"one")
    storage.put("users/u1/a.png", b"two")
    storage.put("users/u1/gone.png", b"x")
    storage.put("users/u11/a.png", b"somebody else")
    s3.delete_object(Bucket=bucket, Key="studio/users/u1/gone.png")
    s3.create_multipart_upload(Bucket=bucket, Key="studio/users/u1/half.bin")
    assert storage.delete_prefix("users/u1") == 1
    versions = s3.list_object_versions(Bucket=bucket)
    left = [o["Key"] for o in versions.get("Versions", []) + versions.get("DeleteMarkers", [])]
    assert left == ["studio/users/u11/a.png"]
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_erasing_more_than_a_batch(s3, bucket, tmp_path):
    storage = S3Storage(bucket, tmp_path / "cache", delete_batch=3)
    for place in range(8):
        storage.put(f"users/u1/{place}", b"x")
    assert storage.delete_prefix("users/u1") == 8
    assert "Versions" not in s3.list_object_versions(Bucket=bucket)


def test_a_link_downloads_for_a_while_and_only_that_key(storage):
    storage.put("users/u1/a.png", b"picture")
    link = storage.url("users/u1/a.png", expires_s=60)
    assert urllib.request.urlopen(link).read() == b"picture"
    assert "X-Amz-Expires=60" in link
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in link
    for wrong in (0, -1, 7 * 24 * 3600 + 1):
        with pytest.raises(ValueError, match="expires_s"):
            storage.url("users/u1/a.png", expires_s=wrong)


def test_copies_are_reused_and_go_with_the_erasure(storage):
    storage.put("users/u1/p1/model/w", b"weights")
    folder = storage.fetch("users/u1/p1")
    first = storage.fetch("users/u1/p1/model/w")
    assert storage.fetch("users/u1/p1/model/w") == first
    assert (folder / "model" / "w").read_bytes() == b"weights"
    storage.delete_prefix("users/u1/p1/model")
    assert not first.exists()
    assert not (folder / "model" / "w").exists(), "a copy of the parent folder held it too"


def test_copies_nobody_used_for_a_day_go(storage):
    storage.put("users/u1/a", b"a")
    storage.put("users/u1/b", b"b")
    old = storage.fetch("users/u1/a")
    past = time.time() - CACHE_S - 10
    os.utime(old.parent, (past, past))
    storage._swept = 0.0
    storage.fetch("users/u1/b")
    assert not old.exists()


def test_a_bucket_open_to_the_public_takes_no_photo(storage, s3, bucket):
    s3.delete_public_access_block(Bucket=bucket)
    with pytest.raises(BackendError, match="does not block public access"):
        storage.put("users/u1/a.png", b"x")
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_a_missing_bucket_says_which(tmp_path, bucket):
    storage = S3Storage("no-such-bucket-here", tmp_path)
    with pytest.raises(BackendError, match="no-such-bucket-here failed with NoSuchBucket"):
        storage.put("users/u1/a", b"x")
    with pytest.raises(BackendError, match="no-such-bucket-here"):
        list(storage.list("users"))


def test_nobody_listening_is_a_backend_error(tmp_path, bucket):
    storage = S3Storage(bucket, tmp_path, endpoint_url="http://127.0.0.1:9")
    with pytest.raises(BackendError, match="EndpointConnectionError"):
        storage.get("users/u1/a")


@pytest.mark.parametrize("url", ["", "local", "s3:/b", "s3://", "s3://UPPER/x", "https://b/x"])
def test_addresses_that_are_no_bucket_are_refused(url, tmp_path):
    with pytest.raises(BackendError, match="AVATAR_STORAGE"):
        S3Storage.from_url(url, tmp_path)


def test_an_address_names_bucket_and_prefix(bucket, tmp_path):
    storage = S3Storage.from_url(f"s3://{bucket}/deep/down/", tmp_path)
    assert (storage.bucket, storage.prefix) == (bucket, "deep/down/")
