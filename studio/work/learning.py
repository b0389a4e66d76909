"""The steps of a training run. Each may be repeated from its beginning at any time.

A step reads what it needs from the catalog, the storage and the run's working folder; the durable
workflow only remembers which steps are done, and the trainer's handle.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

from moderation.verdict import Decision
from studio.errors import NotAllowed, UserError
from studio.parts import Parts
from studio.pictures.delivery import Delivery
from studio.records import Photo, Run, RunState
from studio.work.classes import ClassPictures
from studio.work.devices import GaveUp, TrainingLease, together
from studio.work.packing import Packing
from studio.work.patience import Patient
from studio.work.previews import Previews
from studio.work.shift import Shift
from training import comparison
from training.errors import TrainingError
from training.progress import write_atomically
from training.request import BaseRef, InstancePhoto, Phase, TrainingRequest, TrainingStatus

POLL_S = 0.5
CANCEL_S = 10.0
COMPARE_S = 60.0  # a run waits so long for faces to be compared, and then chooses without
TOKEN = "sks"
CLASS_NOUN = "person"

_SENTENCES: dict[Phase, str] = {
    Phase.WAITING: "Waiting for the trainer to start.",
    Phase.PREPARING: "Preparing your photos.",
    Phase.LEARNING: "Learning what you look like.",
    Phase.PAUSED: "Paused while an avatar is drawn on this machine.",
    Phase.CHECKING: "Choosing the best version.",
    Phase.SAVING: "Saving your model.",
}

log = logging.getLogger(__name__)


class Ended(Exception):
    """The run is over already (cancelled, or its records are erased): clean up and stop."""


class Learning:
    """The work of training runs in one worker."""

    def __init__(self, parts: Parts, shift: Shift) -> None:
        self._parts = parts
        self._shift = shift
        self._runs = Patient(parts.catalog, shift)
        self._delivery = Delivery(self._runs, parts.storage)
        self._shown: dict[str, tuple[Phase, int, int, str | None]] = {}
        self._packing = Packing(
            self._runs,
            most=parts.settings.aws_pack_people,
            wait_s=parts.settings.aws_pack_seconds,
        )
        self._classes = ClassPictures(parts.settings, parts.moderation, parts.machine.device)

    # the steps, in order

    def stage(self, run_id: str) -> None:
        """Copy the photos that were asked for into the run's working folder and judge the set.

        Raises `UserError` when one of them was removed meanwhile, or shows somebody else.
        """
        run = self._open(run_id)
        self._tell(run_id, "preparing", _SENTENCES[Phase.PREPARING])
        folder = self._copy_photos(run)
        self._judge_set(self._photos(run), folder)

    def learn(self, run_id: str) -> None:
        """Draw class pictures if the base has none yet, then train until the trainer is done.

        Holds the device's lease. Raises `UserError` or `BackendError` when it failed.
        """
        run = self._open(run_id)
        stop = self._stopping(run_id)
        if self._shift.ending:
            self._shift.park()
        pause_file = self._folder(run_id) / "run" / "pause"
        self._tell(run_id, "waiting", "Waiting for this machine to be free.")
        try:
            device = self._parts.training_device(run_id)
            with device.training(pause_file, stop=stop, fits=self._beside(run)) as lease:
                self._tell(run_id, "preparing", _SENTENCES[Phase.PREPARING])
                # Another machine may have staged them, or a power cut may have taken them.
                self._copy_photos(run)
                classes = self._class_pictures(run, stop)
                self._train(run_id, self._request(run, classes), lease)
        except GaveUp:
            self._open(run_id)
            self._shift.park()

    def keep(self, run_id: str) -> None:
        """Collect the result into the storage and record the personal model."""
        run = self._open(run_id)
        if self._parts.trainer.poll(run.detail["handle"]).phase is not Phase.DONE:
            # The result went with the machine that made it: the same request gives the same again.
            log.warning("run %s is learned again: its result is not on this machine", run_id)
            self.learn(run_id)
            run = self._open(run_id)
        self._tell(run_id, "saving", _SENTENCES[Phase.SAVING])
        into = self._folder(run_id) / "model"
        shutil.rmtree(into, ignore_errors=True)
        with _in_words():
            trained = self._parts.trainer.collect(run.detail["handle"], into)
        try:
            model = self._delivery.model(run, trained)
        except NotAllowed:  # the person was erased meanwhile
            raise Ended from None
        result = {"model_id": model.id, "version": model.version, "seconds": trained.seconds}
        finished = self._runs.update_run(
            run_id, state="done", message="Your model is ready.", seconds_left=None, detail=result
        )
        if not finished and self._runs.get_run(run_id).state != "done":
            self._parts.studio.delete_model(run.user_id, model.id)
            raise Ended

    def clean(self, run_id: str) -> None:
        """Erase the run's working files, here and where the trainer keeps any."""
        run = self._runs.get(Run, run_id)
        handle = run.detail.get("handle") if run is not None else None
        if handle:
            self._parts.trainer.discard(handle)
        shutil.rmtree(self._folder(run_id), ignore_errors=True)

    # inside

    def _open(self, run_id: str) -> Run:
        """The run. Raises `Ended` when it is over or its records were erased."""
        run = self._runs.get(Run, run_id)
        if run is None or run.over:
            raise Ended
        return run

    def _stopping(self, run_id: str) -> Callable[[], bool]:
        """A check, cheap enough for every poll, whether to stop working on the run."""

        def stopping() -> bool:
            run = self._runs.get(Run, run_id)
            return self._shift.ending or run is None or run.over

        return stopping

    def _beside(self, run: Run) -> Callable[[float], bool]:
        """Whether something that needs so many GB has room beside this run's trainer."""
        memory_gb = self._parts.machine.memory_gb
        ours = self._parts.bases.get(run.request["base_id"]).memory_gb
        return lambda needed_gb: together(memory_gb, ours, needed_gb)

    def _folder(self, run_id: str) -> Path:
        return self._parts.work_folder(run_id)

    def _tell(
        self, run_id: str, state: RunState, message: str, step: int = 0, total: int | None = None
    ) -> None:
        changes: dict[str, Any] = {"total": total} if total else {}
        told = self._runs.update_run(
            run_id, state=state, message=message, step=step, seconds_left=None, **changes
        )
        if not told:
            raise Ended

    def _photos(self, run: Run) -> list[Photo]:
        """The photos the run was asked to learn from, exactly as consent covered them."""
        asked = {item["id"]: item["sha256"] for item in run.request["photos"]}
        found = self._runs.find(Photo, set_id=run.request["set_id"], user_id=run.user_id)
        photos = [photo for photo in found if asked.get(photo.id) == photo.sha256]
        if len(photos) != len(asked):
            raise UserError(
                f"{len(asked) - len(photos)} of the {len(asked)} photos were removed before they "
                "could be learned from.",
                "Start the training again with the photos that are there now.",
            )
        return photos

    def _copy_photos(self, run: Run) -> Path:
        """The run's photos in its working folder, each exactly as it was accepted; the folder."""
        folder = self._folder(run.id) / "photos"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for photo in self._photos(run):
            target = folder / f"{photo.id}.jpg"
            if target.is_file() and _sha256(target.read_bytes()) == photo.sha256:
                continue
            content = b""
            with suppress(KeyError):
                content = self._parts.storage.get(photo.key)
            if _sha256(content) != photo.sha256:
                raise UserError(
                    f"The stored file of “{photo.filename}” is damaged.",
                    "Remove this photo, add it again, then train again.",
                    code="damaged",
                )
            write_atomically(target, content)
        return folder

    def _judge_set(self, photos: list[Photo], folder: Path) -> None:
        """Whether all photos show one person, where the moderation backend can tell."""
        pictures = _opened([folder / f"{photo.id}.jpg" for photo in photos])
        verdicts = self._parts.moderation.photo_set(pictures)
        if any(verdict.decision is Decision.UNAVAILABLE for verdict in verdicts):
            raise UserError(
                "The photos could not be compared with one another, so nothing was trained.",
                "Try again in a minute.",
                code="unchecked",
            )
        others = [
            photo.filename
            for photo, verdict in zip(photos, verdicts, strict=True)
            if not verdict.allowed
        ]
        if others:
            raise UserError(
                f"{len(others)} of the {len(photos)} photos may show somebody else: "
                f"{', '.join(others)}.",
                "Remove or replace them, then train again.",
                code="refused",
            )

    def _class_pictures(self, run: Run, stop: Callable[[], bool]) -> Path | None:
        base = self._parts.bases.get(run.request["base_id"])
        sha256 = self._parts.bases.sha256(base.id)
        return self._classes.ready(
            base,
            sha256,
            run.request["quality"],
            CLASS_NOUN,
            tell=lambda words, done, total: self._tell(run.id, "preparing", words),
            stop=stop,
        )

    def _request(self, run: Run, class_folder: Path | None) -> TrainingRequest:
        base = self._parts.bases.get(run.request["base_id"])
        folder = self._folder(run.id)
        photos = tuple(
            InstancePhoto(path=folder / "photos" / f"{photo.id}.jpg", crop=photo.crop)
            for photo in self._photos(run)
        )
        return TrainingRequest(
            run_id=run.id,
            base=BaseRef(
                id=base.id,
                family=base.family,
                folder=base.folder,
                sha256=self._parts.bases.sha256(base.id),
                revision=base.revision,
            ),
            photos=photos,
            run_folder=folder / "run",
            class_folder=class_folder,
            class_noun=CLASS_NOUN,
            token=TOKEN,
            quality=run.request["quality"],
            steps=run.request["steps"],
            seed=run.request["seed"],
            device=self._parts.machine.device,
            **self._ranking(),
        )

    def _ranking(self) -> dict[str, Any]:
        """How a trainer of this machine ranks its candidates beyond colours: by the host's image
        model, or by asking this worker, where the moderation backend can compare faces."""
        settings = self._parts.settings
        if settings.trainer != "local":
            return {}
        asks = self._parts.moderation.compares_faces
        model = settings.embedder.absolute() if settings.embedder else None
        return {"embedder": model, "compare_s": COMPARE_S if asks else 0.0}

    def _alike(self, photos: Sequence[Path], drawn: Sequence[Path]) -> float | None:
        """How sure it is that a candidate's pictures show the person of the photos."""
        return self._parts.moderation.likeness(_opened(photos), _opened(drawn))

    def _train(self, run_id: str, request: TrainingRequest, lease: TrainingLease) -> None:
        """Start the trainer or find it again, and follow it to its end.

        The trainer itself continues a process that died. Raises `UserError` with the trainer's
        own sentence when the training failed.
        """
        trainer, stop = self._parts.trainer, self._stopping(run_id)
        with _in_words():
            handle = self._begun(run_id) or self._packing.start(trainer, request, stop)
        self._runs.update_run(run_id, detail={"handle": handle})
        with Previews(self._parts, self._runs, run_id) as previews:
            while True:
                if stop():
                    self._halt(handle)
                status = trainer.poll(handle)
                lease.share(paused=status.phase is Phase.PAUSED)
                previews.judge(status.previews)
                comparison.answer(request.run_folder, self._alike)
                if status.phase is Phase.DONE:
                    # What was waited for on the way is no news any more; what was changed is.
                    self._runs.update_run(run_id, detail={"note": status.note or ""})
                    return
                if status.phase.terminal:
                    raise UserError(status.failure or "The training was ended.", code="failed")
                self._show(run_id, status)
                time.sleep(POLL_S)

    def _begun(self, run_id: str) -> str:
        """The handle of a training that goes on elsewhere, whether or not it answers now."""
        remote = self._parts.settings.trainer != "local"
        return str(self._open(run_id).detail.get("handle", "")) if remote else ""

    def _halt(self, handle: str) -> None:
        """End the trainer of a cancelled run; at the end of the shift leave it to be continued."""
        if self._shift.ending:
            self._shift.park()
        trainer = self._parts.trainer
        trainer.cancel(handle)
        asked = time.monotonic()
        while not trainer.poll(handle).phase.terminal and time.monotonic() - asked < CANCEL_S:
            time.sleep(0.1)
        raise Ended

    def _show(self, run_id: str, status: TrainingStatus) -> None:
        """Bring what the trainer says into the run that the page reads."""
        shown = (status.phase, status.step, status.total, status.note)
        if self._shown.get(run_id) == shown:
            return
        changes: dict[str, Any] = {"total": status.total} if status.total else {}
        if status.note or self._shown.get(run_id, shown)[3]:
            changes["detail"] = {"note": status.note or ""}
        self._runs.update_run(
            run_id,
            state=status.phase.value,
            message=_SENTENCES[status.phase],
            step=status.step,
            seconds_left=status.seconds_left,
            **changes,
        )
        self._shown[run_id] = shown


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _opened(paths: Sequence[Path]) -> list[Image.Image]:
    pictures = []
    for path in paths:
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB"))
    return pictures


@contextmanager
def _in_words() -> Iterator[None]:
    """What a trainer refuses is told to the person: its texts are written for them."""
    try:
        yield
    except TrainingError as fault:
        raise UserError(str(fault), code="failed") from fault
