"""The third step: what training takes, one button, and how it goes."""

from __future__ import annotations

from typing import Any, cast

import gradio as gr

from studio.actions import Estimate, Quality
from studio.doors.owned import MAX_NAME
from studio.errors import BackendError, NotAllowed, UserError
from studio.records import Person, Run
from studio.ui import cards
from studio.ui.following import Following, person_of
from studio.ui.shell import Shell, Updates, Visit
from studio.ui.strings import Words, label

QUALITIES = ("fast", "balanced", "best")


def quality_choices() -> list[tuple[Any, str]]:
    return [(label(f"train_{name}"), name) for name in QUALITIES]


class Train:
    """The training of a person: before, during and after."""

    name = "train"

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.studio = shell.studio
        self.following = Following(shell, "train")
        self.base = gr.State("")
        with gr.Column(visible=False, elem_id="page-train", elem_classes="page") as self.column:
            self.head = shell.html("train-head")
            self.progress = shell.html("train-progress")
            with gr.Column(elem_classes="form-card", visible=False) as self.form:
                self.quality = gr.Radio(
                    quality_choices(), value="balanced", label=label("train_quality"),
                    info=label("train_quality_info"), elem_id="train-quality",
                )  # fmt: skip
                self.estimate = shell.html("train-estimate")
                self.title = gr.Textbox(
                    label=label("train_name"), info=label("train_name_info"), max_length=MAX_NAME,
                    elem_id="train-name",
                )  # fmt: skip
                self.start = gr.Button(
                    label("train_start"), variant="primary", size="lg", elem_id="train-start"
                )
            self.limits = shell.html("train-limits")
        shell.add(
            self.head, self.progress, self.form, self.quality, self.base, self.estimate,
            self.title, self.start, self.limits,
        )  # fmt: skip

    def wire(self) -> None:
        fields = [self.quality, self.title, self.base]
        self.shell.on(self.start.click, self.begin, inputs=fields)
        self.shell.on(self.quality.input, self.again, inputs=fields)
        self.shell.dispatch(
            self.progress, {"cancel": self.cancel, "retry": self.retry, "anew": self.anew}
        )
        self.shell.dispatch(self.estimate, {"base": self.other_base}, inputs=[self.quality])

    def show(self, visit: Visit) -> Updates:
        person = person_of(self.shell, visit)
        run = self.following.run(visit)
        visit = visit.at(run=run.id if run else "")
        form = run is None or run.state in ("failed", "cancelled")
        return {
            self.head: self.shell.render("train_head", visit, person=person),
            self.shell.place: visit.place,
            **self._form(visit, form),
            **self._progress(visit, run, person),
        }

    def anew(self, visit: Visit) -> Updates:
        """A finished training is followed by another: show what it would take."""
        return self._form(visit, True)

    def _form(self, visit: Visit, shown: bool) -> Updates:
        return {
            self.form: gr.Column(visible=shown),
            self.quality: "balanced",
            self.title: "",
            self.base: "",
            **(self._estimate(visit, "balanced", "") if shown else {self.limits: ""}),
        }

    def live(self, visit: Visit) -> Updates:
        run = self.following.run(visit)
        if run is None:
            return {}
        if run.over:
            return self.show(visit)
        return self._progress(visit, run, person_of(self.shell, visit))

    def again(self, visit: Visit) -> Updates:
        """Another thoroughness was picked: what would it take."""
        base_id = str(visit.values[self.base] or "")
        return self._estimate(visit, _quality(visit.values[self.quality]), base_id)

    def other_base(self, visit: Visit) -> Updates:
        """Another base model was picked."""
        quality = _quality(visit.values[self.quality])
        return {self.base: visit.id} | self._estimate(visit, quality, visit.id)

    def begin(self, visit: Visit) -> Updates:
        user = visit.user.id
        photo_set = self.studio.photo_set(user, visit.place.person)
        run = self.studio.train(
            user, photo_set.id, name=(visit.values[self.title] or "").strip(),
            quality=_quality(visit.values[self.quality]),
            base_id=str(visit.values[self.base] or ""),
        )  # fmt: skip
        return self.shell.open(visit, "train", run=run.id)

    def cancel(self, visit: Visit) -> Updates:
        self.studio.cancel(visit.user.id, visit.id)
        said = self.shell.say(visit, "info", visit.words("run_cancelled_now"))
        return self.shell.open(visit, "train", run=visit.id) | said

    def retry(self, visit: Visit) -> Updates:
        run = self.studio.retry(visit.user.id, visit.id)
        return self.shell.open(visit, "train", run=run.id)

    def _estimate(self, visit: Visit, quality: Quality, base_id: str) -> Updates:
        user, words = visit.user.id, visit.words
        photo_set = self.studio.photo_set(user, visit.place.person)
        status = self.studio.set_status(user, photo_set.id)
        estimate: Estimate | None = None
        trouble = hint = ""
        if not status.ready:
            trouble = words("train_not_ready")
            if status.missing or status.excess:
                hint = cards.meter_words(status, self.shell.settings, words)
        else:
            try:
                estimate = self.studio.estimate(user, photo_set.id, quality, base_id)
            except (UserError, BackendError) as error:
                trouble, hint = self.shell.told(visit, error)
        markup = self.shell.render(
            "estimate", visit, estimate=estimate, trouble=trouble, hint=hint,
            bases=self.studio.base_choices(),
        )  # fmt: skip
        return {
            self.estimate: markup,
            self.start: gr.Button(interactive=estimate is not None),
            self.limits: self.shell.render("limits", visit, limits=self._limits(estimate, words)),
        }

    def _limits(self, estimate: Estimate | None, words: Words) -> list[str]:
        if estimate is None or estimate.warning or not estimate.base_id.startswith("starter"):
            return []
        return [words("limits_starter")]

    def _progress(self, visit: Visit, run: Run | None, person: Person) -> Updates:
        if run is None:
            return {self.progress: ""}
        words = visit.words
        line, left = self.following.line(visit, run), self.following.left(visit, run)
        markup = self.shell.render(
            "progress", visit, run=run, person=person, left=left,
            phase=cards.phase_words(run, line, person.name, words), percent=cards.percent(run),
            phases=cards.phase_list(run), previews=cards.previews(run),
            report=self._report(visit, run),
            told=self.following.why(visit, run) or _told(run, words),
        )  # fmt: skip
        return {self.progress: markup}

    def _report(self, visit: Visit, run: Run) -> list[dict[str, str]]:
        """What the finished model says about itself, in words."""
        model_id = run.detail.get("model_id") if run.state == "done" else None
        if not model_id:
            return []
        try:
            model = self.studio.model(visit.user.id, model_id)
        except NotAllowed:
            return []
        words = visit.words
        found = [
            {"name": words(f"run_report_{key}"), "value": likeness_words(model.report[key], words)}
            for key in ("likeness", "variety")
            if isinstance(model.report.get(key), str)
        ]
        if isinstance(model.report.get("chosen_step"), int):
            found.append(
                {"name": words("run_report_step"), "value": str(model.report["chosen_step"])}
            )
        found.append({"name": words("run_report_time"), "value": words.duration(model.seconds)})
        return found


def likeness_words(value: str, words: Words) -> str:
    """A word of the report (strong, good, fair, weak …) in the visitor's language."""
    return words.known(f"likeness_{value}", value)


def _told(run: Run, words: Words) -> str:
    """What the flow says beyond the phase: what is drawn first."""
    said = run.message if run.state == "preparing" else ""
    return words.say(said) if said and said != "Preparing your photos." else ""


def _quality(value: Any) -> Quality:
    return cast(Quality, value if value in QUALITIES else "balanced")
