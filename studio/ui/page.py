"""The whole page: header, notice, one column a step, and the timer that follows running work."""

from __future__ import annotations

import json
from typing import Any, Protocol

import gradio as gr

from studio.actions import HostActions, StudioActions
from studio.errors import NotAllowed
from studio.pictures.sizes import sizes
from studio.records import Person, Run
from studio.settings import Settings
from studio.ui import avatars, cards, create, host, people, photos, refusals, train, welcome
from studio.ui.shapes import size_name
from studio.ui.shell import Place, Shell, Updates, Visit
from studio.ui.strings import table

STEPS = ("welcome", "photos", "train", "create")
PLACES = (("avatars", "grid"), ("people", "person"), ("host", "eye"))
LIVE_SECONDS = 1.5
IDLE_SECONDS = 15.0


class Page(Protocol):
    """One step or place. `show` fills it; `live` refreshes what a running job changes."""

    name: str
    column: gr.Column

    def wire(self) -> None: ...
    def show(self, visit: Visit) -> Updates: ...
    def live(self, visit: Visit) -> Updates: ...


def build(studio: StudioActions, settings: Settings, desk: HostActions | None = None) -> gr.Blocks:
    """The page as Gradio blocks; mount it with `theme.look()`.

    `desk` is what the host's page shows and does, to whom `Settings.is_host` names; without it
    there is no such page.
    """
    with gr.Blocks(
        title="Avatar Studio", analytics_enabled=False, delete_cache=(3600, 3600), fill_width=True
    ) as blocks:
        Site(studio, settings, desk).wire(blocks)
    return blocks


class Site:
    """Knows every page, where a visitor is, and which run is at work."""

    def __init__(self, studio: StudioActions, settings: Settings, desk: HostActions | None) -> None:
        self.studio = studio
        self.top = Shell.html("top")
        self.shell = shell = Shell(studio, settings)
        shell.open = self.open
        self.timer = gr.Timer(LIVE_SECONDS, active=False)
        shell.add(self.top, self.timer)
        pages: list[Page] = [
            welcome.Welcome(shell),
            photos.Photos(shell),
            train.Train(shell),
            create.Create(shell),
            avatars.Avatars(shell),
            people.People(shell),
        ]
        if desk:
            pages.append(host.Host(shell, desk))
        self.pages = {page.name: page for page in pages}
        shell.add(*(page.column for page in pages))

    def wire(self, blocks: gr.Blocks) -> None:
        for page in self.pages.values():
            page.wire()
        self.shell.dispatch(self.top, {"follow": self.follow})
        self.shell.dispatch(
            self.shell.notice,
            {
                "dismiss": lambda visit: {},
                "undo": self.undo,
                "appeal": lambda visit: refusals.appeal(self.shell, visit),
            },
        )
        self.shell.on(blocks.load, self.arrive)
        self.shell.on(self.timer.tick, self.tick, clear=False)

    def arrive(self, visit: Visit) -> Updates:
        """First view: what the link says, else where this user left off."""
        query = visit.query
        person, run = query.get("person", ""), None
        if query.get("run"):
            try:
                run = self.studio.run(visit.user.id, query["run"])
                person = run.person_id
            except NotAllowed:
                return self._not_found(visit)
        elif self._gone(visit, person):
            return self._not_found(visit)
        elif not person and query.get("at") not in self.pages:
            active = self.studio.runs(visit.user.id, active=True)
            run = active[0] if active else None
            person = run.person_id if run else ""
        page = query.get("at", "")
        if run and page not in self.pages:
            page = "train" if run.kind == "train" else "create"
        place = visit.at(person=person, run=run.id if run else "")
        return self.open(place, page if page in self.pages else "welcome")

    def _gone(self, visit: Visit, person: str) -> bool:
        """Whether a person was named who is not there (any more), or is somebody else's."""
        everyone = self.studio.people(visit.user.id)
        return bool(person) and all(one.id != person for one in everyone)

    def _not_found(self, visit: Visit) -> Updates:
        """What a link speaks of is gone, or somebody else's: never another person instead."""
        words = visit.words
        said = self.shell.say(
            visit, "error", words("notice_not_found"), words("notice_not_found_hint")
        )
        return self.open(visit, "welcome") | said

    def open(self, visit: Visit, name: str, **changes: str) -> Updates:
        """Show a page, in the state the records have now."""
        name = name if self.may_see(visit, name) else "welcome"
        visit = visit.at(page=name, **changes)
        person = self.person(visit)
        if person is None and name in STEPS[1:]:
            name = "welcome"
        visit = visit.at(page=name, person=person.id if person else "")
        updates: Updates = {
            page.column: gr.Column(visible=page.name == name) for page in self.pages.values()
        }
        updates |= {self.shell.place: visit.place}
        updates |= self.pages[name].show(visit)
        place = updates[self.shell.place]
        visit = visit.at(page=place.page, person=place.person, run=place.run)
        return updates | self.header(visit)

    def may_see(self, visit: Visit, name: str) -> bool:
        """Whether there is such a page for this visitor."""
        if name == "host" and not self.shell.settings.is_host(visit.user.name):
            return False
        return name in self.pages

    def tick(self, visit: Visit) -> Updates:
        """What a running job changed on the page that is open."""
        if self._gone(visit, visit.place.person):
            words = visit.words
            return self.open(visit.at(person="", run=""), "welcome") | self.shell.say(
                visit, "info", words("notice_erased"), words("notice_erased_hint")
            )
        page = self.pages.get(visit.place.page)
        return (page.live(visit) if page else {}) | self.header(visit)

    def follow(self, visit: Visit) -> Updates:
        run = self.studio.run(visit.user.id, visit.id)
        page = "train" if run.kind == "train" else "create"
        return self.open(visit, page, person=run.person_id, run=run.id)

    def undo(self, visit: Visit) -> Updates:
        """Bring back the avatars that the notice spoke of."""
        count = self.studio.restore_avatars(visit.user.id, visit.id.split(","))
        words = visit.words
        return self.open(visit, visit.place.page) | self.shell.say(
            visit, "done", words("avatars_restored", count=count)
        )

    def person(self, visit: Visit) -> Person | None:
        """The person the visitor is with; the newest one when that is not said."""
        everyone = self.studio.people(visit.user.id)
        for one in everyone:
            if one.id == visit.place.person:
                return one
        return everyone[-1] if everyone and visit.place.page != "welcome" else None

    def header(self, visit: Visit) -> Updates:
        active = self.studio.runs(visit.user.id, active=True)
        here = {visit.place.run} if visit.place.page in ("train", "create") else set()
        busy = next((run for run in active if run.id not in here), None)
        names = {one.id: one.name for one in self.studio.people(visit.user.id)}
        script = {
            key.removeprefix("script_"): visit.words(key)
            for key in table("en")
            if key.startswith("script_")
        }
        markup = self.shell.render(
            "top", visit, steps=self.steps(visit), url=link(visit.place),
            places=[(name, icon) for name, icon in PLACES if self.may_see(visit, name)],
            script_words=json.dumps(script), sizes=json.dumps(_sizes(visit)),
            busy=_busy(busy, names, visit) if busy else None,
        )  # fmt: skip
        # Never off: a look that began before a run may be answered after it, and would end them.
        pause_s = LIVE_SECONDS if active else IDLE_SECONDS
        return {self.top: markup, self.timer: gr.Timer(pause_s, active=True)}

    def steps(self, visit: Visit) -> list[tuple[str, str]]:
        """The four steps with done, open or locked."""
        place = visit.place
        if not place.person:
            return [(name, "open" if name == "welcome" else "locked") for name in STEPS]
        user = visit.user.id
        ready = self.studio.set_status(user, self.studio.photo_set(user, place.person).id).ready
        models = bool(self.studio.models(user, person_id=place.person))
        running = any(
            run.person_id == place.person and run.kind == "train"
            for run in self.studio.runs(user, kind="train", active=True)
        )
        return [
            ("welcome", "done"),
            ("photos", "done" if ready else "open"),
            (
                "train",
                "done" if models and not running else "open" if ready or running else "locked",
            ),
            ("create", "open" if models else "locked"),
        ]


def link(place: Place) -> str:
    """The address that shows a place again, on any device of the same user."""
    parts = {"at": place.page}
    if place.page in STEPS[1:] and place.person:
        parts["person"] = place.person
    if place.page in ("train", "create") and place.run:
        parts["run"] = place.run
    return "?" + "&".join(f"{name}={value}" for name, value in parts.items())


def _sizes(visit: Visit) -> list[dict[str, Any]]:
    """What pictures can be made ready for, as the browser's dialog wants it."""
    return [
        {
            "id": one.id,
            "group": visit.words(f"save_group_{one.group}"),
            "name": size_name(one, visit.words),
        }
        for one in sizes()
    ]


def _busy(run: Run, names: dict[str, str], visit: Visit) -> dict[str, str]:
    name = names.get(run.person_id, "")
    kind = "waiting" if run.state == "waiting" else run.kind
    text = visit.words(f"nav_busy_{kind}", name=name, percent=cards.percent(run))
    return {"id": run.id, "text": text}
