"""The first step: what this is, who it is about, and consent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import wait

import gradio as gr

from studio.doors.owned import MAX_NAME
from studio.records import Person
from studio.ui.cards import address
from studio.ui.shell import Shell, Updates, Visit, started
from studio.ui.strings import label

WHO = ("me", "permission")
LOOK_SECONDS = 0.7


class Welcome:
    """People so far, and a form for a new one."""

    name = "welcome"

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.studio = shell.studio
        with gr.Column(visible=False, elem_id="page-welcome", elem_classes="page") as self.column:
            self.head = shell.html("welcome-head")
            with gr.Row(equal_height=False):
                with gr.Column(scale=3, min_width=300, elem_classes="form-card"):
                    self.title = shell.html("welcome-new")
                    self.person = gr.Textbox(
                        label=label("welcome_name"), info=label("welcome_name_info"),
                        placeholder=label("welcome_name_placeholder"), max_length=MAX_NAME,
                        elem_id="welcome-name",
                    )  # fmt: skip
                    self.who = gr.Radio(
                        [(label(f"welcome_who_{who}"), who) for who in WHO],
                        label=label("welcome_who"), elem_id="welcome-who",
                    )  # fmt: skip
                    self.adult = gr.Checkbox(label=label("welcome_adult"), elem_id="welcome-adult")
                    self.consent = gr.Checkbox(
                        label=label("welcome_consent"), info=label("welcome_consent_info"),
                        elem_id="welcome-consent",
                    )  # fmt: skip
                    self.start = gr.Button(
                        label("welcome_start"), variant="primary", elem_id="welcome-start"
                    )
                with gr.Column(scale=2, min_width=280, elem_classes="aside-card"):
                    self.aside = shell.html("welcome-aside")
                    self.sample = gr.Button(label("welcome_sample"), elem_id="welcome-sample")
                    self.limits = shell.html("welcome-limits")
        shell.add(
            self.head, self.title, self.aside, self.limits, self.person, self.who, self.adult,
            self.consent, self.sample,
        )  # fmt: skip

    def wire(self) -> None:
        fields = [self.person, self.who, self.adult, self.consent]
        self.shell.on(self.start.click, self.add, inputs=fields)
        self.shell.on(self.person.submit, self.add, inputs=fields)
        self.shell.on(self.sample.click, self.add_sample)
        self.shell.dispatch(self.head, {"person": self.choose})

    def show(self, visit: Visit) -> Updates:
        words, settings = visit.words, self.shell.settings
        key = settings.photo_retention.replace("-", "_")
        people = [self._card(visit, one) for one in self.studio.people(visit.user.id)]
        retention = words(f"welcome_promise_{key}", hours=f"{settings.upload_hours:g}")
        return {
            self.head: self.shell.render("welcome", visit, people=people, retention=retention),
            self.title: f"<h2>{words('welcome_new')}</h2>",
            self.aside: f"<h2>{words('welcome_sample')}</h2><p>{words('welcome_sample_more')}</p>",
            self.limits: self.shell.render("limits", visit, limits=self._limits(visit)),
        }

    def live(self, visit: Visit) -> Updates:
        return {}

    def add(self, visit: Visit) -> Updates:
        """A new person, once everything that consent needs was said."""
        words, values = visit.words, visit.values
        needed = {
            "name": bool((values[self.person] or "").strip()),
            "who": values[self.who] in WHO,
            "adult": values[self.adult] is True,
            "consent": values[self.consent] is True,
        }
        for key, said in needed.items():
            if not said:
                missing = words(f"welcome_missing_{key}")
                return self.shell.say(visit, "error", missing, field=f"welcome-{key}")
        person = self.studio.add_person(visit.user.id, values[self.person])
        empty = {self.person: "", self.who: None, self.adult: False, self.consent: False}
        return empty | self.shell.open(visit, "photos", person=person.id)

    def add_sample(self, visit: Visit) -> Iterator[Updates]:
        """The shipped sample person, through the same intake as anybody's photos.

        The cards appear while the intake goes on, which ends also when nobody looks any more.
        """
        user, words = visit.user.id, visit.words
        before = {one.id for one in self.studio.people(user)}
        adding = self.shell.say(visit, "info", words("welcome_sample_adding"))
        yield adding | {self.sample: gr.Button(interactive=False)}
        name = words("welcome_sample_name")
        work = started(lambda: self.studio.add_sample_person(user, name))
        while not wait([work], LOOK_SECONDS).done:
            new = [one for one in self.studio.people(user) if one.id not in before]
            if new:
                yield self.shell.open(visit, "photos", person=new[0].id) | adding
        yield {self.sample: gr.Button(interactive=True)}
        person = work.result()
        yield {self.shell.notice: ""} | self.shell.open(visit, "photos", person=person.id)

    def choose(self, visit: Visit) -> Updates:
        """Go on with a person, at the step they are at."""
        return resume(self.shell, visit, visit.id)

    def _card(self, visit: Visit, person: Person) -> dict[str, str]:
        user, words = visit.user.id, visit.words
        photos = self.studio.photos(user, self.studio.photo_set(user, person.id).id)
        models = len(self.studio.models(user, person_id=person.id))
        parts = [words("welcome_photos_count", count=len(photos))] if photos else []
        parts += [words("welcome_models_count", count=models)] if models else []
        shown = next((photo for photo in photos if photo.accepted and photo.preview_key), None)
        return {
            "id": person.id,
            "name": person.name,
            "about": " · ".join(parts) or words("welcome_nothing_yet"),
            "picture": address("photo-preview", shown.id) if shown else "",
        }

    def _limits(self, visit: Visit) -> list[str]:
        # What the model cannot do is said before anybody uploads photos.
        starter = any(one.default and one.family == "starter" for one in self.studio.base_choices())
        names = (["starter"] if starter else []) + self.shell.missing_checks()
        return [visit.words(f"limits_{name}") for name in names]


def resume(shell: Shell, visit: Visit, person_id: str) -> Updates:
    """Open the step a person is at: a running training, their models, or their photos."""
    user = visit.user.id
    for run in shell.studio.runs(user, active=True):
        if run.person_id == person_id:
            page = "train" if run.kind == "train" else "create"
            return shell.open(visit, page, person=person_id, run=run.id)
    page = "create" if shell.studio.models(user, person_id=person_id) else "photos"
    return shell.open(visit, page, person=person_id, run="")
