"""The style catalogue: reads the TOML files shipped here and a host's own, and finds styles."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from prompts.style import Style

SHIPPED = Path(__file__).parent / "styles"


class StyleError(ValueError):
    """A style file cannot be used; the message names the file, the field and the value."""


@dataclass(frozen=True)
class Styles:
    """All known styles in order, with the folder each came from (previews lie beside them)."""

    every: tuple[Style, ...]
    folders: dict[str, Path]

    def get(self, style_id: str) -> Style:
        """Raises `KeyError` for an unknown id; ids from a page are never trusted."""
        for style in self.every:
            if style.id == style_id:
                return style
        raise KeyError(style_id)

    def fitting(self, family: str) -> tuple[Style, ...]:
        """The styles that a base of this family can draw."""
        return tuple(style for style in self.every if family in style.families)

    def preview(self, style_id: str) -> Path | None:
        """The style's shipped preview picture, or None where a placeholder must do."""
        style = self.get(style_id)
        path = self.folders[style_id] / style.preview
        return path if style.preview and path.is_file() else None


def load_styles(extra: Path | None = None) -> Styles:
    """Read the shipped styles, then a host's folder; a host's style replaces one of the same id.

    Raises `StyleError` for a file that is not valid TOML, misses a field, has an unknown one, or
    whose preview would lie outside its folder.
    """
    found: dict[str, Style] = {}
    folders: dict[str, Path] = {}
    for folder in (SHIPPED, extra):
        if folder is None:
            continue
        if not folder.is_dir():
            raise StyleError(f"The styles folder {folder} does not exist. Make it, or unset it.")
        for path in sorted(folder.glob("*.toml")):
            style = _read(path)
            found[style.id] = style
            folders[style.id] = folder
    return Styles(tuple(found.values()), folders)


def _read(path: Path) -> Style:
    try:
        style = Style.model_validate(tomllib.loads(path.read_text("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StyleError(f"{path.name} is not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise StyleError(
            f"{path.name}: `{field}` {first['msg']} (got {first['input']!r})"
        ) from error
    if Path(style.preview).name != style.preview:
        raise StyleError(f"{path.name}: `preview` must be a file name but is {style.preview!r}")
    return style
