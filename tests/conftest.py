"""Fixtures for every room: the local AWS server is asked for by name, `aws` or `s3_url`."""

from tests.aws.fixtures import aws, s3_url

__all__ = ["aws", "s3_url"]
