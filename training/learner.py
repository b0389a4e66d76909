"""One or several people learning on one frozen base.

Each person has their own photos, seed, step budget, loss, optimiser and slot; a forward carries the
rows of all of them, and nothing of one person reaches another. Stage one learns the person's word
with all weights frozen (class pictures cannot move a word that is not in their text; they are only
what described rows are drawn over, see `training.description`); stage two learns the weights with
the word frozen, beside class pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from diffusion.conditioning import PromptEmbeds, encode_prompt, time_ids
from diffusion.load import Parts
from diffusion.lora import Stack, attach
from diffusion.token import TokenBank, single_token_id
from training.description import WEIGHT
from training.errors import Diverged, RequestRefused
from training.loss import Objective, dreambooth
from training.person import Batch, Person, draw_batch
from training.precision import Precision
from training.recipe import TEXT_TARGETS
from training.request import TrainingRequest

_WARM_UP_STEPS = 20
_LEAST_RATE = 0.05
_TEXT_PREFIXES = ("text_encoder", "text_encoder_2")
_ENCODE_ROWS = 32
_BLOCKS = (ResnetBlock2D, BasicTransformerBlock)  # each answers with one tensor


def rate_share(step: int, steps: int, decay_from: float) -> float:
    """The share of the full rate at a stage's step (from 0): 20 steps up, level, then down to 5 %
    along a straight line from `decay_from` (a share of the stage; 1 keeps it level)."""
    up = min(1.0, (step + 1) / _WARM_UP_STEPS)
    if step < decay_from * steps or decay_from >= 1:
        return up
    return up * max(_LEAST_RATE, (steps - step) / ((1 - decay_from) * steps))


def word_ids(parts: Parts, request: TrainingRequest) -> list[int]:
    """The person's word in each tokenizer. Raises `RequestRefused` where it is not one token."""
    try:
        return [single_token_id(tokenizer, request.token) for tokenizer in parts.tokenizers]
    except ValueError as error:
        raise RequestRefused("token", repr(request.token), str(error)) from error


class Learner:
    """Trains `people` in the slots 0.. of one stack. `parts` needs UNet, text encoders, tokenizers.

    All recipes must agree in everything but steps, rates and seeds.
    """

    def __init__(
        self, parts: Parts, people: Sequence[Person], accelerator: Accelerator, precision: Precision
    ) -> None:
        shape = people[0].recipe
        self.parts = parts
        self.people = list(people)
        self.precision = precision
        self.objective = Objective(parts.scheduler_config, shape.snr_gamma)
        self._accelerator = accelerator
        self._recipe = shape
        if shape.gradient_checkpointing:
            parts.unet.enable_gradient_checkpointing()
        self._attach()
        self.token_ids = [self._begin(slot, person) for slot, person in enumerate(people)]
        self.words.trainable()
        self._word_optimisers = [self._optimiser(slot, word=True) for slot in range(len(people))]
        self._optimisers = [self._optimiser(slot, word=False) for slot in range(len(people))]
        self._embeds: dict[int, dict[str, PromptEmbeds]] = {}
        self._ears: list[RemovableHandle] = []

    def _attach(self) -> None:
        """Make what learns: a stack on the UNet, on the text encoders if asked for, the words."""
        shape, count, encoders = self._recipe, len(self.people), self.parts.text_encoders
        self.stack = attach(self.parts.unet, shape.targets, count, shape.rank)
        self.text_stacks: list[Stack] = []
        if shape.train_text_encoder:
            for encoder, prefix in zip(encoders, _TEXT_PREFIXES, strict=False):
                made = attach(encoder, TEXT_TARGETS, count, shape.text_rank, prefix=prefix)
                self.text_stacks.append(made)
        self.words = TokenBank(encoders, count)
        for slot, person in enumerate(self.people):
            generator = torch.Generator().manual_seed(person.request.seed)
            for stack in (self.stack, *self.text_stacks):
                stack.reset(slot, generator)
        for stack in (self.stack, *self.text_stacks):
            stack.trainable()

    def listen(self, check: Callable[[], None]) -> None:
        """Run `check` between the blocks of every coming step, forwards and backwards.

        What it raises ends the step, and nobody has learned from it: with a large base on a CPU a
        step takes a minute, and whoever ends the process does not wait that long.
        """

        def hear(*_: object) -> None:
            check()

        def both_ways(_block: nn.Module, _inputs: object, output: Tensor) -> None:
            check()
            if output.requires_grad:
                output.register_hook(hear)  # type: ignore[no-untyped-call]  # torch has no types

        blocks = (b for b in self.parts.unet.modules() if isinstance(b, _BLOCKS))
        self._ears = [block.register_forward_hook(both_ways) for block in blocks]

    def bind(self, slots: Tensor | int | None) -> None:
        """Say whose weights the rows of the next UNet calls use; None is the bare base."""
        self.stack.rows(slots)

    def release(self) -> None:
        """Take everything that learns off the base, which another learner may then use."""
        for stack in (self.stack, *self.text_stacks):
            stack.detach()
        self.words.detach()
        for ear in self._ears:
            ear.remove()
        self.parts.unet.disable_gradient_checkpointing()

    @property
    def text_learns(self) -> bool:
        """Whether the text side changes in the second stage too."""
        return bool(self.text_stacks)

    def _begin(self, slot: int, person: Person) -> list[int]:
        ids = word_ids(self.parts, person.request)
        noun = [
            t(person.request.class_noun, add_special_tokens=False).input_ids[0]
            for t in self.parts.tokenizers
        ]
        self.words.begin(slot, ids, noun if person.recipe.token_start == "noun" else ids)
        return ids

    def _optimiser(self, slot: int, *, word: bool) -> torch.optim.Optimizer:
        """AdamW over one person's word, or over their weights."""
        decay = 0.0 if word else self.people[slot].recipe.weight_decay
        parameters = self.words.parameters(slot) if word else self._parameters(slot)
        fused = self.parts.device.type in ("cuda", "cpu")  # one pass over the weights, not ten
        optimiser = torch.optim.AdamW(parameters, lr=1.0, weight_decay=decay, fused=fused or None)
        return self._accelerator.prepare(optimiser)

    def _parameters(self, slot: int) -> list[nn.Parameter]:
        stacks = (self.stack, *self.text_stacks)
        return [parameter for stack in stacks for parameter in stack.parameters(slot)]

    # -- one step -----------------------------------------------------------------------------

    def step(self) -> dict[int, float]:
        """One optimiser step of everybody who is not done -> loss by slot.

        A person whose loss stops being a number, or runs away, gets `failure` and learns no more;
        the others go on. With a single person `Diverged` is raised instead.
        """
        going = [slot for slot, person in enumerate(self.people) if not person.done]
        words = [slot for slot in going if self.people[slot].learning_word]
        weights = [slot for slot in going if slot not in words]
        losses: dict[int, float] = {}
        for slots, word in ((words, True), (weights, False)):
            if slots:
                losses |= self._stage_step(slots, word)
        return losses

    def _stage_step(self, slots: list[int], word: bool) -> dict[int, float]:
        parts = self._recipe.token_accumulate if word else self._recipe.accumulate
        totals = torch.zeros(len(slots))
        for part in range(parts):
            batches = [
                draw_batch(self.people[s], self.people[s].step, part, self.objective.timesteps)
                for s in slots
            ]
            losses = self.losses(slots, batches, word=word) / parts
            self._accelerator.backward(losses.sum())
            totals += losses.detach().cpu()
        found: dict[int, float] = {}
        scaled = False
        for place, slot in enumerate(slots):
            found[slot] = float(totals[place])
            scaled |= self._update(slot, found[slot], word)
        if scaled:
            # Once for everybody: their gradients were made with one scale.
            self._accelerator.scaler.update()
        return found

    def rehearse(self, precision: Precision) -> None:
        """A forward and backward of the second stage without learning anything, to be timed."""
        chosen, self.precision = self.precision, precision
        slots = list(range(len(self.people)))
        steps = [person.recipe.token_steps for person in self.people]
        batches = [
            draw_batch(person, step, 0, self.objective.timesteps)
            for person, step in zip(self.people, steps, strict=True)
        ]
        self._accelerator.backward(self.losses(slots, batches, word=False).sum())
        for slot in slots:
            self._clear(self._parameters(slot))
        self._embeds.clear()
        self.precision = chosen

    def losses(self, slots: Sequence[int], batches: Sequence[Batch], *, word: bool) -> Tensor:
        """One loss a person [len(slots)], for rows drawn by `draw_batch` (equally many each)."""
        device = self.parts.device
        latents = torch.cat([b.latents for b in batches]).to(device)
        noise = torch.cat([b.noise for b in batches]).to(device)
        timesteps = torch.cat([b.timesteps for b in batches]).to(device)
        embeds = self._conditioning(slots, batches, word)
        noisy = self.objective.noisy(latents, noise, timesteps)
        target = self.objective.target(latents, noise, timesteps)
        if any(batch.described for batch in batches):
            target = self._described(target, noisy, timesteps, batches)
        self.bind(None if word else torch.tensor(slots))
        per_person = self._row_losses(noisy, target, timesteps, embeds).view(len(slots), -1)
        weights = [WEIGHT if word else self.people[slot].recipe.prior_weight for slot in slots]
        return torch.stack(
            [
                dreambooth(rows, batch.instances, weight)
                for rows, batch, weight in zip(per_person, batches, weights, strict=True)
            ]
        )

    def row_losses(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, embeds: PromptEmbeds
    ) -> Tensor:
        """One loss a row, under whatever weights are bound."""
        noisy = self.objective.noisy(latents, noise, timesteps)
        target = self.objective.target(latents, noise, timesteps)
        return self._row_losses(noisy, target, timesteps, embeds)

    def _row_losses(
        self, noisy: Tensor, target: Tensor, timesteps: Tensor, embeds: PromptEmbeds
    ) -> Tensor:
        with self.precision.cast(noisy.device):
            answer = self._predict(noisy, timesteps, embeds)
        return self.objective.losses(answer, target, timesteps)

    def _described(
        self, target: Tensor, noisy: Tensor, timesteps: Tensor, batches: Sequence[Batch]
    ) -> Tensor:
        """The targets, with the bare base's answers to their descriptions for described rows."""
        places: list[int] = []
        texts: list[str] = []
        start = 0
        for batch in batches:
            start += len(batch.texts)
            places += range(start - len(batch.described), start)
            texts += batch.described
        rows = torch.tensor(places, device=noisy.device)
        self.bind(None)
        with torch.no_grad(), self.precision.cast(noisy.device):
            embeds = self.encode(texts, None, weights=False)
            answer = self._predict(noisy[rows], timesteps[rows], embeds)
        return target.index_copy(0, rows, answer.to(target.dtype))

    def _predict(self, noisy: Tensor, timesteps: Tensor, embeds: PromptEmbeds) -> Tensor:
        added = None
        if self.parts.family == "sdxl":
            size = noisy.shape[-1] * self.parts.latent_scale
            added = {
                "text_embeds": embeds.pooled,
                "time_ids": time_ids(self.parts, size, size, len(noisy)),
            }
        return self.parts.unet(
            noisy.to(self.parts.dtype),
            timesteps,
            encoder_hidden_states=embeds.tokens.to(self.parts.dtype),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    def _conditioning(
        self, slots: Sequence[int], batches: Sequence[Batch], word: bool
    ) -> PromptEmbeds:
        """What the UNet reads: encoded afresh while the text side learns, else from the cache."""
        if word or self.text_learns:
            texts = [text for batch in batches for text in batch.texts]
            return self.encode(texts, torch.tensor(slots), weights=not word)
        rows = [
            self.embeds(slot)[text]
            for slot, batch in zip(slots, batches, strict=True)
            for text in batch.texts
        ]
        return _joined(rows)

    def encode(
        self, texts: Sequence[str], slots: Tensor | int | None, *, weights: bool
    ) -> PromptEmbeds:
        """Encode texts with the word (and, with `weights`, the text adapters) of their slots.

        A tensor of slots shares the texts out evenly, in order; None is the plain vocabulary.
        """
        index = torch.tensor([slots]) if isinstance(slots, int) else slots
        rows = None if index is None else index.repeat_interleave(len(texts) // len(index))
        self.words.rows(rows)
        for stack in self.text_stacks:
            stack.rows(rows if weights else None)
        with self.precision.cast(self.parts.device):
            embeds = encode_prompt(self.parts, texts)
        self.words.rows(None)
        return embeds

    def embeds(self, slot: int) -> dict[str, PromptEmbeds]:
        """Cached embeddings of all texts of a person whose word is settled."""
        if slot not in self._embeds:
            texts = self.people[slot].texts
            cache: dict[str, PromptEmbeds] = {}
            for start in range(0, len(texts), _ENCODE_ROWS):
                chunk = texts[start : start + _ENCODE_ROWS]
                with torch.no_grad():
                    encoded = self.encode(chunk, slot, weights=False)
                cache |= {text: encoded.row(n) for n, text in enumerate(chunk)}
            self._embeds[slot] = cache
        return self._embeds[slot]

    def _update(self, slot: int, loss: float, word: bool) -> bool:
        """Let a person's weights take their step; whether their gradient was a scaled one. In fp16
        a gradient that overflowed is left out, and only its own person stands still."""
        person = self.people[slot]
        recipe = person.recipe
        optimiser = (self._word_optimisers if word else self._optimisers)[slot]
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        try:
            person.watch(loss)
            if word:
                share = rate_share(person.step, recipe.token_steps, recipe.token_decay_from)
                rate = recipe.token_rate * share
            else:
                share = rate_share(
                    person.step - recipe.token_steps, recipe.lora_steps, recipe.lora_decay_from
                )
                rate = recipe.lora_rate * share
            for group in optimiser.param_groups:
                group["lr"] = rate
            scaler = self._accelerator.scaler
            bare = getattr(
                optimiser, "optimizer", optimiser
            )  # accelerate's wrapper updates a scale
            if scaler is not None:
                scaler.unscale_(bare)
            norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            if scaler is not None:
                scaler.step(bare)
            elif math.isfinite(float(norm)):
                optimiser.step()
            else:
                raise Diverged(person.step + 1, f"its gradient is not a number (rate {rate:.1e}).")
            person.step += 1
            return scaler is not None
        except Diverged as error:
            person.failure = str(error)
            if len(self.people) == 1:
                raise
            return False
        finally:
            self._clear(parameters)

    def _clear(self, parameters: Sequence[Tensor]) -> None:
        """Zero gradients where they lie: the stack's layers add into that memory."""
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()

    # -- what is kept -------------------------------------------------------------------------

    def weights(self, slot: int) -> dict[str, Tensor]:
        """A person's adapters in diffusers' naming."""
        state = self.stack.state(slot)
        for stack in self.text_stacks:
            state |= stack.state(slot)
        return state

    def snapshot(self, slot: int) -> dict[str, Tensor]:
        """A person's word and weights as plain tensors: what a candidate keeps."""
        kept = {"weights": self.stack.vectors.detach()[slot].cpu().clone()}
        for place, stack in enumerate(self.text_stacks):
            kept[f"text.{place}"] = stack.vectors.detach()[slot].cpu().clone()
        for place, vector in enumerate(self.words.state(slot)):
            kept[f"word.{place}"] = vector
        return kept

    def restore(self, slot: int, kept: dict[str, Tensor]) -> None:
        """Put a snapshot back."""
        self.stack.put(slot, kept["weights"])
        for place, stack in enumerate(self.text_stacks):
            stack.put(slot, kept[f"text.{place}"])
        words = [kept[f"word.{place}"] for place in range(len(self.words.vectors))]
        self.words.load(slot, self.token_ids[slot], words)
        self._embeds.pop(slot, None)

    def state(self, slot: int) -> dict[str, Tensor]:
        """Everything a person needs to continue: the snapshot and both optimisers' moments."""
        kept = self.snapshot(slot)
        for name, optimiser in self._named_optimisers(slot):
            for number, entry in optimiser.state_dict()["state"].items():
                kept |= {f"{name}.{number}.{k}": v.detach().cpu().clone() for k, v in entry.items()}
        return kept

    def load_state(self, slot: int, kept: dict[str, Tensor], step: int) -> None:
        """Continue from what `state` gave at `step`."""
        self.restore(slot, kept)
        self.people[slot].step = step
        for name, optimiser in self._named_optimisers(slot):
            entries: dict[int, dict[str, Tensor]] = {}
            for key, value in kept.items():
                if key.startswith(name + "."):
                    _, number, entry = key.split(".")
                    entries.setdefault(int(number), {})[entry] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": entries, "param_groups": groups})

    def _named_optimisers(self, slot: int) -> list[tuple[str, torch.optim.Optimizer]]:
        return [("adam-word", self._word_optimisers[slot]), ("adam", self._optimisers[slot])]


def _joined(rows: Sequence[PromptEmbeds]) -> PromptEmbeds:
    tokens = torch.cat([row.tokens for row in rows])
    pooled = [row.pooled for row in rows if row.pooled is not None]
    truncated = tuple(flag for row in rows for flag in row.truncated)
    return PromptEmbeds(tokens, torch.cat(pooled) if pooled else None, truncated)
