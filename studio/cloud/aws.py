"""What a host asks of AWS from a terminal: is it ready, what is there, what does it cost.

Nothing here is used while people train or draw.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from serving.errors import EngineError
from serving.hosting import EndpointState, Hosting
from serving.plans import AsyncPlan, EndpointPlan
from studio.cloud.parts import place
from studio.doctor import Check
from studio.errors import BackendError, StudioError
from studio.settings import Settings


def client(service: str, settings: Settings) -> Any:
    """A boto3 client with bounded waiting. Raises `BackendError` without the aws extra."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as fault:
        raise BackendError(
            "boto3 is not installed. Run: pip install 'avatar-studio[aws]'"
        ) from fault
    limits = Config(
        connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3}
    )
    session = boto3.session.Session(region_name=settings.aws_region)
    return session.client(service, endpoint_url=settings.aws_endpoint_url or None, config=limits)


def hosting(settings: Settings) -> Hosting:
    return Hosting(
        client("sagemaker", settings),
        client("application-autoscaling", settings),
        client("cloudwatch", settings),
    )


# --- doctor ----------------------------------------------------------------------------------


def doctor(settings: Settings, *, endpoint_instance: str) -> dict[str, Any]:
    """Every check as the command's JSON: name, ok, detail, and what to do about it."""
    return {"checks": [asdict(check) for check in _checks(settings, endpoint_instance)]}


def _checks(settings: Settings, endpoint_instance: str) -> Iterator[Check]:
    identity = _tried(
        "identity",
        lambda: _identity(settings),
        "Give boto3 credentials: environment variables, `aws configure`, or the machine's role.",
    )
    yield identity
    if not identity.ok:
        return
    yield _tried(
        "bucket", lambda: _bucket(settings), "Run: avatar-studio aws bucket create NAME, then set "
        "AVATAR_STORAGE to s3://NAME/studio."
    )  # fmt: skip
    yield _tried(
        "Rekognition",
        lambda: _rekognition(settings),
        "Allow rekognition:DetectModerationLabels, DetectFaces and CompareFaces in this region.",
    )
    yield _tried(
        "Comprehend",
        lambda: _comprehend(settings),
        "Allow comprehend:DetectToxicContent (and ClassifyDocument) in this region.",
    )
    yield _tried(
        "role",
        lambda: _role(settings),
        "Set AVATAR_AWS_ROLE to a role that SageMaker may assume; docs/aws.md has its rights.",
    )
    trainer = settings.aws_trainer_instance
    uses = {"training job": trainer, "spot training job": trainer, "endpoint": endpoint_instance}
    for use, instance in uses.items():
        yield _tried(
            f"quota for {use}s",
            partial(_quota, settings, f"{instance} for {use} usage"),
            "Ask for at least 1 under Service Quotas > Amazon SageMaker; it takes hours to days.",
        )
    yield _tried(
        "JumpStart model",
        lambda: _jumpstart(settings),
        "Choose one of `avatar-studio aws bases` for AVATAR_AWS_JUMPSTART_MODEL.",
    )
    if settings.engine != "async":
        yield _tried(
            "endpoint",
            lambda: _endpoint(settings, settings.aws_endpoint),
            "Run: avatar-studio aws endpoint create (it costs money while it exists).",
        )
    if settings.engine == "async" or settings.aws_async_pictures:
        yield _tried(
            "asynchronous endpoint",
            lambda: _endpoint(settings, settings.aws_async_endpoint),
            "Run: avatar-studio aws async create, and scale when it is in service.",
        )


def _tried(name: str, look: Callable[[], str], fix: str) -> Check:
    """A check from a function that returns its detail, or raises with what is wrong."""
    try:
        return Check(name, True, look())
    except (StudioError, EngineError, ValueError) as fault:
        return Check(name, False, str(fault), fix)
    except _faults() as fault:
        code = (getattr(fault, "response", None) or {}).get("Error", {}).get("Code")
        return Check(name, False, f"AWS answered {code or type(fault).__name__}.", fix)


def _faults() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError)


def _identity(settings: Settings) -> str:
    told = client("sts", settings).get_caller_identity()
    return f"account {told['Account']} as {told['Arn']}, region {settings.aws_region}"


def _bucket(settings: Settings) -> str:
    from studio.storage.s3 import S3Storage

    storage = S3Storage.from_url(
        settings.storage,
        settings.home / "cache" / "storage",
        region=settings.aws_region,
        endpoint_url=settings.aws_endpoint_url,
    )
    storage.check()
    return f"{storage.bucket} is there and blocks public access"


def _rekognition(settings: Settings) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (96, 96), (120, 150, 180)).save(stream, "JPEG")
    answer = client("rekognition", settings).detect_moderation_labels(
        Image={"Bytes": stream.getvalue()}
    )
    version = answer.get("ModerationModelVersion")
    if not version:
        raise BackendError("Rekognition answered without a model version.")
    return f"moderation model {version} (this check cost one picture)"


def _comprehend(settings: Settings) -> str:
    comprehend = client("comprehend", settings)
    answer = comprehend.detect_toxic_content(
        TextSegments=[{"Text": "a portrait of an astronaut"}], LanguageCode="en"
    )
    if len(answer.get("ResultList", ())) != 1:
        raise BackendError("Comprehend answered without a result.")
    if not settings.aws_classifier_arn:
        return "toxic content is detected; no custom classifier is set"
    told = comprehend.describe_endpoint(EndpointArn=settings.aws_classifier_arn)
    status = told["EndpointProperties"]["Status"]
    if status != "IN_SERVICE":
        raise BackendError(f"The custom classifier's endpoint is {status}.")
    return "toxic content is detected; the custom classifier is in service"


def _role(settings: Settings) -> str:
    if not settings.aws_role:
        raise BackendError("AVATAR_AWS_ROLE is not set.")
    name = settings.aws_role.rpartition("/")[2]
    told = client("iam", settings).get_role(RoleName=name)["Role"]
    if "sagemaker.amazonaws.com" not in str(told.get("AssumeRolePolicyDocument")):
        raise BackendError(f"SageMaker may not assume the role {name}.")
    return f"{name} may be assumed by SageMaker"


def _quota(settings: Settings, wanted: str) -> str:
    quotas = client("service-quotas", settings)
    for page in quotas.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker"):
        for quota in page["Quotas"]:
            if quota.get("QuotaName") == wanted:
                if quota.get("Value", 0) < 1:
                    raise BackendError(f"{wanted} is {quota.get('Value', 0):g}.")
                return f"{wanted} is {quota['Value']:g}"
    raise BackendError(f"AWS lists no quota named “{wanted}”.")


def _jumpstart(settings: Settings) -> str:
    from training.errors import TrainingError
    from training.hub import HUB, HubModel

    answer = client("sagemaker", settings).describe_hub_content(
        HubName=HUB, HubContentType="Model", HubContentName=settings.aws_jumpstart_model
    )
    try:
        model = HubModel.read(answer, settings.aws_trainer_instance)
    except TrainingError as fault:
        raise BackendError(str(fault)) from fault
    return f"{model.id} {model.version} trains on {', '.join(model.instances) or 'any instance'}"


def _endpoint(settings: Settings, name: str) -> str:
    state = hosting(settings).state(name)
    if state.state != "in service":
        reason = f": {state.reason}" if state.reason else ""
        raise BackendError(f"The endpoint {state.name} is {state.state}{reason}.")
    return f"{state.name} is in service on {state.instances} instances"


# --- endpoint --------------------------------------------------------------------------------


def endpoint_plan(
    settings: Settings,
    *,
    image: str,
    instance: str,
    least: int,
    most: int,
    cache: bool,
) -> EndpointPlan:
    """The endpoint as the settings and the command's options want it."""
    if not settings.aws_role:
        raise BackendError("Set AVATAR_AWS_ROLE first; docs/aws.md has the rights it needs.")
    return EndpointPlan(
        name=settings.aws_endpoint,
        image=image,
        role=settings.aws_role,
        models=place(settings, "aws_endpoint_models", "endpoint"),
        instance=instance,
        least=least,
        most=most,
        cache=cache,
    )


def async_plan(settings: Settings, *, image: str, instance: str, most: int) -> AsyncPlan:
    """The asynchronous endpoint as the settings and the command's options want it."""
    if not settings.aws_role:
        raise BackendError("Set AVATAR_AWS_ROLE first; docs/aws.md has the rights it needs.")
    return AsyncPlan(
        name=settings.aws_async_endpoint,
        image=image,
        role=settings.aws_role,
        orders=place(settings, "aws_async_orders", "orders"),
        instance=instance,
        most=most,
        kms_key=settings.aws_kms_key,
    )


def endpoint_status(settings: Settings) -> dict[str, Any]:
    """The endpoint's state, whether erased models may linger in it, and what an hour costs."""
    host = hosting(settings)
    state = host.state(settings.aws_endpoint)
    caches = state.state != "absent" and host.caches(settings.aws_endpoint)
    return {"endpoint": asdict(state), "caches": caches, "remains": remains(state, caches)}


def remains(state: EndpointState, caches: bool) -> str:
    """What of an erased model is still at the endpoint, and until when."""
    if state.state == "absent":
        return "nothing: there is no endpoint"
    if not caches:
        return "nothing: the endpoint forgets a model after every picture"
    return (
        "a copy in the endpoint's memory and on its disk until it makes room for others or is "
        "recycled (avatar-studio aws endpoint recycle)"
    )
