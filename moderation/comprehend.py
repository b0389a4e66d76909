"""Prompts by Amazon Comprehend: DetectToxicContent, and a custom classifier's ClassifyDocument.

Limits from the API reference: DetectToxicContent takes up to 10 segments of 1 KB each and English
only; ClassifyDocument takes 10,000 bytes. Longer texts are split on bytes, between words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from moderation.aws import Answer, ServiceFault, ask, client, together
from moderation.policy import Label, Policy, unavailable
from moderation.verdict import Stage, Verdict

if TYPE_CHECKING:
    from moderation.layers import ModerationConfig

TOXIC_BACKEND = "comprehend-toxic-content"
CLASSIFIER_BACKEND = "comprehend-classifier"
API_VERSION = "2017-11-27"
SEGMENT_BYTES = 1_024
SEGMENTS = 10
DOCUMENT_BYTES = 10_000
OVERLAP_BYTES = 128  # so that a phrase cut by one segment's end is whole in the next

# Comprehend's words for what our policy calls by other names.
TOXIC_LABELS = {
    "GRAPHIC": "disturbing",
    "HARASSMENT_OR_ABUSE": "harassment",
    "HATE_SPEECH": "hate",
    "INSULT": "harassment",
    "PROFANITY": "profanity",
    "SEXUAL": "sexual",
    "VIOLENCE_OR_THREAT": "violent",
}
BENIGN_CLASSES = frozenset(
    {"harmless", "benign", "safe", "safe_prompt", "not toxic", "not_toxic", "nontoxic"}
)
HARMFUL_CLASSES = frozenset({"toxic", "unsafe", "unsafe_prompt"})

Share = Annotated[float, Field(ge=0, le=1)]


class _Score(Answer):
    Name: str = Field(min_length=1)
    Score: Share


class _Segment(Answer):
    Labels: list[_Score] = Field(min_length=1)
    Toxicity: Share


class _Toxic(Answer):
    ResultList: list[_Segment]


class _Classes(Answer):
    Classes: list[_Score] = Field(min_length=1)


def segments(text: str, limit: int = SEGMENT_BYTES, overlap: int = OVERLAP_BYTES) -> list[str]:
    """The text in pieces of at most `limit` UTF-8 bytes, cut between words where there are any.

    Each piece repeats up to `overlap` bytes of the one before it.
    """
    pieces: list[str] = []
    rest = text
    while len(rest.encode()) > limit:
        head = rest.encode()[:limit].decode(errors="ignore")
        gap = max(head.rfind(" "), head.rfind("\n"))
        cut = gap if gap > len(head) // 2 else len(head)
        pieces.append(rest[:cut])
        back = len(rest[:cut].encode()[-overlap:].decode(errors="ignore")) if overlap else 0
        rest = rest[cut - back :]
    return [*pieces, rest]


def _strongest(labels: Iterable[tuple[str, float]]) -> list[Label]:
    best: dict[str, float] = {}
    for name, score in labels:
        best[name] = max(score, best.get(name, 0.0))
    return [Label(name, score) for name, score in best.items()]


@dataclass
class ToxicContent:
    """DetectToxicContent. Other languages than English are left to the other layers."""

    comprehend: Any
    policy: Policy
    stage: Stage
    timeout_s: float
    backend: str = TOXIC_BACKEND

    def check(self, text: str) -> Verdict:
        """Judge one text; a fault is `unavailable`."""
        if not text.strip():
            return self.policy.judge([], self.stage, TOXIC_BACKEND, API_VERSION, 0.0)
        pieces = segments(text)
        groups = [pieces[i : i + SEGMENTS] for i in range(0, len(pieces), SEGMENTS)]
        calls = [partial(self._labels, group) for group in groups]
        return _judged(calls, self.policy, self.stage, TOXIC_BACKEND, self.timeout_s)

    def _labels(self, pieces: Sequence[str]) -> list[tuple[str, float]]:
        answer = ask(
            self.comprehend.detect_toxic_content,
            _Toxic,
            TextSegments=[{"Text": piece} for piece in pieces],
            LanguageCode="en",
        )
        if len(answer.ResultList) != len(pieces):
            raise ServiceFault(f"{len(answer.ResultList)} results for {len(pieces)} segments")
        found = []
        for result in answer.ResultList:
            found.append(("other_harm", result.Toxicity))
            found += [(TOXIC_LABELS.get(a.Name, a.Name), a.Score) for a in result.Labels]
        return found


@dataclass
class CustomClassifier:
    """ClassifyDocument on an endpoint of a classifier that was trained with our labels, or with
    the published sample's `Toxic` and `Not Toxic`.
    """

    comprehend: Any
    policy: Policy
    stage: Stage
    endpoint_arn: str
    timeout_s: float
    backend: str = CLASSIFIER_BACKEND

    def check(self, text: str) -> Verdict:
        """Judge one text; a fault is `unavailable`."""
        if not text.strip():
            return self.policy.judge([], self.stage, CLASSIFIER_BACKEND, API_VERSION, 0.0)
        calls = [partial(self._labels, piece) for piece in segments(text, DOCUMENT_BYTES)]
        return _judged(calls, self.policy, self.stage, CLASSIFIER_BACKEND, self.timeout_s)

    def _labels(self, piece: str) -> list[tuple[str, float]]:
        answer = ask(
            self.comprehend.classify_document,
            _Classes,
            Text=piece,
            EndpointArn=self.endpoint_arn,
        )
        total = sum(found.Score for found in answer.Classes)
        if not 0.95 <= total <= 1.05:
            raise ServiceFault(f"the classes' scores add up to {total:.2f}, not to 1")
        return [
            ("other_harm" if a.Name.lower() in HARMFUL_CLASSES else a.Name, a.Score)
            for a in answer.Classes
            if a.Name.lower() not in BENIGN_CLASSES
        ]


def _judged(
    calls: Sequence[Callable[[], list[tuple[str, float]]]],
    policy: Policy,
    stage: Stage,
    backend: str,
    timeout_s: float,
) -> Verdict:
    """One verdict over all pieces of a text: all must have been answered."""
    begun = time.monotonic()
    results = together(calls, timeout_s)
    ms = 1000 * (time.monotonic() - begun)
    found: list[tuple[str, float]] = []
    for result in results:
        if isinstance(result, Exception):
            return unavailable(stage, backend, API_VERSION, ms)
        found += result
    return policy.judge(_strongest(found), stage, backend, API_VERSION, ms)


def toxic_content_check(config: ModerationConfig, policy: Policy, stage: Stage) -> ToxicContent:
    """The toxicity check of one stage. Raises MissingExtra without boto3."""
    comprehend = client("comprehend", config.region, config.endpoint_url, config.check_timeout_s)
    return ToxicContent(comprehend, policy, stage, config.check_timeout_s)


def classifier_check(
    config: ModerationConfig, policy: Policy, stage: Stage
) -> CustomClassifier | None:
    """The custom classifier's check, or None when no endpoint is configured."""
    if not config.comprehend_classifier_arn:
        return None
    comprehend = client("comprehend", config.region, config.endpoint_url, config.check_timeout_s)
    return CustomClassifier(
        comprehend, policy, stage, config.comprehend_classifier_arn, config.check_timeout_s
    )
