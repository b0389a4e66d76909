"""Every text of the page, in English and German: one table per language in `words/`.

Gradio's own components are translated in the browser (`label("key")`), our HTML on the server in
the language the browser asks for first; both read the same tables.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import gradio as gr

LANGUAGES = ("en", "de")
FOLDER = Path(__file__).parent / "words"
WORDED = ("base", "words")
MEASURED = ("size", "gb", "have", "most")
QUOTED = ("file", "files", "fault", "why")
"""Names of values in other rooms' sentences: words, numbers, and what may hold a whole sentence."""
_ANYTHING, _WITHIN = ".+?", r"(?:(?!\. ).)+?"
_DECIMAL = re.compile(r"\d+\.\d+$")


@cache
def table(language: str) -> dict[str, str]:
    """All texts of a language, flat: `photos_title` is `title` under `[photos]`."""
    sections = tomllib.loads((FOLDER / f"{language}.toml").read_text("utf-8"))
    return {
        f"{section}_{key}": text
        for section, texts in sections.items()
        for key, text in texts.items()
    }


@cache
def translations() -> gr.I18n:
    """The tables for the browser, to be mounted with the page."""
    return gr.I18n(**{language: table(language) for language in LANGUAGES})


@cache
def sentences(language: str) -> list[tuple[re.Pattern[str], str]]:
    """What other rooms say in English, as patterns, and how this language says it."""
    path = FOLDER / f"said_{language}.toml"
    if not path.exists():
        return []
    said = tomllib.loads(path.read_text("utf-8"))
    return [(_pattern(english), ours) for english, ours in said.items()]


def _pattern(english: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", english)
    named = [
        f"(?P<{part}>{_ANYTHING if part in QUOTED else _WITHIN})" if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    ]
    return re.compile("".join(named), re.DOTALL)


def label(key: str) -> gr.i18n.I18nData:
    """A text for a Gradio component, chosen by the browser. Raises `KeyError` if unknown."""
    table("en")[key]
    return translations()(key)


class Words:
    """Texts of one language. `words("photos_missing", count=3)` fills `{count}`."""

    def __init__(self, language: str) -> None:
        self.language = language if language in LANGUAGES else "en"
        self._texts = table(self.language)

    def __call__(self, key: str, **values: object) -> str:
        """Raises `KeyError` for an unknown key; `key_one` is used instead where `count` is 1."""
        if values.get("count") == 1 and f"{key}_one" in self._texts:
            key = f"{key}_one"
        text = self._texts[key]
        return text.format(**values) if values else text

    def known(self, key: str, otherwise: str) -> str:
        """The text of a key that may have none, such as a word of a model's report."""
        return self._texts.get(key, otherwise)

    def say(self, message: str) -> str:
        """Another room's English message in this language; as it is where we have no words."""
        for pattern, ours in sentences(self.language):
            if found := pattern.fullmatch(message):
                return ours.format(
                    **{name: self._value(name, value) for name, value in found.groupdict().items()}
                )
        first, dot, rest = message.partition(". ")
        return f"{self.say(first + '.')} {self.say(rest)}" if dot else message

    def _value(self, name: str, value: str) -> str:
        """A value of another room's sentence as this language writes it."""
        if name in WORDED:
            return self.say(value)
        return self.number(float(value)) if name in MEASURED and _DECIMAL.match(value) else value

    def duration(self, seconds: float) -> str:
        """A length of time as people say it: seconds below 90, minutes below 90, then hours."""
        if seconds < 90:
            return self("time_seconds", count=max(1, round(seconds)))
        if seconds < 90 * 60:
            return self("time_minutes", count=round(seconds / 60))
        return self("time_hours", count=round(seconds / 3600))

    def number(self, value: float, places: int | None = None) -> str:
        """A number with the language's decimal mark; as short as it can be, or to `places`."""
        text = f"{value:g}" if places is None else f"{value:.{places}f}"
        return text.replace(".", ",") if self.language == "de" else text

    def size(self, count_bytes: int) -> str:
        """Bytes as MB with one decimal (10^6 bytes)."""
        return f"{self.number(count_bytes / 1e6, 1)} MB"

    def gigabytes(self, count_bytes: int) -> str:
        """Bytes as GB with one decimal (10^9 bytes)."""
        return f"{self.number(count_bytes / 1e9, 1)} GB"


def language_of(accept: str) -> str:
    """What an Accept-Language header asks for first, if it is one of ours; English otherwise.

    Later wishes do not count: Gradio goes by the first alone, and one page has one language.
    """
    first = accept.split(",")[0].split(";")[0].strip().lower()[:2]
    return first if first in LANGUAGES else "en"
