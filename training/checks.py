"""What can be known to be wrong with a request before any model is loaded.

Each problem raises `RequestRefused` naming the field and its value. Imports no torch.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from diffusion.bases import PROBE, BaseDamaged, BaseError, family_of, weights_sha256
from training.errors import NoRoom, RequestRefused, TrainingError
from training.footprint import GB, Footprint, footprint
from training.recipe import Recipe, check_alike, plan
from training.request import REQUEST_VERSION, TrainingRequest

FEWEST_PHOTOS = 2
SHORTEST_SIDE_PX = 32
_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
_SHOWN = 80  # characters of a value that a refusal repeats


def read_request(path: Path) -> TrainingRequest:
    """A request from its JSON file. Raises `TrainingError` naming what is wrong and where."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise TrainingError(f"The request {path.name} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"The request {path.name} is not JSON: {error}.") from error
    version = content.get("version", 1) if isinstance(content, dict) else None
    if version != REQUEST_VERSION:
        raise RequestRefused(
            "version",
            repr(version),
            f"this trainer understands {REQUEST_VERSION}; update the trainer.",
        )
    try:
        return TrainingRequest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "request"
        value = "missing" if first["type"] == "missing" else repr(first["input"])[:_SHOWN]
        raise RequestRefused(field, value, f"{first['msg']}.") from error


def check_together(requests: Sequence[TrainingRequest]) -> None:
    """Whether these people can learn in one run: on one base, in the same layers and batch."""
    first = requests[0]
    if first.method == "full" and len(requests) > 1:
        raise RequestRefused("method", "full", f"it trains one person a run, not {len(requests)}.")
    seen: set[str] = set()
    for other in requests:
        if other.run_id in seen:
            raise RequestRefused("run_id", other.run_id, "each person of a run needs their own.")
        seen.add(other.run_id)
        for field in ("base", "method", "resolution", "train_text_encoder", "device"):
            mine, theirs = getattr(first, field), getattr(other, field)
            if mine != theirs:
                value = other.base.id if field == "base" else theirs
                raise RequestRefused(field, value, "people of one run must agree in it.")
        check_alike(plan(first), plan(other))


def check_request(request: TrainingRequest, hash_cache: Path | None = None) -> None:
    """Everything cheap: wishes, photos, base, class folder, room on disk, token and prompts."""
    recipe = plan(request)
    if not 0 <= request.seed < 1 << 63:
        raise RequestRefused("seed", request.seed, "it must be 0 to 2**63 - 1.")
    if not _DEVICE.fullmatch(request.device):
        raise RequestRefused("device", repr(request.device), "auto, cpu, cuda or cuda:N.")
    _check_words(request)
    _check_photos(request)
    _check_base(request, hash_cache)
    if request.class_folder is not None and not request.class_folder.is_dir():
        raise RequestRefused("class_folder", request.class_folder, "there is no such folder.")
    if request.embedder is not None and not (request.embedder / "config.json").is_file():
        raise RequestRefused("embedder", request.embedder, "it holds no CLIP or DINO model.")
    if request.resolution is not None and not (
        32 <= request.resolution <= 2048 and request.resolution % 8 == 0
    ):
        raise RequestRefused("resolution", request.resolution, "32 to 2048, divisible by 8.")
    needed = _footprint(request, recipe).disk_gb(recipe)
    request.run_folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(request.run_folder).free / GB
    if free < needed:
        raise NoRoom(
            f"`run_folder` has {free:.2f} GB of room; this training writes up to {needed:.2f} GB. "
            "Free some space and start again."
        )


def _footprint(request: TrainingRequest, recipe: Recipe) -> Footprint:
    try:
        return footprint(request.base.folder, recipe)
    except BaseDamaged as error:
        raise RequestRefused("base", request.base.id, str(error)) from error


def _check_words(request: TrainingRequest) -> None:
    for field in ("token", "class_noun"):
        word = getattr(request, field)
        if not word.strip() or len(word) > 40 or not word.isprintable():
            raise RequestRefused(field, repr(word), "it must be one to 40 printable characters.")
    if len(request.token.split()) != 1:
        raise RequestRefused("token", repr(request.token), "it must be a single word.")
    for number, prompt in enumerate(request.preview_prompts):
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise RequestRefused(
                f"preview_prompts[{number}]", repr(prompt)[:_SHOWN], f"it is no text ({error})."
            ) from error


def _check_photos(request: TrainingRequest) -> None:
    count = len(request.photos)
    if count < FEWEST_PHOTOS:
        raise RequestRefused(
            "photos", f"{count} photo{'s' * (count != 1)}", f"at least {FEWEST_PHOTOS} are needed."
        )
    for number, photo in enumerate(request.photos):
        field = f"photos[{number}]"
        try:
            with Image.open(photo.path) as picture:
                shortest = min(picture.size)
                picture.load()
        except FileNotFoundError:
            raise RequestRefused(field, photo.path.name, "there is no such file.") from None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            why = str(error).replace(str(photo.path), photo.path.name)
            raise RequestRefused(
                field, photo.path.name, f"it cannot be read as a picture ({why})."
            ) from error
        if shortest < SHORTEST_SIDE_PX:
            raise RequestRefused(
                field, photo.path.name, f"its shorter side is {shortest} pixels, too small."
            )
        _check_crop(field, photo.crop)


def _check_crop(field: str, crop: tuple[float, float, float, float] | None) -> None:
    if crop is None:
        return
    left, top, right, bottom = crop
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise RequestRefused(
            f"{field}.crop", crop, "left < right and top < bottom must lie within 0 to 1."
        )


def _check_base(request: TrainingRequest, hash_cache: Path | None) -> None:
    base = request.base
    if not (base.folder / "model_index.json").is_file():
        raise RequestRefused("base.folder", base.folder, f"the base {base.id} is not there.")
    try:
        family = family_of(base.folder)
        # What no published family looks like may be a smaller one of them; a starter is not.
        sure = family != "starter" or base.family == "sdxl" or (base.folder / PROBE).is_dir()
        if family != base.family and sure:
            raise RequestRefused("base.family", base.family, f"{base.id} belongs to {family}.")
        actual = weights_sha256(base.folder, hash_cache)
    except BaseError as error:
        raise RequestRefused("base", base.id, str(error)) from error
    if base.sha256 and actual != base.sha256:
        raise RequestRefused(
            "base.sha256",
            f"{base.sha256[:12]}…",
            f"the weights of {base.id} in this folder have {actual[:12]}…; "
            "they are another version or damaged.",
        )
