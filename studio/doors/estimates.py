"""What a training would take, told before it begins and learned from those before it."""

from __future__ import annotations

import statistics

from diffusion.bases import Base
from studio.actions import Estimate, Quality
from studio.cloud.costs import training as training_cost
from studio.doors.owned import one_of
from studio.doors.photos import Photos
from studio.records import PersonalModel, Photo, PhotoSet
from training.hub import TABLE as JUMPSTART
from training.recipe import plan
from training.request import BaseRef, InstancePhoto, TrainingRequest

QUALITIES = ("fast", "balanced", "best")
STEP_SECONDS = {"starter": 0.35, "sd15": 0.9, "sd21": 0.9, "sdxl": 2.5}
"""Seconds a training step takes before this machine has trained any: starter on two CPU cores, the
others on one data-centre GPU with rests for previews. Replaced by what was measured."""


class Estimates(Photos):
    """Doors about what is to come."""

    def estimate(
        self, user_id: str, set_id: str, quality: Quality = "balanced", base_id: str = ""
    ) -> Estimate:
        """What training this set now would take, on this base or the best one here."""
        self._mine(PhotoSet, user_id, set_id)
        one_of("quality", quality, QUALITIES)
        base, reason = self._base(base_id)
        accepted = sum(photo.accepted for photo in self.catalog.find(Photo, set_id=set_id))
        photos = max(accepted, self.settings.min_photos)
        steps = self.settings.steps or self._steps(base, photos, quality)
        warning = ""
        if base.family == "starter":
            warning = "This base learns hair, skin and colours of your photos, not your face."
        remote = self.settings.trainer != "local"
        at_aws = training_cost(self.settings, steps, base.family) if remote else None
        return Estimate(
            steps=steps,
            seconds=at_aws.seconds if at_aws else steps * self._step_seconds(base),
            ahead=self.workflows.ahead_of_next("train", user_id),
            base_id=base.id,
            base_name=base.name,
            reason=reason,
            warning=warning,
            dollars=at_aws.dollars if at_aws else None,
            cost=at_aws.how if at_aws else "",
        )

    def _steps(self, base: Base, photos: int, quality: Quality) -> int:
        """Steps of the recipe that a training of so many photos will follow."""
        if self.settings.trainer == "jumpstart":
            return int(JUMPSTART["usual_steps"])
        asked = TrainingRequest(
            run_id="estimate",
            base=BaseRef(id=base.id, family=base.family, folder=base.folder, sha256=""),
            photos=(InstancePhoto(path=base.folder),) * photos,
            run_folder=base.folder,
            quality=quality,
        )
        return plan(asked).steps

    def _step_seconds(self, base: Base) -> float:
        past = self.catalog.find(PersonalModel, base_id=base.id, newest_first=True, limit=5)
        measured = [model.seconds / model.steps for model in past if model.steps > 0]
        return statistics.median(measured) if measured else STEP_SECONDS[base.family]
