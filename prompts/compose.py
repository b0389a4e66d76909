"""The only place where prompt text is composed: a style, a person's phrase and free text.

Knows nothing of verdicts: the studio has each part and the whole judged before anything is drawn.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prompts.style import Style


@dataclass(frozen=True)
class Composed:
    """What the encoder gets: the prompt and the negative prompt."""

    text: str
    negative: str


def person_phrase(token: str, class_noun: str = "person") -> str:
    """How a trained person is named: identifier, then class (DreamBooth, arXiv 2208.12242)."""
    return f"{token} {class_noun}"


def compose(
    style: Style, *, person: str, family: str, text: str = "", negative: str = ""
) -> Composed:
    """Fill the style with the person's phrase and append the cleaned free text.

    The person comes first and the free text last, so that text beyond the encoder's window never
    costs the likeness. Raises `ValueError` when the style does not fit the base's family.
    """
    if family not in style.families:
        fitting = ", ".join(style.families)
        raise ValueError(f"Style `{style.id}` fits {fitting} but the base is of family {family!r}.")
    wanted = style.prompt.replace("{person}", person)
    free = text.strip().strip(",").strip()
    predefined = predefined_negative(family)
    refused = ", ".join(part for part in (predefined, style.negative, negative.strip()) if part)
    return Composed(f"{wanted}, {free}" if free else wanted, refused)


def predefined_negative(family: str) -> str:
    """The list that always comes first in the negative prompt of this family; may be empty."""
    families, categories = _negatives()
    if family not in families:
        return ""
    return ", ".join(term for terms in categories.values() for term in terms)


@cache
def _negatives() -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    table = tomllib.loads((Path(__file__).parent / "negatives.toml").read_text("utf-8"))
    return tuple(table["families"]), {k: tuple(v) for k, v in table["categories"].items()}
