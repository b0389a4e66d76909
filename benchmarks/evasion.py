"""Ways of hiding words from a filter: each takes a prompt and gives one that reads the same."""

from __future__ import annotations

import re
from collections.abc import Callable

_LEET = str.maketrans("aeiostAEIOST", "431057431057")
_CYRILLIC = str.maketrans("aceopxyiksABCEHKMOPTX", "асеорхуікѕАВСЕНКМОРТХ")
_GREEK = str.maketrans("aeiokvpntuxABEHIKMNOPTXYZ", "αειοκνρητυχΑΒΕΗΙΚΜΝΟΡΤΧΥΖ")
_LONG_WORD = re.compile(r"[A-Za-z]{4,}")


def _within_words(text: str, sign: str) -> str:
    return re.sub(r"(?<=[A-Za-z])(?=[A-Za-z])", sign, text)


def _shifted(text: str, lower: int, upper: int) -> str:
    out = []
    for c in text:
        if "a" <= c <= "z":
            out.append(chr(lower + ord(c) - ord("a")))
        elif "A" <= c <= "Z":
            out.append(chr(upper + ord(c) - ord("A")))
        else:
            out.append(c)
    return "".join(out)


def _fullwidth(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _mixed_case(text: str) -> str:
    return "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(text))


def _split_by_brackets(text: str) -> str:
    return _LONG_WORD.sub(lambda m: f"{m[0][:2]}[]{m[0][2:]}", text)


def _weighted(text: str) -> str:
    return _LONG_WORD.sub(lambda m: f"({m[0]}:1.5)", text)


TRANSFORMS: dict[str, Callable[[str], str]] = {
    "leet": lambda t: t.translate(_LEET),
    "zero-width": lambda t: _within_words(t, "\u200b"),
    "soft hyphen": lambda t: _within_words(t, "\u00ad"),
    "fullwidth": _fullwidth,
    "mathematical bold": lambda t: _shifted(t, 0x1D41A, 0x1D400),
    "combining strike": lambda t: re.sub(r"([A-Za-z])", "\\1\u0336", t),
    "cyrillic lookalikes": lambda t: t.translate(_CYRILLIC),
    "greek lookalikes": lambda t: t.translate(_GREEK),
    "letters spaced": lambda t: "   ".join(" ".join(word) for word in t.split()),
    "letters dotted": lambda t: " ".join(".".join(word) for word in t.split()),
    "split by brackets": _split_by_brackets,
    "repeated vowels": lambda t: re.sub(r"([aeiouAEIOU])", r"\1\1\1", t),
    "mixed case": _mixed_case,
    "weighting syntax": _weighted,
    "emoji between letters": lambda t: _within_words(t, "😀"),
    "right-to-left override": lambda t: f"\u202e{t[::-1]}\u202c",
}
