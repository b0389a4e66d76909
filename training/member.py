"""One person of a run with their files: what is asked, what is told, where they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from training.person import Person
from training.prior import ClassSet
from training.progress import Control, Progress
from training.request import Phase, Preview, TrainingRequest


@dataclass
class Member:
    """One person of a run with their files."""

    request: TrainingRequest
    progress: Progress
    control: Control
    person: Person | None = None
    classes: ClassSet | None = None
    held_out: tuple[Image.Image, ...] = ()
    training: tuple[Image.Image, ...] = ()
    previews: list[Preview] = field(default_factory=list)
    seconds: float = 0.0
    ended: bool = False

    @property
    def folder(self) -> Path:
        return self.request.run_folder

    @property
    def fingerprint(self) -> str:
        """What makes two requests the same training: not where files lie, nor what is previewed."""
        facts = self.request.model_dump(
            mode="json",
            exclude={
                "run_folder", "class_folder", "device", "preview_prompts", "photos", "embedder",
                "compare_s",
            },
        )  # fmt: skip
        del facts["base"]["folder"], facts["base"]["revision"]
        facts["photos"] = [[photo.path.name, photo.crop] for photo in self.request.photos]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def end(self, phase: Phase, failure: str | None) -> None:
        """No more steps for this person, who is told why."""
        self.ended = True
        if self.person is not None and phase is not Phase.DONE:
            self.person.failure = failure or phase.value
        self.progress.end(phase, failure)
