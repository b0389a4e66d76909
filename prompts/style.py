"""A style: how a look is asked for. Data in `prompts/styles/*.toml`, one file a style."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Category = Literal["portrait", "illustration", "game", "seasonal", "business", "starter"]
Family = Literal["starter", "sd15", "sd21", "sdxl"]


class Style(BaseModel):
    """One look. `prompt` holds `{person}` where the person's phrase goes.

    `enlarge` is how small pictures grow to delivery size: nearest for pixels, smooth otherwise.
    `transparent`: drawn on a plain background, which can be taken away from a finished picture.
    `preview` is a file name beside the TOML file, or empty: a placeholder is shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,40}$")
    name: str
    name_de: str
    category: Category
    families: tuple[Family, ...]
    prompt: str = Field(pattern=r"\{person\}")
    negative: str = ""
    quality: Literal["fast", "balanced", "best"] = "balanced"
    guidance: float | None = None
    enlarge: Literal["nearest", "smooth"] = "smooth"
    transparent: bool = False
    preview: str = ""
