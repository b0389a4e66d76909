"""The text classifier: a small logistic regression on letters and words, in plain numpy.

Says how likely a prompt asks for sexual, violent or otherwise harmful pictures, and how likely it
is not English. Trained by `python -m moderation.train`; its card is docs/moderation-classifier.md.
Knows no rule and no policy but the names of its heads.
"""

from __future__ import annotations

import itertools
import re
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from moderation.canonical import Views
from moderation.policy import Label, Policy
from moderation.texts import READ_CHARACTERS, views_of
from moderation.verdict import Stage, Verdict

SHIPPED = Path(__file__).with_name("toxicity.npz")
BUCKETS = 1 << 18
_WORD = re.compile(r"[^\W_]+")
_GRAMS = range(2, 6)
_WINDOW = 24
_STRIDE = 12
_MAX_WINDOWS = 12
_MAX_READINGS = 10


class ClassifierError(ValueError):
    """The classifier's file cannot be used; the message names the file."""


def buckets(words: Sequence[str]) -> NDArray[np.int64]:
    """The distinct features of some words: words, pairs of words, and 2 to 5 letters of a word."""
    hashed = {_bucket(f"w {first} {second}") for first, second in itertools.pairwise(words)}
    hashed.update(*map(_word_buckets, words))
    return np.fromiter(hashed, dtype=np.int64, count=len(hashed))


def _bucket(feature: str) -> int:
    return zlib.crc32(feature.encode("utf-8", "surrogatepass")) & (BUCKETS - 1)


@lru_cache(maxsize=8192)
def _word_buckets(word: str) -> frozenset[int]:
    """The features of one word. Kept: a long prompt is read in many windows and views."""
    padded = f" {word} "
    grams = {
        padded[start : start + length]
        for length in _GRAMS
        for start in range(len(padded) - length + 1)
    }
    return frozenset(map(_bucket, {"w " + word, *grams}))


def windows(text: str) -> list[list[str]]:
    """The words of a text; for a long one also its parts, so that padding hides nothing."""
    words = _WORD.findall(text)
    parts = [words]
    if len(words) > _WINDOW + _STRIDE // 2:
        starts = range(0, len(words) - _STRIDE, _STRIDE)
        parts += [words[start : start + _WINDOW] for start in starts][:_MAX_WINDOWS]
    return parts


@dataclass(frozen=True)
class Classifier:
    """Weights for each head. A score of 0.5 is the operating point chosen at training."""

    heads: tuple[str, ...]
    weights: NDArray[np.float32]  # (features kept, heads)
    place: NDArray[np.int32]  # bucket -> row of `weights`, 0 for a row of zeros
    idf: NDArray[np.float32]  # by row
    bias: NDArray[np.float32]
    steepness: float
    version: str

    def raw(self, words: Sequence[str]) -> NDArray[np.float64]:
        """The linear score of each head; above 0 is beyond the operating point."""
        rows = self.place[buckets(words)]
        rows = rows[rows > 0]
        idf = self.idf[rows].astype(np.float64)
        length = float(np.sqrt((idf * idf).sum()))
        if length == 0.0:
            return np.minimum(self.bias.astype(np.float64), 0.0)
        return np.asarray((idf / length) @ self.weights[rows] + self.bias, dtype=np.float64)

    def scores(self, texts: Iterable[str]) -> dict[str, float]:
        """The highest score of each head, in 0..1, over all texts and their windows."""
        parts = {tuple(part): None for text in texts for part in windows(text)}
        highest = np.max([self.raw(part) for part in parts] or [np.full(len(self.heads), -9.0)], 0)
        squeezed = 1.0 / (1.0 + np.exp(-np.clip(self.steepness * highest, -30, 30)))
        return {head: float(s) for head, s in zip(self.heads, squeezed, strict=True)}


def readings(views: Views) -> list[str]:
    """The views worth a classifier's time: the plain one, and those in which words were found.

    Letters that all stand alone are of no language; what they were joined to is read instead.
    """
    plain = _WORD.findall(views.plain)
    apart = bool(views.joined_runs) and all(len(word) == 1 for word in plain)
    kept = [] if apart else [views.plain]
    for variant in views.variants:
        words = _WORD.findall(variant)
        if words != plain and len(set(words) - set(plain)) * 5 >= len(words):
            kept.append(variant)
    return kept[:_MAX_READINGS]


def load(file: Path = SHIPPED) -> Classifier:
    """Read a classifier. Raises ClassifierError; nothing in the file can run code."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            scale = stored["scale"].astype(np.float32)
            kept = stored["kept"].astype(np.int64)
            weights = stored["weights"].astype(np.float32) * scale
            idf = stored["idf"].astype(np.float32)
            bias, heads = stored["bias"].astype(np.float32), tuple(map(str, stored["heads"]))
            steepness, version = float(stored["steepness"]), str(stored["version"])
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise ClassifierError(f"The classifier {file} cannot be read: {error}.") from error
    if weights.shape != (len(kept), len(heads)) or idf.shape != kept.shape:
        raise ClassifierError(f"The classifier {file} does not fit together.")
    place = np.zeros(BUCKETS, np.int32)
    place[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    none = np.zeros((1, len(heads)), np.float32)
    return Classifier(
        heads,
        np.concatenate([none, weights]),
        place,
        np.concatenate([np.zeros(1, np.float32), idf]),
        bias,
        steepness,
        version,
    )


class ToxicityCheck:
    """Judges a text by the classifier, in every reading of it."""

    backend = "classifier"

    def __init__(self, classifier: Classifier, policy: Policy, stage: Stage) -> None:
        self._classifier = classifier
        self._policy = policy
        self._stage = stage
        self.version = classifier.version

    def check(self, text: str) -> Verdict:
        """Judge one text."""
        began = time.perf_counter()
        views = views_of(text[:READ_CHARACTERS])
        scores = self._classifier.scores(readings(views))
        labels = [Label(head, round(score, 4)) for head, score in scores.items()]
        ms = (time.perf_counter() - began) * 1000
        return self._policy.judge(labels, self._stage, self.backend, self.version, ms)
