"""Rekognition over HTTP: verdicts as the policy says, and nothing but `unavailable` on any fault."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from moderation.aws import ServiceFault
from moderation.layers import ModerationConfig
from moderation.policy import load_policy
from moderation.rekognition import MAX_BYTES, encoded, photo_check, picture_check
from moderation.verdict import Decision, Stage
from tests.aws.server.faults import every_fault
from tests.aws.server.rekognition import Face

POLICY = load_policy()
QUICK = ModerationConfig(backend="aws", check_timeout_s=0.3, recognize_celebrities=True)
CALM = ModerationConfig(backend="aws", check_timeout_s=10, recognize_celebrities=True)


def plain(red: int = 120, size: tuple[int, int] = (160, 200)) -> Image.Image:
    return Image.new("RGB", size, (red, 90, 60))


def red_of(picture: Image.Image) -> int:
    return round(float(np.asarray(picture)[..., 0].mean()))


def pictures(stage: Stage = Stage.PICTURE, config: ModerationConfig = CALM):
    return picture_check(config, POLICY, stage)


# --- pictures --------------------------------------------------------------------------------


def test_a_clean_picture_is_allowed_with_evidence_that_it_was_looked_at(aws):
    (verdict,) = pictures().check([plain()])
    assert verdict.decision is Decision.ALLOW
    (finding,) = verdict.findings
    assert (finding.backend, finding.version, finding.label) == ("rekognition", "7.0", "none")
    assert aws.calls("DetectModerationLabels") == 1


@pytest.mark.parametrize(
    ("labels", "stage", "decision"),
    [
        ([("Explicit", 99.0), ("Explicit Nudity", 99.0)], Stage.PICTURE, Decision.BLOCK),
        (
            [
                ("Explicit", 95.0),
                ("Explicit Nudity", 95.0),
                ("Exposed Female Nipple", 95.0),
            ],
            Stage.PHOTO,
            Decision.BLOCK,
        ),
        ([("Violence", 97.0), ("Weapons", 97.0)], Stage.PICTURE, Decision.ALLOW),
        ([("Alcohol", 99.0), ("Alcoholic Beverages", 99.0)], Stage.PICTURE, Decision.ALLOW),
        (
            [
                ("Non-Explicit Nudity of Intimate parts and Kissing", 92.0),
                ("Non-Explicit Nudity", 92.0),
                ("Exposed Male Nipple", 92.0),
            ],
            Stage.PICTURE,
            Decision.ALLOW,
        ),
        (
            [
                ("Non-Explicit Nudity of Intimate parts and Kissing", 92.0),
                ("Non-Explicit Nudity", 92.0),
                ("Implied Nudity", 92.0),
            ],
            Stage.PICTURE,
            Decision.REVIEW,
        ),
        ([("Graphic Male Nudity", 90.0)], Stage.PICTURE, Decision.BLOCK),
        ([("Something AWS added later", 80.0)], Stage.PICTURE, Decision.REVIEW),
    ],
)
def test_labels_become_the_policys_decision(aws, labels, stage, decision):
    aws.rekognition.labels = lambda picture: labels
    (verdict,) = pictures(stage).check([plain()])
    assert verdict.decision is decision, verdict


def test_verdicts_come_in_the_order_of_the_pictures_and_faults_stay_apart(aws):
    aws.rekognition.labels = lambda p: [("Explicit", 99.0)] if red_of(p) > 200 else []
    sheet = [plain(20), plain(250), Image.new("RGB", (1, 900)), plain(30)]
    decisions = [verdict.decision for verdict in pictures().check(sheet)]
    assert decisions == [Decision.ALLOW, Decision.BLOCK, Decision.UNAVAILABLE, Decision.ALLOW]


def test_no_pictures_no_verdicts(aws):
    assert pictures().check([]) == []


@pytest.mark.parametrize("size", [(64, 64), (40, 3000), (6000, 4500), (512, 512)])
def test_pictures_are_made_to_fit_before_they_are_sent(aws, size):
    (verdict,) = pictures().check([plain(size=size)])
    assert verdict.decision is Decision.ALLOW
    (sent,) = aws.rekognition.pictures
    assert min(sent.size) >= 80
    assert sent.format == "JPEG"


def test_noise_that_compresses_badly_still_fits_into_five_megabytes():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1920, 1920, 3), np.uint8))
    content = encoded(noise)
    assert len(content) <= MAX_BYTES
    assert Image.open(io.BytesIO(content)).size == (1920, 1920)


PICTURE_FAULTS = every_fault(
    numbers=("ModerationLabels.0.Confidence",),
    keys=(
        "ModerationLabels", "ModerationModelVersion",
        "ModerationLabels.0.Name", "ModerationLabels.0.Confidence",
    ),
    lists=("ModerationLabels",),
)  # fmt: skip


@pytest.mark.parametrize(
    "fault", [f for _, f in PICTURE_FAULTS], ids=[n for n, _ in PICTURE_FAULTS]
)
def test_every_fault_leaves_a_picture_unchecked_within_bounded_time(aws, fault):
    aws.rekognition.labels = lambda picture: [("Alcohol", 55.0)]
    aws.server.faults.faults.append(fault)
    begun = time.monotonic()
    verdicts = pictures(config=QUICK).check([plain(), plain()])
    assert [v.decision for v in verdicts] == [Decision.UNAVAILABLE] * 2
    assert not any(v.allowed for v in verdicts)
    assert time.monotonic() - begun < 3


def test_nobody_listening_leaves_a_picture_unchecked(aws):
    config = ModerationConfig(backend="aws", endpoint_url="http://127.0.0.1:9", check_timeout_s=2)
    (verdict,) = pictures(config=config).check([plain()])
    assert verdict.decision is Decision.UNAVAILABLE


def test_no_credentials_leave_a_picture_unchecked(aws, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (verdict,) = pictures().check([plain()])
    assert verdict.decision is Decision.UNAVAILABLE


def test_one_throttled_answer_is_tried_again(aws):
    aws.server.faults.add("error", code="ThrottlingException", status=400, times=1)
    (verdict,) = pictures().check([plain()])
    assert verdict.decision is Decision.ALLOW
    assert aws.calls("DetectModerationLabels") == 2


# --- photos ----------------------------------------------------------------------------------


def test_a_face_is_measured_in_shares_and_degrees(aws):
    aws.rekognition.faces = lambda picture: [
        Face(box=(-0.05, 0.2, 0.5, 0.9), yaw=33.0, sunglasses=True, occluded=True, age=(12, 20)),
        Face(box=(0.8, 0.1, 0.1, 0.1), confidence=60.0),
    ]
    aws.rekognition.celebrities = lambda picture: [("Somebody Known", 96.0)]
    facts = photo_check(CALM, POLICY).measure(plain())
    (face,) = facts.faces
    assert face.box == pytest.approx((0.0, 0.2, 0.45, 1.0))
    assert (face.yaw_deg, face.age_low, face.age_high) == (33.0, 12, 20)
    assert face.sunglasses == pytest.approx(0.99)
    assert face.eyes_open == pytest.approx(0.99)
    assert face.sharpness == pytest.approx(0.85)
    assert len(facts.weak_faces) == 1
    assert facts.public_figure == pytest.approx(0.96)
    assert (facts.width_px, facts.height_px) == (160, 200)


def test_public_figures_are_only_asked_about_where_switched_on(aws):
    facts = photo_check(ModerationConfig(backend="aws"), POLICY).measure(plain())
    assert facts.public_figure is None
    assert aws.calls("RecognizeCelebrities") == 0


FACE_FAULTS = every_fault(
    numbers=(
        "FaceDetails.0.Confidence", "FaceDetails.0.Pose.Yaw", "FaceDetails.0.Quality.Sharpness",
        "FaceDetails.0.AgeRange.Low", "FaceDetails.0.BoundingBox.Width",
    ),
    keys=(
        "FaceDetails", "FaceDetails.0.Pose", "FaceDetails.0.Quality", "FaceDetails.0.AgeRange",
        "FaceDetails.0.Sunglasses", "FaceDetails.0.FaceOccluded",
    ),
    lists=("FaceDetails",),
)  # fmt: skip
# A head may be turned to a negative angle.
FACE_FAULTS = [(n, f) for n, f in FACE_FAULTS if n != "negative FaceDetails.0.Pose.Yaw"]


def test_every_fault_of_face_detection_raises_and_measures_nothing(aws):
    check = photo_check(QUICK, POLICY)
    assert photo_check(CALM, POLICY).measure(plain()).faces
    for name, fault in FACE_FAULTS:
        aws.server.faults.only(replace(fault, operation="DetectFaces"))
        try:
            facts = check.measure(plain())
        except ServiceFault:
            continue
        pytest.fail(f"{name}: measured {facts}")


def test_a_fault_in_one_of_two_questions_about_a_photo_raises(aws):
    aws.server.faults.add("empty", "RecognizeCelebrities")
    with pytest.raises(ServiceFault, match="CelebrityFaces"):
        photo_check(CALM, POLICY).measure(plain())


# --- the set ---------------------------------------------------------------------------------


def people(aws):
    """Photos of the same hundred of red show the same person."""

    def similarity(source, target):
        return 98.0 if red_of(source) // 100 == red_of(target) // 100 else 3.0

    aws.rekognition.similarity = similarity


def test_the_odd_photo_out_is_refused_not_the_set(aws):
    people(aws)
    verdicts = photo_check(CALM, POLICY).same_person([plain(10), plain(20), plain(150), plain(30)])
    assert [v.decision for v in verdicts] == [
        Decision.ALLOW, Decision.ALLOW, Decision.BLOCK, Decision.ALLOW,
    ]  # fmt: skip
    assert aws.calls("CompareFaces") == 3
    assert verdicts[2].reasons[0].code == "other_person"


def test_when_the_first_photo_is_the_odd_one_another_stands_for_the_set(aws):
    people(aws)
    verdicts = photo_check(CALM, POLICY).same_person([plain(150), plain(10), plain(20), plain(30)])
    assert [v.decision for v in verdicts] == [Decision.BLOCK] + [Decision.ALLOW] * 3
    assert aws.calls("CompareFaces") == 6


def test_drawn_pictures_are_compared_with_photos_of_the_person(aws):
    people(aws)
    check = photo_check(CALM, POLICY)
    assert check.likeness([plain(10), plain(20)], [plain(30), plain(40)]) == pytest.approx(0.98)
    assert check.likeness([plain(10)], [plain(30), plain(150)]) == pytest.approx(0.505)
    assert aws.calls("CompareFaces") == 6
    aws.server.faults.add("empty", "CompareFaces")
    assert check.likeness([plain(10), plain(20)], [plain(30)]) is None


def test_an_unsure_likeness_is_the_persons_call(aws):
    aws.rekognition.similarity = lambda source, target: 65.0
    verdicts = photo_check(CALM, POLICY).same_person([plain(1), plain(2), plain(3)])
    assert {v.decision for v in verdicts} == {Decision.ALLOW, Decision.REVIEW}
    assert "sure" in verdicts[-1].reasons[0].message


def test_a_single_photo_has_nothing_to_be_compared_with(aws):
    assert photo_check(CALM, POLICY).same_person([plain()]) is None


SET_FAULTS = every_fault(
    numbers=("FaceMatches.0.Similarity",),
    keys=("FaceMatches", "SourceImageFace", "FaceMatches.0.Similarity"),
    lists=("FaceMatches",),
)


def test_every_fault_leaves_a_set_unchecked(aws):
    check = photo_check(QUICK, POLICY)
    for name, fault in SET_FAULTS:
        aws.server.faults.only(fault)
        verdicts = check.same_person([plain(1), plain(2)])
        assert [v.decision for v in verdicts] == [Decision.UNAVAILABLE] * 2, name
