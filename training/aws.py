"""What every job at AWS needs: clients with bounded waits, names, channels, and faults in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from training.bucket import Place
from training.errors import TrainingError


def clients(region: str, endpoint_url: str = "") -> tuple[Any, Any]:
    """boto3's S3 and SageMaker clients. Raises `TrainingError` when boto3 is not there."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise TrainingError(
            "boto3 is not installed, so nothing can be trained on AWS. "
            "Run: pip install 'avatar-studio[aws]'"
        ) from error
    limits = Config(
        signature_version="v4",
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 4},
    )
    session = boto3.session.Session(region_name=region)
    address = endpoint_url or None
    s3 = session.client(
        "s3", endpoint_url=address, config=limits.merge(Config(signature_version="s3v4"))
    )
    return s3, session.client("sagemaker", endpoint_url=address, config=limits)


def describe(sagemaker: Any, job: str) -> dict[str, Any] | None:
    """A job's description, or None for one that AWS does not know."""
    try:
        return sagemaker.describe_training_job(TrainingJobName=job)
    except sagemaker.exceptions.ClientError as error:
        known = error.response.get("Error", {})
        if known.get("Code") == "ResourceNotFound" or "not found" in known.get("Message", ""):
            return None
        raise


def channel(name: str, place: Place) -> dict[str, Any]:
    """An input channel that copies everything below a prefix to every machine."""
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": place.uri,
        "S3DataDistributionType": "FullyReplicated",
    }
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def encryption(kms_key: str) -> dict[str, str]:
    key = {"SSEKMSKeyId": kms_key} if kms_key else {}
    return {"ServerSideEncryption": "aws:kms", **key}


def job_name(run_ids: Sequence[str]) -> str:
    """A name that SageMaker takes (letters, digits, dashes; 63 at most), always the same."""
    return f"avatar-{hashlib.sha256(chr(10).join(run_ids).encode()).hexdigest()[:40]}"


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Any fault of boto3 becomes a `TrainingError` with what was wanted and what to do."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise TrainingError(_advice(what, code, error)) from error
    except (BotoCoreError, Boto3Error) as error:
        kind = type(error).__name__
        raise TrainingError(f"AWS could not be reached to {what} ({kind}).") from error


def _advice(what: str, code: str, error: Exception) -> str:
    if code == "ResourceLimitExceeded":
        return (
            f"AWS does not let this account {what}: its quota for this machine is used up or 0. "
            "Ask for more under Service Quotas, or choose another instance type."
        )
    if code in ("ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException"):
        return f"AWS did not accept the credentials to {what} ({code}). Renew them."
    if code in ("AccessDeniedException", "AccessDenied"):
        return (
            f"The credentials may not {what} ({code}). `avatar-studio aws doctor` says which right."
        )
    if code in ("ThrottlingException", "Throttling", "SlowDown", "ServiceUnavailable"):
        return f"We could not {what}: AWS is busy ({code})."
    return f"AWS refused to {what} ({code})."
