"""Bodies in JumpStart's shapes, and answers that fit through the endpoint."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.errors import RequestRefused
from serving.payloads import (
    MAX_BODY_BYTES,
    MAX_PICTURES,
    SAMPLERS,
    TooLarge,
    UnknownType,
    answer,
    check_room,
    parse,
)
from serving.request import Rendered

JSON = "application/json"
JPEG = "application/json;jpeg"


def call(content, content_type=JSON, accept=JPEG):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse(body, content_type, accept, adapter=Path("/models/a"), owner="o")


def rendered(n=0, size=(16, 16), noise=False):
    pixels = np.random.default_rng(n).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels) if noise else Image.new("RGB", size, (10, 200, n))
    return Rendered(str(n), picture, 100 + n, 20, 1.5, {"denoise": 1.2, "decode": 0.3})


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_stable_diffusion_21_in_full():
    parsed = call(
        {
            "prompt": "a cat",
            "negative_prompt": "bad",
            "width": 512,
            "height": 768,
            "num_images_per_prompt": 3,
            "num_inference_steps": 30,
            "guidance_scale": 7.5,
            "seed": 5,
        }
    )
    assert [r.seed for r in parsed.requests] == [5, 6, 7]
    first = parsed.requests[0]
    assert (first.prompt, first.negative) == ("a cat", "bad")
    assert (first.width, first.height, first.steps, first.guidance) == (512, 768, 30, 7.5)
    assert (first.adapter, first.owner) == (Path("/models/a"), "o")
    body = json.loads(answer(parsed, [rendered(n) for n in range(3)]))
    assert body["prompt"] == "a cat"
    assert [opened(p).format for p in body["generated_images"]] == ["JPEG"] * 3
    assert body["seeds"] == [100, 101, 102]
    assert body["timings"][0] == {"seconds": 1.5, "denoise": 1.2, "decode": 0.3}


def test_without_jpeg_pictures_are_nested_numbers():
    parsed = call({"prompt": "a cat"}, accept="application/json")
    body = json.loads(answer(parsed, [rendered(7)]))
    assert body["generated_images"][0][0][0] == [10, 200, 7]


def test_text_alone_is_a_prompt():
    parsed = call(b"eine Katze mit Hut", "application/x-text", JPEG)
    assert parsed.requests[0].prompt == "eine Katze mit Hut"
    body = json.loads(answer(parsed, [rendered()]))
    assert opened(body["generated_image"]).size == (16, 16)
    assert body["prompt"] == "eine Katze mit Hut"


def test_sdxl_in_full():
    parsed = call(
        {
            "text_prompts": [
                {"text": "a cat", "weight": 1},
                {"text": "bad hands", "weight": -1},
                {"text": "in a hat"},
                {"text": "blur", "weight": -0.5},
                {"text": "nothing", "weight": 0},
            ],
            "width": 1024,
            "height": 768,
            "sampler": "DPMPP2MSampler",
            "cfg_scale": 7.0,
            "steps": 50,
            "seed": 133,
            "use_refiner": True,
            "refiner_steps": 40,
            "refiner_strength": 0.2,
        },
        accept="",
    )
    (request,) = parsed.requests
    assert (request.prompt, request.negative) == ("a cat, in a hat", "bad hands, blur")
    assert (request.width, request.height) == (1024, 768)
    assert (request.steps, request.guidance, request.seed) == (50, 7.0, 133)
    body = json.loads(answer(parsed, [rendered()]))
    assert opened(body["generated_image"]).format == "PNG"
    assert any("refiner" in note for note in body["notes"])
    assert any("weights" in note for note in body["notes"])


def test_without_a_seed_one_is_drawn_and_told():
    seeds = {call({"prompt": "a"}).requests[0].seed for _ in range(5)}
    assert len(seeds) > 1


def test_large_answers_lose_quality_until_they_fit():
    sdxl = call({"text_prompts": [{"text": "a"}]})
    body = answer(sdxl, [rendered(size=(1536, 1536), noise=True)])
    assert len(body) <= MAX_BODY_BYTES
    assert opened(json.loads(body)["generated_image"]).format == "JPEG"
    many = call({"prompt": "a", "num_images_per_prompt": 4})
    body = answer(many, [rendered(n, (1024, 1024), noise=True) for n in range(4)])
    assert len(body) <= MAX_BODY_BYTES


def test_what_cannot_fit_says_what_to_ask_for():
    nested = call({"prompt": "a"}, accept=JSON)
    with pytest.raises(TooLarge, match="jpeg"):
        answer(nested, [rendered(size=(1024, 1024))])
    many = call({"prompt": "a", "num_images_per_prompt": 3})
    with pytest.raises(TooLarge, match="fewer"):
        answer(many, [rendered(n, (2048, 2048), noise=True) for n in range(3)])


@pytest.mark.parametrize("shape", ["text", "json"])
def test_lists_of_numbers_that_may_not_fit_are_refused_before_drawing(shape):
    prompt = "ü" * 2000  # six bytes a letter in JSON
    if shape == "text":
        nested = call(prompt.encode(), "application/x-text", JSON)
    else:
        nested = call({"prompt": prompt}, accept=JSON)
    width = 664
    height = 8
    with pytest.raises(TooLarge, match=r"application/json;jpeg, or for smaller"):
        for height in range(8, 2048, 8):
            check_room(nested, width, height)
    white = Rendered(
        "0",
        Image.new("RGB", (width, height - 8), "white"),
        (1 << 63) - 1,
        200,
        54321.1234,
        dict.fromkeys(("switch", "encode", "denoise", "decode", "wait"), 54321.1234),
    )
    size = len(answer(nested, [white]))
    assert MAX_BODY_BYTES - 8 * 664 * 14 - 2000 < size <= MAX_BODY_BYTES, "no less than could be"


def test_lists_of_numbers_count_for_all_pictures_of_a_call():
    nested = call({"prompt": "a", "num_images_per_prompt": 8}, accept=JSON)
    with pytest.raises(TooLarge, match=r"8 x 256 x 256 .* at most 6 of them"):
        check_room(nested, 256, 256)
    check_room(call({"prompt": "a", "num_images_per_prompt": 6}, accept=JSON), 256, 256)
    check_room(call({"prompt": "a", "num_images_per_prompt": 8}), 1024, 1024)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, ["prompt", "missing"]),
        ({"prompt": 5}, ["prompt", "5"]),
        ({"prompt": None}, ["prompt"]),
        ({"prompt": "a", "width": "wide"}, ["width", "wide"]),
        ({"prompt": "a", "seed": -1}, ["seed", "-1"]),
        ({"prompt": "a", "seed": 1 << 63}, ["seed"]),
        ({"prompt": "a", "num_images_per_prompt": 9}, ["num_images_per_prompt", str(MAX_PICTURES)]),
        ({"prompt": "a", "num_images_per_prompt": 0}, ["num_images_per_prompt", "0"]),
        ({"prompt": "a", "quality": "superb"}, ["quality", "superb"]),
        ({"text_prompts": []}, ["text_prompts"]),
        ({"text_prompts": "a cat"}, ["text_prompts"]),
        ({"text_prompts": [{"text": "a", "weight": -1}]}, ["text_prompts", "above 0"]),
        ({"text_prompts": [{"weight": 1}]}, ["text_prompts.0.text"]),
        ({"text_prompts": [{"text": "a"}] * 11}, ["text_prompts"]),
        ({"text_prompts": [{"text": "a"}], "sampler": "Magic"}, ["Magic", SAMPLERS[0]]),
        ({"text_prompts": [{"text": "a"}], "init_image": "aGk="}, ["init_image"]),
        ([1, 2], ["JSON object"]),
        (b"{", ["JSON"]),
        (b"", ["JSON"]),
        (b"\xff\xfe", ["UTF-8"]),
        (b'{"text_prompts":[{"text":"a","weight":NaN}]}', ["weight"]),
        (b"[" * 100_000, ["JSON"]),
    ],
)
def test_bad_bodies_are_refused_by_field_and_value(content, words):
    with pytest.raises(RequestRefused) as error:
        call(content)
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value)) < 500


def test_other_content_types_are_named():
    with pytest.raises(UnknownType, match="image/png"):
        call(b"x", "image/png")
