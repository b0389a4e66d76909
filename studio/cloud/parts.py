"""The studio's settings as the parts that run on AWS: trainers, the endpoint's engine, places.

Imports neither boto3 nor torch; the parts do when they are made.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from serving.errors import EngineError
from studio.errors import BackendError, UserError
from studio.settings import Settings
from studio.storage.published import Withdraws
from training.errors import TrainingError

if TYPE_CHECKING:
    from moderation.source import Source
    from serving.orderbook import AsyncSettings
    from serving.published import EndpointSettings
    from serving.request import Engine
    from training.request import Trainer
    from training.sagemaker import SageMakerSettings


def place(settings: Settings, setting: str, beside: str) -> str:
    """What the setting names, or s3://bucket/prefix-BESIDE next to the studio's own storage; ends
    in `/`.

    Raises `BackendError` when there is neither.
    """
    given: str = getattr(settings, setting)
    if given:
        return given.rstrip("/") + "/"
    match = re.fullmatch(r"s3://([^/]+)/?(.*)", settings.storage)
    if match is None:
        raise BackendError(
            f"AWS needs a place in S3. Set AVATAR_{setting.upper()} or AVATAR_STORAGE to "
            "s3://bucket/prefix."
        )
    prefix = match[2].strip("/")
    return f"s3://{match[1]}/{f'{prefix}-' if prefix else ''}{beside}/"


def needed(settings: Settings, *names: str) -> None:
    """Raises `BackendError` naming the settings that AWS cannot do without."""
    missing = [f"AVATAR_{name.upper()}" for name in names if not getattr(settings, name)]
    if missing:
        raise BackendError(f"Training on AWS needs {' and '.join(missing)}; see docs/aws.md.")


def job_settings(settings: Settings) -> SageMakerSettings:
    """How training jobs run."""
    from training.sagemaker import SageMakerSettings

    longest = settings.aws_trainer_minutes * 60
    return SageMakerSettings(
        place=place(settings, "aws_training", "training"),
        role=settings.aws_role,
        image=settings.aws_trainer_image,
        region=settings.aws_region,
        instance=settings.aws_trainer_instance,
        spot=settings.aws_spot,
        max_run_s=longest,
        max_wait_s=2 * longest,
        poll_every_s=settings.aws_poll_seconds,
        kms_key=settings.aws_kms_key,
        endpoint_url=settings.aws_endpoint_url,
        hash_cache=settings.home / "bases" / "hashes.json",
    )


def sagemaker_trainer(settings: Settings) -> Trainer:
    """Our own trainer in SageMaker jobs. Raises `BackendError` for what is missing."""
    from training.sagemaker import SageMakerTrainer

    needed(settings, "aws_role", "aws_trainer_image")
    try:
        return SageMakerTrainer(job_settings(settings))
    except TrainingError as fault:
        raise BackendError(str(fault)) from fault


def jumpstart_trainer(settings: Settings) -> Trainer:
    """JumpStart's trainer. Raises `BackendError` for what is missing."""
    from training.jumpstart import JumpStartSettings, JumpStartTrainer

    needed(settings, "aws_role")
    if settings.aws_jumpstart_result == "whole" and settings.engine != "endpoint":
        raise BackendError(
            "AVATAR_AWS_JUMPSTART_RESULT=whole needs AVATAR_ENGINE=endpoint: nothing else draws "
            "with a whole model. Set it to adapter, or draw on the endpoint."
        )
    try:
        return JumpStartTrainer(
            JumpStartSettings(
                job_settings(settings),
                model=settings.aws_jumpstart_model,
                whole=settings.aws_jumpstart_result == "whole",
            )
        )
    except TrainingError as fault:
        raise BackendError(str(fault)) from fault


def endpoint_settings(
    settings: Settings, base_id: str = "", base_sha256: str = ""
) -> EndpointSettings:
    """Which endpoint draws, and where it loads models from."""
    from serving.published import EndpointSettings

    return EndpointSettings(
        name=settings.aws_endpoint,
        models=place(settings, "aws_endpoint_models", "endpoint"),
        base_id=base_id,
        base_sha256=base_sha256,
        region=settings.aws_region,
        kms_key=settings.aws_kms_key,
        endpoint_url=settings.aws_endpoint_url,
        container=settings.aws_endpoint_container,
        draw_role=settings.aws_draw_role,
    )


def endpoint_engine(settings: Settings, base_id: str, base_sha256: str) -> Engine:
    """The engine that draws on the endpoint; where the settings say so, many or large pictures go
    to the asynchronous one. Raises `BackendError` for what is missing.
    """
    from serving.asynchronous import BySize
    from serving.endpoint import EndpointEngine

    try:
        engine = EndpointEngine(endpoint_settings(settings, base_id, base_sha256))
    except EngineError as fault:
        raise BackendError(str(fault)) from fault
    if not settings.aws_async_pictures:
        return engine
    large = async_engine(settings, base_id, base_sha256)
    return BySize(engine, large, pictures=settings.aws_async_pictures)


def async_settings(settings: Settings, base_id: str = "", base_sha256: str = "") -> AsyncSettings:
    """Which endpoint draws orders, and where they lie."""
    from serving.orderbook import AsyncSettings

    return AsyncSettings(
        name=settings.aws_async_endpoint,
        orders=place(settings, "aws_async_orders", "orders"),
        base_id=base_id,
        base_sha256=base_sha256,
        region=settings.aws_region,
        kms_key=settings.aws_kms_key,
        endpoint_url=settings.aws_endpoint_url,
    )


def async_engine(settings: Settings, base_id: str, base_sha256: str) -> Engine:
    """The engine that draws orders on the asynchronous endpoint."""
    from serving.asynchronous import AsyncEngine

    try:
        return AsyncEngine(async_settings(settings, base_id, base_sha256))
    except EngineError as fault:
        raise BackendError(str(fault)) from fault


def published(settings: Settings) -> tuple[Withdraws, ...]:
    """What endpoints hold of personal models in S3. Raises `BackendError` for what is missing."""
    from serving.orderbook import Orders
    from serving.published import Published

    found: list[Withdraws] = []
    try:
        if settings.engine == "endpoint":
            found.append(Published(endpoint_settings(settings)))
        if settings.engine == "async" or settings.aws_async_pictures:
            found.append(Orders(async_settings(settings)))
    except EngineError as fault:
        raise BackendError(str(fault)) from fault
    return tuple(found)


def photo_source(settings: Settings, uri: str) -> Source:
    """The photos below an s3://bucket/prefix/. Raises `UserError` for what is no such place."""
    from moderation.aws import MissingExtra
    from moderation.s3 import S3Source

    try:
        return S3Source(uri, settings.aws_region, endpoint_url=settings.aws_endpoint_url or None)
    except MissingExtra as fault:
        raise BackendError(str(fault)) from fault
    except ValueError as fault:
        raise UserError(str(fault), "Name a folder or s3://bucket/prefix/.") from fault
