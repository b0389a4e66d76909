"""Prompt composition: order, negatives first, nothing pushed out of the window."""

import re

import pytest

from prompts.catalog import load_styles
from prompts.compose import compose, person_phrase, predefined_negative

STYLES = load_styles()


def test_the_person_comes_first_and_free_text_last() -> None:
    style = STYLES.get("anime")
    made = compose(style, person=person_phrase("sks"), family="sd15", text=" wearing a hat, ")
    assert made.text == "anime key visual of sks person, cel shading, bright eyes, " + (
        "detailed hair, soft sky, wearing a hat"
    )


def test_empty_text_leaves_no_comma() -> None:
    made = compose(STYLES.get("starter-manga"), person="sks person", family="starter", text="  ")
    assert made.text == "a portrait of sks person, manga style"


def test_braces_in_free_text_are_only_text() -> None:
    made = compose(STYLES.get("anime"), person="sks person", family="sd15", text="{person} {0}")
    assert made.text.endswith("{person} {0}")


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_predefined_negatives_stay_first_and_fit_the_window(family: str) -> None:
    predefined = predefined_negative(family)
    made = compose(STYLES.get("anime"), person="p", family=family, negative="something long " * 200)
    assert made.negative.startswith(predefined + ", ")
    words = re.findall(r"\w+", predefined)
    # CLIP splits an English word into two pieces at most here, and each comma is one piece.
    assert 2 * len(words) + predefined.count(",") <= 75


def test_the_starter_gets_no_words_it_does_not_know() -> None:
    assert predefined_negative("starter") == ""


def test_a_style_of_another_family_is_refused_with_both_names() -> None:
    with pytest.raises(ValueError, match=r"anime.*starter"):
        compose(STYLES.get("anime"), person="p", family="starter")
