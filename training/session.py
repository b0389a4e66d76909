"""A run from photos to result folders, for one or several people on one base.

Phases: preparing (photos, class pictures, caches), learning, checking (the best candidate is
chosen), saving. Everything a run writes lies under each person's run folder.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial

import torch

from diffusion.load import TOKENIZER, VAE, Parts, load_parts
from diffusion.memory import give_back, is_out_of_memory
from training import checkpoint, dataset, prior
from training.description import Description
from training.embedding import Embedding
from training.errors import NoRoom, RequestRefused, TrainingError
from training.export import export
from training.footprint import DoesNotFit, Place, footprint
from training.full import FullLearner
from training.headroom import free_gb
from training.judge import Judge, Scores, best
from training.learner import Learner, word_ids
from training.loss import Objective
from training.member import Member
from training.moments import encode_moments
from training.painter import Painter
from training.person import Person
from training.precision import (
    CPU_BF16,
    FP32,
    Precision,
    accelerator_for,
    fastest_on_cpu,
    first_choice,
)
from training.prior import ClassSet
from training.progress import Cancelled
from training.recipe import Recipe, candidate_steps, lowered, plan, step_down
from training.request import Phase, Preview, TrainedModel, TrainingRequest
from training.result import FOLDER
from training.threads import Threads

CLASS, WHOLE = "class", "whole"
LEARNERS: dict[str, type[Learner]] = {"lora": Learner, "full": FullLearner}
_SAVES = 8  # checkpoints in a run, besides those at previews, pauses and signals
_LOG = logging.getLogger(__name__)
_LONG_ON_CPU = 60  # runs shorter than this do not repay the timing of precisions


class Session:
    """Runs `members` together. `finish` is called for every person that ends, well or badly.

    `threads` 0 lets a few timed steps on a CPU choose.
    """

    def __init__(self, members: Sequence[Member], threads: int = 0) -> None:
        self.members = list(members)
        self._threads = Threads(threads)
        first = self.members[0].request
        self._accelerator = accelerator_for(first.device)
        self._device = self._accelerator.device
        self._precision = first_choice(self._accelerator, whole=first.method == "full")
        self._downs = 0
        self._learner: Learner | None = None
        self._size = 0
        self._results: dict[str, TrainedModel] = {}

    def run(self) -> dict[str, TrainedModel]:
        """Train everybody -> result by run id. Raises `TrainingError` when nobody could be trained,
        and lets `Cancelled` and `Interrupted` of a single person through."""
        parts = self._prepare()
        while True:
            try:
                self._build(parts)
                self._learn()
                return self._finish()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                _LOG.warning("memory ran out: %s", error)
            # Outside the handler: what did not fit hangs on the fault's traceback until here.
            self._step_down()

    # -- preparing ----------------------------------------------------------------------------

    def _prepare(self) -> Parts:
        for member in self.members:
            member.progress.phase(Phase.PREPARING)
        self._check_base()
        recipes = self._recipes()
        base, dtype = self.members[0].request.base, self._precision.base
        parts = load_parts(base.folder, base.family, device=self._device, dtype=dtype)
        for member, recipe in zip(list(self.members), recipes, strict=True):
            try:
                self._gather(member, recipe, parts)
            except Cancelled:
                self._let_go(member)
                self.members.remove(member)
        parts.drop(VAE)
        return parts

    def _gather(self, member: Member, recipe: Recipe, parts: Parts) -> None:
        """One person's pictures, encoded."""
        member.control.check()
        instances = dataset.build(member.request, recipe, self._size)
        pictures = [instance.picture for instance in instances.learned]
        member.person = Person(
            member.request,
            recipe,
            encode_moments(parts, pictures, member.control.check),
            tuple(instance.captions for instance in instances.learned),
            self._classes(member, parts, recipe),
            Description.of(member.request, pictures) if recipe.described_batch else None,
        )
        member.held_out = instances.held_out
        member.training = instances.whole

    def _check_base(self) -> None:
        """What needs the base's vocabulary and settings, before its weights are loaded."""
        first = self.members[0].request
        base = load_parts(first.base.folder, first.base.family, parts={TOKENIZER})
        self._size = first.resolution or base.resolution
        Objective(base.scheduler_config)
        for member in self.members:
            word_ids(base, member.request)
            if member.request.class_folder is not None:
                member.classes = prior.load(member.request.class_folder, self._size)
            if member.request.embedder is not None:
                # Judging comes last; what cannot judge must not be found out only then.
                Embedding(member.request.embedder, torch.device("cpu"))

    def _recipes(self) -> list[Recipe]:
        """Everybody's recipe, as far down as the memory that is there asks for. A run that is
        continued keeps the notches it had, or its rows would differ."""
        recipes = [plan(member.request) for member in self.members]
        first = self.members[0]
        begun = checkpoint.facts(first.folder, first.fingerprint)
        if begun is not None:
            self._downs, reason = begun.downs, "It goes on as it began."
        else:
            self._downs, reason = self._notches(first.request, recipes[0])
        _LOG.info("%d notches down: %s", self._downs, reason)
        found = []
        for member, recipe in zip(self.members, recipes, strict=True):
            recipe, said = lowered(recipe, self._downs, reason)
            for sentence in (reason, *said) if said else ():
                member.progress.note(sentence)
            found.append(recipe)
        return found

    def _notches(self, request: TrainingRequest, recipe: Recipe) -> tuple[int, str]:
        """Raises `RequestRefused` where a step fits into the free memory at no notch."""
        base, computed = self._precision.base, self._precision.autocast
        place = Place(base.itemsize, (computed or base).itemsize, self._device.type == "cpu")
        counted, free = footprint(request.base.folder, recipe), free_gb(self._device)
        try:
            return counted.notches(recipe, self._size, len(self.members), place, free)
        except DoesNotFit as error:
            raise RequestRefused(
                *(("method", "full") if request.method == "full" else ("base", request.base.id)),
                f"a step of {self._size} pixels takes {error.needed_gb:.1f} GB of memory at the "
                f"smallest settings and {free:.1f} GB are free. Use a lower `resolution`, a base "
                "that needs less memory, or a device with more.",
            ) from error

    def _classes(self, member: Member, parts: Parts, recipe: Recipe) -> ClassSet | None:
        """The judged class pictures, or own ones that nobody sees."""
        if recipe.prior_batch == 0 or recipe.prior_weight == 0 or recipe.lora_steps == 0:
            return None
        if member.classes is not None:
            return member.classes
        folder = member.folder / CLASS
        if not (folder / prior.RECORD).is_file():
            prior.draw(
                parts,
                recipe,
                member.request.class_noun,
                folder,
                self._size,
                check=member.control.check,
            )
        return prior.own_set(folder, self._size)

    def _build(self, parts: Parts) -> None:
        """The learner, at each person's last checkpoint if there is one."""
        people = [member.person for member in self.members]
        assert all(person is not None for person in people)
        alive = [person for person in people if person is not None]
        kept = [checkpoint.read(member.folder, member.fingerprint) for member in self.members]
        if kept[0] is not None:
            self._precision = self._named_precision(kept[0][1].precision)
        make = LEARNERS[alive[0].recipe.method]
        self._learner = make(parts, alive, self._accelerator, self._precision)
        if self._device.type == "cpu" and alive[0].recipe.steps >= _LONG_ON_CPU:
            self._choose_pace(self._learner, kept[0][1].threads if kept[0] else None)
        for slot, (member, found) in enumerate(zip(self.members, kept, strict=True)):
            if found is not None:
                tensors, facts = found
                self._learner.load_state(slot, tensors, facts.step)
                member.seconds = facts.seconds
                member.previews = [Preview.model_validate(p) for p in facts.previews]
                member.progress.previews(member.previews)

    def _choose_pace(self, learner: Learner, threads: int | None) -> None:
        """Time which number of threads and which precision is faster; a run that is resumed goes
        on with its `threads` and precision."""
        attempt = partial(learner.rehearse, self._precision)
        if threads is not None:
            self._threads.go_on_with(threads, attempt)
            return
        self._threads.choose(attempt)
        self._precision = learner.precision = fastest_on_cpu(learner.rehearse)

    def _named_precision(self, name: str) -> Precision:
        """A resumed run computes as it began, or its weights would differ."""
        if self._device.type != "cpu":
            return self._precision
        return {"fp32": FP32, "bf16": CPU_BF16}.get(name, self._precision)

    # -- learning -----------------------------------------------------------------------------

    def _learn(self) -> None:
        learner = self._the_learner()
        painter = Painter(learner, self._size, self._check_all)
        learner.listen(self._check_all)
        for member in self._going():
            member.progress.phase(Phase.LEARNING)
        started = {id(member): time.monotonic() - member.seconds for member in self.members}
        while self._going():
            going = self._going()
            begun = time.monotonic()
            losses = learner.step()
            self._threads.took(time.monotonic() - begun)
            for slot, member in enumerate(self.members):
                person = member.person
                if member not in going or person is None:
                    continue
                member.seconds = time.monotonic() - started[id(member)]
                if person.failure is not None:
                    member.end(Phase.FAILED, person.failure)
                    continue
                member.progress.step(person.step, person.recipe.steps, losses[slot])
                self._after_step(slot, member, painter)
            # Only now, when everybody's step is kept: what is asked of one may end the run.
            for slot, member in enumerate(self.members):
                if not member.ended:
                    self._attend(slot, member)

    def _after_step(self, slot: int, member: Member, painter: Painter) -> None:
        """Previews, candidates, checkpoints and what the run is told, between two steps."""
        person = member.person
        assert person is not None
        recipe, step = person.recipe, person.step
        if step in candidate_steps(recipe):
            checkpoint.write_candidate(member.folder, step, self._the_learner().snapshot(slot))
        if step % recipe.preview_every == 0 or step == recipe.steps:
            member.previews += painter.previews(slot, member.folder)
            member.progress.previews(member.previews)
        if step % max(1, recipe.steps // _SAVES) == 0 or step == recipe.steps:
            self._save(slot, member)

    def _attend(self, slot: int, member: Member) -> None:
        try:
            member.control.check()
            member.control.hold(member.progress, lambda: self._save(slot, member))
        except Cancelled:
            self._let_go(member)

    def _let_go(self, member: Member) -> None:
        """End who asked for it, from where that was noticed; it ends the run of a lone person."""
        if len(self.members) == 1:
            raise Cancelled
        member.end(Phase.CANCELLED, None)

    def save_all(self) -> None:
        """Checkpoint everybody who is still learning; for a process that must end."""
        if self._learner is None:
            return
        for slot, member in enumerate(self.members):
            if not member.ended:
                self._save(slot, member)

    def _save(self, slot: int, member: Member) -> None:
        person = member.person
        assert person is not None
        facts = checkpoint.Facts(
            fingerprint=member.fingerprint,
            step=person.step,
            seconds=round(member.seconds, 2),
            precision=self._precision.name,
            downs=self._downs,
            threads=self._threads.number,
            previews=[preview.model_dump(mode="json") for preview in member.previews],
        )
        checkpoint.write(member.folder, self._the_learner().state(slot), facts)

    def _step_down(self) -> None:
        """Keep where everybody is, let the learner go, and ask less of the memory from here on.

        Raises `NoRoom` when no notch is left.
        """
        self.save_all()
        if self._learner is not None:
            self._learner.release()
        self._learner = None
        give_back()
        if not self._lower():
            raise NoRoom(
                "Memory ran out at the smallest settings. Use a lower `resolution`, a base that "
                "needs less memory, or a device with more."
            )

    def _lower(self) -> bool:
        """Take everybody's recipe one notch down and say so; False when there is none left."""
        for member in self.members:
            assert member.person is not None
            lowered = step_down(member.person.recipe)
            if lowered is None:
                return False
            member.person.recipe, words = lowered
            if not member.ended:
                member.progress.note("Memory ran out.")
                member.progress.note(words)
        self._downs += 1
        return True

    # -- checking and saving ------------------------------------------------------------------

    def _finish(self) -> dict[str, TrainedModel]:
        results = self._results
        for slot, member in enumerate(self.members):
            if member.ended:
                continue
            member.progress.phase(Phase.CHECKING)
            try:
                report = self._choose(slot, member)
            except Cancelled:
                self._let_go(member)
                continue
            member.progress.phase(Phase.SAVING)
            results[member.request.run_id] = self._export(slot, member, report)
            member.end(Phase.DONE, None)
            checkpoint.drop(member.folder)
        if not results:
            failures = [m.progress.status.failure for m in self.members]
            raise TrainingError(next((f for f in failures if f), "Nobody was trained."))
        return results

    def _choose(self, slot: int, member: Member) -> dict[str, object]:
        """Put the best candidate's weights into the slot -> report."""
        learner, person = self._the_learner(), member.person
        assert person is not None
        painter = Painter(learner, self._size, member.control.check)
        judge = Judge(painter, person.recipe, member.request, member.held_out, member.training)
        candidates = checkpoint.read_candidates(member.folder)
        found: list[Scores] = []
        for step, kept in candidates.items():
            learner.restore(slot, kept)
            found.append(judge.scores(slot, step))
        found = judge.compared(found)
        chosen = best(found)
        learner.restore(slot, candidates[chosen.step])
        report = judge.report(found, chosen)
        report["precision"] = f"{self._precision.name}: {self._precision.reason}"
        return report

    def _export(self, slot: int, member: Member, report: dict[str, object]) -> TrainedModel:
        learner, person = self._the_learner(), member.person
        assert person is not None
        if isinstance(learner, FullLearner):
            learner.save_whole(slot, member.folder / FOLDER / WHOLE)
        return export(
            member.folder / FOLDER,
            member.request,
            person.recipe,
            learner.weights(slot),
            learner.words.state(slot),
            prediction_type=learner.objective.prediction,
            resolution=self._size,
            seconds=member.seconds,
            report=report,
        )

    # -- bookkeeping --------------------------------------------------------------------------

    def _the_learner(self) -> Learner:
        assert self._learner is not None
        return self._learner

    def _going(self) -> list[Member]:
        return [
            m for m in self.members if not m.ended and m.person is not None and not m.person.done
        ]

    def _check_all(self) -> None:
        """In the middle of a step or a drawing only a lone person's run stops at once."""
        if len(self.members) == 1:
            self.members[0].control.check()
