"""Train the text classifier: python -m moderation.train ROWS.jsonl [--out FILE] [--report FILE]

Needs scikit-learn (the test extra); what it writes needs numpy only. Composes the authored corpus,
adds the kept public rows, cross-validates by folds, chooses the operating point on harmless
picture prompts that the fold's model has not seen, then fits on everything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moderation import corpus
from moderation.canonical import encoder_text, plain_view, views
from moderation.corpus import HARMLESS, WORD, Example
from moderation.toxicity import BUCKETS, SHIPPED, Classifier, buckets, readings, windows

HEADS: Mapping[str, frozenset[str]] = {
    "sexual": frozenset({"sexual"}),
    "violent": frozenset({"violent", "disturbing"}),
    "other_harm": frozenset({"sexual", "violent", "disturbing", "hate", "other_harm"}),
    "language": frozenset(),
}
WEIGHTS = {
    "adversarial-nibbler": 5.0,
    "parti-prompts": 2.0,
    "facechain-styles": 12.0,
    "authored": 1.0,
    "written": 3.0,
    "hatecheck": 0.5,
    "multilingual-hatecheck": 1.0,
    "openai-moderation": 0.5,
    "xstest": 0.5,
}
SEED = 20261121
AUTHORED = 4000
STRENGTH = 8.0
FALSE_SHARE = 0.005
"""The share of unseen harmless picture prompts that the operating point may stop."""
LANGUAGE_MARGIN = 0.3
"""How far beyond all harmless prompts a text must be to be held for its language (linear score)."""
STEEPNESS = 2.0
_LONGEST_WORDS = 60


@dataclass(frozen=True)
class Matrix:
    """Texts as rows of features, ready for scikit-learn. `idf` by bucket, `rows` scaled to 1."""

    rows: Any
    idf: NDArray[np.float64]


def gathered(file: Path, authored: int = AUTHORED, seed: int = SEED) -> list[Example]:
    """The whole training set, each text once."""
    own = list(corpus.Author(seed).examples(authored))
    every = [*corpus.words(own), *own, *corpus.foreign(), *corpus.collected(file)]
    return list({example.text: example for example in every}.values())


def words_for_training(text: str) -> list[str]:
    """The words of a text as the classifier will see them."""
    return windows(plain_view(encoder_text(text)))[0][:_LONGEST_WORDS]


def matrix(texts: Sequence[str], idf: NDArray[np.float64] | None = None) -> Matrix:
    """Features of texts; document frequencies are taken from them unless given."""
    from scipy import sparse

    # Sorted, because the order of a set of words is another in every process.
    found = [np.sort(buckets(words_for_training(text))) for text in texts]
    if idf is None:
        frequency = np.bincount(np.concatenate(found), minlength=BUCKETS)
        idf = np.log((1 + len(texts)) / (1 + frequency)) + 1.0
        idf[frequency < 2] = 0.0
    values, columns, starts = [], [], [0]
    for places in found:
        value = idf[places]
        length = np.sqrt((value * value).sum()) or 1.0
        values.append(value / length)
        columns.append(places)
        starts.append(starts[-1] + len(places))
    rows = sparse.csr_matrix(
        (np.concatenate(values), np.concatenate(columns), np.array(starts)),
        shape=(len(texts), BUCKETS),
    )
    return Matrix(rows, idf)


def fit(examples: Sequence[Example]) -> Classifier:
    """Fit every head on all examples. The operating point is wherever the fit puts it."""
    from sklearn.linear_model import LogisticRegression

    features = matrix([example.text for example in examples])
    weight = np.array(
        [WEIGHTS.get(e.source.split("-")[0], WEIGHTS.get(e.source, 1.0)) for e in examples]
    )
    columns, bias = [], []
    for head, kinds in HEADS.items():
        if head == "language":
            chosen = np.array([e.kind in (HARMLESS, WORD) or e.foreign for e in examples])
            target = np.array([e.foreign for e in examples])
        else:
            chosen = np.array(
                [not e.foreign and (e.kind in kinds or e.kind == HARMLESS) for e in examples]
            )
            target = np.array([e.kind in kinds for e in examples])
        # One worker and a fixed seed: the same corpus gives the same file.
        model = LogisticRegression(C=STRENGTH, solver="liblinear", random_state=SEED, max_iter=300)
        model.fit(features.rows[chosen], target[chosen], sample_weight=weight[chosen])
        columns.append(model.coef_[0])
        bias.append(model.intercept_[0])
    weights = np.stack(columns, 1).astype(np.float32)
    place = np.zeros(BUCKETS, np.int32)
    kept = np.flatnonzero(features.idf > 0)
    place[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    none = np.zeros((1, len(HEADS)), np.float32)
    return Classifier(
        tuple(HEADS),
        np.concatenate([none, weights[kept]]),
        place,
        np.concatenate([np.zeros(1), features.idf[kept]]).astype(np.float32),
        np.array(bias, np.float32),
        STEEPNESS,
        "unfinished",
    )


def highest(classifier: Classifier, text: str) -> NDArray[np.float64]:
    """The highest linear score of each head over the readings and windows of a text."""
    parts = {tuple(part) for reading in readings(views(text[:1500])) for part in windows(reading)}
    return np.asarray(np.max([classifier.raw(part) for part in parts], axis=0))


def folds(examples: Sequence[Example], count: int) -> NDArray[np.int64]:
    """A fold for each example, by its text, so that the same text is always in the same fold."""
    digests = [hashlib.sha256(e.text.encode()).digest()[0] for e in examples]
    return np.array(digests, dtype=np.int64) % count


def unseen_scores(examples: Sequence[Example], count: int) -> NDArray[np.float64]:
    """Linear scores of each collected example by a model that was fitted without its fold.

    Authored prompts get NaN: they are too much alike for a fold to be unseen.
    """
    place = folds(examples, count)
    scores = np.full((len(examples), len(HEADS)), np.nan)
    for number in range(count):
        model = fit([e for e, fold in zip(examples, place, strict=True) if fold != number])
        for index, example in enumerate(examples):
            if place[index] == number and not example.source.startswith(("authored", "written")):
                scores[index] = highest(model, example.text)
        print(f"fold {number + 1} of {count} fitted", file=sys.stderr, flush=True)
    return scores


def operating_point(
    examples: Sequence[Example], scores: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    """A threshold for each head: together they stop at most `share` of what is harmless."""
    harmless = np.array([
        e.picture and e.kind == HARMLESS and not e.foreign and not np.isnan(s[0])
        for e, s in zip(examples, scores, strict=True)
    ])  # fmt: skip
    benign = scores[harmless]
    best = benign.max(0) + 1e-6
    language = list(HEADS).index("language")
    for quantile in np.linspace(1.0, 1.0 - share, 60):
        limits = np.quantile(benign, quantile, axis=0) + 1e-6
        # Other languages are far from these two: nothing harmless need be given for knowing them.
        limits[language] = benign[:, language].max() + LANGUAGE_MARGIN
        if (benign > limits).any(1).mean() <= share:
            best = limits
    return np.asarray(best)


def stopped(
    examples: Sequence[Example], scores: NDArray[np.float64], limits: NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    """The share stopped, by source and kind, of the examples that have unseen scores."""
    groups: dict[str, list[bool]] = {}
    for example, score in zip(examples, scores, strict=True):
        if not np.isnan(score[0]):
            name = f"{example.source} {example.kind} {example.language}"
            groups.setdefault(name, []).append(bool((score > limits).any()))
    return {
        name: {"rows": len(hits), "stopped": round(sum(hits) / len(hits), 4)}
        for name, hits in sorted(groups.items())
    }


def save(classifier: Classifier, limits: NDArray[np.float64], file: Path, version: str) -> None:
    """Write the classifier with 8-bit weights; features that hardly matter are left out."""
    weights, idf = classifier.weights[1:], classifier.idf[1:]
    kept = np.flatnonzero(classifier.place)
    scale = np.abs(weights).max(0) / 127.0
    small = np.round(weights / scale).astype(np.int8)
    # Rows of zeros stay: they belong to the length of a text's vector.
    np.savez_compressed(
        file,
        kept=kept.astype(np.int32),
        weights=small,
        scale=scale.astype(np.float32),
        idf=idf.astype(np.float16),
        bias=(classifier.bias - limits).astype(np.float32),
        heads=np.array(classifier.heads),
        steepness=np.array(classifier.steepness),
        version=np.array(version),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, report and write."""
    parser = argparse.ArgumentParser(prog="python -m moderation.train", description=__doc__)
    parser.add_argument("rows", type=Path, help="the kept public rows, JSON lines")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--report", type=Path, help="write the cross-validated figures here (JSON)")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--authored", type=int, default=AUTHORED)
    options = parser.parse_args(arguments)
    examples = gathered(options.rows, options.authored)
    random.Random(SEED).shuffle(examples)
    model = fit(examples)
    unseen = [*corpus.calibration(), *corpus.unseen()]
    scores = np.concatenate([
        unseen_scores(examples, options.folds),
        np.stack([highest(model, example.text) for example in unseen]),
    ])  # fmt: skip
    limits = operating_point([*examples, *unseen], scores, FALSE_SHARE)
    figures = stopped([*examples, *unseen], scores, limits)
    digest = hashlib.sha256("\n".join(sorted(e.text for e in examples)).encode()).hexdigest()[:8]
    version = f"1-{digest}"
    save(replace(model, version=version), limits, options.out, version)
    report = {"version": version, "examples": len(examples), "unseen": figures}
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    for name, figure in figures.items():
        print(f"{name:70s} {figure['rows']:5.0f} {figure['stopped']:7.3f}")
    print(json.dumps({"version": version, "bytes": options.out.stat().st_size}))


if __name__ == "__main__":
    main()
