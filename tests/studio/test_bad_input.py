"""Too few, too many and the same photos, at the numbers that a studio has by itself: a sentence says
what, how many and what to do, and every photo that was given is still there."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageOps

from moderation.verdict import Decision
from studio.errors import UserError
from studio.intake.sample import sample_photos
from tests.studio.house import open_house


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    opened = open_house(tmp_path_factory.mktemp("home"))
    yield opened
    opened.studio.close()
    opened.close()


def mirrored(path: Path, folder: Path) -> Path:
    into = folder / f"mirrored-{path.stem}.png"
    ImageOps.mirror(Image.open(path).convert("RGB")).save(into)
    return into


def test_nine_photos_are_too_few_and_sixteen_too_many(parts, tmp_path):
    studio, user_id = parts.studio, parts.studio.user("ann").id
    set_id = studio.photo_set(user_id, studio.add_person(user_id, "Ann").id).id

    def refused(files: list[Path]) -> tuple[str, str]:
        for path in files:
            studio.add_photo(user_id, set_id, path.name, path)
        studio.confirm_all(user_id, set_id)
        with pytest.raises(UserError) as told:
            studio.train(user_id, set_id)
        assert told.value.code == "set-not-ready" and studio.runs(user_id) == []
        return told.value.message, told.value.hint

    samples = sample_photos()
    assert refused(samples[:9]) == ("9 photos are accepted; at least 10 are needed.", "Add 1 more.")
    assert len(studio.photos(user_id, set_id)) == 9
    more = [*samples[9:], *(mirrored(path, tmp_path) for path in samples[:4])]
    assert refused(more) == (
        "16 photos are accepted; at most 15 can be trained.", "Remove 1 of them."
    )  # fmt: skip
    kept = studio.photos(user_id, set_id)
    assert len(kept) == 16 and all(photo.accepted for photo in kept)


def test_the_same_photo_twelve_times_is_one_accepted_photo(parts):
    studio, user_id = parts.studio, parts.studio.user("bob").id
    set_id = studio.photo_set(user_id, studio.add_person(user_id, "Bob").id).id
    cards = [
        studio.add_photo(user_id, set_id, f"copy {number}.webp", sample_photos()[0])
        for number in range(12)
    ]
    assert [card.decision for card in cards] == [Decision.ALLOW] + [Decision.BLOCK] * 11
    for card in cards[1:]:
        (reason,) = card.reasons
        assert reason.code == "duplicate" and "copy 0.webp" in reason.message and reason.fix
    status = studio.set_status(user_id, set_id)
    assert (status.accepted, status.missing) == (1, 9)
