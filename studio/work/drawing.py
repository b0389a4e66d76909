"""The steps of a drawing run: each picture is judged while the next is drawn.

A step may be repeated from its beginning at any time: avatars have ids derived from the run, and
seeds derived from the request, so a repeated step finds what is done and draws the rest the same.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter

from moderation.chain import PendingPictures, PendingPrompt, PromptRequest
from moderation.policy import Action
from moderation.verdict import Decision, Stage, Verdict
from prompts.compose import compose, person_phrase
from serving.errors import AdapterRefused, ArchiveRefused, EngineError, RequestRefused
from serving.request import GenerationRequest, Rendered
from studio.errors import NotAllowed, UserError
from studio.parts import Parts
from studio.pictures.delivery import Delivery, Drawn, slot_id
from studio.records import Avatar, PersonalModel, Run, Use, new_id, now
from studio.work.devices import GaveUp
from studio.work.engines import Engines
from studio.work.learning import CLASS_NOUN, Ended
from studio.work.patience import Patient
from studio.work.shift import Shift
from studio.work.slots import SEED_LIMIT, Outcome, Slot, Steps, Tally

LOOK_EVERY_S = 0.4
BLUR_SHARE = 12
"""A blurred copy is blurred by a twelfth of its short side: shapes stay, nothing in them does."""

DRAWN = "Your avatars are being drawn."

log = logging.getLogger(__name__)


class TextRefused(UserError):
    """What a person wrote is not drawn, or could not be checked."""


class Drawing:
    """The work of drawing runs in one worker."""

    def __init__(self, parts: Parts, shift: Shift, engines: Engines) -> None:
        self._parts = parts
        self._shift = shift
        self._engines = engines
        self._runs = Patient(parts.catalog, shift)
        self._delivery = Delivery(self._runs, parts.storage)

    def draw(self, run_id: str) -> None:
        """Draw every avatar of the run that is not there yet, and end the run.

        Holds the device's lease. Raises `UserError` when the text is refused or nothing could be
        shown, `Ended` when the run is over already.
        """
        run = self._open(run_id)
        model = self._runs.get(PersonalModel, run.request["model_id"])
        if model is None:
            raise UserError("The model was deleted before it could draw.", "Choose another one.")
        try:
            self._draw_run(run, model)
        except TextRefused as fault:
            # Also what only a remote check refuses brings the rest after many tries nearer.
            if fault.code == "refused":
                self._runs.add(Use(new_id(), run.user_id, "blocked-prompt", 1, now()))
            raise

    # inside

    def _draw_run(self, run: Run, model: PersonalModel) -> None:
        run_id = run.id
        tally = Tally()
        prompts, slots = self._slots(run, model, tally)
        for slot in slots:
            tally.wants(slot, self._runs.get(Avatar, slot_id(run_id, slot.name)))
        self._tell(run_id, "waiting", "Waiting for this machine to be free.", tally)
        try:
            device = self._parts.drawing_device(run_id)
            needed = self._engines.needed_gb(model.base_id)
            with device.drawing(stop=lambda: self._stopping(run_id), needs_gb=needed):
                self._tell(run_id, "drawing", DRAWN, tally)
                try:
                    self._draw_all(run, model, prompts, tally)
                finally:
                    self._engines.rest()
        except GaveUp:
            self._open(run_id)
            self._shift.park()
        except EngineError as fault:
            raise UserError(str(fault), code=_engine_code(fault)) from fault
        self._finish(run_id, tally)

    def _open(self, run_id: str) -> Run:
        run = self._runs.get(Run, run_id)
        if run is None or run.over:
            raise Ended
        return run

    def _stopping(self, run_id: str) -> bool:
        run = self._runs.get(Run, run_id)
        return self._shift.ending or run is None or run.over

    def _tell(self, run_id: str, state: str, message: str, tally: Tally) -> None:
        told = self._runs.update_run(run_id, state=state, message=message, detail=tally.detail())
        if not told:
            raise Ended

    def _slots(
        self, run: Run, model: PersonalModel, tally: Tally
    ) -> tuple[list[PendingPrompt], list[Slot]]:
        """What to draw, with every text judged by the local checks; remote ones may go on."""
        asked = run.request
        pending, slots = [], []
        for style in (self._parts.styles.get(style_id) for style_id in asked["style_ids"]):
            shown = compose(style, person="person", family=model.family)
            began = time.monotonic()
            prompt = self._parts.moderation.begin_prompt(
                PromptRequest(asked["text"], style.id, shown.text)
            )
            tally.spent("text", time.monotonic() - began)
            if not prompt.local.verdict.allowed:
                raise _refused_text(prompt.local.verdict)
            pending.append(prompt)
            composed = compose(
                style,
                person=person_phrase(model.token, CLASS_NOUN),
                family=model.family,
                text=prompt.local.text,
                negative=prompt.local.negative,
            )
            slots += [
                Slot(
                    f"{style.id}-{number}",
                    style,
                    composed.text,
                    composed.negative,
                    (asked["seed"] + number) % SEED_LIMIT,
                )
                for number in range(asked["count"])
            ]
        return pending, slots

    def _draw_all(
        self, run: Run, model: PersonalModel, prompts: list[PendingPrompt], tally: Tally
    ) -> None:
        """Rounds of drawing: what a safe prompt drew unsafely comes again with another seed."""
        engine = self._engines.get(model.base_id)
        folder = self._model_folder(model)
        watch = _Watch(lambda: self._stopping(run.id), prompts)
        with ThreadPoolExecutor(1, thread_name_prefix="delivery") as judge:
            while tally.open:
                slots = {slot.name: slot for slot in tally.open}
                steps = Steps(self._runs, run.id, len(slots))
                outcomes: list[Future[Outcome]] = []
                for rendered in engine.generate(
                    [_request(run, slot, model, folder) for slot in slots.values()],
                    on_step=steps.done,
                    cancelled=lambda request_id: self._dropped(watch, request_id),
                    on_wait=lambda words: self._waits(run.id, words),
                ):
                    told = self._runs.get(Run, run.id)
                    if told is not None and told.state == "waiting":
                        self._tell(run.id, "drawing", DRAWN, tally)
                    tally.spent("draw", rendered.seconds)
                    # The check starts now, beside the drawing of the next picture.
                    check = self._parts.moderation.begin_pictures([rendered.picture], Stage.PICTURE)
                    slot = replace(
                        slots[rendered.id],
                        seconds=slots[rendered.id].seconds + rendered.seconds,
                    )
                    outcomes.append(
                        judge.submit(
                            self._settle, run, model, slot, rendered, check, prompts, tally
                        )
                    )
                settled = [outcome.result() for outcome in outcomes]
                _check_texts(prompts)
                if watch.stopped():
                    raise GaveUp
                tally.next_round(settled)

    def _dropped(self, watch: _Watch, request_id: str) -> bool:
        """Whether to drop a request. Raises `GaveUp` at the end of the shift: what a remote engine
        has in line stays there then, and is found again.
        """
        if self._shift.ending:
            raise GaveUp
        return watch.stopped(request_id)

    def _waits(self, run_id: str, words: str) -> None:
        """What a remote engine waits for, until its first picture."""
        self._runs.update_run(run_id, state="waiting", message=words)

    def _settle(
        self,
        run: Run,
        model: PersonalModel,
        slot: Slot,
        rendered: Rendered,
        check: PendingPictures,
        prompts: list[PendingPrompt],
        tally: Tally,
    ) -> Outcome:
        """Wait for the verdicts on the text and the picture, then deliver or refuse."""
        began = time.monotonic()
        _check_texts(prompts)
        tally.spent("text", time.monotonic() - began)
        (judgement,) = check.result()
        action, verdict = judgement.action, judgement.verdict
        tally.spent("pictures", max((f.ms for f in verdict.findings), default=0.0) / 1000)
        again = judgement.retry and slot.attempt < self._parts.settings.picture_attempts
        if again or action not in (Action.SHOW, Action.BLUR):
            unchecked = verdict.decision is Decision.UNAVAILABLE
            outcome = Outcome(slot, "", _why(verdict), unchecked, again)
        else:
            picture = rendered.picture if action is Action.SHOW else blurred(rendered.picture)
            drawn = Drawn(
                picture=picture,
                style_id=slot.style.id,
                enlarge=slot.style.enlarge,
                shape=run.request["shape"],
                prompt=slot.prompt,
                seed=slot.seed,
                model_id=model.id,
                verdict=_told(verdict, action),
                attempts=slot.attempt,
                seconds=slot.seconds,
            )
            began = time.monotonic()
            try:
                outcome = Outcome(slot, self._delivery.avatar(run, slot.name, drawn).id)
            except NotAllowed:  # the person was erased meanwhile
                raise Ended from None
            tally.spent("store", time.monotonic() - began)
        tally.settle(outcome)
        if not self._runs.update_run(run.id, detail=tally.detail()):
            raise Ended
        return outcome

    def _model_folder(self, model: PersonalModel) -> Path:
        """The model's files in one folder of this machine."""
        keys = list(self._parts.storage.list(model.key))
        if not keys:
            raise UserError("The files of this model are gone.", "Train it again.")
        paths = {key.removeprefix(f"{model.key}/"): self._parts.storage.fetch(key) for key in keys}
        roots = {path.parents[name.count("/")] for name, path in paths.items()}
        if len(roots) == 1:
            return roots.pop()
        folder = self._parts.settings.home / "cache" / "models" / model.id
        for name, path in paths.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(path, partial)
            partial.replace(target)
        return folder

    def _finish(self, run_id: str, tally: Tally) -> None:
        detail = tally.detail()
        if not detail["avatar_ids"]:
            if tally.unchecked:
                raise UserError(
                    "The pictures could not be checked, so none is shown.",
                    "Try again in a minute.",
                    code="unchecked",
                )
            raise UserError(
                "None of the pictures passed our checks, so none is shown.",
                "Choose another style or describe the avatar differently.",
                code="refused",
            )
        count = len(detail["avatar_ids"])
        message = f"{count} avatars are ready." if count > 1 else "Your avatar is ready."
        if detail["refused"]:
            message += f" {len(detail['refused'])} did not pass our checks."
        self._runs.update_run(
            run_id, state="done", message=message, seconds_left=None, detail=detail
        )


class _Watch:
    """Says whether to stop drawing, asking the records a few times a second only."""

    def __init__(self, over: Callable[[], bool], prompts: Sequence[PendingPrompt]) -> None:
        self._over = over
        self._prompts = prompts
        self._looked = 0.0
        self._stopped = False

    def stopped(self, _request_id: str = "") -> bool:
        if any(prompt.refused() for prompt in self._prompts):
            return True
        moment = time.monotonic()
        if not self._stopped and (not _request_id or moment - self._looked > LOOK_EVERY_S):
            self._looked = moment
            self._stopped = self._over()
        return self._stopped


def blurred(picture: Image.Image) -> Image.Image:
    """A copy in which nothing can be made out."""
    return picture.filter(ImageFilter.GaussianBlur(max(2, min(picture.size) // BLUR_SHARE)))


def _request(run: Run, slot: Slot, model: PersonalModel, folder: Path) -> GenerationRequest:
    return GenerationRequest(
        id=slot.name,
        prompt=slot.prompt,
        negative=slot.negative,
        adapter=folder,
        seed=slot.seed,
        quality=run.request["quality"],
        guidance=slot.style.guidance,
        strength=run.request["strength"],
        owner=run.user_id,
        target=f"{model.user_id}/{model.person_id}/{model.id}.tar.gz",
    )


def _engine_code(fault: EngineError) -> str:
    """`invalid` for what asking again will not mend, `engine` for what may be over by then."""
    lasting = (AdapterRefused, ArchiveRefused, RequestRefused)
    return "invalid" if isinstance(fault, lasting) else "engine"


def _check_texts(prompts: Sequence[PendingPrompt]) -> None:
    """Wait for every check of the texts. Raises `UserError` when one does not allow."""
    for prompt in prompts:
        verdict = prompt.result().verdict
        if not verdict.allowed:
            raise _refused_text(verdict)


def _refused_text(verdict: Verdict) -> TextRefused:
    if verdict.decision is Decision.UNAVAILABLE:
        return TextRefused(
            "We could not check this text, so nothing was drawn.",
            "Try again in a minute.",
            code="unchecked",
        )
    first = verdict.reasons[0] if verdict.reasons else None
    return TextRefused(
        first.message if first else "This text is not allowed here.",
        first.fix if first else "Describe the avatar differently.",
        code="refused",
    )


def _why(verdict: Verdict) -> str:
    if verdict.reasons:
        return verdict.reasons[0].message
    if verdict.decision is Decision.UNAVAILABLE:
        return "We could not check this picture, so it is not shown."
    return "This picture did not pass our checks."


def _told(verdict: Verdict, action: Action) -> dict[str, Any]:
    """The verdict as plain JSON, for the record of the avatar."""
    return {
        "decision": verdict.decision.value,
        "action": action.value,
        "findings": [asdict(finding) for finding in verdict.findings],
        "reasons": [asdict(reason) for reason in verdict.reasons],
    }
