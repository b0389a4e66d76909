"""The second step: photos in, an answer for each, and whether the set can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr

from moderation.verdict import Decision
from studio.doors.photos import shown_name
from studio.errors import BackendError, NotAllowed, StudioError, UserError
from studio.keeping.erasure import drop_upload
from studio.records import Photo
from studio.ui import refusals
from studio.ui.cards import EXAMPLES, meter_words, photo_card, variety
from studio.ui.following import person_of
from studio.ui.shell import Shell, Updates, Visit, started
from studio.ui.strings import label

LOOK_SECONDS = 0.25
MOST_NAMED = 3  # files named in a notice


class Photos:
    """A person's current photo set."""

    name = "photos"

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.studio = shell.studio
        with gr.Column(visible=False, elem_id="page-photos", elem_classes="page") as self.column:
            self.head = shell.html("photos-head")
            with gr.Row(equal_height=False):
                with gr.Column(scale=7, min_width=300):
                    self.drop = gr.File(
                        label=label("photos_drop"), file_count="multiple", elem_id="drop",
                        height=190,
                    )  # fmt: skip
                    with gr.Accordion(label("photos_webcam"), open=False, elem_id="webcam"):
                        self.camera = gr.Image(
                            sources=["webcam"], type="filepath", label=label("photos_webcam_label"),
                            webcam_options=gr.WebcamOptions(mirror=True), height=320,
                        )  # fmt: skip
                    self.cards = shell.html("photo-cards")
                with gr.Column(scale=3, min_width=290, elem_classes="side"):
                    self.meter = shell.html("photo-meter")
                    with gr.Column(elem_classes="form-card") as self.consent_box:
                        self.consent = gr.Checkbox(
                            label=label("photos_consent"), info=label("photos_consent_info"),
                            elem_id="photos-consent",
                        )  # fmt: skip
                        self.go = gr.Button(
                            label("photos_go_on"), variant="primary", elem_id="photos-go"
                        )
        shell.add(self.head, self.drop, self.camera, self.cards, self.meter, self.consent, self.go)

    def wire(self) -> None:
        shell = self.shell
        shell.on(self.drop.upload, self.add, inputs=[self.drop])
        # Read as it came: Gradio would open the picture here, and only the gate opens pictures.
        shell.on(self.camera.input, self.add_picture, inputs=[self.camera], opened=False)
        shell.on(self.go.click, self.go_on, inputs=[self.consent])
        shell.dispatch(
            self.cards,
            {
                "confirm": self.confirm,
                "confirm_all": self.confirm_all,
                "remove": self.remove,
                "remove_bad": self.remove_bad,
                "crop": self.crop,
                "appeal": lambda visit: refusals.appeal(self.shell, visit),
            },
        )

    def show(self, visit: Visit) -> Updates:
        person = person_of(self.shell, visit)
        self.studio.expect_photos()
        photo_set = self.studio.photo_set(visit.user.id, person.id)
        begun = bool(self.studio.photos(visit.user.id, photo_set.id))
        return self._head(visit, begun) | {self.consent: False} | self.state(visit)

    def _head(self, visit: Visit, begun: bool) -> Updates:
        """Title and examples; with photos in the set these give way to the photos' answers."""
        person = person_of(self.shell, visit)
        head = self.shell.render(
            "photos_head", visit, person=person, examples=EXAMPLES, begun=begun
        )
        return {self.head: head}

    def live(self, visit: Visit) -> Updates:
        return {}

    def state(self, visit: Visit, waiting: tuple[str, ...] = ()) -> Updates:
        """The cards and the meter as the records have them; `waiting` files get place-holders."""
        user, words = visit.user.id, visit.words
        photo_set = self.studio.photo_set(user, visit.place.person)
        photos = self.studio.photos(user, photo_set.id)
        status = self.studio.set_status(user, photo_set.id)
        order = sorted(photos, key=lambda photo: photo.created_at, reverse=True)
        full = not status.missing and not status.excess
        cards = self.shell.render(
            "photos_cards", visit, photos=[photo_card(photo, words) for photo in order],
            waiting=waiting, unsure=status.unsure, unusable=len(_unusable(photos)),
            asked=refusals.asked(self.shell, visit),
        )  # fmt: skip
        meter = self.shell.render(
            "meter", visit, status=status, full=full, variety=variety(photos, words),
            say=meter_words(status, self.shell.settings, words),
        )  # fmt: skip
        ask = gr.Checkbox(visible=full and not status.consented)
        return {
            self.cards: cards,
            self.meter: meter,
            self.consent: ask,
            self.go: gr.Button(interactive=full and not waiting),
        }

    def add(self, visit: Visit) -> Iterator[Updates]:
        """Take in dropped files one by one; each card appears as soon as its photo is judged."""
        # Gradio keeps one copy of a file that was chosen twice.
        files = [Path(file) for file in dict.fromkeys(visit.values[self.drop] or [])]
        yield from self._take(visit, files, {self.drop: None})

    def add_picture(self, visit: Visit) -> Iterator[Updates]:
        """Take in a picture from the camera."""
        picture = (visit.values[self.camera] or {}).get("path")
        yield from self._take(visit, [Path(picture)] if picture else [], {self.camera: None})

    def _take(self, visit: Visit, files: list[Path], emptied: Updates) -> Iterator[Updates]:
        # The intake goes on when the visitor leaves: what was given is not lost.
        left = list(files)
        photo_set = self.studio.photo_set(visit.user.id, visit.place.person)
        judged = Event()
        work = started(lambda: self._intake(visit.user.id, photo_set.id, left, judged))
        waiting = self.state(visit, tuple(file.name for file in list(left)))
        yield emptied | self._head(visit, bool(files)) | waiting
        while not work.done():
            if judged.wait(LOOK_SECONDS):
                judged.clear()
                yield self.state(visit, tuple(file.name for file in list(left)))
        yield self.shell.open(visit, "photos")
        fault, missed = work.result()
        if fault:
            message, hint = self.shell.told(visit, fault)
            names = ", ".join(missed[:MOST_NAMED]) + (" …" if len(missed) > MOST_NAMED else "")
            again = visit.words("photos_missed", count=len(missed), files=names)
            yield self.shell.say(visit, "error", message, f"{hint} {again}")

    def _intake(
        self, user_id: str, set_id: str, left: list[Path], judged: Event
    ) -> tuple[StudioError | None, list[str]]:
        """Take in all files, emptying `left` and setting `judged` after each.

        Returns the last refusal that has no card of its own, and the names of the files without
        one. Gradio's copies can be fetched by their address, so each goes as soon as we have ours.
        """
        fault: StudioError | None = None
        missed: list[str] = []
        try:
            while left:
                try:
                    self.studio.add_photo(user_id, set_id, left[0].name, left[0])
                except UserError as error:
                    fault = error
                    missed.append(shown_name(left[0].name))
                except BackendError as error:
                    fault = error
                    missed += [shown_name(file.name) for file in left]
                    break
                drop_upload(left.pop(0))
                judged.set()
        finally:
            for file in left:
                drop_upload(file)
        return fault, missed

    def confirm(self, visit: Visit) -> Updates:
        self.studio.confirm_photo(visit.user.id, visit.id)
        return self._changed(visit)

    def confirm_all(self, visit: Visit) -> Updates:
        photo_set = self.studio.photo_set(visit.user.id, visit.place.person)
        self.studio.confirm_all(visit.user.id, photo_set.id)
        return self._changed(visit)

    def remove(self, visit: Visit) -> Updates:
        photo_set = self.studio.photo_set(visit.user.id, visit.place.person)
        photos = {photo.id: photo for photo in self.studio.photos(visit.user.id, photo_set.id)}
        if visit.id not in photos:
            raise NotAllowed("this photo")
        self.studio.remove_photo(visit.user.id, visit.id)
        said = visit.words("photos_removed", file=photos[visit.id].filename)
        return self._changed(visit) | self.shell.say(visit, "info", said)

    def remove_bad(self, visit: Visit) -> Updates:
        photo_set = self.studio.photo_set(visit.user.id, visit.place.person)
        bad = _unusable(self.studio.photos(visit.user.id, photo_set.id))
        for photo in bad:
            self.studio.remove_photo(visit.user.id, photo.id)
        said = visit.words("photos_removed_some", count=len(bad))
        return self._changed(visit) | self.shell.say(visit, "info", said)

    def crop(self, visit: Visit) -> Updates:
        self.studio.crop_photo(visit.user.id, visit.id, _edges(visit.said.get("crop")))
        said = self.shell.say(visit, "done", visit.words("photos_cropped"))
        return self._changed(visit) | said

    def go_on(self, visit: Visit) -> Updates:
        """Record consent for exactly these photos if that was not done, then go to training."""
        user, person = visit.user.id, visit.place.person
        status = self.studio.set_status(user, self.studio.photo_set(user, person).id)
        if status.missing or status.excess:
            raise UserError(meter_words(status, self.shell.settings, visit.words))
        if not status.consented:
            if visit.values[self.consent] is not True:
                raise UserError(visit.words("photos_missing_consent"))
            self.studio.consent(user, person)
        return self.shell.open(visit, "train", run="")

    def _changed(self, visit: Visit) -> Updates:
        return self.shell.open(visit, "photos")


def _unusable(photos: list[Photo]) -> list[Photo]:
    return [photo for photo in photos if photo.decision in (Decision.BLOCK, Decision.UNAVAILABLE)]


def _edges(said: Any) -> tuple[float, float, float, float]:
    """Four shares from the browser's text. Raises `NotAllowed` for anything else."""
    try:
        left, top, right, bottom = (float(edge) for edge in str(said).split(","))
    except ValueError:
        raise NotAllowed("this crop") from None
    return (left, top, right, bottom)
