"""Training and drawing as a person asks for them: checked, recorded, handed to the workflows."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from moderation.chain import PromptRequest
from moderation.verdict import Decision, Verdict
from prompts.compose import compose
from prompts.style import Style
from studio.actions import Quality, Shape
from studio.doors.estimates import QUALITIES, Estimates
from studio.doors.owned import checked_name, known, one_of
from studio.errors import BackendError, UserError
from studio.pictures.sizes import size
from studio.records import Person, PersonalModel, Photo, PhotoSet, Run, Use, new_id, now

SHAPES = ("square", "portrait", "banner", "circle")
MAX_SEED = 2**31 - 1
MAX_STEPS = 10_000


@dataclass(frozen=True)
class Wishes:
    """What a drawing run was asked for, checked, and how many pictures that is."""

    asked: dict[str, Any]
    total: int


class Runs(Estimates):
    """Doors about long work."""

    def train(
        self,
        user_id: str,
        set_id: str,
        *,
        name: str = "",
        quality: Quality = "balanced",
        base_id: str = "",
        steps: int | None = None,
        seed: int = 0,
    ) -> Run:
        """Begin to train the set's accepted photos. `UserError` says what is still missing."""
        photo_set = self._mine(PhotoSet, user_id, set_id)
        person = self._mine(Person, user_id, photo_set.person_id)
        one_of("quality", quality, QUALITIES)
        _in_range("seed", seed, 0, MAX_SEED)
        if steps is None:
            steps = self.settings.steps or None
        else:
            _in_range("number of steps", steps, 1, MAX_STEPS)
        self._check_set(user_id, set_id)
        base, _ = self._base(base_id)
        if self.restricted and base.family != "starter":
            raise UserError(
                f"This studio may only train the starter, not “{base.name}”.",
                "The host can add a picture check (AVATAR_MODERATION).",
                code="locked",
            )
        accepted = [p for p in self.catalog.find(Photo, set_id=set_id) if p.accepted]
        request = {
            "set_id": set_id,
            "photos": [{"id": photo.id, "sha256": photo.sha256} for photo in accepted],
            "name": checked_name(name) if name.strip() else person.name,
            "quality": quality,
            "base_id": base.id,
            "steps": steps,
            "seed": seed,
        }
        total = steps or self._steps(base, len(accepted), quality)
        return self._begin("train", user_id, person.id, total, request)

    def run(self, user_id: str, run_id: str) -> Run:
        return self._mine(Run, user_id, run_id)

    def runs(self, user_id: str, *, kind: str | None = None, active: bool = False) -> list[Run]:
        """The user's runs, newest first."""
        where: dict[str, Any] = {} if kind is None else {"kind": kind}
        found = self.catalog.find(Run, newest_first=True, user_id=user_id, **where)
        return [run for run in found if not (active and run.over)]

    def cancel(self, user_id: str, run_id: str) -> None:
        """Stop a run. Nothing happens to one that is over."""
        if not self._mine(Run, user_id, run_id).over:
            self.workflows.cancel(run_id)

    def retry(self, user_id: str, run_id: str) -> Run:
        """Ask for the same again, as a new run, after one that failed or was cancelled."""
        run = self._mine(Run, user_id, run_id)
        if run.state not in ("failed", "cancelled"):
            raise UserError(
                "Only a run that failed or was cancelled can be tried again.",
                "This one is finished." if run.over else "This one is still going.",
            )
        asked = run.request
        if run.kind == "train":
            return self.train(
                user_id,
                asked["set_id"],
                name=asked["name"],
                quality=asked["quality"],
                base_id=asked["base_id"],
                steps=asked["steps"],
                seed=asked["seed"],
            )
        # A comparison that is tried again draws its own side only.
        wishes = {k: value for k, value in asked.items() if k not in ("model_id", "beside")}
        return self.generate(user_id, asked["model_id"], **wishes)

    def place_in_line(self, user_id: str, run_id: str) -> int:
        """Runs ahead of this one; 0 when it is running or next."""
        self._mine(Run, user_id, run_id)
        return self.workflows.ahead(run_id)

    def generate(
        self,
        user_id: str,
        model_id: str,
        *,
        style_ids: Sequence[str],
        text: str = "",
        count: int = 4,
        quality: Quality = "balanced",
        shape: Shape = "square",
        seed: int | None = None,
        strength: float = 1.0,
        size_id: str = "",
    ) -> Run:
        """Begin to draw `count` avatars in each style. `UserError` says which wish cannot be met.

        Without `seed` one is drawn; the same seed and wishes give the same pictures. `size_id` is
        kept with the run: what its pictures are for, and the size that downloads offer first.
        """
        model, wishes = self._wishes(
            user_id, model_id, style_ids=style_ids, text=text, count=count, quality=quality,
            shape=shape, seed=seed, strength=strength,
        )  # fmt: skip
        asked = wishes.asked | ({"size": size(size_id).id} if size_id else {})
        return self._begin("generate", user_id, model.person_id, wishes.total, asked)

    def _wishes(
        self,
        user_id: str,
        model_id: str,
        *,
        style_ids: Sequence[str],
        text: str,
        count: int,
        quality: Quality,
        shape: Shape,
        seed: int | None,
        strength: float,
    ) -> tuple[PersonalModel, Wishes]:
        """What a drawing run is asked for, after every wish was checked."""
        model = self._mine(PersonalModel, user_id, model_id)
        # An endpoint holds a base of its own, which this machine need not know.
        if self.settings.engine == "local" and not known(self.bases, model.base_id):
            raise UserError(
                f"This model was learned on {model.base_id}, which this studio no longer has.",
                "Train the person again.",
                code="unknown-base",
            )
        styles = self._chosen_styles(model, style_ids)
        one_of("quality", quality, QUALITIES)
        one_of("shape", shape, SHAPES)
        _in_range("number of avatars", count, 1, self.settings.max_count)
        chosen = secrets.randbelow(MAX_SEED) if seed is None else seed
        _in_range("seed", chosen, 0, MAX_SEED)
        _in_range("strength", strength, 0.0, 2.0)
        self._check_text(user_id, model, styles, text)
        request = {
            "model_id": model.id,
            "style_ids": [style.id for style in styles],
            "text": text,
            "count": count,
            "quality": quality,
            "shape": shape,
            "seed": chosen,
            "strength": strength,
        }
        return model, Wishes(request, count * len(styles))

    def _begin(
        self,
        kind: Literal["train", "generate"],
        user_id: str,
        person_id: str,
        total: int,
        request: dict[str, Any],
        run_id: str = "",
    ) -> Run:
        moment = now()
        run = Run(
            id=run_id or new_id(),
            user_id=user_id,
            person_id=person_id,
            kind=kind,
            state="waiting",
            step=0,
            total=total,
            seconds_left=None,
            message="",
            request=request,
            detail={},
            created_at=moment,
            updated_at=moment,
        )
        if kind == "train":
            use = Use(new_id(), user_id, "train", 1, moment)
        else:
            use = Use(new_id(), user_id, "draw", total, moment)
        with self._lock_of(user_id):
            self._check_quota(use)
            self.catalog.add(run, use)
        start = self.workflows.start_train if kind == "train" else self.workflows.start_generate
        try:
            start(run.id, user_id=user_id)
        except Exception as fault:
            self.catalog.update_run(
                run.id, state="failed", message="The studio could not take this on just now."
            )
            raise BackendError(
                f"The workflow store did not take the run: {fault}. Check that its database is "
                "there and that `avatar-studio doctor` is content; then try again."
            ) from fault
        return run

    def _check_quota(self, use: Use) -> None:
        """Raises `UserError` when this act would go over what a user may ask for in a day."""
        if use.kind == "train":
            most, what = self.settings.trainings_per_day, "trainings"
        else:
            most, what = self.settings.avatars_per_day, "avatars"
        since = use.created_at - timedelta(days=1)
        used = self.catalog.used(use.user_id, use.kind, since)
        if most and use.kind == "draw":
            used -= self._not_delivered(use.user_id, since)
        if most and used + use.amount > most:
            raise UserError(
                f"You asked for {used} {what} in the last 24 hours and now for {use.amount}; at "
                f"most {most} are allowed.",
                f"{most - used} are left for now." if used < most else "Come back tomorrow.",
                code="quota",
            )

    def _check_pictures(self, user_id: str, pictures: int) -> None:
        """Raises `UserError` when so many pictures more would go over the day's limit."""
        self._check_quota(Use("", user_id, "draw", pictures, now()))

    def _not_delivered(self, user_id: str, since: datetime) -> int:
        """Pictures asked for since then that nobody got: refused, failed or cancelled."""
        runs = self.catalog.find(Run, user_id=user_id, kind="generate")
        return sum(
            len(run.request["style_ids"]) * int(run.request["count"])
            - len(run.detail.get("avatar_ids", []))
            for run in runs
            if run.over and run.created_at >= since
        )

    def _check_set(self, user_id: str, set_id: str) -> None:
        """Raises `UserError` with the first thing that keeps the set from being trained."""
        status = self.set_status(user_id, set_id)
        fewest, most = self.settings.min_photos, self.settings.max_photos
        if status.missing:
            unsure = (
                f"{status.unsure} more {'waits' if status.unsure == 1 else 'wait'} for your call: "
                "confirm or replace them."
                if status.unsure
                else f"Add {status.missing} more."
            )
            raise UserError(
                f"{status.accepted} photos are accepted; at least {fewest} are needed.",
                unsure,
                code="set-not-ready",
            )
        if status.excess:
            raise UserError(
                f"{status.accepted} photos are accepted; at most {most} can be trained.",
                f"Remove {status.excess} of them.",
                code="set-not-ready",
            )
        if not status.consented:
            raise UserError(
                "Consent does not cover all of these photos yet.",
                "Agree again: new photos are asked for separately.",
                code="no-consent",
            )

    def _chosen_styles(self, model: PersonalModel, style_ids: Sequence[str]) -> list[Style]:
        if not style_ids:
            raise UserError("No style is chosen.", "Choose at least one.")
        chosen = []
        for style_id in dict.fromkeys(style_ids):
            try:
                style = self.style_catalogue.get(style_id)
            except KeyError:
                raise UserError(
                    f"There is no style “{str(style_id)[:60]}”.",
                    "Choose one of: " + ", ".join(s.id for s in self.styles(model.family)) + ".",
                    code="unknown-style",
                ) from None
            if model.family not in style.families:
                raise UserError(
                    f"“{style.name}” cannot be drawn with this model's base ({model.base_id}).",
                    "Choose another style, or train on another base.",
                )
            chosen.append(style)
        return chosen

    def styles(self, family: str) -> list[Style]:
        """The styles that a base of this family can draw."""
        return list(self.style_catalogue.fitting(family))

    def _check_text(
        self, user_id: str, model: PersonalModel, styles: Sequence[Style], text: str
    ) -> None:
        """Refuse early what local checks refuse; the flow judges again before it draws."""
        if len(text) > self.settings.max_prompt:
            raise UserError(
                f"The text has {len(text)} characters; at most {self.settings.max_prompt} are "
                "allowed.",
                "Shorten it: the first words count most.",
            )
        if text.strip() and self.restricted:
            raise UserError(
                "Free text is locked on this studio.",
                "Use the styles; the host can add a picture check (AVATAR_MODERATION).",
                code="locked",
            )
        if text.strip():
            self._check_cooldown(user_id)
        for style in styles:
            composed = compose(style, person="person", family=model.family)
            verdict = self.moderation.first_look(
                PromptRequest(user_text=text, style_id=style.id, style_text=composed.text)
            ).verdict
            if not verdict.allowed:
                raise self._refused_text(user_id, verdict)

    def _check_cooldown(self, user_id: str) -> None:
        """Raises `UserError` for whoever had too many texts refused in a short time."""
        window = timedelta(minutes=self.settings.cooldown_minutes)
        blocked = self.catalog.used(user_id, "blocked-prompt", now() - window)
        if blocked >= self.settings.cooldown_blocks:
            raise UserError(
                f"{blocked} texts were refused in a short time.",
                f"Wait {self.settings.cooldown_minutes:g} minutes, or draw without free text.",
                code="cool-down",
            )

    def _refused_text(self, user_id: str, verdict: Verdict) -> UserError:
        if verdict.decision is Decision.UNAVAILABLE:
            return UserError(
                "We could not check this text, so nothing was drawn.",
                "Try again in a minute.",
                code="unchecked",
            )
        self.catalog.add(Use(new_id(), user_id, "blocked-prompt", 1, now()))
        if verdict.reasons:
            first = verdict.reasons[0]
            return UserError(first.message, first.fix, code="refused")
        return UserError(
            "This text is not allowed here.", "Describe the avatar differently.", code="refused"
        )


def _in_range(what: str, value: Any, low: float, high: float) -> None:
    """Numbers only: whole ones where both limits are whole."""
    kinds: tuple[type, ...] = (int,) if isinstance(low, int) else (int, float)
    whole = isinstance(value, kinds) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise UserError(f"The {what} is {str(value)[:40]}.", f"Choose {low} to {high}.")
