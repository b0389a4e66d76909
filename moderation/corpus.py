"""The authored training corpus: picture prompts composed from phrases, harmful and harmless.

The same seed gives the same prompts. Knows no model; the phrases are data in `corpus/`.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moderation.canonical import plain_view

FOLDER = Path(__file__).with_name("corpus")
HARMLESS = "harmless"
WORD = "word"
"""A single word: it says what language it is of, and nothing of harm."""
JUDGED = frozenset({"en", "de"})
"""The languages that the classifier understands; prompts in any other are held."""
_SLOT = re.compile(r"\{(\w+)\}")
_APART = re.compile(r"(?<=\S)(?=\S)")
_LETTERS = re.compile(r"[^\W\d_]{3,}")
_OWN = frozenset({"authored", "written"})
_CRIED = re.compile(r"[aeiouy](?=\w?\b)")

Lists = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Example:
    """One text to learn from. `kind` is a category of policy or `harmless`; `picture`: a picture
    prompt rather than a sentence; `language` as ISO 639 code.
    """

    text: str
    kind: str
    source: str
    picture: bool = True
    language: str = "en"

    @property
    def foreign(self) -> bool:
        """In a language that is not judged but held."""
        return self.language not in JUDGED


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / name).read_text("utf-8"))


class Author:
    """Composes prompts. One instance for one seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._shared = _read("shared.toml")

    def examples(self, size: int) -> Iterator[Example]:
        """About twice `size` harmful prompts and seven times `size` harmless ones in English, a
        third of `size` and about `size` in German.
        """
        yield from self._harmful(size)
        yield from self._harmless(2 * size)
        yield from self._everyday(3 * size)
        yield from self._ordinary(2 * size)
        yield from self._german(size // 3)

    def _harmful(self, size: int) -> Iterator[Example]:
        words, rng = _read("harmful.toml"), self._rng
        shares = {"sexual": 0.40, "violent": 0.30}
        slots = {
            "sexual": {"state": words["sexual_states"], "act": words["sexual_acts"]},
            "violent": {"state": words["violent_states"], "act": words["violent_acts"],
                        "thing": words["violent_things"]},
        }  # fmt: skip
        for kind, share in shares.items():
            for _ in range(int(size * share)):
                yield self._example(rng.choice(words[f"{kind}_frames"]), slots[kind], kind)
        lone = {"disturbing": 0.06, "hate": 0.06, "other": 0.06, "violent_more": 0.20}
        kinds = {"other": "other_harm", "violent_more": "violent"}
        for name, share in lone.items():
            things = {"thing": words.get(f"{name}_things", words.get(name, []))}
            for _ in range(int(size * share)):
                frame = rng.choice(("{thing}", "a picture of {thing}", "{thing} {place}"))
                yield self._example(frame, things, kinds.get(name, name))
        deep = words | {"damage": words["part_damage"], "off": words["garment_off"]}
        for kind, name, share in (("violent", "violence", 0.60), ("sexual", "intimacy", 0.35)):
            for _ in range(int(size * share)):
                yield self._example(rng.choice(words[f"{name}_frames"]), deep, kind)
        minors = {"who": words["minor_who"], **slots["sexual"]}
        for _ in range(int(size * 0.06)):
            yield self._example(rng.choice(("{who} {state}", "{who} {act}")), minors, "sexual")

    def _harmless(self, size: int) -> Iterator[Example]:
        rng, source = self._rng, _read("harmless.toml")
        lists = {"look": source["looks"], "doing": source["doings"], "thing": source["things"]}
        for text in (*source["sentences"], *_read("captions.toml")["learn"]):
            yield Example(text, HARMLESS, "written")
            yield self._decorated(text, HARMLESS, 1.0)
        for _ in range(int(size * 0.45)):
            yield self._example(rng.choice(source["frames_people"]), lists, HARMLESS)
        for _ in range(int(size * 0.30)):
            yield self._example(rng.choice(source["frames_things"]), lists, HARMLESS)
        for _ in range(int(size * 0.25)):
            tags = rng.sample(source["avatar_tags"], rng.randint(2, 14))
            tags += rng.sample(self._shared["tags"], rng.randint(0, 6))
            rng.shuffle(tags)
            yield Example(", ".join(tags), HARMLESS, "authored")
        for _ in range(int(size * 0.10)):
            tags = rng.sample(self._shared["tags"], rng.randint(1, 12))
            yield Example(", ".join(tags), HARMLESS, "authored")

    def _everyday(self, size: int) -> Iterator[Example]:
        """Plain captions of plain things, half of them as captions are written."""
        rng, words = self._rng, _read("everyday.toml")
        frames = [*words["frames"], *words["facts"], *words["touches"]]
        for _ in range(size):
            text = self._filled(rng.choice(frames), words)
            if rng.random() < 0.5:
                text = f"{text[:1].upper()}{text[1:].rstrip('.')}."
            yield self._decorated(text, HARMLESS, 0.15)

    def _ordinary(self, size: int) -> Iterator[Example]:
        """What people of an avatar studio write, in words that harmful prompts use, too."""
        words = _read("ordinary.toml")
        lists = {**self._shared, "tag": self._shared["tags"], **words}
        for text in words["sentences"]:
            yield Example(text, HARMLESS, "written")
        for text in words["lone"]:
            yield Example(text, HARMLESS, "authored")
        for number in range(size):
            text = self._filled(self._rng.choice(words["frames"]), lists)
            if number % 25 == 0:
                yield Example(self._stretched(text), HARMLESS, "authored")
            elif number % 50 == 1:
                yield Example(_APART.sub(" ", text.upper()), HARMLESS, "authored")
            else:
                yield self._decorated(text, HARMLESS, 0.15)

    def _stretched(self, text: str) -> str:
        """The text as it is cried out: `sooo cuuute`."""
        return _CRIED.sub(lambda letter: letter[0] * self._rng.randint(1, 5), text)

    def _german(self, size: int) -> Iterator[Example]:
        rng, words = self._rng, _read("german.toml")
        for text in words["sentences"]:
            yield Example(text, HARMLESS, "written", language="de")
        slots = {"tag": words["tags"], "who": words["who"], "place": words["place"]}
        harmless = slots | {"look": words["looks"], "doing": words["doings"],
                            "thing": words["things"], **words["ordinary"]}  # fmt: skip
        sexual = slots | {"state": words["sexual_states"], "act": words["sexual_acts"]}
        violent = slots | {"state": words["violent_states"], "act": words["violent_acts"],
                           "thing": words["violent_things"]}  # fmt: skip
        plan: list[tuple[str, Sequence[str], Lists, float]] = [
            (HARMLESS, words["frames_harmless"], harmless, 3.0),
            ("sexual", words["frames_sexual"], sexual, 0.42),
            ("violent", words["frames_violent"], violent, 0.42),
            ("hate", ("{thing}", "{thing} {place}"), slots | {"thing": words["hate_things"]}, 0.06),
            ("other_harm", ("{thing}", "{thing} {place}"), slots | {"thing": words["other_things"]},
             0.04),
            ("sexual", ("{who} {state}", "{who} {act}"), sexual | {"who": words["minor_who"]},
             0.06),
        ]  # fmt: skip
        for kind, frames, lists, share in plan:
            for _ in range(int(size * share)):
                text = self._filled(rng.choice(frames), lists)
                if rng.random() < 0.3:
                    text = ", ".join([text, *rng.sample(words["tags"], rng.randint(1, 4))])
                yield Example(text, kind, "authored", language="de")

    def _example(self, frame: str, lists: Lists, kind: str) -> Example:
        return self._decorated(self._filled(frame, {**self._shared, **lists}), kind, 0.5)

    def _filled(self, frame: str, lists: Lists) -> str:
        """The frame with a word for each slot; words may have slots of their own."""
        while _SLOT.search(frame):
            frame = _SLOT.sub(lambda slot: self._rng.choice(lists[slot[1]]), frame)
        return frame

    def _decorated(self, text: str, kind: str, share: float) -> Example:
        """The text, often between tags of drawing style, as people write prompts."""
        rng = self._rng
        if rng.random() < share:
            before = rng.sample(self._shared["tags"], rng.choice((0, 0, 0, 1, 2, 4)))
            after = rng.sample(self._shared["tags"], rng.choice((0, 1, 2, 3, 5, 8)))
            text = rng.choice((", ", ", ", ",")).join([*before, text, *after])
        return Example(text, kind, "authored")


def calibration() -> Iterator[Example]:
    """Harmless prompts that nothing is trained on: the operating point is chosen on them."""
    for text in _read("captions.toml")["calibrate"]:
        yield Example(text, HARMLESS, "calibration")
    for text in _read("german.toml")["calibrate"]:
        yield Example(text, HARMLESS, "calibration", language="de")


def unseen() -> Iterator[Example]:
    """Harmful prompts that nothing is trained on and no threshold is chosen by."""
    words = _read("harmful.toml")
    for kind in ("sexual", "violent"):
        for text in words[f"unseen_{kind}"]:
            yield Example(text, kind, "unseen")


def words(examples: Iterable[Example]) -> Iterator[Example]:
    """Each word of the prompts that were written here, and the most common words, by itself: too
    few letters to tell a language by, so they are learnt.
    """
    spoken = [_read("ordinary.toml")["words"], _read("german.toml")["words"]]
    spoken += [e.text for e in examples if e.source in _OWN and not e.foreign]
    for word in sorted({word for text in spoken for word in _LETTERS.findall(plain_view(text))}):
        yield Example(word, WORD, "authored-words")


def foreign() -> Iterator[Example]:
    """Prompts in languages that are held."""
    for language, texts in _read("languages.toml")["languages"].items():
        for text in texts:
            if language not in JUDGED:
                yield Example(text, HARMLESS, f"authored-{language}", language=language)


_NIBBLER_KINDS = {"sexual": "sexual", "violent": "violent", "other": "other_harm"}
_PICTURE_SOURCES = frozenset({"adversarial-nibbler", "parti-prompts", "facechain-styles"})
_LATIN_FOREIGN = frozenset({"de", "es", "fr", "it", "pt", "hi"})


def collected(file: Path) -> list[Example]:
    """The kept rows of public sets: one JSON object a line, as `benchmarks/data` explains."""
    examples = []
    for line in file.read_text("utf-8").splitlines():
        row = json.loads(line)
        source, lang = row["source"], row["lang"]
        kind = HARMLESS
        if row["label"] == "block":
            kind = "hate"
            if source == "adversarial-nibbler":
                kind = _NIBBLER_KINDS[row["category"]]
            elif source == "openai-moderation":
                kind = "sexual"
        if lang != "en" and lang not in _LATIN_FOREIGN:
            continue
        examples.append(Example(row["text"], kind, source, source in _PICTURE_SOURCES, lang))
    return examples
