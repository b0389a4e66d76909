"""Which run and which person a page is about: what the place says, if it is the visitor's."""

from __future__ import annotations

from typing import Literal

from studio.errors import NotAllowed
from studio.records import Person, Run
from studio.ui.shell import Shell, Visit


class Following:
    """Looks after runs of one kind for a page."""

    def __init__(self, shell: Shell, kind: Literal["train", "generate"]) -> None:
        self.studio = shell.studio
        self.kind = kind

    def run(self, visit: Visit) -> Run | None:
        """The run of the place, or else the person's running one."""
        user = visit.user.id
        if visit.place.run:
            found = self.maybe(visit, visit.place.run)
            if found and found.kind == self.kind and found.person_id == visit.place.person:
                return found
        active = self.studio.runs(user, kind=self.kind, active=True)
        return next((run for run in active if run.person_id == visit.place.person), None)

    def maybe(self, visit: Visit, run_id: str) -> Run | None:
        """The run, unless it is gone or not this visitor's."""
        try:
            return self.studio.run(visit.user.id, run_id)
        except NotAllowed:
            return None

    def line(self, visit: Visit, run: Run) -> str:
        """Where a run that waits stands in line, in words; empty for any other."""
        if run.state != "waiting":
            return ""
        if not self.studio.workers():
            return visit.words("run_say_waiting")
        ahead = self.studio.place_in_line(visit.user.id, run.id)
        return visit.words("run_say_ahead", count=ahead) if ahead else visit.words("run_say_next")

    def why(self, visit: Visit, run: Run) -> str:
        """What a run that waits is waiting for, in words; empty when there is nothing to say."""
        if run.state != "waiting":
            return ""
        if not self.studio.workers():
            return visit.words("run_no_worker")
        return visit.words.say(run.message) if run.message else ""

    def left(self, visit: Visit, run: Run) -> str:
        """The time left in words; empty where nothing can be said."""
        words = visit.words
        if run.seconds_left is not None:
            return words("run_left", time=words.duration(run.seconds_left))
        return words("run_left_unknown") if run.state == "learning" else ""


def person_of(shell: Shell, visit: Visit) -> Person:
    """The person of the place. Raises `NotAllowed` when it is not the visitor's."""
    for person in shell.studio.people(visit.user.id):
        if person.id == visit.place.person:
            return person
    raise NotAllowed("this person")
