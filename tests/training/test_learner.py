"""People learn together as they would alone, and nothing of one reaches another."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

from diffusion.load import load_parts
from tests.training.runs import request
from training.errors import Diverged, RequestRefused
from training.full import FullLearner
from training.learner import Learner, rate_share
from training.moments import Moments
from training.person import Person, draw_batch
from training.precision import FP32, Precision, accelerator_for
from training.prior import ClassSet
from training.progress import Interrupted
from training.recipe import plan

BF16_BASE = Precision(torch.bfloat16, None, "the base is held in bf16")
FP16_BASE = Precision(torch.float16, None, "the base is held in fp16")

pytestmark = pytest.mark.usefixtures("one_thread")


def person(base, family, folder, seed: int, *, steps: int = 20, shift: float = 0.0) -> Person:
    asked = request(base, family, folder / f"p{seed}", seed=seed, steps=steps)
    recipe = plan(asked)
    draw = torch.Generator().manual_seed(100 + seed)
    moments = Moments(
        torch.randn(5, 4, 8, 8, generator=draw) + shift, torch.full((5, 4, 8, 8), 0.1)
    )
    captions = tuple((f"a photo of sks person {n}", "sks person in manga style") for n in range(5))
    classes = ClassSet(
        ("a photo of a person", "a person in comic style"),
        Moments(torch.randn(2, 4, 8, 8, generator=draw), torch.full((2, 4, 8, 8), 0.1)),
    )
    return Person(asked, recipe, moments, captions, classes)


def learner(base, family, people, precision=FP32) -> Learner:
    parts = load_parts(base, family, dtype=precision.base)
    return Learner(parts, people, accelerator_for("cpu"), precision)


@pytest.mark.parametrize("family", ["starter", "sdxl"])
def test_losses_of_twenty_steps_equal_the_solo_runs(bases, tmp_path, family):
    def fresh(seed):
        return person(bases[family], family, tmp_path, seed)

    together = learner(bases[family], family, [fresh(seed) for seed in (1, 2, 3)])
    packed = [together.step() for _ in range(20)]
    for slot, seed in enumerate((1, 2, 3)):
        alone = learner(bases[family], family, [fresh(seed)])
        solo = [alone.step()[0] for _ in range(20)]
        for step, loss in enumerate(solo):
            assert packed[step][slot] == pytest.approx(loss, rel=1e-5), (seed, step)


def test_after_fifty_steps_fixed_probes_are_within_a_hundredth_of_the_solo_runs(bases, tmp_path):
    base = bases["starter"]

    def fresh(seed):
        return person(base, "starter", tmp_path, seed, steps=50)

    def probed(trained, slot) -> float:
        """The mean loss of rows that no step has drawn."""
        one = trained.people[slot]
        batches = [draw_batch(one, 10_000 + n, 0, trained.objective.timesteps) for n in range(8)]
        with torch.no_grad():
            found = [trained.losses([slot], [batch], word=False) for batch in batches]
        return float(torch.cat(found).mean())

    together = learner(base, "starter", [fresh(1), fresh(2)])
    before = [probed(together, slot) for slot in (0, 1)]
    together._embeds.clear()
    for _ in range(50):
        together.step()
    for slot, seed in enumerate((1, 2)):
        alone = learner(base, "starter", [fresh(seed)])
        for _ in range(50):
            alone.step()
        assert probed(together, slot) == pytest.approx(probed(alone, 0), rel=1e-2)
        assert probed(together, slot) != pytest.approx(before[slot], rel=1e-3), "it learned"


def test_one_persons_nan_stops_them_and_nobody_else(bases, tmp_path):
    base = bases["starter"]
    sick = person(base, "starter", tmp_path, 2, shift=float("nan"))
    pair = learner(base, "starter", [person(base, "starter", tmp_path, 1), sick])
    losses = [pair.step() for _ in range(20)]
    assert "step 1" in (sick.failure or "") and "nan" in (sick.failure or "")
    assert all(1 not in found for found in losses[1:])
    alone = learner(base, "starter", [person(base, "starter", tmp_path, 1)])
    for found in losses:
        assert found[0] == pytest.approx(alone.step()[0], rel=1e-5)
    assert torch.isfinite(pair.stack.vectors[0]).all()


def test_a_person_who_ends_early_is_left_as_they_were(bases, tmp_path):
    base = bases["starter"]
    short, long = (person(base, "starter", tmp_path, n, steps=s) for n, s in ((1, 6), (2, 12)))
    pair = learner(base, "starter", [short, long])
    for _ in range(6):
        pair.step()
    kept = pair.snapshot(0)
    for _ in range(6):
        assert 0 not in pair.step()
    assert all(torch.equal(kept[key], value) for key, value in pair.snapshot(0).items())


def test_alone_a_nan_names_the_step_and_the_rate(bases, tmp_path):
    sick = person(bases["starter"], "starter", tmp_path, 1, shift=float("nan"))
    with pytest.raises(Diverged, match=r"step 1: the loss became nan.*0\.01"):
        learner(bases["starter"], "starter", [sick]).step()


def test_a_runaway_loss_is_named(bases, tmp_path):
    wild = person(bases["starter"], "starter", tmp_path, 1)
    for loss in [0.9] * 10 + [3.9] * 10:
        wild.watch(loss)
    with pytest.raises(Diverged, match=r"grew from 0\.90 to .*rate 0\.01 may be too high"):
        for _ in range(10):
            wild.watch(30.0)


def test_the_word_learns_first_and_then_only_the_weights(bases, tmp_path):
    one = person(bases["starter"], "starter", tmp_path, 1, steps=9)
    assert (one.recipe.token_steps, one.recipe.lora_steps) == (5, 4)
    alone = learner(bases["starter"], "starter", [one])
    kept = [alone.snapshot(0)]
    for _ in range(9):
        alone.step()
        kept.append(alone.snapshot(0))
    for step in range(9):
        word_moved = not torch.equal(kept[step]["word.0"], kept[step + 1]["word.0"])
        weights_moved = not torch.equal(kept[step]["weights"], kept[step + 1]["weights"])
        assert (word_moved, weights_moved) == ((True, False) if step < 5 else (False, True))


def test_a_half_precision_base_moves_every_weight(bases, tmp_path):
    one = person(bases["sd15"], "sd15", tmp_path, 1, steps=30)
    one.recipe = one.recipe.model_copy(update={"token_steps": 0, "lora_steps": 30})
    alone = learner(bases["sd15"], "sd15", [one], BF16_BASE)
    before = {name: site.a.detach().clone() for name, site in alone.stack.sites.items()}
    for _ in range(30):
        alone.step()
    moved = sum(int((site.a != before[name]).sum()) for name, site in alone.stack.sites.items())
    total = sum(site.a.numel() for site in alone.stack.sites.values())
    assert moved / total >= 0.99


@pytest.fixture
def fp16_scaling():
    """An accelerator as on a GPU without bf16: accelerate itself offers fp16 on GPUs only."""
    made = accelerator_for("cpu")
    made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    yield made
    made.scaler = None


def test_fp16_with_scaled_gradients_moves_every_weight(bases, tmp_path, fp16_scaling):
    one = person(bases["sd15"], "sd15", tmp_path, 1, steps=30)
    one.recipe = one.recipe.model_copy(update={"token_steps": 0, "lora_steps": 30})
    parts = load_parts(bases["sd15"], "sd15", dtype=torch.float16)
    alone = Learner(parts, [one], fp16_scaling, FP16_BASE)
    before = {name: site.a.detach().clone() for name, site in alone.stack.sites.items()}
    for _ in range(30):
        alone.step()
    assert alone.stack.vectors.dtype == torch.float32 and torch.isfinite(alone.stack.vectors).all()
    moved = sum(int((site.a != before[name]).sum()) for name, site in alone.stack.sites.items())
    assert moved / sum(site.a.numel() for site in alone.stack.sites.values()) >= 0.99


def test_an_overflow_of_one_person_leaves_the_others_gradient_as_it_is(
    bases, tmp_path, fp16_scaling
):
    base = bases["starter"]

    def pair(overflows: bool):
        people = [person(base, "starter", tmp_path, seed, steps=3) for seed in (1, 2)]
        for one in people:
            one.recipe = one.recipe.model_copy(update={"token_steps": 0, "lora_steps": 3})
        fp16_scaling.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        made = Learner(load_parts(base, "starter"), people, fp16_scaling, FP32)
        start = made.snapshot(0)["weights"]
        if overflows:
            made.stack.grads[0, 0] = float("inf")
        made.step()
        return made, start

    (spoilt, start), (sound, _) = pair(True), pair(False)
    assert torch.equal(spoilt.snapshot(0)["weights"], start), "who overflowed stands still"
    assert torch.equal(spoilt.snapshot(1)["weights"], sound.snapshot(1)["weights"])
    assert fp16_scaling.scaler.get_scale() == 2.0**10
    assert all(one.failure is None for one in spoilt.people)


def test_text_encoder_weights_learn_where_asked(bases, tmp_path):
    one = person(bases["sdxl"], "sdxl", tmp_path, 1, steps=4)
    one.recipe = one.recipe.model_copy(
        update={"train_text_encoder": True, "token_steps": 1, "lora_steps": 3}
    )
    alone = learner(bases["sdxl"], "sdxl", [one])
    for _ in range(4):
        alone.step()
    weights = alone.weights(0)
    for prefix in ("unet.", "text_encoder.", "text_encoder_2."):
        lora_b = [v for k, v in weights.items() if k.startswith(prefix) and "lora_B" in k]
        assert lora_b and any(value.any() for value in lora_b), prefix


def test_all_weights_learn_and_the_bases_own_lie_beside(bases, tmp_path):
    one = person(bases["starter"], "starter", tmp_path, 1)
    one.request = one.request.model_copy(update={"method": "full"})
    one.recipe = plan(one.request)
    parts = load_parts(bases["starter"], "starter")
    own = {f"unet.{name}": p.detach().clone() for name, p in parts.unet.named_parameters()}
    full = FullLearner(parts, [one], accelerator_for("cpu"), FP32)

    def now() -> dict[str, torch.Tensor]:
        return {f"unet.{n}": p.detach().clone() for n, p in parts.unet.named_parameters()}

    def equal(left, right) -> bool:
        return all(torch.equal(left[name], right[name]) for name in own)

    before = own
    for _ in range(2):
        full.step()
        mine = full.snapshot(0)
        assert not equal(mine, before), "the person's weights go on learning"
        full.bind(None)
        assert equal(now(), own)
        full.bind(0)
        assert equal(now(), mine)
        before = mine
    full.release()
    assert equal(now(), own)


def test_accumulated_parts_learn_like_one_batch_of_them(bases, tmp_path):
    one = person(bases["starter"], "starter", tmp_path, 1)
    one.recipe = one.recipe.model_copy(update={"accumulate": 2, "token_steps": 0})
    alone = learner(bases["starter"], "starter", [one])
    gradient = torch.zeros_like(alone.stack.vectors)
    for part in range(2):
        batch = draw_batch(one, 0, part, alone.objective.timesteps)
        alone.losses([0], [batch], word=False).sum().backward()
        gradient += alone.stack.grads / 2
        alone.stack.grads.zero_()
    seen = []
    alone._optimisers[0].optimizer.register_step_pre_hook(
        lambda *_: seen.append(alone.stack.grads.clone())
    )
    alone.step()
    norm = gradient.norm().clamp(min=one.recipe.clip) / one.recipe.clip
    torch.testing.assert_close(seen[0], gradient / norm, rtol=1e-5, atol=1e-8)
    assert len(seen) == one.step == 1, "one step of the optimiser for both parts"


def test_state_continues_bit_for_bit(bases, tmp_path):
    def fresh():
        return learner(
            bases["starter"],
            "starter",
            [person(bases["starter"], "starter", tmp_path, 1, steps=12)],
        )

    whole = fresh()
    for _ in range(12):
        whole.step()
    for stop in (3, 8, 10):
        first, second = fresh(), fresh()
        for _ in range(stop):
            first.step()
        second.load_state(0, first.state(0), stop)
        for _ in range(12 - stop):
            second.step()
        for key, value in whole.snapshot(0).items():
            assert torch.equal(value, second.snapshot(0)[key]), (stop, key)


def test_a_word_of_several_pieces_is_refused(bases, tmp_path):
    many = person(bases["starter"], "starter", tmp_path, 1)
    many.request = many.request.model_copy(update={"token": "qzqz"})
    with pytest.raises(RequestRefused, match="`token` is 'qzqz'"):
        learner(bases["starter"], "starter", [many])


def test_rates_rise_stay_and_fall():
    shares = [rate_share(step, 100, 0.6) for step in range(100)]
    assert shares[0] == pytest.approx(1 / 20) and shares[19:60] == [1.0] * 41
    assert shares[99] == pytest.approx(0.05)
    assert shares[59:] == sorted(shares[59:], reverse=True)
    assert rate_share(90, 100, 1.0) == 1.0


def test_a_step_is_left_in_the_middle_and_nothing_was_learned_of_it(bases, tmp_path):
    """Forwards and backwards, in both stages; what is gone on with equals an undisturbed run."""
    base, steps = bases["starter"], 4

    def fresh(kept=None, step: int = 0):
        made = learner(base, "starter", [person(base, "starter", tmp_path, 1, steps=steps)])
        if kept is not None:
            made.load_state(0, {key: value.clone() for key, value in kept.items()}, step)
        return made

    whole = fresh()
    kept = whole.state(0)
    for step in range(steps):
        heard = itertools.count()
        counted = fresh(kept, step)
        counted.listen(partial(next, heard))
        counted.step()
        blocks = next(heard)
        assert blocks >= 4, "as often backwards as forwards"
        for place in (1, blocks // 2, blocks):
            left = fresh(kept, step)
            left.listen(_at(place))
            with pytest.raises(Interrupted):
                left.step()
            now = left.state(0)
            assert not [key for key in kept if not torch.equal(now[key], kept[key])], (step, place)
        whole.step()
        kept = counted.state(0)
        assert not [
            key for key, value in whole.state(0).items() if not torch.equal(kept[key], value)
        ]


def _at(place: int):
    """A check that interrupts when it is called for the `place`th time."""
    calls = itertools.count(1)

    def check() -> None:
        if next(calls) == place:
            raise Interrupted

    return check
