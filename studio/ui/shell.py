"""What every page shares: who is asking, in which language, about whom; and one place for errors.

A handler is `fn(visit) -> updates` or, for work that shows as it goes, a generator of updates.
Nothing long happens here: handlers call StudioActions and return. Ids that come from the browser
are only ever passed to StudioActions, which checks whose they are.
"""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import gradio as gr
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from studio.actions import StudioActions
from studio.doors.owned import MAX_NAME
from studio.errors import NotAllowed, StudioError, UserError
from studio.records import User, now
from studio.settings import Settings
from studio.ui import drawings
from studio.ui.strings import Words, language_of
from studio.web.accounts import LOCAL_USER

log = logging.getLogger("studio.ui")

Updates = dict[Any, Any]
T = TypeVar("T")


RELAY = """
element.addEventListener('click', (event) => window.studio.relay(event, element, trigger));
element.addEventListener('submit', (event) => window.studio.relay(event, element, trigger));
"""


class Opener(Protocol):
    """Shows a page; the keyword arguments change the place (person, run)."""

    def __call__(self, visit: Visit, name: str, **changes: str) -> Updates: ...


@dataclass(frozen=True)
class Place:
    """Where a visitor is: the page, the person it is about, and the run it follows (ids or "")."""

    page: str = "welcome"
    person: str = ""
    run: str = ""


@dataclass(frozen=True)
class Visit:
    """One event: who, in which words, where, and what the browser said (untrusted)."""

    user: User
    words: Words
    place: Place
    said: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[Any, Any] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def action(self) -> str:
        return str(self.said.get("do", ""))

    @property
    def id(self) -> str:
        return str(self.said.get("id", ""))

    def at(self, **changes: str) -> Visit:
        """The same visit at another place."""
        return replace(self, place=replace(self.place, **changes))


class Shell:
    """Templates, the visitor's place, the notice under the header, and safe event wiring."""

    def __init__(self, studio: StudioActions, settings: Settings) -> None:
        self.studio = studio
        self.settings = settings
        self.place = gr.State(Place())
        self.notice = self.html("notice")
        self.components: list[Any] = [self.place, self.notice]
        self.open: Opener = _nowhere
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["longest_name"] = MAX_NAME

    @staticmethod
    def html(elem_id: str, *, classes: str = "", **more: Any) -> gr.HTML:
        """A piece of our own markup whose buttons (`data-do`) report to Python as clicks."""
        return gr.HTML(
            value="", elem_id=elem_id, elem_classes=classes, js_on_load=RELAY,
            apply_default_css=False, **more,
        )  # fmt: skip

    def render(self, template: str, visit: Visit, **values: Any) -> str:
        """A template of `templates/` as HTML; every value is escaped unless it is markup."""
        return self._templates.get_template(f"{template}.html").render(
            t=visit.words, settings=self.settings, place=visit.place,
            draw=lambda name: Markup(drawings.DRAWINGS[name]), **values,
        )  # fmt: skip

    def add(self, *components: Any) -> None:
        """Components that handlers may update."""
        self.components.extend(components)

    def say(self, visit: Visit, kind: str, message: str, hint: str = "", **more: Any) -> Updates:
        """The notice under the header; kind: error, info or done.

        `field` among `more` is the id of the part of a form that it is about, which gets the
        keyboard.
        """
        more = {"undo": "", "appeal": "", "field": ""} | more
        return {
            self.notice: self.render("notice", visit, kind=kind, message=message, hint=hint, **more)
        }

    def on(
        self,
        trigger: Callable[..., Any],
        handle: Callable[[Visit], Any],
        *,
        inputs: Sequence[Any] = (),
        clear: bool = True,
        opened: bool = True,
    ) -> Any:
        """Call `handle` on an event. Its errors end in the notice, never in a lost page.

        `clear` takes away the notice of the event before; `opened` lets Gradio turn what came into
        the components' values, else the handler gets it as it came.
        """
        make = self._generator if inspect.isgeneratorfunction(handle) else self._call
        return trigger(
            make(handle, clear), inputs={self.place, *inputs}, outputs=self.components,
            show_progress="hidden", api_visibility="private", concurrency_limit=8,
            preprocess=opened,
        )  # fmt: skip

    def dispatch(
        self,
        html: gr.HTML,
        actions: Mapping[str, Callable[[Visit], Updates]],
        inputs: Sequence[Any] = (),
    ) -> None:
        """Clicks on our own markup, by their `data-do`. `open` shows a page and is always there."""

        def handle(visit: Visit) -> Updates:
            if visit.action == "open":
                return self.open(visit, visit.id)
            act = actions.get(visit.action)
            return act(visit) if act else {}

        self.on(html.click, handle, inputs=inputs)

    def again(self, visit: Visit) -> Visit:
        """The same visit with the user looked up anew, after an erasure."""
        return replace(visit, user=self.studio.user(visit.user.name), place=Place(visit.place.page))

    @property
    def restricted(self) -> bool:
        """Public without a real picture check: samples and catalogue styles only."""
        return bool(self.studio.health().get("restricted"))

    def missing_checks(self) -> list[str]:
        """What this studio cannot tell or do, as keys of the `limits` texts."""
        locked = ["restricted"] if self.restricted else []
        if self.settings.moderation == "local":
            return [*locked, "faces", "pictures", "identity"]
        return locked

    def _call(self, handle: Callable[[Visit], Updates], clear: bool) -> Callable[..., Updates]:
        def run(values: dict[Any, Any], request: gr.Request, event: gr.EventData) -> Updates:
            try:
                visit = self._visit(values, request, event)
            except Exception as error:  # noqa: BLE001 the one edge where errors become words
                return self._failed(None, error, request)
            try:
                return ({self.notice: ""} if clear else {}) | handle(visit)
            except Exception as error:  # noqa: BLE001 the one edge where errors become words
                return self._failed(visit, error, request)

        return run

    def _generator(
        self, handle: Callable[[Visit], Iterator[Updates]], clear: bool
    ) -> Callable[..., Iterator[Updates]]:
        def run(
            values: dict[Any, Any], request: gr.Request, event: gr.EventData
        ) -> Iterator[Updates]:
            visit = None
            try:
                visit = self._visit(values, request, event)
                yield {self.notice: ""} if clear else {}
                yield from handle(visit)
            except Exception as error:  # noqa: BLE001 the one edge where errors become words
                yield self._failed(visit, error, request)

        return run

    def _visit(self, values: dict[Any, Any], request: gr.Request, event: gr.EventData) -> Visit:
        said = event._data if isinstance(event._data, dict) else {}
        return Visit(
            user=self.studio.user(request.username or LOCAL_USER),
            words=Words(language_of(request.headers.get("accept-language", ""))),
            place=values.get(self.place) or Place(),
            said=said,
            values=values,
            query=dict(request.query_params),
        )

    def _failed(self, visit: Visit | None, error: Exception, request: gr.Request) -> Updates:
        words = Words(language_of(request.headers.get("accept-language", "")))
        visit = visit or Visit(User("", "", now()), words, Place())
        return self.say(visit, "error", *self.told(visit, error))

    def told(self, visit: Visit, error: Exception) -> tuple[str, str]:
        """An error as a message and what to do. The host reads what is broken, others an id."""
        words = visit.words
        if isinstance(error, UserError):
            return words.say(error.message), words.say(error.hint)
        if isinstance(error, NotAllowed):
            return words("notice_not_found"), words("notice_reload")
        error_id = secrets.token_hex(4)
        log.error("error %s", error_id, exc_info=error)
        if isinstance(error, StudioError) and self.settings.is_host(visit.user.name):
            return words.say(str(error)), ""
        key = "notice_backend" if isinstance(error, StudioError) else "notice_unexpected"
        return words(key), words("notice_error_id", id=error_id)


def started(work: Callable[[], T]) -> Future[T]:
    """Begin work that ends even when the visitor leaves and Gradio drops the event."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="visit")
    begun = pool.submit(work)
    pool.shutdown(wait=False)
    return begun


def _nowhere(visit: Visit, name: str, **changes: str) -> Updates:
    return {}
