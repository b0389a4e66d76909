"""Comprehend over HTTP: split by bytes, judged by the policy, and `unavailable` on any fault."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.chain import PromptRequest, build
from moderation.comprehend import (
    SEGMENT_BYTES,
    classifier_check,
    segments,
    toxic_content_check,
)
from moderation.layers import ModerationConfig
from moderation.policy import load_policy
from moderation.verdict import Decision, Stage
from tests.aws.server.comprehend import Classifier
from tests.aws.server.faults import every_fault

POLICY = load_policy()
ARN = "arn:aws:comprehend:us-east-1:123456789012:document-classifier-endpoint/prompts"
QUICK = ModerationConfig(backend="aws", check_timeout_s=0.3, comprehend_classifier_arn=ARN)
CALM = ModerationConfig(backend="aws", check_timeout_s=10, comprehend_classifier_arn=ARN)


@given(st.text(max_size=4000), st.sampled_from([16, 200, SEGMENT_BYTES]))
@settings(max_examples=200, deadline=None)
def test_segments_fit_and_lose_nothing(text, limit):
    pieces = segments(text, limit, overlap=0)
    assert "".join(pieces) == text
    assert all(len(piece.encode()) <= limit for piece in pieces)


def test_segments_overlap_so_that_no_phrase_is_cut_in_all_of_them():
    text = "a calm lake " * 84 + "two words " + "under a blue sky " * 60
    assert any("two words" in piece for piece in segments(text))
    assert all(len(piece.encode()) <= SEGMENT_BYTES for piece in segments(text))


def toxic(config: ModerationConfig = CALM):
    return toxic_content_check(config, POLICY, Stage.PROMPT)


def test_a_plain_prompt_is_allowed_and_a_sexual_one_blocked(aws):
    assert toxic().check("a portrait as an astronaut").decision is Decision.ALLOW
    verdict = toxic().check("a naked person")
    assert verdict.decision is Decision.BLOCK
    assert {f.label for f in verdict.findings} >= {"sexual", "other_harm"}


def test_general_toxicity_without_a_label_is_for_review(aws):
    aws.comprehend.scores = lambda text: {"SOMETHING_NEW": 0.9}
    assert toxic().check("words").decision is Decision.REVIEW


def test_an_empty_text_needs_no_call(aws):
    assert toxic().check("  ").decision is Decision.ALLOW
    assert aws.calls("DetectToxicContent") == 0


def test_the_service_is_asked_about_the_text_that_is_drawn(aws):
    moderation = build(ModerationConfig(backend="aws", check_timeout_s=10))
    judged = moderation.prompt(PromptRequest("a (kni\u200bght:1.5) on a \uff48orse"))
    moderation.close()
    (call,) = [call for call in aws.server.calls if call.operation == "DetectToxicContent"]
    assert call.parameters["TextSegments"] == [{"Text": judged.text}]
    assert judged.text == "a knight on a horse" and judged.verdict.allowed


def test_a_long_text_is_judged_whole_in_calls_that_fit(aws):
    text = "a calm lake under a blue sky " * 500 + "naked"
    assert toxic().check(text).decision is Decision.BLOCK
    assert aws.calls("DetectToxicContent") == 2
    assert all(call.status == 200 for call in aws.server.calls)


def test_text_of_many_bytes_for_a_character_fits_too(aws):
    assert toxic().check("湖の肖像画" * 900).decision is Decision.ALLOW
    assert all(call.status == 200 for call in aws.server.calls)


TOXIC_FAULTS = every_fault(
    numbers=("ResultList.0.Toxicity", "ResultList.0.Labels.0.Score"),
    keys=("ResultList", "ResultList.0.Labels", "ResultList.0.Toxicity"),
    lists=("ResultList", "ResultList.0.Labels"),
)


def test_every_fault_leaves_a_prompt_unchecked_within_bounded_time(aws):
    check = toxic(QUICK)
    for name, fault in TOXIC_FAULTS:
        aws.server.faults.only(fault)
        begun = time.monotonic()
        verdict = check.check("a portrait as an astronaut")
        assert verdict.decision is Decision.UNAVAILABLE, name
        assert time.monotonic() - begun < 3, name


def test_too_few_results_are_no_answer(aws):
    aws.server.faults.add("spoil", path="ResultList", value=[])
    assert toxic().check("a cat").decision is Decision.UNAVAILABLE


def test_one_of_several_calls_failing_leaves_the_text_unchecked(aws):
    aws.server.faults.add("empty", after=1)
    assert toxic().check("a calm lake " * 1500).decision is Decision.UNAVAILABLE


# --- the custom classifier -------------------------------------------------------------------


@pytest.fixture
def trained(aws):
    """A classifier in service that learned a few words."""
    classifier = Classifier("model", {}, ["TRAINED"])
    classifier.counts = {}
    for label, text in (("sexual", "naked nude porn"), ("benign", "lake portrait astronaut sky")):
        classifier.counts[label] = Counter(text.split() * 20)
    aws.comprehend.classifiers["model"] = classifier
    aws.comprehend.endpoints[ARN] = ("model", ["IN_SERVICE"])
    return aws


def custom(config: ModerationConfig = CALM):
    return classifier_check(config, POLICY, Stage.PROMPT)


def test_our_labels_decide_as_the_policy_says(trained):
    assert custom().check("portrait of an astronaut").decision is Decision.ALLOW
    assert custom().check("naked nude").decision is Decision.BLOCK


def test_the_published_samples_labels_are_understood(trained):
    counts = trained.comprehend.classifiers["model"].counts
    trained.comprehend.classifiers["model"].counts = {
        "Toxic": counts["sexual"],
        "Not Toxic": counts["benign"],
    }
    assert custom().check("portrait of an astronaut").decision is Decision.ALLOW
    assert custom().check("naked nude").decision is Decision.REVIEW


def test_no_endpoint_configured_no_check(aws):
    assert classifier_check(ModerationConfig(), POLICY, Stage.PROMPT) is None


def test_an_endpoint_that_is_not_in_service_leaves_the_prompt_unchecked(aws):
    assert custom().check("a cat").decision is Decision.UNAVAILABLE


CLASS_FAULTS = every_fault(
    numbers=("Classes.0.Score",),
    keys=("Classes", "Classes.0", "Classes.0.Name", "Classes.0.Score"),
    lists=("Classes",),
)


def test_every_fault_leaves_the_classifiers_prompt_unchecked(trained):
    check = custom(QUICK)
    for name, fault in CLASS_FAULTS:
        trained.server.faults.only(fault)
        verdict = check.check("portrait of an astronaut")
        assert verdict.decision is Decision.UNAVAILABLE, name
