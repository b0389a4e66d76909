"""Photos: the same rule for every backend, and the local backend on drawn portraits."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

import studio
from moderation.chain import build
from moderation.layers import ModerationConfig
from moderation.photos import (
    Face,
    LocalPhotoCheck,
    PhotoFacts,
    PhotoRules,
    judge_photo,
    suggested_crop,
)
from moderation.verdict import Decision

SAMPLES = sorted((Path(studio.__file__).parent / "samples" / "person-1").glob("*.webp"))
FACE = Face((0.3, 0.2, 0.7, 0.7), 1.0)
GOOD = PhotoFacts(1024, 768, (FACE,), "test", "1", 1.0, (), 0.8, 0.5, 0.2)
LOCAL = build(ModerationConfig())


def sample(number: int = 0) -> Image.Image:
    return Image.open(SAMPLES[number]).convert("RGB")


def codes(facts: PhotoFacts, rules: PhotoRules | None = None) -> tuple[Decision, set[str]]:
    verdict = judge_photo(facts, rules or PhotoRules())
    return verdict.decision, {reason.code for reason in verdict.reasons}


def test_one_clear_face_is_accepted() -> None:
    assert codes(GOOD) == (Decision.ALLOW, set())
    assert judge_photo(GOOD, PhotoRules()).findings


@pytest.mark.parametrize(
    ("change", "decision", "code"),
    [
        ({"width_px": 200}, "block", "too_small"),
        ({"height_px": 400}, "review", "small"),
        ({"faces": ()}, "review", "no_face"),
        ({"faces": (), "weak_faces": (FACE,)}, "review", "unclear_face"),
        ({"faces": (FACE, FACE)}, "block", "several_faces"),
        ({"weak_faces": (FACE,)}, "review", "maybe_several_faces"),
        ({"sharpness": 0.1}, "review", "blurred"),
        ({"sharpness": 0.01}, "block", "blurred"),
        ({"brightness": 0.1}, "review", "too_dark"),
        ({"brightness": 0.02}, "block", "too_dark"),
        ({"brightness": 0.97}, "review", "too_bright"),
        ({"contrast": 0.05}, "review", "flat"),
        ({"contrast": 0.001}, "block", "empty"),
        ({"public_figure": 0.95}, "block", "public_figure"),
    ],
)
def test_each_fault_has_a_code_a_sentence_and_a_remedy(
    change: dict, decision: str, code: str
) -> None:
    facts = replace(GOOD, **change)
    found, reasons = codes(facts)
    assert (found, reasons) == (decision, {code})
    reason = judge_photo(facts, PhotoRules()).reasons[0]
    assert reason.message.endswith(".") and reason.fix.endswith(".")


@pytest.mark.parametrize(
    ("change", "decision", "code"),
    [
        ({"yaw_deg": 70.0}, "review", "turned_away"),
        ({"pitch_deg": -50.0}, "review", "turned_away"),
        ({"sunglasses": 0.97}, "review", "sunglasses"),
        ({"occluded": 0.97}, "review", "covered_face"),
        ({"eyes_open": 0.03}, "review", "eyes_closed"),
        ({"age_low": 10, "age_high": 16}, "block", "looks_under_age"),
        ({"age_low": 16, "age_high": 24}, "review", "maybe_under_age"),
        ({"box": (0.4, 0.4, 0.48, 0.48)}, "review", "face_too_small"),
        ({"sharpness": 0.05}, "review", "blurred"),
    ],
)
def test_what_a_better_backend_measures_is_judged_too(
    change: dict, decision: str, code: str
) -> None:
    assert codes(replace(GOOD, faces=(replace(FACE, **change),))) == (decision, {code})


def test_no_face_blocks_where_the_host_is_strict() -> None:
    assert codes(replace(GOOD, faces=()), PhotoRules(strict_faces=True))[0] is Decision.BLOCK


def test_a_block_is_told_before_a_doubt() -> None:
    verdict = judge_photo(replace(GOOD, faces=(FACE, FACE), brightness=0.1), PhotoRules())
    assert [r.code for r in verdict.reasons] == ["several_faces", "too_dark"]


@pytest.mark.parametrize(
    "face", [(0.0, 0.0, 0.2, 0.2), (0.8, 0.8, 1.0, 1.0), (0.1, 0.1, 0.9, 0.9), (0.4, 0.3, 0.6, 0.6)]
)
@pytest.mark.parametrize("size", [(1000, 1000), (1600, 900), (600, 1400)])
def test_a_crop_is_square_inside_the_picture_and_holds_the_face(
    face: tuple, size: tuple[int, int]
) -> None:
    left, top, right, bottom = suggested_crop(face, *size)
    assert 0 <= left < right <= 1.0001 and 0 <= top < bottom <= 1.0001
    assert (right - left) * size[0] == pytest.approx((bottom - top) * size[1])


@pytest.mark.parametrize("number", range(0, len(SAMPLES), 4))
def test_the_drawn_sample_person_is_never_refused(number: int) -> None:
    judged = LOCAL.photo(sample(number))
    assert judged.verdict.decision in (Decision.ALLOW, Decision.REVIEW)
    assert judged.face is not None and judged.crop is not None
    assert judged.facts["faces"] == 1 and 0.2 < judged.facts["face_share"] < 0.8


def test_two_people_on_one_photo_are_counted() -> None:
    both = Image.new("RGB", (1280, 640))
    both.paste(sample(0), (0, 0))
    both.paste(sample(1), (640, 0))
    judged = LOCAL.photo(both)
    assert judged.verdict.decision is Decision.BLOCK
    assert "several_faces" in {r.code for r in judged.verdict.reasons}


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda p: p.filter(ImageFilter.GaussianBlur(12)), "blurred"),
        (lambda p: p.point(lambda v: v // 9), "too_dark"),
        (lambda p: p.resize((160, 160)), "too_small"),
        (lambda p: Image.new("RGB", p.size, (90, 120, 200)), "empty"),
        (lambda p: Image.effect_noise(p.size, 80).convert("RGB"), "no_face"),
    ],
)
def test_a_spoilt_photo_is_told_why(spoil, code: str) -> None:
    judged = LOCAL.photo(spoil(sample()))
    assert not judged.verdict.allowed
    assert code in {reason.code for reason in judged.verdict.reasons}


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (5000, 20)])
def test_odd_sizes_do_not_break_the_check(size: tuple[int, int]) -> None:
    assert LOCAL.photo(Image.new("RGB", size)).verdict.decision is Decision.BLOCK


def test_the_local_set_check_says_that_it_compared_nothing() -> None:
    assert LocalPhotoCheck().same_person([sample()]) is None
    (verdict,) = LOCAL.photo_set([sample()])
    assert verdict.findings[0].label == "not compared"


def test_faces_are_found_alike_from_many_threads() -> None:
    check = LocalPhotoCheck()
    check.prepare()
    pictures = [sample(), sample().transpose(Image.Transpose.FLIP_LEFT_RIGHT)] * 2
    alone = [LocalPhotoCheck().measure(one).faces for one in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = [facts.faces for facts in pool.map(check.measure, pictures)]
    assert together == alone and any(alone)
