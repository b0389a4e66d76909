"""The chain: every text, photo and picture goes through here and comes out with a verdict.

Builds the layers a host's configuration asks for, runs them side by side within bounded time, and
fails closed. Knows no user, no storage and no page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from PIL.Image import Image

from moderation.photos import PhotoJudgement
from moderation.policy import Action
from moderation.verdict import Stage, Verdict

Backend = Literal["local", "aws"]
Preset = Literal["general", "family", "brand-safe"]


@dataclass(frozen=True)
class ModerationConfig:
    """What a host chose. Defaults need no account and no download.

    `endpoint_url` replaces AWS's own address (tests, private links). `safety_checker` is the folder
    of a base model that ships a safety checker, `classifier` the folder of a downloaded picture
    classifier; the best available picture check is chosen from what is there.
    """

    backend: Backend = "local"
    preset: Preset = "general"
    policy_file: Path | None = None
    rules_folder: Path | None = None
    strict_faces: bool = False
    region: str = "us-east-1"
    endpoint_url: str | None = None
    comprehend_classifier_arn: str | None = None
    recognize_celebrities: bool = False
    safety_checker: Path | None = None
    classifier: Path | None = None
    check_timeout_s: float = 20.0


@dataclass(frozen=True)
class PromptRequest:
    """What is judged before anything is drawn. `style_text` comes from the catalogue by id.

    `language` is what the page believes the person writes in (BCP 47); it is never trusted alone.
    """

    user_text: str
    style_id: str = ""
    style_text: str = ""
    user_negative: str = ""
    language: str = "en"


@dataclass(frozen=True)
class PromptJudgement:
    """The verdict, and the cleaned user text and negative text: only these may reach an encoder."""

    verdict: Verdict
    text: str
    negative: str


@dataclass(frozen=True)
class PictureJudgement:
    """One picture's verdict and what policy makes of it. Only `show` lets the original out."""

    verdict: Verdict
    action: Action
    retry: bool


class PendingPrompt(Protocol):
    """A prompt whose local checks are done; remote ones may still be on their way."""

    local: PromptJudgement

    def refused(self) -> bool:
        """True as soon as any finished check does not allow: stop drawing. Never waits."""
        ...

    def result(self) -> PromptJudgement:
        """Wait, within bounded time, for every check."""
        ...


class PendingPictures(Protocol):
    """Pictures that are being judged while the next ones are drawn."""

    def result(self) -> list[PictureJudgement]:
        """Wait, within bounded time, for the judgements, one for each picture in order."""
        ...


class Moderation(Protocol):
    """The public surface of this room."""

    picture_check_is_basic: bool

    def clean(self, text: str) -> str: ...
    def prompt(self, request: PromptRequest) -> PromptJudgement: ...
    def begin_prompt(self, request: PromptRequest) -> PendingPrompt: ...
    def pictures(self, pictures: Sequence[Image], stage: Stage) -> list[PictureJudgement]: ...
    def begin_pictures(self, pictures: Sequence[Image], stage: Stage) -> PendingPictures: ...
    def photo(self, picture: Image) -> PhotoJudgement: ...
    def photo_set(self, pictures: Sequence[Image]) -> list[Verdict]: ...
    def capabilities(self) -> dict[str, str]: ...


# The seam for a backend of another kind, one file each, one row each in the table of the chain:
#
#   rekognition.py   picture_check(config, policy, stage) -> PictureCheck
#                    photo_check(config, policy) -> photos.PhotoCheck
#   comprehend.py    toxic_content_check(config, policy, stage) -> TextCheck
#                    classifier_check(config, policy, stage) -> TextCheck | None (no ARN)
#
# with config: ModerationConfig, policy: Policy, stage: Stage. They build `Label`s (policy.py, score
# in 0..1) and return `policy.judge(labels, stage, backend, version, ms)`; a fault may be raised or
# returned as `policy.unavailable(stage, backend, version, ms)`.


def build(config: ModerationConfig) -> Moderation:
    """Build the chain. Raises PolicyError or RulesError when a file it needs is wrong."""
    raise NotImplementedError
