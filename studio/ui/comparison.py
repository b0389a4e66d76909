"""Two models or strengths beside each other: what to compare with, and the pairs as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from studio.actions import Side
from studio.errors import UserError
from studio.pictures.delivery import slot_id
from studio.records import PersonalModel, Run
from studio.ui import cards, refusals
from studio.ui.following import Following
from studio.ui.shell import Shell, Updates, Visit
from studio.ui.strings import Words, label
from studio.ui.tiles import Tiles

WITH = ("nothing", "strength", "model")


class Beside:
    """The part of the form that says what to compare with."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        with gr.Accordion(label("compare_title"), open=False, elem_id="create-compare"):
            self.what = gr.Radio(
                [(label(f"compare_with_{name}"), name) for name in WITH], value="nothing",
                label=label("compare_with"), info=label("compare_info"), elem_id="compare-with",
            )  # fmt: skip
            self.strength = gr.Slider(
                0.2, 1.2, value=0.6, step=0.05, label=label("compare_strength"), visible=False,
                elem_id="compare-strength",
            )  # fmt: skip
            self.model = gr.Dropdown(
                label=label("compare_model"), filterable=False, visible=False,
                elem_id="compare-model",
            )  # fmt: skip
        self.fields = (self.what, self.strength, self.model)

    def wire(self) -> None:
        self.shell.on(self.what.input, self.choose, inputs=[self.what])

    def choose(self, visit: Visit) -> Updates:
        """Show what the choice needs."""
        what = visit.values[self.what]
        return {
            self.strength: gr.Slider(visible=what == "strength"),
            self.model: gr.Dropdown(visible=what == "model"),
        }

    def offer(self, models: Sequence[PersonalModel], visit: Visit) -> Updates:
        """The models that can be compared with: all of this person's."""
        choices = [(model_name(model, visit.words), model.id) for model in models]
        return {self.model: gr.Dropdown(choices=choices, value=models[-1].id)}

    def side(self, visit: Visit, model_id: str, strength: float) -> Side | None:
        """The other side that was asked for; None for a drawing without comparison."""
        what = visit.values[self.what]
        if what == "strength":
            return Side(model_id, float(visit.values[self.strength]))
        if what == "model":
            other = str(visit.values[self.model] or "")
            if not other or other == model_id:
                raise UserError(
                    visit.words("compare_same_model"), visit.words("compare_same_model_hint")
                )
            return Side(other, strength)
        return None


class Pairs:
    """The results of a comparison: each wish twice, beside each other."""

    def __init__(self, shell: Shell, tiles: Tiles, following: Following) -> None:
        self.shell = shell
        self.studio = shell.studio
        self.tiles = tiles
        self.following = following

    def markup(self, visit: Visit, run: Run, other: Run) -> str:
        words = visit.words
        runs = (run, other)
        found = {
            tile["id"]: tile
            for one in runs
            for tile in self.tiles.all(visit, run_id=one.id)
        }  # fmt: skip
        pairs = [
            {
                "style": self._name(visit, style),
                "sides": [found.get(slot_id(one.id, f"{style}-{n}")) for one in runs],
                "seed": (int(run.request["seed"]) + n),
            }
            for style in run.request["style_ids"]
            for n in range(int(run.request["count"]))
        ]
        names = self.tiles.style_names(visit)
        refused = [row for one in runs for row in cards.refusals(one, names, words)]
        going = next((one for one in runs if not one.over), None)
        title = results_title(
            going or run, visit, len(found), sum(row["count"] for row in refused),
            self.following.line(visit, going) if going else "", both=True,
        )  # fmt: skip
        return self.shell.render(
            "pairs", visit, run=run, other=other, going=going, title=title, pairs=pairs,
            left=self.following.left(visit, going) if going else "",
            why=self.following.why(visit, going) if going else "",
            labels=self._labels(visit, run, other), refused=refused,
            refused_count=sum(row["count"] for row in refused),
            asked=refusals.asked(self.shell, visit).get(run.id),
        )  # fmt: skip

    def _labels(self, visit: Visit, run: Run, other: Run) -> list[str]:
        """What tells the sides apart: the strengths, or the models where the strength is one."""
        words = visit.words
        if run.request["model_id"] == other.request["model_id"]:
            return [
                words("compare_at_strength", strength=words.number(float(one.request["strength"])))
                for one in (run, other)
            ]
        mine = {model.id: model for model in self.studio.models(visit.user.id)}
        found = [mine.get(str(one.request["model_id"])) for one in (run, other)]
        return [model_name(one, words) if one else words("compare_gone") for one in found]

    def _name(self, visit: Visit, style_id: str) -> str:
        return self.tiles.style_names(visit).get(style_id, style_id)


def model_name(model: PersonalModel, words: Words) -> str:
    """A model as lists name it: name, version, base."""
    return f"{model.name} · {words('people_version', version=model.version)} · {model.base_id}"


def results_title(
    run: Run, visit: Visit, drawn: int, refused: int, line: str, *, both: bool = False
) -> str:
    """What a drawing does now or has done, in words; of two runs when `both`. `line` is where it
    stands while it waits."""
    words = visit.words
    wanted: Any = int(run.detail.get("wanted", 0)) * (2 if both else 1)
    if run.state == "done":
        return words("results_done", count=drawn) if drawn else words("results_none")
    if run.over:
        return words(f"results_{run.state}")
    if line and not drawn:
        return line
    return words("results_drawing", done=drawn + refused, wanted=max(wanted, drawn + refused))
