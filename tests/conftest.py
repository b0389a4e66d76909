"""Fixtures for every room: the local AWS server is asked for by name, `aws`, `bucket`, `cloud`."""

from tests.aws.fixtures import aws, bucket, cloud, s3_url

__all__ = ["aws", "bucket", "cloud", "s3_url"]
