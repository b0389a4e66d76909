"""Pages outside of the studio, in the browser's language: the sign-in, and that nothing is here."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse

from studio.web.accounts import Visitors

if TYPE_CHECKING:
    from studio.ui.strings import Words

_PAGE = """<!doctype html><html lang="{language}"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Avatar Studio</title>
<style>:root{{color-scheme:light dark}}body{{font:16px system-ui,sans-serif;color:#232126;margin:0;
background:#faf8f5;display:grid;place-items:center;min-height:100vh}}main,form{{display:grid;gap:16px}}
main{{background:#fff;border:1px solid #e2dcd3;border-radius:16px;padding:32px;
width:min(320px,80vw)}}h1,p{{margin:0}}label{{display:grid;gap:6px}}input,button,.key{{font:inherit;
padding:12px;border-radius:12px;border:1px solid #8d857a;box-sizing:border-box;width:100%}}
button,.key{{background:#3a4bb8;color:#fff;border:0;text-align:center;text-decoration:none;
font-weight:600}}.bad{{color:#a3271f}}@media(prefers-color-scheme:dark){{body{{background:#17161a;
color:#efedf2}}main{{background:#1f1d23;border-color:#38353d}}input{{background:#27252b;color:inherit}}
button,.key{{background:#9ca8ec;color:#171d40}}.bad{{color:#f29b94}}}}</style>
<main><h1>Avatar Studio</h1>{inside}</main></html>"""

_PASSWORD = """<form method="post" action="{up}login">
<label>{name}<input name="name" autocomplete="username" required autofocus></label>
<label>{password}<input name="password" type="password" autocomplete="current-password" required>
</label><button>{sign_in}</button></form>"""


def sign_in(
    request: HTTPConnection, visitors: Visitors, notice: str, status: int, *, up: str = ""
) -> HTMLResponse:
    """The ways into this studio, after a notice; `up` leads from the address to the studio's."""
    words = _words(request)
    inside = f'<p class="bad" role="alert">{escape(words.say(notice))}</p>' if notice else ""
    if visitors.accounts is not None:
        labels = {key: words(f"doorway_{key}") for key in ("name", "password", "sign_in")}
        inside += _PASSWORD.format(up=up, **labels)
    if visitors.provider is not None:
        # A provider refuses to be shown inside another page, as a Space shows its app.
        target = ' target="_blank"' if visitors.settings.space else ""
        host = urlsplit(visitors.provider.issuer).hostname or words("doorway_provider")
        said = escape(words("doorway_sign_in_with", host=host))
        inside += f'<a class="key" href="{up}login/oidc"{target}>{said}</a>'
    return _page(words, inside, status)


def nothing_here(request: HTTPConnection) -> HTMLResponse:
    """To a person at an address that we do not have: where the studio is."""
    words = _words(request)
    home = escape(request.scope.get("root_path", "") + "/")
    inside = f'<p>{escape(words("doorway_nothing"))}</p><a class="key" href="{home}">'
    return _page(words, inside + f"{escape(words('doorway_home'))}</a>", 404)


def reads_pages(request: HTTPConnection) -> bool:
    """Whether a browser asks for something to look at, not a program or a script of a page."""
    return "text/html" in request.headers.get("accept", "")


def _words(request: HTTPConnection) -> Words:
    from studio.ui.strings import Words, language_of  # Gradio comes with it

    return Words(language_of(request.headers.get("accept-language", "")))


def _page(words: Words, inside: str, status: int) -> HTMLResponse:
    whole = _PAGE.format(language=words.language, inside=inside)
    return HTMLResponse(whole, status, headers={"cache-control": "no-store"})
