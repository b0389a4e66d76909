"""From a judged picture to a delivered avatar: shaped, enlarged, marked, and stored once.

What is stored belongs to a run: the same run and slot again finds what is there, and a person
erased meanwhile leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from typing import Any
from xml.sax.saxutils import quoteattr

from PIL import Image, ImageDraw, ImageFilter
from PIL.PngImagePlugin import PngInfo

from studio.actions import Shape
from studio.catalog import Catalog
from studio.database import Taken
from studio.errors import NotAllowed
from studio.records import Avatar, PersonalModel, Run, new_id, now
from studio.storage.storage import Storage
from training.request import TrainedModel

SHORT_SIDE_PX = 512
PREVIEW_PX = 384
RATIOS: dict[Shape, float] = {"square": 1.0, "portrait": 0.8, "banner": 3.0, "circle": 1.0}
"""Width over height: 4:5 is what feeds show of a portrait, 3:1 the header of a profile page."""

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for a picture made by a trained model, as the Code of Practice on marking asks."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A picture that may be shown, and how it came about. `seconds` is all attempts together."""

    picture: Image.Image
    style_id: str
    enlarge: str
    shape: Shape
    prompt: str
    seed: int
    model_id: str
    verdict: dict[str, Any]
    attempts: int
    seconds: float


class Delivery:
    """Stores what runs make. Safe from several processes."""

    def __init__(self, catalog: Catalog, storage: Storage) -> None:
        self.catalog = catalog
        self.storage = storage

    def avatar(self, run: Run, slot: str, drawn: Drawn) -> Avatar:
        """Shape, enlarge, mark and store one picture; `slot` names its place in the run.

        Raises `NotAllowed` when the person was erased meanwhile; nothing is left behind then.
        """
        avatar_id = slot_id(run.id, slot)
        there = self.catalog.get(Avatar, avatar_id)
        if there is not None:
            return there
        picture = grown(shaped(drawn.picture, drawn.shape, drawn.enlarge), drawn.enlarge)
        if drawn.shape == "circle":
            picture = circled(picture)
        key = f"users/{run.user_id}/people/{run.person_id}/avatars/{avatar_id}-{_attempt()}"
        marked = marked_png(picture, style=drawn.style_id, seed=drawn.seed, model=drawn.model_id)
        avatar = Avatar(
            id=avatar_id,
            user_id=run.user_id,
            person_id=run.person_id,
            model_id=drawn.model_id,
            run_id=run.id,
            style_id=drawn.style_id,
            prompt=drawn.prompt,
            seed=drawn.seed,
            width=picture.width,
            height=picture.height,
            key=f"{key}.png",
            preview_key=f"{key}-preview.webp",
            sha256=hashlib.sha256(marked).hexdigest(),
            verdict=drawn.verdict,
            attempts=drawn.attempts,
            seconds=drawn.seconds,
            created_at=now(),
        )
        self.storage.put(avatar.key, marked)
        self.storage.put(avatar.preview_key, preview_webp(picture))
        return self._keep(avatar, avatar.key, avatar.preview_key)

    def run_preview(self, run: Run, step: int, picture: Image.Image) -> str:
        """Store a judged sample of a training; its id, for `detail` and for `Studio.file`."""
        preview_id = f"{run.id}.{step}"
        key = preview_key(run, preview_id)
        grown_picture = grown(picture.convert("RGB"), "smooth")
        self.storage.put(key, preview_webp(grown_picture, PREVIEW_PX))
        if self.catalog.get(Run, run.id) is None:
            self.storage.delete_prefix(key)
            raise NotAllowed("this run")
        return preview_id

    def model(self, run: Run, trained: TrainedModel) -> PersonalModel:
        """Store the files of a trained model and register it as the person's next version."""
        model_id = slot_id(run.id, "model")
        there = self.catalog.get(PersonalModel, model_id)
        if there is not None:
            return there
        key = f"{model_folder(run)}/{_attempt()}"
        for path in sorted(trained.folder.rglob("*")):
            if path.is_file():
                self.storage.put(f"{key}/{path.relative_to(trained.folder).as_posix()}", path)
        model = PersonalModel(
            id=model_id,
            user_id=run.user_id,
            person_id=run.person_id,
            version=0,
            name=str(run.request.get("name", "")),
            base_id=trained.base_id,
            base_sha256=trained.base_sha256,
            family=trained.family,
            token=trained.token,
            key=key,
            adapter_bytes=trained.adapter_bytes,
            steps=trained.steps,
            seconds=trained.seconds,
            report=trained.report,
            created_at=now(),
        )
        try:
            kept = self.catalog.add_model(model)
        except Taken:
            self.storage.delete_prefix(key)
            raise NotAllowed("this person") from None
        if kept.key != key:
            self.storage.delete_prefix(key)
        return kept

    def _keep(self, avatar: Avatar, *keys: str) -> Avatar:
        """Record it, or return what another worker recorded in its place."""
        try:
            self.catalog.add(avatar)
        except Taken:
            there = self.catalog.get(Avatar, avatar.id)
            if there is not None and there.key == avatar.key:
                return there  # our own, of a write that was answered too late
            for key in keys:
                self.storage.delete_prefix(key)
            if there is None:
                raise NotAllowed("this person") from None
            return there
        return avatar


def slot_id(run_id: str, slot: str) -> str:
    """The id of what a run makes at a place: the same each time, unguessable without the run's."""
    return hashlib.sha256(f"{run_id}/{slot}".encode()).hexdigest()[:32]


def model_folder(run: Run) -> str:
    """The prefix of everything that a training run may store as its model."""
    model_id = slot_id(run.id, "model")
    return f"users/{run.user_id}/people/{run.person_id}/models/{model_id}"


def _attempt() -> str:
    """A part of a key that nobody else has: a worker taken for dead that wakes up in the middle of
    a write can never change what the one that took over has recorded."""
    return new_id()[:12]


def preview_key(run: Run, preview_id: str) -> str:
    return f"users/{run.user_id}/people/{run.person_id}/runs/{run.id}/{preview_id}.webp"


def shaped(picture: Image.Image, shape: Shape, enlarge: str) -> Image.Image:
    """Bring a picture to the shape's ratio: sides are cut off, or the background is continued."""
    ratio = RATIOS[shape]
    width, height = picture.size
    wanted = round(height * ratio)
    if wanted <= width:
        left = (width - wanted) // 2
        return picture.crop((left, 0, left + wanted, height))
    return _continued(picture, wanted, smooth=enlarge != "nearest")


def _continued(picture: Image.Image, wanted: int, *, smooth: bool) -> Image.Image:
    """The picture in the middle, its outermost columns drawn out to both sides."""
    width, height = picture.size
    left = (wanted - width) // 2
    canvas = Image.new(picture.mode, (wanted, height))
    nearest = Image.Resampling.NEAREST
    edges = (
        (picture.crop((0, 0, 1, height)), 0, left),
        (picture.crop((width - 1, 0, width, height)), left + width, wanted - left - width),
    )
    for column, start, span in edges:
        if span > 0:
            canvas.paste(column.resize((span, height), nearest), (start, 0))
    if smooth:
        canvas = canvas.filter(ImageFilter.GaussianBlur(max(1, height // 24)))
    canvas.paste(picture, (left, 0))
    return canvas


def grown(picture: Image.Image, enlarge: str) -> Image.Image:
    """At least 512 px on the short side: whole-number pixels for `nearest`, else Lanczos."""
    short = min(picture.size)
    if short >= SHORT_SIDE_PX:
        return picture
    if enlarge == "nearest":
        factor = float(-(-SHORT_SIDE_PX // short))
        filter_ = Image.Resampling.NEAREST
    else:
        factor = SHORT_SIDE_PX / short
        filter_ = Image.Resampling.LANCZOS
    width, height = (max(SHORT_SIDE_PX, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), filter_)


def circled(picture: Image.Image) -> Image.Image:
    """The round crop that profile pages show, clear outside, with a smooth rim."""
    side, fine = min(picture.size), 4
    mask = Image.new("L", (side * fine, side * fine))
    ImageDraw.Draw(mask).ellipse((0, 0, side * fine - 1, side * fine - 1), fill=255)
    out = picture.convert("RGBA").crop((0, 0, side, side))
    out.putalpha(mask.resize((side, side), Image.Resampling.LANCZOS))
    return out


def marked_png(picture: Image.Image, **facts: object) -> bytes:
    """A PNG that says it was made by a model, and from which style, seed and model; no names."""
    about = PngInfo()
    about.add_itxt("XML:com.adobe.xmp", xmp())
    for name, value in facts.items():
        about.add_text(f"avatar-studio:{name}", str(value))
    stream = io.BytesIO()
    picture.save(stream, "PNG", pnginfo=about, optimize=False)
    return stream.getvalue()


def xmp() -> str:
    """The XMP packet with IPTC's digital source type."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f"Iptc4xmpExt:DigitalSourceType={quoteattr(SOURCE_TYPE)}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def preview_webp(picture: Image.Image, side_px: int = PREVIEW_PX) -> bytes:
    """A small WebP without metadata."""
    small = picture.copy()
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=88)
    return stream.getvalue()
