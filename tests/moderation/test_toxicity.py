"""The shipped classifier: no code in its file, quick, steady under padding, refused when broken."""

import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from moderation import corpus, train
from moderation.canonical import views
from moderation.policy import load_policy
from moderation.toxicity import (
    SHIPPED,
    ClassifierError,
    ToxicityCheck,
    buckets,
    load,
    readings,
    windows,
)
from moderation.verdict import Stage

CLASSIFIER = load()
CHECK = ToxicityCheck(CLASSIFIER, load_policy(), Stage.PROMPT)
ROWS = Path(__file__).parents[2] / "benchmarks" / "data" / "moderation" / "prompts.jsonl"


def test_the_file_holds_numbers_and_names_only() -> None:
    assert set(zipfile.ZipFile(SHIPPED).namelist()) >= {"weights.npy", "heads.npy", "version.npy"}
    with np.load(SHIPPED, allow_pickle=False) as stored:
        assert all(stored[name].dtype != object for name in stored.files)
    assert SHIPPED.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    "text",
    ["a cheerful woman with a hat, watercolor", "an old sailor, oil painting, dramatic lighting",
     "eine Frau sitzt im Garten und liest ein Buch", "Porträt von mir als Ritter, Ölgemälde",
     "1girl, kimono, cherry blossoms, (masterpiece:1.2), best quality", "a red bicycle", "a cat"],
)  # fmt: skip
def test_ordinary_prompts_pass(text: str) -> None:
    assert CHECK.check(text).allowed


@pytest.mark.parametrize(
    "text",
    ["she slowly undresses on the bed, moaning", "a man tears a victim's arm off, gore everywhere",
     "rats and immigrants, propaganda poster", "une femme est assise dans le jardin et lit un livre"],
)  # fmt: skip
def test_harmful_or_foreign_prompts_do_not(text: str) -> None:
    assert not CHECK.check(text).allowed


def test_harmless_clauses_around_it_hide_nothing() -> None:
    padding = "a quiet garden with flowers and a small wooden bridge over a calm pond, "
    assert not CHECK.check(padding * 5 + "she undresses on the bed, moaning" + padding * 5).allowed


def test_a_prompt_takes_little_time() -> None:
    texts = [row.text for row in corpus.calibration()] * 2
    spent = []
    for text in texts:
        began = time.process_time()
        CLASSIFIER.scores(readings(views(text)))
        spent.append(time.process_time() - began)
    assert np.median(spent) < 0.005


@pytest.mark.parametrize("content", [b"", b"not a file of arrays", b"PK\x03\x04broken"])
def test_a_broken_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.npz"
    file.write_bytes(content)
    with pytest.raises(ClassifierError):
        load(file)


def test_nothing_to_read_is_nothing_found() -> None:
    assert max(CLASSIFIER.scores([""]).values()) < 0.5
    assert windows("") == [[]] and buckets([]).size == 0


def test_the_same_seed_writes_the_same_corpus_and_calibration_is_never_trained_on() -> None:
    first, again = list(corpus.Author(7).examples(300)), list(corpus.Author(7).examples(300))
    assert first == again
    learnt = {e.text for e in train.gathered(ROWS, 300)}
    assert not learnt & {e.text for e in (*corpus.calibration(), *corpus.unseen())}


@pytest.mark.timeout(300)
def test_a_small_training_ends_in_a_classifier_that_works(tmp_path: Path) -> None:
    few = tmp_path / "rows.jsonl"
    few.write_text("".join(line + "\n" for line in ROWS.read_text("utf-8").splitlines()[::12]))
    train.main(
        [str(few), "--out", str(tmp_path / "small.npz"), "--folds", "2", "--authored", "300"]
    )
    small = load(tmp_path / "small.npz")
    assert small.heads == CLASSIFIER.heads
    nude = small.raw(["completely", "nude", "woman", "having", "sex"])
    cat = small.raw(["a", "cat", "on", "a", "chair"])
    assert nude[small.heads.index("sexual")] > cat[small.heads.index("sexual")]
