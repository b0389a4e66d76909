"""Fixtures that point boto3 at this machine, for every folder that tests an AWS part.

`tests/conftest.py` offers them to every folder. Nothing in the product is changed: clients find
the servers by boto3's own endpoint settings.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.aws.server import AwsServer
    from tests.aws.server.comprehend import Comprehend
    from tests.aws.server.rekognition import Rekognition
    from tests.aws.server.sagemaker import SageMaker
    from tests.aws.server.scaling import Quotas, Scaling


@dataclass
class Aws:
    """The running server and the services behind it."""

    server: AwsServer
    rekognition: Rekognition
    comprehend: Comprehend

    def calls(self, operation: str) -> int:
        return len(self.server.called(operation))


def point_boto3_at(monkeypatch: pytest.MonkeyPatch, url: str, s3: str | None = None) -> None:
    """Dummy credentials and local endpoints, so that nothing can leave this machine."""
    settings = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_ENDPOINT_URL": s3 or url,
        **{
            f"AWS_ENDPOINT_URL_{name}": url
            for name in (
                "REKOGNITION", "COMPREHEND", "SAGEMAKER", "SAGEMAKER_RUNTIME",
                "APPLICATION_AUTO_SCALING", "SERVICE_QUOTAS",
            )
        },
    }  # fmt: skip
    # Reading a service's model is most of what a client costs; one reader serves all tests.
    monkeypatch.setattr("botocore.session.create_loader", _one_loader)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@cache
def _one_loader(search_path: str | None = None) -> Any:
    from botocore.loaders import create_loader

    return create_loader(search_path)


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """moto's server: S3, KMS, STS, IAM and CloudWatch over HTTP."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """A fresh server for one test, with boto3 pointed at it."""
    from tests.aws.server import AwsServer
    from tests.aws.server.comprehend import Comprehend
    from tests.aws.server.rekognition import Rekognition

    with AwsServer() as server:
        services = Aws(server, Rekognition(), Comprehend())
        server.add("RekognitionService", services.rekognition)
        server.add("Comprehend_20171127", services.comprehend)
        point_boto3_at(monkeypatch, server.url)
        yield services


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket as the studio makes it, with boto3's S3, KMS and STS pointed at moto."""
    import boto3

    from studio.storage.s3 import make_bucket

    for name in ("S3", "KMS", "STS", "CLOUDWATCH"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", s3_url)
    if "AWS_ACCESS_KEY_ID" not in os.environ or os.environ["AWS_ACCESS_KEY_ID"] != "testing":
        point_boto3_at(monkeypatch, s3_url)
    name = f"avatars-{uuid.uuid4().hex[:12]}"
    make_bucket(name, "us-east-1")
    # moto applies a policy's Deny without looking at its condition, so that plain HTTP to this
    # machine would be refused for everything; the policy itself has a test.
    boto3.client("s3").delete_bucket_policy(Bucket=name)
    return name


@dataclass
class Cloud:
    """SageMaker beside S3: the server, its services, and the bucket of this test."""

    server: AwsServer
    sagemaker: SageMaker
    scaling: Scaling
    quotas: Quotas
    rekognition: Rekognition
    comprehend: Comprehend
    bucket: str
    s3_url: str

    @property
    def jobs(self) -> Any:
        return self.sagemaker.jobs

    @property
    def endpoints(self) -> Any:
        return self.sagemaker.endpoints

    def stored(self, prefix: str = "") -> list[str]:
        """Every key and every old version's key below a prefix."""
        import boto3

        found = boto3.client("s3").list_object_versions(Bucket=self.bucket, Prefix=prefix)
        return sorted(o["Key"] for o in found.get("Versions", []) + found.get("DeleteMarkers", []))

    def key(self) -> str:
        """A fresh KMS key."""
        import boto3

        made: str = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
        return made

    def keys_of(self, prefix: str) -> set[str | None]:
        """The KMS keys that the objects below a prefix are encrypted with."""
        import boto3

        s3 = boto3.client("s3")
        heads = [s3.head_object(Bucket=self.bucket, Key=key) for key in self.stored(prefix)]
        return {head.get("SSEKMSKeyId") for head in heads}


@pytest.fixture
def cloud(aws: Aws, bucket: str, s3_url: str) -> Iterator[Cloud]:
    """Everything this product uses of AWS, with images that run programs of this repository."""
    import boto3

    from tests.aws.server.bucket import Bucket
    from tests.aws.server.sagemaker import SageMaker
    from tests.aws.server.scaling import Quotas, Scaling

    image = str(Path(__file__).parent / "server" / "image.py")
    sagemaker = SageMaker(
        Bucket(s3_url),
        programs={
            "states": lambda root: [sys.executable, image, str(root)],
            "avatar-trainer": lambda root: [
                sys.executable, "-m", "training.container", "--root", str(root)
            ],
        },
    )  # fmt: skip
    alarms = boto3.client("cloudwatch", endpoint_url=s3_url)
    for alarm in alarms.describe_alarms()["MetricAlarms"]:  # moto's server outlives a test
        alarms.delete_alarms(AlarmNames=[alarm["AlarmName"]])
    scaling, quotas = Scaling(sagemaker.endpoints, alarms), Quotas()
    aws.server.add("SageMaker", sagemaker)
    aws.server.add("AnyScaleFrontendService", scaling)
    aws.server.add("ServiceQuotasV20190624", quotas)
    aws.server.rest = sagemaker.rest
    aws.comprehend.fetch = sagemaker.bucket.read
    yield Cloud(
        aws.server, sagemaker, scaling, quotas, aws.rekognition, aws.comprehend, bucket, s3_url
    )
    sagemaker.close()
