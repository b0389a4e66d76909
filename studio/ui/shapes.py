"""What the pictures are for: a size preset, and the shape that is drawn for it."""

from __future__ import annotations

from typing import Any, cast

import gradio as gr

from studio.actions import Shape
from studio.pictures.sizes import Size, size, sizes
from studio.ui.shell import Shell, Updates, Visit
from studio.ui.strings import Words, label

SHAPES = ("square", "portrait", "banner", "circle")


class Shapes:
    """The part of the form that says which shape and for which use."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        with gr.Row():
            self.shape = gr.Radio(
                [(label(f"create_{name}"), name) for name in SHAPES], value="square",
                label=label("create_shape"), elem_id="create-shape", scale=3, min_width=280,
            )  # fmt: skip
            self.size = gr.Dropdown(
                label=label("create_size"), info=label("create_size_info"), filterable=False,
                elem_id="create-size", scale=2, min_width=280,
            )  # fmt: skip
        self.fields = (self.shape, self.size)

    def wire(self) -> None:
        self.shell.on(self.size.input, self.choose, inputs=[self.size])

    def offer(self, visit: Visit) -> Updates:
        """The sizes by name, in the visitor's language."""
        named = [(size_name(one, visit.words), one.id) for one in sizes()]
        anything = (visit.words("create_size_any"), "")
        return {self.size: gr.Dropdown(choices=[anything, *named], value="")}

    def choose(self, visit: Visit) -> Updates:
        """Set the shape that suits the size; it can still be changed."""
        wanted = visit.values[self.size]
        return {self.shape: size(wanted).shape} if wanted else {}

    def asked(self, visit: Visit) -> dict[str, Any]:
        """The wishes for a drawing. Raises `UserError` for a size that there is not."""
        shape, wanted = visit.values[self.shape], visit.values[self.size]
        return {
            "shape": cast(Shape, shape if shape in SHAPES else "square"),
            "size_id": size(str(wanted)).id if wanted else "",
        }


def size_name(one: Size, words: Words) -> str:
    """A size as lists name it: what for, and its pixels."""
    name = one.name_de if words.language == "de" else one.name
    return f"{name} · {one.width}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{one.height}"
