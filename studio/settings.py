"""All settings, read once from the environment (prefix AVATAR_). Nothing else reads it.

`docs/settings.md` is the same table for people; a test holds the two together.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from studio.errors import BackendError


class Settings(BaseSettings):
    """Frozen after reading. Every field has a default that works on a laptop, and a help text."""

    model_config = SettingsConfigDict(env_prefix="AVATAR_", frozen=True, extra="ignore")

    home: Path = Field(
        Path.home() / ".avatar-studio", description="Folder that holds all state of the studio"
    )
    host: str = Field("127.0.0.1", description="Address the page is served on")
    space: str = Field(
        "", description="Id of the Hugging Face Space it runs in; a Space sets SPACE_ID by itself"
    )
    port: int = Field(7860, ge=0, le=65535, description="Port of the page; 0 picks a free one")
    database_url: str = Field(
        "", description="SQLAlchemy URL of the records; empty means SQLite under AVATAR_HOME"
    )
    workflow_database_url: str = Field(
        "", description="URL of the durable workflows; empty means SQLite under AVATAR_HOME"
    )
    storage: str = Field(
        "local",
        description="Where bytes lie: `local`, `file:///folder` that machines share, or "
        "`s3://bucket/prefix` with the aws extra",
    )
    min_photos: int = Field(10, ge=1, description="Fewest accepted photos that can be trained")
    max_photos: int = Field(15, ge=1, description="Most accepted photos in a set")
    max_photo_mb: float = Field(20.0, gt=0, description="Largest photo file accepted, in MB")
    max_uploads: int = Field(60, ge=1, description="Most photos kept in one set, refused included")
    min_photo_px: int = Field(512, ge=64, description="Shortest side a photo must have, in pixels")
    max_photo_mpx: float = Field(60.0, gt=0, description="Most megapixels a photo may decode to")
    strict_faces: bool = Field(
        False, description="A photo in which no face is found is refused instead of asked about"
    )
    moderation: Literal["local", "aws"] = Field(
        "local", description="Who judges: `local`, or `aws` for Rekognition and Comprehend"
    )
    policy: Literal["general", "family", "brand-safe"] = Field(
        "general", description="Preset of the moderation policy"
    )
    policy_file: Path | None = Field(None, description="Own policy.toml instead of a preset")
    rules_folder: Path | None = Field(None, description="Folder with own forbidden-term files")
    picture_attempts: int = Field(
        3, ge=1, le=10, description="Seeds tried when a safe prompt gives an unsafe picture"
    )
    cooldown_blocks: int = Field(5, ge=1, description="Blocked prompts before a user must wait")
    cooldown_minutes: float = Field(10.0, gt=0, description="Window and length of that wait")
    trainer: Literal["local", "sagemaker", "jumpstart"] = Field(
        "local", description="Where models are trained"
    )
    steps: int = Field(
        0, ge=0, le=100_000, description="Steps of every training; 0 lets the recipe decide"
    )
    engine: Literal["local", "endpoint", "async"] = Field(
        "local",
        description="Where avatars are drawn: here, or by one of the two kinds of AWS endpoints",
    )
    base: str = Field("", description="Base model id; empty picks the best this machine can run")
    bases_file: Path | None = Field(None, description="Own base models, in the form of bases.toml")
    styles_folder: Path | None = Field(None, description="Folder with own styles (TOML)")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0, mps …")
    max_count: int = Field(12, ge=1, description="Most avatars per style in one go")
    max_prompt: int = Field(500, ge=1, description="Longest free text, in characters")
    trainings_per_day: int = Field(
        0, ge=0, description="Trainings a user may start in 24 hours; 0 means any number"
    )
    avatars_per_day: int = Field(
        0, ge=0, description="Avatars a user may ask for in 24 hours; 0 means any number"
    )
    photos_per_day: int = Field(
        0, ge=0, description="Photos a user may add in 24 hours; 0 means any number"
    )
    requests_per_minute: int = Field(
        3000, ge=60, description="Requests a user may send in a minute; an address, ten times that"
    )
    upload_mb_per_hour: float = Field(
        2500.0, gt=0, description="MB a user may upload in an hour; an address, ten times that"
    )
    threads: int = Field(
        0, ge=0, description="CPU threads; 0 draws with all and lets training time what is faster"
    )
    embedder: Path | None = Field(
        None, description="Folder of a CLIP or DINO model that ranks versions of a personal model"
    )
    workers: int = Field(1, ge=0, description="Worker processes started beside the page")
    photo_retention: Literal["keep", "until-trained"] = Field(
        "keep", description="Whether photos are kept after training for later versions"
    )
    upload_hours: float = Field(24.0, gt=0, description="Photos never trained on go after this")
    sweep_minutes: float = Field(
        5.0, ge=0.02, le=30, description="How often what has had its time is removed, in minutes"
    )
    model_days: float = Field(0.0, ge=0, description="Models and avatars go after this; 0 = never")
    decision_days: float = Field(
        90.0, ge=0, description="Records of what the checks decided go after this; 0 = never"
    )
    api_wait_seconds: float = Field(
        25.0, ge=0, description="How long a request of the API waits for its drawing"
    )
    accounts: str = Field(
        "", description="File with `user:password-hash` lines; empty means one local user"
    )
    admins: str = Field(
        "", description="Users who see the host's page, with commas; empty: the one local user"
    )
    token_days: int = Field(
        90, ge=1, le=3650, description="Longest time that a program's token works, in days"
    )
    oidc_issuer: str = Field(
        "", description="OpenID Connect provider that people sign in with; a Space sets its own"
    )
    oidc_client_id: str = Field("", description="What that provider calls this studio")
    oidc_client_secret: SecretStr = Field(
        SecretStr(""), description="The studio's secret with that provider; empty without one"
    )
    oidc_scopes: str = Field("openid", description="What is asked of it, separated by spaces")
    oidc_allowed: str = Field(
        "", description="Subjects, e-mail addresses or @domains that may enter; empty means all"
    )
    public_url: str = Field(
        "", description="Address that people type; empty takes it from each request"
    )
    signing_key: SecretStr = Field(
        SecretStr(""), description="Key for marks, links and keyed hashes; empty makes one in home"
    )
    aws_region: str = Field("us-east-1", description="Region of the AWS services")
    aws_endpoint_url: str = Field("", description="Other address of the AWS services, for tests")
    aws_role: str = Field("", description="ARN of the role that training jobs and endpoints run as")
    aws_kms_key: str = Field(
        "", description="KMS key for everything stored at AWS; empty means the account's own"
    )
    aws_training: str = Field(
        "", description="s3://bucket/prefix of training jobs; empty puts it beside AVATAR_STORAGE"
    )
    aws_trainer_image: str = Field(
        "", description="Image of the trainer (deploy/trainer.Dockerfile) in your registry"
    )
    aws_trainer_instance: str = Field(
        "ml.g5.xlarge", description="Instance type that trainings run on"
    )
    aws_spot: bool = Field(True, description="Train on spot machines: cheaper, and they may wait")
    aws_trainer_minutes: int = Field(
        180, ge=5, le=40320, description="Longest time one training may run at AWS"
    )
    aws_poll_seconds: float = Field(
        10.0, gt=0, description="How often AWS is asked about a training, in seconds"
    )
    aws_pack_people: int = Field(
        1, ge=1, le=10, description="Most people who share one training job at AWS"
    )
    aws_pack_seconds: float = Field(
        60.0, ge=0, description="How long a training waits for others to share its job"
    )
    aws_prices_file: Path | None = Field(
        None, description="Own prices for estimates, in the form of studio/cloud/aws_prices.toml"
    )
    aws_jumpstart_model: str = Field(
        "model-txt2img-stabilityai-stable-diffusion-v2-1-base",
        description="JumpStart model that AVATAR_TRAINER=jumpstart fine-tunes",
    )
    aws_jumpstart_result: Literal["adapter", "whole"] = Field(
        "adapter",
        description="What JumpStart's full model becomes: an adapter, or served `whole` on CPUs",
    )
    aws_endpoint: str = Field("avatars", description="Name of the endpoint that draws")
    aws_endpoint_container: Literal["http", "triton"] = Field(
        "http", description="What runs at the endpoint: `http` on CPUs, `triton` on GPUs"
    )
    aws_endpoint_models: str = Field(
        "", description="s3://bucket/prefix/ the endpoint loads; empty: beside AVATAR_STORAGE"
    )
    aws_async_endpoint: str = Field(
        "avatars-async", description="Name of the asynchronous endpoint, which costs nothing idle"
    )
    aws_async_orders: str = Field(
        "", description="s3://bucket/prefix/ of its orders; empty puts it beside AVATAR_STORAGE"
    )
    aws_async_pictures: int = Field(
        0, ge=0, description="Pictures from which on a drawing goes there; 0 means never"
    )
    aws_endpoint_base: str = Field(
        "", description="Base that the endpoint holds, `id@sha256`; empty takes the one here"
    )
    aws_draw_role: str = Field(
        "", description="Role that drawing assumes for one owner at a time, tagged with the owner"
    )
    aws_database_secret: str = Field(
        "", description="ARN of the secret with the database's user, password and host, for Lambda"
    )
    aws_signing_secret: str = Field(
        "", description="ARN of the secret that holds the signing key, for Lambda"
    )
    aws_classifier_arn: str = Field(
        "", description="ARN of a Comprehend endpoint that classifies prompts"
    )
    aws_celebrities: bool = Field(
        False, description="Ask Rekognition whether a photo shows a public figure"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="How much is written to the log"
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        # Trainers run in other folders, so a relative home would be another one there.
        return home.expanduser().absolute()

    @property
    def signs_in(self) -> bool:
        """Whether several people have accounts, here or at a provider."""
        return bool(self.accounts or self.oidc_issuer)

    @cached_property
    def records_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home.resolve() / 'records.sqlite'}"

    @cached_property
    def workflows_url(self) -> str:
        return self.workflow_database_url or f"sqlite:///{self.home.resolve() / 'workflows.sqlite'}"

    @property
    def public(self) -> bool:
        """Bound to anything but loopback: needs accounts and a real picture check."""
        return self.host not in ("127.0.0.1", "localhost", "::1")

    def is_host(self, user_name: str) -> bool:
        """Whether this user sees the host's page: the one local user, or who is in `admins`."""
        if self.admins:
            return user_name in {name.strip() for name in self.admins.split(",") if name.strip()}
        return not (self.signs_in or self.public)


# Set by a Space whose card says `hf_oauth: true`.
SPACE_SETS = {
    "oidc_issuer": "OPENID_PROVIDER_URL",
    "oidc_client_id": "OAUTH_CLIENT_ID",
    "oidc_client_secret": "OAUTH_CLIENT_SECRET",
}


def read_settings() -> Settings:
    """The settings from the environment. Raises `BackendError` naming the variable."""
    given: dict[str, Any] = {}
    if os.environ.get("SPACE_ID"):
        given = {"space": os.environ["SPACE_ID"]}
        if "AVATAR_HOST" not in os.environ:
            given["host"] = "0.0.0.0"
        given |= {
            name: os.environ[variable]
            for name, variable in SPACE_SETS.items()
            if os.environ.get(variable) and f"AVATAR_{name.upper()}" not in os.environ
        }
        if os.environ.get("SPACE_HOST"):
            given.setdefault("public_url", f"https://{os.environ['SPACE_HOST']}")
    try:
        return Settings(**given)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        name = "AVATAR_" + "_".join(str(part) for part in first["loc"]).upper()
        raise BackendError(
            f"{name} is {first['input']!r}: {first['msg']}. Correct or unset it; docs/settings.md "
            "lists what each setting may be."
        ) from fault


def prepare_page(settings: Settings) -> None:
    """Set what Gradio only reads from the environment. Before it is imported."""
    os.environ["GRADIO_TEMP_DIR"] = str(settings.home / "tmp" / "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["GRADIO_SSR_MODE"] = "False"
    os.environ["GRADIO_MCP_SERVER"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def child_environment(settings: Settings) -> dict[str, str]:
    """This process's environment, changed so that a child reads exactly these settings."""
    environment = {k: v for k, v in os.environ.items() if not k.upper().startswith("AVATAR_")}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if value is not None:
            secret = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            environment[f"AVATAR_{name.upper()}"] = secret
    return environment
