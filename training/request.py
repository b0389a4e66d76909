"""What a trainer is asked for, what it tells while it learns, and what it hands back.

The same request starts the local process, a SageMaker job and a JumpStart job.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

REQUEST_VERSION = 1

Family = Literal["starter", "sd15", "sd21", "sdxl"]
Quality = Literal["fast", "balanced", "best"]


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseRef(_Shape):
    """A base model by id and content, and where its diffusers folder lies on this machine."""

    id: str
    family: Family
    folder: Path
    sha256: str = Field(description="hash of the base's weights as `diffusion.bases` computes it")
    revision: str = Field(
        default="", description="the commit it was fetched at, where it came from a hub"
    )


class InstancePhoto(_Shape):
    """One photo of the person: a re-encoded RGB file and the crop to learn from.

    `crop` is (left, top, right, bottom) as shares of width and height in 0..1; None means whole.
    """

    path: Path
    crop: tuple[float, float, float, float] | None = None


class TrainingRequest(_Shape):
    """Everything a training needs; nothing in it names a user.

    `token` is the word that stands for the person ("sks"), `class_noun` what they are ("person").
    `class_folder` holds judged class pictures with their captions (`training.prior` writes it);
    None lets the trainer draw them itself. `steps`, `rank`, `learning_rate` None means the recipe
    decides. Everything the trainer writes lies under `run_folder`. `embedder` is the folder of a
    CLIP or DINO model that ranks candidates; with `compare_s` above 0 the run asks whoever started
    it to compare faces, for so many seconds (`training.comparison`).
    """

    version: Literal[1] = 1
    run_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    base: BaseRef
    photos: tuple[InstancePhoto, ...]
    run_folder: Path
    class_folder: Path | None = None
    class_noun: str = "person"
    token: str = "sks"
    method: Literal["lora", "full"] = "lora"
    quality: Quality = "balanced"
    steps: int | None = None
    rank: int | None = None
    learning_rate: float | None = None
    resolution: int | None = None
    prior_weight: float = 1.0
    train_text_encoder: bool = False
    preview_prompts: tuple[str, ...] = ()
    preview_every: int | None = None
    seed: int = 0
    device: str = "auto"
    embedder: Path | None = None
    compare_s: float = Field(default=0.0, ge=0, le=600)


class Phase(StrEnum):
    """Where a run is. Terminal phases: done, failed, cancelled."""

    WAITING = "waiting"
    PREPARING = "preparing"
    LEARNING = "learning"
    CHECKING = "checking"
    SAVING = "saving"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in (Phase.DONE, Phase.FAILED, Phase.CANCELLED)


class Preview(_Shape):
    """A candidate picture drawn at a step. The trainer does not judge it; the studio must."""

    step: int
    prompt: str
    path: Path


class TrainingStatus(_Shape):
    """A snapshot of a run: `failure` is one sentence for people, `note` says what was changed."""

    phase: Phase
    step: int = 0
    total: int = 0
    seconds_left: float | None = None
    loss: float | None = None
    previews: tuple[Preview, ...] = ()
    failure: str | None = None
    note: str | None = None


class TrainedModel(_Shape):
    """The result folder (weights, token, model card) and what is known about it.

    `report` holds plain JSON: `likeness`, `variety`, `overtrained`, `chosen_step`, scores.
    """

    folder: Path
    base_id: str
    base_sha256: str
    family: Family
    token: str
    steps: int
    seconds: float
    adapter_bytes: int
    report: dict[str, Any] = {}


class Trainer(Protocol):
    """A place where a run happens. Long work is a handle: one string that any process can poll."""

    def start(self, request: TrainingRequest) -> str:
        """Start (idempotent per run id: a running or finished run is found again) -> handle."""
        ...

    def poll(self, handle: str) -> TrainingStatus: ...

    def cancel(self, handle: str) -> None: ...

    def collect(self, handle: str, into: Path) -> TrainedModel: ...

    def discard(self, handle: str) -> None:
        """Remove every trace of the run, remote ones too."""
        ...
