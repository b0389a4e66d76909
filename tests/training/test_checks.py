"""Every bad request is refused by field and value before a model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.training.runs import photo, request
from training.checks import check_request, check_together, read_request
from training.errors import NoRoom, RequestRefused, TrainingError
from training.footprint import Footprint
from training.recipe import default
from training.request import BaseRef, InstancePhoto


@pytest.fixture
def good(bases, tmp_path):
    def make(family: str = "starter", **changes):
        asked = request(bases[family], family, tmp_path / "run")
        return asked.model_copy(update=changes)

    return make


def refusal(asked) -> str:
    with pytest.raises(RequestRefused) as refused:
        check_request(asked)
    return str(refused.value)


@pytest.mark.parametrize("family", ["starter", "sd15", "sd21", "sdxl"])
def test_a_good_request_passes(good, family):
    check_request(good(family))


def test_photos(good, tmp_path):
    one = InstancePhoto(path=photo(tmp_path / "one.png", 1))
    assert refusal(good(photos=())) == "`photos` is 0 photos: at least 2 are needed."
    assert refusal(good(photos=(one,))) == "`photos` is 1 photo: at least 2 are needed."
    gone = InstancePhoto(path=tmp_path / "gone.png")
    missing = refusal(good(photos=(one, gone)))
    assert missing == "`photos[1]` is gone.png: there is no such file."
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not a picture")
    said = refusal(good(photos=(one, InstancePhoto(path=broken))))
    assert "`photos[1]` is broken.jpg: it cannot be read" in said
    assert str(tmp_path) not in said, "a person reads this, and no path of the machine"
    torn = tmp_path / "torn.png"
    Image.effect_noise((512, 512), 90).save(torn)
    head, first, second = torn.read_bytes().split(b"IDAT", 2)
    torn.write_bytes(head + b"IDAT" + first + b"\x8dw\xec\xd8" + second)
    assert "`photos[1]` is torn.png: it cannot be read" in refusal(
        good(photos=(one, InstancePhoto(path=torn)))
    )
    tiny = tmp_path / "tiny.png"
    Image.new("RGB", (20, 300)).save(tiny)
    assert "shorter side is 20 pixels" in refusal(good(photos=(one, InstancePhoto(path=tiny))))
    flipped = InstancePhoto(path=one.path, crop=(0.6, 0.0, 0.4, 1.0))
    assert "`photos[1].crop` is (0.6, 0.0, 0.4, 1.0)" in refusal(good(photos=(one, flipped)))


def test_bases(good, bases, tmp_path):
    base = good().base
    absent = base.model_copy(update={"folder": tmp_path / "nowhere"})
    assert "`base.folder` is" in refusal(good(base=absent))
    other = base.model_copy(update={"sha256": "0" * 64})
    assert "`base.sha256` is 000000000000…" in refusal(good(base=other))
    wrong = BaseRef(id="x", family="sdxl", folder=bases["sd15"], sha256="")
    assert "`base.family` is sdxl: x belongs to" in refusal(good(base=wrong))
    copy = Path(shutil.copytree(bases["starter"], tmp_path / "copy"))
    shutil.rmtree(copy / "unet")
    wide = Path(shutil.copytree(bases["starter"], tmp_path / "wide"))
    config = wide / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cross_attention_dim": 768}))
    for family in ("starter", "sd21", "sdxl"):
        taken = BaseRef(id="wide", family=family, folder=wide, sha256="")
        assert f"`base.family` is {family}: wide belongs to sd15" in refusal(good(base=taken))
    ours = Path(__file__).parents[2] / "models" / "starter-3"
    for family in ("sd15", "sd21", "sdxl"):
        taken = BaseRef(id="ours", family=family, folder=ours, sha256="")
        assert f"`base.family` is {family}: ours belongs to starter" in refusal(good(base=taken))
    hollow = BaseRef(id="hollow", family="starter", folder=copy, sha256="")
    assert "`base` is hollow" in refusal(good(base=hollow))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("token", "", "it must be one to 40 printable characters."),
        ("token", "two words", "it must be a single word."),
        ("class_noun", "x" * 41, "it must be one to 40 printable characters."),
        ("resolution", 31, "32 to 2048, divisible by 8."),
        ("resolution", 4096, "32 to 2048, divisible by 8."),
        ("class_folder", Path("nowhere"), "there is no such folder."),
        ("seed", -1, "it must be 0 to 2**63 - 1."),
        ("seed", 1 << 63, "it must be 0 to 2**63 - 1."),
        ("device", "", "auto, cpu, cuda or cuda:N."),
        ("device", "gpu", "auto, cpu, cuda or cuda:N."),
        ("rank", 0, "it must be 1 to 128."),
    ],
)
def test_other_fields(good, field, value, said):
    sentence = refusal(good(**{field: value}))
    assert sentence.startswith(f"`{field}` is ") and sentence.endswith(said)


def test_a_prompt_that_is_no_text_is_refused_before_anything_is_learned(good):
    said = refusal(good(preview_prompts=("sks person", "a \ud800 b")))
    assert said.startswith("`preview_prompts[1]` is 'a \\ud800 b': it is no text")


def test_people_who_cannot_share_a_run_are_refused_by_field(good):
    one = good(run_id="one")
    check_together([one, good(run_id="two", seed=8)])
    other = one.base.model_copy(update={"id": "another"})
    for changes, said in (
        ({"run_id": "one"}, "`run_id` is one: each person of a run needs their own."),
        ({"rank": 3}, "`rank` is 3: another person of this run has 2. Train them apart."),
        ({"base": other}, "`base` is another: people of one run must agree in it."),
        ({"resolution": 64}, "`resolution` is 64: people of one run must agree in it."),
    ):
        with pytest.raises(RequestRefused) as refused:
            check_together([one, good(**({"run_id": "two"} | changes))])
        assert str(refused.value) == said
    with pytest.raises(RequestRefused, match="`method` is full: it trains one person a run, not 2"):
        check_together([good(run_id=name, method="full") for name in ("one", "two")])


def test_a_full_disk_is_named_before_the_start(good, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=10_000_000))
    with pytest.raises(NoRoom, match=r"0\.01 GB of room; this training writes up to 0\.2\d GB"):
        check_request(good())


def test_a_full_fine_tune_needs_room_for_its_checkpoints():
    recipe = default("sd15").model_copy(
        update={"method": "full", "candidates": 1, "token_steps": 0}
    )
    # Checkpoints hold weights and two moments in fp32, and the last is kept until the next is whole.
    assert 2 * 10.3 < Footprint(1_066_000_000, 859_520_964).disk_gb(recipe) < 32


def test_damaged_weights_are_named_before_anything_is_loaded(good, bases, tmp_path):
    copy = Path(shutil.copytree(bases["starter"], tmp_path / "torn"))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    torn = BaseRef(id="torn", family="starter", folder=copy, sha256="")
    said = refusal(good(base=torn))
    assert said.startswith("`base` is torn: unet/diffusion_pytorch_model.safetensors is damaged")


def test_request_files(good, tmp_path):
    path = tmp_path / "request.json"
    with pytest.raises(TrainingError, match=r"request\.json cannot be read"):
        read_request(path)
    path.write_text("{")
    with pytest.raises(TrainingError, match="is not JSON"):
        read_request(path)
    content = json.loads(good().model_dump_json())
    for change, said in (
        ({"version": 2}, "`version` is 2: this trainer understands 1"),
        ({"version": "1"}, "`version` is '1': this trainer understands 1"),
        ({"run_id": "../up"}, "`run_id` is '../up'"),
        ({"steps": "many"}, "`steps` is 'many'"),
        ({"surprise": 1}, "`surprise` is 1"),
        ({"photos": "x" * 5000}, "`photos` is '" + "x" * 79 + ": "),
        ({"base": content["base"] | {"family": "sd9"}}, "`base.family` is 'sd9'"),
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(RequestRefused) as refused:
            read_request(path)
        assert said in str(refused.value)
    path.write_text("[" * 100_000)
    with pytest.raises(TrainingError, match="is not JSON"):
        read_request(path)
    path.write_text('{"base": {}}')
    with pytest.raises(RequestRefused, match="`run_id` is missing: Field required"):
        read_request(path)
    path.write_text(json.dumps(content))
    assert read_request(path) == good()
