"""A learned word means its row's person, in every text encoder, and nothing to anybody else."""

from __future__ import annotations

import pytest
import torch

from diffusion.conditioning import encode_prompt
from diffusion.load import load_parts
from diffusion.token import TokenBank, pack, single_token_id, unpack
from tests.tiny_bases import tiny_base

SKS, PLAIN = "a portrait of sks person", "a portrait of a person"


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def parts(request, tmp_path_factory):
    base = tiny_base(tmp_path_factory.mktemp("token") / request.param, request.param)
    return load_parts(base, request.param)


@pytest.fixture
def bank(parts):
    made = TokenBank(parts.text_encoders, 2)
    ids = [single_token_id(tokenizer, "sks") for tokenizer in parts.tokenizers]
    draw = torch.Generator().manual_seed(0)
    for slot in range(2):
        made.load(slot, ids, [torch.randn(32, generator=draw) for _ in parts.text_encoders])
    yield made
    made.detach()


def encode(parts, *texts):
    with torch.no_grad():
        return encode_prompt(parts, texts).tokens


def test_each_row_reads_its_own_persons_word(parts, bank):
    bank.rows(torch.tensor([0, 1, 0]))
    mixed = encode(parts, SKS, SKS, PLAIN)
    for row, slot in enumerate((0, 1, 0)):
        bank.rows(slot)
        alone = encode(parts, SKS if row < 2 else PLAIN)[0]
        torch.testing.assert_close(mixed[row], alone, rtol=1e-5, atol=1e-5)
    bank.rows(None)
    bare = encode(parts, SKS, PLAIN)
    assert not torch.allclose(mixed[0], bare[0]) and not torch.allclose(mixed[0], mixed[1])
    torch.testing.assert_close(mixed[2], bare[1], rtol=1e-5, atol=1e-5)


def test_a_cleared_slot_reads_the_plain_vocabulary(parts, bank):
    bank.rows(None)
    bare = encode(parts, SKS)
    bank.clear(0)
    bank.rows(0)
    assert torch.equal(encode(parts, SKS), bare)


def test_it_begins_as_the_vector_it_is_told(parts, bank):
    ids = [single_token_id(tokenizer, "sks") for tokenizer in parts.tokenizers]
    nouns = [single_token_id(tokenizer, "person") for tokenizer in parts.tokenizers]
    bank.begin(0, ids, nouns)
    bank.rows(0)
    learned = encode(parts, "sks")
    bank.rows(None)
    torch.testing.assert_close(learned, encode(parts, "person"))


def test_gradients_reach_only_the_rows_word(parts, bank):
    bank.trainable()
    bank.rows(torch.tensor([1]))
    encode_prompt(parts, [SKS]).tokens.square().sum().backward()
    for place, vector in enumerate(bank.vectors):
        assert vector.grad[1].any() and not vector.grad[0].any()
        (own, *_) = bank.parameters(1)[place : place + 1]
        assert own.data_ptr() == vector[1].data_ptr()
        assert torch.equal(own.grad, vector.grad[1])
    bank.trainable(False)


def test_files_hold_one_vector_an_encoder(bank):
    state = bank.state(1)
    assert all(torch.equal(a, b) for a, b in zip(unpack(pack(state)), state, strict=True))
    (only,) = unpack({"<sks>": torch.ones(1, 4)})
    assert only.shape == (4,)
    with pytest.raises(ValueError, match=r"\['a', 'b'\]"):
        unpack({"a": torch.ones(1), "b": torch.ones(1)})


def test_words_of_another_base_and_of_several_pieces_are_refused(parts, bank):
    count = len(parts.text_encoders)
    with pytest.raises(ValueError, match="is 7 wide, but this base needs 32"):
        bank.load(0, [1] * count, [torch.ones(7)] * count)
    with pytest.raises(ValueError, match=f"has {count + 1} vectors"):
        bank.load(0, [1] * count, [torch.ones(32)] * (count + 1))
    with pytest.raises(ValueError, match="'qzqz' is"):
        single_token_id(parts.tokenizers[0], "qzqz")
    with pytest.raises(ValueError, match="'' is 0 tokens"):
        single_token_id(parts.tokenizers[0], "")
