"""The chain: every text, photo and picture goes through here and comes out with a verdict.

Runs the layers side by side within bounded time, and fails closed. Knows no user, no storage and no
page.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from PIL.Image import Image

from moderation.canonical import encoder_text
from moderation.decisions import Evidence, Ledger
from moderation.guard import Asked, Guard
from moderation.layers import Layers, ModerationConfig, chosen
from moderation.photos import (
    PhotoJudgement,
    PhotoRules,
    photo_judgement,
)
from moderation.policy import NOTHING_FOUND, Action, Policy, load_policy
from moderation.verdict import (
    Decision,
    Finding,
    Reason,
    Stage,
    Verdict,
    combine,
)

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptRequest:
    """What is judged before anything is drawn. `style_text` comes from the catalogue by id.

    `language` is what the page believes the person writes in (BCP 47); it is never trusted alone.
    """

    user_text: str
    style_id: str = ""
    style_text: str = ""
    user_negative: str = ""
    language: str = "en"

    def content(self) -> bytes:
        """All that is judged, for a keyed hash."""
        fields = (self.user_text, self.style_text, self.user_negative)
        return "\0".join(fields).encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class PromptJudgement:
    """The verdict, and the cleaned user text and negative text: only these may reach an encoder."""

    verdict: Verdict
    text: str
    negative: str


@dataclass(frozen=True)
class PictureJudgement:
    """One picture's verdict and what policy makes of it. Only `show` lets the original out."""

    verdict: Verdict
    action: Action
    retry: bool


_REFUSED = Reason(
    "prompt_refused",
    "We cannot draw this.",
    "Describe another picture; think of a portrait you would hang on a wall.",
)
_UNREADABLE = Reason(
    "prompt_unreadable",
    "We could not read this well enough to draw it.",
    "Write it in plain English or German words.",
)
_TRY_AGAIN = Reason(
    "not_checked", "We could not check this just now, so nothing was done.", "Try again in a while."
)
_WITHHELD = Reason(
    "picture_withheld", "This picture did not pass our checks.", "Try another seed or style."
)
_UNREADABLE_LABELS = frozenset({"language", "unreadable", "too long", NOTHING_FOUND})


class PendingPrompt:
    """A prompt whose local checks are done; remote ones may still be on their way."""

    def __init__(
        self,
        local: PromptJudgement,
        asked: Sequence[Asked],
        guard: Guard,
        kept: Callable[[Verdict], Verdict],
    ) -> None:
        self.local = local
        self._asked = asked
        self._guard = guard
        self._kept = kept
        self._lock = threading.Lock()
        self._result: PromptJudgement | None = None

    def refused(self) -> bool:
        """True as soon as any finished check does not allow: stop drawing. Never waits."""
        if not self.local.verdict.allowed:
            return True
        finished = [asked for asked in self._asked if asked.future.done()]
        return any(not v.allowed for asked in finished for v in self._guard.answers(asked))

    def result(self) -> PromptJudgement:
        """Wait, within bounded time, for every check. Decided, and recorded, once."""
        with self._lock:
            if self._result is None:
                remote = [v for asked in self._asked for v in self._guard.answers(asked)]
                verdict = combine([replace(self.local.verdict, reasons=()), *remote])
                self._result = replace(self.local, verdict=_worded(self._kept(verdict)))
            return self._result


class PendingPictures:
    """Pictures that are being judged while the next ones are drawn."""

    def __init__(
        self,
        pictures: Sequence[Image],
        asked: Sequence[Asked],
        stage: Stage,
        policy: Policy,
        guard: Guard,
        ledger: Ledger,
    ) -> None:
        self._pictures = pictures
        self._asked = asked
        self._stage = stage
        self._policy = policy
        self._guard = guard
        self._ledger = ledger

    def verdicts(self) -> list[Verdict]:
        """Wait, within bounded time, for what the checks say; nothing is recorded yet."""
        if not self._pictures:
            return []
        columns = [self._guard.answers(asked) for asked in self._asked]
        rows = [list(row) for row in zip(*columns, strict=True)] or [[]] * len(self._pictures)
        return [combine(row) for row in rows]

    def result(self) -> list[PictureJudgement]:
        """Wait, within bounded time, for the judgements, one for each picture in order."""
        return [
            self._judgement(self._ledger.kept(verdict, self._stage, picture.tobytes))
            for verdict, picture in zip(self.verdicts(), self._pictures, strict=True)
        ]

    def _judgement(self, verdict: Verdict) -> PictureJudgement:
        action, retry = self._policy.action(verdict, self._stage)
        if verdict.decision is Decision.UNAVAILABLE:
            verdict = replace(verdict, reasons=(_TRY_AGAIN,))
        elif not verdict.allowed:
            verdict = replace(verdict, reasons=(_WITHHELD,))
        return PictureJudgement(verdict, action, retry)


class Moderation:
    """The public surface of this room: judges prompts, pictures, photos and photo sets."""

    def __init__(
        self,
        layers: Layers,
        policy: Policy,
        photo_rules: PhotoRules,
        timeout_s: float,
        evidence: Evidence | None = None,
    ) -> None:
        """Most callers use `build`. `timeout_s` bounds the wait for every single check."""
        self.policy = policy
        self.picture_check_is_basic = layers.picture_choice.name == "basic"
        self._layers = layers
        self._photo_rules = photo_rules
        self._guard = Guard(timeout_s)
        self._ledger = Ledger(policy, evidence)

    def clean(self, text: str) -> str:
        """The text an encoder may read: what is judged is exactly what is drawn."""
        return encoder_text(text)

    def prompt(self, request: PromptRequest) -> PromptJudgement:
        """Judge a prompt field by field and composed, by every check."""
        return self.begin_prompt(request).result()

    def first_look(self, request: PromptRequest) -> PromptJudgement:
        """What the local checks say of a prompt. Decides, and is recorded, only as a refusal:
        to draw, `begin_prompt` must have been asked.
        """
        judged, _ = self._judged_here(request)
        if judged.verdict.allowed:
            return judged
        verdict = self._ledger.kept(judged.verdict, Stage.PROMPT, request.content)
        return replace(judged, verdict=_worded(verdict))

    def begin_prompt(self, request: PromptRequest) -> PendingPrompt:
        """Run the local checks now and start the remote ones. What the local ones refuse is
        decided, and recorded, at once.
        """
        judged, texts = self._judged_here(request)
        # A service does not undo what hides words: it is asked about the text that is drawn.
        asked = [
            self._guard.ask(check, partial(check.check, encoder_text(text)), stage)
            for stage, text in (texts if judged.verdict.allowed else [])
            for check in self._layers.remote.get(stage, ())
        ]
        pending = PendingPrompt(
            judged,
            asked,
            self._guard,
            lambda verdict: self._ledger.kept(verdict, Stage.PROMPT, request.content),
        )
        if not judged.verdict.allowed:
            pending.result()
        return pending

    def _judged_here(
        self, request: PromptRequest
    ) -> tuple[PromptJudgement, list[tuple[Stage, str]]]:
        """The local checks' judgement, and the texts that were judged, each at its stage."""
        composed = ", ".join(part for part in (request.user_text, request.style_text) if part)
        texts = [(Stage.PROMPT, composed)]
        if request.style_text and request.user_text.strip():
            texts.insert(0, (Stage.PROMPT, request.user_text))
        if request.user_negative.strip():
            texts.append((Stage.NEGATIVE_PROMPT, request.user_negative))
        verdicts = [
            self._guard.verdict_here(check, partial(check.check, text), stage)
            for stage, text in texts
            for check in self._layers.local.get(stage, ())
        ]
        verdict = _worded(combine(verdicts))
        cleaned = self._guard.here(self, lambda: self.clean(request.user_text), Stage.PROMPT)
        negative = self._guard.here(self, lambda: self.clean(request.user_negative), Stage.PROMPT)
        if not isinstance(cleaned, str) or not isinstance(negative, str):
            verdict, cleaned, negative = Verdict(Decision.UNAVAILABLE, verdict.findings), "", ""
        return PromptJudgement(verdict, cleaned, negative), texts

    def pictures(self, pictures: Sequence[Image], stage: Stage) -> list[PictureJudgement]:
        """Judge pictures (RGB) of one stage, one judgement each in order."""
        return self.begin_pictures(pictures, stage).result()

    def begin_pictures(self, pictures: Sequence[Image], stage: Stage) -> PendingPictures:
        """Start judging pictures, to go on drawing meanwhile."""
        every = list(pictures)
        asked = [
            self._guard.ask(check, partial(check.check, every), stage, len(every))
            for check in (self._layers.pictures.get(stage, ()) if every else ())
        ]
        return PendingPictures(every, asked, stage, self.policy, self._guard, self._ledger)

    def prepare_photos(self) -> None:
        """Load what the first photo's checks would wait for. Raises what loading raises."""
        for check in (self._layers.photos, *self._layers.pictures.get(Stage.PHOTO, ())):
            prepare = getattr(check, "prepare", None)
            if prepare is not None:
                prepare()

    def photo(self, picture: Image) -> PhotoJudgement:
        """Judge one uploaded photo (RGB, upright, decoded by the intake)."""
        shown = self.begin_pictures([picture], Stage.PHOTO)
        check = self._layers.photos
        judged = self._guard.here(
            check,
            lambda: photo_judgement(check.measure(picture), self._photo_rules),
            Stage.PHOTO,
        )
        if isinstance(judged, Verdict):
            judged = PhotoJudgement(replace(judged, reasons=(_TRY_AGAIN,)))
        (content,) = shown.verdicts()
        if content.decision in (Decision.REVIEW, Decision.BLOCK):
            content = replace(content, reasons=(_CONTENT[content.decision],))
        verdict = combine([content, judged.verdict])
        verdict = self._ledger.kept(verdict, Stage.PHOTO, picture.tobytes)
        if verdict.decision is Decision.UNAVAILABLE:
            verdict = replace(verdict, reasons=(*verdict.reasons, _TRY_AGAIN))
        return replace(judged, verdict=replace(verdict, reasons=_first_of_each(verdict.reasons)))

    def photo_set(self, pictures: Sequence[Image]) -> list[Verdict]:
        """Whether each photo shows the same person as the set's medoid, where the backend can tell.

        Where it cannot, `capabilities()["identity"]` says so and each photo gets an allow whose
        finding says *not compared*.
        """
        every = list(pictures)
        if not every:
            return []
        check = self._layers.photos

        def compared() -> list[Verdict]:
            answer = check.same_person(every)
            if answer is None:
                finding = Finding(
                    Stage.PHOTO_SET, check.backend, check.version, "not compared", 0.0, 1.0, 0.0
                )
                return [Verdict(Decision.ALLOW, (finding,))] * len(every)
            return answer

        answers = self._guard.answers(self._guard.ask(check, compared, Stage.PHOTO_SET, len(every)))
        return [
            self._ledger.kept(verdict, Stage.PHOTO_SET, picture.tobytes)
            for verdict, picture in zip(answers, every, strict=True)
        ]

    def likeness(self, photos: Sequence[Image], pictures: Sequence[Image]) -> float | None:
        """How sure it is, 0 to 1, that pictures show the person of the photos; None where the
        backend cannot tell. Nothing is allowed or refused by it: it ranks versions of a model."""
        compare = getattr(self._layers.photos, "likeness", None)
        if compare is None or not photos or not pictures:
            return None
        try:
            return compare(list(photos), list(pictures))
        except (RuntimeError, ValueError) as fault:
            _LOG.warning("faces could not be compared: %s", fault)
            return None

    @property
    def compares_faces(self) -> bool:
        """Whether `likeness` can tell anything."""
        return hasattr(self._layers.photos, "likeness")

    def capabilities(self) -> dict[str, str]:
        """What can be told and what cannot: faces, identity, celebrity, age, pictures."""
        choice = self._layers.picture_choice
        return {**self._layers.photos.capabilities(), "pictures": f"{choice.name}: {choice.reason}"}

    def close(self) -> None:
        """Stop the threads."""
        self._guard.close()


_CONTENT = {
    Decision.REVIEW: Reason(
        "check_content",
        "We are not sure this photo is suitable.",
        "Keep it if it is an ordinary portrait; otherwise choose another.",
    ),
    Decision.BLOCK: Reason(
        "unsuitable", "This photo cannot be used here.", "Choose an ordinary portrait instead."
    ),
}


def _first_of_each(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    return tuple({reason.code: reason for reason in reversed(reasons)}.values())[::-1]


def _worded(verdict: Verdict) -> Verdict:
    """The words for a person: they never say which term or which layer spoke."""
    if verdict.allowed:
        return verdict
    if verdict.decision is Decision.UNAVAILABLE:
        return replace(verdict, reasons=(_TRY_AGAIN,))
    spoke = {f.label for f in verdict.findings if f.score >= f.threshold}
    only_unreadable = verdict.decision is Decision.REVIEW and spoke <= _UNREADABLE_LABELS
    return replace(verdict, reasons=(_UNREADABLE if only_unreadable else _REFUSED,))


def build(config: ModerationConfig, evidence: Evidence | None = None) -> Moderation:
    """Build the chain; every decision goes to `evidence`, if one is given.

    Raises PolicyError, RulesError or ClassifierError when a file is wrong.
    """
    policy = load_policy(config.preset, config.policy_file)
    layers = chosen(config, policy)
    rules = PhotoRules(strict_faces=config.strict_faces)
    return Moderation(layers, policy, rules, config.check_timeout_s, evidence)
