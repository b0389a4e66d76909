"""Fixtures for every room: the local AWS server is asked for by name, `aws`, `bucket`."""

from tests.aws.fixtures import aws, bucket, s3_url

__all__ = ["aws", "bucket", "s3_url"]
