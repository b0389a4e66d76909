"""The peer of the serving benchmark: stock diffusers on the same base, prompts and steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers as stock
import torch
from safetensors.torch import load_file

from diffusion.load import Parts
from diffusion.sampling import DEFAULTS, Quality, make_scheduler
from serving.adapter import WEIGHTS

diffusers: Any = stock  # its classes are not fully typed


class Peer:
    """One stock pipeline, with people loaded into it as diffusers offers."""

    def __init__(self, parts: Parts) -> None:
        kind = (
            diffusers.StableDiffusionXLPipeline
            if parts.family == "sdxl"
            else diffusers.StableDiffusionPipeline
        )
        # torch_dtype: its text encoders, unlike its other parts, ignore `dtype` in 0.42.
        self.pipeline: Any = kind.from_pretrained(parts.folder, torch_dtype=parts.dtype)
        self.pipeline.to(parts.device)
        self.pipeline.set_progress_bar_config(disable=True)
        self._parts = parts
        self._person: Path | None = None
        self._hot = False

    def draw(self, prompt: str, seed: int, quality: Quality) -> Any:
        """One picture with whoever is loaded."""
        defaults = DEFAULTS[self._parts.family][quality]
        self.pipeline.scheduler = make_scheduler(self._parts, defaults.schedule.solver)
        return self.pipeline(
            prompt,
            num_inference_steps=defaults.schedule.steps,
            guidance_scale=defaults.guidance,
            width=self._parts.resolution,
            height=self._parts.resolution,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]

    def load(self, person: Path) -> None:
        """`load_lora_weights` from disk, after unloading whoever was there."""
        if self._person is not None:
            self.pipeline.unload_lora_weights()
        self.pipeline.load_lora_weights(person)
        self._person = person

    def hotswap(self, person: Path) -> None:
        """`load_lora_weights(hotswap=True)` from tensors in host memory, its fastest offer."""
        state = load_file(person / WEIGHTS)
        if not self._hot:
            self.unload()
            self.pipeline.load_lora_weights(state, adapter_name="person")
            self._hot = True
        else:
            self._swap(state)
        self._person = person

    def unload(self) -> None:
        """Back to the bare base."""
        if self._person is not None:
            self.pipeline.unload_lora_weights()
        self._person, self._hot = None, False

    def switches(self, people: list[Path], repeats: int) -> dict[str, list[float]]:
        """Seconds of each way to go from one person to the next."""
        taken: dict[str, list[float]] = {"load": [], "hotswap": [], "fuse": []}
        states = [load_file(person / WEIGHTS) for person in people]
        self.load(people[0])
        for turn in range(repeats):
            person = people[(turn + 1) % len(people)]
            taken["load"].append(timed(self._parts, self.load, person))
        self.unload()
        self.pipeline.load_lora_weights(states[0], adapter_name="person")
        for turn in range(repeats):
            state = dict(states[(turn + 1) % len(states)])
            taken["hotswap"].append(timed(self._parts, self._swap, state))
        self.pipeline.unload_lora_weights()
        for turn in range(repeats):
            state = dict(states[(turn + 1) % len(states)])
            taken["fuse"].append(timed(self._parts, self._fuse, state))
        self._person, self._hot = None, False
        return taken

    def _swap(self, state: dict[str, torch.Tensor]) -> None:
        self.pipeline.load_lora_weights(state, adapter_name="person", hotswap=True)

    def _fuse(self, state: dict[str, torch.Tensor]) -> None:
        self.pipeline.load_lora_weights(state)
        self.pipeline.fuse_lora()
        self.pipeline.unfuse_lora()
        self.pipeline.unload_lora_weights()


def timed(parts: Parts, call: Callable[..., object], *arguments: object) -> float:
    """Seconds of a call, with the device's work done. On a CPU these are the process's CPU seconds
    by all its threads: what else the machine does counts for little in them."""
    now = time.perf_counter if parts.device.type == "cuda" else time.process_time
    wait(parts)
    start = now()
    call(*arguments)
    wait(parts)
    return now() - start


def wait(parts: Parts) -> None:
    if parts.device.type == "cuda":
        torch.cuda.synchronize(parts.device)
