"""The host's page: appeals, what is at work, room, what the checks decided, choices and health."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.actions import HostActions
from studio.errors import NotAllowed
from studio.ui.refusals import appeal_row
from studio.ui.shell import Shell, Updates, Visit

DECISIONS = ("allow", "review", "block", "unavailable")


class Host:
    """For whoever runs this studio: `Settings.is_host` says who that is."""

    name = "host"

    def __init__(self, shell: Shell, desk: HostActions) -> None:
        self.shell = shell
        self.desk = desk
        with gr.Column(visible=False, elem_id="page-host", elem_classes="page") as self.column:
            self.board = shell.html("host-board")
        shell.add(self.board)

    def wire(self) -> None:
        self.shell.dispatch(self.board, {"answer": self.answer})

    def show(self, visit: Visit) -> Updates:
        self._check(visit)
        found, words = self.desk.report(), visit.words
        appeals = [appeal_row(one, words) for one in self.desk.all_appeals()]
        markup = self.shell.render(
            "host", visit, checks=found["checks"], choices=found["choices"], runs=found["runs"],
            workers=found["workers"], appeals=appeals, counts=found["counts"].items(),
            waiting=sum(one["state"] == "open" for one in appeals),
            disk=_disk(found["disk"], visit), moderation=found["moderation"],
            decisions=DECISIONS, health=_flat(self.shell.studio.health(), visit),
        )  # fmt: skip
        return {self.board: markup}

    def live(self, visit: Visit) -> Updates:
        return {}

    def answer(self, visit: Visit) -> Updates:
        """Answer an appeal; its user sees it where the refusal is told."""
        self._check(visit)
        self.desk.answer_appeal(visit.id, str(visit.said.get("answer", "")))
        said = self.shell.say(visit, "done", visit.words("host_answered"))
        return self.show(visit) | said

    def _check(self, visit: Visit) -> None:
        if not self.shell.settings.is_host(visit.user.name):
            raise NotAllowed("this page")


def _disk(disk: dict[str, int], visit: Visit) -> dict[str, Any]:
    used = 1 - disk["free"] / max(1, disk["total"])
    return {
        "percent": round(100 * used),
        "files": visit.words.size(disk["files"]),
        "free": visit.words.gigabytes(disk["free"]),
        "total": visit.words.gigabytes(disk["total"]),
    }


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
