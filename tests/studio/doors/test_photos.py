"""Photos on their way in: a card for every file, duplicates, the crop, the set's rule, consent."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from moderation.verdict import Decision
from studio.doors.photos import crop_mends
from studio.errors import BackendError, NotAllowed, UserError
from studio.intake.sample import sample_photos
from studio.records import Person, Photo, PhotoSet
from tests.studio.house import open_house


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    opened = open_house(tmp_path_factory.mktemp("home"), min_photos=2, max_photos=3, max_uploads=5)
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture
def fresh(parts):
    """A new user's empty set, and a way to add files to it."""
    studio = parts.studio
    user = studio.user(f"user {len(parts.catalog.find(Person))}")
    person = studio.add_person(user.id, "Alex")
    return _Set(parts, user.id, person, studio.photo_set(user.id, person.id))


class _Set:
    def __init__(self, parts, user_id: str, person: Person, photo_set: PhotoSet) -> None:
        self.studio, self.user_id, self.person, self.id = (
            parts.studio,
            user_id,
            person,
            photo_set.id,
        )

    def add(self, path: Path, name: str = "") -> Photo:
        return self.studio.add_photo(self.user_id, self.id, name or path.name, path)

    @property
    def status(self):
        return self.studio.set_status(self.user_id, self.id)


def save(folder: Path, picture: Image.Image, name: str, **options: object) -> Path:
    picture.save(folder / name, **options)
    return folder / name


def pair(folder: Path) -> Path:
    """A photo of two people, each 640 px wide and high."""
    both = Image.new("RGB", (1280, 640))
    for place, path in enumerate(sample_photos()[:2]):
        both.paste(Image.open(path).convert("RGB"), (place * 640, 0))
    return save(folder, both, "pair.png")


def test_a_good_photo_is_accepted_with_its_face_crop_and_files(fresh):
    photo = fresh.add(sample_photos()[0])
    assert photo.decision is Decision.ALLOW and photo.accepted
    left, top, right, bottom = photo.crop
    face = photo.face
    assert left <= face[0] and top <= face[1] and right >= face[2] and bottom >= face[3]
    stored = fresh.studio.file(fresh.user_id, "photo", photo.id)
    small = fresh.studio.file(fresh.user_id, "photo-preview", photo.id)
    assert Image.open(stored).size == (640, 640)
    assert max(Image.open(small).size) == 384


def test_three_bad_files_are_three_cards_and_the_good_ones_stay(fresh, tmp_path):
    fresh.add(sample_photos()[0])
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture")
    cut = tmp_path / "cut.jpg"
    stream = io.BytesIO()
    Image.open(sample_photos()[1]).convert("RGB").save(stream, "JPEG")
    cut.write_bytes(stream.getvalue()[:9000])
    tiny = save(tmp_path, Image.new("RGB", (312, 400), "grey"), "tiny.png")
    cards = [fresh.add(path) for path in (text, cut, tiny)]
    assert [card.decision for card in cards] == [Decision.BLOCK] * 3
    assert [card.reasons[0].code for card in cards] == ["not_a_photo", "broken", "too_small"]
    assert "312 x 400" in cards[2].reasons[0].message and "512" in cards[2].reasons[0].message
    assert all(card.reasons[0].fix for card in cards)
    assert not cards[0].key and cards[2].key
    assert fresh.status.accepted == 1
    assert len(fresh.studio.photos(fresh.user_id, fresh.id)) == 4


def test_nobody_is_the_persons_call_and_two_faces_are_not_usable(fresh, tmp_path):
    wall = Image.effect_noise((700, 700), 60).convert("RGB")
    ImageDraw.Draw(wall).rectangle((100, 100, 600, 300), fill="brown")
    nobody = fresh.add(save(tmp_path, wall, "wall.png"))
    assert nobody.decision is Decision.REVIEW and nobody.reasons[0].code == "no_face"
    two = fresh.add(pair(tmp_path))
    assert two.decision is Decision.BLOCK and "2 faces" in two.reasons[0].message
    with pytest.raises(UserError, match="2 faces"):
        fresh.studio.confirm_photo(fresh.user_id, two.id)
    assert fresh.studio.confirm_photo(fresh.user_id, nobody.id).accepted


def test_when_the_first_of_two_like_photos_goes_the_other_takes_its_place(fresh, tmp_path):
    first = fresh.add(sample_photos()[0])
    resaved = Image.open(sample_photos()[0]).convert("RGB").resize((600, 600))
    second = fresh.add(save(tmp_path, resaved, "again.jpg", quality=60))
    third = fresh.add(sample_photos()[0], "third.webp")
    assert second.reasons[0].code == third.reasons[0].code == "duplicate"
    fresh.studio.remove_photo(fresh.user_id, first.id)
    left = {photo.id: photo for photo in fresh.studio.photos(fresh.user_id, fresh.id)}
    assert left[second.id].decision is Decision.ALLOW and not left[second.id].reasons
    assert left[third.id].decision is Decision.BLOCK
    assert "again.jpg" in left[third.id].reasons[0].message


def test_too_many_files_are_refused_one_by_one_and_the_first_ones_stay(fresh, tmp_path):
    kept = [fresh.add(path) for path in sample_photos()[:5]]
    for path in sample_photos()[5:8]:
        with pytest.raises(UserError, match="at most 5 are kept") as refused:
            fresh.add(path)
        assert "safe" in refused.value.hint
    assert [p.id for p in fresh.studio.photos(fresh.user_id, fresh.id)] == [p.id for p in kept]


def test_more_photos_in_a_day_than_the_host_allows_wait_for_tomorrow(tmp_path):
    """Counted in the records, so that removing photos makes no room and a restart forgets nothing."""
    home = tmp_path / "home"
    parts = open_house(home, photos_per_day=2)
    user = parts.studio.user("ann").id
    photo_set = parts.studio.photo_set(user, parts.studio.add_person(user, "Ann").id)
    for path in sample_photos()[:2]:
        added = parts.studio.add_photo(user, photo_set.id, path.name, path)
    parts.studio.remove_photo(user, added.id)
    parts.studio.close()
    parts.close()
    parts = open_house(home, photos_per_day=2)
    with pytest.raises(UserError, match="added 2 photos in the last 24 hours") as refused:
        parts.studio.add_photo(user, photo_set.id, "3.webp", sample_photos()[2])
    assert refused.value.code == "quota"
    assert len(parts.studio.photos(user, photo_set.id)) == 1
    other = parts.studio.user("bob").id
    theirs = parts.studio.photo_set(other, parts.studio.add_person(other, "Bob").id)
    assert parts.studio.add_photo(other, theirs.id, "3.webp", sample_photos()[2]).key
    parts.studio.close()
    parts.close()


def test_the_set_counts_up_to_ready_and_says_what_is_missing_or_too_much(fresh):
    assert (fresh.status.accepted, fresh.status.missing, fresh.status.ready) == (0, 2, False)
    for path in sample_photos()[:2]:
        fresh.add(path)
    assert fresh.status.decision is Decision.ALLOW
    assert fresh.status.missing == 0 and not fresh.status.consented and not fresh.status.ready
    fresh.studio.consent(fresh.user_id, fresh.person.id)
    assert fresh.status.ready
    third = fresh.add(sample_photos()[2])
    assert not fresh.status.consented, "a new photo is asked for again"
    fresh.studio.consent(fresh.user_id, fresh.person.id)
    assert fresh.status.ready
    fresh.add(sample_photos()[3])
    assert fresh.status.excess == 1 and not fresh.status.ready
    fresh.studio.remove_photo(fresh.user_id, third.id)
    fresh.studio.consent(fresh.user_id, fresh.person.id)
    assert fresh.status.ready


def test_consent_binds_the_exact_pictures(fresh):
    first = fresh.add(sample_photos()[0])
    consent = fresh.studio.consent(fresh.user_id, fresh.person.id)
    stored = fresh.studio.file(fresh.user_id, "photo", first.id).read_bytes()
    import hashlib

    assert consent.photo_sha256 == (hashlib.sha256(stored).hexdigest(),) == (first.sha256,)


def test_a_crop_is_changed_within_limits(fresh):
    photo = fresh.add(sample_photos()[0])
    changed = fresh.studio.crop_photo(fresh.user_id, photo.id, (0.1, 0.2, 0.6, 0.7))
    assert changed.crop == (0.1, 0.2, 0.6, 0.7)
    assert fresh.studio.photos(fresh.user_id, fresh.id)[0].crop == (0.1, 0.2, 0.6, 0.7)
    outside = [
        (-0.1, 0, 1, 1),
        (0, 0, 1.1, 1),
        (0.6, 0, 0.5, 1),
        (float("nan"), 0, 1, 1),
        (0, 0, 1),
    ]
    for crop in outside:
        with pytest.raises(UserError, match="crop"):
            fresh.studio.crop_photo(fresh.user_id, photo.id, crop)
    with pytest.raises(UserError, match="64 x 64 pixels"):
        fresh.studio.crop_photo(fresh.user_id, photo.id, (0.1, 0.1, 0.2, 0.2))


def test_a_crop_to_one_of_two_people_is_judged_as_it_will_be_learned(fresh, tmp_path):
    two = fresh.add(pair(tmp_path))
    assert two.decision is Decision.BLOCK and crop_mends(two)
    left = fresh.studio.crop_photo(fresh.user_id, two.id, (0.0, 0.0, 0.5, 1.0))
    assert left.decision is Decision.ALLOW and fresh.status.accepted == 1
    assert left.crop == (0.0, 0.0, 0.5, 1.0) and left.face[2] <= 0.5
    again = fresh.studio.crop_photo(fresh.user_id, two.id, (0.0, 0.0, 1.0, 1.0))
    assert again.decision is Decision.BLOCK and again.reasons[0].code == "several_faces"
    assert fresh.status.accepted == 0
    tiny = fresh.add(save(tmp_path, Image.new("RGB", (312, 400), "grey"), "tiny.png"))
    kept = fresh.studio.crop_photo(fresh.user_id, tiny.id, (0.0, 0.0, 0.5, 0.5))
    assert kept.decision is Decision.BLOCK


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd.jpg", "passwd.jpg"),
        ("C:\\Users\\me\\photo.jpg", "photo.jpg"),
        ("a\0b\u202egpj.exe", "abgpj.exe"),
        ("", "photo"),
        ("x" * 500 + ".jpg", ("x" * 500 + ".jpg")[-120:]),
    ],
)
def test_file_names_are_only_words_to_show(fresh, given, shown):
    assert (
        fresh.studio.add_photo(fresh.user_id, fresh.id, given, sample_photos()[0]).filename == shown
    )


def test_a_file_that_did_not_arrive_is_said(fresh, tmp_path):
    with pytest.raises(UserError, match="did not arrive"):
        fresh.add(tmp_path / "missing.jpg")
    with pytest.raises(UserError, match="did not arrive"):
        fresh.add(tmp_path)


def test_a_check_that_cannot_be_reached_is_could_not_be_checked_and_never_accepted(tmp_path):
    parts = open_house(
        tmp_path, min_photos=1, moderation="aws", aws_endpoint_url="http://127.0.0.1:9"
    )
    user = parts.studio.user("u")
    photo_set = parts.studio.photo_set(user.id, parts.studio.add_person(user.id, "A").id)
    photo = parts.studio.add_photo(user.id, photo_set.id, "a.webp", sample_photos()[0])
    assert photo.decision is Decision.UNAVAILABLE and not photo.accepted
    assert "could not check" in photo.reasons[0].message and photo.reasons[0].fix
    with pytest.raises(UserError, match="could not check"):
        parts.studio.confirm_photo(user.id, photo.id)
    status = parts.studio.set_status(user.id, photo_set.id)
    assert status.decision is Decision.UNAVAILABLE and status.accepted == 0
    parts.studio.close()
    parts.close()


def test_a_check_that_breaks_altogether_ends_in_the_same_card(tmp_path):
    parts = open_house(tmp_path, min_photos=1)
    parts.moderation.close()
    with pytest.raises(RuntimeError):
        parts.moderation.photo(Image.new("RGB", (600, 600)))
    user = parts.studio.user("u")
    photo_set = parts.studio.photo_set(user.id, parts.studio.add_person(user.id, "A").id)
    photo = parts.studio.add_photo(user.id, photo_set.id, "a.webp", sample_photos()[0])
    assert photo.decision is Decision.UNAVAILABLE and not photo.accepted
    assert "could not check" in photo.reasons[0].message and photo.reasons[0].fix
    parts.studio.close()
    parts.close()


def test_a_full_disk_loses_nothing_and_says_so(parts, fresh):
    """A storage that fails after its first file stands in for a disk that fills up."""
    first = fresh.add(sample_photos()[0])
    root = parts.storage.root
    photos = next(root.glob(f"users/{fresh.user_id}/people/*/photos"))
    moved = photos.with_name("moved")
    photos.rename(moved)
    photos.write_text("a file where a folder should be")
    try:
        with pytest.raises(BackendError):
            fresh.add(sample_photos()[1])
    finally:
        photos.unlink()
        moved.rename(photos)
    assert [p.id for p in fresh.studio.photos(fresh.user_id, fresh.id)] == [first.id]
    assert fresh.studio.file(fresh.user_id, "photo", first.id).is_file()


def test_a_public_studio_without_a_real_check_takes_samples_only(tmp_path):
    parts = open_house(tmp_path, host="0.0.0.0", min_photos=1)
    user = parts.studio.user("u")
    photo_set = parts.studio.photo_set(user.id, parts.studio.add_person(user.id, "A").id)
    own = save(tmp_path, Image.open(sample_photos()[0]).convert("RGB"), "own.jpg")
    with pytest.raises(UserError, match="no picture check"):
        parts.studio.add_photo(user.id, photo_set.id, "own.jpg", own)
    assert list(parts.storage.list("users")) == []
    sample = parts.studio.add_photo(user.id, photo_set.id, "01.webp", sample_photos()[0])
    assert sample.decision is Decision.ALLOW
    parts.studio.close()
    parts.close()


def test_a_set_erased_while_a_photo_comes_in_keeps_no_bytes(parts, fresh):
    """The photo was opened and checked before the set went; its bytes must not stay."""
    original = parts.studio._against_duplicates

    def erased_meanwhile(photo: Photo) -> Photo:
        parts.studio.erase_person(fresh.user_id, fresh.person.id)
        return original(photo)

    parts.studio._against_duplicates = erased_meanwhile
    try:
        with pytest.raises(NotAllowed):
            fresh.add(sample_photos()[0])
    finally:
        del parts.studio._against_duplicates
    assert list(parts.storage.list(f"users/{fresh.user_id}")) == []


def test_names_of_people_are_checked(parts):
    user = parts.studio.user("names")
    person = parts.studio.add_person(user.id, "  Änne \n  Müller ")
    assert person.name == "Änne Müller"
    for bad, words in (
        ("", "empty"),
        ("   ", "empty"),
        ("x" * 61, "61 characters"),
        ("a\x07b", "shown"),
    ):
        with pytest.raises(UserError, match=words):
            parts.studio.add_person(user.id, bad)
    with pytest.raises(UserError, match="already"):
        parts.studio.add_person(user.id, "Änne Müller")
    assert parts.studio.rename_person(user.id, person.id, "Anne").name == "Anne"


def test_the_sample_person_goes_through_the_same_intake(tmp_path):
    parts = open_house(tmp_path)
    user = parts.studio.user("u")
    person = parts.studio.add_sample_person(user.id)
    assert person.name == "Sample person"
    photo_set = parts.studio.photo_set(user.id, person.id)
    parts.studio.confirm_all(user.id, photo_set.id)
    parts.studio.consent(user.id, person.id)
    status = parts.studio.set_status(user.id, photo_set.id)
    assert status.ready and status.accepted == 12
    named = [parts.studio.add_sample_person(user.id, "Beispielperson").name for _ in range(2)]
    assert named == ["Beispielperson", "Beispielperson 2"]
    parts.studio.close()
    parts.close()
