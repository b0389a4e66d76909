"""Picture checks: avatars pass the basic one, bare skin does not; real small models for the others."""

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import studio
from moderation import nudenet, picture_classifier, safety_checker
from moderation.chain import build
from moderation.layers import ModerationConfig
from moderation.pictures import ExposedSkinCheck, choose
from moderation.pixels import normalised
from moderation.policy import Action, load_policy
from moderation.verdict import Decision, Stage

POLICY = load_policy()
SAMPLES = sorted((Path(studio.__file__).parent / "samples" / "person-1").glob("*.webp"))
SKINS = ["#f8dcc4", "#dfa878", "#a8683c", "#653a22"]


def avatars() -> list[Image.Image]:
    persona = pytest.importorskip("training.starter.persona")
    artwork = pytest.importorskip("training.starter.artwork")
    rng, drawn = random.Random(3), []
    for style in ("manga", "comic", "pixel art", "voxel"):
        filter = Image.Resampling.NEAREST if style == "pixel art" else Image.Resampling.BICUBIC
        for _ in range(2):
            person, scene = persona.some_person(rng), persona.some_scene(style, rng)
            drawn.append(artwork.draw(person, scene, 64).resize((512, 512), filter))
    return drawn


def nude(skin: str) -> Image.Image:
    """A body close up, as far as the basic check can tell."""
    picture = Image.new("RGB", (512, 512), (60, 80, 120))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((190, -60, 320, 90), fill=skin)
    draw.rounded_rectangle((60, 80, 450, 512), 60, fill=skin)
    return picture


def test_avatars_of_every_style_and_ordinary_portraits_are_shown() -> None:
    pictures = avatars() + [Image.open(path).convert("RGB") for path in SAMPLES[:2]]
    judged = build(ModerationConfig()).pictures(pictures, Stage.PICTURE)
    assert [j.action for j in judged] == [Action.SHOW] * len(pictures)


@pytest.mark.parametrize("skin", SKINS)
def test_a_body_full_of_skin_is_not_shown_as_it_is(skin: str) -> None:
    (judged,) = build(ModerationConfig()).pictures([nude(skin)], Stage.PICTURE)
    assert (judged.verdict.decision, judged.action, judged.retry) == (
        Decision.REVIEW,
        Action.BLUR,
        True,
    )


@pytest.mark.parametrize("stage", [Stage.PHOTO, Stage.CLASS_PICTURE, Stage.PREVIEW])
def test_stages_act_differently_on_the_same_finding(stage: Stage) -> None:
    (verdict,) = ExposedSkinCheck(POLICY, stage).check([nude(SKINS[1])])
    expected = {
        Stage.PHOTO: Action.HOLD,
        Stage.CLASS_PICTURE: Action.WITHHOLD,
        Stage.PREVIEW: Action.BLUR,
    }
    assert POLICY.action(verdict, stage)[0] is expected[stage]


def test_the_best_that_is_there_is_chosen(tmp_path: Path) -> None:
    if not importlib.util.find_spec("nudenet"):
        assert choose(None, None).name == "basic"
        (tmp_path / "safety_checker").mkdir()
        (tmp_path / "safety_checker" / "config.json").write_text("{}")
        assert choose(tmp_path, None).name == "safety-checker"
    (tmp_path / "config.json").write_text("{}")
    assert choose(tmp_path, tmp_path).name == "classifier"


def test_a_classifier_without_weights_is_unavailable_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    moderation = build(ModerationConfig(classifier=tmp_path))
    assert not moderation.picture_check_is_basic
    (judged,) = moderation.pictures([Image.new("RGB", (64, 64))], Stage.PICTURE)
    assert (judged.verdict.decision, judged.action) == (Decision.UNAVAILABLE, Action.WITHHOLD)


def tiny_classifier(folder: Path, labels: dict[int, str], favoured: int) -> Path:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                       image_size=32, patch_size=16, id2label=labels, label2id={v: k for k, v in labels.items()})  # fmt: skip
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.bias[favoured] = 4.0
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 32, "width": 32}})
    )
    return folder


@pytest.mark.parametrize(("favoured", "decision"), [(0, Decision.ALLOW), (1, Decision.BLOCK)])
def test_a_downloaded_classifier_decides(tmp_path: Path, favoured: int, decision: Decision) -> None:
    folder = tiny_classifier(tmp_path, {0: "normal", 1: "nsfw"}, favoured)
    judged = build(ModerationConfig(classifier=folder)).pictures(
        [nude(SKINS[0])] * 2, Stage.PICTURE
    )
    picture_classifier._load.cache_clear()
    assert [j.verdict.decision for j in judged] == [decision] * 2


def test_a_classifier_whose_labels_say_nothing_is_refused(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path, {0: "cat", 1: "dog"}, 0)
    with pytest.raises(ValueError, match="cat, dog"):
        picture_classifier.ClassifierCheck(folder, POLICY, Stage.PICTURE).check([nude(SKINS[0])])


@pytest.mark.parametrize(("threshold", "decision"), [(-1.5, Decision.BLOCK), (1.5, Decision.ALLOW)])
def test_the_bases_own_safety_checker_decides(
    tmp_path: Path, threshold: float, decision: Decision
) -> None:
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 16, "projection_dim": 8}  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(threshold)
        checker.special_care_embeds_weights.fill_(2.0)
    checker.save_pretrained(tmp_path / "safety_checker")
    check = safety_checker.SafetyCheckerCheck(tmp_path, POLICY, Stage.PICTURE)
    verdicts = check.check([nude(SKINS[0]), nude(SKINS[3])])
    safety_checker._model.cache_clear()
    assert [v.decision for v in verdicts] == [decision] * 2
    assert check.check([]) == []


@pytest.mark.skipif(
    importlib.util.find_spec("nudenet") is not None, reason="the extra is installed"
)
def test_without_the_extra_nudenet_raises_and_the_chain_would_say_unavailable() -> None:
    with pytest.raises(ImportError):
        nudenet.NudeNetCheck(POLICY, Stage.PICTURE).check([nude(SKINS[0])])


@pytest.mark.skipif(importlib.util.find_spec("nudenet") is None, reason="the extra is not there")
def test_with_the_extra_nudenet_is_chosen_and_lets_portraits_pass() -> None:
    moderation = build(ModerationConfig())
    assert moderation.capabilities()["pictures"].startswith("nudenet: ")
    assert "AGPL" in moderation.capabilities()["pictures"]
    pictures = [Image.open(path).convert("RGB") for path in SAMPLES[:3]]
    pictures += [Image.new("I;16", (320, 320), 40_000), Image.new("L", (90, 90))]
    judged = moderation.pictures(pictures, Stage.PICTURE)
    assert [j.verdict.decision for j in judged] == [Decision.ALLOW] * len(pictures)
    assert {f.backend for j in judged for f in j.verdict.findings} == {"nudenet"}
    found = nudenet._detector().detect(np.ascontiguousarray(np.asarray(pictures[0])[..., ::-1]))
    assert {part["class"] for part in found} & {"FACE_FEMALE", "FACE_MALE"}, "it does look"


def test_pixels_are_squeezed_not_cropped() -> None:
    picture = Image.new("RGB", (300, 100), "white")
    picture.paste("black", (0, 0, 20, 100))
    pixels = normalised(picture, 30, (0.5,) * 3, (0.5,) * 3)
    assert pixels.shape == (3, 30, 30)
    assert pixels[0, 15, 0] < -0.9 and pixels[0, 15, 29] > 0.9
