"""What candidates are measured by, and which one is chosen."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from diffusion.bases import PROBE
from diffusion.load import load_parts
from tests.training.runs import photo, request
from training import comparison
from training.attributes import FILE, Attributes, Probe, style_of
from training.checks import check_request
from training.colours import Colours
from training.embedding import Embedding, Resemblance
from training.errors import RequestRefused
from training.following import Following
from training.judge import Judge, Scores, best
from training.learner import Learner
from training.moments import encode_moments
from training.painter import Painter
from training.person import Person
from training.precision import FP32, accelerator_for
from training.recipe import plan
from training.starter import evaluate, probe, sample
from training.starter.persona import held_out_people

SHIPPED = Path("models/starter-3")
CPU = torch.device("cpu")


def scores(step: int, **numbers) -> Scores:
    usual = {
        "hair_de": 10.0, "skin_de": 10.0, "likeness": 0.5, "variety": 1.0, "nearest_photo": 1.0,
        "drift": 0.1, "follows": 1.0,
    }  # fmt: skip
    return Scores(step=step, **(usual | numbers))


def test_likeness_leads_and_what_over_training_costs_is_taken_off():
    assert best([scores(1, likeness=0.4), scores(2, likeness=0.7)]).step == 2
    assert best([scores(1), scores(2)]).step == 1, "of equals the least trained"
    for lost in ({"nearest_photo": 0.2}, {"variety": 0.3}, {"drift": 0.9}, {"follows": 0.4}):
        spoilt = scores(2, likeness=0.9, **lost)
        assert spoilt.overtrained and best([scores(1, likeness=0.6), spoilt]).step == 1, lost


def test_prompts_that_are_not_followed_cost_likeness():
    deaf, hearing = scores(1, likeness=0.6, follows=0.7), scores(2, likeness=0.55)
    assert best([deaf, hearing]).step == 2


def test_who_knows_faces_ranks_before_colours():
    by_colour = [scores(1, likeness=0.9), scores(2, likeness=0.3)]
    assert best(by_colour).step == 1
    assert (
        best(
            [scores(1, likeness=0.9, similarity=0.2), scores(2, likeness=0.3, similarity=0.8)]
        ).step
        == 2
    )


# -- the probe of the shipped starter -----------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Probe:
    found = Probe.of(SHIPPED)
    assert found is not None
    return found


def rendered(person) -> list[tuple[str, Image.Image]]:
    cases = [case for case in evaluate.cases([person]) if case.scene.style != "photo"]
    drawn = evaluate.renders(cases, 64)
    return [
        (f"a portrait of sks person, {c.scene.style} style", Image.fromarray(d))
        for c, d in zip(cases, drawn, strict=True)
    ]


def test_the_probe_tells_people_apart_in_drawn_styles(shipped):
    one, other = held_out_people()[0], held_out_people()[9]
    photos = [sample.shoot(one, number, 128) for number in sample.SHOTS[:4]]
    seen = Attributes(shipped, photos)
    own, theirs = ([p for _, p in rendered(person)] for person in (one, other))
    assert seen.distances(own)[0] < 0.7 * seen.distances(theirs)[0]
    assert seen.kept(own) > seen.kept(theirs)


def test_the_probe_reads_whether_a_style_was_followed(shipped):
    person = held_out_people()[0]
    seen = Attributes(shipped, [sample.shoot(person, sample.SHOTS[0], 128)])
    prompts, pictures = zip(*rendered(person), strict=True)
    assert seen.follows(pictures, prompts) >= 0.8
    assert seen.follows(pictures, prompts[1:] + prompts[:1]) <= 0.2
    assert seen.follows(pictures[:1], ["a portrait of sks person"]) is None
    assert style_of("A Portrait, pixel art style") == "pixel art"


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_probe_that_cannot_be_used_is_left_out(tmp_path, content, caplog):
    folder = tmp_path / PROBE
    folder.mkdir()
    if content is None:
        save_file({"x": torch.zeros(1)}, folder / FILE, {"size_px": "64"})
    else:
        (folder / FILE).write_bytes(content)
    assert Probe.of(tmp_path) is None and "cannot be used" in caplog.text
    assert Probe.of(tmp_path / "elsewhere") is None


def test_a_probe_survives_its_file(tmp_path):
    torch.manual_seed(0)
    made = Probe(probe.Judge(32), 32)
    assert made.save(tmp_path).stat().st_size < 1.2e6
    again = Probe.of(tmp_path)
    pictures = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    for one, other in zip(made.read(pictures), again.read(pictures), strict=True):
        assert one.lab["skin"] == pytest.approx(other.lab["skin"], abs=0.5)


# -- image models -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory, bases) -> dict[str, Path]:
    """A tiny CLIP with a tokenizer, and a tiny DINOv2, both of noise."""
    root = tmp_path_factory.mktemp("embedders")
    torch.manual_seed(1)
    narrow = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    tokenizer = load_parts(bases["sd15"], "sd15", parts={"tokenizer"}).tokenizers[0]
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = (
        narrow
        | ends
        | {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    clip = CLIPModel(
        CLIPConfig(
            text_config=text,
            vision_config=narrow | {"image_size": 32, "patch_size": 8},
            projection_dim=16,
        )
    )
    clip.save_pretrained(root / "clip")
    tokenizer.save_pretrained(root / "clip")
    dino = narrow | {"image_size": 32, "patch_size": 8, "mlp_ratio": 1}
    Dinov2Model(
        Dinov2Config(**{k: v for k, v in dino.items() if k != "intermediate_size"})
    ).save_pretrained(root / "dino")
    for name in ("clip", "dino"):
        look = {
            "crop_size": {"height": 32, "width": 32},
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        }
        (root / name / "preprocessor_config.json").write_text(json.dumps(look))
    return {"clip": root / "clip", "dino": root / "dino"}


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_an_image_model_puts_the_person_above_anybody(models, tmp_path, name):
    seen = Embedding(models[name], CPU)
    assert seen.name == name.upper() and seen.reads == (name == "clip")
    mine = [Image.open(photo(tmp_path / f"{n}.png", n)) for n in range(4)]
    anybody = [Image.new("RGB", (96, 96), (40 * n, 20, 90)) for n in range(3)]
    alike = Resemblance(seen, mine[:2], mine[2:], anybody)
    assert alike.likeness(mine[2:]) > 0.5 > alike.likeness(anybody) == 0.0
    assert seen.pictures(mine).norm(dim=-1) == pytest.approx(1.0)
    prompts = ["a photo of a person", "a drawing"] * 2
    follows = alike.follows(mine, prompts)
    assert follows is None if name == "dino" else 0 <= follows <= 1


def test_a_folder_without_an_image_model_is_refused_before_anything_is_loaded(bases, tmp_path):
    asked = request(bases["starter"], "starter", tmp_path / "run", embedder=tmp_path / "nowhere")
    with pytest.raises(RequestRefused, match=r"`embedder` is .*nowhere: it holds no CLIP"):
        check_request(asked)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RequestRefused, match="`embedder` is"):
        Embedding(strange, CPU)


# -- what the base itself tells -------------------------------------------------------------------


def test_the_shipped_base_knows_which_prompt_a_picture_belongs_to(tmp_path):
    """True renders in five styles: each belongs to its own style, and not to another's."""
    torch.set_num_threads(1)
    parts = load_parts(SHIPPED, "starter")
    prompts, pictures = zip(*rendered(held_out_people()[2]), strict=True)
    twins = [prompt.replace("sks", "a") for prompt in prompts]
    latents = list(encode_moments(parts, pictures).mean[:, None])
    asked = request(SHIPPED, "starter", tmp_path / "unused", photos=(), steps=2)
    learner = Learner(parts, [_nobody(asked)], accelerator_for("cpu"), FP32)
    following = Following(learner)
    right = following.share(latents, twins)
    wrong = following.share(latents, twins[1:] + twins[:1])
    assert right >= 0.7 > 0.5 >= wrong
    assert following.share(latents, twins[:1] * len(latents)) == 1.0


def _nobody(asked) -> Person:
    from training.moments import Moments

    blank = Moments(torch.zeros(1, 4, 16, 16), torch.ones(1, 4, 16, 16))
    return Person(asked, plan(asked), blank, (("sks person",),), None)


# -- whoever started the run ----------------------------------------------------------------------


def test_a_question_is_answered_by_who_started_the_run(tmp_path):
    mine = [Image.new("RGB", (8, 8), "red")]
    drawn = {3: [Image.new("RGB", (8, 8), "blue")], 6: [Image.new("RGB", (8, 8), "red")]}

    def reds(photos, shown) -> float:
        assert [path.is_file() for path in (*photos, *shown)] == [True] * 2
        return float(Image.open(shown[0]).getpixel((0, 0)) == (255, 0, 0))

    def answer() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not comparison.answer(tmp_path, reds):
            time.sleep(0.01)

    thread = threading.Thread(target=answer)
    thread.start()
    assert comparison.ask(tmp_path, mine, drawn, 30, lambda: None) == {3: 0.0, 6: 1.0}
    thread.join()
    assert not comparison.answer(tmp_path, reds), "asked once, answered once"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"3": 2}', '{"3": "x"}', '{"3": NaN}', '{"4": 1}', "{}"]
)
def test_an_answer_that_is_none_is_as_good_as_silence(tmp_path, text):
    folder = tmp_path / comparison.FOLDER
    folder.mkdir()
    (folder / comparison.ANSWER).write_text(text)
    begun = time.monotonic()
    assert comparison.ask(tmp_path, [], {3: []}, 30, lambda: None) == {}
    assert time.monotonic() - begun < 5


def test_who_cannot_tell_says_so_at_once(tmp_path):
    question = {"photos": [], "candidates": {"3": []}}
    folder = tmp_path / comparison.FOLDER
    folder.mkdir()
    (folder / comparison.QUESTION).write_text(json.dumps(question))
    assert comparison.answer(tmp_path, lambda _photos, _shown: None)
    assert comparison.ask(tmp_path, [], {3: []}, 30, lambda: None) == {}


def test_a_run_that_is_ended_does_not_wait_for_an_answer(tmp_path):
    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        comparison.ask(tmp_path, [], {3: []}, 30, check)


# -- all together ---------------------------------------------------------------------------------


def measured(bases, tmp_path, **changes):
    """Two candidates of an untrained person, measured, and the report on the better."""
    asked = request(
        bases["starter"],
        "starter",
        tmp_path / "run",
        preview_prompts=("sks person", "sks person, manga style"),
        **changes,
    )
    asked.run_folder.mkdir()
    photos = [Image.open(each.path) for each in asked.photos]
    learner = Learner(
        load_parts(bases["starter"], "starter"), [_nobody(asked)], accelerator_for("cpu"), FP32
    )
    painter = Painter(learner, 16, lambda: None)
    made = Judge(painter, learner.people[0].recipe, asked, photos[:1], photos[1:])
    found = [made.scores(0, 3)]
    learner.stack.vectors.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    found.append(made.scores(0, 6))
    found = made.compared(found)
    return found, made.report(found, best(found))


def test_a_base_without_a_probe_is_measured_by_colours_and_by_itself(bases, tmp_path):
    found, report = measured(bases, tmp_path)
    assert "no face was recognised" in report["measured_by"]
    assert all(each.similarity is None and each.looks is None for each in found)
    assert all(0 <= each.follows <= 1 and math.isfinite(each.total) for each in found)
    assert found[0].drift == 0.0 < found[1].drift
    assert json.loads(json.dumps(report))["candidates"][0]["follows"] == found[0].follows


def test_the_report_says_that_an_image_model_ranked(bases, models, tmp_path):
    found, report = measured(bases, tmp_path, embedder=models["clip"])
    assert report["measured_by"] == "an image model (CLIP)"
    assert all(0 <= each.similarity <= 1 for each in found)
    assert report["likeness_score"] == best(found).similarity


def test_faces_compared_by_the_studio_choose_the_candidate(bases, tmp_path):
    folder = tmp_path / "run"

    def reply() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if comparison.answer(
                folder, lambda _p, shown: 0.9 if "000006" in shown[0].name else 0.1
            ):
                return
            time.sleep(0.01)

    thread = threading.Thread(target=reply)
    thread.start()
    found, report = measured(bases, tmp_path, compare_s=60)
    thread.join()
    assert [each.similarity for each in found] == [0.1, 0.9]
    assert report["measured_by"].startswith("faces, compared by")


def test_colours_of_photos_are_those_of_their_patches(tmp_path):
    mine = [Image.open(photo(tmp_path / f"{n}.png", n)) for n in range(3)]
    hair, skin = Colours(mine).distances(mine)
    away = Colours(mine).distances([Image.new("RGB", (96, 96), "white")])
    assert hair < 10 < away[0] and skin < 10 < away[1]
