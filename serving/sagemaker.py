"""SageMaker and S3 as the engines use them: clients with bounded waits, and faults in words."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from serving.errors import AdapterRefused, EngineError, OutOfMemory, RequestRefused

READ_S = 70.0  # InvokeEndpoint itself gives up after 60

_LOG = logging.getLogger(__name__)


class EndpointFault(EngineError):
    """The endpoint is not there, not reachable, or answered with something that is no picture."""


class WarmingUp(EngineError):
    """The personal model was still being loaded when the wait for it ended."""


def client(
    service: str,
    region: str,
    endpoint_url: str = "",
    *,
    attempts: int,
    pool: int = 10,
    credentials: Mapping[str, str] | None = None,
) -> Any:
    """A boto3 client. Drawing must be tried once by boto3: a second try would be billed again.

    Raises `EndpointFault` when boto3 is not there.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise EndpointFault(
            "boto3 is not installed, so no endpoint can be asked. "
            "Run: pip install 'avatar-studio[aws]'"
        ) from error
    limits = Config(
        connect_timeout=3,
        read_timeout=READ_S,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=pool,
        **({"signature_version": "s3v4"} if service == "s3" else {}),
    )
    session = boto3.session.Session(region_name=region)
    return session.client(
        service, endpoint_url=endpoint_url or None, config=limits, **(credentials or {})
    )


def encryption(kms_key: str) -> dict[str, str]:
    """How objects are encrypted: with this KMS key, or the account's own for S3."""
    key = {"SSEKMSKeyId": kms_key} if kms_key else {}
    return {"ServerSideEncryption": "aws:kms", **key}


def explain(error: Exception, endpoint: str) -> tuple[EngineError, str]:
    """What an exception of boto3 means, and whether to try again: warming, busy, republish, no.

    The texts name no bucket, key or account: they may reach the person.
    """
    response: dict[str, Any] = getattr(error, "response", None) or {}
    known = response.get("Error", {})
    code, message = str(known.get("Code", "")), str(known.get("Message", ""))
    if code == "ModelNotReadyException":
        return WarmingUp("The personal model is still being made ready. Try again in a minute."), (
            "warming"
        )
    if code == "ModelError":
        return _from_container(response)
    if code in ("ValidationError", "ValidationException") and "download model data" in message:
        return AdapterRefused("The endpoint cannot find this personal model."), "republish"
    if code in ("ValidationError", "ValidationException"):
        text = (
            f"The endpoint {endpoint} is not in service. "
            f"Run: avatar-studio aws endpoint status --name {endpoint}"
        )
        return EndpointFault(text), "no"
    if code in (
        "ServiceUnavailable", "ThrottlingException", "InternalFailure",
        "InternalDependencyException", "SlowDown",
    ):  # fmt: skip
        return EndpointFault(
            f"The drawing service is busy ({code}). Try again in a minute."
        ), "busy"
    if isinstance(error, EngineError):
        return error, "no"
    reason = code or type(error).__name__
    _LOG.warning("the endpoint %s failed: %s", endpoint, reason)
    return EndpointFault(f"The drawing service did not answer ({reason})."), "no"


def _from_container(response: dict[str, Any]) -> tuple[EngineError, str]:
    """Our container's own answers, as the runtime passes them on with status 424."""
    status = response.get("OriginalStatusCode")
    said = str(response.get("OriginalMessage", ""))
    with suppress(ValueError, TypeError, KeyError):
        said = str(json.loads(said)["error"])
    if status == 507:
        return OutOfMemory("The endpoint has no memory left for this picture."), "busy"
    if status == 503:
        return EndpointFault("The endpoint has more to draw than it can. Try again later."), "busy"
    if status == 404:
        return EndpointFault("The endpoint let go of this model while drawing."), "busy"
    if status == 400:
        kind = AdapterRefused if "personal model" in said else RequestRefused
        return kind(said), "no"
    if status in (413, 422):
        return RequestRefused(said), "no"
    return EndpointFault(f"The endpoint could not draw this picture ({status})."), "no"
