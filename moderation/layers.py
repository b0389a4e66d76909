"""The layers that judge, as a host's configuration chooses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moderation.photos import LocalPhotoCheck, PhotoCheck
from moderation.pictures import PictureChoice, choose, local_check
from moderation.policy import Policy
from moderation.rules import Rules
from moderation.texts import ReadabilityCheck, RulesCheck
from moderation.toxicity import ToxicityCheck, load
from moderation.verdict import PictureCheck, Stage, TextCheck

Backend = Literal["local", "aws"]
Preset = Literal["general", "family", "brand-safe"]

TEXT_STAGES = (Stage.PROMPT, Stage.NEGATIVE_PROMPT)
PICTURE_STAGES = (Stage.PHOTO, Stage.CLASS_PICTURE, Stage.PREVIEW, Stage.PICTURE)


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
class Layers:
    """Everything that judges. Every layer of a stage is mandatory: each must answer.

    `local` text checks run at once, `remote` ones in threads; both by stage.
    """

    local: Mapping[Stage, Sequence[TextCheck]]
    remote: Mapping[Stage, Sequence[TextCheck]]
    pictures: Mapping[Stage, Sequence[PictureCheck]]
    photos: PhotoCheck
    picture_choice: PictureChoice


def chosen(config: ModerationConfig, policy: Policy) -> Layers:
    """The layers of the configured backend.

    Raises RulesError or ClassifierError when a file is wrong.
    """
    return _BACKENDS[config.backend](config, policy)


def _local_texts(config: ModerationConfig, policy: Policy) -> dict[Stage, Sequence[TextCheck]]:
    rules, classifier = Rules(config.rules_folder), load()
    return {
        stage: (
            RulesCheck(rules, policy, stage),
            ReadabilityCheck(policy, stage),
            # Naming harm in a negative field asks for less of it; only its language is judged.
            *((ToxicityCheck(classifier, policy, stage),) if stage is Stage.PROMPT else ()),
        )
        for stage in TEXT_STAGES
    }


def _local(config: ModerationConfig, policy: Policy) -> Layers:
    choice = choose(config.safety_checker, config.classifier)
    pictures = {
        stage: (local_check(choice, policy, stage, config.safety_checker, config.classifier),)
        for stage in PICTURE_STAGES
    }
    return Layers(_local_texts(config, policy), {}, pictures, LocalPhotoCheck(), choice)


def _aws(config: ModerationConfig, policy: Policy) -> Layers:
    from moderation import comprehend, rekognition

    remote: dict[Stage, Sequence[TextCheck]] = {}
    for stage in TEXT_STAGES:
        own = comprehend.classifier_check(config, policy, stage)
        toxic = comprehend.toxic_content_check(config, policy, stage)
        remote[stage] = (toxic,) if own is None else (toxic, own)
    pictures = {
        stage: (rekognition.picture_check(config, policy, stage),) for stage in PICTURE_STAGES
    }
    choice = PictureChoice("rekognition", f"the backend is AWS, region {config.region}")
    photos = rekognition.photo_check(config, policy)
    return Layers(_local_texts(config, policy), remote, pictures, photos, choice)


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

_BACKENDS: dict[str, Callable[[ModerationConfig, Policy], Layers]] = {
    "local": _local,
    "aws": _aws,
}
