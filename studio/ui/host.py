"""The host's page: checks, choices with their reasons, what is at work, and health."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from studio.ui.shell import Shell, Updates, Visit


class Host:
    """For whoever runs this studio.

    `report` gives `checks` and `choices` as `doctor` does, and the `runs` and `workers` of now.
    """

    name = "host"

    def __init__(self, shell: Shell, report: Callable[[], dict[str, Any]]) -> None:
        self.shell = shell
        self.report = report
        with gr.Column(visible=False, elem_id="page-host", elem_classes="page") as self.column:
            self.board = shell.html("host-board")
        shell.add(self.board)

    def wire(self) -> None:
        self.shell.dispatch(self.board, {})

    def show(self, visit: Visit) -> Updates:
        found = self.report()
        markup = self.shell.render(
            "host", visit, checks=found.get("checks", []), choices=found.get("choices", []),
            runs=found.get("runs", []), workers=found.get("workers", []),
            health=_flat(self.shell.studio.health(), visit),
        )  # fmt: skip
        return {self.board: markup}

    def live(self, visit: Visit) -> Updates:
        return self.show(visit)


def _flat(values: dict[str, Any], visit: Visit, prefix: str = "") -> list[tuple[str, str]]:
    """Nested health as lines: `moderation faces`, `basic`."""
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += _flat(value, visit, f"{prefix}{name} ")
        elif isinstance(value, bool):
            lines.append((f"{prefix}{name}", visit.words("host_yes" if value else "host_no")))
        else:
            lines.append((f"{prefix}{name}", str(value)))
    return lines
