"""Plain sentences in place of what was asked, in the browser's language where people read them."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import Scope


def plain(status: int, text: str) -> PlainTextResponse:
    """A sentence that nothing in between may keep."""
    return PlainTextResponse(text, status, headers={"cache-control": "no-store"})


def wait(wait_s: float, request: HTTPConnection) -> PlainTextResponse:
    """To who asks too often: when to ask again."""
    told = f"This is too much in a short time. Wait {wait_s:.0f} seconds, then try again."
    answer = plain(429, spoken(request.scope, told))
    answer.headers["retry-after"] = str(int(wait_s) + 1)
    return answer


def too_much(scope: Scope, most: int, parts: int) -> PlainTextResponse:
    """To who sends more than `most` bytes or `parts` files at once."""
    told = (
        f"At most {parts} files of {most // 1_000_000} MB together can be sent at once; none of "
        "these was taken in. Choose fewer and add them again."
    )
    return plain(413, spoken(scope, told))


def not_kept(scope: Scope, cause: str) -> PlainTextResponse:
    """To whose files the disk does not take; `cause` is for the host alone, empty for others."""
    told = cause or "There is no room for these files just now. Tell the host of this studio."
    told += " None of these files was taken in. Add them again when that is done."
    return plain(507, spoken(scope, told))


def spoken(scope: Scope, text: str) -> str:
    """In the browser's language: the page shows people what an upload of theirs is answered."""
    from studio.ui.strings import Words, language_of  # Gradio comes with it

    asked: bytes = dict(scope["headers"]).get(b"accept-language", b"")
    return Words(language_of(asked.decode("latin-1"))).say(text)
