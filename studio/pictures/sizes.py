"""What a picture can be made ready for: sizes for social media, games and events, as data."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from studio.actions import Shape
from studio.errors import UserError


@dataclass(frozen=True)
class Size:
    """One use. `width` and `height` in pixels of the file; `cut` is "circle" for a round one."""

    id: str
    group: Literal["social", "game", "event"]
    name: str
    name_de: str
    width: int
    height: int
    cut: Literal["", "circle"] = ""

    @property
    def shape(self) -> Shape:
        """The shape to draw in, so that little is cut off or filled up."""
        if self.cut:
            return self.cut
        ratio = self.width / self.height
        return "banner" if ratio > 1.5 else "portrait" if ratio < 0.9 else "square"


@cache
def sizes() -> tuple[Size, ...]:
    """All of them, in the order of the file."""
    rows = tomllib.loads((Path(__file__).parent / "sizes.toml").read_text("utf-8"))["size"]
    return tuple(Size(**row) for row in rows)


def size(size_id: str) -> Size:
    """The size of this id. Raises `UserError` for an unknown one."""
    for one in sizes():
        if one.id == size_id:
            return one
    raise UserError(
        f"There is no size “{str(size_id)[:40]}”.",
        "Choose one of: " + ", ".join(one.id for one in sizes()) + ".",
    )
