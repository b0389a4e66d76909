"""The program that opens one uploaded photo, in a process of its own with little memory and time.

It reads a header line and the bytes from its input, writes a header line and the clean pictures to
its output, and ends: no photo shares a process with another. It imports Pillow, and pillow-heif for
HEIC, and nothing of the studio, so that a flaw in a decoder finds nothing here to take.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from typing import Any, BinaryIO

LIMITS_MB = {"memory": 1536, "cpu_s": 30}
LONGEST_PX = 2048
PREVIEW_PX = 384
MAX_SIDE_PX = 10_000


class Refused(Exception):
    """A photo that is not used: a code and the figures that its sentence needs."""

    def __init__(self, code: str, **figures: Any) -> None:
        super().__init__(code)
        self.answer = {"code": code, **figures}


def main() -> None:
    limit_self()
    get_ready()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    line = source.readline()
    if not line:
        return
    asked = json.loads(line)
    if asked["format"] == "HEIF":
        get_ready_for_heic()
    seal_self()
    content = source.read(asked["bytes"])
    answer: dict[str, Any]
    pictures: tuple[bytes, ...] = ()
    try:
        answer, pictures = clean(content, asked["format"], asked["max_pixels"])
    except Refused as refusal:
        answer = refusal.answer
    except MemoryError:
        answer = {"code": "too_heavy"}
    except Exception as fault:  # noqa: BLE001 - any fault of any decoder means: not a whole photo
        answer = {"code": "broken", "fault": f"{type(fault).__name__}: {fault}"[:200]}
    answer["sizes"] = [len(picture) for picture in pictures]
    write(sink, answer, pictures)


def write(sink: BinaryIO, answer: dict[str, Any], pictures: tuple[bytes, ...]) -> None:
    sink.write(json.dumps(answer).encode() + b"\n")
    for picture in pictures:
        sink.write(picture)
    sink.flush()


def limit_self() -> None:
    """Cap memory, time and files; without such limits in the system, the parent's clock is left."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        memory = LIMITS_MB["memory"] << 20
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (LIMITS_MB["cpu_s"], LIMITS_MB["cpu_s"]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def get_ready() -> None:
    """Import what opens and writes photos before one comes: the process waits ready, and needs no
    file afterwards.
    """
    from PIL import (  # noqa: F401
        Image,
        ImageCms,
        ImageColor,
        ImageOps,
        MpoImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    Image.preinit()


def get_ready_for_heic() -> None:
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.register_heif_opener()


def seal_self() -> None:
    """From here on nothing can be opened: no file and no connection, whatever a decoder is made to
    run. A system without such limits has the rest of them at most.
    """
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def clean(content: bytes, kind: str, max_pixels: int) -> tuple[dict[str, Any], tuple[bytes, bytes]]:
    """One upright RGB picture without any metadata, and a small one.

    Returns what is known of the original, a JPEG of at most 2048 px and a WebP of at most 384 px.
    Raises `Refused` for a photo that is animated or too large.
    """
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # our own cap below is stricter and comes with a sentence
    with Image.open(io.BytesIO(content), formats=(kind,)) as photo:
        width, height = photo.size
        if width * height > max_pixels or max(width, height) > MAX_SIDE_PX:
            raise Refused("too_many_pixels", width=width, height=height)
        # A JPEG of several pictures is one photo with extras (depth, brightness); HEIC likewise.
        if kind in ("PNG", "WEBP") and getattr(photo, "n_frames", 1) != 1:
            raise Refused("animated", frames=getattr(photo, "n_frames", 0))
        if kind == "JPEG":
            photo.draft(None, (LONGEST_PX, LONGEST_PX))
        photo.load()
        upright = ImageOps.exif_transpose(photo)
    turned = upright.size[0] > upright.size[1] if width != height else False
    if width != height and turned != (width > height):
        width, height = height, width
    small = to_rgb(shrunk(upright))
    picture = Image.new("RGB", small.size)
    picture.paste(small)
    preview = picture.copy()
    preview.thumbnail((PREVIEW_PX, PREVIEW_PX), Image.Resampling.LANCZOS)
    known = {"code": "", "width": width, "height": height}
    return known, (
        encoded(picture, "JPEG", quality=95, subsampling=0),
        encoded(preview, "WEBP", quality=85),
    )


def shrunk(photo: Any) -> Any:
    """At most 2048 px on the longer side, in a mode that can be scaled smoothly."""
    from PIL import Image

    if photo.mode in ("1", "P", "PA"):
        photo = photo.convert("RGBA" if has_alpha(photo) else "RGB")
    if photo.mode.startswith("I"):
        # 16 bits per channel: Pillow would clip at 255 instead of scaling down.
        photo = photo.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if photo.mode == "F":
        photo = photo.convert("L")
    photo.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return photo


def to_rgb(photo: Any) -> Any:
    """Colours as a screen shows them: the embedded profile is applied, clear parts turn white."""
    from PIL import Image, ImageCms

    profile = photo.info.get("icc_profile")
    alpha = photo.convert("RGBA").getchannel("A") if has_alpha(photo) else None
    if alpha is not None:
        photo = photo.convert("RGB")
    if profile and photo.mode in ("RGB", "CMYK", "L"):
        with suppress(Exception):
            photo = ImageCms.profileToProfile(
                photo,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
    colours = photo.convert("RGB")
    if alpha is None:
        return colours
    white = Image.new("RGB", colours.size, "white")
    white.paste(colours, mask=alpha)
    return white


def has_alpha(photo: Any) -> bool:
    return photo.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in photo.info


def encoded(picture: Any, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


if __name__ == "__main__":
    main()
