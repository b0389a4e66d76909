"""The style catalogue as shipped and with a host's own folder."""

from pathlib import Path

import pytest

from prompts.catalog import SHIPPED, StyleError, load_styles

CATEGORIES = {"portrait", "illustration", "game", "seasonal", "business"}


def write(folder: Path, file: str, **fields: str) -> None:
    base = {
        "id": '"mine"', "name": '"Mine"', "name_de": '"Meins"', "category": '"portrait"',
        "families": '["sd15"]', "prompt": '"photo of {person}"',
    } | fields  # fmt: skip
    (folder / file).write_text("\n".join(f"{k} = {v}" for k, v in base.items()), "utf-8")


def test_every_shipped_file_is_a_style_named_after_its_id() -> None:
    styles = load_styles()
    assert {s.id for s in styles.every} == {p.stem for p in SHIPPED.glob("*.toml")}


def test_sd_families_have_forty_styles_over_all_categories() -> None:
    for family in ("sd15", "sd21", "sdxl"):
        fitting = load_styles().fitting(family)
        assert len(fitting) >= 40
        assert {s.category for s in fitting} >= CATEGORIES


def test_the_starter_gets_only_its_own_styles() -> None:
    fitting = load_styles().fitting("starter")
    assert len(fitting) >= 5
    assert {s.category for s in fitting} == {"starter"}


def test_unknown_ids_are_key_errors() -> None:
    with pytest.raises(KeyError):
        load_styles().get("../etc/passwd")


def test_a_host_adds_and_replaces_styles_without_code(tmp_path: Path) -> None:
    write(tmp_path, "mine.toml")
    write(tmp_path, "anime.toml", id='"anime"', name='"Our anime"')
    styles = load_styles(tmp_path)
    assert styles.get("mine").name == "Mine"
    assert styles.get("anime").name == "Our anime"
    assert styles.preview("mine") is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": '"photo of nobody"'}, "prompt"),
        ({"famillies": '["sd15"]'}, "famillies"),
        ({"category": '"weird"'}, "weird"),
        ({"id": '"Not An Id"'}, "Not An Id"),
        ({"preview": '"../../secret.png"'}, "preview"),
    ],
)
def test_a_bad_file_is_refused_by_name_field_and_value(
    tmp_path: Path, fields: dict[str, str], says: str
) -> None:
    write(tmp_path, "bad.toml", **fields)
    with pytest.raises(StyleError, match=says) as caught:
        load_styles(tmp_path)
    assert "bad.toml" in str(caught.value)


def test_broken_toml_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("id = ", "utf-8")
    with pytest.raises(StyleError, match=r"x\.toml"):
        load_styles(tmp_path)
    with pytest.raises(StyleError, match="nowhere"):
        load_styles(tmp_path / "nowhere")
