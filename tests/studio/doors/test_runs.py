"""What is checked before long work begins: set, consent, wishes, texts, quotas; and what is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from studio.actions import StudioActions
from studio.errors import BackendError, UserError
from studio.intake.sample import sample_photos
from studio.records import PersonalModel, Run
from tests.studio.house import Household, furnish, open_house


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    opened = open_house(tmp_path_factory.mktemp("home"), min_photos=2, max_photos=3)
    yield opened
    opened.studio.close()
    opened.close()


@pytest.fixture(scope="module")
def house(parts, tmp_path_factory) -> Household:
    return furnish(parts, "alex", tmp_path_factory.mktemp("alex"))


def generate(parts, house: Household, **changes: object) -> Run:
    given = {"style_ids": [house.avatar.style_id]} | changes
    return parts.studio.generate(house.user.id, house.model.id, **given)


def test_the_studio_implements_every_action(parts):
    actions: StudioActions = parts.studio
    names = [name for name in vars(StudioActions) if not name.startswith("_")]
    assert all(callable(getattr(actions, name)) for name in names)


def test_a_training_is_recorded_with_exactly_the_accepted_photos(parts, house):
    run = house.training
    assert run.request["photos"] == [{"id": p.id, "sha256": p.sha256} for p in house.photos]
    assert run.request["name"] == house.person.name and run.request["base_id"] == "tiny"
    assert run.total == parts.studio.estimate(house.user.id, house.photo_set.id).steps


def test_a_set_that_is_not_ready_says_what_is_missing(parts):
    studio = parts.studio
    user = studio.user("not ready")
    person = studio.add_person(user.id, "A")
    photo_set = studio.photo_set(user.id, person.id)
    with pytest.raises(UserError, match="0 photos are accepted; at least 2") as refused:
        studio.train(user.id, photo_set.id)
    assert refused.value.hint == "Add 2 more."
    for path in sample_photos()[:2]:
        studio.add_photo(user.id, photo_set.id, path.name, path)
    with pytest.raises(UserError, match="Consent") as refused:
        studio.train(user.id, photo_set.id)
    assert refused.value.code == "no-consent"
    studio.consent(user.id, person.id)
    for path in sample_photos()[2:4]:
        studio.add_photo(user.id, photo_set.id, path.name, path)
    with pytest.raises(UserError, match="4 photos are accepted; at most 3") as refused:
        studio.train(user.id, photo_set.id)
    assert refused.value.hint == "Remove 1 of them."
    assert studio.runs(user.id) == []


def test_photos_that_wait_for_a_call_are_counted(parts, tmp_path):
    from PIL import Image

    studio = parts.studio
    user = studio.user("unsure")
    photo_set = studio.photo_set(user.id, studio.add_person(user.id, "A").id)
    Image.effect_noise((600, 600), 90).convert("RGB").save(tmp_path / "wall.png")
    studio.add_photo(user.id, photo_set.id, "wall.png", tmp_path / "wall.png")
    with pytest.raises(UserError) as refused:
        studio.train(user.id, photo_set.id)
    assert "1 more waits for your call" in refused.value.hint


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"quality": "superb"}, "quality “superb”"),
        ({"steps": 0}, "number of steps is 0"),
        ({"steps": 10_001}, "number of steps is 10001"),
        ({"steps": True}, "number of steps is True"),
        ({"seed": -1}, "seed is -1"),
        ({"name": "x" * 61}, "61 characters"),
        ({"base_id": "unknown-9"}, "unknown-9"),
    ],
)
def test_wishes_for_a_training_are_checked(parts, house, wishes, words):
    with pytest.raises(UserError, match=words):
        parts.studio.train(house.user.id, house.photo_set.id, **wishes)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"style_ids": []}, "No style"),
        ({"style_ids": ["no-such-style"]}, "no style “no-such-style”"),
        ({"count": 0}, "number of avatars is 0"),
        ({"count": 13}, "number of avatars is 13"),
        ({"count": 2.5}, "number of avatars is 2.5"),
        ({"quality": "superb"}, "quality"),
        ({"shape": "hexagon"}, "shape “hexagon”"),
        ({"seed": 2**31}, "seed is 2147483648"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"strength": 2.1}, "strength is 2.1"),
        ({"text": "x" * 10_000}, "10000 characters; at most 500"),
    ],
)
def test_wishes_for_a_drawing_are_checked(parts, house, wishes, words):
    before = len(parts.studio.runs(house.user.id))
    with pytest.raises(UserError, match=words) as refused:
        generate(parts, house, **wishes)
    assert refused.value.hint
    assert len(parts.studio.runs(house.user.id)) == before


def test_a_style_of_another_family_is_refused_and_the_fitting_ones_are_named(parts, house):
    family = {style.id for style in parts.studio.styles("starter")}
    other = next(s for s in parts.styles.every if s.id not in family)
    with pytest.raises(UserError, match="cannot be drawn with this model"):
        generate(parts, house, style_ids=[other.id])
    with pytest.raises(UserError) as refused:
        generate(parts, house, style_ids=["nothing"])
    assert house.avatar.style_id in refused.value.hint


def test_a_model_whose_base_was_taken_out_says_so_before_anything_begins(parts, house):
    user = parts.studio.user("long ago")
    person = parts.studio.add_person(user.id, "A")
    old = replace(house.model, id="01d", user_id=user.id, person_id=person.id, base_id="starter-0")
    parts.catalog.add(old)
    with pytest.raises(UserError, match="learned on starter-0, which this studio no longer has"):
        parts.studio.generate(user.id, old.id, style_ids=[house.avatar.style_id])
    assert parts.studio.runs(user.id) == []


def test_an_empty_text_is_fine_and_a_seed_is_chosen(parts, house):
    styles = [style.id for style in parts.studio.styles("starter")][:2]
    run = generate(parts, house, text="", style_ids=[*styles, styles[0]], count=3)
    assert run.request["style_ids"] == styles and run.total == 6
    assert 0 <= run.request["seed"] < 2**31 and run.state == "waiting"
    assert parts.studio.run(house.user.id, run.id).request == run.request


def test_a_refused_text_starts_nothing_and_many_make_one_wait(parts, tmp_path):
    house = furnish(parts, "rude", tmp_path / "trained")
    before = len(parts.studio.runs(house.user.id))
    for _ in range(parts.settings.cooldown_blocks):
        with pytest.raises(UserError) as refused:
            generate(parts, house, text="nude porn")
        assert refused.value.code == "refused"
        assert "porn" not in str(refused.value) and "nude" not in str(refused.value)
    with pytest.raises(UserError, match="refused in a short time") as refused:
        generate(parts, house, text="a red scarf")
    assert refused.value.code == "cool-down"
    assert len(parts.studio.runs(house.user.id)) == before
    assert generate(parts, house, text="").state == "waiting", "styles alone are always possible"


def test_cancel_and_try_again(parts, house):
    run = generate(parts, house, count=1, seed=5)
    with pytest.raises(UserError, match="failed or was cancelled"):
        parts.studio.retry(house.user.id, run.id)
    parts.studio.cancel(house.user.id, run.id)
    assert parts.studio.run(house.user.id, run.id).state == "cancelled"
    parts.studio.cancel(house.user.id, run.id)
    again = parts.studio.retry(house.user.id, run.id)
    assert again.id != run.id and again.request == run.request
    active = parts.studio.runs(house.user.id, kind="generate", active=True)
    assert again.id in {r.id for r in active} and run.id not in {r.id for r in active}
    training = parts.studio.train(house.user.id, house.photo_set.id, steps=9, seed=3)
    parts.studio.cancel(house.user.id, training.id)
    assert parts.studio.retry(house.user.id, training.id).request == training.request


def test_the_place_in_line_counts_who_came_earlier(parts, house):
    runs = [generate(parts, house, count=1) for _ in range(3)]
    places = [parts.studio.place_in_line(house.user.id, run.id) for run in runs]
    assert places == sorted(places) and places[2] == places[0] + 2


def test_an_estimate_uses_what_was_measured(parts, house):
    estimate = parts.studio.estimate(house.user.id, house.photo_set.id)
    per_step = house.model.seconds / house.model.steps
    assert estimate.seconds == pytest.approx(estimate.steps * per_step)
    assert estimate.base_id == "tiny" and "not your face" in estimate.warning
    fast = parts.studio.estimate(house.user.id, house.photo_set.id, "fast")
    assert fast.steps < estimate.steps


def test_quotas_of_a_day(tmp_path):
    parts = open_house(
        tmp_path / "home", min_photos=2, max_photos=3, trainings_per_day=1, avatars_per_day=3
    )
    house = furnish(parts, "busy", tmp_path / "trained")
    with pytest.raises(UserError, match="1 trainings in the last 24 hours"):
        parts.studio.train(house.user.id, house.photo_set.id)
    with pytest.raises(UserError, match="at most 3 are allowed") as refused:
        generate(parts, house, count=3)
    assert refused.value.hint == "2 are left for now." and refused.value.code == "quota"
    assert generate(parts, house, count=2).total == 2
    parts.studio.close()
    parts.close()


def test_a_public_studio_without_a_real_check_draws_catalogue_styles_only(tmp_path):
    parts = open_house(tmp_path / "home", min_photos=2, max_photos=3, host="0.0.0.0")
    house = furnish(parts, "visitor", tmp_path / "trained")
    with pytest.raises(UserError, match="Free text is locked"):
        generate(parts, house, text="with a red scarf")
    assert generate(parts, house, text="  ").state == "waiting"
    parts.studio.close()
    parts.close()


def test_a_workflow_store_that_is_gone_fails_the_run_and_says_so(tmp_path):
    parts = open_house(tmp_path / "home", min_photos=2, max_photos=3)
    house = furnish(parts, "unlucky", tmp_path / "trained")
    parts.workflows.close()
    for path in (tmp_path / "home").glob("workflows.sqlite*"):
        path.unlink()
    (tmp_path / "home" / "workflows.sqlite").mkdir()
    with pytest.raises(BackendError, match="workflow store"):
        generate(parts, house, count=1)
    newest = parts.studio.runs(house.user.id)[0]
    assert newest.state == "failed" and newest.message
    parts.studio.close()
    parts.catalog.close()


def test_a_missing_base_is_the_hosts_matter(tmp_path):
    parts = open_house(tmp_path / "home", min_photos=2, max_photos=3)
    house = furnish(parts, "baseless", tmp_path / "trained")
    for part in (tmp_path / "home" / "own-bases" / "tiny" / "unet").glob("*.safetensors"):
        part.unlink()
    with pytest.raises(BackendError, match="tiny"):
        parts.studio.train(house.user.id, house.photo_set.id)
    assert parts.studio.health()["parts"]["base"] is False
    assert parts.studio.health()["ok"] is False
    parts.studio.close()
    parts.close()


def test_models_are_found_by_name_and_the_newest_wins(parts, house):
    studio = parts.studio
    assert studio.model(house.user.id, house.model.name) == house.model
    renamed = studio.rename_model(house.user.id, house.model.id, "Work me")
    assert studio.model(house.user.id, "Work me") == renamed
    assert [m.id for m in studio.models(house.user.id, person_id=house.person.id)] == [
        house.model.id
    ]
    assert parts.catalog.get(PersonalModel, house.model.id).name == "Work me"
