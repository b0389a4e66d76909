"""What the trainer really exports is what the bank serves: weights, word and text encoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion.load import load_parts
from diffusion.lora import attach
from serving.adapter import ServedBase
from serving.engine import Drawer
from serving.request import GenerationRequest
from tests.training.runs import request
from training.export import export
from training.recipe import plan

TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


def exported(base: ServedBase, folder, *, text: bool, seed: int):
    """A result folder with random weights on every layer that the recipe names."""
    parts = load_parts(base.folder, base.family)
    asked = request(base.folder, base.family, folder / "run", rank=4)
    asked = asked.model_copy(
        update={"base": asked.base.model_copy(update={"id": base.id, "sha256": base.sha256})}
    )
    recipe = plan(asked)
    draw = torch.Generator().manual_seed(seed)
    models = [("unet", parts.unet, recipe.targets)]
    if text:
        names = ("text_encoder", "text_encoder_2")
        models += [(n, e, TEXT) for n, e in zip(names, parts.text_encoders, strict=False)]
    state = {}
    for prefix, model, targets in models:
        stack = attach(model, targets, 1, 4, prefix=prefix)
        stack.vectors.copy_(torch.randn(stack.vectors.shape, generator=draw) * 0.2)
        state |= stack.state(0)
        stack.detach()
    word = [torch.randn(32, generator=draw) for _ in parts.text_encoders]
    facts = {"prediction_type": parts.prediction_type, "resolution": 16, "seconds": 1.0}
    return export(folder / "result", asked, recipe, state, word, report={}, **facts)


@pytest.mark.parametrize("family", ["starter", "sdxl"])
def test_an_exported_person_is_served_beside_others(bases, tmp_path, family):
    base = bases[family]
    models = [exported(base, tmp_path / str(n), text=n == 1, seed=n).folder for n in range(2)]
    drawer = Drawer.open(base, device="cpu")
    requests = [
        GenerationRequest(id=str(n), prompt="a portrait of sks person", adapter=folder, steps=3)
        for n, folder in enumerate([*models, None])
    ]
    jobs = [drawer.check(one) for one in requests]
    together = [np.asarray(one.picture, dtype=int) for one in drawer.draw(jobs)]
    for job, picture in zip(jobs, together, strict=True):
        (alone,) = drawer.draw([job])
        assert np.abs(np.asarray(alone.picture, dtype=int) - picture).max() <= 1
    for n in range(2):
        assert np.abs(together[n] - together[2]).max() > 8, "the person is in the picture"
    adapter = drawer.bank.adapter(models[1])
    assert adapter.token_ids
    assert ("text_encoder" in adapter.layers) and ("text_encoder_2" in adapter.layers) == (
        family == "sdxl"
    )
    drawer.close()
