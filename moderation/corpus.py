"""The authored training corpus: picture prompts composed from phrases, harmful and harmless.

The same seed gives the same prompts. Knows no model; the phrases are data in `corpus/`.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("corpus")
HARMLESS = "harmless"
_SLOT_KEYS = ("who", "place", "state", "act", "thing", "look", "doing")
_ADULT = "minors"


@dataclass(frozen=True)
class Example:
    """One text to learn from. `kind` is a category of policy or `harmless`; `picture`: a picture
    prompt rather than a sentence; `foreign`: not in English.
    """

    text: str
    kind: str
    source: str
    picture: bool = True
    foreign: bool = False


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / name).read_text("utf-8"))


class Author:
    """Composes prompts. One instance for one seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._shared = _read("shared.toml")
        self._harmful = _read("harmful.toml")
        self._harmless = _read("harmless.toml")

    def examples(self, size: int) -> Iterator[Example]:
        """About `size` harmful and twice as many harmless prompts."""
        harmful, rng = self._harmful, self._rng
        plan = [
            ("sexual", "sexual_frames", {"state": "sexual_states", "act": "sexual_acts"}, 0.40),
            ("violent", "violent_frames", {"state": "violent_states", "act": "violent_acts",
                                           "thing": "violent_things"}, 0.30),
        ]  # fmt: skip
        for kind, frames, slots, share in plan:
            lists = {slot: harmful[name] for slot, name in slots.items()}
            for _ in range(int(size * share)):
                yield self._example(rng.choice(harmful[frames]), lists, kind)
        lone = {
            "disturbing_things": "disturbing",
            "hate_things": "hate",
            "other_things": "other_harm",
        }
        for name, kind in lone.items():
            for _ in range(int(size * 0.06)):
                frame = rng.choice(("{thing}", "a picture of {thing}", "{thing} {place}"))
                yield self._example(frame, {"thing": harmful[name]}, kind)
        for _ in range(int(size * 0.10)):
            yield self._example(rng.choice(("{thing}", "{thing} {place}", "a picture of {thing}")),
                                {"thing": harmful["violent_more"]}, "violent")  # fmt: skip
        minors = {"who": harmful["minor_who"], "state": harmful["sexual_states"],
                  "act": harmful["sexual_acts"]}  # fmt: skip
        for _ in range(int(size * 0.06)):
            yield self._example(rng.choice(("{who} {state}", "{who} {act}")), minors, "sexual")
        yield from self._harmless_examples(2 * size)

    def _harmless_examples(self, size: int) -> Iterator[Example]:
        rng, source = self._rng, self._harmless
        lists = {"look": source["looks"], "doing": source["doings"], "thing": source["things"]}
        for text in (*source["sentences"], *_read("captions.toml")["learn"]):
            yield Example(text, HARMLESS, "written")
            yield self._decorated(text, HARMLESS, 1.0)
        for _ in range(int(size * 0.45)):
            yield self._example(rng.choice(source["frames_people"]), lists, HARMLESS)
        for _ in range(int(size * 0.30)):
            yield self._example(rng.choice(source["frames_things"]), lists, HARMLESS)
        for _ in range(int(size * 0.15)):
            tags = rng.sample(source["avatar_tags"], rng.randint(2, 14))
            tags += rng.sample(self._shared["tags"], rng.randint(0, 6))
            rng.shuffle(tags)
            yield Example(", ".join(tags), HARMLESS, "authored")
        for _ in range(int(size * 0.10)):
            tags = rng.sample(self._shared["tags"], rng.randint(1, 12))
            yield Example(", ".join(tags), HARMLESS, "authored")

    def _example(self, frame: str, lists: dict[str, list[str]], kind: str) -> Example:
        text = frame
        for slot in _SLOT_KEYS:
            while f"{{{slot}}}" in text:
                choice = self._rng.choice(lists[slot] if slot in lists else self._shared[slot])
                text = text.replace(f"{{{slot}}}", choice, 1)
        return self._decorated(text, kind, 0.5)

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


def foreign() -> Iterator[Example]:
    """Ordinary prompts in other languages."""
    for language, texts in _read("languages.toml")["languages"].items():
        for text in texts:
            yield Example(text, HARMLESS, f"authored-{language}", foreign=True)


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
        examples.append(
            Example(row["text"], kind, source, source in _PICTURE_SOURCES, foreign=lang != "en")
        )
    return examples
