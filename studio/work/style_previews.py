"""The little pictures that show what a style looks like: drawn by a bare base, of nobody."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from diffusion.bases import Base
from moderation.chain import PromptRequest
from moderation.policy import Action
from moderation.verdict import Decision, Stage, Verdict
from prompts.compose import compose
from prompts.style import Style
from serving.errors import EngineError
from serving.request import GenerationRequest
from studio.errors import BackendError
from studio.parts import Parts
from studio.pictures.delivery import grown, shaped, xmp
from studio.work.engines import Engines
from studio.work.slots import NEXT_SEED, SEED_LIMIT

SIDE_PX = 320
MOST_BYTES = 25_000
PERSON = "a happy person with long brown hair"
_QUALITIES = (88, 80, 70, 60, 50, 40, 30, 20, 10)


@dataclass(frozen=True)
class StylePreview:
    """One style's picture as WebP; None when its verdict let none out."""

    style_id: str
    content: bytes | None
    seed: int
    verdict: Verdict


def draw(
    parts: Parts, base: Base, styles: Sequence[Style], seed: int, tell: Callable[[str], None]
) -> Iterator[StylePreview]:
    """Draw each style with the bare base, another seed when a picture does not pass.

    Holds the device meanwhile; a training on it pauses. Raises `BackendError` when the base cannot
    draw, `ValueError` for a style that does not fit it.
    """
    engines = Engines(parts.settings, parts.bases, parts.machine)
    device = parts.drawing_device("style-previews")
    tell("Waiting for this machine to be free …")
    try:
        with device.drawing(stop=lambda: False):
            for style in styles:
                tell(f"Drawing {style.name} …")
                yield _preview(parts, engines, base, style, seed)
    except EngineError as fault:
        raise BackendError(str(fault)) from fault
    finally:
        engines.close()


def _preview(parts: Parts, engines: Engines, base: Base, style: Style, seed: int) -> StylePreview:
    composed = compose(style, person=PERSON, family=base.family)
    verdict = parts.moderation.prompt(PromptRequest("", style.id, composed.text)).verdict
    if not verdict.allowed:
        return StylePreview(style.id, None, seed, verdict)
    for attempt in range(parts.settings.picture_attempts):
        used = (seed + attempt * NEXT_SEED) % SEED_LIMIT
        request = GenerationRequest(
            style.id,
            composed.text,
            composed.negative,
            seed=used,
            quality=style.quality,
            guidance=style.guidance,
        )
        (rendered,) = engines.get(base.id).generate([request])
        (judged,) = parts.moderation.pictures([rendered.picture], Stage.PICTURE)
        verdict = judged.verdict
        if judged.action is Action.SHOW:
            return StylePreview(style.id, small(rendered.picture, style.enlarge), used, verdict)
        if verdict.decision is Decision.UNAVAILABLE or not judged.retry:
            break
    return StylePreview(style.id, None, used, verdict)


def small(picture: Image.Image, enlarge: str) -> bytes:
    """A square WebP of 320 px below 25 kB, enlarged as avatars are and marked as made by a model.

    Raises `BackendError` for a picture that no quality makes small enough.
    """
    delivered = grown(shaped(picture.convert("RGB"), "square", enlarge), enlarge)
    resampling = Image.Resampling
    filter_ = resampling.NEAREST if enlarge == "nearest" else resampling.LANCZOS
    shown = delivered.resize((SIDE_PX, SIDE_PX), filter_)
    for quality in _QUALITIES:
        stream = io.BytesIO()
        shown.save(stream, "WEBP", quality=quality, method=6, xmp=xmp().encode())
        if stream.tell() < MOST_BYTES:
            return stream.getvalue()
    raise BackendError(f"A preview does not fit into {MOST_BYTES} bytes at any quality.")
