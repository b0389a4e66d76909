"""A custom classifier from rows to an endpoint that judges, against the local Comprehend."""

from __future__ import annotations

import csv
import io

import pytest

from moderation.classifier_training import ClassifierError, ClassifierTraining, training_csv
from moderation.comprehend import classifier_check
from moderation.layers import ModerationConfig
from moderation.policy import load_policy
from moderation.verdict import Decision, Stage

ROLE = "arn:aws:iam::123456789012:role/comprehend-data"
ROWS = [("sexual", f"a naked nude person, number {n}") for n in range(12)] + [
    ("benign", f'a portrait by a lake, "number" {n},\n in oil') for n in range(12)
]


def test_the_csv_is_one_comprehend_reads():
    content = training_csv([*ROWS, ("benign", "  "), ("benign", "é" * 9000)])
    rows = list(csv.reader(io.StringIO(content.decode())))
    assert len(rows) == 25 and all(len(row) == 2 for row in rows)
    assert content.count(b"\n") == 25
    assert max(len(text.encode()) for _, text in rows) <= 10_000


@pytest.mark.parametrize(
    "rows",
    [
        [],
        ROWS[:12],
        [*ROWS, ("rare", "once")],
        [*ROWS, ("bad,label\n", "x")],
    ],
)
def test_data_that_comprehend_would_refuse_is_refused(rows):
    with pytest.raises(ClassifierError):
        training_csv(rows)


def test_a_classifier_is_trained_served_asked_and_stopped(cloud):
    training = ClassifierTraining("us-east-1", role=ROLE, place=f"s3://{cloud.bucket}/classifier")
    arn = training.start("prompts", training_csv(ROWS), version="v1")
    states = [training.training(arn).state for _ in range(3)]
    assert states == ["waiting", "learning", "ready"]
    endpoint = training.serve("prompts", arn)
    assert [training.serving(endpoint).state for _ in range(2)] == ["waiting", "ready"]
    config = ModerationConfig(backend="aws", comprehend_classifier_arn=endpoint)
    check = classifier_check(config, load_policy(), Stage.PROMPT)
    assert check.check("a naked nude person").decision is Decision.BLOCK
    assert check.check("a portrait by a lake in oil").decision is Decision.ALLOW
    training.stop(endpoint)
    assert check.check("a portrait by a lake in oil").decision is Decision.UNAVAILABLE
    with pytest.raises(ClassifierError, match="ResourceNotFoundException"):
        training.stop(endpoint)


def test_a_failed_training_says_why(cloud):
    training = ClassifierTraining("us-east-1", role=ROLE, place=f"s3://{cloud.bucket}/classifier")
    arn = training.start("prompts", b"one column only\n", version="v1")
    told = training.training(arn)
    assert told.state == "failed" and "bad row" in told.message
    with pytest.raises(ClassifierError, match="did not create"):
        training.serve("prompts", arn)
    with pytest.raises(ClassifierError, match="language"):
        training.start("prompts", b"", version="v2", language="xx")
    with pytest.raises(ClassifierError):
        ClassifierTraining("us-east-1", role=ROLE, place="folder")
