"""Text in its canonical forms: one for the encoder, several for judging.

The encoder gets `encoder_text`, and nothing else, so what is judged is what is drawn. The judging
views undo ways of hiding words; they never reach an encoder. Knows no rule and no model.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

_ANGLE = re.compile(r"<[^<>]{0,200}>")
_EMBEDDING = re.compile(
    r"\bembedding:[\w.\-]+|\b(?:lora|lyco|hypernet|textual_inversion):[\w.\-:]+"
)
_WEIGHT = re.compile(r":\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*(?=[)\]}])")
_DOUBLE_COLON = re.compile(r"::\s*-?\d*\.?\d*")
_COMPEL = re.compile(r"(?<=[\w)\]])(?:\+{1,10}|-{2,10})(?!\w)")
_BREAK = re.compile(r"\bBREAK\b")
_CHOICE = re.compile(r"(?<=[\w ])[|](?=[\w ])")
_SPACE = re.compile(r"\s+")
_BRACKETS = str.maketrans("", "", "()[]{}<>")
_INNER_SWITCH = re.compile(r"\[([^\[\]]*?):([^\[\]]*?)\]")

# Joiners carry meaning between letters of these scripts and nowhere else.
_JOINER_SCRIPTS = (
    "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA",
    "MALAYALAM", "SINHALA", "ARABIC", "MONGOLIAN", "KHMER", "MYANMAR",
)  # fmt: skip
_JOINERS = "\u200c\u200d"
_OVERRIDE = re.compile("[\u202d\u202e]([^\u202c\u202d\u202e]*)\u202c?")
_MAX_MARKS = 2

# Characters that look like Latin letters, after casefolding. Sources: Unicode's confusables (the
# letters people use), Latin small capitals and phonetic letters, which NFKC leaves alone.
_LOOKALIKES = {
    "a": "аαɑᴀәаӑӓ∀ⱥ", "b": "ьвʙβƀɓЬъ", "c": "сϲᴄҫςƈ¢", "d": "ԁᴅđɗժ", "e": "еєэεᴇҽ℮ёѐəɛ",
    "f": "ғƒϝſẝ", "g": "ɡɢԍցǥ", "h": "һнʜհћђ", "i": "іıɩιїɪǐӏ", "j": "јϳᴊʝ", "k": "кκᴋқƙ",
    "l": "ʟӏłƚɭ", "m": "мᴍμ", "n": "пηɴոռиʼnñν", "o": "оοσᴏօөøòόώ०๐ဝ", "p": "рρᴘþ",
    "q": "ԛգ", "r": "гʀɾяɍ", "s": "ѕꜱʂ", "t": "тτᴛŧƭ", "u": "υᴜսцμʋ", "v": "ѵνᴠѵ",
    "w": "ѡωᴡшɯԝ", "x": "хχҳ×", "y": "уүʏγўჸყ", "z": "ᴢȥʐзᴤ",
}  # fmt: skip
_FOLD: dict[int, str] = {}
for _latin, _others in _LOOKALIKES.items():
    for _other in _others:
        _FOLD.setdefault(ord(_other), _latin)
_FOLD.update({ord("æ"): "ae", ord("œ"): "oe", ord("ß"): "ss"})
# White letters on black discs and squares, and the letters that make flags: no other form has them.
for _first in (0x1F150, 0x1F170, 0x1F1E6):
    _FOLD.update({_first + _place: chr(ord("a") + _place) for _place in range(26)})
# Cherokee and Armenian capitals that casefold away from their Latin twins are left to the rule that
# stops words of mixed scripts.

_LEET = str.maketrans("4301578@$!|€£9", "aeoistbasileeg")
_LEET_L = str.maketrans("4301578@$!|€£9", "aeolstbaslleeg")
_SMALL = re.compile(r"[a-z]")
_DIGIT_LIKE = re.compile(r"[0-9@$!|€£]")
_MEASURE = re.compile(
    r"^(?:\d+[a-z]|\d+(?:st|nd|rd|th|mm|cm|px|fps|ft|kg|mp|gb|iso|bit|girls?|boys?|others?|x\d+)"
    r"|[a-z]{1,2}\d+|v\d+(?:\.\d+)*)$"
)
_TOKEN = re.compile(r"[^\s,;]+")
_SPACED = re.compile(
    r"(?<![^\W_])([^\W\d_])\1*(?:[\s._\-*'·•|/\\~^+=:;,]{1,3}([^\W\d_])\2*){2,}(?![^\W_])"
)
_SPACED_LEET = re.compile(
    r"(?<![^\W_])[a-z0-9@$!€£](?:[\s._\-*'·•|/\\~^+=:;,]{1,3}[a-z0-9@$!€£]){2,}(?![^\W_])"
)
_WIDE_GAP = re.compile(r"(?<=\S)(?:\s{2,}|[\t\n\r])(?=\S)")
_SEPARATORS = re.compile(r"[\s._\-*'·•|/\\~^+=:;,]+")
_INSIDE = re.compile(r"(?<=[a-z])[._\-*'·•|/\\~^+=]{1,2}(?=[a-z])")
_LONG_RUN = re.compile(r"([^\W\d_])\1{2,}")
_PAIR = re.compile(r"([^\W\d_])\1+")
_VOWEL = re.compile(r"[aeiou]+")
_STRETCHED = re.compile(r"([^\W\d_])\1\1|aa|ii|uu")
_DOUBTFUL_WORD = re.compile(r"[^\W\d_]*(?:([^\W\d_])\1\1|([aeiou])\2)[^\W\d_]*")
_MOST_RUNS = 3
_LONGEST_WORD = 15
"""More letters in a row, written apart, are words whose ends are lost."""


@dataclass(frozen=True)
class Views:
    """What is judged. `encoder` is what is drawn; the others are read by the checks only.

    `plain` is always there; `variants` are the further readings that differ from it; `signs` name
    the ways of writing that ordinary prompts do not use.
    """

    encoder: str
    plain: str
    variants: tuple[str, ...]
    joined_runs: tuple[str, ...]
    signs: tuple[str, ...]


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    """The script of a letter, from the first word of its Unicode name ("" when it has none)."""
    return unicodedata.name(character, "").split(" ", 1)[0]


def _strip_invisible(text: str) -> str:
    """Remove control, format, private and filler characters; keep joiners that matter."""
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    for character in text:
        if character in "\t\n\r\v\f\x85\u2028\u2029":
            kept.append(" ")
            continue
        if character in _JOINERS:
            if kept and _script(kept[-1]) in _JOINER_SCRIPTS:
                kept.append(character)
            continue
        if "\ufe00" <= character <= "\ufe0f" or "\U000e0000" <= character <= "\U000e0fff":
            continue
        if character in "\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5":
            continue
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Cs", "Co", "Cn"):
            continue
        kept.append(character)
    return "".join(kept)


def _strip_overlays(text: str) -> str:
    """Remove strike-through and enclosing marks, and piles of more than two marks on a letter."""
    if text.isascii():
        return text
    kept: list[str] = []
    marks = 0
    for character in text:
        point = ord(character)
        if 0x0334 <= point <= 0x0338 or 0x20D0 <= point <= 0x20F0:
            continue
        marks = marks + 1 if 0x0300 <= point <= 0x036F else 0
        if marks <= _MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def _strip_syntax(text: str) -> str:
    """Remove weighting, scheduling, network and embedding syntax of the usual drawing tools."""
    text = _ANGLE.sub("", text)
    text = _EMBEDDING.sub("", text)
    text = _INNER_SWITCH.sub(
        lambda m: m.group(0) if _WEIGHT.search(m.group(0)) and ":" not in m.group(1) and not
        m.group(2).strip("+-. 0123456789") else f"[{m.group(1)} {m.group(2)}]", text
    )  # fmt: skip
    text = _WEIGHT.sub("", text)
    text = _DOUBLE_COLON.sub(" ", text)
    text = _COMPEL.sub("", text)
    text = _BREAK.sub(" ", text)
    text = _CHOICE.sub(" ", text)
    text = text.translate(_BRACKETS)
    if text.isascii():
        return text
    return "".join(c for c in text if unicodedata.category(c) not in ("Ps", "Pe"))


def _once(text: str) -> str:
    text = unicodedata.normalize("NFKC", text.replace("…", "."))
    text = _strip_overlays(_strip_invisible(text))
    text = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    text = _strip_syntax(text)
    text = unicodedata.normalize("NFKC", text)
    return _SPACE.sub(" ", text).strip()


@lru_cache(maxsize=16)
def encoder_text(text: str) -> str:
    """The text that may reach an encoder: NFKC, no invisible characters, no prompt syntax.

    Idempotent, and never more than twice as long as what went in.
    """
    limit = 2 * len(text)
    while True:
        cleaned = _once(text)[:limit].rstrip()
        if cleaned == text:
            return cleaned
        text = cleaned


def plain_view(text: str) -> str:
    """Casefolded, marks stripped from Latin, Greek and Cyrillic letters, lookalikes made Latin."""
    if text.isascii():
        return text.casefold()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    kept = [c for c in decomposed if not 0x0300 <= ord(c) <= 0x036F]
    return unicodedata.normalize("NFC", "".join(kept)).translate(_FOLD)


def _leet_view(plain: str, table: dict[int, int]) -> str:
    plain = _SPACED_LEET.sub(
        lambda run: run[0].translate(table) if _SMALL.search(run[0]) else run[0], plain
    )
    tokens = _TOKEN.findall(plain)
    mixed = [t for t in tokens if _SMALL.search(t) and _DIGIT_LIKE.search(t)]
    telling = [t for t in mixed if not _MEASURE.match(t.strip(".!?\"'"))]
    digits = sum(1 for t in tokens if _DIGIT_LIKE.search(t))
    everywhere = len(telling) >= 3 or (bool(telling) and digits * 2 >= len(tokens))

    def decode(match: re.Match[str]) -> str:
        token = match.group(0)
        core = token.rstrip("!?.")
        if not everywhere and (not _SMALL.search(core) or _MEASURE.match(core)):
            return token
        return core.translate(table)

    return _TOKEN.sub(decode, plain)


@lru_cache(maxsize=4096)
def _is_symbol(character: str) -> bool:
    return unicodedata.category(character) in ("So", "Sk") or 0x1F000 <= ord(character) <= 0x1FAFF


def _without_symbols(plain: str, gap: str) -> str:
    return _SPACE.sub(" ", "".join(gap if _is_symbol(c) else c for c in plain)).strip()


def _joined(plain: str) -> tuple[str, tuple[str, ...]]:
    """Letters that were written apart put together, and those runs by themselves."""
    runs: list[str] = []

    def join(match: re.Match[str]) -> str:
        run = match[0]
        tight = len(re.findall(r"(?<=\w)[^\w\s](?=\w)", run))
        # "n.u.d.e m.a.n": where another sign joins the letters, spaces stand between words.
        parts = re.split(r"\s+", run) if tight > len(re.findall(r"\s+", run)) else [run]
        words = [_SEPARATORS.sub("", part) for part in parts]
        runs.append("".join(words))
        return " ".join(words)

    text = _SPACED.sub(join, plain)
    return _INSIDE.sub("", text), tuple(runs)


def _stretched(plain: str) -> bool:
    vowels = _VOWEL.findall(plain)
    doubled = sum(1 for v in vowels if re.search(r"(.)\1", v))
    return bool(_STRETCHED.search(plain)) or (doubled >= 3 and doubled * 2 > len(vowels))


def _shortened(plain: str) -> list[str]:
    """Readings of a text whose letters were repeated: `seeeexy teeeeeen`."""
    unit = min((len(run[0]) for run in _LONG_RUN.finditer(plain)), default=1)
    readings = [
        _LONG_RUN.sub(r"\1\1", plain),
        _LONG_RUN.sub(r"\1", plain),
        _PAIR.sub(r"\1", plain),
        # All letters repeated as often: six of them were two.
        _LONG_RUN.sub(lambda run: run[1] * min(2, round(len(run[0]) / unit)), plain),
        _DOUBTFUL_WORD.sub(lambda word: " ".join(_forms(word[0])), plain),
    ]
    return list(dict.fromkeys(readings))


def _forms(word: str) -> list[str]:
    """What a stretched word may have been: each run of a letter one or two of them."""
    forms = [""]
    end = 0
    for number, run in enumerate(_PAIR.finditer(word)):
        kept = (run[1], 2 * run[1]) if number < _MOST_RUNS else (run[1],)
        forms = [form + word[end : run.start()] + letters for form in forms for letters in kept]
        end = run.end()
    return [form + word[end:] for form in forms]


def _signs(raw: str, encoder: str, runs: tuple[str, ...]) -> tuple[str, ...]:
    signs = []
    letters = sum(c.isalpha() for c in encoder)
    if max(map(len, runs), default=0) > _LONGEST_WORD and sum(map(len, runs)) >= letters // 2:
        signs.append("letters apart")
    if not encoder.isascii() and any(map(_mixed_scripts, re.findall(r"[^\W\d_]+", encoder))):
        signs.append("mixed scripts")
    if (
        len(re.findall(r"(?<=[^\W\d_])[^\w\s]+(?=[^\W\d_])", _only_symbols_and_letters(encoder)))
        >= 2
    ):
        signs.append("symbols between letters")
    if _OVERRIDE.search(raw):
        signs.append("direction override")
    return tuple(signs)


def _only_symbols_and_letters(text: str) -> str:
    return "".join(c if c.isalpha() or c.isspace() or _is_symbol(c) else " " for c in text)


def _mixed_scripts(word: str) -> bool:
    scripts = {_script(c) for c in word if ord(c) > 127 or c.isascii()} - {"", "MODIFIER"}
    if "LATIN" not in scripts:
        return False
    return bool(scripts & {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})


def views(text: str) -> Views:
    """All readings of a text that are worth judging. `text` is what the person sent, untouched."""
    encoder = encoder_text(text)
    plain = plain_view(encoder)
    readings: list[str] = [encoder.casefold()]
    turned = _OVERRIDE.sub(lambda m: m.group(1)[::-1], text)
    if turned != text:
        readings.append(plain_view(encoder_text(turned)))
    bare, apart = _without_symbols(plain, ""), _without_symbols(plain, " ")
    if bare != plain:
        readings += [bare, apart]
    base = bare
    unleet, unleet_l = _leet_view(base, _LEET), _leet_view(base, _LEET_L)
    readings += [unleet, unleet_l]
    wide = _WIDE_GAP.sub(" ,, ", text)
    if wide != text:
        base = _without_symbols(plain_view(encoder_text(wide)), "")
        unleet = _leet_view(base, _LEET)
    joined, runs = _joined(base)
    joined_leet, leet_runs = _joined(unleet)
    readings += [joined, joined_leet]
    for reading in (joined, joined_leet):
        if _stretched(reading):
            readings += _shortened(reading)
    variants = tuple(dict.fromkeys(r for r in readings if r and r != plain))
    runs = tuple(dict.fromkeys((*runs, *leet_runs)))
    return Views(encoder, plain, variants, runs, _signs(text, encoder, runs))
