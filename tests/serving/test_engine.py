"""The shared base: mixed batches, equality with stock diffusers, limits, memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from diffusion.load import load_parts
from diffusion.sampling import make_scheduler
from serving.adapter import TOKEN, WEIGHTS
from serving.bank import Bank
from serving.engine import MAX_PROMPT_CHARS, Drawer
from serving.errors import NotFinite, OutOfMemory, RequestRefused
from serving.queue import RequestQueue
from serving.request import GenerationRequest
from tests.tiny_adapters import tiny_adapter

# Pictures of a row in a mixed batch and of the same row alone: at most one step of 255 apart.
ONE_LEVEL = 1


@pytest.fixture(scope="module")
def drawers(bases):
    made = {family: Drawer.open(base, device="cpu") for family, base in bases.items()}
    yield made
    for drawer in made.values():
        drawer.close()


def ask(n: int = 0, **changed) -> GenerationRequest:
    fields = {"id": f"r{n}", "prompt": "a portrait of sks person", "seed": n, "steps": 4}
    return GenerationRequest(**(fields | changed))


def draw(drawer, requests, **hooks):
    return drawer.draw([drawer.check(r) for r in requests], **hooks)


def levels(a, b) -> int:
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


def mixed(people):
    """Rows of different people, prompts, seeds, guidance and strength, one without a person."""
    return [
        ask(0, adapter=people[0]),
        ask(1, adapter=people[1], guidance=1.0, prompt="sks person manga style"),
        ask(2, adapter=None, prompt="happy person"),
        ask(3, adapter=people[2], guidance=9.0, negative="sad"),
        ask(0, id="again", adapter=people[3], strength=0.5),
        ask(4, adapter=people[0], prompt="sks person blue background"),
    ]


@pytest.mark.parametrize("family", ["starter", "sd15", "sd21", "sdxl"])
def test_a_row_of_a_mixed_batch_equals_the_row_alone(drawers, people, family):
    drawer = drawers[family]
    requests = mixed(people[family])
    together = [d.picture for d in draw(drawer, requests)]
    for request, picture in zip(requests, together, strict=True):
        (alone,) = draw(drawer, [request])
        assert levels(picture, alone.picture) <= ONE_LEVEL
    different = {p.tobytes() for p in together}
    assert len(different) == len(requests), "every row is its own picture"


@pytest.mark.parametrize("family", ["starter", "sdxl"])
def test_a_mixed_batch_is_one_unet_call_per_step(drawers, people, family):
    drawer = drawers[family]
    counted = []
    handle = drawer.parts.unet.register_forward_pre_hook(
        lambda _m, args: counted.append(len(args[0]))
    )
    draw(drawer, mixed(people[family]))
    handle.remove()
    assert counted == [11] * 4  # six prompts and five negatives, four steps


@pytest.mark.parametrize("family", ["starter", "sd15", "sdxl"])
def test_a_personal_picture_equals_stock_diffusers(drawers, bases, people, family):
    drawer, folder = drawers[family], people[family][1]
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(bases[family].folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(drawer.parts, "unipc" if family != "starter" else "ddim")
    pipeline.load_lora_weights(folder)
    vectors = load_file(folder / TOKEN)
    for key, tokenizer, encoder in (
        ("clip_l", "tokenizer", "text_encoder"),
        ("clip_g", "tokenizer_2", "text_encoder_2"),
    ):
        if key in vectors:
            # A word that the vocabulary has cannot be loaded again, so its row is replaced.
            table = getattr(pipeline, encoder).get_input_embeddings().weight
            (word,) = getattr(pipeline, tokenizer)("sks", add_special_tokens=False).input_ids
            table.data[word] = vectors[key][0]
    theirs = pipeline(
        "a portrait of sks person",
        negative_prompt="sad",
        num_inference_steps=4,
        guidance_scale=4.0,
        width=16,
        height=16,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    (ours,) = draw(drawer, [ask(7, adapter=folder, negative="sad", guidance=4.0, quality="fast")])
    assert levels(ours.picture, theirs) <= ONE_LEVEL
    (bare,) = draw(drawer, [ask(7, negative="sad", guidance=4.0, quality="fast")])
    assert levels(bare.picture, theirs) > 8, "the personal weights matter"


def test_more_rows_than_a_batch_holds_are_drawn_in_turn(bases, people):
    drawer = Drawer.open(bases["sd15"], device="cpu", batch_rows=2, device_bytes=0)
    steps = []
    requests = [ask(n, adapter=people["sd15"][n]) for n in range(5)]
    drawn = draw(drawer, requests, on_step=lambda n, *_: steps.append(n))
    assert steps == [n for pair in ((0, 1), (2, 3), (4,)) for _ in range(4) for n in pair]
    for request, one in zip(requests, drawn, strict=True):
        assert levels(one.picture, draw(drawer, [request])[0].picture) <= ONE_LEVEL
    drawer.close()


def test_text_encoder_adapters_are_served_too(bases, tmp_path):
    base = bases["sd15"]
    drawer = Drawer.open(base, device="cpu")
    both, plain = (
        tiny_adapter(tmp_path / n, drawer.parts, base, seed=3, text_encoder=flag)
        for n, flag in (("both", True), ("plain", False))
    )
    requests = [ask(0, adapter=both), ask(0, adapter=plain), ask(0)]
    together = [d.picture for d in draw(drawer, requests)]
    for request, picture in zip(requests, together, strict=True):
        assert levels(picture, draw(drawer, [request])[0].picture) <= ONE_LEVEL
    assert levels(together[0], together[1]) > 2
    drawer.close()


def test_drawing_people_leaves_the_bare_base_as_it_was(bases, people):
    drawer = Drawer.open(bases["starter"], device="cpu")
    (before,) = draw(drawer, [ask(5)])
    draw(drawer, mixed(people["starter"]))
    (after,) = draw(drawer, [ask(5)])
    assert before.picture.tobytes() == after.picture.tobytes()
    drawer.close()


def test_strength_zero_is_the_bare_base_but_for_the_word(drawers, people):
    prompt = "a portrait of person"
    (none,) = draw(drawers["sd15"], [ask(5, prompt=prompt)])
    (zero,) = draw(
        drawers["sd15"], [ask(5, prompt=prompt, adapter=people["sd15"][0], strength=0.0)]
    )
    assert levels(none.picture, zero.picture) == 0


def test_a_seed_draws_the_same_bytes_again(drawers, people):
    request = ask(11, adapter=people["starter"][2])
    first, again = (draw(drawers["starter"], [request])[0].picture.tobytes() for _ in range(2))
    assert first == again


def test_stopped_jobs_give_none_and_others_their_picture(drawers, people):
    drawer = drawers["starter"]
    requests = mixed(people["starter"])[:3]
    steps: dict[int, list[int]] = {}
    drawn = draw(
        drawer,
        requests,
        on_step=lambda n, done, total: steps.setdefault(n, []).append(done),
        stopped=lambda n: n == 1 and len(steps.get(1, [])) == 2,
    )
    assert drawn[1].picture is None
    assert steps == {0: [1, 2, 3, 4], 1: [1, 2], 2: [1, 2, 3, 4]}
    assert levels(drawn[0].picture, draw(drawer, requests[:1])[0].picture) <= ONE_LEVEL


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"width": 12}, ["width", "12"]),
        ({"height": 4096}, ["height", "4096", "512"]),
        ({"height": -8}, ["height", "-8"]),
        ({"steps": 10_000}, ["steps", "10000", "200"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"guidance": float("inf")}, ["guidance", "inf"]),
        ({"guidance": -1.0}, ["guidance", "-1"]),
        ({"strength": 3.0}, ["strength", "3"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": 1 << 63}, ["seed"]),
        ({"prompt": "a" * 10_000}, ["prompt", "10000", str(MAX_PROMPT_CHARS)]),
        ({"negative": "a" * 10_000}, ["negative", "10000"]),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_field_and_value(drawers, changed, words):
    with pytest.raises(RequestRefused) as error:
        drawers["starter"].check(ask(**changed))
    for word in words:
        assert word in str(error.value)


def fail_above(parts, rows: int, error: Exception):
    """A device that holds at most `rows` UNet rows, as the real error would come."""

    def hook(_module, args):
        if len(args[0]) > rows:
            raise error

    return parts.unet.register_forward_pre_hook(hook)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_carries_on(drawers, people, error):
    drawer = Drawer(drawers["starter"].parts, drawers["starter"].base, drawers["starter"].bank)
    requests = mixed(people["starter"])
    expected = [draw(drawer, [r])[0].picture for r in requests]
    handle = fail_above(drawer.parts, 4, error)
    drawn = draw(drawer, requests)
    counted = []
    counter = drawer.parts.unet.register_forward_pre_hook(
        lambda _m, args: counted.append(len(args[0]))
    )
    draw(drawer, requests)
    handle.remove()
    counter.remove()
    assert max(counted) <= 4, "what did not fit is not tried again"
    assert all(levels(d.picture, e) <= ONE_LEVEL for d, e in zip(drawn, expected, strict=True))


def test_one_picture_that_does_not_fit_is_an_error_that_says_so(drawers):
    handle = fail_above(drawers["starter"].parts, 0, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(OutOfMemory, match="16 x 16 does not fit"):
        draw(drawers["starter"], [ask()])
    handle.remove()
    assert draw(drawers["starter"], [ask()])[0].picture is not None


def test_another_failure_is_not_taken_for_memory(drawers):
    handle = fail_above(drawers["starter"].parts, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        draw(drawers["starter"], [ask()])
    handle.remove()


def overflowing(folder, parts, base):
    """An adapter of which nothing is too large by itself, but its first product in fp16 is."""
    tiny_adapter(folder, parts, base, seed=1, targets=("to_q",))
    state = load_file(folder / WEIGHTS)
    for key, value in state.items():
        state[key] = value.sign() * (6e4 if "lora_A" in key else 1e-5)
    save_file(state, folder / WEIGHTS)
    return folder


def test_a_picture_that_is_not_finite_is_an_error_of_its_own(bases, people, tmp_path):
    base = bases["sd15"]
    drawer = Drawer.open(base, device="cpu", dtype=torch.float16)
    wild = overflowing(tmp_path / "wild", drawer.parts, base)
    good = [ask(0, adapter=people["sd15"][0]), ask(1)]
    drawn = draw(drawer, [good[0], ask(2, adapter=wild), good[1]])
    assert drawn[1].picture is None
    assert isinstance(drawn[1].error, NotFinite) and "strength" in str(drawn[1].error)
    for request, one in zip(good, (drawn[0], drawn[2]), strict=True):
        (alone,) = draw(drawer, [request])
        assert one.error is None
        assert levels(one.picture, alone.picture) <= 4  # fp16
    queue = RequestQueue(drawer, batch_rows=3)
    tickets = [queue.submit(request) for request in (good[0], ask(2, adapter=wild), good[1])]
    with pytest.raises(NotFinite):
        tickets[1].result(60)
    assert tickets[0].result(60) is not None and tickets[2].result(60) is not None
    queue.close()
    drawer.close()


def test_close_takes_the_adapters_off_the_base(bases, people):
    base = bases["starter"]
    parts = load_parts(base.folder, base.family)
    drawer = Drawer(parts, base, Bank(parts, base))
    unet = parts.unet
    draw(drawer, [ask(0, adapter=people["starter"][0])])
    assert any(module._forward_hooks for module in unet.modules())
    drawer.close()
    assert not any(module._forward_hooks for module in unet.modules())
