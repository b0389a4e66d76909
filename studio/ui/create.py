"""The fourth step: pick styles, draw, and see the pictures as they come."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from studio.doors.runs import MAX_SEED
from studio.errors import UserError
from studio.pictures.sizes import size
from studio.records import PersonalModel, Run
from studio.ui import cards, refusals
from studio.ui.comparison import Beside, Pairs, model_name, results_title
from studio.ui.following import Following, person_of
from studio.ui.shapes import Shapes, size_name
from studio.ui.shell import RELAY, Shell, Updates, Visit
from studio.ui.strings import label
from studio.ui.tiles import Tiles
from studio.ui.train import _quality, quality_choices


class Create:
    """Drawing with a person's models."""

    name = "create"

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.studio = shell.studio
        self.tiles = Tiles(shell)
        self.following = Following(shell, "generate")
        self.pairs = Pairs(shell, self.tiles, self.following)
        with gr.Column(visible=False, elem_id="page-create", elem_classes="page") as self.column:
            self.head = shell.html("create-head")
            self.results = shell.html("create-results")
            with gr.Column(visible=False, elem_classes="create-form") as self.form:
                self.model = gr.Dropdown(
                    label=label("create_model"), filterable=False, elem_id="create-model"
                )
                self.styles = gr.HTML(
                    value="[]", html_template="${cards}", cards="", elem_id="create-styles",
                    js_on_load=RELAY + "window.studio.styles(element, props, watch);",
                    apply_default_css=False,
                )  # fmt: skip
                with gr.Column(elem_classes="form-card"):
                    self.text = gr.Textbox(
                        label=label("create_text"), info=label("create_text_info"), lines=2,
                        elem_id="create-text",
                    )  # fmt: skip
                    with gr.Row():
                        self.count = gr.Slider(
                            1, shell.settings.max_count, value=min(2, shell.settings.max_count),
                            step=1, label=label("create_count"), elem_id="create-count",
                        )  # fmt: skip
                        self.quality = gr.Radio(
                            quality_choices(), value="balanced", label=label("create_quality"),
                            elem_id="create-quality",
                        )  # fmt: skip
                    self.shapes = Shapes(shell)
                    with gr.Accordion(label("create_more"), open=False), gr.Row():
                        self.seed = gr.Textbox(
                            label=label("create_seed"), info=label("create_seed_info"),
                            max_length=10, elem_id="create-seed",
                        )  # fmt: skip
                        self.strength = gr.Slider(
                            0.2, 1.2, value=1.0, step=0.05, label=label("create_strength"),
                            info=label("create_strength_info"), elem_id="create-strength",
                        )  # fmt: skip
                    self.beside = Beside(shell)
                    self.start = gr.Button(
                        label("create_start"), variant="primary", size="lg", elem_id="create-start"
                    )
                self.limits = shell.html("create-limits")
        shell.add(
            self.head, self.results, self.form, self.model, self.styles, self.text, self.count,
            self.quality, *self.shapes.fields, self.seed, self.strength, self.limits,
            *self.beside.fields,
        )  # fmt: skip

    def wire(self) -> None:
        fields = [
            self.model, self.styles, self.text, self.count, self.quality, *self.shapes.fields,
            self.seed,
            self.strength, *self.beside.fields,
        ]  # fmt: skip
        self.shell.on(self.start.click, self.draw, inputs=fields)
        self.beside.wire()
        self.shapes.wire()
        self.shell.dispatch(self.styles, {"like_style": self.like_style})
        self.shell.on(self.model.input, self.other_model, inputs=[self.model])
        self.shell.dispatch(self.head, {})
        self.shell.dispatch(
            self.results,
            {
                "cancel": self.cancel,
                "retry": self.retry,
                "favourite": self.favourite,
                "feedback": self.tiles.note_unlike,
                "delete": self.delete,
                "more_like_this": self.tiles.more_like_this,
                "appeal": lambda visit: refusals.appeal(self.shell, visit),
            },
        )

    def show(self, visit: Visit) -> Updates:
        user = visit.user.id
        person = person_of(self.shell, visit)
        models = sorted(
            self.studio.models(user, person_id=person.id), key=lambda model: -model.version
        )
        run = self.following.run(visit)
        visit = visit.at(run=run.id if run else "")
        updates: Updates = {
            self.head: self.shell.render("create_head", visit, person=person, models=models),
            self.shell.place: visit.place,
            self.form: gr.Column(visible=bool(models)),
            **self._results(visit, run),
        }
        if models:
            last = run.request.get("model_id") if run else None
            chosen = next((model for model in models if model.id == last), models[0])
            updates[self.model] = gr.Dropdown(
                choices=[(model_name(model, visit.words), model.id) for model in models],
                value=chosen.id,
            )
            updates |= self._gallery(visit, chosen) | self.beside.offer(models, visit)
            updates |= self.shapes.offer(visit)
            updates[self.text] = gr.Textbox(interactive=not self.shell.restricted)
        return updates

    def live(self, visit: Visit) -> Updates:
        run = self.following.run(visit)
        return self._results(visit, run) if run else {}

    def other_model(self, visit: Visit) -> Updates:
        model = self.studio.model(visit.user.id, str(visit.values[self.model]))
        return self._gallery(visit, model)

    def draw(self, visit: Visit) -> Updates:
        words, values = visit.words, visit.values
        picked = _picked(values[self.styles])
        if not picked:
            raise UserError(words("create_pick_one"), words("create_pick_hint"))
        asked: dict[str, Any] = {
            "style_ids": picked,
            "text": (values[self.text] or "").strip(),
            "count": int(values[self.count]),
            "quality": _quality(values[self.quality]),
            "seed": self._seed(visit),
            "strength": float(values[self.strength]),
            **self.shapes.asked(visit),
        }
        model_id = str(values[self.model])
        side = self.beside.side(visit, model_id, asked["strength"])
        try:
            if side:
                del asked["size_id"]  # what is compared is looked at as it was drawn
                run, _ = self.studio.compare(visit.user.id, model_id, beside=side, **asked)
            else:
                run = self.studio.generate(visit.user.id, model_id, **asked)
        except UserError as error:
            if error.code != "refused":
                raise
            # A text that was refused can be appealed where it is told.
            told = words.say(error.message), words.say(error.hint)
            return self.shell.say(visit, "error", *told, appeal=model_id)
        return self.shell.open(visit, "create", run=run.id)

    def like_style(self, visit: Visit) -> Updates:
        """A heart in the gallery; the browser shows it at once."""
        self.studio.like_style(visit.user.id, visit.id, visit.said.get("on") == "yes")
        return {}

    def cancel(self, visit: Visit) -> Updates:
        self.studio.cancel(visit.user.id, visit.id)
        return self.shell.open(visit, "create", run=visit.id)

    def retry(self, visit: Visit) -> Updates:
        run = self.studio.retry(visit.user.id, visit.id)
        return self.shell.open(visit, "create", run=run.id)

    def favourite(self, visit: Visit) -> Updates:
        self.tiles.favourite(visit)
        return self.live(visit)

    def delete(self, visit: Visit) -> Updates:
        return self.tiles.delete(visit) | self.live(visit)

    def _gallery(self, visit: Visit, model: PersonalModel) -> Updates:
        styles = self.studio.styles(model.family)
        liked = self.studio.liked_styles(visit.user.id)
        known = [cards.style_card(style, visit.words, style.id in liked) for style in styles]
        categories = ["all", "liked", *dict.fromkeys(card["category"] for card in known)]
        markup = self.shell.render("styles", visit, styles=known, categories=categories)
        names = ["restricted"] if self.shell.restricted else []
        names += ["starter"] if model.family == "starter" else []
        limits = [visit.words(f"limits_{name}") for name in names]
        return {
            self.styles: gr.HTML(cards=markup),
            self.limits: self.shell.render("limits", visit, limits=limits),
        }

    def _results(self, visit: Visit, run: Run | None) -> Updates:
        if run is None:
            return {self.results: ""}
        if run.request.get("beside"):
            other = self.following.maybe(visit, str(run.request["beside"]))
            if other:
                return {self.results: self.pairs.markup(visit, run, other)}
        words, detail = visit.words, run.detail
        tiles = self.tiles.all(visit, run_id=run.id)
        refused = cards.refusals(run, self.tiles.style_names(visit), words)
        count = sum(one["count"] for one in refused)
        wanted = int(detail.get("wanted", 0))
        made_for = size(str(run.request["size"])) if run.request.get("size") else None
        markup = self.shell.render(
            "results", visit, run=run, left=self.following.left(visit, run), avatars=tiles,
            title=results_title(run, visit, len(tiles), count, self.following.line(visit, run)),
            select=False, blanks=0 if run.over else max(0, wanted - len(tiles) - count),
            refused=refused, refused_count=count, why=self.following.why(visit, run),
            zip=f"files/avatars.zip?run={run.id}" + (f"&size={made_for.id}" if made_for else ""),
            made_for=size_name(made_for, words) if made_for else "",
            asked=refusals.asked(self.shell, visit).get(run.id),
        )  # fmt: skip
        return {self.results: markup}

    def _seed(self, visit: Visit) -> int | None:
        text = (visit.values[self.seed] or "").strip()
        if not text:
            return None
        if not text.isascii() or not text.isdigit() or int(text) > MAX_SEED:
            raise UserError(visit.words("create_bad_seed", most=MAX_SEED))
        return int(text)


def _picked(said: Any) -> list[str]:
    """Style ids from the browser's JSON; anything else is no pick."""
    try:
        picked = json.loads(said or "[]")
    except (TypeError, ValueError):
        return []
    return [one for one in picked if isinstance(one, str)] if isinstance(picked, list) else []
