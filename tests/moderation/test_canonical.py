"""Canonical text: what the encoder gets is what was judged, and hiding a word does not hide it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.evasion import TRANSFORMS
from moderation.canonical import encoder_text, views
from moderation.rules import Rules

RULES = Rules()


@given(st.text(max_size=300))
@settings(max_examples=400, deadline=None)
def test_encoder_text_is_idempotent_and_does_not_grow(text: str) -> None:
    once = encoder_text(text)
    assert encoder_text(once) == once
    assert len(once) <= 2 * len(text)
    assert views(text).encoder == once


@given(
    st.lists(
        st.sampled_from(
            [
                "<",
                ">",
                "(",
                ")",
                "[",
                "]",
                ":",
                "1.2",
                "|",
                "::",
                "++",
                "a",
                " ",
                "\u200d",
                "BREAK",
                "ﷺ",
                "e\u0301",
            ]
        ),
        max_size=40,
    )
)
@settings(max_examples=400, deadline=None)
def test_encoder_text_settles_on_nested_syntax(pieces: list[str]) -> None:
    once = encoder_text("".join(pieces))
    assert encoder_text(once) == once
    assert not set("<>()[]{}") & set(once)


@pytest.mark.parametrize(
    "text",
    ["4k 3d render, 80s", "Mädchen", "हिन्दी में एक लड़की, क्ष", "café, naïve, Zoë", "f/1.8, 35mm",
     "a corgi's head", "中文提示", "صورة فتاة", "می‌خواهم", "rock 'n' roll", "100% wool, $5"],
)  # fmt: skip
def test_ordinary_text_reaches_the_encoder_unharmed(text: str) -> None:
    assert encoder_text(text) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("(portrait:1.5), ((masterpiece))", "portrait, masterpiece"),
        ("a [cat:dog:0.5] in a hat", "a cat dog in a hat"),
        ("<lora:someone:0.8> a man", "a man"),
        ("<sks-style> house", "house"),
        ("embedding:evil_one, tree", ", tree"),
        ("tree BREAK lake", "tree lake"),
        ("zero\u200bwidth \u202ebidi\u202c soft\u00adhyphen", "zerowidth bidi softhyphen"),
        ("𝐛𝐨𝐥𝐝 ｆｕｌｌ", "bold full"),
        ("flower++ lake--", "flower lake"),
        ("a\x00b\tc\n\nd", "ab c d"),
        ("tag\U000e0041\U000e0042", "tag"),
    ],
)
def test_syntax_and_invisible_signs_are_removed(text: str, clean: str) -> None:
    assert encoder_text(text) == clean


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("text", ["a naked woman on a bed", "a decapitated corpse", "a nude man"])
def test_a_hidden_word_is_still_seen_by_some_reading(name: str, text: str) -> None:
    hidden = views(TRANSFORMS[name](text))
    assert RULES.current().judge(hidden) or hidden.signs


@pytest.mark.parametrize(
    "names",
    [
        ("leet", "letters spaced"),
        ("letters spaced", "leet"),
        ("letters spaced", "repeated vowels"),
        ("letters dotted", "letters spaced"),
        ("leet", "letters dotted"),
        ("repeated vowels", "leet"),
        ("fullwidth", "letters spaced"),
        ("cyrillic lookalikes", "weighting syntax"),
        ("leet", "right-to-left override"),
        ("zero-width", "emoji between letters"),
        ("mixed case", "combining strike"),
    ],
    ids=" then ".join,
)
def test_words_hidden_in_two_ways_at_once_are_still_seen(names: tuple[str, str]) -> None:
    text = "a naked woman on a bed"
    for name in names:
        text = TRANSFORMS[name](text)
    hidden = views(text)
    assert RULES.current().judge(hidden) or hidden.signs


@pytest.mark.parametrize(
    "text",
    ["teeeeeen striiip", "teeen striiiiiip", "teen striip", "seexy teeeeen", "t33333n str111p",
     "teeeeeeeeen and s t r i i i p"],
)  # fmt: skip
def test_every_run_of_a_letter_is_read_as_one_and_as_two(text: str) -> None:
    assert "minors" in RULES.current().judge(views(text))


@pytest.mark.parametrize("text", ["🅝🅐🅚🅔🅓", "🅽🆄🅳🅴", "🇳🇺🇩🇪", "n*ked", "n**e woman", "p#ssy", "ⓝⓤⓓⓔ"])
def test_letters_in_discs_and_flags_and_letters_starred_out_are_read(text: str) -> None:
    assert "sexual" in RULES.current().judge(views(text))


@pytest.mark.parametrize(
    "text", ["4k 3d render, 80s", "1girl, solo", "mp3 player from 1999", "U.S.A. flag", "2b or not 2b",
             "the 3rd man, 35mm f/2.8", "wow!!! soooo pretty", "❤ heart ❤ on a card", "C3PO and R2D2",
             "a 2 x 4 m wall", "3 2 1 0 go", "flag 🇩🇪 and 🇺🇸", "5* hotel lobby", "route 6 6 sign", "A* student"]
)  # fmt: skip
def test_ordinary_writing_gives_no_sign_and_no_term(text: str) -> None:
    seen = views(text)
    assert seen.signs == ()
    assert RULES.current().judge(seen) == frozenset()
