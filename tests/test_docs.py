"""Documentation that cannot lie: settings, links and the README's tree are held to the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from studio.cli.app import app
from studio.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_setting_is_in_the_table_with_its_help_and_nothing_else_is() -> None:
    text = (ROOT / "docs" / "settings.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(AVATAR_[A-Z_]+)` \|.*\| (.+?) \|$", text, re.M))
    wanted = {f"AVATAR_{k.upper()}": f.description for k, f in Settings.model_fields.items()}
    assert rows == wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def commands(text: str) -> Iterator[list[str]]:
    """Every `avatar-studio` command that a page shows, in its text or in a block, as words."""
    spans = re.findall(r"`avatar-studio ([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.S)).replace("\\\n", " ")
    lines = re.findall(r"^\s*(?:\.venv/bin/)?avatar-studio (.+)$", blocks, re.M)
    for command in (*spans, *lines):
        yield command.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_their_options_are_there(page: Path) -> None:
    for words in commands(page.read_text("utf-8")):
        found = get_command(app)
        for word in words:
            for name in word.strip(".,").split("|"):
                if name.startswith("--"):
                    options = {option for one in found.params for option in one.opts}
                    assert name in options | {"--help"}, f"{page.name}: {' '.join(words)}"
            if isinstance(found, TyperGroup) and not word.startswith("-"):
                names = word.strip(".,…").split("|")
                assert set(names) <= found.commands.keys() | {""}, f"{page.name}: {words}"
                found = found.commands.get(names[0], found)


def test_the_readme_tree_names_what_is_there() -> None:
    block = re.search(r"```tree\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert block, "README.md has no ```tree block"
    folder = ROOT
    for line in block.group(1).splitlines():
        path = line.split("#")[0]
        if not path.strip():
            continue
        indented = path.startswith(" ")
        for entry in path.split():
            if not indented and entry.endswith("/"):
                folder = ROOT / entry
                assert folder.is_dir(), entry
            else:
                assert ((folder if indented else ROOT) / entry).exists(), f"{folder.name}/{entry}"
