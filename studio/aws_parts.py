"""The studio's settings as the parts that run on AWS: trainers, the endpoint's engine, places.

Imports neither boto3 nor torch; the parts do when they are made.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from serving.errors import EngineError
from studio.errors import BackendError, UserError
from studio.settings import Settings
from training.errors import TrainingError

if TYPE_CHECKING:
    from moderation.bulk import Source
    from serving.endpoint import EndpointEngine, EndpointSettings, Published, Tell
    from training.request import Trainer
    from training.sagemaker import SageMakerSettings


def place(settings: Settings, name: str, given: str) -> str:
    """`given`, or s3://bucket/prefix-NAME beside the studio's own storage; ends in `/`.

    Raises `BackendError` when there is neither.
    """
    if given:
        return given.rstrip("/") + "/"
    match = re.fullmatch(r"s3://([^/]+)/?(.*)", settings.storage)
    if match is None:
        raise BackendError(
            f"AWS needs a place in S3. Set AVATAR_AWS_{name.upper()} or AVATAR_STORAGE to "
            "s3://bucket/prefix."
        )
    prefix = match[2].strip("/")
    return f"s3://{match[1]}/{f'{prefix}-' if prefix else ''}{name.partition('_')[2] or name}/"


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
        place=place(settings, "training", settings.aws_training),
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
    try:
        return JumpStartTrainer(
            JumpStartSettings(job_settings(settings), model=settings.aws_jumpstart_model)
        )
    except TrainingError as fault:
        raise BackendError(str(fault)) from fault


def endpoint_settings(
    settings: Settings, base_id: str = "", base_sha256: str = ""
) -> EndpointSettings:
    """Which endpoint draws, and where it loads models from."""
    from serving.endpoint import EndpointSettings

    return EndpointSettings(
        name=settings.aws_endpoint,
        models=place(settings, "endpoint", settings.aws_endpoint_models),
        base_id=base_id,
        base_sha256=base_sha256,
        region=settings.aws_region,
        kms_key=settings.aws_kms_key,
        endpoint_url=settings.aws_endpoint_url,
        container=settings.aws_endpoint_container,
    )


def endpoint_engine(
    settings: Settings, base_id: str, base_sha256: str, tell: Tell | None = None
) -> EndpointEngine:
    """The engine that draws on the endpoint. Raises `BackendError` for what is missing."""
    from serving.endpoint import EndpointEngine

    try:
        return EndpointEngine(endpoint_settings(settings, base_id, base_sha256), tell)
    except EngineError as fault:
        raise BackendError(str(fault)) from fault


def published(settings: Settings) -> Published:
    """The models that the endpoint may load. Raises `BackendError` for what is missing."""
    from serving.endpoint import Published

    try:
        return Published(endpoint_settings(settings))
    except EngineError as fault:
        raise BackendError(str(fault)) from fault


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
