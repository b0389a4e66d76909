"""Reading a personal model: everything that can be wrong with one is refused by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.load import load_parts
from serving.adapter import CARD, MAX_BYTES, MAX_RANK, TOKEN, WEIGHTS, read_adapter
from serving.errors import AdapterRefused
from tests.tiny_adapters import tiny_adapter, write_card

KEY_A = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
KEY_B = KEY_A.replace("lora_A", "lora_B")


@pytest.fixture(scope="module")
def parts(bases):
    return load_parts(bases["sd15"].folder, "sd15", parts={"tokenizer", "text_encoder", "unet"})


@pytest.fixture
def folder(people, tmp_path) -> Path:
    return Path(shutil.copytree(people["sd15"][0], tmp_path / "version-7"))


@pytest.fixture
def refused(bases, parts):
    def check(folder: Path) -> str:
        with pytest.raises(AdapterRefused) as error:
            read_adapter(folder, bases["sd15"], parts)
        text = str(error.value)
        assert folder.name in text, "the refused model is named"
        assert str(folder.parent) not in text, "paths of this machine are not told"
        return text

    return check


def change(folder: Path, edit) -> Path:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def test_a_good_adapter_is_read_whole(bases, parts, people):
    read = read_adapter(people["sd15"][3], bases["sd15"], parts)
    assert read.rank == 5
    assert len(read.token_ids) == len(read.vectors) == 1
    assert set(read.layers) == {"unet"}
    assert KEY_A in read.state
    assert read.size_bytes == sum(t.nbytes for t in (*read.state.values(), *read.vectors))


def test_a_folder_that_is_not_there(tmp_path, refused):
    assert "does not exist" in refused(tmp_path / "version-8")


@pytest.mark.parametrize("file", [CARD, WEIGHTS])
def test_a_missing_file_is_named(folder, refused, file):
    (folder / file).unlink()
    assert file in refused(folder)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"base_id": "starter-9"}, ["starter-9", "tiny-sd15"]),
        ({"base_sha256": "f" * 64}, ["ffffffffffff", "train it again"]),
        ({"family": "sdxl"}, ["sdxl", "sd15"]),
        ({"family": "sd9"}, ["family"]),
        ({"base_id": None}, ["base_id"]),
        ({"token": "manga style"}, ["token", "manga style"]),
        ({"token": None}, ["names no token"]),
    ],
)
def test_a_card_of_another_base_or_token_is_refused(folder, bases, refused, changed, words):
    write_card(folder, bases["sd15"], **changed)
    text = refused(folder)
    for word in words:
        assert word in text


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"{}", b"null"])
def test_a_damaged_card_is_refused(folder, refused, content):
    (folder / CARD).write_bytes(content)
    assert CARD in refused(folder)


def test_a_huge_card_is_not_read(folder, refused):
    (folder / CARD).write_text(" " * 100_000)
    assert "larger than" in refused(folder)


@pytest.mark.parametrize("length", [0, 4, 100, 5000])
def test_truncated_weights_are_refused(folder, refused, length):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:length])
    assert "damaged" in refused(folder)


def test_a_pickle_is_not_weights(folder, refused):
    torch.save({"a": torch.zeros(1)}, folder / WEIGHTS)
    assert "damaged" in refused(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(folder, refused, value):
    change(folder, lambda t: t[KEY_A].view(-1)[3].fill_(value))
    text = refused(folder)
    assert "not finite" in text
    assert KEY_A in text


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_kinds_of_numbers_that_no_adapter_has_are_refused(folder, refused, dtype):
    change(folder, lambda t: t.update({KEY_A: t[KEY_A].to(dtype)}))
    assert str(dtype) in refused(folder)


@pytest.mark.parametrize("value", [1e6, 1e30, -3e38])
def test_weights_that_bury_the_base_are_refused(folder, refused, value):
    change(folder, lambda t: t[KEY_A].fill_(value))
    text = refused(folder)
    assert "Frobenius" in text and KEY_A.removesuffix(".lora_A.weight") in text


def test_an_alpha_that_makes_the_weights_huge_is_refused(folder, refused):
    alpha = KEY_A.replace("lora_A.weight", "alpha")
    change(folder, lambda t: t.update({alpha: torch.tensor(1e9)}))
    assert "Frobenius" in refused(folder)


def test_weights_that_are_balanced_by_tiny_ones_are_fine_unless_they_overflow(
    folder, bases, refused
):
    def unbalanced(tensors):
        tensors[KEY_A].mul_(1e6)
        tensors[KEY_B].mul_(1e-6)

    change(folder, unbalanced)
    base = bases["sd15"]
    needed = {"tokenizer", "text_encoder", "unet"}
    assert read_adapter(folder, base, load_parts(base.folder, "sd15", parts=needed)).rank == 2
    half = load_parts(base.folder, "sd15", dtype=torch.float16, parts=needed)
    with pytest.raises(AdapterRefused, match=r"float16, which ends at 65504"):
        read_adapter(folder, base, half)


def test_a_word_far_larger_than_the_vocabulary_is_refused(folder, refused):
    save_file({"clip_l": torch.full((1, 32), 1e4)}, folder / TOKEN)
    assert "words of this base" in refused(folder)


def test_whole_numbers_are_refused(folder, refused):
    change(folder, lambda t: t.update({KEY_A: t[KEY_A].to(torch.int64)}))
    assert "int64" in refused(folder)


def test_wrong_shapes_are_refused_with_what_is_needed(folder, refused):
    change(folder, lambda t: t.update({KEY_A: torch.zeros(2, 5)}))
    text = refused(folder)
    assert "(2, 5)" in text
    assert "('rank', 64)" in text


@pytest.mark.parametrize("shape", [(), (0, 64), (2, 64, 1)])
def test_odd_ranks_are_refused(folder, refused, shape):
    change(folder, lambda t: t.update({KEY_A: torch.zeros(shape)}))
    refused(folder)


def test_a_half_pair_is_refused(folder, refused):
    change(folder, lambda t: t.pop(KEY_B))
    assert "only one of lora_A and lora_B" in refused(folder)


@pytest.mark.parametrize(
    "key",
    [
        "unet.nowhere.to_q.lora_A.weight",
        "unet.mid_block.lora_A.weight",
        "vae.decoder.conv_in.lora_A.weight",
        "text_encoder_2.x.lora_A.weight",
        "unet.mid_block.resnets.0.norm1.weight",
        "",
    ],
)
def test_layers_that_the_base_lacks_are_refused(folder, refused, key):
    change(folder, lambda t: t.update({key: torch.zeros(2, 2)}))
    assert key.removesuffix(".lora_A.weight") in refused(folder)


def test_a_rank_beyond_the_limit_is_refused(folder, refused):
    wide = MAX_RANK + 1
    change(folder, lambda t: t.update({KEY_A: torch.zeros(wide, 64), KEY_B: torch.zeros(64, wide)}))
    assert str(wide) in refused(folder)


def test_a_file_beyond_the_limit_is_refused_unread(folder, refused):
    os.truncate(folder / WEIGHTS, MAX_BYTES + 1)  # sparse: takes no room
    assert f"larger than {MAX_BYTES}" in refused(folder)


def test_a_word_of_another_width_is_refused(folder, refused):
    save_file({"clip_l": torch.zeros(1, 7)}, folder / TOKEN)
    assert "(7,)" in refused(folder)


def test_a_word_that_is_not_finite_is_refused(folder, refused):
    save_file({"clip_l": torch.full((1, 32), float("nan"))}, folder / TOKEN)
    assert "not finite" in refused(folder)


def test_a_word_with_too_many_vectors_is_refused(folder, refused):
    save_file({"a": torch.zeros(1, 32), "b": torch.zeros(1, 32)}, folder / TOKEN)
    refused(folder)


def test_an_adapter_without_a_word_is_fine(bases, parts, tmp_path):
    plain = tiny_adapter(tmp_path / "plain", parts, bases["sd15"], seed=1, token=None)
    assert read_adapter(plain, bases["sd15"], parts).vectors == ()
