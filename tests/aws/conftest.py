"""The server and credentials for the tests of this folder."""

from tests.aws.fixtures import aws, s3_url

__all__ = ["aws", "s3_url"]
