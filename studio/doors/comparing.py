"""Two drawings of the same wishes beside each other: another model or strength, the same seeds."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from studio.actions import Quality, Shape, Side
from studio.doors.models import Models
from studio.doors.runs import MAX_SEED
from studio.errors import UserError
from studio.records import Run, new_id


class Comparing(Models):
    """The door for comparisons."""

    def compare(
        self,
        user_id: str,
        model_id: str,
        *,
        strength: float,
        beside: Side,
        style_ids: Sequence[str],
        text: str = "",
        count: int = 4,
        quality: Quality = "balanced",
        shape: Shape = "square",
        seed: int | None = None,
    ) -> tuple[Run, Run]:
        """Draw the same wishes twice at the same seeds: with the model, and as `beside` says.

        Both runs name each other in `request["beside"]`. Nothing begins unless both may.
        """
        chosen = secrets.randbelow(MAX_SEED) if seed is None else seed
        sides = (Side(model_id, strength), beside)
        wishes = [
            self._wishes(
                user_id, side.model_id, style_ids=style_ids, text=text, count=count,
                quality=quality, shape=shape, seed=chosen, strength=side.strength,
            )
            for side in sides
        ]  # fmt: skip
        people = {model.person_id for model, _ in wishes}
        if len(people) > 1:
            raise UserError(
                "These models are of two people.", "Compare two models of the same person."
            )
        if sides[0] == sides[1]:
            raise UserError(
                "Both sides are the same model at the same strength.",
                "Choose another model or another strength for one of them.",
            )
        ids = (new_id(), new_id())
        self._check_pictures(user_id, sum(request.total for _, request in wishes))
        first, second = (
            self._begin(
                "generate", user_id, model.person_id, request.total,
                {**request.asked, "beside": other}, run_id=own,
            )
            for (model, request), own, other in zip(wishes, ids, reversed(ids), strict=True)
        )  # fmt: skip
        return first, second
