"""The texts of the page: both languages say everything, and other rooms' sentences have German."""

from __future__ import annotations

import ast
import re
import string
import tomllib
from itertools import product
from pathlib import Path

import pytest

from studio import doctor
from studio.ui.strings import LANGUAGES, Words, label, language_of, table
from tests.studio.house import open_house

ROOT = Path(__file__).parent.parent.parent.parent
UI = ROOT / "studio" / "ui"
PAGES = [path for path in UI.glob("*.py") if path.name != "strings.py"]


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, german = (table(language) for language in LANGUAGES)
    assert set(english) == set(german)
    different = [key for key in english if fields(english[key]) != fields(german[key])]
    assert not different


def test_every_text_that_a_template_or_a_page_asks_for_exists() -> None:
    known = set(table("en"))
    asked: dict[str, str] = {}
    for path in [*UI.glob("templates/*.html"), *PAGES]:
        source = path.read_text("utf-8")
        for key in re.findall(r"""\b(?:t|words|label)\(\s*['"]([a-z_0-9]+)['"]\s*[,)]""", source):
            asked[key] = path.name
    assert len(asked) > 150
    assert {key: name for key, name in asked.items() if key not in known} == {}


def test_keys_that_are_put_together_exist_for_every_state() -> None:
    known = set(table("en"))
    states = ("waiting", "preparing", "learning", "paused", "checking", "saving", "drawing")
    wanted = {f"run_phase_{state}" for state in (*states, "done", "failed", "cancelled")}
    wanted |= {f"run_say_{state}" for state in (*states, "done", "failed", "cancelled")}
    wanted |= {
        f"photos_{look}" for look in ("allow", "review", "block", "unavailable", "confirmed")
    }
    wanted |= {f"nav_{page}" for page in ("welcome", "photos", "train", "create", "avatars")}
    wanted |= {f"create_category_{name}" for name in ("portrait", "game", "seasonal", "starter")}
    wanted |= {f"welcome_promise_{kept}" for kept in ("keep", "until_trained")}
    wanted |= {f"limits_{name}" for name in ("faces", "pictures", "identity", "starter")}
    assert wanted <= known


def test_one_thing_is_said_in_the_singular() -> None:
    assert Words("en")("photos_yours", count=1) == "1 photo"
    assert Words("de")("photos_yours", count=3) == "3 Fotos"


def test_an_unknown_text_is_an_error_and_not_a_blank() -> None:
    with pytest.raises(KeyError):
        label("no_such_text")
    with pytest.raises(KeyError):
        Words("en")("no_such_text")


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("de-DE,de;q=0.9,en;q=0.8", "de"),
        ("en-GB,en;q=0.9", "en"),
        ("de-AT", "de"),
        ("fr-FR,de;q=0.5", "en"),
        ("", "en"),
        ("xx;;q=,,,", "en"),
    ],
)
def test_the_first_language_is_taken_if_we_speak_it(accept: str, language: str) -> None:
    assert language_of(accept) == language


def test_sentences_of_other_rooms_keep_their_values_in_german() -> None:
    said = "This photo is 312 x 400 pixels; the shorter side must have at least 512."
    assert Words("de").say(said) == (
        "Dieses Foto hat 312 x 400 Pixel; die kürzere Seite muss mindestens 512 haben."
    )
    assert Words("en").say(said) == said
    assert Words("de").say("Nobody ever said this.") == "Nobody ever said this."


def messages(path: Path) -> set[str]:
    """Constant messages and remedies of the reasons and faults that a module can give."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Reason", "_Fault"):
            parts = [one.value for one in node.args if isinstance(one, ast.Constant)]
            found |= {part for part in parts if isinstance(part, str) and " " in part}
        told = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        if told and getattr(node.targets[0], "id", "") in ("fix", "message"):
            found.add(str(node.value.value))
    return found


@pytest.mark.parametrize(
    "module",
    [
        "moderation/photos.py",
        "moderation/chain.py",
        "studio/intake/gate.py",
        "studio/doors/photos.py",
    ],
)
def test_every_reason_on_a_photo_card_has_german_words(module: str) -> None:
    said = messages(ROOT / module)
    assert said
    german = Words("de")
    assert [one for one in sorted(said) if german.say(one) == one] == []


SHOWN_ON_PAGES = [
    *(ROOT / "studio" / "doors").glob("*.py"),
    *(ROOT / "studio" / "work" / f"{name}.py" for name in ("learning", "drawing", "classes")),
    *(ROOT / "studio" / "pictures").glob("*.py"),
    ROOT / "studio" / "keeping" / "archive.py",
    ROOT / "studio" / "intake" / "sample.py",
    ROOT / "studio" / "storage" / "local.py",
]
TERMINAL_ONLY = {
    "This idempotency key was used for another request.",
    "Choose a new key for every new request.",
    "7 is there already.",
    "7 cannot be written: 7.",
    "Choose an empty folder.",
    "Choose another folder.",
    "Choose another name or folder.",
}
WHATS = ("name", "reason", "seed", "strength", "number of avatars", "quality", "shape")


def readings(node: ast.expr, what: str) -> list[str]:
    """The sentences that an expression may give; `what` and else 7 stand for its values."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=values):
            return ["".join(parts) for parts in product(*(readings(one, what) for one in values))]
        case ast.FormattedValue(value=ast.IfExp() as value):
            return readings(value, what)
        case ast.FormattedValue(value=ast.Name(id="what")):
            return [what]
        case ast.IfExp(body=body, orelse=orelse):
            return readings(body, what) + readings(orelse, what)
    return ["7"]


def test_every_fault_that_a_page_can_tell_has_german_words() -> None:
    german, untold, seen = Words("de"), [], 0
    for path in SHOWN_ON_PAGES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id not in ("UserError", "BackendError"):
                continue
            for argument in node.args:
                told = zip(*(readings(argument, what) for what in WHATS), strict=True)
                for forms in told:
                    if " " not in forms[0] or forms[0] in TERMINAL_ONLY:
                        continue
                    seen += 1
                    if not any(spoken(german, form) for form in forms):
                        untold.append(f"{path.name}:{node.lineno}: {forms[0]}")
    assert seen > 80
    assert untold == []


def spoken(words: Words, message: str) -> bool:
    """Whether every sentence of a message has words of its own."""
    said = words.say(message)
    return all(
        part.rstrip(".") not in said for part in re.split(r"(?<=\.) ", message) if " " in part
    )


def test_every_label_that_the_host_counts_has_words() -> None:
    """What our own checks say; the labels of AWS are theirs and stay as they are."""
    photos = (ROOT / "moderation" / "photos.py").read_text("utf-8")
    policy = tomllib.loads((ROOT / "moderation" / "policy.toml").read_text("utf-8"))
    said = set(re.findall(r'_Fault\(\s*\w+(?:[^"\n]*),\s*"([a-z_]+)"', photos))
    ours = {one for kind in policy["categories"].values() for one in kind["labels"]}
    assert len(said) > 12 and len(ours) > 20
    named = {f"label_{one.replace(' ', '_')}" for one in said | ours if one == one.lower()}
    assert named - set(table("en")) == set()


def test_values_in_sentences_are_written_as_germans_do() -> None:
    german = Words("de")
    assert german.say("This file has 21.5 MB; at most 20 MB are accepted.") == (
        "Diese Datei hat 21,5 MB; höchstens 20 MB sind erlaubt."
    )
    assert german.say("This is a GIF file, not a photo we can open.") == (
        "Das ist eine GIF-Datei und kein Foto, das wir öffnen können."
    )
    assert "3.11" in german.say("3.11 on Linux x86_64")


@pytest.mark.parametrize("public", [False, True], ids=["local", "public"])
def test_every_check_and_choice_of_the_host_has_german_words(public: bool, tmp_path: Path) -> None:
    parts = open_house(tmp_path, host="0.0.0.0" if public else "127.0.0.1")
    try:
        found = doctor.report(parts)
    finally:
        parts.studio.close()
        parts.close()
    assert parts.settings.public == public
    told = [one["detail"] for one in found["checks"]] + [one["fix"] for one in found["checks"]]
    told += [one["reason"] for one in found["choices"]]
    german = Words("de")
    parts_of = [part for text in told for part in re.split(r"(?<=\.) ", text) if part]
    assert len(parts_of) > 15
    assert [one for one in parts_of if german.say(one) == one] == []
