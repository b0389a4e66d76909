"""What the engine is asked to draw and what it hands back. Knows nothing of users or verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from PIL.Image import Image

Quality = Literal["fast", "balanced", "best"]


@dataclass(frozen=True)
class GenerationRequest:
    """One picture. `adapter` is a personal model's folder (None draws the bare base).

    `prompt` is the composed text with the person's token in it. `width` and `height` are pixels,
    divisible by 8; None means the base's own resolution. `steps` and `guidance` None means the
    quality's defaults for the base's family. `strength` scales the personal weights (1 = trained).
    """

    id: str
    prompt: str
    negative: str = ""
    adapter: Path | None = None
    seed: int = 0
    quality: Quality = "balanced"
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    strength: float = 1.0
    owner: str = ""  # opaque key for fairness between people; never logged
    target: str = ""  # name at a remote engine, made by the studio from the owner's ids


@dataclass(frozen=True)
class Rendered:
    """A finished, unjudged picture. `seconds` is from its first step to decoded pixels."""

    id: str
    picture: Image
    seed: int
    steps: int
    seconds: float
    timings: dict[str, float] = field(default_factory=dict)


StepHook = Callable[[str, int, int], None]  # request id, step done, steps in all
CancelCheck = Callable[[str], bool]  # request id -> stop drawing it
WaitHook = Callable[[str], None]  # what is waited for, in a sentence for the person


class Engine(Protocol):
    """Set up once with a base, then draws for many people. Different people may share a batch."""

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        *,
        on_step: StepHook | None = None,
        cancelled: CancelCheck | None = None,
        on_wait: WaitHook | None = None,
    ) -> Iterator[Rendered]:
        """Yield pictures as they are done (order may differ); a cancelled request yields nothing.

        Raises `EngineError` (see serving.errors) for an adapter or size that cannot be drawn.
        """
        ...
