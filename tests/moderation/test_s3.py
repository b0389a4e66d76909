"""Thousands of photos in a bucket: listed, screened, put aside, and screened again for free."""

from __future__ import annotations

import io
import json

import boto3
import numpy as np
import pytest
from PIL import Image

from moderation.aws import ServiceFault
from moderation.bulk import screen
from moderation.chain import build
from moderation.layers import ModerationConfig
from moderation.s3 import S3Source
from moderation.verdict import Decision


def photo(red: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (640, 640), (red, 120, 90)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def photos(cloud):
    s3 = boto3.client("s3")
    for name, content in {
        "a.jpg": photo(10), "deep/b.JPG": photo(250), "broken.png": b"no picture",
        "notes.txt": b"x", "refused/old.jpg": photo(20),
    }.items():  # fmt: skip
        s3.put_object(Bucket=cloud.bucket, Key=f"team/{name}", Body=content)
    s3.put_object(Bucket=cloud.bucket, Key="team2/c.jpg", Body=photo(10))

    def labels(picture):
        return [("Explicit", 99.0)] if np.asarray(picture)[..., 0].mean() > 200 else []

    cloud.rekognition.labels = labels
    return cloud


def decode(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")).convert("RGB")


def test_a_prefix_is_screened_moved_and_not_paid_for_twice(photos, tmp_path):
    source = S3Source(f"s3://{photos.bucket}/team/", "us-east-1")
    assert list(source.names()) == ["a.jpg", "broken.png", "deep/b.JPG"]
    moderation = build(ModerationConfig(backend="aws"))
    found = {s.name: s for s in screen(source, tmp_path, moderation, decode, what="move")}
    assert found["a.jpg"].done == ""
    assert found["deep/b.JPG"].decision is Decision.BLOCK
    assert (found["deep/b.JPG"].done, found["broken.png"].done) == ("move", "move")
    assert list(source.names()) == ["a.jpg"]
    keys = [
        o["Key"]
        for o in boto3.client("s3").list_objects_v2(Bucket=photos.bucket, Prefix="team/")[
            "Contents"
        ]
    ]
    assert {"team/refused/deep/b.JPG", "team/refused/broken.png", "team/notes.txt"} <= set(keys)
    info = boto3.client("s3").get_object(Bucket=photos.bucket, Key="team/dataset_info.json")
    assert "instance_prompt" in json.loads(info["Body"].read())
    asked = len(photos.server.calls)
    screen(source, tmp_path, moderation, decode, what="move")
    assert len(photos.server.calls) == asked, "what is known is not asked again"


def test_what_is_put_aside_never_replaces_what_was(photos):
    source = S3Source(f"s3://{photos.bucket}/team", "us-east-1")
    boto3.client("s3").put_object(Bucket=photos.bucket, Key="team/old.jpg", Body=photo(99))
    source.move("old.jpg")
    kept = boto3.client("s3").get_object(Bucket=photos.bucket, Key="team/refused/old-1.jpg")
    assert kept["Body"].read() == photo(99)
    assert "team/old.jpg" not in [
        o["Key"] for o in boto3.client("s3").list_objects_v2(Bucket=photos.bucket)["Contents"]
    ]


def test_a_photo_that_cannot_be_read_is_not_condemned_for_it(photos, tmp_path):
    """Deny reading one object: with `delete` it must still be there afterwards."""
    s3 = boto3.client("s3")
    resource = f"arn:aws:s3:::{photos.bucket}/team/a.jpg"
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": resource}
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    s3.put_bucket_policy(Bucket=photos.bucket, Policy=json.dumps(policy))
    source = S3Source(f"s3://{photos.bucket}/team/", "us-east-1")
    moderation = build(ModerationConfig(backend="aws"))
    found = {s.name: s for s in screen(source, tmp_path, moderation, decode, what="delete")}
    s3.delete_bucket_policy(Bucket=photos.bucket)
    assert found["a.jpg"].decision is Decision.UNAVAILABLE
    assert found["a.jpg"].done != "delete"
    assert list(source.names()) == ["a.jpg"], "the others were bad and are gone"
    again = {s.name: s for s in screen(source, tmp_path, moderation, decode, what="delete")}
    assert again["a.jpg"].decision is Decision.ALLOW, "it is tried again"


def test_bad_places_and_missing_buckets_are_named(cloud):
    for uri in ("", "folder", "s3:/x", "s3://UP/x"):
        with pytest.raises(ValueError, match="no place in S3"):
            S3Source(uri, "us-east-1")
    source = S3Source("s3://no-such-bucket-at-all/x", "us-east-1")
    with pytest.raises(ServiceFault, match=r"no-such-bucket-at-all.*NoSuchBucket"):
        source.names()
    with pytest.raises(ServiceFault, match="NoSuchBucket"):
        source.read("a.jpg")
