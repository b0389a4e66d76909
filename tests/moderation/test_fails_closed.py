"""The whole fault plan over the whole chain on AWS: whatever goes wrong, wherever, nothing passes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moderation.chain import Moderation, PromptRequest, build
from moderation.decisions import DecisionRecord, Evidence
from moderation.layers import ModerationConfig
from moderation.policy import NOT_CHECKED, Action
from moderation.verdict import Decision, Stage, Verdict
from tests.aws.server.comprehend import Classifier
from tests.aws.server.faults import Fault, every_fault
from tests.aws.server.rekognition import Face
from tests.moderation.test_comprehend import ARN, CLASS_FAULTS, TOXIC_FAULTS
from tests.moderation.test_rekognition import FACE_FAULTS, PICTURE_FAULTS, SET_FAULTS, plain

TIMEOUT_S = 0.4
CELEBRITY_FAULTS = every_fault(
    numbers=("CelebrityFaces.0.MatchConfidence",),
    keys=("CelebrityFaces", "CelebrityFaces.0.MatchConfidence"),
    lists=("CelebrityFaces",),
)
PLANS: dict[str, list[tuple[str, Fault]]] = {
    "DetectModerationLabels": PICTURE_FAULTS,
    "DetectFaces": FACE_FAULTS,
    "RecognizeCelebrities": CELEBRITY_FAULTS,
    "CompareFaces": SET_FAULTS,
    "DetectToxicContent": TOXIC_FAULTS,
    "ClassifyDocument": CLASS_FAULTS,
}
CASES = [(operation, name, fault) for operation, plan in PLANS.items() for name, fault in plan]
NAMED = ("timeout", "reset", "access denied", "no such thing", "internal error", "unavailable",
         "throttled", "empty object", "garbage", "missing", "NaN", "text", "slow")  # fmt: skip


@pytest.fixture
def service(aws):
    """AWS with something to say in every answer, so that every value in it can be spoiled."""
    aws.rekognition.labels = lambda picture: [("Alcohol", 55.0)]
    aws.rekognition.faces = lambda picture: [Face()]
    aws.rekognition.celebrities = lambda picture: [("Somebody", 12.0)]
    classifier = Classifier("model", {}, ["TRAINED"])
    classifier.counts = {"sexual": Counter(["nude", "porn"] * 9),
                         "benign": Counter(["person", "garden", "sky"] * 9)}  # fmt: skip
    aws.comprehend.classifiers["model"] = classifier
    aws.comprehend.endpoints[ARN] = ("model", ["IN_SERVICE"])
    return aws


def chain(records: list[DecisionRecord], timeout_s: float = TIMEOUT_S) -> Moderation:
    config = ModerationConfig(
        backend="aws", comprehend_classifier_arn=ARN, recognize_celebrities=True,
        check_timeout_s=timeout_s,
    )  # fmt: skip
    return build(config, Evidence(b"key", records.append))


@pytest.fixture
def judge(service):
    """One chain for all examples, and the records it leaves."""
    records: list[DecisionRecord] = []
    moderation = chain(records)
    yield moderation, records
    moderation.close()


def asked(moderation: Moderation, operation: str) -> list[Verdict]:
    """The verdicts of what uses an operation; a picture's also by its action."""
    if operation in ("DetectToxicContent", "ClassifyDocument"):
        return [moderation.prompt(PromptRequest("a person in a garden")).verdict]
    if operation == "CompareFaces":
        return moderation.photo_set([plain(1), plain(2)])
    if operation == "DetectModerationLabels":
        judged = moderation.pictures([plain()], Stage.PICTURE)
        for one in judged:
            assert (one.action is Action.SHOW) is one.verdict.allowed
        return [one.verdict for one in judged]
    return [moderation.photo(plain()).verdict]


def test_without_a_fault_all_of_it_is_checked_and_the_plan_names_every_fault(service):
    moderation = chain([], timeout_s=10.0)
    for operation in PLANS:
        if operation not in ("DetectFaces", "RecognizeCelebrities"):  # one plain colour is no photo
            assert all(v.allowed for v in asked(moderation, operation)), operation
        names = " / ".join(name for name, _ in PLANS[operation])
        missing = [name for name in NAMED if name not in names]
        assert not missing, f"the plan of {operation} lacks {missing}"
    moderation.close()


@given(case=st.sampled_from(CASES))
@settings(
    max_examples=50, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_a_fault_anywhere_is_unavailable_with_a_record_and_never_an_allow(service, judge, case):
    operation, name, fault = case
    service.server.faults.only(replace(fault, operation=operation))
    (moderation, records), began = judge, time.monotonic()
    records.clear()
    verdicts = asked(moderation, operation)
    assert {verdict.decision for verdict in verdicts} == {Decision.UNAVAILABLE}, name
    assert time.monotonic() - began < 25 * TIMEOUT_S, f"{name} is not bounded"
    assert [record.decision for record in records] == [Decision.UNAVAILABLE] * len(verdicts)
    for record in records:
        assert any(finding.label == NOT_CHECKED for finding in record.findings), name


@pytest.mark.parametrize("operation", PLANS)
def test_nobody_listening_is_unavailable(aws, operation, monkeypatch):
    for name in ("REKOGNITION", "COMPREHEND"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{name}", "http://127.0.0.1:9")
    records: list[DecisionRecord] = []
    moderation = chain(records)
    assert {v.decision for v in asked(moderation, operation)} == {Decision.UNAVAILABLE}
    moderation.close()
