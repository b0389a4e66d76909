"""The local text checks: rules, readability and language. Each judges one text at one stage.

Knows nothing of styles, fields or users: the chain decides which texts are judged.
"""

from __future__ import annotations

import time
import unicodedata
from functools import lru_cache

from moderation import canonical
from moderation.canonical import Views
from moderation.policy import Label, Policy
from moderation.rules import Rules
from moderation.verdict import Stage, Verdict

MAX_CHARACTERS = 1500
"""Longer prompts are held: an encoder reads no more than the first 77 tokens of them anyway."""
READ_CHARACTERS = 4 * MAX_CHARACTERS
"""How much of what was sent is looked at; signs between letters may take up most of it."""
_STRANGE_LETTERS = 2
_WORD_SIGN = "CJK"
"""Of this script a single letter is a word; of others it may be a sign of mathematics."""


@lru_cache(maxsize=16)
def views_of(text: str) -> Views:
    """The judging views of a text, shared by the checks that judge it one after another."""
    return canonical.views(text)


class RulesCheck:
    """Judges a text by the rules files; a negative field by its own list."""

    backend = "rules"

    def __init__(self, rules: Rules, policy: Policy, stage: Stage) -> None:
        self._rules = rules
        self._policy = policy
        self._stage = stage

    @property
    def version(self) -> str:
        """The version of the rules as they are now; raises RulesError when they are broken."""
        return self._rules.current().version

    def check(self, text: str) -> Verdict:
        """Judge one text. Raises RulesError when the rules cannot be read."""
        began = time.perf_counter()
        rules = self._rules.current()
        views = views_of(text[:READ_CHARACTERS])
        negative = self._stage is Stage.NEGATIVE_PROMPT
        found = rules.judge_negative(views) if negative else rules.judge(views)
        labels = [Label(name, 1.0) for name in sorted(found)]
        ms = (time.perf_counter() - began) * 1000
        return self._policy.judge(labels, self._stage, self.backend, rules.version, ms)


class ReadabilityCheck:
    """Holds what nobody can read: too long, hidden in signs, or in a script other than Latin."""

    backend = "readability"
    version = "1"

    def __init__(self, policy: Policy, stage: Stage) -> None:
        self._policy = policy
        self._stage = stage

    def check(self, text: str) -> Verdict:
        """Judge one text by how it is written, not by what it says."""
        began = time.perf_counter()
        labels = []
        views = views_of(text[:READ_CHARACTERS])
        if len(text) > READ_CHARACTERS or len(views.encoder) > MAX_CHARACTERS:
            labels.append(Label("too long", 1.0))
        if views.signs:
            labels.append(Label("unreadable", 1.0))
        if _strange(views.encoder) >= _STRANGE_LETTERS:
            labels.append(Label("language", 1.0))
        ms = (time.perf_counter() - began) * 1000
        return self._policy.judge(labels, self._stage, self.backend, self.version, ms)


def _strange(text: str) -> int:
    """How many letters are of other scripts than Latin; one that is a whole word counts as two."""
    names = [
        unicodedata.name(character, "")
        for character in text
        if ord(character) > 0x24F and unicodedata.category(character)[0] == "L"
    ]
    return sum(
        _STRANGE_LETTERS if name.startswith(_WORD_SIGN) else 1
        for name in names
        if not name.startswith("LATIN")
    )
